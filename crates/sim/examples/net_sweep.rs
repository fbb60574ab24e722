//! Counts what the real net code survives in simulated time:
//! `cargo run --release -p farpipe-sim --example net_sweep -- --exhaustive --seeds 10000`.
//!
//! `--exhaustive` cuts one run at every byte, each way, on each carrier; `--every N` only at each
//! N-th; `--fault reset|close|half|hole|ghost|stall` says how (default: reset). `--from N` begins
//! at seed N. The first failure is printed with all that decides it and ends with exit code 1.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people"
)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use farpipe_sim::net::cable::Fault;
use farpipe_sim::net::{Failure, Report, Stage, Sweep, Swept, seeds};

fn main() -> ExitCode {
    let Some(options) = Options::parse(std::env::args().skip(1)) else {
        eprintln!(
            "usage: net_sweep [--seeds N] [--from SEED] [--exhaustive] [--every N] [--fault NAME]"
        );
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
    fault: Fault,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self {
            seeds: 0,
            from: 0,
            exhaustive: false,
            every: 1,
            fault: Fault::Reset,
        };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--seeds" => options.seeds = args.next()?.parse().ok()?,
                "--from" => options.from = args.next()?.parse().ok()?,
                "--exhaustive" => options.exhaustive = true,
                "--every" => options.every = args.next()?.parse().ok().filter(|n| *n > 0)?,
                "--fault" => options.fault = fault(&args.next()?)?,
                _ => return None,
            }
        }
        Some(options)
    }

    fn run(&self) -> Result<(), Box<Failure>> {
        let stage = &mut Stage::new();
        if self.exhaustive {
            let swept = Swept {
                fault: self.fault,
                ..Swept::default()
            };
            let sweep = Sweep::new(stage, swept)?;
            let all = sweep.positions();
            let name = format!(
                "{:?} at each of {all} bytes, every {}",
                self.fault, self.every
            );
            report(&name, || sweep.run(stage, (0..all).step_by(self.every)))?;
        }
        if self.seeds > 0 {
            let range = self.from..self.from + self.seeds;
            let name = format!("seeds {} to {}, twice", range.start, range.end - 1);
            report(&name, || seeds(stage, range))?;
        }
        Ok(())
    }
}

fn fault(name: &str) -> Option<Fault> {
    let late = Duration::from_secs(1);
    Some(match name {
        "reset" => Fault::Reset,
        "close" => Fault::Close,
        "half" => Fault::HalfClose,
        "hole" => Fault::BlackHole,
        "ghost" => Fault::Ghost(late),
        "stall" => Fault::Stall(late),
        _ => return None,
    })
}

fn report(
    name: &str,
    run: impl FnOnce() -> Result<Report, Box<Failure>>,
) -> Result<(), Box<Failure>> {
    let begin = Instant::now();
    let report = run()?;
    println!(
        "{name}: {report}, in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}
