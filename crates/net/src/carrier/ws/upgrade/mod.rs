//! The HTTP/1.1 upgrade that begins a `ws` carrier (RFC 6455 section 4), both ends.
//!
//! Only farpipes are served here: both ends insist on the subprotocol `farpipe.1`, browsers are
//! refused by their `Origin`, and no extension is offered or accepted. A step without progress ends
//! either; the time for the whole is the caller's: wrap [`connect`] and [`accept`] in
//! `tokio::time::timeout`.

pub(super) mod client;
pub(super) mod error;
pub(super) mod head;
pub(super) mod server;

#[cfg(test)]
mod tests;

pub use self::client::{Request, connect, connect_with};
pub use self::error::{StatusAnswer, UpgradeError};
pub use self::server::accept;
pub(crate) use self::server::{Entered, enter};

/// What both ends must agree on; the number changes when old and new farpipes cannot talk.
pub const SUBPROTOCOL: &str = "farpipe.1";
