//! The asking side: one session after the other, and what they tell, in order, to whoever prints it.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};

use bytes::{Buf as _, BytesMut};
use farpipe_net::{Dial, Opener, RecvError, RecvStream, SessionEnd, Stream};
use farpipe_proto::link::handshake::printable;
use farpipe_proto::wire::control::{Abort, AbortCode, Open};
use farpipe_proto::wire::tail::{Tail, TailError, TailEvent, TailNotice, TailWhat};
use tokio::sync::watch;

use super::positions::{Positions, PositionsError};
use crate::client::unless_given_up;
use crate::endpoint::Sink;
use crate::outcome::STATUS_FAILURE;
use crate::pipe::{Cancel, cancelled};

/// How what comes is shown.
pub trait Show {
    /// What is printed of the next bytes of a file, in the place of these.
    fn data<'a>(&mut self, path: &[u8], bytes: &'a [u8]) -> Cow<'a, [u8]>;
    /// What happened to a file.
    fn notice(&mut self, notice: &TailNotice);
}

/// How a session ended.
#[derive(Debug)]
pub enum Ended {
    /// What was not to be followed has been printed.
    Finished,
    /// This process was told to end.
    Cancelled,
    /// Whoever reads what is printed has gone away.
    ReaderGone,
    /// What came cannot be printed.
    Unwritten(io::Error),
    /// The agent does not do it.
    Refused {
        /// The exit status it asks for.
        status: u8,
        /// Its words.
        message: String,
    },
    /// What came makes no sense.
    Odd(String),
    /// The agent has given it up, for example because it was told to end. Another session can go on.
    Left(String),
    /// It is over before its time. If the agent does not know it any more, another one can go on.
    Lost(SessionEnd),
}

/// Why nothing more is heard.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Recv(#[from] RecvError),
    #[error(transparent)]
    Message(#[from] TailError),
    #[error(transparent)]
    Positions(#[from] PositionsError),
    #[error(transparent)]
    Print(io::Error),
}

impl From<Failed> for Ended {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Recv(RecvError::Refused(refuse)) => Self::Refused {
                status: u8::try_from(refuse.status).unwrap_or(STATUS_FAILURE),
                message: printable(&refuse.message),
            },
            Failed::Recv(RecvError::Session(end)) => Self::Lost(end),
            Failed::Recv(error) => Self::Left(printable(&error.to_string())),
            Failed::Message(error) => Self::Odd(error.to_string()),
            Failed::Positions(error) => Self::Odd(error.to_string()),
            Failed::Print(error) if error.kind() == io::ErrorKind::BrokenPipe => Self::ReaderGone,
            Failed::Print(error) => Self::Unwritten(error),
        }
    }
}

/// Asks for `tail` in a session of its own, and prints what comes until it is over. `positions` says
/// afterwards what was printed.
///
/// # Cancellation
/// As for [`crate::client::run`].
pub async fn run(
    tail: Tail,
    positions: &mut Positions,
    (sink, show): (&mut dyn Sink, &mut dyn Show),
    opener: Opener,
    dial: &dyn Dial,
    cancel: Cancel,
) -> Ended {
    let handle = opener.handle();
    let open = Open {
        tail: Some(Box::new(tail)),
        ..Open::default()
    };
    let Some(stream) = handle.open_with(open) else {
        return Ended::Lost(SessionEnd::Lost("no stream can be opened".to_owned()));
    };
    // The only one: with its end all is settled.
    handle.finish_opening();
    let (give_up, given_up) = watch::channel(false);
    let talking = async {
        let Stream {
            mut send, mut recv, ..
        } = stream;
        send.finish();
        let hearing = hear(&mut recv, positions, sink, show);
        let ended = tokio::select! {
            () = cancelled(cancel) => Ended::Cancelled,
            heard = hearing => heard.map_or_else(Ended::from, |()| Ended::Finished),
        };
        match &ended {
            Ended::Finished => recv.done(),
            Ended::ReaderGone => recv.stop(Abort::new(AbortCode::ReaderGone, "")),
            // Dropped, it is told that nothing more is wanted.
            Ended::Cancelled
            | Ended::Unwritten(_)
            | Ended::Refused { .. }
            | Ended::Odd(_)
            | Ended::Left(_)
            | Ended::Lost(_) => drop(recv),
        }
        if !matches!(ended, Ended::Finished) {
            give_up.send_replace(true);
        }
        ended
    };
    let session = unless_given_up(opener.run(dial), &handle, given_up);
    tokio::join!(talking, session).0
}

/// Prints what comes, until its end.
async fn hear(
    recv: &mut RecvStream,
    positions: &mut Positions,
    sink: &mut dyn Sink,
    show: &mut dyn Show,
) -> Result<(), Failed> {
    let mut came = BytesMut::new();
    let mut chunks = VecDeque::new();
    loop {
        while let Some((event, len)) = TailEvent::from_bytes(&came)? {
            came.advance(len);
            take(&event, positions, sink, show).await?;
        }
        if chunks.is_empty() {
            let next = poll_fn(|cx| recv.poll_chunks(cx, &mut chunks));
            tokio::select! {
                more = next => if !more? {
                    return poll_fn(|cx| sink.poll_close(cx)).await.map_err(Failed::Print);
                },
                gone = poll_fn(|cx| sink.poll_reader_gone(cx)) => {
                    let error = gone.err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
                    return Err(Failed::Print(error));
                }
            }
        }
        if let Some(chunk) = chunks.pop_front() {
            recv.consumed(chunk.len());
            came.extend_from_slice(&chunk);
        }
    }
}

/// Prints one message, and then notes it as printed.
async fn take(
    event: &TailEvent,
    positions: &mut Positions,
    sink: &mut dyn Sink,
    show: &mut dyn Show,
) -> Result<(), Failed> {
    match &event.what {
        Some(TailWhat::Data(data)) => {
            let path = positions.next(event.file, data.offset)?;
            let shown = show.data(path, &data.bytes);
            write(sink, &shown).await.map_err(Failed::Print)?;
        }
        Some(TailWhat::Notice(notice)) => show.notice(notice),
        Some(TailWhat::Opened(_)) | None => {}
    }
    Ok(positions.note(event)?)
}

async fn write(sink: &mut dyn Sink, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let len = poll_fn(|cx| sink.poll_write(cx, &[IoSlice::new(bytes)])).await?;
        bytes = &bytes[len..];
    }
    Ok(())
}
