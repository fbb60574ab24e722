//! The rules of farpipe, without I/O.
//!
//! Two layers, as in docs/protocol.md: a [`link`] is what two neighbours say to each other over one
//! carrier (handshake, keepalive, tunnels); a [`session`] is what two far ends say to each other,
//! one resumable byte stream per direction that outlives carriers and carries many streams.
//!
//! The contract of every state machine here is the same: `handle_*` takes what happened, `poll_*`
//! says what to do next, and the time is always an argument. Nothing here reads a clock, a socket,
//! a file or a random number; nothing here holds payload: a transmit names a range of bytes, and
//! the caller owns them.

pub mod identity;
pub mod limits;
pub mod link;
pub mod session;
pub mod time;
pub mod topic;
pub mod wire;

pub use time::Instant;
