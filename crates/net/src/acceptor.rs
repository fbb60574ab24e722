//! The acceptor's side: takes carriers and tunnels, finds or makes their session.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farpipe_proto::identity::{Asserting, Caller, Identity, Kind, LetInBy};
use farpipe_proto::limits::{
    DRAIN, HANDSHAKE_TOTAL, HEARTBEAT, PARK_MAX, SEAL_HANDSHAKE, SESSIONS_MAX, WINDOW_SESSION_MAX,
};
use farpipe_proto::link::{Keys, SecretId};
use farpipe_proto::session::{Park, SessionConfig, Side};
use farpipe_proto::wire::control::{Attach, RefuseCode, Refused};
use farpipe_proto::wire::hop::HopFrame;
use farpipe_proto::wire::id::{SessionKey, TunnelId};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::accepted::AcceptedSession;
use crate::budget::WindowBudget;
use crate::carrier::Carrier;
use crate::clock::Clock;
use crate::entrance::Entrance;
use crate::event::Events;
use crate::hop::Hop;
use crate::link::{self, Asking, Greeting, HandshakeError, Wanted, Wire};
use crate::opener::millis;
use crate::peer::Peer;
use crate::shared::Shared;
use crate::standing::Standing;
use crate::tls::{AcceptorSeal, PeerIdentity, Seal};
use crate::trunk::Orders;

/// Attaches of one session waiting for its task. Policy when full: the newest is refused and asks
/// again.
const ATTACHES_MAX: usize = 4;

/// Settings of an acceptor.
#[derive(Debug, Clone)]
pub struct AcceptorConfig {
    /// Serve one session only; another peer hears "busy".
    pub one_shot: bool,
    /// The process ends with its sessions: one that is settled without a link is kept as long as its
    /// opener may need to hear of it, and no longer. Default: only if it serves one.
    pub is_last: bool,
    /// Sessions at once, those that wait for the application or for a link included; one more is
    /// refused for now. Default 256.
    pub sessions_max: usize,
    /// How long a session without a link is kept at most; less if its opener does not try as long.
    /// Default and upper limit: [`PARK_MAX`].
    pub park_max: Duration,
    /// Default 10 s.
    pub heartbeat: Duration,
    /// Bytes a session retains at most. Default 64 MiB.
    pub buffer_max: u64,
    /// As [`SessionConfig::answers_ends`]. Default: no.
    pub answers_ends: bool,
    /// Default: for this acceptor alone. A process with several shares one among them.
    pub windows: Arc<WindowBudget>,
    /// Uncovers sessions that their openers have covered with TLS up to here; such are refused
    /// without it. Default: none.
    pub seal: Option<AcceptorSeal>,
    /// What the opener of a session that is sealed is told where nothing uncovers it.
    pub unsealed: &'static str,
    /// What WELCOME says.
    pub greeting: Greeting,
    /// The clock; virtual in simulations.
    pub clock: Clock,
    /// Where link events go.
    pub events: Option<Events>,
}

impl AcceptorConfig {
    /// The defaults.
    #[must_use]
    pub fn new(greeting: Greeting) -> Self {
        Self {
            one_shot: false,
            is_last: false,
            sessions_max: SESSIONS_MAX,
            park_max: PARK_MAX,
            heartbeat: HEARTBEAT,
            buffer_max: WINDOW_SESSION_MAX,
            answers_ends: false,
            windows: Arc::default(),
            seal: None,
            unsealed: "this agent has no certificate: end-to-end TLS needs one (give it --cert, --key \
                       and --ca)",
            greeting,
            clock: Clock::Boot,
            events: None,
        }
    }
}

/// One known session.
#[derive(Debug)]
struct Entry {
    /// The newest attach; older ones are fenced.
    epoch: u64,
    /// The ticket it was opened with; empty: none.
    ticket: Vec<u8>,
    caller: Option<Caller>,
    /// Its bytes are TLS.
    sealed: bool,
    attaches: mpsc::Sender<Arrival>,
}

/// A tunnel that asks for a session, on an authenticated link.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) way: Way,
    pub(crate) tunnel: TunnelId,
    pub(crate) attach: Attach,
    pub(crate) ticket: Vec<u8>,
    /// Who asks; `None`: nobody had to say.
    pub(crate) caller: Option<Caller>,
    /// By what the link was let in that it came on; nothing for a relay's.
    pub(crate) standing: Standing,
    pub(crate) peer: String,
}

