//! A WebSocket whose other end is no farpipe: a browser, a script, any server
//! (docs/decisions/0004-raw-websockets.md).
//!
//! It is a byte stream each way: bytes in binary messages, or lines in text messages. All progress
//! is made by polling it; the halves of an endpoint share one under a lock, in one task.
//!
//! Always holds: only a closing handshake with a good code reads as an end, and only behind
//! everything that came before it, as failures are. What is dropped before its closing handshake is
//! done is reset; who wants to say why leaves first ([`RawWebSocket::poll_leave`]).
//!
//! Bounds: `RAW_INBOX_MAX` received and a message on top of it, `RAW_OUTBOX_MAX` and a frame on top of it
//! to be sent. When full the socket is not read, or the caller waits.

mod bounded;
mod deflate;
mod error;
mod foreign;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod incoming;
mod upgrade;

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use farpipe_proto::limits::{
    RAW_ANSWER_MAX, RAW_ANSWER_PAUSE, RAW_CLOSE_WAIT, RAW_DRAIN, RAW_INBOX_MAX, RAW_MESSAGE_MAX,
    RAW_OUTBOX_MAX, RAW_PING, RAW_PINGS_MAX, RAW_SENT_MAX,
};
use rustix::event::{PollFd, PollFlags};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use self::deflate::Deflate;
pub use self::error::RawError;
use self::incoming::{Event, Incoming};
use super::super::framed::{CLOSE_WITHOUT_CODE, Violation};
use super::frame::{Header, Opcode};
use super::keys::{MaskKeys, RandomKeys};
use crate::segment::apply_mask;
use crate::tls::TlsStream;

pub(crate) use self::foreign::{Arrived, is_served};
pub use self::foreign::{Foreign, ForeignRequest, Gateway, Taken, Unserved};
pub use self::upgrade::{Admitted, To, accept, connect, connect_tls};

/// Read at once from the socket.
const READ_MAX: usize = 64 << 10;

/// Reads in one poll before others get their turn.
const TURNS_MAX: usize = 16;

/// The end, in order.
const NORMAL: u16 = 1000;

/// This process ends, or the page is left: from a client the end of what it says, from a server not.
pub const GOING_AWAY: u16 = 1001;

/// What is behind this end has failed.
pub const INTERNAL_ERROR: u16 = 1011;

const TOO_LONG: Violation = Violation {
    what: "a message longer than 1 MiB",
    code: 1009,
};

const NOT_TEXT: Violation = Violation {
    what: "a text message that is not UTF-8",
    code: 1007,
};

/// What messages are, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Messages {
    /// Bytes out as binary messages; messages in one after the other.
    Bytes,
    /// Each line out as a text message without its end; each message in with a line's end behind
    /// it, unless it has one.
    Lines,
}

/// What a message that is sent whole is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8: the caller sees to it.
    Text,
    /// Bytes.
    Binary,
}

/// What a connection with a foreign end runs on.
pub trait Transport: AsyncRead + AsyncWrite + Send + Sync + Unpin + fmt::Debug {
    /// Whether dropping it is to reset the connection. A hint: not every transport has it.
    fn set_reset_at_close(&self, on: bool);

    /// Whether the other end has ended what it says, or the connection is broken: also while what it
    /// said before is not read.
    fn is_hung_up(&self) -> bool;
}

/// The peer has said its end, where the system tells without a read.
#[cfg(target_os = "linux")]
const HALF: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const HALF: PollFlags = PollFlags::empty();

impl Transport for TcpStream {
    fn set_reset_at_close(&self, on: bool) {
        let at_once = on.then_some(Duration::ZERO);
        let _ = rustix::net::sockopt::set_socket_linger(self, at_once);
    }

    fn is_hung_up(&self) -> bool {
        let mut seen = [PollFd::new(self, HALF)];
        let at_once = rustix::event::Timespec::default();
        // What cannot be asked is read sooner or later.
        let told = rustix::event::poll(&mut seen, Some(&at_once)).is_ok();
        let over = HALF | PollFlags::HUP | PollFlags::ERR;
        told && seen[0].revents().intersects(over)
    }
}

