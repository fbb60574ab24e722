//! A producer without a session: makes batches of the records that it is given, gives them to the log, and counts what is kept.
//!
//! The numbers of its records are those of `farpipe pub`: what the log has of a producer that is named is not kept again. What an
//! earlier request has left in the log's queue may be kept while this one runs: then the log has more than was known, and what
//! overlaps with it is cut off and sent again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farpipe_log::{Append, AppendError, Appended, Log, SequenceError, Topic};
use farpipe_net::WallClock;
use farpipe_proto::limits::GATEWAY_BATCHES_MAX;
use farpipe_record::{
    BATCH_AIM, Batch, BatchBuilder, ProducerId, Record, RecordError, Records, TURN,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::lives::Life;

/// How often a request sends again what the log has part of: each time somebody else has published as its producer.
const AGAIN_MAX: u32 = 16;

/// Whose records these are, and where they belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taking {
    pub(crate) producer: ProducerId,
    /// The producer's number of the first one.
    pub(crate) sequence: u64,
    /// Into this partition; `None`: into all in turn.
    pub(crate) partition: Option<u32>,
    /// How long nothing may be acknowledged.
    pub(crate) wait: Duration,
}

/// Why a record is not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotKept {
    #[error("record {0} is longer than 1 MiB")]
    TooLong(u64),
    #[error("there is no partition {number}: the topic has {count}, counted from 0")]
    Partition { number: u32, count: u32 },
    #[error("another request publishes as this producer now")]
    Fenced,
    #[error("{0}")]
    OutOfOrder(SequenceError),
    #[error("the topic was removed")]
    Removed,
    #[error("{0}")]
    Failed(String),
    #[error("the disk of the topic's relay is full")]
    Full,
    #[error("the disk of the topic's relay is too slow")]
    Slow,
}

impl From<AppendError> for NotKept {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Sequence(SequenceError::Fenced(_)) => Self::Fenced,
            AppendError::Sequence(error @ SequenceError::OutOfOrder { .. }) => {
                Self::OutOfOrder(error)
            }
            AppendError::Unknown { .. } => Self::Removed,
            AppendError::Full => Self::Full,
            AppendError::Failed(why) => Self::Failed(why),
        }
    }
}

/// What is kept so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) records: u64,
    /// Those of them that an earlier request had brought.
    pub(crate) repeated: u64,
}

/// A producer.
#[derive(Debug)]
pub(crate) struct Taker {
    log: Log,
    name: String,
    topic: Arc<Topic>,
    taking: Taking,
    life: Life,
    fillings: Vec<Filling>,
    taken: u64,
    sealed: VecDeque<Sealed>,
    /// Given to the log. Policy when there are [`GATEWAY_BATCHES_MAX`]: one is waited for.
    due: VecDeque<Due>,
    /// What the log has part of, or what stood behind that: to be sent again when it owes no answer.
    refused: VecDeque<(Sealed, SequenceError)>,
    /// How often that was done.
    again: u32,
    /// When the log was last heard, or asked when it owed nothing.
    heard_at: Instant,
    kept: Kept,
}

/// The next batch of a partition.
#[derive(Debug)]
struct Filling {
    builder: BatchBuilder,
    /// The number of the next record.
    next: u64,
    /// Records before this number are kept already.
    known: u64,
}

#[derive(Debug, Clone)]
struct Sealed {
    partition: u32,
    batch: Batch,
}

#[derive(Debug)]
struct Due {
    sealed: Sealed,
    answer: oneshot::Receiver<Result<Appended, AppendError>>,
}

impl Taker {
    /// # Errors
    /// There is no such partition.
    pub(crate) fn new(
        log: Log,
        name: &str,
        topic: &Arc<Topic>,
        taking: Taking,
        life: Life,
    ) -> Result<Self, NotKept> {
        let count = topic.settings.partitions;
        if let Some(number) = taking.partition.filter(|number| *number >= count) {
            return Err(NotKept::Partition { number, count });
        }
        let all = topic.partitions.iter();
        let known: Vec<(u32, u64)> = all
            .map(|partition| partition.producer(taking.producer))
            .collect();
        let fillings = (0_u64..).zip(known).map(|(number, (_, known))| Filling {
            builder: BatchBuilder::default(),
            next: match taking.partition {
                Some(_) => taking.sequence,
                None => before(taking.sequence, number, u64::from(count)),
            },
            known,
        });
        Ok(Self {
            log,
            name: name.to_owned(),
            topic: Arc::clone(topic),
            taking,
            life,
            refused: VecDeque::new(),
            again: 0,
            fillings: fillings.collect(),
            taken: 0,
            sealed: VecDeque::new(),
            due: VecDeque::new(),
            heard_at: Instant::now(),
            kept: Kept::default(),
        })
    }

