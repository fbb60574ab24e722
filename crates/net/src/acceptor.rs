//! The acceptor's side: takes carriers, finds or makes their session, parks it without a link.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farpipe_proto::limits::{
    DRAIN, HANDSHAKE_TOTAL, HEARTBEAT, PARK_MAX, SESSIONS_MAX, WINDOW_SESSION_MAX,
};
use farpipe_proto::link::Keys;
use farpipe_proto::session::{Park, SessionConfig, Settled, Side};
use farpipe_proto::wire::control::{Attach, Attached, RefuseCode, Refused};
use farpipe_proto::wire::hop::HopFrame;
use farpipe_proto::wire::id::{SessionKey, TunnelId};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::budget::WindowBudget;
use crate::carrier::{Carrier, Close};
use crate::clock::Clock;
use crate::driver::{Driven, Driver};
use crate::event::{Events, LinkEvent, tell};
use crate::link::{self, Greeting, HandshakeError, Wire};
use crate::opener::{PROTOCOL_CLOSE, millis, span};
use crate::session::{SessionHandle, complete, ended};
use crate::shared::{SessionEnd, Shared};

/// Attaches of one session waiting for its task. Policy when full: the newest is refused and asks
/// again.
const ATTACHES_MAX: usize = 4;

/// Settings of an acceptor.
#[derive(Debug, Clone)]
pub struct AcceptorConfig {
    /// Serve one session only; another peer hears "busy".
    pub one_shot: bool,
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
    /// Default: for this acceptor alone. A process with several shares one among them.
    pub windows: Arc<WindowBudget>,
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
            sessions_max: SESSIONS_MAX,
            park_max: PARK_MAX,
            heartbeat: HEARTBEAT,
            buffer_max: WINDOW_SESSION_MAX,
            windows: Arc::default(),
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
    attaches: mpsc::Sender<Arrival>,
}

/// An authenticated carrier that asks for a session.
#[derive(Debug)]
struct Arrival {
    wire: Wire,
    tunnel: TunnelId,
    attach: Attach,
    ticket: Vec<u8>,
    peer: String,
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

    /// What is said and wanted in the handshake.
    pub(crate) fn greeting(&self) -> &Greeting {
        &self.config.greeting
    }

    /// Takes a connection from `peer` to its session: through what makes a carrier of it and
    /// through the handshake. A failed handshake uses nothing up. Run it in a task of its own; both
    /// together last at most 30 s, and a refusal 1 s more.
    ///
    /// # Errors
    /// [`HandshakeError`], for the log; the peer was told where it can be.
    ///
    /// # Cancellation
    /// Dropping it drops the connection.
    pub async fn serve(
        &self,
        carrier: impl Future<Output = Result<Box<dyn Carrier>, HandshakeError>>,
        peer: String,
    ) -> Result<(), HandshakeError> {
        let handshake = async {
            let mut wire = Wire::new(carrier.await?);
            let attaching = link::accept(&mut wire, &self.config.greeting).await?;
            Ok::<_, HandshakeError>(Arrival {
                wire,
                tunnel: attaching.tunnel,
                attach: attaching.attach,
                ticket: attaching.ticket,
                peer,
            })
        };
        let arrival = tokio::time::timeout(HANDSHAKE_TOTAL, handshake)
            .await
            .map_err(|_| HandshakeError::Endless)??;
        let Err(refusal) = self.route(arrival) else {
            return Ok(());
        };
        let Refusal {
            mut arrival,
            refused,
        } = *refusal;
        let frame = HopFrame::Refused(arrival.tunnel, refused.clone());
        arrival.wire.refuse(&frame).await;
        Err(HandshakeError::Refused(refused))
    }

