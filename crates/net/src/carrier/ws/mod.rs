//! The `ws` carrier: WebSocket (RFC 6455) between two farpipes, binary messages only.
//!
//! The framing is our own because the hot path needs it: a retained segment is framed and masked
//! where it lies and sent by one write, and what arrives is unmasked where it was read and handed
//! on in pieces. Extensions are never negotiated, so a small frame can never unfold into a large
//! message. Messages from a proxy that cut them into fragments are the one thing put together in
//! memory, up to the message limit.

mod frame;
mod keys;
pub mod raw;
pub mod upgrade;

#[cfg(test)]
mod tests;

use std::fmt;

use bytes::{Buf, BytesMut};

use self::frame::{CONTROL_MAX, HEADER_MAX, Header, Opcode, broken, decode_close};
pub use self::keys::{MaskKeys, RandomKeys};
use super::Piece;
use super::framed::{
    CLOSE_REASON_MAX, CLOSE_WITHOUT_CODE, Framed, Framing, MESSAGE_MAX, Prefix, Received, Violation,
};
use crate::segment::{Segment, apply_mask};

/// A WebSocket connection after its upgrade; see [`upgrade`] for how to get one.
pub type WsCarrier<S> = Framed<S, WsFraming>;

/// Which end of the connection we are.
#[derive(Debug)]
pub enum Role {
    /// The one that dialled; masks what it sends with keys from here.
    Client(Box<dyn MaskKeys>),
    /// The one that accepted; sends unmasked and takes only masked frames.
    Server,
}

/// Frames messages as RFC 6455 says.
pub struct WsFraming {
    role: Role,
    reading: Reading,
    /// The header that is being received.
    head: [u8; HEADER_MAX],
    head_len: usize,
    /// Bytes of the current frame's payload still to come.
    left: usize,
    /// What lies over the next of them, rotated to their phase.
    key: [u8; 4],
    /// The fragments so far of a message that did not come in one frame.
    fragments: Option<BytesMut>,
    /// The control frame being received.
    control: Control,
    /// Payload of the last unanswered ping.
    pong: Option<Control>,
}

/// What the next received byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Header,
    /// Payload of a message that is one frame; `first` holds until a piece of it was handed on.
    Whole {
        first: bool,
        len: usize,
    },
    /// Payload of a frame that is only a part of its message.
    Fragment {
        fin: bool,
    },
    Control(Opcode),
}

/// Payload of a control frame.
#[derive(Clone, Copy)]
struct Control {
    bytes: [u8; CONTROL_MAX],
    len: usize,
}

impl WsFraming {
    /// The framing of a connection whose upgrade is done.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self {
            role,
            reading: Reading::Header,
            head: [0; HEADER_MAX],
            head_len: 0,
            left: 0,
            key: [0; 4],
            fragments: None,
            control: Control::EMPTY,
            pong: None,
        }
    }

    fn next_key(&mut self) -> Option<[u8; 4]> {
        match &mut self.role {
            Role::Client(keys) => Some(keys.next_key()),
            Role::Server => None,
        }
    }

    /// Appends a frame made of the `parts`.
    fn put_frame(&mut self, out: &mut BytesMut, opcode: Opcode, parts: [&[u8]; 2]) {
        let key = self.next_key();
        let len = parts.iter().map(|part| part.len()).sum();
        out.extend_from_slice(Header::whole(opcode, len, key).encode().as_slice());
        let begin = out.len();
        for part in parts {
            out.extend_from_slice(part);
        }
        apply_mask(&mut out[begin..], key.unwrap_or_default());
    }

    /// Takes header bytes; the header once it is complete.
    fn take_header(&mut self, input: &mut BytesMut) -> Result<Option<Header>, Violation> {
        loop {
            let size = match self.head {
                _ if self.head_len < 2 => 2,
                [first, second, ..] => Header::size([first, second]),
            };
            if self.head_len == size {
                self.head_len = 0;
                return Header::decode(&self.head[..size]).map(Some);
            }
            let len = input.len().min(size - self.head_len);
            if len == 0 {
                return Ok(None);
            }
            input.copy_to_slice(&mut self.head[self.head_len..self.head_len + len]);
            self.head_len += len;
        }
    }

    /// Checks what a header announces, before anything is set aside for it.
    fn begin_frame(&mut self, header: Header) -> Result<(), Violation> {
        self.key = match (&self.role, header.key) {
            (Role::Server, Some(key)) => key,
            (Role::Client(_), None) => [0; 4],
            (Role::Server, None) => return Err(broken("a frame of a client is not masked")),
            (Role::Client(_), Some(_)) => return Err(broken("a frame of a server is masked")),
        };
        if header.opcode.is_control() {
            // Headers of longer ones do not decode.
            self.left = usize::try_from(header.len).map_or(CONTROL_MAX, |len| len.min(CONTROL_MAX));
            self.control = Control::EMPTY;
            self.reading = Reading::Control(header.opcode);
            return Ok(());
        }
        match (header.opcode, &self.fragments) {
            (Opcode::Text, _) => {
                return Err(Violation {
                    what: "a text message; only binary ones are understood here",
                    code: 1003,
                });
            }
            (Opcode::Continuation, None) => {
                return Err(broken("a continuation of no message"));
            }
            (Opcode::Continuation, Some(_)) | (_, None) => {}
            (_, Some(_)) => return Err(broken("a message begins inside of another")),
        }
        let so_far = self.fragments.as_ref().map_or(0, BytesMut::len);
        let len = usize::try_from(header.len)
            .ok()
            .filter(|len| *len <= MESSAGE_MAX - so_far)
            .ok_or(Violation {
                what: "a message longer than the limit",
                code: 1009,
            })?;
        self.left = len;
        self.reading = if header.opcode == Opcode::Binary && header.fin {
            Reading::Whole { first: true, len }
        } else {
            Reading::Fragment { fin: header.fin }
        };
        Ok(())
    }

    /// Takes payload of the current frame out of `input`, unmasked in place.
    fn take_payload(&mut self, input: &mut BytesMut) -> BytesMut {
        let mut part = input.split_to(self.left.min(input.len()));
        apply_mask(&mut part, self.key);
        self.key.rotate_left(part.len() % 4);
        self.left -= part.len();
        part
    }

    /// Handles a complete control frame.
    fn end_control(&mut self, opcode: Opcode) -> Result<Option<Received>, Violation> {
        self.reading = Reading::Header;
        match opcode {
            Opcode::Close => {
                let (code, reason) = decode_close(self.control.as_slice())?;
                return Ok(Some(Received::Closed { code, reason }));
            }
            // A later ping stands for all before it (section 5.5.3).
            Opcode::Ping => self.pong = Some(self.control),
            // Unasked for, and allowed (section 5.5.3).
            Opcode::Pong | Opcode::Continuation | Opcode::Text | Opcode::Binary => {}
        }
        Ok(None)
    }
}

