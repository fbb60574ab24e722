//! The accepting side of one pipe: what `farpipe listen` does for each session.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use farpipe_net::{AcceptedSession, SessionEnd, SessionHandle, Stream, StreamWatch};
use farpipe_proto::wire::control::{Accept, Open, Refuse};

use crate::blocks::Compression;
use crate::client::unless_given_up;
use crate::eager::eager;
use crate::endpoint::{self, Endpoint, EndpointSpec, Listening, OpenError, Use};
use crate::outcome::{Outcome, PipeError, STATUS_FAILURE};
use crate::pipe::{self, Cancel};
use crate::pump::Meter;

/// What a session's stream is joined to.
#[derive(Debug)]
pub enum Target {
    /// Already open: for a single session.
    Open(Box<Endpoint>),
    /// Opened for each session.
    Spec(EndpointSpec, Use),
    /// Its first connection: for a single session.
    Listening(Box<Listening>, Use),
}

impl Target {
    /// Opens it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) async fn open(self) -> Result<Endpoint, OpenError> {
        match self {
            Self::Open(endpoint) => Ok(*endpoint),
            Self::Spec(spec, wanted) => endpoint::open(&spec, wanted).await,
            Self::Listening(mut listening, wanted) => Ok(listening.accept(wanted).await.endpoint),
        }
    }
}

/// Joins the first stream of `session` to `target`, until everything is settled at both ends.
/// Further streams are refused; a session without any is a failure.
///
/// # Cancellation
/// As for [`crate::client::run`].
pub async fn run(
    session: AcceptedSession,
    target: Target,
    meter: Arc<Meter>,
    cancel: Cancel,
) -> Outcome {
    let handle = session.handle();
    handle.hold();
    let pipe = async {
        let first = handle.accept().await;
        let serving = async {
            let result = match first {
                None => None,
                Some((stream, open)) => {
                    let blocks = blocks(&open);
                    Some(serve(stream, blocks, target, meter, cancel.clone()).await)
                }
            };
            handle.release();
            result
        };
        tokio::join!(serving, refuse_more(&handle)).0
    };
    let linked = unless_given_up(session.run(), &handle, cancel.clone());
    let (served, settled) = eager(async { tokio::join!(pipe, linked) }).await;
    let has_stream = served.is_some();
    let mut outcome = served.map(Served::settle).unwrap_or_default();
    match settled {
        Err(end) => outcome.fail(end.into()),
        Ok(()) if !has_stream => {
            outcome.fail(PipeError::Remote("it opened no stream".to_owned()));
        }
        Ok(()) => {}
    }
    outcome
}

/// There is one endpoint, and it has its stream.
pub(crate) async fn refuse_more(handle: &SessionHandle) {
    while let Some((stream, _)) = handle.accept().await {
        stream.refuse(Refuse {
            status: u32::from(STATUS_FAILURE),
            message: "this listener joins one stream to its endpoint".to_owned(),
        });
    }
}

/// A stream that was served, while the session may still go on.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) outcome: Outcome,
    watch: Option<StreamWatch>,
    /// The file that was read stays locked until the peer has confirmed it.
    _lock: Option<OwnedFd>,
}

impl Served {
    /// Whether its session was ended for a later one's sake.
    pub(crate) fn is_replaced(&self) -> bool {
        let error = self.outcome.error.as_ref();
        matches!(error, Some(PipeError::Session(SessionEnd::Replaced(_))))
    }

    pub(crate) fn new(outcome: Outcome, watch: StreamWatch) -> Self {
        Self {
            outcome,
            watch: Some(watch),
            _lock: None,
        }
    }

    /// Waits until the peer has confirmed all of it, or wants no more, or never will; for nothing if it
    /// was given up. Cancel safe.
    pub(crate) async fn answered(&mut self) {
        let is_given_up = self.outcome.error.is_some();
        if let Some(watch) = self.watch.as_mut().filter(|_| !is_given_up) {
            watch.confirmed().await;
        }
    }

    /// How it ended, once that is so: what is read stays locked until then.
    pub(crate) async fn settled(mut self) -> Outcome {
        self.answered().await;
        self.settle()
    }

    /// How it ended, once the session is settled.
    pub(crate) fn settle(mut self) -> Outcome {
        if let Some(watch) = &self.watch {
            pipe::settle(&mut self.outcome, watch);
        }
        self.outcome
    }
}

/// A stream that was not joined to anything.
impl From<PipeError> for Served {
    fn from(error: PipeError) -> Self {
        Self {
            outcome: error.into(),
            watch: None,
            _lock: None,
        }
    }
}

/// The opener says whether a stream is made of blocks; each side decides what to compress.
pub(crate) fn blocks(open: &Open) -> Option<Compression> {
    open.blocks.then_some(Compression::Auto)
}

pub(crate) async fn serve(
    mut stream: Stream,
    blocks: Option<Compression>,
    target: Target,
    meter: Arc<Meter>,
    cancel: Cancel,
) -> Served {
    let opened = match target {
        Target::Open(endpoint) => Ok(*endpoint),
        target @ (Target::Spec(..) | Target::Listening(..)) => {
            let opening = target.open();
            match pipe::unless_over(&mut stream.watch, cancel.clone(), opening).await {
                Ok(opened) => opened,
                // Dropping the stream gives it up.
                Err(error) => return error.into(),
            }
        }
    };
    match opened {
        Ok(endpoint) => joined(endpoint, stream, blocks, meter, cancel).await,
        Err(error) => {
            stream.refuse(Refuse {
                status: u32::from(status_of(&error)),
                message: describe_open(&error),
            });
            PipeError::from(&error).into()
        }
    }
}

/// Accepts a stream and joins it to what is open.
pub(crate) async fn joined(
    mut endpoint: Endpoint,
    stream: Stream,
    blocks: Option<Compression>,
    meter: Arc<Meter>,
    cancel: Cancel,
) -> Served {
    stream.accept(Accept {
        has_command: endpoint.child.is_some(),
    });
    let lock = endpoint.take_lock();
    let (outcome, watch) = pipe::run(endpoint, stream, blocks, meter, cancel).await;
    Served {
        outcome,
        watch: Some(watch),
        _lock: lock,
    }
}

impl From<&OpenError> for PipeError {
    fn from(error: &OpenError) -> Self {
        Self::NotOpened {
            status: status_of(error),
            message: describe_open(error),
        }
    }
}

/// The exit status that says why an endpoint could not be opened.
#[must_use]
pub fn status_of(error: &OpenError) -> u8 {
    match error {
        OpenError::CommandNotFound { .. } => 127,
        OpenError::CommandNotExecutable { .. } => 126,
        _ => STATUS_FAILURE,
    }
}

/// The error with its cause, in one line.
#[must_use]
pub fn describe_open(error: &OpenError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
