//! Pipes and FIFOs: non-blocking, on file descriptions that are ours alone.
//!
//! Every descriptor here was opened, reopened or made by this process, so that `O_NONBLOCK` on it
//! concerns nobody else.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{BufMut, BytesMut};
use tokio::net::unix::pipe::{Receiver, Sender};

use super::fd::{self, Grown, ReaderGone};
use super::pace::Pace;
use super::{Half, Sink, Source};

/// The reading end of a pipe.
#[derive(Debug)]
pub(crate) struct PipeSource {
    receiver: Renewable<Receiver>,
    pace: Pace,
    /// The last read emptied the pipe, and nothing has been waited for since: readiness can only be
    /// what is left of a writer that has gone, and must be looked at.
    is_drained: bool,
    _grown: Grown,
}

impl PipeSource {
    /// Takes a reading end whose file description no other process shares.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let grown = Grown::new(fd.as_fd());
        Self::of(fd, grown)
    }

    /// The same of a pipe that holds little, for output that a person watches.
    pub(crate) fn small(fd: OwnedFd) -> io::Result<Self> {
        let small = Grown::small(fd.as_fd());
        Self::of(fd, small)
    }

    fn of(fd: OwnedFd, grown: Grown) -> io::Result<Self> {
        Ok(Self {
            pace: Pace::new(grown.capacity()),
            _grown: grown,
            receiver: Renewable::new(Receiver::from_owned_fd(fd)?),
            is_drained: false,
        })
    }

    /// Goes on with a reading end of the same FIFO that knows no writer yet; by its name where the
    /// system cannot open a descriptor once more.
    pub(crate) fn reopen(
        &mut self,
        by_name: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> io::Result<()> {
        let fd = fd::reopen(self.receiver.get()?.as_fd(), Half::Source);
        let fd = fd.or_else(|_| by_name())?;
        self.receiver = Renewable::new(Receiver::register(fd)?);
        self.is_drained = false;
        Ok(())
    }

    /// Whether the pipe is empty and nobody has it open to write. What it holds is lost by asking:
    /// for the end of a source only.
    pub(crate) fn has_no_writer(&mut self) -> bool {
        let fd = match self.receiver.get() {
            Ok(receiver) => receiver.as_fd(),
            Err(_) => return false,
        };
        // An empty pipe with a writer would have to be waited for.
        matches!(rustix::io::read(fd, &mut [0; 1]), Ok(0))
    }
}

