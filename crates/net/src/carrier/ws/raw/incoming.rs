//! What a foreign end sends, taken out of its frames; without I/O.
//!
//! Binary messages that are not compressed are handed on as they come, whatever their length. A
//! text message must be UTF-8 and a compressed one must be unfolded: these two are put together in
//! memory first, up to [`RAW_MESSAGE_MAX`].

use bytes::{Buf as _, BytesMut};
use farpipe_proto::limits::RAW_MESSAGE_MAX;

use super::super::super::framed::Violation;
use super::super::frame::{CONTROL_MAX, HEADER_MAX, Header, Opcode, broken, decode_close};
use super::deflate::Inflate;
use super::{Messages, NOT_TEXT, TOO_LONG, bounded};
use crate::segment::apply_mask;

/// The bit of the first byte that marks a compressed message.
const COMPRESSED: u8 = 0x40;

/// What a step has found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Ping(Vec<u8>),
    Pong,
    Close { code: u16, reason: String },
}

/// Takes messages out of frames.
#[derive(Debug)]
pub(super) struct Incoming {
    /// Whether the other end is a client: clients mask, servers do not.
    from_client: bool,
    messages: Messages,
    /// Whether each part of a message is handed on with what it is in front (`bounded.rs`).
    is_bounded: bool,
    inflate: Option<Inflate>,
    /// The frame whose payload is being received.
    frame: Option<Frame>,
    /// The message that a frame without FIN has begun.
    message: Option<Message>,
    control: Vec<u8>,
}

#[derive(Debug)]
struct Frame {
    header: Header,
    left: u64,
    /// What lies over the next byte, rotated to its phase.
    key: [u8; 4],
}

#[derive(Debug)]
struct Message {
    is_text: bool,
    compressed: bool,
    /// What has to be whole; empty where it is handed on at once.
    held: Vec<u8>,
    /// The last byte that was handed on.
    last: Option<u8>,
}

impl Message {
    fn is_held(&self) -> bool {
        self.is_text || self.compressed
    }
}

impl Incoming {
    pub(super) fn new(from_client: bool, messages: Messages, inflate: Option<Inflate>) -> Self {
        Self {
            from_client,
            messages,
            is_bounded: false,
            inflate,
            frame: None,
            message: None,
            control: Vec::new(),
        }
    }

    #[cfg(feature = "conformance")]
    pub(super) fn keep_bounds(&mut self) {
        self.is_bounded = true;
    }

    /// Takes what it can out of `raw`, and hands messages on to `inbox`. `None`: more is needed, or
    /// `inbox` has reached `inbox_max`.
    pub(super) fn step(
        &mut self,
        raw: &mut BytesMut,
        inbox: &mut BytesMut,
        inbox_max: usize,
    ) -> Result<Option<Event>, Violation> {
        loop {
            if inbox.len() >= inbox_max {
                return Ok(None);
            }
            if self.frame.is_none() && !self.begin(raw)? {
                return Ok(None);
            }
            let Some(frame) = &mut self.frame else {
                return Ok(None);
            };
            let part = usize::try_from(frame.left)
                .unwrap_or(usize::MAX)
                .min(raw.len());
            if part == 0 && frame.left > 0 {
                return Ok(None);
            }
            let mut bytes = raw.split_to(part);
            if frame.header.key.is_some() {
                apply_mask(&mut bytes, frame.key);
                frame.key.rotate_left(part % 4);
            }
            frame.left -= part as u64;
            let is_whole = frame.left == 0;
            let header = frame.header;
            if is_whole {
                self.frame = None;
            }
            if header.opcode.is_control() {
                self.control.extend_from_slice(&bytes);
                if is_whole {
                    return self.control(header.opcode).map(Some);
                }
                continue;
            }
            self.take(&bytes, is_whole && header.fin, inbox)?;
        }
    }

    /// Reads a frame's header, if it is there.
    fn begin(&mut self, raw: &mut BytesMut) -> Result<bool, Violation> {
        let &[first, second, ..] = &raw[..] else {
            return Ok(false);
        };
        let size = Header::size([first, second]);
        if raw.len() < size {
            return Ok(false);
        }
        let compressed = first & COMPRESSED != 0;
        let mut head = [0; HEADER_MAX];
        head[..size].copy_from_slice(&raw[..size]);
        let starts = matches!(first & 0x0F, 0x1 | 0x2);
        if compressed && self.inflate.is_some() && starts {
            head[0] &= !COMPRESSED;
        }
        let header = Header::decode(&head[..size])?;
        raw.advance(size);
        if header.key.is_some() != self.from_client {
            return Err(broken(if self.from_client {
                "a client's frame that is not masked"
            } else {
                "a server's frame that is masked"
            }));
        }
        match header.opcode {
            Opcode::Text | Opcode::Binary if self.message.is_some() => {
                return Err(broken("a message begins inside another"));
            }
            Opcode::Text | Opcode::Binary => {
                self.message = Some(Message {
                    is_text: header.opcode == Opcode::Text,
                    compressed,
                    held: Vec::new(),
                    last: None,
                });
            }
            Opcode::Continuation if self.message.is_none() => {
                return Err(broken("a continuation of nothing"));
            }
            Opcode::Continuation | Opcode::Close | Opcode::Ping | Opcode::Pong => {}
        }
        let held = match &self.message {
            Some(message) if message.is_held() && !header.opcode.is_control() => message.held.len(),
            Some(_) | None => 0,
        };
        let is_held = self.message.as_ref().is_some_and(Message::is_held);
        if is_held
            && !header.opcode.is_control()
            && header.len.saturating_add(held as u64) > RAW_MESSAGE_MAX as u64
        {
            return Err(TOO_LONG);
        }
        self.frame = Some(Frame {
            header,
            left: header.len,
            key: header.key.unwrap_or_default(),
        });
        Ok(true)
    }

