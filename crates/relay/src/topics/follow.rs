//! A reader without a session: takes records one after the other from the partitions of a topic, as fast as whoever reads them, and
//! no more of them into memory than some batches.
//!
//! Progress is kept in it: what waits can be dropped, and nothing is left out.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use farpipe_log::{Piece, ReadError, Topic};
use farpipe_record::{Record, Records};

use super::subscribe::{Reading, more};

/// Bytes that are read from a partition before the next one has its turn; a batch at least.
const READ: usize = 64 * 1024;

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the first that is kept.
    Earliest,
    /// With the next that comes.
    Latest,
    /// With this one, of the only partition.
    Offset(u64),
    /// With these, of these partitions; of others with the first.
    Places(Vec<(u32, u64)>),
}

/// What is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: Start,
    /// This one only.
    pub(crate) partition: Option<u32>,
    pub(crate) until: Until,
}

/// Where to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Nowhere.
    Never,
    /// Behind what is there at the beginning.
    End,
}

/// Why it cannot be read from there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotThere {
    #[error("there is no partition {number}: the topic has {count}, counted from 0")]
    Partition { number: u32, count: u32 },
    #[error("the topic has {0} partitions: say partition=N, or from=PARTITION:OFFSET,…")]
    WhichPartition(u32),
    #[error(
        "offset {offset} of partition {number} is not there yet: the next one to come is {end}"
    )]
    NotYet { number: u32, offset: u64, end: u64 },
}

/// What is read.
#[derive(Debug)]
pub(crate) enum Item {
    Record(Read),
    Missing(Missing),
}

/// A record where it stands.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) time_ns: u64,
    pub(crate) record: Record,
}

/// Records that cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) partition: u32,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) why: WhyMissing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhyMissing {
    /// Their sums are wrong.
    Damaged,
    /// They are not kept any more.
    Gone,
}

impl WhyMissing {
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Damaged => "damaged on the disk",
            Self::Gone => "not kept any more",
        }
    }
}

/// What a look at the log has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// There is something to take.
    Some,
    /// Nothing, yet.
    None,
    /// All that was wanted was taken.
    Over,
}

/// A reader.
#[derive(Debug)]
pub(crate) struct Follower {
    readings: Vec<Reading>,
    /// The one that has its turn.
    turn: usize,
    /// What was read of it.
    pieces: VecDeque<Piece>,
    open: Option<Open>,
}

/// A batch that is taken apart.
#[derive(Debug)]
struct Open {
    records: Records,
    first_ns: u64,
    end: u64,
}

impl Follower {
    /// # Errors
    /// [`NotThere`].
    pub(crate) fn new(topic: &Topic, span: &Span) -> Result<Self, NotThere> {
        let count = topic.settings.partitions;
        let named = match &span.from {
            Start::Places(places) => places.iter().map(|(number, _)| *number).max(),
            Start::Earliest | Start::Latest | Start::Offset(_) => None,
        };
        let wanted = span.partition.into_iter().chain(named);
        if let Some(number) = wanted.max().filter(|number| *number >= count) {
            return Err(NotThere::Partition { number, count });
        }
        if matches!(span.from, Start::Offset(_)) && span.partition.is_none() && count > 1 {
            return Err(NotThere::WhichPartition(count));
        }
        let mut readings = Vec::new();
        for (number, partition) in (0_u32..).zip(&topic.partitions) {
            if span.partition.is_some_and(|wanted| wanted != number) {
                continue;
            }
            let end = partition.end();
            let offset = match &span.from {
                Start::Earliest => partition.start(),
                Start::Latest => end,
                Start::Offset(offset) => *offset,
                Start::Places(places) => {
                    let place = places.iter().find(|(of, _)| *of == number);
                    place.map_or_else(|| partition.start(), |(_, offset)| *offset)
                }
            };
            if offset > end {
                return Err(NotThere::NotYet {
                    number,
                    offset,
                    end,
                });
            }
            let until = match span.until {
                Until::Never => None,
                Until::End => Some(end),
            };
            readings.push(Reading {
                number,
                partition: Arc::clone(partition),
                offset,
                until,
            });
        }
        Ok(Self {
            readings,
            turn: 0,
            pieces: VecDeque::new(),
            open: None,
        })
    }

    /// Of each partition the offset that is read next.
    pub(crate) fn places(&self) -> impl Iterator<Item = (u32, u64)> {
        let readings = self.readings.iter();
        readings.map(|reading| (reading.number, reading.offset))
    }

    /// The first records that were wanted and are not kept any more.
    pub(crate) fn gone(&self) -> Option<Missing> {
        let mut readings = self.readings.iter();
        readings.find_map(|reading| {
            let start = reading.partition.start();
            (reading.offset < start).then(|| Missing {
                partition: reading.number,
                first: reading.offset,
                last: start - 1,
                why: WhyMissing::Gone,
            })
        })
    }

