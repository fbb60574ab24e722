//! The dialling end.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::super::{MaskKeys, RandomKeys, Role, WsCarrier, WsFraming};
use super::SUBPROTOCOL;
use super::error::{StatusAnswer, UpgradeError, printable};
use super::head::{self, Lines};
use crate::carrier::framed::Framed;

/// Longest text of an answer that is read for its first line.
const TEXT_MAX: usize = 1 << 10;

/// How long to wait for it: the answer itself is there already.
const TEXT_TIME: Duration = Duration::from_secs(1);

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The `Host` header: name, and port unless it is the scheme's own.
    pub host: &'a str,
    /// Path and query of the URL; begins with `/`.
    pub path: &'a str,
    /// Further header lines, name and value, for proxies on the way.
    pub headers: &'a [(&'a str, &'a str)],
}

/// Upgrades a fresh connection to a WebSocket that speaks farpipe.
///
/// Gives up when the server makes no progress for 10 s; bound the whole by a timer. Dropping the
/// future drops the connection.
///
/// # Errors
/// See [`UpgradeError`]; a request with a line break in it is an [`io::ErrorKind::InvalidInput`].
pub async fn connect<S>(stream: S, request: Request<'_>) -> Result<WsCarrier<S>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug,
{
    connect_with(stream, request, Box::new(RandomKeys::default())).await
}

/// As [`connect`], with mask keys (and the handshake's nonce) from `keys`.
///
/// # Errors
/// As [`connect`].
pub async fn connect_with<S>(
    mut stream: S,
    request: Request<'_>,
    mut keys: Box<dyn MaskKeys>,
) -> Result<WsCarrier<S>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug,
{
    let Request {
        host,
        path,
        headers,
    } = request;
    let asked = Asked {
        host,
        path,
        headers,
        subprotocol: Some(SUBPROTOCOL),
    };
    match upgrade(&mut stream, asked, &mut *keys).await? {
        (buf, Some(chosen)) if chosen == SUBPROTOCOL => {
            Ok(Framed::new(stream, WsFraming::new(Role::Client(keys)), buf))
        }
        (_, chosen) => Err(UpgradeError::NotFarpipe { chosen }),
    }
}

/// What is put into a request.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Asked<'a> {
    pub(in super::super) host: &'a str,
    pub(in super::super) path: &'a str,
    pub(in super::super) headers: &'a [(&'a str, &'a str)],
    pub(in super::super) subprotocol: Option<&'a str>,
}

/// Upgrades; gives what came behind the answer, and the subprotocol that was chosen, escaped.
pub(in super::super) async fn upgrade<S>(
    stream: &mut S,
    asked: Asked<'_>,
    keys: &mut dyn MaskKeys,
) -> Result<(BytesMut, Option<String>), UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut nonce = [0; 16];
    for part in nonce.as_chunks_mut().0 {
        *part = keys.next_key();
    }
    let key = head::encode_key(nonce);
    stream.write_all(encode(asked, &key)?.as_bytes()).await?;
    stream.flush().await?;
    let (mut buf, len) = head::read(stream, is_like_answer).await?;
    let head = buf.split_to(len);
    match check_answer(&head, &key) {
        Ok(chosen) => Ok((buf, chosen)),
        Err(UpgradeError::Status(mut answer)) => {
            answer.text = read_text(stream, buf, text_len(&head)).await;
            Err(UpgradeError::Status(answer))
        }
        Err(error) => Err(error),
    }
}

fn encode(asked: Asked<'_>, key: &str) -> Result<String, UpgradeError> {
    let Asked {
        host,
        path,
        headers,
        subprotocol,
    } = asked;
    let mut text = format!(
        "GET {path} HTTP/1.1\r\n\
         Host: {host}\r\n\
         Upgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\n\
         Sec-WebSocket-Version: 13\r\n"
    );
    if let Some(subprotocol) = subprotocol {
        text.extend(["Sec-WebSocket-Protocol: ", subprotocol, "\r\n"]);
    }
    // Names of headers and the two words of the first line have no space; nothing has a line break.
    let words = headers.iter().map(|(name, _)| *name).chain([path, host]);
    let values = headers.iter().map(|(_, value)| *value);
    if words
        .clone()
        .any(|word| word.is_empty() || !word.bytes().all(|b| b.is_ascii_graphic()))
        || values
            .clone()
            .any(|value| value.bytes().any(|b| b.is_ascii_control()))
    {
        let what = "a URL or header that cannot be put into an HTTP request";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what).into());
    }
    for (name, value) in headers {
        text.extend([*name, ": ", *value, "\r\n"]);
    }
    text.push_str("\r\n");
    Ok(text)
}

