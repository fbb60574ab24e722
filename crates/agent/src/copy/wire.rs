//! Frames of a copy: `kind u8 | length u32 BE | payload`. The payload is a message (`message.rs`), but for
//! DATA, whose bytes are handed on as they come.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use farpipe_proto::limits::{COPY_CONTROL_MAX, COPY_DATA_MAX};
use prost::Message;

use super::message::{Counts, Entry, Hole, Number, Root, Start, Trouble, Want, Would};

/// Bytes in front of a payload.
pub const HEADER: usize = 5;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// From the sending end: what follows is one of the sources.
    Root(Root),
    /// What follows lies in this directory.
    Enter(Entry),
    /// That was all that lies in it.
    Leave,
    /// A symbolic link.
    Link(Entry),
    /// A file, if it is wanted.
    Offer(Entry),
    /// A file that was wanted.
    Start(Start),
    /// Its next bytes, or some of them.
    Data(Bytes),
    /// Its next bytes, all zero.
    Hole(Hole),
    /// It is whole.
    End(Number),
    /// It will not come, or no more of it.
    Fail(Number),
    /// Nothing more is offered, and all that was wanted has been sent.
    Over,
    /// From the receiving end, one for each offer, in order: send it.
    Want(Want),
    /// It is not wanted.
    Skip(Number),
    /// Send no more of a file that was wanted.
    Stop(Number),
    /// What has been made for good so far.
    Saved(Counts),
    /// All is done.
    Done(Counts),
    /// What would be copied.
    Would(Would),
    /// From either end.
    Trouble(Trouble),
}

/// Why bytes are no frames. The peer's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A kind that there is none of.
    #[error("a frame of kind {0}")]
    Kind(u8),
    /// Longer than any frame of its kind.
    #[error("a frame of kind {kind} with {len} bytes")]
    Long {
        /// Its kind.
        kind: u8,
        /// What it says.
        len: usize,
    },
    /// Its payload is no message.
    #[error("a frame of kind {0} that cannot be read")]
    Malformed(u8),
}

const ROOT: u8 = 1;
const ENTER: u8 = 2;
const LEAVE: u8 = 3;
const LINK: u8 = 4;
const OFFER: u8 = 5;
const START: u8 = 6;
/// The kind whose payload is no message.
pub(crate) const DATA: u8 = 7;
const HOLE: u8 = 8;
const END: u8 = 9;
const FAIL: u8 = 10;
const OVER: u8 = 11;
const WANT: u8 = 16;
const SKIP: u8 = 17;
const STOP: u8 = 18;
const SAVED: u8 = 19;
const DONE: u8 = 20;
const WOULD: u8 = 21;
const TROUBLE: u8 = 32;

impl Frame {
    /// Appends it to `into`.
    pub fn encode(&self, into: &mut BytesMut) {
        match self {
            Self::Root(message) => encode(ROOT, message, into),
            Self::Enter(message) => encode(ENTER, message, into),
            Self::Leave => encode(LEAVE, &(), into),
            Self::Link(message) => encode(LINK, message, into),
            Self::Offer(message) => encode(OFFER, message, into),
            Self::Start(message) => encode(START, message, into),
            Self::Data(bytes) => {
                header(DATA, bytes.len(), into);
                into.extend_from_slice(bytes);
            }
            Self::Hole(message) => encode(HOLE, message, into),
            Self::End(message) => encode(END, message, into),
            Self::Fail(message) => encode(FAIL, message, into),
            Self::Over => encode(OVER, &(), into),
            Self::Want(message) => encode(WANT, message, into),
            Self::Skip(message) => encode(SKIP, message, into),
            Self::Stop(message) => encode(STOP, message, into),
            Self::Saved(message) => encode(SAVED, message, into),
            Self::Done(message) => encode(DONE, message, into),
            Self::Would(message) => encode(WOULD, message, into),
            Self::Trouble(message) => encode(TROUBLE, message, into),
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, WireError> {
        fn read<T: Message + Default>(kind: u8, payload: &[u8]) -> Result<T, WireError> {
            T::decode(payload).map_err(|_| WireError::Malformed(kind))
        }
        Ok(match kind {
            ROOT => Self::Root(read(kind, payload)?),
            ENTER => Self::Enter(read(kind, payload)?),
            LEAVE => Self::Leave,
            LINK => Self::Link(read(kind, payload)?),
            OFFER => Self::Offer(read(kind, payload)?),
            START => Self::Start(read(kind, payload)?),
            HOLE => Self::Hole(read(kind, payload)?),
            END => Self::End(read(kind, payload)?),
            FAIL => Self::Fail(read(kind, payload)?),
            OVER => Self::Over,
            WANT => Self::Want(read(kind, payload)?),
            SKIP => Self::Skip(read(kind, payload)?),
            STOP => Self::Stop(read(kind, payload)?),
            SAVED => Self::Saved(read(kind, payload)?),
            DONE => Self::Done(read(kind, payload)?),
            WOULD => Self::Would(read(kind, payload)?),
            TROUBLE => Self::Trouble(read(kind, payload)?),
            kind => return Err(WireError::Kind(kind)),
        })
    }
}

fn encode(kind: u8, message: &impl Message, into: &mut BytesMut) {
    header(kind, message.encoded_len(), into);
    message
        .encode(into)
        .expect("a BytesMut has room for all that is put into it");
}

/// The header of a frame.
pub(crate) fn header(kind: u8, len: usize, into: &mut BytesMut) {
    into.put_u8(kind);
    into.put_u32(u32::try_from(len).expect("frames are far shorter than 4 GiB"));
}

/// Makes frames of bytes, however they were cut.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What came and was not looked at.
    now: Bytes,
    /// The beginning of a frame whose rest is still to come.
    begun: BytesMut,
    /// Bytes that are left of a DATA frame.
    data: usize,
}

impl Decoder {
    /// Takes what came. Only once `next` has nothing more.
    pub fn feed(&mut self, bytes: Bytes) {
        debug_assert!(self.now.is_empty(), "what came before is looked at first");
        self.now = bytes;
    }

