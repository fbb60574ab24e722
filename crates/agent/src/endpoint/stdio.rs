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

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::error::Half;
use super::fd::{self, Kind};
use super::file;
use super::named::Named;
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
        let held = Box::new(Released(Half::Source));
        endpoint.source = Some(Named::source_with(held, source, "stdin"));
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
        let held = Box::new(Released(Half::Sink));
        endpoint.sink = Some(Named::sink_with(held, sink, "stdout"));
    }
    Ok(endpoint)
}

/// stderr stays open behind it: what farpipe itself has to say goes there, too.
pub(super) fn open_stderr() -> Result<Box<dyn Sink>, OpenError> {
    let sink = open_sink(rustix::stdio::stderr(), AtEnd::Close).map_err(|source| {
        let name = "stderr";
        OpenError::Stdio { name, source }
    })?;
    Ok(Named::sink(sink, "stderr"))
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
