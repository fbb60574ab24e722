//! The end of every measured pipeline: read(2) into 1 MiB, the pipe as it was given.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;

const BUFFER: usize = 1 << 20;

/// Reads stdin to its end, then prints bytes and rate, timed from the first byte to the end.
pub fn run() -> Result<()> {
    // Not std::io::stdin, whose buffer would cut the reads to 8 KiB.
    let mut stdin = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut buffer = vec![0; BUFFER];
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
