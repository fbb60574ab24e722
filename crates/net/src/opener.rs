//! The opener's side of a session: dials, attaches, drives, and dials again.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use farpipe_proto::limits::{
    DRAIN, HANDSHAKE_STEP, HEARTBEAT, LINGER, RESUME_FOR, SEAL_HANDSHAKE, WINDOW_SESSION_MAX,
};
use farpipe_proto::link::LinkError;
use farpipe_proto::session::{Attempt, Next, Redial, SessionConfig, Side};
use farpipe_proto::wire::control::{Attach, Attached, RefuseCode, Refused};
use farpipe_proto::wire::hop::HopFrame;
use farpipe_proto::wire::id::SessionKey;

use crate::budget::WindowBudget;
use crate::carrier::{Carrier, CarrierError, Close};
use crate::clock::Clock;
use crate::driver::Driver;
use crate::event::{Events, LinkEvent, tell};
use crate::link::{self, Greeting, HandshakeError, TUNNEL, Wire};
use crate::session::{SessionHandle, ended, withheld};
use crate::shared::{SessionEnd, Shared};
use crate::tls::{OpenerSeal, SealError, TlsError};
use crate::tunnel::{Driven, LostLink, Tunnel};

/// How a failed attempt to reach the peer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Nobody is there, or a proxy says so: final before the first link, else retried.
    Refused,
    /// Reset or ended before it was up: retried; says that nobody is there only to one who has the
    /// peer's confirmation already.
    Reset,
    /// Timed out: retried.
    Cut,
    /// Something else answers there: final before the first link, else retried, because it may
    /// only stand in for a while.
    Stranger,
    /// A retry cannot help, ever: a certificate, credential or version, or not allowed from here.
    Final,
}

/// Why a carrier could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct DialError {
    /// How it counts.
    pub blame: Blame,
    /// What happened, where.
    pub message: String,
    /// What to do about it, as long as there has been no link: later it was right before.
    pub advice: Option<String>,
}

/// A future that a [`Dial`] returns.
pub type Dialled<'a> =
    Pin<Box<dyn Future<Output = Result<Box<dyn Carrier>, DialError>> + Send + 'a>>;

/// Makes fresh carriers to one peer.
pub trait Dial: Send + Sync + std::fmt::Debug {
    /// Makes one. Bounded in time by the implementation; dropping the future gives up.
    fn dial(&self) -> Dialled<'_>;

    /// The peer, for people.
    fn peer(&self) -> String;

    /// Whom to ask for there; empty: whoever it is.
    fn route(&self) -> String {
        String::new()
    }

    /// Where it led to last is of no use now: the next one leads to another place, if there is one.
    /// `false` if all have been tried since one was of use.
    fn elsewhere(&self) -> bool {
        false
    }
}

/// Settings of a session's opener.
#[derive(Debug, Clone)]
pub struct OpenerConfig {
    /// How long to try to get a lost link back. Default 10 min.
    pub resume_for: Duration,
    /// Default 10 s.
    pub heartbeat: Duration,
    /// Bytes retained at most. Default 64 MiB.
    pub buffer_max: u64,
    /// Default: for this opener alone. A process with several shares one among them.
    pub windows: Arc<WindowBudget>,
    /// Covers the session's bytes with TLS up to the agent, whatever lies between. Default: nothing
    /// does; what lies between reads and may change them.
    pub seal: Option<OpenerSeal>,
    /// What HELLO says.
    pub greeting: Greeting,
    /// The clock; virtual in simulations.
    pub clock: Clock,
    /// Where link events go.
    pub events: Option<Events>,
}

impl OpenerConfig {
    /// The defaults.
    #[must_use]
    pub fn new(greeting: Greeting) -> Self {
        Self {
            resume_for: RESUME_FOR,
            heartbeat: HEARTBEAT,
            buffer_max: WINDOW_SESSION_MAX,
            windows: Arc::default(),
            seal: None,
            greeting,
            clock: Clock::Boot,
            events: None,
        }
    }
}

/// A session this process opens.
///
/// Streams can be opened at once; they wait until [`Opener::run`] has a link.
#[derive(Debug)]
pub struct Opener {
    shared: Arc<Shared>,
    config: OpenerConfig,
    key: SessionKey,
}