    /// Whether the peer may end here.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.now.is_empty() && self.begun.is_empty() && self.data == 0
    }

    /// The next frame; `None`: more bytes are needed.
    ///
    /// # Errors
    /// [`WireError`]; nothing is to be expected of this peer any more.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        loop {
            if self.data > 0 {
                if self.now.is_empty() {
                    return Ok(None);
                }
                let len = self.data.min(self.now.len());
                self.data -= len;
                return Ok(Some(Frame::Data(self.now.split_to(len))));
            }
            if !self.gather(HEADER) {
                return Ok(None);
            }
            let (kind, len) = self.peek();
            if kind == DATA {
                if len > COPY_DATA_MAX {
                    return Err(WireError::Long { kind, len });
                }
                self.take(HEADER);
                self.data = len;
                continue;
            }
            if len > COPY_CONTROL_MAX {
                return Err(WireError::Long { kind, len });
            }
            if !self.gather(HEADER + len) {
                return Ok(None);
            }
            let frame = self.take(HEADER + len);
            return Frame::decode(kind, &frame[HEADER..]).map(Some);
        }
    }

    /// Whether the next `len` bytes are there, in one piece.
    fn gather(&mut self, len: usize) -> bool {
        if self.begun.is_empty() {
            if self.now.len() >= len {
                return true;
            }
            self.begun.extend_from_slice(&self.now);
            self.now.clear();
            return false;
        }
        let missing = len.saturating_sub(self.begun.len());
        let part = self.now.split_to(missing.min(self.now.len()));
        self.begun.extend_from_slice(&part);
        self.begun.len() >= len
    }

    /// Kind and length of the frame that is there up to its payload.
    fn peek(&self) -> (u8, usize) {
        let from = match self.begun.is_empty() {
            true => &self.now[..],
            false => &self.begun[..],
        };
        let mut header = &from[..HEADER];
        let kind = header.get_u8();
        (kind, header.get_u32() as usize)
    }

    /// The next bytes, which were gathered.
    fn take(&mut self, len: usize) -> Bytes {
        if self.begun.is_empty() {
            return self.now.split_to(len);
        }
        self.begun.split_to(len).freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> Vec<Frame> {
        let entry = Entry {
            name: b"a\nb".to_vec(),
            mode: 0o644,
            seconds: -1,
            nanos: 5,
            size: u64::MAX,
            inode: 7,
            target: b"../x".to_vec(),
        };
        vec![
            Frame::Root(Root {
                source: 3,
                contents: true,
            }),
            Frame::Enter(entry.clone()),
            Frame::Offer(entry),
            Frame::Data(Bytes::from_static(b"some bytes that are cut")),
            Frame::Hole(Hole { len: 1 << 40 }),
            Frame::Leave,
            Frame::Over,
            Frame::Trouble(Trouble {
                path: vec![0xff],
                message: "no".to_owned(),
                ends: true,
            }),
        ]
    }

    /// The frames of `bytes` as they come in pieces; neighbouring data is one.
    fn decode(bytes: &[u8], cut: usize) -> Result<Vec<Frame>, WireError> {
        let mut decoder = Decoder::default();
        let mut frames: Vec<Frame> = Vec::new();
        for piece in bytes.chunks(cut) {
            decoder.feed(Bytes::copy_from_slice(piece));
            while let Some(frame) = decoder.next_frame()? {
                match (frames.last_mut(), frame) {
                    (Some(Frame::Data(before)), Frame::Data(more)) => {
                        *before = [&before[..], &more[..]].concat().into();
                    }
                    (_, frame) => frames.push(frame),
                }
            }
        }
        Ok(frames)
    }

    #[test]
    fn frames_are_the_same_however_they_are_cut() {
        let mut bytes = BytesMut::new();
        for frame in frames() {
            frame.encode(&mut bytes);
        }
        for cut in 1..=bytes.len() {
            assert_eq!(decode(&bytes, cut).as_ref(), Ok(&frames()), "{cut}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_comes() {
        for kind in [ENTER, DATA] {
            let mut bytes = BytesMut::new();
            header(kind, COPY_DATA_MAX + 1, &mut bytes);
            assert!(matches!(decode(&bytes, 5), Err(WireError::Long { .. })));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            cut in 1_usize..50,
        ) {
            // It panics on nothing, and says the same however they are cut.
            prop_assert_eq!(decode(&bytes, cut).ok(), decode(&bytes, bytes.len().max(1)).ok());
        }
    }
}
