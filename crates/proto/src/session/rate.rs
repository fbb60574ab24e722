//! How fast the peer takes bytes, and the frame size that follows from it.
//!
//! A frame should occupy the link for about 2 ms, so that a control frame or another stream does
//! not wait longer than that behind it.

use std::time::Duration;

use crate::limits::{FRAME_MAX, FRAME_MIN, FRAME_TIME};
use crate::time::Instant;

/// Shorter samples say more about acknowledgement timing than about the link.
const SAMPLE_MIN: Duration = Duration::from_millis(1);

/// Delivery rate from acknowledgements: a maximum that fades.
#[derive(Debug, Default)]
pub(super) struct Rate {
    bytes_per_second: u64,
    sample_from: Option<Instant>,
    sample_bytes: u64,
}

impl Rate {
    /// The peer acknowledged `len` more bytes.
    pub(super) fn handle_acked(&mut self, now: Instant, len: u64) {
        let Some(from) = self.sample_from else {
            self.sample_from = Some(now);
            return;
        };
        self.sample_bytes += len;
        let span = now - from;
        if span < SAMPLE_MIN {
            return;
        }
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let sample = self.sample_bytes.saturating_mul(1_000_000) / micros.max(1);
        // An idle source must not make frames small for long, nor one lucky burst large for long.
        self.bytes_per_second = sample.max(self.bytes_per_second / 8 * 7);
        self.sample_from = Some(now);
        self.sample_bytes = 0;
    }

    /// Largest payload of the next BYTES frame.
    pub(super) fn frame(&self) -> usize {
        let per_frame = self
            .bytes_per_second
            .saturating_mul(FRAME_TIME.as_micros() as u64)
            / 1_000_000;
        usize::try_from(per_frame).map_or(FRAME_MAX, |n| n.clamp(FRAME_MIN, FRAME_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_last_about_two_milliseconds() {
        for (rate, frame) in [
            (100_000u64, FRAME_MIN),
            (10_000_000, 20_000),
            (1_500_000_000, FRAME_MAX),
        ] {
            let mut meter = Rate::default();
            for ms in 0..100 {
                meter.handle_acked(
                    Instant::from_origin(Duration::from_millis(ms * 10)),
                    rate / 100,
                );
            }
            assert_eq!(meter.frame(), frame, "at {rate} bytes a second");
        }
    }
}
