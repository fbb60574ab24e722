//! How long the acceptor keeps a session without a link (docs/protocol.md section 7).

use std::time::Duration;

use crate::limits::{LINGER, LINGER_UNCONFIRMED, PARK_EXTRA_MAX, RESUME_FOR_MAX};
use crate::time::Instant;

/// How much is settled when the link is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Bytes or words are still owed.
    No,
    /// COMPLETE is said, but the opener may still lack the last DONE: leaving now would make it
    /// fail although nothing was lost.
    Said,
    /// The opener has every DONE, and ends well without us.
    Confirmed,
}

/// The acceptor's side of a lost link.
#[derive(Debug)]
pub struct Park {
    park_for: Duration,
    lost_at: Option<Instant>,
}

impl Park {
    /// `resume_for` as the opener asked for it in ATTACH.
    #[must_use]
    pub fn new(resume_for: Duration) -> Self {
        let granted = resume_for.min(RESUME_FOR_MAX);
        Self {
            park_for: granted + granted.min(PARK_EXTRA_MAX),
            lost_at: None,
        }
    }

    /// The link was lost.
    pub fn handle_lost(&mut self, now: Instant) {
        self.lost_at = Some(now);
    }

    /// The session is attached again.
    pub fn handle_attached(&mut self) {
        self.lost_at = None;
    }

    /// When the session ends for want of a link.
    #[must_use]
    pub fn poll_timeout(&self, settled: Settled) -> Option<Instant> {
        let wait = match settled {
            Settled::No => self.park_for,
            Settled::Said => LINGER_UNCONFIRMED.min(self.park_for),
            Settled::Confirmed => LINGER.min(self.park_for),
        };
        self.lost_at.map(|at| at + wait)
    }

    /// How long a lost session is kept.
    #[must_use]
    pub fn park_for(&self) -> Duration {
        self.park_for
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parks_longer_than_the_opener_tries() {
        for (asked, parked) in [(0, 0), (5, 10), (60, 120), (600, 660)] {
            let park = Park::new(Duration::from_secs(asked));
            assert_eq!(park.park_for(), Duration::from_secs(parked));
        }
        assert!(Park::new(Duration::MAX).park_for() <= RESUME_FOR_MAX + PARK_EXTRA_MAX);
    }

    #[test]
    fn lingers_two_seconds_when_all_is_settled() {
        let mut park = Park::new(Duration::from_secs(600));
        assert_eq!(park.poll_timeout(Settled::Confirmed), None);
        let lost = Instant::from_origin(Duration::from_secs(1));
        park.handle_lost(lost);
        assert_eq!(park.poll_timeout(Settled::Confirmed), Some(lost + LINGER));
        assert_eq!(
            park.poll_timeout(Settled::Said),
            Some(lost + LINGER_UNCONFIRMED)
        );
        assert_eq!(park.poll_timeout(Settled::No), Some(lost + park.park_for()));
        park.handle_attached();
        assert_eq!(park.poll_timeout(Settled::No), None);
    }
}
