//! How much of interactive streams may be on its way. What a person interrupts is shown to the last
//! byte that was numbered, so on a slow link little is.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::{PROMPT_BYTES_MIN, PROMPT_TIME};
use crate::time::Instant;

/// Shorter samples would mistake a burst for a fast link.
const SAMPLE_MIN: Duration = Duration::from_millis(100);

/// The bytes of all interactive streams of a session that the peer has not acknowledged, and how many
/// they may be: what the link takes in [`PROMPT_TIME`] beyond its round trip.
#[derive(Debug, Default)]
pub(super) struct Prompt {
    /// Behind which offset each piece of them is, and its length.
    pieces: VecDeque<(u64, u64)>,
    on_way: u64,
    bytes_per_second: u64,
    sample_from: Option<Instant>,
    sample_bytes: u64,
}

impl Prompt {
    /// How many more bytes may be numbered.
    pub(super) fn room(&self, rtt_min: Duration) -> u64 {
        let time = u64::try_from((PROMPT_TIME + rtt_min).as_micros()).unwrap_or(u64::MAX);
        let limit = self.bytes_per_second.saturating_mul(time) / 1_000_000;
        limit.max(PROMPT_BYTES_MIN).saturating_sub(self.on_way)
    }

    /// `len` bytes are numbered, the last one right before the session's offset `end`.
    pub(super) fn handle_numbered(&mut self, end: u64, len: usize) {
        self.pieces.push_back((end, len as u64));
        self.on_way += len as u64;
    }

    /// The peer has everything below `acked`, `progress` bytes more than before. Whether some of it
    /// was of interactive streams.
    pub(super) fn handle_acked(&mut self, now: Instant, acked: u64, progress: u64) -> bool {
        let mut is_ours = false;
        while let Some((_, len)) = self.pieces.pop_front_if(|(end, _)| *end <= acked) {
            self.on_way -= len;
            is_ours = true;
        }
        self.sample(now, progress);
        is_ours
    }

    fn sample(&mut self, now: Instant, progress: u64) {
        let Some(from) = self.sample_from else {
            self.sample_from = Some(now);
            return;
        };
        self.sample_bytes += progress;
        let span = now - from;
        if span < SAMPLE_MIN {
            return;
        }
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        self.bytes_per_second = self.sample_bytes.saturating_mul(1_000_000) / micros.max(1);
        self.sample_from = Some(now);
        self.sample_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link that carries `rate` bytes a second with a round trip of `rtt` ms, and a source that always
    /// has more: the most that was on its way after two seconds, and the bytes carried in ten.
    fn carry(rate: u64, rtt: u64) -> (u64, u64) {
        let mut prompt = Prompt::default();
        let rtt_min = Duration::from_millis(rtt);
        let (mut numbered, mut carried, mut most) = (0, 0, 0);
        let (mut arriving, mut heard) = (VecDeque::new(), 0);
        for ms in 0..10_000 {
            let now = Instant::from_origin(Duration::from_millis(ms));
            let room = prompt.room(rtt_min);
            if room > 0 {
                numbered += room;
                prompt.handle_numbered(numbered, room as usize);
            }
            let step = (rate / 1000).min(numbered - carried);
            carried += step;
            arriving.push_back(carried);
            if arriving.len() as u64 > rtt {
                let acked = arriving.pop_front().unwrap_or(carried);
                prompt.handle_acked(now, acked, acked - heard);
                heard = acked;
            }
            if ms > 2000 {
                most = most.max(prompt.on_way);
            }
        }
        (most, carried)
    }

    #[test]
    fn a_slow_link_has_little_on_its_way_and_a_long_one_is_filled() {
        let (most, carried) = carry(100_000, 20);
        assert!(most <= 2 * PROMPT_BYTES_MIN, "{most} bytes at 100 kB/s");
        assert!(carried > 950_000, "{carried}");
        let (_, carried) = carry(5_000_000, 400);
        assert!(carried > 25_000_000, "{carried}");
    }
}
