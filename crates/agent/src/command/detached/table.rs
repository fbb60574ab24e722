//! The detached commands of an agent by their ids: those that run, and the last ones that ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farpipe_proto::identity::Caller;
use farpipe_proto::limits::{DETACHED_FOR, DETACHED_MAX, DETACHED_OUTPUT_MAX};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::may::may_manage;
use super::super::request::{Detached, Request};
use super::kept::Kept;

/// What an agent keeps; its clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Table(Arc<Mutex<Commands>>);

#[derive(Debug, Default)]
struct Commands {
    by_id: BTreeMap<String, Entry>,
    /// The tasks beside them.
    keepers: JoinSet<()>,
}

#[derive(Debug)]
enum Entry {
    /// Being started.
    Starting {
        /// Closed when it is known what became of it.
        started: watch::Receiver<()>,
        /// As [`Detached::keep`].
        keep: usize,
    },
    Kept(Arc<Kept>),
}

/// Why there is no such command to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    #[error("no detached command here has the id '{0}'; farpipe ps lists them")]
    Unknown(String),
    #[error("the id '{0}' is another command's; choose one with --id, or none")]
    Taken(String),
    #[error("{DETACHED_MAX} detached commands run here, and that is the limit; end one first")]
    Full,
    #[error(
        "the kept output of all detached commands could be more than {} MiB, and that is the \
         limit; choose a smaller --keep-output",
        DETACHED_OUTPUT_MAX >> 20
    )]
    FullOutput,
}

/// What a request for a new command comes to.
pub(super) enum Claim {
    /// It is to be started, and given to [`Reserved::keep`].
    New(Reserved),
    /// The same request was asked before.
    Known,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Commands> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all have ended, once their agent is told to end.
    pub async fn ended(&self) {
        let mut keepers = std::mem::take(&mut self.lock().keepers);
        while let Some(ended) = keepers.join_next().await {
            log(ended);
        }
    }

    /// Reserves an id, or finds that its command was started before. Cancel safe.
    pub(super) async fn claim(
        &self,
        asked: &Detached,
        request: &Request,
        caller: Option<&Caller>,
    ) -> Result<Claim, TableError> {
        loop {
            let mut starting = match self.lock().claim(asked, request, caller)? {
                Found::Starting(starting) => starting,
                Found::Known => return Ok(Claim::Known),
                Found::Free(started) => {
                    return Ok(Claim::New(Reserved {
                        table: self.clone(),
                        id: asked.id.clone(),
                        _started: started,
                    }));
                }
            };
            // Nothing is ever sent: it closes.
            let _ = starting.changed().await;
        }
    }

    /// The command with an id, if `caller` may have it.
    pub(super) fn find(&self, id: &str, caller: Option<&Caller>) -> Result<Arc<Kept>, TableError> {
        let mut commands = self.lock();
        commands.tidy();
        match commands.by_id.get(id) {
            Some(Entry::Kept(kept)) if may_manage(caller, kept.starter.as_ref()) => {
                Ok(Arc::clone(kept))
            }
            _ => Err(TableError::Unknown(id.to_owned())),
        }
    }

    /// All that `caller` may have.
    pub(super) fn list(&self, caller: Option<&Caller>) -> Vec<(String, Arc<Kept>)> {
        let mut commands = self.lock();
        commands.tidy();
        let entries = commands.by_id.iter();
        entries
            .filter_map(|(id, entry)| match entry {
                Entry::Kept(kept) if may_manage(caller, kept.starter.as_ref()) => {
                    Some((id.clone(), Arc::clone(kept)))
                }
                Entry::Kept(_) | Entry::Starting { .. } => None,
            })
            .collect()
    }
}

enum Found {
    Free(watch::Sender<()>),
    Starting(watch::Receiver<()>),
    Known,
}

impl Commands {
    fn claim(
        &mut self,
        asked: &Detached,
        request: &Request,
        caller: Option<&Caller>,
    ) -> Result<Found, TableError> {
        self.tidy();
        match self.by_id.get(&asked.id) {
            Some(Entry::Starting { started, .. }) => return Ok(Found::Starting(started.clone())),
            Some(Entry::Kept(kept))
                if kept.request == *request && may_manage(caller, kept.starter.as_ref()) =>
            {
                return Ok(Found::Known);
            }
            Some(Entry::Kept(_)) => return Err(TableError::Taken(asked.id.clone())),
            None => {}
        }
        // Before anything is forgotten: what would not make room is not forgotten for nothing.
        let staying: u64 =
            self.output_max() - self.forgettable().map(|(_, _, max)| max).sum::<u64>();
        if staying + output_max(asked.keep) > DETACHED_OUTPUT_MAX {
            return Err(TableError::FullOutput);
        }
        while self.by_id.len() >= DETACHED_MAX {
            self.forget_oldest().ok_or(TableError::Full)?;
        }
        while self.output_max() + output_max(asked.keep) > DETACHED_OUTPUT_MAX {
            self.forget_oldest().ok_or(TableError::FullOutput)?;
        }
        let (started, starting) = watch::channel(());
        let entry = Entry::Starting {
            started: starting,
            keep: asked.keep,
        };
        self.by_id.insert(asked.id.clone(), entry);
        Ok(Found::Free(started))
    }

