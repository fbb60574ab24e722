//! One stream: both halves, the peer's credit and ours.

use super::SessionError;
use super::half::{RecvInput, RecvState, SendInput, SendState};
use super::window::{Common, Window};
use crate::limits::{OFFSET_MAX, WINDOW_INITIAL};
use crate::link::Turn;
use crate::time::Instant;
use crate::wire::control::{Abort, AbortCode, Accept};

/// One stream of a session.
#[derive(Debug)]
pub(super) struct Stream {
    interactive: bool,
    /// What it had of the session.
    pub(super) turn: Turn,
    send: SendState,
    /// Bytes numbered so far; at most `send_limit`.
    send_offset: u64,
    /// The peer's credit.
    send_limit: u64,
    recv: RecvState,
    window: Window,
    /// The sink has ended in order and takes no more.
    has_ended: bool,
    /// The peer was told REFUSE: its last word is still awaited, ours is said.
    refused: bool,
    /// The answer to OPEN was said, or heard.
    answered: bool,
    /// ACCEPT promised the status of a command, and it was not said, or heard, yet.
    awaits_exit: bool,
}

impl Stream {
    pub(super) fn new(now: Instant, interactive: bool) -> Self {
        Self {
            interactive,
            turn: Turn::default(),
            send: SendState::Open,
            send_offset: 0,
            send_limit: WINDOW_INITIAL,
            recv: RecvState::Open,
            window: Window::new(now),
            has_ended: false,
            refused: false,
            answered: false,
            awaits_exit: false,
        }
    }

    pub(super) fn is_interactive(&self) -> bool {
        self.interactive
    }

    pub(super) fn send_state(&self) -> SendState {
        self.send
    }

    pub(super) fn window_size(&self) -> u64 {
        self.window.size()
    }

    /// Whether [`Stream::consumed`] of `len` bytes will look at the window's size.
    pub(super) fn is_window_due(&self, len: usize) -> bool {
        self.window.is_due(len as u64)
    }

    /// Whether its reader has taken something lately, and takes more.
    pub(super) fn is_window_in_use(&self, now: Instant) -> bool {
        self.recv == RecvState::Open && self.window.is_in_use(now)
    }

    /// What the stream may make this side keep. Nothing, when what comes is dropped from the start.
    pub(super) fn window_held(&self) -> u64 {
        if self.refused { 0 } else { self.window.held() }
    }

    pub(super) fn received(&self) -> u64 {
        self.window.received()
    }

    /// The sink has ended in order; bytes that it took.
    pub(super) fn end(&mut self) -> u64 {
        self.has_ended = true;
        self.window.consumed()
    }

    /// Whether bytes that arrive are those of a sender who should hear that they are lost.
    pub(super) fn misses_bytes(&self) -> bool {
        self.has_ended && self.is_discarding()
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.window.is_used_up()
    }

    /// Bytes that may be numbered as far as the peer is concerned.
    pub(super) fn credit(&self) -> u64 {
        if self.send == SendState::Open {
            self.send_limit - self.send_offset
        } else {
            0
        }
    }

    pub(super) fn number(&mut self, len: usize) {
        assert!(len as u64 <= self.credit(), "written beyond the grant");
        self.send_offset += len as u64;
    }

    /// The source ended; the count of bytes for FIN if that is news.
    pub(super) fn finish(&mut self) -> Option<u64> {
        self.send(SendInput::Finish).then_some(self.send_offset)
    }

    /// Applies an input of this side; `false` if it makes no sense any more.
    pub(super) fn send(&mut self, input: SendInput) -> bool {
        self.send.next(input).is_some_and(|next| {
            self.send = next;
            true
        })
    }

    /// Applies an input of this side; `false` if it makes no sense any more.
    pub(super) fn recv(&mut self, input: RecvInput) -> bool {
        self.recv.next(input).is_some_and(|next| {
            self.recv = next;
            true
        })
    }

    /// Applies what the peer's sender said.
    pub(super) fn handle(&mut self, input: RecvInput) -> Result<(), SessionError> {
        if self.recv(input) {
            Ok(())
        } else {
            Err(SessionError::Protocol(
                "a frame after the sender's last one",
            ))
        }
    }

    /// The stream is joined to its target, by this side or the peer. Whether OPEN had no answer yet.
    pub(super) fn accept(&mut self, accept: Accept) -> bool {
        let is_first = !std::mem::replace(&mut self.answered, true);
        if is_first {
            self.awaits_exit = accept.has_command;
        }
        is_first
    }

    /// The status of the command at the target was said, or heard.
    pub(super) fn exit(&mut self) {
        self.awaits_exit = false;
    }

