//! A process that starts the commands of an agent which has closed itself, for what it starts would be closed as well
//! (docs/decisions/0021-sandbox.md). It is this very binary, started under the name [`NAME`] before the agent touches the
//! network, and ends with it.
//!
//! ```text
//!   agent ── request, [leash, stdin, stdout, stderr] ──► spawner     one message each, on a socket between the two
//!         ◄─ pid, [report] ── on the leash ──            it has started the launcher, which reports as ever
//!         ◄─ how it ended ─── on the leash ──
//!         ── the leash is closed ──────────────►         it may be reaped: its number is free
//! ```
//!
//! The spawner asks the policy itself, and resolves what is asked for by itself: an agent that was taken over
//! gets from it what the policy lets anybody have, and nothing else.

mod serve;

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use farpipe_proto::limits::INNER_OPEN_MAX;
use prost::Message as _;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream as Report;

use super::launch::{LaunchError, own_binary};
use super::process::Process;
use super::request::Request;
use crate::endpoint::Exit;
use crate::endpoint::exec::Child;
use crate::endpoint::fd;

pub use self::serve::serve;

/// The name under which the binary is the spawner. Nobody starts it but the agent.
pub const NAME: &str = "farpipe-spawn";

/// A request is a part of what a peer may say in OPEN.
const REQUEST_MAX: usize = INNER_OPEN_MAX;
/// The longest answer: words of an error.
const ANSWER_MAX: usize = 1024;
/// A leash, and a command's three descriptors.
const RIGHTS_MAX: usize = 4;

/// What the spawner says on a leash, one byte each, and what follows.
mod said {
    /// The process's number, 4 bytes; with it comes the launcher's report.
    pub(super) const STARTED: u8 = b'p';
    /// Words.
    pub(super) const FAILED: u8 = b'f';
    /// A status, 4 bytes.
    pub(super) const CODE: u8 = b'c';
    /// A signal, 4 bytes; and with a core file.
    pub(super) const SIGNAL: u8 = b's';
    pub(super) const DUMPED: u8 = b'd';
}

/// The agent's end of it.
#[derive(Debug, Clone)]
pub struct Spawner(Arc<AsyncFd<OwnedFd>>);

