//! TLS over a byte stream, as a byte stream.
//!
//! Reads half a megabyte of ciphertext at once and encrypts many records into one write, in buffers
//! that a connection holds only while something is in them. What always holds: a byte that was
//! accepted for writing is encrypted at once, in order; receiving never waits for sending; an end of
//! the transport without the peer's close_notify is an error, so that a cut never looks like an end;
//! once reading has failed it fails in the same way for ever.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{fmt, mem};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[cfg(test)]
use super::buffer::Buffer;
use super::error::TlsError;
use super::machine::Step;
use super::records::{PLAIN_MAX, Records};
use super::wire::{Room, Wire};

/// A TLS connection on the transport `S`.
///
/// # Cancellation
/// Every poll keeps its progress in `self`; dropping a future that polls loses nothing. Dropping the
/// stream sends no close_notify: the peer sees a cut.
pub struct TlsStream<S> {
    wire: Wire<S>,
    records: Records,
    /// What of a record did not fit where it was wanted.
    rest: Rest,
    /// Why nothing more will be read.
    end: Option<End>,
    /// close_notify is in the outgoing buffer, or gone.
    closed: bool,
}

#[derive(Default)]
struct Rest {
    bytes: Vec<u8>,
    at: usize,
}

#[derive(Debug, Clone)]
enum End {
    /// By close_notify.
    Closed,
    Tls(TlsError),
    Io(io::ErrorKind),
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// After the handshake, with the data that came behind it, and perhaps the peer's end.
    pub(super) fn open(wire: Wire<S>, records: Records, early: Vec<u8>, ended: bool) -> Self {
        Self {
            wire,
            records,
            rest: Rest {
                bytes: early,
                at: 0,
            },
            end: ended.then_some(End::Closed),
            closed: false,
        }
    }

    /// The transport underneath. Reading from it or writing to it would break the connection.
    pub fn transport(&self) -> &S {
        &self.wire.io
    }

    /// One record; data goes to `into`, and to the rest if it does not fit.
    fn step(&mut self, into: &mut ReadBuf<'_>) -> Result<Step, TlsError> {
        let (rest, wire) = (&mut self.rest, &mut self.wire);
        self.records
            .step(&mut wire.incoming, &mut wire.outgoing, &mut |data| {
                let (fits, over) = data.split_at(data.len().min(into.remaining()));
                into.put_slice(fits);
                rest.bytes.extend_from_slice(over);
            })
    }

    /// Decrypts what is there as far as it fits.
    fn decrypt(&mut self, into: &mut ReadBuf<'_>) {
        let before = into.filled().len();
        self.rest.take(into);
        while self.end.is_none() && into.remaining() > 0 {
            // A record that might not fit would be copied twice.
            if into.filled().len() > before && into.remaining() < PLAIN_MAX {
                return;
            }
            match self.step(into) {
                Ok(Step::Data | Step::Control) => {}
                Ok(Step::Idle) => return,
                Ok(Step::PeerClosed) => self.end = Some(End::Closed),
                Err(error) => self.end = Some(End::Tls(error)),
            }
        }
    }

    fn ended(&self) -> Option<io::Result<()>> {
        self.end.as_ref().map(|end| match end {
            End::Closed => Ok(()),
            End::Tls(error) => Err(error.clone().into()),
            End::Io(kind) => Err((*kind).into()),
        })
    }

    fn poll_seal(&mut self, cx: &mut Context<'_>, data: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if let Some(End::Tls(error)) = &self.end {
            return Poll::Ready(Err(error.clone().into()));
        }
        // One batch at a time: what waits here is bounded, and the one who waits is woken.
        let wire = &mut self.wire;
        ready!(wire.poll_outgoing(cx))?;
        wire.outgoing.enlarge(&wire.buffers);
        let sealed = self.records.seal(&mut wire.outgoing, data);
        // The bytes are accepted whether they leave now or not.
        match wire.poll_outgoing(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(sealed.map_err(io::Error::from)),
        }
    }

    /// Buffers as they are, for tests.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        let wire = &self.wire;
        wire.incoming.memory() + wire.outgoing.memory() + self.rest.bytes.capacity()
    }

    /// The record layer and where its records go.
    #[cfg(test)]
    pub(super) fn records(&mut self) -> (&mut Records, &mut Buffer) {
        (&mut self.records, &mut self.wire.outgoing)
    }
}

impl Rest {
    fn take(&mut self, into: &mut ReadBuf<'_>) {
        if self.bytes.is_empty() {
            return;
        }
        let rest = &self.bytes[self.at..];
        let len = rest.len().min(into.remaining());
        into.put_slice(&rest[..len]);
        self.at += len;
        if self.at == self.bytes.len() {
            *self = Self::default();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            this.decrypt(buf);
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            if let Some(end) = this.ended() {
                if end.is_err() {
                    // The alert that says why leaves now, as far as the transport takes it: who
                    // fails to read may never write again.
                    let _ = this.wire.poll_outgoing(cx);
                }
                return Poll::Ready(end);
            }
            match this.wire.poll_fill(cx, Room::Large) {
                Poll::Ready(Ok(0)) => {
                    this.end = Some(End::Tls(TlsError::truncated(this.records.peer())));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    this.end = Some(End::Io(error.kind()));
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    // What TLS itself has to say does not wait for data of ours; if it cannot leave
                    // now, the transport wakes us. A failure shows when there is data to write.
                    let _ = this.wire.poll_outgoing(cx);
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_seal(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_seal(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.wire.poll_outgoing(cx))?;
        Pin::new(&mut this.wire.io).poll_flush(cx)
    }

    /// Sends close_notify and shuts down writing of the transport; reading goes on.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // After an error the last word is the alert that says so.
        let failed = matches!(this.end, Some(End::Tls(_)));
        if !mem::replace(&mut this.closed, true) && !failed {
            this.records.close(&mut this.wire.outgoing)?;
        }
        ready!(this.wire.poll_outgoing(cx))?;
        Pin::new(&mut this.wire.io).poll_shutdown(cx)
    }
}

/// Sizes and states, never payload: logs are no place for it.
impl<S: fmt::Debug> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("io", &self.wire.io)
            .field("incoming", &self.wire.incoming.len())
            .field("outgoing", &self.wire.outgoing.len())
            .field("end", &self.end)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}
