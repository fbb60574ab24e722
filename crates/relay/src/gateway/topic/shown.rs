//! What records look like on their way out: lines, server-sent events, JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farpipe_record::json::{Place, to_json};
use serde_json::json;

use crate::topics::follow::{Missing, Read, WhyMissing};

/// A record as JSON, as `farpipe sub --format json` writes it.
pub(super) fn json(read: &Read) -> String {
    let place = Place {
        topic: None,
        partition: read.partition,
        offset: read.offset,
        time_ns: read.time_ns,
    };
    to_json(place, &read.record, None)
}

/// What is told of records that cannot be had.
pub(super) fn missing(missing: &Missing) -> String {
    let told = json!({"first": missing.first, "last": missing.last});
    json!({"partition": missing.partition, name(missing): told}).to_string()
}

fn name(missing: &Missing) -> &'static str {
    match missing.why {
        WhyMissing::Damaged => "damaged",
        WhyMissing::Gone => "gone",
    }
}

/// The same for people, and for what cannot be told otherwise.
pub(super) fn words(missing: &Missing) -> String {
    let Missing {
        partition,
        first,
        last,
        why,
    } = missing;
    let why = why.words();
    format!("records {first} to {last} of partition {partition} are {why}")
}

/// An event without data: who asks again goes on behind `id`, and nothing is shown.
pub(super) fn place(id: &str, into: &mut Vec<u8>) {
    into.extend_from_slice(format!("id: {id}\n\n").as_bytes());
}

/// A record as an event. What is no text is of the type `base64`.
pub(super) fn event(id: &str, value: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(format!("id: {id}\n").as_bytes());
    match std::str::from_utf8(value) {
        Ok(text) => data(text, into),
        Err(_) => {
            into.extend_from_slice(b"event: base64\n");
            data(&STANDARD.encode(value), into);
        }
    }
}

/// Missing records as an event: `damaged` or `gone`.
pub(super) fn missing_event(id: &str, missing: &Missing, into: &mut Vec<u8>) {
    let name = name(missing);
    into.extend_from_slice(format!("id: {id}\nevent: {name}\n").as_bytes());
    data(&self::missing(missing), into);
}

/// The last event, for one who would ask again.
pub(super) fn end(into: &mut Vec<u8>) {
    into.extend_from_slice(b"event: end\n");
    data("", into);
}

/// Every end of a line that an event's reader knows begins another line: no value can be taken for a field.
fn data(text: &str, into: &mut Vec<u8>) {
    let text = text.replace("\r\n", "\n");
    for line in text.split(['\n', '\r']) {
        into.extend_from_slice(b"data: ");
        into.extend_from_slice(line.as_bytes());
        into.push(b'\n');
    }
    into.push(b'\n');
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use farpipe_record::Record;

    use super::*;

    fn text(put: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = Vec::new();
        put(&mut bytes);
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_value_is_data_whatever_it_says() {
        let shown = text(|into| event("7", b"a\nid: 9\revent: x\r\nb\r", into));
        let lines = "id: 7\ndata: a\ndata: id: 9\ndata: event: x\ndata: b\ndata: \n\n";
        assert_eq!(shown, lines);
        assert_eq!(text(|into| event("7", b"", into)), "id: 7\ndata: \n\n");
        let shown = text(|into| event("7", b"\xff\0", into));
        assert_eq!(shown, "id: 7\nevent: base64\ndata: /wA=\n\n");
    }

    #[test]
    fn json_says_what_there_is() {
        let read = |value: &'static [u8]| Read {
            partition: 1,
            offset: 5,
            time_ns: 9,
            record: Record {
                value: Bytes::from_static(value),
                key: Some(Bytes::from_static(b"k")),
                ..Record::default()
            },
        };
        let line = r#"{"key":"k","offset":5,"partition":1,"time":"1970-01-01T00:00:00.000000009Z","value":"a\n"}"#;
        assert_eq!(json(&read(b"a\n")), line);
        let line = r#"{"key":"k","offset":5,"partition":1,"time":"1970-01-01T00:00:00.000000009Z","value_base64":"/w=="}"#;
        assert_eq!(json(&read(b"\xff")), line);
        let missing = Missing {
            partition: 1,
            first: 100,
            last: 199,
            why: WhyMissing::Damaged,
        };
        let line = r#"{"damaged":{"first":100,"last":199},"partition":1}"#;
        assert_eq!(self::missing(&missing), line);
    }
}
