//! Records as lines: made, kept in a file for publishers, and compared with what comes out of a reader.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::brokers::PATIENCE;
use crate::input;
use crate::process::Process;

/// A reader whose output is compared by a thread while it comes.
pub struct Compared {
    reader: Process,
    outcome: Receiver<Result<Instant>>,
}

pub fn compared(mut reader: Process, lines: &Lines, count: usize) -> Result<Compared> {
    let mut from = reader.stdout();
    let (bytes, size) = (Arc::clone(&lines.bytes), lines.size);
    let (sender, outcome) = channel();
    // Ends with the reader, which is killed when it is dropped.
    thread::spawn(move || {
        let _ = sender.send(compare(&mut from, &bytes[..count * size], size));
    });
    Ok(Compared { reader, outcome })
}

impl Compared {
    /// Seconds until the last record was there.
    pub fn ended(self, began: Instant) -> Result<f64> {
        let outcome = self.outcome.recv_timeout(PATIENCE);
        let last = outcome.context("the reader is stuck")??;
        self.reader.finish()?;
        Ok((last - began).as_secs_f64())
    }
}

/// When the last of `expected` came; an error if anything else did.
fn compare(from: &mut impl Read, expected: &[u8], size: usize) -> Result<Instant> {
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    let mut last = Instant::now();
    loop {
        let n = from.read(&mut buf)?;
        if n == 0 {
            let (came, of) = (at / size, expected.len() / size);
            ensure!(at == expected.len(), "{came} of {of} records came");
            return Ok(last);
        }
        let same = expected
            .get(at..at + n)
            .is_some_and(|part| part == &buf[..n]);
        ensure!(same, "what came behind byte {at} is not what was published");
        at += n;
        last = Instant::now();
    }
}

/// Records as lines, each another one, in a file for the publisher and here to compare with.
pub struct Lines {
    size: usize,
    pub count: usize,
    bytes: Arc<Vec<u8>>,
    path: PathBuf,
}

impl Lines {
    pub fn make(size: usize, count: usize) -> Result<Self> {
        let mut bytes = Vec::with_capacity(size * count);
        let mut random = input::blocks().flatten();
        for number in 0..count {
            write!(bytes, "{number:010} ")?;
            // Printable, six bits of each byte: no compressor gets far.
            let rest = random
                .by_ref()
                .take(size - 12)
                .map(|byte| (byte & 63) + b'0');
            bytes.extend(rest);
            bytes.push(b'\n');
        }
        let folder = input::folder(bytes.len() as u64);
        let path = folder.join(format!("farpipe-bench-lines-{}", std::process::id()));
        std::fs::write(&path, &bytes)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            size,
            count,
            bytes: Arc::new(bytes),
            path,
        })
    }

    /// A file of the first `count` records.
    pub fn first(&self, count: usize) -> Result<Stdio> {
        if count == self.count {
            return Ok(File::open(&self.path)?.into());
        }
        let part = self.path.with_extension("part");
        std::fs::write(&part, &self.bytes[..count * self.size])?;
        let file = File::open(&part)?;
        std::fs::remove_file(&part)?;
        Ok(file.into())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // What is left is in the folder for temporary files.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_compared() {
        let whole = |came: &[u8]| compare(&mut &*came, b"a\nb\n", 2).map(drop);
        assert!(whole(b"a\nb\n").is_ok());
        assert_eq!(
            whole(b"a\n").unwrap_err().to_string(),
            "1 of 2 records came"
        );
        assert!(whole(b"b\na\n").is_err());
        assert!(whole(b"a\nb\nb\n").is_err());
    }
}
