//! Forwarded ports: connections that are taken at one host and made at another, a stream each, all in
//! one session, as long as it lasts.
//!
//! What listens here opens streams to endpoints there (`-L`, and `-D`, where each connection says itself
//! where it wants to go: `socks.rs`); what listens there has the agent open streams, which are joined to
//! endpoints here (`-R`). A connection that fails ends alone.

#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod socks;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};

use farpipe_net::{Dial, Opener, RecvError, RecvStream, SessionEnd, SessionHandle, Stream};
use farpipe_proto::link::handshake::printable;
use farpipe_proto::wire::control::{Open, Refuse};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use self::socks::Socks;
use crate::client::{asked, unless_over};
use crate::endpoint::{EndpointSpec, Listening, Use};
use crate::fan::{self, After, Pipes, Shared};
use crate::outcome::{Outcome, PipeError, STATUS_FAILURE};
use crate::ping;
use crate::pipe::{cancelled, unless_cancelled};
use crate::server::{self, Target};

/// The longest address that an agent may say it listens on.
const ADDRESS_MAX: usize = 4 * 1024;

/// One way to take connections.
#[derive(Debug)]
pub enum Forward {
    /// Taken here, made there.
    Local {
        /// What listens here.
        listening: Listening,
        /// What is asked for there, for each connection.
        open: Open,
        /// Which directions of it.
        wanted: Use,
    },
    /// Taken here, made there, each to where it says.
    Dynamic(Socks),
    /// Taken there, made here.
    Remote {
        /// What is to listen there.
        on: EndpointSpec,
        /// Where the connections go here.
        to: EndpointSpec,
    },
}

/// Hears where one of the forwards listens, here or there: its number in the list, and the address. Those
/// here are told once the host has answered. Must not wait.
pub type Told = Arc<dyn Fn(usize, &str) + Send + Sync>;

/// Which endpoint here belongs to what listens there, by the number of its stream.
type Targets = Arc<Mutex<BTreeMap<u32, EndpointSpec>>>;

/// What one of the forwards leaves: itself, if another session can go on with it, and why it failed.
type Left = (Option<Forward>, Result<(), PipeError>);

/// Opens a session and forwards until told to end; then what is open is given up and the session
/// settled. A host that is not there at the beginning ends it, as does what cannot be listened on there;
/// no connection is taken before the host has answered.
///
/// A session that the agent has given up ends with [`SessionEnd::Forgotten`]. If `forwards` is as long then
/// as before, another session can go on with it: what listens here has listened all the time, and what
/// connects meanwhile waits.
///
/// # Cancellation
/// As for [`crate::client::run`].
pub async fn run(
    forwards: &mut Vec<Forward>,
    opener: Opener,
    dial: &dyn Dial,
    shared: Shared,
    told: Told,
) -> Outcome {
    let handle = opener.handle();
    let (over, is_over) = watch::channel(false);
    let targets = Targets::default();
    let serving = async {
        let failed = match answers(&handle, &shared).await {
            Ok(true) => serve(forwards, &handle, &targets, &shared, &told, &over).await,
            Ok(false) => None,
            Err(error) => Some(error),
        };
        handle.finish_opening();
        failed
    };
    let accepting = accept(&handle, &targets, &shared);
    let linked = async {
        let give_up = async {
            tokio::select! {
                () = cancelled(shared.cancel.clone()) => {}
                () = cancelled(is_over) => {}
            }
        };
        let ended = unless_over(opener.run(dial), &handle, give_up).await;
        over.send_replace(true);
        ended
    };
    let (failed, (), ended) = tokio::join!(serving, accepting, linked);
    let mut outcome = Outcome::default();
    if let Some(error) = failed {
        outcome.fail(error);
    }
    if let Err(end) = ended {
        outcome.fail(end.into());
    }
    shared.conclude(outcome)
}

/// Forwards until the session is over, all is told to end, or one fails, which is returned: the others would
/// go on without it, and nobody would notice.
async fn serve(
    forwards: &mut Vec<Forward>,
    handle: &SessionHandle,
    targets: &Targets,
    shared: &Shared,
    told: &Told,
    over: &watch::Sender<bool>,
) -> Option<PipeError> {
    let mut running: JoinSet<(usize, Left)> = JoinSet::new();
    for (number, forward) in forwards.drain(..).enumerate() {
        let (handle, shared) = (handle.clone(), shared.clone());
        let is_over = cancelled(over.subscribe());
        let until = async {
            is_over.await;
            After::Keep
        };
        match forward {
            Forward::Local {
                listening,
                open,
                wanted,
            } => {
                told(number, listening.address());
                running.spawn(async move {
                    let asked = open.clone();
                    let pipes =
                        fan::stream_each(&handle, listening, wanted, asked, None, &shared, until);
                    let kept = pipes.await.map(|listening| Forward::Local {
                        listening,
                        open,
                        wanted,
                    });
                    (number, (kept, Ok(())))
                });
            }
            Forward::Dynamic(socks) => {
                told(number, socks.address());
                running.spawn(async move {
                    let kept = socks.run(&handle, &shared, until).await;
                    (number, (kept.map(Forward::Dynamic), Ok(())))
                });
            }
            Forward::Remote { on, to } => {
                let (told, targets) = (Arc::clone(told), Arc::clone(targets));
                running.spawn(async move {
                    let told = |address: &str| told(number, address);
                    let goes_to = to.clone();
                    let ended = remote(&handle, &on, goes_to, &targets, told, &shared, until).await;
                    (number, (Some(Forward::Remote { on, to }), ended))
                });
            }
        }
    }
    let mut failed = None;
    let mut kept = BTreeMap::new();
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok((number, (forward, ended))) => {
                kept.extend(forward.map(|forward| (number, forward)));
                if let Err(error) = ended {
                    failed.get_or_insert(error);
                    over.send_replace(true);
                }
            }
            Err(error) => tracing::error!("a forward's task failed: {error}"),
        }
    }
    forwards.extend(kept.into_values());
    failed
}

