//! A connection of our own as an endpoint: what connecting and listening kinds have in common.
//!
//! Half-close is kept both ways. A half that was not asked for is over at once: without a sink the
//! far program reads the end; without a source what it sends is read and dropped until it ends, so
//! that a close with bytes unread does not reset what is still on its way to it.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;

use super::listening::Arrival;
use super::named::Named;
use super::socket::{self, SocketSink, SocketSource};
use super::{Endpoint, Sink, Source, Use};

/// A connection that others made.
pub(super) fn arrival(fd: OwnedFd) -> Arrival {
    Box::new(|wanted, name| endpoint(fd, wanted, name.to_owned()))
}

/// Takes a connected socket; `name` is for errors.
pub(super) fn endpoint(fd: OwnedFd, wanted: Use, name: String) -> io::Result<Endpoint> {
    let (source, mut sink) = socket::connection(fd)?;
    let name: Arc<str> = name.into();
    let mut endpoint = Endpoint {
        talks_on: true,
        ..Endpoint::default()
    };
    let sink: Option<Box<dyn Sink>> = match wanted {
        Use::Both => Some(Box::new(sink)),
        Use::Source => {
            sink.finish();
            None
        }
        Use::Sink => {
            let rest = Rest::new(source);
            endpoint.sink = Some(Named::sink(Box::new(Unheard { sink, rest }), name));
            return Ok(endpoint);
        }
    };
    endpoint.sink = sink.map(|sink| Named::sink(sink, Arc::clone(&name)));
    endpoint.source = Some(Named::source(Box::new(source), name));
    Ok(endpoint)
}

/// Sends to a far program whose answer nobody wants. Closed when the far program has ended, too.
#[derive(Debug)]
struct Unheard {
    sink: SocketSink,
    rest: Rest,
}

impl Sink for Unheard {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A far program that cannot write might not read either.
        let _ = self.rest.poll_drop(cx);
        self.sink.poll_write(cx, bufs)
    }

    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = self.rest.poll_drop(cx);
        self.sink.poll_reader_gone(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink.finish();
        self.rest.poll_drop(cx)
    }
}

/// What is read to be dropped.
#[derive(Debug)]
struct Rest {
    /// `None` at its end.
    source: Option<SocketSource>,
    buf: BytesMut,
}

impl Rest {
    fn new(source: SocketSource) -> Self {
        Self {
            source: Some(source),
            buf: BytesMut::new(),
        }
    }

    /// Ready at the end; a failure is told once.
    fn poll_drop(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..TURNS_MAX {
            let Some(source) = &mut self.source else {
                return Poll::Ready(Ok(()));
            };
            let read = ready!(source.poll_read(cx, &mut self.buf, DROP_SIZE));
            self.buf.clear();
            match read {
                Ok(0) => self.source = None,
                Ok(_) => {}
                Err(error) => {
                    self.source = None;
                    return Poll::Ready(Err(error));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Bytes dropped at once.
const DROP_SIZE: usize = 64 << 10;
/// Reads in one poll before the other direction gets its turn.
const TURNS_MAX: usize = 8;

#[cfg(all(test, target_os = "linux"))]
mod tests;