impl Source for PipeSource {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.pace.poll_pause(cx).is_pending() {
                self.receiver.park()?;
                return Poll::Pending;
            }
            let receiver = self.receiver.get()?;
            match receiver.poll_read_ready(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    // What makes it ready next is news.
                    self.is_drained = false;
                    self.receiver.handle_settled();
                    return Poll::Pending;
                }
            }
            if !self.is_drained {
                return Poll::Ready(Ok(()));
            }
            let look = receiver.try_io(|| {
                if fd::is_readable_now(receiver.as_fd())? {
                    Ok(())
                } else {
                    Err(io::ErrorKind::WouldBlock.into())
                }
            });
            match look {
                Ok(()) => self.is_drained = false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.receiver.handle_would_block()?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let room = max.min(buf.capacity() - buf.len());
        if room == 0 {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        }
        loop {
            ready!(self.poll_ready(cx))?;
            match read_until_drained(self.receiver.get()?, buf, room) {
                Ok(len) => {
                    self.receiver.handle_settled();
                    self.is_drained = len < room;
                    self.pace.handle_read(Instant::now(), len, self.is_drained);
                    return Poll::Ready(Ok(len));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.receiver.handle_would_block()?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// Reads at most `room` bytes. A read that returned less has emptied the pipe: readiness is over
/// then, and the next write makes it anew (epoll's edge); asking the pipe again would cost a system
/// call a message.
fn read_until_drained(receiver: &Receiver, buf: &mut BytesMut, room: usize) -> io::Result<usize> {
    let mut read = None;
    let result = receiver.try_io(|| {
        let len = receiver.try_read_buf(&mut buf.limit(room))?;
        read = Some(len);
        if len < room {
            // How tokio is told to forget the readiness that was there before this read.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    });
    match (read, result) {
        (Some(len), _) => Ok(len),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Ok(0),
    }
}

/// The writing end of a pipe.
#[derive(Debug)]
pub(crate) struct PipeSink {
    /// Empty once closed.
    sender: Renewable<Sender>,
    gone: Option<ReaderGone>,
    _grown: Grown,
}

impl PipeSink {
    /// Takes a writing end whose file description no other process shares.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            _grown: Grown::new(fd.as_fd()),
            sender: Renewable::new(Sender::from_owned_fd(fd)?),
            gone: None,
        })
    }
}

impl Sink for PipeSink {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let sender = self.sender.get()?;
            let Poll::Ready(result) = sender.poll_write_ready(cx) else {
                self.sender.handle_settled();
                return Poll::Pending;
            };
            result?;
            match sender.try_write_vectored(bufs) {
                Ok(len) => {
                    self.sender.handle_settled();
                    return Poll::Ready(Ok(len));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.sender.handle_would_block()?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.sender.get() {
            Ok(sender) => fd::poll_gone(&mut self.gone, sender, cx),
            Err(_) => Poll::Pending,
        }
    }

    fn poll_close(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A write to a pipe is complete when it returns, and closing one cannot fail.
        self.gone = None;
        self.sender.close();
        Poll::Ready(Ok(()))
    }
}

/// A pipe end whose registration with the runtime can be given up and made anew.
///
/// Made anew when its readiness has gone stale: tokio never forgets that a pipe's other side was
/// closed, but a FIFO can be opened again by the next writer or reader, and would then be "ready"
/// with nothing to read or no room to write, again and again in one poll. Two refusals in a row
/// without a wait between them mean just that.
///
/// Given up during a pause: each write to a registered pipe wakes the runtime, read or not.
#[derive(Debug)]
struct Renewable<T> {
    state: State<T>,
    refusals: u8,
}

#[derive(Debug)]
enum State<T> {
    Registered(T),
    Parked(OwnedFd),
    Closed,
}

impl<T: PipeEnd> Renewable<T> {
    fn new(end: T) -> Self {
        Self {
            state: State::Registered(end),
            refusals: 0,
        }
    }

    fn get(&mut self) -> io::Result<&T> {
        if let State::Parked(_) = self.state
            && let State::Parked(fd) = std::mem::replace(&mut self.state, State::Closed)
        {
            self.state = State::Registered(T::register(fd)?);
        }
        match &self.state {
            State::Registered(end) => Ok(end),
            State::Parked(_) | State::Closed => Err(io::Error::other("used after it was closed")),
        }
    }

    fn park(&mut self) -> io::Result<()> {
        if let State::Registered(_) = self.state
            && let State::Registered(end) = std::mem::replace(&mut self.state, State::Closed)
        {
            self.state = State::Parked(end.unregister()?);
        }
        Ok(())
    }

    /// Bytes moved, or there is something to wait for.
    fn handle_settled(&mut self) {
        self.refusals = 0;
    }

    fn handle_would_block(&mut self) -> io::Result<()> {
        self.refusals += 1;
        if self.refusals >= 2 {
            self.refusals = 0;
            self.park()?;
        }
        Ok(())
    }

    fn close(&mut self) {
        self.state = State::Closed;
    }
}

trait PipeEnd: Sized {
    fn register(fd: OwnedFd) -> io::Result<Self>;

    fn unregister(self) -> io::Result<OwnedFd>;
}

impl PipeEnd for Receiver {
    fn register(fd: OwnedFd) -> io::Result<Self> {
        Self::from_owned_fd_unchecked(fd)
    }

    fn unregister(self) -> io::Result<OwnedFd> {
        self.into_nonblocking_fd()
    }
}

impl PipeEnd for Sender {
    fn register(fd: OwnedFd) -> io::Result<Self> {
        Self::from_owned_fd_unchecked(fd)
    }

    fn unregister(self) -> io::Result<OwnedFd> {
        self.into_nonblocking_fd()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
