//! A pipe between two endpoints of this process, without a session.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};

use crate::endpoint::{Endpoint, Sink, Source};
use crate::outcome::{Outcome, PipeError, describe};
use crate::pipe::{Cancel, cancelled, end_child, leaving, part};
use crate::pump::Meter;

/// Bytes read at once: large enough that system calls do not matter, small enough for the cache.
const BUFFER: usize = 256 * 1024;
/// Turns in one poll before the other direction gets its own.
const TURNS_MAX: usize = 8;

/// Joins `left` and `right` until both directions are over and the commands have ended. A half
/// that one of them lacks leaves its partner unused: the direction is over at once. A pipe from a
/// file to its own end, which would never be over, is an error.
///
/// # Cancellation
/// As for [`crate::pipe::run`].
pub async fn run(left: Endpoint, right: Endpoint, meter: Arc<Meter>, cancel: Cancel) -> Outcome {
    let mut outcome = Outcome::default();
    for (from, to) in [(&left, &right), (&right, &left)] {
        if from.source_file.is_some() && from.source_file == to.sink_file {
            let why = "the file that is read is the one that is written: that would never end";
            return PipeError::Local(why.to_owned()).into();
        }
    }
    let (left_child, right_child) = (left.child, right.child);
    let (left_parting, right_parting) = (left.parting, right.parting);
    // A terminal does not hold the pipe open once its partner has ended; only where it answers.
    let ends_with_answer = left.source_is_terminal && right.source.is_some() && left.sink.is_some();
    let mut there = Direction::new(left.source, right.sink);
    let mut back = Direction::new(right.source, left.sink);
    let ended = tokio::select! {
        () = poll_fn(|cx| {
            there.poll(cx, &meter.sent, &mut outcome);
            back.poll(cx, &meter.received, &mut outcome);
            if back.is_over() && ends_with_answer {
                there.end();
            }
            if outcome.error.is_some() || (there.is_over() && back.is_over()) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }) => true,
        () = cancelled(cancel.clone()) => false,
    };
    if !ended {
        outcome.fail(PipeError::Cancelled);
    }
    there.end();
    back.end();
    let why = leaving(&outcome);
    let commands = async {
        if let Some(child) = left_child {
            outcome.local_exit = end_child(child, &mut outcome, cancel.clone()).await;
        }
        if let Some(child) = right_child {
            outcome.remote_exit = end_child(child, &mut outcome, cancel).await;
        }
    };
    tokio::join!(part(left_parting, why), part(right_parting, why), commands);
    // The right end plays the far one: a command there that stops reading early is excused.
    outcome.far_reader_gone = there.reader_gone;
    outcome.reader_gone = back.reader_gone;
    outcome.count(&meter);
    outcome
}

/// One direction: a source, a sink, and the bytes between them.
struct Direction {
    source: Option<Box<dyn Source>>,
    sink: Option<Box<dyn Sink>>,
    /// Read, not yet written.
    filled: VecDeque<BytesMut>,
    /// The buffer to read into.
    spare: BytesMut,
    reader_gone: bool,
    /// The source has failed: told when the sink has what came before.
    failed: Option<io::Error>,
}

impl Direction {
    fn new(source: Option<Box<dyn Source>>, sink: Option<Box<dyn Sink>>) -> Self {
        let whole = source.is_some() && sink.is_some();
        Self {
            source: source.filter(|_| whole),
            sink: sink.filter(|_| whole),
            filled: VecDeque::new(),
            spare: BytesMut::new(),
            reader_gone: false,
            failed: None,
        }
    }

    fn is_over(&self) -> bool {
        self.sink.is_none()
    }

    /// Closes both ends at once.
    fn end(&mut self) {
        self.source = None;
        self.sink = None;
    }

    fn poll(&mut self, cx: &mut Context<'_>, count: &AtomicU64, outcome: &mut Outcome) {
        match self.poll_move(cx, count) {
            Poll::Pending => return,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.reader_gone = true;
            }
            Poll::Ready(Err(error)) => outcome.fail(PipeError::Local(describe(&error))),
        }
        self.end();
    }

    /// Ready when the direction is over.
    fn poll_move(&mut self, cx: &mut Context<'_>, count: &AtomicU64) -> Poll<io::Result<()>> {
        for _ in 0..TURNS_MAX {
            let Some(sink) = &mut self.sink else {
                return Poll::Ready(Ok(()));
            };
            if let Some(front) = self.filled.front_mut() {
                let slice = IoSlice::new(front);
                let written = ready!(sink.poll_write(cx, &[slice]))?;
                count.fetch_add(written as u64, Ordering::Relaxed);
                front.advance(written);
                if front.is_empty()
                    && let Some(empty) = self.filled.pop_front()
                {
                    self.spare = empty;
                }
                continue;
            }
            if self.failed.is_some() {
                ready!(sink.poll_flush(cx))?;
                return Poll::Ready(self.failed.take().map_or(Ok(()), Err));
            }
            let Some(source) = &mut self.source else {
                return sink.poll_close(cx);
            };
            let read = match source.poll_ready(cx) {
                // Reported as a write would: the reader's end ends the direction.
                Poll::Pending => return sink.poll_reader_gone(cx),
                Poll::Ready(Err(error)) => Err(error),
                Poll::Ready(Ok(())) => {
                    if !self.spare.try_reclaim(BUFFER) {
                        self.spare = BytesMut::with_capacity(BUFFER);
                    }
                    ready!(source.poll_read(cx, &mut self.spare, BUFFER))
                }
            };
            match read {
                Ok(0) => self.source = None,
                Ok(_) => self.filled.push_back(self.spare.split()),
                Err(error) => self.failed = Some(error),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