impl<S: Transport> Transport for TlsStream<S> {
    fn set_reset_at_close(&self, on: bool) {
        self.transport().set_reset_at_close(on);
    }

    fn is_hung_up(&self) -> bool {
        self.transport().is_hung_up()
    }
}

/// A line that cannot be sent, and the code that tells the other end so.
#[derive(Debug)]
struct BadLine(RawError, u16);

/// How far the closing handshake is.
///
/// ```text
///              close()                    Close in
///   Open ────────────────▶ Told ─────────────────────┐
///     │   Close in, answered at once                 ▼
///     └─────────────────────────────────────────▶ Closed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    Open,
    /// Our Close is in the outbox or sent; theirs is to come.
    Told,
    /// Both are there.
    Closed,
}

/// A WebSocket with a foreign other end. Poll it from one task only.
#[derive(Debug)]
pub struct RawWebSocket {
    io: Box<dyn Transport>,
    messages: Messages,
    incoming: Incoming,
    /// Received, not yet taken out of frames.
    raw: BytesMut,
    /// To be read by the caller.
    inbox: BytesMut,
    /// To be sent, framed.
    out: BytesMut,
    /// The line that is not complete yet.
    line: Vec<u8>,
    /// Messages are written with their bounds.
    #[cfg(feature = "conformance")]
    bounded: Option<bounded::Parts>,
    deflate: Option<Deflate>,
    /// A client's.
    keys: Option<RandomKeys>,
    closing: Closing,
    /// Writing was shut down, behind the closing handshake.
    is_shut: bool,
    /// The other end said its end while something was still on its way to it.
    is_unheard: bool,
    /// The other end did not say its end before ours: what still comes has to be taken in, or it
    /// would see a reset in place of the code.
    drains: bool,
    failed: Option<RawError>,
    /// A write failed. What was received before may say why.
    write_failed: Option<String>,
    /// The payload of the last ping that is not answered yet.
    pong: Option<Vec<u8>>,
    /// Nobody reads any more.
    is_discarding: bool,
    /// The caller has read the end.
    end_was_read: bool,
    /// Waits for that, or for what came before a failure to be read.
    sink_waker: Option<Waker>,
    /// While a client that has nothing more to say waits for the answer's pause.
    answer: Option<Answer>,
    /// While it is taken leave of.
    leaving: Option<Pin<Box<Sleep>>>,
    alarm: Pin<Box<Sleep>>,
    /// Something was heard, or written, since the alarm was set.
    is_alive: bool,
    pings: u32,
}

/// What a client waits for before it says Close.
#[derive(Debug)]
struct Answer {
    pause: Pin<Box<Sleep>>,
    until: Instant,
    has_come: bool,
}

impl RawWebSocket {
    fn new(io: Box<dyn Transport>, incoming: Incoming, messages: Messages, raw: BytesMut) -> Self {
        io.set_reset_at_close(true);
        Self {
            io,
            messages,
            incoming,
            raw,
            inbox: BytesMut::new(),
            out: BytesMut::new(),
            line: Vec::new(),
            #[cfg(feature = "conformance")]
            bounded: None,
            deflate: None,
            keys: None,
            closing: Closing::Open,
            is_shut: false,
            is_unheard: false,
            drains: false,
            failed: None,
            write_failed: None,
            pong: None,
            is_discarding: false,
            end_was_read: false,
            sink_waker: None,
            answer: None,
            leaving: None,
            alarm: Box::pin(tokio::time::sleep(RAW_PING)),
            is_alive: false,
            pings: 0,
        }
    }

    /// What is read and written from now on are messages, text or binary, in the parts of `bounded.rs`: for
    /// suites that test ends by what they echo.
    #[cfg(feature = "conformance")]
    #[must_use]
    pub fn keeping_bounds(mut self) -> Self {
        self.incoming.keep_bounds();
        self.bounded = Some(bounded::Parts::default());
        self
    }

