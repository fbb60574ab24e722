//! One direction of a connection: bytes in flight, in order, with a time of arrival, and a place
//! at which they break off.

use std::collections::VecDeque;
use std::time::Duration;

use farpipe_proto::Instant;
use farpipe_proto::wire::DecodeError;
use farpipe_proto::wire::hop::{HopDecoder, HopItem};

/// A sender may be this far ahead of a link of limited rate, as a socket's send buffer would let
/// it.
const AHEAD: Duration = Duration::from_millis(1);

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Wire {
    latency: Duration,
    /// Bytes a second; `None`: any number at once.
    rate: Option<u64>,
    /// Chunks under way, by arrival.
    in_flight: VecDeque<(Instant, Vec<u8>)>,
    /// The link has bytes to send until then.
    busy_until: Instant,
    delivered: u64,
    /// The connection breaks when this many bytes have come through.
    cut_after: Option<u64>,
}

impl Wire {
    pub(super) fn new(latency: Duration, rate: Option<u64>) -> Self {
        Self {
            latency,
            rate,
            ..Self::default()
        }
    }

    pub(super) fn set_latency(&mut self, latency: Duration) {
        self.latency = latency;
    }

    pub(super) fn cut_after(&mut self, bytes: u64) {
        self.cut_after = Some(bytes);
    }

    /// Bytes that came through so far.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Whether the carrier takes another message now.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        self.busy_until <= now + AHEAD
    }

    /// Sends one carrier message: its length and its bytes, as the `fp` carrier does.
    pub(super) fn send(&mut self, now: Instant, parts: [&[u8]; 2]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut chunk = Vec::with_capacity(4 + len);
        let prefix = u32::try_from(len).expect("messages are bounded");
        chunk.extend_from_slice(&prefix.to_be_bytes());
        for part in parts {
            chunk.extend_from_slice(part);
        }
        if let Some(rate) = self.rate {
            let micros = chunk.len() as u64 * 1_000_000 / rate.max(1);
            self.busy_until = self.busy_until.max(now) + Duration::from_micros(micros);
        }
        let arrival = self.busy_until.max(now) + self.latency;
        // A link whose latency shrinks still does not reorder.
        let after = self.in_flight.back().map_or(arrival, |(at, _)| *at);
        self.in_flight.push_back((arrival.max(after), chunk));
    }

    /// When something happens: bytes arrive, or, if `wanted`, there is room again.
    pub(super) fn poll_timeout(&self, now: Instant, room_wanted: bool) -> Option<Instant> {
        let arrival = self.in_flight.front().map(|(at, _)| *at);
        let room = (room_wanted && !self.has_room(now))
            .then(|| Instant::from_origin(self.busy_until.since_origin().saturating_sub(AHEAD)));
        farpipe_proto::time::earliest(arrival, room)
    }

    /// The bytes that arrive now, and whether the connection breaks behind them.
    pub(super) fn deliver(&mut self, now: Instant) -> Option<(Vec<u8>, bool)> {
        let (arrival, _) = self.in_flight.front()?;
        if *arrival > now {
            return None;
        }
        let (_, mut chunk) = self.in_flight.pop_front()?;
        let left = self
            .cut_after
            .map_or(u64::MAX, |cut| cut.saturating_sub(self.delivered));
        let breaks = chunk.len() as u64 >= left;
        if breaks {
            chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
        self.delivered += chunk.len() as u64;
        Some((chunk, breaks))
    }
}

/// The receiving end of a wire: puts messages together again, piece by piece.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    prefix: [u8; 4],
    prefix_len: usize,
    /// Bytes of the message still to come.
    left: usize,
    /// The message's length until its first piece was handed on.
    first: Option<usize>,
    hop: HopDecoder,
}

impl Inbound {
    /// Takes bytes off the front of `input`; `Ok(None)` with input left means: call again.
    pub(super) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<(HopItem, &'a [u8])>, DecodeError> {
        if self.prefix_len < 4 {
            let len = input.len().min(4 - self.prefix_len);
            let (head, rest) = input.split_at(len);
            self.prefix[self.prefix_len..self.prefix_len + len].copy_from_slice(head);
            self.prefix_len += len;
            *input = rest;
            if self.prefix_len < 4 {
                return Ok(None);
            }
            self.left = u32::from_be_bytes(self.prefix) as usize;
            self.first = Some(self.left);
            if input.is_empty() {
                return Ok(None);
            }
        }
        let (piece, rest) = input.split_at(self.left.min(input.len()));
        *input = rest;
        self.left -= piece.len();
        let last = self.left == 0;
        if last {
            self.prefix_len = 0;
        }
        let item = self.hop.feed(self.first.take(), piece, last)?;
        Ok(item.map(|item| (item, piece)))
    }
}
