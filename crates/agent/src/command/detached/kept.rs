//! One detached command: what it says and reads, who is attached to it, and how it ended.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use farpipe_net::CommandControl;
use farpipe_proto::identity::Caller;
use farpipe_proto::limits::{ACK_DELAY, DETACHED_INPUT_MAX, DRAIN, MESSAGE_MAX};
use farpipe_proto::wire::control::{DetachedCommand, Exit as WireExit};
use rustix::process::{Pid, Signal};
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::pty::Pty;
use super::super::request::{Detached, Request, Size};
use super::ring::Ring;
use crate::endpoint::{Exit, Sink, Source};
use crate::outcome::to_wire;

/// A command that goes on without its caller.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) request: Request,
    pub(super) starter: Option<Caller>,
    started: SystemTime,
    state: Mutex<State>,
    /// Whether it has ended.
    ended: watch::Sender<bool>,
    /// The signal, and the time until SIGKILL, that is to end it.
    pub(super) ladder: watch::Sender<Option<(Signal, Duration)>>,
    /// Whether nobody can ask for it any more.
    pub(super) forgotten: watch::Sender<bool>,
}

/// One of its three directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Stdin,
    Stdout,
    Stderr,
}

#[derive(Debug)]
struct State {
    stdin: Ring,
    stdout: Ring,
    stderr: Ring,
    /// Counts the attachments; only the last one is served.
    attachment: u64,
    /// What the attached caller's process has received; `None`: nobody is attached.
    attached: Option<CommandControl>,
    /// Its stdin takes no more, or has been closed.
    input: Input,
    pid: Pid,
    /// `None` once its number may be another's.
    live: Option<Option<Pty>>,
    /// `None`: the status is lost.
    exit: Option<Option<Exit>>,
    ended_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Open,
    Closed,
    Gone,
}

impl Kept {
    pub(super) fn new(
        request: Request,
        asked: &Detached,
        starter: Option<Caller>,
        pid: Pid,
        pty: Option<Pty>,
    ) -> Self {
        let mut stdin = Ring::new(DETACHED_INPUT_MAX, false);
        if asked.no_stdin {
            stdin.end();
        }
        let output = || Ring::new(asked.keep, asked.drops);
        Self {
            request,
            starter,
            started: SystemTime::now(),
            state: Mutex::new(State {
                stdin,
                stdout: output(),
                stderr: output(),
                attachment: 0,
                attached: None,
                input: Input::Open,
                pid,
                live: Some(pty),
                exit: None,
                ended_at: None,
            }),
            ended: watch::Sender::new(false),
            ladder: watch::Sender::new(None),
            forgotten: watch::Sender::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with one of its queues.
    pub(super) fn with<T>(&self, which: Which, work: impl FnOnce(&mut Ring) -> T) -> T {
        work(self.lock().ring(which))
    }

    pub(super) fn has_terminal(&self) -> bool {
        self.request.terminal.is_some()
    }

    /// What was read from its stdin's queue was written and the stdin closed; or cannot be.
    pub(super) fn input_over(&self, is_closed: bool) {
        let mut state = self.lock();
        state.input = if is_closed {
            Input::Closed
        } else {
            Input::Gone
        };
        state.stdin.wake();
    }

    /// From now on no signal is sent to it: its number is given away.
    pub(super) fn bury(&self) {
        self.lock().live = None;
    }

    pub(super) fn exited(&self, exit: Option<Exit>) {
        let mut state = self.lock();
        state.exit = Some(exit);
        state.ended_at = Some(Instant::now());
        drop(state);
        self.ended.send_replace(true);
    }

    /// When it ended, if it has.
    pub(super) fn ended_at(&self) -> Option<Instant> {
        self.lock().ended_at
    }

    /// Waits for its end. `None`: its status is lost. Cancel safe.
    pub(super) async fn exit(&self) -> Option<Exit> {
        let mut ended = self.ended.subscribe();
        // The sender lives as long as this.
        let _ = ended.wait_for(|ended| *ended).await;
        self.lock().exit.flatten()
    }

    /// How it ended, with what is to be told of its output.
    pub(super) fn last_word(&self, exit: Option<Exit>) -> WireExit {
        let mut state = self.lock();
        let dropped = state.stdout.tell_dropped() + state.stderr.tell_dropped();
        WireExit {
            dropped,
            ..exit.map(to_wire).unwrap_or_default()
        }
    }

    /// Signals who is in front of its terminal, or its process group. Whether it still runs.
    pub(super) fn signal(&self, signal: Signal, whole: bool) -> bool {
        let state = self.lock();
        let Some(pty) = &state.live else {
            return false;
        };
        let front = pty.as_ref().filter(|_| !whole).and_then(Pty::foreground);
        // Another user's by now: nothing more can be done.
        if let Err(error) = rustix::process::kill_process_group(front.unwrap_or(state.pid), signal)
        {
            tracing::debug!("cannot send a detached command {signal:?}: {error}");
        }
        true
    }

    pub(super) fn resize(&self, size: Size) {
        let state = self.lock();
        if let Some(Some(pty)) = &state.live
            && let Err(error) = pty.resize(size)
        {
            tracing::debug!("cannot resize a terminal: {error}");
        }
    }

    /// What `ps` shows of it.
    pub(super) fn describe(&self, id: &str) -> DetachedCommand {
        let mut state = self.lock();
        state.account();
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH);
        let mut line = self.request.line();
        line.truncate(MESSAGE_MAX);
        DetachedCommand {
            id: id.to_owned(),
            line,
            pid: state.pid.as_raw_nonzero().get().unsigned_abs(),
            started_ms: started.map_or(0, |since| since.as_millis() as u64),
            exit: state.exit.map(|exit| exit.map(to_wire).unwrap_or_default()),
            kept: (state.stdout.len() + state.stderr.len()) as u64,
            dropped: state.stdout.dropped() + state.stderr.dropped(),
            attached: state.attached.is_some(),
            terminal: self.has_terminal(),
        }
    }
}

impl State {
    /// Lets go of the output that has arrived.
    fn account(&mut self) {
        if let Some(control) = &self.attached {
            let (numbered, acked) = control.progress();
            self.stdout.account(numbered, acked);
            self.stderr.account(numbered, acked);
        }
    }

