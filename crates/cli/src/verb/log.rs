//! `farpipe log`: looks at the directory in which a relay keeps topics, and repairs it, without the relay.

use std::path::PathBuf;

use clap::Subcommand;
use farpipe_log::{Fault, Inspected, Piece, Repaired, inspect, objections, repair};
use farpipe_record::Records;
use farpipe_record::json::{Place, to_json};

use super::topic_route::{failed, topic};
use crate::exit::printed;
use crate::output;

/// The status of `verify` when something is damaged.
const STATUS_DAMAGED: u8 = 1;
/// Bytes that are read at once.
const READ: usize = 1 << 20;

/// Look at the directory in which a relay keeps topics; the relay may run
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the partitions that are there
    Ls(DirArgs),
    /// Check every sum; exit with 0 if all is whole and 1 if not
    ///
    /// A write that was cut off by a loss of power, or is under way, is told and is no damage: nobody was told that it is kept.
    Verify(DirArgs),
    /// Put right what can be; exit with 0 if all is whole then, and 1 if not. The relay must not run
    ///
    /// A batch of which one bit has flipped is whole again. A topic whose settings are lost has others, and a partition
    /// without a segment an empty one. What is damaged beyond that stays, and its readers hear which offsets are missing.
    Repair(DirArgs),
    /// Print records, a line each
    Dump(DumpArgs),
}

#[derive(Debug, clap::Args)]
struct DirArgs {
    /// What the relay was given as --data
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct DumpArgs {
    /// What the relay was given as --data
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The topic
    #[arg(value_name = "TOPIC", value_parser = topic)]
    topic: String,
    /// Its partition
    #[arg(long, value_name = "N", default_value_t = 0)]
    partition: u32,
    /// The first offset [default: the first that is there]
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    /// So many records, and no more
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// With offsets, times, keys and headers, as JSON; a value that is no text as base64
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    match &args.action {
        Action::Ls(args) => printed(output::data(list(&looked(args)?).as_bytes())),
        Action::Verify(args) => verify(args),
        Action::Repair(args) => put_right(args),
        Action::Dump(args) => dump(args),
    }
}

fn looked(args: &DirArgs) -> anyhow::Result<Vec<Inspected>> {
    inspect(&args.dir).map_err(|error| failed(format!("cannot read the log: {error}")))
}

fn list(all: &[Inspected]) -> String {
    let line = |one: &Inspected| {
        format!(
            "{}/{}: offsets {} to {}, {} batches, {} bytes\n",
            one.topic, one.partition, one.start, one.end, one.batches, one.bytes
        )
    };
    all.iter().map(line).collect()
}

fn verify(args: &DirArgs) -> anyhow::Result<u8> {
    let unread = |error| failed(format!("cannot read the log: {error}"));
    let objections = objections(&args.dir).map_err(unread)?;
    for (path, why) in &objections {
        output::error(&format!(
            "{}: {why}: no relay opens this log",
            path.display()
        ));
    }
    let mut is_damaged = !objections.is_empty();
    // What is wrong with its settings is said; nothing else of it can be read.
    let all = match inspect(&args.dir) {
        Err(_) if is_damaged => Vec::new(),
        looked => looked.map_err(unread)?,
    };
    for (path, fault) in all.iter().flat_map(|one| &one.faults) {
        is_damaged |= !matches!(fault, Fault::Torn { .. });
        output::error(&format!("{}: {fault}", path.display()));
    }
    let batches: u64 = all.iter().map(|one| one.batches).sum();
    let what = if is_damaged { "damaged" } else { "whole" };
    let text = format!("{what}: {} partitions, {batches} batches\n", all.len());
    let status = printed(output::data(text.as_bytes()))?;
    Ok(if is_damaged { STATUS_DAMAGED } else { status })
}

fn put_right(args: &DirArgs) -> anyhow::Result<u8> {
    let done =
        repair(&args.dir).map_err(|error| failed(format!("cannot repair the log: {error}")))?;
    let lines: String = done.iter().map(|one| format!("{one}\n")).collect();
    let status = printed(output::data(lines.as_bytes()))?;
    match done.iter().all(Repaired::is_mended) {
        true => Ok(status),
        false => Ok(STATUS_DAMAGED),
    }
}

fn dump(args: &DumpArgs) -> anyhow::Result<u8> {
    let dir = args.dir.clone();
    let all = looked(&DirArgs { dir })?;
    let is_it = |one: &&Inspected| one.topic == args.topic && one.partition == args.partition;
    let Some(partition) = all.iter().find(is_it) else {
        let (topic, number) = (&args.topic, args.partition);
        return Err(failed(format!(
            "there is no partition {number} of a topic {topic}"
        )));
    };
    let mut offset = args.from.unwrap_or(partition.start).max(partition.start);
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut is_damaged = false;
    let unread = |error| failed(format!("cannot read the log: {error}"));
    loop {
        let pieces = partition.read(offset, READ).map_err(unread)?;
        if pieces.is_empty() || left == 0 {
            break;
        }
        let mut text = Vec::new();
        for piece in pieces {
            let batch = match piece {
                Piece::Batch(batch) => batch,
                Piece::Damaged { from, to } => {
                    is_damaged = true;
                    output::error(&format!("offsets {from} to {} are damaged", to - 1));
                    offset = to;
                    continue;
                }
            };
            let first_ns = batch.header().first_ns;
            for record in Records::of(&batch).map_err(|error| failed(error.to_string()))? {
                let (at, record) = record.map_err(|error| failed(error.to_string()))?;
                if at < offset || left == 0 {
                    continue;
                }
                left -= 1;
                match args.json {
                    true => {
                        let place = Place {
                            topic: Some(&args.topic),
                            partition: args.partition,
                            offset: at,
                            time_ns: first_ns.saturating_add(record.after_ns),
                        };
                        text.extend_from_slice(to_json(place, &record, None).as_bytes());
                    }
                    false => text.extend_from_slice(&record.value),
                }
                text.push(b'\n');
            }
            offset = batch.header().end_offset();
        }
        match printed(output::data(&text))? {
            0 => {}
            status => return Ok(status),
        }
    }
    Ok(if is_damaged { STATUS_DAMAGED } else { 0 })
}
