//! What a line has beside its event: its number, when it was written, and the hash of the line before.
//!
//! The hash is over the bytes of the whole line, without the newline: nothing has to be brought into a
//! canonical form, and `b3sum` computes it too.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

/// BLAKE3 of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl Hash {
    /// What stands before the first line.
    pub(crate) const NONE: Self = Self([0; 32]);

    pub(crate) fn of(line: &[u8]) -> Self {
        Self(*blake3::hash(line).as_bytes())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Self, HeadError> {
        let hash = blake3::Hash::from_hex(text).map_err(|_| HeadError)?;
        Ok(Self(*hash.as_bytes()))
    }
}

/// The newest line of a log: whoever keeps it elsewhere sees later that none is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The number of the line, from 1 on; 0: there is none.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

impl Head {
    /// Of a log without lines.
    pub(crate) const NONE: Self = Self {
        seq: 0,
        hash: Hash::NONE,
    };
}

/// Why a text names no line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a head is NUMBER:HASH, with 64 hexadecimal digits")]
pub struct HeadError;

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

impl FromStr for Head {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Self, HeadError> {
        let (seq, hash) = text.trim().split_once(':').ok_or(HeadError)?;
        Ok(Self {
            seq: seq.parse().map_err(|_| HeadError)?,
            hash: hash.parse()?,
        })
    }
}

/// What of a line the chain is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) seq: u64,
    pub(crate) prev: Hash,
    /// The hash of what stands between the line before and this one, and was never whole.
    pub(crate) torn: Option<Hash>,
}

impl Link {
    /// What a line says of itself; `None`: it is none of an audit log.
    pub(crate) fn read(line: &[u8]) -> Option<Self> {
        let value: Map<String, Value> = serde_json::from_slice(line).ok()?;
        let hash = |name: &str| value.get(name).and_then(Value::as_str)?.parse().ok();
        Some(Self {
            seq: value.get("seq").and_then(Value::as_u64)?,
            prev: hash("prev")?,
            torn: hash("torn"),
        })
    }
}

/// A line with its newline: the fields of the chain first, then those of `event`.
pub(crate) fn written(after: Head, time: &str, event: &Map<String, Value>) -> (Head, Vec<u8>) {
    let seq = after.seq + 1;
    let head = serde_json::json!({"seq": seq, "time": time, "prev": after.hash.to_string()});
    let event = Value::Object(event.clone()).to_string();
    let mut line = head.to_string();
    // Two objects become one: `{"seq":…` and `…"event":…}`.
    line.pop();
    if event.len() > 2 {
        line.push(',');
    }
    line.push_str(event.strip_prefix('{').unwrap_or(&event));
    let head = Head {
        seq,
        hash: Hash::of(line.as_bytes()),
    };
    line.push('\n');
    (head, line.into_bytes())
}
