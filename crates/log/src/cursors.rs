//! What groups have done, as lines of a file: the last line of a group and partition holds. Each has a sum of its own, so
//! that a damaged one costs itself and no other.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, read_all, replace};

/// The name of the file.
pub(crate) const NAME: &str = "groups";
/// The file is written anew when it has so many times the lines that hold, and so many in all.
const STALE_TIMES: usize = 4;
const STALE_LINES: usize = 10_000;

/// A group's partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CursorKey {
    /// The topic.
    pub topic: String,
    /// The group.
    pub group: String,
    /// The partition.
    pub partition: u32,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// All before this offset is done.
    pub offset: u64,
    /// So often the record there was left undone.
    pub deliveries: u32,
}

/// All cursors of a log.
#[derive(Debug)]
pub(crate) struct Cursors {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    end: u64,
    lines: usize,
    /// A write has failed, and any part of it may stand behind `end`.
    is_torn: bool,
    known: BTreeMap<CursorKey, Cursor>,
}

impl Cursors {
    /// Reads what there is; and how many lines are damaged.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path) -> io::Result<(Self, usize)> {
        let path = dir.join(NAME);
        let file = match disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                replace(disk, &path, b"")?;
                disk.open(&path)?
            }
            opened => opened?,
        };
        let bytes = read_all(&*file)?;
        let mut known = BTreeMap::new();
        let (mut damaged, mut lines, mut end) = (0, 0, 0);
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let is_whole = line.ends_with(b"\n");
            match std::str::from_utf8(line).ok().and_then(parse) {
                Some((key, cursor)) if is_whole => {
                    match cursor {
                        Some(cursor) => known.insert(key, cursor),
                        None => known.remove(&key),
                    };
                    lines += 1;
                }
                // Zeros, or a line that was cut off, at the end: nobody was told of that.
                _ if !is_whole => break,
                _ => damaged += 1,
            }
            end += line.len() as u64;
        }
        let mut cursors = Self {
            path,
            file,
            end,
            lines,
            is_torn: false,
            known,
        };
        if end < bytes.len() as u64 || damaged > 0 {
            // What stands there is no beginning of the next line.
            cursors.rewrite(disk)?;
        } else {
            // A process that was killed may have written what it had not synced.
            cursors.sync()?;
        }
        Ok((cursors, damaged))
    }

    /// All there are, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = (CursorKey, Cursor)> + '_ {
        self.known
            .iter()
            .map(|(key, cursor)| (key.clone(), *cursor))
    }

    /// All of a topic, in order.
    pub(crate) fn of<'a>(
        &'a self,
        topic: &'a str,
    ) -> impl Iterator<Item = (&'a CursorKey, Cursor)> + 'a {
        let of_it = move |(key, _): &(&CursorKey, &Cursor)| key.topic == topic;
        let all = self.known.iter().filter(of_it);
        all.map(|(key, cursor)| (key, *cursor))
    }

    /// Writes what has come about, `None`: it is forgotten. It is durable after [`Cursors::sync`].
    pub(crate) fn write(
        &mut self,
        disk: &dyn Disk,
        changes: &[(CursorKey, Option<Cursor>)],
    ) -> io::Result<()> {
        let text: String = changes
            .iter()
            .map(|(key, cursor)| line(key, *cursor))
            .collect();
        if self.is_torn {
            // Lines of an attempt that failed in the midst would stand behind shorter ones.
            self.rewrite(disk)?;
        }
        self.is_torn = true;
        self.file.write_at(text.as_bytes(), self.end)?;
        self.is_torn = false;
        self.end += text.len() as u64;
        self.lines += changes.len();
        for (key, cursor) in changes {
            match cursor {
                Some(cursor) => self.known.insert(key.clone(), *cursor),
                None => self.known.remove(key),
            };
        }
        if self.lines > STALE_LINES.max(STALE_TIMES * self.known.len()) {
            self.rewrite(disk)?;
        }
        Ok(())
    }

    /// # Errors
    /// What is durable is not known then.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn rewrite(&mut self, disk: &dyn Disk) -> io::Result<()> {
        let lines = self.known.iter();
        let text: String = lines
            .map(|(key, cursor)| line(key, Some(*cursor)))
            .collect();
        replace(disk, &self.path, text.as_bytes())?;
        self.file = disk.open(&self.path)?;
        self.end = text.len() as u64;
        self.is_torn = false;
        self.lines = self.known.len();
        Ok(())
    }
}

/// `CRC TOPIC GROUP PARTITION OFFSET DELIVERIES`; without the last two it is forgotten.
fn line(key: &CursorKey, cursor: Option<Cursor>) -> String {
    let CursorKey {
        topic,
        group,
        partition,
    } = key;
    let rest = match cursor {
        Some(Cursor { offset, deliveries }) => {
            format!("{topic} {group} {partition} {offset} {deliveries}")
        }
        None => format!("{topic} {group} {partition}"),
    };
    format!("{:08x} {rest}\n", crc32c::crc32c(rest.as_bytes()))
}

fn parse(line: &str) -> Option<(CursorKey, Option<Cursor>)> {
    let (sum, rest) = line.trim_end_matches('\n').split_once(' ')?;
    if sum.len() != 8 || u32::from_str_radix(sum, 16).ok()? != crc32c::crc32c(rest.as_bytes()) {
        return None;
    }
    let words: Vec<&str> = rest.split(' ').collect();
    let (key, cursor) = match words[..] {
        [topic, group, partition] => ((topic, group, partition), None),
        [topic, group, partition, offset, deliveries] => {
            let cursor = Cursor {
                offset: offset.parse().ok()?,
                deliveries: deliveries.parse().ok()?,
            };
            ((topic, group, partition), Some(cursor))
        }
        _ => return None,
    };
    let key = CursorKey {
        topic: key.0.to_owned(),
        group: key.1.to_owned(),
        partition: key.2.parse().ok()?,
    };
    Some((key, cursor))
}
