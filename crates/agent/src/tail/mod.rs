//! Files that are followed as they grow (docs/protocol.md section 6.11): an agent reads them, `farpipe
//! tail` asks and prints.
//!
//! At the agent `glob.rs` says what a pattern is, `find.rs` which names fit some now, `identity.rs` which file
//! it is that has a name, `start.rs` where the last lines begin. `generation.rs` reads one file, `name.rs`
//! those of one name in their order. `follow.rs` looks at all names and opens what comes to have one, and in
//! `follow/past.rs` what had it before, which `siblings.rs` finds and `done.rs` knows if it was read; `news.rs` is what is
//! told of it. None of them holds a clock or waits. `watch.rs` waits for changes, `serve.rs` joins it all to a
//! stream. `ask.rs` is the other side, with its positions in `positions.rs`.
//!
//! Every byte is passed on with the file and the offset it has there. So the asking side knows exactly what
//! it has, and can ask for the rest in another session, of another process of the agent.

pub mod ask;
mod done;
mod find;
mod follow;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod generation;
mod glob;
mod identity;
mod name;
mod news;
pub mod positions;
mod serve;
mod siblings;
mod start;
mod watch;
