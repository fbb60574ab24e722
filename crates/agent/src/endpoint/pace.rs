//! Lets a pipe collect small writes.
//!
//! A producer that writes 100 bytes at a time, as fast as it can, is read in scraps: each costs a
//! wake-up, two system calls here, a frame, and a lock that stops the producer. Pausing for
//! [`PAUSE`] after each read lets the scraps add up (measured: twice the throughput at 40 % of
//! this process's CPU time). A conversation of short messages must not be delayed so, and looks
//! the same from here; it can be told apart only by trying. In a pause a stream brings many times
//! what one read brought before, and no fewer bytes a second; a conversation brings the messages
//! it had under way, and gets slower.
//!
//! ```text
//! counting --(enough small reads, fast)--> pausing --(as much as before, many times)--+
//!    ^  ^                                     |                                       |
//!    |  +--(less: twice as many next time)----+                                       |
//!    +----------------(measure anew)--------------------------------------------------+
//! ```

use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Decides when to pause, and waits.
#[derive(Debug)]
pub(super) struct Pace {
    phase: Phase,
    /// Small reads in a row before a pause is tried.
    reads_before_trial: u32,
    /// A pipe too small would stop its writer during a pause.
    is_enabled: bool,
    is_pausing: bool,
    timer: Option<Timer>,
}

#[derive(Debug)]
enum Phase {
    /// Small reads, and when the first of them was.
    Counting(Tally),
    /// The reads behind the pauses of this round.
    Pausing {
        usual: Usual,
        round: Tally,
        rounds_left: u32,
        /// Pauses in a row that brought little: a stream's writer may have been off the CPU.
        poor: u32,
    },
}

/// Reads since a moment.
#[derive(Debug, Clone, Copy)]
struct Tally {
    since: Instant,
    reads: u32,
    bytes: usize,
}

/// What reading without pauses brings.
#[derive(Debug, Clone, Copy)]
struct Usual {
    bytes_per_read: usize,
    bytes_per_second: f64,
}

impl Pace {
    /// For a pipe that holds `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            phase: Phase::Counting(Tally::new(Instant::now())),
            reads_before_trial: TRIAL_READS_FIRST,
            is_enabled: capacity >= CAPACITY_MIN,
            is_pausing: false,
            timer: None,
        }
    }

    /// A read has returned `len` bytes; `is_drained`: and emptied the pipe.
    pub(super) fn handle_read(&mut self, now: Instant, len: usize, is_drained: bool) {
        if !self.is_enabled {
            return;
        }
        if !is_drained {
            self.phase = Phase::Counting(Tally::new(now));
            return;
        }
        match &mut self.phase {
            Phase::Counting(_) if len >= LARGE_READ => {}
            Phase::Counting(tally) if tally.reads == 0 => *tally = Tally::starting_with(now, len),
            Phase::Counting(tally) => {
                tally.add(len);
                if tally.reads >= self.reads_before_trial {
                    let tally = *tally;
                    self.handle_counted(now, tally);
                }
            }
            Phase::Pausing {
                usual,
                round,
                rounds_left,
                poor,
            } => {
                round.add(len);
                if len >= usual.bytes_per_read * GAIN_MIN {
                    *poor = 0;
                } else {
                    *poor += 1;
                }
                if *poor >= POOR_MAX {
                    self.handle_failure(now);
                } else if round.reads < ROUND {
                    self.pause();
                } else if round.bytes_per_second(now) < usual.bytes_per_second * RATE_MIN {
                    self.handle_failure(now);
                } else {
                    self.reads_before_trial = TRIAL_READS_AGAIN;
                    if *rounds_left > 0 {
                        *round = Tally::new(now);
                        *rounds_left -= 1;
                        self.pause();
                    } else {
                        self.phase = Phase::Counting(Tally::new(now));
                    }
                }
            }
        }
    }

    /// Ready when no pause is on.
    pub(super) fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_pausing {
            if let Some(timer) = &self.timer
                && timer.poll(cx).is_pending()
            {
                return Poll::Pending;
            }
            self.is_pausing = false;
        }
        Poll::Ready(())
    }

    fn handle_counted(&mut self, now: Instant, tally: Tally) {
        if now - tally.since > READ_INTERVAL_MAX * tally.reads {
            self.phase = Phase::Counting(Tally::new(now));
            return;
        }
        self.phase = Phase::Pausing {
            usual: Usual {
                bytes_per_read: tally.bytes / tally.reads as usize,
                bytes_per_second: tally.bytes_per_second(now),
            },
            round: Tally::new(now),
            rounds_left: ROUNDS,
            poor: 0,
        };
        self.pause();
    }

    fn handle_failure(&mut self, now: Instant) {
        self.reads_before_trial = (self.reads_before_trial * 2).min(TRIAL_READS_MAX);
        self.phase = Phase::Counting(Tally::new(now));
    }

    fn pause(&mut self) {
        match self.start_timer() {
            Ok(()) => self.is_pausing = true,
            // No timer, no pause: only speed is lost.
            Err(error) => {
                tracing::debug!(%error, "cannot pause between small reads");
                self.is_enabled = false;
            }
        }
    }

    fn start_timer(&mut self) -> io::Result<()> {
        let timer = match self.timer.take() {
            Some(timer) => timer,
            None => Timer::new()?,
        };
        timer.start(PAUSE)?;
        self.timer = Some(timer);
        Ok(())
    }
}

