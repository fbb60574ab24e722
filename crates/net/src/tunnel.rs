//! One attachment of a session to a link: what is to be sent of it, what has come, what is to be
//! acknowledged. The link itself is a [`Hop`], which may carry other tunnels as well.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use farpipe_proto::Instant;
use farpipe_proto::session::{SessionError, Side};
use farpipe_proto::wire::control::{RefuseCode, Refused};
use farpipe_proto::wire::hop::{DATA_HEADER_LEN, HopFrame, data_header};
use farpipe_proto::wire::id::TunnelId;

use crate::carrier::CarrierError;
use crate::hop::{Hop, HopError};
use crate::segment::Segment;
use crate::shared::{Linked, Shared, park};
use crate::tls::SealError;

/// Segments up to this size are copied into one write with their neighbours.
const SMALL: usize = 4 * 1024;

/// How a tunnel ended.
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
    /// Likewise, because its seal is broken.
    Unsealed(SealError),
    /// The peer ended the session, or a relay the tunnel.
    Refused(Refused),
}

/// Why a link was lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LostLink {
    #[error(transparent)]
    Hop(#[from] HopError),
    #[error(transparent)]
    Session(SessionError),
    /// The link that several tunnels shared.
    #[error("{0}")]
    Trunk(String),
    /// The relay at the other end leaves soon.
    #[error("the relay is going away")]
    GoingAway,
}

impl From<CarrierError> for Driven {
    fn from(error: CarrierError) -> Self {
        Self::Lost(HopError::from(error).into())
    }
}

impl From<HopError> for Driven {
    fn from(error: HopError) -> Self {
        match error {
            HopError::Decode(error) => Self::Failed(error.to_string()),
            lost => Self::Lost(lost.into()),
        }
    }
}

impl From<SessionError> for Driven {
    fn from(error: SessionError) -> Self {
        if error.is_transient() {
            Self::Lost(LostLink::Session(error))
        } else {
            Self::Failed(error.to_string())
        }
    }
}

impl From<SealError> for Driven {
    fn from(error: SealError) -> Self {
        Self::Unsealed(error)
    }
}

/// One session on one link.
#[derive(Debug)]
pub(crate) struct Tunnel {
    shared: Arc<Shared>,
    id: TunnelId,
    /// The segment the carrier is half through, with its header. It is part of the retention: it
    /// goes back there however this ends.
    sending: Option<(Segment, [u8; DATA_HEADER_LEN])>,
    /// Bytes of the session handed to the carrier.
    sent: u64,
    /// No message is begun when `sent` has come here (docs/protocol.md section 4.6).
    limit: u64,
    progressed: bool,
}

impl Tunnel {
    /// Attaches the session: everything from `peer_received` on is sent (again).
    ///
    /// # Errors
    /// The offset is impossible: final.
    pub(crate) fn attach(
        shared: &Arc<Shared>,
        id: TunnelId,
        peer_received: u64,
    ) -> Result<Self, SessionError> {
        let now = shared.clock.now();
        let mut state = shared.lock();
        let progressed = state.session.handle_attached(now, peer_received)?;
        state.retention.rewind(peer_received);
        state.linked = Linked::Now;
        state.dispatch(BytesMut::new());
        state.wake_writers();
        state.handle_met();
        drop(state);
        Ok(Self {
            shared: Arc::clone(shared),
            id,
            sending: None,
            sent: 0,
            limit: u64::MAX,
            progressed,
        })
    }

    pub(crate) fn id(&self) -> TunnelId {
        self.id
    }

    /// Whether this tunnel brought the session forward.
    pub(crate) fn progressed(&self) -> bool {
        self.progressed
    }

    /// The neighbour takes so many bytes, counted from the start; never fewer than it said before.
    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    pub(crate) fn handle_credit(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }

    /// What handles do from now on wakes the task. Not before those had their turn that it woke last time.
    pub(crate) fn park(&self, cx: &Context<'_>) {
        let mut state = self.shared.lock();
        park(&mut state.driver, cx);
        state.session.handle_idle();
        state.dispatch(BytesMut::new());
    }

    /// Whether the task is to look again when the writer had its turn that was woken for it.
    pub(crate) fn awaits_writer(&self) -> bool {
        self.shared.lock().session.awaits_writer()
    }