fn is_like_answer(seen: &[u8]) -> bool {
    let begin = b"HTTP/1.";
    let len = seen.len().min(begin.len());
    seen[..len] == begin[..len]
}

/// The subprotocol that was chosen.
fn check_answer(head: &[u8], key: &str) -> Result<Option<String>, UpgradeError> {
    let mut lines = head::no_lines();
    let mut answer = httparse::Response::new(&mut lines);
    if answer.parse(head).map_err(head::malformed)?.is_partial() {
        return Err(UpgradeError::Malformed("it ends too early"));
    }
    let lines: &Lines<'_> = answer.headers;
    let code = answer.code.unwrap_or_default();
    if code != 101 {
        let reason = answer.reason.unwrap_or_default();
        return Err(UpgradeError::Status(status(code, reason, lines)));
    }
    let wrong = |what| Err(UpgradeError::NotWebSocket(what));
    if head::only(lines, "Upgrade").is_none_or(|to| !to.eq_ignore_ascii_case(b"websocket")) {
        return wrong("it does not say \"Upgrade: websocket\"");
    }
    if !head::lists(lines, "Connection", "upgrade") {
        return wrong("it does not say \"Connection: Upgrade\"");
    }
    let accept = head::accept_for(key.as_bytes());
    if head::only(lines, "Sec-WebSocket-Accept") != Some(accept.as_bytes()) {
        return wrong("its Sec-WebSocket-Accept does not answer our key");
    }
    if head::members(lines, "Sec-WebSocket-Extensions").any(|extension| !extension.is_empty()) {
        return wrong("it uses an extension nobody offered");
    }
    Ok(head::only(lines, "Sec-WebSocket-Protocol").map(printable))
}

/// How long the text of an answer is, if it is worth reading.
fn text_len(head: &[u8]) -> usize {
    let mut lines = head::no_lines();
    let mut answer = httparse::Response::new(&mut lines);
    if !answer.parse(head).is_ok_and(|parsed| parsed.is_complete()) {
        return 0;
    }
    let plain = head::only(answer.headers, "Content-Type")
        .is_some_and(|kind| kind.to_ascii_lowercase().starts_with(b"text/plain"));
    head::only(answer.headers, "Content-Length")
        .filter(|_| plain)
        .and_then(|len| std::str::from_utf8(len).ok()?.parse().ok())
        .filter(|len| *len <= TEXT_MAX)
        .unwrap_or_default()
}

/// The first line of a text of `len` bytes that begins with `buf`, if it comes in time.
async fn read_text<S: AsyncRead + Unpin>(
    stream: &mut S,
    mut buf: BytesMut,
    len: usize,
) -> Option<String> {
    let reading = async {
        while buf.len() < len && stream.read_buf(&mut buf).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // A text that broke off is better than none.
    let _ = tokio::time::timeout(TEXT_TIME, reading).await;
    let text = buf.get(..len).unwrap_or(&buf);
    let line = text.split(|byte| *byte == b'\n').next()?.trim_ascii();
    (!line.is_empty()).then(|| printable(line))
}

fn status(code: u16, reason: &str, lines: &Lines<'_>) -> StatusAnswer {
    let redirect = matches!(code, 301..=303 | 307 | 308);
    let html = |kind: &[u8]| kind.to_ascii_lowercase().starts_with(b"text/html");
    StatusAnswer {
        code,
        reason: printable(reason.as_bytes()),
        location: head::values(lines, "Location")
            .next()
            .filter(|_| redirect)
            .map(printable),
        text: None,
        is_page: head::values(lines, "Content-Type").any(html),
        from_proxy: matches!(code, 502..=504) || head::values(lines, "Via").next().is_some(),
    }
}
