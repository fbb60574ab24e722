//! `farpipe bench codec`: how many bytes a message takes as Protobuf and as JSON, and how long it takes to write and read it.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use farpipe_record::{BatchBuilder, Fold, HEADER_LEN, ProducerId, Record};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{exit, output};

/// Measure how large messages are as Protobuf and as JSON, and how fast
///
/// Messages of three fields, {sender, content, timestamp}, whose content is made of words, and then the lines of real logs as
/// content. Each by itself, and in a batch of up to 1,000, as they are and by zstd: of JSON in lines, of Protobuf as farpipe
/// keeps records. Sizes are exact; times are medians of interleaved rounds in one thread.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file whose lines are content, too, instead of the lines of logs that come along
    #[arg(long, value_name = "FILE")]
    lines: Option<PathBuf>,
    /// Print every figure as one JSON object instead
    #[arg(long)]
    json: bool,
}

/// Bytes of content.
const SIZES: [usize; 6] = [8, 32, 128, 512, 2048, 8192];
/// Messages of a batch, at most.
const BATCH: usize = 1000;
/// The level that `pub --compress zstd` has.
const LEVEL: i32 = 3;
const ROUNDS: usize = 5;
/// How long a thing is done again and again in a round.
const SPAN: Duration = Duration::from_millis(15);
/// Of logs of a package manager and of farpipe.
const LINES: &str = include_str!("codec/lines.txt");
const WORDS: &str = "the pipe between two hosts carries what a program writes to whoever reads it and loses nothing of \
                     it when the network fails or the relay is started anew in the midst of a line";

/// The message, by both.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
struct ChatMessage {
    #[prost(string, tag = "1")]
    sender: String,
    #[prost(string, tag = "2")]
    content: String,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "3")]
    timestamp: u64,
}

/// A number of each.
#[derive(Debug, Clone, Copy)]
struct Both {
    json: f64,
    protobuf: f64,
}

impl Both {
    /// How much less the second is, in percent.
    fn saved(self) -> f64 {
        100.0 * (1.0 - self.protobuf / self.json)
    }

    fn figures(self) -> Value {
        json!({ "json": self.json, "protobuf": self.protobuf, "saved_percent": self.saved() })
    }
}

/// What was measured of messages of one kind.
struct Row {
    content: String,
    single: Both,
    batched: Both,
    folded: Both,
    write_ns: Both,
    read_ns: Both,
}

pub(super) fn run(args: &Args, quiet: bool) -> anyhow::Result<u8> {
    let lines = lines(args.lines.as_deref())?;
    if !quiet {
        output::line("measuring for a few seconds");
    }
    let mut rows = Vec::new();
    for size in SIZES {
        let all = messages(BATCH, |n| words(n, size));
        rows.push(row(format!("{size} bytes"), &all)?);
    }
    let mean = lines.iter().map(String::len).sum::<usize>() as f64 / lines.len() as f64;
    let of_logs = messages(lines.len().min(BATCH), |n| lines[n].clone());
    rows.push(row(format!("log lines, {mean:.0} bytes"), &of_logs)?);
    let text = match args.json {
        true => format!("{}\n", figures(&rows)),
        false => table(&rows),
    };
    exit::printed(output::data(text.as_bytes()))
}

fn lines(file: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let text = match file {
        None => LINES.to_owned(),
        Some(path) => {
            let bytes = std::fs::read(path);
            let bytes = bytes.with_context(|| format!("cannot read {}", path.display()))?;
            String::from_utf8_lossy(&bytes).into_owned()
        }
    };
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    match lines.is_empty() {
        true => bail!("there is no line to measure"),
        false => Ok(lines),
    }
}

fn messages(count: usize, content: impl Fn(usize) -> String) -> Vec<ChatMessage> {
    let message = |n: usize| ChatMessage {
        sender: format!("user{}", n % 50),
        content: content(n),
        timestamp: 1_795_817_087_123 + 37 * n as u64,
    };
    (0..count).map(message).collect()
}

/// Words, each message with others.
fn words(n: usize, size: usize) -> String {
    let words: Vec<&str> = WORDS.split(' ').collect();
    let mut text = String::new();
    // Drawn so that no two messages are alike, and the same each time.
    let mut draw = n as u64 + 1;
    while text.len() < size {
        draw = draw
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        text.push_str(words[(draw >> 33) as usize % words.len()]);
        text.push(' ');
    }
    text.truncate(size);
    text
}

