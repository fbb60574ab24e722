//! The foreign end of a pipe, and the two ways its bytes go: into a stream and out of one.
//!
//! Each is polled by the task of its request; progress is kept in it. A foreign end cannot resume: if
//! it breaks, the stream is reset or stopped, which is a failure at the other end.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use farpipe_net::{Fate, RecvError, RecvStream, SendError, SendStream, StreamWatch};
use farpipe_proto::wire::control::{Abort, AbortCode};

/// Buffers given to one gathering write.
const GATHER_MAX: usize = 16;
/// Messages moved in one poll before the other tasks of the thread get their turn.
const TURNS_MAX: usize = 8;

/// What a foreign end says.
pub(super) trait Source {
    /// Appends between 1 and `max` bytes to `buf`; `Ok(0)` is the end, said in order.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>>;
}

/// What a foreign end is told.
pub(super) trait Sink {
    /// Takes some of `bufs`. `BrokenPipe`: it has ended in order, and wants no more.
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>])
    -> Poll<io::Result<usize>>;

    /// Sends what was taken and waits.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when it is gone: with `Ok` if it has ended in order, with all that was written.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Says the end, and is ready when the other side has said that it has come.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// Why a pipe with a foreign end failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failed {
    /// The foreign end broke.
    #[error("{0}")]
    Foreign(String),
    /// The other end left, was refused, or its link was lost.
    #[error("{0}")]
    Far(String),
    /// Another process has the pipe.
    #[error("{0}")]
    Taken(String),
    /// The reader wanted no more.
    #[error("the reader left: {0} bytes handed over")]
    ReaderGone(u64),
}

impl Failed {
    /// The foreign end broke when so many bytes were handed over.
    fn foreign(handed: u64, error: &io::Error) -> Self {
        Self::Foreign(format!(
            "peer cannot resume, {handed} bytes handed over: {error}"
        ))
    }
}

impl From<SendError> for Failed {
    fn from(error: SendError) -> Self {
        Self::Far(error.to_string())
    }
}

impl From<RecvError> for Failed {
    fn from(error: RecvError) -> Self {
        Self::Far(error.to_string())
    }
}

/// A foreign end's bytes into a stream, up to its end and FIN. The stream is reset if it breaks.
///
/// # Cancellation
/// Dropping it loses nothing that was not read; drop the stream to give it up.
pub(super) async fn send_all(
    source: &mut impl Source,
    send: &mut SendStream,
) -> Result<u64, Failed> {
    let (mut handed, mut held) = (0, None);
    let ended = poll_fn(|cx| poll_send(cx, source, send, &mut held, &mut handed)).await;
    match ended {
        Ok(()) => {
            send.finish();
            Ok(handed)
        }
        Err(Ended::Source(error)) => {
            let failed = Failed::foreign(handed, &error);
            send.reset(Abort::new(AbortCode::Failed, failed.to_string()));
            Err(failed)
        }
        Err(Ended::Stream(SendError::Stopped(abort))) => {
            Err(match AbortCode::from_wire(abort.code) {
                AbortCode::ReaderGone | AbortCode::Ended => Failed::ReaderGone(handed),
                _ => SendError::Stopped(abort).into(),
            })
        }
        Err(Ended::Stream(error)) => Err(error.into()),
    }
}

enum Ended {
    Source(io::Error),
    Stream(SendError),
}

