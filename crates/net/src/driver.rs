//! The only loop: moves one session over one carrier until either ends.
//!
//! The rules decide everything; this file only waits. Receiving never waits for sending: two full
//! peers would stand still for ever. Each turn does a bounded amount of both.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use farpipe_proto::link::Keepalive;
use farpipe_proto::session::{SessionError, Side};
use farpipe_proto::time::earliest;
use farpipe_proto::wire::control::{RefuseCode, Refused};
use farpipe_proto::wire::hop::{DATA_HEADER_LEN, HopFrame, HopItem, data_header};
use farpipe_proto::wire::id::TunnelId;

use crate::carrier::{CarrierError, Close, Piece};
use crate::link::{Alarm, Wire};
use crate::segment::Segment;
use crate::shared::{Shared, park};

/// Pieces taken in one turn before sending gets its chance.
const PIECES_PER_TURN: usize = 16;
/// Messages sent in one turn before receiving gets its chance.
const MESSAGES_PER_TURN: usize = 8;
/// Segments up to this size are copied into one write with their neighbours.
const SMALL: usize = 4 * 1024;
/// Queued bytes beyond which no more control frames are made; they are state, so they wait.
pub(crate) const QUEUE_MAX: usize = 64 * 1024;

/// How driving ended.
#[derive(Debug)]
pub(crate) enum Driven {
    /// The carrier is gone; the session goes on over another one.
    Lost(LostLink),
    /// The peer took its leave (DETACH), nothing is wrong.
    Detached,
    /// Everything is settled; this side may take its leave.
    Complete,
    /// The session is over.
    Failed(String),
    /// The peer ended the session.
    Refused(Refused),
}

/// Why a link was lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LostLink {
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    #[error("nothing heard for three heartbeats")]
    Silent,
    #[error(transparent)]
    Session(SessionError),
}

/// Why a turn stopped early.
enum Stop {
    Lost(LostLink),
    Failed(String),
    Refused(Refused),
    Detached,
}

impl From<CarrierError> for Stop {
    fn from(error: CarrierError) -> Self {
        Self::Lost(error.into())
    }
}

impl From<SessionError> for Stop {
    fn from(error: SessionError) -> Self {
        if error.is_transient() {
            Self::Lost(LostLink::Session(error))
        } else {
            Self::Failed(error.to_string())
        }
    }
}

