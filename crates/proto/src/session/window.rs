//! The receive window of one stream: how much credit the peer has, and when it grows
//! (docs/protocol.md section 6.2).

use std::collections::VecDeque;
use std::time::Duration;

use super::SessionError;
use crate::limits::{
    CREDIT_STEP_MAX, OFFSET_MAX, WINDOW_GROWTH_TIME_MIN, WINDOW_INITIAL, WINDOW_LEVEL,
    WINDOW_USE_TIME,
};
use crate::time::Instant;

/// Credit of one receiving half. `consumed <= received <= limit`, `limit <= consumed + window`.
#[derive(Debug)]
pub(super) struct Window {
    size: u64,
    limit: u64,
    received: u64,
    consumed: u64,
    /// Limits that the sender has not gone beyond yet, and when they were told; the last one is `limit`.
    told: VecDeque<(u64, Instant)>,
    /// The sender has used up its credit since the measurement began.
    blocked: bool,
    /// Consumption is measured from here: when, and from which offset.
    measured_from: (Instant, u64),
    /// From telling credit to the bytes that had waited for it, when that was seen last: with all that
    /// waited before them.
    trip: Duration,
}

/// What the windows of a session have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Common {
    /// The shortest round trip.
    pub(super) rtt: Duration,
    /// How much all windows together may still grow.
    pub(super) spare: u64,
    /// The largest window of those in use.
    pub(super) largest: u64,
    /// What each may have, if all in use have the same.
    pub(super) share: u64,
}

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            size: WINDOW_INITIAL,
            limit: WINDOW_INITIAL,
            received: 0,
            consumed: 0,
            told: VecDeque::from([(WINDOW_INITIAL, now)]),
            blocked: false,
            measured_from: (now, 0),
            trip: Duration::ZERO,
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// What the sender may make this side keep: more than the window for a while when it has shrunk.
    pub(super) fn held(&self) -> u64 {
        self.size.max(self.limit - self.consumed)
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Takes `len` bytes into account. If the sender had to wait for credit before it sent them: when
    /// that was told, which is a round trip ago, through whatever lies between.
    ///
    /// # Errors
    /// They exceed the credit.
    pub(super) fn handle_bytes(
        &mut self,
        now: Instant,
        len: usize,
    ) -> Result<Option<Instant>, SessionError> {
        let end = self.received + len as u64;
        if end > self.limit {
            return Err(SessionError::Flow("data beyond credit"));
        }
        let waited = len > 0
            && self
                .told
                .front()
                .is_some_and(|told| told.0 == self.received);
        self.received = end;
        while self.told.front().is_some_and(|told| told.0 < end) {
            self.told.pop_front();
        }
        // A frame that ends just where a limit was: the sender could not go on. By the time it
        // arrives a fast reader has long told a higher limit, so the present one says nothing.
        self.blocked |= self.told.front().is_some_and(|told| told.0 == end);
        let answered = self.told.front().map(|told| told.1).filter(|_| waited);
        if let Some(told) = answered {
            self.trip = now - told;
        }
        Ok(answered)
    }

    /// Whether the sender has no credit left.
    pub(super) fn is_used_up(&self) -> bool {
        self.received == self.limit
    }

    /// Whether [`Window::handle_consumed`] of `len` bytes will look at the window's size.
    pub(super) fn is_due(&self, len: u64) -> bool {
        self.consumed + len - self.measured_from.1 >= self.size / 2
    }

    /// Whether its reader takes much, and did so lately.
    pub(super) fn is_in_use(&self, now: Instant) -> bool {
        let (since, from) = self.measured_from;
        from > 0 && now - since <= WINDOW_USE_TIME
    }

    /// The reader took `len` bytes; returns a new limit when the peer should hear one. `common` is
    /// wanted when [`Window::is_due`].
    pub(super) fn handle_consumed(
        &mut self,
        now: Instant,
        len: u64,
        common: Option<Common>,
    ) -> Option<u64> {
        self.consumed += len;
        assert!(self.consumed <= self.received, "consumed more than came");
        if let Some(common) = common {
            self.fit(now, common);
        }
        let limit = (self.consumed + self.size).min(OFFSET_MAX);
        // A good piece at a time: fewer frames, and never a silly small frame. A window that has shrunk
        // tells nothing until it is used up so far.
        let step = (self.size / 4).min(CREDIT_STEP_MAX);
        if limit < self.limit + step {
            return None;
        }
        self.limit = limit;
        self.told.push_back((limit, now));
        Some(limit)
    }

    /// Doubles if the sender was held back and the reader is fast: then the window, not the
    /// reader, is what limits the rate. Up to [`WINDOW_LEVEL`] and the largest of the others it need not
    /// be faster than what they all wait for: or whoever grew first would have most for ever. Halves if
    /// others want as much.
    fn fit(&mut self, now: Instant, common: Common) {
        let (since, _) = self.measured_from;
        let took = now - since;
        let fast = took <= (common.rtt * 2).max(WINDOW_GROWTH_TIME_MIN);
        // What may be under way beside others who have more of it already.
        let level = common.largest.max(WINDOW_LEVEL.min(common.share));
        let follows = took <= self.trip * 2 && self.size * 2 <= level;
        if self.size > common.share {
            self.size = (self.size / 2).max(WINDOW_INITIAL);
        } else if self.blocked
            && (fast || follows)
            && self.size * 2 <= common.share
            && self.size <= common.spare
        {
            self.size *= 2;
        }
        self.blocked = self.received == self.limit;
        self.measured_from = (now, self.consumed);
    }
}
