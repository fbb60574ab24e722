//! The one place of this crate that calls an unsafe function: rustix has no safe vmsplice(2),
//! because on the reading end of a pipe the call writes into the memory it is given.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags};
use rustix::io::retry_on_intr;
use rustix::pipe::{IoSliceRaw, SpliceFlags, fcntl_getpipe_size};

use crate::pattern;

/// Pages are 4 KiB, 16 KiB or 64 KiB.
const PAGE_MAX: usize = 64 << 10;

/// Memory that begins with a page and never changes.
#[derive(Debug)]
pub(super) struct Pages {
    memory: Vec<u8>,
    range: Range<usize>,
}

impl Pages {
    /// The first `len` bytes of the pattern.
    pub(super) fn patterned(len: usize) -> Self {
        let mut memory = vec![0; len + PAGE_MAX];
        let start = memory.as_ptr().align_offset(PAGE_MAX);
        let range = start..start + len;
        pattern::fill(0, &mut memory[range.clone()]);
        Self { memory, range }
    }

    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.range.clone()]
    }
}

/// The writing end of a pipe, and surely that.
#[derive(Debug)]
pub(super) struct WriteEnd(OwnedFd);

impl WriteEnd {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        let access = rustix::fs::fcntl_getfl(&fd)? & OFlags::RWMODE;
        if kind != FileType::Fifo || access != OFlags::WRONLY {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self(fd))
    }

    /// Bytes that fit into the pipe.
    pub(super) fn capacity(&self) -> io::Result<usize> {
        Ok(fcntl_getpipe_size(&self.0)?)
    }

    /// Puts the pages behind `range` into the pipe, as many as fit; waits for the first. The pipe
    /// reads the memory until the other end has read the bytes: if `pages` are dropped before that
    /// other bytes may arrive.
    #[expect(unsafe_code, reason = "rustix has no safe function for it")]
    pub(super) fn splice(&self, pages: &Pages, range: Range<usize>) -> io::Result<usize> {
        let bytes = &pages.bytes()[range];
        let sent = retry_on_intr(|| {
            let bufs = [IoSliceRaw::from_slice(bytes)];
            // SAFETY: what `fd` is was checked when `self` was made and cannot change, and on the
            // writing end of a pipe the kernel only reads the memory. It does so by references of
            // its own to the pages, so that freeing the memory frees none of them under it. The
            // pages are not given away: without SPLICE_F_GIFT they stay ours in every respect.
            unsafe { rustix::pipe::vmsplice(&self.0, &bufs, SpliceFlags::empty()) }
        })?;
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_writing_end_of_a_pipe_is_taken() {
        let (reader, writer) = io::pipe().expect("a pipe");
        WriteEnd::new(writer.into()).expect("a writing end");
        let refused = |fd: OwnedFd| {
            let error = WriteEnd::new(fd).expect_err("no writing end of a pipe");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        };
        refused(reader.into());
        let null = std::fs::File::options().write(true).open("/dev/null");
        refused(null.expect("a file").into());
    }

    #[test]
    fn pages_begin_with_a_page() {
        let pages = Pages::patterned(10_000);
        assert_eq!(pages.bytes().as_ptr().align_offset(PAGE_MAX), 0);
        assert_eq!(pages.len(), 10_000);
        assert_eq!(pattern::mismatch(0, pages.bytes()), None);
    }
}
