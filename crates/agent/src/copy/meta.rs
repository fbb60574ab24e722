//! What is kept of an entry beside its content: permission bits and the time of its last change.

use std::os::fd::AsFd;

use rustix::fs::{Mode, Stat, Timespec, Timestamps, UTIME_OMIT};

use super::message::{Entry, Meta};

/// What a file's permission bits may be: neither setuid nor setgid nor sticky, which mean something else
/// where the owner is another.
const FILE_BITS: u32 = 0o777;
/// What those of a directory may be.
const DIRECTORY_BITS: u32 = 0o1777;

impl Meta {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            mode: (stat.st_mode & 0o7777) as _,
            seconds: stat.st_mtime as _,
            nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            inode: stat.st_ino,
        }
    }

    /// What an offer says.
    pub(crate) fn offered(entry: &Entry) -> Self {
        Self {
            mode: entry.mode,
            seconds: entry.seconds,
            nanos: entry.nanos,
            size: entry.size,
            inode: entry.inode,
        }
    }

    /// An entry that is this.
    pub(crate) fn entry(self, name: &[u8]) -> Entry {
        Entry {
            name: name.to_vec(),
            mode: self.mode,
            seconds: self.seconds,
            nanos: self.nanos,
            size: self.size,
            inode: self.inode,
            target: Vec::new(),
        }
    }

    /// Whether two files are the same as far as can be told without reading them.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.size == other.size && self.seconds == other.seconds && self.nanos == other.nanos
    }

    /// The bits that a file made here gets.
    pub(crate) fn file_mode(&self) -> Mode {
        Mode::from_raw_mode((self.mode & FILE_BITS) as _)
    }

    /// The bits that a directory made here gets.
    pub(crate) fn directory_mode(&self) -> Mode {
        Mode::from_raw_mode((self.mode & DIRECTORY_BITS) as _)
    }

    /// The time of the last change; that of the last access stays.
    pub(crate) fn times(&self) -> Timestamps {
        Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: self.seconds,
                // A peer may say anything.
                tv_nsec: i64::from(self.nanos.min(999_999_999)) as _,
            },
        }
    }

    /// Gives them to an open file.
    pub(crate) fn apply_to_file(&self, file: impl AsFd) -> rustix::io::Result<()> {
        rustix::fs::fchmod(&file, self.file_mode())?;
        rustix::fs::futimens(&file, &self.times())
    }

    /// Gives them to an open directory.
    pub(crate) fn apply_to_directory(&self, dir: impl AsFd) -> rustix::io::Result<()> {
        rustix::fs::fchmod(&dir, self.directory_mode())?;
        rustix::fs::futimens(&dir, &self.times())
    }
}
