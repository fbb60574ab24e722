//! Descriptors that can only be read or written by waiting in the system call: regular files,
//! terminals, devices, and pipes that may not be reopened. Each half has a thread of its own.
//!
//! The half owns its thread in this sense: when the half is dropped, the thread is told, and ends
//! as soon as the system call it is in returns. It is never joined, because that may take for
//! ever (a write to a stopped terminal, a read from a dead file server); a process may end without
//! it. The thread starts with the first poll: nothing is read from a terminal before it is wanted.

use std::io::{self, IoSlice, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread;

use bytes::BytesMut;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::fd::{self, Grown, Kind, ReaderGone};
use super::handoff::Handoff;
use super::{Sink, Source};

/// Reads in a thread, one chunk ahead.
#[derive(Debug)]
pub(super) struct ThreadSource {
    /// Taken by the thread.
    fd: Option<OwnedFd>,
    kind: Kind,
    handoff: Arc<Handoff>,
    /// Held open until the source is dropped; the thread waits for its end and for data.
    stop: Option<PipeWriter>,
    chunk: Vec<u8>,
    /// What was given away of `chunk`.
    used: usize,
    is_ended: bool,
    _grown: Option<Grown>,
}

impl ThreadSource {
    pub(super) fn new(fd: OwnedFd, kind: Kind) -> Self {
        Self {
            _grown: (kind == Kind::Pipe).then(|| Grown::new(fd.as_fd())),
            fd: Some(fd),
            kind,
            handoff: Arc::default(),
            stop: None,
            chunk: Vec::new(),
            used: 0,
            is_ended: false,
        }
    }

    fn start(&mut self) -> io::Result<()> {
        let Some(fd) = self.fd.take() else {
            return Ok(());
        };
        let (stopped, stop) = io::pipe()?;
        self.stop = Some(stop);
        let handoff = Arc::clone(&self.handoff);
        let kind = self.kind;
        thread::Builder::new()
            .name("farpipe-read".to_owned())
            .spawn(move || {
                let outcome = read_all(&fd, kind, &stopped.into(), &handoff);
                // First the descriptor, then the news.
                drop(fd);
                handoff.end(outcome);
            })?;
        Ok(())
    }
}

impl Source for ThreadSource {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.used < self.chunk.len() || self.is_ended {
            return Poll::Ready(Ok(()));
        }
        self.start()?;
        if self.chunk.capacity() > 0 {
            self.handoff.put_spare(std::mem::take(&mut self.chunk));
            self.used = 0;
        }
        match ready!(self.handoff.poll_take(cx)) {
            Ok(chunk) => {
                self.chunk = chunk;
                Poll::Ready(Ok(()))
            }
            Err(outcome) => {
                self.is_ended = true;
                Poll::Ready(outcome)
            }
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_ready(cx))?;
        let rest = &self.chunk[self.used..];
        let len = rest.len().min(max);
        buf.extend_from_slice(&rest[..len]);
        self.used += len;
        Poll::Ready(Ok(len))
    }
}

impl Drop for ThreadSource {
    fn drop(&mut self) {
        self.handoff.abandon();
    }
}

