//! The two directions of a pipe: source to stream, stream to sink.
//!
//! Each is a small state machine polled by the pipe; progress is kept in it, so a dropped poll
//! loses nothing. Dropping one closes its endpoint half at once.

mod blocks;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use farpipe_net::{RecvError, RecvStream, SendError, SendStream};
use farpipe_proto::wire::control::{Abort, AbortCode};

use self::blocks::Blocks;
use crate::blocks::{Decoded, Decoder, Encoder, Malformed};
use crate::endpoint::{Sink, Source};

/// Buffers given to one gathering write.
const GATHER_MAX: usize = 16;
/// Bytes dropped at once.
const DISCARD: usize = 64 * 1024;
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

/// How the outgoing direction ended.
#[derive(Debug)]
pub(crate) enum Sent {
    /// The source ended; FIN is sent.
    Finished,
    /// The source failed; nothing is said to the peer yet.
    SourceFailed(io::Error),
    /// The peer's sink has ended in order, with all that there was to send.
    Ended,
    /// The peer takes no more.
    Refused(SendError),
}

/// How the incoming direction ended.
#[derive(Debug)]
pub(crate) enum Received {
    /// The sink took everything and is closed; DONE is sent.
    Done,
    /// The sink's other end has ended in order, with all that was written.
    Ended,
    /// The sink's reader went away.
    ReaderGone,
    /// The sink failed.
    SinkFailed(io::Error),
    /// The peer gave up.
    Broken(RecvError),
    /// What came is not what was agreed on.
    Malformed(Malformed),
}

/// Source to stream.
#[derive(Debug)]
pub(crate) struct Outbound {
    source: Box<dyn Source>,
    form: Form,
    meter: Arc<Meter>,
}

/// What a stream is made of.
#[derive(Debug)]
enum Form {
    /// The source's bytes; the buffer that they are read into, and how many it may take.
    Plain(Option<(BytesMut, usize)>),
    Blocks(Box<Blocks>),
}