    /// Part of a message; `last`: its last.
    fn take(&mut self, bytes: &[u8], last: bool, inbox: &mut BytesMut) -> Result<(), Violation> {
        let Some(message) = &mut self.message else {
            return Err(broken("a continuation of nothing"));
        };
        if message.is_held() {
            message.held.extend_from_slice(bytes);
        } else {
            if self.is_bounded {
                bounded::mark(message.is_text, last, bytes.len(), inbox);
            }
            inbox.extend_from_slice(bytes);
            message.last = bytes.last().copied().or(message.last);
        }
        if !last {
            return Ok(());
        }
        let Some(mut message) = self.message.take() else {
            return Ok(());
        };
        if message.is_held() {
            let mut whole = std::mem::take(&mut message.held);
            if message.compressed
                && let Some(inflate) = &mut self.inflate
            {
                whole = inflate.inflate(whole)?;
            }
            if message.is_text && std::str::from_utf8(&whole).is_err() {
                return Err(NOT_TEXT);
            }
            if self.is_bounded {
                bounded::mark(message.is_text, true, whole.len(), inbox);
            }
            inbox.extend_from_slice(&whole);
            message.last = whole.last().copied();
        }
        if self.messages == Messages::Lines && message.last != Some(b'\n') {
            inbox.extend_from_slice(b"\n");
        }
        Ok(())
    }

