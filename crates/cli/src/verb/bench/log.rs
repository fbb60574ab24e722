//! `farpipe bench log`: how fast this disk takes records, each acknowledged when it is synced.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use farpipe_log::{Append, AppendError, Appended, Log, Options, Settings};
use farpipe_net::WallClock;
use farpipe_record::{Batch, BatchBuilder, ProducerId, Record};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::spread::{Spread, shown};
use crate::{exit, output};

/// Measure how fast a disk takes the records of topics
///
/// Batches of records are appended to a new log and synced before they are acknowledged, as a relay with --data does it; some of
/// them are under way at a time. Nothing passes a network. The directory that is made for it is removed at the end.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where: a directory on the disk that is meant
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// How long each row takes, in seconds
    #[arg(long, value_name = "N", default_value = "3")]
    seconds: NonZeroU32,
    /// Records of a batch
    #[arg(long, value_name = "N", default_value = "1000")]
    batch: NonZeroU32,
    /// Batches that may wait to be acknowledged
    #[arg(long, value_name = "N", default_value = "8")]
    window: NonZeroU32,
    /// Print every figure as one JSON object instead
    #[arg(long)]
    json: bool,
}

/// Bytes of a record's value.
const SIZES: [usize; 2] = [128, 1024];

/// What was measured of records of one size.
struct Row {
    bytes: usize,
    records_per_s: f64,
    acknowledged: Spread,
}

pub(super) async fn run(args: &Args, quiet: bool) -> anyhow::Result<u8> {
    if !quiet {
        let seconds = u64::from(args.seconds.get()) * SIZES.len() as u64;
        output::line(&format!("measuring for about {seconds} s"));
    }
    let dir = Scratch::make(&args.dir)?;
    let mut rows = Vec::new();
    for bytes in SIZES {
        rows.push(row(args, &dir.0, bytes).await?);
    }
    let text = match args.json {
        true => format!("{}\n", figures(args, &rows)),
        false => table(&rows),
    };
    exit::printed(output::data(text.as_bytes()))
}

/// A directory that is removed.
struct Scratch(PathBuf);

impl Scratch {
    fn make(beside: &Path) -> anyhow::Result<Self> {
        let dir = beside.join(format!("farpipe-bench-log-{}", std::process::id()));
        let made = std::fs::create_dir(&dir);
        made.with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn row(args: &Args, dir: &Path, bytes: usize) -> anyhow::Result<Row> {
    let (log, _) = Log::open(&dir.join(bytes.to_string()), Options::default(), now_ns)?;
    log.create("bench", Settings::default()).await?;
    let limit = Duration::from_secs(args.seconds.get().into());
    let (begin, mut sequence) = (Instant::now(), 0);
    let (mut waiting, mut times) = (VecDeque::new(), Vec::new());
    while begin.elapsed() < limit {
        if waiting.len() >= args.window.get() as usize
            && let Some(oldest) = waiting.pop_front()
        {
            times.push(answered(oldest).await?);
        }
        let append = Append {
            topic: "bench".to_owned(),
            partition: 0,
            batch: batch(sequence, args.batch.get(), bytes)?,
        };
        sequence += u64::from(args.batch.get());
        waiting.push_back((Instant::now(), log.append(append).await));
    }
    for oldest in waiting {
        times.push(answered(oldest).await?);
    }
    Ok(Row {
        bytes,
        records_per_s: sequence as f64 / begin.elapsed().as_secs_f64(),
        acknowledged: Spread::of(times),
    })
}

type Waiting = (Instant, oneshot::Receiver<Result<Appended, AppendError>>);

async fn answered((at, answer): Waiting) -> anyhow::Result<Duration> {
    answer.await??;
    Ok(at.elapsed())
}

fn batch(sequence: u64, records: u32, bytes: usize) -> anyhow::Result<Batch> {
    let mut builder = BatchBuilder::default();
    let value = Bytes::from(vec![b'x'; bytes]);
    let now = now_ns();
    for _ in 0..records {
        let mut record = Record {
            value: value.clone(),
            ..Record::default()
        };
        if !builder.push(&mut record, now)? {
            return Err(anyhow!(
                "no batch has room for {records} records of {bytes} bytes"
            ));
        }
    }
    let sealed = builder.seal(ProducerId([1; 16]), 1, sequence)?;
    Batch::parse(&sealed.into_bytes())?.context("a batch has its end")
}

fn now_ns() -> u64 {
    u64::try_from(WallClock::System.now().as_nanos()).unwrap_or(u64::MAX)
}

fn figures(args: &Args, rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "record_bytes": row.bytes,
            "durable_records_per_s": row.records_per_s,
            "acknowledged": row.acknowledged.to_json(),
        })
    };
    json!({
        "bench": "log",
        "batch": args.batch.get(),
        "window": args.window.get(),
        // Of records of 128 bytes, as is most often asked for.
        "durable_records_per_s": rows.first().map(|row| row.records_per_s),
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn table(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let [half, most, all] =
            [500, 990, 1000].map(|part| shown(row.acknowledged.per_mille(part)));
        format!(
            "{:>6} {:>12.0} {:>8.1} {half:>10} {most:>10} {all:>10}\n",
            row.bytes,
            row.records_per_s,
            row.records_per_s * row.bytes as f64 / 1e6,
        )
    };
    let lines: String = rows.iter().map(line).collect();
    let head = ["bytes", "records/s", "MB/s", "p50", "p99", "max"];
    let [bytes, records, rate, half, most, all] = head;
    format!("{bytes:>6} {records:>12} {rate:>8} {half:>10} {most:>10} {all:>10}\n{lines}")
}
