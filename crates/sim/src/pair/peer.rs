//! One end of the pair: a session, the bytes it must keep, and an application.
//!
//! The application is strict: it numbers bytes only when the session said that it may, waits for
//! [`Event::Writable`] and for nothing else after it was told to wait, and so finds lost wake-ups.

use std::collections::{BTreeMap, VecDeque};

use farpipe_proto::Instant;
use farpipe_proto::session::{Event, SendState, Session, SessionConfig, SessionError};
use farpipe_proto::wire::control::{AbortCode, Accept, Open};
use farpipe_proto::wire::hop::{HopFrame, data_header};
use farpipe_proto::wire::id::{StreamId, TunnelId};

use super::end::{End, Habits, abort};
use super::wire::Wire;

/// The tunnel of every link: a pair has one session.
pub(super) const TUNNEL: TunnelId = TunnelId(1);

/// One end of the pair.
#[derive(Debug)]
pub struct Peer {
    /// The rules under test.
    pub session: Session,
    /// Every stream that ever was.
    pub ends: BTreeMap<StreamId, End>,
    /// What the application does by itself.
    pub habits: Habits,
    /// All events but `Bytes` and `Writable`, in order.
    pub events: Vec<Event>,
    /// Why the session is over.
    pub error: Option<SessionError>,
    pub(super) now: Instant,
    /// Streams that may number bytes, in turn.
    ready: VecDeque<StreamId>,
    /// Numbered bytes the peer may not have; the first has this offset.
    retained: VecDeque<u8>,
    retained_from: u64,
    /// Session offset behind the last byte handed to the present link.
    sent: u64,
    /// Bytes of the session in one DATA frame at most.
    data_max: usize,
}

impl Peer {
    pub(super) fn new(config: SessionConfig, data_max: usize) -> Self {
        Self {
            session: Session::new(config),
            ends: BTreeMap::new(),
            habits: Habits {
                accepts: true,
                accept: Accept::default(),
                reads: true,
                says_done: true,
            },
            events: Vec::new(),
            error: None,
            now: Instant::default(),
            ready: VecDeque::new(),
            retained: VecDeque::new(),
            retained_from: 0,
            sent: 0,
            data_max,
        }
    }

    // ---- what the test does --------------------------------------------------------------------

    /// Opens a stream; `None` when there are too many.
    pub fn try_open(&mut self, open: Open) -> Option<StreamId> {
        let id = self.session.open(self.now, open)?;
        self.ends.insert(id, End::default());
        Some(id)
    }

    /// Opens a bulk stream.
    ///
    /// # Panics
    /// When there are too many.
    pub fn open(&mut self) -> StreamId {
        self.try_open(Open::default()).expect("room for a stream")
    }

    /// Opens an interactive stream.
    ///
    /// # Panics
    /// When there are too many.
    pub fn open_interactive(&mut self) -> StreamId {
        let open = Open {
            interactive: true,
            ..Open::default()
        };
        self.try_open(open).expect("room for a stream")
    }

    /// The application's side of a stream that was opened.
    ///
    /// # Panics
    /// When there is no such stream.
    #[must_use]
    pub fn end(&self, id: StreamId) -> &End {
        self.ends.get(&id).expect("a stream that was opened")
    }

    /// Writes bytes; they are numbered as credit allows. A closed or stopped stream takes none.
    pub fn write(&mut self, id: StreamId, bytes: &[u8]) {
        if self.session.send_state(id) != Some(SendState::Open) {
            return;
        }
        if let Some(end) = self.ends.get_mut(&id)
            && !end.closed
        {
            end.written.extend_from_slice(bytes);
            self.make_ready(id);
        }
    }

    /// Writes no more; FIN follows the last byte.
    pub fn finish(&mut self, id: StreamId) {
        if let Some(end) = self.ends.get_mut(&id) {
            end.closed = true;
        }
        self.make_ready(id);
    }