    fn control(&mut self, opcode: Opcode) -> Result<Event, Violation> {
        let payload = std::mem::take(&mut self.control);
        debug_assert!(payload.len() <= CONTROL_MAX, "decode refuses longer ones");
        Ok(match opcode {
            Opcode::Ping => Event::Ping(payload),
            // Allowed by RFC 6455, but what came of the message is not the message.
            Opcode::Close if self.message.is_some() => {
                return Err(broken("a close in the midst of a message"));
            }
            Opcode::Close => {
                let (code, reason) = decode_close(&payload)?;
                Event::Close { code, reason }
            }
            Opcode::Pong | Opcode::Continuation | Opcode::Text | Opcode::Binary => Event::Pong,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::deflate::Agreed;
    use super::*;

    /// An unmasked frame.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            len @ 0..=125 => frame.push(len as u8),
            len @ 126..=65_535 => {
                frame.push(126);
                frame.extend((len as u16).to_be_bytes());
            }
            len => {
                frame.push(127);
                frame.extend((len as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        frame
    }

    #[test]
    fn a_close_in_the_midst_of_a_message_is_no_end() {
        for begun in [0x01, 0x02] {
            let wire = [frame(begun, b"half"), frame(0x88, &[3, 232])].concat();
            for messages in [Messages::Bytes, Messages::Lines] {
                let error = read(messages, false, &wire, 99).expect_err("not whole");
                assert_eq!(error.what, "a close in the midst of a message");
            }
        }
    }

    /// What comes out of `wire`, cut into pieces of `size` bytes.
    fn read(
        messages: Messages,
        deflated: bool,
        wire: &[u8],
        size: usize,
    ) -> Result<(Vec<u8>, Vec<Event>), Violation> {
        let inflate = deflated.then(|| Agreed::default().inflate());
        let mut incoming = Incoming::new(false, messages, inflate);
        let (mut raw, mut inbox) = (BytesMut::new(), BytesMut::new());
        let mut events = Vec::new();
        for piece in wire.chunks(size) {
            raw.extend_from_slice(piece);
            while let Some(event) = incoming.step(&mut raw, &mut inbox, usize::MAX)? {
                events.push(event);
            }
        }
        Ok((inbox.to_vec(), events))
    }

    #[test]
    fn messages_are_put_together_however_they_are_cut() {
        let wire = [
            frame(0x82, b"one "),
            frame(0x02, b"tw"),
            frame(0x89, b"are you there"),
            frame(0x80, b"o "),
            frame(0x01, "d\u{20ac}".as_bytes().split_at(2).0),
            frame(0x80, "d\u{20ac}".as_bytes().split_at(2).1),
            frame(0x81, b""),
            frame(0x8A, b""),
            frame(0x88, b"\x03\xE8bye"),
        ]
        .concat();
        for size in 1..=wire.len() {
            let (bytes, events) = read(Messages::Bytes, false, &wire, size).expect("well-formed");
            assert_eq!(bytes, "one two d\u{20ac}".as_bytes());
            let close = Event::Close {
                code: 1000,
                reason: "bye".to_owned(),
            };
            assert_eq!(
                events,
                [Event::Ping(b"are you there".to_vec()), Event::Pong, close]
            );
            let (lines, _) = read(Messages::Lines, false, &wire, size).expect("well-formed");
            assert_eq!(lines, "one \ntwo \nd\u{20ac}\n\n".as_bytes());
        }
    }

    #[test]
    fn a_line_that_has_its_end_gets_no_second_one() {
        let wire = [frame(0x81, b"a\n"), frame(0x82, b"b\n")].concat();
        let (lines, _) = read(Messages::Lines, false, &wire, 100).expect("well-formed");
        assert_eq!(lines, b"a\nb\n");
    }

    #[test]
    fn a_clients_mask_is_taken_off_in_pieces() {
        let mut incoming = Incoming::new(true, Messages::Bytes, None);
        let (mut raw, mut inbox) = (BytesMut::new(), BytesMut::new());
        let mut wire = vec![0x82, 0x8B, 1, 2, 3, 4];
        wire.extend(
            b"hello world"
                .iter()
                .zip([1, 2, 3, 4].iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
        for byte in wire {
            raw.extend_from_slice(&[byte]);
            assert_eq!(incoming.step(&mut raw, &mut inbox, 100), Ok(None));
        }
        assert_eq!(&inbox[..], b"hello world");
    }

    #[test]
    fn p12_frames_that_break_the_rules_are_refused() {
        let long = RAW_MESSAGE_MAX + 1;
        for (wire, code) in [
            (frame(0x80, b"of nothing"), 1002),
            ([frame(0x02, b"a"), frame(0x82, b"b")].concat(), 1002),
            // Compressed, which nobody agreed to.
            (frame(0xC2, b"a"), 1002),
            (frame(0xA2, b"a"), 1002),
            (frame(0x81, b"\xFF"), 1007),
            (frame(0x81, &vec![b'a'; long]), 1009),
            (frame(0x88, b"\x03\xEE"), 1002),
        ] {
            let refused = read(Messages::Bytes, false, &wire, 4096).expect_err("refused");
            assert_eq!(refused.code, code, "{}", refused.what);
        }
        // From a client it must be masked.
        let mut incoming = Incoming::new(true, Messages::Bytes, None);
        let mut raw = BytesMut::from(&frame(0x82, b"a")[..]);
        let refused = incoming.step(&mut raw, &mut BytesMut::new(), 100);
        assert_eq!(refused.expect_err("refused").code, 1002);
    }

    #[test]
    fn a_long_binary_message_is_never_held() {
        let data = vec![7; 3 * RAW_MESSAGE_MAX];
        let (bytes, _) = read(Messages::Bytes, false, &frame(0x82, &data), 64 << 10).expect("fine");
        assert_eq!(bytes, data);
    }

    #[test]
    fn p13_a_claimed_or_inflated_length_over_the_limit_is_refused() {
        let mut claimed = vec![0xC2, 127];
        claimed.extend((u64::MAX >> 1).to_be_bytes());
        let refused = read(Messages::Bytes, true, &claimed, 100).expect_err("refused");
        assert_eq!(refused.code, 1009);
        let bomb = Agreed::default().deflate().compress(&vec![0; 64 << 20]);
        let refused = read(Messages::Bytes, true, &frame(0xC2, &bomb), 4096).expect_err("refused");
        assert_eq!(refused.code, 1009);
        // In many fragments.
        let mut wire = frame(0x01, b"");
        for _ in 0..=16 {
            wire.extend(frame(0x00, &vec![b'a'; 64 << 10]));
        }
        let refused = read(Messages::Bytes, true, &wire, 4096).expect_err("refused");
        assert_eq!(refused.code, 1009);
    }

    #[test]
    fn compressed_messages_are_unfolded() {
        let mut deflate = Agreed::default().deflate();
        let (first, second) = (
            deflate.compress(b"first line"),
            deflate.compress(b"first line"),
        );
        let (head, tail) = second.split_at(2);
        let wire = [
            frame(0xC1, &first),
            frame(0x41, head),
            frame(0x80, tail),
            frame(0x81, b"plain"),
        ]
        .concat();
        let (lines, _) = read(Messages::Lines, true, &wire, 3).expect("well-formed");
        assert_eq!(lines, b"first line\nfirst line\nplain\n");
    }
}
