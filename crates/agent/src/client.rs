//! The opening side of one pipe: what `farpipe connect` does.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use farpipe_net::{Dial, Opener, SessionEnd, SessionHandle};
use farpipe_proto::identity::Caller;
use farpipe_proto::limits::DRAIN;
use farpipe_proto::wire::control::{self, Halves, Open};

use crate::blocks::Compression;
use crate::eager::eager;
use crate::endpoint::{Endpoint, EndpointSpec, Use};
use crate::outcome::{Outcome, PipeError, describe};
use crate::pipe::{self, Cancel, cancelled};
use crate::pump::Meter;

/// How a stream to a listener's endpoint is opened: with `compression` both directions are made of
/// blocks.
#[must_use]
pub fn open(compression: Option<Compression>) -> Open {
    Open {
        blocks: compression.is_some(),
        ..Open::default()
    }
}

/// How an endpoint of an agent's host is asked for: with `once` a FIFO ends with its first writer.
#[must_use]
pub fn asked(spec: &EndpointSpec, wanted: Use, once: bool) -> Open {
    let halves = match wanted {
        Use::Both => Halves::Both,
        Use::Source => Halves::Source,
        Use::Sink => Halves::Sink,
    };
    Open {
        endpoint: Some(Box::new(control::Endpoint {
            spec: spec.to_bytes(),
            halves: halves as u32,
            once,
        })),
        ..Open::default()
    }
}

/// Opens a session to whoever `dial` leads to and joins `endpoint` to its endpoint, until
/// everything is settled at both ends.
///
/// # Cancellation
/// Dropping it leaves the peer waiting for a link. Use `cancel`: the peer hears it, and the reply
/// is awaited for a second.
pub async fn run(
    endpoint: Endpoint,
    compression: Option<Compression>,
    opener: Opener,
    dial: &dyn Dial,
    meter: Arc<Meter>,
    cancel: Cancel,
) -> Outcome {
    let open = open(compression);
    joined(endpoint, open, compression, opener, dial, meter, cancel).await
}

/// As [`run`], to what `open` asks for.
///
/// # Cancellation
/// As for [`run`].
pub async fn joined(
    mut endpoint: Endpoint,
    open: Open,
    compression: Option<Compression>,
    opener: Opener,
    dial: &dyn Dial,
    meter: Arc<Meter>,
    cancel: Cancel,
) -> Outcome {
    let handle = opener.handle();
    let Some(stream) = handle.open_with(open) else {
        return PipeError::Local("no stream can be opened".to_owned()).into();
    };
    let _until_settled = endpoint.take_lock();
    let pipe = async {
        let ended = pipe::run(endpoint, stream, compression, meter, cancel.clone()).await;
        handle.finish_opening();
        ended
    };
    let session = unless_given_up(opener.run(dial), &handle, cancel.clone());
    let joined = eager(async { tokio::join!(pipe, session) });
    let ((mut outcome, watch), settled) = joined.await;
    pipe::settle(&mut outcome, &watch);
    if let Err(end) = settled {
        outcome.fail(end.into());
    }
    outcome
}

/// As [`run`], for a session whose other end may come much later: the stream is opened when it is
/// there, and `admits` says yes to who it is, as far as it has proven that in the session itself. An
/// endpoint whose reader goes away before that is the end of it.
///
/// # Cancellation
/// As for [`run`].
pub async fn run_late(
    mut endpoint: Endpoint,
    compression: Option<Compression>,
    opener: Opener,
    dial: &dyn Dial,
    shared: Late<impl Fn(Option<&Caller>) -> Result<(), String>>,
) -> Outcome {
    let Late {
        admits,
        meter,
        cancel,
    } = shared;
    let handle = opener.handle();
    let pipe = async {
        match first_sight(&mut endpoint, &handle, admits).await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(outcome) => {
                handle.end(SessionEnd::Closed);
                return Some((*outcome, None));
            }
        }
        let stream = handle.open_with(open(compression))?;
        let ended = pipe::run(endpoint, stream, compression, meter, cancel.clone()).await;
        handle.finish_opening();
        Some((ended.0, Some(ended.1)))
    };
    let session = unless_given_up(opener.run(dial), &handle, cancel.clone());
    let joined = eager(async { tokio::join!(pipe, session) });
    let (ended, settled) = joined.await;
    let (mut outcome, watch) = ended.unwrap_or_default();
    if let Some(watch) = &watch {
        pipe::settle(&mut outcome, watch);
    }
    match settled {
        // It was ended because of what the outcome says.
        Err(SessionEnd::Closed) if watch.is_none() && outcome != Outcome::default() => {}
        Err(end) => outcome.fail(end.into()),
        Ok(()) => {}
    }
    outcome
}

/// What [`run_late`] is told beside its ends.
#[derive(Debug)]
pub struct Late<A> {
    /// Whether this is who should be at the other end; why not.
    pub admits: A,
    /// Counts the bytes.
    pub meter: Arc<Meter>,
    /// Ends it.
    pub cancel: Cancel,
}

/// Waits until the other end is there; `false` if the session ended before.
async fn first_sight(
    endpoint: &mut Endpoint,
    handle: &SessionHandle,
    admits: impl Fn(Option<&Caller>) -> Result<(), String>,
) -> Result<bool, Box<Outcome>> {
    let met = async {
        match handle.met().await {
            true => Some(handle.peer_identity().await),
            false => None,
        }
    };
    let sink = &mut endpoint.sink;
    let gone = poll_fn(|cx| match sink {
        Some(sink) => sink.poll_reader_gone(cx),
        None => Poll::Pending,
    });
    let peer = tokio::select! {
        biased;
        peer = met => peer,
        gone = gone => return Err(Box::new(match gone {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                PipeError::Local(describe(&error)).into()
            }
            Ok(()) | Err(_) => Outcome {
                reader_gone: true,
                ..Outcome::default()
            },
        })),
    };
    let Some(peer) = peer else {
        return Ok(false);
    };
    if let Some(peer) = &peer {
        tracing::info!("the writer is {peer}");
    }
    match admits(peer.as_ref()) {
        Ok(()) => Ok(true),
        Err(why) => Err(Box::new(PipeError::Local(why).into())),
    }
}

/// Runs a session; ends it if it has not ended a moment after `cancel` fired.
pub(crate) async fn unless_given_up(
    running: impl Future<Output = Result<(), SessionEnd>>,
    handle: &SessionHandle,
    cancel: Cancel,
) -> Result<(), SessionEnd> {
    unless_over(running, handle, cancelled(cancel)).await
}

/// Runs a session; ends it if it has not ended a moment after `over` was ready.
pub(crate) async fn unless_over(
    running: impl Future<Output = Result<(), SessionEnd>>,
    handle: &SessionHandle,
    over: impl Future<Output = ()>,
) -> Result<(), SessionEnd> {
    let mut running = std::pin::pin!(running);
    // The peer has its chance to hear it.
    let giving_up = async {
        over.await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        result = &mut running => result,
        () = giving_up => {
            handle.end(SessionEnd::Closed);
            // It still says goodbye, if it has a link to say it on.
            let leaving = tokio::time::timeout(DRAIN, running).await;
            leaving.unwrap_or(Err(SessionEnd::Closed))
        }
    }
}