impl Tally {
    /// Nothing yet; the clock runs.
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            reads: 0,
            bytes: 0,
        }
    }

    /// The clock runs from this read on, so that the silence before it does not count.
    fn starting_with(now: Instant, len: usize) -> Self {
        let mut tally = Self::new(now);
        tally.add(len);
        tally
    }

    fn add(&mut self, len: usize) {
        self.reads += 1;
        self.bytes += len;
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
    fn bytes_per_second(&self, now: Instant) -> f64 {
        self.bytes as f64 / (now - self.since).as_secs_f64()
    }
}

/// tokio's clock ticks once a millisecond; this one is exact.
#[cfg(target_os = "linux")]
#[derive(Debug)]
struct Timer(tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>);

#[cfg(target_os = "linux")]
impl Timer {
    fn new() -> io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let interest = tokio::io::Interest::READABLE;
        Ok(Self(super::fd::register(fd, interest)?))
    }

    fn start(&self, pause: Duration) -> io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

        let never = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let it_value = Timespec {
            tv_sec: 0,
            tv_nsec: pause.subsec_nanos().into(),
        };
        let once = Itimerspec {
            it_interval: never,
            it_value,
        };
        // Starting anew also forgets the last expiry, so nothing need be read.
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_read_ready(cx).map(|ready| {
            if let Ok(mut guard) = ready {
                guard.clear_ready();
            }
        })
    }
}

/// Elsewhere there is no pause.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
struct Timer;

#[cfg(not(target_os = "linux"))]
impl Timer {
    fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn start(&self, _pause: Duration) -> io::Result<()> {
        Ok(())
    }