    pub(crate) fn kept(&self) -> Kept {
        self.kept
    }

    /// Whether there are records that the log was not given.
    pub(crate) fn has_begun(&self) -> bool {
        let has_some = |one: &Filling| one.builder.count() > 0;
        !self.sealed.is_empty() || !self.refused.is_empty() || self.fillings.iter().any(has_some)
    }

    /// Whether the log owes an answer.
    pub(crate) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Takes a record; what makes a batch is given to the log, as soon as that has room.
    ///
    /// # Errors
    /// It, or one before it, is not kept.
    ///
    /// # Cancellation
    /// The record is taken; what makes a batch waits for the next call.
    pub(crate) async fn take(&mut self, value: Bytes) -> Result<(), NotKept> {
        self.put(value)?;
        self.give().await
    }

    fn put(&mut self, value: Bytes) -> Result<(), NotKept> {
        let index = self.taking.sequence.saturating_add(self.taken);
        self.taken += 1;
        let count = self.fillings.len().max(1) as u64;
        let spread = || u32::try_from(index / TURN % count).unwrap_or(0);
        let number = self.taking.partition.unwrap_or_else(spread);
        let taken = self.taken;
        let filling = self.filling(number)?;
        if filling.next < filling.known {
            filling.next += 1;
            self.kept.records += 1;
            self.kept.repeated += 1;
            return Ok(());
        }
        let now = u64::try_from(WallClock::System.now().as_nanos()).unwrap_or(u64::MAX);
        let mut record = Record {
            value,
            ..Record::default()
        };
        // A record that is too long has no number: those before it keep theirs.
        let too_long = |_| NotKept::TooLong(taken);
        if !filling.builder.push(&mut record, now).map_err(too_long)? {
            self.seal(number)?;
            let filling = self.filling(number)?;
            filling.builder.push(&mut record, now).map_err(too_long)?;
        }
        let filling = self.filling(number)?;
        filling.next = filling.next.saturating_add(1);
        match filling.builder.plain_len() >= BATCH_AIM {
            true => self.seal(number),
            false => Ok(()),
        }
    }

    fn filling(&mut self, partition: u32) -> Result<&mut Filling, NotKept> {
        let filling = self.fillings.get_mut(partition as usize);
        filling.ok_or(NotKept::Removed)
    }

    /// Ends the batch of a partition.
    fn seal(&mut self, partition: u32) -> Result<(), NotKept> {
        let filling = self.filling(partition)?;
        let builder = std::mem::take(&mut filling.builder);
        let count = u64::from(builder.count());
        if count == 0 {
            return Ok(());
        }
        let first = filling.next.saturating_sub(count);
        let odd = |error: farpipe_record::BatchError| NotKept::Failed(error.to_string());
        let sealed = builder.seal(self.taking.producer, self.life.epoch, first);
        let batch = Batch::parse(&sealed.map_err(odd)?.into_bytes()).map_err(odd)?;
        self.sealed
            .extend(batch.map(|batch| Sealed { partition, batch }));
        Ok(())
    }

    /// Gives what is there to the log, though more might come.
    ///
    /// # Errors
    /// Something is not kept.
    pub(crate) async fn flush(&mut self) -> Result<(), NotKept> {
        for number in (0_u32..).take(self.fillings.len()) {
            self.seal(number)?;
        }
        self.give().await
    }

    async fn give(&mut self) -> Result<(), NotKept> {
        if !self.refused.is_empty() {
            // What was given behind it is refused as well.
            while self.has_due() {
                self.hear_one().await?;
            }
            self.give_again()?;
        }
        while let Some(sealed) = self.sealed.front() {
            if self.due.len() >= GATEWAY_BATCHES_MAX {
                self.hear_one().await?;
                continue;
            }
            if !self.life.is_newest() {
                return Err(NotKept::Fenced);
            }
            let sealed = sealed.clone();
            let append = Append {
                topic: self.name.clone(),
                partition: sealed.partition,
                batch: sealed.batch.clone(),
            };
            if self.due.is_empty() {
                self.heard_at = Instant::now();
            }
            let given = timeout(self.taking.wait, self.log.append(append)).await;
            let answer = given.map_err(|_| self.stalled())?;
            self.sealed.pop_front();
            self.due.push_back(Due { sealed, answer });
        }
        Ok(())
    }

