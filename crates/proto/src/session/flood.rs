//! Counts what costs the peer nothing and us something.

use std::collections::VecDeque;

use super::SessionError;
use crate::limits::{EMPTY_FRAMES_MAX, RESETS_MAX, RESETS_WINDOW};
use crate::time::Instant;

/// What the peer has sent that no credit bounds.
#[derive(Debug, Default)]
pub(super) struct Floods {
    /// Empty BYTES frames in a row.
    empty_frames: u32,
    /// When the peer's streams were reset, as far back as [`RESETS_WINDOW`]. Bound: one more than
    /// [`RESETS_MAX`], in at most 32 KiB; of the streams themselves nothing is left once both sides
    /// are done.
    resets: VecDeque<Instant>,
}

impl Floods {
    /// A BYTES frame of `len` bytes begins.
    pub(super) fn count_bytes(&mut self, len: usize) -> Result<(), SessionError> {
        self.empty_frames = if len == 0 { self.empty_frames + 1 } else { 0 };
        if self.empty_frames > EMPTY_FRAMES_MAX {
            return Err(SessionError::Flow("a flood of empty frames"));
        }
        Ok(())
    }

    /// The peer reset a stream it had opened.
    pub(super) fn count_reset(&mut self, now: Instant) -> Result<(), SessionError> {
        self.resets.push_back(now);
        while self
            .resets
            .front()
            .is_some_and(|at| now - *at > RESETS_WINDOW)
        {
            self.resets.pop_front();
        }
        if self.resets.len() > RESETS_MAX as usize {
            return Err(SessionError::Flow("streams opened and reset in a loop"));
        }
        Ok(())
    }
}