/// What carries an arrival.
#[derive(Debug)]
pub(crate) enum Way {
    /// A link of its own.
    Wire(Box<Wire>),
    /// One of the tunnels of a link to a relay.
    Trunk(Orders),
}

type Registry = Arc<Mutex<BTreeMap<SessionKey, Entry>>>;

/// Takes carriers and yields sessions.
#[derive(Debug)]
pub struct Acceptor {
    config: AcceptorConfig,
    sessions: Registry,
    started: farpipe_proto::Instant,
    /// As long as there may be sessions, so that a burst of them finds room. Policy when full: the
    /// newest is refused.
    incoming: mpsc::Sender<AcceptedSession>,
}

/// The other end of an [`Acceptor`].
#[derive(Debug)]
pub struct Sessions(mpsc::Receiver<AcceptedSession>);

impl Sessions {
    /// The next new session; `None` when the acceptor is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<AcceptedSession> {
        self.0.recv().await
    }
}

impl Acceptor {
    /// An acceptor and where its sessions come out.
    #[must_use]
    pub fn new(config: AcceptorConfig) -> (Self, Sessions) {
        let (incoming, sessions) = mpsc::channel(config.sessions_max.max(1));
        (
            Self {
                started: config.clock.now(),
                config,
                sessions: Registry::default(),
                incoming,
            },
            Sessions(sessions),
        )
    }

    /// Sessions at once, those without a link included.
    #[must_use]
    pub fn sessions(&self) -> usize {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.len()
    }

    pub(crate) fn config(&self) -> &AcceptorConfig {
        &self.config
    }

    /// Takes a connection from `peer` to its session: see [`Entrance::serve`].
    ///
    /// # Errors
    /// As there.
    pub async fn serve(
        &self,
        carrier: impl Future<Output = Result<Box<dyn Carrier>, HandshakeError>> + Send,
        peer: String,
    ) -> Result<(), HandshakeError> {
        let handshake = async {
            let mut wire = Wire::new(carrier.await?);
            let asking = link::accept(&mut wire, &self.config.greeting).await?;
            let caller = direct(wire.carrier.peer_identity(), &asking);
            let standing = asking.standing;
            let Wanted::Session(tunnel, attach) = asking.wanted else {
                return Err(link::refuse_as_no_relay(wire).await);
            };
            Ok::<_, HandshakeError>(Arrival {
                way: Way::Wire(Box::new(wire)),
                tunnel,
                attach,
                ticket: asking
                    .proven
                    .map_or_else(Vec::new, |secret| secret.ticket().to_vec()),
                caller,
                standing,
                peer,
            })
        };
        let arrival = tokio::time::timeout(HANDSHAKE_TOTAL, handshake)
            .await
            .map_err(|_| HandshakeError::Endless)??;
        self.route_or_refuse(arrival).await
    }

    /// Takes a session whose opener somebody else has let in, as `caller`, to serve it here.
    ///
    /// # Errors
    /// It is refused, and was told so.
    pub async fn host(
        &self,
        guest: (Hop, TunnelId, Attach),
        caller: Option<Caller>,
        standing: Standing,
        peer: String,
    ) -> Result<(), HandshakeError> {
        let (hop, tunnel, attach) = guest;
        let arrival = Arrival {
            way: Way::Wire(Box::new(hop.into_wire())),
            tunnel,
            attach,
            ticket: Vec::new(),
            caller,
            standing,
            peer,
        };
        self.route_or_refuse(arrival).await
    }

    async fn route_or_refuse(&self, arrival: Arrival) -> Result<(), HandshakeError> {
        let Err(refusal) = self.route(arrival) else {
            return Ok(());
        };
        let Refusal { arrival, refused } = *refusal;
        let frame = HopFrame::Refused(arrival.tunnel, refused.clone());
        if let Way::Wire(mut wire) = arrival.way {
            wire.refuse(&frame).await;
        }
        Err(HandshakeError::Refused(refused))
    }

