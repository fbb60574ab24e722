//! A producer: takes its batches to the log, and says what became of each, in their order.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use farpipe_log::{Append, AppendError, Appended, SequenceError, Topic};
use farpipe_net::{ByteWriter, Messages, Stream};
use farpipe_proto::wire::topic::{
    Declined, Publish, PublishEvent, PublishWhat, Ready, Stored, WhyDeclined,
};
use farpipe_record::{Batch, ProducerId};
use tokio::sync::{mpsc, oneshot};

use super::lives::Life;
use super::{Topics, accepted, level, refuse, say};

/// Batches of a producer that were given to the log and have no answer. Policy when full: nothing more is read from it.
const WAITING_MAX: usize = 256;
/// How often a producer hears that its batches wait.
pub(super) const TELL_EACH: Duration = Duration::from_secs(1);

/// Bytes in front of a batch that say its partition.
const PARTITION: usize = 4;
/// Bytes of a batch that tell its length.
const LENGTH: usize = 8;

/// What is to be told of a batch.
enum Due {
    /// What the log will say of it.
    Answer {
        partition: u32,
        sequence: u64,
        answer: oneshot::Receiver<Result<Appended, AppendError>>,
    },
    /// It is none.
    Damaged(String),
    /// A newer life of its producer has begun.
    Fenced,
}

pub(super) async fn serve(topics: Topics, stream: Stream, ask: Publish) {
    let producer = match <[u8; 16]>::try_from(ask.producer.as_slice()) {
        Ok(id) => ProducerId(id),
        Err(_) if ask.producer.is_empty() => ProducerId::NONE,
        Err(_) => return refuse(stream, "a producer has 16 bytes".to_owned()),
    };
    let topic = match topics.topic(&ask.topic).await {
        Ok(topic) => topic,
        Err(why) => return refuse(stream, why),
    };
    let Some(life) = topics.life(&ask.topic, &topic, producer, ask.epoch).await else {
        let why = "another process publishes as this producer now";
        return refuse(stream, why.to_owned());
    };
    let (mut messages, mut writer) = accepted(stream);
    let (due, is_due) = mpsc::channel(WAITING_MAX);
    let ready = ready(&topic, &life);
    let taking = async {
        if let Err(error) = take(&topics, &ask.topic, &life, &mut messages, due).await {
            tracing::debug!("a producer of {}: {error}", ask.topic);
        }
    };
    let telling = async {
        if let Err(error) = tell(&topics, &mut writer, ready, is_due).await {
            tracing::debug!("a producer of {}: {error}", ask.topic);
        }
        writer.finish();
    };
    // With nobody to tell, no more is taken: the other end of the queue is gone.
    tokio::join!(taking, telling);
}

/// What the log knows of a producer.
fn ready(topic: &Arc<Topic>, life: &Life) -> Ready {
    let known = topic.partitions.iter();
    Ready {
        partitions: topic.settings.partitions,
        epoch: life.epoch,
        level: level(&topic.settings) as u32,
        sequences: known
            .map(|partition| partition.producer(life.producer).1)
            .collect(),
    }
}

