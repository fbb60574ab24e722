//! A file for what readers lack that are far behind: a ring by offsets, as the window is. It has no
//! name, and goes with the process.
//!
//! Files can neither be waited for nor read without blocking: threads of the runtime do it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::Arc;

use tokio::task::{JoinHandle, spawn_blocking};

/// Names tried before it is given up.
const TRIES: u32 = 16;

/// The file.
#[derive(Debug)]
pub(super) struct Spool {
    file: Arc<File>,
    size: u64,
}

impl Spool {
    /// A file of `size` bytes at most, at least 1, in `$TMPDIR`.
    ///
    /// # Errors
    /// It cannot be made there.
    pub(super) fn new(size: u64) -> io::Result<Self> {
        let dir = std::env::temp_dir();
        let mut tries = 0;
        loop {
            let mut random = [0; 8];
            farpipe_net::system_random(&mut random);
            let name = format!("farpipe-spool-{:016x}", u64::from_ne_bytes(random));
            let path = dir.join(name);
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            match options.open(&path) {
                Ok(file) => {
                    fs::remove_file(&path)?;
                    let file = Arc::new(file);
                    return Ok(Self { file, size });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => {
                    tries += 1;
                }
                Err(error) => {
                    let dir = dir.display();
                    return Err(io::Error::new(
                        error.kind(),
                        format!("a file in {dir}: {error}"),
                    ));
                }
            }
        }
    }

    /// Writes what begins at `offset`, over what was there one ring before.
    ///
    /// # Cancellation
    /// Dropping it leaves a part of it unwritten.
    pub(super) async fn write(&self, offset: u64, bytes: Vec<u8>) -> io::Result<()> {
        let (file, size) = (Arc::clone(&self.file), self.size);
        let writing = spawn_blocking(move || {
            let (now, later) = split(offset, bytes.len(), size);
            file.write_all_at(&bytes[..now], offset % size)?;
            match later {
                true => file.write_all_at(&bytes[now..], 0),
                false => Ok(()),
            }
        });
        let written = writing
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|error| io::Error::new(error.kind(), format!("cannot spool: {error}")))
    }

    /// Reads `len` bytes from `offset` on, all of which are there, or as many as lie together.
    pub(super) fn read(&self, offset: u64, len: usize) -> JoinHandle<io::Result<Vec<u8>>> {
        let (file, size) = (Arc::clone(&self.file), self.size);
        spawn_blocking(move || {
            let (now, _) = split(offset, len, size);
            let mut bytes = vec![0; now];
            file.read_exact_at(&mut bytes, offset % size)?;
            Ok(bytes)
        })
    }
}

/// How many of `len` bytes lie before the seam, and whether there are more.
fn split(offset: u64, len: usize, size: u64) -> (usize, bool) {
    let before = size - offset % size;
    let now = usize::try_from(before).unwrap_or(len).min(len);
    (now, now < len)
}
