//! A copy as whoever asks for it sees it: each end is here or at a host, and what happens is told here.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use farpipe_net::{RecvError, SendError, SessionHandle, Stream};
use farpipe_proto::link::handshake::printable;
use farpipe_proto::wire::control::{AbortCode, Open};
use tokio::sync::mpsc;

use super::error::CopyError;
use super::link::{LinkError, join, pair};
use super::pass::{Way, pass};
use super::receive::Receiver;
use super::send::Sender;
use super::tally::{Journal, Summary, Tally};
use crate::outcome::PipeError;
use crate::pipe::{Cancel, cancelled};

/// One end of a copy.
#[derive(Debug)]
pub enum End<E> {
    /// Of this process.
    Here(E),
    /// Of an agent, asked for in a session with it.
    There(SessionHandle, Box<Open>),
}

/// Copies, until all is done or `cancel` fires.
///
/// # Errors
/// [`PipeError`]. What was whole by then is in its place.
///
/// # Cancellation
/// Dropped, the ends are left, and end by themselves. Use `cancel`: what was received is kept first.
pub async fn run(
    source: End<Sender>,
    target: End<Receiver>,
    journal: &Journal,
    cancel: Cancel,
) -> Result<Summary, PipeError> {
    match (source, target) {
        (End::Here(sender), End::Here(receiver)) => here(sender, receiver, journal, cancel).await,
        (End::Here(sender), End::There(handle, open)) => {
            let (link, way) = far(&handle, *open, journal, cancel)?;
            let run = sender.run(way.input, way.output, journal.clone());
            let (linked, ended) = tokio::join!(link, run);
            verdict(linked, ended)
        }
        (End::There(handle, open), End::Here(receiver)) => {
            let (link, way) = far(&handle, *open, journal, cancel)?;
            let run = receiver.run(way.input, way.output, journal.clone());
            let (linked, ended) = tokio::join!(link, run);
            verdict(linked, ended)
        }
        (End::There(from, from_open), End::There(to, to_open)) => {
            let (from_link, from) = far(&from, *from_open, journal, cancel.clone())?;
            let (to_link, to) = far(&to, *to_open, journal, cancel)?;
            let passing = pass(from, to, journal);
            let (from, to, ended) = tokio::join!(from_link, to_link, passing);
            // Whose link broke first is not known; that one was left is the weaker word.
            match (&ended, &from) {
                (Err(CopyError::Left), Linked::Over) | (Ok(_), Linked::Over) => verdict(to, ended),
                _ => verdict(from, ended),
            }
        }
    }
}

/// Both ends are here: what passes between them passes through here, so that it can be ended.
async fn here(
    sender: Sender,
    receiver: Receiver,
    journal: &Journal,
    cancel: Cancel,
) -> Result<Summary, PipeError> {
    let silent = || Journal::new(|_| {});
    let (sending, sent) = ends();
    let (receiving, received) = ends();
    let muted = silent();
    let passing = async {
        tokio::select! {
            _ = pass(sent, received, &muted) => Linked::Over,
            () = cancelled(cancel) => Linked::Cancelled,
        }
    };
    let (linked, sent, received) = tokio::join!(
        passing,
        sender.run(sending.input, sending.output, silent()),
        receiver.run(receiving.input, receiving.output, journal.clone()),
    );
    match (received, sent) {
        (Err(CopyError::Left), Err(error)) => verdict(linked, Err(error)),
        (received, _) => verdict(linked, received),
    }
}

/// A way to an end, and the same from its other side.
fn ends() -> (Way, Way) {
    let ((to, input), (output, from)) = (pair(), pair());
    (
        Way { input, output },
        Way {
            input: from,
            output: to,
        },
    )
}

/// How the stream to a host ended.
enum Linked {
    Over,
    Cancelled,
    Broken(PipeError),
}

/// Asks a host for its end.
fn far(
    handle: &SessionHandle,
    open: Open,
    journal: &Journal,
    cancel: Cancel,
) -> Result<(impl Future<Output = Linked> + use<>, Way), PipeError> {
    let stream = handle
        .open_with(open)
        .ok_or_else(|| PipeError::Local("no stream can be opened".to_owned()))?;
    let ((to_end, input), (output, from_end)) = (pair(), pair());
    Ok((
        linked(stream, from_end, to_end, Arc::clone(&journal.tally), cancel),
        Way { input, output },
    ))
}

async fn linked(
    stream: Stream,
    from_end: mpsc::Receiver<Bytes>,
    to_end: mpsc::Sender<Bytes>,
    tally: Arc<Tally>,
    cancel: Cancel,
) -> Linked {
    tokio::select! {
        (joined, watch) = join(stream, from_end, to_end) => {
            if watch.fate().accepted {
                tally.hosts.fetch_add(1, Ordering::Relaxed);
            }
            match joined {
                Ok(()) => Linked::Over,
                Err(error) => Linked::Broken(broken(error)),
            }
        }
        // Dropped, the stream is reset, and the ends have what had come.
        () = cancelled(cancel) => Linked::Cancelled,
    }
}

fn broken(error: LinkError) -> PipeError {
    match error {
        LinkError::Send(SendError::Session(end)) | LinkError::Recv(RecvError::Session(end)) => {
            PipeError::Session(end)
        }
        LinkError::Send(SendError::Refused(refuse))
        | LinkError::Recv(RecvError::Refused(refuse)) => PipeError::Refused {
            status: crate::outcome::STATUS_FAILURE,
            message: printable(&refuse.message),
        },
        LinkError::Send(SendError::Stopped(abort)) | LinkError::Recv(RecvError::Reset(abort)) => {
            let why = match abort.message.is_empty() {
                true => "it left before the copy was over".to_owned(),
                false => printable(&abort.message),
            };
            match AbortCode::from_wire(abort.code) {
                AbortCode::Cancelled => PipeError::RemoteCancelled(why),
                _ => PipeError::Remote(why),
            }
        }
        other => PipeError::Remote(other.to_string()),
    }
}

fn verdict(linked: Linked, ended: Result<Summary, CopyError>) -> Result<Summary, PipeError> {
    match (ended, linked) {
        (Ok(summary), Linked::Over) => Ok(summary),
        (_, Linked::Cancelled) => Err(PipeError::Cancelled),
        // It is the better word: the end here was left because the link broke.
        (Ok(_) | Err(CopyError::Left), Linked::Broken(error)) => Err(error),
        (Err(CopyError::Told(why)), _) => Err(PipeError::Remote(why)),
        (Err(error), _) => Err(PipeError::Local(error.to_string())),
    }
}
