//! Two streams made one: that of a command here and that of the far agent.
//!
//! Whatever one end says is passed on to the other, and nothing is said in anybody's name: ACCEPT,
//! REFUSE, FIN, RESET, STOP, DONE and EXIT go on when they have come. So success is never claimed
//! before the far end has claimed it, and what a stream's end means to a command is what it would be
//! without a stop on the way. Bytes are taken from one side when the other has room for them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use farpipe_net::{
    Asked, CommandControl, Fate, RecvError, RecvStream, SendError, SendStream, SessionEnd,
    SessionHandle, Stream,
};
use farpipe_proto::wire::control::{Abort, AbortCode, Refuse};

use super::far::{Far, Place};

/// Buffers moved in one poll before the other tasks of the thread get their turn.
const TURNS_MAX: usize = 8;

/// Which of the two was there first: the other is its continuation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenedBy {
    /// A command here.
    Near,
    /// The far agent.
    Far,
}

/// How it ended.
enum Over {
    /// Each side has heard all of the other.
    Settled,
    /// The one who was asked said no.
    Refused(Refuse),
    /// The command's session is over: nobody is left to say anything for.
    NearGone,
    /// The far session is over.
    FarGone(SessionEnd),
}

/// A pair of streams, and what it has come to.
#[derive(Debug)]
pub(super) struct Splice {
    near: Side,
    far: Side,
    opened_by: OpenedBy,
    forth: Flow,
    back: Flow,
    /// ACCEPT was passed on: whether it promised a status.
    accepted: Option<bool>,
    /// The command's session.
    session: SessionHandle,
    way: Arc<Far>,
    /// Counted there as long as this lives.
    _place: Option<Place>,
}

/// One of the two.
#[derive(Debug)]
struct Side {
    stream: Stream,
    control: CommandControl,
    /// Its last word was passed on to the other.
    has_exited: bool,
}

impl Side {
    fn new(stream: Stream) -> Self {
        Self {
            control: stream.control(),
            stream,
            has_exited: false,
        }
    }

    /// What it has come to; has the task woken when that changes.
    fn fate(&mut self, cx: &mut Context<'_>) -> Fate {
        match self.stream.watch.poll_until(cx, |_| true) {
            Poll::Ready(fate) => fate,
            // It is always enough.
            Poll::Pending => self.stream.watch.fate(),
        }
    }

    /// Passes on how the command of `from` has ended, once all that it said was.
    fn pass_exit(&mut self, from: &mut Self, flow: &Flow) {
        if from.has_exited || matches!(flow.state, State::Open | State::Ended { .. }) {
            return;
        }
        if let Some(exit) = from.stream.watch.fate().exited {
            from.has_exited = true;
            self.stream.send.exit(exit);
        }
    }

    fn give_up(&mut self) {
        let abort = || Abort::new(AbortCode::Cancelled, "");
        self.stream.send.reset(abort());
        self.stream.recv.stop(abort());
    }
}

impl Splice {
    /// Joins two streams, of which the first is the command's.
    pub(super) fn new(
        near: Stream,
        far: Stream,
        opened_by: OpenedBy,
        session: SessionHandle,
        way: Arc<Far>,
        place: Option<Place>,
    ) -> Self {
        Self {
            near: Side::new(near),
            far: Side::new(far),
            opened_by,
            forth: Flow::default(),
            back: Flow::default(),
            accepted: None,
            session,
            way,
            _place: place,
        }
    }

