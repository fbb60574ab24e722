//! What streams ask and carry that publish to topics and read them (docs/protocol.md section 6.13). The other end is
//! the relay that keeps the topics. Batches of records (docs/log.md section 1) pass as they are kept, between messages
//! that are framed by their length.

use crate::limits::TOPIC_MESSAGE_MAX;

/// What is asked of the topics of a relay.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TopicAsk {
    /// One of them.
    #[prost(oneof = "TopicWant", tags = "1, 2, 3, 4, 5, 6")]
    pub want: Option<TopicWant>,
}

/// The kinds of [`TopicAsk`].
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum TopicWant {
    /// To publish to one.
    #[prost(message, tag = "1")]
    Publish(Publish),
    /// To read one.
    #[prost(message, tag = "2")]
    Subscribe(Subscribe),
    /// To make one, or to say anew how it is kept.
    #[prost(message, tag = "3")]
    Create(TopicSettings),
    /// To take one away, with all its records.
    #[prost(string, tag = "4")]
    Remove(String),
    /// What there is of those whose names begin so; empty: of all.
    #[prost(string, tag = "5")]
    List(String),
    /// To set where a group goes on, or to forget it.
    #[prost(message, tag = "6")]
    Group(GroupAsk),
}

/// A producer of records. The stream carries, in its direction, a partition's number (`u32`, big-endian) and a batch, again
/// and again; in the other direction [`PublishEvent`]s.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Publish {
    /// The topic's name.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// 16 bytes that tell this producer from all others; empty: repeated batches are not recognized.
    #[prost(bytes = "vec", tag = "2")]
    pub producer: Vec<u8>,
    /// Its life, which [`Ready`] told it; 0: a new one, which fences those before it.
    #[prost(uint32, tag = "3")]
    pub epoch: u32,
}

/// A message to a producer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PublishEvent {
    /// One of them.
    #[prost(oneof = "PublishWhat", tags = "1, 2, 3, 4")]
    pub what: Option<PublishWhat>,
}

/// The kinds of [`PublishEvent`].
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum PublishWhat {
    /// The topic is there, and this is what it holds of this producer.
    #[prost(message, tag = "1")]
    Ready(Ready),
    /// A batch is kept.
    #[prost(message, tag = "2")]
    Stored(Stored),
    /// Batches are not kept for the time being, and not lost: what there is to say of that.
    #[prost(string, tag = "3")]
    Waiting(String),
    /// A batch cannot be kept, and none behind it: RESET follows.
    #[prost(message, tag = "4")]
    Declined(Declined),
}

/// The topic is there.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Ready {
    /// Into so many partitions.
    #[prost(uint32, tag = "1")]
    pub partitions: u32,
    /// The producer's life.
    #[prost(uint32, tag = "2")]
    pub epoch: u32,
    /// What [`Stored`] promises: a [`Level`].
    #[prost(uint32, tag = "3")]
    pub level: u32,
    /// Of each partition, the number behind the producer's last record in it.
    #[prost(uint64, repeated, tag = "4")]
    pub sequences: Vec<u64>,
}

/// A batch is kept.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Stored {
    /// In this partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// The producer's number behind its last record.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// The offset behind its last record; 0: it had been kept before, too long ago to know where.
    #[prost(uint64, tag = "3")]
    pub end_offset: u64,
    /// It had been kept before.
    #[prost(bool, tag = "4")]
    pub is_repeated: bool,
}

/// No more is kept of this producer's.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Declined {
    /// A [`WhyDeclined`]; what is not known counts as [`WhyDeclined::Failed`].
    #[prost(uint32, tag = "1")]
    pub why: u32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// Why no more is kept of a producer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyDeclined {
    /// The log cannot write: it says why.
    Failed = 1,
    /// The producer has a newer life.
    Fenced = 2,
    /// A batch does not go on where the one before it ended.
    OutOfOrder = 3,
    /// What came is no batch, or a damaged one.
    Damaged = 4,
    /// The topic was removed.
    Removed = 5,
}

