//! Which tables there are, and what their rows run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bulk::{self, Writer};
use crate::certs::Certificates;
use crate::options::Options;
use crate::peer::{LOCAL, PEERS, Peer, SOCAT};
use crate::table::{Column, Rounds, Runner, Table};
use crate::{forward, input, ping, relay, reuse, tree};

const RATES: &[Column] = &[Column::median("GB/s", 0), Column::median("CPU s/GiB", 1)];
const TIMES: &[Column] = &[Column::median("p50 µs", 0), Column::median("p99 µs", 1)];

pub fn run(options: &Options) -> Result<()> {
    let farpipe = options.programs.get("farpipe");
    let _certificates = farpipe
        .map(|path| Certificates::make(path.as_path()))
        .transpose()?;
    let mut tables = Vec::new();
    if options.wants_table("bulk") {
        let writer = random(options)?;
        let title = format!("{} MiB of random bytes", options.size >> 20);
        tables.push(throughput(options, title, &writer));
    }
    if options.wants_table("small") {
        let count = options.small / options.write;
        let writer = Writer {
            program: std::env::current_exe().context("cannot find this program")?,
            args: vec![
                "writes".to_owned(),
                options.write.to_string(),
                count.to_string(),
            ],
            bytes: count * options.write,
            read: options.read,
        };
        let title = format!(
            "{} MiB in writes of {} bytes",
            options.small >> 20,
            options.write
        );
        tables.push(throughput(options, title, &writer));
    }
    if options.wants_table("ping") {
        tables.push(round_trips(options));
    }
    if options.wants_table("forward") {
        tables.push(forwarded(options));
    }
    if options.wants_table("relay") {
        tables.push(relayed(options, &random(options)?));
    }
    // What cannot be had for these does not take the others' figures away.
    let mut missing = Ok(());
    if options.wants_table("tree") {
        match tree::tables(options) {
            Ok(more) => tables.extend(more),
            Err(error) => missing = Err(error.context("no table of trees")),
        }
    }
    if options.wants_table("reuse") {
        match reuse::table(options) {
            Ok(table) => tables.push(table),
            Err(error) => missing = Err(error.context("no table of connections reused")),
        }
    }
    if options.json {
        let tables: Vec<Value> = tables.iter().map(Table::to_json).collect();
        println!("{}", json!({ "machine": machine(), "tables": tables }));
    } else {
        println!("{}; interleaved rounds", machine());
        for table in &tables {
            print!("{}", table.to_markdown());
        }
    }
    missing
}

/// The rounds of every table whose runs take a while.
fn rounds(options: &Options) -> Rounds {
    Rounds {
        count: options.rounds,
        others_max: options.others_max,
        are_told: true,
    }
}

/// What writes the random bytes.
fn random(options: &Options) -> Result<Writer> {
    let file = input::file(options.size)?;
    Ok(Writer {
        program: PathBuf::from("cat"),
        args: vec![file.to_string_lossy().into_owned()],
        bytes: options.size,
        read: options.read,
    })
}

fn relayed(options: &Options, writer: &Writer) -> Table {
    let mut runners: Vec<Runner<'_>> = Vec::new();
    for (peer, program) in peers(options).filter(|(peer, _)| peer.name == SOCAT) {
        let figures = |outcome: bulk::Outcome| vec![outcome.rate, outcome.cpu];
        let run = move || bulk::run(writer, Some((peer, program))).map(figures);
        runners.push((peer.name, Box::new(run)));
    }
    if let Some(farpipe) = options.programs.get("farpipe") {
        for way in relay::WAYS {
            let run =
                move || relay::through(writer, way, farpipe).map(|(rate, cpu)| vec![rate, cpu]);
            runners.push((way.name, Box::new(run)));
        }
    }
    let title = format!("{} MiB to a command's stdin", writer.bytes >> 20);
    Table::run(options, rounds(options), title, RATES, &runners)
}

fn throughput(options: &Options, title: String, writer: &Writer) -> Table {
    let figures = |outcome: bulk::Outcome| vec![outcome.rate, outcome.cpu];
    let mut runners: Vec<Runner<'_>> = vec![(
        LOCAL,
        Box::new(move || bulk::run(writer, None).map(figures)),
    )];
    for (peer, program) in peers(options) {
        let run = move || bulk::run(writer, Some((peer, program))).map(figures);
        runners.push((peer.name, Box::new(run)));
    }
    Table::run(options, rounds(options), title, RATES, &runners)
}

fn round_trips(options: &Options) -> Table {
    let figures = |outcome: ping::Outcome| vec![outcome.p50, outcome.p99];
    let pings = options.pings;
    let mut runners: Vec<Runner<'_>> = vec![
        (LOCAL, Box::new(move || ping::local(pings).map(figures))),
        (
            "raw TCP",
            Box::new(move || ping::raw_tcp(pings).map(figures)),
        ),
    ];
    for (peer, program) in peers(options).filter(|(peer, _)| peer.echo.is_some()) {
        let run = move || ping::through(peer, program, pings).map(figures);
        runners.push((peer.name, Box::new(run)));
    }
    let title = format!("round trips of 64 bytes, {pings} a round");
    Table::run(options, rounds(options), title, TIMES, &runners)
}

fn forwarded(options: &Options) -> Table {
    let figures = |outcome: ping::Outcome| vec![outcome.p50, outcome.p99];
    let pings = options.pings;
    let mut runners: Vec<Runner<'_>> = vec![(
        "raw TCP",
        Box::new(move || ping::raw_tcp(pings).map(figures)),
    )];
    for (peer, program) in peers(options).filter(|(peer, _)| peer.forward.is_some()) {
        let run = move || forward::through(peer, program, pings).map(figures);
        runners.push((peer.name, Box::new(run)));
    }
    if let Some(farpipe) = options.programs.get("farpipe") {
        for way in relay::WAYS {
            let run = move || forward::by_agent(way, farpipe, pings).map(figures);
            runners.push((way.forward, Box::new(run)));
        }
    }
    let title = format!("round trips of 64 bytes through a forwarded port, {pings} a round");
    Table::run(options, rounds(options), title, TIMES, &runners)
}

fn peers(options: &Options) -> impl Iterator<Item = (&'static Peer, &Path)> {
    PEERS.iter().filter_map(|peer| {
        let program = options.programs.get(peer.program)?;
        Some((peer, program.as_path()))
    })
}

/// Cores, kernel and load: figures mean little without them.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{cores} cores, Linux {}, load {} at the end",
        kernel.trim(),
        load.split_whitespace().next().unwrap_or("unknown")
    )
}
