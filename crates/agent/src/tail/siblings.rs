//! Files beside one that is followed which had its name before: found by their names, told apart by what
//! they are and what is in them.

use std::cmp::{Ordering, Reverse};
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use farpipe_proto::limits::TAIL_ENTRIES_MAX;
use farpipe_proto::wire::tail::TailFile;

use super::generation::At;
use super::glob::is_rotated;
use super::identity::{self, Seen, is_same};
use crate::serve::{Full, Taken};

/// Files that are opened to look for the copy of one: the youngest.
const COPIES_MAX: usize = 32;
/// How often a directory is read whose names move.
const LISTINGS_MAX: usize = 5;
/// Fewer last bytes than these tell nothing.
const TELLING: usize = 16;

/// Opens what the caller may read, and nothing else. Blocks on the disk.
pub(super) trait Gate: Send + Sync + std::fmt::Debug {
    /// Opens a file by its absolute path.
    fn open(&self, path: &Path) -> Result<Opened, Shut>;
    /// Whether the names in a directory may be told.
    fn may_list(&self, dir: &Path) -> bool;
}

/// An open file, and its share of those that this process may have open.
#[derive(Debug)]
pub(super) struct Opened {
    file: File,
    _taken: Option<Taken>,
}

impl Opened {
    pub(super) fn new(file: File, taken: Taken) -> Self {
        Self {
            file,
            _taken: Some(taken),
        }
    }
}

/// One that nobody counts.
#[cfg(test)]
impl From<File> for Opened {
    fn from(file: File) -> Self {
        Self { file, _taken: None }
    }
}

impl Deref for Opened {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

/// Why a file is not opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Shut {
    /// As many are open as may be. It can be opened when one of them is closed.
    #[error("{}", describe_full(*.0))]
    Full(Full),
    /// Why is for this host's log.
    #[error("the policy does not allow it")]
    Denied,
    /// What is there is no file that could grow.
    #[error("it is {0}")]
    Unfit(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn describe_full(full: Full) -> String {
    match full {
        Full::All(max) => format!("{max} files are open there for those who follow some"),
        Full::Caller(max) => {
            format!("{max} files are open there for you, and nobody may have more")
        }
    }
}

/// Beside another one, by a name that it has now.
#[derive(Debug, Clone)]
pub(super) struct Sibling {
    pub(super) path: PathBuf,
    pub(super) seen: Seen,
}

impl Sibling {
    /// Opens it, if it is still the one that was seen.
    pub(super) fn open(&self, gate: &dyn Gate) -> Result<(Opened, Seen), NotOpened> {
        let file = match gate.open(&self.path) {
            Ok(file) => file,
            Err(Shut::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(NotOpened::Later);
            }
            Err(Shut::Full(_)) => return Err(NotOpened::Later),
            Err(Shut::Denied | Shut::Unfit(_) | Shut::Io(_)) => return Err(NotOpened::Shut),
        };
        match identity::of(&file) {
            Ok(seen) if is_same(&seen.file, &self.seen.file) => Ok((file, seen)),
            Ok(_) => Err(NotOpened::Later),
            Err(_) => Err(NotOpened::Shut),
        }
    }

    /// The number at the end of its name: the higher, the older.
    fn count(&self) -> u64 {
        let name = self.path.file_name().unwrap_or_default().as_bytes();
        let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit());
        let digits: Vec<u8> = digits.copied().collect();
        digits
            .iter()
            .rev()
            .try_fold(0_u64, |sum, digit| {
                sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
            })
            .unwrap_or_default()
    }
}

/// Why a sibling is not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotOpened {
    /// It has another name by now, or is gone; or too many others are open.
    Later,
    /// It may not be read, or cannot.
    Shut,
}

/// All that may have been called `path` before. Names move on while a directory is read, and what moves
/// may be missed or seen by a name that it has lost: so it is read until it is the same twice.
pub(super) fn all(path: &Path) -> Vec<Sibling> {
    let mut found = listed(path);
    for _ in 0..LISTINGS_MAX {
        let again = listed(path);
        let is_in = |one: &Sibling, of: &[Sibling]| {
            of.iter()
                .any(|other| is_same(&one.seen.file, &other.seen.file) && one.path == other.path)
        };
        let is_stable = found.len() == again.len() && found.iter().all(|one| is_in(one, &again));
        let has = |one: &Sibling| {
            again
                .iter()
                .any(|other| is_same(&one.seen.file, &other.seen.file))
        };
        found.retain(|one| !has(one));
        found.extend(again);
        if is_stable {
            break;
        }
    }
    found
}

