//! Pipes and FIFOs: non-blocking, on file descriptions that are ours alone.
//!
//! Every descriptor here was opened, reopened or made by this process, so that `O_NONBLOCK` on it
//! concerns nobody else.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use tokio::net::unix::pipe::{Receiver, Sender};

use super::fd::{self, ReaderGone};
use super::pace::Pace;
use super::{Sink, Source};

/// The reading end of a pipe.
#[derive(Debug)]
pub(super) struct PipeSource {
    receiver: Renewable<Receiver>,
    pace: Pace,
    /// The last read returned less than it was asked for: the pipe was empty then, and readiness
    /// says nothing until it has been looked at again.
    is_drained: bool,
}

impl PipeSource {
    /// Takes a reading end whose file description no other process shares.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        fd::grow_pipe(fd.as_fd());
        Ok(Self {
            receiver: Renewable::new(Receiver::from_owned_fd(fd)?),
            pace: Pace::default(),
            is_drained: false,
        })
    }
}

impl Source for PipeSource {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.pace.poll_pause(cx));
            let receiver = self.receiver.get()?;
            match receiver.poll_read_ready(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    // What makes it ready next is news.
                    self.is_drained = false;
                    self.pace.handle_empty();
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
                Ok(()) => {
                    self.is_drained = false;
                    self.pace.handle_more();
                }
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
            match self.receiver.get()?.try_read_buf(&mut buf.limit(room)) {
                Ok(len) => {
                    self.receiver.handle_settled();
                    self.is_drained = len < room;
                    if self.is_drained {
                        self.pace.handle_read(len);
                    }
                    return Poll::Ready(Ok(len));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.pace.handle_empty();
                    self.receiver.handle_would_block()?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// The writing end of a pipe.
#[derive(Debug)]
pub(super) struct PipeSink {
    /// Empty once closed.
    sender: Renewable<Sender>,
    gone: Option<ReaderGone>,
}

impl PipeSink {
    /// Takes a writing end whose file description no other process shares.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        fd::grow_pipe(fd.as_fd());
        Ok(Self {
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

    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
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

/// A registered pipe end that is registered anew when its readiness has gone stale.
///
/// tokio never forgets that a pipe's other side was closed. A FIFO can be opened again by the next
/// writer or reader, and would then be "ready" with nothing to read or no room to write, again and
/// again in one poll. Two refusals in a row without a wait between them mean just that.
#[derive(Debug)]
struct Renewable<T> {
    end: Option<T>,
    refusals: u8,
}

impl<T: PipeEnd> Renewable<T> {
    fn new(end: T) -> Self {
        Self {
            end: Some(end),
            refusals: 0,
        }
    }

    fn get(&self) -> io::Result<&T> {
        self.end
            .as_ref()
            .ok_or_else(|| io::Error::other("used after it was closed"))
    }

    /// Bytes moved, or there is something to wait for.
    fn handle_settled(&mut self) {
        self.refusals = 0;
    }

    fn handle_would_block(&mut self) -> io::Result<()> {
        self.refusals += 1;
        if self.refusals >= 2 {
            self.refusals = 0;
            self.end = self.end.take().map(T::register_anew).transpose()?;
        }
        Ok(())
    }

    fn close(&mut self) {
        self.end = None;
    }
}

trait PipeEnd: Sized {
    fn register_anew(self) -> io::Result<Self>;
}

impl PipeEnd for Receiver {
    fn register_anew(self) -> io::Result<Self> {
        Self::from_owned_fd_unchecked(self.into_nonblocking_fd()?)
    }
}

impl PipeEnd for Sender {
    fn register_anew(self) -> io::Result<Self> {
        Self::from_owned_fd_unchecked(self.into_nonblocking_fd()?)
    }
}
