//! A command as a rule has it: a program, and patterns for its arguments.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::resolve::{self, Program};

/// `/usr/bin/git log -n*`: POSIX words, each for one argument. In a word `*` stands for any bytes, a
/// backslash in quotes (`'\*'`) for the next byte as it is. A last word `**` stands for all further
/// arguments, whatever they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommandPattern {
    program: PathBuf,
    words: Vec<Word>,
    takes_more: bool,
}

/// Literal parts with any bytes between them: one part is a word without `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word(Vec<Vec<u8>>);

const MORE: &[u8] = b"**";

impl CommandPattern {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut words = shlex::split(text)
            .ok_or("a quote is not closed")?
            .into_iter();
        let program = words.next().ok_or("a program is missing")?;
        let program = Path::new(&program);
        if !resolve::is_plain(program) {
            return Err("a program is an absolute path without . and .., or any");
        }
        if program.as_os_str().as_bytes().contains(&b'*') {
            return Err("the program is one file, not a pattern");
        }
        let mut words: Vec<String> = words.collect();
        let takes_more = words.pop_if(|word| word.as_bytes() == MORE).is_some();
        if words.iter().any(|word| word.as_bytes() == MORE) {
            return Err("** stands for all further arguments: it comes last");
        }
        Ok(Self {
            program: resolve::entry(program),
            words: words.iter().map(|word| Word::parse(word)).collect(),
            takes_more,
        })
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn fits(&self, program: &Program, arguments: &[OsString]) -> bool {
        let is_it = self.program == program.named() || self.program == program.resolved();
        let may_follow = arguments.len() == self.words.len()
            || self.takes_more && arguments.len() > self.words.len();
        is_it && may_follow && self.words.iter().zip(arguments).all(|(w, a)| w.fits(a))
    }
}

impl Word {
    fn parse(text: &str) -> Self {
        let mut parts = vec![Vec::new()];
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            let literal = match byte {
                b'*' => {
                    parts.push(Vec::new());
                    continue;
                }
                b'\\' => bytes.next().unwrap_or(b'\\'),
                other => other,
            };
            if let Some(part) = parts.last_mut() {
                part.push(literal);
            }
        }
        Self(parts)
    }

    fn fits(&self, argument: &OsStr) -> bool {
        let bytes = argument.as_bytes();
        let [first, middle @ .., last] = self.0.as_slice() else {
            return self.0.first().is_some_and(|only| only == bytes);
        };
        // A value must not become an option.
        if first.is_empty() && bytes.starts_with(b"-") {
            return false;
        }
        // Nor leave the directory that the rule names.
        let is_anything = self.0.iter().all(Vec::is_empty);
        if !is_anything && climbs(bytes) {
            return false;
        }
        let Some(rest) = bytes.strip_prefix(first.as_slice()) else {
            return false;
        };
        let Some(mut rest) = rest.strip_suffix(last.as_slice()) else {
            return false;
        };
        for part in middle {
            let Some(at) = find(rest, part) else {
                return false;
            };
            rest = &rest[at + part.len()..];
        }
        true
    }
}

fn climbs(bytes: &[u8]) -> bool {
    bytes
        .split(|b| b"/=:,".contains(b))
        .any(|part| part == b"..")
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    bytes.windows(part.len()).position(|window| window == part)
}
