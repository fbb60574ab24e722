//! What is not acknowledged, as pages in pipes.
//!
//! What it holds is bounded by the slots of its pipes, a page or less each, and so by [`KEPT`] bytes at most and by far fewer
//! where a writer writes little at a time. Oldest first: pipes before the one that is filled are given nothing more, those behind
//! it are empty.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice, tee};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe;

use crate::model::{KEPT, PIPE, grow, ready};

/// What a pipe was asked to keep.
#[derive(Debug, PartialEq, Eq)]
pub enum Kept {
    Bytes(usize),
    /// Something must be acknowledged first.
    Full,
    /// The source has ended.
    Ended,
}

struct Keeper {
    read: OwnedFd,
    write: OwnedFd,
    bytes: u64,
}

pub struct Keep {
    keepers: VecDeque<Keeper>,
    filling: usize,
    /// The offset of the first byte that is kept.
    start: u64,
    null: File,
}

impl Keep {
    pub fn new() -> Result<Self> {
        let mut keepers = VecDeque::new();
        for _ in 0..KEPT as usize / PIPE {
            let (read, write) = pipe()?;
            grow(&write);
            keepers.push_back(Keeper {
                read,
                write,
                bytes: 0,
            });
        }
        Ok(Self {
            keepers,
            filling: 0,
            start: 0,
            null: File::options().write(true).open("/dev/null")?,
        })
    }

    /// Keeps up to `max` bytes that the source has and leaves them there; waits until it has some.
    pub fn tee(&mut self, source: &OwnedFd, max: usize) -> Result<Kept> {
        loop {
            let keeper = &mut self.keepers[self.filling];
            match tee(source, &keeper.write, max, SpliceFFlags::SPLICE_F_NONBLOCK) {
                Ok(0) => return Ok(Kept::Ended),
                Ok(n) => {
                    keeper.bytes += n as u64;
                    return Ok(Kept::Bytes(n));
                }
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
            // Either of the two pipes was not ready, and tee does not say which.
            let mut asked = [PollFd::new(source.as_fd(), PollFlags::POLLIN)];
            if keeper.bytes == 0 || poll(&mut asked, PollTimeout::ZERO)? == 0 {
                ready(source.as_fd(), PollFlags::POLLIN)?;
            } else if self.filling + 1 < self.keepers.len() {
                self.filling += 1;
            } else {
                return Ok(Kept::Full);
            }
        }
    }

    /// Drops what lies before `acked`.
    pub fn forget(&mut self, acked: u64) -> Result<()> {
        while self.start < acked {
            let oldest = &mut self.keepers[0];
            if oldest.bytes > 0 {
                let n = (acked - self.start).min(oldest.bytes) as usize;
                let flags = SpliceFFlags::empty();
                let n = splice(&oldest.read, None, &self.null, None, n, flags)? as u64;
                oldest.bytes -= n;
                self.start += n;
            }
            if oldest.bytes == 0 && self.filling > 0 {
                self.keepers.rotate_left(1);
                self.filling -= 1;
            }
        }
        Ok(())
    }

    /// Gives all that is kept to `each`, a pipe at a time, and keeps it: what a resend does. The second
    /// argument says how many bytes are in the pipe.
    #[cfg(test)]
    pub fn again(&self, mut each: impl FnMut(&OwnedFd, usize) -> Result<()>) -> Result<()> {
        let (scratch, write) = pipe()?;
        grow(&write);
        for keeper in self.keepers.iter().filter(|keeper| keeper.bytes > 0) {
            let n = tee(&keeper.read, &write, PIPE, SpliceFFlags::SPLICE_F_NONBLOCK)?;
            anyhow::ensure!(
                n as u64 == keeper.bytes,
                "a pipe holds what it has not kept"
            );
            each(&scratch, n)?;
        }
        Ok(())
    }
}
