//! A batch: a header of fixed size, and a body that is a Protobuf message of records (docs/log.md section 1).
//!
//! Two sums, because two write it. The producer's covers what it says and the records, and travels unchanged to whoever
//! reads them, years later perhaps. The log's covers the header with the offset and the time that the log adds, so that
//! neither the body is read again when they are filled in, nor a header is believed whose offset was damaged.

use bytes::Bytes;

use crate::{BATCH_MAX, PLAIN_MAX};

#[cfg(test)]
mod tests;

/// Bytes of a batch's header.
pub const HEADER_LEN: usize = 92;

/// What each batch begins with.
pub(crate) const MAGIC: [u8; 4] = *b"fpB1";

/// Where the fields are; all numbers are big-endian.
mod field {
    pub(super) const LENGTH: usize = 4;
    pub(super) const HEADER_CRC: usize = 8;
    pub(super) const BASE_OFFSET: usize = 12;
    pub(super) const APPENDED: usize = 20;
    pub(super) const WRITTEN_BEHIND: usize = 28;
    pub(super) const BODY_CRC: usize = 32;
    pub(super) const COUNT: usize = 36;
    pub(super) const FIRST: usize = 40;
    pub(super) const LAST: usize = 48;
    pub(super) const PRODUCER: usize = 56;
    pub(super) const EPOCH: usize = 72;
    pub(super) const BASE_SEQUENCE: usize = 76;
    pub(super) const CODEC: usize = 84;
    pub(super) const RESERVED: usize = 85;
    pub(super) const PLAIN: usize = 88;
}

/// Who made a batch: 128 random bits, or the hash of a name that a person chose. Zero: nobody who could be told from
/// others, so that nothing is recognized as sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ProducerId(pub [u8; 16]);

impl ProducerId {
    /// No producer: batches are taken as they come, twice if they come twice.
    pub const NONE: Self = Self([0; 16]);

    /// The one of that name, whoever speaks for it and by which way.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let hash = blake3::hash(name.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_bytes()[..16]);
        Self(id)
    }
}

/// How a batch's records are folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// As they are.
    #[default]
    Plain,
    /// One zstd frame (RFC 8878).
    Zstd,
}

impl Codec {
    fn number(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Zstd => 1,
        }
    }

    fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Plain),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// What a batch says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// The offset of the first record; the log gives it, 0 before that.
    pub base_offset: u64,
    /// When the log took it, in nanoseconds since 1970; 0 before that.
    pub appended_ns: u64,
    /// Bytes in front of it that the log wrote together with it, by one write: what stands before those was on the disk before,
    /// if the topic promises that. 0 before the log took it.
    pub written_behind: u32,
    /// Records; at least one. Each has an offset, the next after the one before.
    pub count: u32,
    /// The earliest time of a record, in nanoseconds since 1970.
    pub first_ns: u64,
    /// The latest time of a record.
    pub last_ns: u64,
    /// Who made it.
    pub producer: ProducerId,
    /// Which life of the producer: a later one fences those before it.
    pub epoch: u32,
    /// The producer's own number of the first record; the next batch of the same producer goes on behind the last.
    pub base_sequence: u64,
    /// How the body is folded.
    pub codec: Codec,
    /// Bytes of the records, unfolded.
    pub plain_len: u32,
}

impl Header {
    /// The offset behind the last record.
    #[must_use]
    pub fn end_offset(&self) -> u64 {
        self.base_offset.saturating_add(u64::from(self.count))
    }

    /// The producer's number behind the last record.
    #[must_use]
    pub fn end_sequence(&self) -> u64 {
        self.base_sequence.saturating_add(u64::from(self.count))
    }
}

/// What is wrong with bytes that should be a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Something else stands there.
    #[error("no batch begins here")]
    Magic,
    /// A length that no batch has.
    #[error("a batch of {0} bytes; the most is {BATCH_MAX}")]
    Length(u64),
    /// The header is not what was written.
    #[error("a batch's header is damaged (its CRC32C differs)")]
    HeaderCrc,
    /// The records, or what their producer says of them, are not what was sent.
    #[error("a batch's records are damaged (their CRC32C differs)")]
    BodyCrc,
    /// The sums are right, and yet it says what no batch may.
    #[error("a batch says what none may: {0}")]
    Field(&'static str),
}

