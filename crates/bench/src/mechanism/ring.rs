//! A ring in memory that both sides see, and an eventfd for each side to sleep on.
//!
//! The sender copies a batch into the next slot and the receiver copies it out, as write and read
//! do; no system call is made unless the other side sleeps. The slots are ordinary memory of this
//! process and stand for pages that two processes have mapped: the same caches, the same copies.
//!
//! ```text
//!             taken            filled
//!               |                |
//!     [ free ][ full ][ full ][ free ]      slot number modulo slots
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, retry_on_intr, write};
use rustix::pipe::fcntl_getpipe_size;

use super::{Ends, Mechanism, touched};
use crate::run::Job;

/// With fewer the two sides could not work at the same time.
const SLOTS_MIN: usize = 2;

pub(super) struct Ring;

impl Mechanism for Ring {
    fn name(&self) -> &'static str {
        "shared memory, eventfd"
    }

    fn open(&self, job: &Job) -> io::Result<Ends> {
        // As much as the pipe it is compared with holds.
        let capacity = fcntl_getpipe_size(&job.channel.open()?.writer)?;
        let slots = (capacity / job.batch).max(SLOTS_MIN);
        let shared = Arc::new(Shared::new(slots, job.batch)?);
        let sender = Side(Arc::clone(&shared));
        let receiver = Side(shared);
        let mut outgoing = touched(job.batch);
        let mut incoming = touched(job.batch);
        Ok(Ends {
            send: Box::new(move |mut source| {
                loop {
                    let len = source.fill(&mut outgoing);
                    if len == 0 {
                        return Ok(());
                    }
                    sender.0.push(&outgoing[..len])?;
                }
            }),
            receive: Box::new(move |check| {
                loop {
                    let len = receiver.0.pop(&mut incoming)?;
                    if len == 0 {
                        return Ok(());
                    }
                    check.take(&incoming[..len]);
                }
            }),
        })
    }
}

/// What both sides see.
struct Shared {
    slots: Box<[Mutex<Slot>]>,
    /// Slots filled since the beginning; only the sender changes it.
    filled: AtomicU64,
    /// Slots emptied since the beginning; only the receiver changes it.
    taken: AtomicU64,
    /// One of the two has left.
    is_over: AtomicBool,
    sender: Sleeper,
    receiver: Sleeper,
}

/// One side uses a slot at a time, so the lock is always free; it is what lets this be safe code.
struct Slot {
    bytes: Vec<u8>,
    len: usize,
}

impl Shared {
    fn new(slots: usize, batch: usize) -> io::Result<Self> {
        let slot = || {
            let bytes = touched(batch);
            Mutex::new(Slot { bytes, len: 0 })
        };
        Ok(Self {
            slots: (0..slots).map(|_| slot()).collect(),
            filled: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            sender: Sleeper::new()?,
            receiver: Sleeper::new()?,
        })
    }

    /// Fills a slot; waits for a free one.
    fn push(&self, bytes: &[u8]) -> io::Result<()> {
        let number = self.filled.load(Ordering::Relaxed);
        let is_free = || number - self.taken.load(Ordering::SeqCst) < self.slots.len() as u64;
        self.sender.sleep_until(|| is_free() || self.is_over())?;
        if self.is_over() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut slot = self.slot(number);
        slot.bytes[..bytes.len()].copy_from_slice(bytes);
        slot.len = bytes.len();
        drop(slot);
        self.filled.store(number + 1, Ordering::SeqCst);
        self.receiver.wake()
    }

    /// Empties a slot into `buf`; waits for a full one. Returns 0 at the end.
    fn pop(&self, buf: &mut [u8]) -> io::Result<usize> {
        let number = self.taken.load(Ordering::Relaxed);
        let is_full = || self.filled.load(Ordering::SeqCst) > number;
        self.receiver.sleep_until(|| is_full() || self.is_over())?;
        if !is_full() {
            return Ok(0);
        }
        let slot = self.slot(number);
        let len = slot.len;
        buf[..len].copy_from_slice(&slot.bytes[..len]);
        drop(slot);
        self.taken.store(number + 1, Ordering::SeqCst);
        self.sender.wake()?;
        Ok(len)
    }

    fn slot(&self, number: u64) -> MutexGuard<'_, Slot> {
        let index = usize::try_from(number % self.slots.len() as u64).expect("less than a usize");
        self.slots[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }
}

/// One side's hold on the ring: the other side learns when it ends.
struct Side(Arc<Shared>);

impl Drop for Side {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
        // An eventfd that can be read can be written: only a full one refuses, and it wakes too.
        let _ = self.0.sender.wake();
        let _ = self.0.receiver.wake();
    }
}

/// How one side sleeps.
struct Sleeper {
    event: OwnedFd,
    is_asleep: AtomicBool,
}

impl Sleeper {
    fn new() -> io::Result<Self> {
        Ok(Self {
            event: eventfd(0, EventfdFlags::CLOEXEC)?,
            is_asleep: AtomicBool::new(false),
        })
    }

    /// Sequential consistency: either this side sees the other's news after it has said that it
    /// sleeps, or the other side sees that it sleeps after the news.
    fn sleep_until(&self, is_due: impl Fn() -> bool) -> io::Result<()> {
        while !is_due() {
            self.is_asleep.store(true, Ordering::SeqCst);
            if is_due() {
                self.is_asleep.store(false, Ordering::SeqCst);
                break;
            }
            let mut count = [0; 8];
            retry_on_intr(|| read(&self.event, &mut count[..]))?;
        }
        Ok(())
    }

    fn wake(&self) -> io::Result<()> {
        if self.is_asleep.swap(false, Ordering::SeqCst) {
            retry_on_intr(|| write(&self.event, &1_u64.to_ne_bytes()))?;
        }
        Ok(())
    }
}
