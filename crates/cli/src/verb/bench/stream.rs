//! A session's stream as a benchmark uses it: whole slices in, counted bytes out.

use std::collections::VecDeque;
use std::future::poll_fn;

use bytes::BytesMut;
use farpipe_net::{RecvError, RecvStream, SendError, SendStream};

/// Sends all of `bytes`. Dropping it may leave a part sent.
pub(super) async fn send(stream: &mut SendStream, mut bytes: &[u8]) -> Result<(), SendError> {
    while !bytes.is_empty() {
        let grant = poll_fn(|cx| stream.poll_grant(cx)).await?;
        let mut buf = poll_fn(|cx| stream.poll_buffer(cx, grant)).await;
        let room = buf.capacity() - buf.len();
        let (now, later) = bytes.split_at(bytes.len().min(grant).min(room));
        buf.extend_from_slice(now);
        stream.commit(buf);
        bytes = later;
    }
    Ok(())
}

/// What arrives, in the pieces in which it does.
#[derive(Debug)]
pub(super) struct Arriving {
    stream: RecvStream,
    chunks: VecDeque<BytesMut>,
}

impl Arriving {
    pub(super) fn new(stream: RecvStream) -> Self {
        let chunks = VecDeque::new();
        Self { stream, chunks }
    }

    /// The next piece; `None` at the end. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<BytesMut>, RecvError> {
        if self.chunks.is_empty() {
            let Self { stream, chunks } = self;
            if !poll_fn(|cx| stream.poll_chunks(cx, chunks)).await? {
                return Ok(None);
            }
        }
        let piece = self.chunks.pop_front();
        self.stream.consumed(piece.as_ref().map_or(0, |p| p.len()));
        Ok(piece)
    }

    /// All has been used.
    pub(super) fn done(&mut self) {
        self.stream.done();
    }
}
