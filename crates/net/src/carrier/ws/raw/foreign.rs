//! A connection that asks by HTTP for something else than farpipe's own upgrade, and who serves such.
//!
//! The head of the request is read and parsed by the listener, within the time of a handshake; what
//! may be asked for, and by whom, is the gateway's to say. Nothing was answered yet.

use std::fmt;
use std::pin::Pin;

use bytes::BytesMut;
use farpipe_proto::limits::HANDSHAKE_STEP;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::super::upgrade::SUBPROTOCOL;
use super::super::upgrade::error::UpgradeError;
use super::super::upgrade::head::{self, Lines};
use super::super::upgrade::server::{self, Refusal};
use super::deflate::Agreed;
use super::incoming::Incoming;
use super::{Messages, RawWebSocket, Transport};
use crate::peer::Peer;
use crate::tls::PeerIdentity;

/// Serves those who are no farpipes, beside an [`Entrance`](crate::Entrance) that serves farpipes.
pub trait Gateway: Send + Sync + fmt::Debug {
    /// Whether a request for `target`, as it stands in its first line, is for the gateway.
    fn serves(&self, target: &str) -> bool;

    /// Finds out who asks, and takes the connection or answers it. It is part of the handshake: it counts
    /// among those that run, and gives way as they do.
    ///
    /// # Errors
    /// [`Unserved`]: it was answered, and nothing more becomes of it.
    ///
    /// # Cancellation
    /// Dropping it drops the connection.
    fn take(&self, foreign: Foreign) -> Taken<'_>;
}

/// What comes of [`Gateway::take`].
pub type Taken<'a> = Pin<Box<dyn Future<Output = Result<(), Unserved>> + Send + 'a>>;

/// A request that was refused. It has its answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("answered {status}: {why}")]
pub struct Unserved {
    /// The HTTP status.
    pub status: u16,
    /// For the log; it may say more than the answer.
    pub why: String,
}

impl Unserved {
    /// Whether it was not let in, be it for who asks or for whose page does.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.status, 401 | 403)
    }
}

/// The head of a request.
#[derive(Debug)]
pub struct ForeignRequest {
    /// As it is written; methods are in capitals.
    pub method: String,
    /// The path and the query.
    pub target: String,
    lines: Vec<(String, Vec<u8>)>,
}

impl ForeignRequest {
    /// Reads a head, with its empty line; `None` if it is none.
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Self> {
        let mut lines = head::no_lines();
        let mut request = httparse::Request::new(&mut lines);
        server::parse(&mut request, head).ok()?;
        let lines = request.headers.iter();
        Some(Self {
            method: request.method.unwrap_or_default().to_owned(),
            target: request.path.unwrap_or_default().to_owned(),
            lines: lines
                .map(|line| (line.name.to_owned(), line.value.trim_ascii().to_vec()))
                .collect(),
        })
    }

    /// The values of all lines called `name`, in any case.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.lines.iter();
        let named = lines.filter(move |(line, _)| line.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_slice())
    }

    /// The value of the only line called `name`; `None` if there are none or several, or it is no
    /// text.
    #[must_use]
    pub fn only<'a>(&'a self, name: &str) -> Option<&'a str> {
        let mut named = self.lines.iter();
        let (_, value) = named.find(|(line, _)| line.eq_ignore_ascii_case(name))?;
        let is_only = !named.any(|(line, _)| line.eq_ignore_ascii_case(name));
        is_only.then(|| std::str::from_utf8(value).ok())?
    }

    /// The members of the comma-separated lists in all lines called `name`.
    pub fn members<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.values(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
    }

    /// Whether a list has `member`, in any case.
    #[must_use]
    pub fn lists(&self, name: &str, member: &str) -> bool {
        let mut members = self.members(name);
        members.any(|listed| listed.eq_ignore_ascii_case(member.as_bytes()))
    }

    fn parsed(&self) -> Vec<httparse::Header<'_>> {
        let lines = self.lines.iter();
        lines
            .map(|(name, value)| httparse::Header { name, value })
            .collect()
    }
}

