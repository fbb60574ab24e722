//! A pipe over TCP reduced to what moves bytes, by copying or without it, to see what zero copy is worth
//! (docs/decisions/0022-zero-copy.md). Both keep what is not acknowledged, so that it could be sent again.
//!
//! What is not the question is as farpipe has it: reno on loopback, 1 MiB pipes, frames of 256 KiB, acknowledgements each 256 KiB
//! or 10 ms. A model on the system's bbr is a third slower than one on reno, whichever way its bytes move.

mod copying;
mod splicing;

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::MSG_MORE;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;

/// A frame's header: a length and an offset, and some more, as fp has it.
const HEADER: usize = 17;
/// Bytes of a frame at most, as farpipe's.
const FRAME: usize = 256 << 10;
/// Bytes between acknowledgements, and how long fewer wait.
const ACK: u64 = 256 << 10;
const ACK_DELAY_MS: u16 = 10;
/// Bytes that are kept at most; pipes hold a MiB each.
const KEPT: u64 = 4 << 20;
const PIPE: usize = 1 << 20;

/// How bytes move.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    Copy,
    Splice,
    /// Receiving: a second thread, and a pipe between.
    SpliceByTwo,
}

impl Way {
    pub fn of(word: &str) -> Result<Self> {
        match word {
            "copy" => Ok(Self::Copy),
            "splice" => Ok(Self::Splice),
            "splice-by-two" => Ok(Self::SpliceByTwo),
            other => bail!("{other}: copy, splice or splice-by-two"),
        }
    }
}

/// Sends stdin to a port of this host.
pub fn send(way: Way, port: u16) -> Result<()> {
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    tune(&socket)?;
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    grow(&stdin);
    let mut acks = Acks::new(socket);
    match way {
        Way::Copy => copying::send(&mut acks, stdin.into()),
        Way::Splice | Way::SpliceByTwo => splicing::send(&mut acks, &stdin),
    }
}

/// Takes one connection at a port, and writes what comes to stdout.
pub fn receive(way: Way, port: u16) -> Result<()> {
    let (socket, _) = TcpListener::bind(("127.0.0.1", port))?.accept()?;
    tune(&socket)?;
    let stdout = std::io::stdout().as_fd().try_clone_to_owned()?;
    grow(&stdout);
    match way {
        Way::Copy => copying::receive(&socket, stdout.into()),
        Way::Splice => splicing::receive(&socket, &stdout),
        Way::SpliceByTwo => splicing::receive_by_two(&socket, &stdout),
    }
}

/// As farpipe does on loopback; and never waits in a system call that could hold a pipe's lock.
fn tune(socket: &TcpStream) -> Result<()> {
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    let socket = SockRef::from(socket);
    socket
        .set_tcp_congestion(b"reno")
        .context("cannot choose reno")
}

/// A pipe as large as it may be; it works as it is, too.
fn grow(pipe: &OwnedFd) {
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE as i32));
}

fn header(length: usize, offset: u64) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
    bytes[9..].copy_from_slice(&offset.to_be_bytes());
    bytes
}

fn ready(fd: BorrowedFd<'_>, what: PollFlags) -> Result<()> {
    poll(&mut [PollFd::new(fd, what)], PollTimeout::NONE)?;
    Ok(())
}

/// Whether a system call's bytes leave with those of the next one.
#[derive(Debug, Clone, Copy)]
enum Follows {
    Nothing,
    More,
}

/// Of a socket that does not wait.
fn write_all(socket: &TcpStream, mut bytes: &[u8], follows: Follows) -> Result<()> {
    let flags = match follows {
        Follows::Nothing => 0,
        Follows::More => MSG_MORE,
    };
    while !bytes.is_empty() {
        match SockRef::from(socket).send_with_flags(bytes, flags) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ready(socket.as_fd(), PollFlags::POLLOUT)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What the other side has, as it says.
struct Acks {
    socket: TcpStream,
    acked: u64,
    partial: Vec<u8>,
}

impl Acks {
    fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            acked: 0,
            partial: Vec::new(),
        }
    }

    /// Reads what has come; with `wait`, until something has.
    fn read(&mut self, wait: bool) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) if self.partial.len() >= 8 => break,
                Ok(0) => bail!("the receiver is gone"),
                Ok(n) => self.partial.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !wait || self.partial.len() >= 8 {
                        break;
                    }
                    ready(self.socket.as_fd(), PollFlags::POLLIN)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let whole = self.partial.len() / 8 * 8;
        if let Some(last) = self.partial[..whole].chunks_exact(8).next_back() {
            self.acked = u64::from_be_bytes(last.try_into().context("eight bytes")?);
        }
        self.partial.drain(..whole);
        Ok(())
    }

    /// Says that no more comes, and waits until the other side has all.
    fn finish(&mut self, sent: u64) -> Result<()> {
        write_all(&self.socket, &header(0, sent), Follows::Nothing)?;
        while self.acked < sent {
            self.read(true)?;
        }
        Ok(())
    }
}

/// What the receiver has, and has said.
struct Received<'a> {
    socket: &'a TcpStream,
    got: u64,
    said: u64,
}

impl<'a> Received<'a> {
    fn new(socket: &'a TcpStream) -> Self {
        Self {
            socket,
            got: 0,
            said: 0,
        }
    }

    fn more(&mut self, bytes: usize) -> Result<()> {
        self.got += bytes as u64;
        if self.got - self.said >= ACK {
            self.say()?;
        }
        Ok(())
    }

    fn say(&mut self) -> Result<()> {
        write_all(self.socket, &self.got.to_be_bytes(), Follows::Nothing)?;
        self.said = self.got;
        Ok(())
    }

    /// Waits for more, and says meanwhile what is owed.
    fn wait(&mut self) -> Result<()> {
        let mut asked = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        if self.got > self.said && poll(&mut asked, PollTimeout::from(ACK_DELAY_MS))? == 0 {
            self.say()?;
        }
        poll(&mut asked, PollTimeout::NONE)?;
        Ok(())
    }
}

/// Headers among what comes, in whatever pieces.
#[derive(Default)]
struct Frames {
    head: Vec<u8>,
    /// Bytes of the frame still to come.
    left: usize,
}

impl Frames {
    /// Takes of `bytes` what belongs to a header; tells how much, and whether it was the last frame's.
    fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool)> {
        let n = (HEADER - self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..n]);
        if self.head.len() < HEADER {
            return Ok((n, false));
        }
        self.left = u32::from_be_bytes(self.head[..4].try_into()?) as usize;
        self.head.clear();
        Ok((n, self.left == 0))
    }
}
