//! Why a WebSocket with a foreign end is of no more use.

use std::io;

use farpipe_proto::limits::{RAW_CLOSE_WAIT, RAW_MESSAGE_MAX, RAW_PING, RAW_PINGS_MAX};

/// Why a WebSocket is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RawError {
    /// The transport failed.
    #[error("{0}")]
    Io(String),
    /// It ended without a closing handshake.
    #[error("the connection was cut without a WebSocket close")]
    Cut,
    /// The other end says that something went wrong.
    #[error("the other end closed with code {code}{}{reason}", if reason.is_empty() { "" } else { ": " })]
    Closed {
        /// What it said (RFC 6455 section 7.4).
        code: u16,
        /// Its words, escaped.
        reason: String,
    },
    /// The other end broke the rules, and was told so.
    #[error("the other end broke the WebSocket protocol: {0}")]
    Violated(&'static str),
    /// Nothing is heard from it.
    #[error("no sign of life for {} s", (RAW_PING * (RAW_PINGS_MAX + 1)).as_secs())]
    Silent,
    /// It was told of the end and does not answer.
    #[error("the WebSocket close was not answered within {} s", RAW_CLOSE_WAIT.as_secs())]
    CloseUnanswered,
    /// A text message must be text.
    #[error("a line that is not UTF-8 cannot be a text message")]
    LineNotText,
    /// A line without an end.
    #[error("a line is longer than {} KiB", RAW_MESSAGE_MAX >> 10)]
    LineTooLong,
}

impl RawError {
    pub(super) fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Io(_) | Self::Cut | Self::Closed { .. } => io::ErrorKind::ConnectionAborted,
            Self::Silent | Self::CloseUnanswered => io::ErrorKind::TimedOut,
            Self::Violated(_) | Self::LineNotText | Self::LineTooLong => io::ErrorKind::InvalidData,
        }
    }
}
