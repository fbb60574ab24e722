//! Exit codes and the one place where errors become lines on stderr.

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use farpipe_agent::outcome::{STATUS_FAILURE, STATUS_SIGPIPE};

use farpipe_net::redacted;

use crate::output;

/// An error whose exit code is not 125.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct WithStatus {
    /// The exit code.
    pub(crate) status: u8,
    /// What happened.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) hint: Option<String>,
}

impl WithStatus {
    /// A wrong command line.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Self {
            status: 2,
            message: message.into(),
            hint: Some(hint.into()),
        }
        .into()
    }

    /// A failure of farpipe itself.
    pub(crate) fn failure(message: impl Into<String>, hint: Option<String>) -> anyhow::Error {
        Self {
            status: STATUS_FAILURE,
            message: message.into(),
            hint,
        }
        .into()
    }
}

/// The code to exit with after an error.
pub(crate) fn status_of(error: &anyhow::Error) -> u8 {
    error
        .downcast_ref::<WithStatus>()
        .map_or(STATUS_FAILURE, |with| with.status)
}

/// What to do about an error, if that is known.
pub(crate) fn hint_of(error: &anyhow::Error) -> Option<&str> {
    let with = error.downcast_ref::<WithStatus>();
    with.and_then(|with| with.hint.as_deref())
}

/// Prints an error with its causes and says which code to exit with.
pub(crate) fn failure(error: &anyhow::Error) -> ExitCode {
    output::error(&format!("{error:#}"));
    if let Some(hint) = hint_of(error) {
        output::hint(hint);
    }
    ExitCode::from(status_of(error))
}

/// The status of a verb whose work is to print: see [`output::data`].
pub(crate) fn printed(result: io::Result<()>) -> anyhow::Result<u8> {
    match result {
        // As any program whose reader has enough: nothing is said.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(STATUS_SIGPIPE),
        result => result.map(|()| 0).context("cannot write to stdout"),
    }
}

/// Prints help to stdout, or what is wrong with the command line to stderr.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let told = error.render().to_string();
    // With its colours, unless there is something to hide.
    let printed = match redacted(&told) {
        Cow::Owned(hidden) if error.use_stderr() && hidden != told => {
            io::stderr().write_all(hidden.as_bytes())
        }
        Cow::Owned(_) | Cow::Borrowed(_) => error.print(),
    };
    if printed.is_err() {
        return ExitCode::from(STATUS_FAILURE);
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
