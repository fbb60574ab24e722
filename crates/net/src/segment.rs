//! A run of a session's outgoing byte stream that stays where it was read until the peer has it.
//!
//! Retention by reference: the source reads into the segment's buffer, headers are written into
//! the room in front of the data, a WebSocket client masks the data in place, one `write` sends
//! it, and the very same bytes wait there for the acknowledgement. Nothing is copied, and a
//! resend only changes the mask.

use bytes::BytesMut;

/// Bytes `[start, start + len)` of a session's outgoing stream.
///
/// Invariants: the data runs from `data` to the end of `buf`; at least [`Segment::HEADROOM`]
/// bytes lie in front of it, or it is bare; `mask`, repeated from the first data byte, is what lies XORed over
/// the data right now (zero: plain).
#[derive(Debug)]
pub struct Segment {
    start: u64,
    buf: BytesMut,
    data: usize,
    mask: [u8; 4],
}

impl Segment {
    /// Room kept in front of the data for every header a carrier writes there: a WebSocket header
    /// (at most 14 bytes) and the header of a DATA frame (13 bytes), rounded up.
    pub const HEADROOM: usize = 32;

    /// Takes `buf`, whose data begins at index `data` and is plain.
    ///
    /// # Panics
    /// If `data` leaves less than [`Segment::HEADROOM`] in front: an error of the caller.
    #[must_use]
    pub fn new(start: u64, buf: BytesMut, data: usize) -> Self {
        assert!(
            data >= Self::HEADROOM && data <= buf.len(),
            "a segment needs its headroom"
        );
        Self {
            start,
            buf,
            data,
            mask: [0; 4],
        }
    }

    /// Takes bytes that are passed on as they came, with no room in front: a carrier writes the
    /// headers by themselves, in the same system call.
    #[must_use]
    pub fn bare(start: u64, buf: BytesMut) -> Self {
        Self {
            start,
            buf,
            data: 0,
            mask: [0; 4],
        }
    }

    /// Whether headers fit in front of the data.
    #[must_use]
    pub(crate) fn has_headroom(&self) -> bool {
        self.data >= Self::HEADROOM
    }

    /// The same bytes in memory of their own, with room in front.
    pub(crate) fn copied(&self) -> Self {
        let mut buf = BytesMut::with_capacity(Self::HEADROOM.max(self.data) + self.len());
        match self.data {
            // What was written in front is part of a message that is half sent.
            data if data >= Self::HEADROOM => buf.extend_from_slice(&self.buf[..data]),
            _ => buf.resize(Self::HEADROOM, 0),
        }
        let data = buf.len();
        buf.extend_from_slice(&self.buf[self.data..]);
        Self {
            start: self.start,
            buf,
            data,
            mask: self.mask,
        }
    }

    /// Session offset of the first byte.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Session offset behind the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.len() as u64
    }

    /// Bytes of data.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buf.len() - self.data
    }

    /// Whether no data is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Room behind the data that can be filled without an allocation.
    #[must_use]
    pub fn tail_room(&self) -> usize {
        self.buf.capacity() - self.buf.len()
    }

    /// Whether the data lies there without a mask.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.mask == [0; 4]
    }

    /// Appends plain bytes; only for a segment that was never sent.
    ///
    /// # Panics
    /// If the data is masked: an error of the caller.
    pub fn append(&mut self, bytes: &[u8]) {
        assert_eq!(
            self.mask, [0; 4],
            "a segment that was sent takes no more bytes"
        );
        self.buf.extend_from_slice(bytes);
    }

    /// Drops the bytes before session offset `offset`, which the peer has.
    pub fn trim_to(&mut self, offset: u64) {
        let drop = usize::try_from(offset.saturating_sub(self.start))
            .map_or(self.len(), |n| n.min(self.len()));
        self.data += drop;
        self.start += drop as u64;
        self.mask.rotate_left(drop % 4);
    }

    /// Writes `header` in front of the data, lays `mask` over the data (repeated from its first
    /// byte; zero: plain) and returns the bytes to send: header, then data. `header` goes out as
    /// it is: a masking carrier has masked its part already.
    ///
    /// # Panics
    /// If `header` is longer than [`Segment::HEADROOM`], or the segment is bare and `header` is not
    /// empty: an error of the caller.
    pub fn frame(&mut self, header: &[u8], mask: [u8; 4]) -> &[u8] {
        let change = u32::from_ne_bytes(self.mask) ^ u32::from_ne_bytes(mask);
        apply_mask(&mut self.buf[self.data..], change.to_ne_bytes());
        self.mask = mask;
        let begin = self.data - header.len();
        self.buf[begin..self.data].copy_from_slice(header);
        &self.buf[begin..]
    }

    /// The same bytes as the last [`Segment::frame`] with a header of `header_len` returned, to go
    /// on after a partial write.
    #[must_use]
    pub fn framed(&self, header_len: usize) -> &[u8] {
        &self.buf[self.data - header_len..]
    }
}

/// XORs `mask`, repeated from the first byte, over `bytes`.
pub fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    if mask == [0; 4] {
        return;
    }
    let word = u32::from_ne_bytes(mask);
    let wide = (u64::from(word) << 32) | u64::from(word);
    // 64 bytes a turn: the compiler makes vector code of it; see docs/decisions for the figure.
    let (blocks, rest) = bytes.as_chunks_mut::<64>();
    for block in blocks {
        for lane in block.as_chunks_mut::<8>().0 {
            *lane = (u64::from_ne_bytes(*lane) ^ wide).to_ne_bytes();
        }
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(len: usize) -> (Segment, Vec<u8>) {
        let plain: Vec<u8> = (0..len).map(|i| (i * 7 + 3) as u8).collect();
        let mut buf = BytesMut::zeroed(Segment::HEADROOM);
        buf.extend_from_slice(&plain);
        (Segment::new(1000, buf, Segment::HEADROOM), plain)
    }

    #[test]
    fn a_resend_with_another_mask_carries_the_same_bytes() {
        for len in [0, 1, 3, 4, 63, 64, 65, 1000] {
            for trim in [0, 1, 2, 3, 4, 5, 66] {
                let (mut segment, plain) = segment(len);
                segment.frame(b"hdr", [1, 2, 3, 4]);
                segment.trim_to(1000 + trim as u64);
                let kept = trim.min(len);
                assert_eq!(segment.start(), 1000 + kept as u64);
                let sent = segment.frame(b"header2", [9, 8, 7, 200]).to_vec();
                let (header, body) = sent.split_at(7);
                assert_eq!(header, b"header2");
                let mut body = body.to_vec();
                apply_mask(&mut body, [9, 8, 7, 200]);
                assert_eq!(body, plain[kept..], "len {len} trim {trim}");
                assert_eq!(segment.frame(b"", [0; 4]), &plain[kept..]);
            }
        }
    }
}
