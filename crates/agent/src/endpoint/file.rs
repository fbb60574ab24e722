//! `PATH`: a regular file, a FIFO or a device, found out from the open descriptor.
//!
//! Regular files are created if missing (0666 and the umask), emptied when the first byte or the end
//! arrives, and written in place. While one is read it has a shared lock (flock(2)), while it is
//! written an exclusive one: so a pipe from a file into itself is refused, whatever names lead to it and
//! whichever of this host's processes read and write it.
//! Opening a FIFO to write waits for its reader, as open(2) does, but without blocking the
//! runtime. Opening one to read does not wait: the source is pending until the first writer has
//! come. When the last one has left it is opened anew, for the next, unless the first was enough.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::error::Half;
use super::fd::{self, Kind};
use super::named::Named;
use super::pipe::{PipeSink, PipeSource};
use super::thread::{ThreadSink, ThreadSource};
use super::{Endpoint, OpenError, PathSpec, Sink, Source, Use, Writers};
use crate::beneath::Place;

pub(super) async fn open(spec: &PathSpec, wanted: Use) -> Result<Endpoint, OpenError> {
    let place = Place::Anywhere(spec.path.clone());
    open_at(&place, spec.writers, wanted).await
}

pub(super) async fn open_at(
    place: &Place,
    writers: Writers,
    wanted: Use,
) -> Result<Endpoint, OpenError> {
    let mut endpoint = Endpoint::default();
    match wanted {
        Use::Both => {
            return Err(OpenError::PathNeedsDirection { path: place.path() });
        }
        Use::Source => {
            let failed = |error| explain(place, Half::Source, error);
            let fd = open_to_read(place).map_err(failed)?;
            endpoint.source_lock = lock_source(&fd).map_err(failed)?;
            endpoint.source_file = fd::regular_file(fd.as_fd());
            endpoint.size_hint = size_hint(&fd);
            endpoint.source_is_terminal = rustix::termios::isatty(&fd);
            let inner = source(fd, place, writers).map_err(failed)?;
            endpoint.source = Some(Named::source(inner, place.to_string()));
        }
        Use::Sink => {
            let failed = |error| explain(place, Half::Sink, error);
            let fd = open_to_write(place).await.map_err(failed)?;
            lock(&fd, Half::Sink).map_err(failed)?;
            endpoint.sink_file = fd::regular_file(fd.as_fd());
            let inner = sink(fd).map_err(failed)?;
            endpoint.sink = Some(Named::sink(inner, place.to_string()));
        }
    }
    Ok(endpoint)
}

/// `O_NONBLOCK` is for FIFOs, and so that a serial line does not wait for its carrier.
fn open_to_read(place: &Place) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    place.open(flags, Mode::empty())
}

