//! When to ask an agent anew that knows a session no more: it was started anew, and what was asked of it can
//! go on in another session.

use std::time::Duration;

use farpipe_proto::limits::BACKOFF;
use tokio::time::Instant;

/// How often it was asked in vain, and since when.
#[derive(Debug)]
pub(super) struct Anew {
    within: Duration,
    failures: usize,
    lost_at: Instant,
}

impl Anew {
    /// Gives up when nothing has come for so long.
    pub(super) fn within(span: Duration) -> Self {
        Self {
            within: span,
            failures: 0,
            lost_at: Instant::now(),
        }
    }

    /// The session that is lost now has brought something.
    pub(super) fn handle_progress(&mut self) {
        (self.failures, self.lost_at) = (0, Instant::now());
    }

    /// How long to wait before the next one; `None`: it is to be given up.
    pub(super) fn poll_wait(&mut self) -> Option<Duration> {
        let wait = BACKOFF[self.failures.min(BACKOFF.len() - 1)];
        self.failures += 1;
        (self.lost_at.elapsed() + wait <= self.within).then_some(wait)
    }
}
