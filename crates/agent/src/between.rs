//! A pipe from one host to another, through this process: a stream of one session is the local end of a
//! stream of another one. Bytes are copied once on the way.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use farpipe_net::{Dial, Fate, Opener, RecvStream, SendError, SendStream, Stream, StreamWatch};
use farpipe_proto::wire::control::{Abort, AbortCode, Open};
use tokio::sync::mpsc;

use crate::client::{self, unless_given_up};
use crate::command::ask::{self, Here};
use crate::endpoint::{Endpoint, Sink, Source};
use crate::outcome::{Outcome, PipeError, STATUS_FAILURE, from_wire};
use crate::pipe::Cancel;
use crate::pump::Meter;

/// One of the two hosts, and what is wanted of it.
pub struct Far<'a> {
    /// The command or endpoint.
    pub open: Open,
    /// The session.
    pub opener: Opener,
    /// The way.
    pub dial: &'a dyn Dial,
    /// Where a command's stderr goes.
    pub stderr: Option<Box<dyn Sink>>,
}

impl std::fmt::Debug for Far<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Far")
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

/// Joins what is at two hosts, until everything is settled at all ends. The left one counts as this
/// side's.
///
/// # Cancellation
/// As for [`client::run`].
pub async fn run(left: Far<'_>, right: Far<'_>, meter: Arc<Meter>, cancel: Cancel) -> Outcome {
    let handle = left.opener.handle();
    let Some(stream) = handle.open_with(left.open) else {
        return PipeError::Local("no stream can be opened".to_owned()).into();
    };
    // The only one: with its end all is settled.
    handle.finish_opening();
    let aside = ask::aside(&handle, stream.id().0, left.stderr, cancel.clone());
    let (endpoint, watch) = endpoint(stream);
    let linked = unless_given_up(left.opener.run(left.dial), &handle, cancel.clone());
    let joined = joined(endpoint, right, meter, cancel.clone());
    let (aside, mut outcome, ended) = tokio::join!(aside, joined, linked);
    let fate = lock(&watch).fate();
    if let Some(refuse) = fate.refused {
        // What the right end heard of it says less.
        outcome.error = Some(PipeError::Refused {
            status: u8::try_from(refuse.status).unwrap_or(STATUS_FAILURE),
            message: refuse.message,
        });
    }
    outcome.local_exit = fate.exited.map(from_wire);
    if let Some(error) = aside.and_then(|outcome| outcome.error) {
        outcome.fail(error);
    }
    if let Err(end) = ended {
        outcome.fail(end.into());
    }
    outcome
}

async fn joined(endpoint: Endpoint, right: Far<'_>, meter: Arc<Meter>, cancel: Cancel) -> Outcome {
    let Far {
        open,
        opener,
        dial,
        stderr,
    } = right;
    if open.command.is_none() {
        return client::joined(endpoint, open, None, opener, dial, meter, cancel).await;
    }
    let here = Here {
        main: endpoint,
        stderr,
    };
    // No signals are passed on: there are two whom they could be for.
    let (_asks, asked) = mpsc::channel(1);
    ask::run(open, here, opener, dial, meter, asked, cancel).await
}

/// What both halves look at for the fate of the whole.
type Watch = Arc<Mutex<StreamWatch>>;

fn lock(watch: &Watch) -> MutexGuard<'_, StreamWatch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream as the endpoint of another one.
fn endpoint(stream: Stream) -> (Endpoint, Watch) {
    let Stream { send, recv, watch } = stream;
    let watch = Arc::new(Mutex::new(watch));
    let endpoint = Endpoint {
        source: Some(Box::new(FarSource {
            recv,
            chunks: VecDeque::new(),
            is_over: false,
        })),
        sink: Some(Box::new(FarSink {
            send,
            watch: Arc::clone(&watch),
            is_finished: false,
        })),
        talks_on: true,
        ..Endpoint::default()
    };
    (endpoint, watch)
}

