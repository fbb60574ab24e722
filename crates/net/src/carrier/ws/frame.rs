//! The frame headers of RFC 6455 section 5.2 and the payload of closing frames, without I/O.

use super::super::framed::{CLOSE_WITHOUT_CODE, Violation, close_code_is_valid};

/// Longest header: two bytes, a 64-bit length, a mask key.
pub(super) const HEADER_MAX: usize = 14;

/// Longest payload of a control frame (section 5.5).
pub(super) const CONTROL_MAX: usize = 125;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Whether the message ends with this frame.
    pub(super) fin: bool,
    pub(super) opcode: Opcode,
    /// Bytes of payload.
    pub(super) len: u64,
    /// What is laid over the payload; `None`: nothing, and no key is on the wire.
    pub(super) key: Option<[u8; 4]>,
}

/// A header on the wire.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encoded {
    bytes: [u8; HEADER_MAX],
    len: usize,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

impl Header {
    /// The header of a whole message in one frame.
    pub(super) fn whole(opcode: Opcode, len: usize, key: Option<[u8; 4]>) -> Self {
        Self {
            fin: true,
            opcode,
            len: len as u64,
            key,
        }
    }

    /// Bytes a header takes, from its first two.
    pub(super) fn size([_, second]: [u8; 2]) -> usize {
        let length = match second & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if second & 0x80 == 0 { 0 } else { 4 }
    }

    /// The header in `bytes`, which are as many as [`Header::size`] says.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Violation> {
        let &[first, second, ref rest @ ..] = bytes else {
            return Err(broken("a frame header is cut"));
        };
        if first & 0x70 != 0 {
            return Err(broken("a reserved bit is set"));
        }
        let Some(opcode) = Opcode::from_bits(first & 0x0F) else {
            return Err(broken("a frame of unknown type"));
        };
        let fin = first & 0x80 != 0;
        let (len, rest) = decode_length(second & 0x7F, rest)?;
        if opcode.is_control() {
            if !fin {
                return Err(broken("a fragmented control frame"));
            }
            if len > CONTROL_MAX as u64 {
                return Err(broken("a control frame longer than 125 bytes"));
            }
        }
        let key = rest.first_chunk().copied();
        Ok(Self {
            fin,
            opcode,
            len,
            key,
        })
    }

    /// The header as it goes on the wire, its length in the shortest form.
    pub(super) fn encode(&self) -> Encoded {
        let mut bytes = [0; HEADER_MAX];
        bytes[0] = self.opcode.bits() | if self.fin { 0x80 } else { 0 };
        let mut len = 2;
        if self.len <= 125 {
            bytes[1] = self.len as u8;
        } else if let Ok(short) = u16::try_from(self.len) {
            bytes[1] = 126;
            bytes[2..4].copy_from_slice(&short.to_be_bytes());
            len = 4;
        } else {
            bytes[1] = 127;
            bytes[2..10].copy_from_slice(&self.len.to_be_bytes());
            len = 10;
        }
        if let Some(key) = self.key {
            bytes[1] |= 0x80;
            bytes[len..len + 4].copy_from_slice(&key);
            len += 4;
        }
        Encoded { bytes, len }
    }
}

