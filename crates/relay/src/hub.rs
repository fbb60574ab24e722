//! An agent's link and every client that is joined to it: one task drives them all, with no channel
//! between. It looks at the headers of hop frames and at nothing else. What is said of an agent here
//! is true of a pipe's writer as well, and its readers are the clients.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use farpipe_audit::Audit;
use farpipe_net::carrier::{CarrierError, Close};
use farpipe_net::{Heard, Hop, HopError, Pool, Segment, Standing};
use farpipe_proto::limits::{RELAY_DRAIN, TUNNELS_MAX};
use farpipe_proto::link::{Fair, Turn};
use farpipe_proto::wire::control::{GoAway, RefuseCode, Refused};
use farpipe_proto::wire::hop::{DATA_HEADER_LEN, HopFrame, data_header};
use farpipe_proto::wire::id::TunnelId;
use tokio::task::JoinSet;

use crate::audit;
use crate::going::Going;
use crate::joined::{Joined, Joining, SMALL, Watched, Word, message, refusal};
use crate::metrics::{Gone, Metrics, Neighbour, Parted};
use crate::registry::{Ousted, Registration};
use crate::tunnels::Tunnel;
use crate::windows::Windows;

/// Pieces taken from the agent in one turn.
const PIECES_PER_TURN: usize = 16;
/// Messages sent to the agent in one turn.
const MESSAGES_PER_TURN: usize = 8;
/// Buffers that one agent's link and its clients read into, none of which is there while nothing is
/// joined: a client that waits for the agent, or for which the first piece waits, holds one at most.
const READ_SLOTS: usize = 64;
/// Bytes of one: two frames of full size.
const SLOT_SIZE: usize = 512 * 1024;

/// Why a hub is over.
#[derive(Debug)]
enum End {
    /// The agent took its leave.
    Left,
    /// The agent's link is.
    Lost(String),
    /// Nobody is there any more.
    Silent,
    /// What let the agent in was taken back.
    Revoked(String),
    /// The agent's place was taken away: by itself, by another process of its name, or by order.
    Ousted,
    /// This relay is going away.
    Drained,
}

/// An agent's link and those who are joined to it.
#[derive(Debug)]
pub(crate) struct Hub {
    agent: Hop,
    registration: Registration,
    joined: BTreeMap<TunnelId, Joined>,
    /// The highest tunnel id that was used.
    last: TunnelId,
    /// Who begins in the next turn: those behind this one.
    cursor: TunnelId,
    /// The message that the agent's carrier is half through.
    in_hand: Option<(Segment, [u8; DATA_HEADER_LEN])>,
    fair: Fair,
    pool: Pool,
    windows: Arc<Windows>,
    metrics: Arc<Metrics>,
    /// The agent's smallest round trip.
    rtt: Duration,
    leaving: JoinSet<()>,
    audit: Audit,
    /// By what the agent was let in.
    standing: Standing,
    /// See whether the clients may stay: each says whose stay is over, and why.
    watching: JoinSet<(TunnelId, String)>,
}

impl Hub {
    pub(crate) fn new(
        agent: Hop,
        registration: Registration,
        windows: Arc<Windows>,
        metrics: Arc<Metrics>,
        audit: Audit,
    ) -> Self {
        Self {
            agent,
            registration,
            joined: BTreeMap::new(),
            last: TunnelId::LINK,
            cursor: TunnelId::LINK,
            in_hand: None,
            fair: Fair::default(),
            pool: Pool::new(SLOT_SIZE, READ_SLOTS),
            windows,
            metrics,
            rtt: Duration::ZERO,
            leaving: JoinSet::new(),
            audit,
            standing: Standing::default(),
            watching: JoinSet::new(),
        }
    }

    /// The same, until what let the agent in is taken back.
    pub(crate) fn standing_by(self, standing: Standing) -> Self {
        Self { standing, ..self }
    }

    /// Serves the agent until its link is over, or `going` says that the relay is.
    ///
    /// # Cancellation
    /// Dropping it cuts every link.
    pub(crate) async fn run(mut self, going: Going) {
        let (what, name) = (
            self.registration.route.what(),
            self.registration.route.name(),
        );
        tracing::info!("{what} {name}: registered: {}", self.registration.who);
        let standing = self.standing.clone();
        let end = tokio::select! {
            biased;
            end = poll_fn(|cx| self.poll_drive(cx)) => end,
            why = standing.fell() => End::Revoked(why),
            () = going.said() => {
                self.go_away();
                let driving = poll_fn(|cx| self.poll_drain(cx));
                tokio::time::timeout(RELAY_DRAIN, driving).await.unwrap_or(End::Drained)
            }
        };
        self.end(end).await;
    }

