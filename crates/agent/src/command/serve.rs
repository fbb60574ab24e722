//! The agent's side: runs what the sessions of its callers ask for.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use farpipe_net::{
    AcceptedSession, Asked, CommandControl, Refusals, SessionEnd, SessionHandle, Stream,
};
use farpipe_proto::identity::Caller;
use farpipe_proto::limits::DRAIN;
use farpipe_proto::wire::control::{Accept, Open, Refuse};
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::detached::{Table, TableError};
use super::environment::Resolved;
use super::input::InputSink;
use super::launch::{Ends, LaunchError, Launcher};
use super::may::{Objection, Permit, Refused, may};
use super::process::Process;
use super::pty::Pty;
use super::request::{Request, RequestError, Size};
use crate::endpoint::exec::{OutputSource, explain};
use crate::endpoint::named::Named;
use crate::endpoint::pipe::{PipeSink, PipeSource};
use crate::endpoint::{Endpoint, Exit};
use crate::outcome::{Outcome, PipeError, STATUS_FAILURE};
use crate::ping;
use crate::pipe::{self, Cancel, Pipe, cancelled};
use crate::policy::{Denied, LivePolicy, ProgramError};
use crate::pump::Meter;
use crate::server::{describe_open, status_of};

/// How an agent runs commands.
#[derive(Debug, Clone)]
pub struct Agent {
    /// What makes processes.
    pub launcher: Launcher,
    /// What callers may have.
    pub policy: Arc<LivePolicy>,
    /// Where it says what it does not allow.
    pub refusals: Arc<Refusals>,
    /// Commands that go on without their callers.
    pub detached: Table,
    /// Ends all commands, and the sessions behind them.
    pub cancel: Cancel,
}

/// Serves one session: each stream that its opener opens is a command of its own. Returns when
/// everything is settled at both ends, or the session is lost; no process of it is left then.
///
/// # Errors
/// How the session ended, if not in order.
///
/// # Cancellation
/// Dropping it kills the commands. Use `agent.cancel`: they are hung up, and what they say meanwhile,
/// and their status, still arrives.
pub async fn serve(session: AcceptedSession, agent: &Agent) -> Result<(), SessionEnd> {
    let handle = session.handle();
    handle.hold();
    let name = session.name();
    let shown = session.caller().cloned();
    let peer: Arc<str> = session.peer().into();
    let (running, mut are_running) = watch::channel(0_usize);
    let serving = async {
        // What was shown in the session itself says more than what was shown on the way.
        let caller = handle.peer_identity().await.or(shown);
        let mut commands = JoinSet::new();
        loop {
            tokio::select! {
                opened = handle.accept() => {
                    let Some((stream, open)) = opened else { break };
                    let command = Serving {
                        handle: handle.clone(),
                        caller: caller.clone(),
                        peer: Arc::clone(&peer),
                        agent: agent.clone(),
                        running: running.clone(),
                        name: format!("session {name}, stream {}", stream.id().0),
                    };
                    commands.spawn(command.run(stream, open));
                }
                Some(ended) = commands.join_next() => log(ended),
            }
        }
        while let Some(ended) = commands.join_next().await {
            log(ended);
        }
        handle.release();
    };
    let mut linked = std::pin::pin!(session.run());
    let linked = async {
        tokio::select! {
            ended = &mut linked => return ended,
            () = cancelled(agent.cancel.clone()) => {}
        }
        // The commands end within their grace; then their last words have a moment.
        let leaving = async {
            let _ = are_running.wait_for(|running| *running == 0).await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            ended = &mut linked => return ended,
            () = leaving => {}
        }
        handle.end(SessionEnd::Closed);
        let closing = tokio::time::timeout(DRAIN, linked).await;
        closing.unwrap_or(Err(SessionEnd::Closed))
    };
    tokio::join!(serving, linked).1
}

fn log(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!("a command's task failed: {error}");
    }
}

/// How a command ended, for the log.
fn ending(exit: Option<Exit>) -> String {
    match exit {
        Some(exit) => exit.to_string(),
        None => "its end is not known".to_owned(),
    }
}

