//! What waits to be written: small messages, and the place in a half-written large one.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use super::Prefix;
use crate::carrier::CarrierError;
use crate::carrier::sending::Sending;
use crate::segment::Segment;

/// What an idle carrier's queue may keep: room for a few acknowledgements, not a burst's worth.
const QUEUE_KEPT: usize = 1 << 10;

/// So many times in a row the queue was emptied of no more than that before its memory goes: a
/// stream of small writes needs it again at once.
const SMALL_RUNS_MAX: u8 = 8;

/// Bytes to write, in the order `queue[..ahead]`, the message being sent, `queue[ahead..]`.
#[derive(Default)]
pub(super) struct Outbox {
    queue: BytesMut,
    /// Bytes written since the queue was last empty.
    run: usize,
    /// Runs one after the other that needed little room.
    small_runs: u8,
    /// Bytes of `queue` up to the end of the framing's own answer; zero when none waits there.
    answer: usize,
    /// The message being sent, and the bytes of `queue` that go before it.
    sending: Option<(usize, Sending)>,
    /// The transport took bytes that it may still hold.
    unflushed: bool,
}

impl Outbox {
    /// Where small messages are appended.
    pub(super) fn queue(&mut self) -> &mut BytesMut {
        &mut self.queue
    }

    /// Bytes a flush would write; at least one if only the transport holds bytes.
    pub(super) fn len(&self) -> usize {
        self.queue.len() + usize::from(self.unflushed)
    }

    /// Whether an answer of the framing waits in the queue.
    pub(super) fn holds_answer(&self) -> bool {
        self.answer > 0
    }

    /// Notes that what was appended last is an answer of the framing.
    pub(super) fn mark_answer(&mut self) {
        self.answer = self.queue.len();
    }

    /// Whether a message was begun and not finished.
    pub(super) fn is_half_sent(&self) -> bool {
        self.sending.is_some()
    }

    /// Begins a message: `prefix` and the data of `segment`, behind what is queued now.
    pub(super) fn begin(&mut self, prefix: &Prefix, segment: &mut Segment) {
        let header = &prefix.bytes[..prefix.len];
        if segment.has_headroom() {
            segment.frame(header, prefix.mask);
            self.sending = Some((self.queue.len(), Sending::new(prefix.len, segment)));
        } else {
            self.queue.extend_from_slice(header);
            segment.frame(&[], prefix.mask);
            self.sending = Some((self.queue.len(), Sending::new(0, segment)));
        }
    }

    /// Writes what is ahead and the message that was begun.
    pub(super) fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        segment: &Segment,
        carrier: &'static str,
    ) -> Poll<Result<(), CarrierError>> {
        while let Some((ahead, sending)) = &mut self.sending {
            let slices = [
                IoSlice::new(&self.queue[..*ahead]),
                IoSlice::new(sending.rest(segment, carrier)?),
            ];
            let slices = if *ahead == 0 {
                &slices[1..]
            } else {
                &slices[..]
            };
            let written = ready!(Pin::new(&mut *stream).poll_write_vectored(cx, slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            self.unflushed = true;
            let of_ahead = written.min(*ahead);
            *ahead -= of_ahead;
            if sending.advance(written - of_ahead) {
                self.sending = None;
            }
            self.advance(of_ahead);
        }
        // The message is out of our hands; a transport that buffers is flushed as far as it goes
        // now, and `len` reminds the caller of the rest.
        if let Poll::Ready(flushed) = Pin::new(stream).poll_flush(cx) {
            flushed?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the queue and flushes the transport; not while a message is half sent.
    pub(super) fn poll_flush<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, &self.queue))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(written);
        }
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, written: usize) {
        self.queue.advance(written);
        self.answer = self.answer.saturating_sub(written);
        self.run += written;
        if !self.queue.is_empty() || written == 0 {
            return;
        }
        self.small_runs = if self.run > QUEUE_KEPT {
            0
        } else {
            self.small_runs.saturating_add(1)
        };
        self.run = 0;
        // What is written stays allocated in front of the queue, and can be reclaimed if it is much.
        if self.small_runs >= SMALL_RUNS_MAX && self.queue.try_reclaim(QUEUE_KEPT + 1) {
            self.queue = BytesMut::new();
        }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("queued", &self.queue.len())
            .field("sending", &self.sending)
            .field("unflushed", &self.unflushed)
            .finish_non_exhaustive()
    }
}
