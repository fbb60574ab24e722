//! A reader without a group: sends it the batches of its partitions as they are kept, from where it wants to begin.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use farpipe_log::{Partition, Piece, ReadError, Topic};
use farpipe_net::{ByteWriter, Messages, Stream};
use farpipe_proto::wire::topic::{
    Assigned, BatchFollows, ConsumerSays, From, FromWhere, Position, Skipped, Subscribe,
    SubscribeEvent, SubscribeWhat, name_objection, put_message,
};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use super::groups::Member;
use super::{Topics, accepted, member, refuse, say};

/// Bytes that are read from a partition before the next one has its turn.
const READ: usize = 512 * 1024;

/// A partition that is read.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) number: u32,
    pub(super) partition: Arc<Partition>,
    pub(super) offset: u64,
    /// Where to end; `None`: never.
    pub(super) until: Option<u64>,
}

pub(super) async fn serve(topics: Topics, stream: Stream, ask: Subscribe) {
    let topic = match topics.topic(&ask.topic).await {
        Ok(topic) => topic,
        Err(why) => return refuse(stream, why),
    };
    if !ask.group.is_empty() {
        if let Some(why) = name_objection(&ask.group) {
            let name = ask.group.escape_debug();
            return refuse(stream, format!("'{name}' is no group's name: {why}"));
        }
        return member::serve(topics, topic, stream, ask).await;
    }
    let readings = match readings(&topic, &ask).await {
        Ok(readings) => readings,
        Err(why) => return refuse(stream, why),
    };
    let (mut messages, mut writer) = accepted(stream);
    // A reader that leaves is heard by what comes from it.
    tokio::select! {
        sent = send(&mut writer, readings) => {
            match sent {
                Ok(()) => writer.finish(),
                // What is not finished is reset: the reader asks again, or hears why it cannot.
                Err(error) => return tracing::debug!("a reader of {}: {error}", ask.topic),
            }
            let _ = left(&mut messages).await;
        }
        _ = left(&mut messages) => writer.finish(),
    }
}

/// Ready when the reader has nothing more to say.
async fn left(messages: &mut Messages) -> io::Result<()> {
    while messages.message::<ConsumerSays>().await?.is_some() {}
    Ok(())
}

/// Where to begin in each partition.
///
/// # Errors
/// Why that cannot be, for the reader.
async fn readings(topic: &Arc<Topic>, ask: &Subscribe) -> Result<Vec<Reading>, String> {
    let wanted: BTreeSet<u32> = ask.partitions.iter().copied().collect();
    if let Some(number) = wanted
        .iter()
        .find(|number| **number >= topic.settings.partitions)
    {
        let count = topic.settings.partitions;
        return Err(format!(
            "there is no partition {number} of {}: it has {count}, counted from 0",
            ask.topic
        ));
    }
    let mut readings = Vec::new();
    for (number, partition) in (0_u32..).zip(&topic.partitions) {
        if !wanted.is_empty() && !wanted.contains(&number) {
            continue;
        }
        let known = ask.positions.iter().find(|known| known.partition == number);
        let (start, end) = (partition.start(), partition.end());
        let offset = match known {
            Some(known) => known.offset,
            None => begin(partition, ask.from, start, end).await?,
        };
        if offset > end {
            return Err(format!(
                "offset {offset} of {} (partition {number}) is not there yet: the next one to come is {end}",
                ask.topic
            ));
        }
        readings.push(Reading {
            number,
            partition: Arc::clone(partition),
            offset,
            until: ask.until_end.then_some(end),
        });
    }
    Ok(readings)
}

pub(super) async fn begin(
    partition: &Arc<Partition>,
    from: Option<From>,
    start: u64,
    end: u64,
) -> Result<u64, String> {
    Ok(match from.and_then(|from| from.place) {
        None | Some(FromWhere::Latest(_)) => end,
        Some(FromWhere::Earliest(_)) => start,
        Some(FromWhere::Offset(offset)) => offset,
        Some(FromWhere::TimeNs(time)) => {
            let partition = Arc::clone(partition);
            let looked = tokio::task::spawn_blocking(move || partition.offset_at(time));
            let found = looked.await.map_err(io::Error::other);
            let found = found.and_then(|found| found);
            found.map_err(|error| format!("cannot look for that time: {error}"))?
        }
    })
}

/// Sends all there is, and what comes.
///
/// # Errors
/// The reader is gone, or nothing can be read.
async fn send(writer: &mut ByteWriter, mut readings: Vec<Reading>) -> io::Result<()> {
    for reading in &readings {
        let assigned = Assigned {
            partition: reading.number,
            offset: reading.offset,
            end: reading.partition.end(),
        };
        event(writer, SubscribeWhat::Assigned(assigned)).await?;
    }
    while !readings.is_empty() {
        let mut has_more = false;
        for reading in &mut readings {
            has_more |= turn(writer, reading, None).await?;
        }
        let mut over = Vec::new();
        readings.retain(|reading| {
            let is_over = reading.until.is_some_and(|until| reading.offset >= until);
            if is_over {
                over.push(Position {
                    partition: reading.number,
                    offset: reading.offset,
                });
            }
            !is_over
        });
        for position in over {
            event(writer, SubscribeWhat::AtEnd(position)).await?;
        }
        if !has_more && !readings.is_empty() {
            more(&readings.iter().collect::<Vec<_>>()).await;
        }
    }
    Ok(())
}

