//! A disk in memory that remembers each write and each flush: a file of a FUSE file system, under a loop device.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, WriteFlags,
};

/// What the file is called.
pub(super) const DISK: &str = "disk";
const FILE: INodeNo = INodeNo(2);
/// Nothing about the file ever changes.
const TTL: Duration = Duration::from_secs(3600);

/// One thing the disk was told.
#[derive(Debug)]
pub(super) enum Entry {
    Write(usize, Box<[u8]>),
    /// What was written before is kept from here on.
    Flush,
}

#[derive(Debug)]
struct State {
    now: Vec<u8>,
    entries: Vec<Entry>,
}

/// All that the disk was told, in its order.
#[derive(Debug)]
pub(super) struct Journal {
    size: usize,
    state: Mutex<State>,
}

impl Journal {
    /// A disk with this on it.
    pub(super) fn new(content: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            size: content.len(),
            state: Mutex::new(State {
                now: content,
                entries: Vec::new(),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many things it was told so far. What is known to be acknowledged at that number is on the disk after
    /// a cut at it or later.
    pub(super) fn len(&self) -> usize {
        self.state().entries.len()
    }

    /// What it was told since it was last taken.
    pub(super) fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut self.state().entries)
    }

    /// What is on it now, as if flushed; all that it is told from here on is remembered anew.
    pub(super) fn begin(&self) -> Vec<u8> {
        let mut state = self.state();
        state.entries.clear();
        state.now.clone()
    }

    /// Until the session is over, it is the file `disk` there.
    pub(super) fn serve(self: &Arc<Self>, at: &Path) -> Result<BackgroundSession> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("farpipe-powercut".to_owned())];
        let session = Session::new(Server(Arc::clone(self)), at, &config)
            .with_context(|| format!("cannot mount a FUSE file system at {}", at.display()))?;
        session.spawn().context("cannot start the FUSE server")
    }
}

/// One thread, so that the order is that of the requests.
#[derive(Debug)]
struct Server(Arc<Journal>);

impl Server {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let is_file = ino == FILE;
        let size = if is_file { self.0.size as u64 } else { 0 };
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file {
                FileType::RegularFile
            } else {
                FileType::Directory
            },
            perm: if is_file { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == DISK {
            reply.entry(&TTL, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Nothing is kept back by a cache of the file system's own.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.0.state();
        let begin = usize::try_from(offset).map_or(self.0.size, |at| at.min(self.0.size));
        let end = (begin + size as usize).min(self.0.size);
        reply.data(&state.now[begin..end]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.0.state();
        let begin = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = begin.saturating_add(data.len());
        let Some(there) = state.now.get_mut(begin..end) else {
            return reply.error(Errno::ENOSPC);
        };
        there.copy_from_slice(data);
        state.entries.push(Entry::Write(begin, data.into()));
        drop(state);
        reply.written(u32::try_from(data.len()).unwrap_or(0));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.0.state().entries.push(Entry::Flush);
        reply.ok();
    }

    /// A descriptor was closed, which keeps nothing.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
