//! A caller that is joined to a detached command: what it takes of the output, and what it says.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use farpipe_net::CommandControl;

use super::kept::{Input, Kept, State, Which};
use super::ring::Ring;
use crate::endpoint::{Sink, Source};

/// What a caller hears whose place another one has taken.
pub(super) const DISPLACED: &str = "another `farpipe attach` has taken its place";

/// A caller that is joined to a command; the next one takes its place.
#[derive(Debug)]
pub(super) struct Attachment {
    kept: Arc<Kept>,
    number: u64,
}

impl Attachment {
    pub(super) fn begin(kept: Arc<Kept>, control: CommandControl) -> Arc<Self> {
        let mut state = kept.lock();
        state.account();
        state.attached = Some(control);
        let number = *kept.attachment.borrow() + 1;
        kept.attachment.send_replace(number);
        for which in [Which::Stdout, Which::Stderr] {
            // What the one before had, and its caller has not, is this one's.
            state.ring(which).take_back();
        }
        for which in [Which::Stdin, Which::Stdout, Which::Stderr] {
            state.ring(which).wake();
        }
        drop(state);
        Arc::new(Self { kept, number })
    }

    fn lock(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.kept.lock();
        if self.is_displaced() {
            return Err(io::Error::other(DISPLACED));
        }
        Ok(state)
    }

    /// Whether another one has taken its place.
    pub(super) fn is_displaced(&self) -> bool {
        *self.kept.attachment.borrow() != self.number
    }

    /// Waits until another one takes its place, also while nothing can be sent. Cancel safe.
    pub(super) async fn displaced(&self) {
        let mut newest = self.kept.attachment.subscribe();
        // The sender lives as long as this.
        let _ = newest.wait_for(|newest| *newest != self.number).await;
    }

    /// All that was sent is written at the other end.
    pub(super) fn settled(&self) {
        if let Ok(mut state) = self.lock() {
            state.stdout.arrived_all();
            state.stderr.arrived_all();
        }
    }

    /// Waits until the caller's process has acknowledged all that it was sent. Cancel safe.
    pub(super) async fn acknowledged(&self) {
        poll_fn(|cx| {
            let Ok(mut state) = self.lock() else {
                return Poll::Ready(());
            };
            if let Some(control) = &state.attached {
                // First: what is acknowledged between the look and the wait must not be missed.
                control.park_progress(cx);
            }
            state.account();
            match state.stdout.is_lent() || state.stderr.is_lent() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
    }

    pub(super) fn output(self: &Arc<Self>, which: Which) -> Box<dyn Source> {
        Box::new(Output(Arc::clone(self), which))
    }

    pub(super) fn input(self: &Arc<Self>) -> Box<dyn Sink> {
        Box::new(InputQueue(Arc::clone(self)))
    }
}

/// To be let go of when the session has settled what was sent.
impl Drop for Attachment {
    fn drop(&mut self) {
        if let Ok(mut state) = self.lock() {
            state.account();
            state.stdout.take_back();
            state.stderr.take_back();
            state.attached = None;
        }
    }
}

/// stdout or stderr of a detached command.
#[derive(Debug)]
struct Output(Arc<Attachment>, Which);

impl Source for Output {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock()?;
        state.account();
        state.ring(self.1).poll_ready(cx).map(Ok)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let room = max.min(buf.capacity() - buf.len());
        let mut state = self.0.lock()?;
        state.account();
        state.ring(self.1).poll_take(cx, buf, room).map(Ok)
    }
}

/// The queue before a detached command's stdin.
#[derive(Debug)]
struct InputQueue(Arc<Attachment>);

impl InputQueue {
    /// Ready when the command reads no more. Otherwise the task is woken by that.
    fn poll_gone(state: &mut State, cx: &mut Context<'_>) -> Poll<io::Error> {
        let _ = state.stdin.poll_room(cx);
        match state.input {
            Input::Gone => Poll::Ready(io::ErrorKind::BrokenPipe.into()),
            Input::Open | Input::Closed => Poll::Pending,
        }
    }
}

impl Sink for InputQueue {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock()?;
        if let Poll::Ready(error) = Self::poll_gone(&mut state, cx) {
            return Poll::Ready(Err(error));
        }
        if state.stdin.has_ended() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let Some(bytes) = bufs.iter().find(|bytes| !bytes.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let len = ready!(state.stdin.poll_room(cx)).min(bytes.len());
        state.stdin.push(&bytes[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock()?;
        Self::poll_gone(&mut state, cx).map(Err)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock()?;
        if !state.stdin.has_ended() {
            state.stdin.end();
        }
        if state.input == Input::Closed {
            return Poll::Ready(Ok(()));
        }
        Self::poll_gone(&mut state, cx).map(Err)
    }
}

/// Bytes that are all there.
#[derive(Debug)]
pub(super) struct Said(pub(super) Ring);

impl Source for Said {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_ready(cx).map(Ok)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let room = max.min(buf.capacity() - buf.len());
        self.0.poll_take(cx, buf, room).map(Ok)
    }
}
