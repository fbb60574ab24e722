//! Messages with their bounds kept: for the suites that test WebSocket ends by what they echo, message
//! by message. What is read and written are parts: one byte that says text (1) or binary (2), and 0x80 if
//! the message ends with it, four bytes of length (big endian), and so many bytes of the message.

use bytes::{BufMut as _, BytesMut};

/// What marks a part of a text message.
const TEXT: u8 = 1;
/// What marks a part of a binary message.
const BINARY: u8 = 2;
/// The message ends with this part.
const LAST: u8 = 0x80;
/// The bytes in front of a part.
#[cfg(feature = "conformance")]
const MARK: usize = 5;

/// Puts the mark of a part of `len` bytes.
pub(super) fn mark(is_text: bool, last: bool, len: usize, into: &mut BytesMut) {
    let kind = if is_text { TEXT } else { BINARY };
    into.put_u8(if last { kind | LAST } else { kind });
    into.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
}

/// Parts, put together to messages.
#[cfg(feature = "conformance")]
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Of a part that is not whole.
    begun: BytesMut,
    message: Vec<u8>,
}

#[cfg(feature = "conformance")]
impl Parts {
    /// Takes bytes of parts, and hands each message on that is whole: whether it is text, and its bytes.
    pub(super) fn put(&mut self, bytes: &[u8], mut message: impl FnMut(bool, &[u8])) {
        self.begun.extend_from_slice(bytes);
        while let [kind, a, b, c, d, ..] = self.begun[..] {
            let len = u32::from_be_bytes([a, b, c, d]) as usize;
            if self.begun.len() - MARK < len {
                return;
            }
            let part = self.begun.split_to(MARK + len);
            self.message.extend_from_slice(&part[MARK..]);
            if kind & LAST != 0 {
                message(kind & !LAST == TEXT, &self.message);
                self.message.clear();
            }
        }
    }
}
