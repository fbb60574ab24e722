//! A link that many tunnels share: an agent's to its relay. One task drives it and all of them.
//!
//! The tasks of the sessions keep what is theirs (parking, fencing, how it ended) and take a seat
//! here for each attachment: they hand a tunnel over and hear once how it ended. Tunnels take turns
//! by bytes ([`Fair`]); control frames go before data.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use farpipe_proto::identity::Asserting;
use farpipe_proto::limits::TUNNELS_MAX;
use farpipe_proto::link::{Fair, Turn};
use farpipe_proto::time::earliest;
use farpipe_proto::wire::control::{Attach, RefuseCode, Refused};
use farpipe_proto::wire::hop::{DATA_HEADER_LEN, HopFrame};
use farpipe_proto::wire::id::TunnelId;
use tokio::sync::{mpsc, oneshot};

use crate::acceptor::{Acceptor, Arrival, Way, asserted};
use crate::carrier::Close;
use crate::driver::{MESSAGES_PER_TURN, PIECES_PER_TURN};
use crate::hop::{Heard, Hop};
use crate::link::printable;
use crate::segment::Segment;
use crate::standing::Standing;
use crate::tunnel::{Driven, LostLink, Tunnel};

/// Orders waiting for the link's task. Policy when full: the session's task waits.
const ORDERS_MAX: usize = 64;

/// What a session's task asks of the link's.
#[derive(Debug)]
enum Order {
    /// Carry this tunnel; the frame goes first.
    Attach {
        tunnel: Box<Tunnel>,
        words: HopFrame,
        over: oneshot::Sender<Driven>,
    },
    /// Carry it no more, and say this.
    Leave {
        tunnel: TunnelId,
        words: HopFrame,
        done: oneshot::Sender<()>,
    },
}

/// Where a session's task gets a seat on the link, for one tunnel. Dropped instead, the tunnel is
/// over: the opener attaches anew.
#[derive(Debug)]
pub(crate) struct Orders {
    orders: mpsc::Sender<Order>,
    /// The link's task sees when it is dropped.
    _claim: oneshot::Sender<()>,
}

impl Orders {
    /// Hands a tunnel over; `None`: the link is gone.
    pub(crate) async fn attach(self, tunnel: Tunnel, words: HopFrame) -> Option<Seat> {
        let (over, ended) = oneshot::channel();
        let id = tunnel.id();
        let tunnel = Box::new(tunnel);
        let order = Order::Attach {
            tunnel,
            words,
            over,
        };
        self.orders.send(order).await.ok()?;
        Some(Seat {
            tunnel: id,
            orders: self,
            ended,
        })
    }

    /// Says the last words of a tunnel that was not handed over.
    pub(crate) async fn leave(self, tunnel: TunnelId, words: HopFrame) {
        self.send_leave(tunnel, words).await;
    }

    async fn send_leave(&self, tunnel: TunnelId, words: HopFrame) {
        let (done, is_done) = oneshot::channel();
        let order = Order::Leave {
            tunnel,
            words,
            done,
        };
        if self.orders.send(order).await.is_ok() {
            // An error means that the link's task has dropped everything.
            let _ = is_done.await;
        }
    }
}

/// A session's place on the link. Dropped, the tunnel is given up: the peer hears DETACH.
#[derive(Debug)]
pub(crate) struct Seat {
    tunnel: TunnelId,
    orders: Orders,
    ended: oneshot::Receiver<Driven>,
}

impl Seat {
    /// How the tunnel ended, once it has. Cancel safe; to be called until it is ready, once.
    pub(crate) async fn driven(&mut self) -> Driven {
        let ended = (&mut self.ended).await;
        ended.unwrap_or_else(|_| {
            Driven::Lost(LostLink::Trunk("the link to the relay is gone".to_owned()))
        })
    }

    /// Leaves; when this returns nothing more is read or sent of the session.
    pub(crate) async fn leave(self, words: HopFrame) {
        self.orders.send_leave(self.tunnel, words).await;
    }
}

/// Why a trunk is over.
#[derive(Debug)]
pub(crate) enum TrunkEnd {
    /// The link was lost, or the relay leaves.
    Lost(String),
    /// The relay wants it no more.
    Refused(Refused),
}

/// One tunnel and who waits for its end.
#[derive(Debug)]
struct Member {
    tunnel: Tunnel,
    turn: Turn,
    over: oneshot::Sender<Driven>,
}

/// A tunnel that a session's task has not taken yet. The opener may leave meanwhile; who takes the
/// tunnel then must hear so, for the relay will not say it again.
#[derive(Debug)]
struct Asked {
    /// Over when nobody will take it.
    claim: oneshot::Receiver<()>,
    ended: Option<Driven>,
}

