//! What the two ends of a copy say to each other (docs/protocol.md section 6.12). All bytes are taken as they
//! are; `send.rs` and `receive.rs` check what they mean.

/// The next entry is one of the sources that were asked for.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Root {
    /// Which, from 0 on.
    #[prost(uint32, tag = "1")]
    pub source: u32,
    /// It has no name of its own: what is in it goes into the target.
    #[prost(bool, tag = "2")]
    pub contents: bool,
}

/// A directory that is entered, a link, or a file that is offered.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Entry {
    /// One component of a path.
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    /// Permission bits.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// When it was changed last: seconds since 1970.
    #[prost(sint64, tag = "3")]
    pub seconds: i64,
    /// And nanoseconds.
    #[prost(uint32, tag = "4")]
    pub nanos: u32,
    /// Bytes of a file.
    #[prost(uint64, tag = "5")]
    pub size: u64,
    /// The file's number at the sending end: another one is another file.
    #[prost(uint64, tag = "6")]
    pub inode: u64,
    /// Where a link leads to.
    #[prost(bytes = "vec", tag = "7")]
    pub target: Vec<u8>,
}

/// A file that was asked for begins.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Start {
    /// Which of the offered files, counted from 0.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// Bytes in front that the receiving end has.
    #[prost(uint64, tag = "2")]
    pub from: u64,
    /// What the file is now.
    #[prost(message, required, tag = "3")]
    pub meta: Meta,
}

/// What is kept of a file beside its bytes, and what tells it from another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Meta {
    /// As in [`Entry`].
    #[prost(uint32, tag = "1")]
    pub mode: u32,
    /// As in [`Entry`].
    #[prost(sint64, tag = "2")]
    pub seconds: i64,
    /// As in [`Entry`].
    #[prost(uint32, tag = "3")]
    pub nanos: u32,
    /// As in [`Entry`].
    #[prost(uint64, tag = "4")]
    pub size: u64,
    /// As in [`Entry`].
    #[prost(uint64, tag = "5")]
    pub inode: u64,
}

/// Bytes that are zero, and not sent.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Hole {
    /// How many.
    #[prost(uint64, tag = "1")]
    pub len: u64,
}

/// One of the offered files.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Number {
    /// Counted from 0.
    #[prost(uint64, tag = "1")]
    pub number: u64,
}

/// The receiving end wants a file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Want {
    /// Which.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// Bytes in front that it has: whole chunks.
    #[prost(uint64, tag = "2")]
    pub kept: u64,
    /// BLAKE3 of the BLAKE3 hashes of these chunks.
    #[prost(bytes = "vec", tag = "3")]
    pub digest: Vec<u8>,
}

/// Counts, of what is done for good.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Counts {
    /// Files that were received and are in their place.
    #[prost(uint64, tag = "1")]
    pub files: u64,
    /// Their bytes, holes and all.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// Files that were there already, the same.
    #[prost(uint64, tag = "3")]
    pub unchanged: u64,
    /// Directories.
    #[prost(uint64, tag = "4")]
    pub directories: u64,
    /// Links.
    #[prost(uint64, tag = "5")]
    pub links: u64,
    /// Bytes that an earlier copy had received and that were kept.
    #[prost(uint64, tag = "6")]
    pub kept: u64,
}

/// Something went wrong.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Trouble {
    /// With what, at the end that says it.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
    /// The copy ends with it; else it goes on with the next entry.
    #[prost(bool, tag = "3")]
    pub ends: bool,
}

/// What would be copied.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Would {
    /// To where.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
}
