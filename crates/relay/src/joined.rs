//! One client's side of the relay: a link with one tunnel, joined to a tunnel of its agent's link.
//!
//! From the client comes one piece at a time: while the agent's link has not taken it, the client is
//! not read. Towards the client pieces wait within the tunnel's window: the first as it came, what
//! piles up behind it as a copy, so that a slow reader pins no buffers of the agent's link.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use farpipe_net::carrier::Close;
use farpipe_net::{Heard, Hop, HopError, Pool, Segment, Standing};
use farpipe_proto::link::{HopWindow, Overrun, Turn};
use farpipe_proto::wire::control::{Attach, RefuseCode, Refused};
use farpipe_proto::wire::hop::{DATA_HEADER_LEN, HopFrame, data_header};
use farpipe_proto::wire::id::TunnelId;

use tokio::task::AbortHandle;

use crate::tunnels::Passing;
use crate::windows::Share;

/// Pieces up to this size are copied into one write with their neighbours.
pub(crate) const SMALL: usize = 4 * 1024;
/// Messages sent to one client before others have their turn.
const MESSAGES_PER_TURN: usize = 8;
/// Frames taken from one client before others have their turn.
const FRAMES_PER_TURN: usize = 8;
/// Room of a buffer that collects small pieces for a reader that is behind.
const CRUMBS_ROOM: usize = 64 * 1024;

/// A client that asks for an agent.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) hop: Hop,
    /// The tunnel on its own link.
    pub(crate) near: TunnelId,
    /// As it goes to the agent.
    pub(crate) attach: Attach,
    /// The session's key, shortened.
    pub(crate) key: String,
    /// Where it came from, for people.
    pub(crate) peer: String,
    /// By what it was let in.
    pub(crate) standing: Standing,
}

/// What a client has to say to the agent.
#[derive(Debug)]
pub(crate) enum Word {
    /// It took its leave: this frame is the last.
    Last(Box<HopFrame>),
    /// Its link is over, without a word or with a wrong one.
    Gone {
        why: String,
        /// What to tell it, if it can still hear.
        words: Option<Box<HopFrame>>,
        /// Three heartbeats without a sign of life.
        is_silent: bool,
    },
}

/// A joined client.
#[derive(Debug)]
pub(crate) struct Joined {
    hop: Hop,
    near: TunnelId,
    far: TunnelId,
    pub(crate) key: String,
    /// Its turn on the agent's link.
    pub(crate) turn: Turn,
    /// What came from it and waits for its turn.
    up: Option<Segment>,
    /// An ACK of the client that waits for the agent.
    ack_up: Option<u64>,
    /// An ACK of the agent that waits for the client.
    ack_down: Option<u64>,
    /// What waits for the client, behind what is in hand.
    down: VecDeque<Segment>,
    sending: Option<(Segment, [u8; DATA_HEADER_LEN])>,
    window: HopWindow,
    share: Share,
    attached: bool,
    /// The agent's last word, which follows all data.
    last_word: Option<HopFrame>,
    /// Payload passed on, for the log and the admin.
    pub(crate) passing: Passing,
    /// The task that sees whether it may stay.
    pub(crate) watched: Option<Watched>,
}

/// A task that ends with whom it watches.
#[derive(Debug)]
pub(crate) struct Watched(pub(crate) AbortHandle);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Joined {
    /// `far` is its tunnel on the agent's link. Also what is to be said there.
    pub(crate) fn new(
        joining: Joining,
        far: TunnelId,
        turn: Turn,
        share: Share,
        passing: Passing,
    ) -> (Self, Attach) {
        let window = HopWindow::new(joining.hop.now());
        let joined = Self {
            hop: joining.hop,
            near: joining.near,
            far,
            key: joining.key,
            turn,
            up: None,
            ack_up: None,
            ack_down: None,
            down: VecDeque::new(),
            sending: None,
            window,
            share,
            attached: false,
            last_word: None,
            passing,
            watched: None,
        };
        (joined, joining.attach)
    }

    // === from the agent ===

