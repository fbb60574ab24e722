//! TLS 1.3 under the carriers: rustls shakes hands, the record layer is our own (docs/decisions/0003-tls.md).
//!
//! `server` and `client` are what the rest of the program uses: [`TlsServer::accept`] and
//! [`TlsClient::connect`] turn a byte stream into a [`TlsStream`], which `carrier/framed` uses as it uses
//! a socket; `inside` makes TLS of it that covers a session ([`OpenerSeal`], [`AcceptorSeal`]). Below: `config` (what both are told), `files`, `revocation` and `reload` (where keys and
//! lists come from), `judge`, `verify`, `dates` and `identity` (who the peer is), `machine` and `shake`
//! (the handshake), `seal` (both without a transport), `stream`, `records`, `wire` and `buffer` (how bytes move), `error` (what people read).

mod buffer;
mod client;
mod config;
mod dates;
mod error;
mod files;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod identity;
mod inside;
mod judge;
mod machine;
mod records;
mod reload;
mod revocation;
mod seal;
mod server;
mod shake;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod verify;
mod vouched;
mod wire;

pub use self::client::TlsClient;
pub use self::config::{
    Alpn, ClientAuth, ClientTlsOptions, Handshaken, ServerTlsOptions, TlsConfigError,
};
pub use self::error::TlsError;
pub use self::files::{
    FileError, KeyFiles, SelfSigned, read_certificate, read_private, read_private_key, to_pem,
};
pub use self::identity::{
    CertificateFacts, PeerIdentity, hosts_in_certificate, identity_in_certificate,
};
pub use self::inside::{AcceptorSeal, OpenerSeal, SealConfigError, SealOptions};
pub(crate) use self::records::sealed_max;
pub use self::revocation::{RevocationList, Revoked, serial_under};
pub(crate) use self::seal::{Seal, SealError, is_tls};
pub use self::server::TlsServer;
pub use self::stream::TlsStream;
pub use self::verify::{Pin, PinError};
pub use self::vouched::Vouched;
