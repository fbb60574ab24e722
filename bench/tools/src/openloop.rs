//! An open loop: records are due at fixed times, whether those before were taken or not, and each is as late as
//! its reader has it after that. A closed loop would wait with what is slow, and hide it.

use std::io::Write as _;
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, fcntl};
use serde_json::{Value, json};

use crate::brokers::{FARPIPE, Kind, PATIENCE};
use crate::due::{Arrived, PIPE, SIZE, fill, read};
use crate::topics::{Options, Row, thousands, times};

/// Between two blocks of records.
const BLOCK: Duration = Duration::from_millis(2);
const BLOCKS_PER_SECOND: u64 = 500;

/// What counts as held: this share of the rate, no later than this in the mean.
const HELD: f64 = 0.98;
const MEAN_MAX_MS: f64 = 65.0;
/// A rate that was not held has another chance: somebody else may have used the machine.
const CHANCES: usize = 2;
/// Rates tried beyond the first.
const STEPS_MAX: usize = 8;
/// Where NATS begins if publishing and reading at once was not measured.
const UNKNOWN: u64 = 10_000;

/// What became of one rate.
#[derive(Debug)]
struct Outcome {
    asked: u64,
    /// Records a second from the first that came to the last: all being late alike takes nothing from it.
    held: f64,
    /// How late records were, in milliseconds.
    mean: f64,
    p50: f64,
    p99: f64,
    max: f64,
    missing: u64,
    doubled: u64,
    /// An exit status that is not 0, or records that were changed.
    failed: Option<String>,
}

