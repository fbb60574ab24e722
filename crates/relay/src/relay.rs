//! Lets agents and callers in, and sends each to where it belongs.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use farpipe_audit::{Audit, Unwritten};
use farpipe_net::carrier::mem::MemCarrier;
use farpipe_net::carrier::ws::raw::Gateway;
use farpipe_net::carrier::{Carrier, Close};
use farpipe_net::{
    Acceptor, Clock, Entrance, Greeting, Guest, HandshakeError, Heard, Hop, Peer, Refusals,
    Standing, Wanted, receive, system_random,
};
use farpipe_proto::identity::{Asserting, Caller, Identity, is_name};
use farpipe_proto::limits::{AGENTS_MAX, HANDSHAKE_STEP, HEARTBEAT, HELD_MAX, HOP_WINDOW};
use farpipe_proto::wire::control::{Attach, List, RefuseCode, Refused, Register, Registered};
use farpipe_proto::wire::hop::HopFrame;
use farpipe_proto::wire::id::{SessionKey, TunnelId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::admin::{Admin, Order};
use crate::audit::{self, Asks};
use crate::gateway::{Commons, Front, GatewayConfig, Tickets, Visit, greeting};
use crate::going::Going;
use crate::held::{Held, may_wait, refuse};
use crate::hub::Hub;
use crate::joined::{Joining, refusal};
use crate::metrics::Metrics;
use crate::registry::{NotJoined, Registry, Route};
use crate::topics::Topics;
use crate::windows::Windows;

/// Agents and held sessions that wait for a task of their own. Policy when full: their handshake
/// waits.
const WORK_MAX: usize = 64;

/// The route of what has its end at the relay itself; no agent's name has a slash.
const TOPICS: &str = "t/";

const NO_TOPICS: &str = "this relay keeps no topics: start it with --data DIR";

/// Why a request of the gateway's comes to no topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoTopics {
    #[error("{NO_TOPICS}")]
    NotKept,
    /// To try again later may help.
    #[error(transparent)]
    Unwritten(#[from] Unwritten),
}

/// Settings of a relay.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Default 10 s.
    pub heartbeat: Duration,
    /// Agents at once; one more is refused for now. Default [`AGENTS_MAX`], at most
    /// [`farpipe_proto::limits::AGENTS_SET_MAX`].
    pub agents_max: usize,
    /// The clock; virtual in simulations.
    pub clock: Clock,
    /// Where it is written who registers, who asks for whom, and who is refused. Default: nowhere.
    pub audit: Audit,
    /// Takes the sessions of those who want something of the topics kept here. Default: none are.
    pub topics: Option<Arc<Acceptor>>,
    /// The same topics, for those who ask by HTTP. Default: none.
    pub kept: Option<Topics>,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            heartbeat: HEARTBEAT,
            agents_max: AGENTS_MAX,
            clock: Clock::Boot,
            audit: Audit::default(),
            topics: None,
            kept: None,
        }
    }
}

/// What a relay has to do now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Agents that are registered; pipes do not count.
    pub agents: usize,
    /// Tunnels that are joined.
    pub tunnels: usize,
    /// Sessions that wait for their agent to come back, or for their pipe's writer to come.
    pub held: usize,
    /// Bytes of all tunnels' windows, at most 256 MiB; those of tunnels that are just ending count.
    pub windows: u64,
}

/// What needs a task of its own.
#[derive(Debug)]
enum Work {
    Agent(Box<Hub>),
    Held(Box<Held>),
    Visit(Box<Visit>),
}

/// A relay, with any number of doors.
#[derive(Debug)]
pub struct Relay {
    config: RelayConfig,
    registry: Arc<Registry>,
    windows: Arc<Windows>,
    held: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    gateway: Commons,
    /// Of the gateway's own links.
    inside: Greeting,
    work: mpsc::Sender<Work>,
    /// How many of those who were not let in are written down.
    strangers: Refusals,
}

/// One of a relay's doors, with what must be proven there. Listeners bring it their connections.
#[derive(Debug)]
pub struct Door {
    relay: Arc<Relay>,
    greeting: Greeting,
    /// Serves those who have no farpipe.
    front: Option<Front>,
}

