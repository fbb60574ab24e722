//! Endpoints: local sources and sinks of bytes, one file a kind.
//!
//! Kinds are known here and in their own file only. A kind is a value, not a verb; direction is
//! not part of it.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use bytes::BytesMut;

/// Where bytes come from. Cancel safety: progress is kept in the source; a dropped poll loses
/// nothing.
pub trait Source: Send + std::fmt::Debug {
    /// Ready when a read would return something (data, the end, an error). Holds no buffer, so
    /// that an idle source costs no memory.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Appends between 1 and `max` bytes to `buf`, into spare capacity the caller provided;
    /// `Ok(0)` is the end. A source that needs a thread may take the buffer out of `buf` while it
    /// is pending and put it back when ready.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>>;
}

/// Where bytes go to. Cancel safety: as for [`Source`].
pub trait Sink: Send + std::fmt::Debug {
    /// Writes some of `bufs` and says how many bytes it took; never `Ok(0)` for non-empty `bufs`.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// Ready when the reader has gone away even though nothing is being written. Pending for ever
    /// for sinks that cannot know (a regular file).
    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Finishes: ready with `Ok` only when the last write and the close have returned.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}
