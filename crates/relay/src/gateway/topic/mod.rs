//! Topics for those who have no farpipe, at `/t/TOPIC` (docs/gateway.md): a body is published, and what is kept is read as lines, as
//! server-sent events or by a WebSocket.
//!
//! What always holds: an upload that is not kept whole is no success; a reader that is told the end has got all, and one that asks
//! again from where it was gets nothing twice.

mod ask;
mod out;
mod shown;
mod upload;

use std::sync::Arc;

use farpipe_log::Topic;
use farpipe_net::carrier::ws::raw::{Foreign, Messages};
use farpipe_proto::limits::GATEWAY_EVENTS_BEAT;
use serde_json::json;
use tokio::time::{Duration, Instant, interval};

use self::ask::{Follow, Publish, Shown, Way};
use self::out::{Ending, Out};
use super::answer::Answer;
use super::body::{Body, Framing};
use super::ends::Failed;
use super::inside::Inside;
use super::{also, chosen};
use crate::relay::NoTopics;
use crate::topics::follow::{Follower, Item, Look, NotThere};
use crate::topics::take::{NotKept, Taker};
use crate::topics::{Topics, level};

pub(super) use self::ask::{PREFIX, Wanted};

/// How often it is seen whether a topic that is followed is still there.
const LOOK: Duration = Duration::from_secs(1);

