//! Joins an end of a copy to a stream, or to the other end in this process.

use std::collections::VecDeque;
use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use farpipe_net::{RecvError, RecvStream, SendError, SendStream, Stream, StreamWatch};
use farpipe_proto::wire::control::{Abort, AbortCode};
use tokio::sync::mpsc;

/// Pieces between an end and its stream, each way. Policy when full: who brings the next one waits.
const PIECES_MAX: usize = 8;

/// A way from one end to the other.
#[must_use]
pub fn pair() -> (mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>) {
    mpsc::channel(PIECES_MAX)
}

/// Why a stream ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// On the way out.
    #[error(transparent)]
    Send(#[from] SendError),
    /// On the way in.
    #[error(transparent)]
    Recv(#[from] RecvError),
}

/// Moves what an end says to `stream`, and what comes by it to the end, until both have ended. An end that
/// ends early ends the stream as well.
///
/// # Errors
/// [`LinkError`]: the stream ended first.
///
/// # Cancellation
/// Dropped, it resets the stream.
pub async fn join(
    stream: Stream,
    from_end: mpsc::Receiver<Bytes>,
    to_end: mpsc::Sender<Bytes>,
) -> (Result<(), LinkError>, StreamWatch) {
    let Stream { send, recv, watch } = stream;
    let (sent, received) = tokio::join!(outward(send, from_end), inward(recv, to_end));
    // What came in says more: a refusal, the end of the session.
    let joined = match (received, sent) {
        (Err(error), _) => Err(error.into()),
        (Ok(()), Err(error)) => Err(error.into()),
        (Ok(()), Ok(())) => Ok(()),
    };
    (joined, watch)
}

async fn outward(
    mut send: SendStream,
    mut from_end: mpsc::Receiver<Bytes>,
) -> Result<(), SendError> {
    loop {
        let piece = tokio::select! {
            piece = from_end.recv() => piece,
            error = stopped(&mut send) => return over(error),
        };
        let Some(piece) = piece else { break };
        if let Err(error) = send.say(&piece).await {
            return over(error);
        }
    }
    send.finish();
    Ok(())
}

/// An end over there that needs to hear nothing more has said why, or that all is done.
fn over(error: SendError) -> Result<(), SendError> {
    match error {
        SendError::Stopped(abort) if AbortCode::from_wire(abort.code) == AbortCode::Ended => Ok(()),
        error => Err(error),
    }
}

/// Ready when nobody hears any more; while there is nothing to say nothing else would tell. Cancel safe.
async fn stopped(send: &mut SendStream) -> SendError {
    poll_fn(|cx| match send.poll_grant(cx) {
        std::task::Poll::Ready(Err(error)) => std::task::Poll::Ready(error),
        std::task::Poll::Ready(Ok(_)) | std::task::Poll::Pending => std::task::Poll::Pending,
    })
    .await
}

/// Until the stream comes to its end, or the end here does.
async fn inward(mut recv: RecvStream, to_end: mpsc::Sender<Bytes>) -> Result<(), RecvError> {
    let mut chunks: VecDeque<BytesMut> = VecDeque::new();
    loop {
        let came = tokio::select! {
            came = poll_fn(|cx| recv.poll_chunks(cx, &mut chunks)) => came?,
            () = to_end.closed() => {
                recv.stop(Abort::new(AbortCode::Ended, ""));
                return Ok(());
            }
        };
        if !came {
            recv.done();
            return Ok(());
        }
        for chunk in chunks.drain(..) {
            let len = chunk.len();
            if to_end.send(chunk.freeze()).await.is_err() {
                recv.stop(Abort::new(AbortCode::Ended, ""));
                return Ok(());
            }
            recv.consumed(len);
        }
    }
}
