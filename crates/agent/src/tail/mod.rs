//! Files that are followed as they grow (docs/protocol.md section 6.11): an agent reads them, `farpipe
//! tail` asks and prints.
//!
//! At the agent `glob.rs` says which names a pattern means, `identity.rs` which file it is that has a name
//! now, `start.rs` where the last lines begin. `generation.rs` reads one file, `siblings.rs` finds those
//! that had its name before or since, `done.rs` knows those that are read, and `follow.rs` keeps them in their order: it holds no clock and
//! waits for nothing. `watch.rs` waits for changes, `serve.rs` joins it all to a stream. `ask.rs` is the
//! other side, with its positions in `positions.rs`.
//!
//! Every byte is passed on with the file and the offset it has there. So the asking side knows exactly what
//! it has, and can ask for the rest in another session, of another process of the agent.

pub mod ask;
mod done;
mod follow;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod generation;
mod glob;
mod identity;
pub mod positions;
mod serve;
mod siblings;
mod start;
mod watch;
