//! Puts right what can be put right of a log that nobody has open: for `farpipe log repair`. Nothing that is whole is touched, and
//! what cannot be mended stays as it is: its readers go on to hear which offsets are missing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use farpipe_record::{Bit, Mended, mended};

use crate::disk::real::RealDisk;
use crate::disk::{Disk as _, read_full, replace};
use crate::inspect::{At as _, Fault, InspectError, inspect, names};
use crate::mark::{NAME as MARK, parse as parse_mark};
use crate::segment::{Damage, base_of, path as segment_path};
use crate::settings::Settings;
use crate::store::SETTINGS;

/// What was put right, or cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repaired {
    /// A batch had one bit that had flipped.
    Bit {
        /// The segment.
        path: PathBuf,
        /// The byte of it.
        at: u64,
        /// The first offset of the batch.
        from: u64,
        /// The one behind its last.
        to: u64,
    },
    /// A topic's settings were damaged or gone: it has as many partitions as directories, and is kept on the disk, for good.
    Settings {
        /// The file.
        path: PathBuf,
        /// Partitions.
        partitions: u32,
    },
    /// A partition had no segment any more: it goes on, empty, behind what it had.
    Segment {
        /// The new one.
        path: PathBuf,
        /// The offset that comes next: those before it are lost.
        next: u64,
    },
    /// What groups had done was gone: they begin anew.
    Groups {
        /// The file.
        path: PathBuf,
    },
    /// Records that cannot be had any more.
    Lost {
        /// The segment.
        path: PathBuf,
        /// Which.
        fault: Fault,
    },
}

impl Repaired {
    /// Whether it was put right.
    #[must_use]
    pub fn is_mended(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::Groups { .. } => false,
            Self::Segment { next, .. } => *next == 0,
            Self::Bit { .. } | Self::Settings { .. } => true,
        }
    }
}

impl std::fmt::Display for Repaired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bit { path, at, from, to } => write!(
                f,
                "{}: offsets {from} to {} are whole again: one bit of byte {at} had flipped",
                path.display(),
                to.saturating_sub(1)
            ),
            Self::Settings { path, partitions } => write!(
                f,
                "{}: written anew for {partitions} partitions, all else by default: look at farpipe topic describe",
                path.display()
            ),
            Self::Segment { path, next } => write!(
                f,
                "{}: made, empty, for offset {next} and on: there was no segment, and what it had is lost",
                path.display()
            ),
            Self::Groups { path } => write!(
                f,
                "{}: made, empty: each group begins anew, see farpipe topic reset",
                path.display()
            ),
            Self::Lost { path, fault } => write!(f, "{}: {fault}, beyond repair", path.display()),
        }
    }
}

/// Puts right what can be, of a log that no process has open. Each change is synced before it is told. Reads every byte.
///
/// # Errors
/// Another process has it ([`io::ErrorKind::ResourceBusy`]), it is no log, or the disk fails.
pub fn repair(dir: &Path) -> Result<Vec<Repaired>, InspectError> {
    let topics = dir.join("topics");
    let known = names(&topics).at(&topics)?;
    let disk = RealDisk::take(dir).at(dir)?;
    let mut done = Vec::new();
    let groups = dir.join(crate::cursors::NAME);
    if !known.is_empty() && !groups.exists() {
        replace(&disk, &groups, b"").at(&groups)?;
        done.push(Repaired::Groups { path: groups });
    }
    for dir in known.iter().map(|name| topics.join(name)) {
        done.extend(settings(&disk, &dir)?);
        done.extend(segments(&disk, &dir)?);
    }
    for partition in inspect(dir)? {
        for (path, fault) in partition.faults {
            match fault {
                Fault::Damaged(damage) => bits(&path, damage, &mut done).at(&path)?,
                Fault::Missing { .. } => done.push(Repaired::Lost { path, fault }),
                // Opening the log takes it away.
                Fault::Torn { .. } => {}
            }
        }
    }
    Ok(done)
}

/// The directories of a topic's partitions, as far as they are counted without a gap.
fn partitions(dir: &Path) -> u32 {
    let is_there = |number: &u32| dir.join(number.to_string()).is_dir();
    u32::try_from((0..).take_while(is_there).count()).unwrap_or(u32::MAX)
}

