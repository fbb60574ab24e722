//! In which directories a file is looked for, and which of them are too wide to be opened for one file.

use std::path::{Path, PathBuf};

/// What getaddrinfo reads, by whatever C library.
pub(crate) const OF_THE_RESOLVER: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
];

/// Where it finds the modules that nsswitch.conf names.
pub(crate) const OF_LIBRARIES: &[&str] =
    &["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store"];

/// Directories in which there is something of everybody.
const EVERYBODYS: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/run/user",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/local",
    "/usr/local/etc",
    "/usr/share",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/run",
    "/var/tmp",
    "/private",
    "/private/etc",
    "/private/tmp",
    "/private/var",
];

/// Links on the way to a file, at most: as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// A name by which a file is reached, and the directory that has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    pub(crate) file: PathBuf,
}

/// Where a file has its name; if that is a link, where that leads as well. Of a directory that is not there
/// nothing.
pub(crate) fn of(file: &Path) -> Vec<Place> {
    let mut places = Vec::new();
    let mut file = file.to_owned();
    for _ in 0..LINKS_MAX {
        let parent = match file.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            // The root.
            None => break,
        };
        let Ok(directory) = parent.canonicalize() else {
            break;
        };
        let named = file.file_name().map(|name| directory.join(name));
        let named = named.unwrap_or_else(|| directory.clone());
        let link = std::fs::read_link(&named);
        let next = link.map(|link| directory.join(link));
        places.push(Place {
            directory,
            file: named,
        });
        match next {
            Ok(next) => file = next,
            Err(_) => break,
        }
    }
    places
}

/// Whether opening all of a directory, given without links, would open what belongs to others: a directory of the
/// whole host, or the home of this user, where the keys of other programs are.
pub(crate) fn is_everybodys(directory: &Path) -> bool {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let home = home.and_then(|home| home.canonicalize().ok());
    EVERYBODYS.iter().any(|one| Path::new(one) == directory)
        || home.is_some_and(|home| home.starts_with(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_the_whole_host_are_not_opened_for_a_file() {
        for one in ["/", "/etc", "/tmp", "/var/log"] {
            assert!(is_everybodys(Path::new(one)), "{one}");
        }
        for one in ["/etc/farpipe", "/run/secrets", "/tls"] {
            assert!(!is_everybodys(Path::new(one)), "{one}");
        }
    }

    #[test]
    fn a_file_has_no_place_in_a_directory_that_is_not_there() {
        assert_eq!(of(Path::new("/no-such-directory/x")), []);
        assert_eq!(of(Path::new("/")), []);
        let here = std::env::current_dir().expect("a directory");
        let place = Place {
            file: here.join("no-such-file"),
            directory: here,
        };
        assert_eq!(of(Path::new("no-such-file")), [place]);
    }
}
