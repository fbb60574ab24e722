//! The mark of a directory that a copy makes and that is not whole yet: a file in it, under a name of ours,
//! that says which source it is a copy of. It goes when all is in its place.
//!
//! A copy of DIR to NEW makes NEW; asked for again, it would make NEW/DIR, as NEW is there by then. By the mark it
//! is known that NEW itself is what is wanted, as when it was asked for first.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::name::PART;
use super::part::is_mine;

/// As that of a file's part, with nothing in front.
const MARK: &[u8] = PART;
/// No name is longer.
const SOURCE_MAX: u64 = 255;

/// Marks a directory that was made just now, as a copy of `source`; empty: of one without a name.
pub(crate) fn set(dir: &OwnedFd, source: &[u8]) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, MARK, flags, Mode::RUSR | Mode::WUSR)?;
    File::from(fd).write_all(source)
}

/// What a marked directory is to be a copy of. What is wrong with a mark makes it none.
pub(crate) fn look(dir: &OwnedFd) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, MARK, flags, Mode::empty()).ok()?;
    if !is_mine(&rustix::fs::fstat(&fd).ok()?) {
        return None;
    }
    let mut source = Vec::new();
    let read = File::from(fd).take(SOURCE_MAX + 1).read_to_end(&mut source);
    (read.is_ok() && source.len() as u64 <= SOURCE_MAX).then_some(source)
}

/// All is in its place.
pub(crate) fn remove(dir: &OwnedFd) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, MARK, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
