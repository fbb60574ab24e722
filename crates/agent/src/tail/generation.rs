//! One file, read from an offset on, whatever it is called by now. Before each read it is made sure that it
//! still has the last bytes that were read: a file that was emptied and has grown again since is another
//! one, though it has the same number and is long enough.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use farpipe_proto::limits::{TAIL_DATA_MAX, TAIL_HOLD, TAIL_LAST_MAX};
use farpipe_proto::wire::tail::{TailFile, TailPosition};

use super::identity::{self, Seen};
use super::positions::keep_last;
use super::siblings::Opened;

/// A file that is read.
#[derive(Debug)]
pub(super) struct Generation {
    /// What it is called in what is passed on.
    pub(super) number: u32,
    pub(super) id: TailFile,
    file: Opened,
    at: At,
    /// Nothing beyond this is read: how large it was, if it is not followed.
    end: u64,
    /// When it was written at the last look that found nothing new.
    looked_ns: Option<u64>,
    /// Since when the beginning of a line waits for its end.
    held: Option<Instant>,
    /// When there was something new.
    pub(super) grew: Instant,
    /// When it was found that it has lost its name.
    pub(super) lost_name: Option<Instant>,
}

/// Up to where a file was read, and with what in front of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct At {
    pub(super) offset: u64,
    pub(super) last: Vec<u8>,
}

/// How lines are passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    /// As the bytes come.
    Parts,
    /// As a whole, so that those of several files do not mix; but not for ever.
    Whole,
}

/// What a read has found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Bytes {
        offset: u64,
        bytes: Vec<u8>,
    },
    /// The beginning of a line, which is left there for a while.
    Held,
    /// Nothing new.
    End,
    /// What was read is not there any more.
    Rewritten,
}

impl At {
    /// This place in a file, with what is in front of it there.
    pub(super) fn of(file: &File, offset: u64) -> io::Result<Self> {
        let len = offset.min(TAIL_LAST_MAX as u64);
        let mut last = vec![0; usize::try_from(len).unwrap_or_default()];
        file.read_exact_at(&mut last, offset - len)?;
        Ok(Self { offset, last })
    }

    /// Whether a file has just this in front of it.
    pub(super) fn is_in(&self, file: &File) -> bool {
        Self::of(file, self.offset).is_ok_and(|there| {
            let known = self.last.len().min(there.last.len());
            self.last.ends_with(&there.last[there.last.len() - known..])
        })
    }
}

impl From<&TailPosition> for At {
    fn from(position: &TailPosition) -> Self {
        // A peer's word: no more than there can be.
        let len = position.offset.min(TAIL_LAST_MAX as u64);
        let len = usize::try_from(len).unwrap_or_default();
        let from = position.last.len().saturating_sub(len);
        Self {
            offset: position.offset,
            last: position.last[from..].to_vec(),
        }
    }
}

impl Generation {
    /// Reads `file` from there on; up to `end` alone, if that is told.
    pub(super) fn new(
        number: u32,
        file: Opened,
        seen: &Seen,
        at: At,
        end: Option<u64>,
        now: Instant,
    ) -> Self {
        Self {
            number,
            id: seen.file,
            file,
            at,
            end: end.unwrap_or(u64::MAX),
            looked_ns: None,
            held: None,
            grew: now,
            lost_name: None,
        }
    }

    /// The same file from its start, as another one.
    pub(super) fn again(self, number: u32, now: Instant) -> Self {
        Self {
            number,
            at: At::default(),
            looked_ns: None,
            held: None,
            grew: now,
            ..self
        }
    }

