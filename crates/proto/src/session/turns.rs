//! Whose turn it is to number bytes: the streams of a session share it by bytes, as tunnels share a link.
//!
//! A stream that finds a backlog waits here. When there is room again, the one that had least is called,
//! and no other goes before it; it may have nothing to send any more, which is known when all that was
//! numbered is sent and it said nothing: then the next is called. One at a time: a thousand that are
//! woken for the place of one cost more than it carries.

use std::collections::BTreeSet;

use crate::link::{Fair, Turn};
use crate::wire::id::StreamId;

/// The streams that wait for their turn. Interactive ones are not among them: they go first.
#[derive(Debug, Default)]
pub(super) struct Turns {
    fair: Fair,
    waiting: BTreeSet<(Turn, StreamId)>,
    /// Was among those and is awake by now.
    called: Option<(Turn, StreamId)>,
}

impl Turns {
    /// `id`, which had its last turn at `turn`, has something to send: whether others go before it.
    /// If it has to wait now, [`Turns::wait`] follows, else [`Turns::leave`].
    pub(super) fn is_behind(&self, turn: Turn, id: StreamId) -> bool {
        let own = (self.key(turn, id), id);
        let before = |other: &(Turn, StreamId)| other.1 != id && *other < own;
        self.called.as_ref().is_some_and(before)
            || self
                .waiting
                .iter()
                .find(|other| other.1 != id)
                .is_some_and(before)
    }

    /// `id` waits, from `turn` on, where it stays while it waits.
    pub(super) fn wait(&mut self, turn: &mut Turn, id: StreamId) {
        let key = self.key(*turn, id);
        self.leave(*turn, id);
        *turn = key;
        self.waiting.insert((key, id));
    }

    /// `id` does not wait any more.
    pub(super) fn leave(&mut self, turn: Turn, id: StreamId) {
        self.waiting.remove(&(turn, id));
        self.called.take_if(|called| called.1 == id);
    }

    /// `id` sent `bytes`.
    pub(super) fn charge(&mut self, turn: &mut Turn, bytes: usize) {
        self.fair.charge(turn, bytes);
    }

    /// The next one to be woken, unless one is.
    pub(super) fn call(&mut self) -> Option<StreamId> {
        if self.called.is_some() {
            return None;
        }
        self.called = self.waiting.pop_first();
        self.called.map(|(_, id)| id)
    }

    /// Who was called has had the time to send.
    pub(super) fn give_up_called(&mut self) {
        self.called = None;
    }

    /// Whether nobody waits, or was called and has said nothing yet.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.called.is_none()
    }

    /// One that waits keeps its place; one that was silent begins where the others are.
    fn key(&self, turn: Turn, id: StreamId) -> Turn {
        let is_known = self.waiting.contains(&(turn, id)) || self.called == Some((turn, id));
        if is_known {
            turn
        } else {
            self.fair.ready(turn)
        }
    }
}