    /// What the output of all that are kept may take.
    fn output_max(&self) -> u64 {
        let kept = self.by_id.values().filter_map(|entry| match entry {
            Entry::Kept(kept) => kept.request.detached.as_ref().map(|asked| asked.keep),
            Entry::Starting { keep, .. } => Some(*keep),
        });
        kept.map(output_max).sum()
    }

    /// Forgets what has been over for long, and reaps tasks.
    fn tidy(&mut self) {
        while let Some(ended) = self.keepers.try_join_next() {
            log(ended);
        }
        self.by_id.retain(|_, entry| {
            let Entry::Kept(kept) = entry else {
                return true;
            };
            let is_old = kept
                .ended_at()
                .is_some_and(|at| at.elapsed() >= DETACHED_FOR)
                && !kept.is_attached();
            if is_old {
                kept.forgotten.send_replace(true);
            }
            !is_old
        });
    }

    /// Those that have ended, and that nobody is attached to: when, which, and the most that their
    /// output may take.
    fn forgettable(&self) -> impl Iterator<Item = (Instant, &str, u64)> {
        self.by_id.iter().filter_map(|(id, entry)| match entry {
            Entry::Kept(kept) if !kept.is_attached() => {
                let keep = kept.request.detached.as_ref().map_or(0, |asked| asked.keep);
                Some((kept.ended_at()?, id.as_str(), output_max(keep)))
            }
            Entry::Kept(_) | Entry::Starting { .. } => None,
        })
    }

    /// Forgets the one that ended first; `None` if all run, or have somebody who reads them.
    fn forget_oldest(&mut self) -> Option<()> {
        let id = self.forgettable().min()?.1.to_owned();
        if let Some(Entry::Kept(kept)) = self.by_id.remove(&id) {
            kept.forgotten.send_replace(true);
        }
        Some(())
    }
}

/// What stdout and stderr of one may take.
fn output_max(keep: usize) -> u64 {
    2 * keep as u64
}

/// An id whose command is being started. Dropped without one, it is free again.
pub(super) struct Reserved {
    table: Table,
    id: String,
    _started: watch::Sender<()>,
}

impl Reserved {
    /// The command runs, and `keeper` is the task beside it.
    pub(super) fn keep(self, kept: Arc<Kept>, keeper: impl Future<Output = ()> + Send + 'static) {
        let mut commands = self.table.lock();
        commands.by_id.insert(self.id.clone(), Entry::Kept(kept));
        commands.keepers.spawn(keeper);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut commands = self.table.lock();
        if let Some(Entry::Starting { .. }) = commands.by_id.get(&self.id) {
            commands.by_id.remove(&self.id);
        }
    }
}

fn log(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!("a detached command's task failed: {error}");
    }
}

#[cfg(test)]
mod tests {
    use farpipe_proto::limits::KEEP_OUTPUT_MAX;
    use farpipe_proto::wire::control;

    use super::*;

    fn request(id: &str) -> Request {
        let asked = control::Detached {
            id: id.to_owned(),
            keep: KEEP_OUTPUT_MAX as u64,
            ..control::Detached::default()
        };
        let command = control::Command {
            argv: vec![b"true".to_vec()],
            detached: Some(asked),
            ..control::Command::default()
        };
        Request::parse(command).expect("a command")
    }

    #[tokio::test]
    async fn what_is_being_started_counts_towards_the_limit_of_output() {
        let table = Table::default();
        let claim = async |id: &str| {
            let request = request(id);
            let asked = request.detached.clone().expect("a detached one");
            table.claim(&asked, &request, Some(&Caller::ThisUser)).await
        };
        let mut starting = Vec::new();
        let refused = loop {
            match claim(&format!("job.{}", starting.len())).await {
                Ok(Claim::New(reserved)) => starting.push(reserved),
                Ok(Claim::Known) => panic!("nobody asked for it before"),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, TableError::FullOutput), "{refused}");
        let room = output_max(KEEP_OUTPUT_MAX);
        assert_eq!(starting.len() as u64, DETACHED_OUTPUT_MAX / room);
        // One that could not be started leaves its room to another.
        starting.pop();
        assert!(matches!(claim("another").await, Ok(Claim::New(_))));
    }
}
