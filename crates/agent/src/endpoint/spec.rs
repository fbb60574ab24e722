//! What an endpoint is called on the command line: `-`, `PATH`, `exec:CMD`, `tcp:HOST:PORT`…

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use farpipe_net::{HostPort, HostPortError, redacted_url};

use super::{Use, WsListenSpec, WsSpec};

/// Which endpoint to open. Made from text by [`EndpointSpec::parse`] or [`str::parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointSpec {
    /// `-`: this process's stdin and stdout.
    Stdio,
    /// A regular file, FIFO or device; which one is found out from the open descriptor.
    Path(PathSpec),
    /// `exec:CMD`: a program and its arguments, at least one word, the first not empty.
    Exec(Vec<OsString>),
    /// `sh:CMD`: a command line for `/bin/sh -c`.
    Shell(OsString),
    /// `tcp:HOST:PORT`: a connection to it.
    Tcp(HostPort),
    /// `tcp-listen:[HOST:]PORT`: connections from others.
    TcpListen(HostPort),
    /// `unix:PATH`: a connection to a Unix socket.
    Unix(PathBuf),
    /// `unix-listen:PATH`: connections from others.
    UnixListen(PathBuf),
    /// `ws:URL`: a WebSocket connection to a server that need not be a farpipe.
    Ws(WsSpec),
    /// `ws-listen:[HOST:]PORT[/PATH]`: WebSocket connections from others.
    WsListen(WsListenSpec),
}

/// Which file, and how long a FIFO is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathSpec {
    /// The file.
    pub path: PathBuf,
    /// If it is a FIFO that is read.
    pub writers: Writers,
}

/// Which writers of a FIFO are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// One after the other: the source has no end.
    InTurn,
    /// The first, and whoever writes beside it: the source ends when the last of them has left.
    First,
}

