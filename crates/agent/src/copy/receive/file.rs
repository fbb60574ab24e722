//! The files that were asked for, as they come: one behind the other, in the order of the answers.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::commit::Job;
use super::super::error::{CopyError, ProtocolError};
use super::super::folder::Folder;
use super::super::message::{Number, Start};
use super::super::name::Name;
use super::super::part::{Kept, Part, is_large};
use super::super::tally::Event;
use super::super::wire::Frame;
use super::{Level, Receiving};
use crate::shown::shown;

/// A file that is to come.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) number: u64,
    pub(super) folder: Arc<Folder>,
    pub(super) name: Name,
    pub(super) kept: Option<Kept>,
}

/// The file that comes now.
#[derive(Debug)]
pub(super) enum Current {
    None,
    Part {
        number: u64,
        folder: Arc<Folder>,
        name: Name,
        part: Box<Part>,
    },
    /// It failed here, and its bytes go nowhere.
    Failed {
        number: u64,
        left: u64,
    },
}

impl Receiving<'_> {
    pub(super) fn handle_start(&mut self, start: &Start) -> Result<(), CopyError> {
        let is_between = matches!(self.current, Current::None);
        let Some(wanted) = self
            .wanted
            .pop_front_if(|wanted| is_between && wanted.number == start.number)
        else {
            return Err(ProtocolError::NotWanted(start.number).into());
        };
        let kept = wanted.kept.filter(|kept| kept.bytes == start.from);
        if start.from > start.meta.size || start.from > 0 && kept.is_none() {
            let said = "a file begins where nobody asked for";
            return Err(ProtocolError::Unexpected(said).into());
        }
        let tag = self.tag.wrapping_add(start.number);
        let begun = self.directory(&wanted.folder).and_then(|dir| match kept {
            Some(kept) => Part::resume(&dir, &wanted.name, start.meta, kept),
            None => Part::begin(&dir, &wanted.name, start.meta, tag, || {
                self.leftovers.take(&wanted.folder, &dir, &wanted.name)
            }),
        });
        let Wanted { folder, name, .. } = wanted;
        match begun {
            Ok(part) => {
                let part = match is_large(&start.meta) {
                    true => part.claimed(self.claims.claim(&self.part_path(&folder, &name))),
                    false => part,
                };
                self.tell_begun(&folder, &name, wanted.kept, kept);
                self.count_moved(start.from);
                let number = start.number;
                self.current = Current::Part {
                    number,
                    folder,
                    name,
                    part: Box::new(part),
                };
                Ok(())
            }
            Err(error) => {
                let left = start.meta.size - start.from;
                self.give_up(start.number, &folder, &name, left, error)
            }
        }
    }

    /// Where the part of a file lies.
    pub(super) fn part_path(&self, folder: &Folder, name: &Name) -> PathBuf {
        let part = OsString::from_vec(name.part());
        self.base.path.join(&folder.path).join(part)
    }

    /// What becomes of what an earlier copy had left.
    fn tell_begun(&self, folder: &Folder, name: &Name, had: Option<Kept>, kept: Option<Kept>) {
        let path = || shown(&folder.shown(&self.base.path, name.as_os_str().as_encoded_bytes()));
        match (had, kept) {
            (_, Some(kept)) => self.journal.tell(Event::Kept {
                path: path(),
                kept: kept.bytes,
                is_reread: kept.is_reread,
            }),
            (Some(_), None) => self.journal.tell(Event::Restarted {
                path: path(),
                why: "the source is not what it was",
            }),
            (None, None) => {}
        }
    }

    /// The directory of a file: the one before is most often the same, or one that is being walked over.
    fn directory(&mut self, folder: &Arc<Folder>) -> std::io::Result<Arc<OwnedFd>> {
        if let Some((last, fd)) = &self.last
            && Arc::ptr_eq(last, folder)
        {
            return Ok(Arc::clone(fd));
        }
        let entered = self.levels.iter().find_map(|level| match level {
            Level::Open { folder: of, fd, .. } if Arc::ptr_eq(of, folder) => Some(Arc::clone(fd)),
            Level::Open { .. } | Level::Failed | Level::Missing(_) => None,
        });
        let fd = match entered {
            Some(fd) => fd,
            None => Arc::new(self.base.directory(&folder.path)?),
        };
        self.last = Some((Arc::clone(folder), Arc::clone(&fd)));
        Ok(fd)
    }

    pub(super) fn handle_data(&mut self, bytes: &[u8]) -> Result<(), CopyError> {
        self.count_moved(bytes.len() as u64);
        self.take(bytes.len() as u64, |part| part.write(bytes))
    }

    pub(super) fn handle_hole(&mut self, len: u64) -> Result<(), CopyError> {
        self.count_moved(len);
        self.take(len, |part| {
            part.hole(len);
            Ok(())
        })
    }

    /// The current file's next `len` bytes.
    fn take(
        &mut self,
        len: u64,
        into: impl FnOnce(&mut Part) -> std::io::Result<()>,
    ) -> Result<(), CopyError> {
        // As it was before: of what comes now it is not known how much was written, if it fails.
        let left;
        let error = match &mut self.current {
            Current::None => {
                let said = "bytes that belong to no file";
                return Err(ProtocolError::Unexpected(said).into());
            }
            Current::Failed { left, .. } => {
                *left = left.checked_sub(len).ok_or(ProtocolError::Length {
                    said: *left,
                    came: len,
                })?;
                return Ok(());
            }
            Current::Part { part, .. } => {
                left = part.left();
                if len > left {
                    let said = part.meta.size;
                    let came = (said - left).saturating_add(len);
                    self.discard();
                    return Err(ProtocolError::Length { said, came }.into());
                }
                match into(part) {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                }
            }
        };
        if let Current::Part {
            number,
            folder,
            name,
            part,
        } = std::mem::replace(&mut self.current, Current::None)
        {
            part.leave();
            self.give_up(number, &folder, &name, left.saturating_sub(len), error)?;
        }
        Ok(())
    }

    fn discard(&mut self) {
        if let Current::Part { part, .. } = std::mem::replace(&mut self.current, Current::None) {
            part.discard();
        }
    }

    pub(super) fn handle_end(&mut self, number: u64) -> Result<(), CopyError> {
        match std::mem::replace(&mut self.current, Current::None) {
            Current::Part {
                number: of,
                folder,
                name,
                part,
            } if of == number => {
                if part.left() > 0 {
                    let said = part.meta.size;
                    let came = said - part.left();
                    part.discard();
                    return Err(ProtocolError::Length { said, came }.into());
                }
                let tally = &self.journal.tally;
                tally.moved_files.fetch_add(1, Ordering::Relaxed);
                match part.complete() {
                    Ok(whole) => self.job(Job::File(folder, whole)),
                    // The sending end is through with it.
                    Err(error) => {
                        let path = name.as_os_str().as_encoded_bytes();
                        let path = folder.shown(&self.base.path, path);
                        self.failed(path, error)?;
                        self.job(Job::Settled(folder))
                    }
                }
            }
            Current::Failed { number: of, .. } if of == number => Ok(()),
            current => {
                self.current = current;
                Err(ProtocolError::NotWanted(number).into())
            }
        }
    }

    /// The sending end has no more of a file; why is what it has just said.
    pub(super) fn handle_fail(&mut self, number: u64) -> Result<(), CopyError> {
        match std::mem::replace(&mut self.current, Current::None) {
            Current::None => {
                let wanted = self.wanted.pop_front_if(|wanted| wanted.number == number);
                let wanted = wanted.ok_or(ProtocolError::NotWanted(number))?;
                self.job(Job::Settled(wanted.folder))
            }
            Current::Part {
                number: of,
                folder,
                part,
                ..
            } if of == number => {
                part.discard();
                self.job(Job::Settled(folder))
            }
            Current::Failed { number: of, .. } if of == number => Ok(()),
            current => {
                self.current = current;
                Err(ProtocolError::NotWanted(number).into())
            }
        }
    }

    /// A file fails here: `left` bytes of it are still to come, unless the sending end hears of it before.
    fn give_up(
        &mut self,
        number: u64,
        folder: &Arc<Folder>,
        name: &Name,
        left: u64,
        error: std::io::Error,
    ) -> Result<(), CopyError> {
        let path = folder.shown(&self.base.path, name.as_os_str().as_encoded_bytes());
        self.failed(path, error)?;
        self.out.frame(&Frame::Stop(Number { number }))?;
        self.current = Current::Failed { number, left };
        self.job(Job::Settled(Arc::clone(folder)))
    }

    fn count_moved(&self, bytes: u64) {
        let moved = &self.journal.tally.moved_bytes;
        moved.fetch_add(bytes, Ordering::Relaxed);
    }
}
