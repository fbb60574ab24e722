//! A file on its way: written beside its target under a name of ours, and renamed when it is whole. Of a
//! large one a sidecar says what is on disk, so that the next copy goes on there.
//!
//! Nobody writes to, or renames, a part that somebody else may be at: that of a small file is made fresh,
//! under another name if there is one; that of a large one is locked as long as it is open.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farpipe_proto::limits::{COPY_CHUNK, COPY_KEEP_MIN, COPY_UNSYNCED_MAX};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::claim::Claim;
use super::clock::Changed;
use super::leftover::Stale;
use super::message::Meta;
use super::name::Name;
use super::sidecar::{Run, Sidecar, ZEROS};
use super::source::Reading;

/// How long received bytes of a large file may wait to be on disk, as whole chunks.
const UNSYNCED_FOR: Duration = Duration::from_secs(2);

/// What an earlier copy of a file has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Whole chunks.
    pub(crate) bytes: u64,
    pub(crate) digest: [u8; 32],
    /// When the part was looked at: who goes on with another one does not know what is in it.
    changed: Changed,
    /// Somebody may have been at it, so it was read, and is what was received.
    pub(crate) is_reread: bool,
}

/// What was found of an earlier copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    /// Of a file that was another one than that is now.
    Another,
    /// Somebody else has written to it.
    Altered,
    Part(Kept),
}

impl Left {
    /// Looks for it. What is wrong with it makes it nothing: the file is copied from its beginning. Reads
    /// what is kept if somebody else may have written to it.
    pub(crate) fn look(dir: &OwnedFd, name: &Name, meta: &Meta) -> Self {
        if !is_large(meta) {
            return Self::Nothing;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |name: &[u8]| rustix::fs::openat(dir, name, flags, Mode::empty());
        let (Ok(sums), Ok(part)) = (open(&name.sums()), open(&name.part())) else {
            return Self::Nothing;
        };
        let (Ok(stat), Ok(sums_stat)) = (rustix::fs::fstat(&part), rustix::fs::fstat(&sums)) else {
            return Self::Nothing;
        };
        if !is_mine(&stat) || !is_mine(&sums_stat) {
            return Self::Nothing;
        }
        match Sidecar::read(sums.into(), meta) {
            Ok(Some(sidecar)) if sidecar.chunks > 0 && sidecar.bytes() <= size(&stat) => {
                let (bytes, digest) = (sidecar.bytes(), sidecar.digest());
                let is_reread = !sidecar.is_last(&stat, &sums_stat);
                if is_reread {
                    // Another copy that is at it changes it while it is read, and has it.
                    if lock(&part, FlockOperation::NonBlockingLockShared).is_err() {
                        return Self::Nothing;
                    }
                    let read = Reading::of(part).and_then(|part| part.digest(bytes));
                    if !read.is_ok_and(|read| read == digest) {
                        return Self::Altered;
                    }
                }
                Self::Part(Kept {
                    bytes,
                    digest,
                    changed: Changed::of(&stat),
                    is_reread,
                })
            }
            Ok(Some(_)) | Err(_) => Self::Nothing,
            Ok(None) => Self::Another,
        }
    }
}

/// Whether what is received of a file is kept when its copy is cut.
pub(crate) const fn is_large(meta: &Meta) -> bool {
    meta.size >= COPY_KEEP_MIN
}

/// A file that this user has made, and that has no other name: writing to it changes nothing else.
pub(crate) fn is_mine(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_nlink == 1
        && stat.st_uid == rustix::process::geteuid().as_raw()
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// A file that is being received.
#[derive(Debug)]
pub(crate) struct Part {
    file: File,
    inode: u64,
    dir: Arc<OwnedFd>,
    /// What it is called until it is whole.
    part: Vec<u8>,
    name: Name,
    pub(crate) meta: Meta,
    at: u64,
    /// The file ends with a hole, and is shorter than it will be.
    has_hole_behind: bool,
    kept: u64,
    keeping: Option<Keeping>,
    stale: Vec<Stale>,
    /// Behind the file: its lock goes first.
    claim: Option<Claim>,
}

/// What is noted of a large file.
#[derive(Debug)]
struct Keeping {
    sidecar: Sidecar,
    hasher: blake3::Hasher,
    /// Bytes of the chunk that is not whole.
    in_chunk: usize,
    /// Whole chunks that are not on disk.
    runs: Vec<Run>,
    unsynced: u64,
    synced: Instant,
}

/// A file that is whole, and not in its place yet.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) name: Name,
    pub(crate) part: Vec<u8>,
    pub(crate) inode: u64,
    pub(crate) bytes: u64,
    pub(crate) kept: u64,
    /// A large one, locked.
    pub(crate) file: Option<File>,
    /// Go when it has its name.
    pub(crate) stale: Vec<Stale>,
    /// Dropped behind the file.
    _claim: Option<Claim>,
}

impl Part {
    /// Begins a file; `tag` is another each time. `leftovers` looks for other parts of it, if there is one.
    pub(crate) fn begin(
        dir: &Arc<OwnedFd>,
        name: &Name,
        meta: Meta,
        tag: u64,
        leftovers: impl FnOnce() -> Vec<Stale>,
    ) -> io::Result<Self> {
        if !is_large(&meta) {
            let (file, part, stale) = create_small(dir, name, tag, leftovers)?;
            return Self::new(file, dir, name, part, meta, stale);
        }
        let file = open_large(dir, &name.part())?;
        file.set_len(0)?;
        let mut part = Self::new(file, dir, name, name.part(), meta, Vec::new())?;
        match open_sums(dir, name).and_then(|sums| Sidecar::begin(sums, &meta)) {
            Ok(sidecar) => part.keeping = Some(Keeping::new(sidecar)),
            // Then it is not kept if the copy is cut.
            Err(error) => tracing::debug!("no sidecar for {name}: {error}"),
        }
        Ok(part)
    }