    fn ring(&mut self, which: Which) -> &mut Ring {
        match which {
            Which::Stdin => &mut self.stdin,
            Which::Stdout => &mut self.stdout,
            Which::Stderr => &mut self.stderr,
        }
    }
}

/// A caller that is joined to a command; the next one takes its place.
#[derive(Debug)]
pub(super) struct Attachment {
    kept: Arc<Kept>,
    number: u64,
}

impl Attachment {
    pub(super) fn begin(kept: Arc<Kept>, control: CommandControl) -> Arc<Self> {
        let mut state = kept.lock();
        state.account();
        state.attachment += 1;
        state.attached = Some(control);
        let number = state.attachment;
        for which in [Which::Stdout, Which::Stderr] {
            // What the one before had, and its caller has not, is this one's.
            state.ring(which).take_back();
        }
        for which in [Which::Stdin, Which::Stdout, Which::Stderr] {
            state.ring(which).wake();
        }
        drop(state);
        Arc::new(Self { kept, number })
    }

    fn lock(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.kept.lock();
        if state.attachment != self.number {
            return Err(io::Error::other(
                "another `farpipe attach` has taken its place",
            ));
        }
        Ok(state)
    }

    /// All that was sent is written at the other end.
    pub(super) fn settled(&self) {
        if let Ok(mut state) = self.lock() {
            state.stdout.arrived_all();
            state.stderr.arrived_all();
        }
    }

    /// Waits a moment for what the caller's process has received to be acknowledged: it may say that it
    /// leaves before that. Cancel safe.
    pub(super) async fn acknowledged(&self) {
        let until = Instant::now() + DRAIN;
        while self.is_lent() && Instant::now() < until {
            tokio::time::sleep(ACK_DELAY).await;
        }
    }

    fn is_lent(&self) -> bool {
        let Ok(mut state) = self.lock() else {
            return false;
        };
        state.account();
        state.stdout.is_lent() || state.stderr.is_lent()
    }

    pub(super) fn output(self: &Arc<Self>, which: Which) -> Box<dyn Source> {
        Box::new(Output(Arc::clone(self), which))
    }

    pub(super) fn input(self: &Arc<Self>) -> Box<dyn Sink> {
        Box::new(InputQueue(Arc::clone(self)))
    }
}

/// To be let go of when the session has settled what was sent.
impl Drop for Attachment {
    fn drop(&mut self) {
        if let Ok(mut state) = self.lock() {
            state.account();
            state.stdout.take_back();
            state.stderr.take_back();
            state.attached = None;
        }
    }
}

/// stdout or stderr of a detached command.
#[derive(Debug)]
struct Output(Arc<Attachment>, Which);

impl Source for Output {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock()?;
        state.account();
        state.ring(self.1).poll_ready(cx).map(Ok)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let room = max.min(buf.capacity() - buf.len());
        let mut state = self.0.lock()?;
        state.account();
        state.ring(self.1).poll_take(cx, buf, room).map(Ok)
    }
}

/// The queue before a detached command's stdin.
#[derive(Debug)]
struct InputQueue(Arc<Attachment>);

impl InputQueue {
    /// Ready when the command reads no more. Otherwise the task is woken by that.
    fn poll_gone(state: &mut State, cx: &mut Context<'_>) -> Poll<io::Error> {
        let _ = state.stdin.poll_room(cx);
        match state.input {
            Input::Gone => Poll::Ready(io::ErrorKind::BrokenPipe.into()),
            Input::Open | Input::Closed => Poll::Pending,
        }
    }
}

impl Sink for InputQueue {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock()?;
        if let Poll::Ready(error) = Self::poll_gone(&mut state, cx) {
            return Poll::Ready(Err(error));
        }
        if state.stdin.has_ended() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let Some(bytes) = bufs.iter().find(|bytes| !bytes.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let len = ready!(state.stdin.poll_room(cx)).min(bytes.len());
        state.stdin.push(&bytes[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock()?;
        Self::poll_gone(&mut state, cx).map(Err)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock()?;
        if !state.stdin.has_ended() {
            state.stdin.end();
        }
        if state.input == Input::Closed {
            return Poll::Ready(Ok(()));
        }
        Self::poll_gone(&mut state, cx).map(Err)
    }
}

/// Bytes that are all there.
#[derive(Debug)]
pub(super) struct Said(pub(super) Ring);

impl Source for Said {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_ready(cx).map(Ok)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let room = max.min(buf.capacity() - buf.len());
        self.0.poll_take(cx, buf, room).map(Ok)
    }
}
