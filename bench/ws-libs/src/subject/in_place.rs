//! Framing in place: what farpipe's own carrier does (crates/net/src/carrier/framed).
//!
//! Sending: the payload is read into a slot behind room for the header; header written into that
//! room, payload masked where it lies, one write; the slot is what is kept, and sending it again
//! only changes the mask. Receiving: one large read, payloads unmasked where they lie and handed
//! on as they come, without waiting for the end of a message.

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{READ_BUFFER, Subject, run};
use crate::link::Direction;
use crate::retain::Retained;

/// FIN, binary.
const FIRST_BYTE: u8 = 0x82;

/// The longest header: 2 bytes, a 64-bit length, a mask.
const HEADER_MAX: usize = 14;

pub const SUBJECT: Subject = Subject {
    name: "in place",
    retention: "the slot that was written, masked; sending it again changes the mask",
    send: |socket, link| {
        run(socket, async |mut socket| {
            let mut retained = Retained::new(link);
            // The bench needs no unpredictable masks, only masks that differ.
            let mut key = 0x2545_f491_u32;
            for (start, len) in link.messages() {
                let mut slot = retained.take(start, len, || vec![0; HEADER_MAX + link.message]);
                let end = HEADER_MAX + len;
                link.fill(start, &mut slot[HEADER_MAX..end])?;
                let mask = match link.direction {
                    Direction::ClientToServer => {
                        key = key.wrapping_mul(0x9e37_79b1).wrapping_add(1);
                        Some(key.to_ne_bytes())
                    }
                    Direction::ServerToClient => None,
                };
                let (header, header_len) = header(len, mask);
                if let Some(mask) = mask {
                    apply_mask(&mut slot[HEADER_MAX..end], mask);
                }
                let begin = HEADER_MAX - header_len;
                slot[begin..HEADER_MAX].copy_from_slice(&header[..header_len]);
                socket.write_all(&slot[begin..end]).await?;
                retained.keep(start + len as u64, slot);
            }
            Ok(())
        })
    },
    receive: |socket, incoming| {
        run(socket, async |mut socket| {
            let mut buffer = vec![0; READ_BUFFER];
            let mut state = State::Header {
                have: 0,
                bytes: [0; HEADER_MAX],
            };
            while !incoming.done() {
                let n = socket.read(&mut buffer).await?;
                ensure!(n > 0, "cut short");
                let mut rest = &mut buffer[..n];
                while !rest.is_empty() {
                    rest = state.step(rest, |piece| incoming.got(piece))?;
                }
            }
            Ok(())
        })
    },
};

/// Where in a frame the receiver is.
enum State {
    /// In the header, of which `have` bytes are here.
    Header {
        have: usize,
        bytes: [u8; HEADER_MAX],
    },
    /// In the payload; `mask` begins with the byte for what comes next.
    Payload { left: usize, mask: Option<[u8; 4]> },
}

impl State {
    /// Consumes the front of `bytes` and returns the rest.
    fn step<'a>(
        &mut self,
        bytes: &'a mut [u8],
        piece: impl FnOnce(&[u8]) -> Result<()>,
    ) -> Result<&'a mut [u8]> {
        match self {
            Self::Header {
                have,
                bytes: header,
            } => {
                // A byte at a time: at most 14 a frame, and a frame holds many KiB.
                let (front, rest) = bytes.split_at_mut(1);
                header[*have] = front[0];
                *have += 1;
                if let Some((left, mask)) = parse(&header[..*have])? {
                    *self = Self::next(left, mask);
                }
                Ok(rest)
            }
            Self::Payload { left, mask } => {
                let n = (*left).min(bytes.len());
                let (front, rest) = bytes.split_at_mut(n);
                if let Some(mask) = mask {
                    apply_mask(front, *mask);
                    mask.rotate_left(n % 4);
                }
                piece(front)?;
                *self = Self::next(*left - n, *mask);
                Ok(rest)
            }
        }
    }

    fn next(left: usize, mask: Option<[u8; 4]>) -> Self {
        if left == 0 {
            Self::Header {
                have: 0,
                bytes: [0; HEADER_MAX],
            }
        } else {
            Self::Payload { left, mask }
        }
    }
}

fn header(len: usize, mask: Option<[u8; 4]>) -> ([u8; HEADER_MAX], usize) {
    let mut bytes = [0; HEADER_MAX];
    let masked = if mask.is_some() { 0x80 } else { 0 };
    bytes[0] = FIRST_BYTE;
    let mut end = match len {
        0..=125 => {
            bytes[1] = masked | len as u8;
            2
        }
        126..=0xffff => {
            bytes[1] = masked | 126;
            bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            4
        }
        _ => {
            bytes[1] = masked | 127;
            bytes[2..10].copy_from_slice(&(len as u64).to_be_bytes());
            10
        }
    };
    if let Some(mask) = mask {
        bytes[end..end + 4].copy_from_slice(&mask);
        end += 4;
    }
    (bytes, end)
}

/// Length and mask, or `None` while the header is not complete.
fn parse(header: &[u8]) -> Result<Option<(usize, Option<[u8; 4]>)>> {
    let &[first, second, ref rest @ ..] = header else {
        return Ok(None);
    };
    ensure!(first == FIRST_BYTE, "not a whole binary message");
    let (len, rest) = match (second & 0x7f, rest) {
        (126, [a, b, rest @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), rest),
        (127, rest) if rest.len() >= 8 => {
            let (len, rest) = rest.split_first_chunk::<8>().expect("8 bytes are there");
            (usize::try_from(u64::from_be_bytes(*len))?, rest)
        }
        (126 | 127, _) => return Ok(None),
        (len, rest) => (usize::from(len), rest),
    };
    if second & 0x80 == 0 {
        return Ok(Some((len, None)));
    }
    Ok(rest.first_chunk::<4>().map(|mask| (len, Some(*mask))))
}

/// XORs `mask`, repeated from the first byte, over `bytes`.
fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let word = u32::from_ne_bytes(mask);
    let wide = (u64::from(word) << 32) | u64::from(word);
    let (blocks, rest) = bytes.as_chunks_mut::<64>();
    for block in blocks {
        for lane in block.as_chunks_mut::<8>().0 {
            *lane = (u64::from_ne_bytes(*lane) ^ wide).to_ne_bytes();
        }
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}
