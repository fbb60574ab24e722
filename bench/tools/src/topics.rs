//! Topics through a relay and through NATS JetStream, by commands: publishing, reading, both at once, and an
//! open loop (openloop.rs). Every byte that is read is compared with what was published
//! (lines.rs).

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde_json::{Value, json};

use crate::brokers::{Broker, FARPIPE, KINDS, Kind, PATIENCE, Programs};
use crate::lines::{Lines, compared};
use crate::openloop;
use crate::process::Process;
use farpipe_bench::stats::median;

pub const USAGE: &str = "\
usage: farpipe-bench topics [OPTIONS]

  --records N        of 128 bytes, of 1 KiB a fourth; of NATS a third, and fewer where each is synced by itself
                     (default 3000000)
  --rounds N         interleaved rounds of publishing and reading; 0 for none (default 3)
  --seconds N        of each rate of the open loop; 0 for none (default 6)
  --rates A,B        records a second there, for farpipe; then upward until a rate is not held
                     (default 420000,580000,610000)
  --only A,B         only brokers whose name contains A or B
  --dir DIR          where topics are kept: on the disk that is meant (default the folder for temporary files)
  --json             print every figure as JSON instead of the tables
  --program N=PATH   farpipe, nats-server, nats-client; without the last two NATS is left out
";

/// Bytes of a record with its line's end, and which part of --records are published.
const SIZES: [(usize, usize); 2] = [(128, 1), (1024, 4)];

const PHASES: [&str; 3] = ["publish", "read", "both at once"];

pub struct Options {
    records: usize,
    rounds: usize,
    pub seconds: u64,
    pub rates: Vec<u64>,
    only: Vec<String>,
    pub dir: PathBuf,
    json: bool,
    pub programs: Programs,
}

/// Records a second of each phase, as far as it was measured.
type Rates = [Option<f64>; 3];

/// A broker's rounds with records of one size.
pub struct Row {
    pub kind: &'static Kind,
    rounds: Vec<Result<Rates, String>>,
}

pub fn run(args: &[&str]) -> Result<()> {
    let Some(options) = parse(args)? else {
        print!("{USAGE}");
        return Ok(());
    };
    if statfs(&options.dir)?.filesystem_type() == TMPFS_MAGIC {
        let dir = options.dir.display();
        bail!("{dir} is in memory, where a sync costs nothing\nhint: --dir DIR, of a disk");
    }
    let kinds: Vec<&Kind> = KINDS
        .iter()
        .filter(|kind| kind.can_run(&options.programs) && options.wants(kind.name))
        .collect();
    ensure!(!kinds.is_empty(), "no broker to measure\n{USAGE}");
    let mut tables = Vec::new();
    let mut told = Vec::new();
    if !options.json {
        println!("What an acknowledged record has gone through:\n");
        for kind in &kinds {
            println!("- {}: {}", kind.name, kind.promise);
        }
    }
    for (size, part) in SIZES.iter().filter(|_| options.rounds > 0) {
        let count = (options.records / part).max(1);
        let rows = rounds(&options, &kinds, *size, count)?;
        if !options.json {
            print!("{}", markdown(&rows, *size, options.rounds));
        }
        told.push(
            json!({ "size": size, "rows": rows.iter().map(Row::to_json).collect::<Vec<_>>() }),
        );
        tables.push(rows);
    }
    let open = match options.seconds {
        0 => json!([]),
        _ => openloop::table(
            &options,
            &kinds,
            tables.first().map(Vec::as_slice),
            options.json,
        )?,
    };
    if options.json {
        println!("{}", json!({ "closed": told, "open": open }));
    }
    Ok(())
}

fn parse(args: &[&str]) -> Result<Option<Options>> {
    let mut options = Options {
        records: 3_000_000,
        rounds: 3,
        seconds: 6,
        rates: vec![420_000, 580_000, 610_000],
        only: Vec::new(),
        dir: std::env::temp_dir(),
        json: false,
        programs: Programs::default(),
    };
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
        match arg {
            "--records" => options.records = value()?.parse()?,
            "--rounds" => options.rounds = value()?.parse()?,
            "--seconds" => options.seconds = value()?.parse()?,
            "--rates" => {
                let rates = value()?.split(',').map(str::parse);
                options.rates = rates.collect::<Result<_, _>>()?;
            }
            "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
            "--dir" => options.dir = value()?.into(),
            "--json" => options.json = true,
            "--program" => {
                let (name, path) = value()?.split_once('=').context("--program wants N=PATH")?;
                let place = match name {
                    "farpipe" => &mut options.programs.farpipe,
                    "nats-server" => &mut options.programs.nats_server,
                    "nats-client" => &mut options.programs.nats_client,
                    _ => bail!("no program {name} is measured here\n{USAGE}"),
                };
                *place = Some(path.into());
            }
            "--help" | "-h" => return Ok(None),
            _ => bail!("unknown option {arg}\n{USAGE}"),
        }
    }
    // No record could be told from the next.
    ensure!(options.records <= 10_usize.pow(9), "--records is too many");
    Ok(Some(options))
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }
}

