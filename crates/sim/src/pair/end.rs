//! What the application at one end knows of a stream, and what it does by itself.

use farpipe_proto::wire::control::{Abort, AbortCode, Accept, Exit, Refuse};

/// What the application does without being asked.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Joins every stream the peer opens.
    pub accepts: bool,
    /// What it says then.
    pub accept: Accept,
    /// Reads what comes as it comes.
    pub reads: bool,
    /// Says DONE once it has read all of a stream that is finished.
    pub says_done: bool,
}

/// The application's side of one stream.
#[derive(Debug, Default)]
pub struct End {
    /// All that was ever written.
    pub written: Vec<u8>,
    /// How much of it was given a number.
    pub numbered: usize,
    /// All that ever came.
    pub received: Vec<u8>,
    /// How much of it was read.
    pub read: usize,
    /// No more will be written.
    pub closed: bool,
    /// The peer's FIN came.
    pub finished: bool,
    /// The peer's RESET came.
    pub reset: Option<Abort>,
    /// The peer's STOP came.
    pub stopped: Option<Abort>,
    /// The peer's DONE came.
    pub done: bool,
    /// Our DONE was said.
    pub said_done: bool,
    /// The peer's ACCEPT came.
    pub accepted: bool,
    /// The peer's REFUSE came.
    pub refused: Option<Refuse>,
    /// The peer's EXIT came.
    pub exit: Option<Exit>,
    /// Reads nothing until told.
    pub paused: bool,
    /// Told to wait for `Writable`.
    pub(super) waiting: bool,
    /// In the queue of those that may number bytes.
    pub(super) ready: bool,
    pub(super) said_fin: bool,
    /// How much of `received` was compared with what the peer wrote.
    pub(super) compared: usize,
}

/// An abort of this code, without words.
#[must_use]
pub fn abort(code: AbortCode) -> Abort {
    Abort::new(code, "")
}
