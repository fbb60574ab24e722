//! A WebSocket at a pipe: answered at once, then it waits for the other side.
//!
//! WebSocket has no half-close, so a pipe each way takes two pipes: `?duplex` reads NAME and writes
//! NAME.up (docs/decisions/0012-gateway.md). The first one that fails breaks the other.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::{io, io::IoSlice};

use bytes::BytesMut;
use farpipe_net::carrier::ws::raw::{self, RawWebSocket};

use super::ends::{Failed, Sink, Source, recv_all, send_all};
use super::inside::{Inside, accepted, answered, going_away};
use super::request::{Direction, up};

/// The end in order, where there is nothing to say of it.
const NORMAL: u16 = 1000;

/// A WebSocket's two halves, for one task.
#[derive(Debug, Clone)]
struct Socket(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    socket: Mutex<RawWebSocket>,
    /// One direction has failed: what the other would take for an end is none.
    is_broken: AtomicBool,
}

impl Socket {
    fn new(mut socket: RawWebSocket, direction: Direction) -> Self {
        if direction == Direction::Recv {
            socket.discard();
        }
        Self(Arc::new(Shared {
            socket: Mutex::new(socket),
            is_broken: AtomicBool::new(false),
        }))
    }

    /// A panic in a poll ends the request; no other one has this socket.
    fn lock(&self) -> MutexGuard<'_, RawWebSocket> {
        let socket = &self.0.socket;
        socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> io::Result<()> {
        match self.0.is_broken.load(Ordering::Relaxed) {
            true => Err(io::Error::other("the other direction has failed")),
            false => Ok(()),
        }
    }

    /// Ready when nothing more comes from it. Keeps it alive meanwhile. Cancel safe.
    async fn over(&self) {
        poll_fn(|cx| {
            let mut socket = self.lock();
            // What has come waits, within its bound.
            let _ = socket.poll_ready(cx);
            match socket.is_over() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// As [`Socket::over`], with nothing of it left to be handed over: a client may have said all it has,
    /// and its end, before a reader comes. Cancel safe.
    async fn over_and_empty(&self) {
        self.over().await;
        if self.lock().has_unread() {
            std::future::pending().await
        }
    }

    /// Ready when the other direction has failed: it tells in the same task. Cancel safe.
    async fn broken(&self) {
        poll_fn(|_| match self.check() {
            Ok(()) => Poll::Pending,
            Err(_) => Poll::Ready(()),
        })
        .await;
    }

    /// What one direction has come to; if it has failed, the other one hears of it.
    async fn noted<T>(&self, ended: Result<T, Failed>) -> Result<T, Failed> {
        if ended.is_err() {
            self.0.is_broken.store(true, Ordering::Relaxed);
            // It is in the same task, and may have been polled in this turn already.
            tokio::task::yield_now().await;
        }
        ended
    }

    async fn leave(&self, code: u16) {
        poll_fn(|cx| self.lock().poll_leave(cx, code)).await;
    }
}

impl Source for Socket {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        self.lock().poll_read(cx, buf, max)
    }
}

impl Sink for Socket {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        self.lock().poll_write(cx, bufs)
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It sends what it has whenever it is polled, and when it is left.
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        self.lock().poll_gone(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        self.lock().poll_close(cx)
    }
}

/// Joins a WebSocket to its pipes until all is settled. How many bytes went in and out.
///
/// # Errors
/// What failed first.
///
/// # Cancellation
/// Dropping it resets the WebSocket, and is a lost link to the other end.
pub(super) async fn run(
    socket: RawWebSocket,
    inside: &Inside,
    name: &str,
    direction: Direction,
) -> Result<(u64, u64), Failed> {
    let socket = Socket::new(socket, direction);
    let moved = match direction {
        Direction::Send => write(&socket, inside, name).await.map(|sent| (sent, 0)),
        Direction::Recv => read(&socket, inside, name).await.map(|got| (0, got)),
        Direction::Duplex => {
            let up = up(name);
            let writing = async { socket.noted(write(&socket, inside, &up).await).await };
            let reading = async { socket.noted(read(&socket, inside, name).await).await };
            let (sent, got) = tokio::join!(writing, reading);
            sent.and_then(|sent| got.map(|got| (sent, got)))
        }
    };
    let code = match &moved {
        Ok(_) => NORMAL,
        Err(_) => raw::INTERNAL_ERROR,
    };
    socket.leave(code).await;
    moved
}

async fn write(socket: &Socket, inside: &Inside, pipe: &str) -> Result<u64, Failed> {
    let left = async |socket: &mut Socket| socket.over_and_empty().await;
    let mut socket = socket.clone();
    let written = inside.writing(pipe, &mut socket, left, async |socket, send| {
        send_all(socket, send).await
    });
    written.await
}

async fn read(socket: &Socket, inside: &Inside, pipe: &str) -> Result<u64, Failed> {
    let read = inside.reading(pipe, async |mut stream, leave| {
        stream.send.finish();
        tokio::select! {
            biased;
            accepted = accepted(&mut stream.watch) => accepted?,
            () = inside.going.said() => {
                leave.now();
                return Err(going_away());
            }
            () = socket.over() => {
                leave.now();
                let why = "it left before a writer came";
                return Err(Failed::Foreign(why.to_owned()));
            }
            () = socket.broken() => {
                leave.now();
                return Err(Failed::Foreign("the other direction has failed".to_owned()));
            }
        }
        let got = recv_all(&mut socket.clone(), &mut stream.recv, &mut stream.watch).await?;
        answered(&mut stream.watch).await?;
        Ok(got)
    });
    read.await
}
