//! Handles of one stream: what an endpoint's pump reads from and writes to.
//!
//! Cancel safety: every `poll_*` keeps its progress in the session; a dropped poll loses nothing,
//! neither here nor on the wire. Dropping a handle before its half is over resets or stops it, as
//! an exiting process closes its pipes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use farpipe_proto::session::SendState;
use farpipe_proto::wire::control::{Abort, AbortCode, Accept, Exit, Refuse, Resize, Signal};
use farpipe_proto::wire::id::StreamId;
use farpipe_proto::wire::inner::HEADER_LEN;

use crate::segment::Segment;
use crate::shared::{RecvEnd, SessionEnd, Shared, State, park};

/// Bytes in front of a stream's payload in a buffer from [`SendStream::buffer`].
pub const PAYLOAD_AT: usize = Segment::HEADROOM + HEADER_LEN;
/// A read into less room than this is not worth a system call; a fresh slot is taken instead.
const ROOM_MIN: usize = 64 * 1024;

/// Why no more can be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The far reader wants no more (its process closed the pipe, its disk is full…).
    #[error("the far end takes no more{}{}", if .0.message.is_empty() { "" } else { ": " }, .0.message)]
    Stopped(Abort),
    /// The far side could not join the stream to anything.
    #[error("the far end refused: {}", .0.message)]
    Refused(Refuse),
    /// The session ended.
    #[error(transparent)]
    Session(SessionEnd),
}

/// Why no more can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The far source failed or was given up: what came is a prefix.
    #[error("the far end gave up{}{}", if .0.message.is_empty() { "" } else { ": " }, .0.message)]
    Reset(Abort),
    /// The far side could not join the stream to anything.
    #[error("the far end refused: {}", .0.message)]
    Refused(Refuse),
    /// The session ended: what came is a prefix.
    #[error(transparent)]
    Session(SessionEnd),
}

/// Both halves of one stream, and what is said about it.
#[derive(Debug)]
pub struct Stream {
    /// Towards the peer.
    pub send: SendStream,
    /// From the peer.
    pub recv: RecvStream,
    /// Its fate.
    pub watch: StreamWatch,
}

impl Stream {
    /// Tells the peer that its stream is joined to an endpoint. With a command there,
    /// [`SendStream::exit`] must follow.
    pub fn accept(&self, accept: Accept) {
        let handle = &self.watch.0;
        let mut state = handle.shared.lock();
        state.session.accept(handle.id, accept);
        state.number_control();
    }

    /// Tells the peer that its stream cannot be had; the stream is over.
    pub fn refuse(self, refuse: Refuse) {
        let handle = &self.watch.0;
        let mut state = handle.shared.lock();
        state.session.refuse(handle.id, refuse);
        state.number_control();
    }

    /// The number of the stream in its session.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.watch.0.id
    }

    /// A handle for what is asked of the command at the stream.
    #[must_use]
    pub fn control(&self) -> CommandControl {
        let handle = &self.watch.0;
        if let Some(io) = handle.shared.lock().streams.get_mut(&handle.id) {
            io.handles += 1;
        }
        CommandControl(Handle {
            shared: Arc::clone(&handle.shared),
            id: handle.id,
        })
    }

    pub(crate) fn new(shared: &Arc<Shared>, id: StreamId) -> Self {
        shared.lock().streams.entry(id).or_default().handles = 3;
        let handle = || Handle {
            shared: Arc::clone(shared),
            id,
        };
        Self {
            send: SendStream {
                handle: handle(),
                out: 0,
            },
            recv: RecvStream(handle()),
            watch: StreamWatch(handle()),
        }
    }
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    id: StreamId,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(io) = state.streams.get_mut(&self.id) {
            io.handles = io.handles.saturating_sub(1);
            if io.handles == 0 {
                state.streams.remove(&self.id);
            }
        }
    }
}

fn cancelled() -> Abort {
    Abort::new(AbortCode::Cancelled, "")
}

/// The half towards the peer.
#[derive(Debug)]
pub struct SendStream {
    handle: Handle,
    /// Buffers handed out that were neither committed nor put back.
    out: usize,
}