    /// Reads up to `max` bytes that came and returns how many.
    pub fn read(&mut self, id: StreamId, max: usize) -> usize {
        let Some(end) = self.ends.get_mut(&id) else {
            return 0;
        };
        let len = (end.received.len() - end.read).min(max);
        end.read += len;
        let over = end.finished && end.read == end.received.len();
        if len > 0 {
            self.session.consumed(self.now, id, len);
        }
        if over && self.habits.says_done {
            self.done(id);
        }
        len
    }

    /// Reads nothing of the stream from now on, or goes on reading.
    pub fn pause(&mut self, id: StreamId, paused: bool) {
        if let Some(end) = self.ends.get_mut(&id) {
            end.paused = paused;
        }
        self.read_by_habit(id);
    }

    /// Says DONE, once.
    pub fn done(&mut self, id: StreamId) {
        if let Some(end) = self.ends.get_mut(&id)
            && end.finished
            && !end.said_done
        {
            end.said_done = true;
            self.session.done(id);
        }
    }

    /// The reader goes away.
    pub fn stop(&mut self, id: StreamId, code: AbortCode) {
        self.session.stop(id, abort(code));
    }

    /// The writer gives up.
    pub fn reset(&mut self, id: StreamId, code: AbortCode) {
        self.session.reset(id, abort(code));
    }

    // ---- what the link does --------------------------------------------------------------------

    /// The link is (again) there.
    pub(super) fn handle_attached(&mut self, peer_received: u64) {
        match self.session.handle_attached(self.now, peer_received) {
            Ok(_) => {
                self.trim();
                self.sent = self.session.acked();
            }
            Err(error) => self.error = Some(error),
        }
        self.take_events(&[]);
    }

    pub(super) fn handle_data(&mut self, offset: u64, bytes: &[u8]) {
        let arrived = self.session.handle_arrived(self.now, offset, bytes.len());
        let (bytes, result) = match arrived {
            Ok(repeat) => {
                let bytes = &bytes[repeat..];
                (bytes, self.session.handle_frames(self.now, bytes))
            }
            Err(error) => (&[][..], Err(error)),
        };
        self.take_events(bytes);
        if let Err(error) = result {
            self.error = Some(error);
        }
    }

    pub(super) fn handle_ack(&mut self, offset: u64) {
        match self.session.handle_ack(self.now, offset) {
            Ok(_) => self.trim(),
            Err(error) => self.error = Some(error),
        }
        self.take_events(&[]);
    }

    /// Numbers what may be numbered and sends what the wire takes.
    pub(super) fn pump(&mut self, mut wire: Option<&mut Wire>) {
        if self.error.is_some() {
            return;
        }
        // Each round numbers a frame or sends one; both are bounded by credit.
        for round in 0.. {
            assert!(round < 1_000_000, "never comes to rest");
            self.take_events(&[]);
            let numbered = self.number();
            let sent = wire.as_mut().is_some_and(|wire| self.transmit(wire));
            if !numbered && !sent {
                // Who was called had nothing to say: the next one is.
                if wire.is_none() || !self.session.awaits_writer() {
                    break;
                }
                self.session.handle_idle();
            }
        }
        if let Some(wire) = wire
            && let Some(offset) = self.session.poll_ack(self.now)
        {
            self.send_ack(wire, offset);
        }
    }

    /// Whether bytes wait for room on the wire.
    pub(super) fn wants_room(&self) -> bool {
        self.sent < self.session.numbered()
    }

