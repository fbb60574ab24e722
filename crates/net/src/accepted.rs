//! A session that a peer opened here: served over one link after the other, parked without one.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use farpipe_proto::identity::Caller;
use farpipe_proto::limits::STANDING_LOOK;
use farpipe_proto::session::{Park, Settled};
use farpipe_proto::wire::control::{Attach, Attached, RefuseCode, Refused};
use farpipe_proto::wire::hop::HopFrame;
use farpipe_proto::wire::id::{SessionKey, TunnelId};
use tokio::sync::mpsc;

use crate::acceptor::{AcceptorConfig, Arrival, Registered, Way};
use crate::carrier::Close;
use crate::driver::Driver;
use crate::event::{LinkEvent, tell};
use crate::link::{self, Wire};
use crate::opener::{PROTOCOL_CLOSE, millis, span};
use crate::session::{SessionHandle, complete, ended, withheld};
use crate::shared::{SessionEnd, Shared};
use crate::standing::Standing;
use crate::tls::SealError;
use crate::trunk::{Orders, Seat};
use crate::tunnel::{Driven, Tunnel};

/// A session a peer opened here.
#[derive(Debug)]
pub struct AcceptedSession {
    pub(crate) shared: Arc<Shared>,
    pub(crate) config: AcceptorConfig,
    pub(crate) key: SessionKey,
    pub(crate) park: Park,
    /// How long its opener tries to resume it.
    pub(crate) resume_for: Duration,
    pub(crate) peer: String,
    pub(crate) caller: Option<Caller>,
    pub(crate) first: Option<Arrival>,
    pub(crate) arrivals: mpsc::Receiver<Arrival>,
    pub(crate) registered: Registered,
    /// Link time that the handshake of a sealed session still has.
    pub(crate) shaking: Duration,
    /// By what its newest link was let in.
    pub(crate) standing: Standing,
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

