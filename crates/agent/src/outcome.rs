//! How a pipe ended, and the exit status that says so.

use std::error::Error;
use std::io;
use std::sync::atomic::Ordering;

use farpipe_net::SessionEnd;
use farpipe_proto::wire::control;

use crate::endpoint::Exit;
use crate::pump::Meter;

/// Status of a failure of farpipe's own (design: 125, as `env` and `docker run` use it).
pub const STATUS_FAILURE: u8 = 125;
/// Status of a process that SIGPIPE ended.
pub const STATUS_SIGPIPE: u8 = 141;

/// Why a pipe failed. Each says who is to blame; none is mended by running the same again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PipeError {
    /// This side's source or sink failed.
    #[error("{0}")]
    Local(String),
    /// The far side's source or sink failed.
    #[error("the far end failed: {0}")]
    Remote(String),
    /// The far side's process was told to end.
    #[error("the far end failed: {0}")]
    RemoteCancelled(String),
    /// The far side could not open its endpoint.
    #[error("the far end refused: {message}")]
    Refused {
        /// The exit status it asks for.
        status: u8,
        /// Its words.
        message: String,
    },
    /// This side's endpoint could not be opened.
    #[error("{message}")]
    NotOpened {
        /// The exit status that says why.
        status: u8,
        /// What happened.
        message: String,
    },
    /// The session ended before everything was settled.
    #[error(transparent)]
    Session(#[from] SessionEnd),
    /// This process was told to end.
    #[error("interrupted")]
    Cancelled,
}

/// How a pipe ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes taken from the local source.
    pub sent: u64,
    /// Bytes the local sink has taken.
    pub received: u64,
    /// How the local command ended.
    pub local_exit: Option<Exit>,
    /// How the far command ended.
    pub remote_exit: Option<Exit>,
    /// Bytes of the far command's output that were lost before they were sent, because whoever started
    /// it chose that.
    pub dropped: u64,
    /// The local sink's reader went away early.
    pub reader_gone: bool,
    /// The far sink's reader went away early.
    pub far_reader_gone: bool,
    /// What went wrong first.
    pub error: Option<PipeError>,
}

/// A pipe that failed before a byte was moved.
impl From<PipeError> for Outcome {
    fn from(error: PipeError) -> Self {
        Self {
            error: Some(error),
            ..Self::default()
        }
    }
}

impl Outcome {
    /// The exit status. Failures first, then commands' own statuses, then SIGPIPE.
    #[must_use]
    pub fn status(&self) -> u8 {
        match &self.error {
            Some(PipeError::Refused { status, .. } | PipeError::NotOpened { status, .. }) => {
                return *status;
            }
            Some(_) => return STATUS_FAILURE,
            None => {}
        }
        let exits = [&self.local_exit, &self.remote_exit];
        let failed = exits
            .into_iter()
            .flatten()
            .find(|exit| status_of(**exit) != 0);
        if let Some(exit) = failed {
            return status_of(*exit);
        }
        // A command that closes its input early and succeeds has not failed.
        let excused = self.far_reader_gone && self.remote_exit.is_some();
        if self.reader_gone && self.local_exit.is_none() || self.far_reader_gone && !excused {
            return STATUS_SIGPIPE;
        }
        0
    }

    /// Says how many bytes were moved.
    pub(crate) fn count(&mut self, meter: &Meter) {
        self.sent = meter.sent.load(Ordering::Relaxed);
        self.received = meter.received.load(Ordering::Relaxed);
    }

    /// Keeps the first error.
    pub(crate) fn fail(&mut self, error: PipeError) {
        self.error.get_or_insert(error);
    }
}

/// The status a shell would show for an exit: its code, or 128 and the signal's number.
fn status_of(exit: Exit) -> u8 {
    let status = match exit {
        Exit::Code(code) => code,
        // A peer may report any number.
        Exit::Signal { number, .. } => number.saturating_add(128),
    };
    u8::try_from(status).unwrap_or(STATUS_FAILURE)
}

/// An I/O error with its causes, in one line.
#[must_use]
pub fn describe(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut cause: Option<&dyn Error> = error.get_ref().and_then(|inner| inner.source());
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The wire's form of an exit.
pub(crate) fn to_wire(exit: Exit) -> control::Exit {
    match exit {
        Exit::Code(code) => control::Exit {
            code: u32::try_from(code).ok(),
            signal: None,
            core_dumped: false,
            dropped: 0,
        },
        Exit::Signal {
            number,
            core_dumped,
        } => control::Exit {
            code: None,
            signal: u32::try_from(number).ok(),
            core_dumped,
            dropped: 0,
        },
    }
}

/// The exit a peer reports; one it cannot have is a failure, never success.
pub(crate) fn from_wire(exit: control::Exit) -> Exit {
    match (exit.code, exit.signal) {
        (Some(code), None) => {
            Exit::Code(i32::try_from(code).unwrap_or_else(|_| STATUS_FAILURE.into()))
        }
        (_, Some(number)) => Exit::Signal {
            number: i32::try_from(number).unwrap_or(0),
            core_dumped: exit.core_dumped,
        },
        (None, None) => Exit::Code(i32::from(STATUS_FAILURE)),
    }
}