    async fn end(mut self, end: End) {
        let what = self.registration.route.what();
        let name = self.registration.route.name().to_owned();
        let who = self.registration.who.clone();
        let (gone, why, words) = match &end {
            End::Left => {
                tracing::info!("{what} {name}: ended: {who}");
                (Gone::Left, format!("{name} has ended"), None)
            }
            End::Lost(why) => {
                tracing::info!("{what} {name}: lost: {why}: {who}");
                let told = format!("the link to {name} was lost");
                (Gone::Lost, told, None)
            }
            End::Silent => {
                tracing::warn!("{what} {name}: timed out: {}: {who}", HopError::Silent);
                self.metrics.heartbeat_lost(Neighbour::Agent);
                let told = format!("the link to {name} was lost");
                (Gone::TimedOut, told, None)
            }
            End::Revoked(why) => {
                tracing::warn!("{what} {name}: ended: {why}: {who}");
                let words = refusal(TunnelId::LINK, RefuseCode::Auth, &taken_back(why));
                (
                    Gone::Revoked,
                    format!("{name} may not be here any more"),
                    Some(words),
                )
            }
            End::Ousted => self.ousted(),
            End::Drained => {
                let told = "the relay is going away".to_owned();
                (Gone::Drained, told, None)
            }
        };
        self.metrics.agent_gone(gone);
        let now = self.agent.now();
        self.registration.note_left(now, gone.words());
        let parted = self.joined.len();
        let cut = std::mem::take(&mut self.joined);
        for (_, joined) in cut {
            let words = refusal(joined.near(), RefuseCode::Cut, &why);
            self.part(joined, Parted::AgentLost, Some(words), &why);
        }
        let Self {
            mut agent,
            registration,
            mut leaving,
            audit,
            ..
        } = self;
        drop(registration);
        if let Some(words) = &words {
            agent.queue(words);
        }
        if !matches!(end, End::Left | End::Lost(_)) {
            agent.close(GOING_AWAY).await;
        }
        while leaving.join_next().await.is_some() {}
        let _ = audit
            .append(audit::gone(what, &name, &who, gone.words()))
            .await;
        tracing::info!("{what} {name}: cleaned up, {parted} sessions parted: {who}");
    }

    /// What is told to clients and to the agent when it has lost its place.
    fn ousted(&mut self) -> (Gone, String, Option<HopFrame>) {
        let (what, name) = (
            self.registration.route.what(),
            self.registration.route.name(),
        );
        let who = &self.registration.who;
        let refused = |code: RefuseCode, is_final, message| {
            let refused = Refused {
                code: code as u32,
                is_final,
                message,
            };
            Some(HopFrame::Refused(TunnelId::LINK, refused))
        };
        let ousted = self.registration.ousted.try_recv();
        match ousted.unwrap_or(Ousted::Newer) {
            Ousted::Disconnected => {
                tracing::warn!("{what} {name}: disconnected by order: {who}");
                let why = "disconnected by whoever runs the relay".to_owned();
                let words = refused(RefuseCode::ShuttingDown, false, why);
                let told = format!("the relay has disconnected {name}");
                (Gone::Disconnected, told, words)
            }
            Ousted::Newer => {
                tracing::info!("{what} {name}: fenced by its newer link: {who}");
                let why = format!("its newer link has registered as {name}");
                let words = refused(RefuseCode::Fenced, false, why);
                (Gone::Fenced, format!("{name} has a newer link"), words)
            }
            Ousted::Other => {
                tracing::warn!("{what} {name}: another process has taken the name over from {who}");
                let why = format!("another process has registered as {name}");
                let words = refused(RefuseCode::Fenced, true, why);
                (Gone::Fenced, format!("{name} has a newer link"), words)
            }
        }
    }

