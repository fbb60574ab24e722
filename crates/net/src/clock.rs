//! Where time comes from: two clocks that are never mixed up.
//!
//! Whatever waits or expires on its own goes by [`Clock`], which no administrator and no NTP moves.
//! Dates that somebody wrote into a certificate or a list are compared with [`WallClock`], and
//! nothing else is (`clippy.toml` bans other ways to ask for the time of day).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use farpipe_proto::Instant;

/// A clock for the rules.
///
/// Timers are always tokio's. Between two of its own events a process that slept with the machine
/// asks [`Clock::Boot`], so that a session parked for ten minutes is over after an hour with the
/// lid closed.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// `CLOCK_BOOTTIME`: goes on while the machine sleeps.
    Boot,
    /// tokio's clock since this instant: virtual in simulations.
    Tokio(tokio::time::Instant),
}

impl Clock {
    /// The time now.
    #[must_use]
    pub fn now(self) -> Instant {
        match self {
            #[cfg(target_os = "linux")]
            Self::Boot => {
                let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                Instant::from_origin(Duration::new(
                    u64::try_from(now.tv_sec).unwrap_or(0),
                    u32::try_from(now.tv_nsec).unwrap_or(0),
                ))
            }
            #[cfg(not(target_os = "linux"))]
            Self::Boot => {
                let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
                Instant::from_origin(Duration::new(
                    u64::try_from(now.tv_sec).unwrap_or(0),
                    u32::try_from(now.tv_nsec).unwrap_or(0),
                ))
            }
            Self::Tokio(origin) => Instant::from_origin(origin.elapsed()),
        }
    }

    /// tokio's instant for a deadline of the rules.
    #[must_use]
    pub fn deadline(self, at: Instant) -> tokio::time::Instant {
        // Never further than tokio's wheel reaches; the loop looks again then.
        const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
        tokio::time::Instant::now() + (at - self.now()).min(FAR)
    }
}

/// The time of day, which may jump. A jump hurts no session that runs: it changes only what the next
/// handshake thinks of dates, which are compared to the second, with no leeway.
#[derive(Debug, Clone, Default)]
pub enum WallClock {
    /// The system's.
    #[default]
    System,
    /// The system's, moved by these seconds, which may change at any time: for tests.
    Moved(Arc<AtomicI64>),
}

impl WallClock {
    /// Time since the beginning of 1970; zero before.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks for the time of day"
    )]
    pub fn now(&self) -> Duration {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let by = match self {
            Self::System => return now,
            Self::Moved(by) => by.load(Ordering::Relaxed),
        };
        let far = Duration::from_secs(by.unsigned_abs());
        if by < 0 {
            now.saturating_sub(far)
        } else {
            now.saturating_add(far)
        }
    }
}
