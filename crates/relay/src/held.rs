//! A session that was attached before asks for an agent that is not there now: it is held for a
//! moment, for the agent is most likely on its way back. Then many come to it at once, and who finds
//! no room in the queue to it waits here, too. A pipe's reader may come before its writer: the first
//! attach to a pipe is held as well.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use farpipe_net::{Heard, HopError};
use farpipe_proto::limits::{HANDSHAKE_STEP, HOLD};
use farpipe_proto::wire::control::{RefuseCode, Refused};
use farpipe_proto::wire::hop::HopFrame;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendError;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::going::Going;
use crate::joined::Joining;
use crate::registry::{NotJoined, Registry, Route};

/// How often the opener is shown that somebody is there: it takes silence for an end.
const SIGN_OF_LIFE: Duration = Duration::from_millis(HANDSHAKE_STEP.as_millis() as u64 / 4);
/// A PING that no keepalive waits for.
const NO_NUMBER: u64 = 0;

/// An ATTACH that waits for its agent.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) route: Route,
    pub(crate) joining: Box<Joining>,
}

impl Held {
    /// Waits for the agent, the opener's end, or the end of patience. Why it was refused, if it was.
    ///
    /// # Cancellation
    /// Dropping it cuts the link.
    pub(crate) async fn run(self, registry: Arc<Registry>, going: Going) -> Option<&'static str> {
        let Self { route, mut joining } = self;
        let key = joining.key.clone();
        tracing::info!("session {key}: held: {route} is not there");
        let began = Instant::now();
        let asked = joining.attach.age_ms;
        let until = began + HOLD.min(patience(&joining, &route));
        let mut signs = tokio::time::interval(SIGN_OF_LIFE);
        signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let awaited = registry.awaited(&route);
        loop {
            // Before the look: who registers from now on is noticed.
            let came = awaited.came();
            joining.attach.age_ms = aged(asked, began);
            let Err((why, returned)) = registry.join(&route, joining) else {
                return None;
            };
            joining = returned;
            let (code, reason, why) = match why {
                NotJoined::NoRoute => {
                    let known = registry.no_route(&route, joining.hop.now());
                    (RefuseCode::NoRoute, "no_route", known)
                }
                NotJoined::Full => (RefuseCode::Limit, "limit", "too many at once".to_owned()),
            };
            if code == RefuseCode::NoRoute && !may_wait(&joining, &route) {
                refuse(*joining, code, true, why).await;
                return Some(reason);
            }
            let queue = registry.queue(&route).filter(|_| code == RefuseCode::Limit);
            tokio::select! {
                biased;
                () = came => continue,
                Ok(place) = place(queue.as_ref()) => {
                    joining.attach.age_ms = aged(asked, began);
                    place.send(joining);
                    return None;
                }
                error = poll_fn(|cx| poll_link(&mut joining, &mut signs, cx)) => {
                    tracing::info!("session {key}: left while it was held: {error}");
                    return None;
                }
                () = tokio::time::sleep_until(until) => {}
                () = going.said() => {}
            }
            tracing::info!("session {key}: held no longer: {why}");
            refuse(*joining, code, false, why).await;
            return Some(reason);
        }
    }
}

/// Whether a session may wait for somebody who is not there: on his way back most likely, or, at a pipe,
/// expected.
pub(crate) fn may_wait(joining: &Joining, route: &Route) -> bool {
    joining.attach.established || route.is_pipe()
}

/// How long the opener lets it be held. One that is soon out of patience is to hear why, and not
/// nothing.
fn patience(joining: &Joining, route: &Route) -> Duration {
    let attach = &joining.attach;
    match route.is_pipe() && !attach.established {
        true => Duration::from_millis(attach.hold_ms),
        false => Duration::from_millis(attach.resume_for_ms) / 2,
    }
}

/// A relay adds the time it held a request, unless that was never asked before.
fn aged(asked: u64, began: Instant) -> u64 {
    let held = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    match asked {
        0 => 0,
        asked => asked.saturating_add(held),
    }
}

/// A place in an agent's queue, once there is one; an error if the agent is gone.
async fn place(
    queue: Option<&mpsc::Sender<Box<Joining>>>,
) -> Result<mpsc::Permit<'_, Box<Joining>>, SendError<()>> {
    match queue {
        Some(queue) => queue.reserve().await,
        None => std::future::pending().await,
    }
}

/// Keeps the link alive; ready when it is over.
fn poll_link(joining: &mut Joining, signs: &mut Interval, cx: &mut Context<'_>) -> Poll<HopError> {
    let hop = &mut joining.hop;
    while signs.poll_tick(cx).is_ready() {
        if !hop.is_full() {
            hop.queue(&HopFrame::Ping(NO_NUMBER));
        }
    }
    hop.queue_ping();
    // One frame a turn: it has nothing to say before it is attached.
    match hop.poll_heard(cx) {
        Poll::Ready(Err(error)) => return Poll::Ready(error),
        Poll::Ready(Ok(
            None | Some(Heard::RoundTrip(_) | Heard::Frame(_) | Heard::Data { .. }),
        )) => {
            cx.waker().wake_by_ref();
        }
        Poll::Pending => {}
    }
    if let Poll::Ready(Err(error)) = hop.poll_flush(cx) {
        return Poll::Ready(error.into());
    }
    match hop.poll_timers(cx, None) {
        Poll::Ready(Err(error)) => return Poll::Ready(error),
        Poll::Ready(Ok(())) => cx.waker().wake_by_ref(),
        Poll::Pending => {}
    }
    Poll::Pending
}

/// Says why not, and closes.
pub(crate) async fn refuse(
    joining: Joining,
    code: RefuseCode,
    is_final: bool,
    message: String,
) -> Refused {
    let refused = Refused {
        code: code as u32,
        is_final,
        message,
    };
    let frame = HopFrame::Refused(joining.near, refused.clone());
    joining.hop.refuse(&frame).await;
    refused
}
