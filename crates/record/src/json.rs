//! A record as a line of JSON, for people and for `jq`: with all that belongs to it, so that what was read can be published again.
//! Bytes that are no UTF-8 stand as base64 in a field of their own (`value_base64`), so that nothing is lost.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{Record, RecordHeader};

/// Where a record stands, and when its producer says that it was made.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The topic, where whoever reads it may not know.
    pub topic: Option<&'a str>,
    /// Its partition.
    pub partition: u32,
    /// The record's offset there.
    pub offset: u64,
    /// In nanoseconds since 1970.
    pub time_ns: u64,
}

/// What a line of JSON says of a record that is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The record; its value is empty where `value` is given.
    pub record: Record,
    /// A value that is no text: as it was written, for whoever knows how it is to be encoded.
    pub value: Option<Value>,
    /// When it was made, in nanoseconds since 1970.
    pub time_ns: Option<u64>,
}

/// What a line does not say rightly. Its writer is to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// No JSON, or no object.
    #[error("it is no JSON object: {0}")]
    Syntax(String),
    /// A field that a record has not.
    #[error("a record has no field {0:?}: key, value, headers and time are known")]
    Unknown(String),
    /// A field of another kind.
    #[error("{0} is to be {1}")]
    Kind(String, &'static str),
    /// Nothing to publish.
    #[error("a record has a \"value\", or a \"value_base64\"")]
    NoValue,
}

/// The record as one line, without its end. `value`: what to show for its value, if that has a form that people read.
#[must_use]
pub fn to_json(place: Place<'_>, record: &Record, value: Option<Value>) -> String {
    let mut line = Map::new();
    if let Some(topic) = place.topic {
        line.insert("topic".to_owned(), topic.into());
    }
    line.insert("partition".to_owned(), place.partition.into());
    line.insert("offset".to_owned(), place.offset.into());
    line.insert("time".to_owned(), written(place.time_ns).into());
    if let Some(key) = &record.key {
        put(&mut line, "key", key);
    }
    match value {
        Some(value) => drop(line.insert("value".to_owned(), value)),
        None => put(&mut line, "value", &record.value),
    }
    if !record.headers.is_empty() {
        let headers = record.headers.iter().map(|header| {
            let mut one = Map::new();
            one.insert("name".to_owned(), header.name.as_str().into());
            put(&mut one, "value", &header.value);
            Value::Object(one)
        });
        line.insert("headers".to_owned(), headers.collect());
    }
    Value::Object(line).to_string()
}

fn put(line: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => line.insert(name.to_owned(), text.into()),
        Err(_) => line.insert(
            format!("{name}_base64"),
            BASE64_STANDARD.encode(bytes).into(),
        ),
    };
}

/// A time as RFC 3339 has it, in UTC; of one that this has no year for, the number.
#[must_use]
pub fn written(time_ns: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(time_ns));
    let text = time.ok().and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_else(|| time_ns.to_string())
}

/// The nanoseconds since 1970 of a time as RFC 3339 has it; `None`: it is none, or before that.
#[must_use]
pub fn parsed(text: &str) -> Option<u64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp_nanos()).ok()
}

/// What a line says. `topic`, `partition` and `offset` say where a record was read, and are passed over.
///
/// # Errors
/// [`JsonError`].
pub fn from_json(line: &[u8]) -> Result<Said, JsonError> {
    let syntax = |error: serde_json::Error| JsonError::Syntax(error.to_string());
    let fields: Map<String, Value> = serde_json::from_slice(line).map_err(syntax)?;
    let mut said = Said {
        record: Record::default(),
        value: None,
        time_ns: None,
    };
    let mut has_value = false;
    for (name, field) in fields {
        match name.as_str() {
            "topic" | "partition" | "offset" => {}
            "key" => said.record.key = Some(text(&name, field)?),
            "key_base64" => said.record.key = Some(decoded(&name, field)?),
            "value" | "value_base64" if has_value => {
                return Err(JsonError::Kind(name, "given once"));
            }
            "value" => match field {
                Value::String(text) => said.record.value = text.into(),
                other => said.value = Some(other),
            },
            "value_base64" => said.record.value = decoded(&name, field)?,
            "time" => {
                let wanted = "a time as 2026-11-27T22:04:47Z, not before 1970";
                let time = field.as_str().and_then(parsed);
                said.time_ns = Some(time.ok_or_else(|| JsonError::Kind(name.clone(), wanted))?);
            }
            "headers" => said.record.headers = headers(field)?,
            _ => return Err(JsonError::Unknown(name)),
        }
        has_value |= name.starts_with("value");
    }
    match has_value {
        true => Ok(said),
        false => Err(JsonError::NoValue),
    }
}

