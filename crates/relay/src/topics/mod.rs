//! The topics that a relay keeps (docs/protocol.md section 6.13): it is the other end of the sessions of those who publish and
//! read. What was asked in a stream is dealt with by one file each.

mod asked;
pub(crate) mod follow;
mod groups;
pub(crate) mod lives;
mod member;
mod publish;
mod subscribe;
pub(crate) mod take;

use std::sync::Arc;
use std::time::Duration;

use farpipe_log::{Log, Settings, Topic};
use farpipe_net::{
    AcceptedSession, Acceptor, AcceptorConfig, ByteWriter, Clock, Messages, Sessions, Stream,
    halves,
};
use farpipe_proto::limits::TOPIC_PARK;
use farpipe_proto::wire::control::{Accept, Open, Refuse};
use farpipe_proto::wire::topic::{Level, TopicWant, name_objection, put_message};
use farpipe_record::ProducerId;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use self::groups::Groups;
use self::lives::{Life, Lives};
use crate::gateway::greeting;

/// The exit status of a failure of farpipe's own.
const FAILURE: u32 = 125;
/// Topics at most. Policy when full: no more are made.
const TOPICS_MAX: usize = 10_000;
/// Streams of a session that are served at once. Policy when full: the newest is refused.
const STREAMS_MAX: usize = 64;

/// What serves topics. Clones are the same.
#[derive(Debug, Clone)]
pub struct Topics {
    log: Log,
    /// Whether a topic is made when it is first asked for.
    auto_create: bool,
    groups: Groups,
    lives: Lives,
    clock: Clock,
}

impl Topics {
    /// Those of a log.
    #[must_use]
    pub fn new(log: Log, auto_create: bool, clock: Clock) -> Self {
        Self {
            log,
            auto_create,
            groups: Groups::default(),
            lives: Lives::default(),
            clock,
        }
    }

    /// Where a relay brings sessions that want something of topics, and where they come out, for [`Topics::serve`].
    #[must_use]
    pub fn entrance(clock: Clock, heartbeat: Duration) -> (Arc<Acceptor>, Sessions) {
        let (acceptor, sessions) = Acceptor::new(AcceptorConfig {
            park_max: TOPIC_PARK,
            unsealed: "topics are kept by the relay itself: nothing is end to end with it",
            clock,
            heartbeat,
            ..AcceptorConfig::new(greeting())
        });
        (Arc::new(acceptor), sessions)
    }

    /// Serves them, until there can be no more.
    ///
    /// # Cancellation
    /// Dropping it cuts all sessions; what was acknowledged stays.
    pub async fn serve(self, mut sessions: Sessions) {
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                session = sessions.next() => match session {
                    Some(session) => {
                        running.spawn(one(session, self.clone()));
                    }
                    None => break,
                },
                Some(ended) = running.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!("a session of topics failed: {error}");
                    }
                }
            }
        }
        while running.join_next().await.is_some() {}
    }

    /// Whether one more may be made.
    fn has_room(&self) -> Result<(), String> {
        match self.log.topics("").len() < TOPICS_MAX {
            true => Ok(()),
            false => Err(format!(
                "this relay keeps {TOPICS_MAX} topics, and makes no more"
            )),
        }
    }

    /// The log that keeps them.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// A topic that is there.
    pub(crate) fn known(&self, name: &str) -> Option<Arc<Topic>> {
        self.log.topic(name)
    }

    /// Whether a topic is there, or is made when it is asked for.
    pub(crate) fn may_be(&self, name: &str) -> bool {
        self.auto_create || self.known(name).is_some()
    }

    /// Begins a life of a producer, or goes on with one, once what earlier ones have given to the log is in it; `None`: there is a newer
    /// one.
    pub(crate) async fn life(
        &self,
        name: &str,
        topic: &Topic,
        producer: ProducerId,
        epoch: u32,
    ) -> Option<Life> {
        let life = self.lives.begin(name, topic, producer, epoch)?;
        self.log.settled().await;
        Some(life)
    }

    /// A topic, which is made if it may be.
    pub(crate) async fn topic(&self, name: &str) -> Result<Arc<Topic>, String> {
        if let Some(objection) = name_objection(name) {
            return Err(format!(
                "'{}' is no topic's name: {objection}",
                name.escape_debug()
            ));
        }
        if let Some(topic) = self.log.topic(name) {
            return Ok(topic);
        }
        if !self.auto_create {
            return Err(format!(
                "there is no topic {name}: make it with farpipe topic create"
            ));
        }
        self.has_room()?;
        let made = self.log.create(name, Settings::default()).await;
        made.map_err(|error| format!("the topic {name} cannot be made: {error}"))
    }
}

/// What a topic's acknowledgements promise.
pub(crate) fn level(settings: &Settings) -> Level {
    use farpipe_log::Durability;

    match settings.durability {
        Durability::Disk => Level::Disk,
        Durability::Interval(_) => Level::Interval,
        Durability::Os => Level::Os,
    }
}

async fn one(session: AcceptedSession, topics: Topics) {
    let (handle, name) = (session.handle(), session.name());
    let serving = async {
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                opened = handle.accept() => match opened {
                    Some((stream, _)) if streams.len() >= STREAMS_MAX => {
                        refuse(stream, "too much at once in one session".to_owned());
                    }
                    Some((stream, open)) => {
                        streams.spawn(serve(topics.clone(), stream, open));
                    }
                    None => break,
                },
                Some(ended) = streams.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!("{name}: a stream of topics failed: {error}");
                    }
                }
            }
        }
        while streams.join_next().await.is_some() {}
    };
    // What a lost session had begun ends with its streams.
    let (_, ended) = tokio::join!(serving, session.run());
    match ended {
        Ok(()) => tracing::info!("session {name}: over"),
        Err(end) => tracing::info!("session {name}: {end}"),
    }
}

async fn serve(topics: Topics, stream: Stream, open: Open) {
    let want = open.topic.and_then(|asked| asked.want);
    match want {
        Some(TopicWant::Publish(ask)) => publish::serve(topics, stream, ask).await,
        Some(TopicWant::Subscribe(ask)) => subscribe::serve(topics, stream, ask).await,
        Some(want) => asked::serve(topics, stream, want).await,
        None => refuse(stream, "only topics are to be had here".to_owned()),
    }
}

fn refuse(stream: Stream, message: String) {
    stream.refuse(Refuse {
        status: FAILURE,
        message,
    });
}

/// Takes the stream: what comes on it, and what goes.
fn accepted(stream: Stream) -> (Messages, ByteWriter) {
    stream.accept(Accept::default());
    let (reader, writer, _) = halves(stream);
    (Messages::new(reader), writer)
}

/// Says something.
///
/// # Errors
/// Nobody listens any more.
async fn say(writer: &mut ByteWriter, message: &impl prost::Message) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    put_message(message, &mut bytes);
    writer.write_all(&bytes).await
}