    fn poll(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// Long enough to collect tens of kilobytes of 100-byte writes, too short for a person to notice.
const PAUSE: Duration = Duration::from_micros(200);
/// A pipe that fills up within a pause at any rate seen here would cost more than it gains.
const CAPACITY_MIN: usize = 512 << 10;
/// A read from this on is worth its price without a pause.
const LARGE_READ: usize = 64 << 10;
/// Slower than this on average, small reads cost too little to bother.
const READ_INTERVAL_MAX: Duration = Duration::from_micros(100);
/// Small reads before the first trial.
const TRIAL_READS_FIRST: u32 = 32;
/// Small reads before the next one after a success: the usual rate is measured by them.
const TRIAL_READS_AGAIN: u32 = 16;
/// Each failure doubles the number up to this: a conversation is delayed once in so many messages.
const TRIAL_READS_MAX: u32 = 8192;
/// How many times the usual read a pause must bring…
const GAIN_MIN: usize = 2;
/// …or else, so many times in a row, it was no stream.
const POOR_MAX: u32 = 3;
/// Pauses in a round, at the end of which the rate is compared.
const ROUND: u32 = 16;
/// The part of the usual rate that a round must reach: streams on a busy machine vary that much.
const RATE_MIN: f64 = 0.75;
/// Further rounds before the usual rate is measured anew.
const ROUNDS: u32 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    /// A pace that is told of reads at times of its own.
    struct Script {
        pace: Pace,
        now: Instant,
    }

    impl Script {
        fn new(capacity: usize) -> Self {
            Self {
                pace: Pace::new(capacity),
                now: Instant::now(),
            }
        }

        /// Reads of `len` bytes, `interval` apart and at once after a pause. Returns the pauses.
        fn read(&mut self, times: u32, len: usize, interval: Duration) -> u32 {
            let mut pauses = 0;
            for _ in 0..times {
                self.now += interval;
                self.pace.handle_read(self.now, len, true);
                if std::mem::take(&mut self.pace.is_pausing) {
                    self.now += PAUSE;
                    pauses += 1;
                }
            }
            pauses
        }
    }

    const FAST: Duration = Duration::from_micros(10);

    #[tokio::test]
    async fn a_fast_stream_of_small_writes_is_paused() {
        let mut script = Script::new(1 << 20);
        assert_eq!(script.read(TRIAL_READS_FIRST - 1, 1000, FAST), 0);
        assert_eq!(script.read(1, 1000, FAST), 1, "the first trial");
        // As many bytes a second as before: the pauses go on, and end at last.
        let all = ROUND * (ROUNDS + 1);
        assert_eq!(script.read(all, 21_000, FAST), all - 1);
        assert_eq!(script.read(TRIAL_READS_AGAIN - 1, 1000, FAST), 0);
        assert_eq!(script.read(1, 1000, FAST), 1, "measured anew");
    }

    #[tokio::test]
    async fn a_pause_that_brings_little_now_and_then_is_forgiven() {
        let mut script = Script::new(1 << 20);
        script.read(TRIAL_READS_FIRST, 1000, FAST);
        for _ in 0..ROUND * ROUNDS / POOR_MAX {
            assert_eq!(script.read(1, 80_000, FAST), 1);
            assert_eq!(script.read(POOR_MAX - 1, 1000, FAST), POOR_MAX - 1);
        }
    }

    #[tokio::test]
    async fn a_conversation_is_delayed_less_and_less_often() {
        let mut script = Script::new(1 << 20);
        let mut expected = TRIAL_READS_FIRST;
        while expected <= 1024 {
            assert_eq!(script.read(expected - 1, 64, FAST), 0);
            // One message a pause, so many times, is proof.
            assert_eq!(script.read(1 + POOR_MAX, 64, FAST), POOR_MAX);
            expected *= 2;
        }
    }

    #[tokio::test]
    async fn a_conversation_with_several_messages_under_way_is_not_slowed_down() {
        let mut script = Script::new(1 << 20);
        script.read(TRIAL_READS_FIRST, 64, FAST);
        // Each pause brings all four of them, but four in 210 µs are less than one in 10 µs.
        assert_eq!(script.read(2 * ROUND, 256, FAST), ROUND - 1);
    }

    #[tokio::test]
    async fn slow_small_reads_are_not_paused() {
        let mut script = Script::new(1 << 20);
        assert_eq!(script.read(10_000, 100, READ_INTERVAL_MAX * 2), 0);
    }

    #[tokio::test]
    async fn large_reads_and_full_buffers_are_not_paused() {
        let mut script = Script::new(1 << 20);
        assert_eq!(script.read(10_000, LARGE_READ, FAST), 0);
        for _ in 0..10_000 {
            script.pace.handle_read(script.now, 100, false);
            assert!(!script.pace.is_pausing);
        }
    }

    #[tokio::test]
    async fn a_small_pipe_is_not_paused() {
        let mut script = Script::new(64 << 10);
        assert_eq!(script.read(10_000, 100, FAST), 0);
    }

    #[tokio::test]
    async fn a_pause_lasts_and_ends() {
        let mut pace = Pace::new(1 << 20);
        std::future::poll_fn(|cx| pace.poll_pause(cx)).await;
        for _ in 0..2 {
            pace.pause();
            let begin = Instant::now();
            std::future::poll_fn(|cx| pace.poll_pause(cx)).await;
            assert!(begin.elapsed() >= PAUSE);
            assert!(!pace.is_pausing);
        }
    }
}
