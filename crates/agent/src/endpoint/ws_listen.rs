//! `ws-listen:[HOST:]PORT[/PATH]`: WebSockets from browsers and programs, on 127.0.0.1 unless
//! another loopback address is given: it has no TLS and asks nobody who he is. Port 0 is any free one.
//!
//! A connection comes out when its upgrade is done, so what asks for something else, or is a web
//! page that nobody admitted, never touches a pipe. Upgrades go on beside each other: one that takes
//! its time holds nobody up. Bound: [`RAW_UPGRADES_MAX`] at once. Policy when full: the oldest gives way,
//! so that those who trickle their requests keep nobody out.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use farpipe_net::HostPort;
use farpipe_net::carrier::ws::raw::{self, Admitted, Messages, RawWebSocket};
use farpipe_proto::limits::{RAW_UPGRADE, RAW_UPGRADES_MAX};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::listening::{Accept, Arrival, Listening};
use super::ws::LINES;
use super::{OpenError, messages, tcp_listen};

/// Where to listen, who may connect, and what messages are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WsListenSpec {
    on: HostPort,
    admitted: Admitted,
    messages: Messages,
}

impl WsListenSpec {
    /// What stands behind `ws-listen:`; `address` reads `[HOST:]PORT`.
    pub(super) fn parse(
        text: &str,
        address: impl FnOnce(&str) -> Result<HostPort, &'static str>,
    ) -> Result<Self, &'static str> {
        let (place, options) = match text.split_once('?') {
            Some((place, options)) => (place, Some(options)),
            None => (text, None),
        };
        let at = place.find('/').unwrap_or(place.len());
        let (on, path) = place.split_at(at);
        let mut spec = Self {
            on: address(on)?,
            admitted: Admitted {
                path: (!path.is_empty()).then(|| path.to_owned()),
                origins: Vec::new(),
            },
            messages: Messages::Bytes,
        };
        for option in options.into_iter().flat_map(|options| options.split('&')) {
            match option.split_once('=') {
                None if option == LINES => spec.messages = Messages::Lines,
                Some(("origin", origin)) => spec.admitted.origins.push(parse_origin(origin)?),
                Some(_) | None => return Err("known options are ?lines and ?origin=URL"),
            }
        }
        Ok(spec)
    }
}

/// An origin as browsers write it.
///
/// # Errors
/// What it looks like.
pub fn parse_origin(text: &str) -> Result<String, &'static str> {
    const WHY: &str = "an origin is SCHEME://HOST or SCHEME://HOST:PORT, as http://localhost:3000";
    let origin = text.strip_suffix('/').unwrap_or(text);
    let (scheme, host) = origin.split_once("://").ok_or(WHY)?;
    let is_origin = !scheme.is_empty()
        && is_host(host)
        && origin.bytes().all(|byte| byte.is_ascii_graphic())
        && !host.contains(['/', '?', '#', '@', '*']);
    if !is_origin {
        return Err(WHY);
    }
    // Browsers leave out the port that goes without saying.
    let usual = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return Ok(origin.to_owned()),
    };
    Ok(origin.strip_suffix(usual).unwrap_or(origin).to_owned())
}

/// `HOST` or `HOST:PORT`, an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    let name = match text.rsplit_once(':') {
        Some((name, port)) if !text.ends_with(']') => {
            let is_port = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            if is_port { name } else { "" }
        }
        Some(_) | None => text,
    };
    !name.is_empty() && (!name.contains(':') || name.starts_with('[') && name.ends_with(']'))
}

impl fmt::Display for WsListenSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.admitted.path.as_deref().unwrap_or_default();
        write!(f, "ws-listen:{}{path}", self.on)?;
        let lines = (self.messages == Messages::Lines).then(|| LINES.to_owned());
        let origins = self.admitted.origins.iter();
        let options = lines
            .into_iter()
            .chain(origins.map(|origin| format!("origin={origin}")));
        for (option, mark) in options.zip(std::iter::once('?').chain(std::iter::repeat('&'))) {
            write!(f, "{mark}{option}")?;
        }
        Ok(())
    }
}

pub(super) async fn listen(spec: &WsListenSpec) -> Result<Listening, OpenError> {
    let (listener, address) = tcp_listen::bind(&spec.on, "ws").await?;
    if !address.ip().is_loopback() {
        let address = format!("ws {}", spec.on);
        return Err(OpenError::NotLoopback { address });
    }
    let path = spec.admitted.path.as_deref().unwrap_or("/");
    let accept = WsAccept {
        listener,
        spec: spec.clone(),
        upgrades: JoinSet::new(),
        begun: VecDeque::new(),
        refused_page: false,
    };
    Ok(Listening::new(accept, format!("ws://{address}{path}")))
}

