//! Which end of a session this is, and what it is set to.

use crate::limits::{STREAMS_MAX, WINDOW_SESSION_MAX};

/// Which end of the session this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Chose the key; opens odd streams; redials.
    Opener,
    /// Opens even streams; parks; sends COMPLETE.
    Acceptor,
}

/// Settings of one session.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Which end this is.
    pub side: Side,
    /// Bytes retained at most, and the windows' sum at most. Default and maximum 64 MiB.
    pub buffer_max: u64,
    /// Streams open at once at most. Default 256.
    pub streams_max: usize,
    /// The streams go on elsewhere: that a sink has ended in order, with all that was sent to it, is
    /// answered by [`Session::reset`](super::Session::reset), when it is known whether more was on its
    /// way. Default: it is answered at once.
    pub answers_ends: bool,
}

impl SessionConfig {
    /// The defaults of one side.
    #[must_use]
    pub const fn new(side: Side) -> Self {
        Self {
            side,
            buffer_max: WINDOW_SESSION_MAX,
            streams_max: STREAMS_MAX,
            answers_ends: false,
        }
    }
}
