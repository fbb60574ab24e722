//! splice(2) from a file in memory into the pipe, and from the pipe to /dev/null.
//!
//! No byte is copied and none is looked at: this is what is left of a pipe's price when programs
//! only pass bytes on, and more than any receiver that wants to see them can have. Where the bytes
//! are verified they go into a second file, which is read afterwards.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use rustix::io::retry_on_intr;
use rustix::pipe::SpliceFlags;

use super::{Ends, Mechanism, blocking, touched};
use crate::channel::Pair;
use crate::pattern;
use crate::run::{Content, Job};

/// What is sent again and again: like vmsplice's memory, larger than a pipe, in the caches of a
/// server's processor.
const FILE_SIZE: usize = 2 << 20;

pub(super) struct Splice;

impl Mechanism for Splice {
    fn name(&self) -> &'static str {
        "splice, to /dev/null"
    }

    fn open(&self, job: &Job) -> io::Result<Ends> {
        let Pair { reader, writer } = job.channel.open()?;
        let batch = job.batch;
        let len = match job.content {
            Content::Any => FILE_SIZE,
            // Everything lies there once, so that it is the pattern to its end.
            Content::Pattern => usize::try_from(job.size).map_err(io::Error::other)?,
        };
        let file = patterned(len)?;
        let sink = match job.content {
            Content::Any => File::options().write(true).open("/dev/null")?,
            Content::Pattern => memory()?,
        };
        let content = job.content;
        Ok(Ends {
            send: Box::new(move |mut source| {
                loop {
                    let range = source.lap(len);
                    if range.is_empty() {
                        return Ok(());
                    }
                    let mut at = range.start as u64;
                    while at < range.end as u64 {
                        let wanted = range.end - usize::try_from(at).map_err(io::Error::other)?;
                        // Advances `at`.
                        retry_on_intr(|| {
                            let flags = SpliceFlags::empty();
                            rustix::pipe::splice(&file, Some(&mut at), &writer, None, wanted, flags)
                        })?;
                    }
                }
            }),
            receive: Box::new(move |check| {
                let splice = || {
                    let flags = SpliceFlags::empty();
                    rustix::pipe::splice(&reader, None, &sink, None, batch, flags)
                };
                match content {
                    Content::Any => loop {
                        match retry_on_intr(splice)? {
                            0 => return Ok(()),
                            len => check.count_unseen(len),
                        }
                    },
                    Content::Pattern => {
                        while retry_on_intr(splice)? > 0 {}
                        (&sink).rewind()?;
                        blocking::receive(&OwnedFd::from(sink), touched(batch), check)
                    }
                }
            }),
        })
    }
}

fn patterned(len: usize) -> io::Result<File> {
    let mut bytes = vec![0; len];
    pattern::fill(0, &mut bytes);
    let mut file = memory()?;
    file.write_all(&bytes)?;
    Ok(file)
}

fn memory() -> io::Result<File> {
    let fd = rustix::fs::memfd_create("farpipe-bench", MemfdFlags::CLOEXEC)?;
    Ok(fd.into())
}
