//! Finds the frames in one direction's bytes as they pass: WebSocket after its HTTP head, or
//! farpipe's `fp`.
//!
//! Only heads are looked at; payloads are skipped by count, so any length a head claims costs
//! nothing. What cannot be parsed (TLS, an answer other than 101) is opaque: no frame is ever found
//! in it.

use crate::plan::Framing;

/// A frame, in offsets of its direction's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The first byte of its header.
    pub(crate) start: u64,
    /// The first byte of its payload.
    pub(crate) payload: u64,
    /// The byte after its last.
    pub(crate) end: u64,
    /// The first payload byte, unmasked; none if the payload is empty.
    pub(crate) kind: Option<u8>,
}

/// A direction's parser. Feed it every byte once, in pieces of any size.
#[derive(Debug)]
pub(crate) struct Scanner {
    offset: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The first bytes, until they tell the framing.
    Detect(Head),
    /// In the HTTP head: the first bytes of its first line, and how much of CR LF CR LF has been
    /// seen.
    Http {
        line: Head,
        matched: usize,
    },
    /// In the preface of `fp`, so many bytes left.
    Preface(usize),
    /// In a frame's header.
    WsHead(Head),
    FpHead(Head),
    /// In a payload; then the next header.
    WsPayload(u64),
    FpPayload(u64),
    Opaque,
}

impl Scanner {
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Auto => State::Detect(Head::default()),
            Framing::Ws => State::Http {
                line: Head::default(),
                matched: 0,
            },
            Framing::Fp => State::Preface(FP_PREFACE),
        };
        Self { offset: 0, state }
    }

    /// Takes the next bytes; calls `found` for each counted frame whose header (and first payload
    /// byte) is complete.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(Frame)) {
        while let Some(&byte) = bytes.first() {
            let used = match &mut self.state {
                State::Opaque => bytes.len(),
                State::WsPayload(left) | State::FpPayload(left) => {
                    let used = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len());
                    *left -= used as u64;
                    used
                }
                State::Detect(_)
                | State::Http { .. }
                | State::Preface(_)
                | State::WsHead(_)
                | State::FpHead(_) => {
                    self.take(byte, &mut found);
                    1
                }
            };
            self.offset += used as u64;
            bytes = &bytes[used..];
            match self.state {
                State::WsPayload(0) => self.state = State::WsHead(Head::default()),
                State::FpPayload(0) => self.state = State::FpHead(Head::default()),
                _ => {}
            }
        }
    }

    /// The start of a frame whose header is not complete: who wants to stop before a frame must not
    /// pass this offset.
    pub(crate) fn undecided_from(&self) -> Option<u64> {
        match &self.state {
            State::WsHead(head) | State::FpHead(head) if head.len > 0 => {
                Some(self.offset - head.len as u64)
            }
            _ => None,
        }
    }

    /// Whether the bytes cannot be parsed.
    pub(crate) fn is_opaque(&self) -> bool {
        matches!(self.state, State::Opaque)
    }

    /// One byte of a head. `self.offset` is still the offset of this byte.
    fn take(&mut self, byte: u8, found: &mut impl FnMut(Frame)) {
        match &mut self.state {
            State::Detect(head) => {
                head.push(byte);
                if head.bytes()[0] == TLS_HANDSHAKE {
                    self.state = State::Opaque;
                } else if head.len == 4 {
                    let head = *head;
                    self.state = match head.bytes() {
                        b"GET " | b"HTTP" => State::Http {
                            line: head,
                            matched: 0,
                        },
                        _ => State::Preface(FP_PREFACE - head.len),
                    };
                }
            }
            State::Http { line, matched } => {
                if line.len < line.buf.len() {
                    line.push(byte);
                }
                *matched = match (*matched, byte) {
                    (n @ (0 | 2), b'\r') => n + 1,
                    (n @ (1 | 3), b'\n') => n + 1,
                    (_, b'\r') => 1,
                    _ => 0,
                };
                if *matched == 4 {
                    let refused = line.bytes().starts_with(b"HTTP/")
                        && line.bytes().get(8..12) != Some(b" 101");
                    self.state = if refused {
                        State::Opaque
                    } else {
                        State::WsHead(Head::default())
                    };
                }
            }
            State::Preface(left) => {
                *left -= 1;
                if *left == 0 {
                    self.state = State::FpHead(Head::default());
                }
            }
            State::WsHead(head) => {
                head.push(byte);
                let Some(ws) = WsHeader::parse(head.bytes()) else {
                    return;
                };
                let start = self.offset + 1 - head.len as u64;
                if ws.starts_message {
                    found(frame(start, ws.header, ws.payload, ws.kind));
                }
                self.state = State::WsPayload(ws.payload - u64::from(ws.kind.is_some()));
            }
            State::FpHead(head) => {
                head.push(byte);
                let (payload, kind) = match *head.bytes() {
                    [0, 0, 0, 0] => (0, None),
                    [a, b, c, d, kind] => (u64::from(u32::from_be_bytes([a, b, c, d])), Some(kind)),
                    _ => return,
                };
                let start = self.offset + 1 - head.len as u64;
                found(frame(start, 4, payload, kind));
                self.state = State::FpPayload(payload - u64::from(kind.is_some()));
            }
            State::WsPayload(_) | State::FpPayload(_) | State::Opaque => {}
        }
    }
}

fn frame(start: u64, header: u64, payload: u64, kind: Option<u8>) -> Frame {
    // A peer may claim a length near 2^63 at any offset; such a frame never ends.
    Frame {
        start,
        payload: start + header,
        end: (start + header).saturating_add(payload),
        kind,
    }
}

/// A WebSocket frame header, with the first payload byte if there is one.
struct WsHeader {
    header: u64,
    payload: u64,
    kind: Option<u8>,
    /// Text or binary: a continuation belongs to the message before it, a control frame to none.
    starts_message: bool,
}

impl WsHeader {
    /// None: more bytes are needed.
    fn parse(head: &[u8]) -> Option<Self> {
        let (&flags, &length) = (head.first()?, head.get(1)?);
        let (payload, mut header) = match length & 0x7f {
            126 => (
                u64::from(u16::from_be_bytes(*head.get(2..)?.first_chunk()?)),
                4,
            ),
            127 => (u64::from_be_bytes(*head.get(2..)?.first_chunk()?), 10),
            short => (u64::from(short), 2),
        };
        let mut key = 0;
        if length & 0x80 != 0 {
            key = *head.get(header..header + 4)?.first()?;
            header += 4;
        }
        let kind = match payload {
            0 => None,
            _ => Some(head.get(header)? ^ key),
        };
        Some(Self {
            header: header as u64,
            payload,
            kind,
            starts_message: matches!(flags & 0x0f, 1 | 2),
        })
    }
}

/// The bytes of a head so far.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    buf: [u8; HEAD_MAX],
    len: usize,
}

impl Head {
    fn push(&mut self, byte: u8) {
        self.buf[self.len] = byte;
        self.len += 1;
    }

    fn bytes(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}

/// 2 + 8 bytes of length + 4 of key + the first payload byte.
const HEAD_MAX: usize = 15;
const FP_PREFACE: usize = 8;
/// The first byte of every TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;

#[cfg(test)]
mod tests;
