//! One host's side of pipes: endpoints, and the pump between them and streams.

pub mod beneath;
pub mod between;
mod blocks;
pub mod client;
pub mod command;
pub mod copy;
mod eager;
pub mod endpoint;
pub mod fan;
pub mod forward;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod local;
pub mod outcome;
pub mod ping;
pub mod pipe;
pub mod policy;
mod pump;
pub mod reuse;
pub mod send;
pub mod serve;
pub mod server;
pub mod shown;
pub mod spread;
pub mod tail;
pub mod topic;

pub use blocks::Compression;
pub use outcome::{Outcome, PipeError};
pub use pump::Meter;
