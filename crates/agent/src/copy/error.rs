//! Why a copy ended before its end. What concerns one entry only is a trouble, and the others go on.

use std::io;

use super::name::NameError;
use super::wire::WireError;

/// Why a whole copy failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The other end, or what leads to it, is gone; the stream's end says why.
    #[error("the other end left before the copy was over")]
    Left,
    /// The other end gave up and said why.
    #[error("the other end gave up: {0}")]
    Told(String),
    /// This end cannot go on: its disk is full, its target is gone. To be mended here.
    #[error("{path}: {error}")]
    Disk {
        /// With what.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The other end says what makes no sense: no farpipe, or a hostile one.
    #[error("the other end broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// This end broke.
    #[error("a thread of the copy failed: {0}")]
    Thread(String),
}

/// What the other end said that makes no sense. The peer's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Bytes that are no frames.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A frame that does not belong there.
    #[error("{0}")]
    Unexpected(&'static str),
    /// A file that was not asked for.
    #[error("it sent file {0}, which was not asked for")]
    NotWanted(u64),
    /// A source that was not asked for, or twice.
    #[error("it sent source {0}, which was not asked for")]
    NotASource(u32),
    /// More bytes of a file than it said, or fewer.
    #[error("a file of {said} bytes came with {came}")]
    Length {
        /// What was said.
        said: u64,
        /// What came, as far as it was looked at.
        came: u64,
    },
    /// Directories in directories, without end.
    #[error("directories lie deeper than {0}")]
    Deep(usize),
    /// More offers than may be open.
    #[error("more than {0} files were offered at once")]
    Offers(usize),
}

impl From<WireError> for CopyError {
    fn from(error: WireError) -> Self {
        Self::Protocol(error.into())
    }
}

/// Whether an error of the disk will meet the next file as well.
pub(crate) fn is_everybodys(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::StaleNetworkFileHandle
    ) || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    /// Row F5, the disks that no test can make everywhere.
    #[test]
    fn f5_a_quota_or_a_broken_disk_ends_a_copy_as_a_full_disk_does() {
        for errno in [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::IO,
            Errno::ROFS,
            Errno::STALE,
        ] {
            assert!(is_everybodys(&errno.into()), "{errno:?}");
        }
        // The next file may do.
        for errno in [Errno::ACCESS, Errno::FBIG, Errno::NAMETOOLONG, Errno::ISDIR] {
            assert!(!is_everybodys(&errno.into()), "{errno:?}");
        }
    }
}
