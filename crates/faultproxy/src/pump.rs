//! One direction of one connection: read, ask the gate, write in the direction's shape.
//!
//! Invariants: never more than one buffer (and the delay's line) is held; every wait can be broken
//! off, and a fault whose time has come breaks it off, so a sink that does not read delays none.

use std::io;
use std::sync::atomic::Ordering;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::gate::{Gate, Step};
use crate::journal::Event;
use crate::line::Line;
use crate::plan::{Armed, Cut, Dir, How, Trigger};
use crate::shape::{Bucket, Shape};
use crate::sockets;
use crate::stats::Traffic;

/// Why both directions of a connection are over, other than that both have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// A fault at a place in this direction's bytes.
    Cut(Dir, Cut),
    /// One of the peers tore the connection.
    Broken,
}

/// Where a direction's bytes are read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    Socket(&'a TcpStream),
    Line(&'a Line),
}

pub(crate) struct Pump<'a> {
    dir: Dir,
    source: Source<'a>,
    sink: &'a TcpStream,
    traffic: &'a Traffic,
    gate: Gate,
    /// Faults of this direction that wait for their time, the next one last.
    late: Vec<(Instant, How, u8)>,
    bucket: Option<Bucket>,
    /// The most bytes of one write, by the dribble.
    crumb: usize,
    buffer: Vec<u8>,
    buffer_max: usize,
    /// The held bytes: read, scanned, not passed.
    start: usize,
    end: usize,
    ended: bool,
    /// Bytes and writes since the last yield.
    since_yield: (usize, u32),
}

impl<'a> Pump<'a> {
    pub(crate) fn new(
        dir: Dir,
        source: Source<'a>,
        sink: &'a TcpStream,
        traffic: &'a Traffic,
        gate: Gate,
        shape: &Shape,
    ) -> Self {
        let bucket = shape.throttle.map(|rate| Bucket::new(rate, Instant::now()));
        // A slow direction must not hide seconds of data in this buffer.
        let burst = bucket.as_ref().map_or(u64::MAX, Bucket::burst);
        let buffer_max = usize::try_from(burst)
            .unwrap_or(usize::MAX)
            .clamp(HELD_BACK_MAX, BUFFER_MAX);
        Self {
            dir,
            source,
            sink,
            traffic,
            gate,
            late: Vec::new(),
            bucket,
            crumb: shape.dribble.map_or(usize::MAX, usize::from),
            buffer: vec![0; BUFFER_START.min(buffer_max)],
            buffer_max,
            start: 0,
            end: 0,
            ended: false,
            since_yield: (0, 0),
        }
    }

    /// Adds the faults that hit only this direction after a time; those that tear the connection
    /// are the connection's business.
    pub(crate) fn with_late(mut self, armed: &[Armed], accepted: Instant) -> Self {
        self.late = armed
            .iter()
            .filter(|armed| armed.dir == self.dir && !matches!(armed.how, How::Cut(_)))
            .filter_map(|armed| match armed.trigger {
                Trigger::After(lifetime) => Some((accepted + lifetime, armed.how, armed.bit)),
                Trigger::Byte(_) | Trigger::Frame { .. } => None,
            })
            .collect();
        self.late.sort_by_key(|&(at, ..)| std::cmp::Reverse(at));
        self
    }

    /// Until the direction has ended, for the sink too (`Ok`), or the connection is over.
    pub(crate) async fn run(mut self) -> Result<(), Over> {
        loop {
            self.arm_late();
            match self.gate.step(self.end - self.start) {
                Step::Read if self.ended => {
                    // A torn connection whose error a write has taken reads as ended.
                    if self
                        .traffic
                        .flow(self.dir.other())
                        .sink_gone
                        .load(Ordering::Relaxed)
                    {
                        return Err(Over::Broken);
                    }
                    sockets::shut_down(self.sink);
                    return Ok(());
                }
                Step::Read => self.read().await.map_err(|_| Over::Broken)?,
                Step::Pass(length) => {
                    let Ok(wrote) = self.write(length).await else {
                        return self.sink_gone();
                    };
                    self.gate
                        .passed(&self.buffer[self.start..self.start + wrote]);
                    self.start += wrote;
                }
                Step::Discard(length) => {
                    self.gate.discarded(length);
                    self.start += length;
                    if !self.gate.is_dropping() {
                        self.traffic.count(Event::Dropped);
                    }
                }
                Step::Flip { mask } => {
                    self.buffer[self.start] ^= mask;
                    self.traffic.count(Event::Flipped);
                }
                Step::Replay(bytes) => {
                    if self.insert(&bytes).await.is_err() {
                        return self.sink_gone();
                    }
                    self.traffic.count(Event::Replayed);
                }
                Step::Cut(cut) => return Err(Over::Cut(self.dir, cut)),
                Step::HalfClose => {
                    self.traffic.count_cut(Event::HalfClosed);
                    sockets::shut_down(self.sink);
                    return self.swallow().await;
                }
                Step::Mute => {
                    self.traffic.count_cut(Event::Muted);
                    return self.swallow().await;
                }
            }
            let held = self.end - self.start + self.source.under_way();
            self.traffic
                .flow(self.dir)
                .held
                .store(held as u64, Ordering::Relaxed);
        }
    }

