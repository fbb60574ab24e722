//! `exec:CMD` and `sh:CMD`: a child process between two pipes.
//!
//! The child's stdin is our sink, its stdout our source; stderr is always inherited, and so is
//! whichever of the two was not asked for. Children start with SIGPIPE at its default and no
//! signal blocked: the standard library sees to that.
//!
//! Process group: without a controlling terminal (an agent, a service) each child leads a group of
//! its own, so that a signal reaches everything it started. On a terminal it stays in ours: ^C
//! then reaches it as it reaches us, and it may read the terminal. Only the child itself is
//! signalled there.
//!
//! Output ends at the end of the child's stdout. A grandchild may hold that open for ever, so once
//! the child is dead, [`SILENCE_MAX`] without a byte is the end as well.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::pin::Pin;
use std::process::{Command, ExitStatus, Stdio};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use farpipe_proto::limits::{COMMAND_GRACE, COMMAND_SILENCE};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Sleep, sleep};

use super::fd;
use super::named::Named;
use super::pipe::{PipeSink, PipeSource};
use super::{Endpoint, OpenError, Source, Use};
use crate::command::spawner;

pub(super) fn open_words(words: &[OsString], wanted: Use) -> Result<Endpoint, OpenError> {
    // The parser lets no empty command through; a spec made by hand might be one.
    let empty = OsString::new();
    let (program, arguments) = words.split_first().unwrap_or((&empty, &[]));
    let mut command = Command::new(program);
    command.args(arguments);
    open(command, program, wanted)
}

pub(super) fn open_shell(line: &OsStr, wanted: Use) -> Result<Endpoint, OpenError> {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(line);
    open(command, "/bin/sh".as_ref(), wanted)
}

fn open(mut command: Command, program: &OsStr, wanted: Use) -> Result<Endpoint, OpenError> {
    let failed = |error| explain(program, error);
    // What let this process in is not the command's.
    command
        .env_remove("FARPIPE_TICKET")
        .env_remove("FARPIPE_TOKEN");
    let mut endpoint = Endpoint::default();
    let mut stdout = None;
    if wanted.wants_sink() {
        let (theirs, ours) = io::pipe().map_err(failed)?;
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let sink = PipeSink::new(ours.into()).map_err(failed)?;
        let name = format!("the stdin of '{}'", program.display());
        endpoint.sink = Some(Named::sink(Box::new(sink), name));
    }
    if wanted.wants_source() {
        let (ours, theirs) = io::pipe().map_err(failed)?;
        command.stdout(Stdio::from(OwnedFd::from(theirs)));
        stdout = Some(PipeSource::new(ours.into()).map_err(failed)?);
    }
    let leads_group = !has_terminal();
    if leads_group {
        command.process_group(0);
    }
    let process = command.spawn().map_err(failed)?;
    // The child's ends must not stay open here: nobody would ever see an end.
    drop(command);
    let child = Child::new(process, leads_group).map_err(failed)?;
    if let Some(stdout) = stdout {
        let exited = child.exited.try_clone().map_err(failed)?;
        let source = OutputSource::new(stdout, exited);
        let name = format!("the stdout of '{}'", program.display());
        endpoint.source = Some(Named::source(Box::new(source), name));
    }
    endpoint.talks_on = true;
    endpoint.child = Some(child);
    Ok(endpoint)
}

pub(crate) fn explain(program: &OsStr, error: io::Error) -> OpenError {
    let command = program.display().to_string();
    match error.kind() {
        io::ErrorKind::NotFound => OpenError::CommandNotFound { command },
        io::ErrorKind::PermissionDenied => OpenError::CommandNotExecutable {
            command,
            source: error,
        },
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            OpenError::CommandNotExecutable {
                command,
                source: error,
            }
        }
        _ => OpenError::Spawn {
            command,
            source: error,
        },
    }
}

fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        number: i32,
        /// Whether a core file was written.
        core_dumped: bool,
    },
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with {code}"),
            Self::Signal {
                number,
                core_dumped: false,
            } => write!(f, "ended by signal {number}"),
            Self::Signal { number, .. } => write!(f, "ended by signal {number}, core dumped"),
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(number)) => Self::Signal {
                number,
                core_dumped: status.core_dumped(),
            },
            (None, None) => Self::Code(status.into_raw()),
        }
    }
}