impl Framing for WsFraming {
    const NAME: &'static str = "ws";

    fn put_message(&mut self, out: &mut BytesMut, message: &[u8]) {
        self.put_frame(out, Opcode::Binary, [message, &[]]);
    }

    fn prefix(&mut self, header: &[u8], data_len: usize) -> Prefix {
        let key = self.next_key();
        let encoded = Header::whole(Opcode::Binary, header.len() + data_len, key).encode();
        let frame_len = encoded.as_slice().len();
        let len = frame_len + header.len();
        let mut bytes = [0; Segment::HEADROOM];
        bytes[..frame_len].copy_from_slice(encoded.as_slice());
        bytes[frame_len..len].copy_from_slice(header);
        let mut mask = key.unwrap_or_default();
        apply_mask(&mut bytes[frame_len..len], mask);
        mask.rotate_left(header.len() % 4);
        Prefix { bytes, len, mask }
    }

    fn put_close(&mut self, out: &mut BytesMut, code: u16, reason: &str) {
        assert!(
            reason.len() <= CLOSE_REASON_MAX,
            "a closing reason has at most 123 bytes"
        );
        if code == CLOSE_WITHOUT_CODE {
            self.put_frame(out, Opcode::Close, [&[], &[]]);
        } else {
            self.put_frame(out, Opcode::Close, [&code.to_be_bytes(), reason.as_bytes()]);
        }
    }

    fn owed(&self) -> usize {
        let Some(pong) = &self.pong else { return 0 };
        let key = match self.role {
            Role::Client(_) => 4,
            Role::Server => 0,
        };
        2 + key + pong.len
    }

    fn put_owed(&mut self, out: &mut BytesMut) {
        if let Some(pong) = self.pong.take() {
            self.put_frame(out, Opcode::Pong, [pong.as_slice(), &[]]);
        }
    }

    fn expected(&self) -> usize {
        self.left
    }

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Received>, Violation> {
        loop {
            match self.reading {
                Reading::Header => {
                    let Some(header) = self.take_header(input)? else {
                        return Ok(None);
                    };
                    self.begin_frame(header)?;
                }
                Reading::Whole { first, len } => {
                    if self.left > 0 && input.is_empty() {
                        return Ok(None);
                    }
                    let bytes = self.take_payload(input);
                    let last = self.left == 0;
                    self.reading = if last {
                        Reading::Header
                    } else {
                        Reading::Whole { first: false, len }
                    };
                    return Ok(Some(Received::Piece(Piece {
                        bytes,
                        first: first.then_some(len),
                        last,
                    })));
                }
                Reading::Fragment { fin } => {
                    let part = self.take_payload(input);
                    let message = self.fragments.get_or_insert_default();
                    message.extend_from_slice(&part);
                    if self.left > 0 {
                        return Ok(None);
                    }
                    self.reading = Reading::Header;
                    if fin && let Some(bytes) = self.fragments.take() {
                        return Ok(Some(Received::Piece(Piece {
                            first: Some(bytes.len()),
                            bytes,
                            last: true,
                        })));
                    }
                }
                Reading::Control(opcode) => {
                    let part = self.take_payload(input);
                    self.control.append(&part);
                    if self.left > 0 {
                        return Ok(None);
                    }
                    let received = self.end_control(opcode)?;
                    if received.is_some() {
                        return Ok(received);
                    }
                }
            }
        }
    }
}

impl Control {
    const EMPTY: Self = Self {
        bytes: [0; CONTROL_MAX],
        len: 0,
    };

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn append(&mut self, part: &[u8]) {
        self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
        self.len += part.len();
    }
}

impl fmt::Debug for WsFraming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WsFraming")
            .field("role", &self.role)
            .field("reading", &self.reading)
            .field("left", &self.left)
            .field("fragments", &self.fragments.as_ref().map(BytesMut::len))
            .field("pong", &self.pong.is_some())
            .finish_non_exhaustive()
    }
}
