//! TLS over a byte stream, as a byte stream.
//!
//! Reads half a megabyte of ciphertext at once and encrypts many records into one write, in buffers
//! that a connection holds only while something is in them. What always holds: a byte that was
//! accepted for writing is encrypted at once, in order; receiving never waits for sending; an end of
//! the transport without the peer's close_notify is an error, so that a cut never looks like an end;
//! once reading has failed it fails in the same way for ever.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{fmt, mem};

use farpipe_proto::limits::DRAIN;
use rustls::CommonState;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffer::{Buffer, Buffers};
use super::error::{Peer, TlsError};
use super::machine::{Machine, RECORD_PLAIN_MAX, Step};

/// What a side that refuses reads and throws away before it leaves.
const REFUSAL_DRAIN_MAX: usize = 1 << 20;

/// A TLS connection on the transport `S`.
///
/// # Cancellation
/// Every poll keeps its progress in `self`; dropping a future that polls loses nothing. Dropping the
/// stream sends no close_notify: the peer sees a cut.
pub struct TlsStream<S> {
    io: S,
    machine: Machine,
    /// Ciphertext that was read and not decrypted.
    incoming: Buffer,
    /// Ciphertext that is to be written.
    outgoing: Buffer,
    /// What of a record did not fit where it was wanted.
    rest: Rest,
    /// Why nothing more will be read.
    end: Option<End>,
    /// close_notify is in `outgoing`, or gone.
    closed: bool,
    buffers: Buffers,
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
    pub(super) fn new(io: S, machine: Machine, buffers: Buffers) -> Self {
        Self {
            io,
            machine,
            incoming: Buffer::default(),
            outgoing: Buffer::default(),
            rest: Rest::default(),
            end: None,
            closed: false,
            buffers,
        }
    }

    /// The transport underneath. Reading from it or writing to it would break the connection.
    pub fn transport(&self) -> &S {
        &self.io
    }

    /// What was negotiated.
    pub(super) fn state(&self) -> &CommonState {
        self.machine.state()
    }

    /// Shakes hands, up to the point where this side can send.
    ///
    /// # Errors
    /// [`TlsError`] inside the [`io::Error`] when TLS says no; the alert that tells the peer is
    /// then still to be sent: [`TlsStream::refuse`].
    pub(super) async fn handshake(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_handshake(cx)).await
    }

    /// Sends what is left to be said, shuts down writing and reads on for a moment, so that the
    /// reason arrives: a close with unread bytes would reset the connection. Failing is no news.
    pub(super) async fn refuse(mut self) {
        let mut left = REFUSAL_DRAIN_MAX;
        let refused = poll_fn(|cx| {
            ready!(self.poll_outgoing(cx))?;
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            loop {
                self.incoming.consume(self.incoming.len());
                match ready!(self.poll_fill(cx))? {
                    0 => return Poll::Ready(Ok::<(), io::Error>(())),
                    len if len >= left => return Poll::Ready(Ok(())),
                    len => left -= len,
                }
            }
        });
        let drained = tokio::time::timeout(DRAIN, refused).await;
        tracing::trace!(?drained, "refused");
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // Not a step further: what follows may be data.
            if !self.state().is_handshaking() && !self.state().wants_write() {
                return self.poll_handshaken(cx);
            }
            match self.step(&mut ReadBuf::new(&mut [])) {
                // Data may lie right behind the peer's last message; it waits in the rest.
                Ok(Step::Control | Step::Data) => {}
                Ok(Step::PeerClosed) if self.state().is_handshaking() => {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Ok(Step::PeerClosed) => self.end = Some(End::Closed),
                // The last step may have been the last of all.
                Ok(Step::Idle) if !self.state().is_handshaking() => {
                    return self.poll_handshaken(cx);
                }
                Ok(Step::Idle) => {
                    // Both sides may be in the middle of saying something.
                    if let Poll::Ready(Err(error)) = self.poll_outgoing(cx) {
                        return Poll::Ready(Err(error));
                    }
                    if ready!(self.poll_fill(cx))? == 0 {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// A client's last words are what the server waits for. A server's are session tickets, which
    /// leave now or with the next read or write: nobody waits for them.
    fn poll_handshaken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match (self.poll_outgoing(cx), self.machine.peer()) {
            (Poll::Pending, Peer::Client) => Poll::Ready(Ok(())),
            (written, _) => written,
        }
    }

    /// One step of the machine; data goes to `into`, and to the rest if it does not fit.
    fn step(&mut self, into: &mut ReadBuf<'_>) -> Result<Step, TlsError> {
        let rest = &mut self.rest;
        self.machine
            .step(&mut self.incoming, &mut self.outgoing, &mut |data| {
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
            if into.filled().len() > before && into.remaining() < RECORD_PLAIN_MAX {
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

    /// Reads ciphertext once. Ready with 0: the transport ended.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.state().is_handshaking() {
            self.incoming.reserve(1 << 10);
        } else {
            self.incoming.enlarge(&self.buffers);
        }
        let mut room = ReadBuf::new(self.incoming.room_mut());
        match Pin::new(&mut self.io).poll_read(cx, &mut room) {
            Poll::Ready(Ok(())) => {
                let len = room.filled().len();
                self.incoming.commit(len);
                Poll::Ready(Ok(len))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.incoming.release(&self.buffers);
                Poll::Pending
            }
        }
    }

    /// Writes all ciphertext.
    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, self.outgoing.filled()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.consume(written);
        }
        self.outgoing.release(&self.buffers);
        Poll::Ready(Ok(()))
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
        ready!(self.poll_outgoing(cx))?;
        self.outgoing.enlarge(&self.buffers);
        let sealed = self
            .machine
            .seal(&mut self.incoming, &mut self.outgoing, data);
        // The bytes are accepted whether they leave now or not.
        match self.poll_outgoing(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(sealed.map_err(io::Error::from)),
        }
    }

    /// Buffers as they are, for tests.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.incoming.memory() + self.outgoing.memory() + self.rest.bytes.capacity()
    }

    /// Changes this side's keys; the next write says so.
    #[cfg(test)]
    pub(super) fn refresh_keys(&mut self) {
        self.machine
            .refresh_keys(&mut self.incoming, &mut self.outgoing);
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
                return Poll::Ready(end);
            }
            match this.poll_fill(cx) {
                Poll::Ready(Ok(0)) => {
                    this.end = Some(End::Tls(TlsError::truncated(this.machine.peer())));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    this.end = Some(End::Io(error.kind()));
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    // What TLS itself has to say does not wait for data of ours; if it cannot leave
                    // now, the transport wakes us. A failure shows when there is data to write.
                    let _ = this.poll_outgoing(cx);
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
        ready!(this.poll_outgoing(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    /// Sends close_notify and shuts down writing of the transport; reading goes on.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // After an error the last word is the alert that says so.
        let failed = matches!(this.end, Some(End::Tls(_)));
        if !mem::replace(&mut this.closed, true) && !failed && !this.state().is_handshaking() {
            this.machine.close(&mut this.incoming, &mut this.outgoing)?;
        }
        ready!(this.poll_outgoing(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

/// Sizes and states, never payload: logs are no place for it.
impl<S: fmt::Debug> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("io", &self.io)
            .field("machine", &self.machine)
            .field("incoming", &self.incoming.len())
            .field("outgoing", &self.outgoing.len())
            .field("end", &self.end)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}
