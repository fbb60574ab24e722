//! Walks the sources of a copy, one entry at a time: what is open is the directories from a source down to
//! where the walk is, and nothing is kept of what it has passed.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farpipe_proto::limits::COPY_DEPTH_MAX;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::message::Meta;
use super::name::is_ours;
use super::place::{DIRECTORY, Source, SourceKind, special};
use crate::beneath::{Place, open_beneath};

/// What the walk comes to.
#[derive(Debug)]
pub(crate) enum Step {
    /// A source; the next step is what it is.
    Root {
        source: u32,
        contents: bool,
    },
    /// A directory, and what lies in it, up to [`Step::Leave`].
    Enter {
        name: Vec<u8>,
        meta: Meta,
    },
    Leave,
    Link {
        name: Vec<u8>,
        meta: Meta,
        target: Vec<u8>,
    },
    File {
        meta: Meta,
        at: At,
    },
    /// Something that is not copied, and why.
    Trouble {
        path: Vec<u8>,
        why: io::Error,
    },
}

/// Where a file is.
#[derive(Debug, Clone)]
pub(crate) struct At {
    source: usize,
    /// From the source on.
    dir: Arc<Path>,
    pub(crate) name: Vec<u8>,
}

/// The sources of one copy.
#[derive(Debug, Clone)]
pub(crate) struct Sources(Arc<[Source]>);

impl Sources {
    pub(crate) fn new(sources: Vec<Source>) -> Self {
        Self(sources.into())
    }

    /// Opens a file that was walked over, to read it: no link is followed, and nothing is waited for.
    pub(crate) fn open(&self, at: &At) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        match &self.0[at.source].what {
            SourceKind::File { place, .. } => {
                let place: &Place = place;
                place.open(flags, Mode::empty())
            }
            SourceKind::Missing { why } => Err(why.kind().into()),
            SourceKind::Directory { fd, .. } => {
                let path = at.dir.join(OsStr::from_bytes(&at.name));
                open_beneath(fd, &path, flags, Mode::empty())
            }
        }
    }

    /// A path for people.
    pub(crate) fn shown(&self, at: &At) -> Vec<u8> {
        let source = &self.0[at.source];
        match source.what {
            SourceKind::File { .. } | SourceKind::Missing { .. } => source.shown.clone(),
            SourceKind::Directory { .. } => self.path(at.source, &at.dir, &at.name),
        }
    }

    fn path(&self, source: usize, dir: &Path, name: &[u8]) -> Vec<u8> {
        let shown = OsStr::from_bytes(&self.0[source].shown);
        let path = Path::new(shown).join(dir).join(OsStr::from_bytes(name));
        path.into_os_string().as_bytes().to_vec()
    }
}

/// A directory that is being walked over.
struct Level {
    dir: Dir,
    path: Arc<Path>,
}

pub(crate) struct Walk {
    sources: Sources,
    next: usize,
    /// What comes behind a source's [`Step::Root`].
    root: Option<Step>,
    levels: Vec<Level>,
}

impl Walk {
    pub(crate) fn new(sources: Sources) -> Self {
        Self {
            sources,
            next: 0,
            root: None,
            levels: Vec::new(),
        }
    }

    /// The next step; `None` at the end. Blocks on the disk.
    pub(crate) fn next_step(&mut self) -> Option<Step> {
        if let Some(step) = self.root.take() {
            return Some(step);
        }
        loop {
            let Some(level) = self.levels.last_mut() else {
                return self.next_source();
            };
            match level.dir.read() {
                None => {
                    self.levels.pop();
                    return Some(Step::Leave);
                }
                Some(Err(error)) => {
                    // What comes behind it cannot be known; what came is whole.
                    let path = self.sources.path(self.next - 1, &level.path, b"");
                    level.dir = match empty() {
                        Ok(dir) => dir,
                        Err(_) => continue,
                    };
                    let why = error.into();
                    return Some(Step::Trouble { path, why });
                }
                Some(Ok(entry)) => {
                    let name = entry.file_name();
                    if matches!(name.to_bytes(), b"." | b"..") || is_ours(name.to_bytes()) {
                        continue;
                    }
                    let step = match self.look(name) {
                        Ok(step) => Some(step),
                        // It was removed meanwhile, as if it had never been there.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                        Err(why) => {
                            let dir = self.levels.last().map(|level| Arc::clone(&level.path));
                            let dir = dir.unwrap_or_else(|| Path::new("").into());
                            let path = self.sources.path(self.next - 1, &dir, name.to_bytes());
                            Some(Step::Trouble { path, why })
                        }
                    };
                    if step.is_some() {
                        return step;
                    }
                }
            }
        }
    }

    fn next_source(&mut self) -> Option<Step> {
        let index = self.next;
        let source = self.sources.0.get(index)?;
        self.next += 1;
        let name = source.name.clone().unwrap_or_default();
        let contents = source.name.is_none();
        let step = match &source.what {
            SourceKind::Missing { why } => {
                let path = source.shown.clone();
                let why = io::Error::new(why.kind(), why.to_string());
                return Some(Step::Trouble { path, why });
            }
            SourceKind::File { meta, .. } => Step::File {
                meta: *meta,
                at: At {
                    source: index,
                    dir: Path::new("").into(),
                    name,
                },
            },
            SourceKind::Directory { fd, meta } => {
                let meta = *meta;
                match self.descend(fd.try_clone(), Path::new("").into()) {
                    Ok(()) => Step::Enter { name, meta },
                    Err(why) => {
                        let path = self.sources.0[index].shown.clone();
                        return Some(Step::Trouble { path, why });
                    }
                }
            }
        };
        self.root = Some(step);
        let source = u32::try_from(index).expect("a command line has fewer words");
        Some(Step::Root { source, contents })
    }

    fn descend(&mut self, fd: io::Result<OwnedFd>, path: Arc<Path>) -> io::Result<()> {
        // Its own place in the directory: the source's descriptor is used for opening alone.
        let dir = Dir::read_from(fd?)?;
        self.levels.push(Level { dir, path });
        Ok(())
    }

    /// What an entry of the directory on top is.
    fn look(&mut self, name: &CStr) -> io::Result<Step> {
        let level = self.levels.last().expect("an entry lies in a directory");
        let dir = level.dir.fd()?;
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let meta = Meta::of(&stat);
        let bytes = name.to_bytes().to_vec();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Step::File {
                meta,
                at: At {
                    source: self.next - 1,
                    dir: Arc::clone(&level.path),
                    name: bytes,
                },
            }),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new())?;
                Ok(Step::Link {
                    name: bytes,
                    meta,
                    target: target.into_bytes(),
                })
            }
            FileType::Directory => {
                if self.levels.len() >= COPY_DEPTH_MAX {
                    let why = format!("directories lie deeper than {COPY_DEPTH_MAX}");
                    return Err(io::Error::other(why));
                }
                let fd = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())?;
                let path: PathBuf = level.path.join(OsStr::from_bytes(&bytes));
                self.descend(Ok(fd), path.into())?;
                Ok(Step::Enter { name: bytes, meta })
            }
            other => Err(io::Error::other(special(other))),
        }
    }
}

/// A directory with nothing in it that the walk has not seen: the end of one that can be read no further.
fn empty() -> io::Result<Dir> {
    let fd = rustix::fs::open("/", DIRECTORY, Mode::empty())?;
    let mut dir = Dir::new(fd)?;
    while let Some(Ok(_)) = dir.read() {}
    Ok(dir)
}
