//! The `fp` carrier: farpipe's own framing, for where nothing between the hosts wants HTTP.
//!
//! Both sides begin with the preface, and need not wait for the other's. Then each message is its
//! length in four bytes, big-endian, and its bytes; the length `FFFF_FFFF` begins the closing
//! message, which the other side answers with its own.

use std::fmt;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Piece;
use super::framed::{
    CLOSE_WITHOUT_CODE, Framed, Framing, MESSAGE_MAX, Prefix, Received, Violation,
    close_code_is_valid,
};
use crate::segment::Segment;

#[cfg(test)]
mod tests;

/// What each side sends first: the protocol's name and the version of this framing.
pub const PREFACE: [u8; 8] = *b"farpipe\x01";

/// Stands where a length would and begins the closing message.
const CLOSING: u32 = u32::MAX;

/// Length of the close code and the reason's length.
const CLOSE_HEAD: usize = 3;

/// Longest closing message behind its mark: a reason's length is one byte.
const CLOSE_MAX: usize = CLOSE_HEAD + 255;

/// The code of an empty closing message cannot be left out here, unlike in a WebSocket.
const NORMAL: u16 = 1000;

/// A connection with farpipe's own framing.
pub type FpCarrier<S> = Framed<S, FpFraming>;

/// Begins a carrier on a fresh connection; both sides do the same.
///
/// The preface goes out with the first flush, together with the first messages, so beginning costs
/// no round trip. The neighbour's is verified by the first [`poll_recv`](super::Carrier::poll_recv);
/// if it is not farpipe's, the error says what it looks like.
pub fn start<S>(stream: S) -> FpCarrier<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug,
{
    Framed::opened(stream, FpFraming::default(), BytesMut::new(), &PREFACE)
}

/// Frames messages by their length.
pub struct FpFraming {
    reading: Reading,
    /// The preface, length or closing message that is being received.
    head: [u8; CLOSE_MAX],
    head_len: usize,
    /// Bytes of the current message still to come.
    left: usize,
}

/// What the next received byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Preface,
    Length,
    /// `first` holds until a piece of the message was handed on.
    Message {
        first: bool,
        len: usize,
    },
    Closing,
}

/// The framing of a connection on which nothing was received yet.
impl Default for FpFraming {
    fn default() -> Self {
        Self {
            reading: Reading::Preface,
            head: [0; CLOSE_MAX],
            head_len: 0,
            left: 0,
        }
    }
}

impl FpFraming {
    /// Takes bytes until `head` has `size` of them, and says whether it has.
    fn fill_head(&mut self, input: &mut BytesMut, size: usize) -> bool {
        let len = input.len().min(size.saturating_sub(self.head_len));
        input.copy_to_slice(&mut self.head[self.head_len..self.head_len + len]);
        self.head_len += len;
        self.head_len >= size
    }

    /// Verifies the preface as far as it is there: the first wrong byte tells, because who does
    /// not speak farpipe may wait for an answer before it sends eight.
    fn take_preface(&mut self, input: &mut BytesMut) -> Result<bool, Violation> {
        let complete = self.fill_head(input, PREFACE.len());
        let seen = &self.head[..self.head_len];
        if !PREFACE.starts_with(seen) {
            return Err(not_farpipe(seen));
        }
        Ok(complete)
    }

    fn take_length(&mut self) -> Result<Reading, Violation> {
        let [a, b, c, d, ..] = self.head;
        self.head_len = 0;
        let length = u32::from_be_bytes([a, b, c, d]);
        if length == CLOSING {
            return Ok(Reading::Closing);
        }
        let len = usize::try_from(length)
            .ok()
            .filter(|len| *len <= MESSAGE_MAX)
            .ok_or(Violation {
                what: "a message longer than the limit",
                code: 1009,
            })?;
        self.left = len;
        Ok(Reading::Message { first: true, len })
    }