/// One run of each broker, then the next round in reverse order, so that a slow minute hits all of them.
fn rounds(
    options: &Options,
    kinds: &[&'static Kind],
    size: usize,
    count: usize,
) -> Result<Vec<Row>> {
    let input = Lines::make(size, count)?;
    let mut rows: Vec<Row> = kinds
        .iter()
        .map(|kind| Row {
            kind,
            rounds: Vec::new(),
        })
        .collect();
    for round in 1..=options.rounds {
        let mut order: Vec<&mut Row> = rows.iter_mut().collect();
        if round % 2 == 0 {
            order.reverse();
        }
        for row in order {
            let figures = closed(row.kind, options, &input).map_err(|error| format!("{error:#}"));
            let told = match &figures {
                Ok(rates) => format!("{rates:.0?}"),
                Err(error) => format!("failed: {error}"),
            };
            eprintln!("{size} bytes, round {round}: {}: {told}", row.kind.name);
            row.rounds.push(figures);
        }
    }
    Ok(rows)
}

/// Publishes all of the input, reads it, and does both at once with another topic.
fn closed(kind: &Kind, options: &Options, input: &Lines) -> Result<Rates> {
    let broker = kind.start(&options.programs, &options.dir)?;
    let count = (input.count / kind.share).max(1);
    let rate = |seconds: f64| Some(count as f64 / seconds);
    let publish = |topic: &str| -> Result<Process> { broker.publisher(topic, input.first(count)?) };
    broker.create("one")?;
    let began = Instant::now();
    publish("one")?.finish_within(PATIENCE)?;
    let published = began.elapsed().as_secs_f64();
    let read = match kind.is_read {
        true => {
            let began = Instant::now();
            let reader = broker.reader_of_all("one", count)?;
            Some(compared(reader, input, count)?.ended(began)?)
        }
        false => None,
    };
    broker.create("two")?;
    let began = Instant::now();
    let reader = compared(broker.reader("two", count)?, input, count)?;
    let publisher = publish("two")?;
    let both = reader.ended(began)?;
    publisher.finish_within(PATIENCE)?;
    drop::<Broker>(broker);
    Ok([rate(published), read.and_then(rate), rate(both)])
}

impl Row {
    /// The median over the rounds of a phase.
    pub fn shown(&self, phase: usize) -> Option<f64> {
        median(
            self.rounds
                .iter()
                .flatten()
                .filter_map(|rates| rates[phase]),
        )
    }

    /// The median over the rounds of this row's rate to that of `other` in the same round.
    fn ratio(&self, other: &Self, phase: usize) -> Option<f64> {
        let pairs = self.rounds.iter().zip(&other.rounds);
        median(pairs.filter_map(|pair| match pair {
            (Ok(ours), Ok(theirs)) => Some(ours[phase]? / theirs[phase]?),
            _ => None,
        }))
    }

    fn failure(&self) -> Option<&str> {
        let mut failures = self.rounds.iter().filter_map(|round| round.as_ref().err());
        failures.next().map(String::as_str)
    }

    fn to_json(&self) -> Value {
        let rounds: Vec<Value> = self
            .rounds
            .iter()
            .map(|round| match round {
                Ok(rates) => json!(rates),
                Err(error) => json!({ "failed": error }),
            })
            .collect();
        let shown: Vec<_> = (0..PHASES.len()).map(|phase| self.shown(phase)).collect();
        json!({ "name": self.kind.name, "promise": self.kind.promise, "phases": PHASES,
                "shown": shown, "rounds": rounds })
    }
}

fn markdown(rows: &[Row], size: usize, rounds: usize) -> String {
    let mut text = format!(
        "\n### Records of {size} bytes: records/s (MB/s); medians of {rounds} rounds\n\n| | {} |\n|{}\n",
        PHASES.join(" | "),
        "---|".repeat(PHASES.len() + 1)
    );
    let cell = |rate: Option<f64>| {
        rate.map_or("–".to_owned(), |rate| {
            format!("{} ({:.1})", thousands(rate), rate * size as f64 / 1e6)
        })
    };
    for row in rows {
        let name = row.kind.name;
        let cells = match row.failure() {
            Some(failure) => format!("failed: {failure}"),
            None => (0..PHASES.len())
                .map(|phase| cell(row.shown(phase)))
                .collect::<Vec<_>>()
                .join(" | "),
        };
        text.push_str(&format!("| {name} | {cells} |\n"));
    }
    let (ours, others): (Vec<&Row>, Vec<&Row>) =
        rows.iter().partition(|row| row.kind.name == FARPIPE);
    let Some(ours) = ours.first().filter(|_| !others.is_empty()) else {
        return text;
    };
    for other in others {
        let ratios: Vec<String> = (0..PHASES.len())
            .map(|phase| times(ours.ratio(other, phase)))
            .collect();
        text.push_str(&format!(
            "| {FARPIPE} / {} | {} |\n",
            other.kind.name,
            ratios.join(" | ")
        ));
    }
    text
}

pub fn times(ratio: Option<f64>) -> String {
    ratio.map_or("–".to_owned(), |ratio| match ratio >= 20.0 {
        true => format!("× {ratio:.0}"),
        false => format!("× {ratio:.1}"),
    })
}

/// A whole number with commas.
pub fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_have_commas() {
        assert_eq!(thousands(999.4), "999");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
    }
}
