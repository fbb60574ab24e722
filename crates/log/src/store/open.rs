//! What is made of a directory when a log begins: what is whole is taken, what was cut off is taken away, and what is damaged
//! stays where it is and is told.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Options, Store, Topic};
use crate::cursors::{self, Cursor, CursorKey, Cursors};
use crate::disk::{Disk, read_all, replace};
use crate::mark::{self, Mark};
use crate::partition::Partition;
use crate::producers::Producers;
use crate::segment::{self, Damage, Scan, Segment};
use crate::settings::Settings;

/// What says how a topic is kept; a directory without it is none.
pub(crate) const SETTINGS: &str = "settings";
/// A topic with this is being removed.
pub(crate) const REMOVED: &str = "removed";
/// The version of everything in a directory.
pub(crate) const FORMAT: &str = "format";
pub(crate) const VERSION: &[u8] = b"farpipe-log 1\n";

/// Why a directory is not opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk.
    #[error("{}: {error}", path.display())]
    Disk {
        /// What was read or written.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// It is of another version of this program, or no log.
    #[error("{} is no log of this version of farpipe", .0.display())]
    Format(PathBuf),
    /// Something is missing that was there.
    #[error("{} is missing: restore it, or run farpipe log repair", .0.display())]
    Missing(PathBuf),
    /// Something is there that no log has.
    #[error("{} does not belong into a log: move it away", .0.display())]
    Foreign(PathBuf),
    /// A topic's settings are damaged.
    #[error("{} is damaged: restore it, or run farpipe log repair", .0.display())]
    Damaged(PathBuf),
}

/// What was found when a log was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// A write that was cut off; nobody was told that it was there. It was taken away.
    Torn {
        /// The segment.
        path: PathBuf,
        /// Where it began.
        at: u64,
        /// Its bytes.
        len: u64,
    },
    /// Records that are damaged. What is there of them stays.
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Which.
        damage: Damage,
    },
    /// Lines of what groups have done: where one of them is may be somewhat earlier.
    Cursors(usize),
}

impl std::fmt::Display for Recovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Torn { path, at, len } => write!(
                f,
                "{}: a write of {len} bytes at {at} was cut off, and is taken away: nobody was told that it was kept",
                path.display()
            ),
            Self::Damaged { path, damage } => write!(
                f,
                "{}: offsets {} to {} are damaged ({} bytes at {}): they stay, and are skipped",
                path.display(),
                damage.from,
                damage.to.saturating_sub(1),
                damage.len,
                damage.at
            ),
            Self::Cursors(lines) => write!(
                f,
                "{lines} damaged lines of the file groups: the groups that they were of read again what they had done since the line before, \
                 or begin anew if there was none"
            ),
        }
    }
}

trait At<T> {
    fn at(self, path: &Path) -> Result<T, OpenError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, OpenError> {
        self.map_err(|error| OpenError::Disk {
            path: path.to_owned(),
            error,
        })
    }
}

impl Store {
    /// Opens the log in a directory, or begins one there.
    ///
    /// # Errors
    /// [`OpenError`]: what is wrong has to be put right by somebody.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
    ) -> Result<(Self, Vec<Recovered>), OpenError> {
        let topics_dir = dir.join("topics");
        check_format(&*disk, dir, &topics_dir)?;
        let mut recovered = Vec::new();
        let groups = dir.join(cursors::NAME);
        // It is made before the first topic is: without it each group would begin anew, and pass over what it had not read.
        let has_topics = !disk.list(&topics_dir).at(&topics_dir)?.is_empty();
        if has_topics
            && !disk
                .list(dir)
                .at(dir)?
                .iter()
                .any(|name| name == cursors::NAME)
        {
            return Err(OpenError::Missing(groups));
        }
        let (mut cursors, damaged) = Cursors::open(&*disk, dir).at(&groups)?;
        if damaged > 0 {
            recovered.push(Recovered::Cursors(damaged));
        }
        let (mut topics, mut last_ns) = (BTreeMap::new(), 0);
        for name in disk.list(&topics_dir).at(&topics_dir)? {
            let dir = topics_dir.join(&name);
            if let Some(topic) = topic(&*disk, dir, &mut recovered, &mut last_ns)? {
                topics.insert(name, Arc::new(topic));
            }
        }
        // What groups have done of a topic that is gone is not to be that of another one of its name; nor of records that a loss of
        // power has taken, of a topic that does not promise more: others come in their place.
        let all = cursors.all();
        let wrong = all.filter_map(|(key, cursor)| instead(&topics, key, cursor));
        let wrong: Vec<_> = wrong.collect();
        if !wrong.is_empty() {
            let written = cursors.write(&*disk, &wrong);
            written.and_then(|()| cursors.sync()).at(dir)?;
        }
        let store = Self {
            disk,
            dir: dir.to_owned(),
            options,
            topics,
            cursors,
            unsynced: Vec::new(),
            last_ns,
            failed: None,
        };
        Ok((store, recovered))
    }
}