/// The message the carrier is half through.
#[derive(Debug)]
enum InHand {
    /// This tunnel has it.
    Of(TunnelId),
    /// The tunnel is gone from here; its message is finished with a copy.
    Orphan(Segment, [u8; DATA_HEADER_LEN]),
}

/// The link and its tunnels.
#[derive(Debug)]
pub(crate) struct Trunk {
    hop: Hop,
    acceptor: Arc<Acceptor>,
    /// For people.
    relay: String,
    /// What the relay's word is worth.
    asserting: Asserting,
    /// Bytes that each tunnel may send at first.
    window: u64,
    orders: mpsc::Receiver<Order>,
    tell: mpsc::Sender<Order>,
    asked: BTreeMap<TunnelId, Asked>,
    members: BTreeMap<TunnelId, Member>,
    in_hand: Option<InHand>,
    fair: Fair,
    /// The highest tunnel id that was used.
    last: TunnelId,
    rtt_min: Option<Duration>,
    progressed: bool,
}

impl Trunk {
    pub(crate) fn new(
        hop: Hop,
        acceptor: Arc<Acceptor>,
        relay: String,
        asserting: Asserting,
        window: u64,
    ) -> Self {
        let (tell, orders) = mpsc::channel(ORDERS_MAX);
        Self {
            hop,
            acceptor,
            relay,
            asserting,
            window,
            orders,
            tell,
            asked: BTreeMap::new(),
            members: BTreeMap::new(),
            in_hand: None,
            fair: Fair::default(),
            last: TunnelId::LINK,
            rtt_min: None,
            progressed: false,
        }
    }

    /// Whether any session came forward by this link.
    pub(crate) fn progressed(&self) -> bool {
        self.progressed
    }

    /// Moves bytes until the link is over; then every session has heard so.
    ///
    /// # Cancellation
    /// Not to be called again. Dropping the trunk tells every session that its link is lost.
    pub(crate) async fn run(&mut self) -> TrunkEnd {
        let end = poll_fn(|cx| self.poll_drive(cx)).await;
        let why = match &end {
            TrunkEnd::Lost(why) => why.clone(),
            TrunkEnd::Refused(refused) => printable(&refused.message),
        };
        for (_, member) in std::mem::take(&mut self.members) {
            let lost = LostLink::Trunk(format!("{}: {why}", self.relay));
            self.progressed |= member.tunnel.progressed();
            member.end(Driven::Lost(lost));
        }
        end
    }

    /// Takes its leave of the relay, within a second. Sessions that are not over hear that their link is
    /// lost.
    pub(crate) async fn leave(self) {
        // In the midst of a message there is no place for it.
        if self.in_hand.is_none() {
            let close = Close {
                code: 1000,
                reason: "it has ended",
            };
            self.hop.close(close).await;
        }
    }

    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<TrunkEnd> {
        match ready!(self.poll_turn(cx)) {
            Driven::Refused(refused) => Poll::Ready(TrunkEnd::Refused(refused)),
            Driven::Lost(lost) => Poll::Ready(TrunkEnd::Lost(lost.to_string())),
            Driven::Failed(why) => Poll::Ready(TrunkEnd::Lost(why)),
            Driven::Unsealed(error) => Poll::Ready(TrunkEnd::Lost(error.to_string())),
            Driven::Detached | Driven::Complete => {
                Poll::Ready(TrunkEnd::Lost("the relay left".to_owned()))
            }
        }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Driven> {
        self.take_orders(cx);
        // The wakers first: what handles do from now on is seen.
        for member in self.members.values_mut() {
            member.tunnel.park(cx);
        }
        self.drop_deserted(cx);
        match self.turn(cx) {
            Ok(true) => cx.waker().wake_by_ref(),
            Ok(false) => {}
            Err(driven) => return Poll::Ready(driven),
        }
        Poll::Pending
    }

    /// Sends and receives a bounded amount; whether there may be more.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, Driven> {
        let sent = self.transmit(cx)?;
        let received = self.receive(cx)?;
        let acks = self.members.values().map(|m| m.tunnel.poll_timeout());
        let due = acks.fold(None, earliest);
        let looked = match self.hop.poll_timers(cx, due) {
            Poll::Ready(looked) => {
                looked?;
                true
            }
            Poll::Pending => false,
        };
        let awaits_writer = self.members.values().any(|m| m.tunnel.awaits_writer());
        Ok(sent || received || looked || awaits_writer)
    }

