//! A connection in memory, in tokio's virtual time: bounded, slow, and cut where the plan says.
//!
//! Both ends are byte streams as a socket is one. What is written is under way for the latency and
//! waits in a buffer of bounded size until it is read; a close with unread bytes resets the
//! connection, as TCP does. Cuts are counted in bytes *read*, so that a cut at byte N means that
//! the reader has N bytes, no more and no less.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Polls of one connection without a byte moving and without time passing: more is a task that
/// spins, and in virtual time it would do so for ever.
const IDLE_POLLS_MAX: u32 = 100_000;

/// The way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the one who dialled to the one who accepted.
    Up,
    /// From the one who accepted to the one who dialled.
    Down,
}

/// What a connection is like.
#[derive(Debug, Clone)]
pub struct Quality {
    /// Time a byte needs, either way.
    pub latency: Duration,
    /// Bytes a second, each way; `None`: any number at once.
    pub rate: Option<u64>,
    /// Bytes under way and unread, each way, beyond which a writer waits.
    pub capacity: usize,
    /// Most bytes one read returns.
    pub read_max: usize,
    /// Most bytes one write takes.
    pub write_max: usize,
    /// Reset when nothing was written for so long, either way, as proxies do; `None`: never.
    pub idle_max: Option<Duration>,
}

impl Default for Quality {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            rate: None,
            capacity: 64 * 1024,
            read_max: usize::MAX,
            write_max: usize::MAX,
            idle_max: None,
        }
    }
}

/// What befalls a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Both ends get `ConnectionReset`; what is under way is lost.
    Reset,
    /// Both ends read the end, as from a proxy that gives up; what is under way is lost.
    Close,
    /// This way ends; what its writer still writes is lost. The other way lives on.
    HalfClose,
    /// Nothing arrives for so long, then all of it.
    Stall(Duration),
    /// Nothing arrives any more, and nobody is told.
    BlackHole,
    /// The end that writes this way is reset at once. The other one notices nothing: what is under
    /// way to it arrives so much later, then nothing more ever does.
    Ghost(Duration),
}

/// A fault and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The way whose bytes are counted.
    pub way: Way,
    /// It happens when so many bytes were read.
    pub at: u64,
    /// What happens.
    pub fault: Fault,
}

/// What connections amounted to, each counted when both its ends are gone.
#[derive(Debug, Default)]
pub struct Totals {
    /// Connections not gone yet.
    pub live: AtomicU64,
    /// Bytes read, up and down.
    pub bytes: [AtomicU64; 2],
    /// Faults that happened.
    pub faults: AtomicU64,
}

#[derive(Debug)]
struct Cable {
    state: Mutex<State>,
    totals: Arc<Totals>,
}

#[derive(Debug)]
struct State {
    quality: Quality,
    lanes: [Lane; 2],
    /// Nothing is delivered before.
    stalled_until: Option<Instant>,
    dark: bool,
    cuts: Vec<Cut>,
    faults: u64,
    idle_polls: (Instant, u32),
    /// When something was written last.
    written: Instant,
}

/// One way, and what its reader and its writer see of the connection.
#[derive(Debug)]
struct Lane {
    under_way: VecDeque<(Instant, VecDeque<u8>)>,
    len: usize,
    free_at: Instant,
    read: u64,
    /// The writer has finished.
    fin: bool,
    /// What is written goes nowhere.
    lost: bool,
    /// Reading returns the end at once, writing the other way fails.
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The end that *writes* this way is reset from then on.
    reset_at: Option<Instant>,
    writer_gone: bool,
}

impl Lane {
    fn new(now: Instant) -> Self {
        Self {
            under_way: VecDeque::new(),
            len: 0,
            free_at: now,
            read: 0,
            fin: false,
            lost: false,
            closed: false,
            reader: None,
            writer: None,
            reset_at: None,
            writer_gone: false,
        }
    }

    fn clear(&mut self) {
        self.under_way.clear();
        self.len = 0;
    }