    /// A client is not joined any more.
    fn part(&mut self, joined: Joined, parted: Parted, words: Option<HopFrame>, why: &str) {
        self.metrics.session_parted(parted);
        let [to_agent, to_client] = joined.passing.passed();
        tracing::info!(
            "session {}: parted from {}: {why}; {to_agent} bytes to it, {to_client} back",
            joined.key,
            self.registration.route,
        );
        let parted = audit::parted(
            &joined.key,
            &self.registration.route,
            why,
            to_agent,
            to_client,
        );
        let audit = self.audit.clone();
        self.leaving.spawn(async move {
            // That it is over may go unwritten: who reads the log finds an end missing.
            let _ = tokio::join!(joined.leave(words), audit.append(parted));
        });
        let sessions = u32::try_from(self.joined.len()).unwrap_or(u32::MAX);
        self.registration
            .sessions
            .store(sessions, Ordering::Relaxed);
        if self.joined.is_empty() {
            // An agent that waits costs no buffers.
            self.pool = Pool::new(SLOT_SIZE, READ_SLOTS);
        }
    }

    fn go_away(&mut self) {
        let frame = HopFrame::GoAway(GoAway::default());
        self.agent.queue(&frame);
        for joined in self.joined.values_mut() {
            joined.queue(&frame);
        }
    }

