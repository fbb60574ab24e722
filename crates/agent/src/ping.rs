//! A stream that comes back: `farpipe ping` asks, an agent answers. What it shows is the whole way:
//! session, relay, agent, and the same back.

use std::collections::VecDeque;
use std::future::poll_fn;

use bytes::BytesMut;
use farpipe_net::{RecvError, RecvStream, SendError, SendStream, SessionHandle, Stream};
use farpipe_proto::wire::control::{Accept, Open};

/// What OPEN names (docs/protocol.md section 6.9).
const TARGET: &str = "ping";
/// Bytes of a question: its number.
const QUESTION: usize = 8;

/// Whether a stream asks for its own bytes back.
pub(crate) fn is_asked(open: &Open) -> bool {
    open.target == TARGET && open.command.is_none()
}

/// The answering side: sends back what comes, until it ends.
pub(crate) async fn answer(stream: Stream) {
    stream.accept(Accept::default());
    let Stream {
        mut send, mut recv, ..
    } = stream;
    let mut chunks = VecDeque::new();
    // An error means that the asking side is gone; dropping the stream is the answer.
    while let Ok(true) = poll_fn(|cx| recv.poll_chunks(cx, &mut chunks)).await {
        for chunk in chunks.drain(..) {
            if send.say(&chunk).await.is_err() {
                return;
            }
            recv.consumed(chunk.len());
        }
    }
    recv.done();
    send.finish();
}

/// The asking side; `None`: no stream can be opened.
#[must_use]
pub fn open(handle: &SessionHandle) -> Option<(Questions, Answers)> {
    let Stream { send, recv, .. } = handle.open(TARGET)?;
    let answers = Answers {
        recv,
        chunks: VecDeque::new(),
        came: BytesMut::new(),
    };
    Some((Questions(send), answers))
}

/// Waits until the agent itself has answered, without a question: a session by a local agent is up before
/// anybody knows whether there is such a host. `false`: no stream can be opened. Cancel safe.
///
/// # Errors
/// [`RecvError`]: nobody is there, or not for this caller.
pub(crate) async fn is_there(handle: &SessionHandle) -> Result<bool, RecvError> {
    let Some((mut questions, mut answers)) = open(handle) else {
        return Ok(false);
    };
    questions.finish();
    while answers.next().await?.is_some() {}
    Ok(true)
}

/// Asks.
#[derive(Debug)]
pub struct Questions(SendStream);

impl Questions {
    /// Asks question `number`. Not cancel safe: a part of it may be sent.
    ///
    /// # Errors
    /// [`SendError`]: the other side answers no more.
    pub async fn ask(&mut self, number: u64) -> Result<(), SendError> {
        self.0.say(&number.to_be_bytes()).await
    }

    /// There are no more.
    pub fn finish(&mut self) {
        self.0.finish();
    }
}

/// Hears.
#[derive(Debug)]
pub struct Answers {
    recv: RecvStream,
    chunks: VecDeque<BytesMut>,
    came: BytesMut,
}

impl Answers {
    /// The number of the next answer; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// [`RecvError`]: the other side answers no more.
    pub async fn next(&mut self) -> Result<Option<u64>, RecvError> {
        let Self { recv, chunks, came } = self;
        loop {
            if let Some((number, _)) = came.split_first_chunk::<QUESTION>() {
                let number = u64::from_be_bytes(*number);
                let _ = came.split_to(QUESTION);
                return Ok(Some(number));
            }
            if chunks.is_empty() && !poll_fn(|cx| recv.poll_chunks(cx, chunks)).await? {
                recv.done();
                return Ok(None);
            }
            if let Some(chunk) = chunks.pop_front() {
                recv.consumed(chunk.len());
                came.extend_from_slice(&chunk);
            }
        }
    }
}