    /// A piece of the bytes of the agent, whose round trip is `rtt`.
    pub(crate) fn take_data(
        &mut self,
        offset: u64,
        bytes: BytesMut,
        rtt: Duration,
    ) -> Result<(), Overrun> {
        let now = self.hop.now();
        self.window.handle_received(now, bytes.len(), rtt)?;
        if self.sending.is_none() && self.down.is_empty() {
            self.down.push_back(Segment::bare(offset, bytes));
            return Ok(());
        }
        match self.down.back_mut() {
            Some(last)
                if last.is_plain() && last.end() == offset && last.tail_room() >= bytes.len() =>
            {
                last.append(&bytes);
            }
            _ => {
                let mut copy = BytesMut::with_capacity(bytes.len().max(CRUMBS_ROOM));
                copy.extend_from_slice(&bytes);
                self.down.push_back(Segment::bare(offset, copy));
            }
        }
        Ok(())
    }

    pub(crate) fn take_ack(&mut self, offset: u64) {
        self.ack_down = Some(offset.max(self.ack_down.unwrap_or(0)));
    }

    /// ATTACHED: once.
    pub(crate) fn take_attached(&mut self, frame: &HopFrame) {
        if !self.attached {
            self.attached = true;
            self.hop.queue(frame);
        }
    }

    /// DETACH or REFUSED.
    pub(crate) fn take_last_word(&mut self, frame: HopFrame) {
        self.last_word.get_or_insert(frame);
    }

    /// Its tunnel on its own link.
    pub(crate) fn near(&self) -> TunnelId {
        self.near
    }

    pub(crate) fn queue(&mut self, frame: &HopFrame) {
        self.hop.queue(frame);
    }

    // === to the agent ===

    /// Queues what is small and due for the agent.
    pub(crate) fn queue_up(&mut self, agent: &mut Hop) {
        if agent.is_full() {
            return;
        }
        if let Some(offset) = self.ack_up.take() {
            agent.queue(&HopFrame::Ack(self.far, offset));
        }
        if let Some(limit) = self.window.poll_credit(self.hop.now()) {
            agent.queue(&HopFrame::HopCredit(self.far, limit));
        }
    }

    /// Whether a piece waits for its turn.
    pub(crate) fn has_up(&self) -> bool {
        self.up.is_some()
    }

    pub(crate) fn take_up(&mut self) -> Option<Segment> {
        let segment = self.up.take()?;
        self.passing.up(segment.len());
        Some(segment)
    }

    /// Reads the client while the agent's link has taken what came before. Whether something came.
    pub(crate) fn receive(&mut self, cx: &mut Context<'_>, pool: &mut Pool) -> Result<bool, Word> {
        for frames in 0..FRAMES_PER_TURN {
            if self.up.is_some() {
                return Ok(frames > 0);
            }
            match self.hop.poll_heard_into(cx, pool) {
                Poll::Pending => return Ok(frames > 0),
                Poll::Ready(heard) => {
                    if let Some(heard) = heard.map_err(|error| self.gone(&error))? {
                        self.handle(heard)?;
                    }
                }
            }
        }
        Ok(true)
    }

    fn gone(&self, error: &HopError) -> Word {
        let words = matches!(error, HopError::Decode(_))
            .then(|| Box::new(self.refusal("a malformed frame")));
        Word::Gone {
            why: error.to_string(),
            words,
            is_silent: matches!(error, HopError::Silent),
        }
    }

    fn refusal(&self, message: &str) -> HopFrame {
        refusal(self.near, RefuseCode::Protocol, message)
    }

    fn handle(&mut self, heard: Heard) -> Result<(), Word> {
        match heard {
            Heard::Data {
                tunnel,
                offset,
                bytes,
            } if tunnel == self.near && self.attached => {
                self.up = Some(Segment::bare(offset, bytes));
                Ok(())
            }
            Heard::Frame(HopFrame::Ack(tunnel, offset)) if tunnel == self.near && self.attached => {
                self.ack_up = Some(offset.max(self.ack_up.unwrap_or(0)));
                Ok(())
            }
            Heard::Frame(HopFrame::Detach(tunnel)) if tunnel == self.near => {
                Err(Word::Last(Box::new(HopFrame::Detach(self.far))))
            }
            Heard::Frame(HopFrame::Refused(_, refused)) => {
                Err(Word::Last(Box::new(HopFrame::Refused(self.far, refused))))
            }
            Heard::RoundTrip(_) => Ok(()),
            Heard::Data { .. } | Heard::Frame(_) => {
                let what = "a frame that has no place here";
                Err(Word::Gone {
                    why: format!("it broke the protocol: {what}"),
                    words: Some(Box::new(self.refusal(what))),
                    is_silent: false,
                })
            }
        }
    }

