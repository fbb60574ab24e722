//! Endpoints: local sources and sinks of bytes, one file a kind.
//!
//! Kinds are known in `spec.rs`, in [`open`] and in their own file only. A kind is a value, not a
//! verb; direction is not part of it. `pipe.rs`, `socket.rs` and `thread.rs` are the three ways to
//! move bytes of a descriptor; which one fits is decided by what the descriptor is.
//!
//! Invariant: `O_NONBLOCK` is never set on a file description that another process may share. A
//! shell whose terminal or pipe became non-blocking would fail long after this process has ended.

#[cfg(all(test, target_os = "linux"))]
mod conformance;
mod connection;
mod error;
pub(crate) mod exec;
pub(crate) mod fd;
mod file;
mod handoff;
mod listening;
mod messages;
pub(crate) mod named;
mod pace;
pub(crate) mod pipe;
mod socket;
mod spec;
mod stdio;
mod tcp;
mod tcp_listen;
mod thread;
mod unix;
mod unix_listen;
mod ws;
mod ws_listen;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use bytes::BytesMut;
use farpipe_net::HostPort;
use tokio::net::{TcpListener, TcpStream};

use crate::beneath::Place;

pub use self::error::{Half, IoContext, OpenError};
pub use self::exec::{Child, Exit, TERMINATE_GRACE};
pub use self::fd::FileId;
pub use self::listening::{Connection, Listening};
pub use self::spec::{End, EndpointSpec, Part, PathSpec, SpecError, Writers, is_kind, kinds};
pub use self::ws::WsSpec;
pub use self::ws_listen::{WsListenSpec, parse_origin};

/// Where bytes come from. Cancel safety: progress is kept in the source; a dropped poll loses
/// nothing.
pub trait Source: Send + std::fmt::Debug {
    /// Ready when a read would return something (data, the end, an error). Holds no buffer, so
    /// that an idle source costs no memory. Now and then a read is pending all the same, because
    /// another process took the bytes.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Appends between 1 and `max` bytes to `buf`, into spare capacity the caller provided;
    /// `Ok(0)` is the end. A source that needs a thread may take the buffer out of `buf` while it
    /// is pending and put it back when ready.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>>;

    /// Whether what was read is whole, though a source that only a signal ends has more to come:
    /// between the writers of a FIFO. Then it ends in order.
    fn is_at_rest(&mut self) -> bool {
        false
    }
}

/// Where bytes go to. Cancel safety: as for [`Source`].
pub trait Sink: Send + std::fmt::Debug {
    /// Writes some of `bufs` and says how many bytes it took; never `Ok(0)` for non-empty `bufs`.
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>])
    -> Poll<io::Result<usize>>;

    /// Ready when nothing that is written can arrive any more, even though nothing is being
    /// written: with `Ok` when the other end has ended in order, with all that was written (then
    /// only who writes more gets `BrokenPipe`); with `BrokenPipe` when the reader has gone away;
    /// else with what failed. Pending for ever for sinks that cannot know (a regular file).
    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when the system has what was written: for a sink that is dropped without a close,
    /// because what it is fed from has failed.
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Finishes: ready with `Ok` only when the last write and the close have returned.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// The last words of a connection that has words for its end: both of its halves are over by then,
/// but perhaps not in order.
pub(crate) trait Parting: Send + std::fmt::Debug {
    /// Ready when the other end has been told, or after a bound of its own, of less than a second.
    fn poll_part(&mut self, cx: &mut Context<'_>, why: Leaving) -> Poll<()>;
}

/// Why a pipe is over whose connection is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It was told to end, or has no more use for it.
    GoingAway,
    /// It has failed.
    Failed,
}

/// Which halves of an endpoint the caller wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Source and sink.
    Both,
    /// The source only.
    Source,
    /// The sink only.
    Sink,
}

impl Use {
    /// Whether the caller wants to read.
    #[must_use]
    pub fn wants_source(self) -> bool {
        self != Self::Sink
    }

    /// Whether the caller wants to write.
    #[must_use]
    pub fn wants_sink(self) -> bool {
        self != Self::Source
    }
}

