//! Commands at a stream: what is asked of them, and how they ended (docs/protocol.md sections 6.4 and
//! 6.7).

use super::stream::Stream;
use super::{Event, Session, SessionError};
use crate::wire::control::{Exit, Resize, Signal};
use crate::wire::id::StreamId;
use crate::wire::inner::InnerFrame;

impl Session {
    /// How the command at the source ended, once; after [`Session::finish`] or [`Session::reset`].
    /// One that [`Session::accept`] did not announce: within a [`Session::hold`] on the acceptor's
    /// side, before [`Session::finish_opening`] on the opener's, or the session may complete
    /// without it.
    pub fn exit(&mut self, id: StreamId, exit: Exit) {
        self.control.push_back((id, InnerFrame::Exit(exit)));
        if !self.is_ours(id)
            && let Some(stream) = self.streams.get_mut(&id)
        {
            stream.exit();
            self.settle(id);
        }
    }

    /// Sends the command at the stream, which this side opened, a signal.
    pub fn signal(&mut self, id: StreamId, signal: Signal) {
        self.ask(id, InnerFrame::Signal(signal));
    }

    /// Tells the command at the stream, which this side opened, the size of its terminal.
    pub fn resize(&mut self, id: StreamId, size: Resize) {
        self.ask(id, InnerFrame::Resize(size));
    }

    fn ask(&mut self, id: StreamId, frame: InnerFrame) {
        if self.is_ours(id) && self.streams.contains_key(&id) {
            self.control.push_back((id, frame));
        }
    }

    /// Whether this side announced a command whose status it has not said yet.
    #[must_use]
    pub fn owes_exit(&self, id: StreamId) -> bool {
        !self.is_ours(id) && self.streams.get(&id).is_some_and(Stream::awaits_exit)
    }

    pub(super) fn handle_exit(&mut self, id: StreamId, exit: Exit) -> Result<(), SessionError> {
        let is_ours = self.is_ours(id);
        if let Some(stream) = self.streams.get_mut(&id) {
            if stream.is_receiving() {
                return Err(SessionError::Protocol(
                    "EXIT before the sender's last frame",
                ));
            }
            if is_ours {
                stream.exit();
            }
        }
        self.events.push_back(Event::Exited(id, exit));
        self.settle(id);
        Ok(())
    }
}
