//! Which file it is that has a name now. A number of a file system is used again soon; so a file is told
//! by the time when it was made as well, where that is known, and by its last bytes (`generation.rs`).

use std::fs::File;
use std::io;
use std::path::Path;

use farpipe_proto::wire::tail::TailFile;

/// What is known of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) file: TailFile,
    pub(super) size: u64,
    /// When it was written last, in nanoseconds since 1970.
    pub(super) written_ns: u64,
    /// How many names it has.
    pub(super) names: u64,
    /// Whether it can grow and be read again.
    pub(super) is_regular: bool,
}

/// Whether two are the same, as far as their file systems say.
pub(super) fn is_same(one: &TailFile, other: &TailFile) -> bool {
    let born_differs = one.born_ns != other.born_ns && one.born_ns != 0 && other.born_ns != 0;
    one.device == other.device && one.inode == other.inode && !born_differs
}

/// Whether one was certainly made after another.
pub(super) fn is_born_later(one: &Seen, other: &Seen) -> bool {
    other.file.born_ns != 0 && one.file.born_ns > other.file.born_ns
}

/// The file that a path leads to, links and all. Blocks on the disk for a moment.
pub(super) fn at(path: &Path) -> io::Result<Seen> {
    system::at(path)
}

/// An open one.
pub(super) fn of(file: &File) -> io::Result<Seen> {
    system::of(file)
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    use farpipe_proto::wire::tail::TailFile;
    use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags, StatxTimestamp, statx};

    use super::Seen;

    pub(super) fn at(path: &Path) -> io::Result<Seen> {
        Ok(seen(&statx(CWD, path, AtFlags::empty(), wanted())?))
    }

    pub(super) fn of(file: &File) -> io::Result<Seen> {
        Ok(seen(&statx(file, c"", AtFlags::EMPTY_PATH, wanted())?))
    }

    fn wanted() -> StatxFlags {
        StatxFlags::BASIC_STATS | StatxFlags::BTIME
    }

    fn seen(stat: &Statx) -> Seen {
        let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let device = u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor);
        let file_type = FileType::from_raw_mode(stat.stx_mode.into());
        Seen {
            file: TailFile {
                device,
                inode: stat.stx_ino,
                born_ns: if has_birth { nanos(&stat.stx_btime) } else { 0 },
            },
            size: stat.stx_size,
            written_ns: nanos(&stat.stx_mtime),
            names: stat.stx_nlink.into(),
            is_regular: file_type == FileType::RegularFile,
        }
    }

    fn nanos(time: &StatxTimestamp) -> u64 {
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(time.tv_nsec.into())
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::fs::{File, Metadata};
    use std::io;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;
    use std::time::{SystemTime, UNIX_EPOCH};

    use farpipe_proto::wire::tail::TailFile;

    use super::Seen;

    pub(super) fn at(path: &Path) -> io::Result<Seen> {
        Ok(seen(&path.metadata()?))
    }

    pub(super) fn of(file: &File) -> io::Result<Seen> {
        Ok(seen(&file.metadata()?))
    }

    fn seen(meta: &Metadata) -> Seen {
        Seen {
            file: TailFile {
                device: meta.dev(),
                inode: meta.ino(),
                born_ns: meta.created().map_or(0, nanos),
            },
            size: meta.len(),
            written_ns: meta.modified().map_or(0, nanos),
            names: meta.nlink(),
            is_regular: meta.is_file(),
        }
    }

    fn nanos(time: SystemTime) -> u64 {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}
