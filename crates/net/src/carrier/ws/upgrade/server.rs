//! The accepting end.

use std::fmt;

use bytes::{Buf, BytesMut};
use farpipe_proto::limits::HANDSHAKE_STEP;
use farpipe_proto::limits::{DRAIN, HTTP_HEAD_MAX, HTTP_HEADERS_MAX};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::super::{Role, WsCarrier, WsFraming};
use super::SUBPROTOCOL;
use super::error::UpgradeError;
use super::head::{self, Lines};
use crate::carrier::framed::Framed;

/// Most bytes of a refused client's that are thrown away while it reads why.
const REFUSAL_DRAIN_MAX: usize = 256 << 10;

/// Longest method that can begin a request; the longest registered one has 17 letters.
const METHOD_MAX: usize = 20;

/// What a refused client is told to do.
const ADVICE: &str = "From another host, connect with: farpipe connect URL";

/// An answer other than 101.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Refusal {
    pub(in super::super) status: u16,
    pub(in super::super) why: &'static str,
}

/// Upgrades an accepted connection to a WebSocket that speaks farpipe.
///
/// Gives up when the client makes no progress for 10 s; bound the whole by a timer. Requests that
/// are not for us get a short answer in plain HTTP, which takes up to one second more. Dropping the
/// future drops the connection.
///
/// # Errors
/// See [`UpgradeError`]; most are [`UpgradeError::Refused`].
pub async fn accept<S>(stream: S) -> Result<WsCarrier<S>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug,
{
    match enter(stream, |_| false).await? {
        Entered::Farpipe(carrier) => Ok(*carrier),
        Entered::Foreign { .. } => unreachable!("no head is another's"),
    }
}

/// Who has asked for what.
pub(crate) enum Entered<S> {
    Farpipe(Box<WsCarrier<S>>),
    /// Nothing was answered: what came, of which the head is so many bytes.
    Foreign {
        stream: S,
        seen: BytesMut,
        head: usize,
    },
}

/// As [`accept`], but for requests of which `is_foreign` says, by their head, that another serves
/// them.
pub(crate) async fn enter<S>(
    mut stream: S,
    is_foreign: impl FnOnce(&[u8]) -> bool,
) -> Result<Entered<S>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug,
{
    let (mut buf, len) = match head::read(&mut stream, is_like_request).await {
        Ok(read) => read,
        Err(error) => {
            if let Some(refusal) = refusal_of(&error) {
                refuse(&mut stream, refusal, ADVICE).await;
            }
            return Err(error);
        }
    };
    if is_foreign(&buf[..len]) {
        return Ok(Entered::Foreign {
            stream,
            seen: buf,
            head: len,
        });
    }
    let key_answer = match check_request(&buf[..len]) {
        Ok(key_answer) => key_answer,
        Err(refusal) => {
            refuse(&mut stream, refusal, ADVICE).await;
            let Refusal { status, why } = refusal;
            return Err(UpgradeError::Refused { status, why });
        }
    };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\n\
         Upgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Accept: {key_answer}\r\n\
         Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    );
    let answering = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await
    };
    let answered = timeout(HANDSHAKE_STEP, answering).await;
    answered.map_err(|_| UpgradeError::Silent)??;
    buf.advance(len);
    let framing = WsFraming::new(Role::Server);
    let carrier = Framed::new(stream, framing, buf);
    Ok(Entered::Farpipe(Box::new(carrier)))
}

/// What to answer to something that did not become a head.
pub(in super::super) fn refusal_of(error: &UpgradeError) -> Option<Refusal> {
    let (status, why) = match error {
        UpgradeError::NotHttp { .. } => (400, "this is not an HTTP/1.1 request"),
        UpgradeError::HeadTooLong => (431, "the header is longer than 16 KiB"),
        UpgradeError::Io(_)
        | UpgradeError::Cut
        | UpgradeError::Silent
        | UpgradeError::Malformed(_)
        | UpgradeError::Status(_)
        | UpgradeError::NotWebSocket(_)
        | UpgradeError::NotFarpipe { .. }
        | UpgradeError::Refused { .. } => return None,
    };
    Some(Refusal { status, why })
}

/// Whether `seen` can begin a request: a method in capitals, a space, then anything.
pub(in super::super) fn is_like_request(seen: &[u8]) -> bool {
    let method = seen.split(|byte| *byte == b' ').next().unwrap_or_default();
    let complete = method.len() < seen.len();
    method.len() <= METHOD_MAX
        && method
            .iter()
            .all(|byte| byte.is_ascii_uppercase() || *byte == b'-')
        && !(complete && method.is_empty())
}

