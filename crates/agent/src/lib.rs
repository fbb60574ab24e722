//! One host's side of pipes: endpoints, and the pump between them and streams.

mod blocks;
pub mod client;
pub mod command;
mod eager;
pub mod endpoint;
pub mod fan;
pub mod local;
pub mod outcome;
pub mod ping;
pub mod pipe;
pub mod policy;
mod pump;
pub mod send;
pub mod server;
mod spin;
pub mod spread;

pub use blocks::Compression;
pub use outcome::{Outcome, PipeError};
pub use pump::Meter;