async fn open_to_write(place: &Place) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut pause = FIFO_PAUSE_MIN;
    loop {
        // Created only when missing: with O_CREAT Linux refuses other users' FIFOs in /tmp.
        let opened = match place.open(flags, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                place.open(flags | OFlags::CREATE, Mode::from_raw_mode(0o666))
            }
            opened => opened,
        };
        match opened {
            Ok(fd) => return Ok(fd),
            // A FIFO without a reader.
            Err(error) if is(&error, Errno::NXIO) && is_a(place, FileType::Fifo) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(FIFO_PAUSE_MAX);
            }
            Err(error) if is(&error, Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// Marks a regular file as being read or written, for as long as its description is open. A file
/// system without locks does without.
fn lock(fd: &OwnedFd, half: Half) -> io::Result<()> {
    if fd::regular_file(fd.as_fd()).is_none() {
        return Ok(());
    }
    let operation = match half {
        Half::Source => FlockOperation::NonBlockingLockShared,
        Half::Sink => FlockOperation::NonBlockingLockExclusive,
    };
    match rustix::fs::flock(fd, operation) {
        Err(Errno::WOULDBLOCK) => Err(io::ErrorKind::ResourceBusy.into()),
        Err(error) => {
            tracing::debug!(%error, "cannot lock a file");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// The lock of a file that is read, for as long as what is returned lives.
pub(super) fn lock_source(fd: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    lock(fd, Half::Source)?;
    match fd::regular_file(fd.as_fd()) {
        Some(_) => fd::dup(fd.as_fd()).map(Some),
        None => Ok(None),
    }
}

/// Whether that is there, without a wait for its other end.
fn is_a(place: &Place, wanted: FileType) -> bool {
    let looked = place.stat();
    looked.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == wanted)
}

fn size_hint(fd: &OwnedFd) -> Option<u64> {
    match fd::kind(fd.as_fd()) {
        Ok(Kind::Regular) => fd::size_left(fd.as_fd()),
        Ok(Kind::Pipe | Kind::Socket | Kind::Directory | Kind::Device) | Err(_) => None,
    }
}

fn source(fd: OwnedFd, place: &Place, writers: Writers) -> io::Result<Box<dyn Source>> {
    let kind = fd::kind(fd.as_fd())?;
    Ok(match kind {
        Kind::Pipe => match writers {
            Writers::InTurn => Box::new(FifoSource {
                inner: PipeSource::new(fd)?,
                place: place.clone(),
                had_writer: false,
            }),
            Writers::First => Box::new(PipeSource::new(fd)?),
        },
        Kind::Directory => return Err(io::ErrorKind::IsADirectory.into()),
        Kind::Regular | Kind::Device | Kind::Socket => {
            set_blocking(&fd)?;
            Box::new(ThreadSource::new(fd, kind))
        }
    })
}

fn sink(fd: OwnedFd) -> io::Result<Box<dyn Sink>> {
    let kind = fd::kind(fd.as_fd())?;
    Ok(match kind {
        Kind::Pipe => Box::new(PipeSink::new(fd)?),
        Kind::Directory => return Err(io::ErrorKind::IsADirectory.into()),
        Kind::Regular => Box::new(ThreadSink::emptying(fd)),
        Kind::Device | Kind::Socket => {
            set_blocking(&fd)?;
            Box::new(ThreadSink::new(fd, kind)?)
        }
    })
}

/// The description is ours alone: it was opened here.
fn set_blocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags - OFlags::NONBLOCK)?)
}

fn explain(place: &Place, half: Half, error: io::Error) -> OpenError {
    let owned = place.path();
    match error.kind() {
        io::ErrorKind::NotFound => OpenError::NotFound { path: owned, half },
        io::ErrorKind::PermissionDenied => OpenError::PermissionDenied { path: owned, half },
        io::ErrorKind::IsADirectory => OpenError::IsDirectory { path: owned, half },
        io::ErrorKind::ResourceBusy => OpenError::InUse { path: owned, half },
        _ if is_a(place, FileType::Socket) => OpenError::IsSocket { path: owned, half },
        _ => OpenError::Open {
            path: owned,
            half,
            source: error,
        },
    }
}

/// Reads the writers of a FIFO one after the other.
///
/// A reading end whose last writer has left is at its end again and again, and ready for ever; one
/// that was opened since then waits for the next writer. Both are there for a moment, so that no
/// writer is without a reader and no byte is lost.
#[derive(Debug)]
struct FifoSource {
    inner: PipeSource,
    place: Place,
    /// One has been there.
    had_writer: bool,
}

impl Source for FifoSource {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_ready(cx)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let len = ready!(self.inner.poll_read(cx, buf, max))?;
            self.had_writer = true;
            match len {
                0 => self.inner.reopen(|| open_to_read(&self.place))?,
                len => return Poll::Ready(Ok(len)),
            }
        }
    }

    fn is_at_rest(&mut self) -> bool {
        self.had_writer && self.inner.has_no_writer()
    }
}

/// A FIFO without a reader is tried again after this…
const FIFO_PAUSE_MIN: Duration = Duration::from_millis(1);
/// …and then less and less often: at most this long after its reader came.
const FIFO_PAUSE_MAX: Duration = Duration::from_millis(50);

#[cfg(all(test, target_os = "linux"))]
mod tests;
