//! Making, breaking and leaving the connections of a [`Pair`].

use std::time::Duration;

use farpipe_proto::wire::control::{Attach, Attached, RefuseCode, Refused};
use farpipe_proto::wire::hop::HopFrame;

use super::peer::TUNNEL;
use super::wire::{Inbound, Wire};
use super::{Pair, Way};

/// One connection. Either end may have left it before the other notices.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) up: Wire,
    pub(super) down: Wire,
    pub(super) at_acceptor: Inbound,
    pub(super) at_opener: Inbound,
}

impl Pair {
    /// The opener dials and attaches at once, with the next epoch.
    pub fn dial(&mut self) {
        self.dial_with([None, None]);
    }

    /// The opener dials in `wait`; the connection breaks after so many bytes up, or down.
    pub fn dial_in(&mut self, wait: Duration, cuts: [Option<u64>; 2]) {
        self.dial = Some((self.now + wait, cuts));
    }

    /// The attach before the present one arrives (again): it was long on its way.
    pub fn dial_with_old_epoch(&mut self) {
        if let Some(attach) = self.attaches[0].clone() {
            self.link(&attach, [None, None]);
        }
    }

    pub(super) fn dial_with(&mut self, cuts: [Option<u64>; 2]) {
        self.epoch += 1;
        let attach = Attach {
            key: vec![1; 32],
            epoch: self.epoch,
            received: self.opener.session.received(),
            established: self.acceptor_epoch > 0,
            ..Attach::default()
        };
        let id = self.link(&attach, cuts);
        self.attaches = [self.attaches[1].take(), Some(attach)];
        self.opener_link = Some((id, false));
    }

    fn link(&mut self, attach: &Attach, cuts: [Option<u64>; 2]) -> u64 {
        let mut up = Wire::new(self.options.latency, self.options.rate);
        let mut down = Wire::new(self.options.latency, self.options.rate);
        for (wire, cut) in [(&mut up, cuts[0]), (&mut down, cuts[1])] {
            if let Some(cut) = cut {
                wire.cut_after(cut);
            }
        }
        let attach = HopFrame::Attach(TUNNEL, attach.clone());
        up.send(self.now, [&attach.encode()[..], &[]]);
        let id = self.next_link;
        self.next_link += 1;
        self.links.insert(
            id,
            Link {
                up,
                down,
                at_acceptor: Inbound::default(),
                at_opener: Inbound::default(),
            },
        );
        id
    }

    /// Whether the opener's session is attached.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        matches!(self.opener_link, Some((_, true)))
    }

    /// Bytes that came through on the opener's link.
    #[must_use]
    pub fn delivered(&self, way: Way) -> u64 {
        let link = self.opener_link.and_then(|(id, _)| self.links.get(&id));
        link.map_or(0, |link| match way {
            Way::Up => link.up.delivered(),
            Way::Down => link.down.delivered(),
        })
    }

    /// The opener has no link and will dial none by itself.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.opener_link.is_none() && self.dial.is_none()
    }

    /// The connection breaks now: bytes in flight are lost, both ends notice.
    pub fn cut(&mut self) {
        if let Some((id, _)) = self.opener_link {
            self.break_link(id);
        }
    }

    /// The connection will break once this many more bytes have come through.
    pub fn cut_after(&mut self, way: Way, bytes: u64) {
        if let Some((id, _)) = self.opener_link
            && let Some(link) = self.links.get_mut(&id)
        {
            let wire = match way {
                Way::Up => &mut link.up,
                Way::Down => &mut link.down,
            };
            wire.cut_after(wire.delivered() + bytes);
        }
    }

    /// Nothing breaks from now on: no link stands still or has a place where it will break, and if there is
    /// none, the opener dials at once.
    pub fn heal(&mut self) {
        for link in self.links.values_mut() {
            link.up.cut_after(u64::MAX);
            link.down.cut_after(u64::MAX);
            link.up.set_latency(self.options.latency);
            link.down.set_latency(self.options.latency);
        }
        self.dial = None;
        if self.opener_link.is_none() {
            self.dial();
        }
    }

    /// The opener leaves its link without a word. What it sent still arrives, and the acceptor
    /// notices nothing until it is attached again.
    pub fn abandon(&mut self) {
        if self.opener_link.take().is_some() {
            self.disconnects += 1;
        }
    }

    /// Changes the latency of every link, from the next message on.
    pub fn set_latency(&mut self, latency: Duration) {
        self.options.latency = latency;
        for link in self.links.values_mut() {
            link.up.set_latency(latency);
            link.down.set_latency(latency);
        }
    }

    /// What is sent on that way of the opener's link from now on takes so long, up to the next
    /// [`Pair::heal`] or [`Pair::set_latency`].
    pub fn stall(&mut self, way: Way, latency: Duration) {
        if let Some((id, _)) = self.opener_link
            && let Some(link) = self.links.get_mut(&id)
        {
            match way {
                Way::Up => link.up.set_latency(latency),
                Way::Down => link.down.set_latency(latency),
            }
        }
    }

    pub(super) fn break_link(&mut self, id: u64) {
        self.links.remove(&id);
        self.disconnects += 1;
        self.opener_link = self.opener_link.filter(|(link, _)| *link != id);
        self.acceptor_link = self.acceptor_link.filter(|link| *link != id);
    }

    pub(super) fn handle_attach(&mut self, id: u64, attach: &Attach) {
        let answer = if attach.epoch <= self.acceptor_epoch {
            HopFrame::Refused(
                TUNNEL,
                Refused {
                    code: RefuseCode::Fenced as u32,
                    is_final: false,
                    message: "a newer attach is known".to_owned(),
                },
            )
        } else {
            self.acceptor_epoch = attach.epoch;
            self.acceptor_link = Some(id);
            self.acceptor.handle_attached(attach.received);
            let rtt = self.options.latency * 2;
            self.acceptor.session.set_rtt_min(rtt);
            let received = self.acceptor.session.received();
            HopFrame::Attached(
                TUNNEL,
                Attached {
                    received,
                    kept_ms: 0,
                },
            )
        };
        if let Some(link) = self.links.get_mut(&id) {
            link.down.send(self.now, [&answer.encode()[..], &[]]);
        }
    }
}
