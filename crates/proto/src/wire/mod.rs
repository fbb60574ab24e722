//! Frames to bytes and back. docs/protocol.md sections 2, 3 and 6 are the authority.

pub mod control;
pub mod hop;
pub mod id;
pub mod inner;
pub mod local;
pub mod tail;
pub mod topic;

/// Bytes that are no valid frame. The peer is to blame; a retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A frame type this version does not know and may not skip.
    #[error("unknown {layer} frame type {kind:#04x}")]
    UnknownType {
        /// `hop` or `inner`.
        layer: &'static str,
        /// The type byte.
        kind: u8,
    },
    /// A frame beyond its limit.
    #[error("{what} frame of {len} bytes; the limit is {max}")]
    TooLarge {
        /// Frame name.
        what: &'static str,
        /// Claimed length.
        len: usize,
        /// Limit from [`crate::limits`].
        max: usize,
    },
    /// A payload that does not have its type's form.
    #[error("malformed {what} frame: {why}")]
    Malformed {
        /// Frame name.
        what: &'static str,
        /// What is wrong.
        why: &'static str,
    },
}
