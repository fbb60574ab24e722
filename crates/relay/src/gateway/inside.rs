//! The gateway as a neighbour of its own relay: it registers pipes and attaches to them as any farpipe
//! does, over links in memory. So all that holds for farpipes at a pipe holds here.
//!
//! A session of the gateway's dies with the relay, and its foreign end with it: the other end is told
//! that it keeps the session for a moment only.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use farpipe_net::carrier::Carrier;
use farpipe_net::carrier::mem::{self, MemCarrier};
use farpipe_net::{AcceptedSession, Blame};
use farpipe_net::{
    Acceptor, AcceptorConfig, AgentLink, AgentLinkConfig, Clock, Dial, DialError, Dialled,
    Greeting, Opener, OpenerConfig, RecvStream, SendStream, SessionEnd, Sessions, Stream,
    StreamWatch, Waits, WindowBudget, system_random,
};
use farpipe_proto::identity::Identity;
use farpipe_proto::limits::{GATEWAY_BUFFER, GATEWAY_RESUME_FOR, HOLD, READERS_MAX};
use farpipe_proto::link::handshake::printable;
use farpipe_proto::wire::control::{Abort, AbortCode, Accept, Open, Refuse};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::ends::Failed;
use crate::going::Going;
use crate::relay::Relay;

/// The exit status of a failure of farpipe's own.
const FAILURE: u32 = 125;
/// Bytes that a link in memory holds.
const LINK: usize = 256 << 10;

/// Somebody whom the gateway has let in, at the relay.
#[derive(Debug, Clone)]
pub(super) struct Inside {
    pub(super) relay: Arc<Relay>,
    pub(super) windows: Arc<WindowBudget>,
    pub(super) who: Option<Identity>,
    /// Where it came from.
    pub(super) peer: String,
    pub(super) going: Going,
}

/// Leads to the relay.
#[derive(Debug)]
struct Way {
    links: mpsc::Sender<MemCarrier>,
    route: String,
}

impl Dial for Way {
    fn dial(&self) -> Dialled<'_> {
        Box::pin(async {
            let (near, far) = mem::pair(LINK);
            let sent = self.links.send(far).await;
            sent.map_err(|_| DialError {
                blame: Blame::Final,
                message: "the relay is going away".to_owned(),
                advice: None,
            })?;
            Ok(Box::new(near) as Box<dyn Carrier>)
        })
    }

    fn peer(&self) -> String {
        "this relay".to_owned()
    }

    fn route(&self) -> String {
        self.route.clone()
    }
}

/// Nothing is to be proven on a link in memory.
pub(crate) fn greeting() -> Greeting {
    Greeting {
        software: concat!("farpipe ", env!("CARGO_PKG_VERSION"), " gateway").to_owned(),
        prover: None,
        keys: None,
        tokens: None,
        random: system_random,
    }
}

impl Inside {
    fn clock(&self) -> Clock {
        self.relay.clock()
    }

    /// Takes the links in memory to the relay, one after the other.
    async fn entrance(&self, mut far: mpsc::Receiver<MemCarrier>) -> Infallible {
        while let Some(carrier) = far.recv().await {
            let who = self.who.clone();
            let served = self.relay.serve_inside(carrier, who, &self.peer).await;
            if let Err(error) = served {
                tracing::debug!("{}: {error}", self.peer);
            }
        }
        std::future::pending().await
    }

