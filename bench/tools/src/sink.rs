//! The end of every measured pipeline: read(2), the pipe as it was given.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;

/// Bytes of a read, if nothing else is said.
pub const READ: u64 = 1 << 20;

/// Reads stdin to its end, up to `size` bytes at a time, then prints bytes and rate, timed from the first byte to the end.
pub fn run(size: u64) -> Result<()> {
    // Not std::io::stdin, whose buffer would cut the reads to 8 KiB.
    let mut stdin = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut buffer = vec![0; usize::try_from(size)?];
    let mut bytes = stdin.read(&mut buffer)? as u64;
    let start = Instant::now();
    if bytes > 0 {
        loop {
            match stdin.read(&mut buffer)? {
                0 => break,
                n => bytes += n as u64,
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{}", json!({ "bytes": bytes, "seconds": seconds }));
    Ok(())
}