    /// Ready when a read would return something.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.drive(cx);
        if self.inbox.is_empty() && self.failed.is_none() && self.closing != Closing::Closed {
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Appends between 1 and `max` bytes to `buf`; `Ok(0)` is the end.
    ///
    /// # Errors
    /// [`RawError`] inside.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_ready(cx));
        if !self.inbox.is_empty() {
            let len = self.inbox.len().min(max);
            buf.extend_from_slice(&self.inbox[..len]);
            self.inbox.advance(len);
            if self.failed.is_some() && self.inbox.is_empty() {
                self.wake_sink();
            }
            return Poll::Ready(Ok(len));
        }
        self.check()?;
        self.read_end();
        Poll::Ready(Ok(0))
    }

    /// Whether nothing more comes from it, though what came may not be read yet. Poll it for this to
    /// be noticed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.failed.is_some() || self.closing == Closing::Closed
    }

    /// Whether there is something to read, though its end may have come.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        self.failed.is_none() && !self.inbox.is_empty()
    }

    /// Nobody reads any more: what comes is dropped.
    pub fn discard(&mut self) {
        self.is_discarding = true;
        self.inbox = BytesMut::new();
        self.read_end();
    }

    /// Takes some of `bufs` and says how much; never 0 for what is not empty. Each call makes a
    /// message, if messages are bytes.
    ///
    /// # Errors
    /// `BrokenPipe` when the other end has said its end; else [`RawError`] inside.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.drive(cx);
        ready!(self.poll_check(cx))?;
        if self.closing != Closing::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.out.len() >= RAW_OUTBOX_MAX || self.write_failed.is_some() {
            // Woken by the socket: it takes what is there, or its end is read.
            return Poll::Pending;
        }
        let mut bytes = Vec::new();
        for buf in bufs {
            let room = RAW_SENT_MAX - bytes.len();
            bytes.extend_from_slice(&buf[..buf.len().min(room)]);
        }
        #[cfg(feature = "conformance")]
        if let Some(mut parts) = self.bounded.take() {
            parts.put(&bytes, |is_text, message| {
                let opcode = if is_text {
                    Opcode::Text
                } else {
                    Opcode::Binary
                };
                self.put_message(opcode, message);
            });
            self.bounded = Some(parts);
            self.flush(cx);
            return Poll::Ready(Ok(bytes.len()));
        }
        match self.messages {
            Messages::Bytes => self.put_message(Opcode::Binary, &bytes),
            Messages::Lines => {
                if let Err(bad) = self.put_lines(&bytes) {
                    self.refuse_line(bad);
                    self.flush(cx);
                    ready!(self.poll_check(cx))?;
                }
            }
        }
        self.flush(cx);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Takes a message, of any length, which is sent whole: when less than `RAW_OUTBOX_MAX` waits.
    ///
    /// # Errors
    /// As [`RawWebSocket::poll_write`].
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        kind: Kind,
        message: &[u8],
    ) -> Poll<io::Result<()>> {
        self.drive(cx);
        ready!(self.poll_check(cx))?;
        if self.closing != Closing::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.out.len() >= RAW_OUTBOX_MAX || self.write_failed.is_some() {
            // Woken by the socket: it takes what is there, or its end is read.
            return Poll::Pending;
        }
        let opcode = match kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        self.put_message(opcode, message);
        self.flush(cx);
        Poll::Ready(Ok(()))
    }

    /// Ready when nothing that is written arrives any more, because the other end has said its
    /// end and that was read: with `Ok` when all that was written was on its way to it before.
    ///
    /// # Errors
    /// `BrokenPipe` when it was not; else [`RawError`] inside.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.drive(cx);
        ready!(self.poll_check(cx))?;
        if self.closing == Closing::Closed && self.end_was_read {
            return Poll::Ready(self.check_heard());
        }
        self.sink_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Says the end, and waits for the other end's.
    ///
    /// # Errors
    /// As [`RawWebSocket::poll_write`].
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_check(cx))?;
        if self.closing == Closing::Open {
            if !self.line.is_empty() {
                let rest = std::mem::take(&mut self.line);
                if let Err(bad) = self.put_line(rest) {
                    self.refuse_line(bad);
                    self.flush(cx);
                    ready!(self.poll_check(cx))?;
                }
            }
            let awaits_answer = self.keys.is_some() && !self.is_discarding;
            if awaits_answer {
                ready!(self.poll_answer(cx));
            }
        }
        if self.closing == Closing::Open && self.failed.is_none() {
            self.put_close(NORMAL);
            self.closing = Closing::Told;
            self.set_alarm(RAW_CLOSE_WAIT);
        }
        self.drive(cx);
        ready!(self.poll_check(cx))?;
        if self.closing != Closing::Closed {
            return Poll::Pending;
        }
        Poll::Ready(self.check_heard())
    }

    /// Leaves, whatever has become of the connection: what waits is sent, `code` unless a Close was
    /// said already, and what comes is dropped until the other end has closed, so that it sees the
    /// code and no reset. Ready at once when nothing is left to be said, and after [`RAW_DRAIN`].
    ///
    /// # Cancellation
    /// A dropped poll loses nothing; a socket dropped before it is ready may be reset.
    pub fn poll_leave(&mut self, cx: &mut Context<'_>, code: u16) -> Poll<()> {
        self.discard();
        if self.failed.is_none() && self.closing != Closing::Closed {
            if self.closing == Closing::Open {
                self.put_close(code);
            }
            self.closing = Closing::Closed;
            self.drains = true;
        }
        self.flush(cx);
        if self.closing != Closing::Closed || self.write_failed.is_some() {
            return Poll::Ready(());
        }
        let leaving = self
            .leaving
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(RAW_DRAIN)));
        if leaving.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        for _ in 0..TURNS_MAX {
            if !self.drains {
                return if self.is_shut {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                };
            }
            self.raw.clear();
            match ready!(self.poll_socket(cx)) {
                Ok(0) | Err(_) => self.drains = false,
                Ok(_) => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn check_heard(&self) -> io::Result<()> {
        if self.is_unheard {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    /// Ready when the answer pauses, or there will be none.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.answer.get_or_insert_with(|| Answer {
            pause: Box::pin(tokio::time::sleep(RAW_ANSWER_PAUSE)),
            until: Instant::now() + RAW_ANSWER_MAX,
            has_come: false,
        });
        self.drive(cx);
        let is_busy = !self.inbox.is_empty() || !self.out.is_empty();
        let Some(answer) = &mut self.answer else {
            return Poll::Ready(());
        };
        if self.closing != Closing::Open || self.failed.is_some() {
            return Poll::Ready(());
        }
        loop {
            if std::mem::take(&mut answer.has_come) {
                let pause = (Instant::now() + RAW_ANSWER_PAUSE).min(answer.until);
                answer.pause.as_mut().reset(pause);
            }
            ready!(answer.pause.as_mut().poll(cx));
            if !is_busy || Instant::now() >= answer.until {
                return Poll::Ready(());
            }
            answer.has_come = true;
        }
    }

    /// Makes what progress there is to make.
    fn drive(&mut self, cx: &mut Context<'_>) {
        self.flush(cx);
        self.receive(cx);
        self.flush(cx);
        self.watch(cx);
    }

    fn check(&self) -> io::Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(error) => Err(io::Error::new(error.kind(), error.clone())),
        }
    }

    /// What has failed; on the other side, once everything that came before it was read.
    fn poll_check(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_ours = matches!(
            self.failed,
            Some(RawError::LineNotText | RawError::LineTooLong)
        );
        if self.failed.is_some() && !is_ours && !self.inbox.is_empty() {
            self.sink_waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(self.check())
    }

    fn read_end(&mut self) {
        self.end_was_read = true;
        self.wake_sink();
    }

    fn wake_sink(&mut self) {
        if let Some(waker) = self.sink_waker.take() {
            waker.wake();
        }
    }

    fn receive(&mut self, cx: &mut Context<'_>) {
        for _ in 0..TURNS_MAX {
            if self.failed.is_some() || self.closing == Closing::Closed {
                return;
            }
            loop {
                let step = self
                    .incoming
                    .step(&mut self.raw, &mut self.inbox, RAW_INBOX_MAX);
                if self.is_discarding {
                    self.inbox.clear();
                }
                match step {
                    Ok(Some(event)) => self.handle_event(event),
                    Ok(None) => break,
                    Err(violation) => return self.violated(violation),
                }
                if self.failed.is_some() || self.closing == Closing::Closed {
                    return;
                }
            }
            if self.inbox.len() >= RAW_INBOX_MAX {
                return;
            }
            match self.poll_socket(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(0)) => {
                    let cut = RawError::Cut;
                    let written = self.write_failed.take().map(RawError::Io);
                    self.failed = Some(written.unwrap_or(cut));
                }
                Poll::Ready(Ok(_)) => {
                    self.is_alive = true;
                    if let Some(answer) = &mut self.answer {
                        answer.has_come = true;
                    }
                }
                Poll::Ready(Err(error)) => self.failed = Some(RawError::Io(error.to_string())),
            }
        }
        cx.waker().wake_by_ref();
    }

    fn poll_socket(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let had = self.raw.len();
        self.raw.resize(had + READ_MAX, 0);
        let mut room = ReadBuf::new(&mut self.raw[had..]);
        let read = Pin::new(&mut self.io).poll_read(cx, &mut room);
        let len = room.filled().len();
        self.raw.truncate(had + len);
        read.map_ok(|()| len)
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Ping(payload) => self.pong = Some(payload),
            Event::Pong => {}
            Event::Close { code, reason } => self.handle_close(code, &reason),
        }
    }

    fn handle_close(&mut self, code: u16, reason: &str) {
        let was = self.closing;
        self.closing = Closing::Closed;
        if was == Closing::Open {
            // What waits is sent in front of the answer, but nobody says that it is read.
            self.is_unheard = !self.out.is_empty() || !self.line.is_empty();
            self.put_close(code);
        }
        let is_good = match code {
            NORMAL | CLOSE_WITHOUT_CODE => true,
            // A page that is left has said what it had to say; a server that is stopped has not.
            GOING_AWAY => self.keys.is_none(),
            _ => false,
        };
        if !is_good {
            let reason = reason.escape_debug().to_string();
            self.failed = Some(RawError::Closed { code, reason });
        }
        self.set_alarm(RAW_CLOSE_WAIT);
    }

    /// Tells the other end what it did, if it still listens.
    fn violated(&mut self, violation: Violation) {
        if self.closing == Closing::Open {
            self.put_close(violation.code);
        }
        self.closing = Closing::Closed;
        self.drains = true;
        self.failed = Some(RawError::Violated(violation.what));
    }

    /// Tells the other end that a line cannot be sent to it, behind those that can.
    fn refuse_line(&mut self, BadLine(error, code): BadLine) {
        self.put_close(code);
        self.closing = Closing::Closed;
        self.drains = true;
        self.failed = Some(error);
    }

    fn flush(&mut self, cx: &mut Context<'_>) {
        if self.write_failed.is_some() || self.is_shut {
            self.out.clear();
            return;
        }
        if self.closing == Closing::Open
            && self.out.len() < RAW_OUTBOX_MAX
            && let Some(pong) = self.pong.take()
        {
            self.put_frame(Opcode::Pong, false, &pong);
        }
        while !self.out.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, &self.out) {
                Poll::Pending => return,
                Poll::Ready(Ok(len)) => {
                    self.out.advance(len);
                    self.is_alive |= self.closing == Closing::Open;
                }
                Poll::Ready(Err(error)) => {
                    self.write_failed = Some(error.to_string());
                    self.out.clear();
                    return;
                }
            }
        }
        if Pin::new(&mut self.io).poll_flush(cx).is_pending() {
            return;
        }
        if self.closing == Closing::Closed {
            // What the other end gets is the closing handshake, not a reset.
            self.io.set_reset_at_close(false);
            let _ = Pin::new(&mut self.io).poll_shutdown(cx);
            self.is_shut = true;
        }
    }

    /// Looks whether the other end is still there.
    fn watch(&mut self, cx: &mut Context<'_>) {
        if self.failed.is_some() || self.closing == Closing::Closed {
            return;
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            // While we do not read, or it does not, silence says nothing; the system looks after
            // connections on which something is under way.
            let is_busy = self.inbox.len() >= RAW_INBOX_MAX || !self.out.is_empty();
            if self.is_alive || is_busy {
                self.pings = 0;
            } else if self.closing == Closing::Told {
                self.failed = Some(RawError::CloseUnanswered);
                return;
            }
            if self.closing == Closing::Open && !is_busy {
                if self.pings == RAW_PINGS_MAX {
                    self.failed = Some(RawError::Silent);
                    return;
                }
                self.pings += 1;
                self.put_frame(Opcode::Ping, false, &[]);
                self.flush(cx);
            }
            let next = match self.closing {
                Closing::Open => RAW_PING,
                Closing::Told | Closing::Closed => RAW_CLOSE_WAIT,
            };
            self.set_alarm(next);
        }
    }

    fn set_alarm(&mut self, after: Duration) {
        self.is_alive = false;
        self.alarm.as_mut().reset(Instant::now() + after);
    }
}

