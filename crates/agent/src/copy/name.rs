//! Names that a peer may give to what is made here: one component of a path, and none of ours.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;

use crate::shown::{quoted, shown};

/// Longest name, in bytes: what file systems take.
const NAME_MAX: usize = 255;
/// What ends the names of files that are not whole yet.
pub(crate) const PART: &[u8] = b".farpipe-part";
/// What ends the names of their sidecars.
pub(crate) const SUMS: &[u8] = b".farpipe-sums";

/// A name of an entry in a directory. Never a path, `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(Vec<u8>);

/// Why something is none. The peer's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, `.` or `..`.
    #[error("{0} is no name of a file")]
    NoName(String),
    /// It has a slash or a zero byte in it.
    #[error("{0} is no name: it has a slash or a zero byte in it")]
    Path(String),
    /// Longer than any file system takes.
    #[error("a name has {0} bytes, and {NAME_MAX} is the limit")]
    Long(usize),
    /// What this program calls its own files.
    #[error("{0} is a name that farpipe gives to unfinished files")]
    Ours(String),
}

impl Name {
    /// Checks bytes that a peer sent.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NameError> {
        let shown = || quoted(bytes);
        if matches!(bytes, b"" | b"." | b"..") {
            return Err(NameError::NoName(shown()));
        }
        if bytes.len() > NAME_MAX {
            return Err(NameError::Long(bytes.len()));
        }
        if bytes.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(NameError::Path(shown()));
        }
        if is_ours(bytes) {
            return Err(NameError::Ours(shown()));
        }
        Ok(Self(bytes.to_vec()))
    }

    /// As the system wants it.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// What a file is called here until it is whole, beside its target.
    pub(crate) fn part(&self) -> Vec<u8> {
        self.with(PART)
    }

    /// Another such name, if that one is somebody else's.
    pub(crate) fn part_of(&self, tag: u64) -> Vec<u8> {
        self.with(format!(".{tag:016x}.farpipe-part").as_bytes())
    }

    /// What its sidecar is called.
    pub(crate) fn sums(&self) -> Vec<u8> {
        self.with(SUMS)
    }

    fn with(&self, end: &[u8]) -> Vec<u8> {
        let mut name = vec![b'.'];
        if 1 + self.0.len() + end.len() <= NAME_MAX {
            name.extend_from_slice(&self.0);
        } else {
            // As good as the name itself, and short.
            name.extend_from_slice(blake3::hash(&self.0).to_hex().as_bytes());
        }
        name.extend_from_slice(end);
        name
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

/// Whether a file is one that a copy has left unfinished.
pub(crate) fn is_ours(name: &[u8]) -> bool {
    name.starts_with(b".") && (name.ends_with(PART) || name.ends_with(SUMS))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_one_component_and_none_of_ours() {
        for bad in [
            &b""[..],
            b".",
            b"..",
            b"/",
            b"../x",
            b"/etc/passwd",
            b"a/b",
            b"a\0b",
            b".x.farpipe-part",
            b".x.farpipe-sums",
        ] {
            assert!(Name::parse(bad).is_err(), "{}", shown(bad));
        }
        assert!(Name::parse(&[b'a'; 256]).is_err());
        for good in [
            &b"a"[..],
            b"...",
            b"C:\\x",
            b"\\\\host",
            b"a\nb",
            b"\xff\xfe",
            b"\x1b[2J",
            b"x.farpipe-part",
        ] {
            let name = Name::parse(good).expect("a name");
            assert_eq!(name.as_os_str().as_bytes(), good);
        }
    }

    proptest! {
        #[test]
        fn names_of_unfinished_files_fit_and_differ(name in prop::collection::vec(1_u8..=255, 1..=255)) {
            if let Ok(name) = Name::parse(&name) {
                for ours in [name.part(), name.sums(), name.part_of(7)] {
                    prop_assert!(ours.len() <= NAME_MAX);
                    prop_assert!(is_ours(&ours));
                    prop_assert!(!ours.contains(&b'/'));
                }
                prop_assert_ne!(name.part(), name.sums());
            }
        }
    }
}