/// The `Sec-WebSocket-Accept` for a request that may be upgraded.
fn check_request(head: &[u8]) -> Result<String, Refusal> {
    let refuse = |status, why| Err(Refusal { status, why });
    let mut lines = head::no_lines();
    let mut request = httparse::Request::new(&mut lines);
    parse(&mut request, head)?;
    let lines: &Lines<'_> = request.headers;
    // First of all: whatever a page asks for, it gets nothing here.
    if head::values(lines, "Origin").next().is_some() {
        return refuse(403, "web pages are not served here");
    }
    check_http(request.version, lines)?;
    let key = check_websocket(request.method.unwrap_or_default(), lines)?;
    let ours = |offered| offered == SUBPROTOCOL.as_bytes();
    if !head::members(lines, "Sec-WebSocket-Protocol").any(ours) {
        return refuse(400, "the subprotocol farpipe.1 was not offered");
    }
    Ok(head::accept_for(key))
}

pub(in super::super) fn parse<'b>(
    request: &mut httparse::Request<'_, 'b>,
    head: &'b [u8],
) -> Result<(), Refusal> {
    let (status, why) = match request.parse(head) {
        Ok(status) if status.is_complete() => return Ok(()),
        Err(httparse::Error::TooManyHeaders) => (431, "the header has more than 100 lines"),
        Ok(_) | Err(_) => (400, "this is not an HTTP/1.1 request"),
    };
    Err(Refusal { status, why })
}

pub(in super::super) fn check_http(version: Option<u8>, lines: &Lines<'_>) -> Result<(), Refusal> {
    let refuse = |status, why| Err(Refusal { status, why });
    if version != Some(1) || head::only(lines, "Host").is_none() {
        return refuse(400, "an HTTP/1.1 request with one Host header is needed");
    }
    if !head::lists(lines, "Upgrade", "websocket") {
        return refuse(426, "only WebSocket connections are served here");
    }
    Ok(())
}

/// The key of a request for a WebSocket.
pub(in super::super) fn check_websocket<'a>(
    method: &str,
    lines: &'a Lines<'a>,
) -> Result<&'a [u8], Refusal> {
    let refuse = |status, why| Err(Refusal { status, why });
    if method != "GET" || !head::lists(lines, "Connection", "upgrade") {
        return refuse(400, "an upgrade is a GET with \"Connection: Upgrade\"");
    }
    let has_body = head::values(lines, "Transfer-Encoding").next().is_some()
        || head::values(lines, "Content-Length").any(|length| length != b"0");
    if has_body {
        // Its bytes would be taken for frames.
        return refuse(400, "an upgrade has no body");
    }
    if head::only(lines, "Sec-WebSocket-Version") != Some(b"13") {
        return refuse(426, "only version 13 of WebSocket is spoken here");
    }
    let Some(key) = head::only(lines, "Sec-WebSocket-Key").filter(|key| head::is_key(key)) else {
        return refuse(
            400,
            "an upgrade has one Sec-WebSocket-Key of 16 bytes in base64",
        );
    };
    Ok(key)
}

/// Answers, shuts down writing and reads on for a moment. Failing is no news: the client is gone.
pub(in super::super) async fn refuse<S>(stream: &mut S, refusal: Refusal, advice: &str)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let text = refusal.encode(advice);
    let answered = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        let mut waste = [0; 4 << 10];
        let mut drained = 0;
        while drained < REFUSAL_DRAIN_MAX {
            match stream.read(&mut waste).await? {
                0 => break,
                len => drained += len,
            }
        }
        Ok::<(), std::io::Error>(())
    };
    let _ = timeout(DRAIN, answered).await;
}

impl Refusal {
    fn encode(self, advice: &str) -> String {
        let Self { status, why } = self;
        let (phrase, more) = match status {
            403 => ("Forbidden", ""),
            404 => ("Not Found", ""),
            426 => (
                "Upgrade Required",
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            ),
            431 => ("Request Header Fields Too Large", ""),
            503 => ("Service Unavailable", "Retry-After: 5\r\n"),
            _ => ("Bad Request", ""),
        };
        // RFC 9110 section 7.8: whoever sends Upgrade lists it in Connection.
        let connection = match status {
            426 => "Upgrade, close",
            _ => "close",
        };
        let text = format!(
            "This is a farpipe endpoint: {why}.\n\
             {advice}\n"
        );
        format!(
            "HTTP/1.1 {status} {phrase}\r\n\
             Connection: {connection}\r\n\
             {more}Content-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\n\r\n\
             {text}",
            text.len()
        )
    }
}

// The texts above name the limits.
const _: () = assert!(HTTP_HEAD_MAX == 16 << 10 && HTTP_HEADERS_MAX == 100);