    /// Whether the status of the command at the target is still to come.
    pub(super) fn awaits_exit(&self) -> bool {
        self.awaits_exit
    }

    /// Refuses the peer's stream: our half is over, and what still comes is dropped.
    pub(super) fn refuse(&mut self) {
        self.refused = true;
        self.answered = true;
        self.send(SendInput::Reset);
        self.recv(RecvInput::Stop);
    }

    /// The peer refused our stream; whether we owe it a last word.
    pub(super) fn handle_refused(&mut self) -> Result<bool, SessionError> {
        if std::mem::replace(&mut self.answered, true) {
            return Err(SessionError::Protocol("a second answer to OPEN"));
        }
        let owes = self.send == SendState::Open;
        self.send(SendInput::StopReceived);
        self.recv(RecvInput::ResetReceived);
        Ok(owes)
    }

    /// The peer wants no more; whether we owe it a last word. A sink that ended in order without
    /// some of what was sent is a reader gone. With `answers_ends` the last word to one that has all is
    /// the application's.
    pub(super) fn handle_stop(
        &mut self,
        abort: &mut Abort,
        answers_ends: bool,
    ) -> Result<bool, SessionError> {
        if abort.code == AbortCode::Ended as u32 {
            if abort.taken > self.send_offset {
                return Err(SessionError::Protocol("STOP after more than was sent"));
            }
            if abort.taken < self.send_offset {
                abort.code = AbortCode::ReaderGone as u32;
            }
        }
        let owes = self.send == SendState::Open;
        if owes && answers_ends && abort.code == AbortCode::Ended as u32 {
            return Ok(false);
        }
        if self.send(SendInput::StopReceived) {
            Ok(owes)
        } else {
            Err(SessionError::Protocol("a STOP that makes no sense"))
        }
    }

    /// The peer's sink has taken all.
    pub(super) fn handle_done(&mut self, total: u64) -> Result<(), SessionError> {
        if total != self.send_offset {
            return Err(SessionError::Protocol("DONE with another count than sent"));
        }
        // After our own RESET its DONE may still be under way.
        if self.send == SendState::Reset || self.send(SendInput::DoneReceived) {
            Ok(())
        } else {
            Err(SessionError::Protocol("DONE before FIN"))
        }
    }

    /// The peer takes bytes up to `limit`; whether a writer may have waited for that.
    pub(super) fn handle_credit(&mut self, limit: u64) -> Result<bool, SessionError> {
        if limit > OFFSET_MAX {
            return Err(SessionError::Flow("credit beyond any stream's length"));
        }
        if limit <= self.send_limit {
            return Err(SessionError::Flow("credit that gives nothing"));
        }
        self.send_limit = limit;
        Ok(self.send == SendState::Open)
    }

    /// A BYTES frame begins. Checked before anything of it is kept. When the credit was told that its
    /// sender had to wait for, if it had to.
    pub(super) fn handle_bytes_header(
        &mut self,
        now: Instant,
        len: usize,
    ) -> Result<Option<Instant>, SessionError> {
        match self.recv {
            RecvState::Open | RecvState::Stopping => {}
            RecvState::Finished | RecvState::Done | RecvState::Stopped | RecvState::Reset => {
                return Err(SessionError::Protocol(
                    "bytes after the sender's last frame",
                ));
            }
        }
        self.window.handle_bytes(now, len)
    }

    /// Whether the sender's last frame (FIN or RESET) is still to come.
    pub(super) fn is_receiving(&self) -> bool {
        matches!(self.recv, RecvState::Open | RecvState::Stopping)
    }

    /// Whether all has come and the sink is still at work.
    pub(super) fn is_finished(&self) -> bool {
        self.recv == RecvState::Finished
    }

    /// Whether arriving bytes are dropped because the sink wants no more.
    pub(super) fn is_discarding(&self) -> bool {
        self.recv == RecvState::Stopping
    }

    /// The sink took `len` bytes; a new credit limit to tell, if one is due.
    pub(super) fn consumed(
        &mut self,
        now: Instant,
        len: usize,
        common: Option<Common>,
    ) -> Option<u64> {
        let limit = self.window.handle_consumed(now, len as u64, common);
        // A sender that has sent all needs no more credit.
        if self.recv == RecvState::Open {
            limit
        } else {
            None
        }
    }

    /// Whether both directions are over, and the status of a command at the target is there.
    pub(super) fn is_settled(&self) -> bool {
        self.send.is_final() && self.recv.is_final() && !self.awaits_exit
    }

    pub(super) fn assert_invariants(&self) {
        assert!(
            self.send_offset <= self.send_limit,
            "credit is never exceeded"
        );
        assert!(self.window.consumed() <= self.window.received());
    }
}
