//! A listening process: an acceptor, its sessions, and the plan they all follow.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farpipe_net::{AcceptedSession, Acceptor, AcceptorConfig, Sessions};
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};

use super::app::{Ended, accepted};
use super::network::Network;
use super::scenario::Lane;

/// Serves until it is killed.
#[derive(Debug)]
pub struct Process {
    tasks: JoinSet<()>,
    log: Arc<Mutex<Log>>,
    /// The log has changed.
    changed: Arc<Notify>,
}

/// What a process has done.
#[derive(Debug, Default)]
pub struct Log {
    /// Sessions begun.
    pub begun: usize,
    /// Sessions over.
    pub ended: Vec<Ended>,
}

impl Process {
    /// Opens the address and plays `lanes` in each session.
    #[must_use]
    pub fn start(network: &Network, config: AcceptorConfig, lanes: Vec<Lane>, tag: u64) -> Self {
        let (acceptor, sessions) = Acceptor::new(config);
        let serving = network.clone().serve(Arc::new(acceptor));
        let log: Arc<Mutex<Log>> = Arc::default();
        let changed = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let (noted, change) = (Arc::clone(&log), Arc::clone(&changed));
        tasks.spawn(async move {
            let play = move |session| {
                let lanes = lanes.clone();
                lock(&noted).begun += 1;
                let (noted, change) = (Arc::clone(&noted), Arc::clone(&change));
                async move {
                    let ended = accepted(session, &lanes, tag).await;
                    lock(&noted).ended.push(ended);
                    change.notify_waiters();
                }
            };
            tokio::select! {
                () = each(sessions, play) => {}
                () = serving => {}
            }
        });
        Self {
            tasks,
            log,
            changed,
        }
    }

    /// What it has done so far.
    pub fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    /// Waits until so many sessions are over.
    ///
    /// # Panics
    /// If the process does.
    pub async fn ended(&mut self, sessions: usize) {
        loop {
            let change = Arc::clone(&self.changed);
            let changed = change.notified();
            if self.log().ended.len() >= sessions {
                return;
            }
            tokio::select! {
                biased;
                Some(ended) = self.tasks.join_next() => unwind(ended),
                () = changed => {}
            }
        }
    }

    /// Ends it at once, as `kill -9` does, and says what it had done.
    ///
    /// # Panics
    /// If it did.
    pub async fn kill(mut self) -> Log {
        self.tasks.abort_all();
        while let Some(ended) = self.tasks.join_next().await {
            unwind(ended);
        }
        std::mem::take(&mut *lock(&self.log))
    }
}

/// Plays each session in a task of its own, for ever.
pub async fn each<F>(mut sessions: Sessions, mut play: impl FnMut(AcceptedSession) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(session) = sessions.next() => {
                running.spawn(play(session));
            }
            Some(ended) = running.join_next() => unwind(ended),
            else => std::future::pending().await,
        }
    }
}

/// Goes on with a task's panic.
fn unwind(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}
