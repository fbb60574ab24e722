//! A record: a Protobuf message (docs/log.md section 1, `proto/record.proto`), and the batch that carries many of them.

use bytes::Bytes;
use prost::Message as _;

use crate::fold::unfolded;
use crate::walk::check;
use crate::{
    Batch, BatchError, Codec, Fold, HEADER_LEN, Header, PLAIN_MAX, ProducerId, RECORD_MAX, Sealed,
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
    first_ns: Option<u64>,
    last_ns: u64,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self {
            bytes: vec![0; HEADER_LEN],
            count: 0,
            first_ns: None,
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

    /// One whose records have no earlier time than that.
    #[must_use]
    pub fn since(first_ns: u64) -> Self {
        Self {
            first_ns: Some(first_ns),
            last_ns: first_ns,
            ..Self::default()
        }
    }

    /// Adds a record of that time; its `after_ns` is set here. `Ok(false)`: there is no room for it, or it is earlier than the
    /// first one, and the batch is as it was.
    ///
    /// # Errors
    /// No batch has room for it.
    pub fn push(&mut self, record: &mut Record, time_ns: u64) -> Result<bool, RecordError> {
        let Some(after_ns) = time_ns.checked_sub(self.first_ns.unwrap_or(time_ns)) else {
            return Ok(false);
        };
        record.after_ns = after_ns;
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
        self.first_ns.get_or_insert(time_ns);
        self.last_ns = self.last_ns.max(time_ns);
        Ok(true)
    }

    /// The batch of these records, as they are.
    ///
    /// # Errors
    /// There are none, or the producer's numbers run over.
    pub fn seal(
        self,
        producer: ProducerId,
        epoch: u32,
        base_sequence: u64,
    ) -> Result<Sealed, BatchError> {
        self.seal_folded(&mut Fold::plain(), producer, epoch, base_sequence)
    }

    /// The batch of these records, folded; as they are if that is not shorter.
    ///
    /// # Errors
    /// There are none, or the producer's numbers run over.
    pub fn seal_folded(
        self,
        fold: &mut Fold,
        producer: ProducerId,
        epoch: u32,
        base_sequence: u64,
    ) -> Result<Sealed, BatchError> {
        let plain_len = u32::try_from(self.plain_len()).unwrap_or(u32::MAX);
        let (codec, bytes) = fold.apply(self.bytes);
        let header = Header {
            count: self.count,
            first_ns: self.first_ns.unwrap_or(0),
            last_ns: self.last_ns,
            producer,
            epoch,
            base_sequence,
            codec,
            plain_len,
            ..Header::default()
        };
        Sealed::new(&header, bytes)
    }
}

impl Batch {
    /// Whether its records can be read, all of them.
    ///
    /// # Errors
    /// Why not; their producer is to blame.
    pub fn check(&self) -> Result<(), RecordError> {
        let header = self.header();
        match header.codec {
            Codec::Plain => check(&self.body(), header.count),
            Codec::Zstd => {
                let plain = unfolded(&self.body(), header.plain_len as usize)?;
                check(&plain, header.count)
            }
        }
    }

    /// The records of it from `offset` on, `count` of them at most, as a batch of nobody's. `None`: there is none of them.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn part(&self, offset: u64, count: u64) -> Result<Option<Self>, RecordError> {
        let header = self.header();
        let mut builder = BatchBuilder::since(header.first_ns);
        for record in Records::of(self)? {
            let (at, mut record) = record?;
            if at >= offset && at - offset < count {
                let time = header.first_ns.saturating_add(record.after_ns);
                // There is no room for it: what is behind it would have its offset.
                if !builder.push(&mut record, time)? {
                    break;
                }
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

/// The records of a batch, with their offsets; they share its bytes, or what came of unfolding those.
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
    /// They cannot be unfolded, or to another length than the batch says.
    pub fn of(batch: &Batch) -> Result<Self, RecordError> {
        let header = batch.header();
        let rest = match header.codec {
            Codec::Plain => batch.body(),
            Codec::Zstd => unfolded(&batch.body(), header.plain_len as usize)?,
        };
        Ok(Self {
            rest,
            next: header.base_offset,
            end: header.end_offset(),
        })
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
