//! Counts what sessions through relays survive in simulated time:
//! `cargo run --release -p farpipe-sim --example net_relays -- --seeds 10000`.
//!
//! `--from N` begins at seed N; `--trace` says what happened in each run. The first failure is printed
//! with all that decides it and ends with exit code 1.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people"
)]

use std::process::ExitCode;
use std::time::Instant;

use farpipe_sim::net::relayed::{Failed, Plan, Theatre, seeds};

fn main() -> ExitCode {
    let Some(options) = Options::parse(std::env::args().skip(1)) else {
        eprintln!("usage: net_relays [--seeds N] [--from SEED] [--trace]");
        return ExitCode::from(2);
    };
    match options.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("{failed}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    seeds: u64,
    from: u64,
    trace: bool,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self {
            seeds: 1_000,
            from: 0,
            trace: false,
        };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--seeds" => options.seeds = args.next()?.parse().ok()?,
                "--from" => options.from = args.next()?.parse().ok()?,
                "--trace" => options.trace = true,
                _ => return None,
            }
        }
        Some(options)
    }

    fn run(&self) -> Result<(), Box<Failed>> {
        let theatre = &mut Theatre::new();
        let range = self.from..self.from + self.seeds;
        if self.trace {
            for seed in range.clone() {
                let (_, lines) = theatre.play(&Plan::from_seed(seed))?;
                println!("seed {seed}\n{}", lines.join("\n"));
            }
            return Ok(());
        }
        let begin = Instant::now();
        let report = seeds(theatre, range.clone())?;
        println!(
            "through relays, seeds {} to {}, twice: {report}, in {:.1} s",
            range.start,
            range.end - 1,
            begin.elapsed().as_secs_f64()
        );
        Ok(())
    }
}
