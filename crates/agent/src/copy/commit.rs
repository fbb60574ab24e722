//! Gives files that are whole their names: a thread of its own, so that receiving goes on while the disk
//! works. Files are synced before any of them is renamed, many at once where they are small, so that after
//! a crash a name has the old content or the new one, never a part of it; the renames themselves are on
//! disk when the copy says that it is done.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use farpipe_proto::limits::COPY_BATCH_MAX;
use rustix::fs::{AtFlags, Mode, OFlags};

use super::error::CopyError;
use super::folder::Folder;
use super::mark;
use super::message::Counts;
use super::out::Out;
use super::part::Whole;
use super::place::Base;
use super::tally::{Journal, Side};
use super::wire::Frame;
use crate::shown::shown;

/// Bundles of jobs that wait. Policy when full: receiving waits.
const BUNDLES_MAX: usize = 16;
/// Jobs in a bundle: a thread that is woken for each of them does little else.
pub(crate) const BUNDLE: usize = 64;
/// Bytes of files that are synced together.
const BATCH_BYTES: u64 = 256 * 1024 * 1024;
/// How long a whole file waits for others when nothing more comes.
const PATIENCE: Duration = Duration::from_millis(100);
/// Up to so many files are synced one by one: all of a file system may have much more to write.
const FEW: usize = 8;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Job {
    /// A file is whole.
    File(Arc<Folder>, Whole),
    /// An entry of this folder is settled in another way, or no more come.
    Settled(Arc<Folder>),
    /// A directory or a link was made on this device.
    Made(Arc<Folder>),
}

/// The way to the committer.
pub(crate) fn jobs() -> (SyncSender<Vec<Job>>, Receiver<Vec<Job>>) {
    sync_channel(BUNDLES_MAX)
}

pub(crate) struct Committer<'a> {
    base: &'a Base,
    out: Out,
    journal: Journal,
    files: Vec<(Arc<Folder>, Whole)>,
    bytes: u64,
    settled: Vec<Arc<Folder>>,
    /// Devices on which names were made that may not be on disk, and a directory there.
    dirty: HashMap<u64, Arc<Folder>>,
    counts: Counts,
}

impl<'a> Committer<'a> {
    pub(crate) fn new(base: &'a Base, out: Out, journal: Journal) -> Self {
        Self {
            base,
            out,
            journal,
            files: Vec::new(),
            bytes: 0,
            settled: Vec::new(),
            dirty: HashMap::new(),
            counts: Counts::default(),
        }
    }