impl Outbound {
    /// With an encoder the stream is made of blocks.
    pub(crate) fn new(
        source: Box<dyn Source>,
        encoder: Option<Encoder>,
        meter: Arc<Meter>,
    ) -> Self {
        let form = match encoder {
            None => Form::Plain(None),
            Some(encoder) => Form::Blocks(Box::new(Blocks::new(encoder))),
        };
        Self {
            source,
            form,
            meter,
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, send: &mut SendStream) -> Poll<Sent> {
        for _ in 0..TURNS_MAX {
            let source = &mut *self.source;
            let turn = match &mut self.form {
                Form::Plain(buf) => poll_plain(buf, cx, source, send, &self.meter),
                Form::Blocks(blocks) => blocks.poll(cx, source, send, &self.meter),
            };
            if let ControlFlow::Break(sent) = ready!(turn) {
                return Poll::Ready(self.conclude(cx, sent));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when the source has ended; what it gives until then is dropped.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = BytesMut::with_capacity(DISCARD);
        for _ in 0..TURNS_MAX {
            scratch.clear();
            match ready!(self.source.poll_ready(cx)) {
                Ok(()) => {}
                Err(_) => return Poll::Ready(()),
            }
            match ready!(self.source.poll_read(cx, &mut scratch, DISCARD)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether all that the source has given is sent, and a whole of its kind.
    pub(crate) fn is_at_rest(&mut self) -> bool {
        let has_unsent = match &self.form {
            Form::Plain(_) => false,
            Form::Blocks(blocks) => blocks.unsent() > 0,
        };
        !has_unsent && self.source.is_at_rest()
    }

    /// Who has something more to say to a sink that has ended in order finds no reader.
    fn conclude(&mut self, cx: &mut Context<'_>, sent: Sent) -> Sent {
        match sent {
            Sent::Refused(SendError::Stopped(abort))
                if AbortCode::from_wire(abort.code) == AbortCode::Ended =>
            {
                match self.poll_more(cx) {
                    Poll::Pending | Poll::Ready(Ok(0)) => Sent::Ended,
                    Poll::Ready(Ok(_)) => {
                        let gone = Abort::new(AbortCode::ReaderGone, "");
                        Sent::Refused(SendError::Stopped(gone))
                    }
                    Poll::Ready(Err(error)) => Sent::SourceFailed(error),
                }
            }
            sent => sent,
        }
    }

    /// Ready with how much there is, at least, that was not sent.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = BytesMut::new();
        let (into, max) = match &mut self.form {
            Form::Plain(Some((buf, max))) => (buf, *max),
            Form::Blocks(blocks) if blocks.unsent() > 0 => return Poll::Ready(Ok(blocks.unsent())),
            Form::Plain(None) | Form::Blocks(_) => {
                ready!(self.source.poll_ready(cx))?;
                scratch.reserve(1);
                (&mut scratch, 1)
            }
        };
        self.source.poll_read(cx, into, max)
    }
}

/// One turn of a pump: whether it goes on.
type Turn = ControlFlow<Sent>;

fn poll_plain(
    buf: &mut Option<(BytesMut, usize)>,
    cx: &mut Context<'_>,
    source: &mut dyn Source,
    send: &mut SendStream,
    meter: &Meter,
) -> Poll<Turn> {
    // Also while there is nothing to send: it tells when the peer wants no more.
    let grant = match ready!(send.poll_grant(cx)) {
        Ok(grant) => grant,
        Err(error) => return Poll::Ready(Turn::Break(Sent::Refused(error))),
    };
    let (into, max) = match buf {
        Some((into, max)) => (into, *max),
        None => {
            if let Err(error) = ready!(source.poll_ready(cx)) {
                return Poll::Ready(Turn::Break(Sent::SourceFailed(error)));
            }
            let fresh = ready!(send.poll_buffer(cx, grant));
            let max = grant.min(fresh.capacity() - fresh.len());
            (&mut buf.insert((fresh, max)).0, max)
        }
    };
    let read = ready!(source.poll_read(cx, into, max));
    let Some((filled, _)) = buf.take() else {
        return Poll::Ready(Turn::Continue(()));
    };
    Poll::Ready(match read {
        Ok(0) => {
            send.put_back(filled);
            send.finish();
            Turn::Break(Sent::Finished)
        }
        Ok(n) => {
            meter.sent.fetch_add(n as u64, Ordering::Relaxed);
            send.commit(filled);
            Turn::Continue(())
        }
        Err(error) => {
            send.put_back(filled);
            Turn::Break(Sent::SourceFailed(error))
        }
    })
}

/// Stream to sink.
#[derive(Debug)]
pub(crate) struct Inbound {
    sink: Box<dyn Sink>,
    /// To be written.
    chunks: VecDeque<BytesMut>,
    /// To be decoded first, if there is a decoder.
    coded: VecDeque<BytesMut>,
    decoder: Option<Decoder>,
    /// The stream has ended; the sink is being closed.
    closing: bool,
    meter: Arc<Meter>,
}

impl Inbound {
    /// With a decoder the stream is made of blocks.
    pub(crate) fn new(sink: Box<dyn Sink>, decoder: Option<Decoder>, meter: Arc<Meter>) -> Self {
        Self {
            sink,
            chunks: VecDeque::new(),
            coded: VecDeque::new(),
            decoder,
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
                        if self.decoder.is_none() {
                            recv.consumed(n);
                        }
                        self.meter.received.fetch_add(n as u64, Ordering::Relaxed);
                    }
                    Err(error) => return Poll::Ready(failed(error)),
                }
                continue;
            }
            if let Some(decoder) = &mut self.decoder {
                match decoder.decode(&mut self.coded) {
                    Ok(Some(Decoded { data, taken })) => {
                        // At most one block waits for the sink beyond what the credit says.
                        recv.consumed(taken);
                        self.chunks.push_back(data);
                        continue;
                    }
                    Ok(None) => {}
                    Err(malformed) => return Poll::Ready(Received::Malformed(malformed)),
                }
            }
            let arrived = match self.decoder {
                Some(_) => &mut self.coded,
                None => &mut self.chunks,
            };
            match recv.poll_chunks(cx, arrived) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => {
                    if let Some(decoder) = &self.decoder
                        && !decoder.is_between_blocks()
                    {
                        return Poll::Ready(Received::Malformed(Malformed::CUT));
                    }
                    self.closing = true;
                }
                Poll::Ready(Err(error)) => {
                    // Behind what came before it.
                    return Poll::Ready(match ready!(self.sink.poll_flush(cx)) {
                        Ok(()) => Received::Broken(error),
                        Err(error) => failed(error),
                    });
                }
                Poll::Pending => {
                    let gone = ready!(self.sink.poll_reader_gone(cx));
                    return Poll::Ready(gone.map_or_else(failed, |()| Received::Ended));
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
