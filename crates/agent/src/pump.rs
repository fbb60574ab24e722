//! The two directions of a pipe: source to stream, stream to sink.
//!
//! Each is a small state machine polled by the pipe; progress is kept in it, so a dropped poll
//! loses nothing. Dropping one closes its endpoint half at once.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use farpipe_net::{RecvError, RecvStream, SendError, SendStream};

use crate::endpoint::{Sink, Source};

/// Buffers given to one gathering write.
const GATHER_MAX: usize = 16;
/// Messages moved in one poll before the other tasks of the thread get their turn.
const TURNS_MAX: usize = 8;

/// Bytes moved so far, for progress displays. Reads are snapshots.
#[derive(Debug, Default)]
pub struct Meter {
    /// Taken from the local source.
    pub sent: AtomicU64,
    /// Taken by the local sink.
    pub received: AtomicU64,
}

impl Meter {
    /// Both directions together.
    pub(crate) fn moved(&self) -> u64 {
        self.sent.load(Ordering::Relaxed) + self.received.load(Ordering::Relaxed)
    }
}

/// How the outgoing direction ended.
#[derive(Debug)]
pub(crate) enum Sent {
    /// The source ended; FIN is sent.
    Finished,
    /// The source failed; nothing is said to the peer yet.
    SourceFailed(io::Error),
    /// The peer takes no more.
    Refused(SendError),
}

/// How the incoming direction ended.
#[derive(Debug)]
pub(crate) enum Received {
    /// The sink took everything and is closed; DONE is sent.
    Done,
    /// The sink's reader went away.
    ReaderGone,
    /// The sink failed.
    SinkFailed(io::Error),
    /// The peer gave up.
    Broken(RecvError),
}

/// Source to stream.
#[derive(Debug)]
pub(crate) struct Outbound {
    source: Box<dyn Source>,
    buf: Option<(BytesMut, usize)>,
    meter: Arc<Meter>,
}

impl Outbound {
    pub(crate) fn new(source: Box<dyn Source>, meter: Arc<Meter>) -> Self {
        Self {
            source,
            buf: None,
            meter,
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, send: &mut SendStream) -> Poll<Sent> {
        for _ in 0..TURNS_MAX {
            let grant = match ready!(send.poll_grant(cx)) {
                Ok(grant) => grant,
                Err(error) => return Poll::Ready(Sent::Refused(error)),
            };
            let (buf, max) = match &mut self.buf {
                Some((buf, max)) => (buf, *max),
                None => {
                    if let Err(error) = ready!(self.source.poll_ready(cx)) {
                        return Poll::Ready(Sent::SourceFailed(error));
                    }
                    let buf = ready!(send.poll_buffer(cx, grant));
                    let max = grant.min(buf.capacity() - buf.len());
                    (&mut self.buf.insert((buf, max)).0, max)
                }
            };
            let read = ready!(self.source.poll_read(cx, buf, max));
            let Some((buf, _)) = self.buf.take() else {
                continue;
            };
            match read {
                Ok(0) => {
                    send.put_back(buf);
                    send.finish();
                    return Poll::Ready(Sent::Finished);
                }
                Ok(n) => {
                    self.meter.sent.fetch_add(n as u64, Ordering::Relaxed);
                    send.commit(buf);
                }
                Err(error) => {
                    send.put_back(buf);
                    return Poll::Ready(Sent::SourceFailed(error));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Stream to sink.
#[derive(Debug)]
pub(crate) struct Inbound {
    sink: Box<dyn Sink>,
    chunks: VecDeque<BytesMut>,
    /// The stream has ended; the sink is being closed.
    closing: bool,
    meter: Arc<Meter>,
}

impl Inbound {
    pub(crate) fn new(sink: Box<dyn Sink>, meter: Arc<Meter>) -> Self {
        Self {
            sink,
            chunks: VecDeque::new(),
            closing: false,
            meter,
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, recv: &mut RecvStream) -> Poll<Received> {
        for _ in 0..TURNS_MAX {
            if self.closing {
                return match ready!(self.sink.poll_close(cx)) {
                    Ok(()) => {
                        recv.done();
                        Poll::Ready(Received::Done)
                    }
                    Err(error) => Poll::Ready(failed(error)),
                };
            }
            if !self.chunks.is_empty() {
                match ready!(self.poll_write(cx)) {
                    Ok(n) => {
                        recv.consumed(n);
                        self.meter.received.fetch_add(n as u64, Ordering::Relaxed);
                    }
                    Err(error) => return Poll::Ready(failed(error)),
                }
                continue;
            }
            match recv.poll_chunks(cx, &mut self.chunks) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => self.closing = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Received::Broken(error)),
                Poll::Pending => {
                    let error = ready!(self.sink.poll_reader_gone(cx));
                    return Poll::Ready(failed(error));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); GATHER_MAX];
        let mut used = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk);
            used += 1;
        }
        let written = ready!(self.sink.poll_write(cx, &slices[..used]))?;
        let mut left = written;
        while left > 0 {
            let Some(front) = self.chunks.front_mut() else {
                break;
            };
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

fn failed(error: io::Error) -> Received {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Received::ReaderGone
    } else {
        Received::SinkFailed(error)
    }
}