/// The tasks of a relay.
#[derive(Debug)]
pub struct Running {
    registry: Arc<Registry>,
    held: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    audit: Audit,
    work: mpsc::Receiver<Work>,
}

impl Relay {
    /// A relay, and what runs it.
    #[must_use]
    pub fn new(config: RelayConfig) -> (Self, Running) {
        let (work, received) = mpsc::channel(WORK_MAX);
        let registry = Arc::new(Registry::new(config.agents_max));
        let held: Arc<AtomicUsize> = Arc::default();
        let metrics: Arc<Metrics> = Arc::default();
        let running = Running {
            registry: Arc::clone(&registry),
            held: Arc::clone(&held),
            metrics: Arc::clone(&metrics),
            audit: config.audit.clone(),
            work: received,
        };
        let tickets = Tickets::new(config.clock, system_random);
        let relay = Self {
            config,
            gateway: Commons::new(tickets),
            inside: greeting(),
            registry,
            windows: Arc::default(),
            held,
            metrics,
            work,
            strangers: Refusals::default(),
        };
        (relay, running)
    }

    /// What there is to do now.
    #[must_use]
    pub fn load(&self) -> Load {
        let (agents, tunnels) = self.registry.count();
        Load {
            agents,
            tunnels,
            held: self.held.load(Ordering::Relaxed),
            windows: self.windows.used(),
        }
    }

    /// A door where `greeting` says what a neighbour must prove, and what WELCOME says.
    #[must_use]
    pub fn door(self: &Arc<Self>, greeting: Greeting) -> Door {
        self.metrics.doors.fetch_add(1, Ordering::Relaxed);
        Door {
            relay: Arc::clone(self),
            greeting,
            front: None,
        }
    }

    pub(crate) fn clock(&self) -> Clock {
        self.config.clock
    }

    pub(crate) fn gateway(&self) -> &Commons {
        &self.gateway
    }

    /// Runs a request of the gateway's in a task of its own.
    ///
    /// # Errors
    /// The request, if there is no room for it.
    pub(crate) fn visited(&self, visit: Box<Visit>) -> Result<(), Box<Visit>> {
        let sent = self.work.try_send(Work::Visit(visit));
        sent.map_err(|error| match error.into_inner() {
            Work::Visit(visit) => visit,
            Work::Agent(_) | Work::Held(_) => unreachable!("it was a visit that was sent"),
        })
    }

    /// Serves a link of the gateway's, which has let `who` in.
    pub(crate) async fn serve_inside(
        &self,
        carrier: MemCarrier,
        who: Option<Identity>,
        peer: &str,
    ) -> Result<(), HandshakeError> {
        let RelayConfig {
            clock, heartbeat, ..
        } = &self.config;
        let carrier = async { Ok(Box::new(carrier) as Box<dyn Carrier>) };
        let guest = receive(carrier, &self.inside, *clock, *heartbeat).await?;
        self.serve_guest(guest, who, peer.to_owned()).await
    }

    /// Takes a neighbour that was let in to what it wants.
    async fn serve_guest(
        &self,
        guest: Guest,
        who: Option<Identity>,
        peer: String,
    ) -> Result<(), HandshakeError> {
        let Guest {
            hop,
            wanted,
            standing,
            ..
        } = guest;
        match wanted {
            Wanted::Registration(register) => {
                self.register(hop, register, who.as_ref(), &peer, standing)
                    .await
            }
            Wanted::Names(list) => self.list(hop, list).await,
            Wanted::Session(near, mut attach) => {
                let Some(key) = SessionKey::from_slice(&attach.key) else {
                    return Err(wrong(hop, near, "a key of 32 bytes is wanted").await);
                };
                if attach.route.is_empty() {
                    let why = "this is a relay: name the agent to ask for";
                    return Err(wrong(hop, near, why).await);
                }
                if attach.route == TOPICS {
                    attach.route.clear();
                    return self.topics((hop, near, attach), who, standing, peer).await;
                }
                let route = Route::of(std::mem::take(&mut attach.route));
                if route.is_pipe() && !is_name(route.name()) {
                    // Nobody could come whom it would be held for.
                    return Err(wrong(hop, near, "no pipe has such a name").await);
                }
                // What a caller says of itself counts for nothing.
                attach.caller = who.as_ref().map(ToString::to_string).unwrap_or_default();
                let joining = Joining {
                    hop,
                    near,
                    attach,
                    key: key.to_string(),
                    peer,
                    standing,
                };
                self.attach(joining, route).await
            }
        }
    }