/// Each broker at the rates asked for and upward; what it holds. `rows` say what NATS can be asked for.
pub fn table(
    options: &Options,
    kinds: &[&'static Kind],
    rows: Option<&[Row]>,
    is_json: bool,
) -> Result<Value> {
    if !is_json {
        println!(
            "\n### Open loop: {SIZE} bytes, a block every {} ms for {} s\n\n\
             | | asked/s | held/s | mean ms | p50 | p99 | most | missing | doubled | |\n|{}",
            BLOCK.as_millis(),
            options.seconds,
            "---|".repeat(10)
        );
    }
    let mut told = Vec::new();
    let mut most: Vec<(&Kind, Option<u64>)> = Vec::new();
    for &kind in kinds {
        let mut best = None;
        let mut attempt = |rate: u64| -> Result<bool> {
            for _ in 0..CHANCES {
                let outcome = match run(options, kind, rate) {
                    Ok(outcome) => outcome,
                    Err(error) => {
                        Outcome::of(Arrived::default(), rate, vec![format!("failed: {error:#}")])
                    }
                };
                if !is_json {
                    println!("| {} {}", kind.name, outcome.markdown());
                }
                told.push(outcome.to_json(kind.name));
                if outcome.is_held() {
                    best = best.max(Some(rate));
                    return Ok(true);
                }
            }
            Ok(false)
        };
        search(&first(options, kind, rows), &mut attempt)?;
        most.push((kind, best));
    }
    let ours = most.iter().find(|(kind, _)| kind.name == FARPIPE);
    let ours = ours.and_then(|(_, best)| *best);
    if !is_json {
        println!("\nThe most that was held, with a mean of {MEAN_MAX_MS} ms at most:\n");
        for (kind, best) in &most {
            let (name, rate) = (kind.name, best.map(|rate| thousands(rate as f64)));
            let rate = rate.map_or("no rate".to_owned(), |rate| format!("{rate} records/s"));
            let ratio = ours
                .zip(*best)
                .map(|(ours, best)| ours as f64 / best as f64);
            match name {
                FARPIPE => println!("- {name}: {rate}"),
                _ => println!("- {name}: {rate}; {FARPIPE} / {name} {}", times(ratio)),
            }
        }
    }
    Ok(json!(told))
}

/// The rates that are tried in any case, upward.
fn first(options: &Options, kind: &Kind, rows: Option<&[Row]>) -> Vec<u64> {
    if kind.name == FARPIPE {
        return options.rates.clone();
    }
    let row = rows.and_then(|rows| rows.iter().find(|row| row.kind.name == kind.name));
    // Of publishing and reading at once, as fast as it can.
    let known = row.and_then(|row| row.shown(2)).map(|rate| rate as u64);
    vec![(known.unwrap_or(UNKNOWN) / 2).max(BLOCKS_PER_SECOND)]
}

/// All rates of `first`; then a quarter more until one is not held, or less until one is.
fn search(first: &[u64], attempt: &mut impl FnMut(u64) -> Result<bool>) -> Result<()> {
    let mut is_held = false;
    for &rate in first {
        is_held = attempt(rate)?;
    }
    let Some(&last) = first.last() else {
        return Ok(());
    };
    let is_upward = is_held;
    let mut rate = last;
    for _ in 0..STEPS_MAX {
        rate = match is_upward {
            true => rate + rate / 4,
            false => rate - rate / 5,
        };
        // With several rates asked for, a lower one was tried already.
        if (!is_upward && first.len() > 1) || attempt(rate)? != is_upward {
            break;
        }
    }
    Ok(())
}

fn run(options: &Options, kind: &Kind, rate: u64) -> Result<Outcome> {
    let broker = kind.start(&options.programs, &options.dir)?;
    broker.create("open")?;
    let count = rate * options.seconds;
    let mut reader = broker.reader("open", count as usize + 1)?;
    let mut publisher = broker.publisher("open", Stdio::piped())?;
    let (mut to, from) = (publisher.stdin(), reader.stdout());
    for pipe in [
        fcntl(&to, FcntlArg::F_SETPIPE_SZ(PIPE)),
        fcntl(&from, FcntlArg::F_SETPIPE_SZ(PIPE)),
    ] {
        pipe.context("cannot make a pipe larger")?;
    }
    let epoch = Instant::now();
    let (warm, is_warm) = channel();
    let (sender, arrived) = channel();
    // Ends with the reader, which is killed when it is dropped.
    thread::spawn(move || {
        let _ = sender.send(read(from, epoch, count, &warm));
    });
    // Both are connected once one has come through.
    let mut block = Vec::new();
    fill(&mut block, 0..1, 0);
    to.write_all(&block)?;
    is_warm.recv_timeout(PATIENCE).context("nothing comes")?;
    let begin = epoch.elapsed() + BLOCK;
    let written = write(to, epoch, begin, rate, count);
    let mut arrived = wait(&arrived)?;
    let mut failures: Vec<String> = Vec::new();
    failures.extend(written.err().map(|error| format!("{error:#}")));
    failures.extend(
        publisher
            .finish_within(PATIENCE)
            .err()
            .map(|error| format!("{error:#}")),
    );
    failures.extend(reader.finish().err().map(|error| format!("{error:#}")));
    failures.extend(arrived.failed.take());
    Ok(Outcome::of(arrived, rate, failures))
}

fn wait(arrived: &Receiver<Arrived>) -> Result<Arrived> {
    arrived
        .recv_timeout(PATIENCE)
        .context("the reader is stuck")
}

/// Writes what is due, block by block. Behind when nothing is taken; what is due does not move.
fn write(mut to: ChildStdin, epoch: Instant, begin: Duration, rate: u64, count: u64) -> Result<()> {
    let mut block = Vec::new();
    let mut number = 0;
    for at in 0.. {
        let due = begin + BLOCK * at;
        let end = (rate * (u64::from(at) + 1) / BLOCKS_PER_SECOND).min(count);
        // Before it is due, so that this does not make it late.
        fill(&mut block, number + 1..end + 1, due.as_micros() as u64);
        thread::sleep((epoch + due).saturating_duration_since(Instant::now()));
        to.write_all(&block)
            .context("the publisher takes no more")?;
        number = end;
        if number == count {
            break;
        }
    }
    Ok(())
}

impl Outcome {
    fn of(mut arrived: Arrived, asked: u64, failures: Vec<String>) -> Self {
        arrived.late.sort_unstable();
        let ms = |micros: f64| micros / 1000.0;
        let last = arrived.late.len().saturating_sub(1) as f64;
        let at = |part: f64| {
            let late = arrived.late.get((last * part).round() as usize);
            late.map_or(f64::NAN, |&late| ms(late.into()))
        };
        let sum: f64 = arrived.late.iter().map(|&late| f64::from(late)).sum();
        let first = arrived.first.unwrap_or_default();
        let took = (arrived.last.saturating_sub(first) + BLOCK).as_secs_f64();
        Self {
            asked,
            held: arrived.late.len() as f64 / took,
            mean: ms(sum / arrived.late.len() as f64),
            p50: at(0.5),
            p99: at(0.99),
            max: at(1.0),
            missing: arrived.missing,
            doubled: arrived.doubled,
            failed: (!failures.is_empty()).then(|| failures.join("; ")),
        }
    }

    fn is_held(&self) -> bool {
        let is_whole = self.missing == 0 && self.doubled == 0 && self.failed.is_none();
        is_whole && self.held >= self.asked as f64 * HELD && self.mean <= MEAN_MAX_MS
    }

    fn markdown(&self) -> String {
        let word = match &self.failed {
            Some(failure) => failure,
            None if self.is_held() => "held",
            None => "not held",
        };
        format!(
            "| {} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {} | {} | {word} |",
            thousands(self.asked as f64),
            thousands(self.held),
            self.mean,
            self.p50,
            self.p99,
            self.max,
            self.missing,
            self.doubled
        )
    }

    fn to_json(&self, name: &str) -> Value {
        json!({
            "name": name, "asked": self.asked, "held": self.held, "mean": self.mean, "p50": self.p50,
            "p99": self.p99, "max": self.max, "missing": self.missing, "doubled": self.doubled,
            "failed": self.failed, "is_held": self.is_held(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_goes_up_until_a_rate_is_not_held_or_down_until_one_is() {
        let tried = |first: &[u64], most: u64| {
            let mut tried = Vec::new();
            search(first, &mut |rate| {
                tried.push(rate);
                Ok(rate <= most)
            })
            .unwrap();
            tried
        };
        assert_eq!(tried(&[100, 200], 300), [100, 200, 250, 312]);
        assert_eq!(tried(&[1000], 700), [1000, 800, 640]);
        assert_eq!(tried(&[100, 200], 150), [100, 200]);
    }
}