/// Sending.
impl RawWebSocket {
    fn put_lines(&mut self, bytes: &[u8]) -> Result<(), BadLine> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (part, is_whole) = match part.split_last() {
                Some((b'\n', part)) => (part, true),
                _ => (part, false),
            };
            if self.line.len() + part.len() > RAW_MESSAGE_MAX {
                return Err(BadLine(RawError::LineTooLong, TOO_LONG.code));
            }
            self.line.extend_from_slice(part);
            if is_whole {
                let line = std::mem::take(&mut self.line);
                self.put_line(line)?;
            }
        }
        Ok(())
    }

    fn put_line(&mut self, line: Vec<u8>) -> Result<(), BadLine> {
        if std::str::from_utf8(&line).is_err() {
            return Err(BadLine(RawError::LineNotText, NOT_TEXT.code));
        }
        self.put_message(Opcode::Text, &line);
        Ok(())
    }

    fn put_message(&mut self, opcode: Opcode, message: &[u8]) {
        match &mut self.deflate {
            Some(deflate) if !message.is_empty() => {
                let packed = deflate.compress(message);
                self.put_frame(opcode, true, &packed);
            }
            _ => self.put_frame(opcode, false, message),
        }
    }

    fn put_frame(&mut self, opcode: Opcode, compressed: bool, payload: &[u8]) {
        let key = self.keys.as_mut().map(RandomKeys::next_key);
        let header = Header::whole(opcode, payload.len(), key).encode();
        let at = self.out.len();
        self.out.extend_from_slice(header.as_slice());
        if compressed {
            self.out[at] |= 0x40;
        }
        let at = self.out.len();
        self.out.extend_from_slice(payload);
        if let Some(key) = key {
            apply_mask(&mut self.out[at..], key);
        }
    }

    fn put_close(&mut self, code: u16) {
        let code = code.to_be_bytes();
        let payload = if u16::from_be_bytes(code) == CLOSE_WITHOUT_CODE {
            Vec::new()
        } else {
            code.to_vec()
        };
        self.put_frame(Opcode::Close, false, &payload);
    }
}

#[cfg(test)]
mod tests;
