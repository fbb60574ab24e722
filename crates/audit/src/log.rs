//! Appends lines, each in one write, and says when that is not possible.
//!
//! What always holds: when [`AuditLog::append`] returns well, the whole line is with the system, and on
//! the disk if that was asked for; when it fails, nothing of the line is left in the file, or the next
//! one that is written names what is left.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::line::{Hash, Head, Link, written};

/// Longest line that is looked for at the end of a file.
const LINE_MAX: u64 = 4 * 1024 * 1024;

/// Where a log is, and how careful it is.
#[derive(Debug, Clone)]
pub struct AuditOptions {
    /// Where lines are appended; made with mode 0600 if it is not there.
    pub file: PathBuf,
    /// Where the newest line's number and hash are written after each line. Default: nowhere.
    pub head: Option<PathBuf>,
    /// Whether each line is on the disk before what it tells of begins. Default: it is with the system.
    pub sync: bool,
}

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system says no.
    #[error("{}: cannot be {what}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Two processes would break each other's chain.
    #[error("{}: another process writes to this audit log", .0.display())]
    InUse(PathBuf),
    /// To go on behind it would hide that.
    #[error("{}: its end is not one that was written to this audit log", .0.display())]
    Foreign(PathBuf),
    /// Lines that were written are not there any more.
    #[error("{}: its end was cut off: {} is the newest line, and {} was written", path.display(), found.seq, head.seq)]
    Cut {
        /// Which file.
        path: PathBuf,
        /// Its last line.
        found: Head,
        /// What the head's file says.
        head: Head,
    },
}

impl OpenError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => "see that the directory is there, belongs to this user and has room",
            Self::InUse(_) => "give each process an audit log of its own",
            Self::Foreign(_) => "name another file, or move this one away",
            Self::Cut { .. } => {
                "look at it with `farpipe audit verify`; to begin anew, move it and its head away"
            }
        }
    }
}

/// A line was not written: what it would have told of must not happen.
#[derive(Debug, thiserror::Error)]
#[error("the audit log {} cannot be written: {source}", path.display())]
pub struct WriteError {
    path: PathBuf,
    source: io::Error,
}

/// A log that is open. Its methods block on the disk for a moment.
#[derive(Debug)]
pub struct AuditLog {
    options: AuditOptions,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    newest: Head,
    /// What a write that was cut has left at the end of the file.
    torn: Option<Hash>,
    head: Option<File>,
}

impl AuditLog {
    /// Opens a log and goes on behind its last line. What a crash has left of a line stays where it is;
    /// the next line says so.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(options: AuditOptions) -> Result<Self, OpenError> {
        let file = opened(&options.file)?;
        let (found, torn) = end_of(&options.file, &file)?;
        let head = options.head.as_deref().map(head_file).transpose()?;
        let noted = match (&head, &options.head) {
            (Some(file), Some(path)) => noted(path, file)?,
            _ => None,
        };
        let newest = match (found, noted) {
            // Moved away, as logs are; the chain goes on.
            (None, Some(head)) => head,
            (None, None) => Head::NONE,
            (Some(found), Some(head)) if found.seq < head.seq => {
                let path = options.file;
                return Err(OpenError::Cut { path, found, head });
            }
            (Some(found), Some(head)) if found.seq == head.seq && found != head => {
                return Err(OpenError::Foreign(options.file));
            }
            (Some(found), _) => found,
        };
        let open = Open {
            file,
            newest,
            torn,
            head,
        };
        Ok(Self {
            options,
            open: Mutex::new(open),
        })
    }

    /// Writes a line that tells of `event`: of an object its fields, of anything else nothing.
    ///
    /// # Errors
    /// [`WriteError`]: nothing counts as written.
    pub fn append(&self, event: Value) -> Result<(), WriteError> {
        let mut event = match event {
            Value::Object(event) => event,
            _ => Map::new(),
        };
        let failed = |source| WriteError {
            path: self.options.file.clone(),
            source,
        };
        let mut open = self.lock();
        if let Some(torn) = open.torn {
            event.insert("torn".to_owned(), json!(torn.to_string()));
        }
        let (head, line) = written(open.newest, &now(), &event);
        open.write(&line, self.options.sync).map_err(failed)?;
        open.newest = head;
        open.torn = None;
        if let Some(file) = &open.head {
            let noted = note(file, head, self.options.sync);
            // The line is there; who compares finds it newer than its head.
            noted.map_err(|source| WriteError {
                path: self.options.head.clone().unwrap_or_default(),
                source,
            })?;
        }
        Ok(())
    }

    /// Opens the file once more, which was moved away meanwhile; the chain goes on in the new one.
    ///
    /// # Errors
    /// [`OpenError`]; then lines go where they went.
    pub fn reopen(&self) -> Result<(), OpenError> {
        let mut open = self.lock();
        let path = &self.options.file;
        if is_same(path, &open.file) {
            return Ok(());
        }
        let file = opened(path)?;
        if end_of(path, &file)?.0.is_some() {
            // Another log's.
            return Err(OpenError::Foreign(path.clone()));
        }
        open.file = file;
        Ok(())
    }

    /// The newest line.
    #[must_use]
    pub fn head(&self) -> Head {
        self.lock().newest
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn write(&mut self, line: &[u8], sync: bool) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        // What was left stays a line of its own.
        let written = match self.torn {
            Some(_) if !self.ends_in_newline(before)? => {
                self.file.write_all(&[b"\n", line].concat())
            }
            _ => self.file.write_all(line),
        };
        let synced = written.and_then(|()| match sync {
            true => self.file.sync_data(),
            false => Ok(()),
        });
        let Err(error) = synced else {
            return Ok(());
        };
        // A piece of a line, or one that may be lost: it must not stand there as if it counted.
        if self.file.set_len(before).is_err() {
            self.torn = Some(self.left(before));
        }
        Err(error)
    }

    /// What a write has left behind the end that the file had.
    fn left(&self, before: u64) -> Hash {
        let mut left = Vec::new();
        let mut file = &self.file;
        let read = file
            .seek(SeekFrom::Start(before))
            .and_then(|_| file.read_to_end(&mut left));
        // Where it cannot be read, verification finds a line that nobody vouches for, and says so.
        let _ = read;
        Hash::of(left.trim_ascii())
    }

    fn ends_in_newline(&self, len: u64) -> io::Result<bool> {
        let mut last = [b'\n'];
        if let Some(at) = len.checked_sub(1) {
            self.file.read_exact_at(&mut last, at)?;
        }
        Ok(last == *b"\n")
    }
}

