//! Large buffers for TLS records: borrowed while there is something in them, given back when not.
//!
//! One read of half a megabyte of ciphertext and one write of as much cost little more than those of
//! a single record, which is most of what this TLS gains over others. A connection that waits holds
//! none of it: a process with ten thousand idle connections has a handful of these buffers.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use farpipe_proto::limits::TLS_BUFFER;

/// Free buffers that are kept. Policy when full: the returned one is dropped.
const FREE_MAX: usize = 4;

/// What a handshake begins with; both sides' first flights mostly fit.
const SMALL: usize = 4 << 10;

/// Free large buffers of all connections that share a configuration. The one returned last is given
/// out first: it is still in the CPU's cache.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| vec![0; TLS_BUFFER])
    }

    fn put_back(&self, buffer: Vec<u8>) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < FREE_MAX {
            free.push(buffer);
        }
    }
}

/// Bytes that were put in at the end and are taken out at the front.
///
/// Every byte of `bytes` is initialised once, when it is allocated, and never again.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    /// What is in it.
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The first `len` bytes of what is in it, to be changed in place.
    pub(super) fn front_mut(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.start..self.end][..len]
    }

    /// The room behind what is in it.
    pub(super) fn room_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// The first `len` bytes of the room were filled.
    pub(super) fn commit(&mut self, len: usize) {
        debug_assert!(
            len <= self.bytes.len() - self.end,
            "more than there was room for"
        );
        self.end += len;
    }

    /// The first `len` bytes are done with.
    pub(super) fn consume(&mut self, len: usize) {
        debug_assert!(len <= self.len(), "more than there was");
        self.start += len;
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Becomes a large buffer, and what is in it moves to the front.
    pub(super) fn enlarge(&mut self, buffers: &Buffers) {
        if self.bytes.len() < TLS_BUFFER {
            let mut large = buffers.take();
            large[..self.len()].copy_from_slice(self.filled());
            (self.start, self.end) = (0, self.len());
            self.bytes = large;
        } else if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.len());
        }
    }

    /// Makes room for `len` bytes at least, doubling what there is: an unknown peer gets only as
    /// much memory as it fills.
    pub(super) fn reserve(&mut self, len: usize) {
        if self.bytes.len() - self.end >= len {
            return;
        }
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.len());
        let wanted = self.end + len;
        if self.bytes.len() < wanted {
            self.bytes
                .resize(wanted.next_multiple_of(SMALL).max(2 * self.bytes.len()), 0);
        }
    }

    /// Gives the memory back if nothing is in it.
    pub(super) fn release(&mut self, buffers: &Buffers) {
        if !self.is_empty() || self.bytes.is_empty() {
            return;
        }
        let bytes = mem::take(&mut self.bytes);
        (self.start, self.end) = (0, 0);
        if bytes.len() == TLS_BUFFER {
            buffers.put_back(bytes);
        }
    }

    /// Bytes of memory it holds.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.bytes.len()
    }
}
