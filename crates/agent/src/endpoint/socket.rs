//! Sockets as stdin and stdout, as inetd and some shells start programs.
//!
//! A socket cannot be reopened, so its file description is shared with whoever gave it to us and
//! stays blocking; each call says for itself that it must not wait. epoll needs no `O_NONBLOCK`.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

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

/// Receives from a connected socket.
#[derive(Debug)]
pub(super) struct SocketSource {
    socket: AsyncFd<OwnedFd>,
    /// Where the system call puts the bytes: the caller's spare capacity is not initialized, and
    /// zeroing all of it for each short message costs more than copying the message.
    scratch: Vec<u8>,
    at_end: AtEnd,
}

impl SocketSource {
    pub(super) fn new(fd: OwnedFd, at_end: AtEnd) -> io::Result<Self> {
        Ok(Self {
            socket: fd::register(fd, Interest::READABLE)?,
            scratch: Vec::new(),
            at_end,
        })
    }
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
                Ok((len, _)) => {
                    buf.extend_from_slice(&self.scratch[..len]);
                    return Poll::Ready(Ok(len));
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
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
}

impl SocketSink {
    pub(super) fn new(fd: OwnedFd, at_end: AtEnd) -> io::Result<Self> {
        Ok(Self {
            socket: Some(fd::register(fd, Interest::WRITABLE)?),
            gone: None,
            at_end,
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
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.socket {
            Some(socket) => fd::poll_gone(&mut self.gone, socket, cx),
            None => Poll::Pending,
        }
    }

    fn poll_close(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close();
        Poll::Ready(Ok(()))
    }
}

impl Drop for SocketSink {
    fn drop(&mut self) {
        self.close();
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
