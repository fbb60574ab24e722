//! The body of an upload: `Content-Length` or chunked, and nothing else ends it in order.
//!
//! One request a connection, so there is nothing behind a body that could be taken for another
//! request; all the same what is not to the letter (RFC 9112 section 7) breaks it.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, BytesMut};
use farpipe_net::carrier::ws::raw::{ForeignRequest, Transport};
use farpipe_proto::limits::{HANDSHAKE_STEP, HTTP_HEAD_MAX};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::answer::Answer;
use super::ends::Source;

/// Read at once from the socket.
const READ_MAX: usize = 64 << 10;
/// Longest line that says how long a chunk is.
const SIZE_LINE_MAX: usize = 256;

/// What ends a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes.
    Length(u64),
    /// A chunk of no bytes, and the lines behind it.
    Chunked,
}

impl Framing {
    /// # Errors
    /// The answer to a request that says it in no way, or in two.
    pub(super) fn of(request: &ForeignRequest) -> Result<Self, Answer> {
        let is_coded = request.values("Transfer-Encoding").next().is_some();
        let has_length = request.values("Content-Length").next().is_some();
        match (is_coded, has_length) {
            (true, false) => {
                let coding = request.only("Transfer-Encoding");
                match coding.is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
                    true => Ok(Self::Chunked),
                    false => Err(Answer::line(400, "Transfer-Encoding can be chunked only")),
                }
            }
            (false, true) => {
                let digits = request.only("Content-Length");
                let digits = digits.filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
                let length = digits.and_then(|digits| digits.parse().ok());
                let bad = || Answer::line(400, "Content-Length is one number");
                length.map(Self::Length).ok_or_else(bad)
            }
            (true, true) => {
                let why = "Content-Length beside Transfer-Encoding: one of them is wrong";
                Err(Answer::line(400, why))
            }
            (false, false) => {
                let why = "a body is sent with Content-Length, or chunked: curl -T - does";
                Err(Answer::line(411, why))
            }
        }
    }
}

/// Where in a body we are.
///
/// ```text
///  Size ──0──▶ Trailer ──empty line──▶ End
///   ▲  └──n──▶ Data ──n bytes──▶ Gap      Fixed ──▶ End
///   └──────────line end───────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fixed(u64),
    Size,
    Data(u64),
    Gap,
    Trailer(usize),
    End,
}

/// A body that is being read.
#[derive(Debug)]
pub(super) struct Body {
    io: Box<dyn Transport>,
    /// Came, and was not taken out of the framing.
    raw: BytesMut,
    state: State,
}

impl Body {
    /// `raw` is what came behind the head.
    pub(super) fn new(io: Box<dyn Transport>, raw: BytesMut, framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::End,
            Framing::Length(length) => State::Fixed(length),
            Framing::Chunked => State::Size,
        };
        Self { io, raw, state }
    }

    /// The connection, to be answered on.
    pub(super) fn io(&mut self) -> &mut dyn Transport {
        &mut *self.io
    }

    /// Tells a client that waits for it to send its body. Failing is seen when that is read.
    pub(super) async fn go_on(&mut self) {
        let said = async {
            self.io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            self.io.flush().await
        };
        let _ = tokio::time::timeout(HANDSHAKE_STEP, said).await;
    }

    /// Takes out of the framing what is there. `Ok(None)`: more is needed.
    fn step(&mut self, buf: &mut BytesMut, max: usize) -> io::Result<Option<usize>> {
        loop {
            match self.state {
                State::End => return Ok(Some(0)),
                State::Fixed(left) | State::Data(left) => {
                    let len = self.raw.len().min(max);
                    let len = usize::try_from(left).map_or(len, |left| len.min(left));
                    if len == 0 {
                        return Ok(None);
                    }
                    buf.extend_from_slice(&self.raw[..len]);
                    self.raw.advance(len);
                    self.passed(len);
                    return Ok(Some(len));
                }
                State::Size => {
                    let Some(line) = self.line(SIZE_LINE_MAX)? else {
                        return Ok(None);
                    };
                    self.state = match size(&line)? {
                        0 => State::Trailer(HTTP_HEAD_MAX),
                        size => State::Data(size),
                    };
                }
                State::Gap => {
                    let Some(line) = self.line(2)? else {
                        return Ok(None);
                    };
                    if !line.is_empty() {
                        return Err(broken("a chunk is longer than it said"));
                    }
                    self.state = State::Size;
                }
                State::Trailer(room) => {
                    let Some(line) = self.line(room)? else {
                        return Ok(None);
                    };
                    self.state = match line.len() {
                        0 => State::End,
                        len => State::Trailer(room.saturating_sub(len + 2)),
                    };
                }
            }
        }
    }

    /// So many bytes of the body were taken.
    fn passed(&mut self, len: usize) {
        let len = len as u64;
        self.state = match self.state {
            State::Fixed(left) if left == len => State::End,
            State::Fixed(left) => State::Fixed(left - len),
            State::Data(left) if left == len => State::Gap,
            State::Data(left) => State::Data(left - len),
            other => other,
        };
    }

    /// The next line without its end, if it is there.
    fn line(&mut self, max: usize) -> io::Result<Option<BytesMut>> {
        let seen = &self.raw[..self.raw.len().min(max)];
        let Some(at) = seen.iter().position(|byte| *byte == b'\n') else {
            if self.raw.len() >= max {
                return Err(broken("a line in it is too long"));
            }
            return Ok(None);
        };
        let mut line = self.raw.split_to(at + 1);
        line.truncate(at);
        if line.last() != Some(&b'\r') {
            return Err(broken("a line in it has no good end"));
        }
        line.truncate(at - 1);
        Ok(Some(line))
    }

    /// How much of the next bytes from the socket is data as it is.
    fn direct(&self) -> Option<u64> {
        match self.state {
            State::Fixed(left) | State::Data(left) if self.raw.is_empty() => Some(left),
            _ => None,
        }
    }
}

/// What the line in front of a chunk says; extensions are nothing to us.
fn size(line: &[u8]) -> io::Result<u64> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let digits = digits.trim_ascii_end();
    let text = std::str::from_utf8(digits).unwrap_or_default();
    let is_hex = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    let size = is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten();
    size.ok_or_else(|| broken("a chunk says no length"))
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the request's body is wrong: {what}"),
    )
}

impl Source for Body {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(len) = self.step(buf, max)? {
                return Poll::Ready(Ok(len));
            }
            // Data goes where it belongs at once, without a copy.
            let direct = self.direct();
            let (into, room) = match direct {
                Some(left) => (
                    &mut *buf,
                    usize::try_from(left).map_or(max, |left| max.min(left)),
                ),
                None => (&mut self.raw, READ_MAX),
            };
            into.reserve(room);
            let mut limited = into.limit(room);
            let mut io = Pin::new(&mut self.io);
            let reading = pin!(io.read_buf(&mut limited));
            let len = ready!(reading.poll(cx))?;
            if len == 0 {
                let why = "the connection ended before the request's body did";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
            }
            if direct.is_some() {
                self.passed(len);
                return Poll::Ready(Ok(len));
            }
        }
    }
}

#[cfg(test)]
mod tests;
