//! What two far ends say to each other: one resumable byte stream per direction that carries many
//! streams (docs/protocol.md sections 5 to 7).
//!
//! A [`Session`] numbers what goes out, checks what comes in, and knows what is settled. The bytes
//! themselves stay with the caller, who retains `[acked, numbered)` of the outgoing direction and says
//! what is numbered: the frames as they are, or what they were sealed in.

mod backoff;
mod command;
mod config;
mod error;
mod event;
mod flood;
mod frames;
mod half;
mod invariants;
mod park;
mod prompt;
mod rate;
mod resume;
mod stream;
mod trip;
mod turns;
mod window;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub use backoff::{Attempt, Next, Redial};
pub use config::{SessionConfig, Side};
pub use error::SessionError;
pub use event::Event;
pub use half::{RecvInput, RecvState, SendInput, SendState};
pub use park::{Park, Settled};

use crate::limits::{WINDOW_INITIAL, WINDOW_PROCESS_MAX, WINDOW_PROCESS_RESERVED};
use crate::time::Instant;
use crate::wire::control::{Abort, AbortCode, Accept, Open, Refuse, clip};
use crate::wire::id::StreamId;
use crate::wire::inner::{HEADER_LEN, InnerDecoder, InnerFrame, InnerItem, bytes_header};
use flood::Floods;
use prompt::Prompt;
use rate::Rate;
use resume::{Incoming, Outgoing};
use stream::Stream;
use trip::Trip;
use turns::Turns;
use window::Common;

/// One end of a session.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    outgoing: Outgoing,
    incoming: Incoming,
    decoder: InnerDecoder,
    streams: BTreeMap<StreamId, Stream>,
    /// Sum of [`Stream::window_held`].
    windows: u64,
    /// What `windows` may be; see [`Session::set_window_room`].
    window_room: u64,
    /// The id of our next stream.
    next_id: u32,
    /// The highest id the peer opened; 0 before the first.
    peer_highest: u32,
    control: VecDeque<(StreamId, InnerFrame)>,
    events: VecDeque<Event>,
    turns: Turns,
    /// Interactive streams that found a backlog.
    prompt_waiting: BTreeSet<StreamId>,
    rate: Rate,
    prompt: Prompt,
    rtt_min: Duration,
    trip: Trip,
    floods: Floods,
    /// Pipes that still have something to say; COMPLETE waits for them.
    holds: u32,
    /// The opener opens no more streams (said, or heard).
    opening_over: bool,
    complete: bool,
    /// Offset behind the last DONE, STOP, RESET, REFUSE or EXIT numbered.
    settled_at: u64,
    /// Such a frame was given out and waits for its number.
    settles: bool,
    /// Bytes of an interactive stream that were given out and are about to be numbered.
    prompted: usize,
}

/// Frames in the backlog beyond which a stream waits before it numbers more: one is being written,
/// one is ready. What is numbered late can still be overtaken by something more urgent.
const BACKLOG_FRAMES: u64 = 1;

/// The exit code of our own failures, in REFUSE.
const STATUS_FAILED: u32 = 125;

impl Session {
    /// A new session with nothing sent.
    #[must_use]
    pub fn new(config: SessionConfig) -> Self {
        Self {
            next_id: match config.side {
                Side::Opener => 1,
                Side::Acceptor => 2,
            },
            peer_highest: 0,
            config,
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            decoder: InnerDecoder::default(),
            streams: BTreeMap::new(),
            windows: 0,
            window_room: WINDOW_PROCESS_MAX,
            control: VecDeque::new(),
            events: VecDeque::new(),
            turns: Turns::default(),
            prompt_waiting: BTreeSet::new(),
            rate: Rate::default(),
            prompt: Prompt::default(),
            rtt_min: Duration::ZERO,
            trip: Trip::default(),
            floods: Floods::default(),
            holds: 0,
            opening_over: false,
            complete: false,
            settled_at: 0,
            settles: false,
            prompted: 0,
        }
    }

