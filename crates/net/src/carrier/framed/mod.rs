//! The one send loop and the one receive loop of every carrier that is a byte stream underneath.
//!
//! [`Framed`] moves bytes between a transport and a [`Framing`]; the framing knows how messages
//! look on the wire and does no I/O. Invariants: nothing is ever written into the middle of a
//! half-written message; the framing consumes all it is given, so the receive buffer can be
//! exchanged between any two reads; receiving never waits for sending.

mod inbox;
mod outbox;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};

use self::inbox::Inbox;
use self::outbox::Outbox;
use super::{Carrier, CarrierError, Close, Piece};
use crate::pool::Pool;
use crate::segment::Segment;
use crate::tls::PeerIdentity;

/// Longest message in bytes: 1 MiB of payload (the protocol's limit on a hop frame) and room for
/// the frame's own header. Longer ones are refused from their header alone.
pub const MESSAGE_MAX: usize = (1 << 20) + 64;

/// Longest small message: [`Carrier::queue`] copies, which is right for control messages only.
pub const QUEUED_MESSAGE_MAX: usize = 64 << 10;

/// Longest reason of a [`Close`]: what is left of a WebSocket control frame behind the code.
pub const CLOSE_REASON_MAX: usize = 123;

/// Longest header of a message that [`Carrier::poll_send`] puts in front of a segment: the room a
/// segment keeps, less a WebSocket frame's header.
pub const HEADER_MAX: usize = Segment::HEADROOM - 14;

/// Close code that stands for "no code was given" (RFC 6455 section 7.4.1); never on the wire.
pub const CLOSE_WITHOUT_CODE: u16 = 1005;

/// Close code that stands for an end without a closing handshake; never on the wire.
pub const CLOSE_WITHOUT_HANDSHAKE: u16 = 1006;

/// How messages look on a byte stream; no I/O, no clock.
pub trait Framing: Send + fmt::Debug {
    /// Name of the carrier in errors: `ws` or `fp`.
    const NAME: &'static str;

    /// Appends one whole message to `out`.
    fn put_message(&mut self, out: &mut BytesMut, message: &[u8]);

    /// What goes in front of a segment of `data_len` bytes that is sent as one message together
    /// with `header`.
    fn prefix(&mut self, header: &[u8], data_len: usize) -> Prefix;

    /// Appends the closing message; [`CLOSE_WITHOUT_CODE`] gives one without a code.
    fn put_close(&mut self, out: &mut BytesMut, code: u16, reason: &str);

    /// Bytes of the answer the framing owes the neighbour by itself, at most one at any time.
    fn owed(&self) -> usize;

    /// Appends the answer that is owed, if any; it is then owed no more.
    fn put_owed(&mut self, out: &mut BytesMut);

    /// Bytes known to be missing of the message that is being received.
    fn expected(&self) -> usize;

    /// Takes bytes off `input` until something can be handed on, or all of them.
    ///
    /// # Errors
    /// What the neighbour did wrong; nothing may be decoded after that.
    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Received>, Violation>;
}

/// The transport's and the message's own header in front of a segment's data.
#[derive(Debug, Clone, Copy)]
pub struct Prefix {
    /// The header bytes, as they go out; the first [`Prefix::len`] count.
    pub bytes: [u8; Segment::HEADROOM],
    /// How many of `bytes` are used.
    pub len: usize,
    /// What is laid over the data, from its first byte; zero: nothing.
    pub mask: [u8; 4],
}

/// Something that arrived.
#[derive(Debug)]
pub enum Received {
    /// A piece of a message.
    Piece(Piece),
    /// The closing message; nothing valid can follow.
    Closed {
        /// The code, or [`CLOSE_WITHOUT_CODE`].
        code: u16,
        /// The neighbour's words.
        reason: String,
    },
}

/// A rule of the carrier that the neighbour broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// What was wrong.
    pub what: &'static str,
    /// The close code that says so.
    pub code: u16,
}

/// A carrier on the byte stream `S`, with messages framed by `F`.
///
/// A message that is half written when the carrier is closed or dropped is cut; the neighbour sees
/// an end without a closing handshake, never a wrong message.
pub struct Framed<S, F> {
    stream: S,
    framing: F,
    inbox: Inbox,
    outbox: Outbox,
    /// Why nothing more will be received.
    ended: Option<Ended>,
    closing: Closing,
    peer: Option<PeerIdentity>,
}

/// Why receiving is over. Kept, so that asking again gives the same answer.
#[derive(Debug)]
enum Ended {
    Closed { code: u16, reason: String },
    Violated(Violation),
    Failed(io::ErrorKind),
}

