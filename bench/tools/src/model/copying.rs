//! What farpipe does: one read into a slot that has room for a header in front, one write, and the slot is what is kept. At the
//! other end one thread reads the socket and another writes stdout, so that neither waits for both.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use anyhow::{Result, bail};

use super::{Acks, FRAME, Follows, Frames, HEADER, KEPT, Received, header, write_all};

/// Bytes of one read of the socket, and how many of those may wait for stdout.
const READ: usize = 512 << 10;
const WAITING: usize = 2;

pub fn send(acks: &mut Acks, mut stdin: File) -> Result<()> {
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
        write_all(&acks.socket, &slot[..HEADER + n], Follows::Nothing)?;
        sent += n as u64;
        kept.push_back((sent, slot));
    }
    acks.finish(sent)
}

/// What one read brought, and where in it is what stdout gets.
struct Chunk {
    bytes: Box<[u8]>,
    parts: Vec<Range<usize>>,
}

pub fn receive(socket: &TcpStream, stdout: File) -> Result<()> {
    let (chunks, waiting) = sync_channel(WAITING);
    let (spare, free) = channel();
    thread::scope(|scope| {
        let writer = scope.spawn(move || write(&waiting, &spare, stdout));
        let mut received = Received::new(socket);
        let read = read(&mut received, chunks, &free);
        match writer.join() {
            Ok(written) => written?,
            Err(_) => bail!("the writing thread died"),
        }
        read?;
        received.say()
    })
}

fn read(
    received: &mut Received<'_>,
    chunks: SyncSender<Chunk>,
    free: &Receiver<Box<[u8]>>,
) -> Result<()> {
    let mut frames = Frames::default();
    let mut spares: Vec<Box<[u8]>> = Vec::new();
    loop {
        spares.extend(free.try_iter());
        let mut bytes = spares.pop().unwrap_or_else(|| vec![0; READ].into());
        let n = loop {
            match received.socket.read(&mut bytes) {
                Ok(0) => bail!("cut"),
                Ok(n) => break n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => received.wait()?,
                Err(error) => return Err(error.into()),
            }
        };
        let (mut parts, mut at, mut is_last) = (Vec::new(), 0, false);
        while at < n && !is_last {
            if frames.left == 0 {
                let (taken, last) = frames.take(&bytes[at..n])?;
                at += taken;
                is_last = last;
                continue;
            }
            let end = n.min(at + frames.left);
            frames.left -= end - at;
            parts.push(at..end);
            at = end;
        }
        let data = parts.iter().map(Range::len).sum();
        // The writer is gone only with an error of its own, which is told instead.
        if chunks.send(Chunk { bytes, parts }).is_err() || is_last {
            received.got += data as u64;
            return Ok(());
        }
        received.more(data)?;
    }
}

fn write(waiting: &Receiver<Chunk>, spare: &Sender<Box<[u8]>>, mut stdout: File) -> Result<()> {
    for Chunk { bytes, parts } in waiting {
        let mut slices: Vec<IoSlice<'_>> = parts
            .into_iter()
            .map(|part| IoSlice::new(&bytes[part]))
            .collect();
        let mut slices = &mut slices[..];
        while !slices.is_empty() {
            let n = stdout.write_vectored(slices)?;
            IoSlice::advance_slices(&mut slices, n);
        }
        // The reader may be done.
        let _ = spare.send(bytes);
    }
    Ok(())
}
