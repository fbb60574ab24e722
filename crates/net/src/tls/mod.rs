//! TLS 1.3 under the carriers: rustls shakes hands, the record layer is our own (docs/decisions/0003-tls.md).
//!
//! `config` is what the rest of the program uses: [`TlsServer::accept`] and [`TlsClient::connect`]
//! turn a byte stream into a [`TlsStream`], which `carrier/framed` uses as it uses a socket. Below:
//! `files` and `reload` (where keys come from), `verify` and `identity` (who the peer is), `machine`
//! and `shake` (the handshake), `stream`, `records`, `wire` and `buffer` (how bytes move), `error` (what people read).

mod buffer;
mod config;
mod error;
mod files;
mod identity;
mod machine;
mod records;
mod reload;
mod shake;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod verify;
mod wire;

pub use self::config::{
    Alpn, ClientAuth, ClientTlsOptions, Handshaken, ServerTlsOptions, TlsClient, TlsConfigError,
    TlsServer,
};
pub use self::error::TlsError;
pub use self::files::{
    FileError, KeyFiles, SelfSigned, read_certificate, read_private, read_private_key, to_pem,
};
pub use self::identity::{CertificateFacts, PeerIdentity, identity_in_certificate};
pub use self::stream::TlsStream;
pub use self::verify::{Pin, PinError};
