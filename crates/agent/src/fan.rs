//! Many pipes at once: who connects to a listening endpoint is joined to an instance of its own of
//! the other end, here or through one session, a stream for each.
//!
//! A pipe that fails ends its own connection only, which is reset: the other ends of all that goes
//! on must not take it for an end. Bound: as many pipes as a session has streams; further
//! connections wait in the system's queue.

use std::collections::VecDeque;
use std::sync::Arc;

use farpipe_net::{AcceptedSession, Dial, Opener, SessionHandle, Stream};
use farpipe_proto::limits::{RESETS_MAX, RESETS_WINDOW, STREAMS_MAX};
use farpipe_proto::wire::control::Open;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::blocks::Compression;
use crate::client::unless_given_up;
use crate::eager::eager;
use crate::endpoint::{self, Connection, Endpoint, EndpointSpec, Listening, Use};
use crate::local;
use crate::outcome::{Outcome, PipeError};
use crate::pipe::{self, Cancel, cancelled};
use crate::pump::Meter;
use crate::server::{self, Served, Target};

/// Hears how each pipe that failed by itself ended: its name and why. Called between the others'
/// turns: must not wait.
pub type Report = Arc<dyn Fn(&str, &PipeError) + Send + Sync>;

/// What all pipes of a fan share.
#[derive(Clone)]
pub struct Shared {
    /// Counts the bytes of all.
    pub meter: Arc<Meter>,
    /// Ends all.
    pub cancel: Cancel,
    /// Hears of failures.
    pub report: Report,
}

impl Shared {
    /// The outcome of all: what was told to end did not end by itself.
    pub(crate) fn conclude(&self, mut outcome: Outcome) -> Outcome {
        if *self.cancel.borrow() {
            outcome.fail(PipeError::Cancelled);
        }
        outcome.count(&self.meter);
        outcome
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("meter", &self.meter)
            .finish_non_exhaustive()
    }
}

/// Which of the two ends is the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What is read first, as SRC of `farpipe pipe`.
    Left,
    /// The other.
    Right,
}

/// Joins each connection to an instance of `partner` of its own, until told to end.
///
/// # Cancellation
/// Dropping it ends all pipes as [`local::run`] says. Use `shared.cancel`.
pub async fn join_each(
    mut listening: Listening,
    side: Side,
    partner: EndpointSpec,
    shared: Shared,
) -> Outcome {
    let partner = Arc::new(partner);
    let mut pipes = Pipes::new(Arc::clone(&shared.report));
    let running = async {
        loop {
            let has_room = pipes.running.len() < STREAMS_MAX;
            tokio::select! {
                Connection { name, endpoint } = listening.accept(Use::Both), if has_room => {
                    let pipe = join_one(
                        endpoint,
                        side,
                        Arc::clone(&partner),
                        Arc::clone(&shared.meter),
                        shared.cancel.clone(),
                    );
                    pipes.start(name, pipe);
                }
                () = pipes.next_ended(), if !pipes.is_empty() => {}
            }
        }
    };
    tokio::select! {
        () = running => {}
        () = cancelled(shared.cancel.clone()) => {}
    }
    drop(listening);
    pipes.finish().await;
    shared.conclude(Outcome::default())
}

async fn join_one(
    mut connection: Endpoint,
    side: Side,
    partner: Arc<EndpointSpec>,
    meter: Arc<Meter>,
    cancel: Cancel,
) -> Outcome {
    let opening = endpoint::open(&partner, Use::Both);
    let partner = match pipe::unless_cancelled(cancel.clone(), opening).await {
        Ok(Ok(partner)) => partner,
        failed => {
            let error = failed.map_or_else(
                |error| error,
                |opened| match opened {
                    Ok(_) => PipeError::Cancelled,
                    Err(error) => PipeError::from(&error),
                },
            );
            let outcome = error.into();
            pipe::part(connection.parting.take(), pipe::leaving(&outcome)).await;
            return outcome;
        }
    };
    let (left, right) = match side {
        Side::Left => (connection, partner),
        Side::Right => (partner, connection),
    };
    local::run(left, right, meter, cancel).await
}

/// What becomes of what listens when no more connections are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// It is closed at once.
    Close,
    /// It is given back: connections may wait there for another session.
    Keep,
}

