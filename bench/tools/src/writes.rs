//! A program that writes little at a time, as loggers do.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use anyhow::Result;

/// Makes `count` write(2) calls of `size` bytes on stdout.
pub fn run(size: usize, count: u64) -> Result<()> {
    // Not std::io::stdout, which would gather the writes.
    let mut stdout = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let mut line = vec![b'x'; size];
    if let Some(last) = line.last_mut() {
        *last = b'\n';
    }
    for _ in 0..count {
        stdout.write_all(&line)?;
    }
    Ok(())
}
