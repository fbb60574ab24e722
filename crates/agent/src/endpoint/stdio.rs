//! `-`: this process's own stdin and stdout.
//!
//! The shell's descriptors are shared: with the shell, with our siblings in a pipeline, with our
//! children. So flags are never changed on them (see `fd.rs` for what is done instead), and a half
//! that ends puts `/dev/null` in the place of fd 0 or 1: while they stayed open, the writer would
//! get no SIGPIPE and the reader no end before this process exits.
//!
//! A standard descriptor that was closed when the process started is `/dev/null`: Rust's runtime
//! opens it before `main`, so that no other file gets its number. The command makes that one of
//! stdout unwritable, so that nothing is lost in it (`farpipe-cli`, `stdout.rs`).

use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;

use super::error::Half;
use super::fd::{self, Kind};
use super::file::{self, Named};
use super::pipe::{PipeSink, PipeSource};
use super::socket::{AtEnd, SocketSink, SocketSource};
use super::thread::{ThreadSink, ThreadSource};
use super::{Endpoint, OpenError, Sink, Source, Use};

pub(super) fn open(wanted: Use) -> Result<Endpoint, OpenError> {
    let mut endpoint = Endpoint::default();
    let stdin = rustix::stdio::stdin();
    if wanted.wants_source() {
        let failed = |source| OpenError::Stdio {
            name: "stdin",
            source,
        };
        let source = open_source(stdin, at_end(wanted)).map_err(failed)?;
        endpoint.source = Some(Box::new(StdioSource::new(source)));
        endpoint.source_lock = lock(stdin)?;
        endpoint.size_hint = fd::size_left(stdin);
        endpoint.source_file = fd::regular_file(stdin);
        endpoint.source_is_terminal = rustix::termios::isatty(stdin);
    }
    if wanted.wants_sink() {
        let failed = |source| OpenError::Stdio {
            name: "stdout",
            source,
        };
        let stdout = rustix::stdio::stdout();
        let sink = open_sink(stdout, at_end(wanted)).map_err(failed)?;
        endpoint.sink_file = fd::regular_file(stdout);
        endpoint.sink = Some(Box::new(StdioSink::new(sink)));
    }
    Ok(endpoint)
}

/// A regular file is locked while it is read, as a path's is.
fn lock(stdin: BorrowedFd<'_>) -> Result<Option<OwnedFd>, OpenError> {
    if fd::regular_file(stdin).is_none() {
        return Ok(None);
    }
    match fd::reopen(stdin, Half::Source) {
        Ok(own) => file::lock_source(&own).map_err(|_| OpenError::InUse {
            path: "/dev/stdin".into(),
            half: Half::Source,
        }),
        // Opened by another user and handed to us.
        Err(error) => {
            tracing::debug!(%error, "cannot lock the file on stdin");
            Ok(None)
        }
    }
}

/// One socket in both places is closed one direction at a time.
fn at_end(wanted: Use) -> AtEnd {
    let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    if wanted == Use::Both && fd::is_same(stdin, stdout) {
        AtEnd::ShutDown
    } else {
        AtEnd::Close
    }
}

fn open_source(fd: BorrowedFd<'_>, at_end: AtEnd) -> io::Result<Box<dyn Source>> {
    let kind = fd::kind(fd)?;
    fd::check_is_stream(fd, kind)?;
    Ok(match kind {
        Kind::Pipe => match fd::reopen(fd, Half::Source) {
            // A FIFO reopened after its last writer has left would wait for the next one; the
            // descriptor we were given knows that one has been there.
            Ok(_) if fd::is_hung_up(fd)? => Box::new(ThreadSource::new(fd::dup(fd)?, kind)),
            Ok(own) => Box::new(PipeSource::new(own)?),
            Err(error) => {
                tracing::debug!(%error, "cannot reopen the pipe on stdin, reading in a thread");
                Box::new(ThreadSource::new(fd::dup(fd)?, kind))
            }
        },
        Kind::Socket => Box::new(SocketSource::new(fd::dup(fd)?, at_end)?),
        Kind::Directory => return Err(io::ErrorKind::IsADirectory.into()),
        Kind::Regular | Kind::Device => Box::new(ThreadSource::new(fd::dup(fd)?, kind)),
    })
}

fn open_sink(fd: BorrowedFd<'_>, at_end: AtEnd) -> io::Result<Box<dyn Sink>> {
    let kind = fd::kind(fd)?;
    fd::check_is_stream(fd, kind)?;
    Ok(match kind {
        Kind::Pipe => match fd::reopen(fd, Half::Sink) {
            Ok(own) => Box::new(PipeSink::new(own)?),
            Err(error) => {
                tracing::debug!(%error, "cannot reopen the pipe on stdout, writing in a thread");
                Box::new(ThreadSink::new(fd::dup(fd)?, kind)?)
            }
        },
        Kind::Socket => Box::new(SocketSink::new(fd::dup(fd)?, at_end)?),
        Kind::Directory => return Err(io::ErrorKind::IsADirectory.into()),
        Kind::Regular | Kind::Device => Box::new(ThreadSink::new(fd::dup(fd)?, kind)?),
    })
}

/// Reads stdin, and gives fd 0 up when dropped.
#[derive(Debug)]
struct StdioSource {
    inner: Named<Box<dyn Source>>,
    /// Behind `inner`, so that it is dropped last.
    _fd: Released,
}

impl StdioSource {
    fn new(inner: Box<dyn Source>) -> Self {
        let name = "stdin".into();
        Self {
            inner: Named { inner, name },
            _fd: Released(Half::Source),
        }
    }
}

impl Source for StdioSource {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_ready(cx)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_read(cx, buf, max)
    }
}

/// Writes stdout, and gives fd 1 up when closed or dropped.
#[derive(Debug)]
struct StdioSink {
    inner: Named<Box<dyn Sink>>,
    fd: Option<Released>,
}

impl StdioSink {
    fn new(inner: Box<dyn Sink>) -> Self {
        let name = "stdout".into();
        Self {
            inner: Named { inner, name },
            fd: Some(Released(Half::Sink)),
        }
    }
}

impl Sink for StdioSink {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_write(cx, bufs)
    }

    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.inner.poll_reader_gone(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = ready!(self.inner.poll_close(cx));
        self.fd = None;
        Poll::Ready(closed)
    }
}

/// Puts `/dev/null` in the place of fd 0 or fd 1 when dropped.
#[derive(Debug)]
struct Released(Half);

impl Drop for Released {
    fn drop(&mut self) {
        let released = nothing().and_then(|fd| {
            match self.0 {
                Half::Source => rustix::stdio::dup2_stdin(fd)?,
                Half::Sink => rustix::stdio::dup2_stdout(fd)?,
            }
            Ok(())
        });
        if let Err(error) = released {
            tracing::debug!(%error, half = %self.0, "cannot give a standard descriptor up");
        }
    }
}

fn nothing() -> io::Result<OwnedFd> {
    let mut options = std::fs::OpenOptions::new();
    match options.read(true).write(true).open("/dev/null") {
        Ok(file) => Ok(file.into()),
        // A root directory without /dev: an end of a pipe without the other does as well.
        Err(_) => io::pipe().map(|(reader, _)| reader.into()),
    }
}
