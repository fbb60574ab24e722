//! Two sessions, joined by a link whose every byte is accounted for, in virtual time.
//!
//! The link carries real hop frames as bytes, so a cut can fall inside any frame; bytes in flight
//! are then lost, and the opener attaches again with the next epoch. Nothing waits: [`Pair::drive`]
//! moves the clock to the next thing that happens until nothing does.

mod end;
mod link;
mod peer;
mod sweep;
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use farpipe_proto::Instant;
use farpipe_proto::session::{SessionConfig, Side};
use farpipe_proto::time::earliest;
use farpipe_proto::wire::control::Attach;
use farpipe_proto::wire::hop::{HopFrame, HopItem};

pub use end::{End, Habits, abort};
pub use peer::Peer;
pub use sweep::{Failure, Loss, Report, Scenario, positions, seeds, sweep};

use link::Link;

/// The way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From the opener to the acceptor.
    Up,
    /// From the acceptor to the opener.
    Down,
}

/// What the links are like.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time a byte needs, either way.
    pub latency: Duration,
    /// Bytes a second, each way; `None`: any number at once.
    pub rate: Option<u64>,
    /// Bytes of the session in one DATA frame at most.
    pub data_max: usize,
    /// Bytes that arrive are handed on in pieces of at most this.
    pub piece_max: usize,
    /// Settings of the opener's session.
    pub opener: SessionConfig,
    /// Settings of the acceptor's session.
    pub acceptor: SessionConfig,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(5),
            rate: None,
            data_max: 16 * 1024,
            piece_max: usize::MAX,
            opener: SessionConfig::new(Side::Opener),
            acceptor: SessionConfig::new(Side::Acceptor),
        }
    }
}

/// Two ends of a session and what lies between.
#[derive(Debug)]
pub struct Pair {
    /// The end that opened the session and attaches it.
    pub opener: Peer,
    /// The other end.
    pub acceptor: Peer,
    /// Connections lost so far.
    pub disconnects: u64,
    /// Attaches refused because their epoch was old.
    pub fenced: u64,
    options: Options,
    now: Instant,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    /// The opener's link, and whether it is attached.
    opener_link: Option<(u64, bool)>,
    acceptor_link: Option<u64>,
    /// Of the opener's last attach.
    epoch: u64,
    /// The last attach but one, and the last.
    attaches: [Option<Attach>; 2],
    /// The highest the acceptor heard.
    acceptor_epoch: u64,
    /// When the opener dials again, and where each way of that connection breaks.
    dial: Option<(Instant, [Option<u64>; 2])>,
}

