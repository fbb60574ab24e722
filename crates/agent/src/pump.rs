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

use crate::blocks::{BLOCK_MAX, Decoded, Decoder, Encoder, Flow, HEADER_LEN, Malformed};
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
    /// What came is not what was agreed on.
    Malformed(Malformed),
}

/// Source to stream.
#[derive(Debug)]
pub(crate) struct Outbound {
    source: Box<dyn Source>,
    buf: Option<(BytesMut, usize)>,
    blocks: Option<Blocks>,
    meter: Arc<Meter>,
}

/// A stream that is made of blocks.
#[derive(Debug)]
struct Blocks {
    encoder: Encoder,
    /// Empty but for the moment between reading and encoding.
    read: BytesMut,
    /// Encoded, not yet sent.
    coded: BytesMut,
    ended: bool,
    flow: Flow,
}

impl Blocks {
    fn encode(&mut self, (sent, acked): (u64, u64)) {
        let mut flow = std::mem::take(&mut self.flow);
        (flow.sent, flow.acked) = (sent, acked);
        if !self.coded.try_reclaim(BLOCK_MAX + HEADER_LEN) {
            self.coded = BytesMut::with_capacity(BLOCK_MAX + HEADER_LEN);
        }
        self.encoder.encode(&self.read, flow, &mut self.coded);
        self.read.clear();
    }
}

impl Outbound {
    pub(crate) fn new(
        source: Box<dyn Source>,
        encoder: Option<Encoder>,
        meter: Arc<Meter>,
    ) -> Self {
        Self {
            source,
            buf: None,
            blocks: encoder.map(|encoder| Blocks {
                encoder,
                read: BytesMut::new(),
                coded: BytesMut::new(),
                ended: false,
                flow: Flow::default(),
            }),
            meter,
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, send: &mut SendStream) -> Poll<Sent> {
        if self.blocks.is_some() {
            return self.poll_blocks(cx, send);
        }
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

impl Outbound {
    fn poll_blocks(&mut self, cx: &mut Context<'_>, send: &mut SendStream) -> Poll<Sent> {
        let Some(blocks) = &mut self.blocks else {
            return Poll::Pending;
        };
        for _ in 0..TURNS_MAX {
            // Also while there is nothing to send: it tells when the peer wants no more.
            let Poll::Ready(grant) = send.poll_grant(cx) else {
                blocks.flow.waited_for_link |= !blocks.coded.is_empty();
                return Poll::Pending;
            };
            let grant = match grant {
                Ok(grant) => grant,
                Err(error) => return Poll::Ready(Sent::Refused(error)),
            };
            if blocks.coded.is_empty() {
                if blocks.ended {
                    send.finish();
                    return Poll::Ready(Sent::Finished);
                }
                match self.source.poll_ready(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Sent::SourceFailed(error)),
                    Poll::Pending => {
                        blocks.flow.waited_for_source = true;
                        return Poll::Pending;
                    }
                }
                if !blocks.read.try_reclaim(BLOCK_MAX) {
                    blocks.read = BytesMut::with_capacity(BLOCK_MAX);
                }
                match ready!(self.source.poll_read(cx, &mut blocks.read, BLOCK_MAX)) {
                    Ok(0) => blocks.ended = true,
                    Ok(n) => {
                        self.meter.sent.fetch_add(n as u64, Ordering::Relaxed);
                        blocks.encode(send.progress());
                    }
                    Err(error) => return Poll::Ready(Sent::SourceFailed(error)),
                }
                continue;
            }
            let Poll::Ready(mut buf) = send.poll_buffer(cx, grant) else {
                blocks.flow.waited_for_link = true;
                return Poll::Pending;
            };
            // As much as the link takes at once, which may be less than a block.
            let room = grant.min(buf.capacity() - buf.len());
            let part = blocks.coded.len().min(room);
            buf.extend_from_slice(&blocks.coded[..part]);
            blocks.coded.advance(part);
            send.commit(buf);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
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
