//! A command's stdin: gone with the command, whoever else may hold its other end.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use crate::endpoint::Sink;
use crate::endpoint::exec::Exited;

/// The end of the command is the end of its readers: its status waits for nobody.
#[derive(Debug)]
pub(crate) struct InputSink {
    inner: Box<dyn Sink>,
    exited: Exited,
}

impl InputSink {
    pub(crate) fn new(inner: Box<dyn Sink>, exited: Exited) -> Self {
        Self { inner, exited }
    }

    /// Ready with the words of a closed pipe when the command has ended.
    fn poll_exited(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self.exited.poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(io::ErrorKind::BrokenPipe.into()),
            // The runtime is shutting down.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Sink for InputSink {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_exited(cx) {
            return Poll::Ready(Err(error));
        }
        self.inner.poll_write(cx, bufs)
    }

    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_exited(cx) {
            return Poll::Ready(Err(error));
        }
        self.inner.poll_reader_gone(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_exited(cx) {
            return Poll::Ready(Err(error));
        }
        self.inner.poll_close(cx)
    }
}
