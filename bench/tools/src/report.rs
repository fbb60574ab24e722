//! Runs the rounds, takes medians and prints the tables.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bulk::{self, Writer};
use crate::certs::Certificates;
use crate::options::Options;
use crate::peer::{GORILLA, LOCAL, PEERS, Peer, SOCAT};
use crate::relay::{self, EXEC_WS, EXEC_WSS, FORWARD_WS};
use crate::{forward, input, ping};
use farpipe_bench::quiet::undisturbed;
use farpipe_bench::stats::median;

/// Bytes of one small write.
const SMALL: u64 = 100;

/// One configuration's figures, a row of a table; in each round a list, or why there is none.
struct Row {
    name: &'static str,
    rounds: Vec<Result<Vec<f64>, String>>,
}

/// A table: interleaved rounds over its configurations.
struct Table {
    title: String,
    /// Names of the figures; the first is the one that ratios are made of.
    columns: &'static [&'static str],
    rows: Vec<Row>,
}

/// A configuration: its name and what makes its figures.
type Runner<'a> = (&'static str, Box<dyn Fn() -> Result<Vec<f64>> + 'a>);

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
        let count = options.small / SMALL;
        let writer = Writer {
            program: std::env::current_exe().context("cannot find this program")?,
            args: vec!["writes".to_owned(), SMALL.to_string(), count.to_string()],
            bytes: count * SMALL,
        };
        let title = format!("{} MiB in writes of {SMALL} bytes", options.small >> 20);
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
    if options.json {
        let tables: Vec<Value> = tables.iter().map(Table::to_json).collect();
        println!("{}", json!({ "machine": machine(), "tables": tables }));
    } else {
        println!(
            "{}; medians of {} interleaved rounds",
            machine(),
            options.rounds
        );
        for table in &tables {
            print!("{}", table.to_markdown());
        }
    }
    Ok(())
}

/// What writes the random bytes.
fn random(options: &Options) -> Result<Writer> {
    let file = input::file(options.size)?;
    Ok(Writer {
        program: PathBuf::from("cat"),
        args: vec![file.to_string_lossy().into_owned()],
        bytes: options.size,
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
    rounds(options, title, &["GB/s", "CPU s/GiB"], &runners)
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
    rounds(options, title, &["GB/s", "CPU s/GiB"], &runners)
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
    rounds(options, title, &["p50 µs", "p99 µs"], &runners)
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
    rounds(options, title, &["p50 µs", "p99 µs"], &runners)
}

fn peers(options: &Options) -> impl Iterator<Item = (&'static Peer, &Path)> {
    PEERS.iter().filter_map(|peer| {
        let program = options.programs.get(peer.program)?;
        Some((peer, program.as_path()))
    })
}

/// Round-robin over the configurations, so that a slow minute of the machine hits all of them.
fn rounds(
    options: &Options,
    title: String,
    columns: &'static [&'static str],
    runners: &[Runner<'_>],
) -> Table {
    let runners: Vec<_> = runners
        .iter()
        .filter(|(name, _)| options.wants(name))
        .collect();
    let mut rows: Vec<Row> = runners
        .iter()
        .map(|(name, _)| Row {
            name,
            rounds: Vec::new(),
        })
        .collect();
    for round in 1..=options.rounds {
        for (row, (name, run)) in rows.iter_mut().zip(&runners) {
            let result = undisturbed(options.others_max, run).map_err(|error| format!("{error:#}"));
            match &result {
                Ok(figures) => eprintln!("{title}, round {round}: {name}: {figures:.3?}"),
                Err(error) => eprintln!("{title}, round {round}: {name} failed: {error}"),
            }
            row.rounds.push(result);
        }
    }
    Table {
        title,
        columns,
        rows,
    }
}

impl Row {
    fn figures(&self, column: usize) -> impl Iterator<Item = f64> {
        self.rounds
            .iter()
            .flatten()
            .map(move |figures| figures[column])
    }

    fn failure(&self) -> Option<&str> {
        self.rounds
            .iter()
            .find_map(|round| round.as_ref().err())
            .map(String::as_str)
    }

    /// The median over the rounds of this row's first figure to that of `other` in the same round.
    fn ratio(&self, other: &Self) -> Option<f64> {
        let ratios = self
            .rounds
            .iter()
            .zip(&other.rounds)
            .filter_map(|pair| match pair {
                (Ok(ours), Ok(theirs)) => Some(ours[0] / theirs[0]),
                _ => None,
            });
        median(ratios)
    }
}

impl Table {
    /// The yardsticks that are in this table.
    fn yardsticks(&self) -> Vec<&Row> {
        [
            SOCAT, LOCAL, GORILLA, "raw TCP", EXEC_WS, EXEC_WSS, FORWARD_WS,
        ]
        .iter()
        .filter_map(|name| self.rows.iter().find(|row| row.name == *name))
        .collect()
    }

    fn to_markdown(&self) -> String {
        let yardsticks = self.yardsticks();
        let mut header = vec![String::new()];
        header.extend(self.columns.iter().map(|&column| column.to_owned()));
        header.extend(yardsticks.iter().map(|row| format!("× {}", row.name)));
        let mut text = format!("\n### {}\n\n| {} |\n", self.title, header.join(" | "));
        text.push_str(&format!("|{}\n", "---|".repeat(header.len())));
        for row in &self.rows {
            let mut cells = vec![row.name.to_owned()];
            if let Some(failure) = row.failure() {
                cells.push(format!("failed: {failure}"));
            } else {
                for column in 0..self.columns.len() {
                    cells.push(number(median(row.figures(column))));
                }
                cells.extend(yardsticks.iter().map(|other| number(row.ratio(other))));
            }
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        text
    }

    fn to_json(&self) -> Value {
        let yardsticks = self.yardsticks();
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let medians: Vec<_> = (0..self.columns.len())
                    .map(|column| median(row.figures(column)))
                    .collect();
                let ratios: serde_json::Map<String, Value> = yardsticks
                    .iter()
                    .map(|other| (other.name.to_owned(), json!(row.ratio(other))))
                    .collect();
                let rounds: Vec<Value> = row
                    .rounds
                    .iter()
                    .map(|round| match round {
                        Ok(figures) => json!(figures),
                        Err(error) => json!({ "failed": error }),
                    })
                    .collect();
                json!({ "name": row.name, "medians": medians, "ratios": ratios, "rounds": rounds })
            })
            .collect();
        json!({ "title": self.title, "columns": self.columns, "rows": rows })
    }
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

fn number(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value >= 20.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &'static str, rates: &[f64]) -> Row {
        Row {
            name,
            rounds: rates.iter().map(|&rate| Ok(vec![rate])).collect(),
        }
    }

    #[test]
    fn ratios_are_taken_in_the_same_round() {
        // The medians' ratio would be 2/2 = 1.
        let (ours, theirs) = (row("a", &[2.0, 4.0, 1.0]), row("b", &[1.0, 2.0, 4.0]));
        assert_eq!(ours.ratio(&theirs), Some(2.0));
    }

    #[test]
    fn a_failed_round_fails_the_row() {
        let mut failed = row(SOCAT, &[1.0]);
        failed.rounds.push(Err("9 of 10 bytes arrived".to_owned()));
        let table = Table {
            title: String::new(),
            columns: &["GB/s"],
            rows: vec![failed],
        };
        assert!(
            table
                .to_markdown()
                .contains("failed: 9 of 10 bytes arrived")
        );
    }
}