    /// Whether `topic` is what is read: it may have been removed, and made again.
    pub(crate) fn is_of(&self, topic: Option<&Topic>) -> bool {
        let first = self.readings.first();
        let theirs = |number: u32| topic?.partitions.get(number as usize);
        first.is_none_or(|own| {
            theirs(own.number).is_some_and(|theirs| Arc::ptr_eq(theirs, &own.partition))
        })
    }

    /// The next of what was read; `None`: look for more.
    pub(crate) fn take(&mut self) -> Option<Item> {
        loop {
            let reading = self.readings.get_mut(self.turn)?;
            if let Some(open) = &mut self.open {
                match open.records.next() {
                    Some(Ok((offset, _))) if offset < reading.offset => {}
                    Some(Ok((offset, record))) => {
                        reading.offset = offset + 1;
                        return Some(Item::Record(Read {
                            partition: reading.number,
                            offset,
                            time_ns: open.first_ns.saturating_add(record.after_ns),
                            record,
                        }));
                    }
                    None => {
                        reading.offset = reading.offset.max(open.end);
                        self.open = None;
                    }
                    // The sums are right, and it is no list of records all the same: whoever made it is to blame.
                    Some(Err(_)) => {
                        let end = open.end;
                        self.open = None;
                        if let Some(missing) = skip(reading, end, WhyMissing::Damaged) {
                            return Some(missing);
                        }
                    }
                }
                continue;
            }
            match self.pieces.pop_front()? {
                Piece::Batch(batch) => {
                    let header = *batch.header();
                    match Records::of(&batch) {
                        Ok(records) => {
                            self.open = Some(Open {
                                records,
                                first_ns: header.first_ns,
                                end: header.end_offset(),
                            });
                        }
                        Err(_) => {
                            let end = header.end_offset();
                            if let Some(missing) = skip(reading, end, WhyMissing::Damaged) {
                                return Some(missing);
                            }
                        }
                    }
                }
                Piece::Damaged { to, .. } => {
                    if let Some(missing) = skip(reading, to, WhyMissing::Damaged) {
                        return Some(missing);
                    }
                }
            }
        }
    }

    /// Reads more, if [`Follower::take`] has nothing.
    ///
    /// # Errors
    /// The disk.
    pub(crate) async fn look(&mut self) -> io::Result<Look> {
        if self.open.is_some() || !self.pieces.is_empty() {
            return Ok(Look::Some);
        }
        let count = self.readings.len();
        let (mut found, mut is_over) = (None, true);
        for step in 1..=count {
            let at = (self.turn + step) % count;
            let reading = &self.readings[at];
            let end = reading.partition.end();
            is_over &= reading.until.is_some_and(|until| reading.offset >= until);
            if reading.offset < reading.until.unwrap_or(end).min(end) {
                found = Some(at);
                break;
            }
        }
        let Some(at) = found else {
            return Ok(match is_over {
                true => Look::Over,
                false => Look::None,
            });
        };
        let reading = &self.readings[at];
        let (partition, offset) = (Arc::clone(&reading.partition), reading.offset);
        // Most are in memory; the disk is left to a thread that may wait for it.
        let read = match partition.newest(offset, READ) {
            Some(pieces) => Ok(pieces),
            None => {
                let read = tokio::task::spawn_blocking(move || partition.read(offset, READ));
                read.await.map_err(io::Error::other)?
            }
        };
        self.turn = at;
        match read {
            Ok(pieces) => self.pieces = pieces.into(),
            // Retention was faster.
            Err(ReadError::OutOfRange { start, .. }) if start > offset => {
                self.pieces.push_back(Piece::Damaged {
                    from: offset,
                    to: start,
                });
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        Ok(Look::Some)
    }

    /// Ready when there is more. Cancel safe.
    pub(crate) async fn more(&self) {
        let wait = |reading: &&Reading| reading.until.is_none();
        more(&self.readings.iter().filter(wait).collect::<Vec<_>>()).await;
    }
}

/// Goes on behind what cannot be had; `None`: it was passed already.
fn skip(reading: &mut Reading, to: u64, why: WhyMissing) -> Option<Item> {
    let first = reading.offset;
    if to <= first {
        return None;
    }
    // What a reader wanted that retention has taken is told by the same piece.
    let why = match first < reading.partition.start() {
        true => WhyMissing::Gone,
        false => why,
    };
    reading.offset = to;
    Some(Item::Missing(Missing {
        partition: reading.number,
        first,
        last: to - 1,
        why,
    }))
}