impl After {
    pub(crate) fn of<T>(self, listening: T) -> Option<T> {
        match self {
            Self::Close => None,
            Self::Keep => Some(listening),
        }
    }
}

/// Opens a session and in it a stream for each connection, as `open` says, until told to end; then
/// what is open is given up and the session settled.
///
/// # Cancellation
/// As for [`crate::client::run`].
pub async fn connect_each(
    listening: Listening,
    wanted: Use,
    open: Open,
    compression: Option<Compression>,
    opener: Opener,
    dial: &dyn Dial,
    shared: Shared,
) -> Outcome {
    let handle = opener.handle();
    let (over, is_over) = watch::channel(false);
    let serving = async {
        let until = async {
            cancelled(is_over).await;
            After::Close
        };
        stream_each(
            &handle,
            listening,
            wanted,
            open,
            compression,
            &shared,
            until,
        )
        .await;
        handle.finish_opening();
    };
    let linked = async {
        let ended = unless_given_up(opener.run(dial), &handle, shared.cancel.clone()).await;
        over.send_replace(true);
        ended
    };
    let ((), ended) = tokio::join!(serving, linked);
    let mut outcome = Outcome::default();
    if let Err(end) = ended {
        outcome.fail(end.into());
    }
    shared.conclude(outcome)
}

/// Opens a stream for each connection, as `open` says, until `until` is ready or all is told to end;
/// then waits for those that are open. What listens is closed before that wait, unless `until` keeps it.
pub(crate) async fn stream_each(
    handle: &SessionHandle,
    mut listening: Listening,
    wanted: Use,
    open: Open,
    compression: Option<Compression>,
    shared: &Shared,
    until: impl Future<Output = After>,
) -> Option<Listening> {
    let mut pipes = Pipes::new(Arc::clone(&shared.report));
    let accepting = async {
        loop {
            tokio::select! {
                Connection { name, endpoint } = accept(
                    handle,
                    &mut listening,
                    wanted,
                    pipes.pause(),
                ) => {
                    // Only a session that has ended meanwhile opens none.
                    let Some(stream) = handle.open_with(open.clone()) else { continue };
                    let (meter, cancel) = (Arc::clone(&shared.meter), shared.cancel.clone());
                    pipes.start(name, carry(endpoint, stream, compression, meter, cancel));
                }
                () = pipes.next_ended(), if !pipes.is_empty() => {}
            }
        }
    };
    let after = tokio::select! {
        () = accepting => After::Close,
        () = cancelled(shared.cancel.clone()) => After::Close,
        after = until => after,
    };
    let kept = after.of(listening);
    pipes.finish().await;
    kept
}

/// A connection is taken only when its stream can be opened, and not before `pause` is over: else
/// it waits.
async fn accept(
    handle: &SessionHandle,
    listening: &mut Listening,
    wanted: Use,
    pause: Option<Instant>,
) -> Connection {
    if let Some(until) = pause {
        tokio::time::sleep_until(until).await;
    }
    handle.room().await;
    listening.accept(wanted).await
}

/// One pipe through a stream, until the peer has confirmed it or given it up.
pub(crate) async fn carry(
    endpoint: Endpoint,
    stream: Stream,
    compression: Option<Compression>,
    meter: Arc<Meter>,
    cancel: Cancel,
) -> Outcome {
    let running = pipe::run(endpoint, stream, compression, meter, cancel.clone());
    let (mut outcome, mut watch) = running.await;
    if outcome.error.is_none() {
        // Told to end: the session still waits for it.
        let _ = pipe::unless_cancelled(cancel, watch.confirmed()).await;
    }
    pipe::settle(&mut outcome, &watch);
    outcome
}