/// What of a host an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// A file, FIFO or device.
    File(&'a Path),
    /// A program, with its arguments.
    Program(&'a [OsString]),
    /// A line for the shell.
    Line(&'a OsStr),
    /// A connection to an address.
    Connection(&'a HostPort),
    /// A connection to a Unix socket.
    Socket(&'a Path),
    /// A port where others connect.
    Port(&'a HostPort),
    /// A Unix socket where others connect.
    NewSocket(&'a Path),
    /// Something that only who runs there has.
    Own,
}

impl<P: Into<PathBuf>> From<P> for PathSpec {
    fn from(path: P) -> Self {
        Self {
            path: path.into(),
            writers: Writers::InTurn,
        }
    }
}

impl EndpointSpec {
    /// This process's stdin and stdout.
    #[must_use]
    pub fn stdio() -> Self {
        Self::Stdio
    }

    /// Whether there is only one of it in a process: stdin and stdout.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Stdio)
    }

    /// Whether others connect to it, so that it can be many: see [`super::listen`]. It cannot stand at
    /// a session's listener.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        matches!(
            self,
            Self::TcpListen(_) | Self::UnixListen(_) | Self::WsListen(_)
        )
    }

    /// Whether each who asks can have one for itself: a command is started, a connection made.
    #[must_use]
    pub fn is_had_anew(&self) -> bool {
        match self {
            Self::Exec(_) | Self::Shell(_) | Self::Tcp(_) | Self::Unix(_) | Self::Ws(_) => true,
            Self::Stdio
            | Self::Path(_)
            | Self::TcpListen(_)
            | Self::UnixListen(_)
            | Self::WsListen(_) => false,
        }
    }

    /// Whether it is read or written, but not both: the caller must say which.
    #[must_use]
    pub fn needs_direction(&self) -> bool {
        matches!(self, Self::Path(_))
    }

    /// The same, ending with the first that comes: a FIFO with its first writer. A listening kind
    /// stays as it is: how many of its connections are served is the caller's to decide.
    ///
    /// # Errors
    /// [`SpecError::NothingComesAgain`]: it ends with the first anyway.
    pub fn once(self) -> Result<Self, SpecError> {
        match self {
            Self::Path(PathSpec { path, .. }) => Ok(Self::Path(PathSpec {
                path,
                writers: Writers::First,
            })),
            Self::TcpListen(_) | Self::UnixListen(_) | Self::WsListen(_) => Ok(self),
            Self::Stdio
            | Self::Exec(_)
            | Self::Shell(_)
            | Self::Tcp(_)
            | Self::Unix(_)
            | Self::Ws(_) => Err(SpecError::NothingComesAgain {
                spec: self.to_string(),
            }),
        }
    }

    /// Whether what is used so writes to this process's stdout: itself, or a command that has it.
    #[must_use]
    pub fn writes_stdout(&self, wanted: Use) -> bool {
        match self {
            Self::Stdio => wanted.wants_sink(),
            Self::Path(_)
            | Self::Tcp(_)
            | Self::TcpListen(_)
            | Self::Unix(_)
            | Self::UnixListen(_)
            | Self::Ws(_)
            | Self::WsListen(_) => false,
            Self::Exec(_) | Self::Shell(_) => !wanted.wants_source(),
        }
    }

    /// A connection to an address.
    #[must_use]
    pub fn tcp(to: HostPort) -> Self {
        Self::Tcp(to)
    }

    /// What of a host it is, for who has to allow it, or to ask for it.
    #[must_use]
    pub fn part(&self) -> Part<'_> {
        match self {
            Self::Path(PathSpec { path, .. }) => Part::File(path),
            Self::Exec(words) => Part::Program(words),
            Self::Shell(line) => Part::Line(line),
            Self::Tcp(to) => Part::Connection(to),
            Self::Ws(ws) => Part::Connection(ws.host_port()),
            Self::Unix(path) => Part::Socket(path),
            Self::TcpListen(on) => Part::Port(on),
            Self::UnixListen(path) => Part::NewSocket(path),
            Self::Stdio | Self::WsListen(_) => Part::Own,
        }
    }

    /// As it can be read again, byte for byte, with what is secret in it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let of_path = |kind: &[u8], path: &Path| [kind, path.as_os_str().as_bytes()].concat();
        match self {
            Self::Path(PathSpec { path, .. }) => {
                let bytes = path.as_os_str().as_bytes();
                match bytes == b"-" || split_kind(bytes).is_some() {
                    true => of_path(b"./", path),
                    false => bytes.to_vec(),
                }
            }
            Self::Unix(path) => of_path(b"unix:", path),
            Self::UnixListen(path) => of_path(b"unix-listen:", path),
            Self::Exec(words) => [b"exec:", &quoted(words)[..]].concat(),
            Self::Shell(command) => [b"sh:", command.as_bytes()].concat(),
            Self::Ws(spec) => spec.revealed().into_bytes(),
            Self::Stdio | Self::Tcp(_) | Self::TcpListen(_) | Self::WsListen(_) => {
                self.to_string().into_bytes()
            }
        }
    }

    /// Reads a spec. What stands before the first `:` is a kind, unless a `/` comes earlier:
    /// `./a:b` is the file `a:b`.
    ///
    /// # Errors
    /// See [`SpecError`].
    pub fn parse(text: &OsStr) -> Result<Self, SpecError> {
        let bytes = text.as_bytes();
        if bytes.is_empty() {
            return Err(SpecError::Empty);
        }
        if bytes == b"-" {
            return Ok(Self::Stdio);
        }
        match split_kind(bytes) {
            None => Ok(Self::Path(PathBuf::from(text).into())),
            Some((b"exec", rest)) => parse_words(rest),
            Some((b"sh", rest)) => parse_shell(rest),
            Some((b"tcp", rest)) => parse_address("tcp", rest).map(Self::Tcp),
            Some((b"tcp-listen", rest)) => parse_address("tcp-listen", rest).map(Self::TcpListen),
            Some((b"unix", rest)) => parse_path("unix", rest).map(Self::Unix),
            Some((b"unix-listen", rest)) => parse_path("unix-listen", rest).map(Self::UnixListen),
            Some((b"ws", rest)) => parse_ws(rest),
            Some((b"ws-listen", rest)) => parse_ws_listen(rest),
            Some((kind, _)) => {
                let kind = String::from_utf8_lossy(kind).into_owned();
                Err(if LATER_KINDS.contains(&kind.as_str()) {
                    SpecError::NotSupportedYet { kind }
                } else {
                    SpecError::UnknownKind { kind }
                })
            }
        }
    }
}

impl FromStr for EndpointSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        Self::parse(OsStr::new(text))
    }
}

/// The way to write it, for people: not every non-UTF-8 spec survives it.
impl fmt::Display for EndpointSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("-"),
            Self::Path(PathSpec { path, .. }) => {
                let bytes = path.as_os_str().as_bytes();
                if bytes == b"-" || split_kind(bytes).is_some() {
                    f.write_str("./")?;
                }
                write!(f, "{}", path.display())
            }
            Self::Exec(words) => write!(f, "exec:{}", String::from_utf8_lossy(&quoted(words))),
            Self::Shell(command) => write!(f, "sh:{}", command.display()),
            Self::Tcp(to) => write!(f, "tcp:{to}"),
            Self::TcpListen(on) => write!(f, "tcp-listen:{on}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::UnixListen(path) => write!(f, "unix-listen:{}", path.display()),
            Self::Ws(spec) => spec.fmt(f),
            Self::WsListen(spec) => spec.fmt(f),
        }
    }
}

