//! Errors of opening an endpoint, and the context of later read and write errors.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Source or sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Bytes are read from it.
    Source,
    /// Bytes are written to it.
    Sink,
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "reading",
            Self::Sink => "writing",
        })
    }
}

/// Why an endpoint could not be opened. All are the user's to fix; a retry does not help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Both halves of a path were asked for; a file is read or written.
    #[error("'{}' needs a direction: a path is read or written, not both", path.display())]
    PathNeedsDirection {
        /// The path.
        path: PathBuf,
    },
    /// No such file, or for writing: no such directory.
    #[error("cannot open '{}' for {half}: no such file or directory", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
        /// What it was opened for.
        half: Half,
    },
    /// The file's or a directory's permissions forbid it.
    #[error("cannot open '{}' for {half}: permission denied", path.display())]
    PermissionDenied {
        /// The path.
        path: PathBuf,
        /// What it was opened for.
        half: Half,
    },
    /// A directory has no bytes.
    #[error("cannot open '{}' for {half}: it is a directory", path.display())]
    IsDirectory {
        /// The path.
        path: PathBuf,
        /// What it was opened for.
        half: Half,
    },
    /// A socket is connected to, not opened.
    #[error("cannot open '{}' for {half}: it is a socket", path.display())]
    IsSocket {
        /// The path.
        path: PathBuf,
        /// What it was opened for.
        half: Half,
    },
    /// Another end reads what would be overwritten, or may write what would be read.
    #[error(
        "cannot open '{}' for {half}: {}", path.display(),
        match half {
            Half::Source => "another process has locked it and may be writing it",
            Half::Sink => "it is being read or written by another end",
        }
    )]
    InUse {
        /// The path.
        path: PathBuf,
        /// What it was opened for.
        half: Half,
    },
    /// Opening failed for another reason.
    #[error("cannot open '{}' for {half}", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// What it was opened for.
        half: Half,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody answers there, or the name has no address.
    #[error("cannot connect to {to}")]
    Connect {
        /// The endpoint.
        to: String,
        /// What the system said.
        source: io::Error,
    },
    /// Something is there already.
    #[error("cannot listen on {address}: address already in use")]
    AddressInUse {
        /// The address.
        address: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// Whoever reaches the address could connect, and read and change what passes.
    #[error(
        "cannot listen on {address}: without TLS and authentication only loopback addresses are \
         allowed"
    )]
    NotLoopback {
        /// The address.
        address: String,
    },
    /// Listening failed for another reason.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Only some kinds listen.
    #[error("'{spec}' does not listen")]
    DoesNotListen {
        /// The endpoint.
        spec: String,
    },
    /// stdin or stdout cannot be used.
    #[error("cannot use {name}")]
    Stdio {
        /// `stdin` or `stdout`.
        name: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The command does not exist (status 127, as shells say it).
    #[error("cannot run '{command}': command not found")]
    CommandNotFound {
        /// The first word of the command.
        command: String,
    },
    /// The command exists and cannot be executed (status 126, as shells say it).
    #[error("cannot run '{command}': not executable")]
    CommandNotExecutable {
        /// The first word of the command.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// Starting the command failed for another reason, such as a process limit.
    #[error("cannot run '{command}'")]
    Spawn {
        /// The first word of the command.
        command: String,
        /// What the system said.
        source: io::Error,
    },
}

impl OpenError {
    /// Whether somebody else has it, who may let go of it.
    #[must_use]
    pub const fn is_taken(&self) -> bool {
        matches!(self, Self::InUse { .. } | Self::AddressInUse { .. })
    }

    /// What to do about it, if there is something to say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::PathNeedsDirection { .. } => {
                Some("use send or recv, or redirect stdin and stdout: farpipe … <IN >OUT")
            }
            Self::IsDirectory { .. } => Some("pack it: sh:'tar c DIR'"),
            Self::IsSocket { .. } => Some("connect to it: unix:PATH"),
            Self::AddressInUse { hint, .. } => Some(hint),
            Self::NotLoopback { .. } => Some(
                "listen on 127.0.0.1, behind a proxy on this host that speaks TLS and knows who may \
                 connect; or run it where its clients are: farpipe connect wss://… ws-listen:PORT",
            ),
            Self::InUse { half, .. } => Some(match half {
                Half::Source => "wait until that is done; lslocks tells which process it is",
                Half::Sink => {
                    "write to another file and rename it; if it is a session that lost its \
                     connection, see `listen --resume-for`"
                }
            }),
            Self::CommandNotFound { .. } => {
                Some("exec: takes a program of PATH; for shell syntax and builtins use sh:")
            }
            Self::CommandNotExecutable { .. } => {
                Some("a script needs mode +x and a #! line, or name its interpreter")
            }
            Self::NotFound { .. }
            | Self::PermissionDenied { .. }
            | Self::Open { .. }
            | Self::Connect { .. }
            | Self::Listen { .. }
            | Self::DoesNotListen { .. }
            | Self::Stdio { .. }
            | Self::Spawn { .. } => None,
        }
    }
}

/// Says which endpoint an [`io::Error`] of a [`Source`](super::Source) or [`Sink`](super::Sink)
/// is about. It lies inside the `io::Error`, whose kind stays what the system said; the system's
/// own words are its `source()`.
#[derive(Debug, thiserror::Error)]
#[error("{half} {name} failed")]
pub struct IoContext {
    /// What was being done.
    pub half: Half,
    /// What it was done to: `stdout`, a path, `the stdin of 'CMD'`.
    pub name: Arc<str>,
    /// What the system said.
    pub source: io::Error,
}

impl IoContext {
    pub(super) fn wrap(half: Half, name: &Arc<str>, source: io::Error) -> io::Error {
        let name = Arc::clone(name);
        io::Error::new(source.kind(), Self { half, name, source })
    }
}
