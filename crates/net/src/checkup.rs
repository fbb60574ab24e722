//! What a dial meets on its way, step by step, and how far a peer would let this side in: what
//! `farpipe doctor` tells. It is the very dial that a session makes, watched; and it ends before
//! ATTACH, so that nothing is used up at the other side.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::carrier::Close;
use crate::carrier::ws::upgrade::UpgradeError;
use crate::link::{self, Greeting, HandshakeError, Wire};
use crate::opener::{Dial, DialError};
use crate::proxy::{Granted, ProxyError};
use crate::tls::Handshaken;

/// What a dial has met. A step that failed is told with its cause before the dial says so in words.
#[derive(Debug, Clone, Copy)]
pub enum Seen<'a> {
    /// The name has these addresses, in the order in which they are tried.
    Resolved(&'a [SocketAddr]),
    /// One of them answered.
    Connected(SocketAddr),
    /// The name of the proxy has these addresses.
    ProxyResolved {
        /// The proxy's host.
        host: &'a str,
        /// In the order in which they are tried.
        addresses: &'a [SocketAddr],
    },
    /// The proxy answered on TCP: once for each address of the listener that it is asked for.
    ProxyConnected(SocketAddr),
    /// The proxy says that it leads to the listener.
    ProxyGranted(&'a Granted),
    /// The proxy leads nowhere.
    NoProxy(&'a ProxyError),
    /// TLS is up.
    Secured(&'a Handshaken),
    /// The server speaks WebSocket, and farpipe in it.
    Upgraded,
    /// TLS failed: in its handshake, or later, when the server has judged this side's certificate.
    NoTls(&'a io::Error),
    /// The upgrade failed.
    NoUpgrade(&'a UpgradeError),
}

/// Is told what a dial meets.
#[derive(Clone)]
pub struct Watch(Arc<dyn Fn(Seen<'_>) + Send + Sync>);

impl Watch {
    /// Calls `tell`, which must not block.
    pub fn new(tell: impl Fn(Seen<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(crate) fn see(&self, seen: Seen<'_>) {
        (self.0)(seen);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch(..)")
    }
}

/// A peer that would take an ATTACH now, as far as can be known without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcomed {
    /// What it says it is, without control characters.
    pub software: String,
    /// The protocol version both speak.
    pub version: u32,
}

/// Why a peer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckupError {
    /// There is no carrier to it.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It does not let this side in, or is not to be believed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// Dials and shakes hands up to WELCOME, and takes its leave: where a secret is to be proven, the
/// peer has done so then, and knows the one that this side would prove.
///
/// # Errors
/// [`CheckupError`].
///
/// # Cancellation
/// Dropping it drops the connection.
pub async fn checkup(dial: &dyn Dial, greeting: &Greeting) -> Result<Welcomed, CheckupError> {
    let mut wire = Wire::new(dial.dial().await?);
    let welcome = link::greet(&mut wire, greeting).await?;
    wire.close(Close {
        code: 1000,
        reason: "only a look",
    })
    .await;
    Ok(Welcomed {
        software: link::printable(&welcome.software),
        version: welcome.version,
    })
}
