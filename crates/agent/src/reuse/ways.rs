//! The sessions that are kept, by the way that they go.
//!
//! A way is the very bytes in which a command has described it: relays, certificates and what shows
//! that those files are still the same. So two commands share a session only if each would have made
//! the same one by itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farpipe_net::{Dial, Opener, OpenerConfig, WindowBudget};
use farpipe_proto::limits::{REUSE_IDLE, REUSE_SESSIONS_MAX};
use farpipe_proto::wire::local::WayAsked;
use tokio::sync::mpsc;

use super::far::Far;

/// How a far agent is reached.
#[derive(Debug)]
pub struct Road {
    /// What dials it.
    pub dial: Box<dyn Dial>,
    /// What is shown to it and believed of it.
    pub config: OpenerConfig,
}

/// Makes a road of what a command asks for, or says why there is none.
pub type Roads = dyn Fn(&WayAsked) -> Result<Road, String> + Send + Sync;

/// A session that is to be run.
pub(super) type Begun = (Arc<Far>, Opener);

pub(super) struct Ways {
    roads: Arc<Roads>,
    windows: Arc<WindowBudget>,
    table: Mutex<BTreeMap<Vec<u8>, Vec<Arc<Far>>>>,
    /// To who runs them. Policy when full: no session is begun, and the command goes its own way.
    begin: mpsc::Sender<Begun>,
}

impl Ways {
    /// No session yet, and where those come out that are begun.
    pub(super) fn new(
        roads: Arc<Roads>,
        windows: Arc<WindowBudget>,
    ) -> (Self, mpsc::Receiver<Begun>) {
        let (begin, begun) = mpsc::channel(REUSE_SESSIONS_MAX);
        let ways = Self {
            roads,
            windows,
            table: Mutex::default(),
            begin,
        };
        (ways, begun)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<Arc<Far>>>> {
        // A panic under it is a bug that ends its task; the others go on.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session on the way that `key` describes and `asked` is: one that is there and has room, or a
    /// new one. Looks at the disk for a moment for that.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn session(&self, key: &[u8], asked: &WayAsked) -> Result<Arc<Far>, String> {
        let fars = self.lock().get(key).cloned().unwrap_or_default();
        if let Some(far) = fars.into_iter().find(|far| far.has_room()) {
            return Ok(far);
        }
        self.make_room()?;
        let Road { dial, mut config } = (self.roads)(asked)?;
        config.windows = Arc::clone(&self.windows);
        config.answers_ends = true;
        let opener = Opener::new(config);
        let far = Far::new(opener.handle(), dial);
        let begun = self.begin.try_send((Arc::clone(&far), opener));
        begun.map_err(|_| "too many sessions are begun at once".to_owned())?;
        let mut table = self.lock();
        table
            .entry(key.to_vec())
            .or_default()
            .push(Arc::clone(&far));
        Ok(far)
    }

    /// Room for one more session; the one goes that has been idle for longest.
    fn make_room(&self) -> Result<(), String> {
        self.sweep();
        let table = self.lock();
        let fars = || table.values().flatten();
        if fars().count() < REUSE_SESSIONS_MAX {
            return Ok(());
        }
        let idle = fars().filter_map(|far| Some((far.idle_since()?, far)));
        let idlest = idle.min_by_key(|(since, _)| *since);
        let idlest = idlest.map(|(_, far)| Arc::clone(far));
        drop(table);
        let idlest = idlest.ok_or("too many sessions are in use")?;
        self.forget(|far| Arc::ptr_eq(far, &idlest));
        Ok(())
    }

    /// Forgets sessions that are over, and ends those that nobody has used for long.
    pub(super) fn sweep(&self) {
        self.forget(|far| {
            let idle = far.idle_since().map(|since| since.elapsed());
            far.is_over() || idle.is_some_and(|idle| idle >= REUSE_IDLE)
        });
    }

    /// Has `act` done to all of them.
    pub(super) fn each(&self, act: fn(&Far)) {
        let fars: Vec<_> = self.lock().values().flatten().cloned().collect();
        fars.iter().for_each(|far| act(far));
    }

    fn forget(&self, is_it: impl Fn(&Arc<Far>) -> bool) {
        let mut gone = Vec::new();
        self.lock().retain(|_, fars| {
            gone.extend(fars.extract_if(.., |far| is_it(far)));
            !fars.is_empty()
        });
        for far in gone.iter().filter(|far| !far.is_over()) {
            far.leave();
        }
    }
}