    /// Registers as the writer of `pipe`, gives the stream of the first reader that comes to `work`,
    /// and is ready when that is done and the session settled; further readers are refused. If `left`
    /// is ready before a reader came, nothing was handed over.
    ///
    /// # Errors
    /// What `work` says; else, why it did not come to it, or why the session was not settled.
    ///
    /// # Cancellation
    /// Dropping it is a lost link to the reader.
    pub(super) async fn writing<T, E>(
        &self,
        pipe: &str,
        end: &mut E,
        left: impl AsyncFnOnce(&mut E),
        work: impl AsyncFnOnce(&mut E, &mut SendStream) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let config = AcceptorConfig {
            is_last: true,
            unsealed: "the writer of this pipe is no farpipe: nothing is end to end with it (give \
                       --no-e2e)",
            sessions_max: READERS_MAX,
            park_max: GATEWAY_RESUME_FOR,
            buffer_max: GATEWAY_BUFFER,
            windows: Arc::clone(&self.windows),
            clock: self.clock(),
            ..AcceptorConfig::new(greeting())
        };
        let (acceptor, mut sessions) = Acceptor::new(config);
        let mut config = AgentLinkConfig::new(pipe.to_owned(), greeting());
        config.pipe = true;
        let link = AgentLink::new(Arc::new(acceptor), config);
        let (links, far) = mpsc::channel(1);
        let route = String::new();
        let way = Way { links, route };
        let serving = async {
            let first = tokio::select! {
                biased;
                first = sessions.next() => first,
                () = self.going.said() => None,
                () = left(&mut *end) => {
                    let why = "it left before a reader came: nothing was handed over";
                    return Err(Failed::Foreign(why.to_owned()));
                }
            };
            let first = first.ok_or_else(going_away)?;
            tokio::select! {
                served = serve_reader(first, async |send: &mut SendStream| work(end, send).await) => {
                    served
                }
                never = refuse_more(sessions) => match never {},
            }
        };
        let (leave, leaves) = oneshot::channel::<Infallible>();
        let leaves = async {
            let _ = leaves.await;
        };
        let mut linked = pin!(link.run_until(&way, leaves));
        let served = tokio::select! {
            served = serving => served,
            end = &mut linked => return Err(match end {
                Ok(()) => going_away(),
                Err(end) => Failed::Taken(end.to_string()),
            }),
            never = self.entrance(far) => match never {},
        };
        drop(leave);
        // It had its place until now; what it has to say of that now is no news.
        let _ = linked.await;
        served
    }

    /// Opens a session to the writer of `pipe`, and is ready when it is settled and `work` is done,
    /// which gets its stream.
    ///
    /// # Errors
    /// What `work` says; else, why the session was not settled.
    ///
    /// # Cancellation
    /// Dropping it is a lost link to the writer.
    pub(super) async fn reading<T>(
        &self,
        pipe: &str,
        work: impl AsyncFnOnce(Stream, &mut Leave) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let opener = Opener::new(OpenerConfig {
            resume_for: GATEWAY_RESUME_FOR,
            waits: Some(Waits {
                whom: format!("a writer of the pipe {pipe}"),
                at_most: None,
                hold: HOLD,
            }),
            buffer_max: GATEWAY_BUFFER,
            windows: Arc::clone(&self.windows),
            clock: self.clock(),
            ..OpenerConfig::new(greeting())
        });
        let handle = opener.handle();
        let stream = handle.open("");
        let stream = stream.ok_or_else(|| Failed::Far("too much is under way".to_owned()))?;
        handle.finish_opening();
        let (links, far) = mpsc::channel(1);
        let route = format!("p/{pipe}");
        let way = Way { links, route };
        let mut leave = Leave(handle.clone());
        let both = async { tokio::join!(work(stream, &mut leave), opener.run(&way)) };
        let (done, linked) = tokio::select! {
            ended = both => ended,
            never = self.entrance(far) => match never {},
        };
        settled(done, linked)
    }
}

/// Ends a session that was not joined to anybody.
#[derive(Debug)]
pub(super) struct Leave(farpipe_net::SessionHandle);

impl Leave {
    /// Nobody waits any more.
    pub(super) fn now(&mut self) {
        self.0.end(SessionEnd::Closed);
    }
}

fn settled<T>(done: Result<T, Failed>, linked: Result<(), SessionEnd>) -> Result<T, Failed> {
    let done = done?;
    linked.map_err(|end| Failed::Far(end.to_string()))?;
    Ok(done)
}

/// Nobody is waited for any more.
pub(super) fn going_away() -> Failed {
    Failed::Far("the relay is going away".to_owned())
}

/// Tells readers that come late that there is no more to be had.
async fn refuse_more(mut sessions: Sessions) -> Infallible {
    let mut refusing = JoinSet::new();
    loop {
        tokio::select! {
            Some(session) = sessions.next() => {
                refusing.spawn(refuse(session));
            }
            Some(_) = refusing.join_next() => {}
            else => std::future::pending().await,
        }
    }
}