    /// The topics that are kept here, for a request of the gateway's about one of them: it is written down before.
    ///
    /// # Errors
    /// There are none, or it cannot be written down.
    pub(crate) async fn topics_for(
        &self,
        name: &str,
        who: Option<&Identity>,
        peer: &str,
    ) -> Result<&Topics, NoTopics> {
        let asks = asks("topics", name, who, peer);
        let Some(kept) = &self.config.kept else {
            asks.refused(&self.config.audit, NO_TOPICS).await;
            return Err(NoTopics::NotKept);
        };
        asks.asked(&self.config.audit).await?;
        Ok(kept)
    }

    /// Serves a session whose end is this relay.
    async fn topics(
        &self,
        guest: (Hop, TunnelId, Attach),
        who: Option<Identity>,
        standing: Standing,
        peer: String,
    ) -> Result<(), HandshakeError> {
        let asks = asks("topics", "", who.as_ref(), &peer);
        let Some(topics) = &self.config.topics else {
            let (hop, near, _) = guest;
            asks.refused(&self.config.audit, NO_TOPICS).await;
            return Err(refused(hop, near, RefuseCode::NoRoute, NO_TOPICS).await);
        };
        if let Err(unwritten) = asks.asked(&self.config.audit).await {
            let (hop, near, _) = guest;
            return Err(refused_for_now(hop, near, unwritten.to_string()).await);
        }
        let caller = who.map(|identity| Caller::RelayAsserted {
            identity,
            relay: Asserting::ThisUser,
        });
        topics.host(guest, caller, standing, peer).await
    }

    /// What says how the relay is and takes orders, and where those come out that concern the
    /// process.
    #[must_use]
    pub fn admin(&self) -> (Admin, mpsc::Receiver<Order>) {
        Admin::new(
            Arc::clone(&self.registry),
            Arc::clone(&self.windows),
            Arc::clone(&self.held),
            Arc::clone(&self.metrics),
            self.config.audit.clone(),
            self.config.clock,
        )
    }

    async fn register(
        &self,
        mut hop: Hop,
        register: Register,
        who: Option<&Identity>,
        peer: &str,
        standing: Standing,
    ) -> Result<(), HandshakeError> {
        let now = self.config.clock.now();
        let name = register.name.clone();
        let what = if register.pipe { "pipe" } else { "agent" };
        let registration = match self.registry.register(register, who, peer, now) {
            Ok(registration) => registration,
            Err(objection) => {
                self.metrics.registration("refused");
                let asks = asks(what, &name, who, peer);
                asks.refused(&self.config.audit, &objection.message).await;
                let name = name.escape_debug();
                tracing::info!(
                    "{what} {name}: not registered: {}: {peer}",
                    objection.message
                );
                let refused = Refused {
                    code: objection.code as u32,
                    is_final: objection.code.is_final(),
                    message: objection.message,
                };
                let frame = HopFrame::Refused(TunnelId::LINK, refused.clone());
                hop.refuse(&frame).await;
                return Err(HandshakeError::Refused(refused));
            }
        };
        let asks = asks(what, &name, who, peer);
        if let Err(unwritten) = asks.asked(&self.config.audit).await {
            drop(registration);
            let why = unwritten.to_string();
            return Err(refused_for_now(hop, TunnelId::LINK, why).await);
        }
        hop.queue(&HopFrame::Registered(Registered { window: HOP_WINDOW }));
        self.metrics.registration("registered");
        let (windows, metrics) = (Arc::clone(&self.windows), Arc::clone(&self.metrics));
        let audit = self.config.audit.clone();
        let hub = Hub::new(hop, registration, windows, metrics, audit).standing_by(standing);
        // An error means that the relay has ended; the link is cut.
        let _ = self.work.send(Work::Agent(Box::new(hub))).await;
        Ok(())
    }