/// Reads until the end, an error, or until nobody wants more.
fn read_all(fd: &OwnedFd, kind: Kind, stopped: &OwnedFd, handoff: &Handoff) -> io::Result<()> {
    loop {
        if kind != Kind::Regular && !wait_readable(fd, stopped)? {
            return Ok(());
        }
        let mut chunk = handoff
            .take_spare()
            .unwrap_or_else(|| Vec::with_capacity(CHUNK_SIZE));
        match rustix::io::read(fd, spare_capacity(&mut chunk)) {
            Ok(0) => return Ok(()),
            Ok(_) => {
                if !handoff.give_blocking(chunk) {
                    return Ok(());
                }
            }
            // Another process has made the shared description non-blocking.
            Err(Errno::AGAIN | Errno::INTR) => handoff.put_spare(chunk),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits without a buffer; `false` if the source was dropped meanwhile.
fn wait_readable(fd: &OwnedFd, stopped: &OwnedFd) -> io::Result<bool> {
    loop {
        let mut fds = [
            PollFd::new(fd, PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) if !fds[1].revents().is_empty() => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes in a thread, one chunk behind.
#[derive(Debug)]
pub(super) struct ThreadSink {
    /// Given to the thread with the first write or close.
    fd: Option<OwnedFd>,
    handoff: Arc<Handoff>,
    before: Before,
    reader: Reader,
    is_closed: bool,
    _grown: Option<Grown>,
}

/// What happens to what is there before the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Kept,
    Emptied,
}

/// Whether a sink can know that its reader has gone away.
#[derive(Debug)]
enum Reader {
    /// A file or a terminal has none.
    None,
    /// A pipe: a duplicate to watch it by, and what watches it.
    Watched(OwnedFd, Option<ReaderGone>),
}

impl ThreadSink {
    pub(super) fn new(fd: OwnedFd, kind: Kind) -> io::Result<Self> {
        let reader = match kind {
            Kind::Pipe | Kind::Socket => Reader::Watched(fd::dup(fd.as_fd())?, None),
            Kind::Regular | Kind::Directory | Kind::Device => Reader::None,
        };
        Ok(Self {
            _grown: (kind == Kind::Pipe).then(|| Grown::new(fd.as_fd())),
            fd: Some(fd),
            handoff: Arc::default(),
            before: Before::Kept,
            reader,
            is_closed: false,
        })
    }

    /// Writes a regular file, which is emptied with the first byte, or with the end if there is
    /// none: a pipe that comes to nothing before keeps what was there.
    pub(super) fn emptying(fd: OwnedFd) -> Self {
        Self {
            _grown: None,
            fd: Some(fd),
            handoff: Arc::default(),
            before: Before::Emptied,
            reader: Reader::None,
            is_closed: false,
        }
    }

    fn start(&mut self) -> io::Result<()> {
        let Some(fd) = self.fd.take() else {
            return Ok(());
        };
        let handoff = Arc::clone(&self.handoff);
        if self.before == Before::Emptied {
            rustix::fs::ftruncate(&fd, 0)?;
        }
        thread::Builder::new()
            .name("farpipe-write".to_owned())
            .spawn(move || {
                let written = write_all(&fd, &handoff);
                // A file server may keep its errors until the close; the first error counts.
                let closed = close(fd);
                handoff.end(written.and(closed));
            })?;
        Ok(())
    }
}

impl Sink for ThreadSink {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_closed {
            return Poll::Ready(Err(io::Error::other("used after it was closed")));
        }
        self.start()?;
        let spare = match ready!(self.handoff.poll_room(cx)) {
            Ok(spare) => spare,
            Err(outcome) => {
                self.is_closed = true;
                let ended = || io::Error::other("the writing thread has ended");
                return Poll::Ready(Err(outcome.err().unwrap_or_else(ended)));
            }
        };
        let mut chunk = spare.unwrap_or_else(|| Vec::with_capacity(CHUNK_SIZE));
        for buf in bufs {
            let room = CHUNK_SIZE - chunk.len();
            chunk.extend_from_slice(&buf[..buf.len().min(room)]);
        }
        let len = chunk.len();
        self.handoff.give(chunk);
        Poll::Ready(Ok(len))
    }

    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.reader {
            Reader::None => Poll::Pending,
            Reader::Watched(fd, watch) => fd::poll_gone(watch, fd, cx),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What the thread failed at is told by the next write or close.
        self.handoff.poll_flushed(cx).map(Ok)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_closed {
            return Poll::Ready(Ok(()));
        }
        self.start()?;
        self.handoff.finish();
        self.reader = Reader::None;
        let outcome = ready!(self.handoff.poll_outcome(cx));
        self.is_closed = true;
        Poll::Ready(outcome)
    }
}

impl Drop for ThreadSink {
    fn drop(&mut self) {
        self.handoff.abandon();
    }
}

/// Writes chunks until there are no more.
fn write_all(fd: &OwnedFd, handoff: &Handoff) -> io::Result<()> {
    while let Some(chunk) = handoff.take_blocking() {
        let mut rest = chunk.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(fd, rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => rest = &rest[len..],
                Err(Errno::INTR) => {}
                // Another process has made the shared description non-blocking.
                Err(Errno::AGAIN) => wait_writable(fd)?,
                Err(error) => return Err(error.into()),
            }
        }
        handoff.put_done(chunk);
    }
    Ok(())
}

fn wait_writable(fd: &OwnedFd) -> io::Result<()> {
    match poll(&mut [PollFd::new(fd, PollFlags::OUT)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// close(2) with its error, which dropping the descriptor would hide.
fn close(fd: OwnedFd) -> io::Result<()> {
    match nix::unistd::close(fd) {
        // Linux has closed it before it looks for signals.
        Ok(()) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Bytes in one chunk: two of them, the thread's and the waiting one, stay in the CPU's cache.
const CHUNK_SIZE: usize = 256 << 10;

#[cfg(all(test, target_os = "linux"))]
mod tests;
