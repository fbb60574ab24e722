//! A disk whose power can be cut at any operation. What was written and not synced survives in any part: each sector of 512
//! bytes as it was or as it was written, each entry of a directory with its change or without.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Disk, DiskFile};

const SECTOR: usize = 512;

/// Content: as it is seen, and as it is on the disk for sure.
#[derive(Debug, Clone, Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    /// Entries as they are seen, and as they are on the disk for sure; by number, so that a renamed file is the same.
    seen: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    dirs: Vec<PathBuf>,
    files: Vec<Content>,
    operations: u64,
    faults: Faults,
    random: u64,
}

/// What goes wrong, by the number of the operation.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// From this operation on nothing is done any more.
    pub(crate) cut_at: Option<u64>,
    /// Writes from this one on find no room, and write a half.
    pub(crate) full_at: Option<u64>,
    /// So many of them.
    pub(crate) full_for: u64,
    /// This sync fails.
    pub(crate) sync_fails_at: Option<u64>,
    /// Syncs of files do nothing, and say that they did: the control that must fail.
    pub(crate) lies: bool,
}

/// The disk; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        let disk = Self::default();
        disk.with(|state| state.random = seed | 1);
        disk
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set(&self, faults: Faults) {
        self.with(|state| state.faults = faults);
    }

    pub(crate) fn operations(&self) -> u64 {
        self.with(|state| state.operations)
    }

    /// What a new start finds after a loss of power.
    pub(crate) fn after_power_cut(&self) -> Self {
        self.with(|state| {
            let mut files = Vec::new();
            for at in 0..state.files.len() {
                let Content { seen, mut durable } = state.files[at].clone();
                // Its length is as it was, or as it became, and then any sector is old, new, or nothing.
                if seen.len() > durable.len() && state.toss() {
                    durable.resize(seen.len(), 0);
                }
                for from in (0..durable.len().min(seen.len())).step_by(SECTOR) {
                    let to = (from + SECTOR).min(durable.len()).min(seen.len());
                    if state.toss() {
                        durable[from..to].copy_from_slice(&seen[from..to]);
                    }
                }
                files.push(Content {
                    seen: durable.clone(),
                    durable,
                });
            }
            let mut entries = state.durable.clone();
            let changed: Vec<PathBuf> = state
                .seen
                .keys()
                .chain(state.durable.keys())
                .filter(|path| state.seen.get(*path) != state.durable.get(*path))
                .cloned()
                .collect();
            for path in changed {
                if state.toss() {
                    match state.seen.get(&path) {
                        Some(&file) => entries.insert(path, file),
                        None => entries.remove(&path),
                    };
                }
            }
            let random = state.next();
            Self(Arc::new(Mutex::new(State {
                seen: entries.clone(),
                durable: entries,
                dirs: state.dirs.clone(),
                files,
                random: random | 1,
                ..State::default()
            })))
        })
    }

    /// Changes one bit of a file, both as it is seen and as it is on the disk.
    pub(crate) fn flip(&self, path: &Path, bit: u64) {
        self.with(|state| {
            let file = state.seen[path];
            let content = &mut state.files[file];
            let (at, mask) = ((bit / 8) as usize, 1 << (bit % 8));
            // What was never synced may have become shorter.
            for bytes in [&mut content.seen, &mut content.durable] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= mask;
                }
            }
        });
    }

    pub(crate) fn files(&self) -> Vec<(PathBuf, u64)> {
        self.with(|state| {
            let length = |(path, &file): (&PathBuf, &usize)| {
                (path.clone(), state.files[file].seen.len() as u64)
            };
            state.seen.iter().map(length).collect()
        })
    }
}

fn cut() -> io::Error {
    io::Error::other("the power is gone")
}

impl State {
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn toss(&mut self) -> bool {
        self.next() >> 20 & 1 == 1
    }

    /// One more operation.
    fn begin(&mut self) -> io::Result<u64> {
        let number = self.operations;
        self.operations += 1;
        match self.faults.cut_at {
            Some(at) if number >= at => Err(cut()),
            _ => Ok(number),
        }
    }