    pub(crate) fn handle_data(&mut self, offset: u64, mut bytes: BytesMut) -> Result<(), Driven> {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        let repeat = state.session.handle_arrived(now, offset, bytes.len())?;
        bytes.advance(repeat);
        // A repeat is none: a link that brings nothing else is to be backed off from.
        self.progressed |= !bytes.is_empty();
        while let Some(frames) = state.unseal(&mut bytes)? {
            state.with_windows(|session| session.handle_frames(now, &frames))?;
            state.dispatch(frames);
        }
        state.number_control();
        Ok(())
    }

    /// Takes a frame of this tunnel, or of a handshake that is over.
    pub(crate) fn handle_frame(&mut self, frame: HopFrame) -> Result<(), Driven> {
        match frame {
            HopFrame::Ack(_, offset) => {
                let now = self.shared.clock.now();
                let mut state = self.shared.lock();
                if state.session.handle_ack(now, offset)? {
                    self.progressed = true;
                    state.retention.handle_ack(offset);
                    state.dispatch(BytesMut::new());
                    state.handle_slot_freed();
                }
                Ok(())
            }
            HopFrame::Detach(_) => Err(Driven::Detached),
            HopFrame::Refused(_, refused) => Err(Driven::Refused(refused)),
            _ => Ok(()),
        }
    }

    pub(crate) fn handle_round_trip(&self, rtt_min: Duration) {
        self.shared.lock().session.set_rtt_min(rtt_min);
    }

    /// Queues an acknowledgement, if one is due.
    pub(crate) fn queue_ack(&self, hop: &mut Hop) {
        if hop.is_full() {
            return;
        }
        let ack = self.shared.lock().session.poll_ack(hop.now());
        if let Some(offset) = ack {
            hop.queue(&HopFrame::Ack(self.id, offset));
        }
    }

    /// When the next acknowledgement is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.shared.lock().session.poll_timeout()
    }

    /// The opener leaves when it heard COMPLETE; the acceptor waits to be left.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.shared.lock();
        state.session.side() == Side::Opener && state.session.is_complete()
    }

    /// Whether bytes wait that may be sent now.
    pub(crate) fn has_unsent(&self) -> bool {
        self.sent < self.limit && self.shared.lock().retention.has_unsent()
    }

    /// Takes what is to be sent next: small segments are queued together, one that is to be sent by
    /// itself is put in hand. How many bytes in all, and whether one is in hand.
    pub(crate) fn take_next(&mut self, hop: &mut Hop) -> (usize, bool) {
        let mut taken = 0;
        while self.sending.is_none() {
            let mut state = self.shared.lock();
            if !state.retention.has_unsent() || hop.is_full() || self.sent >= self.limit {
                return (taken, false);
            }
            let Some(mut segment) = state.retention.take_unsent() else {
                return (taken, false);
            };
            state.session.handle_sent(segment.end());
            state.dispatch(BytesMut::new());
            taken += segment.len();
            self.sent += segment.len() as u64;
            let header = data_header(self.id, segment.start());
            if segment.len() > SMALL {
                self.sending = Some((segment, header));
                break;
            }
            let message = segment.frame(&header, [0; 4]);
            hop.queue_message(message);
            state.retention.handle_sent(segment);
        }
        (taken, true)
    }

    /// Sends what is in hand, behind what is queued.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        hop: &mut Hop,
    ) -> Poll<Result<(), CarrierError>> {
        let Some((segment, header)) = &mut self.sending else {
            return Poll::Ready(Ok(()));
        };
        let sent = std::task::ready!(hop.poll_send(cx, header, segment));
        self.give_back();
        Poll::Ready(sent)
    }

    /// A copy of the message in hand, to finish it when the session goes on elsewhere.
    pub(crate) fn copy_in_hand(&self) -> Option<(Segment, [u8; DATA_HEADER_LEN])> {
        let (segment, header) = self.sending.as_ref()?;
        Some((segment.copied(), *header))
    }

    /// Returns the segment in hand to the retention.
    pub(crate) fn give_back(&mut self) {
        if let Some((segment, _)) = self.sending.take() {
            self.shared.lock().retention.handle_sent(segment);
        }
    }

    /// What to tell a peer whose session cannot go on.
    pub(crate) fn refusal(id: TunnelId, code: RefuseCode, message: &str) -> HopFrame {
        HopFrame::Refused(
            id,
            Refused {
                code: code as u32,
                is_final: code.is_final(),
                message: message.to_owned(),
            },
        )
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.give_back();
        self.shared.lock().linked = Linked::Lost;
    }
}
