//! How a command becomes a process.
//!
//! Between its fork and the program, a child has to leave the agent's session, take a terminal,
//! change its directory and shed what it inherited. To run code there is unsafe in Rust, so a small
//! process does it: this very binary, started under the name [`NAME`], which does those things and
//! then becomes the program. It gets its order, and the descriptors that become 0, 1 and 2, over a
//! socket that is its stdin, and says on it how far it came: the socket closes by itself when the
//! program has taken over.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream as Report;
use tokio::signal::unix::{SignalKind, signal};

use super::environment::Resolved;
use super::process::Process;
use super::request::Request;
use super::spawner::Spawner;
use crate::endpoint::exec::Child;

/// The name under which the binary is the launcher. Nobody starts it but the agent.
pub const NAME: &str = "farpipe-launch";

/// What makes processes.
#[derive(Debug, Clone)]
pub enum Launcher {
    /// The binary whose `main` calls [`main`] when its name is [`NAME`].
    Binary(PathBuf),
    /// Another process, which starts that one.
    Spawner(Spawner),
}

impl Launcher {
    /// This process itself.
    ///
    /// # Errors
    /// If the system does not tell where it is.
    pub fn own() -> io::Result<Self> {
        Ok(Self::Binary(own_binary()?))
    }
}

/// This process's own binary, even when its file has been replaced meanwhile.
pub(super) fn own_binary() -> io::Result<PathBuf> {
    #[cfg(target_os = "linux")]
    let path = PathBuf::from("/proc/self/exe");
    #[cfg(not(target_os = "linux"))]
    let path = std::env::current_exe()?;
    Ok(path)
}

/// Why a command does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// This host has no room, or the launcher is broken.
    #[error("cannot start a process: {0}")]
    Launcher(#[source] io::Error),
    /// The directory.
    #[error("cannot change to the directory '{}': {error}", cwd.display())]
    Cwd { cwd: PathBuf, error: io::Error },
    /// The program.
    #[error("{0}")]
    Program(io::Error),
}

/// What the launcher says, one byte each; a failure is followed by the error's number.
mod said {
    /// All is done but the last step.
    pub(super) const READY: u8 = b'r';
    pub(super) const SETUP: u8 = b's';
    pub(super) const CWD: u8 = b'c';
    pub(super) const PROGRAM: u8 = b'p';
}

/// The descriptors of a command.
#[derive(Debug)]
pub(crate) enum Ends {
    /// Its stdin, stdout and stderr.
    Pipes([OwnedFd; 3]),
    /// All three, and its controlling terminal.
    Terminal(OwnedFd),
}

impl Ends {
    fn all(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Pipes(pipes) => pipes.iter().map(OwnedFd::as_fd).collect(),
            Self::Terminal(terminal) => vec![terminal.as_fd()],
        }
    }
}

impl Launcher {
    /// Starts a command in a session of its own: as it is resolved, or as the spawner resolves what is asked for. When this
    /// returns, the program runs.
    ///
    /// To be called on a thread that lives as long as the process: its end would hang the command
    /// up. Dropping the future ends what was started.
    pub(crate) async fn start(
        &self,
        request: &Request,
        resolved: &Resolved,
        ends: Ends,
    ) -> Result<Process, LaunchError> {
        let (process, report) = match self {
            Self::Binary(binary) => {
                let (child, report) = begin(binary, resolved, &ends.all()).await?;
                (Process::new(child).map_err(LaunchError::Launcher)?, report)
            }
            Self::Spawner(spawner) => spawner.start(request, &ends.all()).await?,
        };
        // Nobody would see that they are closed at the other end.
        drop(ends);
        heard(report, resolved).await?;
        Ok(process)
    }
}

