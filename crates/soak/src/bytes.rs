//! The oracle: bytes that know their own offset, so that a wrong one tells what went wrong.
//!
//! A content is a sequence of 8-byte words, each a bijection of its index under the run's key.
//! Whatever arrives in the wrong place is decoded: a higher index means that bytes were lost, a lower
//! one that they came twice, none at all that they were altered or are another run's.

const WORD: u64 = 8;
/// No run is longer; a word that decodes to more is none of this content.
const WORDS_MAX: u64 = 1 << 32;
/// Enough behind a wrong byte for a whole word at any alignment, twice.
const ODD_BYTES: usize = 3 * WORD as usize;

/// A bijection of 64 bits that leaves no pattern (the finaliser of splitmix64).
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Its inverse.
fn unmix(mut x: u64) -> u64 {
    x = (x ^ (x >> 31) ^ (x >> 62)).wrapping_mul(0x3196_42b2_d24d_8ec3);
    x = (x ^ (x >> 27) ^ (x >> 54)).wrapping_mul(0x96de_1b17_3f11_9089);
    x ^ (x >> 30) ^ (x >> 60)
}

/// A source of chance that follows from the seed.
#[derive(Debug, Clone)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        Self(mix(seed ^ mix(purpose.wrapping_add(0x9e37_79b9_7f4a_7c15))))
    }

    /// Below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % end
    }

    /// A length whose magnitude is drawn, not its value: empty and tiny ones are as likely as long ones.
    pub(crate) fn length(&mut self, bits_max: u32) -> u64 {
        let bits = self.below(u64::from(bits_max) + 1);
        // Two of three are long: they are what connections are cut under.
        let bits = if self.below(3) > 0 {
            u64::from(bits_max)
        } else {
            bits
        };
        self.below(1 << bits)
    }
}

/// The bytes of one direction of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Content {
    key: u64,
}

impl Content {
    pub(crate) fn new(seed: u64, run: u64) -> Self {
        Self {
            key: mix(seed ^ mix(run)),
        }
    }

    fn word(self, index: u64) -> [u8; WORD as usize] {
        mix(index ^ self.key).to_le_bytes()
    }

    /// What stands at `offset` and behind.
    pub(crate) fn fill(self, mut offset: u64, mut buffer: &mut [u8]) {
        while !buffer.is_empty() {
            let word = self.word(offset / WORD);
            let rest = &word[(offset % WORD) as usize..];
            let length = rest.len().min(buffer.len());
            buffer[..length].copy_from_slice(&rest[..length]);
            buffer = &mut buffer[length..];
            offset += length as u64;
        }
    }

    /// The offset at which these bytes begin, if two words in a row say the same.
    fn find(self, bytes: &[u8]) -> Option<u64> {
        (0..WORD as usize).find_map(|skip| {
            let word = |at: usize| {
                Some(u64::from_le_bytes(
                    bytes.get(at..at + WORD as usize)?.try_into().ok()?,
                ))
            };
            let index = unmix(word(skip)?) ^ self.key;
            let next = unmix(word(skip + WORD as usize)?) ^ self.key;
            (index < WORDS_MAX && next == index + 1)
                .then(|| (index * WORD).checked_sub(skip as u64))?
        })
    }
}

/// Compares what arrives with what was sent.
#[derive(Debug)]
pub(crate) struct Check {
    content: Content,
    right: u64,
    /// From the first wrong byte on; as much as is needed to say what it is.
    odd: Vec<u8>,
}

impl Check {
    pub(crate) fn new(content: Content) -> Self {
        Self {
            content,
            right: 0,
            odd: Vec::new(),
        }
    }

    /// How many bytes were right from the start on.
    pub(crate) fn right(&self) -> u64 {
        self.right
    }

    pub(crate) fn take(&mut self, mut bytes: &[u8]) {
        if self.odd.is_empty() {
            let mut wanted = vec![0; bytes.len()];
            self.content.fill(self.right, &mut wanted);
            let same = bytes
                .iter()
                .zip(&wanted)
                .take_while(|(a, b)| a == b)
                .count();
            self.right += same as u64;
            bytes = &bytes[same..];
        }
        let room = ODD_BYTES - self.odd.len();
        self.odd.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// What is wrong, if anything is.
    pub(crate) fn wrong(&self) -> Option<String> {
        if self.odd.is_empty() {
            return None;
        }
        let at = self.right;
        Some(match self.content.find(&self.odd) {
            Some(found) if found > at => format!("{} bytes lost at {at}", found - at),
            Some(found) => format!("{} bytes doubled at {at}", at - found),
            None => format!("altered at {at}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(content: Content, from: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        content.fill(from, &mut bytes);
        bytes
    }

    fn told(parts: &[&[u8]]) -> (u64, Option<String>) {
        let mut check = Check::new(Content::new(7, 1));
        for part in parts {
            check.take(part);
        }
        (check.right(), check.wrong())
    }

    #[test]
    fn what_is_right_is_right_however_it_is_cut() {
        let content = Content::new(7, 1);
        for cut in 0..40 {
            let parts = (of(content, 0, cut), of(content, cut as u64, 100));
            assert_eq!(told(&[&parts.0, &parts.1]), (cut as u64 + 100, None));
        }
    }

    #[test]
    fn loss_doubling_and_alteration_are_told_apart_at_any_offset() {
        let content = Content::new(7, 1);
        for at in 20..40 {
            let begin = of(content, 0, at);
            let says = |rest: &[u8]| told(&[&begin, rest]).1.expect("it is wrong");
            assert_eq!(
                says(&of(content, at as u64 + 11, 50)),
                format!("11 bytes lost at {at}")
            );
            assert_eq!(
                says(&of(content, at as u64 - 13, 50)),
                format!("13 bytes doubled at {at}")
            );
            let other = of(Content::new(7, 2), at as u64, 50);
            assert!(says(&other).starts_with("altered at "));
        }
    }

    #[test]
    fn mixing_can_be_undone() {
        for x in [0, 1, 42, u64::MAX, 1 << 63] {
            assert_eq!(unmix(mix(x)), x);
        }
    }
}
