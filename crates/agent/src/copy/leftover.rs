//! Parts of small files that copies have left which were killed: the one with the usual name, and, where that was
//! in the way of a later copy which was killed as well, others with a number of their own. Who meets the first looks for
//! the others, once in each directory, and removes them when the file has its name.
//!
//! One may belong to a copy that goes on at the same time: whoever comes first gives the file its name, and the other
//! one is told. Nothing that was changed since this copy began is looked at.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use farpipe_net::WallClock;
use farpipe_proto::limits::COPY_KEEP_MIN;
use rustix::fs::{AtFlags, Dir, FileType};

use super::clock::{TICK, changed_at};
use super::folder::Folder;
use super::name::{Name, PART};

/// A part that was there already, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stale {
    pub(crate) name: Vec<u8>,
    pub(crate) inode: u64,
}

/// Numbered parts by what stands in front of their number.
type Found = HashMap<Vec<u8>, Vec<Stale>>;

/// What was found in the directory that was looked at last.
#[derive(Debug)]
pub(crate) struct Leftovers {
    /// Since 1970; a file system's clock may be a tick behind.
    began: Duration,
    found: Option<(Arc<Folder>, Found)>,
}

impl Leftovers {
    /// For a copy that begins now.
    pub(crate) fn new() -> Self {
        Self {
            began: WallClock::System.now().saturating_sub(TICK),
            found: None,
        }
    }

    /// The numbered parts of a file, each once. What cannot be read has none.
    pub(crate) fn take(&mut self, folder: &Arc<Folder>, dir: &OwnedFd, name: &Name) -> Vec<Stale> {
        let is_it = |of: &Arc<Folder>| Arc::ptr_eq(of, folder);
        if !self.found.as_ref().is_some_and(|(of, _)| is_it(of)) {
            self.found = Some((Arc::clone(folder), self.look(dir).unwrap_or_default()));
        }
        let numbered = name.part_of(0);
        let stem = stem(&numbered).expect("it has a number");
        let (_, found) = self.found.as_mut().expect("it was looked at");
        found.remove(stem).unwrap_or_default()
    }

    fn look(&self, dir: &OwnedFd) -> rustix::io::Result<Found> {
        let mut found = Found::new();
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let Some(stem) = stem(name) else { continue };
            let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            // A large one is the usual part of a file with such a number in its name.
            let is_small = u64::try_from(stat.st_size).is_ok_and(|size| size < COPY_KEEP_MIN);
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            let is_old = changed_at(&stat).is_none_or(|changed| changed < self.began);
            if is_small && is_file && is_old {
                let stale = Stale {
                    name: name.to_vec(),
                    inode: stat.st_ino,
                };
                found.entry(stem.to_vec()).or_default().push(stale);
            }
        }
        Ok(found)
    }
}

/// What stands in front of the number in the name of a numbered part.
fn stem(name: &[u8]) -> Option<&[u8]> {
    let front = name.strip_suffix(PART)?;
    let (stem, number) = front.split_at_checked(front.len().checked_sub(16)?)?;
    let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let stem = stem.strip_suffix(b".")?;
    (number.iter().all(is_hex) && stem.len() > 1).then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numbered_part_is_known_and_no_other() {
        let name = Name::parse(b"a").expect("a name");
        assert_eq!(stem(&name.part_of(7)), Some(&b".a"[..]));
        for other in [
            &name.part()[..],
            &name.sums(),
            b".0123456789abcdef.farpipe-part",
            b"..farpipe-part",
            b".a.0123456789ABCDEF.farpipe-part",
            b".a.123456789abcdef.farpipe-part",
            b".farpipe-part",
        ] {
            assert_eq!(stem(other), None, "{other:?}");
        }
    }
}
