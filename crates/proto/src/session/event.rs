//! What a session tells its application, in order.

use std::ops::Range;

#[cfg(doc)]
use super::Session;
use crate::wire::control::{Abort, Accept, Exit, Open, Refuse, Resize};
use crate::wire::id::StreamId;

/// What happened, in order. Ranges are of the bytes given to [`Session::handle_frames`], so events
/// are to be taken before those bytes go.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The peer opened a stream: answer with [`Session::accept`] or [`Session::refuse`].
    Opened(StreamId, Open),
    /// The peer joined our stream to its target.
    Accepted(StreamId, Accept),
    /// The peer could not; the stream is gone.
    Refused(StreamId, Refuse),
    /// Bytes of a stream; account for them with [`Session::consumed`].
    Bytes(StreamId, Range<usize>),
    /// Bytes of a stream whose sink had ended in order; they are dropped, here or on their way.
    Missed(StreamId),
    /// The stream's sender has heard that no more is wanted: nothing more comes.
    StopAnswered(StreamId),
    /// The stream's sender has sent all.
    Finished(StreamId),
    /// The stream's sender gave up.
    Reset(StreamId, Abort),
    /// The stream's receiver wants no more.
    Stopped(StreamId, Abort),
    /// More may be written.
    Writable(StreamId),
    /// The receiver's sink has taken all and is closed.
    Done(StreamId),
    /// How the sender's command ended.
    Exited(StreamId, Exit),
    /// The stream's opener sends its command the signal of this number.
    Signalled(StreamId, u32),
    /// The terminal of the stream's opener has another size.
    Resized(StreamId, Resize),
    /// The peer opens no more streams.
    OpeningOver,
    /// Everything is settled at both ends.
    Completed,
}