#[derive(Debug)]
struct FarSource {
    recv: RecvStream,
    chunks: VecDeque<BytesMut>,
    is_over: bool,
}

impl Source for FarSource {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.chunks.is_empty() || self.is_over {
            return Poll::Ready(Ok(()));
        }
        match ready!(self.recv.poll_chunks(cx, &mut self.chunks)) {
            Ok(goes_on) => self.is_over = !goes_on,
            Err(error) => return Poll::Ready(Err(io::Error::other(error))),
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_ready(cx))?;
        let max = max.min(buf.capacity() - buf.len());
        let mut taken = 0;
        while taken < max
            && let Some(chunk) = self.chunks.front_mut()
        {
            let len = chunk.len().min(max - taken);
            buf.extend_from_slice(&chunk[..len]);
            chunk.advance(len);
            taken += len;
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
        if taken > 0 {
            self.recv.consumed(taken);
        } else if self.is_over {
            self.recv.done();
        }
        Poll::Ready(Ok(taken))
    }
}

/// Whoever writes there is told what a reader's end is: SIGPIPE, and no hangup.
impl Drop for FarSource {
    fn drop(&mut self) {
        if !self.is_over || !self.chunks.is_empty() {
            self.recv.stop(Abort::new(AbortCode::ReaderGone, ""));
        }
    }
}

#[derive(Debug)]
struct FarSink {
    send: SendStream,
    watch: Watch,
    is_finished: bool,
}

/// What ends a sink before its close.
fn is_lost(fate: &Fate) -> bool {
    fate.stopped.is_some() || fate.refused.is_some() || fate.end.is_some()
}

/// Why it does.
fn lost(fate: &Fate) -> io::Error {
    if let Some(end) = &fate.end {
        return io::Error::other(end.clone());
    }
    if let Some(refuse) = &fate.refused {
        return io::Error::other(SendError::Refused(refuse.clone()));
    }
    match &fate.stopped {
        Some(abort) if AbortCode::from_wire(abort.code) == AbortCode::ReaderGone => {
            io::ErrorKind::BrokenPipe.into()
        }
        Some(abort) => io::Error::other(SendError::Stopped(abort.clone())),
        None => io::ErrorKind::BrokenPipe.into(),
    }
}

impl FarSink {
    fn watch(&self, cx: &mut Context<'_>, enough: impl FnOnce(&Fate) -> bool) -> Poll<Fate> {
        lock(&self.watch).poll_until(cx, enough)
    }
}

impl Sink for FarSink {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let grant = match ready!(self.send.poll_grant(cx)) {
            Ok(grant) => grant,
            Err(_) => {
                let fate = lock(&self.watch).fate();
                return Poll::Ready(Err(lost(&fate)));
            }
        };
        let mut buf = ready!(self.send.poll_buffer(cx, grant));
        let max = grant.min(buf.capacity() - buf.len());
        let mut taken = 0;
        for from in bufs {
            let len = from.len().min(max - taken);
            buf.extend_from_slice(&from[..len]);
            taken += len;
        }
        self.send.commit(buf);
        Poll::Ready(Ok(taken))
    }

    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let fate = ready!(self.watch(cx, is_lost));
        if let Some(abort) = &fate.stopped
            && AbortCode::from_wire(abort.code) == AbortCode::Ended
            && !fate.missed
        {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(lost(&fate)))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_finished {
            self.send.finish();
            self.is_finished = true;
        }
        let fate = ready!(self.watch(cx, |fate| fate.done || is_lost(fate)));
        match fate.done {
            true => Poll::Ready(Ok(())),
            false => Poll::Ready(Err(lost(&fate))),
        }
    }
}

/// Ready when what a stream is joined to is known, or the stream is over.
pub(crate) async fn decided(watch: &mut StreamWatch) -> Fate {
    poll_fn(|cx| watch.poll_until(cx, |fate| fate.accepted || is_lost(fate))).await
}
