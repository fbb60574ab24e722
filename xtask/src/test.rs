//! `cargo xtask test`: everything, streamed while it runs, closed by one line of counts.
//!
//! The last line is `N passed, N failed` (and `, N skipped` where tests were ignored), whatever
//! went wrong before: a step that breaks without counting, such as a test that does not compile,
//! counts as one failure.

use std::io::{Read, Write};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::{tidy, tools, wasm};

/// Every test of relays.
const RELAYS: [&str; 17] = [
    "test",
    // As all tests are built, or much would be built again.
    "--workspace",
    "--all-features",
    "--test=it",
    "--no-fail-fast",
    "--",
    "relay::",
    "relay_admin::",
    "relay_faults::",
    "relay_logs::",
    "relay_ls::",
    "relay_malice::",
    "relay_reload::",
    "relay_tls::",
    "exec_relay::",
    "topics::",
    "topics_groups::",
];

/// What the test binaries said.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    /// Adds one line of a test binary's output if it is a summary:
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`.
    fn add_line(&mut self, line: &str) {
        let Some(summary) = line.trim().strip_prefix("test result: ") else {
            return;
        };
        for part in summary.split([';', '.']) {
            let Some((number, what)) = part.trim().split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }

    /// Counts a step that is one test, or that failed without a count of its own.
    fn add_step(&mut self, name: &str, result: Result<()>, counted: Counts) {
        if let Err(error) = result {
            eprintln!("xtask: {name}: {error:#}");
            if self.failed == counted.failed {
                self.failed += 1;
            }
        } else if *self == counted {
            self.passed += 1;
        }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// Runs everything; nothing is printed after the counts.
pub fn run() -> Result<ExitCode> {
    let mut counts = Counts::default();
    // Not `--all-targets`: that builds examples as tests, and some tests run an example's program.
    let workspace = ["test", "--workspace", "--all-features", "--no-fail-fast"];
    let before = counts;
    let result = cargo_test(&workspace, "direct", &mut counts);
    // A run with no test at all is no failure, but no success to count either.
    if result.is_err() {
        counts.add_step("tests", result, before);
    }
    // The tests of relays again, each with a real proxy in front (crates/cli/tests/it/support/front.rs).
    for way in ["envoy", "nginx"] {
        let before = counts;
        let result = cargo_test(&RELAYS, way, &mut counts);
        if result.is_err() {
            counts.add_step("relays behind a proxy", result, before);
        }
    }
    for (name, step) in [("tidy", tidy::run as fn() -> _), ("wasm", wasm::run)] {
        let before = counts;
        counts.add_step(name, step(), before);
    }
    if counts.failed > 0 {
        eprintln!("xtask: a check failed; its message is above");
    }
    println!("{counts}");
    Ok(ExitCode::from(u8::from(counts.failed > 0)))
}

/// Runs cargo, passes its stdout on byte by byte and counts what the test binaries report. `way` is
/// that to relays.
fn cargo_test(args: &[&str], way: &str, counts: &mut Counts) -> Result<()> {
    let mut command = tools::cargo(args);
    command.env("FARPIPE_WAY", way);
    let line = tools::line(&command);
    eprintln!("$ FARPIPE_WAY={way} {line}");
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {line}"))?;
    let mut from = child.stdout.take().expect("stdout is piped");
    let mut to = std::io::stdout().lock();
    let mut pending = Vec::new();
    let mut buf = [0; 8192];
    loop {
        let n = from.read(&mut buf).context("cannot read cargo's output")?;
        if n == 0 {
            break;
        }
        to.write_all(&buf[..n])?;
        to.flush()?;
        pending.extend_from_slice(&buf[..n]);
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let rest = pending.split_off(end + 1);
            counts.add_line(&String::from_utf8_lossy(&pending));
            pending = rest;
        }
    }
    counts.add_line(&String::from_utf8_lossy(&pending));
    let status = child.wait()?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_add_up_and_other_lines_do_not_count() {
        let mut counts = Counts::default();
        counts.add_line("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.01s\n");
        counts.add_line(
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        counts.add_line("test says_5_passed ... ok");
        assert_eq!(counts.to_string(), "13 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_step_that_breaks_without_counting_is_one_failure() {
        let mut counts = Counts::default();
        counts.add_step(
            "build",
            Err(anyhow::anyhow!("does not compile")),
            Counts::default(),
        );
        assert_eq!(counts.to_string(), "0 passed, 1 failed");
        let before = counts;
        counts.add_line("test result: FAILED. 0 passed; 2 failed; 0 ignored");
        counts.add_step("run", Err(anyhow::anyhow!("exit status 101")), before);
        assert_eq!(counts.to_string(), "0 passed, 3 failed");
        counts.add_step("tidy", Ok(()), counts);
        assert_eq!(counts.to_string(), "1 passed, 3 failed");
    }
}
