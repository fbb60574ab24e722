//! Bytes that tell where they belong, so that a lost, doubled or misplaced piece is seen.

use std::sync::LazyLock;

/// A prime: no batch, page or pipe is a multiple of it, so a piece that moved by any of these does
/// not look right by accident.
const PERIOD: usize = 65_521;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    // The top bits of a multiplicative hash: cheap, and without short repeats.
    let byte = |i: u32| i.wrapping_mul(0x9e37_79b9).rotate_left(8).to_le_bytes()[0];
    (0..PERIOD as u32).map(byte).collect()
});

/// Writes what belongs at `offset`.
pub(crate) fn fill(offset: u64, buf: &mut [u8]) {
    let mut at = position(offset);
    let mut rest = buf;
    while !rest.is_empty() {
        let len = rest.len().min(PERIOD - at);
        let (now, later) = rest.split_at_mut(len);
        now.copy_from_slice(&BYTES[at..at + len]);
        rest = later;
        at = 0;
    }
}

/// Where the first byte is that does not belong there, if `bytes` begin at `offset`.
pub(crate) fn mismatch(offset: u64, bytes: &[u8]) -> Option<u64> {
    let mut at = position(offset);
    let mut done = 0;
    while done < bytes.len() {
        let len = (bytes.len() - done).min(PERIOD - at);
        let (are, should) = (&bytes[done..done + len], &BYTES[at..at + len]);
        // Comparing whole pieces is many times faster than looking for the place.
        if are != should {
            let within = are.iter().zip(should).position(|(a, b)| a != b)?;
            return Some(offset + (done + within) as u64);
        }
        done += len;
        at = 0;
    }
    None
}

fn position(offset: u64) -> usize {
    (offset % PERIOD as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        fill(offset, &mut bytes);
        bytes
    }

    #[test]
    fn what_was_filled_matches_at_its_place_in_pieces_of_any_size() {
        let whole = bytes(7, 3 * PERIOD);
        assert_eq!(mismatch(7, &whole), None);
        for len in [1, 511, 4096, PERIOD, PERIOD + 1] {
            for (i, piece) in whole.chunks(len).enumerate() {
                assert_eq!(mismatch(7 + (i * len) as u64, piece), None);
            }
        }
    }

    #[test]
    fn what_moved_is_seen() {
        for moved in [1, 8, 512, 4096, 65_536, 1 << 20] {
            assert!(mismatch(moved, &bytes(0, 4096)).is_some(), "by {moved}");
        }
    }

    #[test]
    fn the_first_wrong_byte_is_named() {
        let mut whole = bytes(100, 2 * PERIOD);
        whole[PERIOD + 5] ^= 1;
        whole[PERIOD + 9] ^= 1;
        assert_eq!(mismatch(100, &whole), Some(100 + PERIOD as u64 + 5));
    }
}