impl SendStream {
    /// Ready with how many bytes may be committed now (at least 1), when there is credit and room
    /// in the backlog; or with why there never will be. Wakes the task for the latter also while
    /// it waits for its source.
    pub fn poll_grant(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, SendError>> {
        let mut state = self.handle.shared.lock();
        let grant = match state.is_open() {
            true => state.session.grant(self.handle.id),
            false => 0,
        };
        let end = state.end.clone();
        let Some(io) = state.streams.get_mut(&self.handle.id) else {
            return Poll::Ready(Err(SendError::Session(SessionEnd::Closed)));
        };
        if let Some(refuse) = &io.refused {
            return Poll::Ready(Err(SendError::Refused(refuse.clone())));
        }
        if let Some(abort) = &io.stopped {
            return Poll::Ready(Err(SendError::Stopped(abort.clone())));
        }
        if let Some(end) = end {
            return Poll::Ready(Err(SendError::Session(end)));
        }
        park(&mut io.writer, cx);
        if grant > 0 {
            return Poll::Ready(Ok(grant));
        }
        Poll::Pending
    }

    /// A buffer whose first [`PAYLOAD_AT`] bytes are room for headers, with capacity for up to
    /// `grant` bytes behind them; `None`: memory is short until the peer acknowledges, wait by
    /// [`SendStream::poll_buffer`].
    #[must_use]
    pub fn buffer(&mut self, grant: usize) -> Option<BytesMut> {
        let slot = take_slot(&mut self.handle.shared.lock(), grant)?;
        self.out += 1;
        Some(slot)
    }

    /// [`SendStream::buffer`], waiting for memory. Ask [`SendStream::poll_grant`] first in each
    /// turn: that tells when nothing is to be waited for any more.
    pub fn poll_buffer(&mut self, cx: &mut Context<'_>, grant: usize) -> Poll<BytesMut> {
        let mut state = self.handle.shared.lock();
        if let Some(slot) = take_slot(&mut state, grant) {
            self.out += 1;
            state.slot_taken_by = Some(self.handle.id);
            return Poll::Ready(slot);
        }
        state.slot_wanted = true;
        if let Some(io) = state.streams.get_mut(&self.handle.id) {
            park(&mut io.writer, cx);
        }
        Poll::Pending
    }

    /// Sends the payload of a buffer from [`SendStream::buffer`]: at most as many bytes as
    /// granted. Never waits. A stream that was stopped meanwhile drops them: `false`.
    pub fn commit(&mut self, mut buf: BytesMut) -> bool {
        let mut state = self.handle.shared.lock();
        let mut part = buf.split();
        state.put_back(buf);
        self.out = self.out.saturating_sub(1);
        let len = part.len() - PAYLOAD_AT;
        if len == 0
            || state.end.is_some()
            || !state.is_open()
            || state.is_stopped(self.handle.id)
            || state.session.send_state(self.handle.id) != Some(SendState::Open)
        {
            return false;
        }
        state.number_control();
        let header = state.session.write(self.handle.id, len);
        part[Segment::HEADROOM..PAYLOAD_AT].copy_from_slice(&header);
        state.number(part, Segment::HEADROOM);
        state.session.call_writers();
        state.dispatch(BytesMut::new());
        true
    }

    /// Bytes of the session so far, all its streams together, and how many of them the peer has.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let state = self.handle.shared.lock();
        (state.session.numbered(), state.session.acked())
    }

    /// Gives a buffer back unused.
    pub fn put_back(&mut self, buf: BytesMut) {
        self.handle.shared.lock().put_back(buf);
        self.out = self.out.saturating_sub(1);
    }

    /// Sends all of `bytes`, for what is small: they are copied. Dropping it may leave a part sent.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn say(&mut self, mut bytes: &[u8]) -> Result<(), SendError> {
        while !bytes.is_empty() {
            let grant = poll_fn(|cx| self.poll_grant(cx)).await?;
            let mut buf = poll_fn(|cx| self.poll_buffer(cx, grant)).await;
            let room = buf.capacity() - buf.len();
            let (now, later) = bytes.split_at(bytes.len().min(grant).min(room));
            buf.extend_from_slice(now);
            self.commit(buf);
            bytes = later;
        }
        Ok(())
    }

    /// The source ended.
    pub fn finish(&mut self) {
        let mut state = self.handle.shared.lock();
        state.session.finish(self.handle.id);
        state.number_control();
    }

    /// The source failed.
    pub fn reset(&mut self, abort: Abort) {
        let mut state = self.handle.shared.lock();
        state.session.reset(self.handle.id, abort);
        state.number_control();
    }

    /// How the command at the source ended, once; after [`SendStream::finish`] or
    /// [`SendStream::reset`]. A handle that is dropped without it says that the status is lost.
    pub fn exit(&mut self, exit: Exit) {
        let mut state = self.handle.shared.lock();
        state.session.exit(self.handle.id, exit);
        state.number_control();
    }
}

