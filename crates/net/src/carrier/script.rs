//! A transport for tests that does what a script says: how much it takes and gives at once, when
//! it makes one wait, what it was asked.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Carrier, CarrierError, Close, Piece};
use crate::pool::Pool;

/// Both directions of a connection whose far end is the test.
#[derive(Debug)]
pub(super) struct Script {
    /// What will be read.
    pub(super) incoming: VecDeque<u8>,
    /// What follows it: the end, an error, or nothing yet.
    pub(super) then: Then,
    /// Most bytes one read gives.
    pub(super) read_max: usize,
    /// Room each read was offered.
    pub(super) reads: Vec<usize>,
    /// What was written.
    pub(super) written: Vec<u8>,
    /// Bytes of each write.
    pub(super) writes: Vec<usize>,
    /// Most bytes one write takes.
    pub(super) write_max: usize,
    /// Bytes that will still be taken.
    pub(super) room: usize,
    /// Whether every call is first answered with "not yet".
    pub(super) stutters: bool,
    /// Whether written bytes stick in the transport when it is flushed.
    pub(super) sticks: bool,
    /// Whether writing was shut down.
    pub(super) shut: bool,
    waited: bool,
}

/// How a direction goes on when the script has no more bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Wait,
    End,
    Fail(io::ErrorKind),
}

impl Script {
    /// Gives `incoming` in reads as large as they ask for, then nothing; takes everything.
    pub(super) fn new(incoming: impl Into<Vec<u8>>) -> Self {
        Self {
            incoming: incoming.into().into(),
            then: Then::Wait,
            read_max: usize::MAX,
            reads: Vec::new(),
            written: Vec::new(),
            writes: Vec::new(),
            write_max: usize::MAX,
            room: usize::MAX,
            stutters: false,
            sticks: false,
            shut: false,
            waited: false,
        }
    }

    /// Then ends.
    pub(super) fn ending(incoming: impl Into<Vec<u8>>) -> Self {
        Self {
            then: Then::End,
            ..Self::new(incoming)
        }
    }

    /// One byte at a time, each way, with a wait before each.
    pub(super) fn dribbling(self) -> Self {
        Self {
            read_max: 1,
            write_max: 1,
            stutters: true,
            ..self
        }
    }

    /// Whether to say "not yet" this time.
    fn stutter(&mut self, cx: &Context<'_>) -> bool {
        self.waited = self.stutters && !self.waited;
        if self.waited {
            cx.waker().wake_by_ref();
        }
        self.waited
    }
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stutter(cx) {
            return Poll::Pending;
        }
        self.reads.push(buf.remaining());
        if self.incoming.is_empty() {
            return match self.then {
                Then::Wait => Poll::Pending,
                Then::End => Poll::Ready(Ok(())),
                Then::Fail(kind) => Poll::Ready(Err(kind.into())),
            };
        }
        let len = self.incoming.len().min(self.read_max).min(buf.remaining());
        let bytes: Vec<u8> = self.incoming.drain(..len).collect();
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        assert!(!self.shut, "nothing is written after the shutdown");
        if self.stutter(cx) || self.room == 0 {
            return Poll::Pending;
        }
        let mut bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        bytes.truncate(self.write_max.min(self.room));
        if self.room != usize::MAX {
            self.room -= bytes.len();
        }
        self.writes.push(bytes.len());
        self.written.extend_from_slice(&bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.sticks {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        Poll::Ready(Ok(()))
    }
}

/// Runs a future as long as it is woken; `None`: it waits for something the test must do.
pub(super) fn settle<T>(future: impl Future<Output = T>) -> Option<T> {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future);
    while woken.0.swap(false, Ordering::Relaxed) {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(value);
        }
    }
    None
}

/// A pool as the driver has one.
pub(super) fn pool() -> Pool {
    Pool::new(512 << 10, 4)
}

/// The next piece; `None`: none has come.
pub(super) fn recv(
    carrier: &mut impl Carrier,
    pool: &mut Pool,
) -> Option<Result<Piece, CarrierError>> {
    settle(poll_fn(|cx| carrier.poll_recv(cx, pool)))
}

/// Writes what is queued; `None`: it does not fit.
pub(super) fn flush(carrier: &mut impl Carrier) -> Option<Result<(), CarrierError>> {
    settle(poll_fn(|cx| carrier.poll_flush(cx)))
}

/// Closes; `None`: the far end has not.
pub(super) fn close(carrier: &mut impl Carrier, close: Close) -> Option<Result<(), CarrierError>> {
    settle(poll_fn(|cx| carrier.poll_close(cx, close)))
}

/// All messages that have come, put together, and how it ended if it did.
pub(super) fn recv_all(
    carrier: &mut impl Carrier,
    pool: &mut Pool,
) -> (Vec<Vec<u8>>, Option<CarrierError>) {
    let mut messages = Vec::new();
    let mut partial = Vec::new();
    loop {
        match recv(carrier, pool) {
            None => return (messages, None),
            Some(Err(error)) => return (messages, Some(error)),
            Some(Ok(piece)) => {
                assert_eq!(
                    piece.first.is_some(),
                    partial.is_empty() || piece.bytes.is_empty()
                );
                partial.extend_from_slice(&piece.bytes);
                if piece.last {
                    messages.push(std::mem::take(&mut partial));
                }
            }
        }
    }
}
