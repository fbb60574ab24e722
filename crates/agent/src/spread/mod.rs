//! One source for several readers: it is read once, and each reader takes it at its own pace, as a
//! source of its own.
//!
//! What some have not taken yet waits in one window (`window.rs`) that all share. When it is full, the
//! policy says what becomes of a reader that is behind: the source waits for it, it loses lines, or
//! what it lacks goes to a file. What always holds: a reader gets the bytes in order, each once, and
//! without dropping all of them.

mod spool;
mod window;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use farpipe_proto::limits::SPREAD_MAX;
use tokio::task::JoinHandle;

use self::spool::Spool;
use self::window::Window;
use crate::endpoint::Source;

/// Bytes read from the source at once, and moved to or from the spool.
const CHUNK: usize = 256 * 1024;

/// What becomes of a reader that is behind by more than is kept for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slow {
    /// The source waits for it.
    Block,
    /// It loses the oldest lines that it lacks, and is told so.
    Drop,
    /// What it lacks goes to a file of so many bytes at most; then the source waits.
    Spool(u64),
}

/// Longest end of a line that is kept beside the window for a reader that has its beginning: lines are
/// shorter, and all readers together may be behind at once.
const LINE_REST_MAX: u64 = 64 * 1024;

/// What a reader lost because it was behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// All of it.
    pub bytes: u64,
    /// Ends of lines among them.
    pub lines: u64,
}

/// A source that is shared.
#[derive(Debug)]
pub(crate) struct Spread {
    state: Mutex<State>,
    slow: Slow,
    spool: Option<Spool>,
}

#[derive(Debug)]
struct State {
    window: Window,
    readers: Vec<Reader>,
    /// Readers that were handed out.
    taken: usize,
    /// How the source ended, if it has.
    end: Option<Result<(), String>>,
    filler: Option<Waker>,
}

/// How far one reader is.
#[derive(Debug, Default)]
struct Reader {
    /// The offset of what it gets next, behind `tail`.
    at: u64,
    /// To be given to it before: the end of a line that it had the beginning of, and a mark.
    tail: BytesMut,
    /// What it got last from the window was no whole line.
    is_mid_line: bool,
    /// A line whose end has not come yet is lost to it.
    is_losing: bool,
    lost: Lost,
    /// Bytes of it that no mark tells yet.
    untold: u64,
    is_gone: bool,
    waker: Option<Waker>,
}

impl Spread {
    /// For so many readers.
    ///
    /// # Errors
    /// There can be no spool.
    pub(crate) fn new(readers: usize, slow: Slow) -> io::Result<Arc<Self>> {
        Self::with_window(readers, slow, SPREAD_MAX)
    }

