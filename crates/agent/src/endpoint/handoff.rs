//! One chunk of bytes on its way between a thread and a task.
//!
//! Bounded: one chunk waits here, the thread holds at most one more. Full-queue policy: the giver
//! waits. Used buffers go back the same way, so that a stream needs two allocations in all.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Shared by exactly one thread and one task. The task's calls never block beyond a few
/// instructions of the other side.
#[derive(Debug, Default)]
pub(super) struct Handoff {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    chunk: Option<Vec<u8>>,
    spare: Option<Vec<u8>>,
    /// The task gives no more chunks; the waiting one is still to be taken.
    is_finished: bool,
    /// The task has lost interest: the thread ends as soon as it can.
    is_abandoned: bool,
    /// How the thread ended.
    outcome: Option<io::Result<()>>,
    /// The thread is not done with what it was given.
    is_busy: bool,
    /// The task, when it waits.
    waker: Option<Waker>,
    /// The task, when it waits until the thread is not busy.
    flush_waker: Option<Waker>,
}

/// The task's calls.
impl Handoff {
    /// The next chunk, or how the thread ended.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Result<Vec<u8>, io::Result<()>>> {
        let mut state = self.lock();
        if let Some(chunk) = state.chunk.take() {
            drop(state);
            self.changed.notify_one();
            return Poll::Ready(Ok(chunk));
        }
        state.poll_outcome(cx).map(Err)
    }

    /// Ready with a used buffer (or none, at first) when a chunk can be given, or with how the
    /// thread ended.
    pub(super) fn poll_room(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Vec<u8>>, io::Result<()>>> {
        let mut state = self.lock();
        if state.outcome.is_none() && state.chunk.is_none() {
            return Poll::Ready(Ok(state.spare.take()));
        }
        state.poll_outcome(cx).map(Err)
    }

    /// Gives a chunk after [`Handoff::poll_room`] was ready.
    pub(super) fn give(&self, chunk: Vec<u8>) {
        let mut state = self.lock();
        state.chunk = Some(chunk);
        state.is_busy = true;
        drop(state);
        self.changed.notify_one();
    }

    /// Ready when the thread is done with every chunk, or has ended.
    pub(super) fn poll_flushed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if !state.is_busy || state.outcome.is_some() {
            return Poll::Ready(());
        }
        state.flush_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// No more chunks will be given.
    pub(super) fn finish(&self) {
        self.lock().is_finished = true;
        self.changed.notify_one();
    }

    /// Ready when the thread has ended.
    pub(super) fn poll_outcome(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_outcome(cx)
    }

    /// The task has no more interest.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.is_abandoned = true;
        state.waker = None;
        state.chunk = None;
        drop(state);
        self.changed.notify_one();
    }
}

/// The thread's calls.
impl Handoff {
    /// Gives a chunk once there is room; `false` if nobody wants it.
    pub(super) fn give_blocking(&self, chunk: Vec<u8>) -> bool {
        let waits = |state: &mut State| state.chunk.is_some() && !state.is_abandoned;
        let mut state = self.wait_while(waits);
        if state.is_abandoned {
            return false;
        }
        state.chunk = Some(chunk);
        state.wake_task();
        true
    }

    /// Waits for a chunk; `None` when there will be no more.
    pub(super) fn take_blocking(&self) -> Option<Vec<u8>> {
        let waits =
            |state: &mut State| state.chunk.is_none() && !state.is_finished && !state.is_abandoned;
        let mut state = self.wait_while(waits);
        let chunk = state.chunk.take();
        state.wake_task();
        chunk
    }

    /// Is done with a chunk that was taken, which is the next used buffer.
    pub(super) fn put_done(&self, mut chunk: Vec<u8>) {
        chunk.clear();
        let mut state = self.lock();
        state.spare = Some(chunk);
        // One more may be waiting already.
        state.is_busy = state.chunk.is_some();
        if !state.is_busy {
            state.wake_flusher();
        }
    }

    /// The thread ends.
    pub(super) fn end(&self, outcome: io::Result<()>) {
        let mut state = self.lock();
        state.outcome = Some(outcome);
        state.wake_task();
        state.wake_flusher();
    }

    fn wait_while(&self, waits: impl FnMut(&mut State) -> bool) -> MutexGuard<'_, State> {
        self.changed
            .wait_while(self.lock(), waits)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls of both.
impl Handoff {
    /// A used buffer, empty, if there is one.
    pub(super) fn take_spare(&self) -> Option<Vec<u8>> {
        self.lock().spare.take()
    }

    /// Keeps a used buffer for the other side.
    pub(super) fn put_spare(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.lock().spare = Some(buffer);
    }

    /// No step leaves the state half changed, so a panic elsewhere spoils nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Ready once: the outcome is taken.
    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(outcome) = self.outcome.take() {
            return Poll::Ready(outcome);
        }
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn wake_flusher(&mut self) {
        if let Some(waker) = self.flush_waker.take() {
            waker.wake();
        }
    }

    fn wake_task(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
