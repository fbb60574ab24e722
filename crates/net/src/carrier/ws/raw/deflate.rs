//! permessage-deflate (RFC 7692), for the accepting end: what is sent to browsers shrinks.
//!
//! The window is 15 bits both ways: the one size that the compressor has. An offer that wants a
//! smaller one for us is not taken. What a message unfolds into is bounded before it is made.

use std::fmt;

use farpipe_proto::limits::RAW_MESSAGE_MAX;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::super::super::framed::Violation;
use super::super::frame::broken;
use super::TOO_LONG;

/// The name in `Sec-WebSocket-Extensions`.
const NAME: &str = "permessage-deflate";

/// What a sync flush ends with; not sent (section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// A stored block of nothing, from a byte's beginning (RFC 1951 section 3.2.4).
const EMPTY_BLOCK: [u8; 5] = [0x00, 0x00, 0x00, 0xFF, 0xFF];

/// Output is made in steps of this size.
const STEP: usize = 16 << 10;

/// Which parameters of an offer were taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Each message of ours stands for itself.
    server_alone: bool,
    /// Each message of the client stands for itself.
    client_alone: bool,
}

impl Agreed {
    /// The first of the offers that can be taken; each is one member of the header's lists.
    pub(super) fn of<'a>(offers: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        offers.filter_map(Self::take).next()
    }

    fn take(offer: &[u8]) -> Option<Self> {
        let mut params = std::str::from_utf8(offer).ok()?.split(';').map(str::trim);
        if params.next() != Some(NAME) {
            return None;
        }
        let mut agreed = Self::default();
        let mut seen = Vec::new();
        for param in params {
            let (name, value) = match param.split_once('=') {
                Some((name, value)) => (name.trim_end(), Some(value.trim().trim_matches('"'))),
                None => (param, None),
            };
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
            match (name, value) {
                ("server_no_context_takeover", None) => agreed.server_alone = true,
                ("client_no_context_takeover", None) => agreed.client_alone = true,
                // The client may be told to use a smaller window; it is not.
                (
                    "client_max_window_bits",
                    None | Some("8" | "9" | "10" | "11" | "12" | "13" | "14" | "15"),
                )
                | ("server_max_window_bits", Some("15")) => {}
                _ => return None,
            }
        }
        Some(agreed)
    }

    /// The header line that says so, with its end.
    pub(super) fn line(self) -> String {
        let mut line = format!("Sec-WebSocket-Extensions: {NAME}");
        if self.server_alone {
            line.push_str("; server_no_context_takeover");
        }
        if self.client_alone {
            line.push_str("; client_no_context_takeover");
        }
        line.push_str("\r\n");
        line
    }

    pub(super) fn deflate(self) -> Deflate {
        Deflate {
            machine: None,
            alone: self.server_alone,
        }
    }

    pub(super) fn inflate(self) -> Inflate {
        Inflate {
            machine: None,
            alone: self.client_alone,
        }
    }
}

/// Compresses messages.
pub(super) struct Deflate {
    /// Made with the first message: it takes some hundred KiB.
    machine: Option<Compress>,
    alone: bool,
}

impl Deflate {
    /// `message`, which is not empty, as it is sent.
    pub(super) fn compress(&mut self, message: &[u8]) -> Vec<u8> {
        let machine = self
            .machine
            .get_or_insert_with(|| Compress::new(Compression::fast(), false));
        let begin = machine.total_in();
        let mut out = Vec::with_capacity(STEP.min(message.len() / 2 + 64));
        loop {
            let taken = (machine.total_in() - begin) as usize;
            let made = out.len();
            machine
                .compress_vec(&message[taken..], &mut out, FlushCompress::Sync)
                .expect("a compressor takes any bytes");
            let is_taken = machine.total_in() - begin == message.len() as u64;
            // Room that is left over says that this call is done, not that the flush is: what an earlier
            // call had no room for may be all that it gave. The flush is done when its end is there.
            if is_taken && out.len() < out.capacity() && out.ends_with(&TAIL) {
                break;
            }
            assert!(!is_taken || out.len() > made, "a flush has an end");
            out.reserve(STEP);
        }
        if self.alone {
            machine.reset();
        }
        out.truncate(out.len() - TAIL.len());
        out
    }
}

