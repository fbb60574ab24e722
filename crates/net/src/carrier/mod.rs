//! One live transport connection between neighbours, moving hop frames as messages.
//!
//! A message is one hop frame (docs/protocol.md section 2). What arrives is handed on in pieces as
//! the socket yields it, never reassembled: DATA frames are numbered by byte, so half of one is as
//! good as a whole one. What leaves is either queued (small, copied) or sent from the retained
//! segment itself (large, in place).

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod fp;
pub mod framed;
pub mod mem;
#[cfg(test)]
mod script;
mod sending;
pub mod ws;

use std::task::{Context, Poll};

use bytes::BytesMut;

use crate::pool::Pool;
use crate::segment::Segment;
use crate::tls::PeerIdentity;

/// Why a carrier is of no more use. The session survives it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CarrierError {
    /// The transport failed or was cut; dialling again helps.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The neighbour closed. `clean`: by the carrier's own closing handshake, not by a bare end.
    #[error("the other side closed the connection ({code}{}{reason})", if reason.is_empty() { "" } else { ": " })]
    Closed {
        /// WebSocket close code (RFC 6455 section 7.4); 1005 when none was given, 1006 when the
        /// connection ended without a closing handshake.
        code: u16,
        /// The neighbour's words.
        reason: String,
    },
    /// The neighbour broke the carrier's rules; dialling again does not help.
    #[error("the other side broke the {carrier} protocol: {what}")]
    Protocol {
        /// `ws` or `fp`.
        carrier: &'static str,
        /// What was wrong.
        what: &'static str,
        /// The close code that says so to the neighbour.
        code: u16,
    },
}

/// A piece of an incoming message, unmasked and without transport headers.
#[derive(Debug)]
pub struct Piece {
    /// The bytes; may be empty only where `first` and `last` are both set (an empty message).
    pub bytes: BytesMut,
    /// The length of the whole message if this piece begins one.
    pub first: Option<usize>,
    /// Whether the message ends here.
    pub last: bool,
}

/// How a carrier is closed: the code and reason of RFC 6455 section 7.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close {
    /// 1000 normal, 1001 going away, 1002 protocol error, 1009 too big, 1011 internal error…
    pub code: u16,
    /// At most 123 bytes of UTF-8.
    pub reason: &'static str,
}

/// One live transport connection.
///
/// Cancel safety: every method keeps its progress in the carrier, so a poll may be dropped at any
/// time. Receiving never waits for sending; answers a carrier owes by itself (WebSocket pongs and
/// close replies) are queued, bounded and coalesced, and go out with the next send or flush.
pub trait Carrier: Send + std::fmt::Debug {
    /// Queues one small message (at most 64 KiB) by copying it. The caller bounds how much it
    /// queues by looking at [`Carrier::queued`].
    fn queue(&mut self, message: &[u8]);

    /// Bytes queued and not yet handed to the transport, with the answers the carrier owes; zero
    /// when a flush has nothing to do.
    fn queued(&self) -> usize;

    /// Writes one message made of `header` and the segment's data, which may be bare, and whatever
    /// was queued before it. Until it is ready, call it again with the same arguments and send nothing else: the
    /// message is half written. Later calls to [`Carrier::queue`] line up behind it. Meanwhile what
    /// has arrived of it may be trimmed from the segment; nothing may be appended. A message that
    /// is half written when the neighbour closes may be finished; a new one may not be begun.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        header: &[u8],
        segment: &mut Segment,
    ) -> Poll<Result<(), CarrierError>>;

    /// Writes all that is queued. Not while a message is half written: that needs its segment.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>>;

    /// The next piece of an incoming message. Large reads go into slots of `pool`.
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        pool: &mut Pool,
    ) -> Poll<Result<Piece, CarrierError>>;

    /// Sends the closing handshake, shuts down writing, and reads on until the neighbour has
    /// closed too, so that what was sent arrives (a close with unread data would reset it). Bound
    /// it by a timer of at most one second.
    fn poll_close(&mut self, cx: &mut Context<'_>, close: Close) -> Poll<Result<(), CarrierError>>;

    /// Who the neighbour is by its certificate, where the transport verified one.
    fn peer_identity(&self) -> Option<&PeerIdentity> {
        None
    }
}