/// How far our half of the closing handshake is.
#[derive(Debug, Default)]
struct Closing {
    /// The closing message, ours or the answer to the neighbour's, was put into the outbox.
    queued: bool,
    /// It was written, or cannot be.
    flushed: bool,
    /// Writing was shut down.
    shut: bool,
    /// The transport's end was read.
    drained: bool,
}

impl<S, F> Framed<S, F>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug,
    F: Framing,
{
    /// A carrier whose first received bytes are `read_ahead`: those a handshake on the same stream
    /// read too many.
    pub fn new(stream: S, framing: F, read_ahead: BytesMut) -> Self {
        Self {
            stream,
            framing,
            inbox: Inbox::new(read_ahead),
            outbox: Outbox::default(),
            ended: None,
            closing: Closing::default(),
            peer: None,
        }
    }

    /// The same with what the transport's handshake has told of the neighbour.
    #[must_use]
    pub fn with_peer(self, peer: Option<PeerIdentity>) -> Self {
        Self { peer, ..self }
    }

    /// As [`Framed::new`], with `opening` to be written before anything else.
    pub(super) fn opened(stream: S, framing: F, read_ahead: BytesMut, opening: &[u8]) -> Self {
        let mut framed = Self::new(stream, framing, read_ahead);
        framed.outbox.queue().extend_from_slice(opening);
        framed
    }

    /// The transport underneath, for its addresses and options. Reading from it or writing to it
    /// would break the carrier.
    pub fn transport(&self) -> &S {
        &self.stream
    }

    /// The transport, for tests that change its script.
    #[cfg(test)]
    pub(super) fn transport_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Puts what the framing owes behind what is queued, unless an earlier answer still waits
    /// there: a neighbour that asks and does not read cannot make the queue grow.
    fn collect_owed(&mut self) {
        if !self.closing.queued && self.framing.owed() > 0 && !self.outbox.holds_answer() {
            self.framing.put_owed(self.outbox.queue());
            self.outbox.mark_answer();
        }
    }

    /// Decodes the next thing out of what was read; `None`: more must be read. Errors are sticky.
    fn decode(&mut self) -> Result<Option<Piece>, CarrierError> {
        match self.framing.decode(&mut self.inbox.buf) {
            Ok(None) => Ok(None),
            Ok(Some(Received::Piece(piece))) => Ok(Some(piece)),
            Ok(Some(Received::Closed { code, reason })) => {
                self.queue_close(code, "");
                Err(self.end(Ended::Closed { code, reason }))
            }
            Err(violation) => {
                self.queue_close(violation.code, violation.what);
                Err(self.end(Ended::Violated(violation)))
            }
        }
    }

    /// Queues the closing message unless it was: there is only one in each direction.
    fn queue_close(&mut self, code: u16, reason: &str) {
        if !self.closing.queued {
            self.framing.put_close(self.outbox.queue(), code, reason);
            self.closing.queued = true;
        }
    }

    /// Takes note that nothing more will be received, and gives back what was read ahead.
    fn end(&mut self, ended: Ended) -> CarrierError {
        self.inbox.buf = BytesMut::new();
        let error = ended.error::<F>();
        self.ended = Some(ended);
        error
    }

    /// Reads until something can be decoded.
    fn poll_decoded(
        &mut self,
        cx: &mut Context<'_>,
        mut pool: Option<&mut Pool>,
    ) -> Poll<Result<Piece, CarrierError>> {
        loop {
            if let Some(piece) = self.decode()? {
                return Poll::Ready(Ok(piece));
            }
            let expected = self.framing.expected();
            let pool = pool.as_deref_mut();
            let stream = &mut self.stream;
            match ready!(self.inbox.poll_fill(cx, stream, expected, pool)) {
                Ok(0) => {
                    self.closing.drained = true;
                    let (code, reason) = (CLOSE_WITHOUT_HANDSHAKE, String::new());
                    return Poll::Ready(Err(self.end(Ended::Closed { code, reason })));
                }
                Ok(_) => {}
                Err(error) => {
                    self.closing.drained = true;
                    self.end(Ended::Failed(error.kind()));
                    return Poll::Ready(Err(error.into()));
                }
            }
        }
    }

    /// The writing half of closing: whatever is queued, the closing message, shutdown.
    fn poll_close_writing(&mut self, cx: &mut Context<'_>) {
        // Nothing can be put into the middle of a message; it stays cut.
        let cut = self.outbox.is_half_sent();
        if !self.closing.flushed && !cut {
            // A transport that takes no more bytes may still have the neighbour's last words.
            if self.outbox.poll_flush(cx, &mut self.stream).is_pending() {
                return;
            }
            self.closing.flushed = true;
        }
        // Some proxies take a half-closed connection for a dead one and drop what the other side
        // still has to say, so writing is shut down only when the neighbour has said all.
        if !self.closing.shut && (self.ended.is_some() || cut) {
            // Failing means that the neighbour is gone already.
            self.closing.shut = Pin::new(&mut self.stream).poll_shutdown(cx).is_ready();
        }
    }

    /// The reading half of closing: up to the neighbour's closing message, then to the end of the
    /// transport.
    fn poll_close_reading(&mut self, cx: &mut Context<'_>) -> Result<(), CarrierError> {
        while self.ended.is_none() {
            match self.poll_decoded(cx, None) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(_late)) => {}
                Poll::Ready(Err(error @ CarrierError::Protocol { .. })) => return Err(error),
                Poll::Ready(Err(_)) => {}
            }
        }
        while !self.closing.drained {
            match self.inbox.poll_discard(cx, &mut self.stream) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0) | Err(_)) => self.closing.drained = true,
                Poll::Ready(Ok(_)) => {}
            }
        }
        Ok(())
    }
}

