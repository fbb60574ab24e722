//! A partition: its segments, as they are written by the store and read by everybody.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farpipe_record::{Batch, Header, ProducerId};
use tokio::sync::watch;

use crate::mark::Mark;
use crate::producers::Producers;
use crate::segment::{Piece, Segment};

/// Bytes of the newest batches of a partition that are kept in memory: who follows a topic does not read the disk.
const CACHE: usize = 4 << 20;
/// The same, of all partitions of this process. Policy when full: a partition that gets more keeps less.
pub const CACHE_MAX: usize = 64 << 20;

/// Bytes that all partitions keep.
static CACHED: AtomicUsize = AtomicUsize::new(0);

/// Why nothing is read. To ask for the same again does not help.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such record: not any more, or not yet.
    #[error("offset {offset} is not there: the first is {start}, the next one to come {end}")]
    OutOfRange {
        /// What was asked for.
        offset: u64,
        /// The first that is there.
        start: u64,
        /// The one behind the last.
        end: u64,
    },
    /// The disk.
    #[error("cannot read: {0}")]
    Disk(#[from] io::Error),
}

/// What readers and the store share.
#[derive(Debug)]
pub struct Partition {
    state: Mutex<State>,
    /// The offset behind the last record that readers may see.
    end: watch::Sender<u64>,
    /// Its topic was removed.
    is_over: watch::Sender<bool>,
    /// What is on the disk.
    pub(crate) mark: Mark,
}

#[derive(Debug)]
pub(crate) struct State {
    /// In order; the last one is written.
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) producers: Producers,
    newest: VecDeque<Batch>,
    newest_bytes: usize,
    /// Where records were found damaged: the first offset, and the one behind the last.
    pub(crate) damaged: BTreeMap<u64, u64>,
}

impl Partition {
    pub(crate) fn new(
        segments: Vec<Arc<Segment>>,
        producers: Producers,
        end: u64,
        mark: Mark,
    ) -> Self {
        Self {
            state: Mutex::new(State {
                segments,
                producers,
                newest: VecDeque::new(),
                newest_bytes: 0,
                damaged: BTreeMap::new(),
            }),
            end: watch::Sender::new(end),
            is_over: watch::Sender::new(false),
            mark,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The offset of the first record that is there.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.lock().segments.first().map_or(0, |first| first.base)
    }

    /// The offset behind the last record that has what its topic promises.
    #[must_use]
    pub fn end(&self) -> u64 {
        *self.end.borrow()
    }

    /// Changes of [`Partition::end`].
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    /// Whether its topic was removed: nothing comes any more, and soon there is nothing.
    #[must_use]
    pub fn is_over(&self) -> bool {
        *self.is_over.borrow()
    }

    /// Ready when there is more than `offset`, or the topic was removed.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn changed(&self, offset: u64) {
        let (mut end, mut is_over) = (self.end.subscribe(), self.is_over.subscribe());
        // The senders live as long as this.
        tokio::select! {
            _ = end.wait_for(|end| *end > offset) => {}
            _ = is_over.wait_for(|is_over| *is_over) => {}
        }
    }

    pub(crate) fn end_for_good(&self) {
        self.is_over.send_replace(true);
    }

