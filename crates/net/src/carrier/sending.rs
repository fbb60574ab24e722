//! The place in a message that is being sent from its segment and did not go out at once.

use super::CarrierError;
use crate::segment::Segment;

/// A begun message. Counts from its end, because data that was written may be trimmed from the
/// segment before the rest is: the neighbour takes and acknowledges half a message.
#[derive(Debug)]
pub(super) struct Sending {
    /// Bytes in front of the data: the transport's and the message's own header.
    prefix_len: usize,
    /// Bytes of data when it began.
    data_len: usize,
    /// Bytes of prefix and data still to be written.
    unwritten: usize,
    /// [`Segment::end`] when it began.
    end: u64,
}

impl Sending {
    /// Begins the message that [`Segment::frame`] just made with `prefix_len` bytes of header.
    pub(super) fn new(prefix_len: usize, segment: &Segment) -> Self {
        Self {
            prefix_len,
            data_len: segment.len(),
            unwritten: prefix_len + segment.len(),
            end: segment.end(),
        }
    }

    /// Bytes of the whole message that are written.
    pub(super) fn written(&self) -> usize {
        self.prefix_len + self.data_len - self.unwritten
    }

    /// What is still to be written.
    ///
    /// # Errors
    /// Some of it is gone: only a neighbour that acknowledges what it cannot have does that.
    ///
    /// # Panics
    /// If `segment` is not the one the message began with: an error of the caller.
    pub(super) fn rest<'a>(
        &self,
        segment: &'a Segment,
        carrier: &'static str,
    ) -> Result<&'a [u8], CarrierError> {
        assert_eq!(
            segment.end(),
            self.end,
            "a half-sent message goes on with its segment"
        );
        let framed = if self.unwritten <= segment.len() {
            segment.framed(0)
        } else if segment.len() == self.data_len {
            segment.framed(self.prefix_len)
        } else {
            return Err(CarrierError::Protocol {
                carrier,
                what: "bytes were acknowledged before they were sent",
                code: 1002,
            });
        };
        Ok(&framed[framed.len() - self.unwritten..])
    }

    /// Notes that `len` more bytes are written, and says whether that was all.
    pub(super) fn advance(&mut self, len: usize) -> bool {
        self.unwritten -= len;
        self.unwritten == 0
    }
}
