//! Keeps what was sent until it is acknowledged, and recycles it last in, first out.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::link::{Link, WINDOW, pieces};

/// Buffers in use and free. The buffer that came free last is taken first: it is the warmest.
#[derive(Debug)]
pub struct Retained<'a, B> {
    link: &'a Link,
    free: Vec<B>,
    kept: VecDeque<(u64, B)>,
}

impl<'a, B> Retained<'a, B> {
    pub fn new(link: &'a Link) -> Self {
        Self {
            link,
            free: Vec::new(),
            kept: VecDeque::new(),
        }
    }

    /// A free buffer, if need be after waiting for room in the window.
    pub fn take(&mut self, start: u64, len: usize, make: impl FnOnce() -> B) -> B {
        let end = start + len as u64;
        self.link.wait_acked(end.saturating_sub(WINDOW));
        let released = if self.link.keep_last {
            end.saturating_sub(WINDOW)
        } else {
            self.link.acked()
        };
        while self.kept.front().is_some_and(|(end, _)| *end <= released) {
            let (_, buffer) = self.kept.pop_front().expect("there is a first one");
            self.free.push(buffer);
        }
        self.free.pop().unwrap_or_else(make)
    }

    /// Keeps a buffer that holds the bytes before `end`.
    pub fn keep(&mut self, end: u64, buffer: B) {
        self.kept.push_back((end, buffer));
    }
}

/// A buffer for libraries that take shared bytes: what was handed out, and the allocation's rest,
/// through which it is used again once every clone is gone.
#[derive(Debug)]
pub struct Shared {
    sent: Bytes,
    rest: BytesMut,
}

impl<'a> Retained<'a, Shared> {
    /// The stream's bytes from `start` in a recycled buffer, of which a clone is kept.
    pub fn next(&mut self, start: u64, len: usize) -> Bytes {
        let mut buffer = self.take(start, len, || Shared {
            sent: Bytes::new(),
            rest: BytesMut::with_capacity(self.link.message),
        });
        buffer.sent = Bytes::new();
        buffer.rest.reserve(len);
        for piece in pieces(start, len) {
            buffer.rest.extend_from_slice(piece);
        }
        buffer.sent = buffer.rest.split().freeze();
        let bytes = buffer.sent.clone();
        self.keep(start + len as u64, buffer);
        bytes
    }
}
