//! Inner frames: `type u8 | stream u32 BE | length u32 BE | payload`, inside a session's byte
//! stream (docs/protocol.md section 6).

use prost::Message as _;

use super::DecodeError;
use super::control::{Abort, Accept, Exit, Open, Refuse, Resize, Signal};
use super::hop::{message_of, number};
use super::id::StreamId;
use crate::limits::{INNER_BYTES_MAX, INNER_CONTROL_MAX, INNER_OPEN_MAX};

/// Bytes of an inner frame's header.
pub const HEADER_LEN: usize = 9;

/// Type bytes; the rules of the hop frames' numbers hold here too.
mod kind {
    pub(super) const OPEN: u8 = 0x01;
    pub(super) const ACCEPT: u8 = 0x02;
    pub(super) const REFUSE: u8 = 0x03;
    pub(super) const BYTES: u8 = 0x04;
    pub(super) const CREDIT: u8 = 0x05;
    pub(super) const FIN: u8 = 0x06;
    pub(super) const RESET: u8 = 0x07;
    pub(super) const STOP: u8 = 0x08;
    pub(super) const EXIT: u8 = 0x09;
    pub(super) const DONE: u8 = 0x0a;
    pub(super) const COMPLETE: u8 = 0x0b;
    pub(super) const SIGNAL: u8 = 0x0c;
    pub(super) const RESIZE: u8 = 0x0d;
    pub(super) const OPTIONAL: u8 = 0x80;
}

/// An inner frame other than BYTES.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InnerFrame {
    /// Opens a stream.
    Open(Open),
    /// The stream is joined to its target.
    Accept(Accept),
    /// The stream cannot be had; it is gone.
    Refuse(Refuse),
    /// The receiver takes bytes up to this offset of the stream.
    Credit(u64),
    /// The sender has sent all: this many bytes.
    Fin(u64),
    /// The sender gives up.
    Reset(Abort),
    /// The receiver wants no more.
    Stop(Abort),
    /// How the sender's command ended; after its FIN or RESET.
    Exit(Exit),
    /// The receiver's sink has taken all, this many bytes, and is closed. On stream 0: no more
    /// streams will be opened.
    Done(u64),
    /// Everything of the session is settled (stream 0).
    Complete,
    /// The opener of the stream sends its command a signal.
    Signal(Signal),
    /// The opener of the stream has another size of terminal.
    Resize(Resize),
}

impl InnerFrame {
    /// The frame's bytes.
    #[must_use]
    pub fn encode(&self, stream: StreamId) -> Vec<u8> {
        let (kind, payload) = match self {
            Self::Open(m) => (kind::OPEN, m.encode_to_vec()),
            Self::Accept(m) => (kind::ACCEPT, m.encode_to_vec()),
            Self::Refuse(m) => (kind::REFUSE, m.encode_to_vec()),
            Self::Credit(n) => (kind::CREDIT, n.to_be_bytes().to_vec()),
            Self::Fin(n) => (kind::FIN, n.to_be_bytes().to_vec()),
            Self::Reset(m) => (kind::RESET, m.encode_to_vec()),
            Self::Stop(m) => (kind::STOP, m.encode_to_vec()),
            Self::Exit(m) => (kind::EXIT, m.encode_to_vec()),
            Self::Done(n) => (kind::DONE, n.to_be_bytes().to_vec()),
            Self::Complete => (kind::COMPLETE, Vec::new()),
            Self::Signal(m) => (kind::SIGNAL, m.encode_to_vec()),
            Self::Resize(m) => (kind::RESIZE, m.encode_to_vec()),
        };
        let mut out = Vec::with_capacity(HEADER_LEN + payload.len());
        out.extend_from_slice(&header(kind, stream, payload.len()));
        out.extend(payload);
        out
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Option<Self>, DecodeError> {
        let frame = match kind {
            kind::OPEN => Self::Open(message_of("OPEN", payload)?),
            kind::ACCEPT => Self::Accept(message_of("ACCEPT", payload)?),
            kind::REFUSE => Self::Refuse(message_of("REFUSE", payload)?),
            kind::CREDIT => Self::Credit(number("CREDIT", payload)?),
            kind::FIN => Self::Fin(number("FIN", payload)?),
            kind::RESET => Self::Reset(message_of("RESET", payload)?),
            kind::STOP => Self::Stop(message_of("STOP", payload)?),
            kind::EXIT => Self::Exit(message_of("EXIT", payload)?),
            kind::DONE => Self::Done(number("DONE", payload)?),
            kind::COMPLETE => Self::Complete,
            kind::SIGNAL => Self::Signal(message_of("SIGNAL", payload)?),
            kind::RESIZE => Self::Resize(message_of("RESIZE", payload)?),
            kind::OPTIONAL.. => return Ok(None),
            _ => {
                return Err(DecodeError::UnknownType {
                    layer: "inner",
                    kind,
                });
            }
        };
        Ok(Some(frame))
    }
}

/// The header of a BYTES frame with `len` bytes of payload.
#[must_use]
pub fn bytes_header(stream: StreamId, len: usize) -> [u8; HEADER_LEN] {
    header(kind::BYTES, stream, len)
}

fn header(kind: u8, stream: StreamId, len: usize) -> [u8; HEADER_LEN] {
    let len = u32::try_from(len).expect("frame lengths are bounded by limits.rs");
    let mut header = [0; HEADER_LEN];
    header[0] = kind;
    header[1..5].copy_from_slice(&stream.0.to_be_bytes());
    header[5..].copy_from_slice(&len.to_be_bytes());
    header
}

/// What the decoder found at the front of its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InnerItem {
    /// A BYTES frame of `len` bytes begins; its payload follows as [`InnerItem::Bytes`].
    BytesHeader(StreamId, usize),
    /// This many bytes of input are payload of the stream.
    Bytes(StreamId, usize),
    /// A control frame ended.
    Frame(StreamId, InnerFrame),
}

