//! Files by the directory that they must lie beneath: what a policy allows is a place, and between its
//! word and the open somebody may put a link there. Opened so, no link leads anywhere, neither out of the
//! directory nor within it: the path was resolved before the policy was asked.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Wherever this path leads, links and all: for what this process's own user names.
    Anywhere(PathBuf),
    /// Beneath a directory, reached without any link.
    Beneath {
        /// The directory, or the one file that is meant.
        root: PathBuf,
        /// From there on, names only; empty: the root itself.
        rest: PathBuf,
    },
}

impl Place {
    /// A resolved path beneath `root`; `None` if it does not lie there or has anything but names.
    #[must_use]
    pub fn beneath(root: &Path, path: &Path) -> Option<Self> {
        let rest = path.strip_prefix(root).ok()?;
        is_names(rest).then(|| Self::Beneath {
            root: root.to_owned(),
            rest: rest.to_owned(),
        })
    }

    /// The whole path, for people and for asking again.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Anywhere(path) => path.clone(),
            Self::Beneath { root, rest } if rest.as_os_str().is_empty() => root.clone(),
            Self::Beneath { root, rest } => root.join(rest),
        }
    }

    /// What is there: of a link itself, beneath a directory.
    ///
    /// # Errors
    /// Those of stat(2).
    pub fn stat(&self) -> io::Result<Stat> {
        match self {
            Self::Anywhere(path) => Ok(rustix::fs::stat(path)?),
            Self::Beneath { .. } => {
                let (dir, name) = self.parent()?;
                Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
            }
        }
    }

    /// The directory that it lies in, opened, and its name there.
    ///
    /// # Errors
    /// Those of open(2); [`io::ErrorKind::InvalidInput`] where it has no name.
    pub fn parent(&self) -> io::Result<(OwnedFd, &OsStr)> {
        let (root, rest) = match self {
            Self::Anywhere(path) => (path.parent(), path.as_path()),
            // The root was resolved when the policy was read.
            Self::Beneath { root, rest } if rest.as_os_str().is_empty() => {
                (root.parent(), root.as_path())
            }
            Self::Beneath { root, rest } => (Some(root.as_path()), rest.as_path()),
        };
        let name = rest.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let root = root.ok_or(io::ErrorKind::InvalidInput)?;
        let dir = match self {
            Self::Anywhere(_) => return Ok((own_directory(root)?, name)),
            Self::Beneath { .. } => directory(root)?,
        };
        match rest.parent() {
            Some(above) if rest.is_relative() && !above.as_os_str().is_empty() => {
                let flags = OFlags::DIRECTORY | PATH_ONLY;
                Ok((open_beneath(&dir, above, flags, Mode::empty())?, name))
            }
            Some(_) | None => Ok((dir, name)),
        }
    }

    /// Opens it; always close-on-exec. Blocks as open(2) does.
    ///
    /// # Errors
    /// Those of open(2); `ELOOP` or `EXDEV` where there is a link now.
    pub fn open(&self, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        match self {
            Self::Anywhere(path) => Ok(rustix::fs::open(path, flags, mode)?),
            Self::Beneath { root, rest } if rest.as_os_str().is_empty() => {
                // The root was resolved when the policy was read.
                Ok(rustix::fs::open(root, flags | OFlags::NOFOLLOW, mode)?)
            }
            Self::Beneath { root, rest } => open_beneath(&directory(root)?, rest, flags, mode),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path().display())
    }
}

/// Opens a directory that no link leads to, to open what lies beneath it.
///
/// # Errors
/// Those of open(2).
pub fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | PATH_ONLY;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens `rest`, names only, beneath `root`; no link is followed on the way, nor at its end.
///
/// # Errors
/// Those of open(2); `ELOOP` where there is a link; [`io::ErrorKind::InvalidInput`] where there is
/// anything but a name.
pub fn open_beneath(
    root: impl AsFd,
    rest: &Path,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    if rest.as_os_str().is_empty() || !is_names(rest) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = flags | OFlags::CLOEXEC;
    match at_once(root.as_fd(), rest, flags, mode) {
        // A kernel or a sandbox that does not know it.
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => {
            step_by_step(root.as_fd(), rest, flags, mode)
        }
        opened => Ok(opened?),
    }
}