/// What a cursor is to be instead, if that is another one; `None` in it: it is to be forgotten.
fn instead(
    topics: &BTreeMap<String, Arc<Topic>>,
    key: CursorKey,
    cursor: Cursor,
) -> Option<(CursorKey, Option<Cursor>)> {
    let topic = topics.get(&key.topic);
    let partition = topic.and_then(|topic| topic.partitions.get(key.partition as usize));
    let Some(partition) = partition else {
        return Some((key, None));
    };
    let offset = partition.end();
    let deliveries = 0;
    (cursor.offset > offset).then_some((key, Some(Cursor { offset, deliveries })))
}

fn check_format(disk: &dyn Disk, dir: &Path, topics: &Path) -> Result<(), OpenError> {
    let path = dir.join(FORMAT);
    match disk.open(&path) {
        Ok(file) => match read_all(&*file).at(&path)? == VERSION {
            true => {}
            false => return Err(OpenError::Format(dir.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The first thing that a log makes.
            if disk.is_dir(topics) && !disk.list(topics).at(topics)?.is_empty() {
                return Err(OpenError::Missing(path));
            }
            replace(disk, &path, VERSION).at(&path)?;
        }
        Err(error) => return Err(error).at(&path),
    }
    disk.make_dir(topics).at(topics)?;
    disk.sync_dir(dir).at(dir)
}

/// `None`: it was never finished, or was being removed.
fn topic(
    disk: &dyn Disk,
    dir: PathBuf,
    recovered: &mut Vec<Recovered>,
    last_ns: &mut u64,
) -> Result<Option<Topic>, OpenError> {
    if !disk.is_dir(&dir) {
        return Err(OpenError::Foreign(dir));
    }
    let names = disk.list(&dir).at(&dir)?;
    if names.iter().any(|name| name == REMOVED) {
        take_away(disk, &dir).at(&dir)?;
        return Ok(None);
    }
    let path = dir.join(SETTINGS);
    let file = match disk.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match has_records(disk, &dir, &names)? {
                true => Err(OpenError::Missing(path)),
                false => Ok(None),
            };
        }
        opened => opened.at(&path)?,
    };
    let settings = Settings::from_bytes(&read_all(&*file).at(&path)?);
    let settings = settings.ok_or_else(|| OpenError::Damaged(path.clone()))?;
    // The name of the settings, of a topic that was being made when a process was killed.
    disk.sync_dir(&dir).at(&dir)?;
    let mut partitions = Vec::new();
    for number in 0..settings.partitions {
        let partition = partition(disk, &dir.join(number.to_string()), recovered, last_ns)?;
        partitions.push(Arc::new(partition));
    }
    Ok(Some(Topic {
        settings,
        partitions,
        dir,
    }))
}