    /// The sink's peer has torn the connection. What it sent before is still for the other
    /// direction to deliver; that one then says that the connection is broken.
    fn sink_gone(&self) -> Result<(), Over> {
        self.traffic
            .flow(self.dir)
            .sink_gone
            .store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Reads behind what is held; sets `ended` at the end. Returns early when a late fault is due.
    async fn read(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let late = self.late_at();
        let room = &mut self.buffer[self.end..];
        let length = tokio::select! {
            biased;
            () = at(late) => return Ok(()),
            length = self.source.read(room) => length?,
        };
        self.gate.scan(&self.buffer[self.end..self.end + length]);
        self.end += length;
        self.traffic.moved();
        if length == 0 {
            self.ended = true;
            self.gate.end();
        } else if self.gate.is_blind() {
            self.gate.end();
            self.traffic.count(Event::Blind);
        }
        if self.end == self.buffer.len() && self.end < self.buffer_max {
            let larger = (2 * self.buffer.len()).min(self.buffer_max);
            self.buffer.resize(larger, 0);
        }
        Ok(())
    }

    /// Writes some of the first `length` held bytes. Returns 0 when a late fault is due.
    async fn write(&mut self, length: usize) -> io::Result<usize> {
        let late = self.late_at();
        loop {
            let mut length = length.min(self.crumb);
            if let Some(bucket) = &mut self.bucket {
                match bucket.allow(Instant::now(), length) {
                    Ok(allowed) => length = allowed,
                    Err(again) => {
                        tokio::select! {
                            biased;
                            () = at(late) => return Ok(0),
                            () = sleep_until(again) => continue,
                        }
                    }
                }
            }
            match self
                .sink
                .try_write(&self.buffer[self.start..self.start + length])
            {
                Ok(wrote) => {
                    self.wrote(wrote).await;
                    return Ok(wrote);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            tokio::select! {
                biased;
                () = at(late) => return Ok(0),
                ready = self.sink.writable() => ready?,
            }
        }
    }

    /// Writes bytes that are not the source's next.
    async fn insert(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.sink.writable().await?;
            match self.sink.try_write(&bytes[..bytes.len().min(self.crumb)]) {
                Ok(wrote) => {
                    bytes = &bytes[wrote..];
                    self.wrote(wrote).await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Accounts for written bytes; lets the other direction and the timers have their turn now and
    /// then.
    async fn wrote(&mut self, bytes: usize) {
        if let Some(bucket) = &mut self.bucket {
            bucket.spend(bytes);
        }
        self.traffic.passed(self.dir, bytes);
        self.since_yield.0 += bytes;
        self.since_yield.1 += 1;
        if self.since_yield.0 >= BUFFER_MAX
            || self.since_yield.1 >= WRITES_MAX
            || self.crumb != usize::MAX
        {
            self.since_yield = (0, 0);
            tokio::task::yield_now().await;
        }
    }

    /// Throws the rest of the direction away.
    async fn swallow(self) -> Result<(), Over> {
        let mut buffer = vec![0; BUFFER_START];
        drop(self.buffer);
        loop {
            match self.source.read(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(_) => tokio::task::yield_now().await,
                Err(_) => return Err(Over::Broken),
            }
        }
    }

    fn arm_late(&mut self) {
        while self
            .late
            .last()
            .is_some_and(|&(at, ..)| at <= Instant::now())
        {
            if let Some((_, how, bit)) = self.late.pop() {
                self.gate.arm_now(how, bit);
            }
        }
    }

    fn late_at(&self) -> Option<Instant> {
        self.late.last().map(|&(at, ..)| at)
    }
}

impl Source<'_> {
    /// Bytes that have been read from the socket and do not come out yet.
    fn under_way(self) -> usize {
        match self {
            Self::Line(line) => line.len(),
            Self::Socket(_) => 0,
        }
    }

    /// Dropping the future loses nothing.
    async fn read(self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Line(line) => line.read(buffer).await,
            Self::Socket(socket) => loop {
                match socket.try_read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        socket.readable().await?
                    }
                    result => return result,
                }
            },
        }
    }
}

/// At the time, or never. "Never" must not be a timer: paused clocks jump to it.
pub(crate) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Idle and short-lived connections pay for this much.
const BUFFER_START: usize = 8 << 10;
/// Large enough that the proxy is not what limits 1 GB/s.
const BUFFER_MAX: usize = 256 << 10;
/// So many writes without a yield keep a timer waiting for less than its own grain.
const WRITES_MAX: u32 = 32;
/// An undecided frame header is held back whole, and a byte behind it must fit.
const HELD_BACK_MAX: usize = 16;
