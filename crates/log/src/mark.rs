//! Up to where a partition was on the disk: written behind each sync, and synced by nobody. So it may be late, and is never early; it
//! tells what was damaged at the end of a log from a write that was cut off.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, read_all};

/// The name of the file.
pub(crate) const NAME: &str = "mark";

/// The file of a partition.
#[derive(Debug)]
pub(crate) struct Mark(Arc<dyn DiskFile>);

impl Mark {
    /// The file, and what it says; 0 if there is none, or it is damaged.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path) -> io::Result<(Self, u64)> {
        let path = dir.join(NAME);
        let file = match disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(&path)?,
            opened => opened?,
        };
        let content = read_all(&*file)?;
        let mark = Self(file);
        if content.is_empty() {
            // Its place on the disk is its own from here on: else a file system that does not order data may show in it what lay there
            // before, which may be a mark of a log that was removed.
            mark.set(0);
            mark.0.sync()?;
        }
        Ok((mark, parse(&content).unwrap_or(0)))
    }

    /// All before `offset` is on the disk.
    pub(crate) fn set(&self, offset: u64) {
        let number = offset.to_be_bytes();
        let sum = crc32c::crc32c(&number).to_be_bytes();
        if let Err(error) = self.0.write_at(&[&number[..], &sum].concat(), 0) {
            // An older one is as true.
            tracing::debug!("cannot write a mark: {error}");
        }
    }
}

/// What the bytes of the file say; `None`: they are damaged.
pub(crate) fn parse(bytes: &[u8]) -> Option<u64> {
    let (number, sum) = bytes.split_first_chunk::<8>()?;
    let sum = u32::from_be_bytes(*sum.first_chunk::<4>()?);
    (crc32c::crc32c(number) == sum).then_some(u64::from_be_bytes(*number))
}
