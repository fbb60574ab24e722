//! What the handles of one stream see of it.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::BytesMut;
use farpipe_proto::wire::control::{Abort, Accept, Exit, Refuse, Resize};

use super::wake;

/// Received pieces smaller than this are copied together, so that a crumb does not hold a slot.
const CRUMB_MAX: usize = 2 * 1024;
/// Room of a buffer that collects crumbs.
const CRUMBS_ROOM: usize = 16 * 1024;

/// How the incoming half of a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RecvEnd {
    Finished,
    Reset(Abort),
}

/// What the handles of one stream see.
#[derive(Debug, Default)]
pub(crate) struct StreamIo {
    pub(crate) chunks: VecDeque<BytesMut>,
    /// The last chunk is a buffer of our own that takes more crumbs.
    crumbs: bool,
    pub(crate) recv_end: Option<RecvEnd>,
    pub(crate) stopped: Option<Abort>,
    /// Bytes came for this side's sink when it had ended in order.
    pub(crate) missed: bool,
    /// The peer's source has heard that this side's sink wants no more.
    pub(crate) stop_answered: bool,
    pub(crate) done: bool,
    pub(crate) accepted: Option<Accept>,
    pub(crate) refused: Option<Refuse>,
    pub(crate) exited: Option<Exit>,
    /// Signals that the peer sends the command, number 1 in the lowest bit: as the system keeps them.
    pub(crate) signals: u64,
    /// The newest size of the peer's terminal.
    pub(crate) resized: Option<Resize>,
    /// Who waits for one of the two.
    pub(crate) asked: Option<Waker>,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
    pub(crate) watcher: Option<Waker>,
    /// Handles that still point here.
    pub(crate) handles: u8,
}

impl StreamIo {
    pub(super) fn push(&mut self, piece: BytesMut) {
        if piece.len() >= CRUMB_MAX {
            self.crumbs = false;
            self.chunks.push_back(piece);
            return;
        }
        match self.chunks.back_mut() {
            Some(last) if self.crumbs && last.capacity() - last.len() >= piece.len() => {
                last.extend_from_slice(&piece);
            }
            _ => {
                let mut buf = BytesMut::with_capacity(CRUMBS_ROOM);
                buf.extend_from_slice(&piece);
                self.crumbs = true;
                self.chunks.push_back(buf);
            }
        }
    }

    pub(super) fn wake_all(&mut self) {
        for waker in [
            &mut self.reader,
            &mut self.writer,
            &mut self.watcher,
            &mut self.asked,
        ] {
            wake(waker);
        }
    }
}