impl Spawner {
    /// Starts the spawner: `args` are its command line, by which it finds the policy of this process.
    ///
    /// # Errors
    /// As for any process.
    pub fn begin(args: impl IntoIterator<Item = OsString>) -> io::Result<Self> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (ours, theirs) = rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)?;
        // A message has to fit as a whole; the system doubles this, for what it keeps beside.
        rustix::net::sockopt::set_socket_send_buffer_size(&ours, REQUEST_MAX)?;
        let mut command = Command::new(own_binary()?);
        command
            .arg0(NAME)
            .args(args)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // What a terminal sends to all in front of it is the agent's to deal with.
            .process_group(0);
        // It ends by itself when this end is closed; nobody waits for it.
        let _spawner = command.spawn()?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        Ok(Self(Arc::new(fd::register(ours, interest)?)))
    }

    /// Ready when it is gone, which it never should be before this process. Cancel safe.
    pub async fn gone(&self) {
        loop {
            // It says nothing here: there is an end, or an error.
            let Ok(mut ready) = self.0.readable().await else {
                return;
            };
            let mut byte = [0];
            match rustix::net::recv(&self.0, &mut byte, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN | Errno::INTR) => ready.clear_ready(),
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Has a command started, and gives what its launcher reports on.
    ///
    /// # Cancellation
    /// Dropped, it ends what was started.
    pub(super) async fn start(
        &self,
        request: &Request,
        ends: &[BorrowedFd<'_>],
    ) -> Result<(Process, Report), LaunchError> {
        let failed = LaunchError::Launcher;
        let (leash, theirs) = UnixStream::pair().map_err(failed)?;
        let mut fds = vec![theirs.as_fd()];
        fds.extend_from_slice(ends);
        self.ask(&request.to_wire().encode_to_vec(), &fds)
            .await
            .map_err(failed)?;
        drop(theirs);
        let leash = fd::register(OwnedFd::from(leash), Interest::READABLE).map_err(failed)?;
        let (answer, rights) = answer(&leash).await.map_err(failed)?;
        let (pid, report) = match (&answer[..], rights) {
            (&[said::STARTED, a, b, c, d], Some(report)) => {
                (i32::from_be_bytes([a, b, c, d]), report)
            }
            ([said::FAILED, why @ ..], _) => {
                let why = String::from_utf8_lossy(why).into_owned();
                return Err(failed(io::Error::other(why)));
            }
            _ => return Err(failed(gone())),
        };
        let pid = Pid::from_raw(pid).ok_or_else(|| failed(gone()))?;
        let child = Child::of_spawner(pid, leash.into_inner()).map_err(failed)?;
        let process = Process::new(child).map_err(failed)?;
        let report = UnixStream::from(report);
        report.set_nonblocking(true).map_err(failed)?;
        let report = Report::from_std(report).map_err(failed)?;
        Ok((process, report))
    }

    async fn ask(&self, request: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if request.len() > REQUEST_MAX {
            return Err(io::ErrorKind::ArgumentListTooLong.into());
        }
        loop {
            let mut ready = self.0.writable().await?;
            match send(self.0.get_ref().as_fd(), request, fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(gone()),
                sent => return sent,
            }
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("what starts the commands of this agent is gone")
}

/// The first answer on a leash, and a descriptor that came with it.
async fn answer(leash: &AsyncFd<OwnedFd>) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    loop {
        let mut ready = leash.readable().await?;
        match receive(leash.get_ref().as_fd(), ANSWER_MAX) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) => return Err(error),
            Ok((bytes, mut fds)) => return Ok((bytes, fds.pop())),
        }
    }
}

/// How a process ended, as the spawner says on its leash; it can be read again and again.
///
/// # Errors
/// It has not said so yet, or never will.
pub(crate) fn read_exit(leash: BorrowedFd<'_>) -> io::Result<Exit> {
    let mut bytes = [0; 5];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let (len, _) = rustix::net::recv(leash, &mut bytes, flags)?;
    let [kind, number @ ..] = bytes;
    let number = i32::from_be_bytes(number);
    match (len, kind) {
        (5, said::CODE) => Ok(Exit::Code(number)),
        (5, said::SIGNAL | said::DUMPED) => Ok(Exit::Signal {
            number,
            core_dumped: kind == said::DUMPED,
        }),
        _ => Err(gone()),
    }
}

/// The other side of [`read_exit`].
fn exit_bytes(exit: Exit) -> [u8; 5] {
    let (kind, number) = match exit {
        Exit::Code(code) => (said::CODE, code),
        Exit::Signal {
            number,
            core_dumped: false,
        } => (said::SIGNAL, number),
        Exit::Signal { number, .. } => (said::DUMPED, number),
    };
    let [a, b, c, d] = number.to_be_bytes();
    [kind, a, b, c, d]
}

/// A message with descriptors; waits for nothing.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RIGHTS_MAX))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !rights.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut rights, flags)?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// A message with the descriptors that came with it; waits for nothing. No byte: the other end is closed.
fn receive(socket: BorrowedFd<'_>, max: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RIGHTS_MAX))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; max];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let into = &mut [IoSliceMut::new(&mut bytes)];
    let received = rustix::net::recvmsg(socket, into, &mut rights, flags)?;
    bytes.truncate(received.bytes);
    let fds = rights.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok((bytes, fds.flatten().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_process_ended_can_be_read_until_its_leash_is_closed() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        assert!(read_exit(ours.as_fd()).is_err(), "it has not ended");
        let exit = Exit::Signal {
            number: 9,
            core_dumped: true,
        };
        send(theirs.as_fd(), &exit_bytes(exit), &[]).expect("it is said");
        drop(theirs);
        for _ in 0..3 {
            assert_eq!(read_exit(ours.as_fd()).expect("it is there"), exit);
        }
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        drop(theirs);
        let error = read_exit(ours.as_fd()).expect_err("nobody says it");
        assert!(error.to_string().contains("is gone"), "{error}");
    }

    #[test]
    fn descriptors_come_with_their_message() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (near, far) = UnixStream::pair().expect("a pair");
        send(ours.as_fd(), b"a", &[near.as_fd(), far.as_fd()]).expect("it is sent");
        let (bytes, fds) = receive(theirs.as_fd(), 10).expect("it has come");
        assert_eq!((&bytes[..], fds.len()), (&b"a"[..], 2));
        drop(ours);
        let (bytes, fds) = receive(theirs.as_fd(), 10).expect("the end");
        assert_eq!((bytes.len(), fds.len()), (0, 0));
    }
}
