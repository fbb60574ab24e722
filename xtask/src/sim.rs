//! `cargo xtask sim`: the long runs of the simulations, of which `cargo xtask test` plays slices.
//!
//! Each is an example of farpipe-sim that prints its figures and ends at the first wrong byte with
//! all that decides the run. The last line has the sum of what was survived.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::tools;

/// Seeds of each simulation unless said otherwise.
pub const SEEDS: u64 = 10_000;

/// The example and what it is told beside the number of seeds.
const RUNS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("sweep", &["--exhaustive", "--seeds"]),
    ("net_sweep", &["--exhaustive", "--seeds"]),
    ("net_turmoil", &["--seeds"]),
    ("net_relays", &["--seeds"]),
];

/// Runs all of them.
pub fn run(seeds: u64) -> Result<()> {
    let seeds = seeds.to_string();
    let mut disconnects = 0;
    for (example, options) in RUNS {
        let mut args = vec!["run", "--release", "--package", "farpipe-sim", "--example"];
        args.extend([example, "--"]);
        args.extend_from_slice(options);
        args.push(&seeds);
        disconnects += play(&mut tools::cargo(&args))?;
    }
    println!("{disconnects} simulated disconnects, 0 wrong");
    Ok(())
}

/// Passes on what it prints, and gives the disconnects that it names.
fn play(command: &mut Command) -> Result<u64> {
    let line = tools::line(command);
    eprintln!("$ {line}");
    let cannot = || format!("cannot run {line}");
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(cannot)?;
    let stdout = child.stdout.take().with_context(cannot)?;
    let mut disconnects = 0;
    for line in BufReader::new(stdout).lines() {
        let line = line.with_context(cannot)?;
        println!("{line}");
        disconnects += named(&line);
    }
    let status = child.wait().with_context(cannot)?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(disconnects)
}

/// `10 runs, 42 disconnects, …`: 42.
fn named(line: &str) -> u64 {
    let before = line
        .split(" disconnects")
        .next()
        .filter(|part| *part != line);
    let number = before.and_then(|part| part.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disconnects_are_found_in_what_a_simulation_prints() {
        let line = "seeds 0 to 9, twice: 10 runs, 42 disconnects, 7 bytes, 0 wrong, in 1.0 s";
        assert_eq!(named(line), 42);
        assert_eq!(named("10 runs, 7 bytes"), 0);
    }
}
