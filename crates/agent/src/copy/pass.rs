//! One host to another through this process: what one end says is passed on to the other as it is, and
//! looked at on the way, because the people are here.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::error::CopyError;
use super::message::{Counts, Number};
use super::tally::{Event, Journal, Side, Summary, message_of};
use super::wire::{Decoder, Frame};

/// A way in and a way out.
#[derive(Debug)]
pub struct Way {
    /// From whoever is there.
    pub input: mpsc::Receiver<Bytes>,
    /// To them.
    pub output: mpsc::Sender<Bytes>,
}

/// Passes on what the sending end and the receiving end say to each other, until the copy is over.
///
/// # Errors
/// [`CopyError`].
///
/// # Cancellation
/// Dropped, both ends are left.
pub async fn pass(sending: Way, receiving: Way, journal: &Journal) -> Result<Summary, CopyError> {
    let there = one_way(Side::Sending, sending.input, receiving.output, journal);
    let back = one_way(Side::Receiving, receiving.input, sending.output, journal);
    let (there, back) = tokio::join!(there, back);
    match (there, back) {
        (_, Ok(Some(counts))) => Ok(journal.summary(counts)),
        (Err(error), _) | (_, Err(error)) => Err(error),
        (Ok(_), Ok(None)) => Err(CopyError::Left),
    }
}

/// Passes on what comes until it ends; the last word, if that was one.
async fn one_way(
    side: Side,
    mut from: mpsc::Receiver<Bytes>,
    to: mpsc::Sender<Bytes>,
    journal: &Journal,
) -> Result<Option<Counts>, CopyError> {
    let mut decoder = Decoder::default();
    let mut done = None;
    let mut ended = Ok(());
    loop {
        let piece = tokio::select! {
            piece = from.recv() => piece,
            () = to.closed() => None,
        };
        let Some(piece) = piece else { break };
        decoder.feed(piece.clone());
        while let Some(frame) = decoder.next_frame()? {
            match look(side, frame, journal) {
                Ok(counts) => done = done.or(counts),
                Err(error) => ended = Err(error),
            }
        }
        // The other end may have left; what this one says is still of use.
        if to.send(piece).await.is_err() {
            break;
        }
    }
    ended.map(|()| done)
}

fn look(side: Side, frame: Frame, journal: &Journal) -> Result<Option<Counts>, CopyError> {
    match frame {
        Frame::Offer(entry) => {
            journal.count(|tally| &tally.wanted_files, 1);
            journal.count(|tally| &tally.wanted_bytes, entry.size);
        }
        Frame::Start(start) => journal.count(|tally| &tally.moved_bytes, start.from),
        Frame::Data(bytes) => journal.count(|tally| &tally.moved_bytes, bytes.len() as u64),
        Frame::Hole(hole) => journal.count(|tally| &tally.moved_bytes, hole.len),
        Frame::End(Number { .. }) => journal.count(|tally| &tally.moved_files, 1),
        Frame::Would(would) => journal.tell(Event::Would(would.path)),
        Frame::Trouble(trouble) if trouble.ends => {
            return Err(CopyError::Told(message_of(&trouble)));
        }
        Frame::Trouble(trouble) => journal.far_trouble(side, &trouble),
        Frame::Done(counts) => return Ok(Some(counts)),
        Frame::Root(_)
        | Frame::Enter(_)
        | Frame::Leave
        | Frame::Link(_)
        | Frame::Fail(_)
        | Frame::Over
        | Frame::Want(_)
        | Frame::Skip(_)
        | Frame::Stop(_)
        | Frame::Saved(_) => {}
    }
    Ok(None)
}
