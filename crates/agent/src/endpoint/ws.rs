//! `ws:URL`: a connection to a WebSocket server that need not be a farpipe, with TLS 1.3 if the URL
//! says `wss://`. The server is verified by the system's authorities.

use std::fmt;
use std::io;

use farpipe_net::carrier::ws::raw::{self, Messages, RawWebSocket, To};
use farpipe_net::tls::{Alpn, ClientTlsOptions, TlsClient};
use farpipe_net::{HostPort, redacted_url};
use farpipe_proto::limits::HANDSHAKE_TOTAL;

use super::{Endpoint, OpenError, Use, messages};

/// Which server, and what messages are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WsSpec {
    scheme: Security,
    server: HostPort,
    to: To,
    messages: Messages,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Security {
    Plain,
    Tls,
}

impl Security {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "ws",
            Self::Tls => "wss",
        }
    }

    /// The port that goes without saying.
    fn port(self) -> u16 {
        match self {
            Self::Plain => 80,
            Self::Tls => 443,
        }
    }
}

impl WsSpec {
    /// Reads what stands behind `ws:`. A parameter `lines` without a value is ours, wherever it
    /// stands in the query; the server gets the others.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("ws", rest)) => (Security::Plain, rest),
            Some(("wss", rest)) => (Security::Tls, rest),
            Some(_) | None => {
                return Err("no URL; write ws:ws://HOST:PORT/PATH or ws:wss://HOST/PATH");
            }
        };
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a URL has no spaces and no letters beyond ASCII; write them as %XX");
        }
        if rest.contains('#') {
            return Err("a WebSocket URL has no fragment; write # as %23");
        }
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if authority.contains('@') {
            return Err("a user name in a URL is not supported");
        }
        let has_port = authority
            .rsplit(']')
            .next()
            .is_some_and(|end| end.contains(':'));
        let server: HostPort = if has_port {
            authority.parse()
        } else {
            format!("{authority}:{}", scheme.port()).parse()
        }
        .map_err(|error: farpipe_net::HostPortError| error.why())?;
        if server.port == 0 {
            return Err("nobody listens on port 0");
        }
        let full = server.to_string();
        let usual = format!(":{}", scheme.port());
        let host = full.strip_suffix(&usual).unwrap_or(&full).to_owned();
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        let mut messages = Messages::Bytes;
        let mut kept = Vec::new();
        for param in query.into_iter().flat_map(|query| query.split('&')) {
            if param == LINES {
                messages = Messages::Lines;
            } else {
                kept.push(param);
            }
        }
        let mut path = if path.is_empty() { "/" } else { path }.to_owned();
        for (param, mark) in kept
            .iter()
            .zip(std::iter::once('?').chain(std::iter::repeat('&')))
        {
            path.push(mark);
            path.push_str(param);
        }
        Ok(Self {
            scheme,
            server,
            to: To { host, path },
            messages,
        })
    }
}

impl WsSpec {
    /// Whom it connects to.
    pub(crate) fn host_port(&self) -> &HostPort {
        &self.server
    }

    /// What stands in front of `lines`, without what is secret in it: all that is shown goes to the
    /// other host as well.
    fn url(&self) -> String {
        redacted_url(&self.revealed_url())
    }

    fn revealed_url(&self) -> String {
        let (scheme, path) = (self.scheme.name(), &self.to.path);
        format!("{scheme}://{}{path}", self.server)
    }

    /// As it was typed, for who is to open it.
    pub(super) fn revealed(&self) -> String {
        format!("ws:{}{}", self.revealed_url(), self.lines())
    }

    /// The parameter that is ours.
    fn lines(&self) -> String {
        match self.messages {
            Messages::Bytes => String::new(),
            Messages::Lines => {
                let mark = if self.to.path.contains('?') { '&' } else { '?' };
                format!("{mark}{LINES}")
            }
        }
    }
}

impl fmt::Display for WsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ws:{}{}", self.url(), self.lines())
    }
}