    fn wake(&mut self) {
        for waker in [&mut self.reader, &mut self.writer] {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }
}

const fn index(way: Way) -> usize {
    match way {
        Way::Up => 0,
        Way::Down => 1,
    }
}

const fn other(way: Way) -> Way {
    match way {
        Way::Up => Way::Down,
        Way::Down => Way::Up,
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct End {
    cable: Arc<Cable>,
    /// The way this end writes.
    way: Way,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// The end of the one who dialled and the end of the one who accepted.
#[must_use]
pub fn connect(quality: Quality, cuts: Vec<Cut>, totals: &Arc<Totals>) -> (End, End) {
    let now = Instant::now();
    let mut state = State {
        quality,
        lanes: [Lane::new(now), Lane::new(now)],
        stalled_until: None,
        dark: false,
        cuts,
        faults: 0,
        idle_polls: (now, 0),
        written: now,
    };
    state.cut(Way::Up, now);
    state.cut(Way::Down, now);
    totals.live.fetch_add(1, Ordering::Relaxed);
    let cable = Arc::new(Cable {
        state: Mutex::new(state),
        totals: Arc::clone(totals),
    });
    let end = |way| End {
        cable: Arc::clone(&cable),
        way,
        sleep: None,
    };
    (end(Way::Up), end(Way::Down))
}

impl Cable {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let state = self.lock();
        let add = |total: &AtomicU64, n| total.fetch_add(n, Ordering::Relaxed);
        for (total, lane) in self.totals.bytes.iter().zip(&state.lanes) {
            add(total, lane.read);
        }
        add(&self.totals.faults, state.faults);
        self.totals.live.fetch_sub(1, Ordering::Relaxed);
    }
}

impl State {
    /// Lets everything happen that is due when this many bytes were read from `way`.
    fn cut(&mut self, way: Way, now: Instant) {
        let read = self.lanes[index(way)].read;
        while let Some(due) = self
            .cuts
            .iter()
            .position(|cut| cut.way == way && cut.at <= read)
        {
            let cut = self.cuts.remove(due);
            self.faults += 1;
            self.happen(cut.way, cut.fault, now);
        }
    }

    /// Bytes that may be read from `way` before the next cut.
    fn until_cut(&self, way: Way) -> usize {
        let read = self.lanes[index(way)].read;
        self.cuts
            .iter()
            .filter(|cut| cut.way == way)
            .map(|cut| cut.at - read)
            .min()
            .map_or(usize::MAX, |left| left as usize)
    }

    fn happen(&mut self, way: Way, fault: Fault, now: Instant) {
        match fault {
            Fault::Reset => {
                for lane in &mut self.lanes {
                    lane.clear();
                    lane.reset_at = Some(now);
                }
            }
            Fault::Close => {
                for lane in &mut self.lanes {
                    lane.clear();
                    lane.closed = true;
                }
            }
            Fault::HalfClose => {
                let lane = &mut self.lanes[index(way)];
                lane.clear();
                lane.fin = true;
                lane.lost = true;
            }
            Fault::Stall(span) => self.stalled_until = Some(now + span),
            Fault::BlackHole => self.dark = true,
            Fault::Ghost(late) => {
                let lane = &mut self.lanes[index(way)];
                lane.reset_at = Some(now);
                for (at, _) in &mut lane.under_way {
                    *at += late;
                }
                let back = &mut self.lanes[index(other(way))];
                back.clear();
                back.lost = true;
            }
        }
        for lane in &mut self.lanes {
            lane.wake();
        }
    }

    /// A task that asks again and again without anything happening spins.
    fn count_poll(&mut self, now: Instant) {
        let (since, polls) = &mut self.idle_polls;
        if *since != now {
            (*since, *polls) = (now, 0);
        }
        *polls += 1;
        assert!(
            *polls < IDLE_POLLS_MAX,
            "a task spins: {IDLE_POLLS_MAX} polls of a connection, and nothing happens"
        );
    }

    fn write(
        &mut self,
        way: Way,
        cx: &Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let now = Instant::now();
        self.count_poll(now);
        let Quality {
            latency,
            rate,
            capacity,
            write_max,
            ..
        } = self.quality;
        let reader_gone = self.lanes[index(other(way))].writer_gone;
        let lane = &mut self.lanes[index(way)];
        if lane.reset_at.is_some_and(|at| now >= at) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if lane.closed || lane.fin && !lane.lost {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let wanted = bufs
            .iter()
            .map(|buf| buf.len())
            .sum::<usize>()
            .min(write_max);
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        if lane.lost || reader_gone {
            if !lane.lost && !self.dark && lane.reset_at.is_none() {
                // A closed socket answers bytes with a reset, if they reach it.
                lane.reset_at = Some(now + latency * 2);
                if let Some(waker) = self.lanes[index(other(way))].reader.take() {
                    waker.wake();
                }
            }
            self.idle_polls.1 = 0;
            return Poll::Ready(Ok(wanted));
        }
        let room = capacity.saturating_sub(lane.len);
        if room == 0 {
            lane.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let len = wanted.min(room);
        let mut bytes = VecDeque::with_capacity(len);
        for buf in bufs {
            let part = buf.len().min(len - bytes.len());
            bytes.extend(&buf[..part]);
        }
        self.written = now;
        lane.free_at = lane.free_at.max(now);
        if let Some(rate) = rate {
            lane.free_at += Duration::from_nanos(len as u64 * 1_000_000_000 / rate);
        }
        lane.under_way.push_back((lane.free_at + latency, bytes));
        lane.len += len;
        if let Some(waker) = lane.reader.take() {
            waker.wake();
        }
        self.idle_polls.1 = 0;
        Poll::Ready(Ok(len))
    }

    /// Ready, or when to look again.
    fn read(
        &mut self,
        way: Way,
        cx: &Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Result<io::Result<()>, Option<Instant>> {
        let now = Instant::now();
        self.count_poll(now);
        let from = index(other(way));
        let idle_until = self.quality.idle_max.map(|time| self.written + time);
        if idle_until.is_some_and(|until| now >= until) && self.lanes[from].reset_at.is_none() {
            self.faults += 1;
            self.happen(way, Fault::Reset, now);
        }
        let reset_at = self.lanes[index(way)].reset_at;
        if reset_at.is_some_and(|at| now >= at) {
            return Ok(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.lanes[from].closed {
            return Ok(Ok(()));
        }
        if self.dark || self.stalled_until.is_some_and(|until| now < until) {
            self.lanes[from].reader = Some(cx.waker().clone());
            return Err(self.stalled_until.filter(|_| !self.dark));
        }
        let mut room = buf
            .remaining()
            .min(self.quality.read_max)
            .min(self.until_cut(other(way)));
        let lane = &mut self.lanes[from];
        let mut len = 0;
        while room > 0
            && let Some((at, bytes)) = lane.under_way.front_mut()
            && *at <= now
        {
            let (front, _) = bytes.as_slices();
            let part = front.len().min(room);
            buf.put_slice(&front[..part]);
            bytes.drain(..part);
            len += part;
            room -= part;
            if bytes.is_empty() {
                lane.under_way.pop_front();
            }
        }
        if len > 0 {
            lane.len -= len;
            lane.read += len as u64;
            if let Some(waker) = lane.writer.take() {
                waker.wake();
            }
            self.idle_polls.1 = 0;
            self.cut(other(way), now);
            return Ok(Ok(()));
        }
        if lane.fin && lane.under_way.is_empty() {
            return Ok(Ok(()));
        }
        lane.reader = Some(cx.waker().clone());
        let arrival = lane.under_way.front().map(|(at, _)| *at);
        Err([arrival, reset_at, idle_until].into_iter().flatten().min())
    }

    /// The end that writes `way` is dropped.
    fn leave(&mut self, way: Way) {
        let now = Instant::now();
        let latency = self.quality.latency;
        let unread = self.lanes[index(other(way))].len > 0;
        let lane = &mut self.lanes[index(way)];
        lane.writer_gone = true;
        // What it still waits to read goes nowhere; its wakers would keep its task alive.
        lane.writer = None;
        self.lanes[index(other(way))].reader = None;
        if self.dark || self.lanes[index(way)].reset_at.is_some_and(|at| now >= at) {
            // Nobody hears of it.
        } else if unread {
            let peer = &mut self.lanes[index(other(way))];
            peer.clear();
            peer.reset_at.get_or_insert(now + latency);
            // What was on its way before the reset arrives before it; what waited does not leave.
            let lane = &mut self.lanes[index(way)];
            let mut len = 0;
            lane.under_way.retain(|(at, bytes)| {
                let left = *at <= now + latency;
                len += if left { bytes.len() } else { 0 };
                left
            });
            lane.len = len;
        } else {
            self.lanes[index(way)].fin = true;
        }
        for lane in &mut self.lanes {
            lane.wake();
        }
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let way = self.way;
            let read = self.cable.lock().read(way, cx, buf);
            match read {
                Ok(result) => return Poll::Ready(result),
                Err(None) => return Poll::Pending,
                Err(Some(at)) => ready!(self.poll_sleep(cx, at)),
            }
        }
    }
}

impl End {
    fn poll_sleep(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx)
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let way = self.way;
        self.cable.lock().write(way, cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let way = self.way;
        self.cable.lock().write(way, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let way = self.way;
        let mut state = self.cable.lock();
        let lane = &mut state.lanes[index(way)];
        lane.fin = true;
        lane.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.cable.lock().leave(self.way);
    }
}