fn listed(path: &Path) -> Vec<Sibling> {
    let Some(path) = resolved(path) else {
        return Vec::new();
    };
    let (Some(dir), Some(base)) = (path.parent(), path.file_name()) else {
        return Vec::new();
    };
    let Ok(entries) = dir.read_dir() else {
        return Vec::new();
    };
    let entries = entries.take(TAIL_ENTRIES_MAX).flatten();
    entries
        .map(|entry| entry.file_name())
        .filter(|name| is_rotated(name, base))
        .filter_map(|name| {
            let path = dir.join(name);
            let seen = identity::at(&path).ok()?;
            seen.is_regular.then_some(Sibling { path, seen })
        })
        .collect()
}

/// Where a path leads: what is rotated lies there.
fn resolved(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok().or_else(|| {
        let dir = path.parent()?.canonicalize().ok()?;
        Some(dir.join(path.file_name()?))
    })
}

/// Those of `all` that had the name after `older` and before `newer`, in that order; all since `older`
/// without that.
pub(super) fn between(
    all: Vec<Sibling>,
    older: &Older,
    newer: Option<&Seen>,
    is_known: impl Fn(&TailFile) -> bool,
) -> Vec<Sibling> {
    let mut found: Vec<Sibling> = all
        .into_iter()
        .filter(|one| !is_same(&one.seen.file, &older.file) && !is_known(&one.seen.file))
        .filter(|one| older.is_before(one))
        .filter(|one| newer.is_none_or(|newer| is_earlier(&one.seen, newer)))
        .collect();
    found.sort_by_key(|one| {
        let seen = &one.seen;
        (seen.file.born_ns, seen.written_ns, Reverse(one.count()))
    });
    found
}

/// What had the name, and was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Older {
    pub(super) file: TailFile,
    /// When it was written last.
    pub(super) written_ns: u64,
    /// The number in the name that it has now, if that is known: the higher, the older.
    pub(super) count: Option<u64>,
}

impl Older {
    /// Nothing had it: all that is not known is younger.
    pub(super) const NONE: Self = Self {
        file: TailFile {
            device: 0,
            inode: 0,
            born_ns: 0,
        },
        written_ns: 0,
        count: None,
    };

    pub(super) fn is_none(&self) -> bool {
        self.file == Self::NONE.file
    }

    /// Whether another one was made after it. The clocks of file systems are coarse: what seems to be made
    /// at the same time is later if it was written later, or has the lower number now.
    pub(super) fn is_before(&self, other: &Sibling) -> bool {
        let (born, other_born) = (self.file.born_ns, other.seen.file.born_ns);
        let by_birth = match (born, other_born) {
            (0, _) | (_, 0) => Ordering::Equal,
            (one, another) => one.cmp(&another),
        };
        let by_writing = self.written_ns.cmp(&other.seen.written_ns);
        match by_birth.then(by_writing) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal => self.count.is_none_or(|count| other.count() < count),
        }
    }
}

/// Whether it is another one that was not made after it.
fn is_earlier(one: &Seen, other: &Seen) -> bool {
    let (born, other_born) = (one.file.born_ns, other.file.born_ns);
    !is_same(&one.file, &other.file) && (born == 0 || other_born == 0 || born <= other_born)
}

/// Opens the file of which `file` was read up to `at`, if it still has what was read: by its name now, or
/// by one that it got; and the number in that.
pub(super) fn find(
    gate: &dyn Gate,
    path: &Path,
    all: &[Sibling],
    file: &TailFile,
    at: &At,
) -> Option<(Opened, Seen, Option<u64>)> {
    let here = identity::at(path).ok().map(|seen| Sibling {
        path: path.to_owned(),
        seen,
    });
    here.iter()
        .chain(all)
        .filter(|one| is_same(&one.seen.file, file) && one.seen.size >= at.offset)
        .find_map(|one| {
            let (file, seen) = one.open(gate).ok().filter(|(file, _)| at.is_in(file))?;
            Some((file, seen, (one.path != path).then(|| one.count())))
        })
}

/// Opens a copy of a file that was read up to `at` and then emptied: `copytruncate` makes one.
pub(super) fn find_copy(
    gate: &dyn Gate,
    mut all: Vec<Sibling>,
    at: &At,
    is_known: impl Fn(&TailFile) -> bool,
) -> Option<(Opened, Seen)> {
    if at.last.len() < TELLING {
        return None;
    }
    all.retain(|one| one.seen.size >= at.offset && !is_known(&one.seen.file));
    all.sort_by_key(|one| Reverse(one.seen.written_ns));
    all.iter()
        .take(COPIES_MAX)
        .find_map(|one| one.open(gate).ok().filter(|(file, _)| at.is_in(file)))
}
