//! Reads the head of an HTTP/1 message and looks things up in it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use farpipe_proto::limits::{HANDSHAKE_STEP, HTTP_HEAD_MAX, HTTP_HEADERS_MAX};
use httparse::Header;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::error::{UpgradeError, printable};

/// First guess at the size of a head.
const HEAD_USUAL: usize = 1 << 10;

/// Bytes shown of something that is not HTTP.
const SEEN_SHOWN: usize = 24;

/// Appended to the key before it is hashed (section 1.3).
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Header lines of a head.
pub(in super::super) type Lines<'a> = [Header<'a>];

/// Room for the header lines of a head.
pub(in super::super) fn no_lines<'a>() -> [Header<'a>; HTTP_HEADERS_MAX] {
    [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX]
}

/// Reads up to the end of a head and a little further. Ready with the head's length in the bytes
/// read. `plausible` looks at what came so far and says whether it can become one.
///
/// The head is searched for its end once, however slowly it comes, and parsed when it is there:
/// a parser started again for each byte would take quadratic time. Waits for each part of it no
/// longer than a step of the handshake may take; the whole is the caller's to bound.
pub(in super::super) async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    plausible: fn(&[u8]) -> bool,
) -> Result<(BytesMut, usize), UpgradeError> {
    let mut buf = BytesMut::with_capacity(HEAD_USUAL);
    let mut searched = 0;
    loop {
        if let Some(len) = end_of_head(&buf, searched) {
            return Ok((buf, len));
        }
        // The end may begin in the last three bytes.
        searched = buf.len().saturating_sub(3);
        if buf.len() >= HTTP_HEAD_MAX {
            return Err(UpgradeError::HeadTooLong);
        }
        let read = timeout(HANDSHAKE_STEP, stream.read_buf(&mut buf)).await;
        if read.map_err(|_| UpgradeError::Silent)?? == 0 {
            return Err(if buf.is_empty() || plausible(&buf) {
                UpgradeError::Cut
            } else {
                not_http(&buf)
            });
        }
        if !plausible(&buf) {
            return Err(not_http(&buf));
        }
    }
}

/// Length of the head up to and with its empty line, if `buf` has that; bytes before `searched`
/// are known not to end it. Bare line feeds are accepted, as RFC 9112 section 2.2 lets us.
fn end_of_head(buf: &[u8], searched: usize) -> Option<usize> {
    let limit = buf.len().min(HTTP_HEAD_MAX);
    (searched..limit).find_map(|at| {
        let rest = &buf[at..limit];
        if rest.starts_with(b"\n\r\n") {
            Some(at + 3)
        } else if rest.starts_with(b"\n\n") {
            Some(at + 2)
        } else {
            None
        }
    })
}

fn not_http(buf: &[u8]) -> UpgradeError {
    UpgradeError::NotHttp {
        seen: printable(&buf[..buf.len().min(SEEN_SHOWN)]),
        looks_like: match buf {
            // The handshake or alert record a wss:// port or client begins with.
            [0x15 | 0x16, 0x03, ..] => Some("TLS"),
            [b'S', b'S', b'H', b'-', ..] => Some("SSH"),
            [b'f', b'a', b'r', b'p', b'i', b'p', b'e', ..] => Some("fp, farpipe's own framing"),
            _ => None,
        },
    }
}

/// What is wrong with a head that does not parse.
pub(in super::super) fn malformed(error: httparse::Error) -> UpgradeError {
    UpgradeError::Malformed(match error {
        httparse::Error::TooManyHeaders => "too many header lines",
        httparse::Error::Version => "an unknown HTTP version",
        httparse::Error::HeaderName | httparse::Error::HeaderValue => "a bad header line",
        httparse::Error::NewLine => "a bad line end",
        httparse::Error::Status => "a bad status line",
        httparse::Error::Token => "a bad first line",
    })
}

/// Values of all lines called `name`.
pub(in super::super) fn values<'a>(
    lines: &'a Lines<'a>,
    name: &str,
) -> impl Iterator<Item = &'a [u8]> {
    lines
        .iter()
        .filter(move |line| line.name.eq_ignore_ascii_case(name))
        .map(|line| line.value.trim_ascii())
}

/// The value of the only line called `name`; `None` if there are none or several.
pub(in super::super) fn only<'a>(lines: &'a Lines<'a>, name: &str) -> Option<&'a [u8]> {
    let mut values = values(lines, name);
    values.next().filter(|_| values.next().is_none())
}

/// Members of the comma-separated lists in all lines called `name`.
pub(in super::super) fn members<'a>(
    lines: &'a Lines<'a>,
    name: &str,
) -> impl Iterator<Item = &'a [u8]> {
    values(lines, name)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

/// Whether a list has `member`, in any case.
pub(in super::super) fn lists(lines: &Lines<'_>, name: &str, member: &str) -> bool {
    members(lines, name).any(|listed| listed.eq_ignore_ascii_case(member.as_bytes()))
}

/// The `Sec-WebSocket-Accept` that answers `key`.
pub(in super::super) fn accept_for(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(ACCEPT_GUID);
    STANDARD.encode(hash.finalize())
}

/// `bytes` in base64.
pub(in super::super) fn encode_key(bytes: [u8; 16]) -> String {
    STANDARD.encode(bytes)
}

/// Whether `key` is 16 bytes in base64.
pub(in super::super) fn is_key(key: &[u8]) -> bool {
    STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}