    /// Hands an arrival to its session, or makes that. Never waits: an arrival that cannot be taken
    /// now comes again, while one that waited would hold its carrier, and its peer, for nothing.
    pub(crate) fn route(&self, arrival: Arrival) -> Result<(), Box<Refusal>> {
        let Some(key) = SessionKey::from_slice(&arrival.attach.key) else {
            return Err(arrival.refuse(RefuseCode::Protocol, "a key of 32 bytes is wanted"));
        };
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = sessions.get_mut(&key) {
            return entry.attach(arrival);
        }
        let resume_for = Duration::from_millis(arrival.attach.resume_for_ms);
        let park = Park::new(resume_for, self.config.park_max);
        if let Some((code, why)) = self.objection(&arrival.attach, &park, &sessions) {
            return Err(arrival.refuse(code, why));
        }
        if self.has_its_share(arrival.caller.as_ref(), &sessions) {
            let why = "too many sessions of one caller at once, those that wait for a lost connection \
                       included; try again later";
            return Err(arrival.refuse(RefuseCode::Limit, why));
        }
        let place = match self.incoming.try_reserve() {
            Ok(place) if sessions.len() < self.config.sessions_max => place,
            Ok(_) | Err(TrySendError::Full(())) => {
                let why = "too many sessions at once; try again later";
                return Err(arrival.refuse(RefuseCode::Limit, why));
            }
            Err(TrySendError::Closed(())) => {
                let why = "this process takes no more sessions";
                return Err(arrival.refuse(RefuseCode::ShuttingDown, why));
            }
        };
        if let Some(keys) = &self.config.greeting.keys
            && let Err(why) = keys.claim(&arrival.ticket, &key)
        {
            return Err(arrival.refuse(RefuseCode::Auth, &why));
        }
        let (attaches, arrivals) = mpsc::channel(ATTACHES_MAX);
        let entry = Entry {
            epoch: arrival.attach.epoch,
            ticket: arrival.ticket.clone(),
            caller: arrival.caller.clone(),
            sealed: arrival.attach.sealed,
            attaches,
        };
        sessions.insert(key, entry);
        drop(sessions);
        let registered = Registered {
            key,
            sessions: Arc::clone(&self.sessions),
            keys: self.config.greeting.keys.clone(),
        };
        let seal = match self.seal(&arrival.attach) {
            Ok(seal) => seal,
            Err(why) => return Err(arrival.refuse(RefuseCode::EndToEnd, &why)),
        };
        let windows = Arc::clone(&self.config.windows);
        let mut config = SessionConfig::new(Side::Acceptor);
        config.buffer_max = self.config.buffer_max;
        config.answers_ends = self.config.answers_ends;
        place.send(AcceptedSession {
            shared: Shared::new(config, windows, self.config.clock, seal),
            config: self.config.clone(),
            key,
            park,
            resume_for,
            peer: arrival.peer.clone(),
            caller: arrival.caller.clone(),
            first: Some(arrival),
            arrivals,
            registered,
            shaking: SEAL_HANDSHAKE,
            standing: Standing::default(),
        });
        Ok(())
    }

    /// What uncovers the session, if it is covered, or why that cannot be had.
    fn seal(&self, attach: &Attach) -> Result<Option<Seal>, String> {
        match &self.config.seal {
            _ if !attach.sealed => Ok(None),
            Some(seal) => seal.begin().map(Some).map_err(|error| error.to_string()),
            None => Err(self.config.unsealed.to_owned()),
        }
    }

    /// Whether a caller with a name has so many sessions that others must find room, too: three
    /// quarters of all.
    fn has_its_share(
        &self,
        caller: Option<&Caller>,
        sessions: &BTreeMap<SessionKey, Entry>,
    ) -> bool {
        let share = self.config.sessions_max - self.config.sessions_max / 4;
        let Some(name) = caller.and_then(Caller::identity) else {
            return false;
        };
        if sessions.len() < share {
            return false;
        }
        let names = sessions.values().filter_map(|entry| entry.caller.as_ref());
        let own = names.filter(|caller| caller.identity() == Some(name));
        own.count() >= share
    }

    /// Why no session is made for an attach whose key is not known.
    fn objection(
        &self,
        attach: &Attach,
        park: &Park,
        sessions: &BTreeMap<SessionKey, Entry>,
    ) -> Option<(RefuseCode, &'static str)> {
        if attach.established {
            return Some((
                RefuseCode::UnknownSession,
                "this session is not known here (any more): it ended, was given up, or this is \
                 another process than before",
            ));
        }
        let uptime = self.config.clock.now() - self.started;
        // Longer ago than a session is kept: it may have run here, ended, and been forgotten.
        // One second of grace: a first attach is on its way for a moment, too.
        let remembered = uptime.min(park.park_for() + DRAIN);
        if attach.age_ms > millis(remembered) {
            return Some((
                RefuseCode::OutcomeUnknown,
                "this process is younger than the request: whether it was carried out before is \
                 not known",
            ));
        }
        if self.config.one_shot && !sessions.is_empty() {
            return Some((
                RefuseCode::Busy,
                "busy: this one-shot listener serves another session (use --keep for many)",
            ));
        }
        None
    }
}

