//! A segment: a file of batches, one behind the other, and zeros behind the last. Its name is the offset of its first record.
//!
//! What a scan makes of bytes that are no batch: they had been whole and were damaged since if a mark says that they were on the disk, or
//! something stands behind them that was written later. Then they stay, and are skipped. Else they are a write that was cut off: nobody was
//! told that it is there, and it is taken away, also what is whole of it, for it would stand in the place of what is sent again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use farpipe_record::{BATCH_MAX, Batch, Header};

use crate::disk::{DiskFile, is_full, read_all, read_full};

/// Bytes between two places that the index knows.
const INDEX_STEP: u64 = 64 * 1024;
/// Bytes that are read at once, unless a batch has more.
const READ: usize = 256 * 1024;

/// Zeros are written ahead for so many writes as the last one,
const AHEAD: u64 = 16;
/// so many bytes at least,
const AHEAD_MIN: u64 = 64 * 1024;
/// and at most.
const AHEAD_MAX: u64 = 1024 * 1024;

/// What each batch begins with.
const MAGIC: &[u8] = b"fpB1";

/// The name of the segment that begins with this offset.
pub(crate) fn name(base: u64) -> String {
    format!("{base:020}.seg")
}

/// The offset in a name; `None`: it is no segment's.
pub(crate) fn base_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

/// Bytes that are no batch, between such that are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Where they begin in the file.
    pub at: u64,
    /// How many there are.
    pub len: u64,
    /// The first offset that is missing.
    pub from: u64,
    /// The first one that is there again.
    pub to: u64,
}

/// What stands in a segment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scan {
    /// Each batch, and where it begins.
    pub(crate) batches: Vec<(u64, Header)>,
    pub(crate) damaged: Vec<Damage>,
    /// Behind the last batch.
    pub(crate) end: u64,
    /// The offset there.
    pub(crate) next: u64,
    /// The end of a write that was cut off, behind `end`.
    pub(crate) torn: Option<u64>,
}

/// Looks at all of a segment. All before the offset `mark` was whole on the disk once; `u64::MAX`: all that is there, whatever that is.
pub(crate) fn scan(bytes: &Bytes, base: u64, mark: u64) -> Scan {
    let mut scan = Scan {
        next: base,
        ..Scan::default()
    };
    loop {
        let at = scan.end as usize;
        let here = bytes.slice(at.min(bytes.len())..);
        if let Some(batch) = whole(&here).filter(|batch| batch.header().base_offset == scan.next) {
            scan.take(scan.end, &batch);
            continue;
        }
        let Some(last) = here.iter().rposition(|byte| *byte != 0) else {
            // What was there once is not there any more.
            if scan.next < mark && mark != u64::MAX {
                scan.damage(0, mark);
            }
            return scan;
        };
        let rest = last as u64 + 1;
        let found = behind(&here, scan.next);
        let was_whole = scan.next < mark || is_followed(&here, scan.next);
        match (was_whole, found) {
            (true, Some((distance, batch))) => {
                scan.damage(distance as u64, batch.header().base_offset);
                scan.take(scan.end, &batch);
            }
            (true, None) => scan.damage(rest, mark),
            (false, _) => {
                scan.torn = Some(scan.end + rest);
                return scan;
            }
        }
    }
}

/// Whether a batch stands behind what begins here that was written later: by then all of this was on the disk.
fn is_followed(here: &Bytes, next: u64) -> bool {
    let mut from = 0;
    while let Some((distance, batch)) = behind(&here.slice(from..), next) {
        from += distance;
        if (batch.header().written_behind as usize) < from {
            return true;
        }
    }
    false
}

impl Scan {
    /// The next bytes are no batch, and were one.
    fn damage(&mut self, len: u64, to: u64) {
        self.damaged.push(Damage {
            at: self.end,
            len,
            from: self.next,
            to,
        });
        self.end += len;
        self.next = to;
    }

    fn take(&mut self, at: u64, batch: &Batch) {
        self.batches.push((at, *batch.header()));
        self.end = at + batch.bytes().len() as u64;
        self.next = batch.header().end_offset();
    }
}

/// The batch that begins here.
fn whole(bytes: &Bytes) -> Option<Batch> {
    Batch::parse(bytes).ok().flatten()
}

/// The first batch of an offset not before `next` that begins behind the first byte, and where.
fn behind(bytes: &Bytes, next: u64) -> Option<(usize, Batch)> {
    // What a header that is whole speaks for are its records, whatever they look like.
    let mut from = Batch::headed(bytes).unwrap_or(1);
    loop {
        let rest = bytes.get(from..)?;
        let at = from + rest.windows(MAGIC.len()).position(|four| four == MAGIC)?;
        let here = bytes.slice(at..);
        if let Some(batch) = whole(&here)
            && batch.header().base_offset >= next
        {
            return Some((at, batch));
        }
        from = at + Batch::headed(&here).unwrap_or(1);
    }
}