    fn with_window(readers: usize, slow: Slow, window: usize) -> io::Result<Arc<Self>> {
        let spool = match slow {
            Slow::Spool(max) => Some(Spool::new(max)?),
            Slow::Block | Slow::Drop => None,
        };
        let state = State {
            window: Window::new(window),
            readers: std::iter::repeat_with(Reader::default)
                .take(readers)
                .collect(),
            taken: 0,
            end: None,
            filler: None,
        };
        Ok(Arc::new(Self {
            state: Mutex::new(state),
            slow,
            spool,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next reader's source; `None` when all have theirs.
    pub(crate) fn reader(self: &Arc<Self>) -> Option<Cursor> {
        let mut state = self.lock();
        let number = state.taken;
        if number >= state.readers.len() {
            return None;
        }
        state.taken += 1;
        Some(Cursor {
            spread: Arc::clone(self),
            number,
            spooled: None,
        })
    }

    /// Reads `source` to its end, or until nobody wants it any more, at the pace of its readers.
    ///
    /// # Errors
    /// The source's, or the spool's. The readers are to be told by [`Spread::end`].
    ///
    /// # Cancellation
    /// Dropping it loses what it holds: call [`Spread::end`].
    pub(crate) async fn fill(
        &self,
        source: &mut dyn Source,
        mut read: impl FnMut(usize),
    ) -> io::Result<()> {
        let mut buf = BytesMut::new();
        loop {
            let Some(room) = self.room().await? else {
                return Ok(());
            };
            buf.clear();
            buf.reserve(CHUNK);
            let reading = poll_fn(|cx| {
                if self.lock().poll_unwanted(cx).is_ready() {
                    return Poll::Ready(Ok(None));
                }
                ready!(source.poll_ready(cx))?;
                source.poll_read(cx, &mut buf, room.min(CHUNK)).map_ok(Some)
            });
            match reading.await? {
                None => return Ok(()),
                Some(0) => return Ok(()),
                Some(len) => {
                    read(len);
                    self.lock().push(&buf, self.slow);
                }
            }
        }
    }

    /// What a reader lost so far.
    pub(crate) fn lost(&self, number: usize) -> Lost {
        let state = self.lock();
        let reader = state.readers.get(number);
        reader.map(|reader| reader.lost).unwrap_or_default()
    }

    /// Says to all readers how the source has ended, behind what came from it. Only the first word
    /// counts.
    pub(crate) fn end(&self, end: Result<(), String>) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        state.wake_readers();
    }

    /// Bytes that may be read from the source now, at least 1; `None` when nobody wants them.
    async fn room(&self) -> io::Result<Option<usize>> {
        loop {
            let evicted = poll_fn(|cx| self.lock().poll_room(cx, self.slow));
            match evicted.await {
                Room::Unwanted => return Ok(None),
                Room::Free(room) => return Ok(Some(room)),
                Room::Spool { from, bytes } => {
                    let until = from + bytes.len() as u64;
                    if let Some(spool) = &self.spool {
                        spool.write(from, bytes).await?;
                    }
                    self.lock().window.forget_below(until);
                }
            }
        }
    }
}

/// What there is room for.
enum Room {
    Unwanted,
    Free(usize),
    /// For nothing before these oldest bytes are spooled.
    Spool {
        from: u64,
        bytes: Vec<u8>,
    },
}

impl State {
    fn poll_unwanted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.filler = Some(cx.waker().clone());
        match self.readers.iter().all(|reader| reader.is_gone) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// What the reader needs that is furthest behind.
    fn lowest(&self) -> u64 {
        let there = self.readers.iter().filter(|reader| !reader.is_gone);
        let lowest = there.map(|reader| reader.at).min();
        lowest.unwrap_or_else(|| self.window.end())
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, slow: Slow) -> Poll<Room> {
        if self.poll_unwanted(cx).is_ready() {
            return Poll::Ready(Room::Unwanted);
        }
        if slow == Slow::Drop {
            return Poll::Ready(Room::Free(self.window.size()));
        }
        let lowest = self.lowest();
        self.window.forget_below(lowest);
        let room = self.window.room();
        if room > 0 {
            return Poll::Ready(Room::Free(room));
        }
        let Slow::Spool(max) = slow else {
            return Poll::Pending;
        };
        let from = self.window.begin();
        let spooled = from - lowest;
        let len = (max - spooled.min(max)).min(CHUNK as u64);
        if len == 0 {
            return Poll::Pending;
        }
        let mut bytes = Vec::new();
        self.window
            .copy(from, usize::try_from(len).unwrap_or(CHUNK), &mut bytes);
        Poll::Ready(Room::Spool { from, bytes })
    }

    fn push(&mut self, bytes: &[u8], slow: Slow) {
        if slow == Slow::Drop {
            let keeps = (self.window.size() - bytes.len().min(self.window.size())) as u64;
            let end = self.window.end();
            let begin = end.saturating_sub(keeps);
            for reader in &mut self.readers {
                if !reader.is_gone && reader.at < begin {
                    reader.lose(&self.window, begin);
                }
            }
            self.window.forget_below(begin);
        }
        self.window.push(bytes);
        for reader in &mut self.readers {
            if reader.is_losing {
                reader.lose_line(&self.window, reader.at);
            }
        }
        self.wake_readers();
    }

    fn wake_readers(&mut self) {
        for reader in &mut self.readers {
            wake(&mut reader.waker);
        }
    }
}

impl Reader {
    /// Loses whole lines, at least up to `begin`: the one that it has the beginning of keeps its end, if
    /// that is there and not long; else that one is cut.
    fn lose(&mut self, window: &Window, begin: u64) {
        let mut is_whole = true;
        if std::mem::take(&mut self.is_mid_line) {
            match window.line_end(self.at) {
                Some(end) if end - self.at <= LINE_REST_MAX => {
                    let len = usize::try_from(end - self.at).unwrap_or(usize::MAX);
                    let mut rest = Vec::new();
                    window.copy(self.at, len, &mut rest);
                    self.tail.extend_from_slice(&rest);
                    self.at = end;
                }
                _ => {
                    // The mark has a line of its own.
                    self.tail.extend_from_slice(b"\n");
                    is_whole = false;
                }
            }
        }
        if self.at < begin || !is_whole {
            // What ends right before `begin` is a whole line.
            self.lose_line(window, begin.max(self.at + 1) - 1);
        }
    }

    /// Loses all up to the end of the line that `until` is in; also what of it is still to come.
    fn lose_line(&mut self, window: &Window, until: u64) {
        let end = window.line_end(until);
        let to = end.unwrap_or_else(|| window.end());
        self.is_losing = end.is_none();
        self.lost.bytes += to - self.at;
        self.lost.lines += window.lines(self.at, to);
        self.untold += to - self.at;
        self.at = to;
    }

    /// Whether there is something to tell of what it lost, all of which is known.
    fn has_untold(&self, has_ended: bool) -> bool {
        self.untold > 0 && (!self.is_losing || has_ended)
    }

    /// Has a mark ready where lines are missing.
    fn mark(&mut self) {
        let untold = std::mem::take(&mut self.untold);
        let mark = format!("farpipe: {untold} bytes were dropped here\n");
        self.tail.extend_from_slice(mark.as_bytes());
    }
}

/// What one reader of a shared source gets. Dropping it is that reader's leave.
#[derive(Debug)]
pub(crate) struct Cursor {
    spread: Arc<Spread>,
    number: usize,
    /// What comes from the spool.
    spooled: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

/// What there is for a reader.
enum Next {
    Given(usize),
    Spooled { from: u64, len: usize },
}

impl Cursor {
    /// Which of the readers it is for.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    fn poll_next(
        &self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<Next>> {
        let mut state = self.spread.lock();
        let State {
            window,
            readers,
            end,
            filler,
            ..
        } = &mut *state;
        let Some(reader) = readers.get_mut(self.number) else {
            return Poll::Ready(Ok(Next::Given(0)));
        };
        if reader.tail.is_empty() && reader.has_untold(end.is_some()) {
            reader.mark();
        }
        if !reader.tail.is_empty() {
            let tail = reader.tail.split_to(max.min(reader.tail.len()));
            buf.extend_from_slice(&tail);
            return Poll::Ready(Ok(Next::Given(tail.len())));
        }
        if reader.at < window.begin() {
            let spooled = usize::try_from(window.begin() - reader.at).unwrap_or(CHUNK);
            let (from, len) = (reader.at, spooled.min(max).min(CHUNK));
            return Poll::Ready(Ok(Next::Spooled { from, len }));
        }
        let len = window.copy(reader.at, max, buf);
        if len > 0 {
            reader.at += len as u64;
            reader.is_mid_line = buf.last() != Some(&b'\n');
            wake(filler);
            return Poll::Ready(Ok(Next::Given(len)));
        }
        match end {
            Some(Ok(())) => Poll::Ready(Ok(Next::Given(0))),
            Some(Err(why)) => Poll::Ready(Err(io::Error::other(why.clone()))),
            None => {
                reader.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Takes what was read from the spool.
    fn poll_spooled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        let Some(reading) = &mut self.spooled else {
            return Poll::Ready(Ok(Vec::new()));
        };
        let read = ready!(Pin::new(reading).poll(cx));
        self.spooled = None;
        Poll::Ready(read.unwrap_or_else(|error| Err(io::Error::other(error))))
    }
}

impl Source for Cursor {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.spooled.is_some() {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.spread.lock();
        let end = state.window.end();
        let has_ended = state.end.is_some();
        let Some(reader) = state.readers.get_mut(self.number) else {
            return Poll::Ready(Ok(()));
        };
        let has_some = reader.at < end || !reader.tail.is_empty() || reader.has_untold(has_ended);
        if has_some || has_ended {
            return Poll::Ready(Ok(()));
        }
        reader.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let max = max.min(buf.capacity() - buf.len());
        loop {
            if self.spooled.is_some() {
                let bytes = ready!(self.poll_spooled(cx))?;
                let len = bytes.len().min(max);
                buf.extend_from_slice(&bytes[..len]);
                let mut state = self.spread.lock();
                if let Some(reader) = state.readers.get_mut(self.number) {
                    reader.at += len as u64;
                }
                wake(&mut state.filler);
                return Poll::Ready(Ok(len));
            }
            match ready!(self.poll_next(cx, buf, max))? {
                Next::Given(len) => return Poll::Ready(Ok(len)),
                Next::Spooled { from, len } => {
                    let Some(spool) = &self.spread.spool else {
                        return Poll::Ready(Err(io::Error::other("what was kept is lost")));
                    };
                    self.spooled = Some(spool.read(from, len));
                }
            }
        }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        let mut state = self.spread.lock();
        if let Some(reader) = state.readers.get_mut(self.number) {
            reader.is_gone = true;
        }
        wake(&mut state.filler);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