/// Why a spec could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Nothing at all.
    #[error("empty endpoint: use {}", known())]
    Empty,
    /// A first word that is no kind.
    #[error(
        "unknown kind '{kind}:': known are {}; for a file of that name write ./{kind}:…",
        known()
    )]
    UnknownKind {
        /// What stood before the `:`.
        kind: String,
    },
    /// A kind that this version does not have.
    #[error("'{kind}:' is not supported yet; known are {}", known())]
    NotSupportedYet {
        /// What stood before the `:`.
        kind: String,
    },
    /// `exec:` or `sh:` without a command.
    #[error("'{kind}:' needs a command: {kind}:CMD")]
    EmptyCommand {
        /// `exec` or `sh`.
        kind: &'static str,
    },
    /// A quote without its partner, or a backslash at the end.
    #[error("unbalanced quotes in 'exec:{command}': a quote is not closed, or \\ ends the command")]
    UnbalancedQuotes {
        /// The command.
        command: String,
    },
    /// Only where others come one after the other is there a first.
    #[error(
        "'{spec}' ends by itself: --once is for a FIFO, tcp-listen:, unix-listen: and ws-listen:"
    )]
    NothingComesAgain {
        /// The endpoint.
        spec: String,
    },
    /// No address where one must be.
    #[error("'{kind}:{text}': {why}")]
    BadAddress {
        /// `tcp`, `tcp-listen`, `ws` or `ws-listen`.
        kind: &'static str,
        /// What stands for the address, without what is secret in it.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No path where one must be.
    #[error("'{kind}:' needs a path: {kind}:PATH")]
    EmptyPath {
        /// `unix` or `unix-listen`.
        kind: &'static str,
    },
    /// Words with a NUL byte cannot be arguments.
    #[error("a command or a path cannot contain a NUL byte")]
    NulByte,
}

/// Kinds of the design that have no file here yet. They are names now, so that nobody's file is
/// taken for one later.
const LATER_KINDS: &[&str] = &["wss", "wss-listen", "topic", "kafka", "nats"];

/// The kinds as they are written, in the order in which errors and helps list them.
const KINDS: &[(&str, Stands)] = &[
    ("-", Stands::Anywhere),
    ("PATH", Stands::Anywhere),
    ("exec:CMD", Stands::Anywhere),
    ("sh:CMD", Stands::Anywhere),
    ("tcp:HOST:PORT", Stands::Anywhere),
    ("tcp-listen:[HOST:]PORT", Stands::NotAtListener),
    ("unix:PATH", Stands::Anywhere),
    ("unix-listen:PATH", Stands::NotAtListener),
    ("ws:URL", Stands::Anywhere),
    ("ws-listen:[HOST:]PORT[/PATH]", Stands::NotAtListener),
];

/// Where an endpoint of a kind can stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// At either end of a session, and of a local pipe.
    Anywhere,
    /// Not where a session is accepted: only the side that connects can open streams, and each
    /// connection wants one.
    NotAtListener,
}

/// The end that an endpoint is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where a session is accepted.
    Listener,
    /// Where it is opened, or a pipe without one.
    Other,
}