#[derive(Debug)]
struct WsAccept {
    listener: TcpListener,
    spec: WsListenSpec,
    upgrades: JoinSet<(SocketAddr, Result<RawWebSocket, String>)>,
    /// Those of them that run, oldest first; also some that are done.
    begun: VecDeque<AbortHandle>,
    /// A page was refused, and the user was told what to do about it.
    refused_page: bool,
}

impl Accept for WsAccept {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Arrival, String)>> {
        loop {
            while let Poll::Ready(Some(upgraded)) = self.upgrades.poll_join_next(cx) {
                let (from, upgraded) = match upgraded {
                    Ok(upgraded) => upgraded,
                    Err(error) if error.is_cancelled() => continue,
                    Err(error) => {
                        tracing::error!("the task of an upgrade failed: {error}");
                        continue;
                    }
                };
                let name = format!("the WebSocket connection from {from}");
                match upgraded {
                    Ok(socket) => {
                        let arrival: Arrival =
                            Box::new(|wanted, name| Ok(messages::endpoint(socket, wanted, name)));
                        return Poll::Ready(Ok((arrival, name)));
                    }
                    Err(why) => self.tell(&name, &why),
                }
            }
            let (stream, from) = ready!(self.listener.poll_accept(cx))?;
            self.begun.retain(|upgrade| !upgrade.is_finished());
            if self.begun.len() >= RAW_UPGRADES_MAX
                && let Some(oldest) = self.begun.pop_front()
            {
                oldest.abort();
            }
            farpipe_net::tune(&stream);
            let spec = self.spec.clone();
            let upgrade = self
                .upgrades
                .spawn(async move { (from, upgrade(stream, &spec).await) });
            self.begun.push_back(upgrade);
        }
    }
}

impl WsAccept {
    /// The first page that is refused is worth a warning: its author waits for an answer.
    fn tell(&mut self, name: &str, why: &str) {
        if why.contains(FORBIDDEN) && !self.refused_page {
            self.refused_page = true;
            tracing::warn!("{name}: {why}; ?origin=URL admits the pages of one");
        } else {
            tracing::info!("{name}: {why}");
        }
    }
}

async fn upgrade(stream: TcpStream, spec: &WsListenSpec) -> Result<RawWebSocket, String> {
    let upgraded = raw::accept(stream, &spec.admitted, spec.messages);
    match tokio::time::timeout(RAW_UPGRADE, upgraded).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no upgrade within {} s", RAW_UPGRADE.as_secs())),
    }
}

/// What the words about a refused origin have in them.
const FORBIDDEN: &str = "HTTP status 403";

#[cfg(test)]
mod tests {
    use super::super::EndpointSpec;

    fn parse(text: &str) -> Result<String, String> {
        let parsed = text.parse::<EndpointSpec>();
        parsed
            .map(|spec| spec.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn places_and_options_are_read_and_written() {
        for (text, written) in [
            ("ws-listen:8080", "ws-listen:127.0.0.1:8080"),
            ("ws-listen:0.0.0.0:0/a/b", "ws-listen:0.0.0.0:0/a/b"),
            ("ws-listen:[::]:1?lines", "ws-listen:[::]:1?lines"),
            (
                "ws-listen:1/p?origin=http://LOCALHOST:3000&lines&origin=https://a.b:443/",
                "ws-listen:127.0.0.1:1/p?lines&origin=http://LOCALHOST:3000&origin=https://a.b",
            ),
        ] {
            assert_eq!(parse(text), Ok(written.to_owned()));
            assert_eq!(parse(written), Ok(written.to_owned()));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("ws-listen:", "no number"),
            ("ws-listen:/path", "no number"),
            ("ws-listen:h:70000", "no number"),
            ("ws-listen:1?", "known options"),
            ("ws-listen:1?line", "known options"),
            ("ws-listen:1?lines=1", "known options"),
            ("ws-listen:1?origin=", "an origin is"),
            ("ws-listen:1?origin=*", "an origin is"),
            ("ws-listen:1?origin=null", "an origin is"),
            ("ws-listen:1?origin=http://:80", "an origin is"),
            ("ws-listen:1?origin=http://h:80:80", "an origin is"),
            ("ws-listen:1?origin=http://h:", "an origin is"),
            ("ws-listen:1?origin=https://*.a.b", "an origin is"),
            ("ws-listen:1?origin=https://a.b/page", "an origin is"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