    /// Whatever may be numbered; whether there was something.
    fn number(&mut self) -> bool {
        let mut progress = self.number_control();
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else {
                break;
            };
            progress |= self.number_one(id);
        }
        progress
    }

    fn number_control(&mut self) -> bool {
        let mut progress = false;
        while let Some(bytes) = self.session.poll_control() {
            self.session.handle_numbered(bytes.len());
            self.retained.extend(bytes);
            progress = true;
        }
        progress
    }

    /// Numbers bytes of one stream until it has none or is told to wait.
    fn number_one(&mut self, id: StreamId) -> bool {
        let mut progress = false;
        while let Some(end) = self.ends.get_mut(&id) {
            end.ready = false;
            let open = self.session.send_state(id) == Some(SendState::Open);
            if end.waiting || !open {
                break;
            }
            let rest = &end.written[end.numbered..];
            if rest.is_empty() {
                if end.closed && !end.said_fin {
                    end.said_fin = true;
                    self.session.finish(id);
                    progress |= self.number_control();
                }
                break;
            }
            let len = self.session.grant(id).min(rest.len());
            if len == 0 {
                end.waiting = true;
                break;
            }
            let header = self.session.write(id, len);
            self.session.handle_numbered(header.len() + len);
            self.retained.extend(header);
            self.retained.extend(&rest[..len]);
            end.numbered += len;
            progress = true;
        }
        progress
    }

    /// Sends numbered bytes as far as the wire takes them; whether it took any.
    fn transmit(&mut self, wire: &mut Wire) -> bool {
        let mut progress = false;
        while self.wants_room() && wire.has_room(self.now) {
            if let Some(offset) = self.session.poll_ack(self.now) {
                self.send_ack(wire, offset);
            }
            let start = self.sent;
            let end = self.session.numbered().min(start + self.data_max as u64);
            self.session.handle_sent(end);
            self.sent = end;
            let from = self.retained_from;
            let range = (start - from) as usize..(end - from) as usize;
            let bytes = &self.retained.make_contiguous()[range];
            wire.send(self.now, [&data_header(TUNNEL, start), bytes]);
            progress = true;
        }
        progress
    }

    fn send_ack(&mut self, wire: &mut Wire, offset: u64) {
        wire.send(self.now, [&HopFrame::Ack(TUNNEL, offset).encode(), &[]]);
    }

    fn trim(&mut self) {
        let acked = self.session.acked();
        self.retained.drain(..(acked - self.retained_from) as usize);
        self.retained_from = acked;
        self.sent = self.sent.max(acked);
    }

    // ---- events --------------------------------------------------------------------------------

    fn take_events(&mut self, bytes: &[u8]) {
        while let Some(event) = self.session.poll_event() {
            if !matches!(event, Event::Bytes(..) | Event::Writable(_)) {
                self.events.push(event.clone());
            }
            self.handle_event(event, bytes);
        }
    }

    fn handle_event(&mut self, event: Event, bytes: &[u8]) {
        match event {
            Event::Opened(id, _) => {
                self.ends.insert(id, End::default());
                if self.habits.accepts {
                    self.session.accept(id, self.habits.accept);
                }
            }
            Event::Bytes(id, range) => {
                self.change(id, |end| end.received.extend_from_slice(&bytes[range]));
            }
            Event::Writable(id) => {
                self.change(id, |end| end.waiting = false);
                self.make_ready(id);
            }
            Event::Accepted(id, _) => self.change(id, |end| end.accepted = true),
            Event::Refused(id, refuse) => self.change(id, |end| end.refused = Some(refuse)),
            Event::Finished(id) => self.change(id, |end| end.finished = true),
            Event::Reset(id, abort) => self.change(id, |end| end.reset = Some(abort)),
            Event::Stopped(id, abort) => self.change(id, |end| end.stopped = Some(abort)),
            Event::Done(id) => self.change(id, |end| end.done = true),
            Event::Exited(id, exit) => self.change(id, |end| end.exit = Some(exit)),
            // Kept in the list of events; nothing follows from them here.
            _ => {}
        }
    }

    fn change(&mut self, id: StreamId, change: impl FnOnce(&mut End)) {
        if let Some(end) = self.ends.get_mut(&id) {
            change(end);
        }
        self.read_by_habit(id);
    }

    fn make_ready(&mut self, id: StreamId) {
        if let Some(end) = self.ends.get_mut(&id)
            && !end.ready
        {
            end.ready = true;
            self.ready.push_back(id);
        }
    }

    fn read_by_habit(&mut self, id: StreamId) {
        if self.habits.reads && self.ends.get(&id).is_some_and(|end| !end.paused) {
            self.read(id, usize::MAX);
        }
    }
}