    fn take_orders(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(order)) = self.orders.poll_recv(cx) {
            match order {
                Order::Attach {
                    mut tunnel,
                    words,
                    over,
                } => {
                    if let Some(ended) = self.ended_before(tunnel.id()) {
                        drop(tunnel);
                        let _ = over.send(ended);
                        continue;
                    }
                    tunnel.set_limit(self.window);
                    if let Some(rtt_min) = self.rtt_min {
                        tunnel.handle_round_trip(rtt_min);
                    }
                    self.hop.queue(&words);
                    let member = Member {
                        turn: self.fair.ready(Turn::default()),
                        tunnel: *tunnel,
                        over,
                    };
                    self.members.insert(member.tunnel.id(), member);
                }
                Order::Leave {
                    tunnel,
                    words,
                    done,
                } => {
                    drop(self.remove(tunnel));
                    if self.ended_before(tunnel).is_none() {
                        self.hop.queue(&words);
                    }
                    let _ = done.send(());
                }
            }
        }
    }

    /// How a tunnel ended that is taken only now.
    fn ended_before(&mut self, id: TunnelId) -> Option<Driven> {
        self.asked.remove(&id)?.ended
    }

    /// Takes a tunnel off the link; the message it is in the midst of is finished without it.
    fn remove(&mut self, id: TunnelId) -> Option<Member> {
        let member = self.members.remove(&id)?;
        self.progressed |= member.tunnel.progressed();
        if matches!(self.in_hand, Some(InHand::Of(of)) if of == id) {
            let copy = member.tunnel.copy_in_hand();
            self.in_hand = copy.map(|(segment, header)| InHand::Orphan(segment, header));
        }
        Some(member)
    }

    /// Sessions whose task is gone.
    fn drop_deserted(&mut self, cx: &mut Context<'_>) {
        let deserted: Vec<TunnelId> = self
            .members
            .iter_mut()
            .filter_map(|(id, member)| member.over.poll_closed(cx).is_ready().then_some(*id))
            .collect();
        for id in deserted {
            drop(self.remove(id));
            self.hop.queue(&HopFrame::Detach(id));
        }
        let hop = &mut self.hop;
        self.asked.retain(|id, asked| {
            let is_claimed = Pin::new(&mut asked.claim).poll(cx).is_pending();
            if !is_claimed && asked.ended.is_none() {
                let why = "the session is just ending";
                hop.queue(&Tunnel::refusal(*id, RefuseCode::Cut, why));
            }
            is_claimed
        });
    }

    /// A tunnel ended by what it brought.
    fn end(&mut self, id: TunnelId, driven: Driven) {
        if let Driven::Unsealed(_) = driven
            && let Some(member) = self.members.get_mut(&id)
        {
            // What this end thinks of it; what is long has to be left out.
            member.tunnel.take_next(&mut self.hop);
        }
        let Some(member) = self.remove(id) else {
            return;
        };
        if let Driven::Lost(lost) = &driven {
            // The opener attaches anew.
            let words = Tunnel::refusal(id, RefuseCode::Cut, &lost.to_string());
            self.hop.queue(&words);
        }
        member.end(driven);
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, Driven> {
        for pieces in 0..PIECES_PER_TURN {
            match self.hop.poll_heard(cx) {
                Poll::Pending => return Ok(pieces > 0),
                Poll::Ready(heard) => {
                    if let Some(heard) = heard? {
                        self.handle(heard)?;
                    }
                }
            }
        }
        Ok(true)
    }

    fn handle(&mut self, heard: Heard) -> Result<(), Driven> {
        let (id, handled) = match heard {
            Heard::RoundTrip(rtt_min) => {
                self.rtt_min = Some(rtt_min);
                for member in self.members.values() {
                    member.tunnel.handle_round_trip(rtt_min);
                }
                return Ok(());
            }
            Heard::Data {
                tunnel,
                offset,
                bytes,
            } => {
                // A tunnel that was fenced or refused may still have bytes under way.
                let Some(member) = self.members.get_mut(&tunnel) else {
                    return Ok(());
                };
                (tunnel, member.tunnel.handle_data(offset, bytes))
            }
            Heard::Frame(frame) => match frame {
                HopFrame::Attach(tunnel, attach) => return self.attach(tunnel, attach),
                HopFrame::HopCredit(tunnel, limit) => {
                    if let Some(member) = self.members.get_mut(&tunnel) {
                        member.tunnel.handle_credit(limit);
                    }
                    return Ok(());
                }
                HopFrame::Refused(TunnelId::LINK, refused) => return Err(Driven::Refused(refused)),
                HopFrame::Ack(tunnel, _)
                | HopFrame::Detach(tunnel)
                | HopFrame::Refused(tunnel, _) => {
                    let Some(member) = self.members.get_mut(&tunnel) else {
                        if let Some(asked) = self.asked.get_mut(&tunnel) {
                            asked.handle_frame(frame);
                        }
                        return Ok(());
                    };
                    (tunnel, member.tunnel.handle_frame(frame))
                }
                HopFrame::GoAway(_) => {
                    tracing::info!("{} is going away", self.relay);
                    return Ok(());
                }
                _ => return Ok(()),
            },
        };
        if let Err(driven) = handled {
            self.end(id, driven);
        }
        Ok(())
    }

    /// The relay passes on an opener's wish.
    fn attach(&mut self, tunnel: TunnelId, attach: Attach) -> Result<(), Driven> {
        if tunnel <= self.last || !tunnel.0.is_multiple_of(2) {
            return Err(Driven::Failed(
                "the relay broke the protocol: a tunnel's number".to_owned(),
            ));
        }
        self.last = tunnel;
        if self.members.len() + self.asked.len() >= TUNNELS_MAX {
            let words = Tunnel::refusal(tunnel, RefuseCode::Limit, "too many tunnels at once");
            self.hop.queue(&words);
            return Ok(());
        }
        let caller = asserted(&attach.caller, self.asserting);
        let (claim, is_claimed) = oneshot::channel();
        let orders = Orders {
            orders: self.tell.clone(),
            _claim: claim,
        };
        let arrival = Arrival {
            way: Way::Trunk(orders),
            tunnel,
            attach,
            ticket: Vec::new(),
            caller,
            standing: Standing::default(),
            peer: self.relay.clone(),
        };
        if let Err(refusal) = self.acceptor.route(arrival) {
            let refused = refusal.refused;
            tracing::info!("{}: refused a session: {}", self.relay, refused.message);
            self.hop.queue(&HopFrame::Refused(tunnel, refused));
            return Ok(());
        }
        let asked = Asked {
            claim: is_claimed,
            ended: None,
        };
        self.asked.insert(tunnel, asked);
        Ok(())
    }

    /// Sends what is due; `true` when the turn's budget ended it.
    fn transmit(&mut self, cx: &mut Context<'_>) -> Result<bool, Driven> {
        for _ in 0..MESSAGES_PER_TURN {
            for member in self.members.values() {
                member.tunnel.queue_ack(&mut self.hop);
            }
            self.hop.queue_ping();
            self.choose();
            if self.in_hand.is_some() {
                match self.poll_send(cx) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(sent) => sent?,
                }
                continue;
            }
            if self.hop.has_queued()
                && let Poll::Ready(flushed) = self.hop.poll_flush(cx)
            {
                flushed?;
                if self.members.values().any(|m| m.tunnel.has_unsent()) {
                    continue;
                }
            }
            return Ok(false);
        }
        Ok(true)
    }

    /// Queues small segments of whoever's turn it is, until one is in hand to be sent by itself.
    fn choose(&mut self) {
        while self.in_hand.is_none() && !self.hop.is_full() {
            let fair = &self.fair;
            let ready = self.members.values_mut().filter(|m| m.tunnel.has_unsent());
            let Some(member) = ready.min_by_key(|m| fair.ready(m.turn)) else {
                return;
            };
            let (taken, in_hand) = member.tunnel.take_next(&mut self.hop);
            self.fair.charge(&mut member.turn, taken);
            if in_hand {
                self.in_hand = Some(InHand::Of(member.tunnel.id()));
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Driven>> {
        let sent = match &mut self.in_hand {
            Some(InHand::Of(id)) => match self.members.get_mut(id) {
                Some(member) => ready!(member.tunnel.poll_send(cx, &mut self.hop)),
                None => Ok(()),
            },
            Some(InHand::Orphan(segment, header)) => {
                ready!(self.hop.poll_send(cx, header, segment))
            }
            None => Ok(()),
        };
        self.in_hand = None;
        Poll::Ready(sent.map_err(Driven::from))
    }
}

impl Asked {
    fn handle_frame(&mut self, frame: HopFrame) {
        let ended = match frame {
            HopFrame::Detach(_) => Driven::Detached,
            HopFrame::Refused(_, refused) => Driven::Refused(refused),
            _ => return,
        };
        self.ended.get_or_insert(ended);
    }
}

impl Member {
    fn end(self, driven: Driven) {
        // First nothing is carried any more, then it is told.
        drop(self.tunnel);
        let _ = self.over.send(driven);
    }
}
