//! What a stream asks and carries that follows files (docs/protocol.md section 6.11). The agent says
//! exactly which bytes of which file it passes on, so that whoever has them can ask for what comes behind
//! in another session, though files were renamed meanwhile.

use prost::Message as _;

use crate::limits::TAIL_MESSAGE_MAX;

/// What is to be followed, and from where on.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Tail {
    /// Paths and patterns, absolute or from the home directory on.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub paths: Vec<Vec<u8>>,
    /// Of what is there at the beginning, the last so many lines.
    #[prost(uint64, tag = "2")]
    pub lines: u64,
    /// Instead, everything from this line on; the first is 1. 0: `lines` counts.
    #[prost(uint64, tag = "3")]
    pub from_line: u64,
    /// What is there, and then the end.
    #[prost(bool, tag = "4")]
    pub once: bool,
    /// It goes on with what another session began: a file without a position is new.
    #[prost(bool, tag = "5")]
    pub resumed: bool,
    /// What the opener has of which file; several of one path in the order of their content.
    #[prost(message, repeated, tag = "6")]
    pub positions: Vec<TailPosition>,
    /// Of what is there at the beginning, the last so many bytes. 0: lines count.
    #[prost(uint64, tag = "7")]
    pub bytes: u64,
    /// Instead, everything from this byte on; the first is 1. 0: the others count.
    #[prost(uint64, tag = "8")]
    pub from_byte: u64,
}

impl Tail {
    /// Bytes that it takes in OPEN.
    #[must_use]
    pub fn size(&self) -> usize {
        self.encoded_len()
    }
}

/// How far a file was read.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TailPosition {
    /// By which path it was found.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Which file it is.
    #[prost(message, optional, tag = "2")]
    pub file: Option<TailFile>,
    /// All before this was read.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    /// The last bytes before `offset`, at most 64: tells a file from another one in its place.
    #[prost(bytes = "vec", tag = "4")]
    pub last: Vec<u8>,
}

/// Which file it is, whatever its name is.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct TailFile {
    /// Its file system.
    #[prost(uint64, tag = "1")]
    pub device: u64,
    /// Its number there, which another one may have later.
    #[prost(uint64, tag = "2")]
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970; 0: the file system does not say.
    #[prost(uint64, tag = "3")]
    pub born_ns: u64,
}

/// One message of the agent: what there is of a file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TailEvent {
    /// The number of the file it is about; 0: none.
    #[prost(uint32, tag = "1")]
    pub file: u32,
    /// One of them.
    #[prost(oneof = "TailWhat", tags = "2, 3, 4")]
    pub what: Option<TailWhat>,
}

/// What is said of a file.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum TailWhat {
    /// From here on the number means this file, which is read from there on.
    #[prost(message, tag = "2")]
    Opened(TailPosition),
    /// Bytes of it.
    #[prost(message, tag = "3")]
    Data(TailData),
    /// What happened to it.
    #[prost(message, tag = "4")]
    Notice(TailNotice),
}

/// Bytes of a file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TailData {
    /// Where they begin.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// At least one.
    #[prost(bytes = "vec", tag = "2")]
    pub bytes: Vec<u8>,
}

/// What happened to a file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TailNotice {
    /// A [`TailNews`]; what is not known is skipped.
    #[prost(uint32, tag = "1")]
    pub news: u32,
    /// By which path it is known.
    #[prost(bytes = "vec", tag = "2")]
    pub path: Vec<u8>,
    /// For people.
    #[prost(string, tag = "3")]
    pub message: String,
}

/// What can happen to a file (docs/protocol.md section 6.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailNews {
    /// All that was there at the beginning has its number.
    Begun = 1,
    /// The number is over: the file is read to its end and has lost its name.
    Closed = 2,
    /// Another file has the name now.
    Rotated = 3,
    /// It has become shorter, or other bytes are where some were: it is read from its start.
    Truncated = 4,
    /// Nothing has the name now.
    Gone = 5,
    /// Nothing has had the name yet, or fits the pattern.
    Missing = 6,
    /// It cannot be read; `message` says why.
    Unreadable = 7,
    /// The policy does not allow it.
    Denied = 8,
    /// Nothing is there any more of what a position tells; how much was behind it is not known.
    Lost = 9,
    /// There are more than can be followed at once, as `message` says, or else [`TAIL_FILES_MAX`](crate::limits::TAIL_FILES_MAX) in
    /// this stream; this one is not, until there is room.
    TooMany = 10,
}

impl TailNews {
    /// What a number on the wire means.
    #[must_use]
    pub const fn from_wire(news: u32) -> Option<Self> {
        Some(match news {
            1 => Self::Begun,
            2 => Self::Closed,
            3 => Self::Rotated,
            4 => Self::Truncated,
            5 => Self::Gone,
            6 => Self::Missing,
            7 => Self::Unreadable,
            8 => Self::Denied,
            9 => Self::Lost,
            10 => Self::TooMany,
            _ => return None,
        })
    }
}

/// What is no message of such a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TailError {
    /// Beyond its limit.
    #[error("a message of {0} bytes; the limit is {TAIL_MESSAGE_MAX}")]
    TooLarge(u32),
    /// It does not have the form.
    #[error("a malformed message")]
    Malformed,
}

/// Bytes in front of a message: its length.
const LENGTH: usize = 4;

impl TailEvent {
    /// What the stream carries: the length, then the message.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let len = self.encoded_len();
        let mut bytes = Vec::with_capacity(LENGTH + len);
        let length = u32::try_from(len).expect("a message is far below 4 GiB");
        bytes.extend_from_slice(&length.to_be_bytes());
        self.encode(&mut bytes).expect("a Vec has room");
        bytes
    }

    /// The first message of `bytes`, and how long it is with its length; `None` while it is not whole.
    ///
    /// # Errors
    /// [`TailError`]: the stream is to be given up.
    pub fn from_bytes(bytes: &[u8]) -> Result<Option<(Self, usize)>, TailError> {
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length);
        let len = length as usize;
        if len > TAIL_MESSAGE_MAX {
            return Err(TailError::TooLarge(length));
        }
        let Some(message) = rest.get(..len) else {
            return Ok(None);
        };
        let event = Self::decode(message).map_err(|_| TailError::Malformed)?;
        Ok(Some((event, LENGTH + len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> TailEvent {
        TailEvent {
            file: 3,
            what: Some(TailWhat::Data(TailData {
                offset: 70_000,
                bytes: b"a line\n".to_vec(),
            })),
        }
    }

    #[test]
    fn a_message_comes_back_once_it_is_whole() {
        let bytes = data().to_bytes();
        for cut in 0..bytes.len() {
            assert_eq!(TailEvent::from_bytes(&bytes[..cut]), Ok(None), "{cut}");
        }
        let whole = TailEvent::from_bytes(&bytes);
        assert_eq!(whole, Ok(Some((data(), bytes.len()))));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let huge = [0xff; 8];
        let error = TailEvent::from_bytes(&huge);
        assert_eq!(error, Err(TailError::TooLarge(u32::MAX)));
        let odd = [0, 0, 0, 2, 0x0a, 0x7f];
        assert_eq!(TailEvent::from_bytes(&odd), Err(TailError::Malformed));
    }

    #[test]
    fn news_have_their_numbers() {
        for number in 1..=10 {
            let news = TailNews::from_wire(number).expect("a number of the table");
            assert_eq!(news as u32, number);
        }
        assert_eq!(TailNews::from_wire(0), None);
        assert_eq!(TailNews::from_wire(11), None);
    }
}
