//! A member of a group: is sent the records of the partitions that it has, and says what of them is done.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use farpipe_log::{AppendError, Partition, Topic};
use farpipe_net::{ByteWriter, Messages, Stream};
use farpipe_proto::wire::topic::{
    Assigned, ConsumerSays, ConsumerWord, Position, Subscribe, SubscribeWhat, Written,
};

use super::groups::{Member, Told};
use super::subscribe::{Reading, begin, event, more, turn};
use super::{Topics, accepted, refuse};

pub(super) async fn serve(topics: Topics, topic: Arc<Topic>, stream: Stream, ask: Subscribe) {
    if !ask.partitions.is_empty() {
        let why = "a group gives its members their partitions: name none".to_owned();
        return refuse(stream, why);
    }
    let mut places = Vec::new();
    let mut ends = BTreeMap::new();
    for (number, partition) in (0_u32..).zip(&topic.partitions) {
        let (start, end) = (partition.start(), partition.end());
        match begin(partition, ask.from, start, end).await {
            Ok(offset) => places.push(offset.min(end)),
            Err(why) => return refuse(stream, why),
        }
        ends.insert(number, end);
    }
    let is_there = |written: &Written| {
        let end = ends.get(&written.partition);
        end.is_some_and(|end| written.to <= *end)
    };
    if let Some(odd) = ask.written.iter().find(|written| !is_there(written)) {
        let why = format!(
            "offset {} of partition {} was never there: is this another topic of that name?",
            odd.to, odd.partition
        );
        return refuse(stream, why);
    }
    let (mut messages, mut writer) = accepted(stream);
    let member = topics
        .groups
        .join(&topics.log, (&topic, &places), &ask, topics.clock)
        .await;
    let member = match member {
        Ok(member) => member,
        Err(error) => {
            tracing::warn!("group {} of {}: {error}", ask.group, ask.topic);
            return;
        }
    };
    let ends = ask.until_end.then_some(ends);
    let ended = tokio::select! {
        sent = send(&member, &topic, &mut writer, ends) => sent.map(|()| false),
        heard = hear(&member, &mut messages) => heard.map(|()| true),
    };
    // Who says that it leaves has said all that is done.
    let was_lost = !matches!(ended, Ok(true));
    if let Err(error) = ended {
        tracing::debug!("a member of {} of {}: {error}", ask.group, ask.topic);
    }
    writer.finish();
    member.left(was_lost).await;
}

/// What it says; ready when it leaves.
///
/// # Errors
/// It is lost.
async fn hear(member: &Member, messages: &mut Messages) -> io::Result<()> {
    while let Some(said) = messages.message::<ConsumerSays>().await? {
        match said.word {
            Some(ConsumerWord::Done(position)) => member.done(position).await.map_err(failed)?,
            Some(ConsumerWord::Rejected(record)) => {
                member
                    .rejected(record.partition, record.offset, &record.why)
                    .await
                    .map_err(failed)?;
            }
            Some(ConsumerWord::Released(partition)) => {
                member.released(partition).await.map_err(failed)?;
            }
            None => {}
        }
        // What was done may make room.
        member.inbox.changed.notify_one();
    }
    Ok(())
}

/// Tells it what is in its inbox, and sends what its partitions have; never ready but by an error.
async fn send(
    member: &Member,
    topic: &Arc<Topic>,
    writer: &mut ByteWriter,
    mut ends: Option<BTreeMap<u32, u64>>,
) -> io::Result<()> {
    let mut readings: BTreeMap<u32, Reading> = BTreeMap::new();
    loop {
        while let Some(told) = member.inbox.take() {
            match told {
                Told::Assigned(position) => {
                    let Some(reading) = reading(topic, position) else {
                        continue;
                    };
                    let assigned = Assigned {
                        partition: position.partition,
                        offset: position.offset,
                        end: reading.partition.end(),
                    };
                    event(writer, SubscribeWhat::Assigned(assigned)).await?;
                    readings.insert(position.partition, reading);
                }
                Told::Revoked(partition) => {
                    readings.remove(&partition);
                }
                Told::Committed(_) | Told::PutAside(_) => {}
            }
            if let Some(what) = told.what() {
                event(writer, what).await?;
            }
        }
        let mut has_more = false;
        for (number, reading) in &mut readings {
            has_more |= turn(writer, reading, Some((member, *number))).await?;
            if let Some(ends) = &mut ends
                && ends.get(number).is_some_and(|end| reading.offset >= *end)
            {
                ends.remove(number);
                let position = Position {
                    partition: *number,
                    offset: reading.offset,
                };
                event(writer, SubscribeWhat::AtEnd(position)).await?;
            }
        }
        if has_more {
            continue;
        }
        let open: Vec<&Reading> = readings
            .values()
            .filter(|reading| member.room(reading.number) > 0)
            .collect();
        let timeout = member.shared.timeout();
        tokio::select! {
            () = member.inbox.changed.notified() => {}
            () = more(&open) => {}
            () = due(timeout) => member.shared.tend().await.map_err(failed)?,
        }
    }
}

fn failed(error: AppendError) -> io::Error {
    io::Error::other(error)
}

async fn due(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn reading(topic: &Arc<Topic>, position: Position) -> Option<Reading> {
    let partition: &Arc<Partition> = topic.partitions.get(position.partition as usize)?;
    Some(Reading {
        number: position.partition,
        partition: Arc::clone(partition),
        offset: position.offset,
        until: None,
    })
}