    async fn attach(&self, joining: Joining, route: Route) -> Result<(), HandshakeError> {
        let may_wait = may_wait(&joining, &route);
        let joining = Box::new(joining);
        let asks = Asks::session(&joining, &route);
        if let Err(unwritten) = asks.asked(&self.config.audit).await {
            let why = unwritten.to_string();
            return Err(refused_for_now(joining.hop, joining.near, why).await);
        }
        let Err((why, joining)) = self.registry.join(&route, joining) else {
            return Ok(());
        };
        // It may come soon; or so many come to it at once that its task is behind.
        if (why == NotJoined::Full || may_wait) && self.hold() {
            let held = Box::new(Held { route, joining });
            // An error means that the relay has ended; the link is cut.
            if self.work.send(Work::Held(held)).await.is_err() {
                self.held.fetch_sub(1, Ordering::Relaxed);
            }
            return Ok(());
        }
        let (code, message) = match why {
            NotJoined::Full => (
                RefuseCode::Limit,
                "too many at once; try again later".to_owned(),
            ),
            NotJoined::NoRoute => {
                let known = self.registry.no_route(&route, self.config.clock.now());
                (RefuseCode::NoRoute, known)
            }
        };
        self.metrics.session_refused(match code {
            RefuseCode::NoRoute => "no_route",
            _ => "limit",
        });
        tracing::info!(
            "session {}: refused: {message}: {}",
            joining.key,
            joining.peer
        );
        asks.refused(&self.config.audit, &message).await;
        let is_final = code == RefuseCode::NoRoute && !may_wait;
        let refused = refuse(*joining, code, is_final, message).await;
        Err(HandshakeError::Refused(refused))
    }

    /// Notes who did not get in, as often as fits: strangers decide how often they come.
    async fn not_let_in(&self, error: &HandshakeError, peer: &str) {
        match error {
            HandshakeError::Foreign => return,
            // It was let in, and asked for what there is not.
            HandshakeError::Unserved(_) if error.step().is_none() => return,
            error => self.metrics.handshake_failed(error),
        }
        if !self.config.audit.is_kept() {
            return;
        }
        if let Some(left_out) = self.strangers.room() {
            audit::stranger(&self.config.audit, peer, error, left_out).await;
        }
    }

    /// Takes one of the places of held sessions, if there is one.
    fn hold(&self) -> bool {
        let more = |held: usize| (held < HELD_MAX).then_some(held + 1);
        let taken = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok()
    }

    /// Answers as long as it is asked.
    async fn list(&self, mut hop: Hop, mut list: List) -> Result<(), HandshakeError> {
        loop {
            let listed = self.registry.list(list, self.config.clock.now());
            hop.queue(&HopFrame::Listed(listed));
            let next = poll_fn(|cx| {
                if let Poll::Ready(Err(error)) = hop.poll_flush(cx) {
                    return Poll::Ready(Err(error.into()));
                }
                hop.poll_heard(cx)
            });
            match tokio::time::timeout(HANDSHAKE_STEP, next).await {
                Ok(Ok(Some(Heard::Frame(HopFrame::List(again))))) => list = again,
                _ => break,
            }
        }
        hop.close(Close {
            code: 1000,
            reason: "told",
        })
        .await;
        Ok(())
    }
}

impl Entrance for Door {
    fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    fn gateway(&self) -> Option<&dyn Gateway> {
        let front = self.front.as_ref()?;
        Some(front)
    }

    async fn serve(
        &self,
        carrier: impl Future<Output = Result<Box<dyn Carrier>, HandshakeError>> + Send,
        peer: Peer,
    ) -> Result<(), HandshakeError> {
        let Self {
            relay, greeting, ..
        } = self;
        let RelayConfig {
            clock, heartbeat, ..
        } = &relay.config;
        let guest = match receive(carrier, greeting, *clock, *heartbeat).await {
            Ok(guest) => guest,
            Err(error) => {
                relay.not_let_in(&error, &peer.to_string()).await;
                return Err(error);
            }
        };
        let peer = peer.to_string();
        let who = guest.who().cloned();
        let is_nameless = guest.identity.is_some() && who.is_none();
        match &who {
            Some(who) => tracing::info!("{peer}: let in as {who}"),
            None => tracing::info!("{peer}: let in as this user"),
        }
        if is_nameless {
            let Guest { hop, wanted, .. } = guest;
            // Where names decide, it would be taken for somebody else who has none.
            let about = match &wanted {
                Wanted::Session(near, _) => *near,
                Wanted::Registration(_) | Wanted::Names(_) => TunnelId::LINK,
            };
            let why = "the certificate has no farpipe identity; issue one with `farpipe cert`";
            return Err(refused(hop, about, RefuseCode::Auth, why).await);
        }
        relay.serve_guest(guest, who, peer).await
    }
}

