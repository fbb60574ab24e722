//! The way out of an end: frames, gathered into pieces that are worth a system call.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::error::CopyError;
use super::wire::{DATA, Frame, HEADER, header};

/// Bytes that are gathered before they are passed on.
const GATHERED: usize = 64 * 1024;
/// Capacity of a piece: what is gathered, and one more piece of a file.
const PIECE: usize = GATHERED + READ + HEADER + 16 * 1024;
/// Bytes that are read of a file at once.
pub(crate) const READ: usize = 256 * 1024;

/// Frames towards the other end. Blocks when that takes no more; several may lead there, and each
/// passes on whole frames.
#[derive(Debug)]
pub(crate) struct Out {
    to: mpsc::Sender<Bytes>,
    gathered: BytesMut,
}

impl Out {
    pub(crate) fn new(to: mpsc::Sender<Bytes>) -> Self {
        Self {
            to,
            gathered: BytesMut::new(),
        }
    }

    /// Another way to the same end.
    pub(crate) fn another(&self) -> Self {
        Self::new(self.to.clone())
    }

    pub(crate) fn frame(&mut self, frame: &Frame) -> Result<(), CopyError> {
        frame.encode(&mut self.gathered);
        self.pass_on_if_full()
    }

    /// A DATA frame of what `read` puts into a buffer of `len` bytes, and how many these were; without
    /// any there is no frame.
    pub(crate) fn data(
        &mut self,
        len: usize,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> Result<io::Result<usize>, CopyError> {
        if self.gathered.capacity() - self.gathered.len() < HEADER + len {
            self.gathered.reserve(PIECE.max(HEADER + len));
        }
        let begin = self.gathered.len();
        header(DATA, len, &mut self.gathered);
        self.gathered.resize(begin + HEADER + len, 0);
        let count = match read(&mut self.gathered[begin + HEADER..]) {
            Ok(count) if count > 0 => count,
            nothing => {
                self.gathered.truncate(begin);
                return Ok(nothing);
            }
        };
        self.gathered.truncate(begin + HEADER + count);
        let said = u32::try_from(count).expect("at most the length of a buffer");
        self.gathered[begin + 1..begin + HEADER].copy_from_slice(&said.to_be_bytes());
        self.pass_on_if_full()?;
        Ok(Ok(count))
    }

    fn pass_on_if_full(&mut self) -> Result<(), CopyError> {
        match self.gathered.len() >= GATHERED {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Passes on what is gathered.
    pub(crate) fn flush(&mut self) -> Result<(), CopyError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = self.gathered.split().freeze();
        self.to.blocking_send(piece).map_err(|_| CopyError::Left)
    }
}
