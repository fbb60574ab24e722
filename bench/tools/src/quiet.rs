//! Notices when other programs used the machine during a run, and repeats the run.
//!
//! A median hides a rare disturbance, not a compiler in the next window. What others used is what
//! the kernel counted for all (/proc/stat) less what this process and its finished children used.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// /proc/stat counts in these, whatever the kernel's own clock (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// Repetitions before the least disturbed run is taken as it is.
const TRIES_MAX: usize = 10;

/// Runs `run` until others used at most `limit` (0 to 1) of the machine meanwhile. Without a
/// limit, runs it once.
pub fn undisturbed<T>(limit: Option<f64>, mut run: impl FnMut() -> Result<T>) -> Result<T> {
    let Some(limit) = limit else { return run() };
    let mut best: Option<(f64, T)> = None;
    for _ in 0..TRIES_MAX {
        wait_for_quiet(limit)?;
        let watch = Watch::start()?;
        let outcome = run()?;
        let others = watch.others()?;
        if others <= limit {
            return Ok(outcome);
        }
        if best.as_ref().is_none_or(|(least, _)| others < *least) {
            best = Some((others, outcome));
        }
    }
    let (others, outcome) = best.expect("there was a try");
    eprintln!(
        "others used {:.0} % of the machine in the quietest of {TRIES_MAX} tries",
        others * 100.0
    );
    Ok(outcome)
}

/// Gives the others a while to come to rest.
fn wait_for_quiet(limit: f64) -> Result<()> {
    for _ in 0..50 {
        let watch = Watch::start()?;
        thread::sleep(Duration::from_millis(100));
        if watch.others()? <= limit.max(0.1) {
            break;
        }
    }
    Ok(())
}

/// Measures what others use from its start on.
#[derive(Debug)]
struct Watch {
    start: Instant,
    others: f64,
}

impl Watch {
    fn start() -> Result<Self> {
        Ok(Self {
            start: Instant::now(),
            others: busy()? - own()?,
        })
    }

    /// The share of all cores' time that others used.
    fn others(&self) -> Result<f64> {
        let seconds = busy()? - own()? - self.others;
        let cores = thread::available_parallelism().map_or(1, usize::from) as f64;
        Ok(seconds / (self.start.elapsed().as_secs_f64() * cores))
    }
}

/// Seconds that all cores were busy, stolen by the hypervisor included.
fn busy() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let cpu = stat.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; guests are part of user.
    let ticks = cpu.split_whitespace().skip(1).take(8).enumerate();
    let busy = ticks.filter(|(i, _)| *i != 3 && *i != 4);
    Ok(busy
        .filter_map(|(_, ticks)| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / TICKS_PER_SECOND)
}

/// Seconds that this process and its finished children used.
fn own() -> Result<f64> {
    let mut seconds = 0.0;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who)?;
        let of = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        seconds += of(usage.user_time()) + of(usage.system_time());
    }
    Ok(seconds)
}
