//! When a part was written to last by the copy that it is of: by that it is known whether somebody else has been at
//! it since, without reading it.
//!
//! A copy may be killed at any moment, so the time is noted around every write: before it and after it, unless
//! it was noted just now. The kernel sets a part's ctime when it is written to, truncated, renamed over or given another
//! mode or time, and nobody sets it back. So a ctime that is later than the last note by more than the
//! time between two notes is not this copy's doing. It may be nothing (a `chmod`, a clock that was set,
//! a crash of the system after which the note is the older one); then what is kept is read, and is as good.
//!
//! The note counts only as far as the file system's own clock bears it out, in the sidecar's mtime: a server of files
//! may have another than this host.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use farpipe_net::WallClock;
use rustix::fs::Stat;

/// seconds i64 | nanos u32 | 0 u32 | inode u64 | check 8
pub(super) const NOTE: usize = 32;
const NOTE_CHECKED: usize = 24;
/// What was noted so shortly ago is not noted again.
const EVERY: Duration = Duration::from_micros(500);
/// From a note to the write that follows it, with what lies between.
const GRACE: Duration = Duration::from_millis(1);
/// How coarse a file system's clock is at most.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// The part was last written to then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    at: Duration,
    inode: u64,
}

impl Note {
    /// A note that is due; `last` is the one before.
    pub(super) fn due(last: Option<Self>, inode: u64) -> Option<Self> {
        let at = WallClock::System.now();
        // A clock that was set back is another one.
        let is_fresh = |last: Self| at >= last.at && at - last.at < EVERY && last.inode == inode;
        (!last.is_some_and(is_fresh)).then_some(Self { at, inode })
    }

    pub(super) fn to_bytes(self) -> [u8; NOTE] {
        let mut note = [0; NOTE];
        let mut rest = &mut note[..];
        rest.put_u64(self.at.as_secs());
        rest.put_u32(self.at.subsec_nanos());
        rest.put_u32(0);
        rest.put_u64(self.inode);
        let check = blake3::hash(&note[..NOTE_CHECKED]);
        note[NOTE_CHECKED..].copy_from_slice(&check.as_bytes()[..NOTE - NOTE_CHECKED]);
        note
    }

    /// What a crash left of one is none.
    pub(super) fn parse(note: &[u8; NOTE]) -> Option<Self> {
        let check = blake3::hash(&note[..NOTE_CHECKED]);
        if note[NOTE_CHECKED..] != check.as_bytes()[..NOTE - NOTE_CHECKED] {
            return None;
        }
        let mut rest = &note[..];
        let seconds = rest.get_u64();
        let nanos = rest.get_u32();
        rest.advance(4);
        Some(Self {
            at: moment(seconds, nanos)?,
            inode: rest.get_u64(),
        })
    }

    /// Whether nobody has written to the part since.
    pub(super) fn is_last(self, part: &Stat, sums: &Stat) -> bool {
        let changed = changed_at(part);
        let noted = since_epoch(sums.st_mtime as _, sums.st_mtime_nsec as _);
        let (Some(changed), Some(noted)) = (changed, noted) else {
            return false;
        };
        let is_by = |last: Duration, after| changed.saturating_sub(last) <= after;
        self.inode == part.st_ino && is_by(self.at, GRACE) && is_by(noted, GRACE + TICK)
    }
}

/// When a file was changed last, since 1970; `None`: before.
pub(super) fn changed_at(stat: &Stat) -> Option<Duration> {
    since_epoch(stat.st_ctime as _, stat.st_ctime_nsec as _)
}

/// The moment of a file's last change of any kind: as long as it is the same, so is the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changed {
    seconds: i64,
    nanos: i64,
    inode: u64,
    size: i64,
}

impl Changed {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            seconds: stat.st_ctime as _,
            nanos: stat.st_ctime_nsec as _,
            inode: stat.st_ino,
            size: stat.st_size,
        }
    }
}

fn since_epoch(seconds: i64, nanos: i64) -> Option<Duration> {
    moment(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?)
}

/// What stands on a disk may be anything.
fn moment(seconds: u64, nanos: u32) -> Option<Duration> {
    Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanos.into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stat() -> Stat {
        let file = tempfile::tempfile().expect("a file");
        rustix::fs::fstat(&file).expect("it is open")
    }

    fn at(mut stat: Stat, millis: i64) -> Stat {
        let millis = 1_000_000_000 + millis;
        (stat.st_ctime, stat.st_mtime) = ((millis / 1000) as _, (millis / 1000) as _);
        let nanos = millis % 1000 * 1_000_000;
        (stat.st_ctime_nsec, stat.st_mtime_nsec) = (nanos as _, nanos as _);
        stat
    }

    #[test]
    fn a_change_behind_the_last_note_is_somebody_elses() {
        let stat = stat();
        let note = Note {
            at: Duration::from_millis(1_000_000_000),
            inode: stat.st_ino,
        };
        // (the part's change, the sidecar's): milliseconds from the note on.
        for (part, sums, is_last) in [
            (0, 0, true),
            (-10_000, 0, true),
            (1, 0, true),
            (2, 2, false),
            (50, 0, false),
            // The sidecar was touched as well.
            (50, 60, false),
            // Another clock than this host's made both.
            (-3_600_000, -3_600_000, true),
            (-3_500_000, -3_600_000, false),
        ] {
            let is = note.is_last(&at(stat, part), &at(stat, sums));
            assert_eq!(is, is_last, "{part} {sums}");
        }
        let other = Note { inode: 0, ..note };
        assert!(!other.is_last(&at(stat, 0), &at(stat, 0)));
    }

    #[test]
    fn what_was_noted_just_now_is_not_noted_again_and_a_clock_set_back_is() {
        let first = Note::due(None, 1).expect("none was there");
        let later = Note {
            at: first.at + Duration::from_secs(100),
            ..first
        };
        assert!(Note::due(Some(later), 1).is_some());
        let earlier = Note {
            at: first.at - EVERY,
            ..first
        };
        assert!(Note::due(Some(earlier), 1).is_some());
        assert!(Note::due(Some(first), 2).is_some());
    }

    proptest! {
        #[test]
        fn a_note_is_read_as_it_was_written_or_not_at_all(
            seconds in any::<u64>(),
            nanos in 0_u32..1_000_000_000,
            inode in any::<u64>(),
            bit in 0..NOTE * 8,
        ) {
            let at = Duration::new(seconds, nanos);
            let note = Note { at, inode };
            let mut bytes = note.to_bytes();
            prop_assert_eq!(Note::parse(&bytes), Some(note));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Note::parse(&bytes), None);
        }
    }
}
