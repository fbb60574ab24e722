//! One transfer: two threads, a loopback connection, and what both must agree on.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use rustix::time::{ClockId, clock_gettime};

use crate::subject::Subject;

/// Bytes that the sender may have outstanding: more wait for acknowledgements.
pub const WINDOW: u64 = 8 << 20;

/// What `cat` writes at a time.
const CAT_BUFFER: usize = 128 << 10;

/// The size that farpipe gives its pipes.
const PIPE: usize = 1 << 20;

/// The receiver acknowledges after this many bytes, as farpipe does.
const ACK_EVERY: u64 = 256 << 10;

/// What the stream is made of, over and over. As large as the pipe that farpipe reads from, so
/// that filling a buffer costs what read(2) from a pipe costs: one copy of warm memory.
static TEMPLATE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..1 << 20)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
});

/// Who sends: a client masks what it sends, a server does not (RFC 6455 section 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    ClientToServer,
    ServerToClient,
}

impl Direction {
    pub const BOTH: [Self; 2] = [Self::ClientToServer, Self::ServerToClient];

    pub fn title(self) -> &'static str {
        match self {
            Self::ClientToServer => "client → server, masked",
            Self::ServerToClient => "server → client, not masked",
        }
    }
}

/// What a transfer cost.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// GB (10^9 bytes) a second.
    pub rate: f64,
    /// CPU seconds of both threads a GiB.
    pub cpu: f64,
}

/// A transfer to be made.
#[derive(Debug)]
pub struct Link {
    pub direction: Direction,
    /// Bytes in each message; the last one may be shorter.
    pub message: usize,
    pub total: u64,
    /// Whether retention ignores acknowledgements.
    pub keep_last: bool,
    verify: bool,
    acked: AtomicU64,
    /// Where the sender reads from and the receiver writes to, if not memory.
    pipes: Option<(File, File)>,
}

impl Link {
    pub fn new(direction: Direction, message: usize, total: u64, keep_last: bool) -> Self {
        Self {
            direction,
            message,
            total,
            keep_last,
            verify: false,
            acked: AtomicU64::new(0),
            pipes: None,
        }
    }

    /// Reads what is sent from a pipe that a third thread fills, and writes what arrives into one
    /// that a fourth empties: what a pipe between hosts does all day.
    pub fn through_pipes(mut self) -> Result<Self> {
        let (source, mut filler) = pipe()?;
        let (mut drain, sink) = pipe()?;
        self.pipes = Some((source, sink));
        let total = self.total;
        // Both end with the transfer, when the other end of their pipe is closed.
        thread::spawn(move || -> Result<()> {
            for start in (0..total).step_by(CAT_BUFFER) {
                let len = (total - start).min(CAT_BUFFER as u64) as usize;
                for piece in pieces(start, len) {
                    filler.write_all(piece)?;
                }
            }
            Ok(())
        });
        thread::spawn(move || -> Result<()> {
            let mut buffer = vec![0; PIPE];
            while drain.read(&mut buffer)? > 0 {}
            Ok(())
        });
        Ok(self)
    }

    /// Compares every byte at the receiver; slow.
    pub fn verified(mut self) -> Self {
        self.verify = true;
        self
    }

    /// Makes the transfer.
    pub fn run(self, subject: &Subject) -> Result<Outcome> {
        let (near, far) = connected_pair()?;
        LazyLock::force(&TEMPLATE);
        let link = Arc::new(self);
        let (send, receive) = (subject.send, subject.receive);
        let receiver = {
            let link = Arc::clone(&link);
            thread::spawn(move || {
                let mut incoming = Incoming {
                    link: &link,
                    position: 0,
                    unacked: 0,
                };
                receive(far, &mut incoming)?;
                Ok::<_, anyhow::Error>((incoming.position, Instant::now(), thread_cpu()))
            })
        };
        let sender = {
            let link = Arc::clone(&link);
            thread::spawn(move || {
                let start = Instant::now();
                send(near, &link)?;
                Ok::<_, anyhow::Error>((start, thread_cpu()))
            })
        };
        let panicked = |_| anyhow!("a thread panicked");
        let (start, sender_cpu) = sender.join().map_err(panicked)??;
        let (received, end, receiver_cpu) = receiver.join().map_err(panicked)??;
        ensure!(
            received == link.total,
            "{received} of {} bytes arrived",
            link.total
        );
        Ok(Outcome {
            rate: link.total as f64 / (end - start).as_secs_f64() / 1e9,
            cpu: (sender_cpu + receiver_cpu).as_secs_f64() / link.total as f64 * f64::from(1 << 30),
        })
    }

