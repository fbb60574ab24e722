//! Looks at a log on the disk without changing anything, and without the process that it belongs to: for `farpipe log`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::mark::parse as parse_mark;
use crate::segment::{Damage, Piece, Segment, base_of};
use crate::settings::Settings;
use crate::store::{FORMAT, REMOVED, SETTINGS, VERSION, snapshot_base};

/// A partition, as it stands on the disk.
#[derive(Debug)]
pub struct Inspected {
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: u32,
    /// The offset of the first record.
    pub start: u64,
    /// The offset behind the last one.
    pub end: u64,
    /// Batches.
    pub batches: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// What is wrong, and where.
    pub faults: Vec<(PathBuf, Fault)>,
    segments: Vec<(Arc<Segment>, u64)>,
}

/// What is wrong with a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Records that were whole once. They cannot be had.
    Damaged(Damage),
    /// The end of a write that was cut off, which is taken away when the log is opened; or one that is being made now.
    Torn {
        /// Where it begins.
        at: u64,
        /// Its bytes.
        len: u64,
    },
    /// Offsets that no segment has.
    Missing {
        /// The first.
        from: u64,
        /// The one behind the last.
        to: u64,
    },
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Damaged(damage) => write!(
                f,
                "offsets {} to {} are damaged ({} bytes at {})",
                damage.from,
                damage.to.saturating_sub(1),
                damage.len,
                damage.at
            ),
            Self::Torn { at, len } => write!(
                f,
                "the last write is cut off or under way ({len} bytes at {at}): nobody was told that it is kept"
            ),
            Self::Missing { from, to } => {
                write!(f, "offsets {from} to {} are missing", to.saturating_sub(1))
            }
        }
    }
}

/// What is no log, or cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub struct InspectError {
    path: PathBuf,
    #[source]
    error: io::Error,
}

pub(crate) trait At<T> {
    fn at(self, path: &Path) -> Result<T, InspectError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, InspectError> {
        let path = path.to_owned();
        self.map_err(|error| InspectError { path, error })
    }
}

