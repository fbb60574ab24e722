//! A program that others reach by its name at relays.

use std::sync::Arc;
use std::time::Duration;

use farpipe_net::tls::AcceptorSeal;
use farpipe_net::{
    AcceptedSession, Acceptor, AcceptorConfig, AgentLink, AgentLinkConfig, Greeting, Sessions,
    Stream as NetStream, TcpDial, halves,
};
use farpipe_proto::wire::control::{Accept, Refuse};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::{Error, Stream};

/// Streams that wait to be accepted. Policy when full: those who opened further ones wait.
const INCOMING_MAX: usize = 64;
/// The status that a refused stream's opener ends with, if it is a command.
const STATUS_REFUSED: u32 = 125;

/// A name at relays, and the streams that others open to it. Dropped, it is gone from there, and what was
/// accepted ends.
#[derive(Debug)]
pub struct Service {
    incoming: mpsc::Receiver<Incoming>,
    links: JoinSet<String>,
    _sessions: JoinSet<()>,
}

impl Service {
    pub(crate) fn start(
        name: &str,
        relays: Vec<TcpDial>,
        greeting: Greeting,
        seal: Option<AcceptorSeal>,
        sealed_only: bool,
        heartbeat: Duration,
    ) -> Self {
        let mut config = AcceptorConfig::new(greeting.clone());
        config.seal = seal;
        config.heartbeat = heartbeat;
        let (acceptor, sessions) = Acceptor::new(config);
        let acceptor = Arc::new(acceptor);
        let mut links = JoinSet::new();
        let mut link = AgentLinkConfig::new(name.to_owned(), greeting);
        link.heartbeat = heartbeat;
        for dial in relays {
            let link = AgentLink::new(Arc::clone(&acceptor), link.clone());
            links.spawn(async move {
                match link.run(&dial).await {
                    Ok(never) => match never {},
                    Err(end) => end.to_string(),
                }
            });
        }
        let (sender, incoming) = mpsc::channel(INCOMING_MAX);
        let mut running = JoinSet::new();
        running.spawn(serve(sessions, sender, sealed_only));
        Self {
            incoming,
            links,
            _sessions: running,
        }
    }

    /// The next stream that somebody opens.
    ///
    /// # Errors
    /// [`Error::NotRegistered`] when no relay of the list takes this program any more, for good: another
    /// program has its name, or it is not let in. A relay that is not there is tried again without end.
    ///
    /// # Cancellation
    /// Dropping it loses nothing.
    pub async fn accept(&mut self) -> Result<Incoming, Error> {
        loop {
            tokio::select! {
                Some(incoming) = self.incoming.recv() => return Ok(incoming),
                ended = self.links.join_next() => {
                    let why = match ended {
                        Some(Ok(why)) => why,
                        Some(Err(error)) => error.to_string(),
                        None => "all have refused it".to_owned(),
                    };
                    if self.links.is_empty() {
                        return Err(Error::NotRegistered(why));
                    }
                }
            }
        }
    }
}

async fn serve(mut sessions: Sessions, incoming: mpsc::Sender<Incoming>, sealed_only: bool) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            session = sessions.next() => {
                let Some(session) = session else { break };
                running.spawn(one(session, incoming.clone(), sealed_only));
            }
            // How it ended, its streams have heard.
            Some(_) = running.join_next() => {}
        }
    }
}

/// With `sealed_only` a caller counts that has proven itself in the session alone.
async fn one(session: AcceptedSession, incoming: mpsc::Sender<Incoming>, sealed_only: bool) {
    let handle = session.handle();
    let shown = session.caller().cloned();
    handle.hold();
    let accepting = async {
        // What was shown in the session itself says more than what was shown on the way.
        let proven = handle.peer_identity().await;
        let is_trusted = proven.is_some() || !sealed_only;
        let caller = proven.or(shown);
        while let Some((stream, open)) = handle.accept().await {
            if !is_trusted {
                refuse(
                    stream,
                    "this program speaks end to end only: a relay could be anybody",
                );
                continue;
            }
            let Some(endpoint) = open.endpoint.filter(|_| !open.blocks) else {
                refuse(
                    stream,
                    "this program has streams of bytes, and nothing else",
                );
                continue;
            };
            let incoming_stream = Incoming {
                endpoint: endpoint.spec,
                caller: caller.as_ref().map(ToString::to_string),
                stream,
            };
            if incoming.send(incoming_stream).await.is_err() {
                break;
            }
        }
        handle.release();
    };
    // What ended it, the streams have heard.
    let ((), _) = tokio::join!(accepting, session.run());
}

fn refuse(stream: NetStream, why: &str) {
    stream.refuse(Refuse {
        status: STATUS_REFUSED,
        message: why.to_owned(),
    });
}

/// A stream that somebody wants. Dropped, it is given up.
#[derive(Debug)]
pub struct Incoming {
    endpoint: Vec<u8>,
    caller: Option<String>,
    stream: NetStream,
}

impl Incoming {
    /// What was asked for, as it was written.
    #[must_use]
    pub fn endpoint(&self) -> &[u8] {
        &self.endpoint
    }

    /// Who asks, and how that was shown, for logs; `None`: nobody had to say.
    #[must_use]
    pub fn caller(&self) -> Option<&str> {
        self.caller.as_deref()
    }

    /// Takes it.
    #[must_use]
    pub fn accept(self) -> Stream {
        self.stream.accept(Accept::default());
        let (reader, writer, _) = halves(self.stream);
        Stream::new(reader, writer)
    }

    /// Does not; its opener hears why.
    pub fn refuse(self, why: &str) {
        refuse(self.stream, why);
    }
}
