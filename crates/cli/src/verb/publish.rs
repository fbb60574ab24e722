//! `farpipe pub`: publishes what comes on stdin to a topic.

use std::io::{self, Read as _};
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use clap::builder::NonEmptyStringValueParser;
use farpipe_agent::Outcome;
use farpipe_agent::outcome::PipeError;
use farpipe_agent::topic::publish::{PublishConfig, Published, publish};
use farpipe_net::system_random;
use farpipe_proto::wire::topic::Level;
use farpipe_record::{ProducerId, ZSTD_LEVELS};
use tokio::sync::mpsc;

use super::session::{conclude, span};
use super::shape::ShapeArgs;
use super::topic_route::{Teller, TopicRouteArgs, topic};
use crate::output;
use crate::signals::Signals;
use crate::status::Status;

/// Bytes that are read from stdin at once.
const READ: usize = 256 * 1024;
/// Reads that wait. Policy when full: stdin is not read, and whoever writes to it waits.
const READS: usize = 4;

/// Publish what comes on stdin to a topic of a relay
///
/// Each line of stdin becomes a record, or what else --format says. Exit status 0 says that all of them are kept as the topic promises (`farpipe topic
/// describe`); by default they are on the relay's disk. While the relay is away, or its disk is full, nothing more is read from stdin,
/// and after --resume-for without progress this ends with 125, and says how many records are kept.
///
/// Each run is a producer of its own. With --producer it is the same one as before, and what an earlier run has
/// published of the same input is not published again: `farpipe pub --producer ID logs < FILE` can be killed and run again. A
/// run that begins ends the one before it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The topic; it is made if the relay makes topics on first use
    #[arg(value_name = "TOPIC", value_parser = topic)]
    topic: String,
    #[command(flatten)]
    route: TopicRouteArgs,
    /// Go on as the producer of this name
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    producer: Option<String>,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Compress each batch, on the way and on the relay's disk: `none`, `zstd`, or `zstd:LEVEL` (1 to 19)
    #[arg(long, value_name = "HOW", default_value = "none", value_parser = compress)]
    compress: Compress,
    /// How long to try without progress (30s, 10m, 2h)
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "10m")]
    resume_for: Duration,
    /// Bytes that may wait to be acknowledged; beyond that nothing more is read
    #[arg(long, value_name = "BYTES", default_value = "8388608")]
    window: NonZeroUsize,
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let status = Status::open(None, false)?;
    let (signals, cancel) = Signals::catch()?;
    let config = PublishConfig {
        topic: args.topic.clone(),
        producer: producer(args.producer.as_deref()),
        shape: args.shape.shape()?,
        zstd: args.compress.0,
        window: args.window.get(),
        resume_for: args.resume_for,
    };
    let maker = args.route.maker()?;
    let mut teller = Teller::new(quiet);
    let work = async {
        let publishing = publish(&config, maker, stdin(), &mut teller, cancel);
        Ok::<_, anyhow::Error>(match publishing.await {
            Ok(published) => (Outcome::default(), published),
            Err((error, published)) => (Outcome::from(error), published),
        })
    };
    let (ended, signal) = signals.run(work).await;
    let ended = ended.unwrap_or_else(|| Ok((PipeError::Cancelled.into(), Published::default())));
    let ended = ended.map(|(outcome, published)| {
        let has_failed = outcome.error.is_some();
        if has_failed || published.repeated > 0 {
            tell(&args.topic, published, quiet && !has_failed);
        }
        outcome
    });
    conclude(ended, signal, &status)
}

/// The level of zstd, if batches are to be folded.
#[derive(Debug, Clone, Copy)]
struct Compress(Option<i32>);

fn compress(text: &str) -> Result<Compress, String> {
    let level = match text {
        "none" => return Ok(Compress(None)),
        "zstd" => Some(3),
        _ => text
            .strip_prefix("zstd:")
            .and_then(|level| level.parse().ok()),
    };
    match level.filter(|level| ZSTD_LEVELS.contains(level)) {
        Some(level) => Ok(Compress(Some(level))),
        None => Err("none, zstd, or zstd:1 to zstd:19 is wanted".to_owned()),
    }
}

/// Says how many are kept.
fn tell(topic: &str, published: Published, quiet: bool) {
    if quiet {
        return;
    }
    let level = match published.level {
        Some(Level::Disk) => "on the relay's disk",
        Some(Level::Interval | Level::Os) => "in the relay's memory",
        None => "kept",
    };
    let Published {
        records, repeated, ..
    } = published;
    let before = match repeated {
        0 => String::new(),
        n => format!(", {n} of them by an earlier run"),
    };
    let what = match records {
        1 => format!("1 record of {topic} is"),
        n => format!("{n} records of {topic} are"),
    };
    output::line(&format!("farpipe: {what} {level}{before}"));
}

/// One of a name, or of chance.
fn producer(name: Option<&str>) -> ProducerId {
    match name {
        Some(name) => ProducerId::named(name),
        None => {
            let mut id = [0; 16];
            system_random(&mut id);
            ProducerId(id)
        }
    }
}

/// What comes on stdin, read by a thread of its own, which may wait for it.
fn stdin() -> mpsc::Receiver<io::Result<Bytes>> {
    let (chunks, received) = mpsc::channel(READS);
    let unstarted = chunks.clone();
    let read = move || {
        let mut stdin = std::io::stdin().lock();
        loop {
            let mut chunk = vec![0; READ];
            match stdin.read(&mut chunk) {
                Ok(0) => return,
                Ok(n) => chunk.truncate(n),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // It is no end: what was not read is not published.
                    let _ = chunks.blocking_send(Err(error));
                    return;
                }
            }
            if chunks.blocking_send(Ok(Bytes::from(chunk))).is_err() {
                return;
            }
        }
    };
    // It ends with its input, or with the process.
    let started = std::thread::Builder::new()
        .name("farpipe-stdin".to_owned())
        .spawn(read);
    if let Err(error) = started {
        let _ = unstarted.try_send(Err(error));
    }
    received
}