/// What is read of a log: a batch, or that one is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A batch, whole.
    Batch(Batch),
    /// Records that are damaged on the disk: none of these offsets can be had.
    Damaged {
        /// The first one.
        from: u64,
        /// The one behind the last.
        to: u64,
    },
}

/// A segment that is read, and the last one of which is written.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Behind the last batch that readers may see.
    end: AtomicU64,
    /// Behind the last byte that was written, zeros as well.
    written: AtomicU64,
    /// When the log took the last batch; 0: not looked at yet.
    last_ns: AtomicU64,
    /// Offsets and where their batches begin, in order; `None`: not looked at yet.
    index: Mutex<Option<Vec<(u64, u64)>>>,
}

impl Segment {
    /// One that has nothing in it.
    pub(crate) fn empty(base: u64, path: PathBuf, file: Arc<dyn DiskFile>) -> Self {
        Self {
            base,
            path,
            file,
            end: AtomicU64::new(0),
            written: AtomicU64::new(0),
            last_ns: AtomicU64::new(0),
            index: Mutex::new(Some(Vec::new())),
        }
    }

    /// One that was written before, whose end is that of the file until it is looked at.
    pub(crate) fn older(base: u64, path: PathBuf, file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let length = file.length()?;
        Ok(Self {
            base,
            path,
            end: AtomicU64::new(length),
            written: AtomicU64::new(length),
            last_ns: AtomicU64::new(0),
            file,
            index: Mutex::new(None),
        })
    }

    /// Looks at all of it: see [`scan`]. Blocks on the disk.
    pub(crate) fn scan(&self, mark: u64) -> io::Result<Scan> {
        Ok(scan(&Bytes::from(read_all(&*self.file)?), self.base, mark))
    }

    /// It is written from here on, behind what a scan has found.
    pub(crate) fn resume(&self, scan: &Scan) {
        *self.index() = Some(index_of(scan));
        self.end.store(scan.end, Ordering::Release);
    }