/// A running command.
///
/// It is never left a zombie. Dropped before its end, it is hung up: SIGHUP and SIGCONT to it (to
/// its group, if it leads one), as a terminal does to its commands, and a thread waits for its
/// end. A command that ignores SIGHUP (nohup) goes on; [`Child::terminate`] is for certainty.
#[derive(Debug)]
pub struct Child {
    /// `None` once reaped, or handed to the reaping thread.
    process: Option<Parent>,
    pid: Pid,
    leads_group: bool,
    exited: Exited,
    exit: Option<Exit>,
}

/// Who gets the status of a process from the system.
#[derive(Debug)]
enum Parent {
    /// This process.
    Own(std::process::Child),
    /// A spawner, which says it at the other end of this socket, and does not reap the process before this end is closed.
    Spawner(OwnedFd),
}

impl Child {
    /// A process of a spawner's, which says on `leash` how it ended and nothing else.
    pub(crate) fn of_spawner(pid: Pid, leash: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            exited: Exited::of(fd::dup(leash.as_fd())?)?,
            process: Some(Parent::Spawner(leash)),
            pid,
            leads_group: true,
            exit: None,
        })
    }

    pub(crate) fn new(mut process: std::process::Child, leads_group: bool) -> io::Result<Self> {
        let pid = Pid::from_child(&process);
        match Exited::watch(pid) {
            Ok(exited) => Ok(Self {
                process: Some(Parent::Own(process)),
                pid,
                leads_group,
                exited,
                exit: None,
            }),
            Err(error) => {
                // Out of descriptors or threads: a child nobody could wait for must not run.
                let _ = process.kill();
                let _ = process.wait();
                Err(error)
            }
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// What becomes ready when the process has ended.
    pub(crate) fn exited(&self) -> io::Result<Exited> {
        self.exited.try_clone()
    }

    /// The process's number.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits for the end of the process, and reaps it. Cancel safe; says the same again if asked
    /// again. Output may still be on its way: read the source to its end first.
    ///
    /// # Errors
    /// Only if the system has lost the child, which an ignored SIGCHLD can do.
    pub async fn wait(&mut self) -> io::Result<Exit> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        poll_fn(|cx| self.exited.poll(cx)).await?;
        self.reap()
    }

    /// Sends a signal to the child, or to its group if it leads one. Nothing happens after its
    /// end.
    ///
    /// # Errors
    /// If the child runs as another user by now.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.process.is_none() {
            // The number may belong to another process by now.
            return Ok(());
        }
        let sent = if self.leads_group {
            rustix::process::kill_process_group(self.pid, signal)
        } else {
            rustix::process::kill_process(self.pid, signal)
        };
        match sent {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the child: SIGTERM, and SIGKILL once `grace` (usually [`TERMINATE_GRACE`]) is over or
    /// the child is dead, so that nothing else of its group survives. If dropped, the child
    /// keeps its SIGTERM.
    ///
    /// # Errors
    /// As for [`Child::signal`] and [`Child::wait`].
    pub async fn terminate(&mut self, grace: Duration) -> io::Result<Exit> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        self.signal(Signal::TERM)?;
        // A stopped process takes no signal but these two.
        self.signal(Signal::CONT)?;
        let ended = tokio::time::timeout(grace, poll_fn(|cx| self.exited.poll(cx))).await;
        if ended.is_err() || self.leads_group {
            // Before the child is reaped, while its number is still its own.
            self.signal(Signal::KILL)?;
        }
        poll_fn(|cx| self.exited.poll(cx)).await?;
        self.reap()
    }

    /// How the process ended, once it has; it is not reaped.
    pub(crate) fn status(&self) -> io::Result<Exit> {
        if let Some(Parent::Spawner(leash)) = &self.process {
            return spawner::read_exit(leash.as_fd());
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let lost = || io::Error::other("the child has no status yet");
        let status = rustix::process::waitid(WaitId::Pid(self.pid), options)?.ok_or_else(lost)?;
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ok(Exit::Code(code)),
            (None, Some(number)) => Ok(Exit::Signal {
                number,
                core_dumped: status.dumped(),
            }),
            (None, None) => Err(lost()),
        }
    }

    /// Takes the status of a process that has ended.
    fn reap(&mut self) -> io::Result<Exit> {
        let lost = || io::Error::other("the child's status was taken by someone else");
        let exit = match self.process.as_mut().ok_or_else(lost)? {
            Parent::Own(process) => Exit::from(process.wait()?),
            Parent::Spawner(leash) => spawner::read_exit(leash.as_fd())?,
        };
        self.process = None;
        self.exit = Some(exit);
        Ok(exit)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Whatever fails here, nobody is left to be told.
        let _ = self.signal(Signal::HUP);
        let _ = self.signal(Signal::CONT);
        // A spawner reaps what is its own.
        let Some(Parent::Own(mut process)) = self.process.take() else {
            return;
        };
        if let Ok(Some(_)) = process.try_wait() {
            return;
        }
        // Ends with the child; if this process ends first, init reaps.
        let reaper = thread::Builder::new().name("farpipe-reap".to_owned());
        let _ = reaper.spawn(move || process.wait());
    }
}

