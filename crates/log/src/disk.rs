//! What the log needs of a disk. Everything that it keeps goes through here, so that tests can take the power away at any
//! moment (`sim`).

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub(crate) mod real;
#[cfg(test)]
pub(crate) mod sim;

/// Directories and their entries. An entry that was made, renamed or removed is durable after [`Disk::sync_dir`].
pub(crate) trait Disk: Debug + Send + Sync {
    /// Makes a file that is not there yet.
    ///
    /// # Errors
    /// As the system says; no room is [`io::ErrorKind::StorageFull`].
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file to read it, and to write it.
    ///
    /// # Errors
    /// As the system says.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name, in the place of whatever has that.
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file, or a directory that is empty.
    ///
    /// # Errors
    /// As the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory; one that is there is no error.
    ///
    /// # Errors
    /// As the system says.
    fn make_dir(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// As the system says.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Whether it is a directory.
    fn is_dir(&self, path: &Path) -> bool;

    /// Makes the entries of a directory durable.
    ///
    /// # Errors
    /// As the system says: what is durable is not known then.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// An open file.
pub(crate) trait DiskFile: Debug + Send + Sync {
    /// Fills as much of `into` as there is from `offset` on.
    ///
    /// # Errors
    /// As the system says.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of it there, beyond the end as well.
    ///
    /// # Errors
    /// As the system says; any part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// As the system says. What was written since the last time may be lost then, and asking again says nothing of that: the
    /// system has forgotten that it was not written.
    fn sync(&self) -> io::Result<()>;

    /// Its length in bytes.
    ///
    /// # Errors
    /// As the system says.
    fn length(&self) -> io::Result<u64>;
}

/// All of a file.
///
/// # Errors
/// As the system says.
pub(crate) fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.length()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    let read = read_full(file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Fills `into` unless the file ends before.
///
/// # Errors
/// As the system says.
pub(crate) fn read_full(file: &dyn DiskFile, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], offset + filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

/// Writes a file as a whole: there is the old one, or this, whatever happens.
///
/// # Errors
/// As the system says.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // Of an attempt that was cut off.
    match disk.remove(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let file = disk.create(&new)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    disk.rename(&new, path)?;
    disk.sync_dir(path.parent().unwrap_or(path))
}

/// Whether it is only for want of room, or of descriptors, so that a later attempt may succeed.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use rustix::io::Errno;

    let number = error.raw_os_error();
    let is = |errno: Errno| number == Some(errno.raw_os_error());
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    ) || is(Errno::MFILE)
        || is(Errno::NFILE)
}