    /// Writes batches there, and zeros behind them where nothing was written yet and `max` allows: a sync that changes neither the
    /// length of a file nor which blocks it has is one write of the disk less.
    pub(crate) fn write(&self, bytes: &[u8], at: u64, max: u64) -> io::Result<()> {
        self.file.write_at(bytes, at)?;
        let len = bytes.len() as u64;
        let end = at + len;
        if end <= self.written.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.written.store(end, Ordering::Relaxed);
        // A large write takes long for its bytes, and zeros would double them.
        let ahead = (len * AHEAD)
            .clamp(AHEAD_MIN, AHEAD_MAX)
            .min(max.saturating_sub(end));
        if len > AHEAD_MAX / AHEAD || ahead == 0 {
            return Ok(());
        }
        let zeros = vec![0; usize::try_from(ahead).map_err(io::Error::other)?];
        match self.file.write_at(&zeros, end) {
            // The batches have found room, and need no more.
            Err(error) if !is_full(&error) => Err(error),
            Err(_) => Ok(()),
            Ok(()) => {
                self.written.store(end + ahead, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// A batch was written at its end.
    pub(crate) fn grew(&self, offset: u64, at: u64, end: u64) {
        if let Some(index) = &mut *self.index() {
            note(index, offset, at);
        }
        self.end.store(end, Ordering::Release);
    }

    /// When the log took its last batch; `None`: it has none. Blocks on the disk the first time.
    pub(crate) fn last_ns(&self) -> io::Result<Option<u64>> {
        let known = self.last_ns.load(Ordering::Relaxed);
        if known > 0 {
            return Ok(Some(known));
        }
        let scan = self.scan(u64::MAX)?;
        let last = scan.batches.last().map(|(_, header)| header.appended_ns);
        self.last_ns.store(last.unwrap_or(0), Ordering::Relaxed);
        Ok(last)
    }

    /// Writes what stands behind the offset `whole` over itself: a system that has failed to write it says that it has, and forgets.
    pub(crate) fn write_again(&self, scan: &Scan, whole: u64) -> io::Result<()> {
        let mut behind = scan.batches.iter();
        let first = behind.find(|(_, header)| header.end_offset() > whole);
        if let Some((at, _)) = first {
            let bytes = self.bytes(*at, scan.end, usize::MAX)?;
            self.file.write_at(&bytes, *at)?;
        }
        self.file.sync()
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    fn index(&self) -> std::sync::MutexGuard<'_, Option<Vec<(u64, u64)>>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to begin to look for an offset.
    fn place_of(&self, offset: u64) -> io::Result<u64> {
        let is_new = self.index().is_none();
        if is_new {
            let found = index_of(&self.scan(u64::MAX)?);
            *self.index() = Some(found);
        }
        let index = self.index();
        let places = index.as_deref().unwrap_or_default();
        let behind = places.partition_point(|(first, _)| *first <= offset);
        Ok(places[..behind].last().map_or(0, |(_, at)| *at))
    }

    /// Batches from the one with `offset` on, about `max` bytes and one at least; before `next`, which is the first offset of the
    /// next segment, or the end of what may be read. Blocks on the disk.
    pub(crate) fn read(&self, offset: u64, max: usize, next: u64) -> io::Result<Vec<Piece>> {
        let mut at = self.place_of(offset)?;
        // The first offset that has not been seen, where that is known.
        let mut expected = (at == 0).then_some(self.base);
        let (mut pieces, mut sum) = (Vec::new(), 0);
        let (end, mut wanted) = (self.end(), READ);
        'all: while at < end && sum < max {
            let chunk = self.bytes(at, end, wanted)?;
            let mut used = 0;
            while sum < max
                && let Some(batch) = whole(&chunk.slice(used..))
            {
                used += batch.bytes().len();
                let (first, behind) = (batch.header().base_offset, batch.header().end_offset());
                if first >= next {
                    break 'all;
                }
                // What is missing before `offset` is none of this reader's.
                let from = expected.map(|missing| offset.max(missing));
                if let Some(from) = from.filter(|from| *from < first) {
                    pieces.push(Piece::Damaged { from, to: first });
                }
                expected = Some(behind);
                if behind > offset {
                    sum += batch.bytes().len();
                    pieces.push(Piece::Batch(batch));
                }
            }
            at += used as u64;
            if used > 0 {
                wanted = READ;
            } else if wanted < BATCH_MAX && at + (wanted as u64) < end {
                wanted = BATCH_MAX;
            } else {
                // No batch begins here: the next one is looked for.
                let rest = self.bytes(at, end, usize::MAX)?;
                let seen = expected.unwrap_or(self.base);
                expected = Some(seen.max(offset));
                let Some((distance, _)) = behind(&rest, seen) else {
                    break;
                };
                at += distance as u64;
            }
        }
        // What has no batch up to where the next segment begins, or readers may see, is not there any more.
        let from = expected.unwrap_or(offset).max(offset);
        if sum < max && from < next {
            pieces.push(Piece::Damaged { from, to: next });
        }
        Ok(pieces)
    }

    /// What stands from `at` on, before `end`, and `max` bytes at most.
    fn bytes(&self, at: u64, end: u64, max: usize) -> io::Result<Bytes> {
        let len = usize::try_from(end - at).map_or(max, |left| left.min(max));
        let mut bytes = vec![0; len];
        let read = read_full(&*self.file, &mut bytes, at)?;
        bytes.truncate(read);
        Ok(bytes.into())
    }
}

fn index_of(scan: &Scan) -> Vec<(u64, u64)> {
    let mut index = Vec::new();
    for (at, header) in &scan.batches {
        note(&mut index, header.base_offset, *at);
    }
    index
}

fn note(index: &mut Vec<(u64, u64)>, offset: u64, at: u64) {
    let is_far = index.last().is_none_or(|(_, last)| at >= last + INDEX_STEP);
    if is_far {
        index.push((offset, at));
    }
}

/// The path of a segment.
pub(crate) fn path(dir: &Path, base: u64) -> PathBuf {
    dir.join(name(base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_written_ahead_of_small_writes_and_never_beyond_a_segment() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = path(dir.path(), 0);
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .expect("a file");
        let length = || std::fs::metadata(&path).expect("there").len();
        let segment = Segment::empty(0, path.clone(), Arc::new(file));
        let max = 1 << 20;
        segment.write(&[1; 100], 0, max).expect("written");
        assert_eq!(length(), 100 + AHEAD_MIN);
        segment.write(&[2; 100], 100, max).expect("written");
        assert_eq!(length(), 100 + AHEAD_MIN, "into what is there");
        segment.write(&[3; 200_000], 200, max).expect("written");
        assert_eq!(length(), 200_200, "a large one is as long as it is");
        segment
            .write(&[4; 50_000], max - 60_000, max)
            .expect("written");
        assert_eq!(length(), max);
        let content = std::fs::read(&path).expect("read");
        assert!(content[..100].iter().all(|byte| *byte == 1));
        assert!(
            content[max as usize - 10_000..]
                .iter()
                .all(|byte| *byte == 0)
        );
    }
}