    /// Goes on with what an earlier copy has left, if that is still what it was.
    pub(crate) fn resume(
        dir: &Arc<OwnedFd>,
        name: &Name,
        meta: Meta,
        kept: Kept,
    ) -> io::Result<Self> {
        let another = || io::Error::other("another copy of it has begun meanwhile");
        let file = open_large(dir, &name.part())?;
        let sidecar = Sidecar::read(open_sums(dir, name)?, &meta)?.ok_or_else(another)?;
        let is_it = sidecar.bytes() == kept.bytes && sidecar.digest() == kept.digest;
        if !is_it || Changed::of(&rustix::fs::fstat(&file)?) != kept.changed {
            return Err(another());
        }
        let mut part = Self::new(file, dir, name, name.part(), meta, Vec::new())?;
        part.at = kept.bytes;
        part.kept = kept.bytes;
        part.keeping = Some(Keeping::new(sidecar));
        // What came behind is not known to be whole.
        part.noting(|part| part.file.set_len(kept.bytes))?;
        Ok(part)
    }

    fn new(
        file: File,
        dir: &Arc<OwnedFd>,
        name: &Name,
        part: Vec<u8>,
        meta: Meta,
        stale: Vec<Stale>,
    ) -> io::Result<Self> {
        Ok(Self {
            inode: rustix::fs::fstat(&file)?.st_ino,
            file,
            dir: Arc::clone(dir),
            part,
            name: name.clone(),
            meta,
            at: 0,
            has_hole_behind: false,
            kept: 0,
            keeping: None,
            stale,
            claim: None,
        })
    }

    /// It is somebody's who can be asked for it.
    pub(crate) fn claimed(self, claim: Claim) -> Self {
        Self {
            claim: Some(claim),
            ..self
        }
    }

    /// Bytes that are still to come.
    pub(crate) fn left(&self) -> u64 {
        self.meta.size - self.at
    }