    pub(super) fn at(&self) -> &At {
        &self.at
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn seen(&self) -> io::Result<Seen> {
        identity::of(&self.file)
    }

    /// Whether the beginning of a line waits.
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Where it is, for whoever asks for the rest later.
    pub(super) fn position(&self, path: Vec<u8>) -> TailPosition {
        TailPosition {
            path,
            file: Some(self.id),
            offset: self.at.offset,
            last: self.at.last.clone(),
        }
    }

    /// Reads what comes next and lies before `limit`.
    pub(super) fn read(&mut self, limit: u64, lines: Lines, now: Instant) -> io::Result<Piece> {
        let seen = self.seen()?;
        let At { offset, last } = &self.at;
        let offset = *offset;
        if seen.size < offset {
            return Ok(Piece::Rewritten);
        }
        if seen.size == offset && self.looked_ns == Some(seen.written_ns) {
            return Ok(Piece::End);
        }
        let size = seen.size.min(limit).min(self.end).max(offset);
        let new = usize::try_from(size - offset).unwrap_or(usize::MAX);
        let (before, new) = (last.len(), new.min(TAIL_DATA_MAX));
        let mut bytes = vec![0; before + new];
        let got = read_at(&self.file, &mut bytes, offset - before as u64)?;
        bytes.truncate(got);
        if bytes.get(..before) != Some(last.as_slice()) {
            return Ok(Piece::Rewritten);
        }
        bytes.drain(..before);
        if bytes.is_empty() {
            self.looked_ns = Some(seen.written_ns);
            return Ok(Piece::End);
        }
        let len = match lines {
            Lines::Parts => bytes.len(),
            Lines::Whole => self.passed_on(&bytes, now),
        };
        if len == 0 {
            return Ok(Piece::Held);
        }
        bytes.truncate(len);
        self.held = None;
        self.grew = now;
        self.at.offset += len as u64;
        keep_last(&mut self.at.last, &bytes);
        Ok(Piece::Bytes { offset, bytes })
    }

    /// How much may be passed on so that no line is torn, unless it is too long or waits too long.
    fn passed_on(&mut self, bytes: &[u8], now: Instant) -> usize {
        if let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return end + 1;
        }
        let since = *self.held.get_or_insert(now);
        let is_long = bytes.len() >= TAIL_DATA_MAX;
        match is_long || now.duration_since(since) >= TAIL_HOLD {
            true => bytes.len(),
            false => 0,
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn read_at(file: &File, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buf.len() {
        match file.read_at(&mut buf[got..], at + got as u64) {
            Ok(0) => break,
            Ok(len) => got += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn generation(file: &File) -> Generation {
        let file = file.try_clone().expect("a descriptor more");
        let seen = identity::of(&file).expect("it is open");
        Generation::new(1, file.into(), &seen, At::default(), None, Instant::now())
    }

    fn bytes(piece: io::Result<Piece>) -> Vec<u8> {
        match piece.expect("it can be read") {
            Piece::Bytes { bytes, .. } => bytes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_that_was_emptied_and_grew_again_is_another_one() {
        let mut file = tempfile::tempfile().expect("a file");
        let mut generation = generation(&file);
        let mut read = || generation.read(u64::MAX, Lines::Parts, Instant::now());
        file.write_all(b"one\ntwo\n").expect("written");
        assert_eq!(bytes(read()), b"one\ntwo\n");
        assert_eq!(read().expect("read"), Piece::End);
        file.set_len(0).expect("emptied");
        file.write_all_at(b"other lines, and more of them\n", 0)
            .expect("written");
        assert_eq!(read().expect("read"), Piece::Rewritten);
    }

    #[test]
    fn the_beginning_of_a_line_waits_a_second() {
        let mut file = tempfile::tempfile().expect("a file");
        let mut generation = generation(&file);
        let now = Instant::now();
        let mut read = |now| generation.read(u64::MAX, Lines::Whole, now);
        file.write_all(b"whole\nhalf").expect("written");
        assert_eq!(bytes(read(now)), b"whole\n");
        assert_eq!(read(now).expect("read"), Piece::Held);
        assert_eq!(bytes(read(now + TAIL_HOLD)), b"half");
        file.write_all(b" again").expect("written");
        let now = now + TAIL_HOLD;
        assert_eq!(read(now).expect("read"), Piece::Held);
        file.write_all(b"\n").expect("written");
        assert_eq!(bytes(read(now)), b" again\n");
    }
}
