//! A pipe over TCP reduced to what moves bytes, by copying or without it, to see what zero copy is worth
//! (docs/decisions/0022-zero-copy.md). Both keep what is not acknowledged, so that it could be sent again.
//!
//! Copying is what farpipe does: one read into a slot that has room for a header in front, one write, and the slot is what is kept.
//! Without it, `tee` keeps the pages in a pipe beside, and `splice` moves them to the socket behind a header of their own; at the
//! other end a header is read by itself, and `splice` moves what follows.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SpliceFFlags, fcntl, splice, tee};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe;

/// A frame's header: a length and an offset, and some more, as fp has it.
const HEADER: usize = 17;
/// Bytes of a frame at most.
const FRAME: usize = 512 << 10;
/// Bytes between acknowledgements.
const ACK: u64 = 256 << 10;
/// Bytes that are kept at most; pipes hold a MiB each.
const KEPT: u64 = 4 << 20;
const PIPE: usize = 1 << 20;

/// How bytes move.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    Copy,
    Splice,
}

impl Way {
    pub fn of(word: &str) -> Result<Self> {
        match word {
            "copy" => Ok(Self::Copy),
            "splice" => Ok(Self::Splice),
            other => bail!("{other}: copy or splice"),
        }
    }
}

/// Sends stdin to a port of this host.
pub fn send(way: Way, port: u16) -> Result<()> {
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_nodelay(true)?;
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    grow(&stdin);
    let mut kept = Acks {
        socket,
        acked: 0,
        partial: Vec::new(),
    };
    match way {
        Way::Copy => copy_out(&mut kept, File::from(stdin)),
        Way::Splice => splice_out(&mut kept, &stdin),
    }
}

/// Takes one connection at a port, and writes what comes to stdout.
pub fn receive(way: Way, port: u16) -> Result<()> {
    let (socket, _) = TcpListener::bind(("127.0.0.1", port))?.accept()?;
    socket.set_nodelay(true)?;
    let stdout = std::io::stdout().as_fd().try_clone_to_owned()?;
    grow(&stdout);
    match way {
        Way::Copy => copy_in(socket, File::from(stdout)),
        Way::Splice => splice_in(socket, &stdout),
    }
}

/// A pipe as large as it may be; it works as it is, too.
fn grow(pipe: &OwnedFd) {
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE as i32));
}

/// What the other side has, as it says.
struct Acks {
    socket: TcpStream,
    acked: u64,
    partial: Vec<u8>,
}