type Lines = [(&'static str, String)];

/// Does what is asked of a topic. `shared` are lines of the answer's head.
///
/// # Cancellation
/// Dropping it breaks the connection; what was given to the log may be kept.
pub(super) async fn serve(
    foreign: Foreign,
    inside: &Inside,
    name: &str,
    wanted: Wanted,
    shared: &Lines,
) {
    let who = inside.who.as_ref();
    let topics = match inside.relay.topics_for(name, who, &inside.peer).await {
        Ok(topics) => topics,
        Err(error) => {
            let status = match error {
                NoTopics::NotKept => 404,
                NoTopics::Unwritten(_) => 503,
            };
            let answer = Answer::line(status, error.to_string());
            return refuse(foreign, inside, name, answer, shared).await;
        }
    };
    match wanted {
        Wanted::Head => head(foreign, topics, name, shared).await,
        Wanted::Publish(ask) => match topic(topics, name).await {
            Ok(topic) => publish(foreign, inside, (topics, name, &topic), &ask, shared).await,
            Err(answer) => refuse(foreign, inside, name, answer, shared).await,
        },
        Wanted::Follow(ask) => {
            let begun = match topic(topics, name).await {
                Ok(topic) => begin(&topic, &ask),
                Err(answer) => Err(answer),
            };
            match begun {
                Ok(follower) => {
                    follow(foreign, inside, (topics, name), ask, follower, shared).await
                }
                Err(answer) => refuse(foreign, inside, name, answer, shared).await,
            }
        }
        // It was answered before.
        Wanted::Ticket => {}
    }
}

/// Refuses what would have moved records by a body without an end: curl takes a status for a success.
async fn refuse(foreign: Foreign, inside: &Inside, name: &str, answer: Answer, shared: &Lines) {
    tracing::info!("gateway: {}: t/{name}: {}", inside.peer, answer.words());
    let mut answer = also(answer, shared);
    let is_head = foreign.request.method == "HEAD";
    let is_socket = foreign.request.lists("Upgrade", "websocket");
    let (mut io, _) = foreign.into_io();
    if is_head {
        answer.body.clear();
    }
    match is_head || is_socket {
        true => answer.send(&mut *io).await,
        false => answer.send_broken(&mut *io).await,
    }
}

/// The topic, which is made if it may be.
async fn topic(topics: &Topics, name: &str) -> Result<Arc<Topic>, Answer> {
    let status = match topics.may_be(name) {
        true => 503,
        false => 404,
    };
    let topic = topics.topic(name).await;
    topic.map_err(|why| Answer::line(status, why))
}

async fn head(foreign: Foreign, topics: &Topics, name: &str, shared: &Lines) {
    let mut answer = match topics.known(name) {
        Some(topic) => {
            let all = topic.partitions.iter();
            let offsets: Vec<String> = all
                .map(|one| format!("{}-{}", one.start(), one.end()))
                .collect();
            Answer::line(200, "").with("Farpipe-Offsets", offsets.join(", "))
        }
        None => Answer::line(404, ""),
    };
    answer.body.clear();
    let (mut io, _) = foreign.into_io();
    also(answer, shared).send(&mut *io).await;
}

async fn publish(
    foreign: Foreign,
    inside: &Inside,
    (topics, name, topic): (&Topics, &str, &Arc<Topic>),
    ask: &Publish,
    shared: &Lines,
) {
    let peer = &inside.peer;
    let framing = match Framing::of(&foreign.request) {
        Ok(framing) => framing,
        Err(answer) => return refuse(foreign, inside, name, answer, shared).await,
    };
    let taking = ask.taking;
    let life = topics.life(name, topic, taking.producer, 0).await;
    let taker = life
        .ok_or(NotKept::Fenced)
        .and_then(|life| Taker::new(topics.log().clone(), name, topic, taking, life));
    let mut taker = match taker {
        Ok(taker) => taker,
        Err(error) => {
            let answer = upload::Failed::from(error).answer(name, 0);
            return refuse(foreign, inside, name, answer, shared).await;
        }
    };
    let waits = foreign.request.lists("Expect", "100-continue");
    let (io, rest) = foreign.into_io();
    let mut body = Body::new(io, rest, framing);
    if waits {
        body.go_on().await;
    }
    tracing::info!("gateway: {peer}: publishes to t/{name}");
    let done = upload::publish(&mut body, &mut taker, ask.records, &inside.going).await;
    let kept = taker.kept();
    match done {
        Ok(()) => {
            tracing::info!(
                "gateway: {peer}: t/{name}: {} records are kept",
                kept.records
            );
            let told = json!({
                "topic": name,
                "records": kept.records,
                "repeated": kept.repeated,
                "level": level(&topic.settings).name(),
            });
            let mut answer = Answer::line(200, told.to_string());
            answer.kind = "application/json";
            also(answer, shared).send(body.io()).await;
        }
        Err(failed) => {
            let answer = failed.answer(name, kept.records);
            tracing::info!("gateway: {peer}: t/{name}: {}", answer.words());
            also(answer, shared).send_broken(body.io()).await;
        }
    }
}

/// Where a reader begins.
///
/// # Errors
/// The answer that says why there is no such place.
fn begin(topic: &Topic, ask: &Follow) -> Result<Follower, Answer> {
    let follower = Follower::new(topic, &ask.span).map_err(|error| {
        let status = match error {
            NotThere::Partition { .. } | NotThere::WhichPartition(_) => 400,
            NotThere::NotYet { .. } => 416,
        };
        Answer::line(status, error.to_string())
    })?;
    match follower.gone() {
        Some(missing) if ask.shown == Shown::Value && ask.way != Way::Events => {
            Err(Answer::line(410, shown::words(&missing)))
        }
        Some(_) | None => Ok(follower),
    }
}

async fn follow(
    foreign: Foreign,
    inside: &Inside,
    (topics, name): (&Topics, &str),
    ask: Follow,
    mut follower: Follower,
    shared: &Lines,
) {
    let peer = &inside.peer;
    let mut out = match ask.way {
        Way::Socket => {
            let chosen = chosen(&foreign.request);
            match foreign.upgrade(Messages::Bytes, chosen).await {
                Ok(socket) => Out::socket(socket, &ask, &follower),
                Err(error) => return tracing::info!("gateway: {peer}: {error}"),
            }
        }
        Way::Lines | Way::Events => {
            let (io, _) = foreign.into_io();
            Out::body(io, &ask, &follower, shared)
        }
    };
    tracing::info!("gateway: {peer}: reads t/{name}");
    let mut sent = Sent {
        count: ask.count,
        records: 0,
    };
    let of = (inside, topics, name);
    let ended = deliver(&mut out, &mut follower, &mut sent, of).await;
    let sent = sent.records;
    match ended {
        Ok(None) => tracing::info!("gateway: {peer}: t/{name}: {sent} records, to the end"),
        Ok(Some(ending)) => {
            tracing::info!("gateway: {peer}: t/{name}: {sent} records");
            out.cut(ending).await;
        }
        Err(failed) => {
            tracing::warn!("gateway: {peer}: t/{name}: cut after {sent} records: {failed}");
            out.cut(Ending::Broken).await;
        }
    }
}

/// Records that were sent, and how many are wanted at most.
#[derive(Debug)]
struct Sent {
    count: Option<u64>,
    records: u64,
}

impl Sent {
    fn is_all(&self) -> bool {
        self.count.is_some_and(|count| self.records >= count)
    }
}

/// Sends records as they are kept and as the client takes them; `Ok(None)`: up to the end, and the client has all.
///
/// # Errors
/// Something cannot be read.
async fn deliver(
    out: &mut Out,
    follower: &mut Follower,
    sent: &mut Sent,
    (inside, topics, name): (&Inside, &Topics, &str),
) -> Result<Option<Ending>, Failed> {
    let mut look = interval(LOOK);
    let mut beaten = Instant::now();
    loop {
        while out.has_room() && !sent.is_all() {
            let Some(item) = follower.take() else { break };
            out.put(&item, follower)?;
            sent.records += match item {
                Item::Record(_) => 1,
                Item::Missing(_) => 0,
            };
        }
        if out.has_some() {
            if out.send().await.is_err() {
                return Ok(Some(Ending::Left));
            }
            beaten = Instant::now();
            continue;
        }
        let found = match sent.is_all() {
            true => Look::Over,
            false => {
                let looked = follower.look().await;
                looked.map_err(|error| Failed::Far(format!("cannot be read: {error}")))?
            }
        };
        match found {
            Look::Some => continue,
            Look::Over => {
                return Ok(match out.end().await {
                    Ok(()) => None,
                    Err(_) => Some(Ending::Left),
                });
            }
            Look::None => {}
        }
        tokio::select! {
            biased;
            _ = out.gone() => return Ok(Some(Ending::Left)),
            () = inside.going.said() => return Ok(Some(Ending::Going)),
            () = follower.more() => {}
            _ = look.tick() => {
                if !follower.is_of(topics.known(name).as_deref()) {
                    return Err(Failed::Far("the topic was removed".to_owned()));
                }
                if beaten.elapsed() >= GATEWAY_EVENTS_BEAT {
                    beaten = Instant::now();
                    out.beat();
                }
            }
        }
    }
}
