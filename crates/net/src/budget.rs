//! What the receive windows of all sessions of a process have in common: a limit.
//!
//! A window is memory a peer may make this process use. The rules count the windows of one session
//! and are told how much the others leave; this file keeps the sum. Its lock is held for moments,
//! within that of one session, and never the other way round.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farpipe_proto::limits::WINDOW_PROCESS_MAX;
use farpipe_proto::session::Session;

/// The windows of all sessions of a process: one for all acceptors and openers.
#[derive(Debug)]
pub struct WindowBudget {
    max: u64,
    used: Mutex<u64>,
}

impl Default for WindowBudget {
    /// 256 MiB.
    fn default() -> Self {
        Self::new(WINDOW_PROCESS_MAX)
    }
}

impl WindowBudget {
    /// Windows of at most `max` bytes together.
    #[must_use]
    pub const fn new(max: u64) -> Self {
        Self {
            max,
            used: Mutex::new(0),
        }
    }

    /// Bytes of all windows there are.
    #[must_use]
    pub fn used(&self) -> u64 {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        // A panic of the rules under it is a bug that ends its task; the others go on.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One session's share of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<WindowBudget>,
    /// What `budget` counts of this session.
    counted: u64,
}

impl Share {
    pub(crate) fn new(budget: Arc<WindowBudget>) -> Self {
        Self { budget, counted: 0 }
    }

    /// Calls the rules where they may open or grow windows of `session`.
    pub(crate) fn spend<T>(
        &mut self,
        session: &mut Session,
        act: impl FnOnce(&mut Session) -> T,
    ) -> T {
        let mut used = self.budget.lock();
        let others = *used - self.counted;
        session.set_window_room(self.budget.max.saturating_sub(others));
        let result = act(session);
        self.counted = session.windows();
        *used = others + self.counted;
        result
    }

    /// Gives back what streams that are over had.
    pub(crate) fn settle(&mut self, session: &Session) {
        let windows = session.windows();
        if windows != self.counted {
            let mut used = self.budget.lock();
            *used = *used - self.counted + windows;
            self.counted = windows;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.budget.lock() -= self.counted;
    }
}
