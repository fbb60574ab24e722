//! Where choices come from: a seed, or bytes that a fuzzer or a property test chose.
//!
//! One source for all three, so that a test, a seeded run and a fuzz target share their generator
//! and a finding of one can be replayed by the others.

/// A sequence of choices.
#[derive(Debug)]
pub struct Draw<'a> {
    source: Source<'a>,
}

#[derive(Debug)]
enum Source<'a> {
    /// SplitMix64: any seed gives a good sequence, and it never changes between versions.
    Seed(u64),
    /// Choices until they are used up; then zeros.
    Bytes(&'a [u8]),
}

impl<'a> Draw<'a> {
    /// Choices without end from `seed`.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        Self {
            source: Source::Seed(seed),
        }
    }

    /// Choices from `bytes`.
    #[must_use]
    pub fn from_bytes(bytes: &'a [u8]) -> Self {
        Self {
            source: Source::Bytes(bytes),
        }
    }

    /// Whether the bytes are used up; never with a seed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.source, Source::Bytes(bytes) if bytes.is_empty())
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        match &mut self.source {
            Source::Seed(_) => self.word() as u8,
            Source::Bytes(bytes) => bytes.split_off_first().copied().unwrap_or_default(),
        }
    }

    /// A number in `0..bound`; `bound` is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        let word = match &mut self.source {
            Source::Seed(_) => self.word(),
            // No more bytes than the bound needs: a small input goes a long way.
            Source::Bytes(_) => {
                let mut word = 0;
                let mut span = bound - 1;
                while span > 0 {
                    word = word << 8 | u64::from(self.byte());
                    span >>= 8;
                }
                word
            }
        };
        word % bound
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Whether a thing of probability 1 in `n` happens.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let at = self.below(choices.len() as u64);
        choices[at as usize]
    }

    /// A size in `0..=max`, small ones as likely as large ones.
    pub fn size(&mut self, max: u64) -> u64 {
        let bits = u64::from(u64::BITS - max.leading_zeros());
        let bits = self.below(bits + 1);
        self.below((1 << bits.min(62)).min(max) + 1)
    }

    fn word(&mut self) -> u64 {
        let Source::Seed(state) = &mut self.source else {
            return 0;
        };
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = *state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_choices_on_every_machine_and_version() {
        let mut draw = Draw::from_seed(1);
        let drawn: Vec<u64> = (0..4).map(|_| draw.below(1000)).collect();
        assert_eq!(drawn, [465, 519, 590, 235]);
    }

    #[test]
    fn bytes_that_are_used_up_are_zeros() {
        let mut draw = Draw::from_bytes(&[7, 1, 2]);
        assert_eq!(draw.below(5), 2);
        assert_eq!(draw.below(1000), 258);
        assert!(draw.is_over());
        assert_eq!(draw.between(3, 1 << 40), 3);
    }

    #[test]
    fn sizes_cover_their_range() {
        let mut draw = Draw::from_seed(2);
        let sizes: Vec<u64> = (0..2000).map(|_| draw.size(1000)).collect();
        assert!(sizes.iter().all(|size| *size <= 1000));
        for (low, high) in [(0, 1), (1, 10), (10, 100), (100, 500), (500, 1000)] {
            let hits = sizes.iter().filter(|size| (low..=high).contains(*size));
            assert!(hits.count() > 50, "{low} to {high}");
        }
    }
}