    /// Sends the client what is due; whether there is more. Ready when the agent's last word is out.
    pub(crate) fn transmit(&mut self, cx: &mut Context<'_>, rtt: Duration) -> Result<bool, Word> {
        match self.poll_transmit(cx, rtt) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(more)) => Ok(more),
            Poll::Ready(Err(error)) => Err(self.gone(&error)),
        }
    }

    fn poll_transmit(
        &mut self,
        cx: &mut Context<'_>,
        rtt: Duration,
    ) -> Poll<Result<bool, HopError>> {
        for _ in 0..MESSAGES_PER_TURN {
            if !self.hop.is_full()
                && let Some(offset) = self.ack_down.take()
            {
                self.hop.queue(&HopFrame::Ack(self.near, offset));
            }
            self.hop.queue_ping();
            if !self.choose(rtt) {
                if self.hop.has_queued() {
                    ready!(self.hop.poll_flush(cx))?;
                }
                if self.down.is_empty() {
                    return Poll::Ready(Ok(false));
                }
                continue;
            }
            if let Some((segment, header)) = &mut self.sending {
                ready!(self.hop.poll_send(cx, header, segment))?;
                let len = segment.len();
                self.sending = None;
                self.handle_passed(len, rtt);
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Queues small pieces until one is in hand that is sent by itself; whether there is one.
    fn choose(&mut self, rtt: Duration) -> bool {
        while self.sending.is_none() {
            if self.hop.is_full() {
                return false;
            }
            let Some(mut segment) = self.down.pop_front() else {
                return false;
            };
            let header = data_header(self.near, segment.start());
            if segment.len() > SMALL {
                self.sending = Some((segment, header));
                break;
            }
            self.hop.queue_message(&message(&header, &mut segment));
            self.handle_passed(segment.len(), rtt);
        }
        true
    }

    fn handle_passed(&mut self, len: usize, rtt: Duration) {
        self.passing.down(len);
        let share = &mut self.share;
        let now = self.hop.now();
        self.window
            .handle_passed(now, len, rtt, share.level(), |more| share.grow(more));
    }

    /// Looks at the clock; ready to be looked at again.
    pub(crate) fn poll_timers(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Word>> {
        let looked = ready!(self.hop.poll_timers(cx, None));
        Poll::Ready(looked.map_err(|error| self.gone(&error)))
    }

    /// The agent's last word, once all data before it is on its way.
    pub(crate) fn poll_last_word(&mut self) -> Option<HopFrame> {
        if self.sending.is_some() || !self.down.is_empty() {
            return None;
        }
        self.last_word.take()
    }

    /// Closes politely, in a task of its own: with a last word, if there is one.
    pub(crate) fn leave(self, words: Option<HopFrame>) -> impl Future<Output = ()> + Send {
        let mut hop = self.hop;
        async move {
            if let Some(words) = &words {
                hop.queue(words);
            }
            hop.close(LEAVING).await;
        }
    }
}

const LEAVING: Close = Close {
    code: 1001,
    reason: "the tunnel is over",
};

/// A small piece as a message.
pub(crate) fn message(header: &[u8], segment: &mut Segment) -> Vec<u8> {
    let mut message = Vec::with_capacity(header.len() + segment.len());
    message.extend_from_slice(header);
    message.extend_from_slice(segment.frame(&[], [0; 4]));
    message
}

/// What says why a tunnel is refused, or over.
pub(crate) fn refusal(tunnel: TunnelId, code: RefuseCode, message: &str) -> HopFrame {
    HopFrame::Refused(
        tunnel,
        Refused {
            code: code as u32,
            is_final: code.is_final(),
            message: message.to_owned(),
        },
    )
}
