//! What a path leads to, asked before a policy decides: a rule is for a file, not for a way to write
//! its name.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Access, access};

/// A program that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    named: PathBuf,
    resolved: PathBuf,
}

/// Why there is no such program.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// 127.
    #[error("no such program")]
    NotFound,
    /// 126.
    #[error("cannot be run: {0}")]
    NotExecutable(io::Error),
}

impl Program {
    /// Finds `name` as a shell in the absolute directory `cwd` would: in the absolute directories of
    /// `path` (of this process, never of the caller), or where it says. Blocks on the disk for a
    /// moment.
    ///
    /// # Errors
    /// [`ProgramError`].
    pub fn find(name: &OsStr, path: &OsStr, cwd: &Path) -> Result<Self, ProgramError> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.contains(&0) {
            return Err(ProgramError::NotFound);
        }
        if bytes.contains(&b'/') {
            return Self::at(&cwd.join(name));
        }
        let mut refused = None;
        for dir in std::env::split_paths(path).filter(|dir| dir.is_absolute()) {
            match Self::at(&dir.join(name)) {
                Err(ProgramError::NotFound) => {}
                Err(error) => {
                    refused.get_or_insert(error);
                }
                found => return found,
            }
        }
        Err(refused.unwrap_or(ProgramError::NotFound))
    }

    fn at(path: &Path) -> Result<Self, ProgramError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ProgramError::NotFound,
            _ => ProgramError::NotExecutable(error),
        };
        let resolved = path.canonicalize().map_err(failed)?;
        if !resolved.metadata().map_err(failed)?.is_file() {
            return Err(ProgramError::NotExecutable(
                io::ErrorKind::PermissionDenied.into(),
            ));
        }
        access(&resolved, Access::EXEC_OK)
            .map_err(|error| ProgramError::NotExecutable(error.into()))?;
        let named = entry(path);
        Ok(Self { named, resolved })
    }

    /// Its directory with all links followed, and its name there: a link itself, if it is one.
    #[must_use]
    pub fn named(&self) -> &Path {
        &self.named
    }

    /// The file that runs, all links followed.
    #[must_use]
    pub fn resolved(&self) -> &Path {
        &self.resolved
    }

    /// For tests: nothing is looked at.
    #[cfg(test)]
    pub(super) fn made_up(named: &str, resolved: &str) -> Self {
        Self {
            named: named.into(),
            resolved: resolved.into(),
        }
    }
}

/// Where a path leads that is to be read or written: all links followed; of a file that is still to be
/// made, those of its directory. Blocks on the disk for a moment. What is opened later must be opened
/// beneath [`super::Within::Directory`]: links may change in between.
///
/// # Errors
/// When it is relative, or its directory is not there; when it is a link that leads nowhere.
pub fn target(path: &Path) -> io::Result<PathBuf> {
    if !path.is_absolute() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path must be absolute",
        ));
    }
    let missing = match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => error,
        resolved => return resolved,
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(missing);
    };
    // Something is there, and leads to what is not: writing would make that.
    if path.symlink_metadata().is_ok() {
        return Err(missing);
    }
    Ok(parent.canonicalize()?.join(name))
}

/// A path of a policy, its directory resolved if that is there; its last component stays.
pub(super) fn entry(path: &Path) -> PathBuf {
    let resolved = path.parent().and_then(|parent| parent.canonicalize().ok());
    match (resolved, path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

/// A directory of a policy, all links followed if it is there.
pub(super) fn root(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| entry(path))
}

/// Absolute, and every component a name.
pub(super) fn is_plain(path: &Path) -> bool {
    // `components` hides `.` and `//`, which change nothing.
    let bytes = path.as_os_str().as_bytes();
    path.is_absolute()
        && !bytes.contains(&0)
        && path.components().all(|part| match part {
            Component::RootDir | Component::Normal(_) => true,
            Component::Prefix(_) | Component::CurDir | Component::ParentDir => false,
        })
}
