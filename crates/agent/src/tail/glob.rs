//! Patterns of paths, compared with names at the host: `*` is any part of a name, `?` one byte, `[a-z]`
//! and `[!a-z]` one of several, `\` takes what follows as it is. None of them means a `/`, nor a dot at the
//! beginning of a name.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use farpipe_proto::limits::TAIL_ENTRIES_MAX;

/// One absolute path or pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    /// As it was asked for.
    text: PathBuf,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Name(OsString),
    Some(Vec<u8>),
}

impl Pattern {
    /// `None`: it is not absolute, or has a part that is no name.
    pub(super) fn parse(path: &Path) -> Option<Self> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.first() != Some(&b'/') || bytes.contains(&0) {
            return None;
        }
        let parts = bytes
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".");
        let parts: Option<Vec<Part>> = parts
            .map(|part| match part {
                b".." => None,
                part if is_wild(part) => Some(Part::Some(part.to_vec())),
                part => Some(Part::Name(OsString::from_vec(unescaped(part)))),
            })
            .collect();
        let parts = parts.filter(|parts| !parts.is_empty())?;
        let text = path.to_owned();
        Some(Self { text, parts })
    }

    /// As it was asked for, to name it when nothing fits.
    pub(super) fn text(&self) -> &Path {
        &self.text
    }

    /// The path, if there is only one that it can mean.
    pub(super) fn literal(&self) -> Option<PathBuf> {
        let names = self.parts.iter().map(|part| match part {
            Part::Name(name) => Some(name),
            Part::Some(_) => None,
        });
        let names: Option<Vec<&OsString>> = names.collect();
        Some(Path::new("/").join(names?.into_iter().collect::<PathBuf>()))
    }

    /// What it finds, in the order of the names. `may_list` says whether a directory may be looked into,
    /// `looked` gets each that was.
    pub(super) fn find(
        &self,
        may_list: &mut dyn FnMut(&Path) -> bool,
        looked: &mut Vec<PathBuf>,
    ) -> Vec<PathBuf> {
        let mut found = vec![PathBuf::from("/")];
        let mut left = TAIL_ENTRIES_MAX;
        for part in &self.parts {
            found = match part {
                Part::Name(name) => found.into_iter().map(|dir| dir.join(name)).collect(),
                Part::Some(pattern) => {
                    let mut next = Vec::new();
                    for dir in found.into_iter().filter(|dir| may_list(dir)) {
                        let names = names(&dir, &mut left);
                        let fits = |name: &OsString| fits(pattern, name.as_bytes());
                        next.extend(names.into_iter().filter(fits).map(|name| dir.join(name)));
                        looked.push(dir);
                    }
                    next
                }
            };
        }
        found.retain(|path| path.symlink_metadata().is_ok());
        found
    }
}

impl Pattern {
    /// Whether any directory may be looked into for it.
    pub(super) fn find_dirs(&self, may_list: &mut dyn FnMut(&Path) -> bool) -> bool {
        let mut any = false;
        let mut listed = |dir: &Path| {
            let may = may_list(dir);
            any |= may;
            may
        };
        self.find(&mut listed, &mut Vec::new());
        any
    }
}

/// The names in a directory, sorted; none of one that cannot be read.
fn names(dir: &Path, left: &mut usize) -> Vec<OsString> {
    let Ok(entries) = dir.read_dir() else {
        return Vec::new();
    };
    let mut names: Vec<OsString> = entries
        .take(*left)
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .collect();
    *left -= names.len().min(*left);
    names.sort();
    names
}

/// Whether a word has anything that can mean several names.
pub(super) fn is_wild(word: &[u8]) -> bool {
    let mut is_escaped = false;
    word.iter().any(|byte| {
        let is_wild = !is_escaped && matches!(byte, b'*' | b'?' | b'[');
        is_escaped = !is_escaped && *byte == b'\\';
        is_wild
    })
}

fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut bytes = word.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => plain.push(*bytes.next().unwrap_or(byte)),
            byte => plain.push(*byte),
        }
    }
    plain
}

/// Whether a name fits. Takes at most as many steps as the product of the two lengths.
pub(super) fn fits(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    let (mut at, mut in_name) = (0, 0);
    // Where the last `*` ended, and how much of the name it has so far.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            star = Some((at, in_name));
            continue;
        }
        let one = name.get(in_name).copied();
        match (one, one.and_then(|byte| one_fits(&pattern[at..], byte))) {
            (None, _) if at == pattern.len() => return true,
            (Some(_), Some(len)) => {
                at += len;
                in_name += 1;
            }
            _ => {
                let Some((after, taken)) = star.filter(|(_, taken)| *taken < name.len()) else {
                    return false;
                };
                star = Some((after, taken + 1));
                (at, in_name) = (after, taken + 1);
            }
        }
    }
}

/// How much of a pattern stands for one byte, if it fits.
pub(super) fn one_fits(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', plain, ..] => (*plain == byte).then_some(2),
        [b'[', set @ ..] => match set_fits(set, byte) {
            Some((fits, len)) => fits.then_some(1 + len),
            // Without an end it is the byte itself.
            None => (byte == b'[').then_some(1),
        },
        [plain, ..] => (*plain == byte).then_some(1),
        [] => None,
    }
}

