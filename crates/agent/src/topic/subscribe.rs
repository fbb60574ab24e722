//! A reader: asks for the records of a topic from somewhere on, and goes on behind what it has in another session.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use farpipe_net::{ByteWriter, Messages, Opener};
use farpipe_proto::link::handshake::printable;
use farpipe_proto::wire::topic::{
    ConsumerSays, ConsumerWord, From, Position, Skipped, Subscribe, SubscribeEvent, SubscribeWhat,
    TopicWant, Written, put_message,
};
use farpipe_record::json::Place;
use farpipe_record::{Batch, Records};
use tokio::io::AsyncWriteExt as _;

use super::format::{Shape, put};
use super::{Again, Broken, Made, Told, session};
use crate::outcome::PipeError;
use crate::pipe::{Cancel, cancelled};

/// Bytes that are written at once, if so many have come.
const WRITE: usize = 256 * 1024;

/// What to read.
#[derive(Debug, Clone)]
pub struct SubscribeConfig {
    /// The topic.
    pub topic: String,
    /// Where to begin.
    pub from: From,
    /// These partitions only; empty: all.
    pub partitions: Vec<u32>,
    /// The group whose member it is: what that has done is read by none of its members again.
    pub group: Option<String>,
    /// As a member: so many records of a partition may have come and not be written.
    pub in_flight_max: Option<u32>,
    /// As a member: a record whose reader was lost so often is put aside.
    pub deliveries_max: Option<u32>,
    /// So many records, and no more.
    pub count: Option<u64>,
    /// What was there when it came, and no more.
    pub exit_at_end: bool,
    /// How records are to stand in what is written.
    pub shape: Shape,
    /// How long to try without progress.
    pub resume_for: Duration,
}

/// What was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Read {
    /// Records that were written to stdout.
    pub records: u64,
    /// Records that could not be had.
    pub missing: u64,
    /// Whoever reads stdout has left.
    pub reader_gone: bool,
}

/// What a reader has so far.
struct Progress {
    read: Read,
    /// Of each partition the first offset that was not written.
    positions: BTreeMap<u32, u64>,
    /// Partitions of which nothing more is to come.
    over: BTreeMap<u32, bool>,
    stdout: Arc<File>,
    out: Vec<u8>,
    /// What is in `out`.
    unwritten: u64,
    ahead: BTreeMap<u32, u64>,
    is_member: bool,
    /// Of each partition that the group has given to this member, where it began.
    begun: BTreeMap<u32, u64>,
    /// Of each partition, what was written and is not remembered yet, also by an earlier session.
    told: BTreeMap<u32, u64>,
}

/// Reads, and writes records to stdout in their shape.
///
/// # Errors
/// It could not go on; and what was read before.
///
/// # Cancellation
/// Dropped, what was written was written.
pub async fn subscribe(
    config: &SubscribeConfig,
    opener: impl Fn() -> Made,
    told: &mut dyn Told,
    cancel: Cancel,
) -> Result<Read, (PipeError, Read)> {
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    let stdout = match stdout {
        Ok(fd) => Arc::new(File::from(fd)),
        Err(error) => {
            let error = PipeError::Local(format!("cannot write to stdout: {error}"));
            return Err((error, Read::default()));
        }
    };
    let mut progress = Progress {
        read: Read::default(),
        positions: BTreeMap::new(),
        over: BTreeMap::new(),
        stdout,
        out: Vec::new(),
        unwritten: 0,
        ahead: BTreeMap::new(),
        is_member: config.group.is_some(),
        begun: BTreeMap::new(),
        told: BTreeMap::new(),
    };
    let mut again = Again::within(config.resume_for);
    loop {
        let (opened, dial) = opener();
        let position = |(&partition, &offset): (&u32, &u64)| Position { partition, offset };
        let ask = TopicWant::Subscribe(Subscribe {
            topic: config.topic.clone(),
            from: Some(config.from),
            // A group knows where it is.
            positions: match progress.is_member {
                true => Vec::new(),
                false => progress.positions.iter().map(position).collect(),
            },
            partitions: config.partitions.clone(),
            until_end: config.exit_at_end,
            group: config.group.clone().unwrap_or_default(),
            in_flight_max: config.in_flight_max.unwrap_or(0),
            deliveries_max: config.deliveries_max.unwrap_or(0),
            written: progress.written(),
        });
        let before = progress.positions.clone();
        let talk = async |messages: Messages, writer: ByteWriter| {
            talk(config, &mut progress, messages, writer, (told, &cancel)).await
        };
        let ended = session(Opener::new(opened), &*dial, ask, talk).await;
        if progress.positions != before {
            again.handle_progress();
        }
        match again.next(ended, told).await {
            Ok(Some(())) => return Ok(progress.read),
            Ok(None) => {}
            Err(error) => return Err((error, progress.read)),
        }
    }
}

