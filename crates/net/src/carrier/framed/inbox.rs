//! Where received bytes lie until they are handed on, and how much is read at once.
//!
//! A carrier that waits holds no buffer at all; one that gets little reads into a small buffer of
//! its own; one that gets much reads into slots of the pool.

use std::fmt;
use std::io;
use std::mem;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::pool::Pool;

/// First read: holds the messages of a handshake or a burst of keystrokes, and is cheap to have
/// ten thousand times.
pub(super) const SMALL: usize = 8 << 10;

/// A rest smaller than this is not worth a system call; a new buffer is taken.
const SMALL_REST_MIN: usize = 1 << 10;

/// A slot is used on while more than this part of it is left (a quarter: 128 KiB of 512 KiB, above
/// which larger reads gain little).
const SLOT_REST_DIVISOR: usize = 4;

/// So many reads in a row that would have fitted into a small buffer bring the small one back.
const SMALL_READS_MAX: u8 = 8;

/// Received bytes that are not decoded yet, and room behind them.
pub(super) struct Inbox {
    /// Emptied by decoding before each read.
    pub(super) buf: BytesMut,
    /// Whether `buf` belongs to the pool.
    slot: bool,
    /// Whether reads have been filling their buffers.
    grown: bool,
    /// Reads in a row that needed no slot.
    small_reads: u8,
}

impl Inbox {
    pub(super) fn new(read_ahead: BytesMut) -> Self {
        Self {
            buf: read_ahead,
            slot: false,
            grown: false,
            small_reads: 0,
        }
    }

    /// As if reads had been filling their buffers.
    #[cfg(test)]
    pub(super) fn grow(&mut self) {
        self.grown = true;
    }

    /// Reads once. `expected`: bytes that are known to come. Ready with 0: the end.
    pub(super) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        expected: usize,
        mut pool: Option<&mut Pool>,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(self.buf.is_empty(), "decoding takes all it is given");
        self.make_room(expected, pool.as_deref_mut());
        let room = self.buf.capacity();
        let read = pin!(stream.read_buf(&mut self.buf)).poll(cx);
        match &read {
            Poll::Pending => self.release(pool),
            Poll::Ready(Ok(len)) => self.adapt(*len, room),
            Poll::Ready(Err(_)) => {}
        }
        read
    }

    /// Reads once and throws away what came. Ready with 0: the end.
    pub(super) fn poll_discard<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<usize>> {
        self.buf.clear();
        let read = self.poll_fill(cx, stream, 0, None);
        self.buf.clear();
        read
    }

    fn make_room(&mut self, expected: usize, mut pool: Option<&mut Pool>) {
        let large = self.grown || expected > SMALL;
        if self.slot {
            let Some(pool) = pool.as_deref_mut() else {
                // Only closing reads without a pool; the slot's memory goes with its last part.
                *self = Self::new(BytesMut::with_capacity(SMALL));
                return;
            };
            // From the front if all parts were dropped: those bytes are still in the CPU's cache.
            let whole = large && self.buf.try_reclaim(pool.slot_size());
            if whole || large && self.buf.capacity() >= pool.slot_size() / SLOT_REST_DIVISOR {
                return;
            }
            pool.put_back(mem::take(&mut self.buf));
            self.slot = false;
        }
        if let Some(pool) = pool
            && large
            && pool.slot_size() > SMALL
            && let Some(slot) = pool.take(pool.slot_size() / SLOT_REST_DIVISOR)
        {
            self.buf = slot;
            self.slot = true;
            return;
        }
        // Also when all slots are in use: small reads are slow, waiting for a slot could be for ever.
        if !self.buf.try_reclaim(SMALL) && self.buf.capacity() < SMALL_REST_MIN {
            self.buf = BytesMut::with_capacity(SMALL);
        }
    }

    fn adapt(&mut self, len: usize, room: usize) {
        if len == room {
            self.grown = true;
            self.small_reads = 0;
        } else if len > SMALL {
            self.small_reads = 0;
        } else {
            self.small_reads = self.small_reads.saturating_add(1);
            self.grown &= self.small_reads < SMALL_READS_MAX;
        }
    }

    /// Holds no memory while waiting. A small buffer with parts still in use is kept, so that many
    /// tiny parts share one and do not each pin their own.
    fn release(&mut self, pool: Option<&mut Pool>) {
        if self.slot {
            let rest = mem::take(&mut self.buf);
            self.slot = false;
            if let Some(pool) = pool {
                pool.put_back(rest);
            }
        } else if self.buf.try_reclaim(SMALL) {
            self.buf = BytesMut::new();
        }
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("bytes", &self.buf.len())
            .field("slot", &self.slot)
            .field("grown", &self.grown)
            .finish_non_exhaustive()
    }
}