/// Starts the launcher, and tells it everything. What it says comes on the socket. Dropping the future ends it.
pub(super) async fn begin(
    binary: &Path,
    resolved: &Resolved,
    ends: &[BorrowedFd<'_>],
) -> Result<(Child, Report), LaunchError> {
    let failed = LaunchError::Launcher;
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let mut command = Command::new(binary);
    command
        .arg0(NAME)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let spawned = command.spawn().map_err(failed)?;
    // The child's end must not stay open here: nobody would see that it has become the program.
    drop(command);
    let child = Child::new(spawned, true).map_err(failed)?;
    send_rights(&ours, ends).map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    let mut report = Report::from_std(ours).map_err(failed)?;
    let talk = async {
        report.write_all(&encode(resolved)).await?;
        report.shutdown().await
    };
    talk.await.map_err(failed)?;
    Ok((child, report))
}

/// Hears whether the launcher has become the program.
async fn heard(mut report: Report, resolved: &Resolved) -> Result<(), LaunchError> {
    let failed = LaunchError::Launcher;
    let mut said = Vec::new();
    report.read_to_end(&mut said).await.map_err(failed)?;
    match said[..] {
        [said::READY] => Ok(()),
        [said::READY, said::PROGRAM, a, b, c, d] => {
            Err(LaunchError::Program(os_error([a, b, c, d])))
        }
        [said::CWD, a, b, c, d] => Err(LaunchError::Cwd {
            cwd: resolved.cwd.clone(),
            error: os_error([a, b, c, d]),
        }),
        [said::SETUP, a, b, c, d] => Err(failed(os_error([a, b, c, d]))),
        _ => Err(failed(io::Error::other("the launcher ended early"))),
    }
}

fn os_error(number: [u8; 4]) -> io::Error {
    io::Error::from_raw_os_error(i32::from_be_bytes(number))
}

fn send_rights(socket: &UnixStream, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(&[0])], &mut rights, flags)?;
    Ok(())
}

/// The order: strings, each with a zero byte behind it, which none of them can have in it.
fn encode(resolved: &Resolved) -> Vec<u8> {
    let Resolved {
        program,
        argv0,
        args,
        cwd,
        env,
    } = resolved;
    let parent = std::process::id().to_string();
    let count = args.len().to_string();
    let head = [OsStr::new(&parent), cwd.as_os_str(), program, argv0];
    let mut order = Vec::new();
    let words = head.into_iter().chain([OsStr::new(&count)]);
    let words = words.chain(args.iter().map(OsString::as_os_str));
    let pairs = env.iter().flat_map(|(name, value)| [name, value]);
    for word in words.chain(pairs.map(OsString::as_os_str)) {
        order.extend_from_slice(word.as_bytes());
        order.push(0);
    }
    order
}

/// An order as the launcher reads it.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    parent: u32,
    resolved: Resolved,
}

fn decode(order: &[u8]) -> Option<Order> {
    let mut words = order
        .strip_suffix(&[0])?
        .split(|byte| *byte == 0)
        .map(|word| OsString::from_vec(word.to_vec()));
    let number = |word: Option<OsString>| word?.to_str()?.parse::<u32>().ok();
    let parent = number(words.next())?;
    let (cwd, program, argv0) = (words.next()?, words.next()?, words.next()?);
    let count = number(words.next())? as usize;
    let args: Vec<OsString> = words.by_ref().take(count).collect();
    let mut env = Vec::new();
    while let Some(name) = words.next() {
        env.push((name, words.next()?));
    }
    Some(Order {
        parent,
        resolved: Resolved {
            program,
            argv0,
            args,
            cwd: cwd.into(),
            env,
        },
    })
}

/// The launcher. Does not return if the program could be started.
#[must_use]
pub fn main() -> ExitCode {
    // What an agent inherited and never knew of is no command's either. First of all, so that none
    // of these are ours yet.
    close_inherited();
    let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) else {
        return ExitCode::FAILURE;
    };
    let mut socket = UnixStream::from(socket);
    let Err((stage, error)) = launch(&mut socket) else {
        // Nobody to tell.
        return ExitCode::FAILURE;
    };
    let number = error.raw_os_error().unwrap_or_default().to_be_bytes();
    let mut report = vec![stage];
    report.extend_from_slice(&number);
    let _ = socket.write_all(&report);
    ExitCode::FAILURE
}

