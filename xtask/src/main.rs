//! Project tasks that need more than one cargo command: `cargo xtask TASK`.
//!
//! Every check of the project is a task here or a plain cargo command, and CI (.ci/run) calls the
//! same ones that people type. Compiled by everyone who works here, so it has few and small dependencies.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

mod bench;
mod compliance;
mod faults;
mod fuzz;
mod powercut;
mod sim;
mod soak;
mod test;
mod tidy;
mod tools;
mod wasm;

const USAGE: &str = "\
usage: cargo xtask TASK

  test                      every test: unit, integration, doc tests, tidy, wasm; ends with the counts
  tidy                      rules of the house that no compiler checks
  wasm                      proves that farpipe-proto builds for wasm32 without a single import
  sim [SEEDS]               every cut and 10,000 (or SEEDS) seeds of each simulation, in minutes
  fuzz [TARGET…] [--seconds N | --runs N]
                            the targets of fuzz/, each for 10 s or as said (docs/fuzzing.md)
<<<<<<< HEAD
  soak [group] [--minutes N] [--seed S] [--pipes N] [--farpipe FILE] [--dir DIR]
                            real processes, killed, cut and stopped for so long, or a group of readers (docs/soak.md)
=======
  soak [--minutes N] [--seed S] [--pipes N] [--farpipe FILE] [--dir DIR]
                            real processes, killed, cut and stopped for so long (docs/soak.md)
  powercut [--cuts N] [--seed S] [--farpipe FILE] [--dir DIR]
                            N power cuts of the disk below a real relay that keeps topics (root; docs/log.md)
>>>>>>> db1d897 (cargo xtask powercut cuts the power of the disk below a real relay)
  compliance [CASE…]        Autobahn's test suite, or cases like 7.1.*, against our WebSocket ends (docs/websocket.md)
  faults                    writes docs/faults.md from the names of the tests
  bench-peers [OPTIONS]     farpipe against socat, ncat, websocat, a Go/gorilla pipe, rsync and ssh (docs/benchmarks.md)
  bench-scale [OPTIONS]     10,000 idle agents at one relay, 1,000 streams through it
  bench-flood [OPTIONS]     a stream through a relay while strangers attack it, on this host only
  bench-links [OPTIONS]     one stream over 1 Gbit/s with a round trip of 200 ms, and with lost packets (root)
  bench-topics [OPTIONS]    topics through a relay and through NATS JetStream, and an open loop
  bench-ws-libs [OPTIONS]   WebSocket libraries against framing in place (docs/decisions/0002-websocket-framing.md)
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<ExitCode> {
    let (task, rest) = args
        .split_first()
        .map_or(("help", args), |(task, rest)| (task.as_str(), rest));
    match (task, rest) {
        ("test", []) => return test::run(),
        ("tidy", []) => tidy::run()?,
        ("wasm", []) => wasm::run()?,
        ("sim", []) => sim::run(sim::SEEDS)?,
        ("sim", [seeds]) => sim::run(seeds.parse().context("SEEDS is a number")?)?,
        ("fuzz", options) => fuzz::run(options)?,
        ("powercut", options) => return powercut::run(options),
        ("soak", options) => return soak::run(options),
        ("compliance", cases) => compliance::run(cases)?,
        ("faults", []) => faults::run()?,
        ("bench-peers", options) => bench::peers(options)?,
        ("bench-scale", options) => bench::scale(options)?,
        ("bench-flood", options) => bench::flood(options)?,
        ("bench-links", options) => bench::links(options)?,
        ("bench-topics", options) => bench::topics(options)?,
        ("bench-ws-libs", options) => bench::ws_libs(options)?,
        ("help" | "--help" | "-h", _) => print!("{USAGE}"),
        ("test" | "tidy" | "wasm" | "faults", _) => bail!("{task} takes no arguments"),
        ("sim", _) => bail!("sim takes the number of seeds at most"),
        _ => bail!("no task {task:?}\nhint: cargo xtask help lists them"),
    }
    Ok(ExitCode::SUCCESS)
}
