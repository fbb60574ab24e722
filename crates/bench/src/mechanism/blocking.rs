//! write(2) and read(2) that wait: what nearly every program does.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::{read, retry_on_intr, write};

use super::{Ends, Mechanism, touched};
use crate::channel::Pair;
use crate::run::{Check, Job};

pub(super) struct Blocking;

impl Mechanism for Blocking {
    fn name(&self) -> &'static str {
        "write, read"
    }

    fn open(&self, job: &Job) -> io::Result<Ends> {
        let Pair { reader, writer } = job.channel.open()?;
        let mut buf = touched(job.batch);
        let batch = job.batch;
        Ok(Ends {
            send: Box::new(move |mut source| {
                loop {
                    let len = source.fill(&mut buf);
                    if len == 0 {
                        return Ok(());
                    }
                    let mut rest = &buf[..len];
                    while !rest.is_empty() {
                        let len = retry_on_intr(|| write(&writer, rest))?;
                        rest = &rest[len..];
                    }
                }
            }),
            receive: Box::new(move |check| receive(&reader, touched(batch), check)),
        })
    }
}

/// Reads until the end, as much as fits into `buf` at a time.
pub(super) fn receive(reader: &OwnedFd, mut buf: Vec<u8>, check: &mut Check) -> io::Result<()> {
    loop {
        let len = retry_on_intr(|| read(reader, &mut buf[..]))?;
        if len == 0 {
            return Ok(());
        }
        check.take(&buf[..len]);
    }
}