/// Whether a byte is in the set that begins here, and how long the set is with its end.
fn set_fits(set: &[u8], byte: u8) -> Option<(bool, usize)> {
    let is_not = matches!(set.first(), Some(b'!' | b'^'));
    let mut at = usize::from(is_not);
    let first = at;
    let mut is_in = false;
    loop {
        let low = *set.get(at)?;
        if low == b']' && at > first {
            return Some((is_in != is_not, at + 1));
        }
        match (set.get(at + 1), set.get(at + 2)) {
            (Some(b'-'), Some(high)) if *high != b']' => {
                is_in |= (low..=*high).contains(&byte);
                at += 3;
            }
            _ => {
                is_in |= low == byte;
                at += 1;
            }
        }
    }
}

/// Whether `name` can be what a file called `base` is called after its rotation.
pub(super) fn is_rotated(name: &OsStr, base: &OsStr) -> bool {
    const COMPRESSED: [&[u8]; 6] = [b".gz", b".bz2", b".xz", b".zst", b".lz4", b".zip"];
    let (name, base) = (name.as_bytes(), base.as_bytes());
    if COMPRESSED.iter().any(|end| name.ends_with(end)) {
        return false;
    }
    // app.log.1, app.log-20261127, app.log.old
    if let Some([b'.' | b'-' | b'_', rest @ ..]) = name.strip_prefix(base) {
        return is_counted(rest) || rest == b"old" || rest == b"prev";
    }
    // app.1.log, app-2026-11-27.log
    let Some(dot) = base
        .iter()
        .rposition(|byte| *byte == b'.')
        .filter(|at| *at > 0)
    else {
        return false;
    };
    let (stem, end) = base.split_at(dot);
    let middle = name
        .strip_prefix(stem)
        .and_then(|rest| rest.strip_suffix(end));
    matches!(middle, Some([b'.' | b'-' | b'_', rest @ ..]) if is_counted(rest))
}

/// A number or a date: digits, with what stands between them.
fn is_counted(text: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_digit() || b".-_:TZ+".contains(byte);
    text.iter().any(u8::is_ascii_digit) && text.iter().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits_str(pattern: &str, name: &str) -> bool {
        fits(pattern.as_bytes(), name.as_bytes())
    }

    #[test]
    fn a_pattern_fits_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*.log", "app.log", true),
            ("*.log", "app.log.1", false),
            ("*.log", ".log", false),
            (".*", ".log", true),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-", false),
            ("app.?", "app.1", true),
            ("app.?", "app.", false),
            ("app.[0-9]", "app.7", true),
            ("app.[!0-9]", "app.7", false),
            ("app.[^0-9]", "app.x", true),
            ("app.[]x]", "app.]", true),
            ("app.[a-", "app.[a-", true),
            (r"\*", "*", true),
            (r"\*", "x", false),
            ("**", "anything", true),
        ] {
            assert_eq!(fits_str(pattern, name), expected, "{pattern} {name}");
        }
        assert!(!fits_str(&"*a".repeat(40), &"a".repeat(30)), "and soon");
    }

    #[test]
    fn a_path_without_a_pattern_is_itself() {
        let literal = |path: &str| Pattern::parse(Path::new(path))?.literal();
        assert_eq!(literal("/var//log/./x"), Some("/var/log/x".into()));
        assert_eq!(literal(r"/var/\*.log"), Some("/var/*.log".into()));
        assert_eq!(literal("/var/*.log"), None);
        for odd in ["var/log", "/var/../etc/x", "/", "", "/a\0b"] {
            assert_eq!(Pattern::parse(Path::new(odd)), None, "{odd:?}");
        }
    }

    #[test]
    fn names_after_a_rotation_are_known() {
        for (name, base, expected) in [
            ("app.log.1", "app.log", true),
            ("app.log-20261127", "app.log", true),
            ("app.log.2026-11-27T10:00:00", "app.log", true),
            ("app.log.old", "app.log", true),
            ("app.1.log", "app.log", true),
            ("app-2026-11-27.log", "app.log", true),
            ("app.log", "app.log", false),
            ("app.log.2.gz", "app.log", false),
            ("app.log.bak", "app.log", false),
            ("application.log", "app.log", false),
            ("syslog.1", "syslog", true),
            ("x.1", "syslog", false),
        ] {
            let is = is_rotated(OsStr::new(name), OsStr::new(base));
            assert_eq!(is, expected, "{name}");
        }
    }

    #[test]
    fn only_what_may_be_listed_is_looked_into() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().canonicalize().expect("it is there");
        for name in ["a/x.log", "a/y.log", "b/x.log", "a/no"] {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            std::fs::write(path, "").expect("written");
        }
        let pattern = Pattern::parse(&dir.join("*/*.log")).expect("a pattern");
        let mut looked = Vec::new();
        let forbidden = dir.join("b");
        let found = pattern.find(&mut |dir| dir != forbidden, &mut looked);
        assert_eq!(found, [dir.join("a/x.log"), dir.join("a/y.log")]);
        assert_eq!(looked, [dir.clone(), dir.join("a")]);
    }
}