impl Door {
    /// The same door, where those who have no farpipe are served by HTTP at `/p/` and `/t/`, too.
    #[must_use]
    pub fn with_gateway(mut self, config: GatewayConfig) -> Self {
        self.front = Some(Front {
            relay: Arc::clone(&self.relay),
            config: Arc::new(config),
            tokens: self.greeting.tokens.clone(),
        });
        self
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.relay.metrics.doors.fetch_sub(1, Ordering::Relaxed);
    }
}

fn asks(what: &'static str, name: &str, who: Option<&Identity>, peer: &str) -> Asks {
    let who = who.map(ToString::to_string).unwrap_or_default();
    Asks::registration(what, name, &who, peer)
}

/// Refuses until another time.
async fn refused_for_now(hop: Hop, near: TunnelId, message: String) -> HandshakeError {
    let refused = Refused {
        code: RefuseCode::Limit as u32,
        is_final: false,
        message,
    };
    hop.refuse(&HopFrame::Refused(near, refused.clone())).await;
    HandshakeError::Refused(refused)
}

async fn wrong(hop: Hop, near: TunnelId, why: &str) -> HandshakeError {
    refused(hop, near, RefuseCode::Protocol, why).await
}

/// Refuses for good.
async fn refused(hop: Hop, near: TunnelId, code: RefuseCode, why: &str) -> HandshakeError {
    let frame = refusal(near, code, why);
    hop.refuse(&frame).await;
    HandshakeError::Refused(Refused {
        code: code as u32,
        is_final: true,
        message: why.to_owned(),
    })
}

impl Running {
    /// Serves who was let in. When `stop` is ready, everybody is told to go elsewhere and has 5 s for
    /// it; stop listening before.
    ///
    /// # Cancellation
    /// Dropping it cuts every link.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let going = Going::default();
        let mut tasks = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                work = self.work.recv() => match work {
                    Some(work) => self.start(work, &mut tasks, &going),
                    // Nobody can come any more.
                    None => break,
                },
                Some(ended) = tasks.join_next() => log_panic(ended),
            }
        }
        self.metrics.is_draining.store(true, Ordering::Relaxed);
        tracing::info!(
            "draining: {} agents and {} tunnels are told to go elsewhere",
            self.registry.agents_len(),
            self.metrics.tunnels.len()
        );
        self.work.close();
        going.say();
        while let Some(work) = self.work.recv().await {
            self.start(work, &mut tasks, &going);
        }
        while let Some(ended) = tasks.join_next().await {
            log_panic(ended);
        }
    }

    fn start(&self, work: Work, tasks: &mut JoinSet<()>, going: &Going) {
        let going = going.clone();
        match work {
            Work::Agent(hub) => {
                tasks.spawn(hub.run(going));
            }
            Work::Visit(visit) => {
                tasks.spawn(visit.run(going));
            }
            Work::Held(held) => {
                let (registry, places) = (Arc::clone(&self.registry), Arc::clone(&self.held));
                let metrics = Arc::clone(&self.metrics);
                let audit = self.audit.clone();
                tasks.spawn(async move {
                    let asks = Asks::session(&held.joining, &held.route);
                    if let Some(reason) = held.run(registry, going).await {
                        metrics.session_refused(reason);
                        asks.refused(&audit, reason).await;
                    }
                    places.fetch_sub(1, Ordering::Relaxed);
                });
            }
        }
    }
}

/// One agent's task must not take the relay down with it, but a bug is to be seen.
fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("a task of the relay failed: {error}");
    }
}