fn row(content: String, messages: &[ChatMessage]) -> anyhow::Result<Row> {
    let as_json: Vec<Vec<u8>> = messages
        .iter()
        .map(serde_json::to_vec)
        .collect::<Result<_, _>>()?;
    let as_protobuf: Vec<Vec<u8>> = messages.iter().map(|one| one.encode_to_vec()).collect();
    let count = messages.len() as f64;
    let mean = |all: &[Vec<u8>]| all.iter().map(Vec::len).sum::<usize>() as f64 / count;
    let json_lines = as_json.join(&b'\n');
    let folded_lines = zstd::bulk::compress(&json_lines, LEVEL).context("cannot compress")?;
    let times = times(messages, &as_json, &as_protobuf)?;
    Ok(Row {
        content,
        single: Both {
            json: mean(&as_json),
            protobuf: mean(&as_protobuf),
        },
        batched: Both {
            json: (json_lines.len() + 1) as f64 / count,
            protobuf: batches(messages, &as_protobuf, Fold::plain)? as f64 / count,
        },
        folded: Both {
            json: folded_lines.len() as f64 / count,
            protobuf: batches(messages, &as_protobuf, || Fold::zstd(LEVEL))? as f64 / count,
        },
        write_ns: times[0],
        read_ns: times[1],
    })
}

/// Bytes of as few batches as hold all of them, headers and all.
fn batches(
    messages: &[ChatMessage],
    values: &[Vec<u8>],
    fold: impl Fn() -> Fold,
) -> anyhow::Result<usize> {
    let mut fold = fold();
    let mut builder = BatchBuilder::default();
    let (mut bytes, mut sequence) = (0, 0);
    let mut seal = |builder: BatchBuilder, sequence: u64| {
        let sealed = builder.seal_folded(&mut fold, ProducerId([1; 16]), 1, sequence);
        sealed.map(|sealed| sealed.bytes().len())
    };
    for (message, value) in messages.iter().zip(values) {
        let mut record = Record {
            value: value.clone().into(),
            ..Record::default()
        };
        let time_ns = message.timestamp * 1_000_000;
        if !builder.push(&mut record, time_ns)? {
            let count = u64::from(builder.count());
            bytes += seal(std::mem::take(&mut builder), sequence)?;
            sequence += count;
            builder.push(&mut record, time_ns)?;
        }
    }
    bytes += seal(builder, sequence)?;
    debug_assert!(bytes > HEADER_LEN, "at least one batch");
    Ok(bytes)
}

/// Nanoseconds a message to write it, and to read it.
fn times(
    messages: &[ChatMessage],
    as_json: &[Vec<u8>],
    as_protobuf: &[Vec<u8>],
) -> anyhow::Result<[Both; 2]> {
    let mut rounds: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        rounds[0].push(each(messages, |one| {
            serde_json::to_vec(one).map(drop).is_ok()
        })?);
        rounds[1].push(each(messages, |one| !one.encode_to_vec().is_empty())?);
        let of_json = |bytes: &Vec<u8>| serde_json::from_slice::<ChatMessage>(bytes).is_ok();
        rounds[2].push(each(as_json, of_json)?);
        let of_protobuf = |bytes: &Vec<u8>| ChatMessage::decode(&bytes[..]).is_ok();
        rounds[3].push(each(as_protobuf, of_protobuf)?);
    }
    let median = |all: &mut Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let [json_write, protobuf_write, json_read, protobuf_read] = &mut rounds;
    Ok([
        Both {
            json: median(json_write),
            protobuf: median(protobuf_write),
        },
        Both {
            json: median(json_read),
            protobuf: median(protobuf_read),
        },
    ])
}

/// Nanoseconds a thing, of all of them again and again.
fn each<T>(all: &[T], mut act: impl FnMut(&T) -> bool) -> anyhow::Result<f64> {
    let (begin, mut count) = (Instant::now(), 0_u64);
    while begin.elapsed() < SPAN {
        for one in all {
            if !black_box(act(black_box(one))) {
                bail!("a message could not be written, or read");
            }
        }
        count += all.len() as u64;
    }
    Ok(begin.elapsed().as_nanos() as f64 / count as f64)
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "{sender, content, timestamp}      bytes, JSON -> Protobuf (saved)                                        ns to write    ns to read\n\
         content                  alone              in a batch         a batch by zstd     JSON  Protobuf JSON  Protobuf\n",
    );
    for row in rows {
        let sizes = [row.single, row.batched, row.folded].map(|both| {
            let shown = format!(
                "{:.0} -> {:.0} ({:.0}%)",
                both.json,
                both.protobuf,
                both.saved()
            );
            format!("{shown:<19}")
        });
        text.push_str(&format!(
            "{:<24} {} {:>5.0} {:>8.0} {:>6.0} {:>8.0}\n",
            row.content,
            sizes.concat(),
            row.write_ns.json,
            row.write_ns.protobuf,
            row.read_ns.json,
            row.read_ns.protobuf,
        ));
    }
    text
}

fn figures(rows: &[Row]) -> Value {
    let rows = rows.iter().map(|row| {
        json!({
            "content": row.content,
            "bytes": row.single.figures(),
            "batched_bytes": row.batched.figures(),
            "batched_zstd_bytes": row.folded.figures(),
            "write_ns": row.write_ns.figures(),
            "read_ns": row.read_ns.figures(),
        })
    });
    json!({ "bench": "codec", "batch": BATCH, "rows": rows.collect::<Vec<_>>() })
}
