//! Takes from this process what it has no need of, for good: a peer that got hold of it, by whatever fault,
//! would find no files, no programs and few system calls there.
//!
//! Files, TCP connections and signals are closed by landlock, system calls by seccomp; both hold for the
//! process and all that it starts, and can never be taken back. On Linux only, and as far as the kernel goes: what
//! could not be had is in [`Enforced`], to be told. No failure here stops a process.
//!
//! What always holds: [`Sandbox::enforce`] is called before any other thread exists, because landlock closes
//! the calling thread and those that it starts. A thread left open would be the way out for the others.

use std::path::{Path, PathBuf};

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod calls;
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod files;
mod places;

/// What may be done with the files of a directory, and of all below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Read them.
    Read,
    /// Also make new ones, and write and shorten any.
    Append,
    /// Also remove and rename them.
    Change,
    /// Whatever a user may do with files, but run them or make devices.
    All,
}

/// What a process needs. Everything else is closed by [`Sandbox::enforce`]; programs are started, and other
/// processes looked into, in no case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
    places: Vec<(PathBuf, Access)>,
    /// Files in directories that belong to all of the host.
    alone: Vec<PathBuf>,
    /// Directories of all of the host that are open nevertheless.
    wide: Vec<PathBuf>,
    /// `None`: to any.
    tcp_ports: Option<Vec<u16>>,
    reaches_abstract: bool,
    signals_others: bool,
    changes_modes: bool,
}

impl Sandbox {
    /// Nothing but sockets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A file, or one that will stand there once: it may be read, also after another took its place by rename,
    /// or a link on the way leads elsewhere in the same directory. So all beside it and below may be
    /// read. Where that would be a directory of the whole host, as `/etc` or a home, it is the file alone
    /// that stands there now: see [`Enforced::alone`].
    pub fn read(&mut self, file: &Path) {
        self.beside(file, Access::Read);
    }

    /// The same, of a file that is appended to, and made anew after it was moved away. Its directory is
    /// opened to that wherever it is: see [`Enforced::wide`].
    pub fn append(&mut self, file: &Path) {
        self.wherever(file, Access::Append);
    }

    /// The same, of a file that is replaced by rename.
    pub fn replace(&mut self, file: &Path) {
        self.wherever(file, Access::Change);
    }

    /// All below a directory may be read.
    pub fn read_below(&mut self, directory: &Path) {
        self.places.push((directory.to_owned(), Access::Read));
    }

    /// All below a directory may be changed, also directories, FIFOs and sockets; of a file all beside it. What is not
    /// there yet is taken for a file.
    pub fn change_below(&mut self, path: &Path) {
        self.below(path, Access::All);
    }

    /// The same, to be read only.
    pub fn read_below_or_beside(&mut self, path: &Path) {
        self.below(path, Access::Read);
    }

    /// A device may be read, written and given orders.
    pub fn order_device(&mut self, device: &Path) {
        self.places.push((device.to_owned(), Access::All));
    }

    /// Modes and times of files may be set, as whoever copies them does: of all files of this user, for nothing
    /// tells them apart there.
    pub fn set_modes(&mut self) {
        self.changes_modes = true;
    }

    /// What the system's resolver reads when a name is looked up, and the libraries that it loads for it.
    pub fn look_up_names(&mut self) {
        for place in places::OF_THE_RESOLVER
            .iter()
            .flat_map(|file| places::of(Path::new(file)))
        {
            // Nobody needs to hear that these are read as they are now.
            let open = match places::is_everybodys(&place.directory) {
                true => place.file,
                false => place.directory,
            };
            self.places.push((open, Access::Read));
        }
        for directory in places::OF_LIBRARIES {
            self.read_below(Path::new(directory));
        }
    }

    /// TCP connections go to these ports only. UDP is not limited.
    pub fn connect_only_to(&mut self, ports: &[u16]) {
        self.tcp_ports = Some(ports.to_vec());
    }

    /// Unix sockets whose names are in no file system stay reachable.
    pub fn reach_abstract_sockets(&mut self) {
        self.reaches_abstract = true;
    }

    /// Processes that are none of its own can be sent signals, as far as this user may.
    pub fn signal_others(&mut self) {
        self.signals_others = true;
    }

    /// Closes the rest, as far as the kernel does it. Never fails: [`Enforced`] says what is closed now.
    #[must_use]
    pub fn enforce(self) -> Enforced {
        let (files, calls) = enforce(&self);
        Enforced {
            alone: self.alone,
            wide: self.wide,
            files,
            calls,
        }
    }

    fn below(&mut self, path: &Path, access: Access) {
        match path.is_dir() {
            true => self.places.push((path.to_owned(), access)),
            false => self.wherever(path, access),
        }
    }

    fn beside(&mut self, file: &Path, access: Access) {
        for place in places::of(file) {
            match places::is_everybodys(&place.directory) {
                true => self.alone.push(place.file),
                false => self.places.push((place.directory, access)),
            }
        }
    }

    fn wherever(&mut self, file: &Path, access: Access) {
        for place in places::of(file) {
            if places::is_everybodys(&place.directory) {
                self.wide.push(place.directory.clone());
            }
            self.places.push((place.directory, access));
        }
    }
}

/// Why a part could not be had, in words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub String);

/// What holds from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enforced {
    alone: Vec<PathBuf>,
    wide: Vec<PathBuf>,
    /// Landlock's version in this kernel, from 1; what versions before 6 leave open is in [`Enforced::missing`].
    pub files: Result<u32, Missing>,
    /// The system calls.
    pub calls: Result<(), Missing>,
}

impl Enforced {
    /// What was wanted and is not closed, a sentence each. Empty: all is.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        match &self.files {
            Ok(version) => {
                let since = [
                    (3, "files can be shortened"),
                    (4, "TCP connections are not limited"),
                    (5, "devices can be given orders (ioctl)"),
                    (
                        6,
                        "other processes can be sent signals, and reached by abstract sockets",
                    ),
                ];
                let open = since.iter().filter(|(since, _)| version < since);
                missing.extend(open.map(|(since, what)| {
                    format!("{what}: landlock {since} is wanted, and this kernel has {version}")
                }));
            }
            Err(Missing(why)) => missing.push(format!("files are open: {why}")),
        }
        if let Err(Missing(why)) = &self.calls {
            missing.push(format!("system calls are open: {why}"));
        }
        missing
    }

    /// Files that can be read as they are now only: one that takes their place cannot.
    #[must_use]
    pub fn alone(&self) -> &[PathBuf] {
        if self.files.is_err() {
            return &[];
        }
        &self.alone
    }

    /// Directories of the whole host, or of its user, in which files can be made and written, because one of ours
    /// is there.
    #[must_use]
    pub fn wide(&self) -> &[PathBuf] {
        if self.files.is_err() {
            return &[];
        }
        &self.wide
    }
}

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
fn enforce(sandbox: &Sandbox) -> (Result<u32, Missing>, Result<(), Missing>) {
    // The calls last: landlock is one.
    (files::close(sandbox), calls::close(sandbox))
}

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
fn enforce(_: &Sandbox) -> (Result<u32, Missing>, Result<(), Missing>) {
    let missing = || Missing("this system has no sandbox that farpipe knows".to_owned());
    (Err(missing()), Err(missing()))
}