    /// Waits for the log's next answer, if it owes one.
    ///
    /// # Errors
    /// That batch is not kept, or nothing was heard for too long.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub(crate) async fn hear(&mut self) -> Result<(), NotKept> {
        self.hear_one().await?;
        self.give().await
    }

    async fn hear_one(&mut self) -> Result<(), NotKept> {
        let until = self.heard_at + self.taking.wait;
        let Some(due) = self.due.front_mut() else {
            return Ok(());
        };
        let Ok(answer) = timeout_at(until, &mut due.answer).await else {
            return Err(self.stalled());
        };
        let sealed = due.sealed.clone();
        self.due.pop_front();
        self.heard_at = Instant::now();
        let closed = |_| AppendError::Failed("the log is closed".to_owned());
        match answer.map_err(closed).and_then(|answer| answer) {
            Ok(appended) => {
                let count = u64::from(sealed.batch.header().count);
                self.count(count, appended.is_repeated);
                Ok(())
            }
            Err(AppendError::Sequence(error @ SequenceError::OutOfOrder { .. })) => {
                self.refused.push_back((sealed, error));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn count(&mut self, records: u64, is_repeated: bool) {
        self.kept.records += records;
        if is_repeated {
            self.kept.repeated += records;
        }
    }

    /// Puts what the log has not of what it refused in front of what it is given next.
    ///
    /// # Errors
    /// It has less than stands before that.
    fn give_again(&mut self) -> Result<(), NotKept> {
        self.again += 1;
        let mut known: Vec<u64> = {
            let all = self.topic.partitions.iter();
            all.map(|one| one.producer(self.taking.producer).1)
                .collect()
        };
        let mut again = VecDeque::new();
        for (sealed, error) in std::mem::take(&mut self.refused) {
            let header = *sealed.batch.header();
            let Some(known) = known.get_mut(sealed.partition as usize) else {
                return Err(NotKept::Removed);
            };
            if header.base_sequence > *known || self.again > AGAIN_MAX {
                return Err(NotKept::OutOfOrder(error));
            }
            let has = u64::from(header.count).min(*known - header.base_sequence);
            *known = header.end_sequence().max(*known);
            self.count(has, true);
            let rest = self.rest(&sealed.batch, has);
            let rest = rest.map_err(|error| NotKept::Failed(error.to_string()))?;
            again.extend(rest.map(|batch| Sealed {
                partition: sealed.partition,
                batch,
            }));
        }
        again.append(&mut self.sealed);
        self.sealed = again;
        Ok(())
    }

    /// A batch without its first records; `None`: it has no others.
    fn rest(&self, batch: &Batch, without: u64) -> Result<Option<Batch>, RecordError> {
        let header = *batch.header();
        let mut builder = BatchBuilder::since(header.first_ns);
        for record in Records::of(batch)? {
            // Before the log has placed it a batch begins with 0.
            let (at, mut record) = record?;
            if at >= without {
                let time = header.first_ns.saturating_add(record.after_ns);
                if !builder.push(&mut record, time)? {
                    return Err(RecordError::Malformed("more than one may have"));
                }
            }
        }
        if builder.count() == 0 {
            return Ok(None);
        }
        let odd = |_| RecordError::Malformed("what no batch may be");
        let first = header.base_sequence + without;
        let rest = builder.seal(self.taking.producer, self.life.epoch, first);
        Batch::parse(&rest.map_err(odd)?.into_bytes()).map_err(odd)
    }

    /// Waits until all that was taken is kept.
    ///
    /// # Errors
    /// Some of it is not.
    pub(crate) async fn finish(&mut self) -> Result<(), NotKept> {
        self.flush().await?;
        while self.has_due() || self.has_begun() {
            self.hear().await?;
        }
        Ok(())
    }

    /// Hears what became of all that the log was given, so that [`Taker::kept`] is right also if something is not kept.
    pub(crate) async fn settle(&mut self) {
        while self.has_due() {
            if let Err(NotKept::Full | NotKept::Slow) = self.hear_one().await {
                return;
            }
        }
    }

    fn stalled(&self) -> NotKept {
        match self.log.is_full() {
            true => NotKept::Full,
            false => NotKept::Slow,
        }
    }
}

/// How many of the first `records` of a producer are in a partition, if they go to `count` of them in turn.
fn before(records: u64, partition: u64, count: u64) -> u64 {
    let round = TURN.saturating_mul(count.max(1));
    let rest = (records % round).saturating_sub(partition.saturating_mul(TURN));
    records / round * TURN + rest.min(TURN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_partition_are_those_of_one_who_counts() {
        for count in [1_u64, 2, 3] {
            let mut counted = vec![0_u64; usize::try_from(count).expect("few")];
            for records in 0..5_000_u64 {
                for (partition, seen) in (0_u64..).zip(&counted) {
                    assert_eq!(before(records, partition, count), *seen, "{records}");
                }
                let partition = usize::try_from(records / TURN % count).expect("few");
                counted[partition] += 1;
            }
        }
    }
}
