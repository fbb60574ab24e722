//! A WebSocket as an endpoint: what `ws:` and `ws-listen:` have in common.
//!
//! WebSocket has no half-close. When nothing more is to be sent, the other end is told Close 1000
//! and may still finish what it is saying; then it answers and both directions are over. When it
//! says Close first, that is the end of what is read, and in order the end of the other direction;
//! for what is written after it, a reader that is gone. A half that was not asked for says nothing: what comes for nobody is dropped, and with
//! nothing to send the other end closes.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use farpipe_net::carrier::ws::raw::{self, RawWebSocket};

use super::named::Named;
use super::{Endpoint, Leaving, Parting, Sink, Source, Use};

/// Takes a connected WebSocket; `name` is for errors. Both halves are for one task.
pub(super) fn endpoint(mut socket: RawWebSocket, wanted: Use, name: &str) -> Endpoint {
    if !wanted.wants_source() {
        socket.discard();
    }
    let shared = Shared(Arc::new(Mutex::new(socket)));
    let name: Arc<str> = name.into();
    let mut endpoint = Endpoint {
        talks_on: true,
        parting: Some(Box::new(Goodbye(shared.clone()))),
        ..Endpoint::default()
    };
    if wanted.wants_source() {
        let source = Box::new(MessageSource(shared.clone()));
        endpoint.source = Some(Named::source(source, Arc::clone(&name)));
    }
    if wanted.wants_sink() {
        endpoint.sink = Some(Named::sink(Box::new(MessageSink(shared)), name));
    }
    endpoint
}

#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<RawWebSocket>>);

impl Shared {
    /// A panic in a poll ends the pipe; no other one has this socket.
    fn lock(&self) -> MutexGuard<'_, RawWebSocket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the other end sends.
#[derive(Debug)]
struct MessageSource(Shared);

impl Source for MessageSource {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_ready(cx).map(Ok)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_read(cx, buf, max)
    }
}

impl Drop for MessageSource {
    fn drop(&mut self) {
        self.0.lock().discard();
    }
}

/// What is sent to it.
#[derive(Debug)]
struct MessageSink(Shared);

impl Sink for MessageSink {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, bufs)
    }

    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_gone(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_close(cx)
    }
}

/// Tells it why it is closed before the end.
#[derive(Debug)]
struct Goodbye(Shared);

impl Parting for Goodbye {
    fn poll_part(&mut self, cx: &mut Context<'_>, why: Leaving) -> Poll<()> {
        let code = match why {
            Leaving::GoingAway => raw::GOING_AWAY,
            Leaving::Failed => raw::INTERNAL_ERROR,
        };
        self.0.lock().poll_leave(cx, code)
    }
}
