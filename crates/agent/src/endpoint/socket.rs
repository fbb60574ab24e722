//! Moves bytes of sockets: stdin and stdout, as inetd and some shells start programs, and
//! connections of our own.
//!
//! A socket cannot be reopened, so the file description of one that was given to us is shared and
//! stays blocking; each call says for itself that it must not wait. epoll needs no `O_NONBLOCK`.
//!
//! A reset must never look like an end. The system tells a connection's failure once, to whichever
//! call asks first, and says "end" to the others: so the two halves keep it together.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::fd::{self, ReaderGone};
use super::{Sink, Source};

/// What [`SocketSource`] and [`SocketSink`] do with the socket itself when they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtEnd {
    /// Only our descriptor is closed, as for any other kind.
    Close,
    /// That direction is shut down, because the other half of us keeps the socket open and the
    /// far end would never notice.
    ShutDown,
}

/// What has happened to a connection, for both halves of it.
#[derive(Debug, Default)]
struct Fate(AtomicI32);

impl Fate {
    /// Keeps a failure. A reader that is gone is none: the other direction may go on.
    fn note(&self, error: Errno) {
        if error != Errno::PIPE {
            self.0.store(error.raw_os_error(), Ordering::Relaxed);
        }
    }

    fn failure(&self) -> Option<Errno> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            error => Some(Errno::from_raw_os_error(error)),
        }
    }
}

/// Receives from a connected socket.
#[derive(Debug)]
pub(super) struct SocketSource {
    socket: AsyncFd<OwnedFd>,
    /// Where the system call puts the bytes: the caller's spare capacity is not initialized, and
    /// zeroing all of it for each short message costs more than copying the message.
    scratch: Vec<u8>,
    at_end: AtEnd,
    fate: Arc<Fate>,
}

impl SocketSource {
    pub(super) fn new(fd: OwnedFd, at_end: AtEnd) -> io::Result<Self> {
        Ok(Self {
            socket: fd::register(fd, Interest::READABLE)?,
            scratch: Vec::new(),
            at_end,
            fate: Arc::default(),
        })
    }
}

/// Both halves of a connection of our own.
///
/// As long as the sink is not closed, whatever ends this process or drops the sink resets the
/// connection (where its kind has that): the far program must not take it for the end.
pub(super) fn connection(fd: OwnedFd) -> io::Result<(SocketSource, SocketSink)> {
    let source = SocketSource::new(fd::dup(fd.as_fd())?, AtEnd::ShutDown)?;
    let mut sink = SocketSink::new(fd, AtEnd::ShutDown)?;
    sink.set_reset_at_close(true);
    sink.connection = Some(Arc::clone(&source.fate));
    Ok((source, sink))
}

impl Source for SocketSource {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.socket.poll_read_ready(cx))?;
            if fd::is_readable_now(self.socket.as_fd())? {
                return Poll::Ready(Ok(()));
            }
            guard.clear_ready();
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.socket.poll_read_ready(cx))?;
            if self.scratch.is_empty() {
                self.scratch.resize(SCRATCH_SIZE, 0);
            }
            let room = max.min(SCRATCH_SIZE);
            let scratch = &mut self.scratch[..room];
            match rustix::net::recv(&self.socket, scratch, RecvFlags::DONTWAIT) {
                Ok((0, _)) => {
                    let failure = self.fate.failure();
                    return Poll::Ready(failure.map_or(Ok(0), |error| Err(error.into())));
                }
                Ok((len, _)) => {
                    buf.extend_from_slice(&self.scratch[..len]);
                    return Poll::Ready(Ok(len));
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => {
                    self.fate.note(error);
                    return Poll::Ready(Err(error.into()));
                }
            }
        }
    }
}

impl Drop for SocketSource {
    fn drop(&mut self) {
        if self.at_end == AtEnd::ShutDown {
            // Not connected any more: then nobody is left to be told.
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Read);
        }
    }
}

/// Sends to a connected socket.
#[derive(Debug)]
pub(super) struct SocketSink {
    /// `None` once closed.
    socket: Option<AsyncFd<OwnedFd>>,
    gone: Option<ReaderGone>,
    at_end: AtEnd,
    /// Of a connection of our own.
    connection: Option<Arc<Fate>>,
}

impl SocketSink {
    pub(super) fn new(fd: OwnedFd, at_end: AtEnd) -> io::Result<Self> {
        Ok(Self {
            socket: Some(fd::register(fd, Interest::WRITABLE)?),
            gone: None,
            at_end,
            connection: None,
        })
    }

    fn close(&mut self) {
        self.gone = None;
        if let Some(socket) = self.socket.take()
            && self.at_end == AtEnd::ShutDown
        {
            // Not connected any more: then nobody is left to be told.
            let _ = rustix::net::shutdown(&socket, Shutdown::Write);
        }
    }

    /// The end, in order: the far program reads it behind everything that was written.
    pub(super) fn finish(&mut self) {
        if self.connection.is_some() {
            self.set_reset_at_close(false);
        }
        self.close();
    }

    /// Whether the close of the last descriptor is to be a reset. A hint: not every kind has it.
    fn set_reset_at_close(&self, on: bool) {
        if let Some(socket) = &self.socket {
            let at_once = on.then_some(Duration::ZERO);
            let _ = rustix::net::sockopt::set_socket_linger(socket, at_once);
        }
    }

    /// What a write that cannot arrive comes from.
    fn explain(&self, error: io::Error) -> io::Error {
        let (Some(fate), Some(socket)) = (&self.connection, &self.socket) else {
            return error;
        };
        if let Some(error) = Errno::from_io_error(&error) {
            fate.note(error);
        }
        if let Ok(Err(error)) = rustix::net::sockopt::socket_error(socket) {
            fate.note(error);
        }
        fate.failure().map_or(error, Into::into)
    }
}

impl Sink for SocketSink {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(socket) = &self.socket else {
            return Poll::Ready(Err(io::Error::other("used after it was closed")));
        };
        loop {
            let mut guard = ready!(socket.poll_write_ready(cx))?;
            let mut control = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(socket, bufs, &mut control, SEND_FLAGS) {
                Ok(len) => return Poll::Ready(Ok(len)),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(self.explain(error.into()))),
            }
        }
    }

    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.socket {
            Some(socket) => {
                let gone = ready!(fd::poll_gone(&mut self.gone, socket, cx));
                Poll::Ready(gone.map_err(|error| self.explain(error)))
            }
            None => Poll::Pending,
        }
    }

    fn poll_close(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for SocketSink {
    fn drop(&mut self) {
        // A shutdown would say that this was the end.
        if self.connection.is_none() {
            self.close();
        }
    }
}

/// Neither wait nor raise SIGPIPE, whatever the process does about that signal.
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
/// Rust's runtime ignores SIGPIPE.
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT;
/// Largest read; a socket rarely holds more.
const SCRATCH_SIZE: usize = 128 << 10;

#[cfg(all(test, target_os = "linux"))]
mod tests;
