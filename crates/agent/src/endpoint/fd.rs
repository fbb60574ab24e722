//! What a descriptor is, and what may be done to it without touching what other processes share.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::fs::FileType;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Half;

/// The ways a descriptor can be read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Anonymous pipe or FIFO.
    Pipe,
    /// Any socket.
    Socket,
    /// Regular file: epoll refuses it, a read blocks for the disk only.
    Regular,
    /// A directory has no bytes.
    Directory,
    /// Terminal, device: epoll may refuse it, a read may block for ever.
    Device,
}

/// Asks the system what `fd` is.
pub(super) fn kind(fd: BorrowedFd<'_>) -> io::Result<Kind> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => Kind::Pipe,
        FileType::Socket => Kind::Socket,
        FileType::RegularFile => Kind::Regular,
        FileType::Directory => Kind::Directory,
        FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Symlink
        | FileType::Unknown => Kind::Device,
    })
}

/// Whether both lead to the same file, pipe or socket.
pub(super) fn is_same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    match (rustix::fs::fstat(a), rustix::fs::fstat(b)) {
        (Ok(a), Ok(b)) => a.st_dev == b.st_dev && a.st_ino == b.st_ino,
        (Ok(_) | Err(_), _) => false,
    }
}

/// Bytes between the current position and the end, if `fd` is a regular file with a size.
pub(super) fn size_left(fd: BorrowedFd<'_>) -> Option<u64> {
    let size = u64::try_from(rustix::fs::fstat(fd).ok()?.st_size).ok()?;
    let position = rustix::fs::tell(fd).ok()?;
    size.checked_sub(position).filter(|&left| left > 0)
}

/// A copy of `fd` that shares its file description, above the three standard ones and closed in
/// children.
pub(super) fn dup(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

/// Opens the pipe behind `fd` once more: a file description of our own, which may be non-blocking
/// while the one that others share stays as it is.
#[cfg(target_os = "linux")]
pub(super) fn reopen_pipe(fd: BorrowedFd<'_>, half: Half) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{Mode, OFlags};

    let access = match half {
        Half::Source => OFlags::RDONLY,
        Half::Sink => OFlags::WRONLY,
    };
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Elsewhere `/dev/fd` only duplicates.
#[cfg(not(target_os = "linux"))]
pub(super) fn reopen_pipe(_fd: BorrowedFd<'_>, _half: Half) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Grows a pipe to [`PIPE_SIZE`], or as near to it as this user may; never shrinks it. Returns
/// what it holds then.
#[cfg(target_os = "linux")]
pub(super) fn grow_pipe(fd: BorrowedFd<'_>) -> usize {
    let now = rustix::pipe::fcntl_getpipe_size(fd).unwrap_or(0);
    // Past their share (64 pipes of 1 MiB by default) users get EPERM; a smaller step may fit.
    let mut wanted = PIPE_SIZE;
    while wanted > now {
        if let Ok(granted) = rustix::pipe::fcntl_setpipe_size(fd, wanted) {
            return granted;
        }
        wanted /= 2;
    }
    now
}

/// Pipes elsewhere have the size they have.
#[cfg(not(target_os = "linux"))]
pub(super) fn grow_pipe(_fd: BorrowedFd<'_>) -> usize {
    0
}

/// Whether a read of `fd` would return at once: data, the end or an error.
pub(super) fn is_readable_now(fd: BorrowedFd<'_>) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match poll(&mut fds, Some(&at_once)) {
        Ok(ready) => Ok(ready > 0),
        // A signal came in between; the read will tell.
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Registers a descriptor with the runtime, whatever its flags are.
#[expect(
    deprecated,
    reason = "the successor is unsafe for the sake of types whose descriptor may change or close \
              while it is registered; an OwnedFd's can do neither"
)]
pub(super) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

/// Notices that the reading end of a pipe or the far end of a socket is gone, while nothing is
/// written.
///
/// A duplicate is registered without interest in writability, so the only thing that can make it
/// "ready to write" is the closing of that direction (EPOLLERR of a pipe, EPOLLHUP of a socket).
#[derive(Debug)]
pub(super) struct ReaderGone(AsyncFd<OwnedFd>);

impl ReaderGone {
    pub(super) fn watch(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(register(dup(fd)?, Interest::ERROR)?))
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(self.0.poll_write_ready(cx)) {
            Ok(mut guard) => guard.retain_ready(),
            // The runtime is shutting down: nobody is left to be told.
            Err(_) => return Poll::Pending,
        }
        Poll::Ready(())
    }
}

/// The lazily made [`ReaderGone`] of a sink.
pub(super) fn poll_gone(
    watch: &mut Option<ReaderGone>,
    fd: impl AsFd,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if watch.is_none() {
        match ReaderGone::watch(fd.as_fd()) {
            Ok(made) => *watch = Some(made),
            // Out of descriptors, or a kind that epoll refuses: the next write will tell.
            Err(error) => {
                tracing::debug!(%error, "cannot watch for the reader's end");
                return Poll::Pending;
            }
        }
    }
    watch.as_ref().map_or(Poll::Pending, |watch| watch.poll(cx))
}

/// What pipes are grown to: the most an unprivileged user gets by default (measured: +48 %
/// throughput over 64 KiB).
#[cfg(target_os = "linux")]
pub(super) const PIPE_SIZE: usize = 1 << 20;
