//! What is put into a stream is cut out of it again, however it comes in pieces.

use proptest::prelude::*;

use super::*;

fn shape(format: Format) -> Shape {
    Shape {
        format,
        ..Shape::default()
    }
}

/// All records of a stream that comes in pieces of that length.
fn cut(shape: Shape, stream: &[u8], piece: usize) -> Result<Vec<Record>, FormatError> {
    let mut cutter = Cutter::new(shape);
    let mut records = Vec::new();
    for chunk in stream.chunks(piece) {
        cutter.handle_chunk(Bytes::copy_from_slice(chunk));
        while let Some((record, _)) = cutter.poll_record()? {
            records.push(record);
        }
    }
    records.extend(cutter.finish()?.map(|(record, _)| record));
    Ok(records)
}

fn values(records: &[Record]) -> Vec<&[u8]> {
    records.iter().map(|record| &record.value[..]).collect()
}

#[test]
fn lines_end_with_their_ends_and_the_last_with_the_input() {
    let records = cut(shape(Format::Lines), b"a\n\nb\r\nlast", 2).expect("lines");
    assert_eq!(values(&records), [&b"a"[..], b"", b"b\r", b"last"]);
    assert_eq!(cut(shape(Format::Lines), b"", 1), Ok(vec![]));
}

#[test]
fn a_key_stands_before_its_separator() {
    let shape = Shape {
        key_separator: Some(b':'),
        ..Shape::default()
    };
    let records = cut(shape, b"k:v:w\nnone\n", 100).expect("lines");
    assert_eq!(records[0].key.as_deref(), Some(&b"k"[..]));
    assert_eq!(values(&records), [&b"v:w"[..], b"none"]);
    assert_eq!(records[1].key, None);
}

#[test]
fn raw_is_one_record_of_all_there_is() {
    let records = cut(shape(Format::Raw), b"a\nb\0", 1).expect("raw");
    assert_eq!(values(&records), [&b"a\nb\0"[..]]);
    let records = cut(shape(Format::Raw), b"", 1).expect("raw");
    assert_eq!(values(&records), [&b""[..]]);
}

#[test]
fn what_is_longer_than_a_record_is_refused_before_it_is_kept() {
    let formats = [
        (Format::Lines, RECORD_MAX),
        (Format::Raw, RECORD_MAX),
        (Format::Json, JSON_MAX),
    ];
    for (format, max) in formats {
        let long = vec![b'x'; max + 4096];
        let mut cutter = Cutter::new(shape(format));
        let mut kept = 0;
        let refused = long.chunks(4096).find_map(|chunk| {
            cutter.handle_chunk(Bytes::copy_from_slice(chunk));
            kept = kept.max(cutter.begun.len());
            cutter.poll_record().err()
        });
        let why = refused.expect("refused at once").to_string();
        let told = format!("1: it has more than {max} bytes");
        assert!(why.contains(&told), "{why}");
        assert!(kept <= max + 4096);
    }
    let why = cut(shape(Format::Delimited), b"\x81\x80\x40xx", 5).expect_err("refused");
    assert_eq!(
        why.to_string(),
        "record 1: 1048577 bytes, and a record has 1048576 at most"
    );
}

#[test]
fn a_delimited_record_that_is_cut_off_is_refused_and_those_before_are_not() {
    let mut cutter = Cutter::new(shape(Format::Delimited));
    cutter.handle_chunk(Bytes::from_static(b"\x02hi\x05hal"));
    let (record, _) = cutter.poll_record().expect("one").expect("whole");
    assert_eq!(&record.value[..], b"hi");
    assert_eq!(cutter.poll_record(), Ok(None));
    let why = cutter.finish().expect_err("cut off").to_string();
    assert_eq!(why, "record 2: the input ends within it");
    let why = cut(shape(Format::Delimited), &[0xff; 12], 1).expect_err("refused");
    assert_eq!(why.to_string(), "record 1: its length is no varint");
}

/// Values of digits only, which JSON may say as numbers.
#[derive(Debug)]
struct Digits;

impl ValueKind for Digits {
    fn check(&self, value: &[u8]) -> Result<(), String> {
        match value.iter().all(u8::is_ascii_digit) {
            true => Ok(()),
            false => Err("no number".to_owned()),
        }
    }

    fn encode(&self, json: serde_json::Value) -> Result<Bytes, String> {
        let number = json.as_u64().ok_or("no number")?;
        Ok(number.to_string().into())
    }

    fn to_json(&self, value: &[u8]) -> Option<serde_json::Value> {
        let number: u64 = std::str::from_utf8(value).ok()?.parse().ok()?;
        Some(number.into())
    }
}

#[test]
fn values_of_a_kind_are_checked_and_said_in_json_as_such() {
    let kind: Arc<dyn ValueKind> = Arc::new(Digits);
    let of = |format| Shape {
        kind: Some(Arc::clone(&kind)),
        ..shape(format)
    };
    let why = cut(of(Format::Lines), b"12\nx\n", 9).expect_err("refused");
    assert_eq!(why.to_string(), "line 2: no number");
    let lines = br#"{"value":12}
{"value":"13","time":"1970-01-01T00:00:01Z"}
"#;
    let records = cut(of(Format::Json), lines, 9).expect("records");
    assert_eq!(values(&records), [&b"12"[..], b"13"]);
    let why = cut(of(Format::Json), br#"{"value":"x"}"#, 9).expect_err("refused");
    assert_eq!(why.to_string(), "line 1: no number");
    let mut out = Vec::new();
    let place = Place {
        topic: Some("t"),
        partition: 0,
        offset: 3,
        time_ns: 0,
    };
    put(&of(Format::Json), place, &records[0], &mut out);
    let line = String::from_utf8(out).expect("text");
    assert!(line.contains(r#""value":12"#), "{line}");
    // Without a kind a value that is no text is its own JSON.
    let records = cut(shape(Format::Json), br#"{"value":{"a":1}}"#, 9).expect("records");
    assert_eq!(values(&records), [br#"{"a":1}"#]);
}

proptest! {
    #[test]
    fn what_is_written_is_read_again_in_any_pieces(
        all in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20),
        piece in 1..64_usize,
        format in prop_oneof![Just(Format::Lines), Just(Format::Json), Just(Format::Delimited)],
    ) {
        let shape = shape(format);
        let all: Vec<Record> = all
            .into_iter()
            .map(|mut value| {
                if format == Format::Lines {
                    value.retain(|byte| *byte != b'\n');
                }
                Record { value: value.into(), ..Record::default() }
            })
            .collect();
        let mut stream = Vec::new();
        for record in &all {
            let place = Place { topic: Some("t"), partition: 0, offset: 0, time_ns: 0 };
            put(&shape, place, record, &mut stream);
        }
        prop_assert_eq!(cut(shape, &stream, piece).expect("its own"), all);
    }
}
