//! Directories that a copy makes things in, from when they are entered until all that lies in them is in its
//! place: then they get their own mode and time, which what is made in them would change.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::message::Meta;
use super::name::Name;

/// One directory. It is not open: there may be more of them than descriptors.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) parent: Option<Arc<Self>>,
    /// From the copy's base on.
    pub(crate) path: PathBuf,
    /// What it gets at its end; the base stays as it is.
    pub(crate) meta: Option<Meta>,
    /// The file system it is on.
    pub(crate) device: u64,
    /// It has a mark that goes at its end.
    pub(crate) is_marked: bool,
    /// Entries in it that are not settled, and one as long as more may come.
    pending: AtomicUsize,
}

impl Folder {
    /// The base of a copy.
    pub(crate) fn base(device: u64) -> Arc<Self> {
        Arc::new(Self {
            parent: None,
            path: PathBuf::new(),
            meta: None,
            device,
            is_marked: false,
            pending: AtomicUsize::new(1),
        })
    }

    /// A directory in this one.
    pub(crate) fn enter(
        self: &Arc<Self>,
        name: &Name,
        meta: Meta,
        device: u64,
        is_marked: bool,
    ) -> Arc<Self> {
        self.expect_one();
        Arc::new(Self {
            parent: Some(Arc::clone(self)),
            path: self.path.join(name.as_os_str()),
            meta: Some(meta),
            device,
            is_marked,
            pending: AtomicUsize::new(1),
        })
    }

    /// One entry more that will be settled.
    pub(crate) fn expect_one(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// One entry is settled; whether that was the last.
    pub(crate) fn settle_one(&self) -> bool {
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// The path of an entry in it, for people.
    pub(crate) fn shown(&self, base: &Path, name: &[u8]) -> Vec<u8> {
        let path = base.join(&self.path).join(OsStr::from_bytes(name));
        path.into_os_string().as_bytes().to_vec()
    }
}
