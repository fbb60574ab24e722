//! Counts what the simulation of a pair survives:
//! `cargo run --release -p farpipe-sim --example sweep -- --seeds 10000 --exhaustive`.
//!
//! `--from N` begins at seed N; `--every N` cuts at each N-th byte only. The first failure is
//! printed with its seed and everything derived from it, and ends the run with exit code 1.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people"
)]

use std::process::ExitCode;
use std::time::Instant;

use farpipe_sim::pair::{Failure, Report, positions, seeds, sweep};

fn main() -> ExitCode {
    let Some(options) = Options::parse(std::env::args().skip(1)) else {
        eprintln!("usage: sweep [--seeds N] [--from SEED] [--exhaustive] [--every N]");
        return ExitCode::from(2);
    };
    match options.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    seeds: u64,
    from: u64,
    exhaustive: bool,
    every: usize,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self {
            seeds: 0,
            from: 0,
            exhaustive: false,
            every: 1,
        };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--seeds" => options.seeds = args.next()?.parse().ok()?,
                "--from" => options.from = args.next()?.parse().ok()?,
                "--exhaustive" => options.exhaustive = true,
                "--every" => options.every = args.next()?.parse().ok().filter(|n| *n > 0)?,
                _ => return None,
            }
        }
        Some(options)
    }

    fn run(&self) -> Result<(), Failure> {
        if self.exhaustive {
            let all = positions();
            let name = format!("a cut at each of {all} bytes");
            report(&name, || sweep((0..all).step_by(self.every)))?;
        }
        if self.seeds > 0 {
            let range = self.from..self.from + self.seeds;
            let name = format!("seeds {} to {}", range.start, range.end - 1);
            report(&name, || seeds(range))?;
        }
        Ok(())
    }
}

fn report(name: &str, run: impl FnOnce() -> Result<Report, Failure>) -> Result<(), Failure> {
    let begin = Instant::now();
    let report = run()?;
    println!(
        "{name}: {report}, in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}