/// Unfolds messages.
pub(super) struct Inflate {
    /// Made with the first compressed message.
    machine: Option<Decompress>,
    alone: bool,
}

impl Inflate {
    /// The message that was sent as `packed`; never more than [`RAW_MESSAGE_MAX`].
    pub(super) fn inflate(&mut self, mut packed: Vec<u8>) -> Result<Vec<u8>, Violation> {
        const MALFORMED: Violation = broken("compressed data that is malformed");
        packed.extend_from_slice(&TAIL);
        let machine = self.machine.get_or_insert_with(|| Decompress::new(false));
        let mut out = Vec::with_capacity(STEP.min(2 * packed.len()));
        let mut rest = &packed[..];
        let mut has_last_block = false;
        loop {
            if out.len() == out.capacity() {
                // One more than allowed shows that there is more.
                let room = (RAW_MESSAGE_MAX + 1 - out.len()).min(STEP);
                out.reserve_exact(room);
            }
            let (had, made) = (machine.total_in(), out.len());
            let status = machine
                .decompress_vec(rest, &mut out, FlushDecompress::Sync)
                .map_err(|_| MALFORMED)?;
            rest = &rest[(machine.total_in() - had) as usize..];
            if out.len() > RAW_MESSAGE_MAX {
                return Err(TOO_LONG);
            }
            if status == Status::StreamEnd {
                // A last block is allowed inside a message; what follows begins anew.
                machine.reset(false);
                has_last_block = rest.len() <= TAIL.len();
                if has_last_block {
                    break;
                }
                continue;
            }
            let has_moved = machine.total_in() > had || out.len() > made;
            if out.len() < out.capacity() && (rest.is_empty() || !has_moved) {
                break;
            }
        }
        if !rest.is_empty() && rest.len() > TAIL.len() {
            return Err(MALFORMED);
        }
        // Between blocks another empty one unfolds into nothing; within one, where a message was cut
        // short, its bytes are taken for data.
        if !has_last_block {
            // As many as no block's head is long: it would take them for its tables.
            let probe = EMPTY_BLOCK.repeat(100);
            let mut more = Vec::with_capacity(STEP);
            let probed = machine.decompress_vec(&probe, &mut more, FlushDecompress::Sync);
            if probed.is_err() || !more.is_empty() {
                return Err(broken("compressed data that is cut short"));
            }
        }
        if self.alone {
            machine.reset(false);
        }
        Ok(out)
    }
}

impl fmt::Debug for Deflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflate").finish_non_exhaustive()
    }
}