    /// Records that were found damaged since the log was opened.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        let state = self.lock();
        state.damaged.iter().map(|(from, to)| to - from).sum()
    }

    /// Bytes of batches on the disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lock().segments.iter().map(|one| one.end()).sum()
    }

    /// The life of a producer, and the number behind its last record that is kept here; zeros if it is not known.
    #[must_use]
    pub fn producer(&self, id: ProducerId) -> (u32, u64) {
        self.lock().producers.state(id)
    }

    /// What stands from `offset` on: about `max` bytes of batches, and one at least if there is any. The first batch may begin
    /// before `offset`. Blocks on the disk unless it is among the newest.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&self, offset: u64, max: usize) -> Result<Vec<Piece>, ReadError> {
        let (segment, next) = {
            let state = self.lock();
            let (start, end) = (
                state.segments.first().map_or(0, |first| first.base),
                self.end(),
            );
            if offset < start || offset > end {
                return Err(ReadError::OutOfRange { offset, start, end });
            }
            if offset == end {
                return Ok(Vec::new());
            }
            if let Some(pieces) = state.newest(offset, max) {
                return Ok(pieces);
            }
            let behind = state.segments.partition_point(|one| one.base <= offset);
            let next = state.segments.get(behind).map_or(end, |one| one.base);
            (Arc::clone(&state.segments[behind - 1]), next.min(end))
        };
        let pieces = segment.read(offset, max, next)?;
        for piece in &pieces {
            if let Piece::Damaged { from, to } = piece {
                self.lock().note_damaged(*from, *to);
            }
        }
        Ok(pieces)
    }

    /// The same, if all of it is in memory; `None`: ask [`Partition::read`].
    #[must_use]
    pub fn newest(&self, offset: u64, max: usize) -> Option<Vec<Piece>> {
        self.lock().newest(offset, max)
    }

    /// The offset of the first record whose batch was not appended before `time_ns`, which is that of the end if there is none.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// As the system says.
    pub fn offset_at(&self, time_ns: u64) -> io::Result<u64> {
        let segments = self.lock().segments.clone();
        for segment in segments {
            let scan = segment.scan(u64::MAX)?;
            let first = scan
                .batches
                .iter()
                .find(|(_, header)| header.appended_ns >= time_ns);
            if let Some((_, header)) = first {
                return Ok(header.base_offset.min(self.end()));
            }
        }
        Ok(self.end())
    }

    /// Batches have what is promised: readers may see them.
    pub(crate) fn publish(&self, batches: Vec<Batch>, end: u64) {
        {
            let mut state = self.lock();
            for batch in batches {
                state.newest_bytes += batch.bytes().len();
                CACHED.fetch_add(batch.bytes().len(), Ordering::Relaxed);
                state.newest.push_back(batch);
            }
            let is_much = |state: &State| {
                state.newest_bytes > CACHE || CACHED.load(Ordering::Relaxed) > CACHE_MAX
            };
            while is_much(&state)
                && let Some(oldest) = state.newest.pop_front()
            {
                state.newest_bytes -= oldest.bytes().len();
                CACHED.fetch_sub(oldest.bytes().len(), Ordering::Relaxed);
            }
        }
        self.end.send_replace(end);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        CACHED.fetch_sub(self.newest_bytes, Ordering::Relaxed);
    }
}

impl State {
    /// Each record counts once, however often it is asked for and from where.
    pub(crate) fn note_damaged(&mut self, mut from: u64, mut to: u64) {
        let overlaps = |(first, behind): &(&u64, &u64)| **first <= to && from <= **behind;
        let joined: Vec<u64> = self
            .damaged
            .iter()
            .filter(overlaps)
            .map(|(first, _)| *first)
            .collect();
        for first in joined {
            if let Some(behind) = self.damaged.remove(&first) {
                (from, to) = (from.min(first), to.max(behind));
            }
        }
        self.damaged.insert(from, to);
    }

    /// If `offset` is among the newest.
    fn newest(&self, offset: u64, max: usize) -> Option<Vec<Piece>> {
        let first = self.newest.front()?.header().base_offset;
        if offset < first {
            return None;
        }
        let before = |batch: &Batch| batch.header().end_offset() <= offset;
        let from = self.newest.partition_point(before);
        let (mut pieces, mut sum) = (Vec::new(), 0);
        for batch in self.newest.range(from..) {
            if sum >= max {
                break;
            }
            sum += batch.bytes().len();
            pieces.push(Piece::Batch(batch.clone()));
        }
        Some(pieces)
    }

    /// The segment that is written, if there is one.
    pub(crate) fn last(&self) -> Option<Arc<Segment>> {
        self.segments.last().cloned()
    }
}

/// A batch that is to be written with others.
#[derive(Debug)]
pub(crate) struct Staged {
    /// Whose it is among all that are written in this turn.
    pub(crate) number: usize,
    pub(crate) header: Header,
    pub(crate) batch: Batch,
    /// Where it begins in the segment.
    pub(crate) at: u64,
}

/// What is about to be written to a partition in one turn.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) partition: Arc<Partition>,
    pub(crate) dir: PathBuf,
    pub(crate) segment: Arc<Segment>,
    /// Written already; readers do not see them yet.
    pub(crate) written: Vec<Staged>,
    pub(crate) staged: Vec<Staged>,
    /// The bytes of those.
    pub(crate) bytes: Vec<u8>,
    /// What these say of their producers.
    pub(crate) producers: Producers,
    pub(crate) next: u64,
    /// There was no room for one: those behind it wait as well.
    pub(crate) is_full: bool,
    /// Files that were written.
    pub(crate) touched: Vec<Arc<Segment>>,
}