/// A connection whose other end is no farpipe. Dropping it ends the connection.
#[derive(Debug)]
pub struct Foreign {
    /// What it asks for.
    pub request: ForeignRequest,
    /// Where it came from.
    pub peer: String,
    /// Who it is by its certificate, where TLS verified one.
    pub shown: Option<PeerIdentity>,
    /// Whether it came through TLS, be it that a proxy has ended that.
    pub is_secure: bool,
    io: Box<dyn Transport>,
    /// What came behind the head.
    rest: BytesMut,
}

/// What the listener knows of a connection before its first byte.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) peer: Peer,
    pub(crate) shown: Option<PeerIdentity>,
    pub(crate) is_secure: bool,
}

impl Foreign {
    /// `seen` is what came on `io`, of which the head is `len` bytes.
    pub(crate) fn new(
        io: Box<dyn Transport>,
        mut seen: BytesMut,
        len: usize,
        arrived: Arrived,
    ) -> Option<Self> {
        let head = seen.split_to(len);
        let Arrived {
            peer,
            shown,
            is_secure,
        } = arrived;
        Some(Self {
            request: ForeignRequest::parse(&head)?,
            peer: peer.to_string(),
            shown,
            is_secure,
            io,
            rest: seen,
        })
    }

    /// The connection, and what came behind the head.
    #[must_use]
    pub fn into_io(self) -> (Box<dyn Transport>, BytesMut) {
        (self.io, self.rest)
    }

    /// Makes a WebSocket of it, and says that `subprotocol` was chosen. Who asks for something that
    /// is none gets a short answer in plain HTTP, which takes up to a second more.
    ///
    /// # Errors
    /// See [`UpgradeError`].
    pub async fn upgrade(
        mut self,
        messages: Messages,
        subprotocol: Option<&str>,
    ) -> Result<RawWebSocket, UpgradeError> {
        let (key_answer, agreed) = match self.check() {
            Ok(checked) => checked,
            Err(refusal) => {
                server::refuse(&mut self.io, refusal, ADVICE).await;
                let Refusal { status, why } = refusal;
                return Err(UpgradeError::Refused { status, why });
            }
        };
        let chosen = subprotocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\n\
             Upgrade: websocket\r\n\
             Connection: Upgrade\r\n\
             Sec-WebSocket-Accept: {key_answer}\r\n\
             {}{}\r\n",
            chosen.unwrap_or_default(),
            agreed.map(Agreed::line).unwrap_or_default()
        );
        let answering = async {
            self.io.write_all(answer.as_bytes()).await?;
            self.io.flush().await
        };
        let answered = timeout(HANDSHAKE_STEP, answering).await;
        answered.map_err(|_| UpgradeError::Silent)??;
        let incoming = Incoming::new(true, messages, agreed.map(Agreed::inflate));
        let mut socket = RawWebSocket::new(self.io, incoming, messages, self.rest);
        socket.deflate = agreed.map(Agreed::deflate);
        Ok(socket)
    }

    fn check(&self) -> Result<(String, Option<Agreed>), Refusal> {
        let lines = self.request.parsed();
        let lines: &Lines<'_> = &lines;
        server::check_http(Some(1), lines)?;
        let key = server::check_websocket(&self.request.method, lines)?;
        let offers = head::members(lines, "Sec-WebSocket-Extensions");
        Ok((head::accept_for(key), Agreed::of(offers)))
    }
}

/// What a client is told to do whose upgrade is none.
const ADVICE: &str = "Connect with a WebSocket client, or by HTTP with curl.";

/// Whether `head` is a request that `gateway` serves. A farpipe that dials a path of the gateway's
/// is a farpipe.
pub(crate) fn is_served(gateway: &dyn Gateway, head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r' || *byte == b'\n').next();
    let target = line.and_then(|line| line.split(|byte| *byte == b' ').nth(1));
    let target = target.and_then(|target| std::str::from_utf8(target).ok());
    if !target.is_some_and(|target| gateway.serves(target)) {
        return false;
    }
    let mut lines = head::no_lines();
    let mut request = httparse::Request::new(&mut lines);
    let is_whole = server::parse(&mut request, head).is_ok();
    let ours = |offered| offered == SUBPROTOCOL.as_bytes();
    is_whole
        && request.version == Some(1)
        && !head::members(request.headers, "Sec-WebSocket-Protocol").any(ours)
}
