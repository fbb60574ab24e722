//! A stream as plain bytes: for those who read and write it as any socket, at the price of a copy. The
//! pump of an endpoint takes the handles beneath ([`RecvStream`], [`SendStream`]), which copy nothing.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use farpipe_proto::wire::control::{Abort, AbortCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::{Fate, RecvStream, SendError, SendStream, Stream, StreamWatch};

/// The fate of a stream whose halves are elsewhere. Clones are the same.
#[derive(Debug, Clone)]
pub struct SharedWatch(Arc<Mutex<StreamWatch>>);

impl SharedWatch {
    fn lock(&self) -> MutexGuard<'_, StreamWatch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fate now.
    #[must_use]
    pub fn fate(&self) -> Fate {
        self.lock().fate()
    }

    /// As [`StreamWatch::poll_until`]; for one task at a time.
    pub fn poll_until(
        &self,
        cx: &mut Context<'_>,
        enough: impl FnOnce(&Fate) -> bool,
    ) -> Poll<Fate> {
        self.lock().poll_until(cx, enough)
    }

    /// Ready when it is known what the stream is joined to, or that it is over. Cancel safe.
    pub async fn decided(&self) -> Fate {
        poll_fn(|cx| self.poll_until(cx, |fate| fate.accepted || is_lost(fate))).await
    }
}

/// What comes, as bytes. Dropped before its end it tells the peer that its reader is gone, as a closed
/// pipe would.
#[derive(Debug)]
pub struct ByteReader {
    recv: RecvStream,
    chunks: VecDeque<BytesMut>,
    is_over: bool,
    is_confirmed: bool,
}

/// What goes, as bytes. Its shutdown is ready when the far sink has taken all and is closed: success is
/// not claimed before. Dropped without it the stream is reset.
#[derive(Debug)]
pub struct ByteWriter {
    send: SendStream,
    watch: SharedWatch,
    is_finished: bool,
}

/// Takes a stream apart.
#[must_use]
pub fn halves(stream: Stream) -> (ByteReader, ByteWriter, SharedWatch) {
    let Stream { send, recv, watch } = stream;
    let watch = SharedWatch(Arc::new(Mutex::new(watch)));
    let reader = ByteReader {
        recv,
        chunks: VecDeque::new(),
        is_over: false,
        is_confirmed: false,
    };
    let writer = ByteWriter {
        send,
        watch: watch.clone(),
        is_finished: false,
    };
    (reader, writer, watch)
}

impl ByteReader {
    /// Ready when there is something to take, the end, or an error.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.chunks.is_empty() || self.is_over {
            return Poll::Ready(Ok(()));
        }
        match ready!(self.recv.poll_chunks(cx, &mut self.chunks)) {
            Ok(goes_on) => self.is_over = !goes_on,
            Err(error) => return Poll::Ready(Err(io::Error::other(error))),
        }
        Poll::Ready(Ok(()))
    }

    /// Hands at most `max` bytes to `put`, in order, and says how many; none is the end, which is
    /// confirmed to the peer. Cancel safe.
    pub fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        mut put: impl FnMut(&[u8]),
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_ready(cx))?;
        let mut taken = 0;
        while taken < max
            && let Some(chunk) = self.chunks.front_mut()
        {
            let len = chunk.len().min(max - taken);
            put(&chunk[..len]);
            chunk.advance(len);
            taken += len;
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
        if taken > 0 {
            self.recv.consumed(taken);
        } else if self.is_over && !self.is_confirmed {
            self.is_confirmed = true;
            self.recv.done();
        }
        Poll::Ready(Ok(taken))
    }
}

impl Drop for ByteReader {
    fn drop(&mut self) {
        if !self.is_confirmed {
            self.recv.stop(Abort::new(AbortCode::ReaderGone, ""));
        }
    }
}

impl AsyncRead for ByteReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let max = buf.remaining();
        if max == 0 {
            return Poll::Ready(Ok(()));
        }
        let taken = self.poll_take(cx, max, |bytes| buf.put_slice(bytes));
        taken.map(|taken| taken.map(drop))
    }
}

/// What ends a stream's sending half before its time.
fn is_lost(fate: &Fate) -> bool {
    fate.stopped.is_some() || fate.refused.is_some() || fate.end.is_some()
}

/// Why nothing more is taken.
fn lost(fate: &Fate) -> io::Error {
    if let Some(end) = &fate.end {
        return io::Error::other(end.clone());
    }
    if let Some(refuse) = &fate.refused {
        return io::Error::other(SendError::Refused(refuse.clone()));
    }
    match &fate.stopped {
        Some(abort) if AbortCode::from_wire(abort.code) != AbortCode::ReaderGone => {
            io::Error::other(SendError::Stopped(abort.clone()))
        }
        Some(_) | None => io::ErrorKind::BrokenPipe.into(),
    }
}

impl ByteWriter {
    /// Ready when the far reader takes no more though nothing is being written: with `Ok` when its
    /// other end has ended in order, with all that was sent.
    pub fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let fate = ready!(self.watch.poll_until(cx, is_lost));
        let has_ended = |abort: &Abort| AbortCode::from_wire(abort.code) == AbortCode::Ended;
        let in_order = fate.end.is_none() && !fate.missed;
        if in_order && fate.stopped.as_ref().is_some_and(has_ended) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(lost(&fate)))
    }

    /// Takes some of `bufs` and says how many bytes. Cancel safe.
    pub fn poll_put(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        let Ok(grant) = ready!(self.send.poll_grant(cx)) else {
            return Poll::Ready(Err(lost(&self.watch.fate())));
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

    /// Says the end without waiting for anybody.
    pub fn finish(&mut self) {
        if !self.is_finished {
            self.send.finish();
            self.is_finished = true;
        }
    }

    /// Says the end; ready when the far sink has confirmed it.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        let fate = ready!(self.watch.poll_until(cx, |fate| fate.done || is_lost(fate)));
        match fate.done {
            true => Poll::Ready(Ok(())),
            false => Poll::Ready(Err(lost(&fate))),
        }
    }
}

impl AsyncWrite for ByteWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_put(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_put(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written is numbered and on its way: there is nothing to push.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_finish(cx)
    }
}
