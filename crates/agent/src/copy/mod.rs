//! Files and trees of files, copied from one host to another: `farpipe cp` (docs/protocol.md section 6.12).
//!
//! Two ends speak over one stream, or over a pair of channels in one process. The sending end (`send.rs`)
//! walks its sources (`walk.rs`) and offers what it finds; the receiving end (`receive.rs`) looks at what
//! it has, asks for the files that it lacks, and is sent those, one behind the other. Nobody waits for a
//! single answer: thousands of offers are on their way at once. `wire.rs` and `message.rs` are what they
//! say, `link.rs` joins an end to a stream, and `pass.rs` two hosts to each other. `mark.rs` tells a
//! directory that is not whole from one that was there.
//!
//! What always holds: what the receiving end is told is names, never paths, so nothing is made but
//! beneath its target; no link is followed there; a file appears under its name only when it is whole
//! (`part.rs`, `commit.rs`); what was received of a large one is kept, with what proves it
//! (`sidecar.rs`), and is believed unread only if nobody else has been at it (`clock.rs`); and memory does not grow with the tree.

pub mod ask;
mod claim;
mod clock;
mod commit;
mod error;
mod folder;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod leftover;
mod link;
mod mark;
pub mod message;
mod meta;
mod name;
mod out;
mod part;
mod pass;
mod place;
mod receive;
mod send;
mod sidecar;
mod source;
mod tally;
#[cfg(test)]
mod tests;
mod walk;
pub mod wire;

pub use self::claim::{Claim, Claims};
pub use self::error::{CopyError, ProtocolError};
pub use self::link::{LinkError, join, pair};
pub use self::name::{Name, NameError};
pub use self::pass::{Way, pass};
pub use self::place::{Base, BaseError, Source, name_of};
pub use self::receive::{Receiver, Top};
pub use self::send::Sender;
pub use self::tally::{Event, Journal, Side, Summary, Tally};