/// All partitions of a log, in order. Reads every byte of it.
///
/// # Errors
/// It is no log, or cannot be read. What is damaged is none.
pub fn inspect(dir: &Path) -> Result<Vec<Inspected>, InspectError> {
    let topics = dir.join("topics");
    let mut all = Vec::new();
    for name in names(&topics).at(&topics)? {
        let dir = topics.join(&name);
        let path = dir.join("settings");
        let bytes = match std::fs::read(&path) {
            // Not finished, or being removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            read => read.at(&path)?,
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
        let settings = Settings::from_bytes(&bytes).ok_or_else(damaged).at(&path)?;
        for number in 0..settings.partitions {
            let dir = dir.join(number.to_string());
            all.push(partition(name.clone(), number, &dir)?);
        }
    }
    Ok(all)
}

/// Why a relay would not open the log: each file, and what is wrong with it. Empty where it would.
///
/// # Errors
/// It is no log, or cannot be read.
pub fn objections(dir: &Path) -> Result<Vec<(PathBuf, &'static str)>, InspectError> {
    let mut wrong = Vec::new();
    let format = dir.join(FORMAT);
    match std::fs::read(&format) {
        Ok(bytes) if bytes == VERSION => {}
        Ok(_) => wrong.push((format, "it is of another version of farpipe, or no log's")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            wrong.push((format, "it is missing"));
        }
        Err(error) => return Err(error).at(&format),
    }
    let topics = dir.join("topics");
    let names = names(&topics).at(&topics)?;
    let groups = dir.join(crate::cursors::NAME);
    if !names.is_empty() && !groups.exists() {
        wrong.push((groups, "it is missing"));
    }
    for name in names {
        let dir = topics.join(name);
        if !dir.is_dir() {
            wrong.push((dir, "it does not belong into a log"));
            continue;
        }
        let path = dir.join(SETTINGS);
        let settings = match std::fs::read(&path) {
            _ if dir.join(REMOVED).exists() => continue,
            Ok(bytes) => Settings::from_bytes(&bytes),
            // One that was never finished has no records.
            Err(_) if !crate::repair::has_records(&dir).at(&dir)? => continue,
            Err(_) => None,
        };
        let Some(settings) = settings else {
            wrong.push((path, "it is damaged, or missing"));
            continue;
        };
        for number in 0..settings.partitions {
            wrong.extend(of_partition(&dir.join(number.to_string())));
        }
    }
    Ok(wrong)
}

/// The same, of a partition's directory.
fn of_partition(dir: &Path) -> Vec<(PathBuf, &'static str)> {
    let Ok(names) = names(dir) else {
        return vec![(dir.to_owned(), "it is missing")];
    };
    let is_known = |name: &String| {
        base_of(name).is_some()
            || snapshot_base(name).is_some()
            || name == crate::mark::NAME
            || name.ends_with(".new")
    };
    let foreign = names.iter().filter(|name| !is_known(name));
    let foreign = foreign.map(|name| (dir.join(name), "it does not belong into a log"));
    let mut wrong: Vec<_> = foreign.collect();
    if !names.iter().any(|name| base_of(name).is_some()) {
        wrong.push((dir.to_owned(), "it has no segment"));
    }
    wrong
}

pub(crate) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn partition(topic: String, number: u32, dir: &Path) -> Result<Inspected, InspectError> {
    let mut segments = Vec::new();
    for name in names(dir).at(dir)? {
        let Some(base) = base_of(&name) else { continue };
        let path = dir.join(name);
        let file = File::open(&path).at(&path)?;
        let segment = Segment::older(base, path.clone(), Arc::new(file)).at(&path)?;
        segments.push(Arc::new(segment));
    }
    let mark = std::fs::read(dir.join(crate::mark::NAME)).unwrap_or_default();
    let mark = parse_mark(&mark).unwrap_or(0);
    let mut inspected = Inspected {
        topic,
        partition: number,
        start: segments.first().map_or(0, |first| first.base),
        end: 0,
        batches: 0,
        bytes: 0,
        faults: Vec::new(),
        segments: Vec::new(),
    };
    let mut next = inspected.start;
    for (at, segment) in segments.iter().enumerate() {
        if segment.base > next {
            let fault = Fault::Missing {
                from: next,
                to: segment.base,
            };
            inspected.faults.push((segment.path.clone(), fault));
        }
        let following = segments.get(at + 1).map(|one| one.base);
        // All of a segment that has a follower was on the disk once.
        let scan = segment.scan(following.unwrap_or(mark)).at(&segment.path)?;
        let faults = scan.damaged.iter().map(|damage| Fault::Damaged(*damage));
        let torn = scan.torn.map(|end| Fault::Torn {
            at: scan.end,
            len: end - scan.end,
        });
        for fault in faults.chain(torn) {
            inspected.faults.push((segment.path.clone(), fault));
        }
        inspected.batches += scan.batches.len() as u64;
        inspected.bytes += scan.end;
        next = scan.next.max(segment.base);
        inspected.segments.push((Arc::clone(segment), next));
    }
    inspected.end = next;
    Ok(inspected)
}

impl Inspected {
    /// What stands from `offset` on, in pieces of about `max` bytes; none at the end.
    ///
    /// # Errors
    /// As the system says.
    pub fn read(&self, offset: u64, max: usize) -> io::Result<Vec<Piece>> {
        let behind = self.segments.partition_point(|(one, _)| one.base <= offset);
        let Some((segment, end)) = behind.checked_sub(1).and_then(|at| self.segments.get(at))
        else {
            return Ok(Vec::new());
        };
        if offset >= *end {
            return Ok(Vec::new());
        }
        segment.read(offset, max, *end)
    }
}