impl WhyDeclined {
    /// What a number on the wire means.
    #[must_use]
    pub const fn from_wire(why: u32) -> Self {
        match why {
            2 => Self::Fenced,
            3 => Self::OutOfOrder,
            4 => Self::Damaged,
            5 => Self::Removed,
            _ => Self::Failed,
        }
    }
}

/// What has become of a record that is said to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It is in the system's memory; a loss of power loses it.
    Os = 1,
    /// The same, and on the disk within the time that the topic says.
    Interval = 2,
    /// It is on the disk.
    Disk = 3,
}

impl Level {
    /// What people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Os => "os",
            Self::Interval => "interval",
            Self::Disk => "disk",
        }
    }

    /// What a number on the wire means.
    #[must_use]
    pub const fn from_wire(level: u32) -> Option<Self> {
        Some(match level {
            1 => Self::Os,
            2 => Self::Interval,
            3 => Self::Disk,
            _ => return None,
        })
    }
}

/// A reader of records. The stream carries [`ConsumerSays`] in its direction, and [`SubscribeEvent`]s in the other.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Subscribe {
    /// The topic's name.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// The group whose member it is; empty: it reads all for itself, and nothing is remembered.
    #[prost(string, tag = "2")]
    pub group: String,
    /// Where to begin what has no place in `positions`, nor in the group.
    #[prost(message, optional, tag = "3")]
    pub from: Option<From>,
    /// Where to go on, of a reader without a group.
    #[prost(message, repeated, tag = "4")]
    pub positions: Vec<Position>,
    /// These partitions only; empty: all, or those that the group gives it.
    #[prost(uint32, repeated, tag = "5")]
    pub partitions: Vec<u32>,
    /// It wants to hear where the records end that were there when it came.
    #[prost(bool, tag = "6")]
    pub until_end: bool,
    /// As a member: so many records of a partition may be under way to it and not done; 0: the relay's default.
    #[prost(uint32, tag = "7")]
    pub in_flight_max: u32,
    /// As a member: a record whose reader went away so often is put aside; 0: the relay's default.
    #[prost(uint32, tag = "8")]
    pub deliveries_max: u32,
    /// As a member that comes back: what it has dealt with, and not heard that it is remembered.
    #[prost(message, repeated, tag = "9")]
    pub written: Vec<Written>,
}

/// Records that a member has dealt with, of a partition that it had been given.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Written {
    /// The partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// Where it had begun with it.
    #[prost(uint64, tag = "2")]
    pub from: u64,
    /// Behind the last one.
    #[prost(uint64, tag = "3")]
    pub to: u64,
}

/// Where reading begins.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct From {
    /// One of them; none: at the end.
    #[prost(oneof = "FromWhere", tags = "1, 2, 3, 4")]
    pub place: Option<FromWhere>,
}

/// The kinds of [`From`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Oneof)]
pub enum FromWhere {
    /// At the first record that is kept.
    #[prost(bool, tag = "1")]
    Earliest(bool),
    /// Behind the last one.
    #[prost(bool, tag = "2")]
    Latest(bool),
    /// At this offset.
    #[prost(uint64, tag = "3")]
    Offset(u64),
    /// At the first record that is not older, in nanoseconds since 1970.
    #[prost(uint64, tag = "4")]
    TimeNs(u64),
}

/// A place in a topic.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Position {
    /// The partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// The offset in it.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
}

/// A message to a reader.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SubscribeEvent {
    /// One of them.
    #[prost(oneof = "SubscribeWhat", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub what: Option<SubscribeWhat>,
}

