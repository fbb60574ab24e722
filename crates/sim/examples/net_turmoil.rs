//! Counts what the real net code survives on hosts in a bad network:
//! `cargo run --release -p farpipe-sim --example net_turmoil -- --seeds 10000`.
//!
//! `--from N` begins at seed N. The first failure is printed with all that decides it and ends
//! with exit code 1.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people"
)]

use std::process::ExitCode;
use std::time::Instant;

use farpipe_sim::net::storms;

fn main() -> ExitCode {
    let Some((from, seeds)) = parse(std::env::args().skip(1)) else {
        eprintln!("usage: net_turmoil --seeds N [--from SEED]");
        return ExitCode::from(2);
    };
    let begin = Instant::now();
    match storms(from..from + seeds) {
        Ok(report) => {
            let wall = begin.elapsed().as_secs_f64();
            println!(
                "storms {from} to {}, twice: {report}, in {wall:.1} s",
                from + seeds - 1
            );
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Option<(u64, u64)> {
    let (mut from, mut seeds) = (0, 0);
    while let Some(arg) = args.next() {
        let number = args.next()?.parse().ok()?;
        match arg.as_str() {
            "--from" => from = number,
            "--seeds" => seeds = number,
            _ => return None,
        }
    }
    (seeds > 0).then_some((from, seeds))
}
