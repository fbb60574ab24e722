//! What somebody wants of this host.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use farpipe_net::HostPort;

use super::resolve::Program;
use crate::shown::shown;

/// One thing that somebody wants. Paths are absolute and resolved: links followed, no `..`.
#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    /// To run a program.
    Exec(Exec<'a>),
    /// To run a line by the shell, or a login shell.
    Shell(Setting<'a>),
    /// To read a file or a directory.
    Read(&'a Path),
    /// To write, make or remove one.
    Write(&'a Path),
    /// To have a connection made from here.
    Connect(&'a HostPort),
    /// To have a port listened on here.
    Listen(&'a HostPort),
    /// To have a connection made to a Unix socket of this host.
    ConnectUnix(&'a Path),
    /// To have a Unix socket made here, and listened on.
    ListenUnix(&'a Path),
    /// To append to a topic.
    Publish(&'a str),
    /// To read a topic.
    Subscribe(&'a str),
}

/// A command without a shell.
#[derive(Debug, Clone, Copy)]
pub struct Exec<'a> {
    /// What is to be run.
    pub program: &'a Program,
    /// What comes after `argv[0]`.
    pub arguments: &'a [OsString],
    /// What the caller wants around it.
    pub setting: Setting<'a>,
}

/// What a caller wants a command to find around it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setting<'a> {
    /// Names of the variables that it sets.
    pub environment: &'a [OsString],
    /// Where it is to run; none for where the agent runs commands.
    pub directory: Option<&'a Path>,
}

impl<'a> Request<'a> {
    /// Whether whoever gets this acts on the host itself. Topics are kept by relays, which read them
    /// anyway.
    #[must_use]
    pub fn reaches_into_host(&self) -> bool {
        match self {
            Self::Exec(_)
            | Self::Shell(_)
            | Self::Read(_)
            | Self::Write(_)
            | Self::Connect(_)
            | Self::Listen(_)
            | Self::ConnectUnix(_)
            | Self::ListenUnix(_) => true,
            Self::Publish(_) | Self::Subscribe(_) => false,
        }
    }

    /// What a command is to find around it, if this runs one.
    pub(super) fn setting(&self) -> Option<Setting<'a>> {
        match self {
            Self::Exec(exec) => Some(exec.setting),
            Self::Shell(setting) => Some(*setting),
            Self::Read(_)
            | Self::Write(_)
            | Self::Connect(_)
            | Self::Listen(_)
            | Self::ConnectUnix(_)
            | Self::ListenUnix(_)
            | Self::Publish(_)
            | Self::Subscribe(_) => None,
        }
    }
}

/// For logs: escaped, and short however long it is. Arguments may be secrets and are not shown.
impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |path: &Path| shown(path.as_os_str().as_bytes());
        match self {
            Self::Exec(exec) => {
                let count = exec.arguments.len();
                let s = if count == 1 { "" } else { "s" };
                let program = shown(exec.program.resolved());
                write!(f, "run {program} with {count} argument{s}")
            }
            Self::Shell(_) => f.write_str("use a shell"),
            Self::Read(path) => write!(f, "read {}", shown(path)),
            Self::Write(path) => write!(f, "write {}", shown(path)),
            Self::Connect(to) => write!(f, "connect to {}", to.to_string().escape_debug()),
            Self::Listen(on) => write!(f, "listen on {}", on.to_string().escape_debug()),
            Self::ConnectUnix(path) => write!(f, "connect to the socket {}", shown(path)),
            Self::ListenUnix(path) => write!(f, "listen on the socket {}", shown(path)),
            Self::Publish(topic) => write!(f, "publish to {}", topic.escape_debug()),
            Self::Subscribe(topic) => write!(f, "subscribe to {}", topic.escape_debug()),
        }
    }
}
