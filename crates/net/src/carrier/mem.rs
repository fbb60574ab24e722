//! The `mem` carrier: two ends in one process, for simulations and tests of what lies above.
//!
//! There is no framing, no masking and no transport. Bounded like a socket: a direction that holds
//! [`pair`]'s `capacity` bytes takes no more, its sender waits, and a message longer than the room
//! that is left arrives in pieces.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;

use super::framed::{CLOSE_WITHOUT_HANDSHAKE, MESSAGE_MAX, QUEUED_MESSAGE_MAX};
use super::sending::Sending;
use super::{Carrier, CarrierError, Close, Piece};
use crate::pool::Pool;
use crate::segment::Segment;

/// One end of a connection inside of this process.
pub struct MemCarrier {
    sends: Arc<Mutex<Direction>>,
    receives: Arc<Mutex<Direction>>,
    /// Queued and not yet handed over.
    queue: VecDeque<BytesMut>,
    queue_bytes: usize,
    /// The message being sent, and how many of `queue` go before it.
    sending: Option<(usize, Sending)>,
    /// Our closing message is behind everything in `queue`.
    closing: Option<Close>,
    /// Why nothing more will be received.
    ended: Option<(u16, String)>,
}

/// What one end has sent and the other has not taken.
struct Direction {
    pieces: VecDeque<Piece>,
    bytes: usize,
    capacity: usize,
    /// The closing message, behind all others.
    close: Option<Close>,
    /// The sender is gone, or will send nothing more.
    ended: bool,
    /// The receiver is gone.
    abandoned: bool,
    sender: Option<Waker>,
    receiver: Option<Waker>,
}

/// Two connected ends. Each direction takes bytes while it holds less than `capacity`; a queued
/// message goes in whole and may exceed it.
#[must_use]
pub fn pair(capacity: usize) -> (MemCarrier, MemCarrier) {
    let there = Arc::new(Mutex::new(Direction::new(capacity)));
    let back = Arc::new(Mutex::new(Direction::new(capacity)));
    (
        MemCarrier::new(Arc::clone(&there), Arc::clone(&back)),
        MemCarrier::new(back, there),
    )
}

impl MemCarrier {
    fn new(sends: Arc<Mutex<Direction>>, receives: Arc<Mutex<Direction>>) -> Self {
        Self {
            sends,
            receives,
            queue: VecDeque::new(),
            queue_bytes: 0,
            sending: None,
            closing: None,
            ended: None,
        }
    }

    /// Hands over the queued messages that go before the one being sent; all, if none is.
    fn poll_hand_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sends = locked(&self.sends);
        while let Some(message) = self.queue.front()
            && self.sending.as_ref().is_none_or(|(ahead, _)| *ahead > 0)
        {
            ready!(sends.poll_room(cx))?;
            let len = message.len();
            sends.push(Piece {
                bytes: message.clone(),
                first: Some(len),
                last: true,
            });
            self.queue.pop_front();
            self.queue_bytes -= len;
            if let Some((ahead, _)) = &mut self.sending {
                *ahead -= 1;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self, code: u16, reason: &str) -> CarrierError {
        self.ended = Some((code, reason.to_owned()));
        closed(code, reason)
    }
}

impl Carrier for MemCarrier {
    fn queue(&mut self, message: &[u8]) {
        assert!(
            message.len() <= QUEUED_MESSAGE_MAX,
            "only small messages are queued"
        );
        if self.closing.is_none() {
            self.queue.push_back(message.into());
            self.queue_bytes += message.len();
        }
    }

