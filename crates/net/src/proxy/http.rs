//! HTTP's CONNECT (RFC 9110 section 9.3.6).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farpipe_proto::limits::{HTTP_HEAD_MAX, HTTP_HEADERS_MAX};
use httparse::{EMPTY_HEADER, Header, Response};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Granted, Login, ProxyError, cut, printable, stranger};
use crate::host_port::HostPort;

/// Its name for people.
pub(super) const NAME: &str = "HTTP";

/// What every answer begins with.
const BEGIN: &[u8] = b"HTTP/1.";

pub(super) async fn ask<S>(
    stream: &mut S,
    to: &HostPort,
    login: Option<&Login>,
) -> Result<Granted, ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(request(to, login).as_bytes()).await?;
    stream.flush().await?;
    // All heads together have one limit: news before the answer could go on for ever.
    let mut room = HTTP_HEAD_MAX;
    loop {
        let head = read_head(stream, room).await?;
        room -= head.len();
        if let Some((answer, is_page)) = judge(&head, login)? {
            let to = to.clone();
            return Ok(Granted {
                answer,
                to,
                is_page,
            });
        }
    }
}

fn request(to: &HostPort, login: Option<&Login>) -> String {
    let mut text = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: farpipe\r\n");
    if let Some(Login { user, password }) = login {
        let proof = STANDARD.encode(format!("{user}:{password}"));
        text += &format!("Proxy-Authorization: Basic {proof}\r\n");
    }
    text + "\r\n"
}

/// Reads one head and nothing behind it, which is why it goes byte by byte: a few hundred small
/// reads for each connection, and nothing to give back.
async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut S,
    room: usize,
) -> Result<Vec<u8>, ProxyError> {
    let mut head = Vec::new();
    loop {
        if head.len() == room {
            return Err(ProxyError::HeadTooLong);
        }
        let read = stream.read_u8().await;
        if read.is_err() && !head.is_empty() && head.len() < BEGIN.len() {
            return Err(stranger(stream, NAME, &head).await);
        }
        head.push(read.map_err(cut)?);
        let begun = head.len().min(BEGIN.len());
        if head[..begun] != BEGIN[..begun] {
            return Err(stranger(stream, NAME, &head).await);
        }
        // Bare line feeds are accepted, as RFC 9112 section 2.2 lets us.
        if head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n") {
            return Ok(head);
        }
    }
}

/// A yes, and whether it is said to have a page; none yet if the answer is only news of one.
fn judge(head: &[u8], login: Option<&Login>) -> Result<Option<(String, bool)>, ProxyError> {
    let mut lines = [EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut answer = Response::new(&mut lines);
    answer.parse(head).map_err(ProxyError::Malformed)?;
    let code = answer.code.unwrap_or(0);
    let reason = answer.reason.unwrap_or_default();
    let space = if reason.is_empty() { "" } else { " " };
    let reason = format!("{space}{}", printable(reason.as_bytes()));
    let values = |name: &'static str| {
        let lines = answer.headers.iter();
        let of_name = lines.filter(move |line| line.name.eq_ignore_ascii_case(name));
        of_name.map(|line| line.value)
    };
    match code {
        200..300 => {
            let html = |kind: &[u8]| kind.to_ascii_lowercase().starts_with(b"text/html");
            Ok(Some((
                format!("{NAME} {code}{reason}"),
                values("Content-Type").any(html),
            )))
        }
        // Another protocol is not what was asked for; other news is followed by the answer.
        100 | 102..200 => Ok(None),
        407 => Err(login_refused(answer.headers, login)),
        // What tinyproxy answers to a wrong password.
        401 if login.is_some() => Err(ProxyError::LoginRefused),
        _ => Err(ProxyError::Status {
            code,
            reason,
            location: values("Location").next().map(printable),
        }),
    }
}

fn login_refused(lines: &[Header<'_>], login: Option<&Login>) -> ProxyError {
    let offers = || {
        let offers = lines.iter().map(|line| (line.name, line.value));
        offers
            .filter(|(name, _)| name.eq_ignore_ascii_case("proxy-authenticate"))
            .map(|(_, value)| value.split(|b| *b == b' ').next().unwrap_or_default())
    };
    if offers().next().is_some() && !offers().any(|way| way.eq_ignore_ascii_case(b"basic")) {
        let ways: Vec<_> = offers().map(printable).collect();
        return ProxyError::LoginUnknown(ways.join(", "));
    }
    match login {
        Some(_) => ProxyError::LoginRefused,
        None => ProxyError::LoginWanted,
    }
}
