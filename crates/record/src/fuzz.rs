//! Fuzz targets of batches and records (docs/fuzzing.md). Whatever comes, a target panics only when a rule is broken that it
//! names.

use bytes::Bytes;

use crate::{Batch, HEADER_LEN, Header, Records, Sealed};

/// Bytes that should be a batch, and as the records of one whose sums are right.
pub fn batch(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    if let Ok(Some(batch)) = Batch::parse(&bytes) {
        read(&batch);
        let again = [&[0; HEADER_LEN], &batch.body()[..]].concat();
        let sealed = Sealed::new(batch.header(), again).expect("it was one");
        assert_eq!(
            sealed.bytes(),
            &batch.bytes()[..],
            "made again it is the same"
        );
    }
    let Some((count, body)) = input.split_first() else {
        return;
    };
    let header = Header {
        count: u32::from(*count),
        plain_len: u32::try_from(body.len()).unwrap_or(u32::MAX),
        ..Header::default()
    };
    if let Ok(sealed) = Sealed::new(&header, [&[0; HEADER_LEN], body].concat()) {
        let batch = Batch::parse(&sealed.into_bytes());
        read(&batch.expect("its sums are right").expect("it is whole"));
    }
}

fn read(batch: &Batch) {
    let passes = batch.check().is_ok();
    let Ok(records) = Records::of(batch) else {
        assert!(!passes, "what passes can be read");
        return;
    };
    let mut next = batch.header().base_offset;
    let mut is_over = false;
    for record in records {
        assert!(!is_over, "nothing comes behind an error");
        match record {
            Ok((offset, _)) => {
                assert_eq!(offset, next, "offsets have no gap");
                next += 1;
            }
            Err(_) => is_over = true,
        }
    }
    assert!(!(passes && is_over), "what passes can be read");
    assert!(
        is_over || next == batch.header().end_offset(),
        "all of them or an error"
    );
}