pub(super) async fn open(spec: &WsSpec, wanted: Use) -> Result<Endpoint, OpenError> {
    let socket = tokio::time::timeout(HANDSHAKE_TOTAL, connect(spec))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| OpenError::Connect {
            to: spec.url(),
            source,
        })?;
    Ok(messages::endpoint(socket, wanted, &spec.to_string()))
}

async fn connect(spec: &WsSpec) -> io::Result<RawWebSocket> {
    let WsSpec {
        scheme,
        server,
        to,
        messages,
    } = spec;
    let tls = match scheme {
        Security::Plain => None,
        // Read again for each connection: that is rare, and what the system trusts may change.
        Security::Tls => Some(TlsClient::new(ClientTlsOptions::default(), ALPN)),
    };
    let tls = tls.transpose().map_err(io::Error::other)?;
    let stream = farpipe_net::connect(server).await?;
    let upgraded = match &tls {
        None => raw::connect(stream, to, *messages).await,
        Some(tls) => raw::connect_tls(stream, tls, &server.host, to, *messages).await,
    };
    upgraded.map_err(io::Error::other)
}

/// The parameter that makes messages of lines.
pub(super) const LINES: &str = "lines";

/// WebSocket's upgrade is HTTP/1.1's.
const ALPN: Alpn = Alpn("http/1.1");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written() {
        for (text, host, path, messages, written) in [
            ("ws://h:9", "h:9", "/", Messages::Bytes, "ws:ws://h:9/"),
            ("ws://h", "h", "/", Messages::Bytes, "ws:ws://h:80/"),
            (
                "ws://[::1]/a/b?c=d",
                "[::1]",
                "/a/b?c=d",
                Messages::Bytes,
                "ws:ws://[::1]:80/a/b?c=d",
            ),
            ("wss://h/a", "h", "/a", Messages::Bytes, "ws:wss://h:443/a"),
            (
                "wss://h:80?b",
                "h:80",
                "/?b",
                Messages::Bytes,
                "ws:wss://h:80/?b",
            ),
            (
                "ws://h:9?lines",
                "h:9",
                "/",
                Messages::Lines,
                "ws:ws://h:9/?lines",
            ),
            (
                "ws://h:9/p?a=1&lines&b=lines&c",
                "h:9",
                "/p?a=1&b=lines&c",
                Messages::Lines,
                "ws:ws://h:9/p?a=1&b=lines&c&lines",
            ),
        ] {
            let spec = WsSpec::parse(text).expect("a URL");
            assert_eq!(
                (&spec.to.host[..], &spec.to.path[..], spec.messages),
                (host, path, messages)
            );
            assert_eq!(spec.to_string(), written);
            assert_eq!(WsSpec::parse(&written[3..]), Ok(spec));
        }
    }

    #[test]
    fn a_secret_is_sent_to_who_opens_it_and_shown_to_nobody() {
        let text = "ws:wss://h:443/p?token=abc&lines";
        let spec: super::super::EndpointSpec = text.parse().expect("an endpoint");
        assert_eq!(spec.to_bytes(), text.as_bytes());
        assert_eq!(spec.to_string(), "ws:wss://h:443/p?token=***&lines");
    }

    #[test]
    fn what_is_no_url_says_what_is_missing() {
        for (text, why) in [
            ("", "no URL"),
            ("h:9", "no URL"),
            ("http://h:9", "no URL"),
            ("wss:h:9", "no URL"),
            ("ws://", "no host"),
            ("ws://:9", "no host"),
            ("ws://h:0/", "port 0"),
            ("ws://h:99999/", "no number"),
            ("ws://::1/", "brackets"),
            ("ws://u:p@h/", "user name"),
            ("ws://h/a b", "no spaces"),
            ("ws://h/\r\nX: y", "no spaces"),
            ("ws://h/#a", "fragment"),
        ] {
            let error = WsSpec::parse(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