async fn refuse(session: AcceptedSession) {
    let handle = session.handle();
    let refusing = async {
        while let Some((stream, _)) = handle.accept().await {
            stream.refuse(Refuse {
                status: FAILURE,
                message: "the pipe has all its readers".to_owned(),
            });
        }
    };
    let _ = tokio::join!(refusing, session.run());
}

/// Joins the first stream of a reader's session to `work`, and is ready when the session is settled.
///
/// # Errors
/// What `work` says; else, why the session was not settled.
async fn serve_reader<T>(
    session: AcceptedSession,
    work: impl AsyncFnOnce(&mut SendStream) -> Result<T, Failed>,
) -> Result<T, Failed> {
    let handle = session.handle();
    let serving = async {
        let Some((stream, open)) = handle.accept().await else {
            return Err(Failed::Far("the reader opened no stream".to_owned()));
        };
        if let Some(why) = objection(&open) {
            stream.refuse(Refuse {
                status: FAILURE,
                message: why.to_owned(),
            });
            return Err(Failed::Far(why.to_owned()));
        }
        stream.accept(Accept::default());
        let Stream {
            mut send,
            mut recv,
            mut watch,
        } = stream;
        let serving = async {
            let done = work(&mut send).await?;
            answered(&mut watch).await?;
            Ok(done)
        };
        tokio::join!(serving, nothing(&mut recv)).0
    };
    let (done, linked) = tokio::join!(serving, session.run());
    settled(done, linked)
}

/// Confirms that a reader says nothing, or stops it.
async fn nothing(recv: &mut RecvStream) {
    let mut chunks = VecDeque::new();
    match poll_fn(|cx| recv.poll_chunks(cx, &mut chunks)).await {
        Ok(false) => recv.done(),
        Ok(true) => recv.stop(Abort::new(AbortCode::ReaderGone, "")),
        Err(_) => {}
    }
}

fn objection(open: &Open) -> Option<&'static str> {
    let is_plain = open.command.is_none() && open.manage.is_none() && open.stderr_of == 0;
    match (is_plain, open.blocks) {
        (true, false) => None,
        (_, true) => Some(
            "the writer of this pipe is no farpipe and compresses nothing: leave out --compress",
        ),
        (false, _) => Some("this is a pipe and nothing else"),
    }
}

/// Waits until the peer has all that was sent.
///
/// # Errors
/// Why it will never have it.
pub(super) async fn answered(watch: &mut StreamWatch) -> Result<(), Failed> {
    let fate = watch.confirmed().await;
    match (fate.done, fate.stopped, fate.refused, fate.end) {
        (true, ..) => Ok(()),
        (_, Some(abort), ..) if abort.message.is_empty() => {
            Err(Failed::Far("the reader left before it had all".to_owned()))
        }
        (_, Some(abort), ..) => Err(Failed::Far(format!(
            "the reader failed: {}",
            printable(&abort.message)
        ))),
        (_, _, Some(refuse), _) => Err(Failed::Far(format!(
            "refused: {}",
            printable(&refuse.message)
        ))),
        (.., Some(end)) => Err(Failed::Far(end.to_string())),
        (false, None, None, None) => Err(Failed::Far("the reader is gone".to_owned())),
    }
}

/// Waits until the writer has joined the stream to its source.
///
/// # Errors
/// Why it never will.
pub(super) async fn accepted(watch: &mut StreamWatch) -> Result<(), Failed> {
    let fate = poll_fn(|cx| {
        watch.poll_until(cx, |fate| {
            fate.accepted || fate.refused.is_some() || fate.reset.is_some() || fate.end.is_some()
        })
    })
    .await;
    match (fate.accepted, fate.refused, fate.reset, fate.end) {
        (true, ..) => Ok(()),
        (_, Some(refuse), ..) => Err(Failed::Far(format!(
            "refused: {}",
            printable(&refuse.message)
        ))),
        (_, _, Some(abort), _) => Err(Failed::Far(format!(
            "the writer gave up: {}",
            printable(&abort.message)
        ))),
        (.., Some(end)) => Err(Failed::Far(end.to_string())),
        (false, None, None, None) => Err(Failed::Far("the writer is gone".to_owned())),
    }
}
