//! One link after its handshake: the wire, its heartbeat, its alarm. Whose tunnels it carries is the
//! business of whoever drives it: one session's (`driver.rs`), an agent's (`trunk.rs`), or those
//! that a relay joins.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use farpipe_proto::Instant;
use farpipe_proto::link::Keepalive;
use farpipe_proto::time::earliest;
use farpipe_proto::wire::DecodeError;
use farpipe_proto::wire::hop::{HopFrame, HopItem};
use farpipe_proto::wire::id::TunnelId;

use crate::carrier::{CarrierError, Close};
use crate::clock::Clock;
use crate::link::{Alarm, Wire};
use crate::pool::Pool;
use crate::segment::Segment;

/// Queued bytes beyond which no more control frames are made; they are state, so they wait.
pub(crate) const QUEUE_MAX: usize = 64 * 1024;

/// See [`moved`]. Of the process and not of a link, since what looks on or sleeps is the process's thread.
static MOVED: AtomicU64 = AtomicU64::new(0);

/// Session bytes that all links of this process have sent and received so far: whether anything moves
/// at all, and whether that is much. Not an account of anybody's data.
#[must_use]
pub fn moved() -> u64 {
    MOVED.load(Ordering::Relaxed)
}

/// Why a link is over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HopError {
    /// The carrier is gone.
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    /// Nobody is there any more.
    #[error("nothing heard for three heartbeats")]
    Silent,
    /// Bytes that are no frames.
    #[error("the other side broke the protocol: {0}")]
    Decode(#[from] DecodeError),
}

/// Something the neighbour said.
#[derive(Debug)]
pub enum Heard {
    /// Session bytes of a tunnel, from `offset` on; never empty.
    Data {
        /// Whose.
        tunnel: TunnelId,
        /// Session offset of the first byte.
        offset: u64,
        /// The bytes.
        bytes: BytesMut,
    },
    /// Any other frame but PING.
    Frame(HopFrame),
    /// The smallest round trip of the last 10 s, newly measured.
    RoundTrip(Duration),
}

/// A link to a neighbour.
#[derive(Debug)]
pub struct Hop {
    wire: Wire,
    keepalive: Keepalive,
    alarm: Alarm,
    clock: Clock,
}

impl Hop {
    pub(crate) fn new(wire: Wire, clock: Clock, heartbeat: Duration) -> Self {
        Self {
            wire,
            keepalive: Keepalive::new(clock.now(), heartbeat),
            alarm: Alarm::new(),
            clock,
        }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Takes the next piece of what has come; ready with `None` if it concerns nobody else. PINGs are
    /// answered. Cancel safe.
    ///
    /// # Errors
    /// [`HopError`]: the link is over.
    pub fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Heard>, HopError>> {
        let piece = ready!(self.wire.carrier.poll_recv(cx, &mut self.wire.pool));
        Poll::Ready(self.take(piece))
    }

    /// As [`Hop::poll_heard`], reading into slots of `pool`, which several links share.
    ///
    /// # Errors
    /// As there.
    pub fn poll_heard_into(
        &mut self,
        cx: &mut Context<'_>,
        pool: &mut Pool,
    ) -> Poll<Result<Option<Heard>, HopError>> {
        let piece = ready!(self.wire.carrier.poll_recv(cx, pool));
        Poll::Ready(self.take(piece))
    }

    fn take(
        &mut self,
        piece: Result<crate::carrier::Piece, CarrierError>,
    ) -> Result<Option<Heard>, HopError> {
        let mut piece = piece?;
        let now = self.clock.now();
        self.keepalive.handle_heard(now);
        let decoder = &mut self.wire.decoder;
        let item = decoder.feed(piece.first, &piece.bytes, piece.last)?;
        Ok(match item {
            None => None,
            Some(HopItem::Data {
                tunnel,
                offset,
                skip,
            }) => {
                let bytes = piece.bytes.split_off(skip);
                MOVED.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Some(Heard::Data {
                    tunnel,
                    offset,
                    bytes,
                })
            }
            Some(HopItem::Frame(HopFrame::Ping(number))) => {
                // The peer's questions are answered one at a time; a flood of them is not.
                if !self.is_full() {
                    self.queue(&HopFrame::Pong(number));
                }
                None
            }
            Some(HopItem::Frame(HopFrame::Pong(number))) => {
                self.keepalive.handle_pong(now, number);
                Some(Heard::RoundTrip(self.keepalive.rtt_min(now)))
            }
            Some(HopItem::Frame(frame)) => Some(Heard::Frame(frame)),
        })
    }

    /// Queues a small frame. Who queues what is not bounded otherwise asks [`Hop::is_full`] first.
    pub fn queue(&mut self, frame: &HopFrame) {
        self.wire.queue(frame);
    }

    /// Queues a small message (at most 64 KiB) as it is. Who queues what is not bounded otherwise asks
    /// [`Hop::is_full`] first.
    pub fn queue_message(&mut self, message: &[u8]) {
        self.wire.carrier.queue(message);
    }

    /// Whether so much is queued that what is due had better wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.wire.carrier.queued() >= QUEUE_MAX
    }

    /// Queues a PING, if one is due.
    pub fn queue_ping(&mut self) {
        if !self.is_full()
            && let Some(number) = self.keepalive.poll_ping(self.clock.now())
        {
            self.queue(&HopFrame::Ping(number));
        }
    }

    /// Sends one message of `header` and the segment, and before it what is queued: see
    /// [`crate::carrier::Carrier::poll_send`].
    ///
    /// # Errors
    /// [`CarrierError`].
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        header: &[u8],
        segment: &mut Segment,
    ) -> Poll<Result<(), CarrierError>> {
        ready!(self.wire.carrier.poll_send(cx, header, segment))?;
        MOVED.fetch_add(segment.len() as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    /// Sends what is queued; ready when nothing is left. Not while a message is half sent.
    ///
    /// # Errors
    /// [`CarrierError`].
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        if self.wire.carrier.queued() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.wire.carrier.poll_flush(cx)
    }

    /// Whether anything is queued.
    #[must_use]
    pub fn has_queued(&self) -> bool {
        self.wire.carrier.queued() > 0
    }

    /// Wakes the task when the heartbeat or `due` wants another look; ready if that is now.
    ///
    /// # Errors
    /// [`HopError::Silent`].
    pub fn poll_timers(
        &mut self,
        cx: &mut Context<'_>,
        due: Option<Instant>,
    ) -> Poll<Result<(), HopError>> {
        if self.keepalive.is_dead(self.clock.now()) {
            return Poll::Ready(Err(HopError::Silent));
        }
        let due = if self.is_full() {
            // What is due meanwhile goes out when the carrier takes bytes again, which wakes us.
            Some(self.keepalive.dead_at())
        } else {
            earliest(self.keepalive.poll_timeout(), due)
        };
        let Some(at) = due else {
            return Poll::Pending;
        };
        self.alarm.poll_at(cx, self.clock.deadline(at)).map(Ok)
    }

    /// Closes politely within a second: what was queued arrives, the neighbour hears why. Whether it
    /// heard.
    pub async fn close(mut self, close: Close) -> bool {
        self.wire.close(close).await
    }

    /// Closes with a last frame that says why.
    pub async fn refuse(mut self, frame: &HopFrame) {
        self.wire.refuse(frame).await;
    }

    pub(crate) fn into_wire(self) -> Wire {
        self.wire
    }
}
