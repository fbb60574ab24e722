//! One name, and the files that have or had it, read in order.
//!
//! ```text
//! a name:  [ lost its name | lost its name | has it now ]   read from the left
//!            closed when at its end and quiet                another one comes in on the right
//! ```
//!
//! How far the younger ones have come is looked at before the older one is read to its end: so what one
//! writer wrote into the older one first is passed on first, whatever it does with its names meanwhile.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::time::Instant;

use farpipe_proto::limits::{TAIL_QUIET, TAIL_ROTATED_FOR, TAIL_ROTATED_MAX};
use farpipe_proto::wire::tail::{TailFile, TailPosition};

use super::generation::{Generation, Lines, Piece};
use super::identity::is_same;
use super::siblings::Older;

/// A name.
#[derive(Debug, Default)]
pub(super) struct Name {
    /// A pattern found it: it is forgotten when it is gone.
    pub(super) is_found: bool,
    /// The oldest first.
    pub(super) files: VecDeque<Generation>,
    /// What was there at the last look, read or not.
    pub(super) seen: Option<TailFile>,
    /// The youngest that was read, also when it is closed.
    pub(super) newest: Option<Older>,
    pub(super) told: Option<Told>,
    /// What another session has had of it, until it is gone on with.
    pub(super) positions: Vec<TailPosition>,
}

/// What was said of a name that has no file to be read, so that it is said once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Missing,
    Gone,
    Denied,
    Unreadable,
    /// It is no file that could grow.
    Unfit,
    Full,
}

/// What one read of a name has given.
#[derive(Debug)]
pub(super) enum Got {
    /// Bytes of the file of this number, from this offset on.
    Bytes(u32, u64, Vec<u8>),
    /// Nothing new, or nothing that is passed on yet.
    Nothing,
    /// This one of its files does not have what was read of it any more.
    Rewritten(usize),
    /// This one cannot be read.
    Failed(usize, io::Error),
}

impl Name {
    /// One that a pattern has found.
    pub(super) fn found() -> Self {
        Self {
            is_found: true,
            ..Self::default()
        }
    }

    /// Whether no file has ever had it, and what has it now is none that could grow.
    pub(super) fn is_unfit(&self) -> bool {
        self.told == Some(Told::Unfit) && self.newest.is_none() && self.files.is_empty()
    }

    /// Whether nothing is to be expected of it, nor to be remembered.
    pub(super) fn is_over(&self) -> bool {
        self.is_found && self.told == Some(Told::Gone) && self.files.is_empty()
    }

    /// A file that was read by this name has it again, or had it all the time.
    pub(super) fn is_back(&mut self, file: &TailFile) {
        if self.told == Some(Told::Gone) {
            self.told = None;
        }
        if let Some(one) = self.files.iter_mut().find(|one| is_same(&one.id, file)) {
            one.lost_name = None;
        }
    }

    pub(super) fn has(&self, file: &TailFile) -> bool {
        self.files.iter().any(|one| is_same(&one.id, file))
    }

    /// Whether a file has all that was read of the youngest one: somebody has made a copy.
    pub(super) fn is_copied(&self, file: &File) -> bool {
        let youngest = self.files.back();
        youngest.is_some_and(|one| one.at().offset >= 64 && one.at().is_in(file))
    }

    /// Its youngest file, as it is now.
    pub(super) fn youngest(&self) -> Option<Older> {
        let file = self.files.back()?;
        let written_ns = file.seen().ok()?.written_ns;
        Some(Older {
            file: file.id,
            written_ns,
            count: None,
        })
    }

    /// Whether its youngest file had the name at the last look, and has none at all now.
    pub(super) fn is_gone_at_once(&self) -> bool {
        self.files.back().is_some_and(|file| {
            file.lost_name.is_none() && file.seen().is_ok_and(|seen| seen.names == 0)
        })
    }

    /// Reads one piece of the oldest file that has one.
    pub(super) fn read(&mut self, lines: Lines, now: Instant) -> Got {
        // From the youngest to the oldest, and before any is read.
        let mut limits: Vec<u64> = Vec::with_capacity(self.files.len());
        for file in self.files.iter().rev() {
            limits.push(file.seen().map_or(u64::MAX, |seen| seen.size));
        }
        limits.reverse();
        if let Some(first) = limits.first_mut() {
            *first = u64::MAX;
        }
        for (at, (file, limit)) in self.files.iter_mut().zip(limits).enumerate() {
            match file.read(limit, lines, now) {
                Ok(Piece::Bytes { offset, bytes }) => {
                    return Got::Bytes(file.number, offset, bytes);
                }
                Ok(Piece::Held) => return Got::Nothing,
                Ok(Piece::End) => {}
                Ok(Piece::Rewritten) => return Got::Rewritten(at),
                Err(error) => return Got::Failed(at, error),
            }
        }
        Got::Nothing
    }

