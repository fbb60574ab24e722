//! Non-blocking calls, and epoll to wait with, in the two ways programs use it.
//!
//! Told of levels, a program asks before each call. Told of edges, it calls until the pipe refuses
//! and asks only then.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, read, retry_on_intr, write};

use super::{Ends, Mechanism, touched};
use crate::channel::{Pair, set_nonblocking};
use crate::run::Job;

pub(super) struct Epoll(pub(super) Trigger);

/// What epoll tells of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trigger {
    Level,
    Edge,
}

impl Mechanism for Epoll {
    fn name(&self) -> &'static str {
        match self.0 {
            Trigger::Level => "epoll, level-triggered",
            Trigger::Edge => "epoll, edge-triggered",
        }
    }

    fn open(&self, job: &Job) -> io::Result<Ends> {
        let Pair { reader, writer } = job.channel.open()?;
        let reader = End::new(reader, EventFlags::IN, self.0)?;
        let writer = End::new(writer, EventFlags::OUT, self.0)?;
        let mut outgoing = touched(job.batch);
        let mut incoming = touched(job.batch);
        Ok(Ends {
            send: Box::new(move |mut source| {
                loop {
                    let len = source.fill(&mut outgoing);
                    if len == 0 {
                        return Ok(());
                    }
                    let mut rest = &outgoing[..len];
                    while !rest.is_empty() {
                        let len = writer.call(|fd| write(fd, rest))?;
                        rest = &rest[len..];
                    }
                }
            }),
            receive: Box::new(move |check| {
                loop {
                    let len = reader.call(|fd| read(fd, &mut incoming[..]))?;
                    if len == 0 {
                        return Ok(());
                    }
                    check.take(&incoming[..len]);
                }
            }),
        })
    }
}

/// One end of a pipe and what it is waited for with.
struct End {
    fd: OwnedFd,
    epoll: OwnedFd,
    trigger: Trigger,
}

impl End {
    fn new(fd: OwnedFd, interest: EventFlags, trigger: Trigger) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = match trigger {
            Trigger::Level => interest,
            Trigger::Edge => interest | EventFlags::ET,
        };
        epoll::add(&epoll, &fd, EventData::new_u64(0), flags)?;
        Ok(Self { fd, epoll, trigger })
    }

    /// Makes `call` until it is not refused.
    fn call(
        &self,
        mut call: impl FnMut(&OwnedFd) -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        if self.trigger == Trigger::Level {
            self.wait()?;
        }
        loop {
            match retry_on_intr(|| call(&self.fd)) {
                Err(Errno::AGAIN) => self.wait()?,
                result => return Ok(result?),
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 1];
        retry_on_intr(|| epoll::wait(&self.epoll, &mut events, None).map(|_| ()))?;
        Ok(())
    }
}
