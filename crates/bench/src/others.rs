//! How much of the machine other programs used meanwhile: whether figures are worth anything.
//!
//! It is what the kernel counted for all (/proc/stat) less what this process used.

use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// /proc/stat counts in these, whatever the kernel's own clock (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// Measures from its start on.
#[derive(Debug)]
pub(crate) struct Watch {
    start: Instant,
    others: f64,
}

impl Watch {
    /// `None` where the kernel does not tell.
    pub(crate) fn start() -> Option<Self> {
        Some(Self {
            start: Instant::now(),
            others: busy()? - own_cpu_time().as_secs_f64(),
        })
    }

    /// The share of all processors' time that others have used, 0 to 1.
    pub(crate) fn others(&self) -> Option<f64> {
        let seconds = busy()? - own_cpu_time().as_secs_f64() - self.others;
        let cpus = thread::available_parallelism().map_or(1, NonZero::get) as f64;
        let share = seconds / (self.start.elapsed().as_secs_f64() * cpus);
        Some(share.clamp(0.0, 1.0))
    }
}

/// CPU time of this process, user and system.
pub(crate) fn own_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Seconds that all processors were busy, stolen by the hypervisor included.
fn busy() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    parse(text.lines().next()?)
}

/// From a line `cpu user nice system idle iowait irq softirq steal …`.
fn parse(line: &str) -> Option<f64> {
    let ticks: Vec<u64> = line
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let waiting = ticks.get(3)? + ticks.get(4)?;
    let all: u64 = ticks.iter().take(8).sum();
    Some((all - waiting) as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_not_counted_nor_are_guests_twice() {
        let line = "cpu  100 20 30 4000 500 6 7 8 90 10";
        assert_eq!(parse(line), Some(1.71));
        assert_eq!(parse("cpu0 1 2 3 4 5 6 7 8"), None);
        assert_eq!(parse("cpu  1 2 x 4 5"), None);
    }

    #[test]
    fn this_kernel_tells() {
        let watch = Watch::start().expect("/proc/stat");
        let others = watch.others().expect("/proc/stat");
        assert!((0.0..=1.0).contains(&others), "{others}");
    }
}
