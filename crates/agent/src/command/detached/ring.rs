//! What a command said, or is to read, while nobody may be there to take it: a bounded queue of
//! bytes. Full, it makes the command wait as a pipe does, or loses the oldest lines if whoever
//! started the command chose that.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;

/// The queue of one direction.
///
/// What was taken is only lent until the session says that it has arrived: of an attachment that is
/// lost, the next one gets what did not.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    /// The first of them, which were taken.
    lent: usize,
    /// Which of those have arrived when the session's peer has so many bytes.
    marks: VecDeque<(u64, usize)>,
    /// Lent, and without a mark.
    unmarked: usize,
    /// Bytes that wait to be taken, at most.
    max: usize,
    /// Whether the oldest are lost when it is full.
    drops: bool,
    dropped: u64,
    dropped_untold: u64,
    /// What was taken last was no whole line; and what arrived last.
    is_mid_line: bool,
    has_arrived_mid_line: bool,
    has_ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Ring {
    pub(super) fn new(max: usize, drops: bool) -> Self {
        Self {
            bytes: VecDeque::new(),
            lent: 0,
            marks: VecDeque::new(),
            unmarked: 0,
            max,
            drops,
            dropped: 0,
            dropped_untold: 0,
            is_mid_line: false,
            has_arrived_mid_line: false,
            has_ended: false,
            reader: None,
            writer: None,
        }
    }

    /// One that nothing comes to any more.
    pub(super) fn ended(bytes: Vec<u8>) -> Self {
        Self {
            bytes: bytes.into(),
            has_ended: true,
            ..Self::new(0, false)
        }
    }

    /// Bytes that have not arrived.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether something was taken and has not arrived.
    pub(super) fn is_lent(&self) -> bool {
        self.lent > 0
    }

    /// Bytes that wait to be taken.
    fn waiting(&self) -> usize {
        self.bytes.len() - self.lent
    }

    /// Bytes lost in all.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Bytes lost since this was asked last.
    pub(super) fn tell_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped_untold)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Ready with how many bytes may be pushed, at least 1. Also remembers who is to be woken by
    /// [`Ring::wake`].
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        self.writer = Some(cx.waker().clone());
        let room = if self.drops {
            self.max
        } else {
            self.max.saturating_sub(self.waiting())
        };
        if room == 0 {
            return Poll::Pending;
        }
        Poll::Ready(room)
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let over = self.waiting().saturating_sub(self.max);
        if self.drops && over > 0 {
            self.lose(over);
        }
        wake(&mut self.reader);
    }

    /// Loses the oldest lines that wait: so many bytes, and the rest of their line. The line whose
    /// beginning was taken keeps its end, unless that is all there is.
    fn lose(&mut self, over: usize) {
        let mut rest = self.bytes.range(self.lent..);
        let line = rest
            .position(|b| *b == b'\n')
            .filter(|at| self.is_mid_line && self.lent + at + 1 < self.bytes.len());
        let from = line.map_or(self.lent, |at| self.lent + at + 1);
        let behind = (from + over).min(self.bytes.len());
        let line = self.bytes.range(behind - 1..).position(|b| *b == b'\n');
        let end = line.map_or(behind, |at| behind + at);
        let lost = self.bytes.drain(from..end).len() as u64;
        self.dropped += lost;
        self.dropped_untold += lost;
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
        self.wake();
    }

    /// Ready with how many bytes were appended, at most `max`; 0 at the end.
    pub(super) fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut BytesMut,
        max: usize,
    ) -> Poll<usize> {
        if self.poll_ready(cx).is_pending() {
            return Poll::Pending;
        }
        let len = self.waiting().min(max);
        let waiting = self.bytes.range(self.lent..self.lent + len);
        into.extend(waiting);
        if len > 0 {
            self.is_mid_line = into.last() != Some(&b'\n');
        }
        self.lent += len;
        self.unmarked += len;
        wake(&mut self.writer);
        Poll::Ready(len)
    }

    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.reader = Some(cx.waker().clone());
        if self.waiting() == 0 && !self.has_ended {
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Notes that all that was taken is part of the session's first `numbered` bytes, of which the
    /// peer has `acked`.
    pub(super) fn account(&mut self, numbered: u64, acked: u64) {
        if self.unmarked > 0 {
            let len = std::mem::take(&mut self.unmarked);
            self.marks.push_back((numbered, len));
        }
        while let Some((_, len)) = self.marks.pop_front_if(|(at, _)| *at <= acked) {
            self.arrived(len);
        }
    }

    /// All that was taken is where it belongs.
    pub(super) fn arrived_all(&mut self) {
        self.marks.clear();
        self.unmarked = 0;
        self.arrived(self.lent);
    }

    fn arrived(&mut self, len: usize) {
        if let Some(last) = self.bytes.drain(..len).next_back() {
            self.has_arrived_mid_line = last != b'\n';
        }
        self.lent -= len;
        if self.bytes.is_empty() {
            self.bytes.shrink_to(0);
        }
    }

    /// What was taken and has not arrived is there again.
    pub(super) fn take_back(&mut self) {
        self.marks.clear();
        self.unmarked = 0;
        self.lent = 0;
        self.is_mid_line = self.has_arrived_mid_line;
    }

    /// Has both sides look again.
    pub(super) fn wake(&mut self) {
        wake(&mut self.reader);
        wake(&mut self.writer);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(ring: &mut Ring, max: usize) -> Option<Vec<u8>> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut into = BytesMut::new();
        match ring.poll_take(&mut cx, &mut into, max) {
            Poll::Ready(len) => {
                assert_eq!(len, into.len());
                Some(into.to_vec())
            }
            Poll::Pending => None,
        }
    }

    fn room(ring: &mut Ring) -> usize {
        match ring.poll_room(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(room) => room,
            Poll::Pending => 0,
        }
    }

    #[test]
    fn a_full_one_makes_the_writer_wait() {
        let mut ring = Ring::new(4, false);
        ring.push(b"abcd");
        assert_eq!(room(&mut ring), 0);
        assert_eq!(take(&mut ring, 3).as_deref(), Some(&b"abc"[..]));
        assert_eq!(room(&mut ring), 3);
        ring.end();
        assert_eq!(take(&mut ring, 9).as_deref(), Some(&b"d"[..]));
        assert_eq!(take(&mut ring, 9).as_deref(), Some(&b""[..]));
        assert_eq!(ring.dropped(), 0);
    }

    #[test]
    fn one_that_drops_loses_the_oldest_whole_lines_and_counts_them() {
        let mut ring = Ring::new(8, true);
        ring.push(b"one\ntwo\n");
        ring.push(b"3\n");
        assert_eq!(take(&mut ring, 99).as_deref(), Some(&b"two\n3\n"[..]));
        assert_eq!((ring.tell_dropped(), ring.tell_dropped()), (4, 0));
        // What is on its way is not lost; a line longer than all is cut.
        ring.push(b"0123456789");
        assert_eq!(take(&mut ring, 99).as_deref(), Some(&b"23456789"[..]));
        assert_eq!(ring.dropped(), 6);
    }

    #[test]
    fn a_line_whose_beginning_was_taken_keeps_its_end() {
        let mut ring = Ring::new(8, true);
        ring.push(b"one\ntwo\n");
        assert_eq!(take(&mut ring, 2).as_deref(), Some(&b"on"[..]));
        ring.push(b"33\n4\n");
        assert_eq!(take(&mut ring, 99).as_deref(), Some(&b"e\n33\n4\n"[..]));
        assert_eq!(ring.dropped(), 4);
        // The same for the next reader, when none of it had arrived.
        let mut ring = Ring::new(8, true);
        ring.push(b"one\ntwo\n");
        take(&mut ring, 2);
        ring.take_back();
        ring.push(b"3\n");
        assert_eq!(take(&mut ring, 99).as_deref(), Some(&b"two\n3\n"[..]));
    }

    #[test]
    fn what_did_not_arrive_is_there_again() {
        let mut ring = Ring::new(99, false);
        ring.push(b"abcdef");
        take(&mut ring, 2);
        ring.account(20, 0);
        take(&mut ring, 2);
        ring.account(40, 30);
        take(&mut ring, 1);
        ring.take_back();
        assert_eq!(take(&mut ring, 99).as_deref(), Some(&b"cdef"[..]));
        ring.arrived_all();
        assert_eq!(take(&mut ring, 99), None);
    }
}
