//! An agent's side of a relay: dials, registers, serves what the relay passes on, and dials again.
//! For ever: an agent that gave up could be reached no more. A pipe's writer is an agent here.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use farpipe_proto::Instant;
use farpipe_proto::identity::Asserting;
use farpipe_proto::limits::{HEARTBEAT, PROGRESS_LIFE};
use farpipe_proto::link::{LinkError, Prover, SecretId};
use farpipe_proto::session::{Attempt, Next, Redial};
use farpipe_proto::wire::control::{RefuseCode, Refused, Register};
use tokio::sync::watch;

use crate::acceptor::Acceptor;
use crate::carrier::CarrierError;
use crate::event::{LinkEvent, tell};
use crate::hop::Hop;
use crate::link::{self, Greeting, HandshakeError, Wire};
use crate::opener::{Blame, Dial};
use crate::tls::TlsError;
use crate::trunk::{Trunk, TrunkEnd};

/// Settings of an agent's link to one relay.
#[derive(Debug, Clone)]
pub struct AgentLinkConfig {
    /// What callers ask for; the name in the certificate, where there is one.
    pub name: String,
    /// It is the writer of the pipe of that name, and no agent.
    pub pipe: bool,
    /// What else it says of itself: at most 16 of at most 64 bytes.
    pub tags: Vec<String>,
    /// 16 random bytes, the same for all links of the process.
    pub instance: Vec<u8>,
    /// Default 10 s.
    pub heartbeat: Duration,
    /// What HELLO says.
    pub greeting: Greeting,
    /// Nothing that listens there at the first attempt is a mistake of who named it. Default: no, it is
    /// tried again for ever.
    pub must_be_there: bool,
    /// Whether the relay knows the agent now.
    pub registered: Option<watch::Sender<bool>>,
}

impl AgentLinkConfig {
    /// The defaults.
    #[must_use]
    pub fn new(name: String, greeting: Greeting) -> Self {
        let mut instance = vec![0; 16];
        (greeting.random)(&mut instance);
        Self {
            name,
            pipe: false,
            tags: Vec::new(),
            instance,
            heartbeat: HEARTBEAT,
            greeting,
            must_be_there: false,
            registered: None,
        }
    }
}

/// Why a relay is of no use to this agent, however often it asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct RelayEnd {
    why: String,
    /// Another process has the name now: asking again would only take it back.
    pub is_ousted: bool,
    /// Somebody else has the name, and keeps it.
    pub is_taken: bool,
}

/// How one link ended.
enum Linked {
    Over(Attempt, String),
    /// Cut after the relay had let it in.
    Cut(String),
    Final(RelayEnd),
    /// As it was told.
    Left,
}

/// An agent at one relay.
#[derive(Debug)]
pub struct AgentLink {
    acceptor: Arc<Acceptor>,
    config: AgentLinkConfig,
    /// The relay has answered once.
    was_there: AtomicBool,
}

impl AgentLink {
    /// What callers bring by way of a relay goes to `acceptor`.
    #[must_use]
    pub fn new(acceptor: Arc<Acceptor>, config: AgentLinkConfig) -> Self {
        Self {
            acceptor,
            config,
            was_there: AtomicBool::new(false),
        }
    }

    /// Keeps the agent registered at the relay that `dial` leads to. A relay that is not there is
    /// tried again, as section 7 of docs/protocol.md says, and without end.
    ///
    /// # Errors
    /// [`RelayEnd`]: a certificate, credential, version or name that does not fit, or another process
    /// has registered under the same name.
    ///
    /// # Cancellation
    /// Dropping it is a lost link to all sessions: they wait for another as long as they are parked.
    pub async fn run(&self, dial: &dyn Dial) -> Result<std::convert::Infallible, RelayEnd> {
        loop {
            self.run_until(dial, std::future::pending()).await?;
        }
    }

    /// As [`AgentLink::run`], until `leave` is ready. Then it takes its leave of the relay, which takes
    /// up to a second: that is no lost link. End the sessions before.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancellation
    /// As there.
    pub async fn run_until(
        &self,
        dial: &dyn Dial,
        leave: impl Future<Output = ()>,
    ) -> Result<(), RelayEnd> {
        let mut leave = std::pin::pin!(leave);
        let clock = self.acceptor.config().clock;
        let mut redial = Redial::new(Duration::MAX);
        loop {
            let linked = self.link(dial, leave.as_mut()).await;
            if let Some(registered) = &self.config.registered {
                registered.send_replace(false);
            }
            let (attempt, why) = match linked {
                Linked::Over(attempt, why) => (attempt, why),
                Linked::Cut(why) => {
                    redial.handle_let_in();
                    (Attempt::Cut, why)
                }
                Linked::Final(end) => return Err(end),
                Linked::Left => return Ok(()),
            };
            let mut random = [0; 4];
            (self.config.greeting.random)(&mut random);
            let now = clock.now();
            let next = redial.handle_ended(now, attempt, false, u32::from_ne_bytes(random));
            // It has no end to its patience.
            let at = match next {
                Next::DialAt(at) => at,
                Next::GiveUp | Next::Succeed => now,
            };
            self.tell(&redial, why, at - now);
            tokio::select! {
                () = tokio::time::sleep_until(clock.deadline(at)) => {}
                () = &mut leave => return Ok(()),
            }
        }
    }