/// Finds inner frames in a byte stream that arrives in arbitrary cuts.
#[derive(Debug, Default)]
pub struct InnerDecoder {
    header: [u8; HEADER_LEN],
    header_len: usize,
    /// Payload of a control frame so far.
    control: Vec<u8>,
    /// Bytes of payload still to come.
    remaining: usize,
}

impl InnerDecoder {
    /// Looks at the front of `input`; returns how many bytes it took and what they completed.
    /// `(n, None)` with `n == input.len()` means: more input is needed. Call again with the rest
    /// until it is empty.
    ///
    /// # Errors
    /// [`DecodeError`] when the peer broke the format; the decoder is of no more use then.
    pub fn next(&mut self, input: &[u8]) -> Result<(usize, Option<InnerItem>), DecodeError> {
        let mut taken = 0;
        if self.header_len < HEADER_LEN {
            taken = (HEADER_LEN - self.header_len).min(input.len());
            self.header[self.header_len..self.header_len + taken].copy_from_slice(&input[..taken]);
            self.header_len += taken;
            if self.header_len < HEADER_LEN {
                return Ok((taken, None));
            }
            let (kind, stream, len) = self.fields();
            let (what, max) = match kind {
                kind::BYTES => ("BYTES", INNER_BYTES_MAX),
                kind::OPEN => ("OPEN", INNER_OPEN_MAX),
                _ => ("inner control", INNER_CONTROL_MAX),
            };
            if len > max {
                return Err(DecodeError::TooLarge { what, len, max });
            }
            self.remaining = len;
            self.control.clear();
            // What a long command line took is not kept for a session's life.
            self.control.shrink_to(INNER_CONTROL_MAX);
            if kind == kind::BYTES {
                if len == 0 {
                    self.header_len = 0;
                }
                return Ok((taken, Some(InnerItem::BytesHeader(stream, len))));
            }
        }
        let (kind, stream, _) = self.fields();
        let part = self.remaining.min(input.len() - taken);
        self.remaining -= part;
        if self.remaining == 0 {
            self.header_len = 0;
        }
        if kind == kind::BYTES {
            return Ok((taken + part, Some(InnerItem::Bytes(stream, part))));
        }
        self.control.extend_from_slice(&input[taken..taken + part]);
        let frame = if self.remaining == 0 {
            InnerFrame::decode(kind, &self.control)?.map(|frame| InnerItem::Frame(stream, frame))
        } else {
            None
        };
        Ok((taken + part, frame))
    }

    fn fields(&self) -> (u8, StreamId, usize) {
        let [kind, a, b, c, d, len @ ..] = self.header;
        (
            kind,
            StreamId(u32::from_be_bytes([a, b, c, d])),
            u32::from_be_bytes(len) as usize,
        )
    }
}

#[cfg(test)]
mod tests;
