//! The HTTP upgrade with foreign ends, both ways.
//!
//! An `Origin` says that a web page asks. Any page that a browser of this host has open may connect
//! to a port on loopback, so pages are refused unless their origin is listed: before anything else
//! is looked at.

use bytes::{Buf as _, BytesMut};
use farpipe_proto::limits::HANDSHAKE_STEP;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::keys::RandomKeys;
use super::super::upgrade::client::{self, Asked};
use super::super::upgrade::error::UpgradeError;
use super::super::upgrade::head::{self, Lines};
use super::super::upgrade::server::{self, Refusal};
use super::deflate::Agreed;
use super::incoming::Incoming;
use super::{Messages, RawWebSocket, Transport};
use crate::tls::TlsClient;

/// What a refused client is told to do.
const ADVICE: &str =
    "Connect with a WebSocket client; web pages need ?origin=URL at this endpoint.";

/// Who may connect, and to what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The path of the request, without its query; `None`: any.
    pub path: Option<String>,
    /// Origins of web pages that may connect, as browsers write them: `https://example.org`.
    pub origins: Vec<String>,
}

/// Upgrades an accepted connection. Who is not admitted gets a short answer in plain HTTP, which
/// takes up to a second more. Bound the whole by a timer.
///
/// # Errors
/// See [`UpgradeError`].
pub async fn accept(
    mut stream: TcpStream,
    admitted: &Admitted,
    messages: Messages,
) -> Result<RawWebSocket, UpgradeError> {
    let (mut buf, len) = match head::read(&mut stream, server::is_like_request).await {
        Ok(read) => read,
        Err(error) => {
            if let Some(refusal) = server::refusal_of(&error) {
                server::refuse(&mut stream, refusal, ADVICE).await;
            }
            return Err(error);
        }
    };
    let (key_answer, agreed) = match check(&buf[..len], admitted) {
        Ok(checked) => checked,
        Err(refusal) => {
            server::refuse(&mut stream, refusal, ADVICE).await;
            let Refusal { status, why } = refusal;
            return Err(UpgradeError::Refused { status, why });
        }
    };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\n\
         Upgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Accept: {key_answer}\r\n\
         {}\r\n",
        agreed.map(Agreed::line).unwrap_or_default()
    );
    let answered = timeout(HANDSHAKE_STEP, stream.write_all(answer.as_bytes())).await;
    answered.map_err(|_| UpgradeError::Silent)??;
    buf.advance(len);
    let incoming = Incoming::new(true, messages, agreed.map(Agreed::inflate));
    let mut socket = RawWebSocket::new(Box::new(stream), incoming, messages, buf);
    socket.deflate = agreed.map(Agreed::deflate);
    Ok(socket)
}

/// The answer to the key, and what was agreed on compression.
pub(super) fn check(head: &[u8], admitted: &Admitted) -> Result<(String, Option<Agreed>), Refusal> {
    let refuse = |status, why| Err(Refusal { status, why });
    let mut lines = head::no_lines();
    let mut request = httparse::Request::new(&mut lines);
    server::parse(&mut request, head)?;
    let lines: &Lines<'_> = request.headers;
    if head::values(lines, "Origin").next().is_some() {
        let is_listed = head::only(lines, "Origin").is_some_and(|origin| {
            let mut listed = admitted.origins.iter();
            listed.any(|listed| origin.eq_ignore_ascii_case(listed.as_bytes()))
        });
        if !is_listed {
            return refuse(403, "web pages of this origin are not admitted");
        }
    }
    server::check_http(request.version, lines)?;
    if let Some(path) = &admitted.path {
        let asked = request.path.unwrap_or_default();
        if asked.split('?').next() != Some(path) {
            return refuse(404, "nothing is at this path");
        }
    }
    let key = server::check_websocket(request.method.unwrap_or_default(), lines)?;
    let offers = head::members(lines, "Sec-WebSocket-Extensions");
    Ok((head::accept_for(key), Agreed::of(offers)))
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct To {
    /// The `Host` header: name, and port unless it is the scheme's own.
    pub host: String,
    /// Path and query; begins with `/`.
    pub path: String,
}

/// Upgrades a fresh connection; no extension and no subprotocol is offered. Bound the whole by a
/// timer.
///
/// # Errors
/// See [`UpgradeError`].
pub async fn connect(
    stream: TcpStream,
    to: &To,
    messages: Messages,
) -> Result<RawWebSocket, UpgradeError> {
    upgrade(stream, to, messages).await
}

/// As [`connect`], in TLS, which verifies that the server is `name`.
///
/// # Errors
/// As there; [`TlsError`](crate::tls::TlsError) is inside [`UpgradeError::Io`].
pub async fn connect_tls(
    stream: TcpStream,
    tls: &TlsClient,
    name: &str,
    to: &To,
    messages: Messages,
) -> Result<RawWebSocket, UpgradeError> {
    let (stream, _) = tls.connect(stream, name).await?;
    upgrade(stream, to, messages).await
}

async fn upgrade<S: Transport + 'static>(
    mut stream: S,
    to: &To,
    messages: Messages,
) -> Result<RawWebSocket, UpgradeError> {
    let mut keys = RandomKeys::default();
    let asked = Asked {
        host: &to.host,
        path: &to.path,
        headers: &[],
        subprotocol: None,
    };
    let (buf, chosen): (BytesMut, _) = client::upgrade(&mut stream, asked, &mut keys).await?;
    if chosen.is_some() {
        return Err(UpgradeError::NotWebSocket(
            "it uses a subprotocol nobody offered",
        ));
    }
    let incoming = Incoming::new(false, messages, None);
    let mut socket = RawWebSocket::new(Box::new(stream), incoming, messages, buf);
    socket.keys = Some(keys);
    Ok(socket)
}