impl fmt::Debug for Inflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflate").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(offers: &str) -> Option<Agreed> {
        Agreed::of(offers.split(',').map(|offer| offer.trim().as_bytes()))
    }

    #[test]
    fn a_message_that_is_cut_short_is_not_taken_for_a_whole_one() {
        let varied: Vec<u8> = (0..4000_u32).map(|n| ((n * n) >> 5) as u8).collect();
        let even = b"hello".repeat(1000);
        let mut missed = 0;
        for message in [&varied[..], &even] {
            let packed = Agreed::default().deflate().compress(message);
            let mut whole = Agreed::default().inflate();
            for _ in 0..2 {
                // The probe leaves nothing behind in what follows.
                let unfolded = whole.inflate(packed.clone()).expect("a whole message");
                assert_eq!(unfolded, message);
            }
            for len in 1..packed.len() {
                let cut = Agreed::default().inflate().inflate(packed[..len].to_vec());
                missed += usize::from(cut.is_ok_and(|got| got != message));
            }
        }
        // One each: cut between two blocks it is a whole message, of another content.
        assert!(missed <= 2, "{missed}");
    }

    #[test]
    fn offers_are_taken_only_as_they_can_be_kept() {
        let plain = Agreed::default();
        let alone = Agreed {
            server_alone: true,
            client_alone: true,
        };
        for (offers, expected) in [
            ("permessage-deflate", Some(plain)),
            ("permessage-deflate; client_max_window_bits", Some(plain)),
            (
                "permessage-deflate; client_max_window_bits=\"12\"",
                Some(plain),
            ),
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
                Some(alone),
            ),
            // A window that the compressor does not have; the second offer is good.
            ("permessage-deflate; server_max_window_bits=9", None),
            (
                "permessage-deflate; server_max_window_bits=9, permessage-deflate",
                Some(plain),
            ),
            ("permessage-deflate; client_max_window_bits=7", None),
            ("permessage-deflate; unheard_of", None),
            (
                "permessage-deflate; client_max_window_bits; client_max_window_bits",
                None,
            ),
            ("x-webkit-deflate-frame", None),
            ("", None),
        ] {
            assert_eq!(agreed(offers), expected, "{offers}");
        }
        assert_eq!(
            alone.line(),
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
             client_no_context_takeover\r\n"
        );
    }

    #[test]
    fn messages_survive_with_and_without_what_came_before() {
        let noise: Vec<u8> = (0..300_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for alone in [false, true] {
            let agreed = Agreed {
                server_alone: alone,
                client_alone: alone,
            };
            let (mut deflate, mut inflate) = (agreed.deflate(), agreed.inflate());
            let mut sizes = Vec::new();
            for message in [
                &b"one line, and again"[..],
                b"one line, and again",
                b"x",
                &noise,
            ] {
                let packed = deflate.compress(message);
                sizes.push(packed.len());
                assert_eq!(inflate.inflate(packed).expect("well-formed"), message);
            }
            assert_eq!(sizes[1] < sizes[0], !alone, "{sizes:?}");
        }
    }

    #[test]
    fn p13_what_unfolds_into_too_much_is_refused_before_it_is_made() {
        let bomb = |len: usize| Agreed::default().deflate().compress(&vec![0; len]);
        let mut inflate = Agreed::default().inflate();
        let packed = bomb(RAW_MESSAGE_MAX);
        assert!(packed.len() < 10_000);
        assert_eq!(
            inflate.inflate(packed).map(|out| out.len()),
            Ok(RAW_MESSAGE_MAX)
        );
        for len in [RAW_MESSAGE_MAX + 1, 64 * RAW_MESSAGE_MAX] {
            let mut inflate = Agreed::default().inflate();
            assert_eq!(inflate.inflate(bomb(len)), Err(TOO_LONG));
        }
    }

    #[test]
    fn bytes_that_are_no_deflate_are_refused() {
        let mut inflate = Agreed::default().inflate();
        let refused = inflate
            .inflate(vec![0xFF; 40])
            .expect_err("no block begins so");
        assert_eq!(refused.code, 1002);
    }

    /// RFC 7692 section 7.2.3.4: "Hello" in a block marked as the last.
    #[test]
    fn a_last_block_is_no_end_of_the_connection() {
        let mut inflate = Agreed::default().inflate();
        let hello = [0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00];
        for _ in 0..2 {
            assert_eq!(inflate.inflate(hello.to_vec()).expect("allowed"), b"Hello");
        }
    }

    /// As random as it must be not to shrink.
    fn random(len: usize, seed: &mut u64) -> Vec<u8> {
        let mut next = || {
            *seed ^= *seed << 13;
            *seed ^= *seed >> 7;
            *seed ^= *seed << 17;
            (*seed >> 32) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn messages_of_all_sizes_are_whole_on_the_other_side() {
        for alone in [false, true] {
            let agreed = Agreed {
                server_alone: alone,
                client_alone: alone,
            };
            let (mut deflate, mut inflate) = (agreed.deflate(), agreed.inflate());
            let mut seed = 0x2545_f491_4f6c_dd1d;
            for step in 0..300_usize {
                let len = 1 + step * 431 % 131_072;
                let raw = random(len, &mut seed);
                let hex = raw
                    .iter()
                    .map(|byte| b"0123456789abcdef"[usize::from(byte >> 4)]);
                let text: Vec<u8> = hex.collect();
                for message in [&raw, &text] {
                    let packed = deflate.compress(message);
                    let back = inflate.inflate(packed).expect("what was packed");
                    assert!(back == *message, "{len} bytes came back as {}", back.len());
                }
            }
        }
    }
}