fn text(name: &str, field: Value) -> Result<Bytes, JsonError> {
    match field {
        Value::String(text) => Ok(text.into()),
        _ => Err(JsonError::Kind(name.to_owned(), "text")),
    }
}

fn decoded(name: &str, field: Value) -> Result<Bytes, JsonError> {
    let decoded = field.as_str().map(|text| BASE64_STANDARD.decode(text));
    match decoded {
        Some(Ok(bytes)) => Ok(bytes.into()),
        _ => Err(JsonError::Kind(name.to_owned(), "base64")),
    }
}

fn headers(field: Value) -> Result<Vec<RecordHeader>, JsonError> {
    let odd = || {
        let wanted = r#"a list of {"name": "…", "value": "…"}"#;
        JsonError::Kind("headers".to_owned(), wanted)
    };
    let Value::Array(all) = field else {
        return Err(odd());
    };
    let one = |header: Value| {
        let Value::Object(mut fields) = header else {
            return Err(odd());
        };
        let Some(Value::String(name)) = fields.remove("name") else {
            return Err(odd());
        };
        let value = match (fields.remove("value"), fields.remove("value_base64")) {
            (Some(value), None) => text("value", value)?,
            (None, Some(value)) => decoded("value_base64", value)?,
            _ => return Err(odd()),
        };
        match fields.is_empty() {
            true => Ok(RecordHeader { name, value }),
            false => Err(odd()),
        }
    };
    all.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_is_one_line_that_people_read() {
        let record = Record {
            value: Bytes::from_static(b"two\nlines"),
            key: Some(Bytes::from_static(b"\xff")),
            headers: vec![RecordHeader {
                name: "why".to_owned(),
                value: Bytes::from_static(b"none"),
            }],
            ..Record::default()
        };
        let place = Place {
            topic: Some("logs"),
            partition: 1,
            offset: 7,
            time_ns: 1_795_817_087_000_000_001,
        };
        let line = to_json(place, &record, None);
        let expected = r#"{"headers":[{"name":"why","value":"none"}],"key_base64":"/w==","offset":7,"partition":1,"time":"2026-11-27T22:04:47.000000001Z","topic":"logs","value":"two\nlines"}"#;
        assert_eq!(line, expected);
        let said = from_json(line.as_bytes()).expect("its own line");
        assert_eq!(said.record, record);
        assert_eq!((said.time_ns, said.value), (Some(place.time_ns), None));
    }

    #[test]
    fn a_line_that_is_no_record_says_why() {
        for (line, word) in [
            ("no", "no JSON object"),
            ("[1]", "no JSON object"),
            (r#"{"key":"k"}"#, "\"value\""),
            (r#"{"value":"v","Key":"k"}"#, "no field \"Key\""),
            (r#"{"value":"v","key":5}"#, "key is to be text"),
            (r#"{"value":"v","value_base64":"dg=="}"#, "once"),
            (r#"{"value_base64":"?"}"#, "base64"),
            (r#"{"value":"v","time":"yesterday"}"#, "time is to be"),
            (
                r#"{"value":"v","time":"1969-01-01T00:00:00Z"}"#,
                "time is to be",
            ),
            (r#"{"value":"v","headers":{"a":"b"}}"#, "headers is to be"),
            (
                r#"{"value":"v","headers":[{"name":"a"}]}"#,
                "headers is to be",
            ),
        ] {
            let error = from_json(line.as_bytes()).expect_err(line).to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
        // Not a stack that overflows.
        let deep = format!(
            r#"{{"value":{}1{}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert!(matches!(
            from_json(deep.as_bytes()),
            Err(JsonError::Syntax(_))
        ));
    }

    #[test]
    fn a_value_that_is_no_text_is_left_to_whoever_encodes_it() {
        let said = from_json(br#"{"value":{"a":[1,2]},"key":"k"}"#).expect("a record");
        assert_eq!(said.value, Some(serde_json::json!({"a": [1, 2]})));
    }

    proptest! {
        #[test]
        fn any_record_comes_back_from_its_line(
            value in proptest::collection::vec(any::<u8>(), 0..40),
            key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)),
            time_ns in 0..(1_u64 << 62),
        ) {
            let record = Record {
                value: value.into(),
                key: key.map(Bytes::from),
                ..Record::default()
            };
            let place = Place { topic: Some("t"), partition: 0, offset: 1, time_ns };
            let said = from_json(to_json(place, &record, None).as_bytes()).expect("its own line");
            prop_assert_eq!(said.record, record);
            prop_assert_eq!(said.time_ns, Some(time_ns));
        }
    }
}
