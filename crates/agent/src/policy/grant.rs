//! What a rule grants.

use std::path::{Path, PathBuf};

use super::Within;
use super::address::Addresses;
use super::command::CommandPattern;
use super::request::Request;
use super::resolve::{is_plain, root};

/// One thing that a rule allows.
#[derive(Debug, Clone)]
pub(super) enum Grant {
    /// All there is.
    Everything,
    /// Any program, and so any shell.
    AnyProgram,
    /// A program with arguments that fit.
    Program(CommandPattern),
    /// Lines for the shell, and login shells.
    Shell,
    /// What lies beneath a directory, or one file.
    Read(PathBuf),
    /// The same, to be changed.
    Write(PathBuf),
    /// Connections from here.
    Connect(Addresses),
    /// Ports here.
    Listen(Addresses),
    /// Connections to the Unix sockets beneath a directory, or to one.
    ConnectUnix(PathBuf),
    /// Unix sockets beneath a directory, or one.
    ListenUnix(PathBuf),
    /// Topics to append to.
    Publish(Topics),
    /// Topics to read.
    Subscribe(Topics),
}

/// A topic, or all that begin with something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topics {
    One(String),
    Beginning(String),
}

impl Topics {
    /// `NAME`, or `PREFIX*`.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let (begin, is_prefix) = match text.strip_suffix('*') {
            Some(begin) => (begin, true),
            None => (text, false),
        };
        if begin.contains('*') || text.is_empty() {
            return Err("a topic is NAME, or PREFIX* for all that begin so");
        }
        let begin = begin.to_owned();
        Ok(if is_prefix {
            Self::Beginning(begin)
        } else {
            Self::One(begin)
        })
    }

    fn have(&self, topic: &str) -> bool {
        match self {
            Self::One(one) => one == topic,
            Self::Beginning(begin) => topic.starts_with(begin.as_str()),
        }
    }
}

impl Grant {
    /// `HOST:PORT`, or `unix:PATH`: a socket, or a directory of sockets.
    pub(super) fn parse_connect(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::ConnectUnix(socket(path)?)),
            None => Ok(Self::Connect(Addresses::parse(text)?)),
        }
    }

    /// `[HOST:]PORT`, or `unix:PATH`.
    pub(super) fn parse_listen(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::ListenUnix(socket(path)?)),
            None => Ok(Self::Listen(Addresses::parse_listening(text)?)),
        }
    }

    /// Whether a request is of this, and how it has to be done then.
    pub(super) fn covers(&self, request: &Request<'_>) -> Option<Within> {
        let as_asked = |covers: bool| covers.then_some(Within::AsAsked);
        match (self, request) {
            (
                Self::Everything,
                Request::Read(path)
                | Request::Write(path)
                | Request::ConnectUnix(path)
                | Request::ListenUnix(path),
            ) => is_plain(path).then(|| Within::Directory(PathBuf::from("/"))),
            (Self::Everything, _)
            | (Self::AnyProgram, Request::Exec(_) | Request::Shell(_))
            | (Self::Shell, Request::Shell(_)) => Some(Within::AsAsked),
            (Self::Program(pattern), Request::Exec(exec)) => pattern
                .fits(exec.program, exec.arguments)
                .then(|| Within::Program(pattern.program().to_owned())),
            (Self::Read(root), Request::Read(path))
            | (Self::Write(root), Request::Write(path))
            | (Self::ConnectUnix(root), Request::ConnectUnix(path))
            | (Self::ListenUnix(root), Request::ListenUnix(path)) => {
                // By components: /srv/data-old does not lie beneath /srv/data.
                (is_plain(path) && path.starts_with(root)).then(|| Within::Directory(root.clone()))
            }
            (Self::Connect(addresses), Request::Connect(to)) => as_asked(addresses.have(to)),
            (Self::Listen(addresses), Request::Listen(on)) => as_asked(addresses.have(on)),
            (Self::Publish(topics), Request::Publish(topic))
            | (Self::Subscribe(topics), Request::Subscribe(topic)) => as_asked(topics.have(topic)),
            (
                Self::AnyProgram
                | Self::Program(_)
                | Self::Shell
                | Self::Read(_)
                | Self::Write(_)
                | Self::Connect(_)
                | Self::Listen(_)
                | Self::ConnectUnix(_)
                | Self::ListenUnix(_)
                | Self::Publish(_)
                | Self::Subscribe(_),
                _,
            ) => None,
        }
    }

    /// Whether whoever has it chooses what runs.
    pub(super) fn runs_anything(&self) -> bool {
        match self {
            Self::Everything | Self::AnyProgram | Self::Shell => true,
            Self::Program(_)
            | Self::Read(_)
            | Self::Write(_)
            | Self::Connect(_)
            | Self::Listen(_)
            | Self::ConnectUnix(_)
            | Self::ListenUnix(_)
            | Self::Publish(_)
            | Self::Subscribe(_) => false,
        }
    }
}

fn socket(path: &str) -> Result<PathBuf, &'static str> {
    let path = Path::new(path);
    if !is_plain(path) {
        return Err("a socket, or a directory of sockets, is an absolute path without ..");
    }
    Ok(root(path))
}
