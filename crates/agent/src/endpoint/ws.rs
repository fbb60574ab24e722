//! `ws:URL`: a connection to a WebSocket server that need not be a farpipe.

use std::fmt;
use std::io;

use farpipe_net::HostPort;
use farpipe_net::carrier::ws::raw::{self, Messages};
use farpipe_proto::limits::HANDSHAKE_TOTAL;

use super::{Endpoint, OpenError, Use, messages};

/// Which server, and what messages are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WsSpec {
    to: HostPort,
    /// The `Host` header: without the port that goes without saying.
    host: String,
    /// Path and query; begins with `/`.
    path: String,
    messages: Messages,
}

impl WsSpec {
    /// Reads what stands behind `ws:`. A parameter `lines` without a value is ours, wherever it
    /// stands in the query; the server gets the others.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = match text.split_once("://") {
            Some(("ws", rest)) => rest,
            Some(("wss", _)) => {
                return Err(
                    "wss:// is not supported yet for ends that are no farpipe; put a program that \
                     speaks TLS in between",
                );
            }
            Some(_) | None => return Err("no URL; write ws:ws://HOST:PORT/PATH"),
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
        let to: HostPort = if has_port {
            authority.parse()
        } else {
            format!("{authority}:{PORT}").parse()
        }
        .map_err(|error: farpipe_net::HostPortError| error.why())?;
        if to.port == 0 {
            return Err("nobody listens on port 0");
        }
        let full = to.to_string();
        let host = match full.strip_suffix(":80") {
            Some(host) => host.to_owned(),
            None => full,
        };
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
            to,
            host,
            path,
            messages,
        })
    }
}

impl fmt::Display for WsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ws:ws://{}{}", self.to, self.path)?;
        if self.messages == Messages::Lines {
            let mark = if self.path.contains('?') { '&' } else { '?' };
            write!(f, "{mark}{LINES}")?;
        }
        Ok(())
    }
}

pub(super) async fn open(spec: &WsSpec, wanted: Use) -> Result<Endpoint, OpenError> {
    let failed = |source| OpenError::Connect {
        to: format!("ws://{}{}", spec.to, spec.path),
        source,
    };
    let connecting = async {
        let stream = farpipe_net::connect(&spec.to).await?;
        raw::connect(stream, &spec.host, &spec.path, spec.messages)
            .await
            .map_err(io::Error::other)
    };
    let socket = tokio::time::timeout(HANDSHAKE_TOTAL, connecting)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(failed)?;
    Ok(messages::endpoint(socket, wanted, &spec.to_string()))
}

/// The parameter that makes messages of lines.
pub(super) const LINES: &str = "lines";

/// The port of `ws://` that goes without saying.
const PORT: u16 = 80;

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
                (&spec.host[..], &spec.path[..], spec.messages),
                (host, path, messages)
            );
            assert_eq!(spec.to_string(), written);
            assert_eq!(WsSpec::parse(&written[3..]), Ok(spec));
        }
    }

    #[test]
    fn what_is_no_url_says_what_is_missing() {
        for (text, why) in [
            ("", "no URL"),
            ("h:9", "no URL"),
            ("http://h:9", "no URL"),
            ("wss://h:9", "wss:// is not supported yet"),
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