impl<S, F> Carrier for Framed<S, F>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug,
    F: Framing,
{
    fn queue(&mut self, message: &[u8]) {
        assert!(
            message.len() <= QUEUED_MESSAGE_MAX,
            "only small messages are queued"
        );
        if !self.closing.queued {
            self.framing.put_message(self.outbox.queue(), message);
        }
    }

    fn queued(&self) -> usize {
        let owed = if self.closing.queued {
            0
        } else {
            self.framing.owed()
        };
        self.outbox.len() + owed
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        header: &[u8],
        segment: &mut Segment,
    ) -> Poll<Result<(), CarrierError>> {
        if !self.outbox.is_half_sent() {
            if let Some(ended) = &self.ended {
                return Poll::Ready(Err(ended.error::<F>()));
            }
            if self.closing.queued {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe).into()));
            }
            assert!(header.len() <= HEADER_MAX, "the header is too long");
            assert!(
                header.len() + segment.len() <= MESSAGE_MAX,
                "the message is too long"
            );
            self.collect_owed();
            let prefix = self.framing.prefix(header, segment.len());
            self.outbox.begin(&prefix, segment);
        }
        self.outbox
            .poll_send(cx, &mut self.stream, segment, F::NAME)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        assert!(
            !self.outbox.is_half_sent(),
            "a half-sent message needs its segment"
        );
        self.collect_owed();
        ready!(self.outbox.poll_flush(cx, &mut self.stream))?;
        Poll::Ready(Ok(()))
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        pool: &mut Pool,
    ) -> Poll<Result<Piece, CarrierError>> {
        if let Some(ended) = &self.ended {
            return Poll::Ready(Err(ended.error::<F>()));
        }
        self.poll_decoded(cx, Some(pool))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, close: Close) -> Poll<Result<(), CarrierError>> {
        self.queue_close(close.code, close.reason);
        // Before reading, so that what was queued leaves even if the neighbour is gone; and after
        // it, because the neighbour's closing message allows the shutdown.
        self.poll_close_writing(cx);
        self.poll_close_reading(cx)?;
        self.poll_close_writing(cx);
        if !(self.closing.shut && self.closing.drained) {
            return Poll::Pending;
        }
        match &self.ended {
            Some(Ended::Closed { code, .. }) if *code != CLOSE_WITHOUT_HANDSHAKE => {}
            // The one who broke the rules was told; poll_recv told our side.
            Some(Ended::Violated(_)) | None => {}
            Some(ended) => return Poll::Ready(Err(ended.error::<F>())),
        }
        Poll::Ready(Ok(()))
    }

    fn peer_identity(&self) -> Option<&PeerIdentity> {
        self.peer.as_ref()
    }
}

/// Sizes and states, never payload: logs are no place for it.
impl<S: fmt::Debug, F: Framing> fmt::Debug for Framed<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(F::NAME)
            .field("stream", &self.stream)
            .field("framing", &self.framing)
            .field("inbox", &self.inbox)
            .field("outbox", &self.outbox)
            .field("ended", &self.ended)
            .field("closing", &self.closing)
            .finish()
    }
}

impl Ended {
    fn error<F: Framing>(&self) -> CarrierError {
        match self {
            Self::Closed { code, reason } => CarrierError::Closed {
                code: *code,
                reason: reason.clone(),
            },
            Self::Violated(Violation { what, code }) => CarrierError::Protocol {
                carrier: F::NAME,
                what,
                code: *code,
            },
            Self::Failed(kind) => CarrierError::Io((*kind).into()),
        }
    }
}

/// Whether a neighbour may send `code` in a closing message: those RFC 6455 section 7.4 defines
/// for the wire, the three registered since (1012 to 1014), and the ranges for libraries and
/// applications.
pub(super) fn close_code_is_valid(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