impl Opener {
    /// A new session under a fresh random key. One that cannot be sealed as it was asked is over: the
    /// handles and [`Opener::run`] say so.
    #[must_use]
    pub fn new(config: OpenerConfig) -> Self {
        let mut key = [0; 32];
        (config.greeting.random)(&mut key);
        let mut session = SessionConfig::new(Side::Opener);
        session.buffer_max = config.buffer_max;
        let (seal, end) = match config.seal.as_ref().map(OpenerSeal::begin).transpose() {
            Ok(seal) => (seal, None),
            Err(error) => (None, Some(error.end("this end"))),
        };
        let windows = Arc::clone(&config.windows);
        let shared = Shared::new(session, windows, config.clock, seal);
        if let Some(end) = end {
            shared.lock().end(end);
        }
        Self {
            shared,
            config,
            key: SessionKey::new(key),
        }
    }

    /// The session's key, shortened.
    #[must_use]
    pub fn name(&self) -> String {
        self.key.to_string()
    }

    /// Opens streams.
    #[must_use]
    pub fn handle(&self) -> SessionHandle {
        SessionHandle::new(Arc::clone(&self.shared))
    }

    /// Keeps the session linked until everything is settled at both ends.
    ///
    /// # Errors
    /// [`SessionEnd`]; every handle of the session gets the same.
    ///
    /// # Cancellation
    /// Dropping it leaves the peer without a link: it parks the session and gives up later. End
    /// the streams instead.
    pub async fn run(self, dial: &dyn Dial) -> Result<(), SessionEnd> {
        let shared = Arc::clone(&self.shared);
        let name = self.name();
        tracing::info!("session {name}: opened");
        let result = Running {
            redial: Redial::new(self.config.resume_for),
            first_asked: None,
            epoch: 0,
            established: false,
            shaking: SEAL_HANDSHAKE,
            opener: self,
            dial,
        }
        .run()
        .await;
        match &result {
            Ok(()) => tracing::info!("session {name}: ended, all is settled"),
            Err(end) => {
                tracing::info!("session {name}: ended: {end}");
                shared.lock().end(end.clone());
            }
        }
        result
    }
}

/// One step's outcome.
enum Step {
    /// Dial at once: the link made progress.
    Progressed(String),
    /// This attempt failed.
    Failed(Attempt, String),
    /// Another place may do better: dial at once.
    Elsewhere,
    /// All is settled.
    Complete,
}

struct Running<'a> {
    opener: Opener,
    dial: &'a dyn Dial,
    redial: Redial,
    /// When the acceptor may have heard of this session first; before, nothing can have been done.
    first_asked: Option<farpipe_proto::Instant>,
    epoch: u64,
    established: bool,
    /// Link time that the handshake of a sealed session still has.
    shaking: Duration,
}

