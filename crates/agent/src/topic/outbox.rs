//! What a producer has said and the log has not acknowledged: kept, and sent again in another session.

use std::collections::VecDeque;

use bytes::Bytes;
use farpipe_proto::wire::topic::Stored;

/// A batch that is not acknowledged.
#[derive(Debug, Clone)]
struct Pending {
    partition: u32,
    bytes: Bytes,
    records: u64,
    /// The producer's number behind its last record.
    sequence: u64,
}

/// Why it cannot go on. The relay is to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutboxError {
    /// An answer to nothing that waits for one.
    #[error("the relay acknowledged what was not sent")]
    Odd,
    /// It knows less than it has acknowledged.
    #[error(
        "the relay has lost records that it had acknowledged: of partition {partition} it has {got}, and had {had}"
    )]
    Lost {
        /// Where.
        partition: u32,
        /// What it has.
        got: u64,
        /// What it had.
        had: u64,
    },
}

/// The batches of a producer.
#[derive(Debug, Default)]
pub struct Outbox {
    pending: VecDeque<Pending>,
    /// So many of these were sent in this session.
    sent: usize,
    bytes: usize,
    /// Of each partition, what was acknowledged.
    acked: Vec<u64>,
    /// Records that were acknowledged.
    pub records: u64,
    /// Those that had been kept before.
    pub repeated: u64,
}

impl Outbox {
    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits to be sent.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.sent == self.pending.len()
    }

    /// Whether all is acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// One more, whose records end with `sequence`.
    pub fn push(&mut self, partition: u32, bytes: Bytes, records: u64, sequence: u64) {
        self.bytes += bytes.len();
        self.pending.push_back(Pending {
            partition,
            bytes,
            records,
            sequence,
        });
    }

    /// The next one to be sent, and to which partition.
    pub fn poll_transmit(&mut self) -> Option<(u32, Bytes)> {
        let next = self.pending.get(self.sent)?;
        self.sent += 1;
        Some((next.partition, next.bytes.clone()))
    }

    /// The oldest is kept.
    ///
    /// # Errors
    /// It is another one.
    pub fn handle_stored(&mut self, stored: &Stored) -> Result<(), OutboxError> {
        let is_oldest = self.pending.front().is_some_and(|oldest| {
            (oldest.partition, oldest.sequence) == (stored.partition, stored.sequence)
        });
        if !is_oldest || self.sent == 0 {
            return Err(OutboxError::Odd);
        }
        self.sent -= 1;
        self.settle(stored.is_repeated);
        Ok(())
    }

    fn settle(&mut self, is_repeated: bool) {
        let Some(oldest) = self.pending.pop_front() else {
            return;
        };
        self.bytes -= oldest.bytes.len();
        self.records += oldest.records;
        if is_repeated {
            self.repeated += oldest.records;
        }
        self.note(oldest.partition, oldest.sequence);
    }

    fn note(&mut self, partition: u32, sequence: u64) {
        let at = partition as usize;
        if self.acked.len() <= at {
            self.acked.resize(at + 1, 0);
        }
        self.acked[at] = self.acked[at].max(sequence);
    }

    /// A new session begins, whose relay has so much of each partition: what it has need not be sent again.
    ///
    /// # Errors
    /// It has less than was acknowledged.
    pub fn resume(&mut self, sequences: &[u64]) -> Result<(), OutboxError> {
        for ((partition, got), had) in (0_u32..).zip(sequences).zip(&self.acked) {
            if got < had {
                let (got, had) = (*got, *had);
                return Err(OutboxError::Lost {
                    partition,
                    got,
                    had,
                });
            }
        }
        self.sent = 0;
        let known = |pending: &Pending| {
            let got = sequences.get(pending.partition as usize);
            got.is_some_and(|got| pending.sequence <= *got)
        };
        // Of other partitions some may wait before those that are kept.
        let (kept, rest): (Vec<_>, Vec<_>) = self.pending.drain(..).partition(known);
        for pending in kept {
            self.bytes -= pending.bytes.len();
            self.records += pending.records;
            self.note(pending.partition, pending.sequence);
        }
        self.pending.extend(rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(partition: u32, sequence: u64) -> Stored {
        Stored {
            partition,
            sequence,
            ..Stored::default()
        }
    }

    fn three() -> Outbox {
        let mut outbox = Outbox::default();
        for (partition, sequence) in [(0, 10), (1, 5), (0, 20)] {
            outbox.push(partition, Bytes::from_static(b"batch"), 5, sequence);
        }
        outbox
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_and_what_is_kept_is_not() {
        let mut outbox = three();
        while outbox.poll_transmit().is_some() {}
        assert!(outbox.is_idle());
        outbox.handle_stored(&stored(0, 10)).expect("the oldest");
        // The second arrived, and its answer did not; the third was lost.
        outbox
            .resume(&[10, 5])
            .expect("as much as was acknowledged");
        assert_eq!((outbox.records, outbox.bytes()), (10, 5));
        assert_eq!(
            outbox.poll_transmit(),
            Some((0, Bytes::from_static(b"batch")))
        );
        assert_eq!(outbox.poll_transmit(), None);
        outbox.handle_stored(&stored(0, 20)).expect("the last");
        assert!(outbox.is_empty() && outbox.records == 15);
    }

    #[test]
    fn a_relay_that_forgets_is_found_out() {
        let mut outbox = three();
        assert_eq!(
            outbox.handle_stored(&stored(0, 10)),
            Err(OutboxError::Odd),
            "not sent yet"
        );
        while outbox.poll_transmit().is_some() {}
        assert_eq!(
            outbox.handle_stored(&stored(1, 5)),
            Err(OutboxError::Odd),
            "not the oldest"
        );
        outbox.handle_stored(&stored(0, 10)).expect("the oldest");
        let lost = OutboxError::Lost {
            partition: 0,
            got: 9,
            had: 10,
        };
        assert_eq!(outbox.resume(&[9, 0]), Err(lost));
    }
}
