//! Why a stream is joined to nothing, as its opener is told.

use std::io;

use farpipe_audit::Unwritten;
use farpipe_net::Stream;
use farpipe_proto::wire::control::Refuse;

use super::Serving;
use super::quota::Full;
use crate::command::detached::TableError;
use crate::command::launch::LaunchError;
use crate::command::may::Objection;
use crate::command::request::{Request, RequestError};
use crate::copy::BaseError;
use crate::endpoint::exec::explain;
use crate::endpoint::{OpenError, SpecError};
use crate::outcome::{PipeError, STATUS_FAILURE};
use crate::policy::{Denied, ProgramError};
use crate::server::{describe_open, status_of};

/// Why a stream is joined to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the stream asks for nothing that this agent knows")]
    NoCommand,
    #[error(transparent)]
    Malformed(#[from] RequestError),
    /// Why is for this host's log.
    #[error("{}", Denied::TOLD)]
    Denied,
    #[error("{message}")]
    NotRun { status: u8, message: String },
    #[error("cannot open pipes or a terminal for the command: {0}")]
    Ends(#[source] io::Error),
    #[error("no room for another stream in this session")]
    NoStream,
    #[error("{0}")]
    Over(PipeError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("this command has no terminal; attach without -t")]
    NoTerminal,
    #[error("signal {0} is none of this system's")]
    NoSignal(u32),
    #[error("the command '{0}' has ended already")]
    HasEnded(String),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("an agent has no {0} for its callers")]
    NotHere(String),
    #[error("{0} is read or written, but not both")]
    NeedsDirection(String),
    #[error("{}", describe_open(.0))]
    NotOpened(#[from] OpenError),
    #[error("{path}: {error}")]
    Path { path: String, error: io::Error },
    #[error("{path}: {error}")]
    Target { path: String, error: BaseError },
    #[error("the copy makes no sense: {0}")]
    Copy(&'static str),
    #[error("{}", describe_full(.0, *.1))]
    Full(&'static str, Full),
    #[error(transparent)]
    Unwritten(#[from] Unwritten),
}

impl Refusal {
    fn status(&self) -> u8 {
        match self {
            Self::NotRun { status, .. } => *status,
            Self::NoCommand
            | Self::Malformed(_)
            | Self::Denied
            | Self::Ends(_)
            | Self::NoStream
            | Self::Over(_)
            | Self::Table(_)
            | Self::NoTerminal
            | Self::NoSignal(_)
            | Self::HasEnded(_)
            | Self::Spec(_)
            | Self::NotHere(_)
            | Self::NeedsDirection(_)
            | Self::NotOpened(_)
            | Self::Path { .. }
            | Self::Target { .. }
            | Self::Copy(_)
            | Self::Full(..)
            | Self::Unwritten(_) => STATUS_FAILURE,
        }
    }

    /// What may be told of an objection.
    pub(crate) fn told(why: Objection, request: &Request) -> Self {
        let error = match why {
            Objection::Denied(_) | Objection::Nobody => return Self::Denied,
            Objection::Program(ProgramError::NotFound) => {
                LaunchError::Program(io::ErrorKind::NotFound.into())
            }
            Objection::Program(ProgramError::NotExecutable(error)) => LaunchError::Program(error),
            Objection::Directory { dir, error } => LaunchError::Cwd { cwd: dir, error },
        };
        Self::of(error, request)
    }

    pub(crate) fn of(error: LaunchError, request: &Request) -> Self {
        let (status, message) = match error {
            LaunchError::Program(error) => {
                let error = explain(request.name(), error);
                (status_of(&error), describe_open(&error))
            }
            LaunchError::Launcher(_) | LaunchError::Cwd { .. } => {
                (STATUS_FAILURE, error.to_string())
            }
        };
        Self::NotRun { status, message }
    }
}

/// What there are so many of that one more is refused.
fn describe_full(what: &str, full: Full) -> String {
    match full {
        Full::All(max) => format!("{max} {what} are under way there; try again when one has ended"),
        Full::Caller(max) => format!(
            "{max} {what} of yours are under way there, and nobody may have more; end one of them"
        ),
    }
}

impl Serving {
    /// Says why a stream is joined to nothing.
    pub(crate) async fn refuse(&self, stream: Stream, refusal: &Refusal) {
        tracing::info!("{}: refused: {refusal}", self.name);
        let message = refusal.to_string();
        self.record.refused(&message).await;
        stream.refuse(Refuse {
            status: u32::from(refusal.status()),
            message,
        });
    }
}
