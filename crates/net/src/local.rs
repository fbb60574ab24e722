//! The Unix socket by which the commands of one user find that user's local agent
//! (docs/protocol.md section 8.5).
//!
//! It is `agent.sock` beside the loopback secret, in a directory of mode 0700. What a command asks for
//! is done in the user's name, so each side looks whether the other is the same user's; no secret is
//! proven. Who holds the lock of `agent.lock` owns the name of the socket: one that its owner left
//! behind is replaced, one that lives never is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use farpipe_proto::limits::{HANDSHAKE_STEP, REUSE_ANSWER, REUSE_WAY_MAX};
use farpipe_proto::wire::local::LOCAL_PREFACE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::carrier::{Carrier, fp};
use crate::opener::{Blame, Dial, DialError, Dialled};
use crate::secret::{check_directory, directory, make_directory};

/// Preface and length in front of a message.
const HEAD: usize = LOCAL_PREFACE.len() + 4;

/// Why there is no socket, or nobody at it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// Another agent of this user has it.
    #[error("another agent of this user has {}", .0.display())]
    Taken(PathBuf),
    /// It cannot be had, or used.
    #[error("{}: {what}", path.display())]
    Unusable {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

fn socket_path(uid: u32) -> PathBuf {
    directory(uid).join("agent.sock")
}

fn unusable(path: &Path, what: impl ToString) -> LocalError {
    LocalError::Unusable {
        path: path.to_owned(),
        what: what.to_string(),
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A message as it is sent.
fn framed(message: &[u8]) -> Vec<u8> {
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEAD + message.len());
    bytes.extend_from_slice(&LOCAL_PREFACE);
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(message);
    bytes
}

/// The length in a message's head.
fn message_len(head: &[u8; HEAD]) -> io::Result<usize> {
    let (preface, len) = head.split_at(LOCAL_PREFACE.len());
    let len = len
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    if preface != LOCAL_PREFACE || len > REUSE_WAY_MAX {
        return Err(io::Error::other("it is another version of farpipe"));
    }
    Ok(len)
}

/// The local agent's side: listens.
#[derive(Debug)]
pub struct LocalSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Locked as long as the socket is ours.
    _lock: File,
}

impl LocalSocket {
    /// Listens at the user's socket. Within a runtime. Blocks on the disk for a moment.
    ///
    /// # Errors
    /// [`LocalError`]
    pub fn bind() -> Result<Self, LocalError> {
        let uid = own_uid();
        let path = socket_path(uid);
        let failed = |error: io::Error| unusable(&path, error);
        make_directory(&directory(uid), uid).map_err(|why| unusable(&path, why))?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(path.with_extension("lock")).map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LocalError::Taken(path)),
            Err(error) => return Err(failed(error.into())),
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        // Its directory has let in nobody else meanwhile.
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, mode).map_err(failed)?;
        Ok(Self {
            listener,
            path,
            _lock: lock,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next command of this user. Cancel safe.
    pub async fn accept(&self) -> Visitor {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == own_uid() => return Visitor { stream },
                    Ok(peer) => tracing::warn!("a process of user {} was turned away", peer.uid()),
                    Err(error) => tracing::warn!("who connected cannot be told: {error}"),
                },
                Err(error) => {
                    // Out of descriptors: others must go first.
                    tracing::warn!("cannot accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        // The lock is still held: it is ours.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!("{}: not removed: {error}", self.path.display());
        }
    }
}

/// A command at the local agent's door.
#[derive(Debug)]
pub struct Visitor {
    stream: UnixStream,
}

impl Visitor {
    /// What it asks for.
    ///
    /// # Errors
    /// It said nothing in time, or is another version.
    ///
    /// # Cancellation
    /// Dropping it loses what has arrived.
    pub async fn asked(&mut self) -> io::Result<Vec<u8>> {
        let reading = async {
            let mut head = [0; HEAD];
            self.stream.read_exact(&mut head).await?;
            let mut message = vec![0; message_len(&head)?];
            self.stream.read_exact(&mut message).await?;
            Ok(message)
        };
        let read = tokio::time::timeout(HANDSHAKE_STEP, reading).await;
        read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Tells it something.
    ///
    /// # Errors
    /// It has gone.
    ///
    /// # Cancellation
    /// Dropping it may have said half of it.
    pub async fn answer(&mut self, message: &[u8]) -> io::Result<()> {
        self.stream.write_all(&framed(message)).await
    }

    /// What its session goes over from here on.
    #[must_use]
    pub fn into_carrier(self) -> Box<dyn Carrier> {
        Box::new(fp::start(self.stream))
    }
}

/// The command's side, before its session: a connection to the local agent.
#[derive(Debug)]
pub struct LocalAgent(StdUnixStream);

impl LocalAgent {
    /// Asks the user's local agent, if there is one, and hears its answer. Waits no longer than
    /// [`REUSE_ANSWER`], and blocks the thread for that.
    ///
    /// # Errors
    /// [`LocalError`]: there is none, or it is of no use.
    pub fn ask(message: &[u8]) -> Result<(Self, Vec<u8>), LocalError> {
        let uid = own_uid();
        let path = socket_path(uid);
        check_directory(&directory(uid), uid).map_err(|why| unusable(&path, why))?;
        let asked = Self::connect(&path).and_then(|stream| {
            check_peer(&stream, uid)?;
            let until = Instant::now() + REUSE_ANSWER;
            say(&stream, &framed(message), until)?;
            let mut head = [0; HEAD];
            hear(&stream, &mut head, until)?;
            let mut answer = vec![0; message_len(&head)?];
            hear(&stream, &mut answer, until)?;
            Ok((Self(stream), answer))
        });
        asked.map_err(|error| unusable(&path, error))
    }

    /// Never waits: a local agent that accepts nobody has more to do than it can.
    #[cfg(target_os = "linux")]
    fn connect(path: &Path) -> io::Result<StdUnixStream> {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let socket = rustix::net::socket_with(family, kind, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket.into())
    }

    /// Elsewhere a full queue is an error by itself.
    #[cfg(not(target_os = "linux"))]
    fn connect(path: &Path) -> io::Result<StdUnixStream> {
        let stream = StdUnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// What dials it for one session that leads to `peer`: it is there once.
    #[must_use]
    pub fn into_dial(self, peer: String) -> LocalDial {
        LocalDial {
            stream: Mutex::new(Some(self.0)),
            peer,
        }
    }
}

#[cfg(target_os = "linux")]
fn check_peer(stream: &StdUnixStream, uid: u32) -> io::Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    if peer.uid.as_raw() == uid {
        return Ok(());
    }
    Err(io::Error::other("it is another user's"))
}

/// Elsewhere its directory says so: nobody else can have made a socket there.
#[cfg(not(target_os = "linux"))]
fn check_peer(_: &StdUnixStream, _: u32) -> io::Result<()> {
    Ok(())
}

/// Waits until `fd` is ready for `flags`.
fn wait(fd: &impl AsFd, flags: PollFlags, until: Instant) -> io::Result<()> {
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(fd, flags)], Some(&left)) {
        Ok(0) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "it does not answer",
        )),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn say(stream: &StdUnixStream, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(stream, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(rustix::io::Errno::AGAIN) => wait(stream, PollFlags::OUT, until)?,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn hear(stream: &StdUnixStream, mut into: &mut [u8], until: Instant) -> io::Result<()> {
    while !into.is_empty() {
        match recv(stream, &mut *into, RecvFlags::empty()) {
            Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((heard, _)) => into = &mut into[heard..],
            Err(rustix::io::Errno::AGAIN) => wait(stream, PollFlags::IN, until)?,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The connection to the local agent, for one session.
#[derive(Debug)]
pub struct LocalDial {
    stream: Mutex<Option<StdUnixStream>>,
    peer: String,
}

impl LocalDial {
    fn carrier(&self) -> Result<Box<dyn Carrier>, DialError> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |why: String| DialError {
            blame: Blame::Gone,
            message: format!(
                "the local agent, through which {} was reached, {why}",
                self.peer
            ),
            advice: None,
        };
        let Some(stream) = stream.take() else {
            return Err(gone("is gone".to_owned()));
        };
        let stream = UnixStream::from_std(stream);
        let stream = stream.map_err(|error| gone(format!("cannot be used: {error}")))?;
        Ok(Box::new(fp::start(stream)))
    }
}

impl Dial for LocalDial {
    fn dial(&self) -> Dialled<'_> {
        Box::pin(std::future::ready(self.carrier()))
    }

    fn peer(&self) -> String {
        self.peer.clone()
    }

    fn stands_in(&self) -> bool {
        true
    }
}
