//! Source to stream, in blocks: read a block, encode it, send it in parts as the link takes them.

use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use farpipe_net::SendStream;

use super::{Meter, Sent, Turn};
use crate::blocks::{BLOCK_MAX, Encoder, Flow, HEADER_LEN};
use crate::endpoint::Source;

/// What lies between a source and a stream that is made of blocks: at most one block.
#[derive(Debug)]
pub(super) struct Blocks {
    encoder: Encoder,
    /// Empty but for the moment between reading and encoding.
    read: BytesMut,
    /// Encoded, not yet sent.
    coded: BytesMut,
    ended: bool,
    flow: Flow,
}

impl Blocks {
    pub(super) fn new(encoder: Encoder) -> Self {
        Self {
            encoder,
            read: BytesMut::new(),
            coded: BytesMut::new(),
            ended: false,
            flow: Flow::default(),
        }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut dyn Source,
        send: &mut SendStream,
        meter: &Meter,
    ) -> Poll<Turn> {
        // Also while there is nothing to send: it tells when the peer wants no more.
        let Poll::Ready(grant) = send.poll_grant(cx) else {
            self.flow.waited_for_link |= !self.coded.is_empty();
            return Poll::Pending;
        };
        let grant = match grant {
            Ok(grant) => grant,
            Err(error) => return Poll::Ready(Turn::Break(Sent::Refused(error))),
        };
        if self.coded.is_empty() {
            return self.poll_block(cx, source, send, meter);
        }
        let Poll::Ready(mut buf) = send.poll_buffer(cx, grant) else {
            self.flow.waited_for_link = true;
            return Poll::Pending;
        };
        // As much as the link takes at once, which may be less than a block.
        let room = grant.min(buf.capacity() - buf.len());
        let part = self.coded.len().min(room);
        buf.extend_from_slice(&self.coded[..part]);
        self.coded.advance(part);
        send.commit(buf);
        Poll::Ready(Turn::Continue(()))
    }

    /// Reads and encodes the next one.
    fn poll_block(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut dyn Source,
        send: &mut SendStream,
        meter: &Meter,
    ) -> Poll<Turn> {
        if self.ended {
            send.finish();
            return Poll::Ready(Turn::Break(Sent::Finished));
        }
        match source.poll_ready(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Turn::Break(Sent::SourceFailed(error))),
            Poll::Pending => {
                self.flow.waited_for_source = true;
                return Poll::Pending;
            }
        }
        if !self.read.try_reclaim(BLOCK_MAX) {
            self.read = BytesMut::with_capacity(BLOCK_MAX);
        }
        Poll::Ready(
            match ready!(source.poll_read(cx, &mut self.read, BLOCK_MAX)) {
                Ok(0) => {
                    self.ended = true;
                    Turn::Continue(())
                }
                Ok(n) => {
                    meter.sent.fetch_add(n as u64, Ordering::Relaxed);
                    self.encode(send.progress());
                    Turn::Continue(())
                }
                Err(error) => Turn::Break(Sent::SourceFailed(error)),
            },
        )
    }

    /// Bytes that were encoded and not sent.
    pub(super) fn unsent(&self) -> usize {
        self.coded.len()
    }

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
