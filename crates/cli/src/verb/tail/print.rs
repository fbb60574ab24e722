//! What `farpipe tail` prints: bytes as they are, between them the names of their files, on stdout; what
//! happens to the files on stderr.

use std::borrow::Cow;

use farpipe_agent::policy::Denied;
use farpipe_agent::shown::shown;
use farpipe_agent::tail::ask::Show;
use farpipe_proto::limits::TAIL_FILES_MAX;
use farpipe_proto::link::handshake::printable;
use farpipe_proto::wire::tail::{TailNews, TailNotice};

use crate::output;

/// How the names of files are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// As tail does, when another file goes on.
    Headers,
    /// In front of each line.
    Each,
    None,
}

/// Prints what comes.
#[derive(Debug)]
pub(super) struct Printer {
    host: String,
    names: Names,
    /// What is missing does not come any more.
    once: bool,
    quiet: bool,
    /// Whose bytes were printed last.
    current: Option<Vec<u8>>,
    /// Whether the last of them ended a line.
    is_at_start: bool,
    /// Another session is to go on; that it does is not told yet.
    pub(super) is_asked_anew: bool,
    /// Something of a file could not be had.
    pub(super) is_incomplete: bool,
}

impl Printer {
    pub(super) fn new(host: &str, names: Names, once: bool, quiet: bool) -> Self {
        Self {
            host: match host.contains("://") {
                true => format!("[{host}]"),
                false => host.to_owned(),
            },
            names,
            once,
            quiet,
            current: None,
            is_at_start: true,
            is_asked_anew: false,
            is_incomplete: false,
        }
    }

    /// Whether another file goes on than before.
    fn is_another(&mut self, path: &[u8]) -> bool {
        let is_another = self.current.as_deref() != Some(path);
        if is_another {
            self.current = Some(path.to_vec());
        }
        is_another
    }

    /// Says once that another session has taken up what was lost.
    fn tell_back(&mut self) {
        if std::mem::take(&mut self.is_asked_anew) && !self.quiet {
            output::line(&format!(
                "farpipe: {} is followed again, from where it was",
                self.host
            ));
        }
    }

    fn with_header<'a>(&mut self, path: &[u8], bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let is_first = self.current.is_none();
        if !self.is_another(path) {
            return bytes.into();
        }
        let between = if is_first { "" } else { "\n" };
        let mut shown = format!("{between}==> {} <==\n", shown(path)).into_bytes();
        shown.extend_from_slice(bytes);
        shown.into()
    }

    fn with_names(&mut self, path: &[u8], bytes: &[u8]) -> Vec<u8> {
        let name = format!("{}: ", shown(path));
        let mut shown = Vec::with_capacity(bytes.len() + name.len());
        if self.is_another(path) && !self.is_at_start {
            // The other one stopped in the middle of a line.
            shown.push(b'\n');
            self.is_at_start = true;
        }
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.is_at_start {
                shown.extend_from_slice(name.as_bytes());
            }
            shown.extend_from_slice(line);
            self.is_at_start = line.ends_with(b"\n");
        }
        shown
    }
}

impl Show for Printer {
    fn data<'a>(&mut self, path: &[u8], bytes: &'a [u8]) -> Cow<'a, [u8]> {
        match self.names {
            Names::None => bytes.into(),
            Names::Headers => self.with_header(path, bytes),
            Names::Each => self.with_names(path, bytes).into(),
        }
    }

    fn notice(&mut self, notice: &TailNotice) {
        let many = match &*notice.message {
            "" => format!("not followed: there are more than {TAIL_FILES_MAX} files"),
            why => format!("not followed: {}", printable(why)),
        };
        let unreadable = format!("cannot be read: {}", printable(&notice.message));
        let (is_bad, what) = match TailNews::from_wire(notice.news) {
            Some(TailNews::Begun) => return self.tell_back(),
            Some(TailNews::Closed) | None => return,
            Some(TailNews::Rotated) => (false, "rotated"),
            Some(TailNews::Truncated) => (false, "emptied; read from its start"),
            Some(TailNews::Gone) => (false, "gone; waiting for the next one"),
            Some(TailNews::Missing) if self.once => (true, "not there"),
            Some(TailNews::Missing) => (false, "not there yet; waiting for it"),
            Some(TailNews::Unreadable) => (true, unreadable.as_str()),
            Some(TailNews::Denied) => (true, Denied::TOLD),
            Some(TailNews::Lost) => (
                true,
                "what was read last is not there any more; nobody knows how much is missing",
            ),
            Some(TailNews::TooMany) => (true, many.as_str()),
        };
        let told = format!("{}:{}: {what}", self.host, shown(&notice.path));
        if is_bad {
            self.is_incomplete = true;
            output::error(&told);
        } else if !self.quiet {
            output::line(&format!("farpipe: {told}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(names: Names, pieces: &[(&str, &str)]) -> String {
        let mut printer = Printer::new("web1", names, false, true);
        let shown: Vec<u8> = pieces
            .iter()
            .flat_map(|(path, bytes)| printer.data(path.as_bytes(), bytes.as_bytes()).into_owned())
            .collect();
        String::from_utf8(shown).expect("text")
    }

    #[test]
    fn headers_are_those_of_tail() {
        let pieces = [("a", "1\n"), ("a", "2\n"), ("b", "3"), ("a\n", "4\n")];
        let expected = "==> a <==\n1\n2\n\n==> b <==\n3\n==> $'a\\n' <==\n4\n";
        assert_eq!(printed(Names::Headers, &pieces), expected);
        assert_eq!(printed(Names::None, &pieces), "1\n2\n34\n");
    }

    #[test]
    fn each_line_has_its_name() {
        let pieces = [("a", "1\n2"), ("a", "2\n3"), ("b", "4\n5\n"), ("a", "6\n")];
        let expected = "a: 1\na: 22\na: 3\nb: 4\nb: 5\na: 6\n";
        assert_eq!(printed(Names::Each, &pieces), expected);
    }
}
