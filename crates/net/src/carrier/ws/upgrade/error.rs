//! Why an upgrade failed, in words for the person at the keyboard.

use std::fmt;
use std::io;

use farpipe_proto::limits::{HANDSHAKE_STEP, HTTP_HEAD_MAX};

use super::SUBPROTOCOL;

/// Why there is no WebSocket connection. Each prints as one line; what the other side said is
/// escaped and cut, so it cannot play tricks on a terminal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The transport failed.
    #[error("the connection broke during the WebSocket handshake: {0}")]
    Io(#[from] io::Error),
    /// The transport ended before the head did.
    #[error("the connection was cut during the WebSocket handshake")]
    Cut,
    /// The other side makes no progress.
    #[error("the WebSocket handshake stood still for {} s", HANDSHAKE_STEP.as_secs())]
    Silent,
    /// What came is not HTTP/1.
    #[error(
        "the other side does not speak HTTP: it began with \"{seen}\"{}",
        looks_like.map(|what| format!(" (it looks like {what})")).unwrap_or_default()
    )]
    NotHttp {
        /// Its first bytes, escaped.
        seen: String,
        /// What begins like that.
        looks_like: Option<&'static str>,
    },
    /// It is HTTP, with a head over the limit.
    #[error("the other side's HTTP header is longer than {} KiB", HTTP_HEAD_MAX >> 10)]
    HeadTooLong,
    /// It is HTTP, with a head that breaks its rules.
    #[error("the other side's HTTP header is malformed: {0}")]
    Malformed(&'static str),
    /// The server answered, with another status than 101.
    #[error("{0}")]
    Status(StatusAnswer),
    /// The server answered 101 and got the WebSocket handshake wrong.
    #[error("the server's WebSocket handshake is wrong: {0}")]
    NotWebSocket(&'static str),
    /// The server answered 101 and does not know our subprotocol.
    #[error(
        "it is a WebSocket server, but not farpipe: {}",
        match chosen {
            Some(chosen) => format!("it chose the subprotocol \"{chosen}\", not {SUBPROTOCOL}"),
            None => format!("it did not choose the subprotocol {SUBPROTOCOL}"),
        }
    )]
    NotFarpipe {
        /// What it chose, escaped.
        chosen: Option<String>,
    },
    /// We are the server and refused the request; the client was told.
    #[error("refused a request with HTTP status {status}: {why}")]
    Refused {
        /// The status sent.
        status: u16,
        /// The reason sent.
        why: &'static str,
    },
}

/// A server's answer that is not an upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusAnswer {
    /// The status code.
    pub code: u16,
    /// The server's words for it, escaped; may be empty.
    pub reason: String,
    /// Where it says to go instead (301, 302, 303, 307, 308), escaped.
    pub location: Option<String>,
    /// The first line of its text, escaped, if it is short and plain: what a farpipe that refuses
    /// says there helps most.
    pub text: Option<String>,
    /// Whether a web page comes with it.
    pub is_page: bool,
    /// Whether a proxy on the way probably answered, not the server: by a `Via` header or a status
    /// that says "what is behind me does not answer".
    pub from_proxy: bool,
}

impl UpgradeError {
    /// Whether trying again later can help without anybody changing anything.
    ///
    /// Before a session's first attachment the caller may still treat a [`UpgradeError::Status`]
    /// as final.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Io(_) | Self::Cut | Self::Silent => true,
            Self::Status(answer) => matches!(answer.code, 408 | 429 | 502 | 503 | 504),
            Self::NotHttp { .. }
            | Self::HeadTooLong
            | Self::Malformed(_)
            | Self::NotWebSocket(_)
            | Self::NotFarpipe { .. }
            | Self::Refused { .. } => false,
        }
    }
}

impl fmt::Display for StatusAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = if self.from_proxy {
            "a proxy"
        } else {
            "the server"
        };
        write!(f, "{who} answered HTTP {}", self.code)?;
        if !self.reason.is_empty() {
            write!(f, " {}", self.reason)?;
        }
        match &self.location {
            Some(location) => write!(
                f,
                " and says to go to {location}; if farpipe is there, give that URL"
            )?,
            None if self.from_proxy && self.code >= 500 => {
                f.write_str("; what is behind it does not answer")?;
            }
            None if self.is_page && self.code < 300 => {
                f.write_str(" with a web page instead of upgrading to WebSocket")?;
            }
            None => f.write_str(" instead of upgrading to WebSocket")?,
        }
        if let Some(text) = &self.text {
            write!(f, ": {text}")?;
        }
        Ok(())
    }
}

/// Text from the other side made fit for a line on a terminal.
pub(super) fn printable(bytes: &[u8]) -> String {
    /// More does not help anybody and fills the screen.
    const MAX: usize = 200;
    let cut = &bytes[..bytes.len().min(MAX)];
    let mut text = cut.escape_ascii().to_string();
    if cut.len() < bytes.len() {
        text.push('…');
    }
    text
}