#[cfg(target_os = "linux")]
fn at_once(root: BorrowedFd<'_>, rest: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    use rustix::fs::ResolveFlags;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, rest, flags, mode, resolve) {
            // Something was renamed meanwhile, and the kernel could not tell whether it got out.
            Err(Errno::AGAIN) if !flags.contains(OFlags::NONBLOCK) => {}
            opened => return opened,
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn at_once(_: BorrowedFd<'_>, _: &Path, _: OFlags, _: Mode) -> Result<OwnedFd, Errno> {
    Err(Errno::NOSYS)
}

/// One name after the other.
fn step_by_step(
    root: BorrowedFd<'_>,
    rest: &Path,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let mut names = rest.iter();
    let Some(last) = names.next_back() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut dir: Option<OwnedFd> = None;
    let step = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | PATH_ONLY;
    let at = |dir: &Option<OwnedFd>, name: &OsStr, flags, mode| {
        let from = dir.as_ref().map_or(root, AsFd::as_fd);
        rustix::fs::openat(from, name, flags, mode)
    };
    for name in names {
        dir = Some(at(&dir, name, step, Mode::empty())?);
    }
    Ok(at(&dir, last, flags | OFlags::NOFOLLOW, mode)?)
}

/// A directory that is only gone through need not be readable.
#[cfg(target_os = "linux")]
const PATH_ONLY: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const PATH_ONLY: OFlags = OFlags::empty();

/// Whether every component is a name: no root, no `.`, no `..`.
fn is_names(path: &Path) -> bool {
    let is_name = |part| matches!(part, Component::Normal(_));
    path.components().all(is_name)
}

/// A directory that this process's own user names; empty: where the process is.
fn own_directory(path: &Path) -> io::Result<OwnedFd> {
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | PATH_ONLY;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn read(root: &Path, rest: &str) -> io::Result<OwnedFd> {
        let fd = directory(root)?;
        let rest = Path::new(rest);
        let one = open_beneath(&fd, rest, OFlags::RDONLY, Mode::empty());
        let other = step_by_step(
            fd.as_fd(),
            rest,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        assert_eq!(
            one.is_ok(),
            other.is_ok(),
            "both ways say the same of {rest:?}"
        );
        one
    }

    #[test]
    fn what_lies_beneath_is_opened_and_no_link_is_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).expect("directories");
        std::fs::write(root.join("a/b/file"), "x").expect("a file");
        std::fs::write(dir.path().join("secret"), "x").expect("a file");
        symlink("../secret", root.join("out")).expect("a link");
        symlink("a/b/file", root.join("in")).expect("a link");
        symlink("a", root.join("dir")).expect("a link");
        assert!(read(&root, "a/b/file").is_ok());
        for rest in ["out", "in", "dir/b/file"] {
            let error = read(&root, rest).expect_err(rest);
            let code = error.raw_os_error();
            assert_eq!(code, Some(Errno::LOOP.raw_os_error()), "{rest}: {error}");
        }
    }

    #[test]
    fn a_place_has_names_only() {
        let beneath = |path: &str| Place::beneath(Path::new("/srv/data"), Path::new(path));
        assert!(beneath("/srv/data/x/y").is_some());
        assert!(beneath("/srv/data").is_some());
        for path in ["/srv/data-old/x", "/srv/data/../x", "/etc", "data/x"] {
            assert_eq!(beneath(path), None, "{path}");
        }
        let dir = tempfile::tempdir().expect("a directory");
        let fd = directory(dir.path()).expect("it is there");
        for rest in ["", "..", "../x", "/etc/passwd", "a/../../x"] {
            let opened = open_beneath(&fd, Path::new(rest), OFlags::RDONLY, Mode::empty());
            let kind = opened.expect_err(rest).kind();
            assert_eq!(kind, io::ErrorKind::InvalidInput, "{rest:?}");
        }
    }

    /// A directory on the way is a link out of the root half of the time, and nobody can tell when.
    #[test]
    fn f2_a_link_that_comes_and_goes_leads_nowhere() {
        use std::io::Read as _;
        use std::sync::atomic::{AtomicBool, Ordering};

        const OPENS: usize = 1_000_000;
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        for (place, content) in [("root/a", "inside"), ("outside", "secret")] {
            let place = dir.path().join(place);
            std::fs::create_dir_all(&place).expect("a directory");
            std::fs::write(place.join("file"), content).expect("a file");
        }
        symlink("../outside", root.join("b")).expect("a link");
        let fd = directory(&root).expect("it is there");
        let over = AtomicBool::new(false);
        let (mut opened, mut refused) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    exchange(&fd, "a", "b");
                }
            });
            for _ in 0..OPENS {
                let file = open_beneath(&fd, Path::new("a/file"), OFlags::RDONLY, Mode::empty());
                match file {
                    Ok(file) => {
                        let mut first = [0];
                        std::fs::File::from(file)
                            .read_exact(&mut first)
                            .expect("a byte");
                        assert_eq!(&first, b"i", "it was let out");
                        opened += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(
            opened > 0 && refused > 0,
            "{opened} opened, {refused} refused"
        );
    }

    #[cfg(target_os = "linux")]
    fn exchange(dir: &OwnedFd, one: &str, other: &str) {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(dir, one, dir, other, flags).expect("both are there");
    }

    /// Elsewhere there is a moment between.
    #[cfg(not(target_os = "linux"))]
    fn exchange(dir: &OwnedFd, one: &str, other: &str) {
        for (from, to) in [(one, "c"), (other, one), ("c", other)] {
            rustix::fs::renameat(dir, from, dir, to).expect("it is there");
        }
    }
}
