//! The outgoing bytes of a session from the first one the peer may lack to the last one numbered.
//!
//! Bytes are appended before any of them reaches a socket and leave when the peer has them; a lost
//! link moves all of them back to `unsent`. Nothing is copied: see [`Segment`].

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::segment::Segment;

/// Room of a buffer that collects small control frames.
const CONTROL_ROOM: usize = 1024;

/// Retained bytes. Invariant: the segments of `sent`, the one that [`Retention::take_unsent`] gave
/// out, and those of `unsent` follow each other without a gap up to `end`.
#[derive(Debug, Default)]
pub struct Retention {
    sent: VecDeque<Segment>,
    unsent: VecDeque<Segment>,
    end: u64,
}

impl Retention {
    /// Appends bytes that were just numbered: `buf` from index `data` on.
    pub fn push(&mut self, buf: BytesMut, data: usize) {
        let segment = Segment::new(self.end, buf, data);
        self.end = segment.end();
        self.unsent.push_back(segment);
    }

    /// Appends a small frame that was just numbered, behind the last unsent one if it has room.
    pub fn push_control(&mut self, frame: &[u8]) {
        if let Some(last) = self.unsent.back_mut()
            && last.is_plain()
            && last.tail_room() >= frame.len()
        {
            last.append(frame);
            self.end += frame.len() as u64;
            return;
        }
        let room = (Segment::HEADROOM + frame.len()).max(CONTROL_ROOM);
        let mut buf = BytesMut::with_capacity(room);
        buf.extend_from_slice(&[0; Segment::HEADROOM]);
        buf.extend_from_slice(frame);
        self.push(buf, Segment::HEADROOM);
    }

    /// Gives the next segment out for sending; return it with [`Retention::handle_sent`], whether
    /// the carrier took it or not.
    pub fn take_unsent(&mut self) -> Option<Segment> {
        self.unsent.pop_front()
    }

    /// The segment was handed to the carrier, as a whole or in part.
    pub fn handle_sent(&mut self, segment: Segment) {
        self.sent.push_back(segment);
    }

    /// The peer has everything below `offset`.
    pub fn handle_ack(&mut self, offset: u64) {
        while self.sent.front().is_some_and(|s| s.end() <= offset) {
            self.sent.pop_front();
        }
    }

    /// A new tunnel: the peer has everything below `offset`, all else is to be sent again.
    pub fn rewind(&mut self, offset: u64) {
        self.handle_ack(offset);
        while let Some(segment) = self.sent.pop_back() {
            self.unsent.push_front(segment);
        }
        while self.unsent.front().is_some_and(|s| s.end() <= offset) {
            self.unsent.pop_front();
        }
        if let Some(first) = self.unsent.front_mut() {
            first.trim_to(offset);
        }
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Session offset behind the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(retention: &mut Retention, parts: &[&[u8]]) {
        for part in parts {
            let mut buf = BytesMut::zeroed(Segment::HEADROOM);
            buf.extend_from_slice(part);
            retention.push(buf, Segment::HEADROOM);
        }
    }

    fn drain(retention: &mut Retention) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(mut segment) = retention.take_unsent() {
            out.extend_from_slice(segment.frame(b"", [0; 4]));
            retention.handle_sent(segment);
        }
        out
    }

    #[test]
    fn n2_a_rewind_resends_exactly_what_the_peer_lacks() {
        for have in 0..=11 {
            let mut retention = Retention::default();
            filled(&mut retention, &[b"abc", b"defg", b"hijk"]);
            assert_eq!(drain(&mut retention), b"abcdefghijk");
            retention.rewind(have);
            assert_eq!(drain(&mut retention), &b"abcdefghijk"[have as usize..]);
        }
    }

    #[test]
    fn small_frames_share_a_segment_until_it_is_sent() {
        let mut retention = Retention::default();
        retention.push_control(b"one");
        retention.push_control(b"two");
        assert_eq!(retention.take_unsent().expect("one segment").len(), 6);
        assert!(!retention.has_unsent());
    }
}