    fn tell(&self, redial: &Redial, why: String, wait: Duration) {
        let events = self.acceptor.config().events.as_ref();
        let failures = redial.failures();
        if redial.is_alarm() {
            let why = why.clone();
            tell(events, LinkEvent::Alarm { failures, why });
        }
        tell(
            events,
            LinkEvent::Lost {
                why,
                failures,
                retry_in: Some(wait),
            },
        );
    }

    fn is_mistake(&self) -> bool {
        self.config.must_be_there && !self.was_there.load(Ordering::Relaxed)
    }

    /// Dials once and serves as long as the link lasts.
    async fn link(&self, dial: &dyn Dial, mut leave: Pin<&mut impl Future<Output = ()>>) -> Linked {
        let relay = dial.peer();
        let (mut trunk, began) = tokio::select! {
            registered = self.register(dial, &relay) => match registered {
                Ok(registered) => registered,
                Err(linked) => return linked,
            },
            () = &mut leave => return Linked::Left,
        };
        let clock = self.acceptor.config().clock;
        let end = tokio::select! {
            end = trunk.run() => end,
            () = &mut leave => {
                trunk.leave().await;
                return Linked::Left;
            }
        };
        let progressed = trunk.progressed() || clock.now() - began >= PROGRESS_LIFE;
        match end {
            TrunkEnd::Lost(why) => {
                let why = format!("{relay}: {why}");
                match progressed {
                    true => Linked::Over(Attempt::Progressed, why),
                    false => Linked::Cut(why),
                }
            }
            TrunkEnd::Refused(refused) => refused_by(&relay, &refused),
        }
    }

    /// Dials once and registers; a link, and since when it is one.
    async fn register(&self, dial: &dyn Dial, relay: &str) -> Result<(Trunk, Instant), Linked> {
        let carrier = match dial.dial().await {
            Ok(carrier) => carrier,
            Err(error) => {
                return Err(match error.blame {
                    Blame::Final => unwanted(error.message),
                    Blame::Refused if self.is_mistake() => unwanted(error.to_string()),
                    Blame::Refused | Blame::Reset => Linked::Over(Attempt::Refused, error.message),
                    Blame::Cut | Blame::Stranger | Blame::Gone => {
                        Linked::Over(Attempt::Cut, error.message)
                    }
                });
            }
        };
        self.was_there.store(true, Ordering::Relaxed);
        let mut wire = Wire::new(carrier);
        let register = Register {
            name: self.config.name.clone(),
            tags: self.config.tags.clone(),
            instance: self.config.instance.clone(),
            pipe: self.config.pipe,
        };
        let registered = link::register(&mut wire, &self.config.greeting, register).await;
        let registered = match registered {
            Ok(registered) => registered,
            Err(error) => return Err(failed(relay, error)),
        };
        tracing::info!("{relay}: registered as {}", self.config.name);
        if let Some(told) = &self.config.registered {
            told.send_replace(true);
        }
        let clock = self.acceptor.config().clock;
        let began = clock.now();
        let hop = Hop::new(wire, clock, self.config.heartbeat);
        // Both sides have proven it; a ticket's or token's is others' as well.
        let is_ours = |prover: &Arc<dyn Prover>| prover.secret() == SecretId::Loopback;
        let asserting = match self.config.greeting.prover.as_ref().is_some_and(is_ours) {
            true => Asserting::ThisUser,
            false => Asserting::Another,
        };
        let acceptor = Arc::clone(&self.acceptor);
        let (relay, window) = (relay.to_owned(), registered.window);
        Ok((Trunk::new(hop, acceptor, relay, asserting, window), began))
    }
}

fn failed(relay: &str, error: HandshakeError) -> Linked {
    let why = format!("{relay}: {error}");
    match error {
        HandshakeError::Refused(refused) | HandshakeError::Link(LinkError::Refused(refused)) => {
            refused_by(relay, &refused)
        }
        HandshakeError::Carrier(CarrierError::Io(error)) if TlsError::is_final_in(&error) => {
            unwanted(why)
        }
        HandshakeError::Link(LinkError::PeerUnproven(_) | LinkError::RefusedPeer { .. }) => {
            unwanted(why)
        }
        _ => Linked::Over(Attempt::Cut, why),
    }
}

fn refused_by(relay: &str, refused: &Refused) -> Linked {
    let why = format!("{relay} refused: {}", link::printable(&refused.message));
    // What broke the protocol may be something that stands in for the relay for a while.
    let code = RefuseCode::from_wire(refused.code);
    if refused.is_final && code != Some(RefuseCode::Protocol) {
        Linked::Final(RelayEnd {
            why,
            is_ousted: code == Some(RefuseCode::Fenced),
            is_taken: code == Some(RefuseCode::Busy),
        })
    } else {
        Linked::Over(Attempt::Refused, why)
    }
}

/// A relay that asking again helps nothing with, as it is.
fn unwanted(why: String) -> Linked {
    Linked::Final(RelayEnd {
        why,
        is_ousted: false,
        is_taken: false,
    })
}