    /// Which end this is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.config.side
    }

    // ---- what the application does -------------------------------------------------------------

    /// Opens a stream; bytes may be written at once. `None` when the limit of open streams or of
    /// windows is reached.
    pub fn open(&mut self, now: Instant, open: Open) -> Option<StreamId> {
        // The opener's last word binds the opener: the acceptor opens until all is settled.
        let is_over = self.complete || self.opening_over && self.config.side == Side::Opener;
        if !self.has_room() || is_over {
            return None;
        }
        let id = StreamId(self.next_id);
        self.next_id = self.next_id.checked_add(2)?;
        self.add(id, Stream::new(now, open.interactive));
        self.control.push_back((id, InnerFrame::Open(open)));
        Some(id)
    }

    /// Whether the limits of open streams and of windows leave room for one more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.streams.len() < self.config.streams_max && self.has_room_for_window()
    }

    fn add(&mut self, id: StreamId, stream: Stream) {
        self.windows += stream.window_held();
        self.streams.insert(id, stream);
    }

    fn has_room_for_window(&self) -> bool {
        self.windows + WINDOW_INITIAL <= self.window_room
    }

    /// Says that no more streams will be opened; the session can complete. For the opener.
    pub fn finish_opening(&mut self) {
        if self.config.side == Side::Opener && !self.opening_over {
            self.opening_over = true;
            self.control
                .push_back((StreamId::SESSION, InnerFrame::Done(0)));
        }
    }

    /// Keeps the session from completing until [`Session::release`].
    pub fn hold(&mut self) {
        self.holds += 1;
    }

    /// Ends one [`Session::hold`].
    pub fn release(&mut self) {
        self.holds = self.holds.saturating_sub(1);
        self.complete_if_settled();
    }

    /// Joins the peer's stream to its target. With a command there, [`Session::exit`] must follow:
    /// the stream is not settled before.
    pub fn accept(&mut self, id: StreamId, accept: Accept) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.accept(accept)
        {
            self.control.push_back((id, InnerFrame::Accept(accept)));
        }
    }

    /// Refuses the peer's stream.
    pub fn refuse(&mut self, id: StreamId, mut refuse: Refuse) {
        clip(&mut refuse.message);
        if let Some(stream) = self.streams.get_mut(&id) {
            self.windows -= stream.window_held();
            stream.refuse();
            self.windows += stream.window_held();
            self.control.push_back((id, InnerFrame::Refuse(refuse)));
            self.settle(id);
        }
    }

    /// How many bytes of the stream, which has some to send, may be numbered now; 0: wait for
    /// [`Event::Writable`].
    #[must_use]
    pub fn grant(&mut self, id: StreamId) -> usize {
        let frame = self.rate.frame();
        let room = self.room();
        let is_backlogged = self.is_backlogged();
        let Some(stream) = self.streams.get_mut(&id) else {
            return 0;
        };
        let credit = stream.credit();
        if credit == 0 {
            self.turns.leave(stream.turn, id);
            return 0;
        }
        if stream.is_interactive() {
            let room = room.min(self.prompt.room(self.rtt_min));
            if self.is_backlogged_for(true, frame) {
                self.prompt_waiting.insert(id);
                return 0;
            }
            return credit.min(room).min(frame as u64) as usize;
        }
        if is_backlogged || room == 0 || self.turns.is_behind(stream.turn, id) {
            self.turns.wait(&mut stream.turn, id);
            return 0;
        }
        self.turns.leave(stream.turn, id);
        credit.min(room).min(frame as u64) as usize
    }

    /// How many bytes more may be retained.
    fn room(&self) -> u64 {
        let retained = self.outgoing.retained();
        self.config.buffer_max.saturating_sub(retained)
    }

    /// Whether streams wait for the carrier rather than for credit.
    #[must_use]
    pub fn is_backlogged(&self) -> bool {
        self.is_backlogged_for(false, self.rate.frame())
    }

    fn is_backlogged_for(&self, interactive: bool, frame: usize) -> bool {
        let frames = if interactive {
            BACKLOG_FRAMES + 1
        } else {
            BACKLOG_FRAMES
        };
        self.outgoing.backlog() >= frames * frame as u64
    }

    /// Takes `len` bytes of the stream (at most [`Session::grant`]) and returns the header that goes in
    /// front of them; [`Session::handle_numbered`] follows. Control frames come first: drain
    /// [`Session::poll_control`] before.
    ///
    /// # Panics
    /// On more than was granted, on a stream that is not open for sending, or with control frames
    /// waiting: errors of the caller.
    pub fn write(&mut self, id: StreamId, len: usize) -> [u8; HEADER_LEN] {
        assert!(self.control.is_empty(), "control frames go first");
        let stream = self
            .streams
            .get_mut(&id)
            .expect("a stream that was granted");
        stream.number(len);
        if stream.is_interactive() {
            self.prompted = len;
        } else {
            self.turns.charge(&mut stream.turn, len);
        }
        bytes_header(id, len)
    }

    /// `len` more bytes are part of the outgoing direction and retained: frames that were given out
    /// since the last call, or what they were sealed in, or what the sealing itself has to say.
    pub fn handle_numbered(&mut self, len: usize) {
        self.outgoing.number(len);
        if std::mem::take(&mut self.settles) {
            self.settled_at = self.outgoing.numbered();
        }
        let prompted = std::mem::take(&mut self.prompted);
        if prompted > 0 {
            self.prompt
                .handle_numbered(self.outgoing.numbered(), prompted);
        }
    }

    /// The state of the sending half; `None` once the stream is settled.
    #[must_use]
    pub fn send_state(&self, id: StreamId) -> Option<SendState> {
        self.streams.get(&id).map(Stream::send_state)
    }

    /// The source ended.
    pub fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && let Some(total) = stream.finish()
        {
            self.turns.leave(stream.turn, id);
            self.control.push_back((id, InnerFrame::Fin(total)));
        }
    }

    /// The source failed, or the pipe is given up.
    pub fn reset(&mut self, id: StreamId, mut abort: Abort) {
        clip(&mut abort.message);
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.send(SendInput::Reset)
        {
            self.control.push_back((id, InnerFrame::Reset(abort)));
            self.settle(id);
        }
    }

    /// The sink took `len` bytes.
    pub fn consumed(&mut self, now: Instant, id: StreamId, len: usize) {
        let is_due = |stream: &Stream| stream.is_window_due(len);
        let is_due = self.streams.get(&id).is_some_and(is_due);
        let common = is_due.then(|| self.common(now));
        if let Some(stream) = self.streams.get_mut(&id) {
            self.windows -= stream.window_held();
            let limit = stream.consumed(now, len, common);
            self.windows += stream.window_held();
            if let Some(limit) = limit {
                self.control.push_back((id, InnerFrame::Credit(limit)));
            }
        }
    }

    /// What the windows have in common.
    fn common(&self, now: Instant) -> Common {
        let room = self.window_room.saturating_sub(WINDOW_PROCESS_RESERVED);
        let room = room.min(self.config.buffer_max);
        let (mut largest, mut in_use) = (0, 0);
        for stream in self.streams.values() {
            if stream.is_window_in_use(now) {
                largest = largest.max(stream.window_size());
                in_use += 1;
            }
        }
        Common {
            rtt: self.rtt_min.max(self.trip.shortest()),
            spare: room.saturating_sub(self.windows),
            largest,
            share: (room / in_use.max(1)).max(WINDOW_INITIAL),
        }
    }

    /// The sink wants no more, or failed.
    pub fn stop(&mut self, id: StreamId, mut abort: Abort) {
        clip(&mut abort.message);
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.recv(RecvInput::Stop)
        {
            if abort.code == AbortCode::Ended as u32 {
                abort.taken = stream.end();
            }
            self.control.push_back((id, InnerFrame::Stop(abort)));
            self.settle(id);
        }
    }

    /// The sink's last write and close have returned.
    pub fn done(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.recv(RecvInput::Done)
        {
            let total = stream.received();
            self.control.push_back((id, InnerFrame::Done(total)));
            self.settle(id);
        }
    }

    // ---- what the carrier brings ---------------------------------------------------------------

    /// The session is attached (again): the peer has everything below `peer_received`. The caller
    /// sends everything from there.
    ///
    /// # Errors
    /// [`SessionError::AckOutOfRange`]: final.
    pub fn handle_attached(
        &mut self,
        now: Instant,
        peer_received: u64,
    ) -> Result<bool, SessionError> {
        let progress = self.outgoing.handle_attached(peer_received)?;
        self.incoming.handle_attached();
        self.trip.handle_attached(now);
        if progress > 0 {
            self.handle_progress(now, progress);
        }
        self.wake_interactive();
        self.call_writers();
        Ok(progress > 0)
    }

    /// `len` bytes of the session's incoming stream have arrived; how many of them, from the front, are
    /// repeats. The rest, unsealed if they are sealed, are for [`Session::handle_frames`].
    ///
    /// # Errors
    /// [`SessionError`]: with [`SessionError::Gap`] attach again, else the session is over.
    pub fn handle_arrived(
        &mut self,
        now: Instant,
        offset: u64,
        len: usize,
    ) -> Result<usize, SessionError> {
        let window = self.streams.values().map(Stream::window_size).min();
        let window = window.unwrap_or(crate::limits::WINDOW_INITIAL);
        self.incoming.handle_arrived(now, offset, len, window)
    }

    /// The next bytes of the peer's frames, cut anywhere.
    ///
    /// # Errors
    /// [`SessionError`]: the session is over.
    pub fn handle_frames(&mut self, now: Instant, bytes: &[u8]) -> Result<(), SessionError> {
        let mut at = 0;
        while at < bytes.len() {
            let (taken, item) = self.decoder.next(&bytes[at..])?;
            match item {
                None => {}
                Some(InnerItem::BytesHeader(id, len)) => {
                    self.handle_bytes_header(now, id, len)?;
                }
                Some(InnerItem::Bytes(id, len)) => {
                    let end = at + taken;
                    self.handle_bytes(id, end - len..end);
                }
                Some(InnerItem::Frame(id, frame)) => self.handle_frame(now, id, frame)?,
            }
            at += taken;
        }
        self.check_floods()
    }

    /// The peer has everything below `offset`. Returns whether that is news.
    ///
    /// # Errors
    /// [`SessionError::AckOutOfRange`]: final.
    pub fn handle_ack(&mut self, now: Instant, offset: u64) -> Result<bool, SessionError> {
        let was_full = self.room() == 0;
        let progress = self.outgoing.handle_ack(offset)?;
        if progress > 0 {
            if self.handle_progress(now, progress) || was_full {
                self.wake_interactive();
            }
            // There is room again; or a faster link takes larger frames: what was a backlog is none.
            self.call_writers();
        }
        Ok(progress > 0)
    }

    /// Whether bytes of interactive streams were among what the peer acknowledged.
    fn handle_progress(&mut self, now: Instant, progress: u64) -> bool {
        self.rate.handle_acked(now, progress);
        let acked = self.outgoing.acked();
        self.prompt.handle_acked(now, acked, progress)
    }

    /// The caller hands the bytes up to offset `end` to the carrier.
    pub fn handle_sent(&mut self, end: u64) {
        self.outgoing.handle_sent(end);
        self.call_writers();
    }

    /// Calls the stream whose turn it is, if there is room for more: after bytes were numbered, so that
    /// what is small shares a message.
    pub fn call_writers(&mut self) {
        if !self.is_backlogged_for(true, self.rate.frame()) {
            let waiting = std::mem::take(&mut self.prompt_waiting);
            self.events.extend(waiting.into_iter().map(Event::Writable));
        }
        if !self.is_backlogged()
            && self.room() > 0
            && let Some(id) = self.turns.call()
        {
            self.events.push_back(Event::Writable(id));
        }
    }

    /// Whether nothing waits to be sent, and streams wait for their turn: to be followed by
    /// [`Session::handle_idle`] when the one that was woken had the time to write.
    #[must_use]
    pub fn awaits_writer(&self) -> bool {
        self.outgoing.backlog() == 0 && self.room() > 0 && !self.turns.is_empty()
    }

    /// Whoever was woken for its turn had the time to write. If nothing waits to be sent still, it is the
    /// next one's.
    pub fn handle_idle(&mut self) {
        if self.awaits_writer() {
            self.turns.give_up_called();
            self.call_writers();
        }
    }

    /// The link's minimum round trip, for the windows. What lies behind the neighbour the session finds
    /// out itself.
    pub fn set_rtt_min(&mut self, rtt_min: Duration) {
        self.rtt_min = rtt_min;
    }

    /// What the other sessions of the process leave of [`WINDOW_PROCESS_MAX`] for the windows of
    /// this one, those it has included. To be told before calls that open or grow windows:
    /// [`Session::open`], [`Session::consumed`], [`Session::handle_frames`].
    pub fn set_window_room(&mut self, room: u64) {
        self.window_room = room;
    }

    /// Sum of this session's windows.
    #[must_use]
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Interactive streams that have credit may have room, too.
    fn wake_interactive(&mut self) {
        let interactive =
            |(_, stream): &(&StreamId, &Stream)| stream.is_interactive() && stream.credit() > 0;
        let ids = self.streams.iter().filter(interactive).map(|(id, _)| *id);
        self.events.extend(ids.map(Event::Writable));
    }

    // ---- what to do next -----------------------------------------------------------------------

    /// The next control frame, encoded: append it to the outgoing bytes, then
    /// [`Session::handle_numbered`].
    pub fn poll_control(&mut self) -> Option<Vec<u8>> {
        let (id, frame) = self.control.pop_front()?;
        let bytes = frame.encode(id);
        self.settles |= matches!(
            frame,
            InnerFrame::Done(_)
                | InnerFrame::Stop(_)
                | InnerFrame::Reset(_)
                | InnerFrame::Refuse(_)
                | InnerFrame::Exit(_)
        );
        Some(bytes)
    }

    /// The offset to acknowledge, if it is time.
    pub fn poll_ack(&mut self, now: Instant) -> Option<u64> {
        self.incoming.poll_ack(now)
    }

    /// Opener: the peer confirmed everything and cannot be reached any more; COMPLETE will not be
    /// heard and is not needed (docs/protocol.md section 7).
    ///
    /// # Panics
    /// Before [`Session::is_confirmed`]: an error of the caller.
    pub fn handle_peer_gone(&mut self) {
        assert!(self.is_confirmed(), "a lost session is never success");
        self.complete = true;
        self.events.push_back(Event::Completed);
    }

    /// When [`Session::poll_ack`] will have something.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.incoming.poll_timeout()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The offset up to which the peer's bytes have arrived: for ATTACH and ATTACHED.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.incoming.received()
    }

    /// The offset up to which the peer has our bytes.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.outgoing.acked()
    }

    /// The offset behind the last byte numbered.
    #[must_use]
    pub fn numbered(&self) -> u64 {
        self.outgoing.numbered()
    }

    /// Whether everything is settled at both ends, as far as this end can know: the opener heard
    /// COMPLETE, the acceptor said it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether the opener opens no more streams.
    #[must_use]
    pub fn is_opening_over(&self) -> bool {
        self.opening_over
    }

    /// Opener: whether the peer has confirmed every stream, so that a peer that is gone took
    /// nothing with it.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.complete || (self.opening_over && self.streams.is_empty())
    }

    /// Acceptor: how much is settled.
    #[must_use]
    pub fn settled(&self) -> Settled {
        if !self.complete {
            Settled::No
        } else if !self.control.is_empty()
            || self.settles
            || self.outgoing.acked() < self.settled_at
        {
            Settled::Said
        } else {
            Settled::Confirmed
        }
    }

    /// Streams not settled yet.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    fn settle(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(Stream::is_settled)
            && let Some(stream) = self.streams.remove(&id)
        {
            self.turns.leave(stream.turn, id);
            self.prompt_waiting.remove(&id);
            self.windows -= stream.window_held();
            self.complete_if_settled();
        }
    }

    fn complete_if_settled(&mut self) {
        if self.config.side == Side::Acceptor
            && self.opening_over
            && self.holds == 0
            && self.streams.is_empty()
            && !self.complete
        {
            self.complete = true;
            self.control
                .push_back((StreamId::SESSION, InnerFrame::Complete));
        }
    }
}