/// Whether the host is there; `false`: the session says why not, or all is told to end.
async fn answers(handle: &SessionHandle, shared: &Shared) -> Result<bool, PipeError> {
    let asking = unless_cancelled(shared.cancel.clone(), ping::is_there(handle));
    match asking.await {
        Ok(Ok(true)) => Ok(true),
        Ok(Ok(false)) => Err(PipeError::Local("no stream can be opened".to_owned())),
        Ok(Err(RecvError::Session(_))) | Err(_) => Ok(false),
        Ok(Err(RecvError::Refused(refuse))) => Err(PipeError::Refused {
            status: STATUS_FAILURE,
            message: printable(&refuse.message),
        }),
        Ok(Err(error)) => Err(PipeError::Remote(printable(&error.to_string()))),
    }
}

/// Has the agent listen, until `until` is ready or all is told to end.
async fn remote(
    handle: &SessionHandle,
    on: &EndpointSpec,
    to: EndpointSpec,
    targets: &Targets,
    told: impl Fn(&str),
    shared: &Shared,
    until: impl Future<Output = After>,
) -> Result<(), PipeError> {
    let Some(mut stream) = handle.open_with(asked(on, Use::Both, false)) else {
        return Err(PipeError::Local("no stream can be opened".to_owned()));
    };
    let lock = || targets.lock().unwrap_or_else(PoisonError::into_inner);
    let id = stream.id().0;
    lock().insert(id, to);
    let listening = async {
        let address = line(&mut stream.recv).await;
        if let Some(address) = &address {
            told(address);
        }
        poll_fn(|cx| {
            stream.watch.poll_until(cx, |fate| {
                fate.refused.is_some()
                    || fate.reset.is_some()
                    || fate.stopped.is_some()
                    || fate.end.is_some()
            })
        })
        .await
    };
    let fate = tokio::select! {
        fate = listening => Some(fate),
        _ = until => None,
        () = cancelled(shared.cancel.clone()) => None,
    };
    stream.send.finish();
    stream.recv.done();
    lock().remove(&id);
    let Some(fate) = fate else { return Ok(()) };
    match (fate.refused, fate.end) {
        // Whoever lost the session says so.
        (_, Some(_)) => Ok(()),
        (Some(refuse), None) => Err(PipeError::Refused {
            status: STATUS_FAILURE,
            message: format!("{on}: {}", printable(&refuse.message)),
        }),
        (None, None) => {
            let why = format!("the agent no longer listens on {on}");
            Err(SessionEnd::Forgotten(why).into())
        }
    }
}

/// The first line that comes; `None`: there is none.
async fn line(recv: &mut RecvStream) -> Option<String> {
    let mut chunks = std::collections::VecDeque::new();
    let mut line = Vec::new();
    while let Ok(true) = poll_fn(|cx| recv.poll_chunks(cx, &mut chunks)).await {
        for chunk in chunks.drain(..) {
            line.extend_from_slice(&chunk);
            recv.consumed(chunk.len());
        }
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            line.truncate(end);
            return Some(String::from_utf8_lossy(&line).into_owned());
        }
        if line.len() > ADDRESS_MAX {
            return None;
        }
    }
    None
}

/// Joins what the agent accepts for this side, until the session is over.
async fn accept(handle: &SessionHandle, targets: &Targets, shared: &Shared) {
    let mut pipes = Pipes::new(Arc::clone(&shared.report));
    loop {
        tokio::select! {
            opened = handle.accept() => {
                let Some((stream, open)) = opened else { break };
                let to = {
                    let targets = targets.lock().unwrap_or_else(PoisonError::into_inner);
                    targets.get(&open.accepted_at).cloned()
                };
                match to {
                    Some(to) => pipes.start(format!("a connection to {to}"), join(stream, to, shared)),
                    None => stream.refuse(Refuse {
                        status: u32::from(STATUS_FAILURE),
                        message: "nobody asked for this stream".to_owned(),
                    }),
                }
            }
            () = pipes.next_ended(), if !pipes.is_empty() => {}
        }
    }
    pipes.finish().await;
}

fn join(
    stream: Stream,
    to: EndpointSpec,
    shared: &Shared,
) -> impl Future<Output = Outcome> + Send + use<> {
    let (meter, cancel) = (Arc::clone(&shared.meter), shared.cancel.clone());
    async move {
        let target = Target::Spec(to, Use::Both);
        let served = server::serve(stream, None, target, meter, cancel).await;
        served.settled().await
    }
}