fn has_records(disk: &dyn Disk, dir: &Path, names: &[String]) -> Result<bool, OpenError> {
    for dir in names.iter().map(|name| dir.join(name)) {
        if !disk.is_dir(&dir) {
            continue;
        }
        let names = disk.list(&dir).at(&dir)?;
        let segments = names.iter().filter(|name| segment::base_of(name).is_some());
        for path in segments.map(|name| dir.join(name)) {
            let file = disk.open(&path).at(&path)?;
            let bytes = read_all(&*file).at(&path)?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn partition(
    disk: &dyn Disk,
    dir: &Path,
    recovered: &mut Vec<Recovered>,
    last_ns: &mut u64,
) -> Result<Partition, OpenError> {
    let (mut segments, mut snapshots) = (Vec::new(), Vec::new());
    for name in disk.list(dir).at(dir)? {
        let path = dir.join(&name);
        if let Some(base) = segment::base_of(&name) {
            let file = disk.open(&path).at(&path)?;
            let segment = Segment::older(base, path.clone(), file).at(&path)?;
            segments.push(Arc::new(segment));
        } else if let Some(base) = snapshot_base(&name) {
            snapshots.push(base);
        } else if name != mark::NAME && !name.ends_with(".new") {
            return Err(OpenError::Foreign(path));
        }
    }
    let Some(last) = segments.last() else {
        return Err(OpenError::Missing(segment::path(dir, 0)));
    };
    let (mark, whole) = Mark::open(disk, dir).at(dir)?;
    let scan = last.scan(whole).at(&last.path)?;
    mend(last, &scan, recovered).at(&last.path)?;
    settle(disk, dir, &segments, &scan, whole).at(dir)?;
    last.resume(&scan);
    // Times of a log never go back, not over its ends either.
    let newest = scan
        .batches
        .last()
        .map_or(0, |(_, header)| header.appended_ns);
    *last_ns = newest.max(*last_ns);
    let producers = producers(disk, dir, &segments, &snapshots, &scan)?;
    let partition = Partition::new(segments, producers, scan.next, mark);
    for one in &scan.damaged {
        partition.lock().note_damaged(one.from, one.to);
    }
    Ok(partition)
}

/// Takes away what was cut off at the end of a segment.
fn mend(segment: &Segment, scan: &Scan, recovered: &mut Vec<Recovered>) -> io::Result<()> {
    let path = || segment.path.clone();
    for damage in &scan.damaged {
        recovered.push(Recovered::Damaged {
            path: path(),
            damage: *damage,
        });
    }
    let Some(end) = scan.torn else {
        return Ok(());
    };
    let len = end - scan.end;
    // Zeros, as they are behind the last batch: what stands there must not be found behind the next one.
    let zeros = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    segment.file.write_at(&zeros, scan.end)?;
    segment.file.sync()?;
    recovered.push(Recovered::Torn {
        path: path(),
        at: scan.end,
        len,
    });
    Ok(())
}

/// What is found may be in the system's memory only, if the process before this one was killed between a write and its sync. Whoever
/// reads it, or sends it again, takes it for kept: so it is synced first, unless the mark says that it was.
fn settle(
    disk: &dyn Disk,
    dir: &Path,
    segments: &[Arc<Segment>],
    scan: &Scan,
    whole: u64,
) -> io::Result<()> {
    // A segment that nothing was ever synced in may itself be nowhere else.
    if whole >= scan.next && !scan.batches.is_empty() {
        return Ok(());
    }
    let ends = segments.iter().skip(1).map(|next| next.base);
    for (segment, end) in segments.iter().zip(ends.chain([u64::MAX])) {
        if end == u64::MAX {
            segment.write_again(scan, whole)?;
        } else if end > whole {
            segment.write_again(&segment.scan(u64::MAX)?, whole)?;
        }
    }
    disk.sync_dir(dir)
}

/// Who has sent what, from the newest snapshot that is whole, and all batches behind it.
fn producers(
    disk: &dyn Disk,
    dir: &Path,
    segments: &[Arc<Segment>],
    snapshots: &[u64],
    last: &Scan,
) -> Result<Producers, OpenError> {
    let (mut producers, mut since) = (Producers::default(), 0);
    for base in snapshots.iter().rev() {
        let path = snapshot_path(dir, *base);
        let file = disk.open(&path).at(&path)?;
        // One that says of more than there is was written for a segment that was lost with what was behind it.
        if *base <= last.next
            && let Some(known) = Producers::from_bytes(&read_all(&*file).at(&path)?)
        {
            (producers, since) = (known, *base);
            break;
        }
    }
    let from = segments
        .partition_point(|one| one.base <= since)
        .saturating_sub(1);
    for (number, segment) in segments.iter().enumerate().skip(from) {
        let scanned;
        let scan = match number + 1 == segments.len() {
            true => last,
            false => {
                scanned = segment.scan(u64::MAX).at(&segment.path)?;
                &scanned
            }
        };
        let behind = scan
            .batches
            .iter()
            .filter(|(_, header)| header.base_offset >= since);
        behind.for_each(|(_, header)| producers.note(header));
    }
    producers.bound();
    Ok(producers)
}

/// What is known of producers where a segment begins.
pub(super) fn snapshot_path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}.producers"))
}

pub(crate) fn snapshot_base(name: &str) -> Option<u64> {
    name.strip_suffix(".producers")?.parse().ok()
}

/// From now on there is no such topic, whatever is left of it.
pub(super) fn mark_removed(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    replace(disk, &dir.join(REMOVED), b"")
}

/// Removes what is left of a topic, the mark last.
pub(super) fn take_away(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    for name in disk.list(dir)? {
        let path = dir.join(&name);
        if disk.is_dir(&path) {
            for name in disk.list(&path)? {
                disk.remove(&path.join(name))?;
            }
            // Else its records could be there again, when the mark is gone.
            disk.sync_dir(&path)?;
            disk.remove(&path)?;
        } else if name != REMOVED {
            disk.remove(&path)?;
        }
    }
    disk.sync_dir(dir)?;
    disk.remove(&dir.join(REMOVED))?;
    disk.sync_dir(dir)?;
    disk.remove(dir)?;
    disk.sync_dir(dir.parent().unwrap_or(dir))
}
