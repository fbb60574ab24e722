//! The one source of chance: numbers that follow from the seed and the connection's number alone.
//!
//! Each connection has ChaCha streams of its own, so what it draws depends on neither the timing
//! nor the fate of the connections before it.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a connection draws numbers for; each purpose has its own stream, so that none shifts
/// another.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Plan = 0,
    JitterUp = 1,
    JitterDown = 2,
}

/// A generator for one connection and purpose.
#[derive(Debug)]
pub(crate) struct Draw(ChaCha8Rng);

impl Draw {
    pub(crate) fn new(seed: u64, connection: u64, purpose: Purpose) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Four streams a connection leave one spare. Connection numbers stay far below 2^62.
        rng.set_stream(connection.wrapping_mul(4).wrapping_add(purpose as u64));
        Self(rng)
    }

    /// Uniform within the range, both ends included. An empty range gives its start.
    pub(crate) fn number(&mut self, range: &RangeInclusive<u64>) -> u64 {
        let drawn = self.0.next_u64();
        let span = u128::from(range.end().saturating_sub(*range.start())) + 1;
        // The bias of the multiplication is below 2^-32 for every span a test uses.
        let offset = (u128::from(drawn) * span) >> 64;
        range.start()
            + u64::try_from(offset).expect("drawn < 2^64, so the offset is below the span")
    }

    /// Uniform within the range in steps of a microsecond.
    pub(crate) fn duration(&mut self, range: &RangeInclusive<Duration>) -> Duration {
        Duration::from_micros(self.number(&(micros(*range.start())..=micros(*range.end()))))
    }

    /// One of a list; always draws, so that the next number does not depend on the list's length.
    pub(crate) fn one_of<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        let last = (list.len() as u64).saturating_sub(1);
        let at = self.number(&(0..=last));
        list.get(usize::try_from(at).ok()?)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_in_range_and_reaches_both_ends() {
        let mut draw = Draw::new(1, 0, Purpose::Plan);
        let drawn: Vec<u64> = (0..1000).map(|_| draw.number(&(3..=6))).collect();
        assert!(drawn.iter().all(|n| (3..=6).contains(n)));
        assert!((3..=6).all(|n| drawn.contains(&n)));
        assert_eq!(draw.number(&(7..=7)), 7);
        draw.number(&(0..=u64::MAX));
    }

    #[test]
    fn seed_connection_and_purpose_each_change_the_numbers() {
        let first = |seed, connection, purpose| {
            Draw::new(seed, connection, purpose).number(&(0..=u64::MAX))
        };
        let base = first(1, 0, Purpose::Plan);
        assert_eq!(base, first(1, 0, Purpose::Plan));
        assert_ne!(base, first(2, 0, Purpose::Plan));
        assert_ne!(base, first(1, 1, Purpose::Plan));
        assert_ne!(base, first(1, 0, Purpose::JitterUp));
    }

    /// A seed in a bug report must mean the same run next year.
    #[test]
    fn numbers_of_a_seed_are_fixed() {
        let mut draw = Draw::new(7, 2, Purpose::Plan);
        let drawn: Vec<u64> = (0..4).map(|_| draw.number(&(0..=999_999))).collect();
        assert_eq!(drawn, [982_070, 927_694, 9_087, 305_892]);
    }
}