    /// Takes the next bytes: no more than are left.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.noting(|part| part.file.write_all_at(bytes, part.at))?;
        self.at += bytes.len() as u64;
        self.has_hole_behind = false;
        if let Some(keeping) = &mut self.keeping {
            keeping.add(bytes);
            if keeping.is_due() {
                self.sync()?;
            }
        }
        Ok(())
    }

    /// Changes the part, which is noted of a large one.
    fn noting<T>(&mut self, change: impl FnOnce(&Self) -> T) -> T {
        self.note();
        let changed = change(self);
        self.note();
        changed
    }

    fn note(&mut self) {
        if let Some(keeping) = &mut self.keeping {
            keeping.sidecar.note(self.inode);
        }
    }

    /// So many bytes are zero: no more than are left.
    pub(crate) fn hole(&mut self, len: u64) {
        self.at += len;
        self.has_hole_behind = len > 0;
        if let Some(keeping) = &mut self.keeping {
            keeping.add_zeros(len);
        }
    }

    /// What was received is on disk, and the sidecar says so.
    fn sync(&mut self) -> io::Result<()> {
        if self.has_hole_behind {
            self.noting(|part| part.file.set_len(part.at))?;
        }
        let Some(keeping) = &mut self.keeping else {
            return Ok(());
        };
        self.file.sync_data()?;
        keeping.sidecar.append(&keeping.runs)?;
        keeping.runs.clear();
        keeping.unsynced = 0;
        keeping.synced = Instant::now();
        Ok(())
    }

    /// All bytes are there: it gets its mode and time, and waits for its name. If it cannot have them,
    /// nothing of it is left.
    pub(crate) fn complete(mut self) -> io::Result<Whole> {
        if let Err(error) = self.noting(Self::dress) {
            self.discard();
            return Err(error);
        }
        Ok(Whole {
            name: self.name,
            part: self.part,
            inode: self.inode,
            bytes: self.meta.size,
            kept: self.kept,
            file: is_large(&self.meta).then_some(self.file),
            stale: self.stale,
            _claim: self.claim,
        })
    }

    /// Gives it its length, mode and time.
    fn dress(&self) -> io::Result<()> {
        if self.has_hole_behind {
            self.file.set_len(self.meta.size)?;
        }
        Ok(self.meta.apply_to_file(&self.file)?)
    }

    /// The copy ends here: what can be gone on with is kept, anything else removed. How much is kept.
    pub(crate) fn leave(mut self) -> u64 {
        if self.keeping.is_some() {
            // A full disk has no room for more of it, but what was synced before is good.
            if let Err(error) = self.sync() {
                tracing::debug!("{}: its last bytes are not kept: {error}", self.name);
            }
            let kept = self.keeping.as_ref().map(|keeping| keeping.sidecar.bytes());
            if let Some(kept) = kept.filter(|kept| *kept > 0) {
                return kept;
            }
        }
        self.discard();
        0
    }

    /// Nothing of it is wanted.
    pub(crate) fn discard(self) {
        let remove = |name: &[u8]| {
            if let Err(error) = rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
                tracing::debug!("{}: a part stays: {error}", self.name);
            }
        };
        if self.keeping.is_some() {
            remove(&self.name.sums());
        }
        remove(&self.part);
    }
}

impl Keeping {
    fn new(sidecar: Sidecar) -> Self {
        Self {
            sidecar,
            hasher: blake3::Hasher::new(),
            in_chunk: 0,
            runs: Vec::new(),
            unsynced: 0,
            synced: Instant::now(),
        }
    }