/// A slot with room in front for every header.
fn take_slot(state: &mut State, grant: usize) -> Option<BytesMut> {
    let mut slot = state.pool.take(PAYLOAD_AT + grant.min(ROOM_MIN))?;
    slot.extend_from_slice(&[0; PAYLOAD_AT]);
    Some(slot)
}

impl Drop for SendStream {
    fn drop(&mut self) {
        let mut state = self.handle.shared.lock();
        state.give_up_slots(self.out);
        let send_state = state.session.send_state(self.handle.id);
        drop(state);
        if send_state == Some(SendState::Open) {
            self.reset(cancelled());
        }
        let owes_exit = self.handle.shared.lock().session.owes_exit(self.handle.id);
        if owes_exit {
            self.exit(Exit::default());
        }
    }
}

/// The half from the peer.
#[derive(Debug)]
pub struct RecvStream(Handle);

impl RecvStream {
    /// Reads and drops what comes, up to its end, which is not confirmed: for a peer that has nothing to
    /// say. Cancel safe.
    pub async fn heard_out(&mut self) {
        let mut chunks = VecDeque::new();
        while let Ok(true) = poll_fn(|cx| self.poll_chunks(cx, &mut chunks)).await {
            let len = chunks.drain(..).map(|chunk: BytesMut| chunk.len()).sum();
            self.consumed(len);
        }
    }

    /// Moves all chunks that have arrived to the back of `into`; ready when there was at least
    /// one, `false` at the end. Account for what was used with [`RecvStream::consumed`].
    pub fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut VecDeque<BytesMut>,
    ) -> Poll<Result<bool, RecvError>> {
        let mut state = self.0.shared.lock();
        let end = state.end.clone();
        let Some(io) = state.streams.get_mut(&self.0.id) else {
            return Poll::Ready(Err(RecvError::Session(SessionEnd::Closed)));
        };
        if !io.chunks.is_empty() {
            into.append(&mut io.chunks);
            return Poll::Ready(Ok(true));
        }
        match &io.recv_end {
            Some(RecvEnd::Finished) => return Poll::Ready(Ok(false)),
            Some(RecvEnd::Reset(abort)) => {
                return Poll::Ready(Err(RecvError::Reset(abort.clone())));
            }
            None => {}
        }
        if let Some(refuse) = &io.refused {
            return Poll::Ready(Err(RecvError::Refused(refuse.clone())));
        }
        if let Some(end) = end {
            return Poll::Ready(Err(RecvError::Session(end)));
        }
        park(&mut io.reader, cx);
        Poll::Pending
    }

    /// The sink took `len` bytes: the peer may send as many more.
    pub fn consumed(&mut self, len: usize) {
        let now = self.0.shared.clock.now();
        let mut state = self.0.shared.lock();
        let id = self.0.id;
        state.with_windows(|session| session.consumed(now, id, len));
        state.number_control();
    }

    /// The sink's last write and close have returned.
    pub fn done(&mut self) {
        let mut state = self.0.shared.lock();
        state.session.done(self.0.id);
        state.number_control();
    }

    /// The sink wants no more, or failed. If it has ended in order ([`AbortCode::Ended`]), what it
    /// did not take is the sender's loss: see [`Fate::missed`].
    pub fn stop(&mut self, abort: Abort) {
        let mut state = self.0.shared.lock();
        let has_ended = AbortCode::from_wire(abort.code) == AbortCode::Ended;
        if let Some(io) = state.streams.get_mut(&self.0.id)
            && has_ended
        {
            io.missed = !io.chunks.is_empty();
            // Its last word was said before.
            io.stop_answered |= io.recv_end.is_some();
        }
        state.session.stop(self.0.id, abort);
        state.number_control();
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.stop(cancelled());
    }
}

/// What the peer says about a stream.
#[derive(Debug)]
pub struct StreamWatch(Handle);

