//! How long the acceptor keeps a session without a link (docs/protocol.md section 7).

use std::time::Duration;

use crate::limits::{LINGER, LINGER_PARKED, LINGER_UNCONFIRMED, PARK_EXTRA_MAX, RESUME_FOR_MAX};
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
    /// When everything was settled, if that was without a link.
    settled_at: Option<Instant>,
}

impl Park {
    /// `resume_for` as the opener asked for it in ATTACH; `park_max` is the acceptor's own limit.
    #[must_use]
    pub fn new(resume_for: Duration, park_max: Duration) -> Self {
        let granted = resume_for.min(RESUME_FOR_MAX);
        Self {
            park_for: (granted + granted.min(PARK_EXTRA_MAX)).min(park_max),
            lost_at: None,
            settled_at: None,
        }
    }

    /// The link was lost.
    pub fn handle_lost(&mut self, now: Instant) {
        self.lost_at = Some(now);
        self.settled_at = None;
    }

    /// The session is attached again.
    pub fn handle_attached(&mut self) {
        self.lost_at = None;
        self.settled_at = None;
    }

    /// Everything got settled on this side while there was no link.
    pub fn handle_settled(&mut self, now: Instant) {
        if self.lost_at.is_some() {
            self.settled_at.get_or_insert(now);
        }
    }

    /// When the session ends for want of a link.
    #[must_use]
    pub fn poll_timeout(&self, settled: Settled) -> Option<Instant> {
        let lost_at = self.lost_at?;
        let given_up_at = lost_at + self.park_for;
        let left_at = match (settled, self.settled_at) {
            (Settled::No, _) => given_up_at,
            // The opener may be in the midst of its longest wait, and has yet to hear of it.
            (Settled::Said | Settled::Confirmed, Some(settled_at)) => settled_at + LINGER_PARKED,
            (Settled::Said, None) => lost_at + LINGER_UNCONFIRMED,
            (Settled::Confirmed, None) => lost_at + LINGER,
        };
        Some(left_at.min(given_up_at))
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
    use crate::limits::{BACKOFF, BACKOFF_JITTER_PERCENT, HANDSHAKE_STEP, PARK_MAX};

    #[test]
    fn parks_longer_than_the_opener_tries() {
        for (asked, parked) in [(0, 0), (5, 10), (60, 120), (600, 660)] {
            let park = Park::new(Duration::from_secs(asked), PARK_MAX);
            assert_eq!(park.park_for(), Duration::from_secs(parked));
        }
        assert_eq!(Park::new(Duration::MAX, PARK_MAX).park_for(), PARK_MAX);
    }

    #[test]
    fn parks_no_longer_than_the_acceptor_wants() {
        let own = Duration::from_secs(70);
        for (asked, parked) in [(5, 10), (35, 70), (60, 70), (600, 70)] {
            let park = Park::new(Duration::from_secs(asked), own);
            assert_eq!(park.park_for(), Duration::from_secs(parked));
        }
    }

    #[test]
    fn lingers_two_seconds_when_all_is_settled() {
        let mut park = Park::new(Duration::from_secs(600), PARK_MAX);
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

    #[test]
    fn what_is_settled_without_a_link_waits_for_the_openers_next_try() {
        let mut park = Park::new(Duration::from_secs(600), PARK_MAX);
        let at = |secs| Instant::from_origin(Duration::from_secs(secs));
        park.handle_settled(at(1));
        park.handle_lost(at(100));
        park.handle_settled(at(150));
        park.handle_settled(at(160));
        assert_eq!(
            park.poll_timeout(Settled::Said),
            Some(at(150) + LINGER_PARKED)
        );
        // Never longer than it is kept at all.
        park.handle_lost(at(1_000));
        park.handle_settled(at(1_650));
        let given_up_at = at(1_000) + park.park_for();
        assert_eq!(park.poll_timeout(Settled::Said), Some(given_up_at));
        // Another link, another loss: it is settled before this one.
        park.handle_attached();
        park.handle_lost(at(2_000));
        assert_eq!(
            park.poll_timeout(Settled::Said),
            Some(at(2_000) + LINGER_UNCONFIRMED)
        );
    }

    #[test]
    fn a_parked_session_outlasts_the_openers_longest_wait_and_one_attempt() {
        let longest = BACKOFF[BACKOFF.len() - 1] * (100 + BACKOFF_JITTER_PERCENT) / 100;
        assert!(LINGER_PARKED >= longest + HANDSHAKE_STEP * 2);
    }
}
