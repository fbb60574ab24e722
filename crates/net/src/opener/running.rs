//! A session's opener at work: links it, drives it, waits and links it again.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use farpipe_proto::limits::{DRAIN, HANDSHAKE_STEP, LINGER, PROGRESS_LIFE, SEAL_HANDSHAKE};
use farpipe_proto::session::{Attempt, Next, Redial};
use farpipe_proto::wire::control::{Attach, Attached, RefuseCode, Refused};
use farpipe_proto::wire::hop::HopFrame;

use super::{Blame, Dial, Opener, PROTOCOL_CLOSE, millis, span, verdict};
use crate::carrier::Close;
use crate::driver::Driver;
use crate::event::{LinkEvent, tell};
use crate::link::{self, HandshakeError, TUNNEL, Wire};
use crate::session::{ended, withheld};
use crate::shared::SessionEnd;
use crate::tls::SealError;
use crate::tunnel::{Driven, LostLink, Tunnel};

/// One step's outcome.
pub(super) enum Step {
    /// Dial at once: the link made progress.
    Progressed(String),
    /// This attempt failed.
    Failed(Attempt, String),
    /// Another place may do better: dial at once.
    Elsewhere,
    /// Nobody is there yet: ask again.
    Waiting,
    /// All is settled.
    Complete,
}

pub(super) struct Running<'a> {
    pub(super) opener: Opener,
    pub(super) dial: &'a dyn Dial,
    redial: Redial,
    /// When the acceptor may have heard of this session first; before, nothing can have been done.
    first_asked: Option<farpipe_proto::Instant>,
    epoch: u64,
    pub(super) established: bool,
    /// Somebody has let this side in: what fails from now on need not be wrong.
    is_let_in: bool,
    /// Until when somebody is waited for, if not without end.
    waits_until: Option<farpipe_proto::Instant>,
    /// Link time that the handshake of a sealed session still has.
    shaking: Duration,
}

impl<'a> Running<'a> {
    pub(super) fn new(opener: Opener, dial: &'a dyn Dial) -> Self {
        let config = &opener.config;
        let waits = config.waits.as_ref();
        Self {
            redial: Redial::new(waits.map_or(config.resume_for, |_| Duration::MAX)),
            waits_until: waits
                .and_then(|waits| waits.at_most)
                .map(|at_most| config.clock.now() + at_most),
            is_let_in: false,
            first_asked: None,
            epoch: 0,
            established: false,
            shaking: SEAL_HANDSHAKE,
            opener,
            dial,
        }
    }
}

impl Running<'_> {
    /// Links the session again and again until everything is settled.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub(super) async fn run(mut self) -> Result<(), SessionEnd> {
        loop {
            let began = self.opener.config.clock.now();
            let (attempt, why) = match self.attempt().await? {
                Step::Complete => return Ok(()),
                Step::Elsewhere => continue,
                Step::Waiting => {
                    // A relay that holds nobody answers at once.
                    self.sleep_until(began + WAITS_PAUSE).await?;
                    continue;
                }
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

    /// Whether somebody is waited for who was not there yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.opener.config.waits.is_some() && !self.established
    }

    /// Whether the way is known to be a good one.
    pub(super) fn is_known(&self) -> bool {
        self.established || self.is_waiting() && self.is_let_in
    }

    /// Waits, unless the session is ended meanwhile, or patience.
    async fn sleep_until(&self, at: farpipe_proto::Instant) -> Result<(), SessionEnd> {
        let config = &self.opener.config;
        let until = self.waits_until.filter(|_| self.is_waiting());
        let slept =
            tokio::time::sleep_until(config.clock.deadline(until.map_or(at, |u| u.min(at))));
        // Ending the session must not wait for the backoff.
        tokio::select! {
            biased;
            end = ended(&self.opener.shared) => Err(end),
            () = slept => match until {
                Some(until) if until <= config.clock.now() => Err(self.in_vain()),
                _ => Ok(()),
            },
        }
    }

    /// The end of patience.
    fn in_vain(&self) -> SessionEnd {
        let waits = self.opener.config.waits.as_ref();
        let whom = waits.map_or("somebody", |waits| waits.whom.as_str());
        let at_most = waits.and_then(|waits| waits.at_most).unwrap_or_default();
        SessionEnd::Lost(format!("waited {} in vain for {whom}", span(at_most)))
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
                    self.sleep_until(at).await?;
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
        if self.is_waiting() {
            self.redial = Redial::new(self.opener.config.resume_for);
        }
        self.redial.handle_attached();
        if attached.kept_ms > 0 {
            let kept = Duration::from_millis(attached.kept_ms);
            self.redial.limit(kept);
            let resume_for = &mut self.opener.config.resume_for;
            *resume_for = kept.min(*resume_for);
        }
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
        let progressed = driver.progressed() || lived >= PROGRESS_LIFE;
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
            Driven::Lost(lost) => {
                let state = shared.lock();
                let attempt = match state.session.numbered() == state.session.acked() {
                    true => Attempt::Idle,
                    false => Attempt::Cut,
                };
                Ok(Step::Failed(attempt, lost.to_string()))
            }
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
                if self.dial.stands_in() {
                    return Err(verdict::behind(refused.code, why));
                }
                let why = format!("{peer} ended the session: {why}");
                Err(match RefuseCode::from_wire(refused.code) {
                    Some(RefuseCode::Replaced) => SessionEnd::Replaced(why),
                    _ => SessionEnd::Refused(why),
                })
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
        if self.is_waiting() {
            let Some(until) = self.waits_until else {
                return self.dial_and_attach().await;
            };
            let until = self.opener.config.clock.deadline(until);
            let linked = tokio::time::timeout_at(until, self.dial_and_attach()).await;
            return linked.unwrap_or_else(|_| Err(Err(self.in_vain())));
        }
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
        let asked = link::ask_to_attach(&mut wire, &greeting, || self.attach()).await;
        let was_let_in = asked.is_ok();
        let attached = match asked {
            Ok(()) => {
                self.is_let_in = true;
                link::attached(&mut wire).await
            }
            Err(error) => Err(error),
        };
        match attached {
            Ok(attached) => Ok((wire, attached)),
            Err(error) => {
                if was_let_in && error.is_cut() {
                    self.redial.handle_let_in();
                }
                Err(self.handshake_failed(error))
            }
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
        let age = match &config.waits {
            None => now - *self.first_asked.get_or_insert(now),
            Some(_) => Duration::ZERO,
        };
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
            hold_ms: millis(self.hold(now)),
        }
    }

    /// How long whoever is asked may hold an attach.
    fn hold(&self, now: farpipe_proto::Instant) -> Duration {
        let waits = self.opener.config.waits.as_ref();
        match waits.filter(|_| self.is_waiting()) {
            Some(waits) => self
                .waits_until
                .map_or(waits.hold, |until| waits.hold.min(until - now)),
            None => Duration::ZERO,
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
}

/// From one attempt to the next while somebody is waited for, at least.
const WAITS_PAUSE: Duration = Duration::from_secs(1);

/// The opener's last word on a link.
const LEAVING: HopFrame = HopFrame::Detach(TUNNEL);
/// Attempts to say it.
const LEAVES_MAX: u32 = 5;

const NORMAL_CLOSE: Close = Close {
    code: 1000,
    reason: "complete",
};
