//! A record: a Protobuf message (docs/log.md section 1, `proto/record.proto`), and the batch that carries many of them.

use bytes::Bytes;
use prost::Message as _;

use crate::{
    Batch, BatchError, Codec, HEADER_LEN, Header, PLAIN_MAX, ProducerId, RECORD_MAX, Sealed,
};

#[cfg(test)]
mod tests;

/// What a producer has said at one time.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Record {
    /// What it is about.
    #[prost(bytes = "bytes", tag = "1")]
    pub value: Bytes,
    /// Records of the same key are in one partition, in their order.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub key: Option<Bytes>,
    /// What else there is to say of it.
    #[prost(message, repeated, tag = "3")]
    pub headers: Vec<RecordHeader>,
    /// When, in nanoseconds behind the first time of its batch.
    #[prost(uint64, tag = "4")]
    pub after_ns: u64,
}

/// A name and a value.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RecordHeader {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// What stands in front of a record in a body: a field's tag, and the record's length as a varint. So a body is a Protobuf
/// message, too: `message Records { repeated Record records = 1; }`.
const TAG: u8 = 0x0a;

/// What cannot be put into a batch, or read out of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A record beyond the limit.
    #[error("a record of {0} bytes; the most is {RECORD_MAX}")]
    TooLong(usize),
    /// The sums are right, and yet it is no list of records.
    #[error("a batch whose records cannot be read: {0}")]
    Malformed(&'static str),
}

/// A batch in the making.
#[derive(Debug)]
pub struct BatchBuilder {
    bytes: Vec<u8>,
    count: u32,
    first_ns: u64,
    last_ns: u64,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self {
            bytes: vec![0; HEADER_LEN],
            count: 0,
            first_ns: 0,
            last_ns: 0,
        }
    }
}

impl BatchBuilder {
    /// Records so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of them.
    #[must_use]
    pub fn plain_len(&self) -> usize {
        self.bytes.len() - HEADER_LEN
    }

    /// Adds a record of that time; its `after_ns` is set here. One that is earlier than the first has the first one's time.
    /// `Ok(false)`: there is no room for it, and the batch is as it was.
    ///
    /// # Errors
    /// No batch has room for it.
    pub fn push(&mut self, record: &mut Record, time_ns: u64) -> Result<bool, RecordError> {
        if self.count == 0 {
            (self.first_ns, self.last_ns) = (time_ns, time_ns);
        }
        record.after_ns = time_ns.saturating_sub(self.first_ns);
        let len = record.encoded_len();
        if len > RECORD_MAX {
            return Err(RecordError::TooLong(len));
        }
        if self.plain_len() + len + 6 > PLAIN_MAX - HEADER_LEN {
            return Ok(false);
        }
        self.bytes.push(TAG);
        prost::encode_length_delimiter(len, &mut self.bytes)
            .map_err(|_| RecordError::TooLong(len))?;
        record
            .encode(&mut self.bytes)
            .map_err(|_| RecordError::TooLong(len))?;
        self.count += 1;
        self.last_ns = self.last_ns.max(time_ns);
        Ok(true)
    }

    /// The batch of these records.
    ///
    /// # Errors
    /// There are none, or the producer's numbers run over.
    pub fn seal(
        self,
        producer: ProducerId,
        epoch: u32,
        base_sequence: u64,
    ) -> Result<Sealed, BatchError> {
        let header = Header {
            count: self.count,
            first_ns: self.first_ns,
            last_ns: self.last_ns,
            producer,
            epoch,
            base_sequence,
            codec: Codec::Plain,
            plain_len: u32::try_from(self.plain_len()).unwrap_or(u32::MAX),
            ..Header::default()
        };
        Sealed::new(&header, self.bytes)
    }
}

impl Batch {
    /// The records of it from `offset` on, `count` of them at most, as a batch of nobody's. `None`: there is none of them.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn part(&self, offset: u64, count: u64) -> Result<Option<Self>, RecordError> {
        let header = self.header();
        let mut builder = BatchBuilder::default();
        for record in Records::of(self)? {
            let (at, mut record) = record?;
            if at >= offset && at - offset < count {
                let time = header.first_ns.saturating_add(record.after_ns);
                builder.push(&mut record, time)?;
            }
        }
        if builder.count() == 0 {
            return Ok(None);
        }
        let odd = |_| RecordError::Malformed("what no batch may be");
        let mut part = builder.seal(ProducerId::NONE, 0, 0).map_err(odd)?;
        part.place(offset.max(header.base_offset), header.appended_ns, 0);
        Self::parse(&part.into_bytes()).map_err(odd)
    }
}

/// The records of a batch, with their offsets; they share its bytes.
#[derive(Debug)]
pub struct Records {
    rest: Bytes,
    next: u64,
    end: u64,
}

impl Records {
    /// Those of a batch.
    ///
    /// # Errors
    /// They are folded in a way that is not known here.
    pub fn of(batch: &Batch) -> Result<Self, RecordError> {
        let header = batch.header();
        match header.codec {
            Codec::Plain => Ok(Self {
                rest: batch.body(),
                next: header.base_offset,
                end: header.end_offset(),
            }),
            Codec::Zstd => Err(RecordError::Malformed("they are compressed")),
        }
    }

    fn read(&mut self) -> Result<Record, RecordError> {
        let malformed = RecordError::Malformed;
        if self.rest.first() != Some(&TAG) {
            return Err(malformed("another field than a record"));
        }
        let mut rest = self.rest.slice(1..);
        let len = prost::decode_length_delimiter(&mut rest).map_err(|_| malformed("a length"))?;
        if len > rest.len() {
            return Err(malformed("a record that is cut off"));
        }
        let record = Record::decode(rest.split_to(len)).map_err(|_| malformed("a record"))?;
        self.rest = rest;
        Ok(record)
    }
}

impl Iterator for Records {
    type Item = Result<(u64, Record), RecordError>;

    /// The next one. After an error there is none.
    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.end {
            let is_odd = !self.rest.is_empty();
            self.rest = Bytes::new();
            return is_odd.then_some(Err(RecordError::Malformed("more than it says")));
        }
        match self.read() {
            Ok(record) => {
                let offset = self.next;
                self.next += 1;
                Some(Ok((offset, record)))
            }
            Err(error) => {
                (self.next, self.rest) = (self.end, Bytes::new());
                Some(Err(error))
            }
        }
    }
}
