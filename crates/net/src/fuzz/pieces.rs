//! A connection in memory whose bytes come in pieces of one size, and futures that never wait.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

use crate::carrier::ws::raw::Transport;

/// Gives what it has in pieces, then ends; takes all that is written.
#[derive(Debug)]
pub struct Pieces {
    input: Vec<u8>,
    at: usize,
    size: usize,
    /// What was written to it.
    pub written: Vec<u8>,
}

impl Pieces {
    /// `input` in pieces of `size` bytes, or of 1.
    #[must_use]
    pub fn new(input: &[u8], size: usize) -> Self {
        Self {
            input: input.to_vec(),
            at: 0,
            size: size.max(1),
            written: Vec::new(),
        }
    }

    /// How much of the input was read.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.at
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.input.len() - self.at;
        let len = left.min(self.size).min(buf.remaining());
        buf.put_slice(&self.input[self.at..self.at + len]);
        self.at += len;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Transport for Pieces {
    fn set_reset_at_close(&self, _: bool) {}

    fn is_hung_up(&self) -> bool {
        self.at == self.input.len()
    }
}

/// What comes of a future that has all it waits for.
///
/// # Panics
/// When it waits for something: nothing here ever comes later.
pub fn finished<F: Future>(future: F) -> F::Output {
    thread_local! {
        /// Timers want one; none of them is waited for.
        static RUNTIME: Runtime = Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime without I/O needs nothing of the system");
    }
    RUNTIME.with(|runtime| {
        let _entered = runtime.enter();
        let mut cx = Context::from_waker(Waker::noop());
        match pin!(future).poll(&mut cx) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("it waits, and all that can come is there"),
        }
    })
}
