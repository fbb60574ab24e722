//! The state one session's driver and its stream handles share.
//!
//! One mutex, held for moments and never across an await or a system call: the handles number and
//! take bytes under it, the driver feeds and drains the rules under it. Segments being written to
//! a socket are moved out of it first.

mod stream_io;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use bytes::{Buf as _, BytesMut};
use farpipe_proto::identity::Caller;
use farpipe_proto::limits::FRAME_MAX;
use farpipe_proto::session::{Event, Session, SessionConfig};
use farpipe_proto::wire::control::Open;
use farpipe_proto::wire::id::StreamId;
use farpipe_proto::wire::inner::HEADER_LEN;

pub(crate) use self::stream_io::{RecvEnd, StreamIo};
use crate::budget::{Share, WindowBudget};
use crate::clock::Clock;
use crate::pool::Pool;
use crate::retention::Retention;
use crate::segment::Segment;
use crate::tls::{PeerIdentity, Seal, SealError, is_tls, sealed_max};

/// A slot holds two frames of full size, sealed, and their headers.
pub(crate) const SLOT_SIZE: usize = 2 * (Segment::HEADROOM + sealed_max(HEADER_LEN + FRAME_MAX));

/// Why a session ended before everything was settled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionEnd {
    /// No link could be had for as long as was allowed.
    #[error("{0}")]
    Lost(String),
    /// What the session went through on this host is gone, and the only way of this session with it: the
    /// peer may be there, and another session can find it.
    #[error("{0}")]
    Gone(String),
    /// The peer refused, or a certificate, credential or version does not fit: no retry helps.
    #[error("{0}")]
    Refused(String),
    /// The peer has had the session and knows it no more: it was started anew. What was asked of it can be
    /// asked for in another session, if doing it twice does no harm.
    #[error("{0}")]
    Forgotten(String),
    /// One side broke the protocol.
    #[error("{0}")]
    Protocol(String),
    /// What came of a sealed session is not what the peer said: something between changed it.
    #[error("{0}")]
    Integrity(String),
    /// The acceptor has given what the session had to a later command of the same caller, while the
    /// session had no link. Another session would take it away from that again.
    #[error("{0}")]
    Replaced(String),
    /// What let the opener in was taken back while the session lasted: a certificate, or a token.
    #[error("this session ends: {0}")]
    Revoked(String),
    /// This process ended it.
    #[error("the session was closed")]
    Closed,
}

/// Everything under the mutex.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) session: Session,
    pub(crate) retention: Retention,
    /// What covers the session's bytes from end to end; `None`: they are plain.
    seal: Option<Box<Seal>>,
    pub(crate) windows: Share,
    pub(crate) pool: Pool,
    /// A writer waits for a slot.
    pub(crate) slot_wanted: bool,
    /// The stream that got a slot last: those behind it are woken first when there is one again.
    pub(crate) slot_taken_by: Option<StreamId>,
    pub(crate) streams: BTreeMap<StreamId, StreamIo>,
    /// Streams the peer opened and nobody has taken yet; bounded by the limit of open streams.
    pub(crate) opened: VecDeque<(StreamId, Open)>,
    pub(crate) acceptor: Option<Waker>,
    /// Who waits to open a stream.
    pub(crate) opener: Option<Waker>,
    pub(crate) driver: Option<Waker>,
    /// Who waits to know who is at the other end, or that somebody is.
    pub(crate) identified: Option<Waker>,
    /// The two ends have had a link.
    pub(crate) has_met: bool,
    /// Who waits for `end`.
    pub(crate) ender: Option<Waker>,
    pub(crate) end: Option<SessionEnd>,
    pub(crate) linked: Linked,
}

/// Whether a session has a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linked {
    /// Not yet.
    NotYet,
    /// Now, as far as this end knows.
    Now,
    /// Not any more; another is sought, or waited for.
    Lost,
}

impl State {
    /// Calls the rules where they may open or grow windows.
    pub(crate) fn with_windows<T>(&mut self, act: impl FnOnce(&mut Session) -> T) -> T {
        self.windows.spend(&mut self.session, act)
    }

    /// Whether frames may be numbered: not before the ends of a sealed session know each other.
    pub(crate) fn is_open(&self) -> bool {
        self.seal.as_ref().is_none_or(|seal| seal.is_open())
    }

    /// Whether the peer has said that it wants no more of the stream.
    pub(crate) fn is_stopped(&self, id: StreamId) -> bool {
        let io = self.streams.get(&id);
        io.is_some_and(|io| io.stopped.is_some())
    }

    /// Who is at the other end, as it has proven in the session itself; `None`: not yet, or never.
    pub(crate) fn peer(&self) -> Option<Caller> {
        self.seal.as_ref()?.peer()?.end_to_end()
    }

    /// Who has shown which certificate at the other end of a sealed session, once that is known.
    pub(crate) fn sealed_peer(&self) -> Option<PeerIdentity> {
        self.seal.as_ref()?.peer().cloned()
    }