    /// Works until there are no more jobs, and says what it has made.
    pub(crate) fn run(mut self, jobs: &Receiver<Vec<Job>>) -> Result<Counts, CopyError> {
        loop {
            match jobs.recv_timeout(PATIENCE) {
                Ok(bundle) => {
                    bundle.into_iter().for_each(|job| self.take(job));
                    if self.files.len() >= COPY_BATCH_MAX || self.bytes >= BATCH_BYTES {
                        self.commit()?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.commit()?,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.commit()?;
        for folder in std::mem::take(&mut self.dirty).into_values() {
            let synced = match self.base.directory(&folder.path) {
                Ok(dir) => sync_all(&dir),
                // It is gone, and its names with it, but not the others of the file system.
                Err(_) => sync_all(&self.base.fd),
            };
            synced.map_err(|error| self.failed(&folder, error))?;
        }
        Ok(self.counts)
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::File(folder, whole) => {
                self.bytes += whole.bytes - whole.kept;
                self.files.push((folder, whole));
            }
            Job::Settled(folder) => self.settled.push(folder),
            Job::Made(folder) => {
                self.dirty.entry(folder.device).or_insert(folder);
            }
        }
    }

    /// Names all files that are whole.
    fn commit(&mut self) -> Result<(), CopyError> {
        let files = std::mem::take(&mut self.files);
        self.bytes = 0;
        let is_few = files.len() <= FEW || !cfg!(target_os = "linux");
        self.sync(&files, is_few)?;
        let any = !files.is_empty();
        let mut folders = Folders::default();
        for (folder, whole) in files {
            let before = folders.current();
            if is_few && before.is_some_and(|before| !Arc::ptr_eq(before, &folder)) {
                folders
                    .sync()
                    .map_err(|error| self.failed(&folder, error))?;
            }
            self.name(&mut folders, &folder, whole);
            if !is_few {
                self.dirty
                    .entry(folder.device)
                    .or_insert_with(|| Arc::clone(&folder));
            }
            self.settled.push(folder);
        }
        if is_few && let Some(folder) = folders.current().cloned() {
            folders
                .sync()
                .map_err(|error| self.failed(&folder, error))?;
        }
        drop(folders);
        for folder in std::mem::take(&mut self.settled) {
            self.settle(folder);
        }
        if any {
            self.out.frame(&Frame::Saved(self.counts))?;
            self.out.flush()?;
        }
        Ok(())
    }

    /// The content of all of them is on disk.
    fn sync(&self, files: &[(Arc<Folder>, Whole)], is_few: bool) -> Result<(), CopyError> {
        let mut devices: HashMap<u64, &Arc<Folder>> = HashMap::new();
        let mut folders = Folders::default();
        for (folder, whole) in files {
            let synced = match &whole.file {
                Some(file) => file.sync_data(),
                None if is_few => folders.open(self.base, folder).and_then(|dir| {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    match rustix::fs::openat(dir, &whole.part[..], flags, Mode::empty()) {
                        Ok(fd) => File::from(fd).sync_data(),
                        // Its mode lets nobody open it, or somebody removed it: its naming tells.
                        Err(_) => sync_all(dir),
                    }
                }),
                None => {
                    devices.entry(folder.device).or_insert(folder);
                    Ok(())
                }
            };
            synced.map_err(|error| self.failed(folder, error))?;
        }
        for folder in devices.into_values() {
            let dir = folders.open(self.base, folder);
            let synced = dir.and_then(sync_all);
            synced.map_err(|error| self.failed(folder, error))?;
        }
        Ok(())
    }

    fn name(&mut self, folders: &mut Folders, folder: &Arc<Folder>, whole: Whole) {
        let named = folders
            .open(self.base, folder)
            .and_then(|dir| rename(dir, &whole));
        let path = || folder.shown(&self.base.path, whole.name.as_os_str().as_encoded_bytes());
        match named {
            Ok(()) => {
                self.counts.files += 1;
                self.counts.bytes += whole.bytes;
                self.counts.kept += whole.kept;
                tracing::trace!("{} is in its place", shown(&path()));
            }
            Err(error) => {
                let trouble = self
                    .journal
                    .trouble(Side::Receiving, path(), error.to_string());
                // If that cannot be said, nothing can, and the next one finds out.
                let _ = self.out.frame(&Frame::Trouble(trouble));
            }
        }
    }

    /// An entry of `folder` is settled; if it was the last, the folder is, too.
    fn settle(&mut self, folder: Arc<Folder>) {
        let mut settled = Some(folder);
        while let Some(folder) = settled.take_if(|folder| folder.settle_one()) {
            if let Some(meta) = &folder.meta {
                let dir = self.base.directory(&folder.path);
                let applied = dir.and_then(|dir| {
                    if folder.is_marked {
                        mark::remove(&dir)?;
                    }
                    Ok(meta.apply_to_directory(dir)?)
                });
                if let Err(error) = applied {
                    let path = folder.shown(&self.base.path, b"");
                    let message = format!("its mode and time could not be set: {error}");
                    let trouble = self.journal.trouble(Side::Receiving, path, message);
                    let _ = self.out.frame(&Frame::Trouble(trouble));
                }
            }
            settled = folder.parent.clone();
        }
    }

    fn failed(&self, folder: &Folder, error: io::Error) -> CopyError {
        CopyError::Disk {
            path: shown(&folder.shown(&self.base.path, b"")),
            error,
        }
    }
}

/// Gives a file its name, if its part is still the one that was written.
fn rename(dir: &OwnedFd, whole: &Whole) -> io::Result<()> {
    let stat = rustix::fs::statat(dir, &whole.part[..], AtFlags::SYMLINK_NOFOLLOW);
    if !stat.is_ok_and(|stat| stat.st_ino == whole.inode) {
        return Err(io::Error::other("another copy of it came between"));
    }
    let name = whole.name.as_os_str();
    rustix::fs::renameat(dir, &whole.part[..], dir, name)?;
    if whole.file.is_some() {
        // Without it a part is worth nothing; with it and no part there is nothing to go on with.
        let _ = rustix::fs::unlinkat(dir, &whole.name.sums()[..], AtFlags::empty());
    }
    for stale in &whole.stale {
        let now = rustix::fs::statat(dir, &stale.name[..], AtFlags::SYMLINK_NOFOLLOW);
        if now.is_ok_and(|now| now.st_ino == stale.inode) {
            let _ = rustix::fs::unlinkat(dir, &stale.name[..], AtFlags::empty());
        }
    }
    Ok(())
}

/// All of the file system that `dir` is on, where that can be asked for.
#[cfg(target_os = "linux")]
fn sync_all(dir: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(dir)?)
}
#[cfg(not(target_os = "linux"))]
fn sync_all(dir: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::fsync(dir)?)
}

/// The folder that is open: files of one come behind one another.
#[derive(Debug, Default)]
struct Folders(Option<(Arc<Folder>, OwnedFd)>);

impl Folders {
    fn current(&self) -> Option<&Arc<Folder>> {
        self.0.as_ref().map(|(folder, _)| folder)
    }

    fn open(&mut self, base: &Base, folder: &Arc<Folder>) -> io::Result<&OwnedFd> {
        let is_it = self.current().is_some_and(|open| Arc::ptr_eq(open, folder));
        let open = match self.0.take().filter(|_| is_it) {
            Some(open) => open,
            None => (Arc::clone(folder), base.directory(&folder.path)?),
        };
        Ok(&self.0.insert(open).1)
    }

    /// The names in it are on disk.
    fn sync(&self) -> io::Result<()> {
        match &self.0 {
            Some((_, dir)) => Ok(rustix::fs::fsync(dir)?),
            None => Ok(()),
        }
    }
}
