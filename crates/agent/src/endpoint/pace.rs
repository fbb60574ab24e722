//! Lets a pipe collect small writes.
//!
//! A producer that writes 100 bytes at a time, as fast as it can, is read in scraps: each costs a
//! system call here, a frame, and a lock that stops the producer. After a run of small reads, each
//! of which found the next bytes waiting, the reader pauses for [`PAUSE`]. A ping-pong never
//! pauses: between its messages the pipe is empty.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

/// Decides when to pause, and waits.
#[derive(Debug, Default)]
pub(super) struct Pace {
    run: u32,
    is_pausing: bool,
    timer: Option<Timer>,
}

impl Pace {
    /// A read returned `len` bytes and emptied the pipe.
    pub(super) fn handle_read(&mut self, len: usize) {
        if len < SMALL_READ {
            self.run = self.run.saturating_add(1);
        } else if self.run < RUN_BEFORE_PAUSE || len >= LARGE_READ {
            self.run = 0;
        }
    }

    /// The pipe was empty: whoever writes is not faster than we are.
    pub(super) fn handle_empty(&mut self) {
        self.run = 0;
    }

    /// The pipe had more bytes at once after a read that had emptied it.
    pub(super) fn handle_more(&mut self) {
        if self.run < RUN_BEFORE_PAUSE {
            return;
        }
        match self.start() {
            Ok(()) => self.is_pausing = true,
            // No timer, no pause: only speed is lost.
            Err(error) => {
                tracing::debug!(%error, "cannot pause between small reads");
                self.run = 0;
            }
        }
    }

    /// Ready when no pause is on.
    pub(super) fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_pausing {
            if let Some(timer) = &self.timer
                && timer.poll(cx).is_pending()
            {
                return Poll::Pending;
            }
            self.is_pausing = false;
        }
        Poll::Ready(())
    }

    fn start(&mut self) -> io::Result<()> {
        let timer = match self.timer.take() {
            Some(timer) => timer,
            None => Timer::new()?,
        };
        timer.start(PAUSE)?;
        self.timer = Some(timer);
        Ok(())
    }
}

/// tokio's clock ticks once a millisecond; this one is exact.
#[cfg(target_os = "linux")]
#[derive(Debug)]
struct Timer(tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>);

#[cfg(target_os = "linux")]
impl Timer {
    fn new() -> io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let interest = tokio::io::Interest::READABLE;
        Ok(Self(super::fd::register(fd, interest)?))
    }

    fn start(&self, pause: Duration) -> io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

        let never = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let it_value = Timespec {
            tv_sec: 0,
            tv_nsec: pause.subsec_nanos().into(),
        };
        let once = Itimerspec {
            it_interval: never,
            it_value,
        };
        // Starting anew also forgets the last expiry, so nothing need be read.
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_read_ready(cx).map(|ready| {
            if let Ok(mut guard) = ready {
                guard.clear_ready();
            }
        })
    }
}

/// Elsewhere there is no pause.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
struct Timer;

#[cfg(not(target_os = "linux"))]
impl Timer {
    fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn start(&self, _pause: Duration) -> io::Result<()> {
        Ok(())
    }

    fn poll(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// Long enough to collect tens of kilobytes of 100-byte writes, too short for a person to notice.
const PAUSE: Duration = Duration::from_micros(200);
/// A read below this is not worth a frame of its own.
const SMALL_READ: usize = 4 << 10;
/// A read from this on is worth it, pause or not.
const LARGE_READ: usize = 64 << 10;
/// Small reads in a row, each with more bytes right behind, before the first pause.
const RUN_BEFORE_PAUSE: u32 = 4;
