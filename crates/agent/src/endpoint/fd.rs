//! What a descriptor is, and what may be done to it without touching what other processes share.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use farpipe_proto::limits::PROMPT_BYTES_MIN;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Half;

/// The ways a descriptor can be read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
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
pub(crate) fn kind(fd: BorrowedFd<'_>) -> io::Result<Kind> {
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

/// Refuses a socket that carries messages: a read into less room than one of them loses its rest,
/// and where one ends means nothing to a pipe.
pub(crate) fn check_is_stream(fd: BorrowedFd<'_>, kind: Kind) -> io::Result<()> {
    use rustix::net::SocketType;

    if kind != Kind::Socket || rustix::net::sockopt::socket_type(fd)? == SocketType::STREAM {
        return Ok(());
    }
    let why = "it is a socket of messages, not of a stream";
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}

/// A regular file of this host, whatever its names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

/// Which regular file `fd` is, if it is one.
pub(crate) fn regular_file(fd: BorrowedFd<'_>) -> Option<FileId> {
    let stat = rustix::fs::fstat(fd).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(FileId {
        device: stat.st_dev,
        inode: stat.st_ino,
    })
}

/// Whether both lead to the same file, pipe or socket.
pub(crate) fn is_same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    match (rustix::fs::fstat(a), rustix::fs::fstat(b)) {
        (Ok(a), Ok(b)) => a.st_dev == b.st_dev && a.st_ino == b.st_ino,
        (Ok(_) | Err(_), _) => false,
    }
}

/// Bytes between the current position and the end, if `fd` is a regular file with a size.
pub(crate) fn size_left(fd: BorrowedFd<'_>) -> Option<u64> {
    let size = u64::try_from(rustix::fs::fstat(fd).ok()?.st_size).ok()?;
    let position = rustix::fs::tell(fd).ok()?;
    size.checked_sub(position).filter(|&left| left > 0)
}

