//! What lets a peer in: decided here and nowhere else, for both sides.
//!
//! Without TLS it is the loopback secret, which processes of one user on one host can prove to each
//! other. With TLS no secret is proven: the certificates say who is there. A listening side that would
//! let in everybody is refused before it listens.

use crate::tcp::Scheme;
use crate::tls::{PeerIdentity, TlsServer};

/// How a peer shows that it may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// By proving the loopback secret, in HELLO and WELCOME (docs/protocol.md section 4.3).
    LoopbackSecret,
    /// By a client certificate that the listening side's authority issued.
    ClientCertificate,
}

/// Nothing would keep strangers out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}:// needs a way to know who may come in", .0.name())]
pub struct AdmissionError(Scheme);

impl AdmissionError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "give --cert, --key and --ca: only clients with a certificate of that authority get in"
    }
}

impl Admission {
    /// What a listening side wants.
    ///
    /// # Errors
    /// [`AdmissionError`] if it would want nothing.
    pub fn wanted(scheme: Scheme, tls: Option<&TlsServer>) -> Result<Self, AdmissionError> {
        match tls {
            None if !scheme.is_tls() => Ok(Self::LoopbackSecret),
            Some(tls) if scheme.is_tls() && tls.knows_clients() => Ok(Self::ClientCertificate),
            _ => Err(AdmissionError(scheme)),
        }
    }

    /// What a dialling side shows.
    #[must_use]
    pub fn shown(scheme: Scheme) -> Self {
        if scheme.is_tls() {
            Self::ClientCertificate
        } else {
            Self::LoopbackSecret
        }
    }

    /// Whether a peer may begin to speak of sessions, after the handshake of its transport. The
    /// loopback secret is proven later, by the handshake of the link.
    #[must_use]
    pub(crate) fn admits(self, peer: Option<&PeerIdentity>) -> bool {
        match self {
            Self::LoopbackSecret => true,
            Self::ClientCertificate => peer.is_some(),
        }
    }
}
