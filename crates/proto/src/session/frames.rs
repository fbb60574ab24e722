//! What the peer's inner frames do to the session (docs/protocol.md section 6): each is checked, then it
//! counts.

use std::ops::Range;

use super::{Event, RecvInput, STATUS_FAILED, Session, SessionError, Side, Stream};
use crate::limits::{CONTROL_QUEUE_MAX, STREAMS_MAX};
use crate::time::Instant;
use crate::wire::control::{Abort, AbortCode, Open, Refuse};
use crate::wire::id::StreamId;
use crate::wire::inner::InnerFrame;

impl Session {
    pub(super) fn handle_bytes_header(
        &mut self,
        now: Instant,
        id: StreamId,
        len: usize,
    ) -> Result<(), SessionError> {
        self.floods.count_bytes(len)?;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Err(SessionError::Protocol(
                "bytes for a stream that is not open",
            ));
        };
        if let Some(told) = stream.handle_bytes_header(now, len)? {
            self.trip.handle_answered(now, told);
        }
        if stream.is_used_up() {
            self.incoming.hurry();
        }
        Ok(())
    }

    pub(super) fn handle_bytes(&mut self, id: StreamId, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        match self.streams.get(&id) {
            Some(stream) if stream.misses_bytes() => self.events.push_back(Event::Missed(id)),
            Some(stream) if !stream.is_discarding() => {
                self.events.push_back(Event::Bytes(id, range));
            }
            Some(_) | None => {}
        }
    }

    pub(super) fn handle_frame(
        &mut self,
        now: Instant,
        id: StreamId,
        frame: InnerFrame,
    ) -> Result<(), SessionError> {
        if id == StreamId::SESSION {
            return self.handle_session_frame(&frame);
        }
        match frame {
            InnerFrame::Open(open) => return self.handle_open(now, id, open),
            InnerFrame::Exit(exit) if self.was_opened(id) => return self.handle_exit(id, exit),
            InnerFrame::Complete => {
                return Err(SessionError::Protocol("COMPLETE for a stream"));
            }
            _ => {}
        }
        if !self.was_opened(id) {
            return Err(SessionError::Protocol("a frame for a stream never opened"));
        }
        if matches!(frame, InnerFrame::Accept(_) | InnerFrame::Refuse(_)) && !self.is_ours(id) {
            return Err(SessionError::Protocol("an answer to its own OPEN"));
        }
        if matches!(frame, InnerFrame::Signal(_) | InnerFrame::Resize(_)) && self.is_ours(id) {
            return Err(SessionError::Protocol(
                "a signal or a size for a stream of another's",
            ));
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            // The receiver's words and the answer to OPEN may cross the stream's end; what the
            // sender says may not.
            return match frame {
                InnerFrame::Credit(_) | InnerFrame::Stop(_) | InnerFrame::Done(_) => Ok(()),
                InnerFrame::Reset(_) | InnerFrame::Accept(_) | InnerFrame::Refuse(_) => Ok(()),
                InnerFrame::Signal(_) | InnerFrame::Resize(_) => Ok(()),
                _ => Err(SessionError::Protocol(
                    "a frame for a stream that has ended",
                )),
            };
        };
        match frame {
            InnerFrame::Accept(accept) => {
                if !stream.accept(accept) {
                    return Err(SessionError::Protocol("a second answer to OPEN"));
                }
                self.events.push_back(Event::Accepted(id, accept));
            }
            InnerFrame::Refuse(refuse) => {
                let owes_reset = stream.handle_refused()?;
                self.events.push_back(Event::Refused(id, refuse));
                self.confirm_stop(id, owes_reset);
            }
            InnerFrame::Credit(limit) => {
                if stream.handle_credit(limit)? {
                    self.events.push_back(Event::Writable(id));
                }
            }
            InnerFrame::Fin(total) => {
                if total != stream.received() {
                    return Err(SessionError::Protocol("FIN with another count than came"));
                }
                let was_discarding = stream.is_discarding();
                stream.handle(RecvInput::FinReceived)?;
                self.events.push_back(match was_discarding {
                    true => Event::StopAnswered(id),
                    false => Event::Finished(id),
                });
            }
            InnerFrame::Reset(abort) => {
                // Not news to a receiver that said STOP or DONE before it heard of the reset.
                let is_news = stream.is_receiving() || stream.is_finished();
                let was_discarding = stream.is_discarding();
                let misses = stream.misses_bytes() && abort.code == AbortCode::ReaderGone as u32;
                stream.handle(RecvInput::ResetReceived)?;
                if misses {
                    self.events.push_back(Event::Missed(id));
                }
                if was_discarding {
                    self.events.push_back(Event::StopAnswered(id));
                }
                if is_news && !was_discarding {
                    self.events.push_back(Event::Reset(id, abort));
                }
                // A reset that our own STOP or REFUSE asked for is no flood of the peer's.
                if !was_discarding && !self.is_ours(id) {
                    self.floods.count_reset(now)?;
                }
            }
            InnerFrame::Stop(mut abort) => {
                let owes_reset = stream.handle_stop(&mut abort, self.config.answers_ends)?;
                self.events.push_back(Event::Stopped(id, abort));
                self.confirm_stop(id, owes_reset);
            }
            InnerFrame::Done(total) => {
                stream.handle_done(total)?;
                self.events.push_back(Event::Done(id));
            }
            InnerFrame::Signal(signal) => {
                self.events.push_back(Event::Signalled(id, signal.number));
            }
            InnerFrame::Resize(size) => self.events.push_back(Event::Resized(id, size)),
            InnerFrame::Open(_) | InnerFrame::Exit(_) | InnerFrame::Complete => {
                return Err(SessionError::Protocol("EXIT for a stream never opened"));
            }
        }
        self.settle(id);
        Ok(())
    }

    /// Answers a STOP: nothing more is coming.
    fn confirm_stop(&mut self, id: StreamId, owes_reset: bool) {
        if owes_reset {
            let abort = Abort::new(AbortCode::Stopped, "");
            self.control.push_back((id, InnerFrame::Reset(abort)));
        }
        self.settle(id);
    }

    fn handle_session_frame(&mut self, frame: &InnerFrame) -> Result<(), SessionError> {
        match (frame, self.config.side) {
            (InnerFrame::Done(_), Side::Acceptor) => {
                self.opening_over = true;
                self.events.push_back(Event::OpeningOver);
                self.complete_if_settled();
                Ok(())
            }
            (InnerFrame::Complete, Side::Opener) if self.is_confirmed() => {
                self.complete = true;
                self.events.push_back(Event::Completed);
                Ok(())
            }
            (InnerFrame::Complete, Side::Opener) => {
                Err(SessionError::Protocol("COMPLETE before all was settled"))
            }
            _ => Err(SessionError::Protocol("a frame that belongs to a stream")),
        }
    }

    fn handle_open(&mut self, now: Instant, id: StreamId, open: Open) -> Result<(), SessionError> {
        if self.is_ours(id) {
            return Err(SessionError::Protocol("a stream id of the wrong side"));
        }
        if id.0 <= self.peer_highest {
            return Err(SessionError::Protocol(
                "a stream id used twice or going down",
            ));
        }
        // The acceptor's OPEN may cross the opener's word that no more will be opened.
        if self.opening_over && self.config.side == Side::Acceptor {
            return Err(SessionError::Protocol("OPEN after the last stream"));
        }
        // Refused streams stay until the peer has heard of it; an honest one opens no more than its
        // own limit until then.
        if self.streams.len() >= self.config.streams_max.saturating_add(STREAMS_MAX) {
            return Err(SessionError::Flow("more streams than allowed"));
        }
        self.peer_highest = id.0;
        let mut stream = Stream::new(now, open.interactive);
        let refused = if self.streams.len() >= self.config.streams_max {
            Some(format!(
                "more than {} open streams",
                self.config.streams_max
            ))
        } else if !self.has_room_for_window() {
            Some("no memory for another stream; try again later".to_owned())
        } else {
            None
        };
        match refused {
            None => self.events.push_back(Event::Opened(id, open)),
            Some(message) => {
                stream.refuse();
                let status = STATUS_FAILED;
                let refuse = Refuse { status, message };
                self.control.push_back((id, InnerFrame::Refuse(refuse)));
            }
        }
        self.add(id, stream);
        Ok(())
    }

    pub(super) fn is_ours(&self, id: StreamId) -> bool {
        id.0 % 2 == self.next_id % 2
    }

    pub(super) fn was_opened(&self, id: StreamId) -> bool {
        if self.is_ours(id) {
            id.0 < self.next_id
        } else {
            id.0 <= self.peer_highest
        }
    }

    /// Refuses to queue answers without end for a peer that does not read them.
    pub(super) fn check_floods(&self) -> Result<(), SessionError> {
        if self.control.len() > CONTROL_QUEUE_MAX {
            return Err(SessionError::Flow(
                "more requests than answers can be kept for",
            ));
        }
        // Control frames are not bound by credit; what they add to the retained bytes is.
        if self.outgoing.retained() > self.config.buffer_max + (4 << 20) {
            return Err(SessionError::Flow("nothing is acknowledged any more"));
        }
        Ok(())
    }
}
