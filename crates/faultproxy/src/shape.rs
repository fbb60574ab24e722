//! The always-on shape of a direction: how fast, how late and in what crumbs its bytes are passed
//! on.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use tokio::time::Instant;

use crate::draw::Draw;

/// The shape of one direction. The default lets bytes pass as they come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Bytes a second.
    pub throttle: Option<NonZeroU64>,
    /// How much later everything arrives, the end of the direction included. The order is kept.
    pub delay: Option<Delay>,
    /// Write in pieces of so many bytes, each a segment of its own as far as TCP_NODELAY goes.
    pub dribble: Option<NonZeroUsize>,
    /// SO_RCVBUF towards the source and SO_SNDBUF towards the sink: keeps the kernel from hiding a
    /// throttle behind megabytes of buffer. Linux doubles the number.
    pub socket_buffer: Option<NonZeroUsize>,
}

/// A delay of a direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delay {
    /// For every byte.
    pub fixed: Duration,
    /// On top, uniform from zero to this for each read; drawn from the seed.
    pub jitter: Duration,
    /// The most bytes under way; when they are, the source is not read.
    pub buffer: usize,
}

impl Delay {
    /// A delay with a buffer for 1 Gbit/s at 100 ms.
    #[must_use]
    pub fn new(fixed: Duration, jitter: Duration) -> Self {
        Self {
            fixed,
            jitter,
            buffer: DELAY_BUFFER,
        }
    }
}

/// A token bucket: bytes may be spent as they come in at the rate.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: NonZeroU64,
    /// In bytes times 10^9, so that no rate loses fractions.
    tokens: u128,
    updated: Instant,
}

impl Bucket {
    /// A bucket starts empty: the first byte pays as every other.
    pub(crate) fn new(rate: NonZeroU64, now: Instant) -> Self {
        Self {
            rate,
            tokens: 0,
            updated: now,
        }
    }

    /// The most that can be saved up: 50 ms, at least a byte. A pause of the whole process no
    /// longer than that does not lower the rate.
    pub(crate) fn burst(&self) -> u64 {
        (self.rate.get() / 20).max(1)
    }

    /// How many of the wanted bytes may be spent now, or when to ask again.
    pub(crate) fn allow(&mut self, now: Instant, wanted: usize) -> Result<usize, Instant> {
        let earned =
            now.saturating_duration_since(self.updated).as_nanos() * u128::from(self.rate.get());
        self.tokens = (self.tokens + earned).min(u128::from(self.burst()) * NANOS);
        self.updated = now;
        // A quarter of the burst at a time, rather than a byte whenever there is one.
        let enough = (wanted as u64).min(self.burst().div_ceil(4));
        let have = u64::try_from(self.tokens / NANOS).unwrap_or(u64::MAX);
        if have >= enough {
            return Ok(usize::try_from(have).unwrap_or(usize::MAX).min(wanted));
        }
        let missing = u128::from(enough) * NANOS - self.tokens;
        let wait = missing.div_ceil(u128::from(self.rate.get()));
        Err(now + Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    /// Pays for bytes that `allow` granted.
    pub(crate) fn spend(&mut self, bytes: usize) {
        self.tokens = self.tokens.saturating_sub(bytes as u128 * NANOS);
    }
}

/// Says when bytes that are read now are due, never earlier than what was read before.
#[derive(Debug)]
pub(crate) struct DueTimes {
    fixed: Duration,
    jitter: Duration,
    draw: Draw,
    last: Instant,
}

impl DueTimes {
    pub(crate) fn new(delay: &Delay, draw: Draw, now: Instant) -> Self {
        Self {
            fixed: delay.fixed,
            jitter: delay.jitter,
            draw,
            last: now,
        }
    }

    pub(crate) fn next(&mut self, now: Instant) -> Instant {
        let due = now + self.fixed + self.draw.duration(&(Duration::ZERO..=self.jitter));
        self.last = self.last.max(due);
        self.last
    }
}

const NANOS: u128 = 1_000_000_000;
const DELAY_BUFFER: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Purpose;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// Spends all it can for a second of simulated time, asking whenever the bucket says to.
    fn spend_for_a_second(rate: u64) -> usize {
        let start = Instant::now();
        let mut bucket = Bucket::new(NonZeroU64::new(rate).unwrap(), start);
        let (mut now, mut spent) = (start, 0);
        while now <= at(start, 1000) {
            match bucket.allow(now, 1 << 20) {
                Ok(n) => {
                    assert!(n > 0);
                    bucket.spend(n);
                    spent += n;
                }
                Err(later) => {
                    assert!(later > now, "must not ask to spin");
                    now = later;
                }
            }
        }
        spent
    }

    #[test]
    fn a_bucket_gives_its_rate() {
        for rate in [1, 7, 999, 100_000, 1_000_000_000] {
            let spent = spend_for_a_second(rate) as f64;
            let rate = rate as f64;
            assert!(
                (rate * 0.95 - 1.0..=rate * 1.05 + 1.0).contains(&spent),
                "{spent} of {rate}"
            );
        }
    }

    #[test]
    fn a_pause_saves_up_the_burst_and_no_more() {
        let start = Instant::now();
        let mut bucket = Bucket::new(NonZeroU64::new(1000).unwrap(), start);
        assert_eq!(bucket.burst(), 50);
        assert_eq!(bucket.allow(at(start, 10_000), 1000), Ok(50));
    }

    #[test]
    fn a_few_bytes_wait_only_for_themselves() {
        let start = Instant::now();
        let mut bucket = Bucket::new(NonZeroU64::new(1000).unwrap(), start);
        assert_eq!(bucket.allow(start, 2), Err(at(start, 2)));
        assert_eq!(bucket.allow(at(start, 2), 2), Ok(2));
    }

    #[test]
    fn due_times_keep_the_order_and_the_jitter_is_bounded() {
        let start = Instant::now();
        let delay = Delay::new(Duration::from_millis(20), Duration::from_millis(10));
        let mut due = DueTimes::new(&delay, Draw::new(1, 0, Purpose::JitterUp), start);
        let mut last = start;
        let mut spread = Vec::new();
        for n in 0..100 {
            let now = at(start, n * 20);
            let next = due.next(now);
            assert!(next >= last);
            let late = next - now;
            assert!((Duration::from_millis(20)..=Duration::from_millis(30)).contains(&late));
            spread.push(late);
            last = next;
        }
        spread.dedup();
        assert!(spread.len() > 50);
        let together: Vec<_> = (0..10).map(|_| due.next(last)).collect();
        assert!(together.is_sorted());
    }
}
