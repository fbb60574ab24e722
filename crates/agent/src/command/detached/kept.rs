//! One detached command: what it says and reads, and how it ended.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use farpipe_net::{CommandControl, WallClock};
use farpipe_proto::identity::Caller;
use farpipe_proto::limits::{DETACHED_INPUT_MAX, MESSAGE_MAX};
use farpipe_proto::wire::control::{DetachedCommand, Exit as WireExit};
use rustix::process::{Pid, Signal};
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::pty::Pty;
use super::super::request::{Detached, Request, Size};
use super::ring::Ring;
use crate::endpoint::Exit;
use crate::outcome::to_wire;

/// A command that goes on without its caller.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) request: Request,
    pub(super) starter: Option<Caller>,
    started: SystemTime,
    state: Mutex<State>,
    /// Counts the attachments; only the last one is served. Changed under the lock of `state`.
    pub(super) attachment: watch::Sender<u64>,
    /// Whether it has ended.
    ended: watch::Sender<bool>,
    /// The signal, and the time until SIGKILL, that is to end it; no time: only the signal, to what it
    /// left behind.
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
pub(super) struct State {
    pub(super) stdin: Ring,
    pub(super) stdout: Ring,
    pub(super) stderr: Ring,
    /// What the attached caller's process has received; `None`: nobody is attached.
    pub(super) attached: Option<CommandControl>,
    /// Its stdin takes no more, or has been closed.
    pub(super) input: Input,
    pid: Pid,
    /// `None` once its number may be another's.
    live: Option<Option<Pty>>,
    /// `None`: the status is lost.
    exit: Option<Option<Exit>>,
    ended_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
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
            started: SystemTime::UNIX_EPOCH + WallClock::System.now(),
            state: Mutex::new(State {
                stdin,
                stdout: output(),
                stderr: output(),
                attached: None,
                input: Input::Open,
                pid,
                live: Some(pty),
                exit: None,
                ended_at: None,
            }),
            attachment: watch::Sender::new(0),
            ended: watch::Sender::new(false),
            ladder: watch::Sender::new(None),
            forgotten: watch::Sender::new(false),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
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
    /// Whether something of its session goes on after its end.
    pub(super) fn has_left(&self) -> bool {
        // Its keeper listens as long as there is something to signal.
        self.ended_at().is_some() && self.ladder.receiver_count() > 0
    }

    /// Whether somebody takes its output now.
    pub(super) fn is_attached(&self) -> bool {
        self.lock().attached.is_some()
    }

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
    pub(super) fn account(&mut self) {
        if let Some(control) = &self.attached {
            let (numbered, acked) = control.progress();
            self.stdout.account(numbered, acked);
            self.stderr.account(numbered, acked);
        }
    }

    pub(super) fn ring(&mut self, which: Which) -> &mut Ring {
        match which {
            Which::Stdin => &mut self.stdin,
            Which::Stdout => &mut self.stdout,
            Which::Stderr => &mut self.stderr,
        }
    }
}
