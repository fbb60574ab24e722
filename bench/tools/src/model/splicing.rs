//! Bytes that never come into the process: `tee` keeps the pages in pipes beside, and `splice` moves them to the socket behind a
//! header of their own; at the other end a header is read by itself, and `splice` moves what follows.

mod keep;
#[cfg(test)]
mod tests;

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::PollFlags;
use nix::unistd::pipe;

use self::keep::{Keep, Kept};
use super::{Acks, FRAME, Follows, Frames, HEADER, PIPE, Received, grow, header, ready, write_all};

pub fn send(acks: &mut Acks, stdin: &OwnedFd) -> Result<()> {
    let mut keep = Keep::new()?;
    let mut sent = 0_u64;
    loop {
        acks.read(false)?;
        keep.forget(acks.acked)?;
        let n = match keep.tee(stdin, FRAME)? {
            Kept::Bytes(n) => n,
            Kept::Full => {
                acks.read(true)?;
                continue;
            }
            Kept::Ended => break,
        };
        write_all(&acks.socket, &header(n, sent), Follows::More)?;
        move_to(stdin, &acks.socket, n)?;
        sent += n as u64;
    }
    acks.finish(sent)
}

/// Moves exactly `left` bytes of a pipe that has them.
fn move_to(pipe: &OwnedFd, socket: &TcpStream, mut left: usize) -> Result<()> {
    while left > 0 {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
        match splice(pipe, None, socket, None, left, flags) {
            Ok(0) => bail!("the pipe has lost {left} bytes"),
            Ok(moved) => left -= moved,
            Err(Errno::EAGAIN) => ready(socket.as_fd(), PollFlags::POLLOUT)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// One thread; while stdout is full nobody reads the socket.
pub fn receive(socket: &TcpStream, stdout: &OwnedFd) -> Result<()> {
    let mut received = Received::new(socket);
    take_all(&mut received, stdout)?;
    received.say()
}

/// A second thread that moves from a pipe between to stdout.
pub fn receive_by_two(socket: &TcpStream, stdout: &OwnedFd) -> Result<()> {
    let (between, filled) = pipe()?;
    grow(&filled);
    thread::scope(|scope| {
        let writer = scope.spawn(move || -> Result<()> {
            // Waits, in turn, for bytes and for room: both pipes are this thread's to wait for.
            while splice(&between, None, stdout, None, PIPE, SpliceFFlags::empty())? > 0 {}
            Ok(())
        });
        let mut received = Received::new(socket);
        let read = take_all(&mut received, &filled);
        // The writer's end of file.
        drop(filled);
        match writer.join() {
            Ok(written) => written?,
            Err(_) => bail!("the writing thread died"),
        }
        read?;
        received.say()
    })
}

fn take_all(received: &mut Received<'_>, pipe: &OwnedFd) -> Result<()> {
    while let Some(left) = next_header(received)? {
        take(received, pipe, left)?;
    }
    Ok(())
}

/// The length of the next frame; `None` at the last one.
fn next_header(received: &mut Received<'_>) -> Result<Option<usize>> {
    let mut frames = Frames::default();
    let mut head = [0; HEADER];
    while frames.left == 0 {
        let wanted = HEADER - frames.head.len();
        match received.socket.read(&mut head[..wanted]) {
            Ok(0) => bail!("cut"),
            Ok(n) => {
                if frames.take(&head[..n])?.1 {
                    return Ok(None);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => received.wait()?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(frames.left))
}

/// Moves exactly `left` bytes of the socket into a pipe. It waits for room in the pipe, and never for the socket, whose bytes it
/// would wait for with the pipe's lock held, and the pipe's reader with it.
fn take(received: &mut Received<'_>, pipe: &OwnedFd, mut left: usize) -> Result<()> {
    while left > 0 {
        let flags = SpliceFFlags::empty();
        match splice(received.socket, None, pipe, None, left, flags) {
            Ok(0) => bail!("cut"),
            Ok(n) => {
                left -= n;
                received.more(n)?;
            }
            Err(Errno::EAGAIN) => received.wait()?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