fn opened(path: &Path) -> Result<File, OpenError> {
    let failed = |what| {
        move |source| OpenError::Io {
            path: path.to_owned(),
            what,
            source,
        }
    };
    let mut options = OpenOptions::new();
    let options = options.read(true).append(true).create(true).mode(0o600);
    let options = options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path).map_err(failed("opened"))?;
    // A device would have no end to be read, and a FIFO no beginning.
    if !file.metadata().map_err(failed("looked at"))?.is_file() {
        return Err(OpenError::Foreign(path.to_owned()));
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse(path.to_owned())),
        Err(error) => Err(failed("locked")(error.into())),
    }
}

/// The last whole line of a file, and what stands behind it.
fn end_of(path: &Path, mut file: &File) -> Result<(Option<Head>, Option<Hash>), OpenError> {
    let failed = |source| OpenError::Io {
        path: path.to_owned(),
        what: "read",
        source,
    };
    let len = file.metadata().map_err(failed)?.len();
    let from = len.saturating_sub(LINE_MAX);
    file.seek(SeekFrom::Start(from)).map_err(failed)?;
    let mut end = Vec::new();
    file.read_to_end(&mut end).map_err(failed)?;
    let whole = end.iter().rposition(|byte| *byte == b'\n');
    let (lines, rest) = end.split_at(whole.map_or(0, |at| at + 1));
    let torn = (!rest.is_empty()).then(|| Hash::of(rest));
    let lines = lines.strip_suffix(b"\n").unwrap_or(lines);
    if lines.is_empty() {
        return Ok((None, torn));
    }
    let line = lines.rsplit(|byte| *byte == b'\n').next();
    let line = line.unwrap_or_default();
    let link = Link::read(line).ok_or_else(|| OpenError::Foreign(path.to_owned()))?;
    let head = Head {
        seq: link.seq,
        hash: Hash::of(line),
    };
    Ok((Some(head), torn))
}

/// Whether the file has its name still.
fn is_same(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let (named, open) = (fs::metadata(path), file.metadata());
    match (named, open) {
        (Ok(named), Ok(open)) => (named.dev(), named.ino()) == (open.dev(), open.ino()),
        _ => false,
    }
}

fn head_file(path: &Path) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    // Others may read it: it is there to be collected.
    let options = options.read(true).write(true).create(true).mode(0o644);
    let opened = options.truncate(false).open(path);
    opened.map_err(|source| OpenError::Io {
        path: path.to_owned(),
        what: "opened",
        source,
    })
}

fn noted(path: &Path, mut file: &File) -> Result<Option<Head>, OpenError> {
    let mut text = String::new();
    let read = file.read_to_string(&mut text);
    read.map_err(|source| OpenError::Io {
        path: path.to_owned(),
        what: "read",
        source,
    })?;
    match text.trim().is_empty() {
        true => Ok(None),
        false => match text.trim().parse() {
            Ok(head) => Ok(Some(head)),
            Err(_) => Err(OpenError::Foreign(path.to_owned())),
        },
    }
}

/// In place, and always as long: one write, of which no reader sees half.
fn note(file: &File, head: Head, sync: bool) -> io::Result<()> {
    let text = format!("{:<85}\n", head.to_string());
    file.write_all_at(text.as_bytes(), 0)?;
    match sync {
        true => file.sync_data(),
        false => Ok(()),
    }
}

fn now() -> String {
    let now = OffsetDateTime::now_utc();
    // To the millisecond, as people read it.
    let now = now.replace_millisecond(now.millisecond()).unwrap_or(now);
    now.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests;
