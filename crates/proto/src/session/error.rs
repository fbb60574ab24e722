//! How a session fails, and whether another attach can help.

use crate::wire::DecodeError;

/// Why a session cannot go on over this tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// Bytes are missing: attach again. The only error that a retry mends.
    #[error("bytes missing: the tunnel went on at offset {offset}, expected was {expected}")]
    Gap {
        /// Offset of the DATA frame.
        offset: u64,
        /// Offset expected.
        expected: u64,
    },
    /// The peer claims to have what was never sent, or lost what it had.
    #[error("the other side has bytes up to {offset}, but {acked} to {sent} is what it can have")]
    AckOutOfRange {
        /// What the peer says.
        offset: u64,
        /// What it had before.
        acked: u64,
        /// What was sent.
        sent: u64,
    },
    /// A frame that is none.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// More bytes than credit, or more frames than limits allow.
    #[error("the other side ignores the limits: {0}")]
    Flow(&'static str),
    /// Any other breach of the rules.
    #[error("the other side broke the protocol: {0}")]
    Protocol(&'static str),
}

impl SessionError {
    /// Whether attaching again can help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Gap { .. })
    }
}
