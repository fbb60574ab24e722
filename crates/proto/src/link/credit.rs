//! How much an agent may send on one tunnel before its reader has taken something: the relay's side
//! of HOP-CREDIT (docs/protocol.md section 4.6).
//!
//! A window is memory that one slow reader can make the relay use; it grows only for a reader that
//! is faster than the window lets the agent be.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::{
    CREDIT_STEP_MAX, HOP_FRAME_MAX, HOP_WINDOW, HOP_WINDOW_MAX, WINDOW_GROWTH_TIME_MIN,
};
use crate::time::Instant;

/// The agent sent more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more on a tunnel than its window allows")]
pub struct Overrun;

/// The window of one tunnel. Counts bytes from the tunnel's start: `passed <= received`, and
/// `received` stays below `limit` plus one frame.
#[derive(Debug)]
pub struct HopWindow {
    window: u64,
    limit: u64,
    received: u64,
    passed: u64,
    /// Limits above `received`, and when each was told; the last one is `limit`.
    told: VecDeque<(u64, Instant)>,
    /// Where the half of the window began that is being measured, and when.
    half_from: u64,
    half_since: Instant,
    /// The agent came to the limit in that half.
    blocked: bool,
}

impl HopWindow {
    /// A tunnel's first window.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            window: HOP_WINDOW,
            limit: HOP_WINDOW,
            received: 0,
            passed: 0,
            told: VecDeque::from([(HOP_WINDOW, now)]),
            half_from: 0,
            half_since: now,
            blocked: false,
        }
    }

    /// Bytes of the window.
    #[must_use]
    pub fn window(&self) -> u64 {
        self.window
    }

    /// Bytes that wait for the reader.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.received - self.passed
    }

    /// Bytes came from the agent, whose round trip is `rtt`.
    ///
    /// # Errors
    /// [`Overrun`]: the agent broke the protocol.
    pub fn handle_received(
        &mut self,
        now: Instant,
        bytes: usize,
        rtt: Duration,
    ) -> Result<(), Overrun> {
        self.received = self.received.saturating_add(bytes as u64);
        if self.received > self.limit.saturating_add(HOP_FRAME_MAX as u64) {
            return Err(Overrun);
        }
        while self
            .told
            .front()
            .is_some_and(|(limit, _)| *limit <= self.received)
        {
            self.told.pop_front();
            // A fast reader has long told a higher limit when the bytes up to this one arrive. But what
            // was told less than a round trip ago, nobody knew who sent them.
            let unknown = |(_, told): &(u64, Instant)| now - *told < rtt;
            self.blocked |= self.told.front().is_none_or(unknown);
        }
        Ok(())
    }

    /// Bytes left towards the reader. `rtt` is the agent's round trip; up to `level` the window grows for
    /// every reader that keeps up, however fast; `grow` asks for so many more bytes of the relay's budget,
    /// and is called at most once.
    pub fn handle_passed(
        &mut self,
        now: Instant,
        bytes: usize,
        rtt: Duration,
        level: u64,
        grow: impl FnOnce(u64) -> bool,
    ) {
        self.passed = (self.passed + bytes as u64).min(self.received);
        if self.passed - self.half_from < self.window / 2 {
            return;
        }
        let is_fast = now - self.half_since <= (rtt * 2).max(WINDOW_GROWTH_TIME_MIN);
        // Or whoever grew first would have most of the link for ever.
        let follows = self.window * 2 <= level && self.waiting() <= self.window / 2;
        if (is_fast || follows) && self.blocked && self.window < HOP_WINDOW_MAX && grow(self.window)
        {
            self.window *= 2;
        }
        self.half_from = self.passed;
        self.half_since = now;
        self.blocked = false;
    }

    /// The limit to tell, when it has risen by a quarter of the window, or by [`CREDIT_STEP_MAX`].
    pub fn poll_credit(&mut self, now: Instant) -> Option<u64> {
        let limit = self.passed.saturating_add(self.window);
        if limit
            < self
                .limit
                .saturating_add((self.window / 4).min(CREDIT_STEP_MAX))
        {
            return None;
        }
        self.limit = limit;
        self.told.push_back((limit, now));
        Some(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }

    const NO_RTT: Duration = Duration::ZERO;

    #[test]
    fn a_reader_that_stands_still_costs_its_window_and_a_frame() {
        let mut window = HopWindow::new(at(0));
        let most = HOP_WINDOW as usize + HOP_FRAME_MAX;
        assert_eq!(window.handle_received(at(0), most, NO_RTT), Ok(()));
        assert_eq!(window.poll_credit(at(0)), None);
        assert_eq!(window.handle_received(at(0), 1, NO_RTT), Err(Overrun));
    }

    #[test]
    fn credit_follows_what_was_passed_on_a_quarter_at_a_time() {
        let mut window = HopWindow::new(at(0));
        let quarter = HOP_WINDOW as usize / 4;
        window
            .handle_received(at(0), 4 * quarter, NO_RTT)
            .expect("within");
        window.handle_passed(at(1000), quarter - 1, NO_RTT, 0, |_| false);
        assert_eq!(window.poll_credit(at(0)), None);
        window.handle_passed(at(1000), 1, NO_RTT, 0, |_| false);
        assert_eq!(window.poll_credit(at(0)), Some(HOP_WINDOW + quarter as u64));
        assert_eq!(window.poll_credit(at(0)), None);
    }

    /// The window after a reader took 64 windows, one each `ms`, from an agent that always sends all
    /// it may.
    fn grown(ms: u64, rtt: Duration, level: u64, budget: &mut u64) -> u64 {
        let mut window = HopWindow::new(at(0));
        let (mut now, mut sent, mut limit) = (0, 0, HOP_WINDOW);
        for _ in 0..64 {
            let bytes = usize::try_from(limit - sent).expect("small");
            window
                .handle_received(at(now), bytes, rtt)
                .expect("allowed");
            sent = limit;
            now += ms;
            window.handle_passed(at(now), bytes, rtt, level, |more| {
                let fits = *budget >= more;
                *budget -= if fits { more } else { 0 };
                fits
            });
            limit = window.poll_credit(at(now)).expect("all was passed on");
        }
        window.window()
    }

    #[test]
    fn the_window_grows_for_a_fast_reader_up_to_its_cap_and_the_budget() {
        let mut plenty = u64::MAX;
        assert_eq!(grown(1, NO_RTT, 0, &mut plenty), HOP_WINDOW_MAX);
        assert_eq!(
            grown(150, Duration::from_millis(100), 0, &mut plenty),
            HOP_WINDOW_MAX
        );
        assert_eq!(
            grown(250, Duration::from_millis(100), 0, &mut plenty),
            HOP_WINDOW
        );
        let level = 4 * HOP_WINDOW;
        let slow = Duration::from_millis(100);
        assert_eq!(grown(250, slow, level, &mut plenty), level, "it keeps up");
        let mut little = 3 * HOP_WINDOW;
        assert_eq!(grown(1, NO_RTT, 0, &mut little), 4 * HOP_WINDOW);
    }

    #[test]
    fn an_agent_that_never_came_to_the_limit_gets_no_more() {
        let mut window = HopWindow::new(at(0));
        for _ in 0..100 {
            window.handle_received(at(0), 1000, NO_RTT).expect("within");
            window.handle_passed(at(0), 1000, NO_RTT, HOP_WINDOW_MAX, |_| true);
            let _ = window.poll_credit(at(0));
        }
        assert_eq!(window.window(), HOP_WINDOW);
    }

    /// An agent that sends all it may, `rtt` away, in pieces of 16 KiB, to a reader that takes each at
    /// once, over a link that takes `rate` bytes a millisecond.
    fn grown_far(rtt: u64, rate: u64) -> u64 {
        let half = Duration::from_millis(rtt);
        let mut window = HopWindow::new(at(0));
        // What is under way: when it arrives, and what.
        let (mut bytes, mut credits) = (VecDeque::new(), VecDeque::from([(0, HOP_WINDOW)]));
        let (mut sent, mut limit) = (0, 0);
        for now in 0..100 * rtt {
            while credits.front().is_some_and(|(at, _)| *at <= now) {
                limit = credits.pop_front().map_or(limit, |(_, limit)| limit);
            }
            let may = rate.min(limit - sent);
            for piece in 0..may.div_ceil(16 * 1024) {
                bytes.push_back((now + rtt / 2, (may - piece * 16 * 1024).min(16 * 1024)));
            }
            sent += may;
            while bytes.front().is_some_and(|(at, _)| *at <= now) {
                let (_, len) = bytes.pop_front().expect("it was there");
                let len = usize::try_from(len).expect("small");
                window.handle_received(at(now), len, half).expect("allowed");
                window.handle_passed(at(now), len, half, 0, |_| true);
                if let Some(limit) = window.poll_credit(at(now)) {
                    credits.push_back((now + rtt / 2, limit));
                }
            }
        }
        window.window()
    }

    #[test]
    fn a_long_link_is_filled_though_its_reader_never_keeps_anything_waiting() {
        // 1 Gbit/s and 200 ms: 25 MB are under way.
        assert!(grown_far(200, 125_000) >= 25_000_000);
        // 1 MB/s: not even four times what is under way.
        assert!(grown_far(200, 1_000) < 4 * 200_000 + HOP_WINDOW);
    }
}
