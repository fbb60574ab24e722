//! vmsplice(2): the sender's own pages go into the pipe, and read(2) copies them out.
//!
//! One copy less than write(2), at a price: what was sent must not change until it has been read.
//! So a sender goes through as much memory as the pipe holds and a batch more; then what it comes
//! back to has left the pipe. The pages are not given away (`SPLICE_F_GIFT`): that only matters to
//! a receiver that moves pages on, and read(2) does not.

mod pages;

use std::io;
use std::sync::Arc;

use super::{Ends, Mechanism, blocking, touched};
use crate::channel::Pair;
use crate::run::{Content, Job};
use pages::{Pages, WriteEnd};

pub(super) struct Vmsplice;

impl Mechanism for Vmsplice {
    fn name(&self) -> &'static str {
        "vmsplice, read"
    }

    fn open(&self, job: &Job) -> io::Result<Ends> {
        let Pair { reader, writer } = job.channel.open()?;
        let writer = WriteEnd::new(writer)?;
        let len = match job.content {
            Content::Any => (writer.capacity()? + job.batch).next_multiple_of(job.batch),
            // Everything lies there once, so that it is the pattern to its end.
            Content::Pattern => usize::try_from(job.size).map_err(io::Error::other)?,
        };
        let pages = Arc::new(Pages::patterned(len));
        // Until the last byte has been read the pipe holds pages of it.
        let held = Arc::clone(&pages);
        let buf = touched(job.batch);
        Ok(Ends {
            send: Box::new(move |mut source| {
                loop {
                    let range = source.lap(pages.len());
                    if range.is_empty() {
                        return Ok(());
                    }
                    let mut at = range.start;
                    while at < range.end {
                        at += writer.splice(&pages, at..range.end)?;
                    }
                }
            }),
            receive: Box::new(move |check| {
                let result = blocking::receive(&reader, buf, check);
                drop(held);
                result
            }),
        })
    }
}
