//! The loop of a link of a session's own: moves it until either ends.
//!
//! The rules decide everything; this file only waits. Receiving never waits for sending: two full
//! peers would stand still for ever. Each turn does a bounded amount of both.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use farpipe_proto::limits::DRAIN;
use farpipe_proto::session::SessionError;
use farpipe_proto::wire::hop::HopFrame;
use farpipe_proto::wire::id::TunnelId;

use crate::carrier::{CarrierError, Close};
use crate::hop::{Heard, Hop};
use crate::link::Wire;
use crate::shared::Shared;
use crate::tunnel::{Driven, LostLink, Tunnel};

#[cfg(test)]
mod tests;

/// Pieces taken in one turn before sending gets its chance.
pub(crate) const PIECES_PER_TURN: usize = 16;
/// Pieces taken of a link that cannot be written any more: what its peer had on the way, and an end to
/// one that only says.
const LAST_PIECES: usize = 1024;
/// Messages sent in one turn before receiving gets its chance.
pub(crate) const MESSAGES_PER_TURN: usize = 8;

/// One session on one carrier.
#[derive(Debug)]
pub(crate) struct Driver {
    hop: Hop,
    tunnel: Tunnel,
}

impl Driver {
    /// Takes over an attached wire: everything from `peer_received` on is sent (again).
    ///
    /// # Errors
    /// The offset is impossible: final.
    pub(crate) fn attach(
        shared: &Arc<Shared>,
        wire: Wire,
        tunnel: TunnelId,
        peer_received: u64,
        heartbeat: Duration,
    ) -> Result<Self, Box<(SessionError, Wire)>> {
        let hop = Hop::new(wire, shared.clock, heartbeat);
        match Tunnel::attach(shared, tunnel, peer_received) {
            Ok(tunnel) => Ok(Self { hop, tunnel }),
            Err(error) => Err(Box::new((error, hop.into_wire()))),
        }
    }

    /// Whether this link brought the session forward.
    pub(crate) fn progressed(&self) -> bool {
        self.tunnel.progressed()
    }

    /// Says the last words and closes politely, within a second; whether they were heard.
    pub(crate) async fn leave(mut self, words: &HopFrame, close: Close) -> bool {
        self.tunnel.give_back();
        self.hop.queue(words);
        self.hop.close(close).await
    }

    /// Queues a frame before anything else is sent.
    pub(crate) fn queue(&mut self, frame: &HopFrame) {
        self.hop.queue(frame);
    }

    /// Moves bytes until the session or the link ends.
    pub(crate) fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Driven> {
        // The waker first: what handles do from now on is seen.
        self.tunnel.park(cx);
        let driven = match ready!(self.poll_turns(cx)) {
            Ok(()) => Driven::Complete,
            Err(driven) => driven,
        };
        if !matches!(driven, Driven::Unsealed(_)) {
            self.tunnel.give_back();
        }
        Poll::Ready(driven)
    }

    /// Sends what is numbered, as far as it leaves within a second: after [`Driven::Unsealed`] the last
    /// of it tells the peer what this end thinks of it.
    pub(crate) async fn say_rest(&mut self) {
        let Self { hop, tunnel } = self;
        let saying = poll_fn(|cx| {
            loop {
                let (_, in_hand) = tunnel.take_next(hop);
                if in_hand {
                    ready!(tunnel.poll_send(cx, hop))?;
                    continue;
                }
                ready!(hop.poll_flush(cx))?;
                if !tunnel.has_unsent() {
                    return Poll::Ready(Ok::<(), CarrierError>(()));
                }
            }
        });
        let said = tokio::time::timeout(DRAIN, saying).await;
        tracing::trace!(?said, "told what broke the seal");
    }

    fn poll_turns(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Driven>> {
        // Sending first: what the last turn received has been consumed by now, so that its
        // acknowledgement and the new credit leave in one write.
        let sent = match self.transmit(cx) {
            Err(lost @ Driven::Lost(_)) => {
                return Poll::Ready(Err(self.last_words(cx).unwrap_or(lost)));
            }
            sent => sent?,
        };
        let received = self.receive(cx)?;
        let acks = self.tunnel.poll_timeout();
        if let Poll::Ready(looked) = self.hop.poll_timers(cx, acks) {
            looked?;
            cx.waker().wake_by_ref();
        }
        if self.tunnel.is_over() {
            return Poll::Ready(Ok(()));
        }
        if received || sent || self.tunnel.awaits_writer() {
            // There is more; let the other tasks of this thread have their turn first.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// What a peer said that is gone now may be why: takes what has arrived and was not read yet.
    fn last_words(&mut self, cx: &mut Context<'_>) -> Option<Driven> {
        for _ in 0..LAST_PIECES {
            let heard = match self.hop.poll_heard(cx) {
                Poll::Ready(Ok(heard)) => heard,
                Poll::Ready(Err(_)) | Poll::Pending => return None,
            };
            if let Some(heard) = heard
                && let Err(driven) = self.handle(heard)
            {
                return Some(driven);
            }
        }
        None
    }

    /// Takes what has arrived; `true` if there was something: it may want an answer.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, Driven> {
        for pieces in 0..PIECES_PER_TURN {
            match self.hop.poll_heard(cx) {
                Poll::Pending => return Ok(pieces > 0),
                Poll::Ready(heard) => {
                    if let Some(heard) = heard? {
                        self.handle(heard)?;
                    }
                }
            }
        }
        Ok(true)
    }

    fn handle(&mut self, heard: Heard) -> Result<(), Driven> {
        let own = self.tunnel.id();
        match heard {
            // A tunnel that was fenced or refused may still have bytes under way.
            Heard::Data { tunnel, .. } if tunnel != own => Ok(()),
            Heard::Data { offset, bytes, .. } => self.tunnel.handle_data(offset, bytes),
            Heard::RoundTrip(rtt_min) => {
                self.tunnel.handle_round_trip(rtt_min);
                Ok(())
            }
            Heard::Frame(frame) => match frame {
                HopFrame::Ack(tunnel, _) | HopFrame::Detach(tunnel) if tunnel != own => Ok(()),
                HopFrame::Hello(_)
                | HopFrame::Welcome(_)
                | HopFrame::Auth(_)
                | HopFrame::Register(_)
                | HopFrame::Attach(..)
                | HopFrame::Attached(..) => Err(Driven::Failed(
                    "the other side broke the protocol: a second handshake".to_owned(),
                )),
                HopFrame::GoAway(_) => Err(Driven::Lost(LostLink::GoingAway)),
                frame => self.tunnel.handle_frame(frame),
            },
        }
    }

    /// Sends what is due; `true` when the turn's budget ended it.
    fn transmit(&mut self, cx: &mut Context<'_>) -> Result<bool, Driven> {
        let Self { hop, tunnel } = self;
        for _ in 0..MESSAGES_PER_TURN {
            tunnel.queue_ack(hop);
            hop.queue_ping();
            let (_, in_hand) = tunnel.take_next(hop);
            if in_hand {
                match tunnel.poll_send(cx, hop) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(sent) => sent?,
                }
                continue;
            }
            if hop.has_queued()
                && let Poll::Ready(flushed) = hop.poll_flush(cx)
            {
                flushed?;
                if tunnel.has_unsent() {
                    // The queue was full of small segments; more of them wait.
                    continue;
                }
            }
            return Ok(false);
        }
        Ok(true)
    }
}