/// Writes settings anew, if they are damaged, or missing where there are records.
fn settings(disk: &RealDisk, dir: &Path) -> Result<Option<Repaired>, InspectError> {
    let path = dir.join(SETTINGS);
    let partitions = partitions(dir);
    let is_lost = match std::fs::read(&path) {
        Ok(bytes) => Settings::from_bytes(&bytes).is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => has_records(dir).at(dir)?,
        Err(error) => return Err(error).at(&path),
    };
    if !is_lost || partitions == 0 || dir.join(crate::store::REMOVED).exists() {
        return Ok(None);
    }
    let settings = Settings {
        partitions,
        ..Settings::default()
    };
    replace(disk, &path, &settings.to_bytes()).at(&path)?;
    Ok(Some(Repaired::Settings { path, partitions }))
}

pub(crate) fn has_records(dir: &Path) -> io::Result<bool> {
    for number in 0..partitions(dir) {
        let dir = dir.join(number.to_string());
        for name in names(&dir)? {
            // A segment of a topic that was begun is empty.
            let is_segment = base_of(&name).is_some();
            if is_segment && std::fs::metadata(dir.join(name))?.len() > 0 {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Makes a segment in each partition that has none, behind what its mark knows of.
fn segments(disk: &RealDisk, dir: &Path) -> Result<Vec<Repaired>, InspectError> {
    let mut made = Vec::new();
    if !dir.join(SETTINGS).exists() {
        return Ok(made);
    }
    for number in 0..partitions(dir) {
        let dir = dir.join(number.to_string());
        if names(&dir)
            .at(&dir)?
            .iter()
            .any(|name| base_of(name).is_some())
        {
            continue;
        }
        let mark = std::fs::read(dir.join(MARK)).unwrap_or_default();
        let next = parse_mark(&mark).unwrap_or(0);
        let path = segment_path(&dir, next);
        disk.create(&path).at(&path)?;
        disk.sync_dir(&dir).at(&dir)?;
        made.push(Repaired::Segment { path, next });
    }
    Ok(made)
}

/// Goes through damaged bytes, batch by batch.
fn bits(path: &Path, damage: Damage, done: &mut Vec<Repaired>) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut bytes = vec![0; usize::try_from(damage.len).map_err(io::Error::other)?];
    let read = read_full(&file, &mut bytes, damage.at)?;
    bytes.truncate(read);
    let bytes = Bytes::from(bytes);
    let lost = |at: usize, len: u64, from: u64, to: u64| {
        let at = damage.at + at as u64;
        let fault = Fault::Damaged(Damage { at, len, from, to });
        let path = path.to_owned();
        Repaired::Lost { path, fault }
    };
    let (mut at, mut next) = (0, damage.from);
    if bytes.is_empty() {
        done.push(lost(0, 0, damage.from, damage.to));
    }
    while at < bytes.len() {
        match mended(&bytes.slice(at..)) {
            Mended::Batch(batch, bit) if batch.header().base_offset == next => {
                write_bit(&file, &bytes, damage.at, at, bit)?;
                let to = batch.header().end_offset();
                done.push(Repaired::Bit {
                    path: path.to_owned(),
                    at: damage.at + (at + bit.at) as u64,
                    from: next,
                    to,
                });
                (at, next) = (at + batch.bytes().len(), to);
            }
            // Behind it there may be one that can be mended; how many records it had, its header says.
            Mended::Records { length, count } => {
                let to = next + u64::from(count);
                done.push(lost(at, length as u64, next, to));
                (at, next) = (at + length, to);
            }
            Mended::Batch(..) | Mended::Unknown => {
                done.push(lost(at, (bytes.len() - at) as u64, next, damage.to));
                break;
            }
        }
    }
    Ok(())
}

fn write_bit(file: &File, bytes: &[u8], from: u64, at: usize, bit: Bit) -> io::Result<()> {
    let byte = bytes[at + bit.at] ^ bit.mask;
    file.write_all_at(&[byte], from + (at + bit.at) as u64)?;
    file.sync_data()
}
