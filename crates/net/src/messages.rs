//! What comes on a stream as messages of known lengths, and other bytes between them (docs/protocol.md section 6.13).

use std::future::poll_fn;
use std::io;

use bytes::{Bytes, BytesMut};
use farpipe_proto::wire::topic::message_of;

use crate::bytes::ByteReader;

/// Bytes that are taken from the stream at once.
const READ: usize = 256 * 1024;

/// A stream that is read in pieces of known lengths.
#[derive(Debug)]
pub struct Messages {
    reader: ByteReader,
    buffer: BytesMut,
}

impl Messages {
    /// Of what comes.
    #[must_use]
    pub fn new(reader: ByteReader) -> Self {
        Self {
            reader,
            buffer: BytesMut::new(),
        }
    }

    /// Waits until there are at least `len` bytes, and shows all there are; `false`: the stream ends before. Cancel safe.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn fill(&mut self, len: usize) -> io::Result<bool> {
        while self.buffer.len() < len {
            let Self { reader, buffer } = self;
            let taken =
                poll_fn(|cx| reader.poll_take(cx, READ, |bytes| buffer.extend_from_slice(bytes)));
            if taken.await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What has come and was not taken.
    #[must_use]
    pub fn seen(&self) -> &[u8] {
        &self.buffer
    }

    /// Takes the first `len` of what was seen, which must be there.
    pub fn take(&mut self, len: usize) -> Bytes {
        self.buffer.split_to(len.min(self.buffer.len())).freeze()
    }

    /// The next message; `None`: the end. Cancel safe.
    ///
    /// # Errors
    /// The stream broke, or what came is none.
    pub async fn message<M: prost::Message + Default>(&mut self) -> io::Result<Option<M>> {
        loop {
            let message = message_of::<M>(&self.buffer).map_err(io::Error::other)?;
            if let Some((message, len)) = message {
                self.take(len);
                return Ok(Some(message));
            }
            let wanted = self.buffer.len() + 1;
            if !self.fill(wanted).await? {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }
}