/// A batch whose sums are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    header: Header,
    bytes: Bytes,
}

impl Batch {
    /// The length in all of the batch that begins here, as its first eight bytes say; nothing else was looked at.
    ///
    /// # Errors
    /// Those bytes do not begin a batch. `Ok(None)`: there are fewer than eight.
    pub fn length(bytes: &[u8]) -> Result<Option<usize>, BatchError> {
        let seen = bytes.len().min(MAGIC.len());
        if bytes[..seen] != MAGIC[..seen] {
            return Err(BatchError::Magic);
        }
        let Some(length) = bytes.get(field::LENGTH..field::HEADER_CRC) else {
            return Ok(None);
        };
        let length = u64::from(u32_at(length, 0)) + field::HEADER_CRC as u64;
        match usize::try_from(length) {
            Ok(length) if (HEADER_LEN + 1..=BATCH_MAX).contains(&length) => Ok(Some(length)),
            _ => Err(BatchError::Length(length)),
        }
    }

    /// The same, of one whose header is whole, its records whatever they are.
    #[must_use]
    pub fn headed(bytes: &[u8]) -> Option<usize> {
        headed(bytes, BATCH_MAX)
    }

    /// The batch at the start of `bytes`, which are shared and not copied. `Ok(None)`: its end is missing.
    ///
    /// # Errors
    /// It is none, or damaged.
    pub fn parse(bytes: &Bytes) -> Result<Option<Self>, BatchError> {
        let Some(length) = Self::length(bytes)? else {
            return Ok(None);
        };
        if bytes.len() < length {
            return Ok(None);
        }
        let bytes = bytes.slice(..length);
        let header = verified(&bytes)?;
        Ok(Some(Self { header, bytes }))
    }

    /// What it says of itself.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// All of it, as it is kept and sent.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its records, folded as the header says.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.bytes.slice(HEADER_LEN..)
    }
}

/// A batch in the making or on its way into the log: whole, and its header can still be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    bytes: Vec<u8>,
}

impl Sealed {
    /// A batch of a header and the body behind its place: `bytes` begins with [`HEADER_LEN`] bytes of no meaning.
    ///
    /// # Errors
    /// It is too large, or the header says what none may.
    pub fn new(header: &Header, mut bytes: Vec<u8>) -> Result<Self, BatchError> {
        let length = bytes.len();
        if !(HEADER_LEN + 1..=BATCH_MAX).contains(&length) {
            return Err(BatchError::Length(length as u64));
        }
        check(header)?;
        bytes[..field::LENGTH].copy_from_slice(&MAGIC);
        put_u32(
            &mut bytes,
            field::LENGTH,
            (length - field::HEADER_CRC) as u32,
        );
        put_u64(&mut bytes, field::BASE_OFFSET, header.base_offset);
        put_u64(&mut bytes, field::APPENDED, header.appended_ns);
        put_u32(&mut bytes, field::WRITTEN_BEHIND, header.written_behind);
        put_u32(&mut bytes, field::COUNT, header.count);
        put_u64(&mut bytes, field::FIRST, header.first_ns);
        put_u64(&mut bytes, field::LAST, header.last_ns);
        bytes[field::PRODUCER..field::EPOCH].copy_from_slice(&header.producer.0);
        put_u32(&mut bytes, field::EPOCH, header.epoch);
        put_u64(&mut bytes, field::BASE_SEQUENCE, header.base_sequence);
        bytes[field::CODEC] = header.codec.number();
        bytes[field::RESERVED..field::PLAIN].fill(0);
        put_u32(&mut bytes, field::PLAIN, header.plain_len);
        let body = crc32c::crc32c(&bytes[field::COUNT..]);
        put_u32(&mut bytes, field::BODY_CRC, body);
        seal_header(&mut bytes);
        Ok(Self { bytes })
    }

    /// A batch that has come, to be given an offset. It is copied if others hold its bytes.
    #[must_use]
    pub fn of(batch: Batch) -> Self {
        Self {
            bytes: batch.bytes.into(),
        }
    }

