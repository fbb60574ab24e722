//! What two neighbours say to each other over one carrier: handshake, keepalive, tunnels.
//!
//! ```text
//! dialling side   HELLO ─────────────► accepting side
//!                       ◄───────────── WELCOME
//!                 AUTH, ATTACH ──────►              (at once with HELLO when no proof is wanted)
//!                       ◄───────────── ATTACHED | REFUSED
//!                 DATA, ACK, PING… ◄─► DATA, ACK, PONG…
//!                 DETACH ────────────►
//! ```

pub mod credit;
pub mod fair;
pub mod handshake;
pub mod keepalive;

use crate::wire::control::{RefuseCode, Refused};

pub use credit::{HopWindow, Overrun};
pub use fair::{Fair, Turn};
pub use handshake::{
    Accepting, Dialling, Features, Keys, Nonce, NotLetIn, Prover, SecretId, Shared, Step, VERSION,
    VERSION_MIN,
};
pub use keepalive::Keepalive;

/// Why a link ends before it carries tunnels. The variant says who is to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The neighbour refused, and said why.
    #[error("refused: {}", .0.message)]
    Refused(Refused),
    /// The neighbour does not know the secret: another user's process listens there, or another
    /// listener than the ticket's or the token's.
    #[error("the process at the other end {}", unproven(.0))]
    PeerUnproven(SecretId),
    /// This side refused the neighbour.
    #[error("refused the other side: {why}")]
    RefusedPeer {
        /// Sent in REFUSED.
        code: RefuseCode,
        /// Sent in REFUSED.
        message: String,
        /// The same for this side's log, where there is more to say.
        why: String,
    },
    /// The neighbour broke the protocol.
    #[error("the other side broke the protocol: {0}")]
    Protocol(&'static str),
}

fn unproven(secret: &SecretId) -> &'static str {
    match secret {
        SecretId::Loopback => "does not know this user's loopback secret",
        SecretId::Ticket(_) => "does not know this ticket's secret",
        // As of a token that is over.
        SecretId::Token(_) => "refused: the token is not good here; its log says why",
    }
}

impl LinkError {
    /// Whether dialling again later can help.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused(refused) => refused.is_final,
            Self::PeerUnproven(_) | Self::RefusedPeer { .. } | Self::Protocol(_) => true,
        }
    }
}