    /// The closing message once it is complete.
    fn take_closing(&mut self, input: &mut BytesMut) -> Result<Option<Received>, Violation> {
        if !self.fill_head(input, CLOSE_HEAD) {
            return Ok(None);
        }
        let [high, low, reason_len, ..] = self.head;
        let size = CLOSE_HEAD + usize::from(reason_len);
        if !self.fill_head(input, size) {
            return Ok(None);
        }
        let code = u16::from_be_bytes([high, low]);
        if !close_code_is_valid(code) {
            return Err(broken("a close code that may not be sent"));
        }
        let Ok(reason) = std::str::from_utf8(&self.head[CLOSE_HEAD..size]) else {
            return Err(Violation {
                what: "a closing reason that is not UTF-8",
                code: 1007,
            });
        };
        let reason = reason.to_owned();
        Ok(Some(Received::Closed { code, reason }))
    }
}

impl Framing for FpFraming {
    const NAME: &'static str = "fp";

    fn put_message(&mut self, out: &mut BytesMut, message: &[u8]) {
        out.extend_from_slice(&length(message.len()));
        out.extend_from_slice(message);
    }

    fn prefix(&mut self, header: &[u8], data_len: usize) -> Prefix {
        let length = length(header.len() + data_len);
        let len = length.len() + header.len();
        let mut bytes = [0; Segment::HEADROOM];
        bytes[..length.len()].copy_from_slice(&length);
        bytes[length.len()..len].copy_from_slice(header);
        Prefix {
            bytes,
            len,
            mask: [0; 4],
        }
    }

    fn put_close(&mut self, out: &mut BytesMut, code: u16, reason: &str) {
        let reason_len = u8::try_from(reason.len()).expect("the reason of a close is short");
        out.put_u32(CLOSING);
        out.put_u16(if code == CLOSE_WITHOUT_CODE {
            NORMAL
        } else {
            code
        });
        out.put_u8(reason_len);
        out.put_slice(reason.as_bytes());
    }

    fn owed(&self) -> usize {
        0
    }

    fn put_owed(&mut self, _out: &mut BytesMut) {}

    fn expected(&self) -> usize {
        self.left
    }

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Received>, Violation> {
        loop {
            match self.reading {
                Reading::Preface => {
                    if !self.take_preface(input)? {
                        return Ok(None);
                    }
                    self.head_len = 0;
                    self.reading = Reading::Length;
                }
                Reading::Length => {
                    if !self.fill_head(input, 4) {
                        return Ok(None);
                    }
                    self.reading = self.take_length()?;
                }
                Reading::Message { first, len } => {
                    if self.left > 0 && input.is_empty() {
                        return Ok(None);
                    }
                    let bytes = input.split_to(self.left.min(input.len()));
                    self.left -= bytes.len();
                    let last = self.left == 0;
                    self.reading = if last {
                        Reading::Length
                    } else {
                        Reading::Message { first: false, len }
                    };
                    return Ok(Some(Received::Piece(Piece {
                        bytes,
                        first: first.then_some(len),
                        last,
                    })));
                }
                Reading::Closing => return self.take_closing(input),
            }
        }
    }
}

impl fmt::Debug for FpFraming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FpFraming")
            .field("reading", &self.reading)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

const fn broken(what: &'static str) -> Violation {
    Violation { what, code: 1002 }
}

fn length(len: usize) -> [u8; 4] {
    u32::try_from(len)
        .expect("messages are bounded by MESSAGE_MAX")
        .to_be_bytes()
}

/// What someone who began with `seen` probably speaks.
fn not_farpipe(seen: &[u8]) -> Violation {
    broken(match seen {
        [b'f', b'a', b'r', b'p', b'i', b'p', b'e', _] => {
            "it speaks another version of farpipe's framing"
        }
        // The first byte differs already in all of these; one read mostly brings more than one.
        _ if seen.starts_with(b"HTTP") => {
            "it is an HTTP server, not a farpipe server (a ws:// URL may be the right one)"
        }
        _ if seen.starts_with(b"SSH-") => "it is an SSH server, not a farpipe server",
        // A handshake or an alert record of TLS.
        [0x15 | 0x16, ..] => {
            "it speaks TLS, not plain farpipe (an fps:// URL may be the right one)"
        }
        [b'A'..=b'Z', ..]
            if seen
                .iter()
                .all(|byte| byte.is_ascii_graphic() || *byte == b' ') =>
        {
            "it speaks a text protocol such as HTTP, not farpipe"
        }
        _ => "it does not speak farpipe",
    })
}
