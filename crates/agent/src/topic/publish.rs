//! A producer: what it reads becomes records, records batches, and batches are sent until the log has acknowledged them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use farpipe_net::{ByteWriter, Messages, Opener, WallClock};
use farpipe_proto::link::handshake::printable;
use farpipe_proto::wire::topic::{
    Level, Publish, PublishEvent, PublishWhat, Ready, TopicWant, WhyDeclined,
};
use farpipe_record::{BATCH_AIM, BatchBuilder, Fold, ProducerId, Record, TURN};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::format::{Cutter, Shape};
use super::outbox::Outbox;
use super::{Again, Broken, Made, Told, session};
use crate::outcome::PipeError;
use crate::pipe::{Cancel, cancelled};

/// How long records wait for others while batches are under way.
const LINGER: Duration = Duration::from_millis(5);

/// How to publish.
#[derive(Debug, Clone)]
pub struct PublishConfig {
    /// The topic.
    pub topic: String,
    /// Who publishes.
    pub producer: ProducerId,
    /// How records stand in what is read.
    pub shape: Shape,
    /// The level of zstd by which each batch is folded; `None`: it is not.
    pub zstd: Option<i32>,
    /// Bytes that may wait to be acknowledged; beyond that nothing more is read.
    pub window: usize,
    /// How long to try without progress.
    pub resume_for: Duration,
}

/// What became of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Published {
    /// Records that are kept.
    pub records: u64,
    /// Those of them that had been kept before, by an earlier run of the same producer.
    pub repeated: u64,
    /// What being kept means.
    pub level: Option<Level>,
}

/// What the two sides of a producer share.
#[derive(Debug, Default)]
struct Shared {
    outbox: Mutex<Outbox>,
    /// Something was put in or acknowledged.
    changed: Notify,
    /// What the relay knew when it was first asked.
    ready: Mutex<Option<Ready>>,
    is_over: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Publishes what comes by `input`, record by record, until that ends and all is acknowledged. An error of it is no end.
///
/// # Errors
/// Not all of it is; and so much is.
///
/// # Cancellation
/// Dropped, what was acknowledged is kept, and of the rest anything may be.
pub async fn publish(
    config: &PublishConfig,
    opener: impl Fn() -> Made,
    input: mpsc::Receiver<io::Result<Bytes>>,
    told: &mut dyn Told,
    cancel: Cancel,
) -> Result<Published, (PipeError, Published)> {
    let shared = Arc::new(Shared::default());
    let feeding = feed(config, &shared, input);
    let linking = link(config, &shared, opener, told);
    let stalled = stalled(&shared, config.resume_for);
    tokio::pin!(feeding, linking, stalled);
    let mut fed = None;
    let ended = loop {
        tokio::select! {
            result = &mut feeding, if fed.is_none() => {
                fed = Some(result);
                shared.is_over.store(true, Ordering::Release);
                shared.changed.notify_waiters();
            }
            ended = &mut linking => break ended,
            () = cancelled(cancel.clone()) => break Err(PipeError::Cancelled),
            () = &mut stalled => {
                let secs = config.resume_for.as_secs();
                let why = format!("nothing was acknowledged for {secs} s");
                break Err(PipeError::Local(why));
            }
        }
    };
    let published = {
        let outbox = lock(&shared.outbox);
        let level = lock(&shared.ready)
            .as_ref()
            .and_then(|ready| Level::from_wire(ready.level));
        Published {
            records: outbox.records,
            repeated: outbox.repeated,
            level,
        }
    };
    match (ended, fed) {
        (Err(error), _) | (Ok(()), Some(Err(error))) => Err((error, published)),
        (Ok(()), _) => Ok(published),
    }
}

/// Ready when something has waited to be acknowledged for so long, and nothing was.
async fn stalled(shared: &Shared, within: Duration) {
    let look = (within / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
    let (mut last, mut since) = (0, Instant::now());
    loop {
        tokio::time::sleep(look).await;
        let (records, is_empty) = {
            let outbox = lock(&shared.outbox);
            (outbox.records, outbox.is_empty())
        };
        if is_empty || records != last {
            (last, since) = (records, Instant::now());
        } else if since.elapsed() >= within {
            return;
        }
    }
}

/// Makes batches of lines.
async fn feed(
    config: &PublishConfig,
    shared: &Shared,
    mut input: mpsc::Receiver<io::Result<Bytes>>,
) -> Result<(), PipeError> {
    let ready = known(shared).await;
    let mut batcher = Batcher::new(config, &ready);
    let mut cutter = Cutter::new(config.shape.clone());
    loop {
        let chunk = match input.try_recv() {
            Ok(chunk) => Some(chunk),
            Err(mpsc::error::TryRecvError::Disconnected) => None,
            Err(mpsc::error::TryRecvError::Empty) => {
                let is_idle = lock(&shared.outbox).is_idle();
                if is_idle || batcher.is_empty() {
                    batcher.flush(shared)?;
                    input.recv().await
                } else {
                    // Others may come while the last ones are under way.
                    tokio::select! {
                        chunk = input.recv() => chunk,
                        () = tokio::time::sleep(LINGER) => {
                            batcher.flush(shared)?;
                            continue;
                        }
                    }
                }
            }
        };
        let Some(chunk) = chunk else { break };
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                batcher.flush(shared)?;
                return Err(PipeError::Local(format!("cannot read stdin: {error}")));
            }
        };
        cutter.handle_chunk(chunk);
        if let Err(error) = batcher.take(&mut cutter, shared) {
            // What stood before it is published.
            batcher.flush(shared)?;
            return Err(error);
        }
        room(config, shared).await;
    }
    let last = cutter.finish();
    let pushed = last.map_err(foul).and_then(|last| match last {
        Some((record, time_ns)) => batcher.push(record, time_ns.unwrap_or_else(now), shared),
        None => Ok(()),
    });
    batcher.flush(shared)?;
    pushed
}