impl Encoded {
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A breach of the protocol's rules proper: 1002.
pub(super) const fn broken(what: &'static str) -> Violation {
    Violation { what, code: 1002 }
}

/// Code and reason of a closing frame (section 5.5.1).
pub(super) fn decode_close(payload: &[u8]) -> Result<(u16, String), Violation> {
    let (code, reason) = match payload {
        [] => return Ok((CLOSE_WITHOUT_CODE, String::new())),
        [_] => return Err(broken("a closing frame of one byte")),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !close_code_is_valid(code) {
        return Err(broken("a close code that may not be sent"));
    }
    match std::str::from_utf8(reason) {
        Ok(reason) => Ok((code, reason.to_owned())),
        Err(_) => Err(Violation {
            what: "a closing reason that is not UTF-8",
            code: 1007,
        }),
    }
}

/// The payload's length and what follows it; `short` is the seven-bit length.
fn decode_length(short: u8, bytes: &[u8]) -> Result<(u64, &[u8]), Violation> {
    const CUT: Violation = broken("a frame header is cut");
    const WASTEFUL: Violation = broken("a length that is not in its shortest form");
    match short {
        126 => {
            let (len, rest) = bytes.split_first_chunk().ok_or(CUT)?;
            let len = u16::from_be_bytes(*len);
            if len <= 125 {
                return Err(WASTEFUL);
            }
            Ok((u64::from(len), rest))
        }
        127 => {
            let (len, rest) = bytes.split_first_chunk().ok_or(CUT)?;
            let len = u64::from_be_bytes(*len);
            if len >> 63 != 0 {
                return Err(broken("a length with its highest bit set"));
            }
            if len <= u64::from(u16::MAX) {
                return Err(WASTEFUL);
            }
            Ok((len, rest))
        }
        _ => Ok((u64::from(short), bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

    /// The headers of the examples in RFC 6455 section 5.7.
    #[test]
    fn headers_are_those_of_the_rfc() {
        let fragment = |fin, opcode, len| Header {
            fin,
            opcode,
            len,
            key: None,
        };
        let table: [(Header, &[u8]); 8] = [
            (Header::whole(Opcode::Text, 5, None), &[0x81, 0x05]),
            (
                Header::whole(Opcode::Text, 5, Some(KEY)),
                &[0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D],
            ),
            (fragment(false, Opcode::Text, 3), &[0x01, 0x03]),
            (fragment(true, Opcode::Continuation, 2), &[0x80, 0x02]),
            (Header::whole(Opcode::Ping, 5, None), &[0x89, 0x05]),
            (
                Header::whole(Opcode::Pong, 5, Some(KEY)),
                &[0x8A, 0x85, 0x37, 0xFA, 0x21, 0x3D],
            ),
            (
                Header::whole(Opcode::Binary, 256, None),
                &[0x82, 0x7E, 0x01, 0x00],
            ),
            (
                Header::whole(Opcode::Binary, 65_536, None),
                &[0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0],
            ),
        ];
        for (header, bytes) in table {
            assert_eq!(header.encode().as_slice(), bytes);
            assert_eq!(Header::decode(bytes), Ok(header));
        }
    }

    #[test]
    fn every_kind_of_header_survives_the_wire() {
        let lens = (0..=300)
            .chain(65_500..=65_600)
            .chain([u64::from(u32::MAX), u64::MAX >> 1]);
        for len in lens {
            for bits in 0..=0xF {
                let Some(opcode) = Opcode::from_bits(bits) else {
                    continue;
                };
                for (fin, key) in [
                    (true, None),
                    (false, None),
                    (true, Some(KEY)),
                    (false, Some(KEY)),
                ] {
                    if opcode.is_control() && (!fin || len > 125) {
                        continue;
                    }
                    let header = Header {
                        fin,
                        opcode,
                        len,
                        key,
                    };
                    let encoded = header.encode();
                    let bytes = encoded.as_slice();
                    assert_eq!(Header::size([bytes[0], bytes[1]]), bytes.len());
                    assert_eq!(Header::decode(bytes), Ok(header));
                }
            }
        }
    }

    #[test]
    fn p2_reserved_bits_and_unknown_types_are_refused() {
        for first in 0..=255 {
            let refused = Header::decode(&[first, 0]).is_err();
            let reserved = first & 0x70 != 0;
            let unknown = matches!(first & 0xF, 3..=7 | 11..=15);
            let fragmented_control = first & 0x88 == 0x08;
            assert_eq!(
                refused,
                reserved || unknown || fragmented_control,
                "{first:#x}"
            );
        }
    }

    #[test]
    fn p12_lengths_come_in_their_shortest_form() {
        let short = |len: u16| [&[0x82, 126][..], &len.to_be_bytes()].concat();
        let long = |len: u64| [&[0x82, 127][..], &len.to_be_bytes()].concat();
        for bytes in [
            short(0),
            short(125),
            long(0),
            long(126),
            long(65_535),
            long(1 << 63),
        ] {
            let violation = Header::decode(&bytes).expect_err("it is refused");
            assert_eq!(violation.code, 1002);
        }
        for (bytes, len) in [
            (short(126), 126),
            (short(65_535), 65_535),
            (long(65_536), 65_536),
            (long(u64::MAX >> 1), u64::MAX >> 1),
        ] {
            assert_eq!(Header::decode(&bytes).map(|header| header.len), Ok(len));
        }
    }

    #[test]
    fn p12_control_frames_are_short_and_whole() {
        for opcode in [0x8, 0x9, 0xA] {
            assert!(Header::decode(&[0x80 | opcode, 125]).is_ok());
            assert!(Header::decode(&[0x80 | opcode, 126, 0, 126]).is_err());
            assert!(Header::decode(&[opcode, 0]).is_err());
        }
    }

    #[test]
    fn p12_close_codes_and_reasons_follow_the_rules() {
        assert_eq!(decode_close(&[]), Ok((1005, String::new())));
        assert_eq!(
            decode_close(&[3]).expect_err("one byte is no code").code,
            1002
        );
        assert_eq!(decode_close(&[3, 232]), Ok((1000, String::new())));
        assert_eq!(decode_close(b"\x03\xE9home"), Ok((1001, "home".to_owned())));
        assert_eq!(
            decode_close(b"\x03\xE8\xFF").expect_err("not UTF-8").code,
            1007
        );
        let allowed = |code| matches!(code, 1000..=1003 | 1007..=1011 | 1012..=1014 | 3000..=3999 | 4000..=4999);
        for code in 0..=u16::MAX {
            let decoded = decode_close(&code.to_be_bytes());
            if allowed(code) {
                assert_eq!(decoded, Ok((code, String::new())));
            } else {
                assert_eq!(
                    decoded.expect_err("it may not be sent").code,
                    1002,
                    "{code}"
                );
            }
        }
    }

    #[test]
    fn a_header_that_is_cut_is_an_error_and_no_panic() {
        for bytes in [
            &[][..],
            &[0x82],
            &[0x82, 126],
            &[0x82, 126, 0],
            &[0x82, 127, 0, 0, 0],
        ] {
            assert!(Header::decode(bytes).is_err());
        }
    }
}