/// A stream's fate so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fate {
    /// The peer joined it to its target.
    pub accepted: bool,
    /// What it said of that.
    pub accept: Option<Accept>,
    /// The peer could not.
    pub refused: Option<Refuse>,
    /// The peer's sink wants no more.
    pub stopped: Option<Abort>,
    /// Bytes came for this side's sink when it had ended in order.
    pub missed: bool,
    /// The peer's source has heard that this side's sink wants no more: [`Fate::missed`] is final.
    pub stop_answered: bool,
    /// The peer's source failed or was given up.
    pub reset: Option<Abort>,
    /// The peer's sink took all and is closed.
    pub done: bool,
    /// How the peer's command ended.
    pub exited: Option<Exit>,
    /// Everything of the session is settled.
    pub complete: bool,
    /// The session ended before that.
    pub end: Option<SessionEnd>,
}

impl StreamWatch {
    /// The number of the stream in its session.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.0.id
    }

    /// The fate now.
    #[must_use]
    pub fn fate(&self) -> Fate {
        let state = self.0.shared.lock();
        let mut fate = Fate {
            complete: state.session.is_complete(),
            end: state.end.clone(),
            ..Fate::default()
        };
        if let Some(io) = state.streams.get(&self.0.id) {
            fate.accepted = io.accepted.is_some();
            fate.accept = io.accepted;
            fate.refused.clone_from(&io.refused);
            fate.stopped.clone_from(&io.stopped);
            if let Some(RecvEnd::Reset(abort)) = &io.recv_end {
                fate.reset = Some(abort.clone());
            }
            fate.missed = io.missed;
            fate.stop_answered = io.stop_answered;
            fate.done = io.done;
            fate.exited = io.exited;
        }
        fate
    }

    /// Waits until the peer has said what became of all that was sent to it, or never will. Cancel safe.
    pub async fn confirmed(&mut self) -> Fate {
        poll_fn(|cx| {
            self.poll_until(cx, |fate| {
                fate.done || fate.stopped.is_some() || fate.refused.is_some() || fate.end.is_some()
            })
        })
        .await
    }

    /// Ready when `enough` holds of the stream's fate.
    pub fn poll_until(
        &mut self,
        cx: &mut Context<'_>,
        enough: impl FnOnce(&Fate) -> bool,
    ) -> Poll<Fate> {
        // The waker first: what happens between the look and the wait must not be missed.
        if let Some(io) = self.0.shared.lock().streams.get_mut(&self.0.id) {
            park(&mut io.watcher, cx);
        }
        let fate = self.fate();
        if enough(&fate) {
            return Poll::Ready(fate);
        }
        Poll::Pending
    }
}

/// What the opener of a stream asks of the command at its other end (docs/protocol.md section 6.7).
#[derive(Debug)]
pub struct CommandControl(Handle);

/// One thing that was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A signal, by its number: 1 to 64.
    Signal(u32),
    /// The opener's terminal has another size.
    Resize(Resize),
}

impl CommandControl {
    /// The opener: sends the command a signal. Nothing happens when the stream is over.
    pub fn signal(&self, number: u32) {
        let mut state = self.0.shared.lock();
        state.session.signal(self.0.id, Signal { number });
        state.number_control();
    }

