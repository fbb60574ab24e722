//! Directories and links, and whether a file that is offered is wanted.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use farpipe_proto::limits::{COPY_DEPTH_MAX, COPY_OFFERS_MAX};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::super::commit::Job;
use super::super::error::{CopyError, ProtocolError, is_everybodys};
use super::super::folder::Folder;
use super::super::mark;
use super::super::message::{Entry, Meta, Number, Root, Want, Would};
use super::super::name::Name;
use super::super::part::{Left, is_large};
use super::super::place::{DIRECTORY, special};
use super::super::tally::{Event, shorter};
use super::super::wire::Frame;
use super::file::Wanted;
use super::{Level, Receiving, Top};
use crate::shown::shown;

/// Where an entry goes.
enum Spot {
    /// There, under this name.
    In(Arc<Folder>, Arc<OwnedFd>, Name),
    /// It is the target itself: what is in it goes there.
    Base,
    /// Nowhere: its directory failed.
    Failed,
    /// Nowhere yet, and nothing is to be made.
    Missing(Vec<u8>),
}

impl Receiving<'_> {
    pub(super) fn handle_root(&mut self, root: Root) -> Result<(), CopyError> {
        let is_asked = match self.top {
            Top::Given(names) => (root.source as usize) < names.len(),
            Top::Told => true,
        };
        let is_here = self.levels.is_empty() && self.root.is_none();
        if !is_asked || !is_here || root.source < self.next_source {
            return Err(ProtocolError::NotASource(root.source).into());
        }
        self.next_source = root.source.saturating_add(1);
        self.root = Some(root);
        Ok(())
    }

    /// Where an entry goes that is called so by the sending end.
    fn spot(&mut self, told: &[u8]) -> Result<Spot, CopyError> {
        let parse = |name: &[u8]| Name::parse(name).map_err(ProtocolError::from);
        match self.levels.last() {
            Some(Level::Open { folder, fd, .. }) => {
                Ok(Spot::In(Arc::clone(folder), Arc::clone(fd), parse(told)?))
            }
            Some(Level::Failed) => parse(told).map(|_| Spot::Failed).map_err(Into::into),
            Some(Level::Missing(path)) => {
                let name = parse(told)?;
                let mut path = path.clone();
                path.push(b'/');
                path.extend_from_slice(name.as_os_str().as_encoded_bytes());
                Ok(Spot::Missing(path))
            }
            None => self.top_spot(told),
        }
    }

    fn top_spot(&mut self, told: &[u8]) -> Result<Spot, CopyError> {
        let said = "an entry that belongs to no source";
        let root = self.root.take();
        let root = root.ok_or(ProtocolError::Unexpected(said))?;
        let given = match self.top {
            Top::Given(names) => names.get(root.source as usize).cloned().flatten(),
            Top::Told => (!root.contents).then(|| told.to_vec()),
        };
        let Some(name) = self.base.name.clone().or_else(|| given.clone()) else {
            return Ok(Spot::Base);
        };
        self.source = given.unwrap_or_default();
        let name = Name::parse(&name).map_err(ProtocolError::from)?;
        Ok(Spot::In(Arc::clone(&self.folder), self.base_fd()?, name))
    }

    fn base_fd(&self) -> Result<Arc<OwnedFd>, CopyError> {
        self.base
            .fd
            .try_clone()
            .map(Arc::new)
            .map_err(|error| CopyError::Disk {
                path: self.base.path.display().to_string(),
                error,
            })
    }

    fn shown(&self, folder: &Folder, name: &Name) -> Vec<u8> {
        folder.shown(&self.base.path, name.as_os_str().as_encoded_bytes())
    }

    /// What cannot be made: the disk's troubles are everybody's, the others this entry's.
    pub(super) fn failed(&mut self, path: Vec<u8>, error: io::Error) -> Result<(), CopyError> {
        if is_everybodys(&error) {
            let path = shown(&path);
            return Err(CopyError::Disk { path, error });
        }
        self.trouble(path, &error.to_string())
    }

    pub(super) fn handle_enter(&mut self, entry: &Entry) -> Result<(), CopyError> {
        if self.levels.len() >= COPY_DEPTH_MAX {
            return Err(ProtocolError::Deep(COPY_DEPTH_MAX).into());
        }
        let level = match self.spot(&entry.name)? {
            Spot::Failed => Level::Failed,
            Spot::Missing(path) => {
                self.would(path.clone())?;
                Level::Missing(path)
            }
            Spot::Base => Level::Open {
                folder: Arc::clone(&self.folder),
                fd: self.base_fd()?,
                is_fresh: false,
            },
            Spot::In(parent, dir, name) => self.enter(&parent, &dir, &name, entry)?,
        };
        self.levels.push(level);
        Ok(())
    }

    fn enter(
        &mut self,
        parent: &Arc<Folder>,
        dir: &Arc<OwnedFd>,
        name: &Name,
        entry: &Entry,
    ) -> Result<Level, CopyError> {
        let path = self.shown(parent, name);
        let made = if self.dry_run {
            Ok(false)
        } else {
            match rustix::fs::mkdirat(&**dir, name.as_os_str(), Mode::RWXU) {
                Ok(()) => Ok(true),
                Err(Errno::EXIST) => Ok(false),
                Err(error) => Err(error),
            }
        };
        let opened = made.and_then(|made| {
            let fd = rustix::fs::openat(&**dir, name.as_os_str(), DIRECTORY, Mode::empty())?;
            let stat = rustix::fs::fstat(&fd)?;
            let mode = Mode::from_raw_mode(stat.st_mode);
            if !self.dry_run && !mode.contains(Mode::RWXU) {
                // It gets its mode at its end. Whose it is not may have what it needs all the same.
                let _ = rustix::fs::fchmod(&fd, mode | Mode::RWXU);
            }
            Ok((made, fd, stat.st_dev as u64))
        });
        let (made, fd, device) = match opened {
            Ok(opened) => opened,
            Err(Errno::NOENT) if self.dry_run => {
                self.would(path.clone())?;
                return Ok(Level::Missing(path));
            }
            Err(Errno::NOTDIR | Errno::LOOP) => {
                self.trouble(path, "something that is no directory is in the way")?;
                return Ok(Level::Failed);
            }
            Err(error) => {
                self.failed(path, error.into())?;
                return Ok(Level::Failed);
            }
        };
        // What the target was called by whoever asked; what lies in it is not asked for by name.
        let is_target = self.levels.is_empty() && self.base.name.is_some() && !self.dry_run;
        if is_target
            && made
            && let Err(error) = mark::set(&fd, &self.source)
        {
            // Then it is like any other that is there, if the copy is cut.
            tracing::debug!("no mark in {}: {error}", shown(&path));
        }
        let is_marked = is_target && (made || self.base.is_unfinished);
        let folder = parent.enter(name, Meta::offered(entry), device, is_marked);
        if made {
            self.counts.directories += 1;
            self.job(Job::Made(Arc::clone(parent)))?;
        }
        Ok(Level::Open {
            folder,
            fd: Arc::new(fd),
            is_fresh: made,
        })
    }

    pub(super) fn handle_leave(&mut self) -> Result<(), CopyError> {
        let said = "it leaves a directory that it did not enter";
        let level = self.levels.pop();
        match level.ok_or(ProtocolError::Unexpected(said))? {
            Level::Open { folder, .. } if folder.parent.is_some() && !self.dry_run => {
                self.job(Job::Settled(folder))
            }
            Level::Open { .. } | Level::Failed | Level::Missing(_) => Ok(()),
        }
    }

    pub(super) fn handle_link(&mut self, entry: &Entry) -> Result<(), CopyError> {
        if self.levels.is_empty() {
            // What is asked for is followed at its own host; a link instead would lead anywhere here.
            return Err(ProtocolError::Unexpected("a link in the place of a source").into());
        }
        let (folder, dir, name) = match self.spot(&entry.name)? {
            Spot::In(folder, dir, name) => (folder, dir, name),
            Spot::Failed => return Ok(()),
            Spot::Missing(path) => return self.would(path),
            Spot::Base => {
                let said = "a link whose content is meant";
                return Err(ProtocolError::Unexpected(said).into());
            }
        };
        let path = self.shown(&folder, &name);
        if entry.target.is_empty() || entry.target.contains(&0) {
            return self.trouble(path, "a link that leads nowhere");
        }
        let found = rustix::fs::statat(&*dir, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW);
        match found.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::Symlink) => {
                let target = rustix::fs::readlinkat(&*dir, name.as_os_str(), Vec::new());
                if target.is_ok_and(|target| target.as_bytes() == entry.target) {
                    self.counts.unchanged += 1;
                    return Ok(());
                }
            }
            Ok(FileType::RegularFile) | Err(Errno::NOENT) => {}
            Ok(FileType::Directory) => return self.trouble(path, "a directory is in the way"),
            Ok(other) => return self.trouble(path, special(other)),
            Err(error) => return self.failed(path, error.into()),
        }
        if self.dry_run {
            return self.would(path);
        }
        match make_link(&dir, &name, entry) {
            Ok(()) => {
                self.counts.links += 1;
                self.job(Job::Made(folder))
            }
            Err(error) => self.failed(path, error),
        }
    }

    pub(super) fn handle_offer(&mut self, entry: &Entry) -> Result<(), CopyError> {
        let number = self.offers;
        self.offers += 1;
        if self.wanted.len() >= COPY_OFFERS_MAX {
            return Err(ProtocolError::Offers(COPY_OFFERS_MAX).into());
        }
        let skip = Frame::Skip(Number { number });
        let (folder, dir, name) = match self.spot(&entry.name)? {
            Spot::In(folder, dir, name) => (folder, dir, name),
            Spot::Failed => return self.out.frame(&skip),
            Spot::Missing(path) => {
                self.would(path)?;
                return self.out.frame(&skip);
            }
            Spot::Base => {
                let said = "a file whose content is meant to be a directory's";
                return Err(ProtocolError::Unexpected(said).into());
            }
        };
        let path = self.shown(&folder, &name);
        let meta = Meta::offered(entry);
        if is_large(&meta) && !self.dry_run {
            // Before it is looked at: what they have of it is settled then.
            self.claims.vacate(&self.part_path(&folder, &name));
        }
        let is_fresh = matches!(self.levels.last(), Some(Level::Open { is_fresh: true, .. }));
        let look = match is_fresh {
            // Nobody has had the time to put anything there.
            true => Ok(Look::Wanted),
            false => self.look(&dir, &name, &meta),
        };
        let is_wanted = look.map(|look| match look {
            _ if self.base.must_be_directory && self.levels.is_empty() => {
                Look::InTheWay("it was named as a directory, and there is none")
            }
            look => look,
        });
        match is_wanted {
            Ok(Look::Wanted) if self.dry_run => self.would(path)?,
            Ok(Look::Wanted) => return self.want(number, folder, &dir, name, meta),
            Ok(Look::Unchanged) => self.counts.unchanged += 1,
            Ok(Look::InTheWay(what)) => self.trouble(path, what)?,
            Err(error) => self.failed(path, error)?,
        }
        self.out.frame(&skip)
    }

    /// What there is under a file's name.
    fn look(&self, dir: &OwnedFd, name: &Name, meta: &Meta) -> io::Result<Look> {
        let stat = match rustix::fs::statat(dir, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Look::Wanted),
            Err(error) => return Err(error.into()),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if Meta::of(&stat).is_like(meta) => {
                if !self.dry_run {
                    set_mode(dir, name, meta, &stat)?;
                }
                Ok(Look::Unchanged)
            }
            // The link is replaced, and what it leads to stays.
            FileType::RegularFile | FileType::Symlink => Ok(Look::Wanted),
            FileType::Directory => Ok(Look::InTheWay("a directory is in the way")),
            other => Ok(Look::InTheWay(special(other))),
        }
    }

    fn want(
        &mut self,
        number: u64,
        folder: Arc<Folder>,
        dir: &OwnedFd,
        name: Name,
        meta: Meta,
    ) -> Result<(), CopyError> {
        let kept = match Left::look(dir, &name, &meta) {
            Left::Part(kept) => Some(kept),
            Left::Nothing => None,
            Left::Another => {
                self.journal.tell(Event::Restarted {
                    path: shown(&self.shown(&folder, &name)),
                    why: "what is kept of it is of another file",
                });
                None
            }
            Left::Altered => {
                self.journal.tell(Event::Restarted {
                    path: shown(&self.shown(&folder, &name)),
                    why: "what is kept of it was changed since",
                });
                None
            }
        };
        let tally = &self.journal.tally;
        tally.wanted_files.fetch_add(1, Ordering::Relaxed);
        tally.wanted_bytes.fetch_add(meta.size, Ordering::Relaxed);
        let want = Want {
            number,
            kept: kept.map_or(0, |kept| kept.bytes),
            digest: kept.map_or_else(Vec::new, |kept| kept.digest.to_vec()),
        };
        folder.expect_one();
        self.wanted.push_back(Wanted {
            number,
            folder,
            name,
            kept,
        });
        self.out.frame(&Frame::Want(want))
    }

    fn would(&mut self, path: Vec<u8>) -> Result<(), CopyError> {
        self.journal.tell(Event::Would(path.clone()));
        let path = shorter(path);
        self.out.frame(&Frame::Would(Would { path }))
    }
}

/// What was found in the place of a file.
enum Look {
    Wanted,
    Unchanged,
    InTheWay(&'static str),
}

/// A file that is there already gets the mode of its source.
fn set_mode(dir: &OwnedFd, name: &Name, meta: &Meta, stat: &Stat) -> io::Result<()> {
    if Mode::from_raw_mode(stat.st_mode) == meta.file_mode() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name.as_os_str(), flags, Mode::empty())?;
    // It may be another one by now.
    if rustix::fs::fstat(&fd)?.st_ino == stat.st_ino {
        rustix::fs::fchmod(&fd, meta.file_mode())?;
    }
    Ok(())
}

/// A link appears under its name at once, with its time.
fn make_link(dir: &OwnedFd, name: &Name, entry: &Entry) -> io::Result<()> {
    let part = name.part();
    match rustix::fs::symlinkat(&entry.target[..], dir, &part[..]) {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(dir, &part[..], AtFlags::empty())?;
            rustix::fs::symlinkat(&entry.target[..], dir, &part[..])?;
        }
        made => made?,
    }
    let times = Meta::offered(entry).times();
    rustix::fs::utimensat(dir, &part[..], &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(rustix::fs::renameat(dir, &part[..], dir, name.as_os_str())?)
}
