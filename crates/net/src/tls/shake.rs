//! Shaking hands over a transport.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use farpipe_proto::limits::DRAIN;
use tokio::io::{AsyncRead, AsyncWrite};

use super::buffer::Buffers;
use super::error::{Peer, TlsError};
use super::machine::{Agreed, Machine, Step};
use super::stream::TlsStream;
use super::wire::{Room, Wire};

/// What a side that refuses reads and throws away before it leaves.
const REFUSAL_DRAIN_MAX: usize = 1 << 20;

/// Shakes hands, up to the point where this side can send. A peer that is refused is told why,
/// within [`DRAIN`], before this returns.
///
/// # Errors
/// [`TlsError`] inside the [`io::Error`] when TLS says no.
///
/// # Cancellation
/// Dropping it drops the connection.
pub(super) async fn shake<S>(
    io: S,
    mut machine: Machine,
    buffers: Buffers,
) -> io::Result<(TlsStream<S>, Agreed)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut wire = Wire::new(io, buffers);
    // Data that rustls saw behind the handshake's end.
    let mut early = Vec::new();
    let mut closed = false;
    let shaken = poll_fn(|cx| {
        while !machine.is_done() {
            ready!(poll_step(
                cx,
                &mut machine,
                &mut wire,
                &mut early,
                &mut closed
            ))?;
        }
        // A client's last words are what the server waits for. A server's are session tickets, which
        // leave now or with the next read or write: nobody waits for them.
        match (wire.poll_outgoing(cx), machine.peer()) {
            (Poll::Pending, Peer::Client) => Poll::Ready(Ok(())),
            (written, _) => written,
        }
    });
    if let Err(error) = shaken.await {
        if TlsError::of(&error).is_some() {
            refuse(wire).await;
        }
        return Err(error);
    }
    let (records, agreed) = machine.open()?;
    Ok((TlsStream::open(wire, records, early, closed), agreed))
}

fn poll_step<S: AsyncRead + AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    machine: &mut Machine,
    wire: &mut Wire<S>,
    early: &mut Vec<u8>,
    closed: &mut bool,
) -> Poll<io::Result<()>> {
    let (incoming, outgoing) = (&mut wire.incoming, &mut wire.outgoing);
    let step = machine.step(incoming, outgoing, &mut |data| {
        early.extend_from_slice(data);
    });
    match step? {
        Step::Control | Step::Data => {}
        Step::PeerClosed if !machine.is_done() => {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Step::PeerClosed => *closed = true,
        // The last step may have been the last of all.
        Step::Idle if machine.is_done() => {}
        Step::Idle => {
            // Both sides may be in the middle of saying something.
            if let Poll::Ready(Err(error)) = wire.poll_outgoing(cx) {
                return Poll::Ready(Err(error));
            }
            if ready!(wire.poll_fill(cx, Room::Small))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
    Poll::Ready(Ok(()))
}

/// Sends what is left to be said, shuts down writing and reads on for a moment, so that the reason
/// arrives: a close with unread bytes would reset the connection. Failing is no news.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut wire: Wire<S>) {
    let mut left = REFUSAL_DRAIN_MAX;
    let refused = poll_fn(|cx| {
        ready!(wire.poll_outgoing(cx))?;
        ready!(Pin::new(&mut wire.io).poll_shutdown(cx))?;
        loop {
            wire.incoming.consume(wire.incoming.len());
            match ready!(wire.poll_fill(cx, Room::Small))? {
                0 => return Poll::Ready(Ok::<(), io::Error>(())),
                len if len >= left => return Poll::Ready(Ok(())),
                len => left -= len,
            }
        }
    });
    let drained = tokio::time::timeout(DRAIN, refused).await;
    tracing::trace!(?drained, "refused");
}
