//! What is written is read; what is damaged, cut or made up is told.

use proptest::prelude::*;

use super::*;

fn header() -> Header {
    Header {
        count: 2,
        first_ns: 5,
        last_ns: 9,
        producer: ProducerId([7; 16]),
        epoch: 3,
        base_sequence: 40,
        plain_len: 6,
        ..Header::default()
    }
}

fn sealed() -> Sealed {
    let mut bytes = vec![0xee; HEADER_LEN];
    bytes.extend_from_slice(b"abcdef");
    Sealed::new(&header(), bytes).expect("a batch")
}

#[test]
fn what_is_written_is_read_with_the_place_that_the_log_gave() {
    let mut sealed = sealed();
    sealed.place(1200, 77, 3);
    let mut bytes = sealed.into_bytes().to_vec();
    bytes.extend_from_slice(b"what comes behind");
    let batch = Batch::parse(&Bytes::from(bytes))
        .expect("no damage")
        .expect("all of it");
    assert_eq!(
        *batch.header(),
        Header {
            base_offset: 1200,
            appended_ns: 77,
            written_behind: 3,
            ..header()
        }
    );
    assert_eq!(
        (batch.header().end_offset(), batch.header().end_sequence()),
        (1202, 42)
    );
    assert_eq!(&batch.body()[..], b"abcdef");
    assert_eq!(batch.bytes().len(), HEADER_LEN + 6);
}

#[test]
fn the_bytes_of_a_batch_stay_what_they_are() {
    let mut sealed = sealed();
    sealed.place(1200, 77, 3);
    let hex: String = sealed
        .bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex, include_str!("golden.hex").trim());
}

#[test]
fn a_start_asks_for_more() {
    let bytes = sealed().into_bytes();
    for end in 0..bytes.len() {
        assert_eq!(Batch::parse(&bytes.slice(..end)), Ok(None), "{end} bytes");
    }
}

#[test]
fn a_length_beyond_the_most_is_refused_before_the_rest_has_come() {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(
        Batch::length(&bytes),
        Err(BatchError::Length(u64::from(u32::MAX) + 8))
    );
    bytes[4..].copy_from_slice(&84_u32.to_be_bytes());
    assert_eq!(Batch::length(&bytes), Err(BatchError::Length(92)));
}

#[test]
fn a_header_that_says_what_none_may_is_refused_by_both_sides() {
    let body = || [vec![0; HEADER_LEN], b"abcdef".to_vec()].concat();
    for (wrong, of) in [
        (
            "no record",
            Header {
                count: 0,
                ..header()
            },
        ),
        (
            "numbers beyond the last",
            Header {
                base_offset: u64::MAX - 1,
                ..header()
            },
        ),
        (
            "numbers beyond the last",
            Header {
                base_sequence: u64::MAX,
                ..header()
            },
        ),
        (
            "records of a length that cannot be",
            Header {
                plain_len: 1,
                ..header()
            },
        ),
        (
            "records of a length that cannot be",
            Header {
                plain_len: u32::MAX,
                ..header()
            },
        ),
        (
            "an end before its beginning",
            Header {
                first_ns: 10,
                ..header()
            },
        ),
    ] {
        assert_eq!(Sealed::new(&of, body()), Err(BatchError::Field(wrong)));
    }
    let other = Sealed::new(
        &Header {
            plain_len: 7,
            ..header()
        },
        body(),
    )
    .expect("a producer may fold");
    assert!(matches!(
        Batch::parse(&other.into_bytes()),
        Err(BatchError::Field(_))
    ));
}

proptest! {
    #[test]
    fn every_flipped_bit_is_found(at in 0..HEADER_LEN + 6, bit in 0..8) {
        let mut bytes = sealed().bytes;
        bytes[at] ^= 1_u8 << bit;
        match Batch::parse(&Bytes::from(bytes)) {
            Err(_) => {}
            // A longer one: its end is missing, for good.
            Ok(None) => prop_assert!((field::LENGTH..field::HEADER_CRC).contains(&at)),
            Ok(Some(batch)) => prop_assert!(false, "believed: {:?}", batch.header()),
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_batch(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(!matches!(Batch::parse(&Bytes::from(bytes)), Ok(Some(_))));
    }
}
