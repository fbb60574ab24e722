//! What a copy's ends are: sources that are read, and a target that things are made in. Both are opened once,
//! beneath what a policy allows; everything else is opened beneath them.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::mark;
use super::message::Meta;
use crate::beneath::{Place, open_beneath};

/// How a directory is opened that is read, or made things in.
pub(crate) const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// One source, open.
#[derive(Debug)]
pub struct Source {
    /// As it was named, for people.
    pub(crate) shown: Vec<u8>,
    /// Its name for who makes it elsewhere; `None`: it has none, and what is in it is meant.
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) what: SourceKind,
}

#[derive(Debug)]
pub(crate) enum SourceKind {
    Directory {
        fd: OwnedFd,
        meta: Meta,
    },
    File {
        place: Place,
        meta: Meta,
    },
    /// It cannot be had, which is said in its turn.
    Missing {
        why: io::Error,
    },
}

/// The name of what a path names, if it has one: neither `.`, `..`, `/` nor nothing.
#[must_use]
pub fn name_of(path: &OsStr) -> Option<Vec<u8>> {
    let bytes = path.as_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/')? + 1;
    let from = bytes[..end].iter().rposition(|byte| *byte == b'/');
    let name = &bytes[from.map_or(0, |slash| slash + 1)..end];
    (!matches!(name, b"." | b".." | b"")).then(|| name.to_vec())
}

impl Source {
    /// Opens the source that was named `named` and is at `place`. Blocks.
    ///
    /// # Errors
    /// When it cannot be read, or is neither a file nor a directory.
    pub fn open(place: Place, named: &OsStr) -> io::Result<Self> {
        let stat = stat(&place)?;
        let meta = Meta::of(&stat);
        let what = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => SourceKind::Directory {
                fd: place.open(DIRECTORY, Mode::empty())?,
                meta,
            },
            FileType::RegularFile if named.as_bytes().ends_with(b"/") => {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            FileType::RegularFile => SourceKind::File { place, meta },
            other => return Err(io::Error::other(special(other))),
        };
        Ok(Self {
            shown: named.as_bytes().to_vec(),
            name: name_of(named),
            what,
        })
    }

    /// A source that cannot be had; the others are copied.
    #[must_use]
    pub fn missing(named: &OsStr, why: io::Error) -> Self {
        Self {
            shown: named.as_bytes().to_vec(),
            name: name_of(named),
            what: SourceKind::Missing { why },
        }
    }
}

/// What is at a place, which may be a root.
fn stat(place: &Place) -> io::Result<Stat> {
    match place.stat() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            let fd = place.open(DIRECTORY, Mode::empty())?;
            Ok(rustix::fs::fstat(fd)?)
        }
        found => found,
    }
}

/// Words for what is not copied.
pub(crate) fn special(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a FIFO is not copied",
        FileType::Socket => "a socket is not copied",
        FileType::CharacterDevice | FileType::BlockDevice => "a device is not copied",
        FileType::Symlink => "a link is in the way",
        FileType::RegularFile | FileType::Directory | FileType::Unknown => {
            "it is neither a file nor a directory"
        }
    }
}

/// The directory that a copy is made in.
#[derive(Debug)]
pub struct Base {
    pub(crate) fd: OwnedFd,
    /// For people.
    pub(crate) path: PathBuf,
    /// What the one source is to be called; `None`: sources keep their names.
    pub(crate) name: Option<Vec<u8>>,
    /// The target was named as a directory, and is not there: no file can be it.
    pub(crate) must_be_directory: bool,
    /// The target is there, and a copy of the one source that was cut.
    pub(crate) is_unfinished: bool,
}

/// Why nothing can be made at a target.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// It, or its directory, cannot be opened.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Several sources need a directory.
    #[error("it is no directory, and several sources need one")]
    NoDirectory,
    /// A file is allowed, and files are made beside it first.
    #[error("the policy allows this one file; a copy needs to write to its directory as well")]
    OneFile,
}

impl Base {
    /// Opens the target at `place`, which was named `named`, for sources that are called so; none: that is
    /// not known. Blocks.
    ///
    /// # Errors
    /// [`BaseError`].
    pub fn open(
        place: &Place,
        named: &OsStr,
        several: bool,
        sources: &[Option<Vec<u8>>],
    ) -> Result<Self, BaseError> {
        let path = place.path();
        let kind = match stat(place) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        if kind == Some(FileType::Directory) {
            let fd = place.open(DIRECTORY, Mode::empty())?;
            if !several
                && is_unfinished(&fd, sources)
                && let Ok(target) = Self::beside(place)
            {
                return Ok(Self {
                    is_unfinished: true,
                    ..target
                });
            }
            return Ok(Self {
                fd,
                path,
                name: None,
                must_be_directory: false,
                is_unfinished: false,
            });
        }
        if several {
            return Err(BaseError::NoDirectory);
        }
        let is_directory = named.as_bytes().ends_with(b"/");
        if is_directory && kind.is_some() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory).into());
        }
        Ok(Self {
            must_be_directory: is_directory,
            ..Self::beside(place)?
        })
    }

    /// The directory of the target, and its name in there.
    fn beside(place: &Place) -> Result<Self, BaseError> {
        let path = place.path();
        let (above, name) = match (above(place), path.file_name()) {
            (Some(above), Some(name)) => (above, name.as_bytes().to_vec()),
            _ => return Err(BaseError::OneFile),
        };
        Ok(Self {
            fd: above.open(DIRECTORY, Mode::empty())?,
            path: above.path(),
            name: Some(name),
            must_be_directory: false,
            is_unfinished: false,
        })
    }

    /// Opens a directory beneath it by its path from there; empty: itself.
    pub(crate) fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        if path.as_os_str().is_empty() {
            return self.fd.try_clone();
        }
        open_beneath(&self.fd, path, DIRECTORY, Mode::empty())
    }
}

/// Whether a directory is a copy of the one source that was cut. A source without a name stands for what is
/// in it, which goes there in any case.
fn is_unfinished(dir: &OwnedFd, sources: &[Option<Vec<u8>>]) -> bool {
    match (sources, mark::look(dir)) {
        ([Some(name)], Some(of)) => *name == of,
        ([None], Some(_)) => true,
        _ => false,
    }
}

/// The directory of a place, if it may be had as well.
fn above(place: &Place) -> Option<Place> {
    match place {
        Place::Anywhere(path) => Some(Place::Anywhere(path.parent()?.to_owned())),
        Place::Beneath { root, rest } => Some(Place::Beneath {
            root: root.clone(),
            rest: rest.parent()?.to_owned(),
        }),
    }
}
