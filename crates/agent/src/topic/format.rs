//! How records stand in a stream of bytes: what `pub` reads and `sub` writes. The four kinds are known here only.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use farpipe_record::json::{Place, from_json, to_json};
use farpipe_record::{RECORD_MAX, Record};

/// The most bytes of a line of JSON: each byte of a record's may take six there.
const JSON_MAX: usize = 8 * RECORD_MAX;

/// How records stand in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// A line each, with `\n` behind; with a separator the key stands in front.
    #[default]
    Lines,
    /// Read: all of it is one record. Written: values one behind the other, with nothing between.
    Raw,
    /// An object of JSON in a line each, with key, headers and time ([`farpipe_record::json`]).
    Json,
    /// Each has its length in front as a varint, as Protobuf's delimited messages do.
    Delimited,
}

/// A kind of value that is checked when it is published, and can be told as JSON.
pub trait ValueKind: Debug + Send + Sync {
    /// Whether it is one.
    ///
    /// # Errors
    /// Why not, for whoever made it.
    fn check(&self, value: &[u8]) -> Result<(), String>;

    /// The value that this JSON says.
    ///
    /// # Errors
    /// Why there is none, for whoever made it.
    fn encode(&self, json: serde_json::Value) -> Result<Bytes, String>;

    /// The value as JSON; `None`: it is none of this kind.
    fn to_json(&self, value: &[u8]) -> Option<serde_json::Value>;
}

/// Everything that is said of a format.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    /// How records stand in the stream.
    pub format: Format,
    /// Lines: what stands before this byte is the key, and what stands behind the value; a line without it has no key.
    pub key_separator: Option<u8>,
    /// What each value has to be.
    pub kind: Option<Arc<dyn ValueKind>>,
}

/// Why a stream has no more records. What stood before it is good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {number}: {why}")]
pub struct FormatError {
    what: &'static str,
    /// Which one, counted from 1.
    number: u64,
    why: String,
}

/// Cuts a stream into records.
#[derive(Debug)]
pub struct Cutter {
    shape: Shape,
    /// What has no end yet.
    begun: BytesMut,
    /// So long has that to be before there is anything to be found in it.
    wanted: usize,
    chunk: Bytes,
    number: u64,
}

