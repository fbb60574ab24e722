//! What stands behind a listener: takes each connection through the handshake to what it wants.

use std::time::Duration;

use farpipe_proto::identity::Identity;
use farpipe_proto::limits::HANDSHAKE_TOTAL;

use crate::carrier::Carrier;
use crate::carrier::ws::raw::Gateway;
use crate::clock::Clock;
use crate::hop::Hop;
use crate::link::{self, Greeting, HandshakeError, Wanted, Wire};
use crate::peer::Peer;
use crate::standing::Standing;
use crate::tls::PeerIdentity;
use crate::token::Admitted;

/// Takes connections: an [`crate::Acceptor`], or a relay.
pub trait Entrance: Send + Sync + 'static {
    /// What is said and wanted in the handshake.
    fn greeting(&self) -> &Greeting;

    /// Who serves those that are no farpipes; without one they are refused.
    fn gateway(&self) -> Option<&dyn Gateway> {
        None
    }

    /// Takes a connection from `peer` to what it wants: through what makes a carrier of it and
    /// through the handshake. A failed handshake uses nothing up. Run it in a task of its own; both
    /// together last at most 30 s, and a refusal 1 s more.
    ///
    /// # Errors
    /// [`HandshakeError`], for the log; the peer was told where it can be.
    ///
    /// # Cancellation
    /// Dropping it drops the connection.
    fn serve(
        &self,
        carrier: impl Future<Output = Result<Box<dyn Carrier>, HandshakeError>> + Send,
        peer: Peer,
    ) -> impl Future<Output = Result<(), HandshakeError>> + Send;
}

/// A neighbour that was let in, and has had no answer to what it wants.
#[derive(Debug)]
pub struct Guest {
    /// The link to it.
    pub hop: Hop,
    /// What it wants.
    pub wanted: Wanted,
    /// Who it is by its certificate, where the transport verified one.
    pub identity: Option<PeerIdentity>,
    /// Who it is by its token, and what that is good for: it has the scope that `wanted` needs
    /// (`register` and the very name, or `attach`). With a certificate as well, both say one name.
    pub token: Option<Admitted>,
    /// By what it was let in, to be looked at again as long as it is in.
    pub standing: Standing,
}

impl Guest {
    /// The one name for routes and permissions, if it showed one.
    #[must_use]
    pub fn who(&self) -> Option<&Identity> {
        let certificate = self
            .identity
            .as_ref()
            .and_then(|peer| peer.identity.as_ref());
        let token = self.token.as_ref().map(|token| &token.identity);
        token.or(certificate)
    }
}

/// Takes a connection through the handshake, up to what it wants.
///
/// # Errors
/// [`HandshakeError`], for the log; the peer was told where it can be.
///
/// # Cancellation
/// Dropping it drops the connection.
pub async fn receive(
    carrier: impl Future<Output = Result<Box<dyn Carrier>, HandshakeError>> + Send,
    greeting: &Greeting,
    clock: Clock,
    heartbeat: Duration,
) -> Result<Guest, HandshakeError> {
    let handshake = async {
        let mut wire = Wire::new(carrier.await?);
        let asking = link::accept(&mut wire, greeting).await?;
        Ok::<_, HandshakeError>(Guest {
            identity: wire.carrier.peer_identity().cloned(),
            hop: Hop::new(wire, clock, heartbeat),
            wanted: asking.wanted,
            token: asking.token,
            standing: asking.standing,
        })
    };
    tokio::time::timeout(HANDSHAKE_TOTAL, handshake)
        .await
        .map_err(|_| HandshakeError::Endless)?
}
