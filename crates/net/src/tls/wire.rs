//! The transport under TLS and its two buffers of ciphertext.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffer::{Buffer, Buffers};

/// Ciphertext on its way from and to the transport `S`.
pub(super) struct Wire<S> {
    pub(super) io: S,
    /// Ciphertext that was read and not decrypted.
    pub(super) incoming: Buffer,
    /// Ciphertext that is to be written.
    pub(super) outgoing: Buffer,
    pub(super) buffers: Buffers,
}

/// How much memory a read may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// As much as the peer fills: nobody knows yet who it is.
    Small,
    /// A large buffer.
    Large,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(io: S, buffers: Buffers) -> Self {
        Self {
            io,
            incoming: Buffer::default(),
            outgoing: Buffer::default(),
            buffers,
        }
    }

    /// Reads ciphertext once. Ready with 0: the transport ended.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        room: Room,
    ) -> Poll<io::Result<usize>> {
        match room {
            Room::Small => self.incoming.reserve(1 << 10),
            Room::Large => self.incoming.enlarge(&self.buffers),
        }
        let mut room = ReadBuf::new(self.incoming.room_mut());
        match Pin::new(&mut self.io).poll_read(cx, &mut room) {
            Poll::Ready(Ok(())) => {
                let len = room.filled().len();
                self.incoming.commit(len);
                Poll::Ready(Ok(len))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.incoming.release(&self.buffers);
                Poll::Pending
            }
        }
    }

    /// Writes all ciphertext.
    pub(super) fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, self.outgoing.filled()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.consume(written);
        }
        self.outgoing.release(&self.buffers);
        Poll::Ready(Ok(()))
    }
}