/// Ready when one of them has more.
pub(super) async fn more(readings: &[&Reading]) {
    if readings.is_empty() {
        std::future::pending::<()>().await;
    }
    let mut waiting = JoinSet::new();
    for reading in readings {
        let (partition, offset) = (Arc::clone(&reading.partition), reading.offset);
        waiting.spawn(async move { partition.changed(offset).await });
    }
    waiting.join_next().await;
}

/// Sends some of a partition; whether there was any. A member is sent no more than it has room for.
pub(super) async fn turn(
    writer: &mut ByteWriter,
    reading: &mut Reading,
    member: Option<(&Member, u32)>,
) -> io::Result<bool> {
    if reading.partition.is_over() {
        return Err(io::Error::other("the topic was removed"));
    }
    if let Some((member, partition)) = member {
        // One that has come back knows of more.
        reading.offset = reading.offset.max(member.done_before(partition));
    }
    let has_room = member.is_none_or(|(member, partition)| member.room(partition) > 0);
    if reading.offset >= reading.partition.end() || !has_room {
        return Ok(false);
    }
    let (partition, offset) = (Arc::clone(&reading.partition), reading.offset);
    // Most are in memory; the disk is left to a thread that may wait for it.
    let pieces = match reading.partition.newest(offset, READ) {
        Some(pieces) => Ok(pieces),
        None => {
            let read = tokio::task::spawn_blocking(move || partition.read(offset, READ));
            read.await.map_err(io::Error::other)?
        }
    };
    match pieces {
        Ok(pieces) => {
            for piece in pieces {
                let end = end(&piece);
                let Some(piece) = fitting(reading, member, piece)? else {
                    break;
                };
                send_piece(writer, reading, piece).await?;
                // Of one that did not fit the rest comes first, whatever room there is by now.
                if reading.offset < end {
                    break;
                }
            }
        }
        Err(ReadError::OutOfRange { start, .. }) if start > offset => {
            let why = "they are not kept any more".to_owned();
            skip(writer, reading, start, why, false).await?;
        }
        Err(error) => return Err(io::Error::other(error)),
    }
    Ok(true)
}

/// The offset behind a piece.
fn end(piece: &Piece) -> u64 {
    match piece {
        Piece::Batch(batch) => batch.header().end_offset(),
        Piece::Damaged { to, .. } => *to,
    }
}

/// What of a piece may be sent now; `None`: nothing.
fn fitting(
    reading: &Reading,
    member: Option<(&Member, u32)>,
    piece: Piece,
) -> io::Result<Option<Piece>> {
    let Some((member, partition)) = member else {
        return Ok(Some(piece));
    };
    let room = member.room(partition);
    let piece = match piece {
        Piece::Batch(batch) if batch.header().end_offset() - reading.offset > room => {
            let part = batch.part(reading.offset, room).map_err(io::Error::other)?;
            let Some(part) = part else { return Ok(None) };
            Piece::Batch(part)
        }
        whole => whole,
    };
    Ok(member.sent(partition, end(&piece)).then_some(piece))
}

async fn send_piece(
    writer: &mut ByteWriter,
    reading: &mut Reading,
    piece: Piece,
) -> io::Result<()> {
    let batch = match piece {
        Piece::Batch(batch) => batch,
        Piece::Damaged { to, .. } => {
            let why = "they are damaged on the disk".to_owned();
            return skip(writer, reading, to, why, true).await;
        }
    };
    reading.offset = batch.header().end_offset();
    let follows = BatchFollows {
        partition: reading.number,
        len: u32::try_from(batch.bytes().len()).map_err(io::Error::other)?,
    };
    let mut head = Vec::new();
    let what = Some(SubscribeWhat::Batch(follows));
    put_message(&SubscribeEvent { what }, &mut head);
    writer.write_all(&head).await?;
    writer.write_all(batch.bytes()).await
}

async fn skip(
    writer: &mut ByteWriter,
    reading: &mut Reading,
    to: u64,
    why: String,
    is_damage: bool,
) -> io::Result<()> {
    let skipped = Skipped {
        partition: reading.number,
        from: reading.offset,
        to,
        why,
        is_damage,
    };
    reading.offset = to;
    event(writer, SubscribeWhat::Skipped(skipped)).await
}

pub(super) async fn event(writer: &mut ByteWriter, what: SubscribeWhat) -> io::Result<()> {
    say(writer, &SubscribeEvent { what: Some(what) }).await
}