    /// As [`Hub::poll_drive`], until nobody is joined any more.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Poll::Ready(end) = self.poll_drive(cx) {
            return Poll::Ready(end);
        }
        if self.joined.is_empty() && !self.agent.has_queued() {
            return Poll::Ready(End::Drained);
        }
        Poll::Pending
    }

    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while self.leaving.try_join_next().is_some() {}
        match self.turn(cx) {
            Ok(more) => {
                if more {
                    // Let the other tasks of this thread have their turn first.
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Err(end) => Poll::Ready(end),
        }
    }

    /// Moves a bounded amount each way; whether there may be more.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        self.take_joining(cx)?;
        // Behind those who have just come: they are watched from here on.
        while let Poll::Ready(Some(watched)) = self.watching.poll_join_next(cx) {
            // Those of clients that left were aborted.
            if let Ok((id, why)) = watched {
                self.cut(id, &why);
            }
        }
        let mut more = self.receive_from_agent(cx)?;
        let order: Vec<TunnelId> = self.order().collect();
        for id in &order {
            more |= self.receive_from(cx, *id);
        }
        for id in &order {
            more |= self.transmit_to(cx, *id);
        }
        // Behind the clients: the credit for what they took, and what is left of those who went.
        more |= self.transmit_to_agent(cx).map_err(|e| lost(&e))?;
        if let Some(last) = order.first() {
            self.cursor = *last;
        }
        if let Poll::Ready(looked) = self.agent.poll_timers(cx, None) {
            looked.map_err(|e| lost(&e))?;
            more = true;
        }
        Ok(more)
    }

    /// All clients; another begins each turn.
    fn order(&self) -> impl Iterator<Item = TunnelId> {
        let behind = (Bound::Excluded(self.cursor), Bound::Unbounded);
        let behind = self.joined.range(behind);
        behind
            .chain(self.joined.range(..=self.cursor))
            .map(|(id, _)| *id)
    }

    fn take_joining(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while let Poll::Ready(joining) = self.registration.joining.poll_recv(cx) {
            match joining {
                Some(joining) => self.join(*joining),
                None => return Err(End::Ousted),
            }
        }
        Ok(())
    }

    fn join(&mut self, joining: Joining) {
        let route = &self.registration.route;
        let share = match self.windows.first() {
            Some(share) if self.joined.len() < TUNNELS_MAX => share,
            _ => {
                tracing::warn!(
                    "session {}: refused: too many tunnels to {route}",
                    joining.key
                );
                self.metrics.session_refused("limit");
                let why = "too many tunnels at once; try again later";
                let words = refusal(joining.near, RefuseCode::Limit, why);
                self.leaving
                    .spawn(async move { joining.hop.refuse(&words).await });
                return;
            }
        };
        tracing::info!(
            "session {}: joined to {route} from {}",
            joining.key,
            joining.peer
        );
        let far = TunnelId(self.last.0 + 2);
        self.last = far;
        let turn = self.fair.ready(Turn::default());
        self.metrics.sessions_joined.inc();
        let passing = self.metrics.tunnels.enter(Tunnel::new(
            joining.key.clone(),
            route.to_string(),
            joining.peer.clone(),
            joining.attach.caller.clone(),
            self.agent.now(),
        ));
        let standing = joining.standing.clone();
        let (mut joined, attach) = Joined::new(joining, far, turn, share, passing);
        if standing.can_fall() {
            let watching = self
                .watching
                .spawn(async move { (far, standing.fell().await) });
            joined.watched = Some(Watched(watching));
        }
        self.agent.queue(&HopFrame::Attach(far, attach));
        self.joined.insert(far, joined);
        let sessions = u32::try_from(self.joined.len()).unwrap_or(u32::MAX);
        self.registration
            .sessions
            .store(sessions, Ordering::Relaxed);
    }

    /// What let a client in was taken back.
    fn cut(&mut self, id: TunnelId, why: &str) {
        let Some(joined) = self.joined.remove(&id) else {
            return;
        };
        tracing::warn!("session {}: ended: {why}", joined.key);
        let cut = refusal(id, RefuseCode::Cut, "its opener may not be here any more");
        self.agent.queue(&cut);
        let words = refusal(joined.near(), RefuseCode::Auth, &taken_back(why));
        self.part(joined, Parted::Revoked, Some(words), why);
    }

    fn receive_from_agent(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        for pieces in 0..PIECES_PER_TURN {
            match self.agent.poll_heard_into(cx, &mut self.pool) {
                Poll::Pending => return Ok(pieces > 0),
                Poll::Ready(heard) => match heard.map_err(|e| lost(&e))? {
                    None => {}
                    Some(Heard::RoundTrip(rtt)) => self.beat(rtt),
                    Some(Heard::Data {
                        tunnel,
                        offset,
                        bytes,
                    }) => self.take_data(cx, tunnel, offset, bytes)?,
                    Some(Heard::Frame(frame)) => self.take_frame(frame)?,
                },
            }
        }
        Ok(true)
    }

    /// The agent is there.
    fn beat(&mut self, rtt: Duration) {
        let (what, name) = (
            self.registration.route.what(),
            self.registration.route.name(),
        );
        match self.rtt.is_zero() {
            true => tracing::info!("{what} {name}: first heartbeat, round trip {rtt:?}"),
            false => tracing::debug!("{what} {name}: heartbeat, smallest round trip {rtt:?}"),
        }
        self.rtt = rtt;
    }

    fn take_data(
        &mut self,
        cx: &mut Context<'_>,
        tunnel: TunnelId,
        offset: u64,
        bytes: BytesMut,
    ) -> Result<(), End> {
        // What is parted may still have bytes under way.
        let Some(joined) = self.joined.get_mut(&tunnel) else {
            return Ok(());
        };
        joined
            .take_data(offset, bytes, self.rtt)
            .map_err(|overrun| End::Lost(format!("it broke the protocol: {overrun}")))?;
        // At once: what does not wait is not copied.
        self.transmit_to(cx, tunnel);
        Ok(())
    }

    fn take_frame(&mut self, frame: HopFrame) -> Result<(), End> {
        let (HopFrame::Ack(tunnel, _)
        | HopFrame::Attached(tunnel, _)
        | HopFrame::Detach(tunnel)
        | HopFrame::Refused(tunnel, _)) = frame
        else {
            return Err(End::Lost(
                "it broke the protocol: a frame that has no place here".to_owned(),
            ));
        };
        if tunnel == TunnelId::LINK {
            return Err(End::Lost("it refused to go on".to_owned()));
        }
        let Some(joined) = self.joined.get_mut(&tunnel) else {
            return Ok(());
        };
        let near = joined.near();
        match frame {
            HopFrame::Ack(_, offset) => joined.take_ack(offset),
            HopFrame::Attached(_, attached) => {
                joined.take_attached(&HopFrame::Attached(near, attached));
            }
            HopFrame::Refused(_, refused) => {
                joined.take_last_word(HopFrame::Refused(near, refused));
            }
            _ => joined.take_last_word(HopFrame::Detach(near)),
        }
        Ok(())
    }

    fn receive_from(&mut self, cx: &mut Context<'_>, id: TunnelId) -> bool {
        let Some(joined) = self.joined.get_mut(&id) else {
            return false;
        };
        match joined.receive(cx, &mut self.pool) {
            Ok(more) => more,
            Err(word) => {
                self.handle_word(id, word);
                false
            }
        }
    }

    fn transmit_to(&mut self, cx: &mut Context<'_>, id: TunnelId) -> bool {
        let Some(joined) = self.joined.get_mut(&id) else {
            return false;
        };
        let sent = joined.transmit(cx, self.rtt).and_then(|more| {
            Ok(more | {
                match joined.poll_timers(cx) {
                    Poll::Ready(looked) => {
                        looked?;
                        true
                    }
                    Poll::Pending => false,
                }
            })
        });
        match sent {
            Ok(more) => {
                if let Some(words) = joined.poll_last_word()
                    && let Some(joined) = self.joined.remove(&id)
                {
                    self.part(
                        joined,
                        Parted::ByAgent,
                        Some(words),
                        "the agent ended the tunnel",
                    );
                }
                more
            }
            Err(word) => {
                self.handle_word(id, word);
                false
            }
        }
    }

    fn handle_word(&mut self, id: TunnelId, word: Word) {
        let Some(joined) = self.joined.remove(&id) else {
            return;
        };
        match word {
            Word::Last(frame) => {
                self.agent.queue(&frame);
                self.part(joined, Parted::ByClient, None, "the client left");
            }
            Word::Gone {
                why,
                words,
                is_silent,
            } => {
                if is_silent {
                    self.metrics.heartbeat_lost(Neighbour::Client);
                }
                let cut = refusal(id, RefuseCode::Cut, "the opener's connection was lost");
                self.agent.queue(&cut);
                let why = format!("the client's link was lost: {why}");
                self.part(joined, Parted::ClientLost, words.map(|words| *words), &why);
            }
        }
    }

    /// Whether there may be more: also from a client whose piece was taken, for it is not read, and
    /// nobody is woken for it, while one waits.
    fn transmit_to_agent(&mut self, cx: &mut Context<'_>) -> Result<bool, HopError> {
        let mut taken = false;
        for _ in 0..MESSAGES_PER_TURN {
            for joined in self.joined.values_mut() {
                joined.queue_up(&mut self.agent);
            }
            self.agent.queue_ping();
            if self.choose(cx, &mut taken) {
                match self.poll_send(cx) {
                    Poll::Pending => return Ok(taken),
                    Poll::Ready(sent) => sent?,
                }
                continue;
            }
            if self.agent.has_queued()
                && let Poll::Ready(flushed) = self.agent.poll_flush(cx)
            {
                flushed?;
                if self.joined.values().any(Joined::has_up) {
                    continue;
                }
            }
            return Ok(taken);
        }
        Ok(true)
    }

    /// Queues small pieces of whoever's turn it is, until one is in hand that is sent by itself.
    fn choose(&mut self, cx: &mut Context<'_>, taken: &mut bool) -> bool {
        while self.in_hand.is_none() {
            if self.agent.is_full() {
                return false;
            }
            let fair = &self.fair;
            let ready = self.joined.iter_mut().filter(|(_, j)| j.has_up());
            let Some((id, joined)) = ready.min_by_key(|(_, j)| fair.ready(j.turn)) else {
                return false;
            };
            let Some(mut segment) = joined.take_up() else {
                return false;
            };
            *taken = true;
            self.fair.charge(&mut joined.turn, segment.len());
            let id = *id;
            let header = data_header(id, segment.start());
            if segment.len() > SMALL {
                self.in_hand = Some((segment, header));
                break;
            }
            self.agent.queue_message(&message(&header, &mut segment));
            // Or who sends small pieces would have one where others have a large one.
            if let Err(word) = joined.receive(cx, &mut self.pool) {
                self.handle_word(id, word);
            }
        }
        true
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HopError>> {
        if let Some((segment, header)) = &mut self.in_hand {
            ready!(self.agent.poll_send(cx, header, segment))?;
            self.in_hand = None;
        }
        Poll::Ready(Ok(()))
    }
}

/// What whoever was let in by it is told.
fn taken_back(why: &str) -> String {
    format!("this session ends: {why}")
}

fn lost(error: &HopError) -> End {
    match error {
        HopError::Silent => End::Silent,
        HopError::Carrier(CarrierError::Closed { code: 1000, .. }) => End::Left,
        error => End::Lost(error.to_string()),
    }
}

const GOING_AWAY: Close = Close {
    code: 1001,
    reason: "going away",
};