/// Hears what comes, until there is no more.
async fn talk(
    config: &SubscribeConfig,
    progress: &mut Progress,
    mut messages: Messages,
    mut writer: ByteWriter,
    (told, cancel): (&mut dyn Told, &Cancel),
) -> Result<(), Broken> {
    // What was read and not written in another session comes again.
    progress.begin();
    loop {
        let wanted = config.count.unwrap_or(u64::MAX);
        let is_enough = progress.read.records + progress.unwritten >= wanted;
        if (messages.seen().is_empty() || is_enough) && progress.unwritten > 0 {
            progress.write(&mut writer).await?;
        }
        if progress.read.records >= wanted || progress.read.reader_gone || progress.is_over() {
            return leave(progress, messages, writer).await;
        }
        let event = tokio::select! {
            event = messages.message::<SubscribeEvent>() => event?,
            () = cancelled(cancel.clone()), if progress.is_member => {
                // What was written is done, and what was not is another member's.
                leave(progress, messages, writer).await?;
                return Err(Broken::Final(PipeError::Cancelled));
            }
        };
        let Some(event) = event else {
            progress.write(&mut writer).await?;
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        };
        match event.what {
            Some(SubscribeWhat::Assigned(assigned)) => {
                progress.over.insert(assigned.partition, false);
                progress.begun.insert(assigned.partition, assigned.offset);
                // What the group says of it holds; without one it is where it was.
                let offset = match progress.positions.get(&assigned.partition) {
                    Some(known) if !progress.is_member => *known,
                    _ => assigned.offset,
                };
                progress.positions.insert(assigned.partition, offset);
            }
            Some(SubscribeWhat::Batch(follows)) => {
                let len = follows.len as usize;
                if !messages.fill(len).await? {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                let batch = Batch::parse(&messages.take(len)).map_err(damaged)?;
                let batch = batch.ok_or_else(|| damaged("its end is missing"))?;
                progress.take(config, follows.partition, &batch)?;
                if progress.out.len() >= WRITE {
                    progress.write(&mut writer).await?;
                }
            }
            Some(SubscribeWhat::AtEnd(position)) => {
                progress.write(&mut writer).await?;
                progress.over.insert(position.partition, true);
            }
            Some(SubscribeWhat::Skipped(skipped)) => {
                progress.write(&mut writer).await?;
                progress.skip(&skipped, told);
                if progress.is_member {
                    // There is no more to be done of it.
                    let (partition, offset) = (skipped.partition, skipped.to);
                    progress.told.insert(partition, offset);
                    say(
                        &mut writer,
                        ConsumerWord::Done(Position { partition, offset }),
                    )
                    .await?;
                }
            }
            Some(SubscribeWhat::Revoked(partition)) => {
                progress.write(&mut writer).await?;
                progress.over.remove(&partition);
                progress.positions.remove(&partition);
                say(&mut writer, ConsumerWord::Released(partition)).await?;
            }
            Some(SubscribeWhat::Committed(position)) => progress.committed(position),
            Some(SubscribeWhat::PutAside(_)) | None => {}
        }
    }
}

/// Leaves, once all that was written is remembered.
async fn leave(
    progress: &mut Progress,
    mut messages: Messages,
    mut writer: ByteWriter,
) -> Result<(), Broken> {
    while progress.is_member && !progress.told.is_empty() {
        let event = messages.message::<SubscribeEvent>().await?;
        let Some(event) = event else {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        };
        match event.what {
            Some(SubscribeWhat::Committed(position)) => progress.committed(position),
            // What comes now is another one's to read.
            Some(SubscribeWhat::Batch(follows)) => {
                let len = follows.len as usize;
                messages.fill(len).await?;
                messages.take(len);
            }
            Some(SubscribeWhat::Revoked(partition)) => {
                progress.told.remove(&partition);
            }
            _ => {}
        }
    }
    writer.finish();
    Ok(())
}

async fn say(writer: &mut ByteWriter, word: ConsumerWord) -> io::Result<()> {
    let mut bytes = Vec::new();
    put_message(&ConsumerSays { word: Some(word) }, &mut bytes);
    writer.write_all(&bytes).await
}

fn damaged(why: impl std::fmt::Display) -> Broken {
    let why = format!("a batch came that is none: {}", printable(&why.to_string()));
    Broken::Final(PipeError::Remote(why))
}

impl Progress {
    fn begin(&mut self) {
        self.out.clear();
        self.unwritten = 0;
        self.ahead.clear();
        self.over.clear();
        if self.is_member {
            self.positions.clear();
        }
    }

    /// What no relay is known to remember.
    fn written(&self) -> Vec<Written> {
        let written = |(partition, to): (&u32, &u64)| Written {
            partition: *partition,
            from: self.begun.get(partition).copied().unwrap_or(*to),
            to: *to,
        };
        self.told.iter().map(written).collect()
    }

    /// Whether there is no more to come of anything.
    fn is_over(&self) -> bool {
        !self.over.is_empty() && self.over.values().all(|over| *over)
    }

    fn committed(&mut self, position: Position) {
        let told = self.told.get(&position.partition);
        if told.is_some_and(|told| *told <= position.offset) {
            self.told.remove(&position.partition);
        }
    }

    /// Takes the records of a batch that were not written yet.
    fn take(
        &mut self,
        config: &SubscribeConfig,
        partition: u32,
        batch: &Batch,
    ) -> Result<(), Broken> {
        let from = self.positions.get(&partition).copied().unwrap_or(0);
        let from = self.ahead.get(&partition).copied().unwrap_or(from);
        let first_ns = batch.header().first_ns;
        for record in Records::of(batch).map_err(damaged)? {
            let (offset, record) = record.map_err(damaged)?;
            let done = self.read.records + self.unwritten;
            if offset < from || config.count.is_some_and(|count| done >= count) {
                continue;
            }
            let place = Place {
                topic: Some(&config.topic),
                partition,
                offset,
                time_ns: first_ns.saturating_add(record.after_ns),
            };
            put(&config.shape, place, &record, &mut self.out);
            self.unwritten += 1;
            self.ahead.insert(partition, offset + 1);
        }
        Ok(())
    }

    /// Writes what was taken; it counts when that is done, and is said to be.
    async fn write(&mut self, writer: &mut ByteWriter) -> Result<(), Broken> {
        if self.unwritten == 0 {
            return Ok(());
        }
        let (out, stdout) = (std::mem::take(&mut self.out), Arc::clone(&self.stdout));
        let written = tokio::task::spawn_blocking(move || (&*stdout).write_all(&out));
        let written = written
            .await
            .map_err(io::Error::other)
            .and_then(|written| written);
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.read.reader_gone = true;
                return Ok(());
            }
            Err(error) => {
                let error = format!("cannot write to stdout: {error}");
                return Err(Broken::Final(PipeError::Local(error)));
            }
        }
        self.read.records += std::mem::take(&mut self.unwritten);
        let ahead = std::mem::take(&mut self.ahead);
        self.positions.extend(&ahead);
        if self.is_member {
            // Before it is said: should that fail, the next session says it.
            self.told.extend(&ahead);
            for (partition, offset) in ahead {
                say(writer, ConsumerWord::Done(Position { partition, offset })).await?;
            }
        }
        Ok(())
    }

    fn skip(&mut self, skipped: &Skipped, told: &mut dyn Told) {
        let Skipped {
            partition,
            from,
            to,
            why,
            ..
        } = skipped;
        self.read.missing += to.saturating_sub(*from);
        self.positions.insert(*partition, *to);
        let what = format!(
            "records {from} to {} of partition {partition} are missing",
            to.saturating_sub(1)
        );
        told.notice(&format!("{what}: {}", printable(why)));
    }
}