fn now() -> u64 {
    u64::try_from(WallClock::System.now().as_nanos()).unwrap_or(u64::MAX)
}

/// What is read is no record.
fn foul(why: impl std::fmt::Display) -> PipeError {
    PipeError::Local(format!("stdin, {why}"))
}

/// What the relay knows.
async fn known(shared: &Shared) -> Ready {
    loop {
        let changed = shared.changed.notified();
        if let Some(ready) = lock(&shared.ready).clone() {
            return ready;
        }
        changed.await;
    }
}

/// Waits until more may wait.
async fn room(config: &PublishConfig, shared: &Shared) {
    loop {
        let changed = shared.changed.notified();
        if lock(&shared.outbox).bytes() < config.window {
            return;
        }
        changed.await;
    }
}

/// Records on their way into batches, one of each partition.
struct Batcher<'a> {
    config: &'a PublishConfig,
    epoch: u32,
    partitions: Vec<Filling>,
    fold: Fold,
    records: u64,
}

struct Filling {
    builder: BatchBuilder,
    /// The number of the next record.
    next: u64,
    /// Records before this number are kept already.
    known: u64,
}

impl<'a> Batcher<'a> {
    fn new(config: &'a PublishConfig, ready: &Ready) -> Self {
        let filling = |known: &u64| Filling {
            builder: BatchBuilder::default(),
            next: 0,
            known: *known,
        };
        Self {
            config,
            epoch: ready.epoch,
            partitions: ready.sequences.iter().map(filling).collect(),
            fold: config.zstd.map_or_else(Fold::plain, Fold::zstd),
            records: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.partitions.iter().all(|one| one.builder.count() == 0)
    }

    /// Takes all records that have come.
    fn take(&mut self, cutter: &mut Cutter, shared: &Shared) -> Result<(), PipeError> {
        let now = now();
        while let Some((record, time_ns)) = cutter.poll_record().map_err(foul)? {
            self.push(record, time_ns.unwrap_or(now), shared)?;
        }
        Ok(())
    }

    fn push(&mut self, mut record: Record, now: u64, shared: &Shared) -> Result<(), PipeError> {
        self.records += 1;
        let count = self.partitions.len().max(1) as u64;
        let partition = match &record.key {
            Some(key) => spread(key) % count,
            None => (self.records - 1) / TURN % count,
        };
        let number = usize::try_from(partition).unwrap_or(0);
        let Some(filling) = self.partitions.get_mut(number) else {
            return Err(PipeError::Remote(
                "the relay's topic has no partition".to_owned(),
            ));
        };
        if filling.next < filling.known {
            filling.next += 1;
            let mut outbox = lock(&shared.outbox);
            outbox.records += 1;
            outbox.repeated += 1;
            return Ok(());
        }
        let records = self.records;
        let too_long = |error| foul(format!("record {records}: {error}"));
        if !filling.builder.push(&mut record, now).map_err(too_long)? {
            self.seal(number, shared)?;
            let filling = &mut self.partitions[number];
            filling.builder.push(&mut record, now).map_err(too_long)?;
        }
        let filling = &mut self.partitions[number];
        filling.next += 1;
        if filling.builder.plain_len() >= BATCH_AIM {
            self.seal(number, shared)?;
        }
        Ok(())
    }

    fn flush(&mut self, shared: &Shared) -> Result<(), PipeError> {
        for number in 0..self.partitions.len() {
            if self.partitions[number].builder.count() > 0 {
                self.seal(number, shared)?;
            }
        }
        Ok(())
    }

    /// Puts the batch of a partition into the outbox.
    fn seal(&mut self, number: usize, shared: &Shared) -> Result<(), PipeError> {
        let filling = &mut self.partitions[number];
        let builder = std::mem::take(&mut filling.builder);
        let (count, end) = (u64::from(builder.count()), filling.next);
        let producer = self.config.producer;
        let sealed = builder.seal_folded(&mut self.fold, producer, self.epoch, end - count);
        let sealed = sealed.map_err(|error| PipeError::Local(error.to_string()))?;
        let partition = u32::try_from(number).unwrap_or(u32::MAX);
        lock(&shared.outbox).push(partition, sealed.into_bytes(), count, end);
        shared.changed.notify_waiters();
        Ok(())
    }
}

/// FNV-1a, so that every client puts a key into the same partition (docs/protocol.md section 6.13).
fn spread(key: &[u8]) -> u64 {
    key.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// One session after the other, until all is acknowledged.
async fn link(
    config: &PublishConfig,
    shared: &Arc<Shared>,
    opener: impl Fn() -> Made,
    told: &mut dyn Told,
) -> Result<(), PipeError> {
    let mut again = Again::within(config.resume_for);
    let mut epoch = 0;
    loop {
        let (opened, dial) = opener();
        let ask = TopicWant::Publish(Publish {
            topic: config.topic.clone(),
            producer: config.producer.0.to_vec(),
            epoch,
        });
        let (before, was_known) = {
            let is_known = lock(&shared.ready).is_some();
            (lock(&shared.outbox).records, is_known)
        };
        let told_here = &mut *told;
        let talk = async |messages: Messages, writer: ByteWriter| {
            talk(shared, &mut epoch, messages, writer, told_here).await
        };
        let ended = session(Opener::new(opened), &*dial, ask, talk).await;
        let is_new = !was_known && lock(&shared.ready).is_some();
        if is_new || lock(&shared.outbox).records > before {
            again.handle_progress();
        }
        if let Some(()) = again.next(ended, told).await? {
            return Ok(());
        }
    }
}

/// Sends what waits, and hears what is kept.
async fn talk(
    shared: &Shared,
    epoch: &mut u32,
    mut messages: Messages,
    mut writer: ByteWriter,
    told: &mut dyn Told,
) -> Result<(), Broken> {
    let first = messages
        .message::<PublishEvent>()
        .await?
        .and_then(|event| event.what);
    let Some(PublishWhat::Ready(ready)) = first else {
        return Err(odd("the relay does not say what it knows of this producer"));
    };
    *epoch = ready.epoch;
    lock(&shared.outbox)
        .resume(&ready.sequences)
        .map_err(|error| Broken::Final(PipeError::Remote(error.to_string())))?;
    lock(&shared.ready).get_or_insert(ready);
    shared.changed.notify_waiters();
    let sending = send(shared, &mut writer);
    let hearing = hear(shared, &mut messages, told);
    tokio::pin!(sending, hearing);
    let mut is_sent = false;
    loop {
        tokio::select! {
            sent = &mut sending, if !is_sent => {
                sent?;
                is_sent = true;
            }
            heard = &mut hearing => return heard,
        }
    }
}

fn odd(why: &str) -> Broken {
    Broken::Final(PipeError::Remote(why.to_owned()))
}

/// Sends all there is, and what comes; ready when there is no more to come and all is acknowledged.
async fn send(shared: &Shared, writer: &mut ByteWriter) -> Result<(), Broken> {
    loop {
        let changed = shared.changed.notified();
        let next = lock(&shared.outbox).poll_transmit();
        if let Some((partition, batch)) = next {
            writer.write_all(&partition.to_be_bytes()).await?;
            writer.write_all(&batch).await?;
            continue;
        }
        let is_over = shared.is_over.load(Ordering::Acquire);
        if is_over && lock(&shared.outbox).is_empty() {
            writer.finish();
            return Ok(());
        }
        changed.await;
    }
}

async fn hear(shared: &Shared, messages: &mut Messages, told: &mut dyn Told) -> Result<(), Broken> {
    while let Some(event) = messages.message::<PublishEvent>().await? {
        match event.what {
            Some(PublishWhat::Stored(stored)) => {
                let taken = lock(&shared.outbox).handle_stored(&stored);
                taken.map_err(|error| Broken::Final(PipeError::Remote(error.to_string())))?;
                shared.changed.notify_waiters();
            }
            Some(PublishWhat::Waiting(why)) => told.notice(&printable(&why)),
            Some(PublishWhat::Declined(declined)) => {
                let message = printable(&declined.message);
                let error = match WhyDeclined::from_wire(declined.why) {
                    // The relay may be started anew, with a disk that works.
                    WhyDeclined::Failed => {
                        return Err(Broken::Stream(std::io::Error::other(message)));
                    }
                    WhyDeclined::Fenced => {
                        format!("another process publishes as this producer now: {message}")
                    }
                    WhyDeclined::OutOfOrder | WhyDeclined::Damaged | WhyDeclined::Removed => {
                        message
                    }
                };
                return Err(Broken::Final(PipeError::Remote(error)));
            }
            Some(PublishWhat::Ready(_)) | None => {}
        }
    }
    let is_over = shared.is_over.load(Ordering::Acquire);
    match is_over && lock(&shared.outbox).is_empty() {
        true => Ok(()),
        false => Err(Broken::Stream(std::io::ErrorKind::UnexpectedEof.into())),
    }
}