fn poll_send(
    cx: &mut Context<'_>,
    source: &mut impl Source,
    send: &mut SendStream,
    held: &mut Option<(BytesMut, usize)>,
    handed: &mut u64,
) -> Poll<Result<(), Ended>> {
    for _ in 0..TURNS_MAX {
        let grant = ready!(send.poll_grant(cx)).map_err(Ended::Stream)?;
        let (buf, max) = match held {
            Some((buf, max)) => (buf, *max),
            None => {
                let fresh = ready!(send.poll_buffer(cx, grant));
                let max = grant.min(fresh.capacity() - fresh.len());
                (&mut held.insert((fresh, max)).0, max)
            }
        };
        let read = ready!(source.poll_read(cx, buf, max));
        let Some((filled, _)) = held.take() else {
            continue;
        };
        match read {
            Ok(0) => {
                send.put_back(filled);
                return Poll::Ready(Ok(()));
            }
            Ok(len) => {
                *handed += len as u64;
                send.commit(filled);
            }
            Err(error) => {
                send.put_back(filled);
                return Poll::Ready(Err(Ended::Source(error)));
            }
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// A stream's bytes to a foreign end, up to FIN, the end and DONE. The stream is stopped if it breaks.
/// Where a command is at its other end, the end waits for how that has ended: what a failed one has said
/// is not all.
///
/// # Cancellation
/// Dropping it loses what it has not written; drop the stream to give it up.
pub(super) async fn recv_all(
    sink: &mut impl Sink,
    recv: &mut RecvStream,
    watch: &mut StreamWatch,
) -> Result<u64, Failed> {
    let mut passing = Passing::default();
    let ended = poll_fn(|cx| passing.poll(cx, sink, recv, watch)).await;
    let handed = passing.handed;
    match ended {
        Ok(()) => {
            recv.done();
            Ok(handed)
        }
        Err(Stopped::Stream(error)) => Err(error.into()),
        Err(Stopped::Writer(why)) => {
            recv.stop(Abort::new(AbortCode::Failed, ""));
            Err(Failed::Far(why))
        }
        Err(Stopped::Ended) => {
            recv.stop(Abort::new(AbortCode::Ended, ""));
            Ok(handed)
        }
        Err(Stopped::Sink(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            recv.stop(Abort::new(AbortCode::ReaderGone, ""));
            Err(Failed::ReaderGone(handed))
        }
        Err(Stopped::Sink(error)) => {
            let failed = Failed::foreign(handed, &error);
            recv.stop(Abort::new(AbortCode::Failed, failed.to_string()));
            Err(failed)
        }
    }
}

enum Stopped {
    Sink(io::Error),
    /// The sink ended in order, with all that there was.
    Ended,
    Stream(RecvError),
    /// The command that wrote has failed.
    Writer(String),
}

/// Whether what came is all, once the stream has said its end.
fn poll_verdict(cx: &mut Context<'_>, watch: &mut StreamWatch) -> Poll<Result<(), String>> {
    let has_command = |fate: &Fate| fate.accept.is_some_and(|accept| accept.has_command);
    let is_told = |fate: &Fate| fate.exited.is_some() || fate.end.is_some();
    let fate = ready!(watch.poll_until(cx, |fate| !has_command(fate) || is_told(fate)));
    let Some(exit) = fate.exited else {
        return Poll::Ready(match fate.end {
            Some(end) if has_command(&fate) => Err(end.to_string()),
            Some(_) | None => Ok(()),
        });
    };
    Poll::Ready(match (exit.code, exit.dropped) {
        (Some(0), 0) => Ok(()),
        (Some(0), dropped) => Err(format!("{dropped} bytes were dropped on the way")),
        (Some(code), _) => Err(format!("the command that wrote ended with status {code}")),
        (None, _) => Err("the command that wrote was ended by a signal".to_owned()),
    })
}

#[derive(Default)]
struct Passing {
    chunks: VecDeque<BytesMut>,
    handed: u64,
    /// The stream has ended.
    is_over: bool,
    /// The sink is being closed.
    is_closing: bool,
}

impl Passing {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut impl Sink,
        recv: &mut RecvStream,
        watch: &mut StreamWatch,
    ) -> Poll<Result<(), Stopped>> {
        for _ in 0..TURNS_MAX {
            if self.is_closing {
                return sink.poll_close(cx).map_err(Stopped::Sink);
            }
            if self.is_over {
                // What is there arrives meanwhile.
                if let Poll::Ready(Err(error)) = sink.poll_flush(cx) {
                    return Poll::Ready(Err(Stopped::Sink(error)));
                }
                if let Err(why) = ready!(poll_verdict(cx, watch)) {
                    return Poll::Ready(Err(Stopped::Writer(why)));
                }
                self.is_closing = true;
                continue;
            }
            if !self.chunks.is_empty() {
                let len = ready!(self.poll_write(cx, sink)).map_err(Stopped::Sink)?;
                recv.consumed(len);
                self.handed += len as u64;
                continue;
            }
            match recv.poll_chunks(cx, &mut self.chunks) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => self.is_over = true,
                Poll::Ready(Err(error)) => {
                    // Behind what came before it.
                    ready!(sink.poll_flush(cx)).map_err(Stopped::Sink)?;
                    return Poll::Ready(Err(Stopped::Stream(error)));
                }
                Poll::Pending => {
                    if let Poll::Ready(Err(error)) = sink.poll_flush(cx) {
                        return Poll::Ready(Err(Stopped::Sink(error)));
                    }
                    let gone = ready!(sink.poll_gone(cx));
                    let stopped = gone.map_or_else(Stopped::Sink, |()| Stopped::Ended);
                    return Poll::Ready(Err(stopped));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut impl Sink,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); GATHER_MAX];
        let mut used = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk);
            used += 1;
        }
        let written = ready!(sink.poll_write(cx, &slices[..used]))?;
        let mut left = written;
        while left > 0
            && let Some(front) = self.chunks.front_mut()
        {
            let part = left.min(front.len());
            front.advance(part);
            left -= part;
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
        Poll::Ready(Ok(written))
    }
}
