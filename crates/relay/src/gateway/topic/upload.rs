//! A body that is published: its lines are records, or all of it is one. It is answered when all is kept as the topic promises; else
//! the answer says how many are.

use std::future::poll_fn;
use std::io;

use bytes::{Bytes, BytesMut};
use farpipe_record::RECORD_MAX;
use tokio::time::{Duration, sleep};

use super::super::answer::Answer;
use super::super::body::Body;
use super::super::ends::Source as _;
use super::ask::Records;
use crate::going::Going;
use crate::topics::take::{NotKept, Taker};

/// Bytes that are read at once.
const READ: usize = 64 * 1024;
/// How long records wait for others while batches are under way, as those of `farpipe pub`.
const LINGER: Duration = Duration::from_millis(5);

/// Why not all is kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    NotKept(#[from] NotKept),
    /// The body broke.
    #[error("{0}")]
    Foreign(io::Error),
    #[error("the relay is going away")]
    Going,
}

impl Failed {
    fn status(&self) -> u16 {
        match self {
            Self::Foreign(_) => 400,
            Self::Going => 503,
            Self::NotKept(why) => match why {
                NotKept::TooLong(_) => 413,
                NotKept::Partition { .. } => 400,
                NotKept::Fenced | NotKept::OutOfOrder(_) => 409,
                NotKept::Removed => 404,
                NotKept::Full => 507,
                NotKept::Failed(_) | NotKept::Slow => 503,
            },
        }
    }

    /// What the client is told.
    pub(super) fn answer(&self, name: &str, kept: u64) -> Answer {
        let kept = match kept {
            1 => "1 record is".to_owned(),
            n => format!("{n} records are"),
        };
        // What waits in the log is kept when there is room, and nobody is told.
        let more = match self {
            Self::NotKept(NotKept::Full | NotKept::Slow) => ", and more may be later",
            Self::NotKept(_) | Self::Foreign(_) | Self::Going => "",
        };
        Answer::line(
            self.status(),
            format!("{self}: {kept} kept in {name}{more}"),
        )
    }
}

/// Publishes a body.
///
/// # Errors
/// Not all of it is kept; [`Taker::kept`] says how much is.
///
/// # Cancellation
/// What was given to the log may be kept.
pub(super) async fn publish(
    body: &mut Body,
    taker: &mut Taker,
    records: Records,
    going: &Going,
) -> Result<(), Failed> {
    let done = take(body, taker, records, going).await;
    if let Err(failed) = &done {
        // What stands in front of what is wrong is kept, and counted. Of a disk that is full nothing is to be heard.
        match failed {
            Failed::NotKept(NotKept::Full | NotKept::Slow) => {}
            Failed::NotKept(NotKept::TooLong(_)) | Failed::Foreign(_) | Failed::Going => {
                let _ = taker.flush().await;
                taker.settle().await;
            }
            Failed::NotKept(_) => taker.settle().await,
        }
    }
    done
}

async fn take(
    body: &mut Body,
    taker: &mut Taker,
    records: Records,
    going: &Going,
) -> Result<(), Failed> {
    let (mut buf, mut seen) = (BytesMut::new(), 0);
    loop {
        let has_begun = taker.has_begun();
        let has_due = taker.has_due();
        let read = poll_fn(|cx| body.poll_read(cx, &mut buf, READ));
        let len = tokio::select! {
            biased;
            read = read => read.map_err(Failed::Foreign)?,
            heard = taker.hear(), if has_due => {
                heard?;
                continue;
            }
            () = going.said() => return Err(Failed::Going),
            // Others may come while the last ones are under way.
            () = sleep(if has_due { LINGER } else { Duration::ZERO }), if has_begun => {
                taker.flush().await?;
                continue;
            }
        };
        if len == 0 {
            break;
        }
        if records == Records::Lines {
            while let Some(at) = buf[seen..].iter().position(|byte| *byte == b'\n') {
                let mut line = buf.split_to(seen + at + 1);
                line.truncate(seen + at);
                seen = 0;
                taker.take(line.freeze()).await?;
            }
        }
        seen = buf.len();
        if seen > RECORD_MAX {
            // It is too long already.
            taker.take(buf.split().freeze()).await?;
        }
    }
    if !buf.is_empty() || records == Records::Whole {
        taker.take(Bytes::from(buf)).await?;
    }
    Ok(taker.finish().await?)
}
