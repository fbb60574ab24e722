//! Measures farpipe and other pipes, all in the same way; started by `cargo xtask bench-peers`.
//!
//! The method is in docs/benchmarks.md. `sink` and `writes` are the two ends of a measured
//! pipeline, the same plain programs for every peer; `peers` builds the pipelines and prints the
//! tables. `scale` is a relay with many agents,
//! `model` is a pipe reduced to its system calls, `links` a long link, `flood` a relay that strangers `attack`,
//! `topics` a relay that keeps records, beside a broker.

mod attack;
mod brokers;
mod bulk;
mod certs;
mod due;
mod flood;
mod forward;
mod input;
mod lines;
mod links;
mod lossy;
mod model;
mod openloop;
mod options;
mod peer;
mod ping;
mod process;
mod proxy;
mod raw;
mod relay;
mod report;
mod reuse;
mod scale;
mod sink;
mod ssh;
mod table;
mod topics;
mod tree;
mod watched;
mod writes;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["sink"] => sink::run(sink::READ),
        ["sink", size] => sink::run(size.parse()?),
        ["writes", size, count] => writes::run(size.parse()?, count.parse()?),
        ["peers", ref options @ ..] => match options::parse(options)? {
            Some(options) => report::run(&options),
            None => {
                print!("{}", options::USAGE);
                Ok(())
            }
        },
        ["links", ref options @ ..] => links::run(options),
        ["scale", ref options @ ..] => scale::run(options),
        ["topics", ref options @ ..] => topics::run(options),
        ["tcp-receive", at] => raw::receive(at),
        ["tcp-send", to] => raw::send(to),
        ["model-send", way, port] => model::send(model::Way::of(way)?, port.parse()?),
        ["model-receive", way, port] => model::receive(model::Way::of(way)?, port.parse()?),
        ["flood", ref options @ ..] => flood::run(options),
        ["attack", kind, at, seconds, rate, held] => {
            attack::run(kind, at, seconds, rate, held.parse()?)
        }
        _ => bail!(
            "usage: farpipe-bench peers | links | scale | flood | topics [OPTIONS] | sink [SIZE] | writes SIZE COUNT"
        ),
    }
}
