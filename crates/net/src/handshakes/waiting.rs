//! Connections before their handshake, by source: nobody has read a byte of them.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use farpipe_proto::limits::HANDSHAKES_WAITING_MAX;

use super::source;
use crate::peer::Peer;

/// Policy when full: the source with most loses its newest.
#[derive(Debug)]
pub(super) struct Waiting<W> {
    /// Never an empty queue.
    of: BTreeMap<IpAddr, VecDeque<One<W>>>,
    len: usize,
    came: u64,
}

#[derive(Debug)]
struct One<W> {
    /// The how manieth that came.
    number: u64,
    peer: Peer,
    what: W,
}

impl<W> Default for Waiting<W> {
    fn default() -> Self {
        Self {
            of: BTreeMap::new(),
            len: 0,
            came: 0,
        }
    }
}

impl<W> Waiting<W> {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Of which somebody waits.
    pub(super) fn sources(&self) -> impl Iterator<Item = &IpAddr> {
        self.of.keys()
    }

    /// One more; returns who is dropped for it.
    pub(super) fn push(&mut self, peer: Peer, what: W) -> Option<Peer> {
        let number = self.came;
        self.came += 1;
        let of = self.of.entry(source(&peer)).or_default();
        of.push_back(One { number, peer, what });
        self.len += 1;
        if self.len <= HANDSHAKES_WAITING_MAX {
            return None;
        }
        let newest = |of: &VecDeque<One<W>>| of.back().map(|one| one.number);
        let most = self.of.iter().max_by_key(|(_, of)| (of.len(), newest(of)));
        let source = most.map(|(source, _)| *source)?;
        self.take(&source, VecDeque::pop_back).map(|(peer, _)| peer)
    }

    /// Takes who is next: of the source that `has` fewest, who has waited longest; of none that has more
    /// than `most`.
    pub(super) fn pop(&mut self, has: impl Fn(&IpAddr) -> usize, most: usize) -> Option<(Peer, W)> {
        let sources = self.of.iter().map(|(source, of)| {
            let number = of.front().map(|one| one.number);
            (has(source), number, *source)
        });
        let next = sources.filter(|(has, ..)| *has <= most).min()?;
        self.take(&next.2, VecDeque::pop_front)
    }

    fn take(
        &mut self,
        source: &IpAddr,
        which: impl Fn(&mut VecDeque<One<W>>) -> Option<One<W>>,
    ) -> Option<(Peer, W)> {
        let of = self.of.get_mut(source)?;
        let taken = which(of);
        if of.is_empty() {
            self.of.remove(source);
        }
        let One { peer, what, .. } = taken?;
        self.len -= 1;
        Some((peer, what))
    }
}
