//! One resumable byte stream per direction, numbered by absolute offsets (docs/protocol.md
//! section 5).

use crate::limits::{ACK_BYTES_MAX, ACK_DELAY, OFFSET_MAX};
use crate::time::Instant;

use super::SessionError;

/// The outgoing direction: `acked <= sent <= sent_max <= numbered`.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// The peer has everything below.
    acked: u64,
    /// Handed to the present carrier up to here.
    sent: u64,
    /// Handed to any carrier up to here: no honest peer has more.
    sent_max: u64,
    /// Given a number up to here; retained from `acked` on.
    numbered: u64,
}

impl Outgoing {
    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    pub(super) fn numbered(&self) -> u64 {
        self.numbered
    }

    /// Numbered but not yet handed to the carrier.
    pub(super) fn backlog(&self) -> u64 {
        self.numbered - self.sent
    }

    /// Kept for a resend.
    pub(super) fn retained(&self) -> u64 {
        self.numbered - self.acked
    }

    /// Numbers `len` more bytes.
    pub(super) fn number(&mut self, len: usize) {
        self.numbered += len as u64;
        assert!(self.numbered <= OFFSET_MAX, "2^62 bytes in one session");
    }

    /// The bytes up to `end` are being handed to the carrier.
    pub(super) fn handle_sent(&mut self, end: u64) {
        assert!(
            end >= self.sent && end <= self.numbered,
            "sent {end} of {self:?}"
        );
        self.sent = end;
        self.sent_max = self.sent_max.max(end);
    }

    /// The peer has everything below `offset`, of what this carrier brought it and what it had
    /// before.
    pub(super) fn handle_ack(&mut self, offset: u64) -> Result<u64, SessionError> {
        self.acknowledge(offset, self.sent)
    }

    /// On a new tunnel: the peer has everything below `offset`, whichever carrier brought it, and
    /// what comes after is sent again.
    pub(super) fn handle_attached(&mut self, offset: u64) -> Result<u64, SessionError> {
        let progress = self.acknowledge(offset, self.sent_max)?;
        self.sent = self.acked;
        Ok(progress)
    }

    fn acknowledge(&mut self, offset: u64, sent: u64) -> Result<u64, SessionError> {
        if offset < self.acked || offset > sent {
            return Err(SessionError::AckOutOfRange {
                offset,
                acked: self.acked,
                sent,
            });
        }
        let progress = offset - self.acked;
        self.acked = offset;
        Ok(progress)
    }
}

/// The incoming direction, and when to acknowledge.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// Everything below has arrived.
    received: u64,
    /// Told to the peer.
    told: u64,
    /// An acknowledgement is due then.
    due: Option<Instant>,
    /// The peer may be waiting for it: due at once.
    urgent: bool,
}

impl Incoming {
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Bytes `[offset, offset + len)` arrived; says how many of them, from the front, are repeats.
    pub(super) fn handle_arrived(
        &mut self,
        now: Instant,
        offset: u64,
        len: usize,
        smallest_window: u64,
    ) -> Result<usize, SessionError> {
        if offset > self.received {
            return Err(SessionError::Gap {
                offset,
                expected: self.received,
            });
        }
        let repeat = usize::try_from(self.received - offset).map_or(len, |n| n.min(len));
        self.received += (len - repeat) as u64;
        if self.received > OFFSET_MAX {
            return Err(SessionError::Protocol(
                "more than 2^62 bytes in one session",
            ));
        }
        if self.received > self.told {
            let enough = (smallest_window / 4).min(ACK_BYTES_MAX);
            if self.received - self.told >= enough {
                self.urgent = true;
            }
            self.due.get_or_insert(now + ACK_DELAY);
        }
        Ok(repeat)
    }

    /// The peer may be blocked: acknowledge at once.
    pub(super) fn hurry(&mut self) {
        self.urgent |= self.received > self.told;
    }

    /// The offset to acknowledge now, if one is due.
    pub(super) fn poll_ack(&mut self, now: Instant) -> Option<u64> {
        if !self.urgent && self.due.is_none_or(|due| now < due) {
            return None;
        }
        self.urgent = false;
        self.due = None;
        if self.received == self.told {
            return None;
        }
        self.told = self.received;
        Some(self.received)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// On a new tunnel the offset was told by the attach itself.
    pub(super) fn handle_attached(&mut self) {
        self.told = self.received;
        self.due = None;
        self.urgent = false;
    }
}
