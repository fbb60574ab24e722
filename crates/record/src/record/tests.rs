//! What is put into a batch comes out of it.

use proptest::prelude::*;

use super::*;

fn record(value: &[u8], key: Option<&[u8]>) -> Record {
    Record {
        value: Bytes::copy_from_slice(value),
        key: key.map(Bytes::copy_from_slice),
        ..Record::default()
    }
}

fn batch(builder: BatchBuilder) -> Batch {
    let sealed = builder.seal(ProducerId([1; 16]), 2, 40).expect("a batch");
    Batch::parse(&sealed.into_bytes())
        .expect("whole")
        .expect("all")
}

#[test]
fn the_bytes_of_records_stay_what_they_are() {
    let mut builder = BatchBuilder::default();
    let mut with_all = record(b"value", Some(b"key"));
    with_all.headers.push(RecordHeader {
        name: "name".to_owned(),
        value: Bytes::from_static(b"\0\xff"),
    });
    assert_eq!(builder.push(&mut with_all, 1_000), Ok(true));
    assert_eq!(builder.push(&mut record(b"", None), 1_300), Ok(true));
    let batch = batch(builder);
    // As protoc writes it by proto/record.proto.
    let first = b"\x0a\x18\x0a\x05value\x12\x03key\x1a\x0a\x0a\x04name\x12\x02\x00\xff";
    assert_eq!(&batch.body()[..first.len()], &first[..first.len()]);
    assert_eq!(&batch.body()[first.len()..], b"\x0a\x03\x20\xac\x02");
    assert_eq!(
        (batch.header().first_ns, batch.header().last_ns),
        (1_000, 1_300)
    );
}

#[test]
fn what_no_batch_has_room_for_is_refused_and_what_this_one_has_not_comes_later() {
    let mut builder = BatchBuilder::default();
    let mut huge = record(&vec![0; RECORD_MAX], None);
    assert!(matches!(
        builder.push(&mut huge, 0),
        Err(RecordError::TooLong(_))
    ));
    let mut large = record(&vec![0; RECORD_MAX - 20], None);
    while builder.push(&mut large, 0).expect("room in some batch") {}
    assert_eq!(builder.count(), 3);
    assert_eq!(Records::of(&batch(builder)).expect("plain").count(), 3);
    assert!(
        BatchBuilder::default()
            .seal(ProducerId::NONE, 0, 0)
            .is_err()
    );
}

#[test]
fn a_part_of_a_batch_has_its_records_their_offsets_and_times() {
    let mut builder = BatchBuilder::default();
    for n in 0..5_u8 {
        assert_eq!(
            builder.push(&mut record(&[n], None), 100 + u64::from(n)),
            Ok(true)
        );
    }
    let mut sealed = builder.seal(ProducerId([1; 16]), 1, 0).expect("a batch");
    sealed.place(70, 9, 0);
    let batch = Batch::parse(&sealed.into_bytes())
        .expect("whole")
        .expect("all");
    let part = batch.part(72, 2).expect("records").expect("some");
    let values: Vec<_> = Records::of(&part)
        .expect("plain")
        .map(|one| one.expect("a record"))
        .collect();
    let of = |(offset, record): &(u64, Record)| {
        (
            *offset,
            record.value[0],
            part.header().first_ns + record.after_ns,
        )
    };
    assert_eq!(
        values.iter().map(of).collect::<Vec<_>>(),
        [(72, 2, 102), (73, 3, 103)]
    );
    assert_eq!(batch.part(75, 2), Ok(None));
    assert_eq!(
        batch
            .part(0, 71)
            .expect("records")
            .map(|part| part.header().count),
        Some(1)
    );
}

#[test]
fn a_record_that_is_earlier_than_the_first_begins_another_batch() {
    let mut builder = BatchBuilder::default();
    assert_eq!(builder.push(&mut record(b"a", None), 100), Ok(true));
    assert_eq!(builder.push(&mut record(b"b", None), 99), Ok(false));
    assert_eq!(builder.push(&mut record(b"c", None), 101), Ok(true));
    let batch = batch(builder);
    let header = batch.header();
    assert_eq!(
        (header.count, header.first_ns, header.last_ns),
        (2, 100, 101)
    );
}

#[test]
fn a_body_that_is_no_list_of_records_ends_with_an_error() {
    for body in [
        &b"\x0a\x05abc"[..],
        b"\x12\x00",
        b"\x0a",
        b"\x0a\x02\x0a\x05",
        b"\x0a\x00\x0a\x00",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    ] {
        let header = Header {
            count: 1,
            plain_len: body.len() as u32,
            ..Header::default()
        };
        let bytes = [&[0; HEADER_LEN], body].concat();
        let sealed = Sealed::new(&header, bytes).expect("its sums are right");
        let batch = Batch::parse(&sealed.into_bytes())
            .expect("whole")
            .expect("all");
        let records: Vec<_> = Records::of(&batch).expect("plain").collect();
        assert!(
            records.last().is_some_and(Result::is_err),
            "{body:?}: {records:?}"
        );
    }
}

proptest! {
    #[test]
    fn records_come_out_as_they_went_in(
        records in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), any::<bool>(), 0..9_u64), 1..50),
    ) {
        let mut builder = BatchBuilder::since(100);
        let mut all = Vec::new();
        for (value, has_key, after) in records {
            let mut record = record(&value, has_key.then_some(&value[..]));
            prop_assert_eq!(builder.push(&mut record, 100 + after), Ok(true));
            all.push(record);
        }
        let batch = batch(builder);
        let read: Result<Vec<_>, _> = Records::of(&batch).expect("plain").collect();
        let read: Vec<Record> = read.expect("records").into_iter().map(|(_, record)| record).collect();
        prop_assert_eq!(read, all);
    }
}
