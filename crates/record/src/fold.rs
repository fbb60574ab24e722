//! Folding the records of a batch, and unfolding them (docs/log.md section 1): each batch by itself, so that one can be read
//! without those before it.

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};

use crate::{Codec, HEADER_LEN, RecordError};

/// The levels of zstd that may be asked for; beyond them it takes seconds a batch.
pub const ZSTD_LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

/// How a producer folds its batches. It keeps what the work needs from one batch to the next.
#[derive(Default)]
pub struct Fold(Option<Compressor<'static>>);

impl std::fmt::Debug for Fold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = if self.0.is_some() { "Zstd" } else { "Plain" };
        f.write_str(name)
    }
}

impl Fold {
    /// Not at all.
    #[must_use]
    pub fn plain() -> Self {
        Self(None)
    }

    /// Each batch into one zstd frame, by a level of [`ZSTD_LEVELS`].
    #[must_use]
    pub fn zstd(level: i32) -> Self {
        let level = level.clamp(*ZSTD_LEVELS.start(), *ZSTD_LEVELS.end());
        Self(Compressor::new(level).ok())
    }

    /// Folds what stands behind the place of a header; whether that was worth it.
    pub(crate) fn apply(&mut self, bytes: Vec<u8>) -> (Codec, Vec<u8>) {
        let Some(compressor) = &mut self.0 else {
            return (Codec::Plain, bytes);
        };
        let Ok(folded) = compressor.compress(&bytes[HEADER_LEN..]) else {
            return (Codec::Plain, bytes);
        };
        if HEADER_LEN + folded.len() >= bytes.len() {
            return (Codec::Plain, bytes);
        }
        let mut short = Vec::with_capacity(HEADER_LEN + folded.len());
        short.resize(HEADER_LEN, 0);
        short.extend_from_slice(&folded);
        (Codec::Zstd, short)
    }
}

/// What was folded. No more than `plain_len` bytes are made of it, which is a length that a batch may have.
pub(crate) fn unfolded(body: &[u8], plain_len: usize) -> Result<Bytes, RecordError> {
    let malformed = |_| RecordError::Malformed("they cannot be unfolded");
    let mut decompressor = Decompressor::new().map_err(malformed)?;
    let plain = decompressor
        .decompress(body, plain_len)
        .map_err(malformed)?;
    match plain.len() == plain_len {
        true => Ok(plain.into()),
        false => Err(RecordError::Malformed("unfolded they have another length")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, BatchBuilder, Header, ProducerId, Record, Records, Sealed};

    fn folded(fold: &mut Fold, values: &[&[u8]]) -> Batch {
        let mut builder = BatchBuilder::default();
        for value in values {
            let mut record = Record {
                value: Bytes::copy_from_slice(value),
                ..Record::default()
            };
            assert_eq!(builder.push(&mut record, 5), Ok(true));
        }
        let sealed = builder.seal_folded(fold, ProducerId([1; 16]), 1, 0);
        let batch = Batch::parse(&sealed.expect("a batch").into_bytes());
        batch.expect("whole").expect("all")
    }

    #[test]
    fn folded_records_are_the_same_and_take_less() {
        let line = b"GET /index.html 200 ".repeat(9);
        let values: Vec<&[u8]> = vec![&line; 50];
        let mut fold = Fold::zstd(3);
        // The second uses what the first has left.
        for batch in [folded(&mut fold, &values), folded(&mut fold, &values)] {
            assert_eq!(batch.header().codec, Codec::Zstd);
            assert!(batch.bytes().len() * 10 < batch.header().plain_len as usize);
            let read: Result<Vec<_>, _> = Records::of(&batch).expect("unfolded").collect();
            let read = read.expect("records");
            assert_eq!(read.len(), 50);
            assert!(read.iter().all(|(_, record)| record.value == line));
        }
    }

    #[test]
    fn what_does_not_get_shorter_stays_as_it_is() {
        let batch = folded(&mut Fold::zstd(19), &[b"x"]);
        assert_eq!(batch.header().codec, Codec::Plain);
    }

    #[test]
    fn a_frame_that_unfolds_to_more_or_less_than_its_batch_says_is_refused() {
        let frame = |plain: &[u8]| zstd::bulk::compress(plain, 3).expect("a frame");
        for (plain_len, body) in [
            (5, frame(&[0; 4_000_000])),
            (500, frame(b"ten bytes.")),
            (10, b"no frame at all".to_vec()),
        ] {
            let header = Header {
                count: 1,
                codec: Codec::Zstd,
                plain_len,
                ..Header::default()
            };
            let sealed = Sealed::new(&header, [&[0; HEADER_LEN], &body[..]].concat());
            let batch = Batch::parse(&sealed.expect("sealed").into_bytes());
            let records = Records::of(&batch.expect("whole").expect("all"));
            assert!(
                matches!(records, Err(RecordError::Malformed(_))),
                "{plain_len}"
            );
        }
    }
}