impl Cutter {
    /// Of a stream of that shape.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            begun: BytesMut::new(),
            wanted: 0,
            chunk: Bytes::new(),
            number: 0,
        }
    }

    /// What came next; all records of what came before have been taken.
    pub fn handle_chunk(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "records are left");
        self.chunk = chunk;
    }

    /// The next record, and its time if it says one; `None`: more has to come.
    ///
    /// # Errors
    /// What comes is none. The stream is to be read no further.
    pub fn poll_record(&mut self) -> Result<Option<(Record, Option<u64>)>, FormatError> {
        let cut = match self.shape.format {
            Format::Lines | Format::Json => self.line(),
            Format::Delimited => self.delimited(),
            Format::Raw => {
                self.begin();
                Ok(None)
            }
        };
        match cut.map_err(|why| self.error(why))? {
            Some(bytes) => self.record(bytes).map(Some),
            // Nothing grows beyond what a record may have.
            None if self.begun.len() > self.max() => Err(self.too_long()),
            None => Ok(None),
        }
    }

    /// The last record, which the end of the stream has ended.
    ///
    /// # Errors
    /// It is cut off, or none.
    pub fn finish(&mut self) -> Result<Option<(Record, Option<u64>)>, FormatError> {
        let last = self.begun.split().freeze();
        match self.shape.format {
            // Nothing at all is a record, too.
            Format::Raw => self.record(last).map(Some),
            _ if last.is_empty() => Ok(None),
            Format::Lines | Format::Json => self.record(last).map(Some),
            Format::Delimited => Err(self.error("the input ends within it".to_owned())),
        }
    }

    fn error(&self, why: String) -> FormatError {
        let what = match self.shape.format {
            Format::Lines | Format::Json => "line",
            Format::Raw | Format::Delimited => "record",
        };
        FormatError {
            what,
            number: self.number + 1,
            why,
        }
    }

    /// The most bytes that may wait for their end.
    fn max(&self) -> usize {
        match self.shape.format {
            Format::Lines | Format::Raw => RECORD_MAX,
            Format::Json => JSON_MAX,
            // With its length, which says the same.
            Format::Delimited => usize::MAX,
        }
    }

    fn too_long(&self) -> FormatError {
        let max = self.max().min(JSON_MAX);
        self.error(format!(
            "it has more than {max} bytes, the most that there may be"
        ))
    }

    /// Puts what came to what has no end yet.
    fn begin(&mut self) {
        self.begun.extend_from_slice(&self.chunk);
        self.chunk.clear();
    }

    fn line(&mut self) -> Result<Option<Bytes>, String> {
        let Some(at) = self.chunk.iter().position(|byte| *byte == b'\n') else {
            self.begin();
            return Ok(None);
        };
        let mut line = self.chunk.split_to(at + 1);
        line.truncate(at);
        if !self.begun.is_empty() {
            self.begun.extend_from_slice(&line);
            line = self.begun.split().freeze();
        }
        Ok(Some(line))
    }

    fn delimited(&mut self) -> Result<Option<Bytes>, String> {
        // What was begun comes first; most stand in a chunk as a whole.
        if !self.begun.is_empty() {
            self.begin();
            if self.begun.len() < self.wanted {
                return Ok(None);
            }
            self.chunk = self.begun.split().freeze();
        }
        self.wanted = 0;
        let (mut length, mut read) = (0_u64, 0);
        loop {
            let Some(byte) = self.chunk.get(read) else {
                self.begin();
                return Ok(None);
            };
            length |= u64::from(byte & 0x7f) << (7 * read);
            read += 1;
            match byte & 0x80 {
                0 => break,
                _ if read == 9 => return Err("its length is no varint".to_owned()),
                _ => {}
            }
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > RECORD_MAX {
            return Err(format!(
                "{length} bytes, and a record has {RECORD_MAX} at most"
            ));
        }
        if self.chunk.len() < read + length {
            self.wanted = read + length;
            self.begin();
            return Ok(None);
        }
        self.chunk.advance(read);
        Ok(Some(self.chunk.split_to(length)))
    }

    fn record(&mut self, bytes: Bytes) -> Result<(Record, Option<u64>), FormatError> {
        if bytes.len() > self.max() {
            return Err(self.too_long());
        }
        let made = match self.shape.format {
            Format::Json => self.of_json(&bytes),
            _ => self.plain(bytes),
        };
        let made = made.map_err(|why| self.error(why))?;
        self.number += 1;
        Ok(made)
    }

    fn plain(&self, bytes: Bytes) -> Result<(Record, Option<u64>), String> {
        let mut record = Record {
            value: bytes,
            ..Record::default()
        };
        if let Some(separator) = self.shape.key_separator
            && let Some(at) = record.value.iter().position(|byte| *byte == separator)
        {
            let mut key = record.value.split_to(at + 1);
            key.truncate(at);
            record.key = Some(key);
        }
        self.check(&record.value)?;
        Ok((record, None))
    }

    fn of_json(&self, line: &[u8]) -> Result<(Record, Option<u64>), String> {
        let said = from_json(line).map_err(|error| error.to_string())?;
        let mut record = said.record;
        match (said.value, &self.shape.kind) {
            (Some(json), Some(kind)) => record.value = kind.encode(json)?,
            (Some(json), None) => record.value = json.to_string().into(),
            (None, _) => self.check(&record.value)?,
        }
        Ok((record, said.time_ns))
    }

    fn check(&self, value: &[u8]) -> Result<(), String> {
        match &self.shape.kind {
            Some(kind) => kind.check(value),
            None => Ok(()),
        }
    }
}

/// Writes a record behind others.
pub fn put(shape: &Shape, place: Place<'_>, record: &Record, out: &mut Vec<u8>) {
    match shape.format {
        Format::Lines => {
            if let (Some(separator), Some(key)) = (shape.key_separator, &record.key) {
                out.extend_from_slice(key);
                out.push(separator);
            }
            out.extend_from_slice(&record.value);
            out.push(b'\n');
        }
        Format::Raw => out.extend_from_slice(&record.value),
        Format::Json => {
            let value = shape
                .kind
                .as_ref()
                .and_then(|kind| kind.to_json(&record.value));
            out.extend_from_slice(to_json(place, record, value).as_bytes());
            out.push(b'\n');
        }
        Format::Delimited => {
            let mut length = record.value.len();
            while length >= 0x80 {
                out.push((length & 0x7f) as u8 | 0x80);
                length >>= 7;
            }
            out.push(length as u8);
            out.extend_from_slice(&record.value);
        }
    }
}

#[cfg(test)]
mod tests;