/// Why a stream gets no command.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("this agent runs commands, and the stream asks for none")]
    NoCommand,
    #[error(transparent)]
    Malformed(#[from] RequestError),
    /// Why is for this host's log.
    #[error("{}", Denied::TOLD)]
    Denied,
    #[error("{message}")]
    NotRun { status: u8, message: String },
    #[error("cannot open pipes or a terminal for the command: {0}")]
    Ends(#[source] io::Error),
    #[error("no room for another stream in this session")]
    NoStream,
    #[error("{0}")]
    Over(PipeError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("this command has no terminal; attach without -t")]
    NoTerminal,
    #[error("signal {0} is none of this system's")]
    NoSignal(u32),
    #[error("the command '{0}' has ended already")]
    HasEnded(String),
}

impl Refusal {
    fn status(&self) -> u8 {
        match self {
            Self::NotRun { status, .. } => *status,
            Self::NoCommand
            | Self::Malformed(_)
            | Self::Denied
            | Self::Ends(_)
            | Self::NoStream
            | Self::Over(_)
            | Self::Table(_)
            | Self::NoTerminal
            | Self::NoSignal(_)
            | Self::HasEnded(_) => STATUS_FAILURE,
        }
    }

    /// What may be told of an objection.
    fn told(why: Objection, request: &Request) -> Self {
        let error = match why {
            Objection::Denied(_) | Objection::Nobody => return Self::Denied,
            Objection::Program(ProgramError::NotFound) => {
                LaunchError::Program(io::ErrorKind::NotFound.into())
            }
            Objection::Program(ProgramError::NotExecutable(error)) => LaunchError::Program(error),
            Objection::Directory { dir, error } => LaunchError::Cwd { cwd: dir, error },
        };
        Self::of(error, request)
    }

    fn of(error: LaunchError, request: &Request) -> Self {
        let (status, message) = match error {
            LaunchError::Program(error) => {
                let error = explain(request.name(), error);
                (status_of(&error), describe_open(&error))
            }
            LaunchError::Launcher(_) | LaunchError::Cwd { .. } => {
                (STATUS_FAILURE, error.to_string())
            }
        };
        Self::NotRun { status, message }
    }
}

/// A command that runs, and this side's ends of it.
pub(super) struct Running {
    pub(super) process: Process,
    pub(super) pty: Option<Pty>,
    pub(super) main: Endpoint,
    /// What carries stderr, unless a terminal does.
    pub(super) stderr: Option<Endpoint>,
}

pub(super) struct Serving {
    handle: SessionHandle,
    pub(super) caller: Option<Caller>,
    peer: Arc<str>,
    pub(super) agent: Agent,
    /// Counts the commands of the session that have not ended.
    pub(super) running: watch::Sender<usize>,
    pub(super) name: String,
}

impl Serving {
    async fn run(self, stream: Stream, open: Open) {
        if ping::is_asked(&open) {
            // Whoever was let in may know that this agent is here: the relay says so as well.
            ping::answer(stream).await;
            return;
        }
        let (mut stream, open) = match self.detached(stream, open).await {
            Ok(()) => return,
            Err(other) => other,
        };
        let started = match self.start(&mut stream, open).await {
            Ok(started) => started,
            Err(refusal) => {
                refuse(stream, &self.name, &refusal);
                return;
            }
        };
        let pid = started.process.group().as_raw_nonzero();
        tracing::info!("{}: runs as process {pid}", self.name);
        let outcome = self.join(stream, started).await;
        match outcome.error {
            None => tracing::info!("{}: {}", self.name, ending(outcome.local_exit)),
            Some(error) => {
                let ending = ending(outcome.local_exit);
                tracing::info!("{}: {error}; {ending}", self.name);
            }
        }
    }

    pub(super) async fn start(&self, stream: &mut Stream, open: Open) -> Result<Running, Refusal> {
        let request = Request::parse(*open.command.ok_or(Refusal::NoCommand)?)?;
        let (request, resolved) = self.permitted(request).await?;
        let size = request.terminal.as_ref().map(|terminal| terminal.size);
        let (ends, ours) = Ours::open(size).map_err(Refusal::Ends)?;
        let starting = self.agent.launcher.start(&resolved, ends);
        let starting = pipe::unless_over(&mut stream.watch, self.agent.cancel.clone(), starting);
        let process = starting.await.map_err(Refusal::Over)?;
        let process = process.map_err(|error| Refusal::of(error, &request))?;
        let name = request.name().display().to_string();
        ours.running(process, &name).map_err(Refusal::Ends)
    }

    /// Asks the policy; what it says in full is for this host's log.
    pub(super) async fn permitted(&self, request: Request) -> Result<(Request, Resolved), Refusal> {
        let (live, caller) = (Arc::clone(&self.agent.policy), self.caller.clone());
        // Dropped, it only looks at the disk for nothing.
        let asked = tokio::task::spawn_blocking(move || {
            let policy = live.current();
            let permit = may(&policy, caller.as_ref(), &request);
            (permit, request, policy.is_empty())
        });
        let (permit, request, is_empty) = asked.await.map_err(|error| {
            tracing::error!("{}: the policy could not be asked: {error}", self.name);
            Refusal::Denied
        })?;
        let who = || match &self.caller {
            Some(caller) => caller.to_string(),
            None => "nobody".to_owned(),
        };
        match permit {
            Ok(Permit { resolved, rule }) => {
                tracing::info!("{}: {}: allowed by {rule}", self.name, who());
                Ok((request, resolved))
            }
            Err(Refused { why, is_told: true }) => Err(Refusal::told(why, &request)),
            Err(Refused { why, .. }) => {
                let hint = match is_empty {
                    true => "; nothing is allowed here: start the agent with --policy or --allow",
                    false => "",
                };
                let (peer, name) = (&self.peer, &self.name);
                let told = format!("{peer}: {name}: denied to {}: {why}{hint}", who());
                self.agent.refusals.tell(told);
                Err(Refusal::Denied)
            }
        }
    }

    /// The stream for stderr; announced before ACCEPT, so that the opener knows of it before anything
    /// comes.
    pub(super) fn aside(
        &self,
        of: &Stream,
        stderr: Option<Endpoint>,
    ) -> Result<Option<(Endpoint, Stream)>, Refusal> {
        let Some(endpoint) = stderr else {
            return Ok(None);
        };
        let open = Open {
            stderr_of: of.id().0,
            ..Open::default()
        };
        let stream = self.handle.open_with(open).ok_or(Refusal::NoStream)?;
        Ok(Some((endpoint, stream)))
    }

    /// Joins a command to its streams, until both know how it ended.
    async fn join(&self, stream: Stream, running: Running) -> Outcome {
        let Running {
            process,
            pty,
            main,
            stderr,
        } = running;
        let aside = match self.aside(&stream, stderr) {
            Ok(aside) => aside,
            Err(refusal) => {
                process.kill().await;
                refuse(stream, &self.name, &refusal);
                return PipeError::Local(refusal.to_string()).into();
            }
        };
        stream.accept(Accept { has_command: true });
        let counted = Counted::new(&self.running);
        let control = stream.control();
        let (mut main, mut aside) = match pipes(main, stream, aside) {
            Ok(pipes) => pipes,
            // Only pipes with blocks can fail to begin, and these have none.
            Err(outcome) => return outcome,
        };
        let (fail, failed) = watch::channel(false);
        let (done, is_done) = watch::channel(false);
        // Told to end, the command is hung up, and its pipes end as it ends.
        let (_never, uncancelled) = watch::channel(false);
        let moving = async {
            main.drive(uncancelled.clone()).await;
            fail.send_if_modified(|failed| note(failed, main.has_failed()));
            main.drain().await;
        };
        let moving_aside = async {
            if let Some(aside) = &mut aside {
                aside.drive(uncancelled.clone()).await;
                fail.send_if_modified(|failed| note(failed, aside.has_failed()));
                aside.drain().await;
            }
        };
        let ending = async {
            process.ended().await;
            drop(counted);
        };
        let by_itself = async {
            tokio::join!(moving, moving_aside, ending);
            done.send_replace(true);
            if *failed.borrow() || *self.agent.cancel.borrow() {
                // What else there is of its session has the grace that it was given.
                std::future::pending::<()>().await;
            }
        };
        let hung_up = async {
            tokio::select! {
                () = cancelled(failed.clone()) => {}
                () = cancelled(self.agent.cancel.clone()) => {}
            }
            process.hang_up().await;
            // Its last words are still on their way, unless there is nobody to hear them.
            tokio::select! {
                () = cancelled(failed.clone()) => {}
                () = cancelled(is_done) => {}
            }
        };
        tokio::select! {
            () = by_itself => {}
            () = hung_up => {}
            () = obey(control, &process, pty.as_ref()) => {}
        }
        let exit = match process.reap().await {
            Ok(exit) => Some(exit),
            Err(error) => {
                tracing::error!("{}: its status is lost: {error}", self.name);
                None
            }
        };
        main.exit(exit);
        main.finish().0
    }
}

/// Says why a stream is joined to nothing.
pub(super) fn refuse(stream: Stream, name: &str, refusal: &Refusal) {
    tracing::info!("{name}: refused: {refusal}");
    stream.refuse(Refuse {
        status: u32::from(refusal.status()),
        message: refusal.to_string(),
    });
}

/// Whether `is_so` is news to `noted`, which it is from now on.
fn note(noted: &mut bool, is_so: bool) -> bool {
    let is_news = is_so && !*noted;
    *noted |= is_so;
    is_news
}

/// One command more, until dropped.
pub(super) struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    pub(super) fn new(running: &'a watch::Sender<usize>) -> Self {
        running.send_modify(|running| *running += 1);
        Self(running)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

/// The pipe of stdin and stdout, and the one of stderr.
pub(super) fn pipes(
    main: Endpoint,
    stream: Stream,
    aside: Option<(Endpoint, Stream)>,
) -> Result<(Pipe, Option<Pipe>), Outcome> {
    let pipe = |endpoint, stream| {
        let pipe = Pipe::new(endpoint, stream, None, Arc::<Meter>::default());
        pipe.map_err(|failed| failed.0)
    };
    let main = pipe(main, stream)?;
    let aside = aside.map(|(endpoint, stream)| pipe(endpoint, stream));
    Ok((main, aside.transpose()?))
}

/// Does what the caller asks of its command; never ready.
async fn obey(mut control: CommandControl, process: &Process, pty: Option<&Pty>) {
    loop {
        match poll_fn(|cx| control.poll_asked(cx)).await {
            Asked::Resize(size) => {
                let size = Size::new(size.rows, size.cols);
                if let Some(Err(error)) = pty.map(|pty| pty.resize(size)) {
                    tracing::debug!("cannot resize a terminal: {error}");
                }
            }
            Asked::Signal(number) => {
                let Some(signal) = i32::try_from(number).ok().and_then(Signal::from_named_raw)
                else {
                    continue;
                };
                // As a terminal does: to who is in front of it.
                let group = pty.and_then(Pty::foreground);
                let group = group.unwrap_or_else(|| process.group());
                // Gone already, or another user's by now.
                if let Err(error) = rustix::process::kill_process_group(group, signal) {
                    tracing::debug!("cannot send a command signal {number}: {error}");
                }
            }
        }
    }
}

/// This side's ends of a command that does not run yet.
enum Ours {
    Pipes([OwnedFd; 3]),
    Terminal(Pty),
}

impl Ours {
    fn open(terminal: Option<Size>) -> io::Result<(Ends, Self)> {
        if let Some(size) = terminal {
            let (pty, theirs) = Pty::open(size)?;
            return Ok((Ends::Terminal(theirs), Self::Terminal(pty)));
        }
        let (stdin, to) = io::pipe()?;
        let (from, stdout) = io::pipe()?;
        let (from_aside, stderr) = io::pipe()?;
        let theirs = [stdin.into(), stdout.into(), stderr.into()];
        let ours = [to.into(), from.into(), from_aside.into()];
        Ok((Ends::Pipes(theirs), Self::Pipes(ours)))
    }

    fn running(self, process: Process, name: &str) -> io::Result<Running> {
        let mut main = Endpoint {
            talks_on: true,
            ..Endpoint::default()
        };
        let exited = || process.exited();
        let (pty, stderr) = match self {
            Self::Terminal(pty) => {
                let source = OutputSource::new(pty.source()?, exited()?);
                let sink = InputSink::new(Box::new(pty.sink()?), exited()?);
                let name = format!("the terminal of '{name}'");
                main.source = Some(Named::source(Box::new(source), &*name));
                main.sink = Some(Named::sink(Box::new(sink), name));
                (Some(pty), None)
            }
            Self::Pipes([stdin, stdout, stderr]) => {
                let output = |fd, what| {
                    let source = OutputSource::new(PipeSource::new(fd)?, exited()?);
                    let name = format!("the {what} of '{name}'");
                    io::Result::Ok(Named::source(Box::new(source), name))
                };
                let sink = InputSink::new(Box::new(PipeSink::new(stdin)?), exited()?);
                main.source = Some(output(stdout, "stdout")?);
                main.sink = Some(Named::sink(
                    Box::new(sink),
                    format!("the stdin of '{name}'"),
                ));
                let aside = Endpoint {
                    source: Some(output(stderr, "stderr")?),
                    talks_on: true,
                    ..Endpoint::default()
                };
                (None, Some(aside))
            }
        };
        Ok(Running {
            process,
            pty,
            main,
            stderr,
        })
    }
}
