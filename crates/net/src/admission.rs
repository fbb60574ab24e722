//! What lets a peer in: decided here and nowhere else, for both sides.
//!
//! Without TLS it is the loopback secret, which processes of one user on one host can prove to each
//! other. With TLS the certificates say who is there, or, where the listening side made its own, the
//! secret of a ticket is proven. A listening side that would let in everybody is refused before it
//! listens.

use crate::link::Greeting;
use crate::tcp::{ProxyBefore, Scheme};
use crate::ticket::Ticket;
use crate::tls::{PeerIdentity, TlsServer};
use crate::token::Token;

/// How a peer shows that it may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// By proving the loopback secret, in HELLO and WELCOME (docs/protocol.md section 4.3).
    LoopbackSecret,
    /// By a client certificate that the listening side's authority issued.
    ClientCertificate,
    /// By proving a token's secret over TLS (docs/protocol.md section 4.3); or, where the listening
    /// side has an authority of clients, by a client certificate. Without TLS a token does as well as
    /// the loopback secret.
    Token,
    /// By proving the secret of a ticket that the listening side made, over TLS to the very key that
    /// the ticket names (docs/protocol.md section 4.3).
    Ticket,
}

/// Nothing would keep strangers out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// TLS without anything that tells who is there.
    #[error("{}:// needs a way to know who may come in", .0.name())]
    Anybody(Scheme),
    /// A proxy brings strangers to a door that this user's processes have for themselves.
    #[error("{}:// behind a proxy needs tokens to know who may come in", .0.name())]
    Proxied(Scheme),
}

impl AdmissionError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Anybody(_) => {
                "give --cert, --key and --ca: only clients with a certificate of that authority get in; \
                 or none of them: only who has the ticket gets in"
            }
            Self::Proxied(_) => {
                "give --tokens FILE; `farpipe token issue NAME --store FILE` writes it"
            }
        }
    }
}

impl Admission {
    /// What a listening side wants that takes tokens, or takes none, with or without a proxy before
    /// it. Behind one, who comes without TLS comes from anywhere: only a token says who that is, and a
    /// process of this user needs one, too.
    ///
    /// # Errors
    /// [`AdmissionError`] if it would want nothing, or tokens from those who cannot know whom they
    /// prove them to.
    pub fn wanted(
        scheme: Scheme,
        tls: Option<&TlsServer>,
        takes_tokens: bool,
        before: Option<&ProxyBefore>,
    ) -> Result<Self, AdmissionError> {
        let is_proxied = before.is_some_and(|before| before.is_before(scheme));
        match tls {
            None if !scheme.is_tls() && is_proxied => match takes_tokens {
                true => Ok(Self::Token),
                false => Err(AdmissionError::Proxied(scheme)),
            },
            Some(tls) if takes_tokens && scheme.is_tls() && !tls.is_self_signed() => {
                Ok(Self::Token)
            }
            Some(_) if takes_tokens => Err(AdmissionError::Anybody(scheme)),
            None if !scheme.is_tls() => Ok(Self::LoopbackSecret),
            Some(tls) if scheme.is_tls() && tls.knows_clients() => Ok(Self::ClientCertificate),
            Some(tls) if scheme.is_tls() && tls.is_self_signed() => Ok(Self::Ticket),
            _ => Err(AdmissionError::Anybody(scheme)),
        }
    }

    /// What a dialling side shows.
    #[must_use]
    pub fn shown(scheme: Scheme, ticket: Option<&Ticket>, token: Option<&Token>) -> Self {
        if token.is_some() {
            return Self::Token;
        }
        match (scheme.is_tls(), ticket) {
            (false, _) => Self::LoopbackSecret,
            (true, None) => Self::ClientCertificate,
            (true, Some(_)) => Self::Ticket,
        }
    }

    /// Whether what is wanted in the handshake of the link is what this admission takes: a side with
    /// no keys would let in everybody who came through the transport.
    #[must_use]
    pub(crate) fn is_kept_by(self, greeting: &Greeting) -> bool {
        match self {
            Self::LoopbackSecret | Self::Ticket => greeting.keys.is_some(),
            Self::Token => greeting.tokens.is_some(),
            Self::ClientCertificate => true,
        }
    }

    /// Whether a peer may begin to speak of sessions, after the handshake of its transport. A secret
    /// is proven later, by the handshake of the link.
    #[must_use]
    pub(crate) fn admits(self, peer: Option<&PeerIdentity>) -> bool {
        match self {
            Self::LoopbackSecret | Self::Ticket | Self::Token => true,
            Self::ClientCertificate => peer.is_some(),
        }
    }

    /// Whether a peer that the transport let through has shown who it is by that.
    #[must_use]
    pub(crate) fn is_shown_by_transport(self, peer: Option<&PeerIdentity>) -> bool {
        match self {
            Self::LoopbackSecret | Self::Ticket => false,
            Self::ClientCertificate | Self::Token => peer.is_some(),
        }
    }
}
