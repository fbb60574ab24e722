//! Reads one file: its data in pieces, its holes as such, and whether it has stayed what it was. One that
//! grows meanwhile, as a log does, is read up to where it ended at first; if it is in front still what was
//! read, that is what it once was, and no mixture.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use farpipe_proto::limits::COPY_CHUNK;
use rustix::fs::{FileType, SeekFrom};
use rustix::io::Errno;

use super::message::Meta;
use super::out::READ;
use super::place::special;
use super::sidecar::Digest;

/// A file that is being sent.
#[derive(Debug)]
pub(crate) struct Reading {
    file: File,
    pub(crate) meta: Meta,
    at: u64,
    /// The file has holes; else it is not asked for them.
    is_sparse: bool,
    /// No hole before that.
    data_until: u64,
    /// What is not read, as the other end has it, and its digest.
    kept: Option<(u64, [u8; 32])>,
    /// Of what was read.
    sum: crc32fast::Hasher,
}

/// What comes next of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// At most so many bytes of data.
    Data(usize),
    /// So many bytes that are zero.
    Hole(u64),
    End,
}

/// Why a file is not sent to its end.
pub(crate) const CHANGED: &str =
    "it changed while it was read; copy it when nobody writes to it, or copy a snapshot of it";

impl Reading {
    /// Whatever is there now, if it is a file.
    pub(crate) fn of(fd: OwnedFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            other => return Err(io::Error::other(special(other))),
        }
        let meta = Meta::of(&stat);
        let allocated = u64::try_from(stat.st_blocks)
            .unwrap_or(0)
            .saturating_mul(512);
        let is_sparse = allocated < meta.size;
        Ok(Self {
            file: fd.into(),
            meta,
            at: 0,
            is_sparse,
            data_until: if is_sparse { 0 } else { meta.size },
            kept: None,
            sum: crc32fast::Hasher::new(),
        })
    }

    /// Goes on behind the first `from` bytes, whose digest is this.
    pub(crate) fn skip(&mut self, from: u64, digest: [u8; 32]) {
        self.at = from;
        self.kept = Some((from, digest));
    }

    /// BLAKE3 of the BLAKE3 hashes of the chunks in front of `until`.
    pub(crate) fn digest(&self, until: u64) -> io::Result<[u8; 32]> {
        let mut digest = Digest::default();
        let mut chunk = vec![0; COPY_CHUNK];
        let mut at = 0;
        let mut hole = 0..0;
        while at < until {
            // Whole chunks in a hole are not read: there may be terabytes.
            if self.is_sparse && !hole.contains(&at) {
                hole = at..self.data_from(at)?;
            }
            let zeros = hole.end.min(until).saturating_sub(at) / COPY_CHUNK as u64;
            if zeros > 0 {
                digest.add_zeros(zeros);
                at += zeros * COPY_CHUNK as u64;
                continue;
            }
            self.file.read_exact_at(&mut chunk, at)?;
            digest.add(blake3::hash(&chunk).as_bytes());
            at += COPY_CHUNK as u64;
        }
        Ok(digest.finish())
    }

    /// Where data is next.
    fn data_from(&self, at: u64) -> io::Result<u64> {
        match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            Ok(data) => Ok(data.min(self.meta.size)),
            // There is a hole up to the end.
            Err(Errno::NXIO) => Ok(self.meta.size),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(at),
            Err(error) => Err(error.into()),
        }
    }

    /// What comes next. Data must be read then.
    pub(crate) fn next(&mut self) -> io::Result<Next> {
        if self.at >= self.meta.size {
            return Ok(Next::End);
        }
        if self.at >= self.data_until {
            let data = self.data_from(self.at)?;
            if data > self.at {
                let len = data - self.at;
                self.at = data;
                self.sum.update(&len.to_be_bytes());
                return Ok(Next::Hole(len));
            }
            let until = match rustix::fs::seek(&self.file, SeekFrom::Hole(self.at)) {
                Ok(hole) => hole.min(self.meta.size),
                Err(_) => self.meta.size,
            };
            self.data_until = match until > self.at {
                true => until,
                false => self.meta.size,
            };
        }
        let left = self.data_until - self.at;
        let len = usize::try_from(left).unwrap_or(READ).min(READ);
        Ok(Next::Data(len))
    }

    /// Reads the next bytes; none: the file has become shorter.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read_at(into, self.at) {
                Ok(count) => {
                    self.sum.update(&into[..count]);
                    self.at += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether what was read to its end is one state of the file: nobody wrote to it, or it reads the same
    /// once more, with something behind it.
    pub(crate) fn is_one_state(&self) -> io::Result<bool> {
        let now = Meta::of(&rustix::fs::fstat(&self.file)?);
        Ok(now.is_like(&self.meta) || now.size >= self.meta.size && self.is_the_same_again()?)
    }

    /// Reads all of it once more. What was written there meanwhile would show, as it was not read before or is not
    /// what was.
    fn is_the_same_again(&self) -> io::Result<bool> {
        if let Some((until, digest)) = &self.kept
            && self.digest(*until)? != *digest
        {
            return Ok(false);
        }
        let mut again = Self {
            file: self.file.try_clone()?,
            at: self.kept.map_or(0, |(from, _)| from),
            data_until: if self.is_sparse { 0 } else { self.meta.size },
            sum: crc32fast::Hasher::new(),
            ..*self
        };
        let mut bytes = vec![0; READ];
        loop {
            match again.next()? {
                Next::End => break,
                Next::Hole(_) => {}
                Next::Data(len) if again.read(&mut bytes[..len])? == 0 => return Ok(false),
                Next::Data(_) => {}
            }
        }
        Ok(again.sum.finalize() == self.sum.clone().finalize())
    }
}
