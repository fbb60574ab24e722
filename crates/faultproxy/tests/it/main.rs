//! Every fault, proved with real sockets: the test holds both ends and the proxy is between them.
//!
//! Tests with `start_paused` run on tokio's clock, which jumps to the next timer when all tasks
//! wait: a fault's time is exact there, and "nothing arrives for ten seconds" costs nothing. Such a
//! test must not have a timer of its own pending while it waits for a socket.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

#[cfg(feature = "cli")]
mod command;
mod cuts;
mod frames;
mod oneway;
mod peer;
mod shapes;
mod switches;