/// A copy of `fd` that shares its file description, above the three standard ones and closed in
/// children.
pub(crate) fn dup(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

/// Opens the pipe or file behind `fd` once more: a file description of our own, which may be
/// non-blocking or locked while the one that others share stays as it is.
#[cfg(target_os = "linux")]
pub(crate) fn reopen(fd: BorrowedFd<'_>, half: Half) -> io::Result<OwnedFd> {
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
pub(crate) fn reopen(_fd: BorrowedFd<'_>, _half: Half) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A pipe that was grown, counted until dropped.
#[derive(Debug)]
pub(crate) struct Grown {
    capacity: usize,
    /// Where it is counted, if it is.
    counter: Option<&'static AtomicUsize>,
}

impl Grown {
    /// Grows a pipe to 1 MiB (measured: +48 % throughput over 64 KiB), or as near to it as this
    /// user may; never shrinks it.
    ///
    /// Linux gives each user 64 MiB of pipes; who uses them up gets pipes of 8 KiB from then on,
    /// in all processes. So this process takes half of that at most, and further pipes stay as
    /// they are.
    pub(crate) fn new(fd: BorrowedFd<'_>) -> Self {
        Self::within(fd, PIPE_SIZE, GROWN_MAX, &GROWN)
    }

    /// Makes a pipe small, where the system can: what it holds is on its way to somebody who waits for it.
    pub(crate) fn small(fd: BorrowedFd<'_>) -> Self {
        Self {
            capacity: shrink_pipe(fd),
            counter: None,
        }
    }

    fn within(
        fd: BorrowedFd<'_>,
        wanted: usize,
        grown_max: usize,
        counter: &'static AtomicUsize,
    ) -> Self {
        let one_more = |grown| (grown < grown_max).then_some(grown + 1);
        let counted = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        Self {
            capacity: grow_pipe(fd, if counted.is_ok() { wanted } else { 0 }),
            counter: counted.is_ok().then_some(counter),
        }
    }

    /// Bytes that fit into the pipe; 0 where that is unknown.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Drop for Grown {
    fn drop(&mut self) {
        if let Some(counter) = self.counter {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Returns what the pipe holds then.
#[cfg(target_os = "linux")]
fn grow_pipe(fd: BorrowedFd<'_>, mut wanted: usize) -> usize {
    let now = rustix::pipe::fcntl_getpipe_size(fd).unwrap_or(0);
    // Past the user's share the system refuses; a smaller step may fit.
    while wanted > now {
        if let Ok(granted) = rustix::pipe::fcntl_setpipe_size(fd, wanted) {
            return granted;
        }
        wanted /= 2;
    }
    now
}

/// The same.
#[cfg(target_os = "linux")]
fn shrink_pipe(fd: BorrowedFd<'_>) -> usize {
    let small = rustix::pipe::fcntl_setpipe_size(fd, PROMPT_BYTES_MIN as usize);
    small.unwrap_or_else(|_| rustix::pipe::fcntl_getpipe_size(fd).unwrap_or(0))
}

/// Pipes elsewhere have the size they have.
#[cfg(not(target_os = "linux"))]
fn shrink_pipe(_fd: BorrowedFd<'_>) -> usize {
    0
}

/// Pipes elsewhere have the size they have.
#[cfg(not(target_os = "linux"))]
fn grow_pipe(_fd: BorrowedFd<'_>, _wanted: usize) -> usize {
    0
}

/// Whether a read of `fd` would return at once: data, the end or an error.
pub(crate) fn is_readable_now(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(!poll_now(fd)?.is_empty())
}

/// Whether the last writer of the pipe behind `fd` has left; there may still be data.
pub(crate) fn is_hung_up(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(poll_now(fd)?.contains(PollFlags::HUP))
}

fn poll_now(fd: BorrowedFd<'_>) -> io::Result<PollFlags> {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    loop {
        match poll(&mut fds, Some(&at_once)) {
            Ok(_) => return Ok(fds[0].revents()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Registers a descriptor with the runtime, whatever its flags are.
#[expect(
    deprecated,
    reason = "the successor is unsafe for the sake of types whose descriptor may change or close \
              while it is registered; an OwnedFd's can do neither"
)]
pub(crate) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

/// Notices that the reading end of a pipe or the far end of a socket is gone, while nothing is
/// written.
///
/// A duplicate is registered without interest in writability, so the only thing that can make it
/// "ready to write" is the closing of that direction (EPOLLERR of a pipe, EPOLLHUP of a socket).
#[derive(Debug)]
pub(crate) struct ReaderGone(AsyncFd<OwnedFd>);

impl ReaderGone {
    pub(crate) fn watch(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(register(dup(fd)?, Interest::ERROR)?))
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(self.0.poll_write_ready(cx)) {
            Ok(mut guard) => guard.retain_ready(),
            // The runtime is shutting down: nobody is left to be told.
            Err(_) => return Poll::Pending,
        }
        Poll::Ready(())
    }
}

/// The lazily made [`ReaderGone`] of a sink.
pub(crate) fn poll_gone(
    watch: &mut Option<ReaderGone>,
    fd: impl AsFd,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
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
    let gone = watch.as_ref().map_or(Poll::Pending, |watch| watch.poll(cx));
    gone.map(|()| Err(io::ErrorKind::BrokenPipe.into()))
}

/// What pipes are grown to: the most an unprivileged user gets for one by default.
const PIPE_SIZE: usize = 1 << 20;
/// Pipes of this process grown at a time; tests of everything else share one process.
const GROWN_MAX: usize = if cfg!(test) { 1000 } else { 32 };
/// How many are. The limit is the system's and per user, so the count is the process's.
static GROWN: AtomicUsize = AtomicUsize::new(0);

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::pipe::fcntl_getpipe_size;

    use super::*;

    #[test]
    fn pipes_are_grown_and_never_shrunk() {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        let (reader, writer) = io::pipe().expect("a pipe");
        let before = fcntl_getpipe_size(&writer).expect("a size");
        let grown = Grown::within(reader.as_fd(), 2 * before, 1, &COUNTER);
        assert_eq!(grown.capacity(), 2 * before);
        assert_eq!(fcntl_getpipe_size(&writer).expect("a size"), 2 * before);
        let again = Grown::within(writer.as_fd(), before, 2, &COUNTER);
        assert_eq!(again.capacity(), 2 * before);
        assert_eq!(fcntl_getpipe_size(&writer).expect("a size"), 2 * before);
    }

    #[test]
    fn a_user_who_may_not_have_the_size_gets_a_smaller_one() {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        let (reader, _writer) = io::pipe().expect("a pipe");
        // Beyond what the call takes at all, for the superuser too.
        let grown = Grown::within(reader.as_fd(), 1 << 40, 1, &COUNTER);
        assert!(grown.capacity() >= PIPE_SIZE, "{}", grown.capacity());
    }

    #[test]
    fn only_so_many_pipes_are_grown_at_a_time() {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        let pipes = [(); 3].map(|()| io::pipe().expect("a pipe"));
        let grow = |index: usize| Grown::within(pipes[index].0.as_fd(), 128 << 10, 2, &COUNTER);
        let (first, second) = (grow(0), grow(1));
        assert_eq!(
            (first.capacity(), second.capacity()),
            (128 << 10, 128 << 10)
        );
        assert!(grow(2).capacity() < 128 << 10);
        drop(first);
        assert_eq!(grow(2).capacity(), 128 << 10);
    }
}