    /// Whether [`State::peer`] will never be known.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.seal.is_none() || self.end.is_some()
    }

    /// Numbers the waiting control frames. To be called after every call into the rules that may
    /// have produced some, before any bytes are numbered.
    pub(crate) fn number_control(&mut self) {
        self.windows.settle(&self.session);
        if self.is_open() {
            self.number_waiting();
        }
        self.wake_opener();
    }

    fn number_waiting(&mut self) {
        let Some(mut frames) = self.session.poll_control() else {
            return;
        };
        if self.seal.is_some() {
            // What is numbered together shares a record.
            while let Some(frame) = self.session.poll_control() {
                frames.extend_from_slice(&frame);
            }
            let mut sealed = BytesMut::with_capacity(sealed_max(frames.len()));
            self.seal_onto(&frames, &mut sealed);
            self.number_small(&sealed);
            return;
        }
        self.number_small(&frames);
        while let Some(frame) = self.session.poll_control() {
            self.number_small(&frame);
        }
    }

    /// Numbers bytes by a copy.
    fn number_small(&mut self, bytes: &[u8]) {
        self.session.handle_numbered(bytes.len());
        self.retention.push_control(bytes);
        self.wake_driver();
    }

    /// Numbers frames: `buf` from index `data` on, which stay where they are unless they are sealed.
    pub(crate) fn number(&mut self, buf: BytesMut, data: usize) {
        let (buf, data) = match self.seal {
            None => (buf, data),
            Some(_) => (self.sealed(&buf[data..]), Segment::HEADROOM),
        };
        self.session.handle_numbered(buf.len() - data);
        self.retention.push(buf, data);
        self.wake_driver();
    }

    /// The same frames sealed, in a slot of their own; in memory of their own if there is none: never
    /// more than what may be retained.
    fn sealed(&mut self, frames: &[u8]) -> BytesMut {
        let room = Segment::HEADROOM + sealed_max(frames.len());
        let slot = self.pool.take(room);
        let is_pooled = slot.is_some();
        let mut slot = slot.unwrap_or_else(|| BytesMut::with_capacity(room));
        slot.extend_from_slice(&[0; Segment::HEADROOM]);
        self.seal_onto(frames, &mut slot);
        let sealed = slot.split();
        if is_pooled {
            self.put_back(slot);
        }
        sealed
    }

    fn seal_onto(&mut self, frames: &[u8], output: &mut BytesMut) {
        if let Some(seal) = &mut self.seal
            && let Err(error) = seal.seal(frames, output)
        {
            self.end(error.end("this end"));
        }
    }

    /// The next frames in what has arrived, which is used up when there are no more.
    ///
    /// # Errors
    /// The session is over. What the peer is to hear of it is numbered.
    pub(crate) fn unseal(&mut self, arrived: &mut BytesMut) -> Result<Option<BytesMut>, SealError> {
        let was_open = self.is_open();
        let Some(seal) = &mut self.seal else {
            let frames = std::mem::take(arrived);
            let is_first = self.session.received() == frames.len() as u64;
            if is_first && is_tls(&frames) {
                return Err(SealError::not_agreed());
            }
            return Ok((!frames.is_empty()).then_some(frames));
        };
        let opened = seal.open(arrived);
        self.number_said();
        if !was_open && self.is_open() {
            self.number_control();
            self.wake_writers();
            wake(&mut self.identified);
        }
        opened
    }

    /// Numbers what the seal itself has to say.
    fn number_said(&mut self) {
        let said = self.seal.as_mut().and_then(|seal| seal.take_said());
        if let Some(said) = said {
            self.number_small(&said);
        }
    }

    /// Streams are settled by what either side says.
    fn wake_opener(&mut self) {
        if self.opener.is_some() && self.session.has_room() {
            wake(&mut self.opener);
        }
    }

    pub(crate) fn wake_driver(&mut self) {
        wake(&mut self.driver);
    }

    /// Hands events to the handles; `piece` holds the bytes that [`Event::Bytes`] name.
    pub(crate) fn dispatch(&mut self, piece: BytesMut) {
        let mut rest = piece;
        let mut base = 0;
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Bytes(id, range) => {
                    rest.advance(range.start - base);
                    base = range.end;
                    let bytes = rest.split_to(range.len());
                    if let Some(io) = self.streams.get_mut(&id) {
                        io.push(bytes);
                        wake(&mut io.reader);
                    }
                }
                Event::Opened(id, open) => {
                    self.streams.insert(id, StreamIo::default());
                    self.opened.push_back((id, open));
                    wake(&mut self.acceptor);
                }
                Event::Accepted(id, accept) => self.with(id, |io| {
                    io.accepted = Some(accept);
                    wake(&mut io.watcher);
                }),
                Event::Refused(id, refuse) => self.with(id, |io| {
                    io.refused = Some(refuse);
                    io.wake_all();
                }),
                Event::Missed(id) => self.with(id, |io| io.missed = true),
                Event::StopAnswered(id) => self.with(id, |io| {
                    io.stop_answered = true;
                    wake(&mut io.watcher);
                }),
                Event::Finished(id) => self.with(id, |io| {
                    io.recv_end = Some(RecvEnd::Finished);
                    wake(&mut io.reader);
                }),
                Event::Reset(id, abort) => self.with(id, |io| {
                    io.recv_end = Some(RecvEnd::Reset(abort));
                    // A source that failed takes back nothing, but nobody should wait to write it.
                    wake(&mut io.reader);
                    wake(&mut io.watcher);
                }),
                Event::Stopped(id, abort) => self.with(id, |io| {
                    io.stopped = Some(abort);
                    wake(&mut io.writer);
                    wake(&mut io.watcher);
                }),
                Event::Writable(id) => self.with(id, |io| wake(&mut io.writer)),
                Event::Done(id) => self.with(id, |io| {
                    io.done = true;
                    wake(&mut io.watcher);
                }),
                Event::Exited(id, exit) => self.with(id, |io| {
                    io.exited = Some(exit);
                    wake(&mut io.watcher);
                }),
                Event::Signalled(id, number) => self.with(id, |io| {
                    // What no system has as a signal is none.
                    io.signals |= match number {
                        1..=64 => 1 << (number - 1),
                        _ => 0,
                    };
                    wake(&mut io.asked);
                }),
                Event::Resized(id, size) => self.with(id, |io| {
                    io.resized = Some(size);
                    wake(&mut io.asked);
                }),
                Event::OpeningOver => wake(&mut self.acceptor),
                Event::Completed => self.wake_everyone(),
                _ => {}
            }
        }
        self.wake_opener();
    }

    fn with(&mut self, id: StreamId, act: impl FnOnce(&mut StreamIo)) {
        if let Some(io) = self.streams.get_mut(&id) {
            act(io);
        }
    }

    /// Takes a slot back, or what is left of it.
    pub(crate) fn put_back(&mut self, slot: BytesMut) {
        self.pool.put_back(slot);
        self.handle_slot_freed();
    }

    /// So many slots were dropped by who had them.
    pub(crate) fn give_up_slots(&mut self, slots: usize) {
        self.pool.give_up(slots);
        self.handle_slot_freed();
    }

    /// Slots are free again for writers that wait for one.
    pub(crate) fn handle_slot_freed(&mut self) {
        if std::mem::take(&mut self.slot_wanted) {
            self.wake_writers();
        }
    }

    /// Wakes all writers. In turn: where there are fewer slots than writers, those that are always woken
    /// first would have them all.
    pub(crate) fn wake_writers(&mut self) {
        let Some(last) = self.slot_taken_by else {
            for io in self.streams.values_mut() {
                wake(&mut io.writer);
            }
            return;
        };
        let behind = (Bound::Excluded(last), Bound::Unbounded);
        for (_, io) in self.streams.range_mut(behind) {
            wake(&mut io.writer);
        }
        for (_, io) in self.streams.range_mut(..=last) {
            wake(&mut io.writer);
        }
    }

    fn wake_everyone(&mut self) {
        for io in self.streams.values_mut() {
            io.wake_all();
        }
        wake(&mut self.acceptor);
        wake(&mut self.opener);
        wake(&mut self.identified);
    }

    /// The two ends have a link.
    pub(crate) fn handle_met(&mut self) {
        self.has_met = true;
        wake(&mut self.identified);
    }

    /// The session is over; every handle hears it.
    pub(crate) fn end(&mut self, end: SessionEnd) {
        self.end.get_or_insert(end);
        self.wake_everyone();
        self.wake_driver();
        wake(&mut self.ender);
    }
}

/// Shared by the driver and the handles.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) clock: Clock,
}

impl Shared {
    pub(crate) fn new(
        config: SessionConfig,
        windows: Arc<WindowBudget>,
        clock: Clock,
        seal: Option<Seal>,
    ) -> Arc<Self> {
        // Slots that hold the whole window, and some for what is half filled.
        let slots = usize::try_from(config.buffer_max).unwrap_or(usize::MAX) / SLOT_SIZE + 4;
        let mut state = State {
            session: Session::new(config),
            retention: Retention::default(),
            seal: seal.map(Box::new),
            windows: Share::new(windows),
            pool: Pool::new(SLOT_SIZE, slots),
            slot_wanted: false,
            slot_taken_by: None,
            streams: BTreeMap::new(),
            opened: VecDeque::new(),
            acceptor: None,
            opener: None,
            driver: None,
            identified: None,
            has_met: false,
            ender: None,
            end: None,
            linked: Linked::NotYet,
        };
        // An opener's greeting is the first that its session says.
        state.number_said();
        Arc::new(Self {
            state: Mutex::new(state),
            clock,
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug that ends its task; the others still must finish.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

pub(crate) fn park(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if !slot.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
}