    /// The opener: whether the other side has joined the stream to its command.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        let state = self.0.shared.lock();
        state
            .streams
            .get(&self.0.id)
            .is_some_and(|io| io.accepted.is_some())
    }

    /// The opener: says how large its terminal is.
    pub fn resize(&self, size: Resize) {
        let mut state = self.0.shared.lock();
        state.session.resize(self.0.id, size);
        state.number_control();
    }

    /// As [`SendStream::progress`].
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let state = self.0.shared.lock();
        (state.session.numbered(), state.session.acked())
    }

    /// Has the task woken when [`CommandControl::progress`] is another, or the session is over. For one
    /// task at a time, and once the [`SendStream`] is dropped, which is woken by the same.
    pub fn park_progress(&self, cx: &mut Context<'_>) {
        if let Some(io) = self.0.shared.lock().streams.get_mut(&self.0.id) {
            park(&mut io.writer, cx);
        }
    }

    /// The other side: ready with the next thing that is asked. A signal that comes again before it
    /// was taken comes once, and of sizes the newest. Cancel safe.
    pub fn poll_asked(&mut self, cx: &mut Context<'_>) -> Poll<Asked> {
        let mut state = self.0.shared.lock();
        let Some(io) = state.streams.get_mut(&self.0.id) else {
            return Poll::Pending;
        };
        if let Some(size) = io.resized.take() {
            return Poll::Ready(Asked::Resize(size));
        }
        if io.signals != 0 {
            let lowest = io.signals.trailing_zeros();
            io.signals &= io.signals - 1;
            return Poll::Ready(Asked::Signal(lowest + 1));
        }
        park(&mut io.asked, cx);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use farpipe_proto::session::{SessionConfig, Side};
    use farpipe_proto::wire::control::Open;
    use farpipe_proto::wire::inner::InnerFrame;

    use super::*;
    use crate::{Clock, Greeting, Opener, OpenerConfig};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Streams of a session that has hardly any memory: four slots.
    fn poor(streams: usize) -> Vec<Stream> {
        let mut config = OpenerConfig::new(Greeting {
            software: "test".to_owned(),
            prover: None,
            keys: None,
            tokens: None,
            random: |bytes| bytes.fill(7),
        });
        config.buffer_max = 10_000;
        config.clock = Clock::Boot;
        let handle = Opener::new(config).handle();
        let open = || handle.open("").expect("room for a few streams");
        std::iter::repeat_with(open).take(streams).collect()
    }

    struct Told(usize, Arc<std::sync::Mutex<Vec<usize>>>);

    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            self.1.lock().expect("nobody panics").push(self.0);
        }
    }

    #[test]
    fn writers_that_wait_for_memory_are_woken_in_turn() {
        let mut streams = poor(6);
        let order = Arc::default();
        let poll = |streams: &mut [Stream], number: usize| {
            let waker = Waker::from(Arc::new(Told(number, Arc::clone(&order))));
            let send = &mut streams[number].send;
            send.poll_buffer(&mut Context::from_waker(&waker), 1)
        };
        let mut held = Vec::new();
        for number in 0..4 {
            let Poll::Ready(slot) = poll(&mut streams, number) else {
                panic!("{number}: there is a slot");
            };
            held.push(slot);
        }
        // One that has a slot wants another, before those who have none.
        for number in [0, 4, 5] {
            assert!(poll(&mut streams, number).is_pending());
        }
        streams[1].send.put_back(held.remove(1));
        assert_eq!(*order.lock().expect("nobody panics"), [4, 5, 0]);
    }

    #[test]
    fn a_writer_that_waits_for_memory_is_woken_when_another_needs_none() {
        let mut streams = poor(5);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let mut held = Vec::new();
        for stream in &mut streams[..4] {
            held.push(stream.send.buffer(1).expect("one slot each"));
        }
        for turn in 1..=3 {
            let waits = &mut streams[4].send;
            assert!(waits.poll_buffer(&mut cx, 1).is_pending(), "{turn}");
            match turn {
                1 => streams[0].send.put_back(held.remove(0)),
                2 => {
                    let mut buf = held.remove(0);
                    buf.extend_from_slice(b"x");
                    streams[1].send.commit(buf);
                }
                // Its buffer went with the source that was reading into it.
                _ => drop(streams.remove(2)),
            }
            assert_eq!(count.0.load(Ordering::Relaxed), turn);
            let last = streams.len() - 1;
            let Poll::Ready(slot) = streams[last].send.poll_buffer(&mut cx, 1) else {
                panic!("turn {turn}: there is a slot");
            };
            held.push(slot);
        }
    }

    #[test]
    fn a_stream_that_is_dropped_without_its_status_says_that_it_is_lost() {
        let shared = Shared::new(
            SessionConfig::new(Side::Acceptor),
            Arc::default(),
            Clock::Boot,
            None,
        );
        let id = StreamId(1);
        let now = shared.clock.now();
        let open = InnerFrame::Open(Open::default()).encode(id);
        let mut state = shared.lock();
        state
            .session
            .handle_attached(now, 0)
            .expect("a new session");
        state.session.handle_frames(now, &open).expect("an OPEN");
        state.dispatch(BytesMut::new());
        drop(state);
        let stream = Stream::new(&shared, id);
        stream.accept(Accept { has_command: true });
        assert!(shared.lock().session.owes_exit(id));
        drop(stream);
        assert!(!shared.lock().session.owes_exit(id));
    }
}
