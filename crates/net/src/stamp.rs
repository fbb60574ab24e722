//! Whether a file is still the one that was read: a few numbers from one `stat`.
//!
//! Asked whenever the content is used: a watcher would be a task more that can miss changes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What shows that a file is another than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileStamp {
    /// It is there.
    File {
        /// The file system.
        device: u64,
        /// The file on it: a file that replaced another has a number of its own.
        inode: u64,
        /// Bytes.
        len: u64,
        /// When its content changed: seconds, nanoseconds.
        modified: (i64, i64),
        /// Changes with the mode, too.
        changed: (i64, i64),
    },
    /// It is not, or cannot be looked at.
    Failed(io::ErrorKind),
}

impl FileStamp {
    /// Of the file at a path, now. Blocks on the disk for a moment.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(meta) => Self::File {
                device: meta.dev(),
                inode: meta.ino(),
                len: meta.len(),
                modified: (meta.mtime(), meta.mtime_nsec()),
                changed: (meta.ctime(), meta.ctime_nsec()),
            },
            Err(error) => Self::Failed(error.kind()),
        }
    }
}
