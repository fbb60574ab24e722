//! Keeps what was sent until it is acknowledged, and recycles it last in, first out.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;

use crate::link::{Link, WINDOW};

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

/// Memory of which a clone, as shared bytes, can be handed to a library.
#[derive(Debug)]
pub struct Shared(Arc<Vec<u8>>);

/// The front of a buffer, as the owner behind shared bytes.
struct Front(Arc<Vec<u8>>, usize);

impl AsRef<[u8]> for Front {
    fn as_ref(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

impl Retained<'_, Shared> {
    /// The stream's bytes from `start` in a recycled buffer, which is kept too.
    pub fn next(&mut self, start: u64, len: usize) -> Result<Bytes> {
        let fresh = || Shared(Arc::new(vec![0; self.link.message]));
        let mut buffer = self.take(start, len, fresh);
        if Arc::get_mut(&mut buffer.0).is_none() {
            // The library still holds it, although all of it has arrived.
            buffer = fresh();
        }
        let memory = Arc::get_mut(&mut buffer.0).expect("no library has seen it since");
        self.link.fill(start, &mut memory[..len])?;
        let bytes = Bytes::from_owner(Front(Arc::clone(&buffer.0), len));
        self.keep(start + len as u64, buffer);
        Ok(bytes)
    }
}