    fn add(&mut self, mut bytes: &[u8]) {
        self.unsynced += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(COPY_CHUNK - self.in_chunk));
            self.hasher.update(now);
            self.in_chunk += now.len();
            self.close_chunk();
            bytes = later;
        }
    }

    fn add_zeros(&mut self, mut len: u64) {
        const ZERO: [u8; 4096] = [0; 4096];
        while len > 0 {
            let whole = len / COPY_CHUNK as u64;
            if self.in_chunk == 0 && whole > 0 {
                self.note(Run {
                    count: whole,
                    hash: *ZEROS,
                });
                len -= whole * COPY_CHUNK as u64;
                continue;
            }
            let most = (COPY_CHUNK - self.in_chunk).min(ZERO.len());
            let now = usize::try_from(len).unwrap_or(most).min(most);
            self.hasher.update(&ZERO[..now]);
            self.in_chunk += now;
            self.close_chunk();
            len -= now as u64;
        }
    }

    fn close_chunk(&mut self) {
        if self.in_chunk == COPY_CHUNK {
            let hash = *self.hasher.finalize().as_bytes();
            self.hasher.reset();
            self.in_chunk = 0;
            self.note(Run { count: 1, hash });
        }
    }

    fn note(&mut self, run: Run) {
        match self.runs.last_mut() {
            Some(last) if last.hash == run.hash => last.count += run.count,
            Some(_) | None => self.runs.push(run),
        }
    }

    fn is_due(&self) -> bool {
        let is_old = || self.unsynced > 0 && self.synced.elapsed() >= UNSYNCED_FOR;
        // What has no data is next to nothing on disk, but not in memory.
        let is_many = self.runs.len() as u64 * COPY_CHUNK as u64 >= COPY_UNSYNCED_MAX;
        self.unsynced >= COPY_UNSYNCED_MAX || is_many || !self.runs.is_empty() && is_old()
    }
}

/// The mode of a file that is not whole: its owner's alone.
fn private() -> Mode {
    Mode::RUSR | Mode::WUSR
}

fn create(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, private())
}

fn create_small(
    dir: &OwnedFd,
    name: &Name,
    tag: u64,
    leftovers: impl FnOnce() -> Vec<Stale>,
) -> io::Result<(File, Vec<u8>, Vec<Stale>)> {
    let part = name.part();
    match create(dir, &part) {
        Ok(fd) => return Ok((fd.into(), part, Vec::new())),
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // Of a copy that was killed, or of one that goes on at the same time.
    let stat = rustix::fs::statat(dir, &part[..], AtFlags::SYMLINK_NOFOLLOW);
    let mut stale = leftovers();
    stale.extend(stat.ok().map(|stat| Stale {
        name: part,
        inode: stat.st_ino,
    }));
    let part = name.part_of(tag);
    let fd = create(dir, &part)?;
    Ok((fd.into(), part, stale))
}

/// Opens a part, or makes it. It is this process's alone then.
fn open_large(dir: &OwnedFd, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let found = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => is_mine(&rustix::fs::fstat(&fd)?).then_some(fd),
        Err(Errno::NOENT) => Some(create(dir, name)?),
        // A link, or what cannot be written: not ours.
        Err(_) => None,
    };
    let fd = match found {
        Some(fd) => fd,
        None => {
            rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
            create(dir, name)?
        }
    };
    lock(&fd, FlockOperation::NonBlockingLockExclusive)?;
    // Whoever had the lock before may have given the file its name.
    let now = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if now.st_ino != rustix::fs::fstat(&fd)?.st_ino {
        return Err(io::Error::other("another copy of it has just ended"));
    }
    Ok(fd.into())
}

/// Locks a part as far as its file system knows locks.
fn lock(part: &OwnedFd, operation: FlockOperation) -> io::Result<()> {
    match rustix::fs::flock(part, operation) {
        Ok(()) | Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(io::Error::other("another copy of it is under way")),
        Err(error) => Err(error.into()),
    }
}

/// Opens the sidecar of a locked part.
fn open_sums(dir: &OwnedFd, name: &Name) -> io::Result<File> {
    let sums = name.sums();
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, &sums[..], flags, Mode::empty()) {
        Ok(fd) if is_mine(&rustix::fs::fstat(&fd)?) => return Ok(fd.into()),
        Err(Errno::NOENT) => {}
        Ok(_) | Err(_) => rustix::fs::unlinkat(dir, &sums[..], AtFlags::empty())?,
    }
    Ok(create(dir, &sums)?.into())
}
