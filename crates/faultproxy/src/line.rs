//! A long line: bytes and the end of a direction come out of it a while after they went in, in
//! order.
//!
//! One task fills it and reads it. Invariant: it holds at most `capacity` bytes and one read more.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::shape::DueTimes;

#[derive(Debug)]
pub(crate) struct Line {
    capacity: usize,
    queue: Mutex<Queue>,
    /// Something went in. At most one reader waits.
    filled: Notify,
    /// Something came out. At most one filler waits.
    taken: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
}

#[derive(Debug)]
struct Item {
    due: Instant,
    /// How much of the bytes has been taken.
    taken: usize,
    /// Empty: the end of the direction.
    what: io::Result<Box<[u8]>>,
}

impl Line {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            queue: Mutex::default(),
            filled: Notify::new(),
            taken: Notify::new(),
        }
    }

    /// Bytes under way.
    pub(crate) fn len(&self) -> usize {
        self.lock().bytes
    }

    /// Reads the source into the line until its end or error, which goes in too. Waits while the
    /// line is full.
    pub(crate) async fn fill(&self, source: &TcpStream, mut due_times: DueTimes) {
        let mut buffer = vec![0; READ_SIZE];
        loop {
            while self.len() >= self.capacity {
                self.taken.notified().await;
            }
            let what = match source
                .readable()
                .await
                .and_then(|()| source.try_read(&mut buffer))
            {
                Ok(length) => Ok(Box::<[u8]>::from(&buffer[..length])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => Err(error),
            };
            let last = !matches!(&what, Ok(bytes) if !bytes.is_empty());
            self.push(Item {
                due: due_times.next(Instant::now()),
                taken: 0,
                what,
            });
            if last {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    fn push(&self, item: Item) {
        let mut queue = self.lock();
        queue.bytes += item.what.as_ref().map_or(0, |bytes| bytes.len());
        queue.items.push_back(item);
        drop(queue);
        self.filled.notify_one();
    }

    /// As a socket's read: 0 is the end. Takes nothing before it is due. Dropping the future loses
    /// nothing.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let due = self.lock().items.front().map(|item| item.due);
            match due {
                Some(due) if due <= Instant::now() => return self.take(buffer),
                Some(due) => sleep_until(due).await,
                None => self.filled.notified().await,
            }
        }
    }

    /// What the front item has; there must be one.
    fn take(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut queue = self.lock();
        let Some(front) = queue.items.front_mut() else {
            return Ok(0);
        };
        let bytes = match &front.what {
            Ok(bytes) => &bytes[front.taken..],
            Err(error) => return Err(error.kind().into()),
        };
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        front.taken += length;
        if length == bytes.len() && length > 0 {
            queue.items.pop_front();
        }
        queue.bytes -= length;
        drop(queue);
        self.taken.notify_one();
        Ok(length)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Small enough that jitter moves parts of a transfer, large enough for 1 GB/s.
const READ_SIZE: usize = 64 << 10;
