//! The asking side of topics (docs/protocol.md section 6.13): who publishes, who reads, and who wants to know.
//!
//! The other end is the relay itself, so a session dies with its process. What goes on is not the session: a producer asks what
//! the log has of it, and sends the rest; a reader asks for what comes behind what it has.

pub mod ask;
pub mod format;
pub mod outbox;
pub mod publish;
pub mod subscribe;

use std::io;
use std::time::Duration;

use farpipe_net::{
    ByteWriter, Dial, Messages, Opener, OpenerConfig, RecvError, SessionEnd, halves,
};
use farpipe_proto::limits::{BACKOFF, DRAIN};
use farpipe_proto::link::handshake::printable;
use farpipe_proto::wire::control::Open;
use farpipe_proto::wire::topic::{TopicAsk, TopicWant};
use tokio::time::Instant;

use crate::outcome::{PipeError, STATUS_FAILURE};

/// What makes a session: its settings, and what dials for it.
pub type Made = (OpenerConfig, Box<dyn Dial>);

/// What is told while it goes on.
pub trait Told {
    /// A session was lost, and another one will be asked for after so long.
    fn lost(&mut self, why: &str, wait: Duration);
    /// It stands still, or something is missing, as the relay says.
    fn notice(&mut self, why: &str);
}

/// How one session with the relay ended.
#[derive(Debug)]
pub enum Ended<T> {
    /// All was said.
    Done(T),
    /// It was lost; another one may go on.
    Lost(String),
    /// There is no more to be had.
    Failed(PipeError),
}

/// Asks for something in a session of its own, and has `talk` go through with it.
///
/// # Cancellation
/// Dropping it is a lost link to the relay.
pub(super) async fn session<T>(
    opener: Opener,
    dial: &dyn Dial,
    want: TopicWant,
    talk: impl AsyncFnOnce(Messages, ByteWriter) -> Result<T, Broken>,
) -> Ended<T> {
    let handle = opener.handle();
    let open = Open {
        topic: Some(Box::new(TopicAsk { want: Some(want) })),
        ..Open::default()
    };
    let Some(stream) = handle.open_with(open) else {
        return Ended::Failed(PipeError::Local("what is asked for is too long".to_owned()));
    };
    handle.finish_opening();
    let (reader, writer, watch) = halves(stream);
    let talking = async {
        let talked = talk(Messages::new(reader), writer).await;
        (talked, watch.fate().refused)
    };
    let mut running = Box::pin(opener.run(dial));
    let mut talking = Box::pin(talking);
    let (talked, refused, ran) = tokio::select! {
        (talked, refused) = &mut talking => (talked, refused, None),
        ran = &mut running => {
            // It hears of that by its stream.
            let (talked, refused) = talking.await;
            (talked, refused, Some(ran))
        }
    };
    if let Some(refuse) = refused {
        return Ended::Failed(PipeError::Refused {
            status: u8::try_from(refuse.status).unwrap_or(STATUS_FAILURE),
            message: printable(&refuse.message),
        });
    }
    match (talked, ran) {
        (Ok(done), None) => {
            // All was said; what becomes of the session changes nothing.
            let _ = tokio::time::timeout(DRAIN, running).await;
            Ended::Done(done)
        }
        (Ok(done), Some(_)) => Ended::Done(done),
        // Who is told to end has said so: that is to arrive, or it counts as lost.
        (Err(Broken::Final(PipeError::Cancelled)), None) => {
            let _ = tokio::time::timeout(DRAIN, running).await;
            Ended::Failed(PipeError::Cancelled)
        }
        (Err(Broken::Final(error)), _) => Ended::Failed(error),
        (Err(Broken::Stream(_)), Some(Err(SessionEnd::Refused(why)))) => {
            Ended::Failed(PipeError::Session(SessionEnd::Refused(why)))
        }
        (Err(Broken::Stream(_)), Some(Err(end))) => Ended::Lost(end.to_string()),
        (Err(Broken::Stream(error)), _) => Ended::Lost(printable(&error.to_string())),
    }
}

/// Why nothing more is said.
#[derive(Debug)]
pub enum Broken {
    /// The stream broke: another session may go on.
    Stream(io::Error),
    /// Another session would not do better.
    Final(PipeError),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        let of_session = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<RecvError>());
        match of_session {
            // A relay that is refused to for good once is asked in vain again.
            Some(RecvError::Session(SessionEnd::Refused(why))) => {
                Self::Final(PipeError::Session(SessionEnd::Refused(why.clone())))
            }
            _ => Self::Stream(error),
        }
    }
}

/// When to ask again, and when to give up.
#[derive(Debug)]
pub(super) struct Again {
    within: Duration,
    failures: usize,
    lost_at: Instant,
    /// Something has come of a session once: then a relay that is not there comes back.
    has_met: bool,
}

impl Again {
    pub(super) fn within(span: Duration) -> Self {
        Self {
            within: span,
            failures: 0,
            lost_at: Instant::now(),
            has_met: false,
        }
    }

    /// The session has brought something.
    pub(super) fn handle_progress(&mut self) {
        (self.failures, self.lost_at, self.has_met) = (0, Instant::now(), true);
    }

    /// What a session has brought; `None`: another one is to be asked for, now.
    ///
    /// # Errors
    /// Another one would not help, or it has been tried for long enough.
    pub(super) async fn next<T>(
        &mut self,
        ended: Ended<T>,
        told: &mut dyn Told,
    ) -> Result<Option<T>, PipeError> {
        let (why, error) = match ended {
            Ended::Done(done) => return Ok(Some(done)),
            Ended::Lost(why) => (why.clone(), PipeError::Local(why)),
            // A relay that was there comes back.
            Ended::Failed(error @ PipeError::Session(_)) if self.has_met => {
                (error.to_string(), error)
            }
            Ended::Failed(error) => return Err(error),
        };
        let wait = BACKOFF[self.failures.min(BACKOFF.len() - 1)];
        self.failures += 1;
        if self.lost_at.elapsed() + wait > self.within {
            return Err(error);
        }
        told.lost(&why, wait);
        tokio::time::sleep(wait).await;
        Ok(None)
    }
}