    /// Who opened it, and how that was shown; whoever attaches it again is the same. `None`: nobody
    /// had to say, or a relay says a name that is none.
    #[must_use]
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
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
        let key = self.key;
        tracing::info!("session {key}: opened from {}", self.peer);
        let result = self.serve().await;
        match &result {
            Ok(()) => tracing::info!("session {key}: ended, all is settled"),
            Err(end) => {
                tracing::info!("session {key}: ended: {end}");
                self.shared.lock().end(end.clone());
            }
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
                    Parked::Ended(end) => {
                        if matches!(end, SessionEnd::Replaced(_) | SessionEnd::Revoked(_)) {
                            self.tell_late(&end).await;
                        }
                        return Err(end);
                    }
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
            let may_settle = self.is_last() && settled == Settled::No;
            // In order, so that simulations repeat: our own word, then a link in the last moment.
            tokio::select! {
                biased;
                end = ended(&self.shared) => return Parked::Ended(end),
                Some(arrival) = self.arrivals.recv() => return Parked::Arrival(Box::new(arrival)),
                () = complete(&self.shared), if may_settle => {
                    self.park.handle_settled(self.config.clock.now());
                }
                () = expired => return Parked::Expired,
                why = fell(&self.standing, &self.shared) => {
                    return Parked::Ended(SessionEnd::Revoked(why));
                }
            }
        }
    }

    /// Tells the opener of a session that has ended how, if it comes back while the session would have
    /// been kept: it is there and knows nothing, where one that was killed does not come.
    async fn tell_late(&mut self, end: &SessionEnd) {
        let arrival = async {
            match self.park.poll_timeout(Settled::No) {
                Some(at) => {
                    let until = self.config.clock.deadline(at);
                    tokio::time::timeout_at(until, self.arrivals.recv()).await
                }
                None => Ok(self.arrivals.recv().await),
            }
        };
        let Ok(Some(Arrival { way, tunnel, .. })) = arrival.await else {
            return;
        };
        let words = Tunnel::refusal(tunnel, last_code(end), &end.to_string());
        match way {
            Way::Wire(mut wire) => wire.refuse(&words).await,
            Way::Trunk(orders) => orders.leave(tunnel, words).await,
        }
    }

    /// Whether nothing is served here after it.
    fn is_last(&self) -> bool {
        self.config.one_shot || self.config.is_last
    }

    /// How much is settled, as far as it decides how long to wait for a link: who serves on keeps
    /// the final offsets as long as it parks, because the opener may be slow.
    fn settled(&self) -> Settled {
        if self.is_last() {
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
            way,
            tunnel,
            attach,
            peer,
            ticket: _,
            caller: _,
            standing,
        } = arrival;
        self.standing = standing;
        self.park.handle_attached();
        let mut carried = match way {
            Way::Wire(wire) => self.attach_wire(*wire, tunnel, attach.received).await?,
            Way::Trunk(orders) => match self.attach_trunk(orders, tunnel, attach.received).await? {
                Some(seat) => Carried::Seat(seat),
                None => {
                    let why = "the link to the relay was lost".to_owned();
                    return Ok(self.lost(why));
                }
            },
        };
        self.announce(peer, &attach, links);
        let began = self.config.clock.now();
        // In order, so that simulations repeat: the first two end this link, whatever it brings.
        let driven = tokio::select! {
            biased;
            end = ended(&self.shared) => {
                let words = Tunnel::refusal(tunnel, last_code(&end), &end.to_string());
                carried.leave(words, GOING_AWAY).await;
                return Err(end);
            }
            Some(newer) = self.arrivals.recv() => {
                tracing::debug!("a newer link fences the older one");
                carried.stop(tunnel).await;
                self.shaking = self.shaking.saturating_sub(self.config.clock.now() - began);
                return Ok(Linked::Fenced(Box::new(newer)));
            }
            driven = carried.driven() => driven,
            () = withheld(&self.shared, self.shaking) => Driven::Unsealed(SealError::Withheld),
            why = fell(&self.standing, &self.shared) => {
                let end = SessionEnd::Revoked(why);
                let words = Tunnel::refusal(tunnel, last_code(&end), &end.to_string());
                carried.leave(words, PROTOCOL_CLOSE).await;
                return Err(end);
            }
        };
        self.shaking = self.shaking.saturating_sub(self.config.clock.now() - began);
        self.driven(carried, tunnel, driven).await
    }

    /// A link of the session's own.
    async fn attach_wire(
        &mut self,
        wire: Wire,
        tunnel: TunnelId,
        peer_received: u64,
    ) -> Result<Carried, SessionEnd> {
        let heartbeat = self.config.heartbeat;
        let driver = Driver::attach(&self.shared, wire, tunnel, peer_received, heartbeat);
        let mut driver = match driver {
            Ok(driver) => driver,
            Err(refused) => {
                let (error, mut wire) = *refused;
                let message = format!("cannot resume: {error}");
                let words = Tunnel::refusal(tunnel, RefuseCode::Offset, &message);
                wire.refuse(&words).await;
                return Err(SessionEnd::Protocol(message));
            }
        };
        driver.queue(&self.attached(tunnel));
        Ok(Carried::Driver(Box::new(driver)))
    }

    /// A seat on a link that is shared with others; `None` if that is gone.
    async fn attach_trunk(
        &mut self,
        orders: Orders,
        tunnel: TunnelId,
        peer_received: u64,
    ) -> Result<Option<Seat>, SessionEnd> {
        match Tunnel::attach(&self.shared, tunnel, peer_received) {
            Ok(attached) => {
                let words = self.attached(tunnel);
                Ok(orders.attach(attached, words).await)
            }
            Err(error) => {
                let message = format!("cannot resume: {error}");
                let words = Tunnel::refusal(tunnel, RefuseCode::Offset, &message);
                orders.leave(tunnel, words).await;
                Err(SessionEnd::Protocol(message))
            }
        }
    }

    /// The older link's reader has stopped: the offset is final until the new link brings more.
    fn attached(&self, tunnel: TunnelId) -> HopFrame {
        let received = self.shared.lock().session.received();
        let kept = self.park.park_for();
        let kept_ms = match kept < self.resume_for {
            true => millis(kept),
            false => 0,
        };
        HopFrame::Attached(tunnel, Attached { received, kept_ms })
    }

    async fn driven(
        &mut self,
        mut carried: Carried,
        tunnel: TunnelId,
        driven: Driven,
    ) -> Result<Linked, SessionEnd> {
        let complete = self.shared.lock().session.is_complete();
        match driven {
            Driven::Detached | Driven::Complete if complete => {
                carried.leave(HopFrame::Detach(tunnel), GOING_AWAY).await;
                Ok(Linked::Over)
            }
            Driven::Unsealed(error) => {
                carried.say_rest().await;
                let words = Tunnel::refusal(tunnel, RefuseCode::EndToEnd, &error.to_string());
                carried.leave(words, PROTOCOL_CLOSE).await;
                Err(error.end(&self.peer))
            }
            Driven::Failed(why) => {
                let words = Tunnel::refusal(tunnel, RefuseCode::Protocol, &why);
                carried.leave(words, PROTOCOL_CLOSE).await;
                Err(SessionEnd::Protocol(why))
            }
            Driven::Refused(Refused {
                is_final: false,
                message,
                ..
            }) => Ok(self.lost(link::printable(&message))),
            Driven::Refused(refused) => Err(SessionEnd::Refused(format!(
                "{} ended the session: {}",
                self.peer,
                link::printable(&refused.message)
            ))),
            Driven::Detached | Driven::Complete => Err(SessionEnd::Lost(format!(
                "{} left before everything was settled",
                self.peer
            ))),
            Driven::Lost(lost) => Ok(self.lost(lost.to_string())),
        }
    }

    fn lost(&mut self, why: String) -> Linked {
        self.park.handle_lost(self.config.clock.now());
        let (key, kept) = (self.key, span(self.park.park_for()));
        tracing::info!("session {key}: lost: {why}; kept for {kept}");
        tell(
            self.config.events.as_ref(),
            LinkEvent::Lost {
                why,
                failures: 0,
                retry_in: None,
            },
        );
        Linked::Lost
    }

    fn announce(&self, peer: String, attach: &Attach, links: u64) {
        let events = self.config.events.as_ref();
        if links > 1 {
            let state = self.shared.lock();
            let resent = state.session.numbered() - state.session.acked();
            drop(state);
            let (key, epoch) = (self.key, attach.epoch);
            tracing::info!(
                "session {key}: resumed by {peer}, attach {epoch}, {resent} bytes again"
            );
            tell(
                events,
                LinkEvent::Resumed {
                    epoch: attach.epoch,
                    resent,
                },
            );
        } else {
            tracing::info!("session {}: attached by {peer}", self.key);
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

/// What moves the session's bytes.
enum Carried {
    /// In this task.
    Driver(Box<Driver>),
    /// In the task of the link that several sessions share.
    Seat(Seat),
}

impl Carried {
    /// Moves bytes until the tunnel ends.
    ///
    /// # Cancellation
    /// Safe: it goes on with the next call, or ends with [`Carried::stop`].
    async fn driven(&mut self) -> Driven {
        match self {
            Self::Driver(driver) => poll_fn(|cx| driver.poll_drive(cx)).await,
            Self::Seat(seat) => seat.driven().await,
        }
    }

    /// Sends what is numbered, as far as it leaves within a second.
    async fn say_rest(&mut self) {
        match self {
            Self::Driver(driver) => driver.say_rest().await,
            // Its link has done so.
            Self::Seat(_) => {}
        }
    }

    /// Says the last words.
    async fn leave(self, words: HopFrame, close: Close) {
        match self {
            Self::Driver(driver) => {
                driver.leave(&words, close).await;
            }
            Self::Seat(seat) => seat.leave(words).await,
        }
    }

    /// Stops because of a newer link; when this returns nothing more is read or sent of the session.
    async fn stop(self, tunnel: TunnelId) {
        match self {
            Self::Driver(driver) => drop(driver),
            // The relay need not keep up what leads nowhere.
            Self::Seat(seat) => {
                let why = "a newer connection of this session is known";
                let words = Tunnel::refusal(tunnel, RefuseCode::Fenced, why);
                seat.leave(words).await;
            }
        }
    }
}

/// Ready when what let the opener in was taken back, on its link or in the session itself; says why.
async fn fell(standing: &Standing, shared: &Shared) -> String {
    if !standing.can_fall() && shared.lock().is_anonymous() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(STANDING_LOOK).await;
        let standing = standing.and_sealed(shared.lock().sealed_peer());
        if standing.can_fall()
            && let Some(why) = standing.look().await
        {
            return why;
        }
    }
}

/// How a session that this side ends is refused: a stand-in for another process says so how that one's
/// has ended.
fn last_code(end: &SessionEnd) -> RefuseCode {
    match end {
        SessionEnd::Lost(_) => RefuseCode::UnknownSession,
        // Final, as what went through it is over.
        SessionEnd::Gone(_) => RefuseCode::OutcomeUnknown,
        SessionEnd::Integrity(_) => RefuseCode::EndToEnd,
        SessionEnd::Replaced(_) => RefuseCode::Replaced,
        SessionEnd::Forgotten(_) => RefuseCode::Forgotten,
        SessionEnd::Revoked(_) => RefuseCode::Auth,
        SessionEnd::Refused(_) | SessionEnd::Protocol(_) | SessionEnd::Closed => {
            RefuseCode::Protocol
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
