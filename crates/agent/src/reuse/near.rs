//! One command that goes through this agent: what it asks for, its session, and the splices of it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use farpipe_net::{
    AcceptedSession, Acceptor, AcceptorConfig, HandshakeError, SessionEnd, SessionHandle, Stream,
    Visitor,
};
use farpipe_proto::limits::{REUSE_HEARTBEAT, STREAMS_MAX};
use farpipe_proto::wire::control::{Open, Refuse};
use farpipe_proto::wire::local::{WayAnswer, WayAsked, exactly};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::far::{Far, Near};
use super::splice::Splice;
use super::ways::Ways;
use crate::outcome::STATUS_FAILURE;
use crate::pipe::{Cancel, cancelled};

/// Why a command does not go through here; it goes its own way, or has gone.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTaken {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Unusable(String),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("no session came")]
    NoSession,
}

/// A command that was let in.
pub(super) struct Served {
    key: Vec<u8>,
    asked: WayAsked,
    ways: Arc<Ways>,
    /// The session of its streams, as long as that has room.
    far: Arc<Far>,
}

/// Takes a command up to its session.
///
/// # Errors
/// [`NotTaken`], for the log: it was told where it can be.
///
/// # Cancellation
/// Dropping it drops the connection.
pub(super) async fn receive(
    mut visitor: Visitor,
    ways: Arc<Ways>,
    config: AcceptorConfig,
) -> Result<(Served, AcceptedSession), NotTaken> {
    let key = visitor.asked().await?;
    let software = &config.greeting.software;
    let found = exactly(&key)
        .filter(|asked: &WayAsked| asked.software == *software)
        .ok_or_else(|| "it is another version of farpipe".to_owned())
        .and_then(|asked| Ok((ways.session(&key, &asked)?, asked)));
    let (far, asked) = match found {
        Ok(found) => found,
        Err(why) => {
            let answer = WayAnswer {
                why: why.clone(),
                ..WayAnswer::default()
            };
            visitor.answer(&answer.to_bytes()).await?;
            return Err(NotTaken::Unusable(why));
        }
    };
    let answer = WayAnswer {
        taken: true,
        peer: far.peer(),
        why: String::new(),
    };
    visitor.answer(&answer.to_bytes()).await?;
    // An acceptor of its own: nobody else can come back to its session, nor can it itself.
    let config = AcceptorConfig {
        one_shot: true,
        sessions_max: 1,
        park_max: Duration::ZERO,
        heartbeat: REUSE_HEARTBEAT,
        answers_ends: true,
        ..config
    };
    let (acceptor, mut sessions) = Acceptor::new(config);
    let carrier = async { Ok(visitor.into_carrier()) };
    acceptor.serve(carrier, "a command here".to_owned()).await?;
    let session = sessions.next().await.ok_or(NotTaken::NoSession)?;
    let served = Served {
        key,
        asked,
        ways,
        far,
    };
    Ok((served, session))
}

impl Served {
    /// Serves the command's session until it is over. Returns when no stream of it is left.
    ///
    /// # Errors
    /// How it ended, if not in order.
    ///
    /// # Cancellation
    /// Dropping it resets all its streams. Use `cancel`: the command hears why.
    pub(super) async fn run(
        mut self,
        session: AcceptedSession,
        cancel: Cancel,
    ) -> Result<(), SessionEnd> {
        let handle = session.handle();
        handle.hold();
        let serving = async {
            self.splice_all(&handle).await;
            handle.release();
        };
        let leaving = async {
            cancelled(cancel).await;
            let why = "the local agent was told to end".to_owned();
            handle.end(SessionEnd::Gone(why));
            std::future::pending().await
        };
        let joined = async { tokio::join!(serving, session.run()).1 };
        tokio::select! {
            ended = joined => ended,
            never = leaving => never,
        }
    }

    /// Continues the streams of both ends until there are none and will be none.
    async fn splice_all(&mut self, handle: &SessionHandle) {
        // As many as a session may have streams.
        let (adopt, mut adopted) = mpsc::channel(STREAMS_MAX);
        let near = Arc::new(Near {
            handle: handle.clone(),
            adopt,
        });
        let mut splices: JoinSet<()> = JoinSet::new();
        let mut opens = true;
        loop {
            tokio::select! {
                // In order: a stream that was announced counts before the last one's end does.
                biased;
                Some(splice) = adopted.recv() => {
                    splices.spawn(Splice::run(splice));
                }
                opened = handle.accept(), if opens => match opened {
                    Some((stream, open)) => {
                        if let Some(splice) = self.splice(&near, stream, open) {
                            splices.spawn(splice.run());
                        }
                    }
                    None => opens = false,
                },
                ended = splices.join_next(), if !splices.is_empty() => {
                    if let Some(Err(error)) = ended {
                        tracing::error!("a splice's task failed: {error}");
                    }
                }
                // Only when nothing is left to wait for.
                () = std::future::ready(()), if !opens && splices.is_empty() => return,
            }
        }
    }

    /// Continues one stream of the command's; `None`: it was refused.
    fn splice(&mut self, near: &Arc<Near>, stream: Stream, open: Open) -> Option<Splice> {
        let (stream, open) = match self.far.join(near, stream, open) {
            Ok(splice) => return Some(splice),
            Err(back) => *back,
        };
        let (stream, message) = match self.ways.session(&self.key, &self.asked) {
            Ok(far) => {
                self.far = far;
                match self.far.join(near, stream, open) {
                    Ok(splice) => return Some(splice),
                    Err(back) => (back.0, "no room for another stream".to_owned()),
                }
            }
            Err(why) => (stream, why),
        };
        let status = u32::from(STATUS_FAILURE);
        stream.refuse(Refuse { status, message });
        None
    }
}
