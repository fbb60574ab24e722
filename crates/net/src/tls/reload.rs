//! A configuration made of files, made again when they change.
//!
//! Looked at for each new handshake: a few `stat` calls are nothing beside one, and a watcher would
//! be a task more that can miss changes (docs/decisions/0003-tls.md). A broken new version is said
//! once and the last good one stays in use.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::stamp::FileStamp;

/// What was made of the files, and of which.
struct Current<T> {
    value: Arc<T>,
    /// Of the files as they were tried last, whether that went well or not.
    stamps: Vec<FileStamp>,
}

/// A `T` that is made again when one of its files changes.
pub(super) struct Reloading<T> {
    paths: Vec<PathBuf>,
    current: Mutex<Current<T>>,
}

impl<T> Reloading<T> {
    /// Makes it for the first time.
    pub(super) fn new<E>(
        paths: Vec<PathBuf>,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Self, E> {
        // Before the files are read: a change in between is seen next time.
        let stamps = stamps(&paths);
        let value = Arc::new(make()?);
        Ok(Self {
            paths,
            current: Mutex::new(Current { value, stamps }),
        })
    }

    /// The newest good one. Blocks on the disk for a moment.
    pub(super) fn current<E: fmt::Display>(&self, make: impl FnOnce() -> Result<T, E>) -> Arc<T> {
        let stamps = stamps(&self.paths);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.stamps != stamps {
            current.stamps = stamps;
            match make() {
                Ok(value) => {
                    current.value = Arc::new(value);
                    tracing::info!("certificates were read again: their files have changed");
                }
                Err(error) => tracing::warn!(
                    "the changed certificate files cannot be used, the old ones stay: {error}"
                ),
            }
        }
        Arc::clone(&current.value)
    }

    /// Makes it again at the next use: what it remembers is not good any more.
    pub(super) fn forget(&self) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.stamps.clear();
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<FileStamp> {
    paths.iter().map(|path| FileStamp::of(path)).collect()
}

impl<T> fmt::Debug for Reloading<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading")
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}