impl Pair {
    /// Two ends without a link.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            opener: Peer::new(options.opener.clone(), options.data_max),
            acceptor: Peer::new(options.acceptor.clone(), options.data_max),
            disconnects: 0,
            fenced: 0,
            options,
            now: Instant::default(),
            links: BTreeMap::new(),
            next_link: 0,
            opener_link: None,
            acceptor_link: None,
            epoch: 0,
            attaches: [None, None],
            acceptor_epoch: 0,
            dial: None,
        }
    }

    /// Two ends, attached, with the default link.
    #[must_use]
    pub fn connected() -> Self {
        Self::connected_by(Options::default())
    }

    /// Two ends, attached.
    #[must_use]
    pub fn connected_by(options: Options) -> Self {
        let mut pair = Self::new(options);
        pair.dial();
        pair.drive();
        pair
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The peer that sends `way`.
    pub fn sender(&mut self, way: Way) -> &mut Peer {
        match way {
            Way::Up => &mut self.opener,
            Way::Down => &mut self.acceptor,
        }
    }

    // ---- time ----------------------------------------------------------------------------------

    /// Goes on until nothing is under way and nothing is due.
    ///
    /// # Panics
    /// When that never comes, or when a session fails.
    pub fn drive(&mut self) {
        self.drive_until(|_| false);
    }

    /// Goes on until `done`, or until nothing happens any more; says whether it was `done`.
    ///
    /// # Panics
    /// As [`Pair::drive`].
    pub fn drive_until(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        for step in 0.. {
            assert!(step < 10_000_000, "never comes to rest");
            self.pump();
            self.assert_healthy();
            if done(self) {
                return true;
            }
            let Some(next) = self.poll_timeout() else {
                return false;
            };
            self.now = self.now.max(next);
            self.step();
        }
        false
    }

    /// Goes on for a span of virtual time.
    ///
    /// # Panics
    /// As [`Pair::drive`].
    pub fn run_for(&mut self, span: Duration) {
        let until = self.now + span;
        self.drive_until(|pair| pair.poll_timeout().is_none_or(|next| next > until));
        self.now = until;
        self.step();
    }

    /// Neither session failed, and what arrived is what was written, as far as it goes.
    ///
    /// # Panics
    /// When that is not so.
    pub fn assert_healthy(&mut self) {
        for peer in [&self.opener, &self.acceptor] {
            if let Some(error) = &peer.error {
                panic!("the {:?} failed: {error}", peer.session.side());
            }
            peer.session.assert_invariants();
        }
        let Self {
            opener, acceptor, ..
        } = self;
        assert_prefixes(opener, acceptor);
        assert_prefixes(acceptor, opener);
    }

    fn pump(&mut self) {
        for peer in [&mut self.opener, &mut self.acceptor] {
            peer.now = self.now;
        }
        let links = &mut self.links;
        let link = self.opener_link.filter(|(_, attached)| *attached);
        let up = link.and_then(|(id, _)| links.get_mut(&id));
        self.opener.pump(up.map(|link| &mut link.up));
        let down = self.acceptor_link.and_then(|id| links.get_mut(&id));
        self.acceptor.pump(down.map(|link| &mut link.down));
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let mut next = self.dial.map(|(at, _)| at);
        for (id, link) in &self.links {
            let attached = self.opener_link == Some((*id, true));
            let wanted = attached && self.opener.wants_room();
            next = earliest(next, link.up.poll_timeout(self.now, wanted));
            let wanted = self.acceptor_link == Some(*id) && self.acceptor.wants_room();
            next = earliest(next, link.down.poll_timeout(self.now, wanted));
        }
        if self.is_attached() {
            next = earliest(next, self.opener.session.poll_timeout());
        }
        if self.acceptor_link.is_some() {
            next = earliest(next, self.acceptor.session.poll_timeout());
        }
        next
    }

    /// What is due now.
    fn step(&mut self) {
        if let Some((at, cuts)) = self.dial
            && at <= self.now
        {
            self.dial = None;
            self.abandon();
            self.dial_with(cuts);
        }
        for peer in [&mut self.opener, &mut self.acceptor] {
            peer.now = self.now;
        }
        let ids: Vec<u64> = self.links.keys().copied().collect();
        for id in ids {
            self.deliver(id, Way::Up);
            self.deliver(id, Way::Down);
            self.forget(id);
        }
    }

    /// A link that both ends have left, or that was never joined, is gone once it is empty.
    fn forget(&mut self, id: u64) {
        let opener = self.opener_link.is_some_and(|(link, _)| link == id);
        if !opener && self.acceptor_link != Some(id) {
            let empty = |link: &Link| {
                link.up.poll_timeout(self.now, false).is_none()
                    && link.down.poll_timeout(self.now, false).is_none()
            };
            if self.links.get(&id).is_some_and(empty) {
                self.links.remove(&id);
            }
        }
    }

    fn deliver(&mut self, id: u64, way: Way) {
        while let Some(link) = self.links.get_mut(&id) {
            let (wire, inbound) = match way {
                Way::Up => (&mut link.up, &mut link.at_acceptor),
                Way::Down => (&mut link.down, &mut link.at_opener),
            };
            let Some((chunk, breaks)) = wire.deliver(self.now) else {
                return;
            };
            // The end that left does not read.
            let mut inbound = std::mem::take(inbound);
            for piece in chunk.chunks(self.options.piece_max) {
                let mut rest = piece;
                while !rest.is_empty() {
                    let item = inbound.next(&mut rest).expect("our own frames");
                    if let Some((item, piece)) = item {
                        self.handle(id, way, item, piece);
                    }
                }
            }
            if let Some(link) = self.links.get_mut(&id) {
                match way {
                    Way::Up => link.at_acceptor = inbound,
                    Way::Down => link.at_opener = inbound,
                }
            }
            if breaks {
                return self.break_link(id);
            }
        }
    }

    fn handle(&mut self, id: u64, way: Way, item: HopItem, piece: &[u8]) {
        let (peer, joined) = match way {
            Way::Up => (&mut self.acceptor, self.acceptor_link == Some(id)),
            Way::Down => (&mut self.opener, self.opener_link == Some((id, true))),
        };
        match item {
            HopItem::Data { offset, skip, .. } if joined => {
                peer.handle_data(offset, &piece[skip..]);
            }
            HopItem::Frame(HopFrame::Ack(_, offset)) if joined => peer.handle_ack(offset),
            HopItem::Frame(HopFrame::Attach(_, attach)) if way == Way::Up => {
                self.handle_attach(id, &attach);
            }
            HopItem::Frame(HopFrame::Attached(_, attached))
                if self.opener_link == Some((id, false)) =>
            {
                self.opener_link = Some((id, true));
                self.opener.handle_attached(attached.received);
                self.opener.session.set_rtt_min(self.options.latency * 2);
            }
            HopItem::Frame(HopFrame::Refused(..)) if way == Way::Down => {
                self.fenced += 1;
                if self.opener_link.is_some_and(|(link, _)| link == id) {
                    self.opener_link = None;
                }
            }
            // Old tunnels: fenced on one side, left on the other.
            HopItem::Data { .. } | HopItem::Frame(_) => {
                assert!(!joined, "{item:?} on a tunnel that is joined");
            }
        }
    }
}

/// What `to` got is what `from` wrote, as far as it goes; and the words about it are true.
fn assert_prefixes(from: &Peer, to: &mut Peer) {
    for (id, got) in &mut to.ends {
        if got.compared == got.received.len() && !got.finished {
            continue;
        }
        let wrote = from.ends.get(id).expect("both ends know the stream");
        assert!(got.received.len() <= wrote.numbered, "{id}: more than sent");
        assert!(
            got.received[got.compared..] == wrote.written[got.compared..got.received.len()],
            "{id}: other bytes than written"
        );
        got.compared = got.received.len();
        if got.finished {
            assert!(wrote.closed, "{id}: finished and not closed");
            assert_eq!(got.received.len(), wrote.written.len(), "{id}: cut short");
        }
        if wrote.done {
            assert!(got.said_done, "{id}: confirmed and not taken");
        }
    }
}
