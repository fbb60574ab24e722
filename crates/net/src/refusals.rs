//! What a listener or an agent says of peers that it refuses: a line each, and never more than a disk can bear.
//!
//! Strangers decide how often they come. Policy: [`REFUSALS_BURST`] lines at once, then one each
//! [`REFUSALS_EVERY`]; what does not fit is left to `-v`, and the next line that fits says how many.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use farpipe_proto::limits::{REFUSALS_BURST, REFUSALS_EVERY};
use tokio::time::Instant;

use crate::link::printable;

/// The lines of one listener, or of one agent.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    /// When all lines of the burst may be used again; `None`: from the start.
    full_at: Option<Instant>,
    /// Since the last line.
    left_out: u64,
}

/// Whether there is a line left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// After so many that were left out.
    After(u64),
    Full,
}

impl Refusals {
    /// Says something about a peer, as a warning while that fits.
    pub fn tell(&self, what: impl fmt::Display) {
        // Some of it is the peer's own words.
        let what = printable(&what.to_string());
        match self.take(Instant::now()) {
            Room::After(0) => tracing::warn!("{what}"),
            Room::After(n) => {
                tracing::warn!("{what} (and {n} before it that are shown with -v only)");
            }
            Room::Full => tracing::info!("{what}"),
        }
    }

    /// Whether there is room for a line elsewhere, and how many were left out since the last; counted as
    /// one of [`Refusals::tell`].
    pub fn room(&self) -> Option<u64> {
        match self.take(Instant::now()) {
            Room::After(left_out) => Some(left_out),
            Room::Full => None,
        }
    }

    fn take(&self, now: Instant) -> Room {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = said.full_at.map_or(now, |at| at.max(now));
        // Each line that was used comes back after its time.
        if full_at - now > REFUSALS_EVERY * (REFUSALS_BURST - 1) {
            said.left_out += 1;
            return Room::Full;
        }
        said.full_at = Some(full_at + REFUSALS_EVERY);
        Room::After(std::mem::take(&mut said.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_gets_a_burst_of_lines_then_one_at_a_time_with_a_count() {
        let refusals = Refusals::default();
        let start = Instant::now();
        for _ in 0..REFUSALS_BURST {
            assert_eq!(refusals.take(start), Room::After(0));
        }
        for _ in 0..1_000 {
            assert_eq!(refusals.take(start), Room::Full);
        }
        let later = start + REFUSALS_EVERY;
        assert_eq!(refusals.take(later), Room::After(1_000));
        assert_eq!(refusals.take(later), Room::Full);
        let much_later = later + 100 * REFUSALS_EVERY;
        assert_eq!(refusals.take(much_later), Room::After(1));
        for _ in 1..REFUSALS_BURST {
            assert_eq!(refusals.take(much_later), Room::After(0));
        }
        assert_eq!(refusals.take(much_later), Room::Full);
    }
}
