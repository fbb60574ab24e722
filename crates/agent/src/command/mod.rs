//! Commands that a peer asks for (docs/protocol.md section 6.7): `farpipe agent` runs them,
//! `farpipe exec` asks.
//!
//! The way of a request: `request.rs` makes a checked value of it, `may.rs` looks up what it
//! means here and asks the policy whether its caller may have it, `launch.rs` makes a process of it (or `spawner.rs`
//! has another process do so, which is not closed as this one may be),
//! `process.rs` ends it with all that it started, and `serve.rs` joins it to its streams
//! (`crate::serve` is where they come from).
//! `detached/` has those that go on without their caller. `ask.rs` is the other side.

pub mod ask;
pub mod detached;
pub(crate) mod environment;
mod input;
pub mod launch;
pub(crate) mod may;
mod process;
mod pty;
pub(crate) mod request;
mod serve;
pub mod spawner;
