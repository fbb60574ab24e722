//! One run: a sender's and a receiver's thread, timed and counted.

use std::io;
use std::ops::Range;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::channel::Channel;
use crate::cores::{Placement, Side};
use crate::mechanism::{Ends, Mechanism};
use crate::others::own_cpu_time;
use crate::pattern;

/// What is to be sent, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) channel: Channel,
    /// Bytes that one call moves at most, on either side.
    pub(crate) batch: usize,
    pub(crate) size: u64,
    pub(crate) content: Content,
    pub(crate) placement: Placement,
}

/// What the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Whatever is in the sender's buffer: making and comparing bytes would be measured too.
    Any,
    /// [`pattern`], compared by the receiver.
    Pattern,
}

/// What a run took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// From the first call of the sender until the receiver has seen the end.
    pub(crate) elapsed: Duration,
    /// Of both threads, user and system.
    pub(crate) cpu: Duration,
}

/// Why a row has no figure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The system does not give what the mechanism needs.
    #[error("cannot be set up: {0}")]
    Open(#[source] io::Error),
    #[error("cannot send: {0}")]
    Send(#[source] io::Error),
    #[error("cannot receive: {0}")]
    Receive(#[source] io::Error),
    /// The mechanism is broken.
    #[error("{received} bytes came of {sent}")]
    Count { sent: u64, received: u64 },
    /// The mechanism is broken.
    #[error("byte {0} is not the one that was sent")]
    Content(u64),
}

/// Sends and receives once.
pub(crate) fn run(mechanism: &dyn Mechanism, job: &Job) -> Result<Sample, RunError> {
    let Ends { send, receive } = mechanism.open(job).map_err(RunError::Open)?;
    let mut check = Check::new(job.content);
    let start = Barrier::new(2);
    // Nothing else runs in this process meanwhile.
    let cpu_before = own_cpu_time();
    let (sent, received) = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let placed = job.placement.move_here(Side::Sender);
            start.wait();
            let began = Instant::now();
            placed.and_then(|()| send(Source::new(job))).map(|()| began)
        });
        let receiver = scope.spawn(|| {
            let placed = job.placement.move_here(Side::Receiver);
            start.wait();
            let received = placed.and_then(|()| receive(&mut check));
            received.map(|()| Instant::now())
        });
        let why = "either side returns errors and does not panic";
        (sender.join().expect(why), receiver.join().expect(why))
    });
    let cpu = own_cpu_time().saturating_sub(cpu_before);
    // A receiver that fails is why its sender fails next.
    let ended = received.map_err(RunError::Receive)?;
    let began = sent.map_err(RunError::Send)?;
    check.conclude(job.size)?;
    Ok(Sample {
        elapsed: ended - began,
        cpu,
    })
}

/// What is left to send.
#[derive(Debug)]
pub(crate) struct Source {
    offset: u64,
    size: u64,
    batch: usize,
    content: Content,
}

impl Source {
    pub(crate) fn new(job: &Job) -> Self {
        Self {
            offset: 0,
            size: job.size,
            batch: job.batch,
            content: job.content,
        }
    }

    /// Puts the next batch into `buf`; returns its length, 0 at the end.
    pub(crate) fn fill(&mut self, buf: &mut [u8]) -> usize {
        let len = self.next_len(buf.len());
        if self.content == Content::Pattern {
            pattern::fill(self.offset, &mut buf[..len]);
        }
        self.offset += len as u64;
        len
    }

    /// Where the next batch lies in memory of `len` bytes that is sent again and again; empty at
    /// the end.
    pub(crate) fn lap(&mut self, len: usize) -> Range<usize> {
        let at = usize::try_from(self.offset % len as u64).expect("less than a usize");
        let batch = self.next_len(len - at);
        self.offset += batch as u64;
        at..at + batch
    }

    fn next_len(&self, room: usize) -> usize {
        let left = usize::try_from(self.size - self.offset).unwrap_or(usize::MAX);
        self.batch.min(room).min(left)
    }
}

/// What has come.
#[derive(Debug)]
pub(crate) struct Check {
    count: u64,
    content: Content,
    mismatch: Option<u64>,
}

impl Check {
    fn new(content: Content) -> Self {
        Self {
            count: 0,
            content,
            mismatch: None,
        }
    }

    /// These came next.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        if self.content == Content::Pattern && self.mismatch.is_none() {
            self.mismatch = pattern::mismatch(self.count, bytes);
        }
        self.count_unseen(bytes.len());
    }

    /// So many came next, and nobody can look at them.
    pub(crate) fn count_unseen(&mut self, len: usize) {
        self.count += len as u64;
    }

    fn conclude(self, sent: u64) -> Result<(), RunError> {
        let received = self.count;
        match self.mismatch {
            Some(offset) => Err(RunError::Content(offset)),
            None if received != sent => Err(RunError::Count { sent, received }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Capacity, Kind};

    const JOB: Job = Job {
        channel: Channel {
            kind: Kind::Pipe,
            capacity: Capacity::Default,
        },
        batch: 1000,
        size: 2500,
        content: Content::Pattern,
        placement: Placement::Free,
    };

    /// Carries bytes in memory, through a function that may damage them.
    struct Faulty(fn(&mut Vec<u8>));

    impl Mechanism for Faulty {
        fn name(&self) -> &'static str {
            "faulty"
        }

        fn open(&self, job: &Job) -> io::Result<Ends> {
            let damage = self.0;
            let (to, from) = std::sync::mpsc::sync_channel(4);
            let mut buf = vec![0; job.batch];
            Ok(Ends {
                send: Box::new(move |mut source| {
                    let mut all = Vec::new();
                    loop {
                        let len = source.fill(&mut buf);
                        if len == 0 {
                            break;
                        }
                        all.extend_from_slice(&buf[..len]);
                    }
                    damage(&mut all);
                    to.send(all).map_err(io::Error::other)
                }),
                receive: Box::new(move |check| {
                    let all = from.recv().map_err(io::Error::other)?;
                    all.chunks(333).for_each(|piece| check.take(piece));
                    Ok(())
                }),
            })
        }
    }

    #[track_caller]
    fn fails(damage: fn(&mut Vec<u8>), expected: &str) {
        let error = run(&Faulty(damage), &JOB).expect_err("it is broken");
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn what_arrives_whole_is_a_sample() {
        run(&Faulty(|_| {}), &JOB).expect("nothing is broken");
    }

    #[test]
    fn a_mechanism_that_loses_doubles_or_changes_bytes_fails() {
        fails(|all| all.truncate(2499), "2499 bytes came of 2500");
        fails(
            |all| all.extend([0; 3]),
            "byte 2500 is not the one that was sent",
        );
        fails(
            |all| all[1234] ^= 1,
            "byte 1234 is not the one that was sent",
        );
        fails(
            |all| drop(all.drain(1000..1001)),
            "byte 1000 is not the one that was sent",
        );
    }

    #[test]
    fn unverified_bytes_are_counted_nevertheless() {
        let content = Content::Any;
        let job = Job { content, ..JOB };
        let error = run(&Faulty(|all| all.truncate(7)), &job).expect_err("it is broken");
        assert_eq!(error.to_string(), "7 bytes came of 2500");
    }

    #[test]
    fn batches_are_cut_at_the_end_of_memory_and_of_the_size() {
        let mut source = Source::new(&JOB);
        let ranges: Vec<_> = std::iter::from_fn(|| Some(source.lap(1500)))
            .take_while(|range| !range.is_empty())
            .collect();
        assert_eq!(ranges, [0..1000, 1000..1500, 0..1000]);
    }
}
