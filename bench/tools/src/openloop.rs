//! An open loop: records are due at fixed times, whether those before were taken or not, and each is as late as
//! its reader has it after that. A closed loop would wait with what is slow, and hide it.

use std::io::{Read, Write as _};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use serde_json::{Value, json};

use crate::brokers::{FARPIPE, Kind, PATIENCE};
use crate::topics::{Options, Row, thousands, times};

/// Bytes of a record: its number, when it was due, what is always the same, and the line's end.
const SIZE: usize = 128;
const DIGITS: usize = 10;
const FIXED: usize = 2 * (DIGITS + 1);

/// Between two blocks of records.
const BLOCK: Duration = Duration::from_millis(2);
const BLOCKS_PER_SECOND: u64 = 500;
/// Of the pipes at both ends: more than a block at any rate that is tried.
const PIPE: i32 = 1 << 20;

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
    /// Records a second from when the first was due until the last was there.
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
                    Err(error) => Arrived::default().outcome(
                        rate,
                        Duration::ZERO,
                        vec![format!("failed: {error:#}")],
                    ),
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
    Ok(arrived.outcome(rate, begin, failures))
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

/// A block of records; what is always the same is kept from the last one.
fn fill(block: &mut Vec<u8>, numbers: std::ops::Range<u64>, due: u64) {
    let count = (numbers.end - numbers.start) as usize;
    while block.len() < count * SIZE {
        block.extend([b'-'; SIZE - 1]);
        block.push(b'\n');
    }
    block.truncate(count * SIZE);
    let due = digits(due);
    for (number, line) in numbers.zip(block.chunks_exact_mut(SIZE)) {
        line[..DIGITS].copy_from_slice(&digits(number));
        line[DIGITS + 1..FIXED - 1].copy_from_slice(&due);
    }
}

fn digits(mut value: u64) -> [u8; DIGITS] {
    let mut digits = [b'0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit += (value % 10) as u8;
        value /= 10;
    }
    digits
}

fn value(digits: &[u8]) -> u64 {
    let worth = |sum, digit: &u8| sum * 10 + u64::from(digit.wrapping_sub(b'0'));
    digits.iter().fold(0, worth)
}

/// What the reader has had.
#[derive(Debug, Default)]
struct Arrived {
    /// Microseconds between when a record was due and when it was here.
    late: Vec<u32>,
    last: Duration,
    missing: u64,
    doubled: u64,
    failed: Option<String>,
}

/// Reads records until their end; the clock is read once for all that come together.
fn read(mut from: impl Read, epoch: Instant, count: u64, warm: &Sender<()>) -> Arrived {
    let mut arrived = Arrived {
        late: Vec::with_capacity(count as usize),
        ..Arrived::default()
    };
    let mut buf = vec![0; PIPE as usize];
    let (mut held, mut next) = (0, 0);
    arrived.failed = loop {
        match from.read(&mut buf[held..]) {
            Ok(0) if held == 0 => break None,
            Ok(0) => break Some("a record was cut".to_owned()),
            Ok(n) => held += n,
            Err(error) => break Some(error.to_string()),
        }
        let now = epoch.elapsed();
        let whole = held - held % SIZE;
        if let Err(error) = arrived.take(&buf[..whole], now, &mut next) {
            break Some(error.to_string());
        }
        if next == 1 {
            // The other end may have gone.
            let _ = warm.send(());
        }
        buf.copy_within(whole..held, 0);
        held -= whole;
    };
    arrived.missing += (count + 1).saturating_sub(next);
    arrived
}

impl Arrived {
    fn take(&mut self, records: &[u8], now: Duration, next: &mut u64) -> Result<()> {
        const SAME: [u8; SIZE - FIXED] = {
            let mut same = [b'-'; SIZE - FIXED];
            same[SIZE - FIXED - 1] = b'\n';
            same
        };
        let micros = now.as_micros() as u64;
        for record in records.chunks_exact(SIZE) {
            ensure!(record[FIXED..] == SAME, "record {next} was changed");
            let number = value(&record[..DIGITS]);
            if number < *next {
                self.doubled += 1;
                continue;
            }
            self.missing += number - *next;
            *next = number + 1;
            if number > 0 {
                let due = value(&record[DIGITS + 1..FIXED - 1]);
                let late = micros.saturating_sub(due);
                self.late.push(late.try_into().unwrap_or(u32::MAX));
                self.last = now;
            }
        }
        Ok(())
    }

    fn outcome(mut self, asked: u64, begin: Duration, failures: Vec<String>) -> Outcome {
        self.late.sort_unstable();
        let ms = |micros: f64| micros / 1000.0;
        let last = self.late.len().saturating_sub(1) as f64;
        let at = |part: f64| {
            let late = self.late.get((last * part).round() as usize);
            late.map_or(f64::NAN, |&late| ms(late.into()))
        };
        let sum: f64 = self.late.iter().map(|&late| f64::from(late)).sum();
        let took = self.last.saturating_sub(begin).as_secs_f64();
        Outcome {
            asked,
            held: self.late.len() as f64 / took,
            mean: ms(sum / self.late.len() as f64),
            p50: at(0.5),
            p99: at(0.99),
            max: at(1.0),
            missing: self.missing,
            doubled: self.doubled,
            failed: (!failures.is_empty()).then(|| failures.join("; ")),
        }
    }
}

impl Outcome {
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

    fn came(blocks: &[u8], count: u64) -> Arrived {
        read(blocks, Instant::now(), count, &channel().0)
    }

    #[test]
    fn what_is_missing_or_doubled_is_counted() {
        let mut all = Vec::new();
        fill(&mut all, 0..6, 0);
        let whole = came(&all, 5);
        assert_eq!((whole.late.len(), whole.missing, whole.doubled), (5, 0, 0));
        assert_eq!(whole.failed, None);
        let gap = came(&[&all[..SIZE], &all[3 * SIZE..5 * SIZE]].concat(), 5);
        assert_eq!((gap.late.len(), gap.missing, gap.doubled), (2, 3, 0));
        let twice = came(&[&all[..], &all[5 * SIZE..]].concat(), 5);
        assert_eq!((twice.late.len(), twice.missing, twice.doubled), (5, 0, 1));
        all[SIZE - 2] = b'x';
        assert!(came(&all, 5).failed.is_some());
    }

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