/// The kinds of [`SubscribeEvent`].
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum SubscribeWhat {
    /// A partition is this reader's, from here on.
    #[prost(message, tag = "1")]
    Assigned(Assigned),
    /// The partition is wanted for another member: finish what is at hand, say what is done, and that it is released.
    #[prost(uint32, tag = "2")]
    Revoked(u32),
    /// Behind this message a batch follows, as it is kept.
    #[prost(message, tag = "3")]
    Batch(BatchFollows),
    /// All that was there of the partition when the reader came has been sent.
    #[prost(message, tag = "4")]
    AtEnd(Position),
    /// Records that cannot be had.
    #[prost(message, tag = "5")]
    Skipped(Skipped),
    /// This is remembered, by what the topic promises.
    #[prost(message, tag = "6")]
    Committed(Position),
    /// A record was put aside into the topic of those that nobody could read.
    #[prost(message, tag = "7")]
    PutAside(Position),
}

/// A partition is this reader's.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Assigned {
    /// Which one.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// The offset of the first record that will come.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// The offset behind the last record that is there now.
    #[prost(uint64, tag = "3")]
    pub end: u64,
}

/// A batch comes.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct BatchFollows {
    /// Of this partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// So many bytes.
    #[prost(uint32, tag = "2")]
    pub len: u32,
}

/// Records that cannot be had.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Skipped {
    /// Of this partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// From this offset on.
    #[prost(uint64, tag = "2")]
    pub from: u64,
    /// Before this one.
    #[prost(uint64, tag = "3")]
    pub to: u64,
    /// For people.
    #[prost(string, tag = "4")]
    pub why: String,
    /// They were there and are damaged; else they are not kept any more.
    #[prost(bool, tag = "5")]
    pub is_damage: bool,
}

/// A message of a reader.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConsumerSays {
    /// One of them.
    #[prost(oneof = "ConsumerWord", tags = "1, 2, 3")]
    pub word: Option<ConsumerWord>,
}

/// The kinds of [`ConsumerSays`].
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum ConsumerWord {
    /// All before this offset is done, and is not to be sent to the group again.
    #[prost(message, tag = "1")]
    Done(Position),
    /// This record cannot be dealt with: it is to be put aside.
    #[prost(message, tag = "2")]
    Rejected(RejectedRecord),
    /// A partition that was revoked is not read any more.
    #[prost(uint32, tag = "3")]
    Released(u32),
}

/// A record that a reader could not deal with.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RejectedRecord {
    /// Of this partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// Its offset.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// For people, at most 1 KiB of it are kept.
    #[prost(string, tag = "3")]
    pub why: String,
}

/// How a topic is kept.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TopicSettings {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its partitions; 0: the relay's default, 1. It cannot be changed later.
    #[prost(uint32, tag = "2")]
    pub partitions: u32,
    /// A [`Level`]; 0: the relay's default.
    #[prost(uint32, tag = "3")]
    pub level: u32,
    /// With [`Level::Interval`].
    #[prost(uint64, tag = "4")]
    pub interval_ms: u64,
    /// The most bytes of a partition; 0: no limit.
    #[prost(uint64, tag = "5")]
    pub retain_bytes: u64,
    /// The longest time of a record; 0: no limit.
    #[prost(uint64, tag = "6")]
    pub retain_ms: u64,
    /// What all groups have done is not kept.
    #[prost(bool, tag = "7")]
    pub retain_unread: bool,
}

/// What there is of a topic.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TopicState {
    /// How it is kept.
    #[prost(message, optional, tag = "1")]
    pub settings: Option<TopicSettings>,
    /// Its partitions, in their order.
    #[prost(message, repeated, tag = "2")]
    pub partitions: Vec<PartitionState>,
    /// Its groups.
    #[prost(message, repeated, tag = "3")]
    pub groups: Vec<GroupState>,
}

/// What there is of a partition.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct PartitionState {
    /// The offset of the first record.
    #[prost(uint64, tag = "1")]
    pub start: u64,
    /// The offset behind the last one.
    #[prost(uint64, tag = "2")]
    pub end: u64,
    /// Bytes on the disk.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// Records that were found damaged since the relay was started.
    #[prost(uint64, tag = "4")]
    pub damaged: u64,
}

/// What there is of a group.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GroupState {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Members that are there now.
    #[prost(uint32, tag = "2")]
    pub members: u32,
    /// Of each partition that has one, the offset of the first record that is not done.
    #[prost(message, repeated, tag = "3")]
    pub done: Vec<Position>,
}

