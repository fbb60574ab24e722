//! Exit codes and the one place where errors become lines on stderr.

use std::process::ExitCode;

use farpipe_agent::outcome::STATUS_FAILURE;

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

/// Prints an error with its causes and says which code to exit with.
pub(crate) fn failure(error: &anyhow::Error) -> ExitCode {
    output::error(&format!("{error:#}"));
    match error.downcast_ref::<WithStatus>() {
        Some(with) => {
            if let Some(hint) = &with.hint {
                output::hint(hint);
            }
            ExitCode::from(with.status)
        }
        None => ExitCode::from(STATUS_FAILURE),
    }
}

/// Prints help to stdout, or what is wrong with the command line to stderr.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    if error.print().is_err() {
        return ExitCode::from(STATUS_FAILURE);
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
