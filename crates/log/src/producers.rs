//! What is known of the producers of a partition, so that a batch that is sent again is kept once, however late it comes.
//!
//! Kept in the log itself: each batch says who made it. A snapshot at each new segment saves reading all of them again.

use std::collections::{HashMap, VecDeque};

use farpipe_record::{Header, ProducerId};

use crate::summed;

/// Batches of a producer whose offsets are remembered.
const RECENT: usize = 5;
/// Producers of a partition that are remembered; beyond that the one is forgotten that has been silent for longest.
pub const PRODUCERS_MAX: usize = 100_000;

/// What becomes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is to be kept.
    New,
    /// It was kept before; with the offset behind its last record, if that is still known.
    Repeated(Option<u64>),
}

/// Why a batch is not taken. The producer is to blame; to send it again does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// A later life of the same producer has been heard of.
    #[error("this producer has a newer life ({0})")]
    Fenced(u32),
    /// It does not go on where the last one ended.
    #[error("a batch of this producer begins with its record {got}, where {expected} is next")]
    OutOfOrder {
        /// The next one.
        expected: u64,
        /// What came.
        got: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Entry {
    epoch: u32,
    next: u64,
    appended_ns: u64,
    /// First and last numbers of the last batches, and the offset behind them.
    recent: VecDeque<(u64, u64, u64)>,
}

/// The producers of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Producers {
    known: HashMap<ProducerId, Entry>,
}

impl Producers {
    /// What becomes of a batch of this header, if what `later` has noted comes true.
    ///
    /// # Errors
    /// It is not to be taken.
    pub(crate) fn judge(&self, later: &Self, header: &Header) -> Result<Verdict, SequenceError> {
        let entry = later.known.get(&header.producer);
        let Some(entry) = entry.or_else(|| self.known.get(&header.producer)) else {
            return Ok(Verdict::New);
        };
        if header.epoch < entry.epoch {
            return Err(SequenceError::Fenced(entry.epoch));
        }
        if header.base_sequence == entry.next {
            return Ok(Verdict::New);
        }
        if header.end_sequence() <= entry.next {
            let same = |(first, end, _): &&(u64, u64, u64)| {
                (*first, *end) == (header.base_sequence, header.end_sequence())
            };
            let offset = entry.recent.iter().find(same).map(|(.., offset)| *offset);
            return Ok(Verdict::Repeated(offset));
        }
        Err(SequenceError::OutOfOrder {
            expected: entry.next,
            got: header.base_sequence,
        })
    }

    /// A batch is kept, where its header says.
    pub(crate) fn note(&mut self, header: &Header) {
        self.note_after(&Self::default(), header);
    }

    /// The same, of a batch that may be kept after all that `earlier` knows of.
    pub(crate) fn note_after(&mut self, earlier: &Self, header: &Header) {
        if header.producer == ProducerId::NONE {
            return;
        }
        let before = || earlier.known.get(&header.producer).cloned();
        let entry = self.known.entry(header.producer);
        let entry = entry.or_insert_with(|| before().unwrap_or_default());
        entry.epoch = entry.epoch.max(header.epoch);
        entry.next = header.end_sequence();
        entry.appended_ns = header.appended_ns;
        let range = (
            header.base_sequence,
            header.end_sequence(),
            header.end_offset(),
        );
        entry.recent.push_back(range);
        if entry.recent.len() > RECENT {
            entry.recent.pop_front();
        }
    }

    /// What `later` has noted has come true.
    pub(crate) fn take(&mut self, later: Self) {
        self.known.extend(later.known);
        self.bound();
    }

    /// Whether there is anything of it here.
    pub(crate) fn knows(&self, producer: ProducerId) -> bool {
        self.known.contains_key(&producer)
    }

    /// Forgets those who have been silent for longest, if there are too many: several at once, so that not each new one costs a look at all.
    pub(crate) fn bound(&mut self) {
        if self.known.len() <= PRODUCERS_MAX {
            return;
        }
        let surplus = self.known.len() - PRODUCERS_MAX + PRODUCERS_MAX / 64;
        let mut times: Vec<u64> = self.known.values().map(|entry| entry.appended_ns).collect();
        let (_, last, _) = times.select_nth_unstable(surplus - 1);
        let last = *last;
        let mut left = surplus;
        self.known.retain(|_, entry| {
            let goes = left > 0 && entry.appended_ns <= last;
            left -= usize::from(goes);
            !goes
        });
    }

