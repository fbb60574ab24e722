//! Whether to look again at once rather than sleep, because an answer is about to come.
//!
//! Going to sleep and being woken costs tens of microseconds at each of the processes that a short
//! message passes; a question and its answer over a fast link pay it six times. So a pipe that
//! has just moved a short message, and saw the last one come soon, looks on for a moment before it
//! sleeps. A wrong guess costs that moment once: the next message then came late, and is slept for.
//! Bulk data never waits this way: the processor belongs to whoever produces and consumes it.

use std::time::{Duration, Instant};

/// How long to look on before sleeping: as long as an answer takes on one host.
const SPIN_FOR: Duration = Duration::from_micros(50);
/// What came sooner than this after the last message could be waited for awake: asleep on both
/// sides, an answer that takes 30 µs awake takes twice or three times as long.
const GAP_MAX: Duration = Duration::from_micros(150);
/// More bytes than this since the last look are bulk.
const SHORT_MAX: u64 = 4 * 1024;

/// Decides between looking on and sleeping; no clock and no I/O of its own.
#[derive(Debug)]
pub(crate) struct Spin {
    /// Another processor can do the work that is waited for.
    is_allowed: bool,
    /// Bytes moved when last looked at.
    moved: u64,
    /// When something was done last.
    busy_at: Option<Instant>,
    /// Until when to look on.
    until: Option<Instant>,
}

impl Spin {
    /// `processors`: how many this process may use. With one, whoever answers could not run.
    pub(crate) fn new(processors: usize) -> Self {
        Self {
            is_allowed: processors > 1,
            moved: 0,
            busy_at: None,
            until: None,
        }
    }

    /// Called when there is nothing more to do at `now`; `moved` counts all bytes so far. Whether
    /// to look again at once.
    pub(crate) fn handle_idle(&mut self, now: Instant, moved: u64) -> bool {
        let bytes = moved - self.moved;
        self.moved = moved;
        if bytes == 0 {
            return self.until.is_some_and(|until| now < until);
        }
        let soon = self
            .busy_at
            .is_some_and(|at| now.duration_since(at) < GAP_MAX);
        self.busy_at = Some(now);
        self.until = (self.is_allowed && soon && bytes <= SHORT_MAX).then(|| now + SPIN_FOR);
        self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn an_answer_that_came_soon_is_waited_for_awake_and_no_longer_than_it_should_take() {
        let (mut spin, start) = (Spin::new(2), Instant::now());
        assert!(!spin.handle_idle(start, 64), "nothing is known yet");
        assert!(spin.handle_idle(start + us(90), 128));
        assert!(spin.handle_idle(start + us(120), 128));
        assert!(!spin.handle_idle(start + us(141), 128), "it did not come");
    }

    #[test]
    fn a_late_answer_is_slept_for_the_next_time() {
        let (mut spin, start) = (Spin::new(2), Instant::now());
        spin.handle_idle(start, 64);
        assert!(spin.handle_idle(start + us(90), 128));
        assert!(!spin.handle_idle(start + us(1_000), 192));
    }

    #[test]
    fn bulk_and_a_single_processor_never_spin() {
        let start = Instant::now();
        for (processors, bytes) in [(2, 64 * 1024), (1, 64)] {
            let mut spin = Spin::new(processors);
            spin.handle_idle(start, bytes);
            assert!(!spin.handle_idle(start + us(20), 2 * bytes));
        }
    }
}