/// What is asked of a group.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GroupAsk {
    /// The topic.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// The group's name.
    #[prost(string, tag = "2")]
    pub group: String,
    /// Where it goes on; none: it is forgotten. It must have no member.
    #[prost(message, optional, tag = "3")]
    pub from: Option<From>,
}

/// What is no message of such a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Beyond its limit.
    #[error("a message of {0} bytes; the limit is {TOPIC_MESSAGE_MAX}")]
    TooLarge(u32),
    /// It does not have the form.
    #[error("a malformed message")]
    Malformed,
}

/// Bytes in front of a message: its length.
const LENGTH: usize = 4;

/// Appends what the stream carries: the length, then the message.
pub fn put_message(message: &impl prost::Message, bytes: &mut Vec<u8>) {
    let len = message.encoded_len();
    bytes.reserve(LENGTH + len);
    let length = u32::try_from(len).expect("a message is far below 4 GiB");
    bytes.extend_from_slice(&length.to_be_bytes());
    message.encode(bytes).expect("a Vec has room");
}

/// The first message of `bytes`, and how long it is with its length; `None` while it is not whole.
///
/// # Errors
/// [`TopicError`]: the stream is to be given up.
pub fn message_of<M: prost::Message + Default>(
    bytes: &[u8],
) -> Result<Option<(M, usize)>, TopicError> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length);
    let len = length as usize;
    if len > TOPIC_MESSAGE_MAX {
        return Err(TopicError::TooLarge(length));
    }
    let Some(message) = rest.get(..len) else {
        return Ok(None);
    };
    let message = M::decode(message).map_err(|_| TopicError::Malformed)?;
    Ok(Some((message, LENGTH + len)))
}

/// Why it is no name of a topic or a group: they have 1 to 128 letters, digits, dots, hyphens and underscores, and begin with
/// a letter, digit or underscore.
#[must_use]
pub fn name_objection(name: &str) -> Option<&'static str> {
    let is_inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match name.chars().next() {
        None => Some("it is empty"),
        Some('.' | '-') => Some("it begins with a dot or hyphen"),
        Some(_) if name.len() > 128 => Some("it has more than 128 letters"),
        Some(_) if !name.chars().all(is_inside) => {
            Some("only letters, digits, dots, hyphens and underscores are allowed")
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> SubscribeEvent {
        SubscribeEvent {
            what: Some(SubscribeWhat::Batch(BatchFollows {
                partition: 2,
                len: 70_000,
            })),
        }
    }

    #[test]
    fn a_message_comes_back_once_it_is_whole() {
        let mut bytes = Vec::new();
        put_message(&event(), &mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(
                message_of::<SubscribeEvent>(&bytes[..cut]),
                Ok(None),
                "{cut}"
            );
        }
        assert_eq!(message_of(&bytes), Ok(Some((event(), bytes.len()))));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let error = message_of::<SubscribeEvent>(&[0xff; 8]);
        assert_eq!(error, Err(TopicError::TooLarge(u32::MAX)));
        let error = message_of::<SubscribeEvent>(&[0, 0, 0, 2, 0x0a, 0x7f]);
        assert_eq!(error, Err(TopicError::Malformed));
    }

    #[test]
    fn levels_have_their_numbers() {
        for level in [Level::Os, Level::Interval, Level::Disk] {
            assert_eq!(Level::from_wire(level as u32), Some(level));
        }
        assert_eq!((Level::from_wire(0), Level::from_wire(4)), (None, None));
    }

    #[test]
    fn names_lead_nowhere_else() {
        for name in ["logs", "a", "_x", "app.log-2", &"x".repeat(128)] {
            assert_eq!(name_objection(name), None, "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            ".a",
            "-a",
            "a/b",
            "a b",
            "ä",
            "a\0",
            &"x".repeat(129),
        ] {
            assert!(name_objection(name).is_some(), "{name:?}");
        }
    }
}