    /// The life of a producer, and the number behind its last record.
    pub(crate) fn state(&self, producer: ProducerId) -> (u32, u64) {
        let entry = self.known.get(&producer);
        entry.map_or((0, 0), |entry| (entry.epoch, entry.next))
    }

    /// What a snapshot has of it: a line each, and a sum over all.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut lines: Vec<String> = self.known.iter().map(line).collect();
        lines.sort();
        let text = lines.concat();
        summed::to_bytes(&text)
    }

    /// Of a snapshot; `None`: it is damaged.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let lines = summed::lines(bytes)?;
        let known = lines.lines().map(parse).collect::<Option<_>>()?;
        Some(Self { known })
    }
}

fn line((id, entry): (&ProducerId, &Entry)) -> String {
    let id: String = id.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let recent: String = entry
        .recent
        .iter()
        .map(|(first, end, offset)| format!(" {first}-{end}@{offset}"))
        .collect();
    format!(
        "{id} {} {} {}{recent}\n",
        entry.epoch, entry.next, entry.appended_ns
    )
}

fn parse(line: &str) -> Option<(ProducerId, Entry)> {
    let mut words = line.split(' ');
    let id = u128::from_str_radix(words.next()?, 16).ok()?;
    let entry = Entry {
        epoch: words.next()?.parse().ok()?,
        next: words.next()?.parse().ok()?,
        appended_ns: words.next()?.parse().ok()?,
        recent: words.map(range).collect::<Option<_>>()?,
    };
    Some((ProducerId(id.to_be_bytes()), entry))
}

fn range(word: &str) -> Option<(u64, u64, u64)> {
    let (range, offset) = word.split_once('@')?;
    let (first, end) = range.split_once('-')?;
    Some((first.parse().ok()?, end.parse().ok()?, offset.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(base_sequence: u64, count: u32, epoch: u32) -> Header {
        Header {
            producer: ProducerId([1; 16]),
            base_offset: 100 + base_sequence,
            base_sequence,
            count,
            epoch,
            ..Header::default()
        }
    }

    #[test]
    fn what_comes_again_is_known_however_late() {
        let none = Producers::default();
        let mut producers = Producers::default();
        for n in 0..10 {
            let batch = header(n * 10, 10, 1);
            assert_eq!(producers.judge(&none, &batch), Ok(Verdict::New));
            producers.note(&batch);
        }
        let known = |n: u64| producers.judge(&none, &header(n * 10, 10, 1));
        assert_eq!(known(9), Ok(Verdict::Repeated(Some(200))));
        assert_eq!(known(0), Ok(Verdict::Repeated(None)), "long ago");
        assert_eq!(
            producers.judge(&none, &header(100, 5, 2)),
            Ok(Verdict::New),
            "a new life"
        );
        let gap = SequenceError::OutOfOrder {
            expected: 100,
            got: 101,
        };
        assert_eq!(producers.judge(&none, &header(101, 1, 1)), Err(gap));
        let overlap = SequenceError::OutOfOrder {
            expected: 100,
            got: 95,
        };
        assert_eq!(producers.judge(&none, &header(95, 10, 1)), Err(overlap));
        producers.note(&header(100, 5, 2));
        assert_eq!(
            producers.judge(&none, &header(105, 1, 1)),
            Err(SequenceError::Fenced(2))
        );
        assert_eq!(producers.state(ProducerId([1; 16])), (2, 105));
    }

    #[test]
    fn a_snapshot_is_read_as_it_was_or_not_at_all() {
        let mut producers = Producers::default();
        for n in 0..7 {
            producers.note(&header(n, 1, 3));
        }
        let bytes = producers.to_bytes();
        assert_eq!(Producers::from_bytes(&bytes), Some(producers));
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert_eq!(Producers::from_bytes(&bytes), None, "byte {at}");
            assert_eq!(Producers::from_bytes(&bytes[..at]), None, "{at} bytes");
        }
        let empty = Producers::default();
        assert_eq!(Producers::from_bytes(&empty.to_bytes()), Some(empty));
    }
}