    fn queued(&self) -> usize {
        // An empty message counts too, or nobody would flush it.
        self.queue_bytes + self.queue.len()
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        header: &[u8],
        segment: &mut Segment,
    ) -> Poll<Result<(), CarrierError>> {
        if self.sending.is_none() {
            if let Some((code, reason)) = &self.ended {
                return Poll::Ready(Err(closed(*code, reason)));
            }
            if self.closing.is_some() {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe).into()));
            }
            assert!(
                header.len() + segment.len() <= MESSAGE_MAX,
                "the message is too long"
            );
            if !segment.has_headroom() {
                *segment = segment.copied();
            }
            segment.frame(header, [0; 4]);
            self.sending = Some((self.queue.len(), Sending::new(header.len(), segment)));
        }
        ready!(self.poll_hand_over(cx))?;
        let mut sends = locked(&self.sends);
        while let Some((_, sending)) = &mut self.sending {
            let room = ready!(sends.poll_room(cx))?;
            let rest = sending.rest(segment, "mem")?;
            let bytes = &rest[..rest.len().min(room)];
            let (begins, len) = (sending.written() == 0, sending.written() + rest.len());
            let last = sending.advance(bytes.len());
            sends.push(Piece {
                bytes: bytes.into(),
                first: begins.then_some(len),
                last,
            });
            if last {
                self.sending = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        assert!(
            self.sending.is_none(),
            "a half-sent message needs its segment"
        );
        ready!(self.poll_hand_over(cx))?;
        Poll::Ready(Ok(()))
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        _pool: &mut Pool,
    ) -> Poll<Result<Piece, CarrierError>> {
        if let Some((code, reason)) = &self.ended {
            return Poll::Ready(Err(closed(*code, reason)));
        }
        let mut receives = locked(&self.receives);
        if let Some(piece) = receives.pop() {
            return Poll::Ready(Ok(piece));
        }
        let close = receives.close;
        if close.is_none() && !receives.ended {
            receives.receiver = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(receives);
        Poll::Ready(Err(match close {
            Some(Close { code, reason }) => self.end(code, reason),
            None => self.end(CLOSE_WITHOUT_HANDSHAKE, ""),
        }))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, close: Close) -> Poll<Result<(), CarrierError>> {
        let close = *self.closing.get_or_insert(close);
        // A message that waits for room is cut, as on a socket, and with it the closing message.
        let cut = self.sending.is_some();
        // The neighbour may be gone and still have left us its last words.
        let flushed = cut || self.poll_hand_over(cx).is_ready();
        if flushed {
            locked(&self.sends).finish((!cut).then_some(close));
        }
        let mut pool = Pool::new(0, 0);
        let (code, reason) = loop {
            match ready!(self.poll_recv(cx, &mut pool)) {
                Ok(_late) => {}
                Err(CarrierError::Closed { code, reason }) => break (code, reason),
                Err(error) => return Poll::Ready(Err(error)),
            }
        };
        if !flushed {
            return Poll::Pending;
        }
        if code == CLOSE_WITHOUT_HANDSHAKE {
            return Poll::Ready(Err(closed(code, &reason)));
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for MemCarrier {
    fn drop(&mut self) {
        locked(&self.sends).finish(None);
        locked(&self.receives).abandon();
    }
}

impl fmt::Debug for MemCarrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("mem")
            .field("queued", &self.queue_bytes)
            .field("sending", &self.sending)
            .field("closing", &self.closing)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Direction {
    fn new(capacity: usize) -> Self {
        Self {
            pieces: VecDeque::new(),
            bytes: 0,
            capacity: capacity.max(1),
            close: None,
            ended: false,
            abandoned: false,
            sender: None,
            receiver: None,
        }
    }

    /// How many bytes fit, at least one.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.abandoned {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // A piece costs a byte more than it has, or empty messages would cost nothing.
        let room = self.capacity.saturating_sub(self.bytes + self.pieces.len());
        if room > 0 {
            return Poll::Ready(Ok(room));
        }
        self.sender = Some(cx.waker().clone());
        Poll::Pending
    }

    fn push(&mut self, piece: Piece) {
        self.bytes += piece.bytes.len();
        self.pieces.push_back(piece);
        wake(&mut self.receiver);
    }

    fn pop(&mut self) -> Option<Piece> {
        let piece = self.pieces.pop_front()?;
        self.bytes -= piece.bytes.len();
        wake(&mut self.sender);
        Some(piece)
    }

    fn finish(&mut self, close: Option<Close>) {
        if !self.ended {
            self.ended = true;
            self.close = close;
            wake(&mut self.receiver);
        }
    }

    fn abandon(&mut self) {
        self.abandoned = true;
        self.pieces.clear();
        self.bytes = 0;
        wake(&mut self.sender);
    }
}

fn closed(code: u16, reason: &str) -> CarrierError {
    CarrierError::Closed {
        code,
        reason: reason.to_owned(),
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// No code of ours panics while it holds the lock; and if it did, a test fails anyway.
fn locked(direction: &Mutex<Direction>) -> MutexGuard<'_, Direction> {
    direction.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::carrier_conformance;

    carrier_conformance!(mem, async || {
        let (near, far) = pair(10_000);
        (
            Box::new(near) as Box<dyn Carrier>,
            Box::new(far) as Box<dyn Carrier>,
        )
    });
}
