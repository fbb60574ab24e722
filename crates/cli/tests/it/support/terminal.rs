//! A terminal, with the test in front of it.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::output::Output;

/// The side of the keyboard and the screen.
#[derive(Debug)]
pub(crate) struct Terminal {
    ours: File,
    name: String,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let ours: OwnedFd = openpt(flags).expect("a terminal");
        grantpt(&ours).expect("it is ours");
        unlockpt(&ours).expect("it is ours");
        let name = ptsname(&ours, Vec::new()).expect("its name");
        Self {
            ours: ours.into(),
            name: name.to_str().expect("ASCII").to_owned(),
        }
    }

    /// The side of the programs.
    pub(crate) fn open(&self) -> File {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options.custom_flags(OFlags::NOCTTY.bits().cast_signed());
        options.open(&self.name).expect("the terminal")
    }

    /// Types keys.
    pub(crate) fn write(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).expect("a terminal");
    }

    /// Collects what is shown, until the last program has closed it.
    pub(crate) fn screen(&self) -> Output {
        Output::collect(self.ours.try_clone().expect("a descriptor"))
    }
}