impl Running<'_> {
    async fn run(mut self) -> Result<(), SessionEnd> {
        loop {
            let (attempt, why) = match self.attempt().await? {
                Step::Complete => return Ok(()),
                Step::Elsewhere => continue,
                Step::Progressed(why) => (Attempt::Progressed, why),
                Step::Failed(attempt, why) => (attempt, why),
            };
            if let Some(end) = self.opener.shared.lock().end.clone() {
                return Err(end);
            }
            if self.is_complete() {
                // COMPLETE was the last thing the link brought; no goodbye was said at all.
                self.leave_again().await;
                return Ok(());
            }
            self.wait(attempt, why).await?;
            if self.is_complete() {
                return Ok(());
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.opener.shared.lock().session.is_complete()
    }

    /// Decides what follows a lost link and waits for it.
    async fn wait(&mut self, attempt: Attempt, why: String) -> Result<(), SessionEnd> {
        let config = &self.opener.config;
        let mut random = [0; 4];
        (config.greeting.random)(&mut random);
        let now = config.clock.now();
        let confirmed = self.opener.shared.lock().session.is_confirmed();
        let next = self
            .redial
            .handle_ended(now, attempt, confirmed, u32::from_ne_bytes(random));
        let failures = self.redial.failures();
        if self.redial.is_alarm() {
            tell(
                config.events.as_ref(),
                LinkEvent::Alarm {
                    failures,
                    why: why.clone(),
                },
            );
        }
        match next {
            Next::DialAt(at) => {
                let wait = at - now;
                tracing::info!(
                    "session {}: lost: {why}; next try in {} ms",
                    self.opener.key,
                    wait.as_millis()
                );
                tell(
                    config.events.as_ref(),
                    LinkEvent::Lost {
                        why,
                        failures,
                        retry_in: Some(wait),
                    },
                );
                if at > now {
                    let slept = tokio::time::sleep_until(config.clock.deadline(at));
                    let shared = &self.opener.shared;
                    tokio::select! {
                        biased;
                        // Ending the session must not wait for the backoff.
                        end = ended(shared) => return Err(end),
                        () = slept => {}
                    }
                }
                Ok(())
            }
            Next::Succeed => {
                tracing::info!("the other side confirmed everything and is gone");
                let mut state = self.opener.shared.lock();
                state.session.handle_peer_gone();
                state.dispatch(bytes::BytesMut::new());
                Ok(())
            }
            Next::GiveUp => Err(SessionEnd::Lost(format!(
                "no link to {} for {}: {why}",
                self.dial.peer(),
                span(config.resume_for),
            ))),
        }
    }

    /// Dials once and drives the session as long as the link lasts.
    async fn attempt(&mut self) -> Result<Step, SessionEnd> {
        let shared = &Arc::clone(&self.opener.shared);
        let linked = tokio::select! {
            biased;
            // Ending the session must not wait for an answer that may never come.
            end = ended(shared) => return Err(end),
            linked = self.link_up() => linked,
        };
        let (wire, attached) = match linked {
            Ok(linked) => linked,
            Err(failed) => return failed,
        };
        let heartbeat = self.opener.config.heartbeat;
        let driver = Driver::attach(shared, wire, TUNNEL, attached.received, heartbeat);
        let mut driver = match driver {
            Ok(driver) => driver,
            Err(refused) => {
                let (error, mut wire) = *refused;
                let message = format!("cannot resume: {error}");
                let refused = Refused {
                    code: RefuseCode::Offset as u32,
                    is_final: RefuseCode::Offset.is_final(),
                    message: message.clone(),
                };
                wire.refuse(&HopFrame::Refused(TUNNEL, refused)).await;
                let message = format!("{}: {message}", self.dial.peer());
                return Err(SessionEnd::Protocol(message));
            }
        };
        self.redial.handle_attached();
        self.announce();
        let began = self.opener.config.clock.now();
        let driven = tokio::select! {
            biased;
            end = ended(shared) => {
                driver.leave(&HopFrame::Detach(TUNNEL), Close { code: 1001, reason: "ended" }).await;
                return Err(end);
            }
            driven = poll_fn(|cx| driver.poll_drive(cx)) => driven,
            () = withheld(shared, self.shaking) => Driven::Unsealed(SealError::Withheld),
        };
        let lived = self.opener.config.clock.now() - began;
        self.shaking = self.shaking.saturating_sub(lived);
        let progressed = driver.progressed() || lived >= farpipe_proto::limits::PROGRESS_LIFE;
        match driven {
            Driven::Complete => {
                if !driver.leave(&LEAVING, NORMAL_CLOSE).await {
                    self.leave_again().await;
                }
                Ok(Step::Complete)
            }
            Driven::Lost(lost @ LostLink::GoingAway) => {
                // It said so in time: there may be another already.
                self.dial.elsewhere();
                Ok(Step::Progressed(lost.to_string()))
            }
            Driven::Lost(lost) if progressed => Ok(Step::Progressed(lost.to_string())),
            Driven::Lost(lost) => Ok(Step::Failed(Attempt::Cut, lost.to_string())),
            Driven::Detached => Ok(Step::Failed(
                Attempt::Refused,
                "the other side left".to_owned(),
            )),
            Driven::Refused(refused) if refused.is_final => {
                let peer = self.dial.peer();
                let mut why = link::printable(&refused.message);
                if !shared.lock().is_open() {
                    why.push_str(" (end-to-end TLS had not come about)");
                }
                let why = format!("{peer} ended the session: {why}");
                Err(SessionEnd::Refused(why))
            }
            Driven::Refused(refused) => {
                let why = link::printable(&refused.message);
                let is_cut = RefuseCode::from_wire(refused.code) == Some(RefuseCode::Cut);
                Ok(match is_cut {
                    true if progressed => Step::Progressed(why),
                    true => Step::Failed(Attempt::Cut, why),
                    false => Step::Failed(Attempt::Refused, why),
                })
            }
            Driven::Unsealed(error) => {
                driver.say_rest().await;
                let words = Tunnel::refusal(TUNNEL, RefuseCode::EndToEnd, &error.to_string());
                driver.leave(&words, PROTOCOL_CLOSE).await;
                Err(error.end(&self.dial.peer()))
            }
            Driven::Failed(why) => {
                let words = Tunnel::refusal(TUNNEL, RefuseCode::Protocol, &why);
                driver.leave(&words, PROTOCOL_CLOSE).await;
                Err(SessionEnd::Protocol(format!("{}: {why}", self.dial.peer())))
            }
        }
    }

    /// A new link up to ATTACHED, or what follows from its failure. Does not outlast `--resume-for`
    /// by more than a last try: steps of the handshake have longer limits.
    async fn link_up(&mut self) -> Result<(Wire, Attached), Result<Step, SessionEnd>> {
        let config = &self.opener.config;
        let Some(give_up_at) = self.redial.give_up_at() else {
            return self.dial_and_attach().await;
        };
        let last_try = config.clock.now() + config.resume_for.clamp(DRAIN, HANDSHAKE_STEP);
        let until = config.clock.deadline(give_up_at.max(last_try));
        match tokio::time::timeout_at(until, self.dial_and_attach()).await {
            Ok(linked) => linked,
            Err(_) => Err(Ok(Step::Failed(
                Attempt::Cut,
                "no answer in the time that was left".to_owned(),
            ))),
        }
    }

    async fn dial_and_attach(&mut self) -> Result<(Wire, Attached), Result<Step, SessionEnd>> {
        let dialled = self.dial.dial().await;
        let carrier = dialled.map_err(|error| self.dial_failed(error))?;
        let mut wire = Wire::new(carrier);
        self.epoch += 1;
        let greeting = self.opener.config.greeting.clone();
        match link::dial(&mut wire, &greeting, || self.attach()).await {
            Ok(attached) => Ok((wire, attached)),
            Err(error) => Err(self.handshake_failed(error)),
        }
    }

    /// All is settled, but the acceptor may not have heard that we know: it would linger. Tells it
    /// over a new link, without insisting: nothing depends on it.
    async fn leave_again(&mut self) {
        let leaving = self.try_to_leave();
        if tokio::time::timeout(LINGER, leaving).await.is_err() {
            tracing::debug!("the other side was not told that all is settled");
        }
    }

    async fn try_to_leave(&mut self) {
        for _ in 0..LEAVES_MAX {
            let carrier = match tokio::time::timeout(DRAIN, self.dial.dial()).await {
                Ok(Ok(carrier)) => carrier,
                Ok(Err(error)) if error.blame == Blame::Reset => continue,
                Ok(Err(_)) | Err(_) => return,
            };
            let mut wire = Wire::new(carrier);
            self.epoch += 1;
            let greeting = self.opener.config.greeting.clone();
            let attached = link::dial(&mut wire, &greeting, || self.attach()).await;
            if let Err(HandshakeError::Refused(_)) = attached {
                return;
            }
            wire.queue(&LEAVING);
            if attached.is_ok() && wire.close(NORMAL_CLOSE).await {
                return;
            }
        }
    }

    fn attach(&mut self) -> Attach {
        let config = &self.opener.config;
        let now = config.clock.now();
        let age = now - *self.first_asked.get_or_insert(now);
        Attach {
            route: self.dial.route(),
            key: self.opener.key.as_bytes().to_vec(),
            epoch: self.epoch,
            received: self.opener.shared.lock().session.received(),
            established: self.established,
            age_ms: millis(age),
            resume_for_ms: millis(config.resume_for),
            caller: String::new(),
            sealed: config.seal.is_some(),
        }
    }

    fn announce(&mut self) {
        let events = self.opener.config.events.as_ref();
        let (key, peer, epoch) = (self.opener.key, self.dial.peer(), self.epoch);
        if self.established {
            let state = self.opener.shared.lock();
            let resent = state.session.numbered() - state.session.acked();
            drop(state);
            tracing::info!(
                "session {key}: resumed by {peer}, attach {epoch}, {resent} bytes again"
            );
            tell(
                events,
                LinkEvent::Resumed {
                    epoch: self.epoch,
                    resent,
                },
            );
        } else {
            tracing::info!("session {key}: attached by {peer}");
            tell(
                events,
                LinkEvent::Connected {
                    session: self.opener.key.to_string(),
                    peer: self.dial.peer(),
                },
            );
        }
        self.established = true;
    }

    fn dial_failed(&self, error: DialError) -> Result<Step, SessionEnd> {
        match error.blame {
            Blame::Final => Err(SessionEnd::Refused(error.message)),
            Blame::Refused | Blame::Stranger if !self.established => {
                let advice = error.advice.map(|advice| format!("; {advice}"));
                Err(SessionEnd::Refused(
                    error.message + &advice.unwrap_or_default(),
                ))
            }
            Blame::Refused | Blame::Reset => Ok(Step::Failed(self.nobody_there(), error.message)),
            Blame::Cut | Blame::Stranger => Ok(Step::Failed(Attempt::Cut, error.message)),
        }
    }

    /// How a reset before the link was up counts.
    fn nobody_there(&self) -> Attempt {
        if self.established {
            Attempt::Refused
        } else {
            Attempt::Cut
        }
    }

    /// Whether the refusal only says that the process which confirmed everything is gone and
    /// another took its place: then all is well.
    fn is_gone(&self, refused: &Refused) -> bool {
        matches!(
            RefuseCode::from_wire(refused.code),
            Some(RefuseCode::UnknownSession | RefuseCode::Busy | RefuseCode::ShuttingDown)
        ) && self.established
            && self.opener.shared.lock().session.is_confirmed()
    }

    fn handshake_failed(&self, error: HandshakeError) -> Result<Step, SessionEnd> {
        let why = format!("{}: {error}", self.dial.peer());
        match error {
            HandshakeError::Refused(refused)
            | HandshakeError::Link(LinkError::Refused(refused)) => self.refused(&refused),
            HandshakeError::Carrier(CarrierError::Protocol { .. })
            | HandshakeError::Decode(_)
            | HandshakeError::Link(LinkError::Protocol(_))
                if self.established =>
            {
                // The peer is known to do better: something else stands there for a while.
                Ok(Step::Failed(Attempt::Cut, why))
            }
            // Another program: it says which, if that can be told.
            HandshakeError::Carrier(CarrierError::Protocol { .. }) => Err(SessionEnd::Refused(why)),
            HandshakeError::Decode(_) | HandshakeError::Link(LinkError::Protocol(_)) => {
                Err(SessionEnd::Protocol(why))
            }
            HandshakeError::Carrier(CarrierError::Io(error)) if TlsError::is_final_in(&error) => {
                let why = format!("{}: {error}", self.dial.peer());
                Err(SessionEnd::Refused(why))
            }
            HandshakeError::Carrier(_) => Ok(Step::Failed(self.nobody_there(), why)),
            // The last three are the accepting side's.
            HandshakeError::TimedOut
            | HandshakeError::Endless
            | HandshakeError::Upgrade(_)
            | HandshakeError::Tls(_)
            | HandshakeError::TlsCut(_) => Ok(Step::Failed(Attempt::Cut, why)),
            HandshakeError::Link(_) => Err(SessionEnd::Refused(why)),
        }
    }

    fn refused(&self, refused: &Refused) -> Result<Step, SessionEnd> {
        if RefuseCode::from_wire(refused.code) == Some(RefuseCode::NoRoute) && self.dial.elsewhere()
        {
            tracing::info!("{}", link::printable(&refused.message));
            return Ok(Step::Elsewhere);
        }
        let why = format!(
            "{} refused: {}",
            self.dial.peer(),
            link::printable(&refused.message)
        );
        let is_final = refused.is_final && !self.is_gone(refused);
        if !is_final && RefuseCode::from_wire(refused.code) == Some(RefuseCode::Cut) {
            // Nobody said no: the answer was lost beyond the relay.
            return Ok(Step::Failed(Attempt::Cut, why));
        }
        if is_final || !self.established {
            Err(SessionEnd::Refused(why))
        } else {
            Ok(Step::Failed(Attempt::Refused, why))
        }
    }
}

/// The opener's last word on a link.
const LEAVING: HopFrame = HopFrame::Detach(TUNNEL);
/// Attempts to say it.
const LEAVES_MAX: u32 = 5;

const NORMAL_CLOSE: Close = Close {
    code: 1000,
    reason: "complete",
};
pub(crate) const PROTOCOL_CLOSE: Close = Close {
    code: 1002,
    reason: "protocol error",
};

pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A span as people write it.
pub(crate) fn span(span: Duration) -> String {
    let secs = span.as_secs();
    match secs {
        0 => format!("{} ms", span.as_millis()),
        _ if secs.is_multiple_of(3600) => format!("{} h", secs / 3600),
        _ if secs.is_multiple_of(60) => format!("{} min", secs / 60),
        _ => format!("{secs} s"),
    }
}

/// One attempt of the whole dial may take this long; each step has its own limit below it.
pub(crate) const DIAL_MAX: Duration = HANDSHAKE_STEP;
