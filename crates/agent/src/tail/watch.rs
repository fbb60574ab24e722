//! Waits until files may have changed. Where the system does not tell, as on a network's file systems, who
//! waits looks by itself now and then; so what is missed here only costs time.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use crate::serve::Taken;

#[cfg(target_os = "linux")]
pub(super) use self::system::Watch;

#[cfg(target_os = "linux")]
mod system {
    use std::collections::BTreeMap;
    use std::os::fd::{AsRawFd as _, OwnedFd};

    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
    use rustix::io::Errno;
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    use super::{File, PathBuf, Taken, io};
    use crate::endpoint::fd::register;

    /// What is watched.
    pub(in super::super) struct Watch {
        fd: AsyncFd<OwnedFd>,
        files: BTreeMap<u32, Watched>,
        dirs: BTreeMap<PathBuf, Watched>,
        take: Box<dyn Fn() -> Option<Taken> + Send + Sync>,
    }

    /// One watch, and its share of those that this process may have.
    #[derive(Debug)]
    struct Watched {
        watch: i32,
        _taken: Taken,
    }

    impl Watch {
        /// `take` gives a share for one more watch, if there is one. Needs a tokio runtime with I/O.
        pub(in super::super) fn new(
            take: impl Fn() -> Option<Taken> + Send + Sync + 'static,
        ) -> io::Result<Self> {
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            Ok(Self {
                fd: register(fd, Interest::READABLE)?,
                files: BTreeMap::new(),
                dirs: BTreeMap::new(),
                take: Box::new(take),
            })
        }

        /// Watches these and no others.
        pub(in super::super) fn keep(&mut self, files: &[(u32, &File)], dirs: &[PathBuf]) {
            let fd = self.fd.get_ref();
            self.files.retain(|number, watch| {
                let is_kept = files.iter().any(|(file, _)| file == number);
                if !is_kept {
                    // A file that is gone has taken its watch with it.
                    let _ = inotify::remove_watch(fd, watch.watch);
                }
                is_kept
            });
            self.dirs.retain(|dir, watch| {
                let is_kept = dirs.contains(dir);
                if !is_kept {
                    let _ = inotify::remove_watch(fd, watch.watch);
                }
                is_kept
            });
            for (number, file) in files {
                if self.files.contains_key(number) {
                    continue;
                }
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                let flags = WatchFlags::MODIFY | WatchFlags::ATTRIB;
                if let Some(taken) = (self.take)()
                    && let Ok(watch) = inotify::add_watch(fd, path, flags)
                {
                    let _taken = taken;
                    self.files.insert(*number, Watched { watch, _taken });
                }
            }
            let flags = WatchFlags::CREATE
                | WatchFlags::MOVED_TO
                | WatchFlags::MOVED_FROM
                | WatchFlags::DELETE
                | WatchFlags::ONLYDIR;
            for dir in dirs {
                if !self.dirs.contains_key(dir)
                    && let Some(taken) = (self.take)()
                    && let Ok(watch) = inotify::add_watch(fd, dir, flags)
                {
                    let _taken = taken;
                    self.dirs.insert(dir.clone(), Watched { watch, _taken });
                }
            }
        }

        /// Ready when something has changed since it was ready last. Cancel safe.
        pub(in super::super) async fn changed(&self) {
            let Ok(mut ready) = self.fd.readable().await else {
                return std::future::pending().await;
            };
            let mut events = [0_u8; 4096];
            // What it was is looked at anew.
            while let Ok(_) | Err(Errno::INTR) = rustix::io::read(self.fd.get_ref(), &mut events) {}
            ready.clear_ready();
        }
    }
}

/// Where nothing tells of changes.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(super) struct Watch;

#[cfg(not(target_os = "linux"))]
impl Watch {
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    pub(super) fn new(_: impl Fn() -> Option<Taken>) -> io::Result<Self> {
        Ok(Self)
    }

    #[expect(clippy::unused_self, reason = "elsewhere it has something")]
    pub(super) fn keep(&mut self, _: &[(u32, &File)], _: &[PathBuf]) {}

    #[expect(clippy::unused_self, reason = "elsewhere it has something")]
    pub(super) async fn changed(&self) {
        std::future::pending().await
    }
}
