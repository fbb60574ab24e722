//! Records that say when they were due, and how late a reader has them.

use std::io::Read;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// Bytes of a record: its number, when it was due, what is always the same, and the line's end.
pub const SIZE: usize = 128;
const DIGITS: usize = 10;
const FIXED: usize = 2 * (DIGITS + 1);

/// Of the pipes at both ends: more than a block at any rate that is tried.
pub const PIPE: i32 = 1 << 20;

/// A block of records; what is always the same is kept from the last one.
pub fn fill(block: &mut Vec<u8>, numbers: std::ops::Range<u64>, due: u64) {
    let count = (numbers.end - numbers.start) as usize;
    while block.len() < count * SIZE {
        block.extend([b'-'; SIZE - 1]);
        block.push(b'\n');
    }
    block.truncate(count * SIZE);
    let due = digits(due);
    for (number, line) in numbers.zip(block.chunks_exact_mut(SIZE)) {
        line[..DIGITS].copy_from_slice(&digits(number));
        line[DIGITS + 1..FIXED - 1].copy_from_slice(&due);
    }
}

fn digits(mut value: u64) -> [u8; DIGITS] {
    let mut digits = [b'0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit += (value % 10) as u8;
        value /= 10;
    }
    digits
}

fn value(digits: &[u8]) -> u64 {
    let worth = |sum, digit: &u8| sum * 10 + u64::from(digit.wrapping_sub(b'0'));
    digits.iter().fold(0, worth)
}

/// What the reader has had.
#[derive(Debug, Default)]
pub struct Arrived {
    /// Microseconds between when a record was due and when it was here.
    pub late: Vec<u32>,
    /// When the first and the last one came.
    pub first: Option<Duration>,
    pub last: Duration,
    pub missing: u64,
    pub doubled: u64,
    pub failed: Option<String>,
}

/// Reads records until their end; the clock is read once for all that come together.
pub fn read(mut from: impl Read, epoch: Instant, count: u64, warm: &Sender<()>) -> Arrived {
    let mut arrived = Arrived {
        late: Vec::with_capacity(count as usize),
        ..Arrived::default()
    };
    let mut buf = vec![0; PIPE as usize];
    let (mut held, mut next) = (0, 0);
    arrived.failed = loop {
        match from.read(&mut buf[held..]) {
            Ok(0) if held == 0 => break None,
            Ok(0) => break Some("a record was cut".to_owned()),
            Ok(n) => held += n,
            Err(error) => break Some(error.to_string()),
        }
        let now = epoch.elapsed();
        let whole = held - held % SIZE;
        if let Err(error) = arrived.take(&buf[..whole], now, &mut next) {
            break Some(error.to_string());
        }
        if next == 1 {
            // The other end may have gone.
            let _ = warm.send(());
        }
        buf.copy_within(whole..held, 0);
        held -= whole;
    };
    arrived.missing += (count + 1).saturating_sub(next);
    arrived
}

impl Arrived {
    fn take(&mut self, records: &[u8], now: Duration, next: &mut u64) -> Result<()> {
        const SAME: [u8; SIZE - FIXED] = {
            let mut same = [b'-'; SIZE - FIXED];
            same[SIZE - FIXED - 1] = b'\n';
            same
        };
        let micros = now.as_micros() as u64;
        for record in records.chunks_exact(SIZE) {
            ensure!(record[FIXED..] == SAME, "record {next} was changed");
            let number = value(&record[..DIGITS]);
            if number < *next {
                self.doubled += 1;
                continue;
            }
            self.missing += number - *next;
            *next = number + 1;
            if number > 0 {
                let due = value(&record[DIGITS + 1..FIXED - 1]);
                let late = micros.saturating_sub(due);
                self.late.push(late.try_into().unwrap_or(u32::MAX));
                self.first.get_or_insert(now);
                self.last = now;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn came(blocks: &[u8], count: u64) -> Arrived {
        read(blocks, Instant::now(), count, &channel().0)
    }

    #[test]
    fn what_is_missing_or_doubled_is_counted() {
        let mut all = Vec::new();
        fill(&mut all, 0..6, 0);
        let whole = came(&all, 5);
        assert_eq!((whole.late.len(), whole.missing, whole.doubled), (5, 0, 0));
        assert_eq!(whole.failed, None);
        let gap = came(&[&all[..SIZE], &all[3 * SIZE..5 * SIZE]].concat(), 5);
        assert_eq!((gap.late.len(), gap.missing, gap.doubled), (2, 3, 0));
        let twice = came(&[&all[..], &all[5 * SIZE..]].concat(), 5);
        assert_eq!((twice.late.len(), twice.missing, twice.doubled), (5, 0, 1));
        all[SIZE - 2] = b'x';
        assert!(came(&all, 5).failed.is_some());
    }
}
