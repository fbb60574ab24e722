//! What a command says to the local agent of its user before their session begins: the way to the far
//! agent (docs/protocol.md section 8.5).
//!
//! A way that one version describes and another reads must not come out as another way, so nothing is
//! skipped here: what is not exactly as this version writes it is refused, and the command goes its own
//! way.

use prost::Message as _;

/// What both say first: the name and the version of this conversation.
pub const LOCAL_PREFACE: [u8; 8] = *b"farploc\x01";

/// The way that a command wants to go.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WayAsked {
    /// Name and version of the software: the same at both ends, or there is no way.
    #[prost(string, tag = "1")]
    pub software: String,
    /// The agent: its name at the relays, or a URL.
    #[prost(string, tag = "2")]
    pub target: String,
    /// The relays, in the order in which they are asked.
    #[prost(string, repeated, tag = "3")]
    pub relays: Vec<String>,
    /// The session is not sealed up to the agent.
    #[prost(bool, tag = "4")]
    pub no_e2e: bool,
    /// What is shown, believed and proven.
    #[prost(message, repeated, tag = "5")]
    pub files: Vec<WayFile>,
    /// Servers that are believed by their keys.
    #[prost(string, repeated, tag = "6")]
    pub pins: Vec<String>,
    /// The proxy that was named.
    #[prost(string, optional, tag = "7")]
    pub proxy: Option<String>,
    /// The variables that name one, as the command has them.
    #[prost(message, repeated, tag = "8")]
    pub variables: Vec<WayVariable>,
    /// How long a lost link is sought, in milliseconds.
    #[prost(uint64, tag = "9")]
    pub resume_for_ms: u64,
    /// The heartbeat, in milliseconds.
    #[prost(uint64, tag = "10")]
    pub heartbeat_ms: u64,
}

/// A file that the command names, as the command sees it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WayFile {
    /// A [`WayFileUse`].
    #[prost(uint32, tag = "1")]
    pub usage: u32,
    /// Where it is, from the root on.
    #[prost(bytes = "vec", tag = "2")]
    pub path: Vec<u8>,
    /// The file system it is on.
    #[prost(uint64, tag = "3")]
    pub device: u64,
    /// Its number there.
    #[prost(uint64, tag = "4")]
    pub inode: u64,
    /// Bytes.
    #[prost(uint64, tag = "5")]
    pub len: u64,
    /// When its content changed: seconds.
    #[prost(int64, tag = "6")]
    pub modified: i64,
    /// And nanoseconds.
    #[prost(int64, tag = "7")]
    pub modified_nanos: i64,
    /// When it or its mode changed: seconds.
    #[prost(int64, tag = "8")]
    pub changed: i64,
    /// And nanoseconds.
    #[prost(int64, tag = "9")]
    pub changed_nanos: i64,
}

/// What a [`WayFile`] is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WayFileUse {
    /// The certificate to show.
    Certificate = 1,
    /// Its private key.
    Key = 2,
    /// The authority to believe.
    Authority = 3,
    /// Revocation lists.
    Revoked = 4,
    /// A token to prove.
    Token = 5,
}

impl WayFileUse {
    /// All there are.
    pub const ALL: [Self; 5] = [
        Self::Certificate,
        Self::Key,
        Self::Authority,
        Self::Revoked,
        Self::Token,
    ];

    /// The use of a number.
    #[must_use]
    pub fn from_wire(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|one| *one as u32 == number)
    }
}

/// A variable of the command's environment.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WayVariable {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its value, which may have a password.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// What the local agent says to it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WayAnswer {
    /// The command may go it: its session begins.
    #[prost(bool, tag = "1")]
    pub taken: bool,
    /// Where it leads, for people.
    #[prost(string, tag = "2")]
    pub peer: String,
    /// Why it may not.
    #[prost(string, tag = "3")]
    pub why: String,
}

/// Reads a message that must be exactly as this version writes it.
#[must_use]
pub fn exactly<M: prost::Message + Default>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    (message.encode_to_vec() == bytes).then_some(message)
}

impl WayAsked {
    /// As bytes: the same way is always the same bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

impl WayAnswer {
    /// As bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_with_something_unknown_is_none() {
        let asked = WayAsked {
            target: "web1".to_owned(),
            relays: vec!["wss://relay:7000".to_owned()],
            ..WayAsked::default()
        };
        let mut bytes = asked.to_bytes();
        assert_eq!(exactly::<WayAsked>(&bytes), Some(asked));
        // Field 11, a varint.
        bytes.extend_from_slice(&[0x58, 0x01]);
        assert_eq!(exactly::<WayAsked>(&bytes), None);
        assert_eq!(exactly::<WayAsked>(&[0xff]), None);
    }
}