/// The kinds that can stand at an end, as they are written, one sentence's list.
#[must_use]
pub fn kinds(end: End) -> String {
    let fits = |stands| end == End::Other || stands == Stands::Anywhere;
    let kinds = KINDS.iter().filter(|(_, stands)| fits(*stands));
    let kinds: Vec<_> = kinds.map(|(kind, _)| *kind).collect();
    match kinds.split_last() {
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

fn known() -> String {
    kinds(End::Other)
}

/// Whether a word before a `:` is a kind, also one that this version does not have: no host can be
/// called so.
#[must_use]
pub fn is_kind(word: &str) -> bool {
    let is_known = |(written, _): &(&str, Stands)| written.split(':').next() == Some(word);
    KINDS.iter().any(is_known) || LATER_KINDS.contains(&word)
}

/// Where a listening kind listens unless told otherwise: other hosts do not see it.
const LISTEN_HOST: &str = "127.0.0.1";

fn split_kind(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&b| b == b':' || b == b'/')?;
    (bytes[at] == b':').then(|| (&bytes[..at], &bytes[at + 1..]))
}

/// Words as one line, which is split into the same.
fn quoted(words: &[OsString]) -> Vec<u8> {
    let words = words.iter().map(|word| word.as_bytes());
    let joined = shlex::bytes::Quoter::new().allow_nul(true).join(words);
    joined.unwrap_or_default()
}

fn parse_words(command: &[u8]) -> Result<EndpointSpec, SpecError> {
    if command.contains(&0) {
        return Err(SpecError::NulByte);
    }
    let words = shlex::bytes::split(command).ok_or_else(|| SpecError::UnbalancedQuotes {
        command: String::from_utf8_lossy(command).into_owned(),
    })?;
    if words.first().is_none_or(Vec::is_empty) {
        return Err(SpecError::EmptyCommand { kind: "exec" });
    }
    Ok(EndpointSpec::Exec(
        words.into_iter().map(OsString::from_vec).collect(),
    ))
}

fn parse_shell(command: &[u8]) -> Result<EndpointSpec, SpecError> {
    if command.contains(&0) {
        return Err(SpecError::NulByte);
    }
    if command.trim_ascii().is_empty() {
        return Err(SpecError::EmptyCommand { kind: "sh" });
    }
    Ok(EndpointSpec::Shell(OsString::from_vec(command.to_vec())))
}

fn parse_address(kind: &'static str, text: &[u8]) -> Result<HostPort, SpecError> {
    let text = String::from_utf8_lossy(text).into_owned();
    let parsed = match kind {
        "tcp" => text.parse().map_err(HostPortError::why),
        _ => parse_listen_address(&text),
    };
    let why = match parsed {
        Ok(to) if to.port == 0 && kind == "tcp" => "nobody listens on port 0",
        Ok(address) => return Ok(address),
        Err(why) => why,
    };
    Err(bad_address(kind, &text, why))
}

fn bad_address(kind: &'static str, text: &str, why: &'static str) -> SpecError {
    let text = redacted_url(text);
    SpecError::BadAddress { kind, text, why }
}

/// `[HOST:]PORT`.
fn parse_listen_address(text: &str) -> Result<HostPort, &'static str> {
    let parsed = if text.contains(':') {
        text.parse::<HostPort>()
    } else {
        format!("{LISTEN_HOST}:{text}").parse()
    };
    parsed.map_err(HostPortError::why)
}

fn parse_ws(text: &[u8]) -> Result<EndpointSpec, SpecError> {
    let kind = "ws";
    let text = String::from_utf8_lossy(text).into_owned();
    match WsSpec::parse(&text) {
        Ok(spec) => Ok(EndpointSpec::Ws(spec)),
        Err(why) => Err(bad_address(kind, &text, why)),
    }
}

fn parse_ws_listen(text: &[u8]) -> Result<EndpointSpec, SpecError> {
    let kind = "ws-listen";
    let text = String::from_utf8_lossy(text).into_owned();
    match WsListenSpec::parse(&text, parse_listen_address) {
        Ok(spec) => Ok(EndpointSpec::WsListen(spec)),
        Err(why) => Err(bad_address(kind, &text, why)),
    }
}