impl Acks {
    /// Reads what has come; with `wait`, until something has.
    fn read(&mut self, wait: bool) -> Result<()> {
        let mut buffer = [0; 4096];
        self.socket.set_nonblocking(true)?;
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

fn copy_out(acks: &mut Acks, mut stdin: File) -> Result<()> {
    let mut free: Vec<Box<[u8]>> = Vec::new();
    let mut kept: VecDeque<(u64, Box<[u8]>)> = VecDeque::new();
    let mut sent = 0;
    loop {
        acks.read(sent - acks.acked >= KEPT)?;
        while kept.front().is_some_and(|(end, _)| *end <= acks.acked) {
            free.extend(kept.pop_front().map(|(_, slot)| slot));
        }
        let mut slot = free.pop().unwrap_or_else(|| vec![0; HEADER + FRAME].into());
        let n = stdin.read(&mut slot[HEADER..])?;
        if n == 0 {
            break;
        }
        slot[..HEADER].copy_from_slice(&header(n, sent));
        write_all(&acks.socket, &slot[..HEADER + n])?;
        sent += n as u64;
        kept.push_back((sent, slot));
    }
    finish(acks, sent)
}

/// Of a socket that does not wait.
fn write_all(mut socket: &TcpStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ready(socket.as_fd(), PollFlags::POLLOUT)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until the other side has all.
fn finish(acks: &mut Acks, sent: u64) -> Result<()> {
    write_all(&acks.socket, &header(0, sent))?;
    while acks.acked < sent {
        acks.read(true)?;
    }
    Ok(())
}

/// A pipe that keeps pages, and how many bytes are in it.
struct Keeper {
    read: OwnedFd,
    write: OwnedFd,
    bytes: u64,
}

fn splice_out(acks: &mut Acks, stdin: &OwnedFd) -> Result<()> {
    let null = File::options().write(true).open("/dev/null")?;
    let mut keepers = VecDeque::new();
    for _ in 0..KEPT as usize / PIPE {
        let (read, write) = pipe()?;
        grow(&write);
        keepers.push_back(Keeper {
            read,
            write,
            bytes: 0,
        });
    }
    // Before this is the first that keeps nothing more; those behind it are empty.
    let mut filling = 0;
    let (mut sent, mut dropped) = (0_u64, 0_u64);
    acks.read(false)?;
    loop {
        while dropped < acks.acked {
            let oldest = &mut keepers[0];
            let n = (acks.acked - dropped).min(oldest.bytes) as usize;
            let n = if n > 0 {
                splice(&oldest.read, None, &null, None, n, SpliceFFlags::empty())?
            } else {
                0
            };
            oldest.bytes -= n as u64;
            dropped += n as u64;
            if oldest.bytes == 0 && filling > 0 {
                keepers.rotate_left(1);
                filling -= 1;
            }
        }
        let keeper = &mut keepers[filling];
        let n = match tee(stdin, &keeper.write, FRAME, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(0) => break,
            Ok(n) => n,
            Err(Errno::EAGAIN) => {
                let mut asked = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
                if keeper.bytes == 0 || poll(&mut asked, PollTimeout::ZERO)? == 0 {
                    ready(stdin.as_fd(), PollFlags::POLLIN)?;
                } else if filling + 1 < keepers.len() {
                    filling += 1;
                } else {
                    acks.read(true)?;
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        keeper.bytes += n as u64;
        write_all(&acks.socket, &header(n, sent))?;
        let mut left = n;
        while left > 0 {
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
            match splice(stdin, None, &acks.socket, None, left, flags) {
                Ok(moved) => left -= moved,
                Err(Errno::EAGAIN) => ready(acks.socket.as_fd(), PollFlags::POLLOUT)?,
                Err(error) => return Err(error.into()),
            }
        }
        sent += n as u64;
        acks.read(false)?;
    }
    finish(acks, sent)
}

fn copy_in(mut socket: TcpStream, mut stdout: File) -> Result<()> {
    let mut buffer = vec![0; FRAME];
    let (mut got, mut said) = (0_u64, 0);
    // A header in pieces, and what is left of a frame.
    let (mut head, mut left) = (Vec::new(), 0_usize);
    loop {
        let n = socket.read(&mut buffer)?;
        if n == 0 {
            bail!("cut");
        }
        let mut rest = &buffer[..n];
        while !rest.is_empty() {
            if left > 0 {
                let take = left.min(rest.len());
                stdout.write_all(&rest[..take])?;
                got += take as u64;
                left -= take;
                rest = &rest[take..];
                continue;
            }
            let take = (HEADER - head.len()).min(rest.len());
            head.extend_from_slice(&rest[..take]);
            rest = &rest[take..];
            if head.len() == HEADER {
                left = u32::from_be_bytes(head[..4].try_into()?) as usize;
                head.clear();
                if left == 0 {
                    return Ok(socket.write_all(&got.to_be_bytes())?);
                }
            }
        }
        acknowledge(&socket, got, &mut said)?;
    }
}

fn acknowledge(mut socket: &TcpStream, got: u64, said: &mut u64) -> Result<()> {
    if got - *said >= ACK {
        socket.write_all(&got.to_be_bytes())?;
        *said = got;
    }
    Ok(())
}

fn splice_in(mut socket: TcpStream, stdout: &OwnedFd) -> Result<()> {
    let (mut got, mut said) = (0_u64, 0);
    loop {
        let mut head = [0; HEADER];
        socket.read_exact(&mut head)?;
        let mut left = u32::from_be_bytes(head[..4].try_into()?) as usize;
        if left == 0 {
            return Ok(socket.write_all(&got.to_be_bytes())?);
        }
        while left > 0 {
            // A socket that waited would hold the pipe's lock meanwhile, and its reader up.
            ready(socket.as_fd(), PollFlags::POLLIN)?;
            match splice(
                &socket,
                None,
                stdout,
                None,
                left,
                SpliceFFlags::SPLICE_F_NONBLOCK,
            ) {
                Ok(0) => bail!("cut"),
                Ok(n) => {
                    left -= n;
                    got += n as u64;
                }
                Err(Errno::EAGAIN) => ready(stdout.as_fd(), PollFlags::POLLOUT)?,
                Err(error) => return Err(error.into()),
            }
            acknowledge(&socket, got, &mut said)?;
        }
    }
}
