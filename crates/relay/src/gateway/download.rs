//! The body of a download: chunked, so that its end can be told from a cut. The last chunk is sent at
//! the writer's end only, and the client's end is waited for: who is gone before has not got all.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use farpipe_net::carrier::ws::raw::Transport;
use farpipe_proto::limits::DRAIN;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::timeout;

use super::ends::Sink;

/// Bytes that wait for the socket; then the pipe waits.
const OUT_MAX: usize = 128 << 10;
/// Longest chunk.
const CHUNK_MAX: usize = 64 << 10;
/// How often it is seen whether a client that is told nothing is still there.
pub(super) const LOOK: Duration = Duration::from_millis(500);

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-store\r\n\
    X-Content-Type-Options: nosniff\r\nTransfer-Encoding: chunked\r\n";

/// A body that is being written. Dropping it before its end resets the connection.
#[derive(Debug)]
pub(super) struct Download {
    io: Box<dyn Transport>,
    out: BytesMut,
    is_closing: bool,
    is_shut: bool,
}

impl Download {
    /// Begins the answer, of content of this type; `more` are lines of its head.
    pub(super) fn new(io: Box<dyn Transport>, kind: &str, more: &[(&'static str, String)]) -> Self {
        io.set_reset_at_close(true);
        let mut out = BytesMut::from(HEAD);
        out.extend_from_slice(format!("Content-Type: {kind}\r\n").as_bytes());
        for (name, value) in more {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        Self {
            io,
            out,
            is_closing: false,
            is_shut: false,
        }
    }

    /// Ends it without its last chunk: the client has failed, and yet gets what was sent before.
    ///
    /// # Cancellation
    /// Dropping it resets the connection.
    pub(super) async fn cut(mut self) {
        let sent = poll_fn(|cx| {
            ready!(self.poll_out(cx))?;
            Pin::new(&mut self.io).poll_shutdown(cx)
        });
        if timeout(DRAIN, sent).await.is_ok_and(|sent| sent.is_ok()) {
            self.io.set_reset_at_close(false);
        }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out));
            match written.map_err(cut)? {
                0 => return Poll::Ready(Err(cut(io::ErrorKind::WriteZero.into()))),
                len => self.out.advance(len),
            }
        }
        Pin::new(&mut self.io).poll_flush(cx).map_err(cut)
    }

    /// Reads what the client should not say. Ready at its end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut waste = [0; 1 << 10];
        loop {
            let mut room = ReadBuf::new(&mut waste);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut room)) {
                Ok(()) if room.filled().is_empty() => return Poll::Ready(Ok(())),
                Ok(()) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// A client that is gone has never ended in order: nothing of HTTP could say so.
fn cut(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::WriteZero => {
            io::Error::new(io::ErrorKind::ConnectionAborted, "the client is gone")
        }
        _ => error,
    }
}

impl Sink for Download {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.out.len() >= OUT_MAX {
            ready!(self.poll_out(cx))?;
        }
        let len = bufs
            .iter()
            .map(|buf| buf.len())
            .sum::<usize>()
            .min(CHUNK_MAX);
        self.out
            .extend_from_slice(format!("{len:x}\r\n").as_bytes());
        let mut left = len;
        for buf in bufs {
            let part = &buf[..buf.len().min(left)];
            self.out.extend_from_slice(part);
            left -= part.len();
        }
        self.out.extend_from_slice(b"\r\n");
        match self.poll_out(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(len)),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_out(cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = ready!(self.poll_end(cx)).map_err(cut);
        let why = "the client is gone";
        let gone = || io::Error::new(io::ErrorKind::ConnectionAborted, why);
        Poll::Ready(ended.and_then(|()| Err(gone())))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_closing {
            self.out.extend_from_slice(b"0\r\n\r\n");
            self.is_closing = true;
        }
        if !self.is_shut {
            ready!(self.poll_out(cx))?;
            ready!(Pin::new(&mut self.io).poll_shutdown(cx)).map_err(cut)?;
            self.is_shut = true;
        }
        let ended = ready!(self.poll_end(cx)).map_err(cut);
        let is_reset = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::TimedOut
            )
        };
        match ended {
            Err(error) if is_reset(&error) => Poll::Ready(Err(error)),
            // Not every client says goodbye in TLS; one that had not read all would be a reset.
            Ok(()) | Err(_) => {
                self.io.set_reset_at_close(false);
                Poll::Ready(Ok(()))
            }
        }
    }
}