/// Reads batches, and gives them to the log.
///
/// # Errors
/// The producer is gone.
async fn take(
    topics: &Topics,
    topic: &str,
    life: &Life,
    messages: &mut Messages,
    due: mpsc::Sender<Due>,
) -> io::Result<()> {
    loop {
        if !messages.fill(1).await? {
            return Ok(());
        }
        let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
        if !messages.fill(PARTITION + LENGTH).await? {
            return Err(cut());
        }
        let (number, rest) = messages
            .seen()
            .split_first_chunk::<PARTITION>()
            .ok_or_else(cut)?;
        let partition = u32::from_be_bytes(*number);
        let length = match Batch::length(rest) {
            Ok(Some(length)) => length,
            Ok(None) => return Err(cut()),
            Err(error) => {
                let _ = due.send(Due::Damaged(error.to_string())).await;
                return Ok(());
            }
        };
        if !messages.fill(PARTITION + length).await? {
            return Err(cut());
        }
        messages.take(PARTITION);
        let batch = match Batch::parse(&messages.take(length)) {
            Ok(Some(batch)) => batch,
            Ok(None) => return Err(cut()),
            Err(error) => {
                let _ = due.send(Due::Damaged(error.to_string())).await;
                return Ok(());
            }
        };
        if !life.is_newest() {
            let _ = due.send(Due::Fenced).await;
            return Ok(());
        }
        if (batch.header().producer, batch.header().epoch) != (life.producer, life.epoch) {
            let why = "it is another producer's, or of another life".to_owned();
            let _ = due.send(Due::Damaged(why)).await;
            return Ok(());
        }
        // What no reader could read would end each of them, here and later.
        if let Err(error) = batch.check() {
            let _ = due.send(Due::Damaged(error.to_string())).await;
            return Ok(());
        }
        let sequence = batch.header().end_sequence();
        let append = Append {
            topic: topic.to_owned(),
            partition,
            batch,
        };
        let answer = topics.log.append(append).await;
        let told = due.send(Due::Answer {
            partition,
            sequence,
            answer,
        });
        if told.await.is_err() {
            // No more is taken of this producer's.
            return Ok(());
        }
    }
}

/// Says what became of batches, until one cannot be kept.
///
/// # Errors
/// The producer is gone.
async fn tell(
    topics: &Topics,
    writer: &mut ByteWriter,
    ready: Ready,
    mut due: mpsc::Receiver<Due>,
) -> io::Result<()> {
    event(writer, PublishWhat::Ready(ready)).await?;
    while let Some(next) = due.recv().await {
        let (partition, sequence, answer) = match next {
            Due::Answer {
                partition,
                sequence,
                answer,
            } => (partition, sequence, answer),
            Due::Damaged(why) => return decline(writer, WhyDeclined::Damaged, why).await,
            Due::Fenced => {
                let why = "a newer life of this producer has begun".to_owned();
                return decline(writer, WhyDeclined::Fenced, why).await;
            }
        };
        match answered(topics, writer, answer).await? {
            Ok(appended) => {
                let stored = Stored {
                    partition,
                    sequence,
                    end_offset: appended.end_offset.unwrap_or(0),
                    is_repeated: appended.is_repeated,
                };
                event(writer, PublishWhat::Stored(stored)).await?;
            }
            Err(error) => {
                let why = match &error {
                    AppendError::Sequence(SequenceError::Fenced(_)) => WhyDeclined::Fenced,
                    AppendError::Sequence(SequenceError::OutOfOrder { .. }) => {
                        WhyDeclined::OutOfOrder
                    }
                    AppendError::Unknown { .. } => WhyDeclined::Removed,
                    AppendError::Full | AppendError::Failed(_) => WhyDeclined::Failed,
                };
                return decline(writer, why, error.to_string()).await;
            }
        }
    }
    Ok(())
}

/// The answer to a batch; while the disk is full that is said.
async fn answered(
    topics: &Topics,
    writer: &mut ByteWriter,
    mut answer: oneshot::Receiver<Result<Appended, AppendError>>,
) -> io::Result<Result<Appended, AppendError>> {
    loop {
        tokio::select! {
            answer = &mut answer => {
                let closed = || AppendError::Failed("it is closed".to_owned());
                return Ok(answer.unwrap_or_else(|_| Err(closed())));
            }
            () = tokio::time::sleep(TELL_EACH) => {
                if topics.log.is_full() {
                    let why = "the disk of the topic's relay is full, or it has no descriptors left";
                    event(writer, PublishWhat::Waiting(why.to_owned())).await?;
                }
            }
        }
    }
}

async fn decline(writer: &mut ByteWriter, why: WhyDeclined, message: String) -> io::Result<()> {
    let declined = Declined {
        why: why as u32,
        message,
    };
    event(writer, PublishWhat::Declined(declined)).await
}

async fn event(writer: &mut ByteWriter, what: PublishWhat) -> io::Result<()> {
    say(writer, &PublishEvent { what: Some(what) }).await
}
