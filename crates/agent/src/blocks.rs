//! Blocks: the form of a stream whose sender may compress (docs/protocol.md section 6.6).
//!
//! A block is compressed by itself, so what a cut link resends are the bytes it has, and a stream's
//! offsets and credit count bytes of blocks. Both directions know nothing of each other.

mod worth;

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use bytes::{Buf as _, BufMut as _, BytesMut};
use zstd::bulk::{Compressor, Decompressor};

use self::worth::Worth;

/// The most that one block carries, before it is compressed: small enough to be made between two
/// turns of the link, large enough to be compressed well.
pub(crate) const BLOCK_MAX: usize = 128 * 1024;
/// One byte of form and three of length, in front of a block's payload.
pub(crate) const HEADER_LEN: usize = 4;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
/// zstd's own default.
const LEVEL: i32 = 3;

/// How a sender makes its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Compressed while that shrinks the data and does not slow it down.
    Auto,
    /// Compressed at a level from 1 to 19 while that shrinks the data, whatever it costs.
    Zstd(i32),
}

/// What a sender knows of its source and its link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    /// The source had to be waited for since the last block.
    pub(crate) waited_for_source: bool,
    /// Credit or memory had.
    pub(crate) waited_for_link: bool,
    /// Bytes of the session so far, as they are sent.
    pub(crate) sent: u64,
    /// Those that have arrived.
    pub(crate) acked: u64,
}

/// Makes blocks.
pub(crate) struct Encoder {
    codec: Compressor<'static>,
    /// What zstd writes into; a block that does not shrink leaves it unused.
    shrunk: Vec<u8>,
    worth: Worth,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder")
            .field("worth", &self.worth)
            .finish_non_exhaustive()
    }
}

impl Encoder {
    /// # Errors
    /// No memory.
    pub(crate) fn new(compression: Compression) -> io::Result<Self> {
        let level = match compression {
            Compression::Auto => LEVEL,
            Compression::Zstd(level) => level,
        };
        Ok(Self {
            codec: Compressor::new(level)?,
            shrunk: Vec::new(),
            worth: Worth::new(compression == Compression::Auto),
        })
    }

    /// Appends one block with all of `data`, at most [`BLOCK_MAX`] bytes, to `out`: never more than
    /// its length and [`HEADER_LEN`].
    pub(crate) fn encode(&mut self, data: &[u8], flow: Flow, out: &mut BytesMut) {
        let now = Instant::now();
        if self.worth.is_to_try(now, data.len(), flow) {
            self.shrunk.clear();
            self.shrunk
                .reserve(zstd::zstd_safe::compress_bound(BLOCK_MAX));
            let shrunk = self.codec.compress_to_buffer(data, &mut self.shrunk);
            // A few percent are not worth the reader's work.
            let enough = data.len() - data.len() / 16;
            let shrunk = shrunk.is_ok_and(|len| len < enough);
            self.worth.handle_tried(data.len(), shrunk, now.elapsed());
            if shrunk {
                put(ZSTD, &self.shrunk, out);
                return;
            }
        }
        put(PLAIN, data, out);
    }
}

fn put(form: u8, payload: &[u8], out: &mut BytesMut) {
    out.put_u8(form);
    out.put_uint(payload.len() as u64, 3);
    out.extend_from_slice(payload);
}

/// Why what came is no sequence of blocks. The stream is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other side's blocks are malformed: {0}")]
pub(crate) struct Malformed(&'static str);

impl Malformed {
    /// The stream ends in the midst of one.
    pub(crate) const CUT: Self = Self("they end within one");
}

/// What one step of decoding gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// Data for the sink; may be empty.
    pub(crate) data: BytesMut,
    /// Bytes of blocks that were used up for it.
    pub(crate) taken: usize,
}

/// Reads blocks. Holds at most one.
pub(crate) struct Decoder {
    codec: Decompressor<'static>,
    header: [u8; HEADER_LEN],
    /// Bytes of the header that have come.
    header_len: usize,
    /// What is still to come of the payload.
    left: usize,
    /// A compressed payload, as far as it has come.
    gathered: Vec<u8>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl Decoder {
    /// # Errors
    /// No memory.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            codec: Decompressor::new()?,
            header: [0; HEADER_LEN],
            header_len: 0,
            left: 0,
            gathered: Vec::new(),
        })
    }

    /// Whether what has come ends with a block.
    pub(crate) fn is_between_blocks(&self) -> bool {
        self.header_len == 0
    }

    /// The next data in `chunks`, in pieces as they came where that is possible; `None`: it needs
    /// more of them.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(crate) fn decode(
        &mut self,
        chunks: &mut VecDeque<BytesMut>,
    ) -> Result<Option<Decoded>, Malformed> {
        loop {
            let Some(front) = chunks.front_mut() else {
                return Ok(None);
            };
            if front.is_empty() {
                chunks.pop_front();
                continue;
            }
            if self.header_len < HEADER_LEN {
                let part = front.len().min(HEADER_LEN - self.header_len);
                front.copy_to_slice(&mut self.header[self.header_len..self.header_len + part]);
                self.header_len += part;
                if self.header_len == HEADER_LEN {
                    self.begin()?;
                }
                continue;
            }
            let part = front.split_to(front.len().min(self.left));
            self.left -= part.len();
            if self.header[0] == PLAIN {
                // The header is accounted for with the block's last piece.
                let mut taken = part.len();
                if self.left == 0 {
                    self.header_len = 0;
                    taken += HEADER_LEN;
                }
                return Ok(Some(Decoded { data: part, taken }));
            }
            self.gathered.extend_from_slice(&part);
            if self.left == 0 {
                self.header_len = 0;
                return self.inflate().map(Some);
            }
        }
    }

    fn begin(&mut self) -> Result<(), Malformed> {
        let [form, len @ ..] = self.header;
        self.left = len
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        match form {
            PLAIN | ZSTD if self.left == 0 => Err(Malformed("an empty block")),
            PLAIN | ZSTD if self.left > BLOCK_MAX => Err(Malformed("a block that is too long")),
            PLAIN | ZSTD => Ok(()),
            _ => Err(Malformed("a block of an unknown form")),
        }
    }

    fn inflate(&mut self) -> Result<Decoded, Malformed> {
        // The capacity is the limit: a bomb fails instead of growing.
        let mut data = Vec::with_capacity(BLOCK_MAX);
        let taken = HEADER_LEN + self.gathered.len();
        let inflated = self.codec.decompress_to_buffer(&self.gathered, &mut data);
        self.gathered.clear();
        match inflated {
            Ok(len) if (1..=BLOCK_MAX).contains(&len) => Ok(Decoded {
                data: data.as_slice().into(),
                taken,
            }),
            Ok(_) | Err(_) => Err(Malformed("a compressed block that cannot be read")),
        }
    }
}

#[cfg(test)]
mod tests;