/// A descriptor that becomes readable when a process has ended, reaped or not: a pidfd, or where
/// there is none the end of a pipe whose other end a waiting thread holds.
#[derive(Debug)]
pub(crate) struct Exited(AsyncFd<OwnedFd>);

impl Exited {
    pub(crate) fn watch(pid: Pid) -> io::Result<Self> {
        let fd = match pidfd(pid) {
            Ok(fd) => fd,
            Err(_) => waiting_thread(pid)?,
        };
        Self::of(fd)
    }

    /// Of a descriptor that becomes readable then.
    pub(crate) fn of(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(fd::register(fd, Interest::READABLE)?))
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        let fd = fd::dup(self.0.as_fd())?;
        Ok(Self(fd::register(fd, Interest::READABLE)?))
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_read_ready(cx))?.retain_ready();
        Poll::Ready(Ok(()))
    }
}

#[cfg(target_os = "linux")]
fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    use rustix::process::{PidfdFlags, pidfd_open};
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

#[cfg(not(target_os = "linux"))]
fn pidfd(_pid: Pid) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

fn waiting_thread(pid: Pid) -> io::Result<OwnedFd> {
    let (ended, running) = io::pipe()?;
    thread::Builder::new()
        .name("farpipe-wait".to_owned())
        .spawn(move || {
            // Leaves the zombie to whoever reaps it.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while let Err(rustix::io::Errno::INTR) =
                rustix::process::waitid(WaitId::Pid(pid), options)
            {}
            drop(running);
        })?;
    Ok(ended.into())
}

/// A child's stdout or stderr, which ends at the latest [`SILENCE_MAX`] after the child if nothing comes.
#[derive(Debug)]
pub(crate) struct OutputSource<S> {
    /// `None` after the end: the reading end is closed at once.
    inner: Option<S>,
    exited: Exited,
    silence: Option<Pin<Box<Sleep>>>,
}

impl<S: Source> OutputSource<S> {
    pub(crate) fn new(inner: S, exited: Exited) -> Self {
        Self {
            inner: Some(inner),
            exited,
            silence: None,
        }
    }

    /// Ready when the silence after the child's end has lasted long enough.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.silence.is_none() {
            if ready!(self.exited.poll(cx)).is_err() {
                // The runtime is shutting down.
                return Poll::Pending;
            }
            self.silence = Some(Box::pin(sleep(SILENCE_MAX)));
        }
        match &mut self.silence {
            Some(silence) => silence.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<S: Source> Source for OutputSource<S> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(Ok(()));
        };
        if let Poll::Ready(result) = inner.poll_ready(cx) {
            return Poll::Ready(result);
        }
        ready!(self.poll_silence(cx));
        tracing::debug!("a command's output stayed open and silent after its end");
        self.inner = None;
        Poll::Ready(Ok(()))
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_ready(cx))?;
            let Some(inner) = &mut self.inner else {
                return Poll::Ready(Ok(0));
            };
            match inner.poll_read(cx, buf, max) {
                Poll::Ready(Ok(0)) => {
                    self.inner = None;
                    return Poll::Ready(Ok(0));
                }
                Poll::Ready(result) => {
                    self.silence = None;
                    return Poll::Ready(result);
                }
                // Ready a moment ago: look again, which also looks at the clock.
                Poll::Pending => ready!(self.poll_silence(cx)),
            }
        }
    }
}

/// How long [`Child::terminate`] usually waits between SIGTERM and SIGKILL.
pub const TERMINATE_GRACE: Duration = COMMAND_GRACE;
/// How long a dead child's output may be open and silent before it counts as ended.
const SILENCE_MAX: Duration = COMMAND_SILENCE;

#[cfg(all(test, target_os = "linux"))]
mod tests;
