//! Whose turn it is on a link that many tunnels share, or in a session that many streams share: by
//! bytes, and who says little goes first.
//!
//! Start-time fair queueing: each tunnel has the sum of what it sent, the lowest goes next. One that
//! was silent does not save up turns, it begins where the others are: so a keystroke or a control
//! frame goes at once, and a bulk transfer that joins late does not shut the others out.

use crate::limits::FRAME_MAX;

/// The common account of a link's tunnels.
#[derive(Debug, Default)]
pub struct Fair {
    /// Where the one was that went last.
    floor: u64,
}

/// What the others send while one that sends all the time is not ready: a frame of the largest size.
const MOMENT: u64 = FRAME_MAX as u64;

/// What one tunnel has had of the link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn(u64);

impl Fair {
    /// `turn` as it counts now that its tunnel has something to send. Who was not ready for a moment
    /// only, between two frames, loses nothing by it.
    #[must_use]
    pub fn ready(&self, turn: Turn) -> Turn {
        Turn(turn.0.max(self.floor.saturating_sub(MOMENT)))
    }

    /// A tunnel that was ready at `turn` sent `bytes`.
    pub fn charge(&mut self, turn: &mut Turn, bytes: usize) {
        let begun = self.ready(*turn);
        self.floor = self.floor.max(begun.0);
        // A frame without bytes is a turn, too.
        *turn = Turn(begun.0.saturating_add(bytes.max(1) as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of `sizes` always has a frame of its size; how much each sent of `total`.
    fn shares(sizes: &[usize], total: usize) -> Vec<usize> {
        let mut fair = Fair::default();
        let mut turns = vec![Turn::default(); sizes.len()];
        let mut sent = vec![0; sizes.len()];
        while sent.iter().sum::<usize>() < total {
            let next = (0..sizes.len())
                .min_by_key(|i| fair.ready(turns[*i]))
                .expect("somebody");
            fair.charge(&mut turns[next], sizes[next]);
            sent[next] += sizes[next];
        }
        sent
    }

    #[test]
    fn tunnels_share_by_bytes_whatever_their_frames() {
        let sent = shares(&[256 << 10, 4 << 10, 64 << 10], 300 << 20);
        for share in sent {
            assert!(share.abs_diff(100 << 20) <= 256 << 10, "{share}");
        }
    }

    #[test]
    fn who_was_silent_goes_first_once_and_saves_up_nothing() {
        let mut fair = Fair::default();
        let (mut bulk, mut quiet) = (Turn::default(), Turn::default());
        for _ in 0..100 {
            fair.charge(&mut bulk, 10_000);
        }
        assert!(
            fair.ready(quiet) < fair.ready(bulk),
            "a keystroke goes first"
        );
        fair.charge(&mut quiet, FRAME_MAX + 10_001);
        assert!(fair.ready(quiet) > fair.ready(bulk), "but not for ever");
    }
}