    /// Gives it its place in the log, and the time; see [`Header`]. The records are not read for it.
    pub fn place(&mut self, base_offset: u64, appended_ns: u64, written_behind: u32) {
        put_u64(&mut self.bytes, field::BASE_OFFSET, base_offset);
        put_u64(&mut self.bytes, field::APPENDED, appended_ns);
        put_u32(&mut self.bytes, field::WRITTEN_BEHIND, written_behind);
        seal_header(&mut self.bytes);
    }

    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All of it, to be shared.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes.into()
    }
}

/// What the header says, once both sums are right.
fn verified(bytes: &[u8]) -> Result<Header, BatchError> {
    if u32_at(bytes, field::HEADER_CRC) != header_crc(bytes) {
        return Err(BatchError::HeaderCrc);
    }
    if u32_at(bytes, field::BODY_CRC) != crc32c::crc32c(&bytes[field::COUNT..]) {
        return Err(BatchError::BodyCrc);
    }
    let mut producer = ProducerId::NONE;
    producer
        .0
        .copy_from_slice(&bytes[field::PRODUCER..field::EPOCH]);
    let codec = Codec::of(bytes[field::CODEC]).ok_or(BatchError::Field("an unknown codec"))?;
    let header = Header {
        base_offset: u64_at(bytes, field::BASE_OFFSET),
        appended_ns: u64_at(bytes, field::APPENDED),
        written_behind: u32_at(bytes, field::WRITTEN_BEHIND),
        count: u32_at(bytes, field::COUNT),
        first_ns: u64_at(bytes, field::FIRST),
        last_ns: u64_at(bytes, field::LAST),
        producer,
        epoch: u32_at(bytes, field::EPOCH),
        base_sequence: u64_at(bytes, field::BASE_SEQUENCE),
        codec,
        plain_len: u32_at(bytes, field::PLAIN),
    };
    check(&header)?;
    if codec == Codec::Plain && header.plain_len as usize != bytes.len() - HEADER_LEN {
        return Err(BatchError::Field(
            "another length of its records than it has",
        ));
    }
    Ok(header)
}

/// Where that begins of which the producer's sum is made.
pub(crate) const SUMMED_FROM: usize = field::COUNT;

/// The length of the batch whose header begins here and is whole, if that is `max` at most.
pub(crate) fn headed(bytes: &[u8], max: usize) -> Option<usize> {
    let length = Batch::length(bytes).ok()??;
    let is_whole = bytes.len() >= HEADER_LEN
        && length <= max
        && u32_at(bytes, field::HEADER_CRC) == header_crc(bytes);
    is_whole.then_some(length)
}

/// How many records a batch has whose header is whole.
pub(crate) fn count_of(bytes: &[u8]) -> u32 {
    u32_at(bytes, field::COUNT)
}

/// What the producer's sum is off by, of a batch whose header is whole.
pub(crate) fn body_off_by(bytes: &[u8]) -> u32 {
    u32_at(bytes, field::BODY_CRC) ^ crc32c::crc32c(&bytes[SUMMED_FROM..])
}

/// What holds for every header.
fn check(header: &Header) -> Result<(), BatchError> {
    let count = u64::from(header.count);
    if count == 0 {
        return Err(BatchError::Field("no record"));
    }
    if header.base_offset.checked_add(count).is_none()
        || header.base_sequence.checked_add(count).is_none()
    {
        return Err(BatchError::Field("numbers beyond the last"));
    }
    if header.plain_len as usize > PLAIN_MAX || u64::from(header.plain_len) < count {
        return Err(BatchError::Field("records of a length that cannot be"));
    }
    if header.first_ns > header.last_ns {
        return Err(BatchError::Field("an end before its beginning"));
    }
    Ok(())
}

/// The log's sum: of the header's fields but its own, the length among them.
fn header_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(
        crc32c::crc32c(&bytes[..field::HEADER_CRC]),
        &bytes[field::BASE_OFFSET..HEADER_LEN],
    )
}

fn seal_header(bytes: &mut [u8]) {
    let crc = header_crc(bytes);
    put_u32(bytes, field::HEADER_CRC, crc);
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(number)
}

fn put_u32(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at..at + 8].copy_from_slice(&number.to_be_bytes());
}
