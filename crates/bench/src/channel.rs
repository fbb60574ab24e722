//! The pipes that are measured: anonymous or with a name, as the system makes them or grown.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

/// What an unprivileged user can have by default (/proc/sys/fs/pipe-max-size).
const LARGE: usize = 1 << 20;

/// How the two ends find each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// pipe(2): what a shell makes for `|`.
    Pipe,
    /// mkfifo(3): a name in a file system.
    Fifo,
}

/// How much fits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capacity {
    /// Whatever the system gives: 64 KiB, or less to a user who has many large pipes.
    Default,
    /// 1 MiB.
    Large,
}

/// A pipe to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Channel {
    pub(crate) kind: Kind,
    pub(crate) capacity: Capacity,
}

/// Both ends of a new pipe; blocking.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) reader: OwnedFd,
    pub(crate) writer: OwnedFd,
}

impl Channel {
    pub(crate) fn open(self) -> io::Result<Pair> {
        let pair = match self.kind {
            Kind::Pipe => {
                let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
                Pair { reader, writer }
            }
            Kind::Fifo => fifo(&name())?,
        };
        if self.capacity == Capacity::Large {
            fcntl_setpipe_size(&pair.writer, LARGE)?;
        }
        Ok(pair)
    }

    /// Bytes that fit in.
    pub(crate) fn capacity_bytes(self) -> io::Result<usize> {
        Ok(fcntl_getpipe_size(&self.open()?.writer)?)
    }
}

/// A FIFO that nobody else meets: its name is gone before anything is sent, so nothing is left
/// behind however this process ends.
fn fifo(path: &Path) -> io::Result<Pair> {
    rustix::fs::mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR)?;
    // A blocking open would wait for the other end.
    let flags = OFlags::CLOEXEC | OFlags::NONBLOCK;
    let ends = rustix::fs::open(path, OFlags::RDONLY | flags, Mode::empty()).and_then(|reader| {
        let writer = rustix::fs::open(path, OFlags::WRONLY | flags, Mode::empty())?;
        Ok(Pair { reader, writer })
    });
    std::fs::remove_file(path)?;
    let pair = ends?;
    for end in [&pair.reader, &pair.writer] {
        rustix::io::ioctl_fionbio(end, false)?;
    }
    Ok(pair)
}

fn name() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("farpipe-bench-{}-{count}.fifo", std::process::id()))
}

/// The file descriptions here are this process's alone.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(fd, true)?)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{FileType, fstat};

    use super::*;

    #[test]
    fn both_kinds_are_pipes_of_the_wanted_size_and_block() {
        for kind in [Kind::Pipe, Kind::Fifo] {
            let capacity = Capacity::Large;
            let pair = Channel { kind, capacity }.open().expect("a pipe");
            assert_eq!(fcntl_getpipe_size(&pair.reader), Ok(LARGE), "{kind:?}");
            for end in [&pair.reader, &pair.writer] {
                let stat = fstat(end).expect("an open end");
                assert_eq!(FileType::from_raw_mode(stat.st_mode), FileType::Fifo);
                let flags = rustix::fs::fcntl_getfl(end).expect("an open end");
                assert!(!flags.contains(OFlags::NONBLOCK), "{kind:?}");
            }
        }
    }

    #[test]
    fn a_fifo_leaves_no_name_behind() {
        let path = name();
        let _pair = fifo(&path).expect("a FIFO");
        assert!(!path.exists(), "{}", path.display());
    }
}