/// `Ok`: the agent is gone.
fn launch(socket: &mut UnixStream) -> Result<(), (u8, io::Error)> {
    let setup = |error: io::Error| (said::SETUP, error);
    let fds = receive_rights(socket).map_err(setup)?;
    let mut order = Vec::new();
    socket.read_to_end(&mut order).map_err(setup)?;
    let Some(Order { parent, resolved }) = decode(&order) else {
        return Ok(());
    };
    // Nobody would hang a command up whose agent was killed.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::HUP))
        .map_err(|error| setup(error.into()))?;
    let is_ours = |pid: rustix::process::Pid| pid.as_raw_nonzero().get().cast_unsigned() == parent;
    if !rustix::process::getppid().is_some_and(is_ours) {
        return Ok(());
    }
    rustix::process::setsid().map_err(|error| setup(error.into()))?;
    take(&fds).map_err(setup)?;
    drop(fds);
    unignore().map_err(setup)?;
    let Resolved {
        program,
        argv0,
        args,
        cwd,
        env,
    } = resolved;
    enter(&cwd).map_err(|error| (said::CWD, error))?;
    socket.write_all(&[said::READY]).map_err(setup)?;
    let mut command = Command::new(program);
    command.arg0(argv0).args(args).env_clear().envs(env);
    Err((said::PROGRAM, command.exec()))
}

/// A link that took a directory's place since the policy allowed that leads somewhere else.
fn enter(cwd: &Path) -> io::Result<()> {
    std::env::set_current_dir(cwd)?;
    if std::env::current_dir()? != cwd {
        return Err(rustix::io::Errno::NOENT.into());
    }
    Ok(())
}

fn receive_rights(socket: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut rights,
        flags,
    )?;
    Ok(rights
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect())
}

/// Puts the descriptors in their places; a single one is a terminal.
fn take(fds: &[OwnedFd]) -> io::Result<()> {
    let [stdin, stdout, stderr] = match fds {
        [stdin, stdout, stderr] => [stdin, stdout, stderr],
        [terminal] => {
            rustix::process::ioctl_tiocsctty(terminal)?;
            [terminal; 3]
        }
        _ => return Err(rustix::io::Errno::INVAL.into()),
    };
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)?;
    Ok(())
}

/// What an agent that was started with `nohup` or `&` ignores, its commands would ignore as well. A
/// signal that is caught gets its default action back with the next program.
fn unignore() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let _entered = runtime.enter();
    for kind in [
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
        SignalKind::terminate(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
        SignalKind::child(),
    ] {
        let _caught = signal(kind)?;
    }
    Ok(())
}

/// Closes everything but the three standard descriptors.
fn close_inherited() {
    let Ok(listed) = std::fs::read_dir("/dev/fd") else {
        return;
    };
    let number = |entry: io::Result<std::fs::DirEntry>| -> Option<i32> {
        entry.ok()?.file_name().to_str()?.parse().ok()
    };
    let open: Vec<i32> = listed.filter_map(number).filter(|fd| *fd > 2).collect();
    for fd in open {
        // The directory's own is closed already.
        let _ = nix::unistd::close(fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_arrives_as_it_was_given() {
        let os = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let resolved = Resolved {
            program: os(b"a b"),
            argv0: os(b""),
            args: vec![os(b""), os(b"\xff\n"), os(b"")],
            cwd: "/x".into(),
            env: vec![(os(b"A"), os(b"")), (os(b"B"), os(b"c=d"))],
        };
        let order = decode(&encode(&resolved)).expect("an order");
        assert_eq!(order.resolved, resolved);
        assert_eq!(order.parent, std::process::id());
        let bare = Resolved {
            args: Vec::new(),
            env: Vec::new(),
            ..resolved
        };
        let order = decode(&encode(&bare)).expect("an order");
        assert_eq!(order.resolved, bare);
    }
}