/// Who is at the other end of a link that ends here.
fn direct(peer: Option<&PeerIdentity>, asking: &Asking) -> Option<Caller> {
    if let Some(named) = peer.and_then(PeerIdentity::direct) {
        return Some(named);
    }
    if let Some(token) = &asking.token {
        let identity = token.identity.clone();
        return Some(Caller::Token { identity });
    }
    match (&asking.proven, peer) {
        (Some(SecretId::Loopback), _) => Some(Caller::ThisUser),
        (Some(SecretId::Ticket(_)), _) => Some(Caller::Unnamed(LetInBy::Ticket)),
        (_, Some(_)) => Some(Caller::Unnamed(LetInBy::Certificate)),
        (Some(SecretId::Token(_)) | None, None) => None,
    }
}

/// Who asks, as a relay says; it says nothing of who has shown no certificate.
pub(crate) fn asserted(name: &str, relay: Asserting) -> Option<Caller> {
    if name.is_empty() {
        return Some(Caller::Unnamed(LetInBy::Relay(relay)));
    }
    let identity: Identity = name.parse().ok()?;
    let may_ask = identity.kind() != Kind::Authority;
    may_ask.then_some(Caller::RelayAsserted { identity, relay })
}

/// An arrival that is not taken, and why. Boxed because it is large.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) arrival: Arrival,
    pub(crate) refused: Refused,
}

impl Entrance for Acceptor {
    fn greeting(&self) -> &Greeting {
        &self.config.greeting
    }

    async fn serve(
        &self,
        carrier: impl Future<Output = Result<Box<dyn Carrier>, HandshakeError>> + Send,
        peer: Peer,
    ) -> Result<(), HandshakeError> {
        Self::serve(self, carrier, peer.to_string()).await
    }
}

impl Arrival {
    fn refuse(self, code: RefuseCode, message: &str) -> Box<Refusal> {
        Box::new(Refusal {
            arrival: self,
            refused: Refused {
                code: code as u32,
                is_final: code.is_final(),
                message: message.to_owned(),
            },
        })
    }
}

impl Entry {
    fn attach(&mut self, arrival: Arrival) -> Result<(), Box<Refusal>> {
        let epoch = arrival.attach.epoch;
        if epoch <= self.epoch {
            return Err(arrival.refuse(
                RefuseCode::Fenced,
                "a newer connection of this session is known",
            ));
        }
        if arrival.ticket != self.ticket {
            let why = "this session was opened with another ticket";
            return Err(arrival.refuse(RefuseCode::Auth, why));
        }
        let is_same = match (&arrival.caller, &self.caller) {
            (Some(comes), Some(opened)) => comes.is_same(opened),
            (comes, opened) => comes.is_none() && opened.is_none(),
        };
        if !is_same {
            let why = "this session was opened by another caller";
            return Err(arrival.refuse(RefuseCode::Auth, why));
        }
        if arrival.attach.sealed != self.sealed {
            let why = "end-to-end: this session is sealed and the attach is not, or the other way \
                       round: something between changed it";
            return Err(arrival.refuse(RefuseCode::EndToEnd, why));
        }
        match self.attaches.try_send(arrival) {
            Ok(()) => {
                self.epoch = epoch;
                Ok(())
            }
            Err(TrySendError::Full(arrival)) => Err(arrival.refuse(
                RefuseCode::Limit,
                "too many connections of this session wait to be attached",
            )),
            Err(TrySendError::Closed(arrival)) => {
                Err(arrival.refuse(RefuseCode::ShuttingDown, "this session is just ending"))
            }
        }
    }
}

/// Takes the session out of the registry when it is over.
#[derive(Debug)]
pub(crate) struct Registered {
    key: SessionKey,
    sessions: Registry,
    keys: Option<Arc<dyn Keys>>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
        if let Some(keys) = &self.keys {
            keys.release(&self.key);
        }
    }
}