/// One session on one carrier.
#[derive(Debug)]
pub(crate) struct Driver {
    shared: Arc<Shared>,
    wire: Wire,
    tunnel: TunnelId,
    keepalive: Keepalive,
    /// The segment the carrier is half through, with its header. It is part of the retention: it
    /// goes back there however this ends.
    sending: Option<(Segment, [u8; DATA_HEADER_LEN])>,
    alarm: Alarm,
    progressed: bool,
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
        let now = shared.clock.now();
        let mut state = shared.lock();
        let progressed = match state.session.handle_attached(now, peer_received) {
            Ok(progressed) => progressed,
            Err(error) => {
                drop(state);
                return Err(Box::new((error, wire)));
            }
        };
        state.retention.rewind(peer_received);
        state.dispatch(bytes::BytesMut::new());
        state.wake_writers();
        drop(state);
        Ok(Self {
            shared: Arc::clone(shared),
            wire,
            tunnel,
            keepalive: Keepalive::new(now, heartbeat),
            sending: None,
            alarm: Alarm::new(),
            progressed,
        })
    }

    /// Whether this link brought the session forward.
    pub(crate) fn progressed(&self) -> bool {
        self.progressed
    }

    /// Says the last words and closes politely, within a second; whether they were heard.
    pub(crate) async fn leave(mut self, words: &HopFrame, close: Close) -> bool {
        self.give_back();
        self.wire.queue(words);
        self.wire.close(close).await
    }

    /// Queues a frame before anything else is sent.
    pub(crate) fn queue(&mut self, frame: &HopFrame) {
        self.wire.queue(frame);
    }

    /// The tunnel this session has on the link.
    pub(crate) fn tunnel(&self) -> TunnelId {
        self.tunnel
    }

    /// Moves bytes until the session or the link ends.
    pub(crate) fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Driven> {
        {
            // The waker first: what handles do from now on is seen.
            let mut state = self.shared.lock();
            park(&mut state.driver, cx);
        }
        let stop = ready!(self.poll_turns(cx));
        self.give_back();
        Poll::Ready(match stop {
            Ok(()) => Driven::Complete,
            Err(Stop::Lost(lost)) => Driven::Lost(lost),
            Err(Stop::Failed(why)) => Driven::Failed(why),
            Err(Stop::Refused(refused)) => Driven::Refused(refused),
            Err(Stop::Detached) => Driven::Detached,
        })
    }

    fn poll_turns(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        // Sending first: what the last turn received has been consumed by now, so that its
        // acknowledgement and the new credit leave in one write.
        let sent = self.transmit(cx)?;
        let received = self.receive(cx)?;
        if let Poll::Ready(()) = self.poll_timers(cx)? {
            cx.waker().wake_by_ref();
        }
        if self.is_over() {
            return Poll::Ready(Ok(()));
        }
        if received || sent {
            // There is more; let the other tasks of this thread have their turn first.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// The opener leaves when it heard COMPLETE; the acceptor waits to be left.
    fn is_over(&self) -> bool {
        let state = self.shared.lock();
        state.session.side() == Side::Opener && state.session.is_complete()
    }

    /// Takes what has arrived; `true` if there was something: it may want an answer.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        for pieces in 0..PIECES_PER_TURN {
            match self.wire.carrier.poll_recv(cx, &mut self.wire.pool) {
                Poll::Pending => return Ok(pieces > 0),
                Poll::Ready(piece) => self.handle_piece(piece?)?,
            }
        }
        Ok(true)
    }

    fn handle_piece(&mut self, mut piece: Piece) -> Result<(), Stop> {
        let now = self.shared.clock.now();
        self.keepalive.handle_heard(now);
        let item = self
            .wire
            .decoder
            .feed(piece.first, &piece.bytes, piece.last)
            .map_err(|e| Stop::Failed(e.to_string()))?;
        match item {
            None => Ok(()),
            Some(HopItem::Data {
                tunnel,
                offset,
                skip,
            }) => {
                // A tunnel that was fenced or refused may still have bytes under way.
                if tunnel != self.tunnel {
                    return Ok(());
                }
                let bytes = piece.bytes.split_off(skip);
                let mut state = self.shared.lock();
                let received = state.session.received();
                state.with_windows(|session| session.handle_data(now, offset, &bytes))?;
                // A repeat is none: a link that brings nothing else is to be backed off from.
                self.progressed |= state.session.received() > received;
                state.dispatch(bytes);
                state.number_control();
                Ok(())
            }
            Some(HopItem::Frame(frame)) => self.handle_frame(frame),
        }
    }

    fn handle_frame(&mut self, frame: HopFrame) -> Result<(), Stop> {
        let now = self.shared.clock.now();
        match frame {
            HopFrame::Ack(tunnel, offset) if tunnel == self.tunnel => {
                let mut state = self.shared.lock();
                if state.session.handle_ack(now, offset)? {
                    self.progressed = true;
                    state.retention.handle_ack(offset);
                    state.dispatch(bytes::BytesMut::new());
                    state.wake_writers();
                }
            }
            // The peer's questions are answered one at a time; a flood of them is not.
            HopFrame::Ping(number) if self.wire.carrier.queued() < QUEUE_MAX => {
                self.wire.queue(&HopFrame::Pong(number));
            }
            HopFrame::Pong(number) => {
                self.keepalive.handle_pong(now, number);
                let rtt_min = self.keepalive.rtt_min(now);
                self.shared.lock().session.set_rtt_min(rtt_min);
            }
            HopFrame::Detach(tunnel) if tunnel == self.tunnel => return Err(Stop::Detached),
            HopFrame::Refused(_, refused) => return Err(Stop::Refused(refused)),
            HopFrame::Ack(..) | HopFrame::Ping(_) | HopFrame::Detach(_) => {}
            HopFrame::Hello(_)
            | HopFrame::Welcome(_)
            | HopFrame::Auth(_)
            | HopFrame::Attach(..)
            | HopFrame::Attached(..) => {
                return Err(Stop::Failed(
                    "the other side broke the protocol: a second handshake".to_owned(),
                ));
            }
            _ => {}
        }
        Ok(())
    }

    /// Sends what is due; `true` when the turn's budget ended it.
    fn transmit(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        for _ in 0..MESSAGES_PER_TURN {
            self.queue_control();
            if self.sending.is_none() {
                self.sending = self.next_segment();
            }
            let Some((segment, header)) = &mut self.sending else {
                if self.wire.carrier.queued() > 0
                    && let Poll::Ready(result) = self.wire.carrier.poll_flush(cx)
                {
                    result?;
                    if self.shared.lock().retention.has_unsent() {
                        // The queue was full of small segments; more of them wait.
                        continue;
                    }
                }
                return Ok(false);
            };
            match self.wire.carrier.poll_send(cx, header, segment) {
                Poll::Pending => return Ok(false),
                Poll::Ready(result) => {
                    result?;
                    self.give_back();
                }
            }
        }
        Ok(true)
    }

    /// Acknowledgement and heartbeat, if due.
    fn queue_control(&mut self) {
        if self.wire.carrier.queued() >= QUEUE_MAX {
            return;
        }
        let now = self.shared.clock.now();
        let ack = self.shared.lock().session.poll_ack(now);
        if let Some(offset) = ack {
            self.wire.queue(&HopFrame::Ack(self.tunnel, offset));
        }
        if let Some(number) = self.keepalive.poll_ping(now) {
            self.wire.queue(&HopFrame::Ping(number));
        }
    }

    /// The next segment to send by itself; small ones before it are queued together.
    fn next_segment(&mut self) -> Option<(Segment, [u8; DATA_HEADER_LEN])> {
        loop {
            let mut state = self.shared.lock();
            if !state.retention.has_unsent() || self.wire.carrier.queued() >= QUEUE_MAX {
                return None;
            }
            let mut segment = state.retention.take_unsent()?;
            state.session.handle_sent(segment.end());
            state.dispatch(bytes::BytesMut::new());
            let header = data_header(self.tunnel, segment.start());
            if segment.len() > SMALL {
                return Some((segment, header));
            }
            let message = segment.frame(&header, [0; 4]);
            self.wire.carrier.queue(message);
            state.retention.handle_sent(segment);
        }
    }

    /// Returns the segment in hand to the retention.
    fn give_back(&mut self) {
        if let Some((segment, _)) = self.sending.take() {
            self.shared.lock().retention.handle_sent(segment);
        }
    }

    /// Ready when a deadline has passed and the turn should look again.
    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Stop> {
        let clock = self.shared.clock;
        if self.keepalive.is_dead(clock.now()) {
            return Err(Stop::Lost(LostLink::Silent));
        }
        let due = if self.wire.carrier.queued() < QUEUE_MAX {
            let acks = self.shared.lock().session.poll_timeout();
            earliest(self.keepalive.poll_timeout(), acks)
        } else {
            // What is due meanwhile goes out when the carrier takes bytes again, which wakes us.
            Some(self.keepalive.dead_at())
        };
        let Some(at) = due else {
            return Ok(Poll::Pending);
        };
        Ok(self.alarm.poll_at(cx, clock.deadline(at)))
    }

    /// What to tell a peer whose session cannot go on.
    pub(crate) fn refusal(&self, message: &str) -> HopFrame {
        HopFrame::Refused(
            self.tunnel,
            Refused {
                code: RefuseCode::Protocol as u32,
                is_final: true,
                message: message.to_owned(),
            },
        )
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.give_back();
    }
}