    /// Passes on until all is settled, or one of the two sessions is over.
    ///
    /// # Cancellation
    /// Dropping it resets both streams.
    pub(super) async fn run(mut self) {
        match poll_fn(|cx| self.poll(cx)).await {
            Over::Settled => {}
            Over::Refused(refuse) => {
                let Self { near, far, .. } = self;
                match self.opened_by {
                    OpenedBy::Near => near.stream.refuse(refuse),
                    OpenedBy::Far => far.stream.refuse(refuse),
                }
            }
            // A caller that is gone is gone for good.
            Over::NearGone => self.far.give_up(),
            // The session's end says more than that of the stream, and must be heard first.
            Over::FarGone(end) => self.session.end(end),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        // The wakers first: what happens from now on is seen.
        let (near, far) = (self.near.fate(cx), self.far.fate(cx));
        if near.end.is_some() {
            return Poll::Ready(Over::NearGone);
        }
        if let Some(end) = far.end {
            return Poll::Ready(Over::FarGone(end));
        }
        let answer = match self.opened_by {
            OpenedBy::Near => far,
            OpenedBy::Far => near,
        };
        if let Some(refuse) = self.answered(answer) {
            return Poll::Ready(Over::Refused(refuse));
        }
        let (near, far) = (&mut self.near.stream, &mut self.far.stream);
        let forth = self.forth.poll(cx, near, far);
        let back = self.back.poll(cx, far, near);
        self.pass_asked(cx);
        self.near.pass_exit(&mut self.far, &self.back);
        self.far.pass_exit(&mut self.near, &self.forth);
        if forth.is_ready() && back.is_ready() && !self.awaits_exit() {
            return Poll::Ready(Over::Settled);
        }
        Poll::Pending
    }

    /// Passes on what the one who was asked has answered, but for a refusal.
    fn answered(&mut self, answer: Fate) -> Option<Refuse> {
        if self.accepted.is_some() || !answer.accepted && answer.refused.is_none() {
            return None;
        }
        // The streams that the far agent opened before it answered are announced before as well.
        self.way.take_opened();
        if let Some(accept) = answer.accept {
            self.accepted = Some(accept.has_command);
            match self.opened_by {
                OpenedBy::Near => self.near.stream.accept(accept),
                OpenedBy::Far => self.far.stream.accept(accept),
            }
        }
        answer.refused
    }

    fn awaits_exit(&self) -> bool {
        let asked = match self.opened_by {
            OpenedBy::Near => &self.far,
            OpenedBy::Far => &self.near,
        };
        self.accepted == Some(true) && !asked.has_exited
    }

    /// Passes on signals and sizes.
    fn pass_asked(&mut self, cx: &mut Context<'_>) {
        let (from, to) = match self.opened_by {
            OpenedBy::Near => (&mut self.near.control, &self.far.control),
            OpenedBy::Far => (&mut self.far.control, &self.near.control),
        };
        while let Poll::Ready(asked) = from.poll_asked(cx) {
            match asked {
                Asked::Signal(number) => to.signal(number),
                Asked::Resize(size) => to.resize(size),
            }
        }
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    state: State,
    /// Taken from the one and not yet given to the other.
    chunks: VecDeque<BytesMut>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Bytes may follow.
    #[default]
    Open,
    /// FIN was passed on; DONE, STOP or RESET is to come.
    Finished,
    /// That the sink has ended in order was passed on: whether there was more for it is to come.
    Ended {
        /// There was, already here.
        missed: bool,
    },
    /// The last word was passed on.
    Over,
}

impl Flow {
    /// Ready when it is over.
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Stream, to: &mut Stream) -> Poll<()> {
        if self.state == State::Open {
            self.poll_open(cx, &mut from.recv, &mut to.send);
        }
        match self.state {
            State::Finished => self.confirm(from, to),
            State::Ended { missed } => self.answer_end(missed, from, to),
            State::Open | State::Over => {}
        }
        match self.state {
            State::Over => Poll::Ready(()),
            State::Open | State::Finished | State::Ended { .. } => Poll::Pending,
        }
    }

    fn poll_open(&mut self, cx: &mut Context<'_>, from: &mut RecvStream, to: &mut SendStream) {
        for _ in 0..TURNS_MAX {
            let turn = match self.chunks.is_empty() {
                true => self.poll_take(cx, from, to),
                false => self.poll_give(cx, from, to),
            };
            match turn {
                Poll::Pending => return,
                Poll::Ready(State::Open) => {}
                Poll::Ready(next) => {
                    self.state = next;
                    self.chunks.clear();
                    return;
                }
            }
        }
        cx.waker().wake_by_ref();
    }

    /// Takes what has arrived.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut RecvStream,
        to: &mut SendStream,
    ) -> Poll<State> {
        match from.poll_chunks(cx, &mut self.chunks) {
            Poll::Ready(Ok(true)) => Poll::Ready(State::Open),
            Poll::Ready(Ok(false)) => {
                to.finish();
                Poll::Ready(State::Finished)
            }
            Poll::Ready(Err(RecvError::Reset(abort))) => {
                to.reset(abort);
                Poll::Ready(State::Over)
            }
            // A refusal is passed on as such, and the end of a session ends both streams.
            Poll::Ready(Err(_)) => Poll::Ready(State::Over),
            // Nothing to pass on: but the reader may be gone.
            Poll::Pending => match to.poll_grant(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(self.stopped(from, error)),
                Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
            },
        }
    }

    /// Gives one buffer.
    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut RecvStream,
        to: &mut SendStream,
    ) -> Poll<State> {
        let grant = match ready!(to.poll_grant(cx)) {
            Ok(grant) => grant,
            Err(error) => return Poll::Ready(self.stopped(from, error)),
        };
        let mut buf = ready!(to.poll_buffer(cx, grant));
        let mut room = grant.min(buf.capacity() - buf.len());
        let mut given = 0;
        while let Some(front) = self.chunks.front_mut().filter(|_| room > 0) {
            let part = room.min(front.len());
            buf.extend_from_slice(&front[..part]);
            front.advance(part);
            if front.is_empty() {
                self.chunks.pop_front();
            }
            room -= part;
            given += part;
        }
        if to.commit(buf) {
            from.consumed(given);
        }
        Poll::Ready(State::Open)
    }

    /// Passes on what follows FIN.
    fn confirm(&mut self, from: &mut Stream, to: &mut Stream) {
        let heard = to.watch.fate();
        if heard.done {
            from.recv.done();
        } else if let Some(abort) = heard.stopped {
            from.recv.stop(abort);
            // If it came before FIN was said, it has no answer yet; there was no more.
            to.send.reset(Abort::new(AbortCode::Stopped, ""));
        } else if let Some(abort) = from.watch.fate().reset {
            to.send.reset(abort);
        } else {
            return;
        }
        self.state = State::Over;
    }

    /// Passes on that the reader wants no more.
    fn stopped(&self, from: &mut RecvStream, error: SendError) -> State {
        let SendError::Stopped(abort) = error else {
            return State::Over;
        };
        let has_ended = AbortCode::from_wire(abort.code) == AbortCode::Ended;
        from.stop(abort);
        match has_ended {
            true => State::Ended {
                missed: !self.chunks.is_empty(),
            },
            false => State::Over,
        }
    }

    /// Answers a sink that has ended in order, when nothing more comes for it.
    fn answer_end(&mut self, missed: bool, from: &Stream, to: &mut Stream) {
        let heard = from.watch.fate();
        if !heard.stop_answered {
            return;
        }
        let code = match missed || heard.missed {
            true => AbortCode::ReaderGone,
            false => AbortCode::Stopped,
        };
        to.send.reset(Abort::new(code, ""));
        self.state = State::Over;
    }
}
