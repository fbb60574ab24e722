//! `[HOST:]REST`: a word that says what is meant, and perhaps of which host.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use farpipe_agent::endpoint::is_kind;
use farpipe_proto::identity::is_name;

/// What a word means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    /// Whose it is: a name at a relay, or the URL of an agent that listens; `None`: this host's.
    pub(crate) host: Option<String>,
    /// What it is there.
    pub(crate) rest: OsString,
}

impl Word {
    /// Takes a word apart. A host is what stands before the first `:`, unless a `/` comes earlier, or it
    /// is a kind of endpoint, or cannot be a name; a URL stands in brackets:
    /// `[wss://web1.example.org:7000]:/srv/data`.
    pub(crate) fn of(text: &OsStr) -> Self {
        let here = || Self {
            host: None,
            rest: text.to_owned(),
        };
        let bytes = text.as_bytes();
        let parts = match bytes.strip_prefix(b"[") {
            Some(inside) => bracketed(inside).filter(|(url, _)| has(url, b"://")),
            None => split(bytes, b":"),
        };
        let Some((host, rest)) = parts else {
            return here();
        };
        let Ok(host) = std::str::from_utf8(host) else {
            return here();
        };
        let is_host = host.contains("://") || is_name(host) && !is_kind(host);
        if !is_host {
            return here();
        }
        Self {
            host: Some(host.to_owned()),
            rest: OsStr::from_bytes(rest).to_owned(),
        }
    }
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let found = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..found], &bytes[found + at.len()..]))
}

/// What stands up to the `]:` that closes the first bracket, and behind it: an IPv6 address in a URL has
/// brackets of its own.
fn bracketed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut depth = 1_usize;
    let end = bytes.iter().position(|byte| {
        match byte {
            b'[' => depth += 1,
            b']' => depth -= 1,
            _ => {}
        }
        depth == 0
    })?;
    Some((&bytes[..end], bytes[end + 1..].strip_prefix(b":")?))
}

fn has(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_stands_before_the_first_colon() {
        for (text, host, rest) in [
            ("web1:/srv/a", Some("web1"), "/srv/a"),
            ("web1:a:b", Some("web1"), "a:b"),
            ("web1:tcp:db:5432", Some("web1"), "tcp:db:5432"),
            ("web1:", Some("web1"), ""),
            ("[ws://127.0.0.1:7]:/x", Some("ws://127.0.0.1:7"), "/x"),
            ("[wss://[::1]:7/p]:x", Some("wss://[::1]:7/p"), "x"),
            ("tcp:web1:80", None, "tcp:web1:80"),
            ("exec:a", None, "exec:a"),
            ("./web1:x", None, "./web1:x"),
            ("/web1:x", None, "/web1:x"),
            ("Web1:x", None, "Web1:x"),
            ("[::1]:80", None, "[::1]:80"),
            ("-", None, "-"),
            ("", None, ""),
        ] {
            let word = Word::of(OsStr::new(text));
            assert_eq!(word.host.as_deref(), host, "{text}");
            assert_eq!(word.rest, OsStr::new(rest), "{text}");
        }
    }
}
