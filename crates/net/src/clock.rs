//! Where time comes from.

use std::time::Duration;

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
