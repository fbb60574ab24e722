//! How long the way to the other end of a session and back takes, whoever passes the bytes on: a
//! keepalive knows only the way to the neighbour (docs/protocol.md section 6.2).
//!
//! What a sender sends beyond a limit that it had come to, it sends as soon as it hears of a higher one.
//! From telling that to the first of those bytes is a round trip, and whatever waited on the way; the
//! shortest of them on one attachment is the round trip.

use std::time::Duration;

use crate::time::Instant;

/// The round trip between the ends of a session.
#[derive(Debug, Default)]
pub(super) struct Trip {
    shortest: Option<Duration>,
    /// Since when the present link is; what was told before has waited for it.
    attached: Option<Instant>,
}

impl Trip {
    /// Another link, perhaps by another way.
    pub(super) fn handle_attached(&mut self, now: Instant) {
        self.attached = Some(now);
        self.shortest = None;
    }

    /// Bytes came whose sender had waited for the credit that was told at `told`.
    pub(super) fn handle_answered(&mut self, now: Instant, told: Instant) {
        if self.attached.is_none_or(|attached| told >= attached) {
            let trip = now - told;
            self.shortest = Some(self.shortest.map_or(trip, |shortest| shortest.min(trip)));
        }
    }

    /// The shortest that was seen on this link; zero before the first.
    pub(super) fn shortest(&self) -> Duration {
        self.shortest.unwrap_or_default()
    }
}
