//! The receive window of one stream: how much credit the peer has, and when it grows
//! (docs/protocol.md section 6.2).

use std::collections::VecDeque;
use std::time::Duration;

use super::SessionError;
use crate::limits::{CREDIT_STEP_MAX, OFFSET_MAX, WINDOW_GROWTH_TIME_MIN, WINDOW_INITIAL};
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
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
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
    pub(super) fn handle_bytes(&mut self, len: usize) -> Result<Option<Instant>, SessionError> {
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
        let answered = self.told.front().map(|told| told.1);
        Ok(answered.filter(|_| waited))
    }

    /// Whether the sender has no credit left.
    pub(super) fn is_used_up(&self) -> bool {
        self.received == self.limit
    }

    /// The reader took `len` bytes; returns a new limit when the peer should hear one. `spare` is
    /// how much the session's windows may still grow in all.
    pub(super) fn handle_consumed(
        &mut self,
        now: Instant,
        len: u64,
        rtt: Duration,
        spare: u64,
    ) -> Option<u64> {
        self.consumed += len;
        assert!(self.consumed <= self.received, "consumed more than came");
        self.grow(now, rtt, spare);
        let limit = (self.consumed + self.size).min(OFFSET_MAX);
        // A good piece at a time: fewer frames, and never a silly small frame.
        if limit - self.limit < (self.size / 4).min(CREDIT_STEP_MAX) {
            return None;
        }
        self.limit = limit;
        self.told.push_back((limit, now));
        Some(limit)
    }

    /// Doubles if the sender was held back and the reader is fast: then the window, not the
    /// reader, is what limits the rate.
    fn grow(&mut self, now: Instant, rtt: Duration, spare: u64) {
        let (since, from) = self.measured_from;
        if self.consumed - from < self.size / 2 {
            return;
        }
        let fast = now - since <= (rtt * 2).max(WINDOW_GROWTH_TIME_MIN);
        if fast && self.blocked && spare >= self.size {
            self.size *= 2;
        }
        self.blocked = self.received == self.limit;
        self.measured_from = (now, self.consumed);
    }
}