    /// Offsets at which messages begin, with their lengths.
    pub fn messages(&self) -> impl Iterator<Item = (u64, usize)> + use<> {
        let (message, total) = (self.message as u64, self.total);
        (0..total.div_ceil(message)).map(move |i| {
            let start = i * message;
            (start, (total - start).min(message) as usize)
        })
    }

    /// Fills all of `into` with what the stream holds at `offset`.
    pub fn fill(&self, offset: u64, mut into: &mut [u8]) -> Result<()> {
        if let Some((source, _)) = &self.pipes {
            let mut source = source;
            return Ok(source.read_exact(into)?);
        }
        for piece in pieces(offset, into.len()) {
            let (front, rest) = into.split_at_mut(piece.len());
            front.copy_from_slice(piece);
            into = rest;
        }
        Ok(())
    }

    /// Waits until the bytes before `offset` are acknowledged.
    pub fn wait_acked(&self, offset: u64) {
        while self.acked() < offset {
            thread::yield_now();
        }
    }

    /// Bytes that the receiver has acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Acquire)
    }
}

/// What the stream holds from `offset`, in pieces: copying them stands for read(2).
fn pieces(offset: u64, mut len: usize) -> impl Iterator<Item = &'static [u8]> {
    let mut at = offset as usize % TEMPLATE.len();
    std::iter::from_fn(move || {
        let n = len.min(TEMPLATE.len() - at);
        let piece = &TEMPLATE[at..at + n];
        len -= n;
        at = 0;
        (n > 0).then_some(piece)
    })
}

/// The receiver's end of a transfer.
#[derive(Debug)]
pub struct Incoming<'a> {
    link: &'a Link,
    position: u64,
    unacked: u64,
}

impl Incoming<'_> {
    pub fn direction(&self) -> Direction {
        self.link.direction
    }

    /// Takes the next bytes of the stream and acknowledges now and then.
    pub fn got(&mut self, bytes: &[u8]) -> Result<()> {
        if self.link.verify {
            let expected: Vec<u8> = pieces(self.position, bytes.len())
                .flatten()
                .copied()
                .collect();
            if bytes != expected {
                bail!("wrong bytes near offset {}", self.position);
            }
        }
        if let Some((_, sink)) = &self.link.pipes {
            let mut sink = sink;
            sink.write_all(bytes)?;
        }
        self.position += bytes.len() as u64;
        self.unacked += bytes.len() as u64;
        if self.unacked >= ACK_EVERY || self.done() {
            self.unacked = 0;
            self.link.acked.store(self.position, Ordering::Release);
        }
        Ok(())
    }

    pub fn done(&self) -> bool {
        self.position >= self.link.total
    }
}

fn pipe() -> Result<(File, File)> {
    let (reader, writer) = rustix::pipe::pipe()?;
    rustix::pipe::fcntl_setpipe_size(&writer, PIPE)?;
    Ok((File::from(reader), File::from(writer)))
}

fn connected_pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    for socket in [&near, &far] {
        socket.set_nodelay(true)?;
        // What farpipe chooses on loopback; a host's default may pace itself there.
        rustix::net::sockopt::set_tcp_congestion(socket, "reno")?;
    }
    Ok((near, far))
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