    /// Hands an arrival to its session, or makes that. Never waits: an arrival that cannot be taken
    /// now comes again, while one that waited would hold its carrier, and its peer, for nothing.
    fn route(&self, arrival: Arrival) -> Result<(), Box<Refusal>> {
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
            attaches,
        };
        sessions.insert(key, entry);
        drop(sessions);
        let mut config = SessionConfig::new(Side::Acceptor);
        config.buffer_max = self.config.buffer_max;
        place.send(AcceptedSession {
            shared: Shared::new(config, Arc::clone(&self.config.windows), self.config.clock),
            config: self.config.clone(),
            key,
            park,
            peer: arrival.peer.clone(),
            first: Some(arrival),
            arrivals,
            registered: Registered {
                key,
                sessions: Arc::clone(&self.sessions),
                keys: self.config.greeting.keys.clone(),
            },
        });
        Ok(())
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

/// An arrival that is not taken, and why. Boxed because it is large.
#[derive(Debug)]
struct Refusal {
    arrival: Arrival,
    refused: Refused,
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
struct Registered {
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

/// A session a peer opened here.
#[derive(Debug)]
pub struct AcceptedSession {
    shared: Arc<Shared>,
    config: AcceptorConfig,
    key: SessionKey,
    park: Park,
    peer: String,
    first: Option<Arrival>,
    arrivals: mpsc::Receiver<Arrival>,
    registered: Registered,
}

/// How waiting for a link ended.
enum Parked {
    Arrival(Box<Arrival>),
    Ended(SessionEnd),
    Expired,
}

impl AcceptedSession {
    /// Accepts streams.
    #[must_use]
    pub fn handle(&self) -> SessionHandle {
        SessionHandle::new(Arc::clone(&self.shared))
    }

    /// Where the opener came from, for people.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The session's key, shortened.
    #[must_use]
    pub fn name(&self) -> String {
        self.key.to_string()
    }

    /// Serves the session's links until everything is settled, or the session is given up.
    ///
    /// # Errors
    /// [`SessionEnd`]; every handle of the session gets the same.
    ///
    /// # Cancellation
    /// Dropping it ends the session here without a word; the opener hears it when it redials.
    pub async fn run(mut self) -> Result<(), SessionEnd> {
        let result = self.serve().await;
        if let Err(end) = &result {
            self.shared.lock().end(end.clone());
        }
        drop(self.registered);
        result
    }

    async fn serve(&mut self) -> Result<(), SessionEnd> {
        let mut next = self.first.take();
        let mut links = 0u64;
        loop {
            let arrival = match next.take() {
                Some(arrival) => arrival,
                None => match self.parked().await {
                    Parked::Arrival(arrival) => *arrival,
                    Parked::Ended(end) => return Err(end),
                    Parked::Expired => return self.expired(),
                },
            };
            links += 1;
            match self.link(arrival, links).await? {
                Linked::Over => return Ok(()),
                Linked::Lost => {}
                Linked::Fenced(newer) => next = Some(*newer),
            }
        }
    }

    /// Waits for a link as long as the session is kept.
    async fn parked(&mut self) -> Parked {
        loop {
            let settled = self.settled();
            let until = self.park.poll_timeout(settled);
            let expired = async {
                match until {
                    Some(at) => tokio::time::sleep_until(self.config.clock.deadline(at)).await,
                    None => std::future::pending().await,
                }
            };
            let may_settle = self.config.one_shot && settled == Settled::No;
            // In order, so that simulations repeat: our own word, then a link in the last moment.
            tokio::select! {
                biased;
                end = ended(&self.shared) => return Parked::Ended(end),
                Some(arrival) = self.arrivals.recv() => return Parked::Arrival(Box::new(arrival)),
                () = complete(&self.shared), if may_settle => {
                    self.park.handle_settled(self.config.clock.now());
                }
                () = expired => return Parked::Expired,
            }
        }
    }

    /// How much is settled, as far as it decides how long to wait for a link: who serves on keeps
    /// the final offsets as long as it parks, because the opener may be slow.
    fn settled(&self) -> Settled {
        if self.config.one_shot {
            self.shared.lock().session.settled()
        } else {
            Settled::No
        }
    }