    /// Takes out the oldest file if it has lost the name and is quiet.
    pub(super) fn close(&mut self, is_full: bool, now: Instant) -> Option<Generation> {
        let is_last = self.files.len() == 1;
        let file = self.files.front()?;
        is_ripe(file, is_last, is_full && !is_last, now)
            .then(|| self.files.pop_front())
            .flatten()
    }

    /// Whether there is no room for one file more.
    pub(super) fn is_full(&self) -> bool {
        self.files.len() + 1 >= TAIL_ROTATED_MAX
    }
}

/// Whether nothing more is expected of a file.
fn is_ripe(file: &Generation, is_last: bool, is_in_the_way: bool, now: Instant) -> bool {
    let Some(lost) = file.lost_name else {
        return false;
    };
    let Ok(seen) = file.seen() else {
        return true;
    };
    if seen.size > file.at().offset {
        return false;
    }
    // As long as it has a name its writer may have it open, and nothing has taken its place.
    if is_last && seen.names > 0 {
        return false;
    }
    let quiet = now.duration_since(lost.max(file.grew));
    is_in_the_way || quiet >= TAIL_QUIET || now.duration_since(lost) >= TAIL_ROTATED_FOR
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use super::*;
    use crate::tail::generation::At;
    use crate::tail::identity;

    /// A name with so many files, and these files.
    fn name(count: u32, now: Instant) -> (Name, Vec<File>) {
        let mut name = Name::default();
        let files: Vec<File> = (1..=count)
            .map(|number| {
                let file = tempfile::tempfile().expect("a file");
                let again = file.try_clone().expect("a descriptor more");
                let seen = identity::of(&file).expect("it is open");
                let at = At::default();
                let generation = Generation::new(number, again.into(), &seen, at, None, now);
                name.files.push_back(generation);
                file
            })
            .collect();
        (name, files)
    }

    fn read(name: &mut Name, now: Instant) -> Option<(u32, Vec<u8>)> {
        match name.read(Lines::Parts, now) {
            Got::Bytes(number, _, bytes) => Some((number, bytes)),
            Got::Nothing => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_oldest_file_is_read_to_its_end_first() {
        let now = Instant::now();
        let (mut name, mut files) = name(2, now);
        files[1].write_all(b"second\n").expect("written");
        files[0].write_all(b"first\n").expect("written");
        assert_eq!(read(&mut name, now), Some((1, b"first\n".to_vec())));
        assert_eq!(read(&mut name, now), Some((2, b"second\n".to_vec())));
        // A writer that has not reopened it.
        files[0].write_all(b"late\n").expect("written");
        files[1].write_all(b"third\n").expect("written");
        assert_eq!(read(&mut name, now), Some((1, b"late\n".to_vec())));
        assert_eq!(read(&mut name, now), Some((2, b"third\n".to_vec())));
        assert_eq!(read(&mut name, now), None);
        files[0].set_len(0).expect("emptied");
        assert!(matches!(name.read(Lines::Parts, now), Got::Rewritten(0)));
    }

    #[test]
    fn a_file_is_closed_when_it_has_lost_its_name_and_is_quiet() {
        let now = Instant::now();
        let (mut name, mut files) = name(2, now);
        let later = now + TAIL_QUIET;
        assert!(name.close(false, later).is_none(), "it has its name");
        name.files[0].lost_name = Some(now);
        files[0].write_all(b"x").expect("written");
        assert!(name.close(false, later).is_none(), "it is not read");
        assert!(read(&mut name, now).is_some());
        let early = later - Duration::from_millis(1);
        assert!(name.close(false, early).is_none(), "it is not quiet");
        let closed = name.close(false, later).expect("it is now");
        assert_eq!((closed.number, name.files.len()), (1, 1));
    }

    #[test]
    fn a_file_in_the_way_need_not_be_quiet() {
        let now = Instant::now();
        let (mut name, _files) = name(2, now);
        name.files[0].lost_name = Some(now);
        assert!(name.close(true, now).is_some());
        name.files[0].lost_name = Some(now);
        assert!(name.close(true, now).is_none(), "it is the last one");
    }
}