fn parse_path(kind: &'static str, path: &[u8]) -> Result<PathBuf, SpecError> {
    if path.is_empty() {
        return Err(SpecError::EmptyPath { kind });
    }
    if path.contains(&0) {
        return Err(SpecError::NulByte);
    }
    Ok(OsStr::from_bytes(path).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> EndpointSpec {
        text.parse().expect(text)
    }

    fn error(text: &str) -> SpecError {
        text.parse::<EndpointSpec>().expect_err(text)
    }

    #[test]
    fn the_list_of_kinds_says_where_each_can_stand() {
        for (written, stands) in KINDS {
            let text = match *written {
                "ws:URL" => "ws:ws://h".to_owned(),
                _ => written
                    .replace("[HOST:]PORT[/PATH]", "1")
                    .replace("[HOST:]PORT", "1"),
            };
            let spec = parse(&text.replace("HOST:PORT", "h:1"));
            assert_eq!(
                spec.is_listening(),
                *stands == Stands::NotAtListener,
                "{written}"
            );
        }
        assert!(!kinds(End::Listener).contains("-listen:"));
    }

    #[test]
    fn a_kind_is_known_by_its_word() {
        for word in ["exec", "tcp", "tcp-listen", "ws-listen", "kafka"] {
            assert!(is_kind(word), "{word}");
        }
        for word in ["web1", "path", "execs", "", "listen"] {
            assert!(!is_kind(word), "{word}");
        }
    }

    #[test]
    fn each_kind_is_recognised() {
        assert_eq!(parse("-"), EndpointSpec::Stdio);
        assert_eq!(parse("data.bin"), EndpointSpec::Path("data.bin".into()));
        assert_eq!(
            parse("exec:tr a-z 'A B'"),
            EndpointSpec::Exec(vec!["tr".into(), "a-z".into(), "A B".into()])
        );
        assert_eq!(parse("sh:a | b"), EndpointSpec::Shell("a | b".into()));
    }

    #[test]
    fn exec_words_are_split_as_posix_says_and_never_expanded() {
        let EndpointSpec::Exec(words) = parse(r#"exec:echo $HOME * "a b"'c' \$x '' ~"#) else {
            panic!("not exec");
        };
        let expected = ["echo", "$HOME", "*", "a bc", "$x", "", "~"];
        assert_eq!(words, expected.map(OsString::from));
    }

    #[test]
    fn listening_is_for_this_host_unless_told_otherwise() {
        let on = |text: &str| parse(text).to_string();
        assert_eq!(on("tcp-listen:80"), "tcp-listen:127.0.0.1:80");
        assert_eq!(on("tcp-listen:[::]:0"), "tcp-listen:[::]:0");
    }

    #[test]
    fn addresses_that_are_none() {
        for (text, why) in [
            ("tcp:80", "no port; write HOST:PORT"),
            ("tcp:host:0", "nobody listens on port 0"),
            ("tcp::80", "no host; write HOST:PORT"),
            ("tcp-listen:", "the port is no number from 0 to 65535"),
            ("tcp-listen:99999", "the port is no number from 0 to 65535"),
        ] {
            assert_eq!(error(text).to_string(), format!("'{text}': {why}"));
        }
        for kind in ["unix", "unix-listen"] {
            assert_eq!(error(&format!("{kind}:")), SpecError::EmptyPath { kind });
        }
    }

    #[test]
    fn a_slash_before_the_colon_makes_a_path() {
        assert_eq!(parse("./a:b"), EndpointSpec::Path("./a:b".into()));
        assert_eq!(
            parse("/tmp/exec:x"),
            EndpointSpec::Path("/tmp/exec:x".into())
        );
        assert_eq!(parse("./-"), EndpointSpec::Path("./-".into()));
    }

    #[test]
    fn paths_need_not_be_utf8() {
        let odd = OsStr::from_bytes(b"\xff\xfe");
        let spec = EndpointSpec::parse(odd).expect("a path");
        assert_eq!(spec, EndpointSpec::Path(odd.into()));
    }

    #[test]
    fn errors_name_the_kind_and_the_way_out() {
        let text = error("foo:bar").to_string();
        assert!(text.contains("unknown kind 'foo:'"), "{text}");
        assert!(
            text.contains("exec:CMD") && text.contains("./foo:"),
            "{text}"
        );
        for kind in LATER_KINDS {
            let expected = SpecError::NotSupportedYet {
                kind: (*kind).to_owned(),
            };
            assert_eq!(error(&format!("{kind}:x")), expected);
        }
        assert_eq!(error(""), SpecError::Empty);
        for empty in ["exec:", "exec:  ", "exec:''"] {
            assert_eq!(error(empty), SpecError::EmptyCommand { kind: "exec" });
        }
        assert_eq!(error("sh: "), SpecError::EmptyCommand { kind: "sh" });
        for open in ["exec:echo 'a", "exec:echo \"a", "exec:echo \\"] {
            assert!(matches!(error(open), SpecError::UnbalancedQuotes { .. }));
        }
        assert_eq!(error("exec:a\0b"), SpecError::NulByte);
        assert_eq!(error("sh:a\0b"), SpecError::NulByte);
    }

    #[test]
    fn who_writes_to_stdout_is_known() {
        for (text, both, source, sink) in [
            ("-", true, false, true),
            ("file", false, false, false),
            ("exec:true", false, false, true),
            ("sh:true", false, false, true),
        ] {
            let writes = [Use::Both, Use::Source, Use::Sink].map(|u| parse(text).writes_stdout(u));
            assert_eq!(writes, [both, source, sink], "{text}");
        }
    }

    #[test]
    fn what_is_displayed_reads_back() {
        for text in [
            "-",
            "./-",
            "x/y",
            "./a:b",
            "exec:a 'b c' ''",
            "sh:a | b",
            "tcp:localhost:80",
            "tcp:[::1]:80",
            "tcp-listen:127.0.0.1:0",
            "unix:/run/a:b",
            "unix-listen:socket",
        ] {
            let spec = parse(text);
            assert_eq!(parse(&spec.to_string()), spec, "{text}");
        }
        assert_eq!(EndpointSpec::Path("a:b".into()).to_string(), "./a:b");
    }
}