/// An open endpoint: the halves that were asked for, and what is known about them.
///
/// Dropping a half releases its descriptors at once, so that the process behind it notices: a
/// writer gets SIGPIPE, a reader the end.
#[derive(Debug, Default)]
pub struct Endpoint {
    /// Where bytes come from; `None` unless asked for.
    pub source: Option<Box<dyn Source>>,
    /// Where bytes go to; `None` unless asked for.
    pub sink: Option<Box<dyn Sink>>,
    /// The process behind an `exec:` or `sh:` endpoint.
    pub child: Option<Child>,
    /// Bytes from the current position to the end, if the source is a regular file whose size
    /// says so (files of /proc do not). For progress only: the file may grow or shrink.
    pub size_hint: Option<u64>,
    /// The regular file that is read, if it is one.
    pub source_file: Option<FileId>,
    /// The regular file that is written, if it is one.
    pub sink_file: Option<FileId>,
    /// Keeps the file that is read from being overwritten until the pipe is over, not only until
    /// all is read: what is on its way may still be lost.
    pub(crate) source_lock: Option<OwnedFd>,
    /// What is to be said when the pipe is over, however it ended.
    pub(crate) parting: Option<Box<dyn Parting>>,
    /// Whether the source is a terminal, where a person may never type the end.
    pub source_is_terminal: bool,
    /// Whether the source goes on when the sink's reader is gone, as a command's or a connection's
    /// may. A filter's does not.
    pub talks_on: bool,
}

/// This process's stderr, to write what a far command says on its own.
///
/// # Errors
/// If its descriptor cannot be used.
pub fn open_stderr() -> Result<Box<dyn Sink>, OpenError> {
    stdio::open_stderr()
}

impl Endpoint {
    /// What keeps the file that is read from being overwritten, to be held longer than the pipe.
    pub(crate) fn take_lock(&mut self) -> Option<OwnedFd> {
        self.source_lock.take()
    }
}

/// Opens the halves of `spec` that `wanted` names.
///
/// Needs a tokio runtime with I/O and time. A FIFO waits for its reader to come, a connection for
/// its peer's answer, a listening kind for its only connection; dropping the future then gives up. The thread of a source or sink that needs one starts with its first
/// poll.
///
/// # Errors
/// See [`OpenError`]; nothing stays open after one.
pub async fn open(spec: &EndpointSpec, wanted: Use) -> Result<Endpoint, OpenError> {
    match spec {
        EndpointSpec::Stdio => stdio::open(wanted),
        EndpointSpec::Path(path) => file::open(path, wanted).await,
        EndpointSpec::Exec(words) => exec::open_words(words, wanted),
        EndpointSpec::Shell(command) => exec::open_shell(command, wanted),
        EndpointSpec::Tcp(to) => tcp::open(to, wanted).await,
        EndpointSpec::Unix(path) => unix::open(path, wanted).await,
        // A TLS handshake is large, and every future around it would have room for one on the stack.
        EndpointSpec::Ws(spec) => Box::pin(ws::open(spec, wanted)).await,
        EndpointSpec::TcpListen(_) | EndpointSpec::UnixListen(_) | EndpointSpec::WsListen(_) => {
            Ok(listen(spec).await?.accept(wanted).await.endpoint)
        }
    }
}

/// Opens a file, FIFO or device where it must lie. Else as [`open`].
///
/// # Errors
/// See [`OpenError`].
pub async fn open_file(
    place: &Place,
    writers: Writers,
    wanted: Use,
) -> Result<Endpoint, OpenError> {
    file::open_at(place, writers, wanted).await
}

/// Connects to a Unix socket where it must lie. Else as [`open`].
///
/// # Errors
/// See [`OpenError`].
pub async fn connect_unix(place: &Place, wanted: Use) -> Result<Endpoint, OpenError> {
    unix::open_at(place, wanted).await
}

/// Listens on a Unix socket where it must lie. Else as [`listen`].
///
/// # Errors
/// See [`OpenError`].
pub async fn listen_unix(place: &Place) -> Result<Listening, OpenError> {
    unix_listen::listen_at(place).await
}

/// Listens on a TCP port, for `what`, and says on which.
pub(crate) async fn bind_tcp(
    on: &HostPort,
    what: &str,
) -> Result<(TcpListener, SocketAddr), OpenError> {
    tcp_listen::bind(on, what).await
}

/// A connection that was taken already; `name` is for errors.
pub(crate) fn of_connection(socket: TcpStream, wanted: Use, name: &str) -> io::Result<Endpoint> {
    connection::endpoint(socket.into_std()?.into(), wanted, name.to_owned())
}

/// Listens as `spec` says. Needs a tokio runtime with I/O and time.
///
/// # Errors
/// See [`OpenError`]; also if `spec` does not listen ([`EndpointSpec::is_listening`]).
pub async fn listen(spec: &EndpointSpec) -> Result<Listening, OpenError> {
    match spec {
        EndpointSpec::TcpListen(on) => tcp_listen::listen(on).await,
        EndpointSpec::UnixListen(path) => unix_listen::listen(path).await,
        EndpointSpec::WsListen(spec) => ws_listen::listen(spec).await,
        EndpointSpec::Stdio
        | EndpointSpec::Path(_)
        | EndpointSpec::Exec(_)
        | EndpointSpec::Shell(_)
        | EndpointSpec::Tcp(_)
        | EndpointSpec::Unix(_)
        | EndpointSpec::Ws(_) => Err(OpenError::DoesNotListen {
            spec: spec.to_string(),
        }),
    }
}