    fn expired(&self) -> Result<(), SessionEnd> {
        let state = self.shared.lock();
        if state.session.is_complete() {
            // COMPLETE is said; that it was not heard hurts nobody any more.
            return Ok(());
        }
        Err(SessionEnd::Lost(format!(
            "the session from {} was given up after {} without a link: {} bytes received, {} of {} \
             sent bytes confirmed",
            self.peer,
            span(self.park.park_for()),
            state.session.received(),
            state.session.acked(),
            state.session.numbered(),
        )))
    }

    /// Serves one link.
    async fn link(&mut self, arrival: Arrival, links: u64) -> Result<Linked, SessionEnd> {
        let Arrival {
            wire,
            tunnel,
            attach,
            peer,
            ticket: _,
        } = arrival;
        self.park.handle_attached();
        let heartbeat = self.config.heartbeat;
        let driver = Driver::attach(&self.shared, wire, tunnel, attach.received, heartbeat);
        let mut driver = match driver {
            Ok(driver) => driver,
            Err(refused) => {
                let (error, mut wire) = *refused;
                let message = format!("cannot resume: {error}");
                let refused = Refused {
                    code: RefuseCode::Offset as u32,
                    is_final: true,
                    message: message.clone(),
                };
                wire.refuse(&HopFrame::Refused(tunnel, refused)).await;
                return Err(SessionEnd::Protocol(message));
            }
        };
        // The older link's reader has stopped: the offset is final until this link brings more.
        let received = self.shared.lock().session.received();
        driver.queue(&HopFrame::Attached(tunnel, Attached { received }));
        self.announce(peer, &attach, links);
        // In order, so that simulations repeat: the first two end this link, whatever it brings.
        tokio::select! {
            biased;
            end = ended(&self.shared) => {
                let words = driver.refusal(&end.to_string());
                driver.leave(&words, GOING_AWAY).await;
                Err(end)
            }
            Some(newer) = self.arrivals.recv() => {
                tracing::debug!("a newer link fences the older one");
                Ok(Linked::Fenced(Box::new(newer)))
            }
            driven = poll_fn(|cx| driver.poll_drive(cx)) => self.driven(driver, driven).await,
        }
    }

    async fn driven(&mut self, driver: Driver, driven: Driven) -> Result<Linked, SessionEnd> {
        let complete = self.shared.lock().session.is_complete();
        match driven {
            Driven::Detached | Driven::Complete if complete => {
                let words = HopFrame::Detach(driver.tunnel());
                driver.leave(&words, GOING_AWAY).await;
                Ok(Linked::Over)
            }
            Driven::Failed(why) => {
                let words = driver.refusal(&why);
                driver.leave(&words, PROTOCOL_CLOSE).await;
                Err(SessionEnd::Protocol(why))
            }
            Driven::Refused(refused) => Err(SessionEnd::Refused(format!(
                "{} ended the session: {}",
                self.peer,
                link::printable(&refused.message)
            ))),
            Driven::Detached | Driven::Complete => Err(SessionEnd::Lost(format!(
                "{} left before everything was settled",
                self.peer
            ))),
            Driven::Lost(lost) => {
                self.park.handle_lost(self.config.clock.now());
                tell(
                    self.config.events.as_ref(),
                    LinkEvent::Lost {
                        why: lost.to_string(),
                        failures: 0,
                        retry_in: None,
                    },
                );
                Ok(Linked::Lost)
            }
        }
    }

    fn announce(&self, peer: String, attach: &Attach, links: u64) {
        let events = self.config.events.as_ref();
        if links > 1 {
            let state = self.shared.lock();
            let resent = state.session.numbered() - state.session.acked();
            drop(state);
            tell(
                events,
                LinkEvent::Resumed {
                    epoch: attach.epoch,
                    resent,
                },
            );
        } else {
            tell(
                events,
                LinkEvent::Connected {
                    session: self.key.to_string(),
                    peer,
                },
            );
        }
    }
}

/// How one link of a session ended.
enum Linked {
    Over,
    Lost,
    Fenced(Box<Arrival>),
}

const GOING_AWAY: Close = Close {
    code: 1000,
    reason: "complete",
};
