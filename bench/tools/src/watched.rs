//! What a process has, from /proc.

use anyhow::{Context, Result};

/// Clock ticks a second in /proc (`getconf CLK_TCK`, which is 100 wherever Linux runs).
const TICKS: f64 = 100.0;

/// Bytes of memory that a process has.
pub fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmRSS in /proc")?.parse::<u64>()? << 10)
}

/// Seconds of CPU that a process has used.
pub fn cpu(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which may hold anything.
    let rest = stat.rsplit_once(')').context("/proc/PID/stat")?.1;
    let ticks = rest.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|word| word.parse().unwrap_or(0)).sum();
    Ok(ticks as f64 / TICKS)
}

/// Descriptors that a process has open.
pub fn descriptors(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}
