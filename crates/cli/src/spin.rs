//! Whether to look again at once rather than sleep, because an answer is about to come.
//!
//! Going to sleep and being woken costs tens of microseconds at each of the processes that a short
//! message passes; a question and its answer over a fast link pay it six times, and over a relay eight
//! times. So a process that has just moved a short message, and saw the last one come soon, looks on for a
//! moment before it sleeps. A wrong guess costs that moment; after a few in a row it is made more and
//! more seldom. Bulk data never waits this way: the processor belongs to whoever produces and consumes it.

use std::time::{Duration, Instant};

/// How long to look on before sleeping: as long as an answer takes on one host, over a relay too.
const SPIN_FOR: Duration = Duration::from_micros(100);
/// What came sooner than this after the last message could be waited for awake: where all processes of the
/// way sleep, an answer that takes 100 µs awake takes three or four times as long.
const GAP_MAX: Duration = Duration::from_micros(400);
/// More bytes than this since the last look are bulk.
const SHORT_MAX: u64 = 4 * 1024;
/// Wrong guesses in a row after which every second chance is let pass, then three of four, and so on.
const MISSES_FREE: u32 = 4;
/// Chances let pass, at most, before the next guess, as a power of two.
const SKIPPED_MAX: u32 = 6;

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
    /// Wrong guesses since the last right one.
    misses: u32,
    /// Chances to let pass.
    skipped: u32,
}

impl Spin {
    /// `processors`: how many this process may use. With one, whoever answers could not run.
    pub(crate) fn new(processors: usize) -> Self {
        Self {
            is_allowed: processors > 1,
            moved: 0,
            busy_at: None,
            until: None,
            misses: 0,
            skipped: 0,
        }
    }

    /// Called when there is nothing more to do at `now`; `moved` counts all bytes so far. Whether
    /// to look again at once.
    pub(crate) fn handle_idle(&mut self, now: Instant, moved: u64) -> bool {
        let bytes = moved - self.moved;
        self.moved = moved;
        if bytes == 0 {
            if self.until.is_some_and(|until| now >= until) {
                self.until = None;
                self.misses = self.misses.saturating_add(1);
                let power = self.misses.saturating_sub(MISSES_FREE).min(SKIPPED_MAX);
                self.skipped = (1 << power) - 1;
            }
            return self.until.is_some();
        }
        if self.until.take().is_some() {
            self.misses = 0;
        }
        let soon = self
            .busy_at
            .is_some_and(|at| now.duration_since(at) < GAP_MAX);
        self.busy_at = Some(now);
        if self.is_allowed && soon && bytes <= SHORT_MAX {
            match self.skipped.checked_sub(1) {
                Some(left) => self.skipped = left,
                None => self.until = Some(now + SPIN_FOR),
            }
        }
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
        assert!(!spin.handle_idle(start + us(191), 128), "it did not come");
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

    /// One message each 300 µs: soon, but never as soon as it is looked for.
    #[test]
    fn guesses_that_are_wrong_in_a_row_become_rare_and_a_right_one_makes_up_for_them() {
        let (mut spin, start) = (Spin::new(2), Instant::now());
        let (mut now, mut moved, mut looked) = (start, 0, 0);
        for _ in 0..1_000 {
            now += us(300);
            moved += 64;
            if spin.handle_idle(now, moved) {
                looked += 1;
                assert!(!spin.handle_idle(now + us(101), moved));
            }
        }
        assert!((10..40).contains(&looked), "{looked} looks of 1000");
        // The next guess is right.
        let right = (0..64).any(|_| {
            now += us(50);
            moved += 64;
            spin.handle_idle(now, moved)
        });
        assert!(right, "not one guess in 64 chances");
        for _ in 0..10 {
            now += us(50);
            moved += 64;
            assert!(spin.handle_idle(now, moved), "right ones go on");
        }
    }
}