/// Joins each stream of `session` to an instance of `target` of its own, until everything is
/// settled at both ends. A session with one stream ends as that stream does; one with several ends
/// well when it is settled, and what failed was reported.
///
/// # Cancellation
/// As for [`crate::client::run`].
pub async fn serve_each(
    session: AcceptedSession,
    target: EndpointSpec,
    wanted: Use,
    shared: Shared,
) -> Outcome {
    let handle = session.handle();
    handle.hold();
    let target = || Target::Spec(target.clone(), wanted);
    let serve = |stream, open| {
        server::serve(
            stream,
            server::blocks(&open),
            target(),
            Arc::clone(&shared.meter),
            shared.cancel.clone(),
        )
    };
    let serving = async {
        let Some((stream, open)) = handle.accept().await else {
            handle.release();
            return None;
        };
        // The first in this very task: most sessions have no other, and it need not be woken.
        let mut first = std::pin::pin!(serve(stream, open));
        let mut first_ended = None;
        let mut pipes = Pipes::new(Arc::clone(&shared.report));
        let mut opened = 1_u64;
        let mut is_over = false;
        loop {
            tokio::select! {
                ended = &mut first, if first_ended.is_none() => {
                    if opened > 1 {
                        pipes.tell("stream 1", &ended.outcome);
                    }
                    first_ended = Some(ended);
                }
                stream = handle.accept(), if !is_over => match stream {
                    None => is_over = true,
                    Some((stream, open)) => {
                        opened += 1;
                        if let (2, Some(first)) = (opened, &first_ended) {
                            pipes.tell("stream 1", &first.outcome);
                        }
                        let name = format!("stream {opened}");
                        let pipe = serve(stream, open);
                        pipes.running.spawn(async move { (name, pipe.await.outcome) });
                    }
                },
                Some(ended) = pipes.running.join_next() => pipes.handle_ended(ended),
                else => break,
            }
        }
        handle.release();
        first_ended.filter(|_| opened == 1)
    };
    let running = unless_given_up(session.run(), &handle, shared.cancel.clone());
    let (only, ended) = eager(async { tokio::join!(serving, running) }).await;
    let mut outcome = only.map(Served::settle).unwrap_or_default();
    if let Err(end) = ended {
        outcome.fail(end.into());
    }
    shared.conclude(outcome)
}

/// Connections that may fail within [`RESETS_WINDOW`] before the next ones wait. With as many that
/// are open then, and as many that a lost link has held back, their peer still counts no flood.
const FAILURES_MAX: usize = RESETS_MAX as usize / 4;

/// The pipes that run, each with its name.
pub(crate) struct Pipes {
    running: JoinSet<(String, Outcome)>,
    report: Report,
    /// When the last ones failed, oldest first; at most [`FAILURES_MAX`].
    failures: VecDeque<Instant>,
}

impl Pipes {
    pub(crate) fn new(report: Report) -> Self {
        Self {
            running: JoinSet::new(),
            report,
            failures: VecDeque::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Runs one more.
    pub(crate) fn start(
        &mut self,
        name: String,
        pipe: impl Future<Output = Outcome> + Send + 'static,
    ) {
        self.running.spawn(async move { (name, pipe.await) });
    }

    /// Ready when one has ended; at once without any. Cancel safe.
    pub(crate) async fn next_ended(&mut self) {
        if let Some(ended) = self.running.join_next().await {
            self.handle_ended(ended);
        }
    }

    /// Until when the next one waits, so that its peer does not see a flood of resets.
    fn pause(&self) -> Option<Instant> {
        let oldest = self.failures.front()?;
        (self.failures.len() == FAILURES_MAX).then(|| *oldest + RESETS_WINDOW)
    }

    fn handle_ended(&mut self, ended: Result<(String, Outcome), JoinError>) {
        match ended {
            Ok((name, outcome)) => {
                // What the peer refused or gave up itself is no reset of ours.
                if matches!(outcome.error, Some(PipeError::Local(_))) {
                    if self.failures.len() == FAILURES_MAX {
                        self.failures.pop_front();
                    }
                    self.failures.push_back(Instant::now());
                }
                self.tell(&name, &outcome);
            }
            Err(error) => tracing::error!("a pipe's task failed: {error}"),
        }
    }

    /// What ends all at once is told once, by whoever told it to end or lost the session.
    fn tell(&self, name: &str, outcome: &Outcome) {
        match &outcome.error {
            None => tracing::info!("{name}: ended with status {}", outcome.status()),
            Some(PipeError::Cancelled | PipeError::RemoteCancelled(_) | PipeError::Session(_)) => {}
            Some(error) => (self.report)(name, error),
        }
    }

    /// Waits for all.
    pub(crate) async fn finish(mut self) {
        while let Some(ended) = self.running.join_next().await {
            self.handle_ended(ended);
        }
    }
}
