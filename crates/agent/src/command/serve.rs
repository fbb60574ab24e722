//! Runs the commands that streams ask for.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use farpipe_net::{Asked, CommandControl, Stream};
use farpipe_proto::wire::control::{Accept, Open};
use rustix::process::Signal;
use tokio::sync::watch;

use super::environment::Resolved;
use super::input::InputSink;
use super::launch::Ends;
use super::may::{Permit, Refused, denied, may};
use super::process::Process;
use super::pty::Pty;
use super::request::{Request, Size};
use crate::endpoint::exec::OutputSource;
use crate::endpoint::named::Named;
use crate::endpoint::pipe::{PipeSink, PipeSource};
use crate::endpoint::{Endpoint, Exit};
use crate::outcome::{Outcome, PipeError};
use crate::pipe::{self, Pipe, cancelled};
use crate::pump::Meter;
use crate::serve::{Counted, Refusal, Serving};

/// How a command ended, for the log.
pub(super) fn ending(exit: Option<Exit>) -> String {
    match exit {
        Some(exit) => exit.to_string(),
        None => "its end is not known".to_owned(),
    }
}

/// A command that runs, and this side's ends of it.
pub(super) struct Running {
    pub(super) process: Process,
    pub(super) pty: Option<Pty>,
    pub(super) main: Endpoint,
    pub(super) output: Output,
    /// What carries stderr, unless a terminal does.
    pub(super) stderr: Option<Endpoint>,
}

impl Serving {
    /// Runs the command that `open` asks for.
    pub(crate) async fn command(&self, mut stream: Stream, open: Open) {
        let started = match self.start(&mut stream, open).await {
            Ok(started) => started,
            Err(refusal) => {
                self.refuse(stream, &refusal).await;
                return;
            }
        };
        let pid = started.process.group().as_raw_nonzero();
        tracing::info!("{}: runs as process {pid}", self.name);
        self.record.started(pid.get()).await;
        let outcome = self.join(stream, started).await;
        let exit = outcome.local_exit;
        let how = match outcome.error {
            None => ending(exit),
            Some(error) => format!("{error}; {}", ending(exit)),
        };
        tracing::info!("{}: {how}", self.name);
        self.record.ends(&how, exit);
    }

    pub(super) async fn start(&self, stream: &mut Stream, open: Open) -> Result<Running, Refusal> {
        let output = Output::of(&open);
        let request = Request::parse(*open.command.ok_or(Refusal::NoCommand)?)?;
        let (request, resolved) = self.permitted(request).await?;
        let size = request.terminal.as_ref().map(|terminal| terminal.size);
        let (ends, ours) = Ours::open(size).map_err(Refusal::Ends)?;
        let starting = self.agent.launcher.start(&request, &resolved, ends);
        let starting = pipe::unless_over(&mut stream.watch, self.cancel.clone(), starting);
        let process = starting.await.map_err(Refusal::Over)?;
        let process = process.map_err(|error| Refusal::of(error, &request))?;
        let name = request.name().display().to_string();
        ours.running(process, &name, output).map_err(Refusal::Ends)
    }

    /// Asks the policy; what it says in full is for this host's log.
    pub(super) async fn permitted(&self, request: Request) -> Result<(Request, Resolved), Refusal> {
        let (live, caller) = (Arc::clone(&self.agent.policy), self.caller.clone());
        // Dropped, it only looks at the disk for nothing.
        let asked = tokio::task::spawn_blocking(move || {
            let policy = live.current();
            let permit = may(&policy, caller.as_ref(), &request);
            (permit, request)
        });
        let (permit, request) = asked.await.map_err(|error| {
            tracing::error!("{}: the policy could not be asked: {error}", self.name);
            Refusal::Denied
        })?;
        match permit {
            Ok(Permit { resolved, rule }) => {
                tracing::info!("{}: {}: allowed by {rule}", self.name, self.who());
                self.record.allowed(Some(rule.to_string())).await?;
                let again = request.clone();
                self.granted
                    .note(move |policy, caller| denied(policy, caller, &again));
                Ok((request, resolved))
            }
            Err(Refused { why, is_told: true }) => {
                self.record.deny(&why.to_string());
                Err(Refusal::told(why, &request))
            }
            Err(Refused { why, .. }) => {
                self.deny(&why.to_string());
                Err(Refusal::Denied)
            }
        }
    }

    /// The stream for stderr; announced before ACCEPT, so that the opener knows of it before anything
    /// comes.
    pub(super) fn aside(
        &self,
        of: &Stream,
        output: Output,
        stderr: Option<Endpoint>,
    ) -> Result<Option<(Endpoint, Stream)>, Refusal> {
        let Some(endpoint) = stderr else {
            return Ok(None);
        };
        let open = Open {
            stderr_of: of.id().0,
            interactive: output == Output::Watched,
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
            output,
            stderr,
        } = running;
        let aside = match self.aside(&stream, output, stderr) {
            Ok(aside) => aside,
            Err(refusal) => {
                process.kill().await;
                self.refuse(stream, &refusal).await;
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
            if *failed.borrow() || *self.cancel.borrow() {
                // What else there is of its session has the grace that it was given.
                std::future::pending::<()>().await;
            }
        };
        let hung_up = async {
            tokio::select! {
                () = cancelled(failed.clone()) => {}
                () = cancelled(self.cancel.clone()) => {}
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

/// Whether `is_so` is news to `noted`, which it is from now on.
fn note(noted: &mut bool, is_so: bool) -> bool {
    let is_news = is_so && !*noted;
    *noted |= is_so;
    is_news
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

/// What becomes of a command's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Bulk,
    /// A person sees it come: little of it is to be on its way.
    Watched,
}

impl Output {
    fn of(open: &Open) -> Self {
        match open.interactive {
            true => Self::Watched,
            false => Self::Bulk,
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

    fn running(self, process: Process, name: &str, how: Output) -> io::Result<Running> {
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
                    let source = match how {
                        Output::Bulk => PipeSource::new(fd)?,
                        Output::Watched => PipeSource::small(fd)?,
                    };
                    let source = OutputSource::new(source, exited()?);
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
            output: how,
            stderr,
        })
    }
}