    fn is_full(&self, number: u64) -> bool {
        let Faults {
            full_at, full_for, ..
        } = self.faults;
        full_at.is_some_and(|at| (at..at + full_for).contains(&number))
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.with(|state| {
            let number = state.begin()?;
            if state.is_full(number) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if state.seen.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.files.push(Content::default());
            let file = state.files.len() - 1;
            state.seen.insert(path.to_owned(), file);
            Ok::<_, io::Error>(file)
        })?;
        let disk = Arc::downgrade(&self.0);
        Ok(Arc::new(SimFile { disk, file }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.with(|state| state.seen.get(path).copied());
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        let disk = Arc::downgrade(&self.0);
        Ok(Arc::new(SimFile { disk, file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.with(|state| {
            state.begin()?;
            let file = state.seen.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.seen.insert(to.to_owned(), file);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.with(|state| {
            state.begin()?;
            if let Some(at) = state.dirs.iter().position(|dir| dir == path) {
                state.dirs.remove(at);
                return Ok(());
            }
            let removed = state.seen.remove(path);
            removed
                .map(|_| ())
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.with(|state| {
            state.begin()?;
            if !state.dirs.iter().any(|dir| dir == path) {
                state.dirs.push(path.to_owned());
            }
            Ok(())
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.with(|state| {
            let all = state.seen.keys().chain(&state.dirs);
            let inside = all.filter(|entry| entry.parent() == Some(path));
            let name = |entry: &PathBuf| Some(entry.file_name()?.to_str()?.to_owned());
            let mut names: Vec<String> = inside.filter_map(name).collect();
            names.sort();
            Ok(names)
        })
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.with(|state| state.dirs.iter().any(|dir| dir == path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.with(|state| {
            state.begin()?;
            let is_in = |entry: &Path| entry.parent() == Some(path);
            state.durable.retain(|entry, _| !is_in(entry));
            let here = state.seen.iter().filter(|(entry, _)| is_in(entry));
            let here: Vec<(PathBuf, usize)> =
                here.map(|(entry, &file)| (entry.clone(), file)).collect();
            state.durable.extend(here);
            Ok(())
        })
    }
}

#[derive(Debug)]
struct SimFile {
    disk: Weak<Mutex<State>>,
    file: usize,
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut State, usize) -> io::Result<T>) -> io::Result<T> {
        let state = self.disk.upgrade().ok_or_else(cut)?;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut state, self.file)
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|state, file| {
            let seen = &state.files[file].seen;
            let from = (offset as usize).min(seen.len());
            let n = into.len().min(seen.len() - from);
            into[..n].copy_from_slice(&seen[from..from + n]);
            Ok(n)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|state, file| {
            let cut_now = state.faults.cut_at == Some(state.operations);
            let number = match state.begin() {
                Ok(number) => number,
                // Some of what is being written when the power goes may arrive.
                Err(_) if cut_now => u64::MAX,
                Err(error) => return Err(error),
            };
            let is_full = number != u64::MAX && state.is_full(number);
            let bytes = if is_full {
                &bytes[..bytes.len() / 2]
            } else {
                bytes
            };
            let seen = &mut state.files[file].seen;
            let (from, to) = (offset as usize, offset as usize + bytes.len());
            if seen.len() < to {
                seen.resize(to, 0);
            }
            seen[from..to].copy_from_slice(bytes);
            match (number, is_full) {
                (u64::MAX, _) => Err(cut()),
                (_, true) => Err(io::ErrorKind::StorageFull.into()),
                (_, false) => Ok(()),
            }
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state, file| {
            let number = state.begin()?;
            if state.faults.lies {
                return Ok(());
            }
            if state.faults.sync_fails_at == Some(number) {
                // What was not written is forgotten, though it is still seen.
                return Err(io::Error::other("an input/output error"));
            }
            let content = &mut state.files[file];
            content.durable = content.seen.clone();
            Ok(())
        })
    }

    fn length(&self) -> io::Result<u64> {
        self.with(|state, file| Ok(state.files[file].seen.len() as u64))
    }
}
