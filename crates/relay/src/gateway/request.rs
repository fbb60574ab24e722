//! What a request asks for, and whether it may ask at all: decided before a pipe is touched.
//!
//! A browser of this host reaches a relay on loopback, whatever page it shows. So the `Host` must be
//! one of the relay's own, which a page that plays with the DNS does not know how to be, and what says
//! that a page asks (`Origin`, `Sec-Fetch-Site`) must say that it is a page of this relay, or of an
//! origin that was listed (docs/decisions/0012-gateway.md).

use farpipe_net::carrier::ws::raw::{ForeignRequest, Messages};
use farpipe_proto::identity::is_name;
use farpipe_proto::wire::topic::name_objection;

use super::answer::Answer;
use super::topic::{self, Wanted};

/// What the paths of pipes begin with.
pub(super) const PREFIX: &str = "/p/";

/// The methods that a pipe has.
const METHODS: &str = "GET, PUT, POST";

/// Who may ask, by what a browser says.
#[derive(Debug, Clone, Default)]
pub struct GatewayConfig {
    /// Names and addresses under which the relay is known, without ports. Those of loopback always
    /// are.
    pub hosts: Vec<String>,
    /// Origins of web pages that may use pipes, as browsers write them: `https://example.org`. Those
    /// of pages that the relay serves itself always are.
    pub origins: Vec<String>,
}

/// Which way the foreign end moves bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Into the pipe.
    Send,
    /// Out of it.
    Recv,
    /// Out of it, and into the pipe that has `.up` behind its name.
    Duplex,
}

impl Direction {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Recv => "recv",
            Self::Duplex => "duplex",
        }
    }

    fn of(name: &str) -> Option<Self> {
        [Self::Send, Self::Recv, Self::Duplex]
            .into_iter()
            .find(|direction| direction.name() == name)
    }
}

/// The pipe that a WebSocket each way writes, beside the one that it reads.
pub(super) fn up(name: &str) -> String {
    format!("{name}.up")
}

/// A request for a pipe, or a topic.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The pipe's.
    pub(super) name: String,
    pub(super) what: What,
    /// The page that asks, if one does: it may.
    pub(super) page: Option<Page>,
}

/// Whose page asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Page {
    /// One of this relay's own.
    Own,
    /// One of this listed origin's.
    Of(String),
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// The body goes into the pipe.
    Upload,
    /// What comes out of the pipe is the body.
    Download,
    /// The page that shows a pipe.
    View,
    /// A ticket for a WebSocket.
    Ticket(Direction),
    /// A WebSocket.
    Socket(Direction, Messages),
    /// Something of a topic.
    Topic(Wanted),
    /// Whether a page may ask for a ticket, or for the pipe.
    Preflight,
}

impl Asked {
    /// # Errors
    /// The answer that refuses it.
    pub(super) fn of(
        request: &ForeignRequest,
        config: &GatewayConfig,
        is_secure: bool,
    ) -> Result<Self, Answer> {
        let host = host(request, config)?;
        let page = page(request, config, host, is_secure)?;
        let (path, query) = match request.target.split_once('?') {
            Some((path, query)) => (path, query),
            None => (request.target.as_str(), ""),
        };
        if let Some(name) = path.strip_prefix(topic::PREFIX) {
            return topic(request, name, query, page);
        }
        let name = path.strip_prefix(PREFIX).filter(|name| is_name(name));
        let Some(name) = name else {
            let why = "no pipe: a name has small letters, digits, dots, hyphens and underscores";
            return Err(Answer::line(404, why));
        };
        let what = what(request, query)?;
        let is_duplex = matches!(
            what,
            What::Socket(Direction::Duplex, _) | What::Ticket(Direction::Duplex)
        );
        if is_duplex && !is_name(&up(name)) {
            let why = "this name is too long for ?duplex, which also takes the pipe of that name with \
                       .up behind it: 60 letters at most";
            return Err(Answer::line(404, why));
        }
        if what == What::Download && page.is_none() && is_browser(request) {
            // Of plain http some browsers do not tell which page shows it: an image of a strange page would
            // empty the pipe.
            let why = "a browser reads a pipe by its page: ?view";
            return Err(Answer::line(403, why));
        }
        if what != What::Preflight || page.is_some() {
            return Ok(Self {
                name: name.to_owned(),
                what,
                page,
            });
        }
        Err(not_allowed())
    }
}

/// What is asked of a topic.
fn topic(
    request: &ForeignRequest,
    name: &str,
    query: &str,
    page: Option<Page>,
) -> Result<Asked, Answer> {
    if let Some(objection) = name_objection(name) {
        return Err(Answer::line(404, format!("no topic: {objection}")));
    }
    let what = match request.method.as_str() {
        "OPTIONS" if page.is_some() => What::Preflight,
        _ => What::Topic(Wanted::of(request, query)?),
    };
    let is_read = matches!(&what, What::Topic(Wanted::Follow(ask)) if !ask.is_socket());
    let is_told = request.values("Sec-Fetch-Site").next().is_some();
    if is_read && page.is_none() && is_browser(request) && !is_told {
        // As for a pipe; but what was typed in, and is said to be, may be shown: it takes nothing away.
        let why = "this browser does not say which page asks: read by curl, or a WebSocket";
        return Err(Answer::line(403, why));
    }
    Ok(Asked {
        name: name.to_owned(),
        what,
        page,
    })
}

/// Whether it would read or write a pipe, if it was let to.
pub(super) fn is_transfer(request: &ForeignRequest) -> bool {
    let query = request
        .target
        .split_once('?')
        .map_or("", |(_, query)| query);
    let is_for_page = query
        .split('&')
        .any(|option| option == "view" || option.starts_with("ticket"));
    let moves = matches!(request.method.as_str(), "GET" | "PUT" | "POST");
    moves && !is_for_page && !request.lists("Upgrade", "websocket")
}

/// Whether a browser asks, as far as it can be told by what most of them call themselves.
fn is_browser(request: &ForeignRequest) -> bool {
    request
        .values("User-Agent")
        .any(|agent| agent.starts_with(b"Mozilla/"))
}

fn not_allowed() -> Answer {
    Answer::line(405, "a pipe is read by GET and written by PUT or POST").with("Allow", METHODS)
}

fn what(request: &ForeignRequest, query: &str) -> Result<What, Answer> {
    let options: Vec<&str> = query
        .split('&')
        .filter(|option| !option.is_empty())
        .collect();
    if request.lists("Upgrade", "websocket") {
        return socket(&options);
    }
    let what = match (request.method.as_str(), options.as_slice()) {
        ("GET", []) => What::Download,
        ("GET", ["view"]) => What::View,
        ("PUT" | "POST", []) => What::Upload,
        ("POST", ["ticket"]) => What::Ticket(Direction::Recv),
        ("POST", [one]) if one.starts_with("ticket=") => {
            let direction = one.strip_prefix("ticket=").and_then(Direction::of);
            What::Ticket(direction.ok_or_else(|| unknown_option("?ticket=send, recv or duplex"))?)
        }
        ("OPTIONS", _) => What::Preflight,
        ("GET" | "PUT" | "POST", _) => {
            let known = "GET: ?view; POST: ?ticket; WebSocket: ?send, ?recv, ?duplex, &lines";
            return Err(unknown_option(known));
        }
        _ => return Err(not_allowed()),
    };
    let has_body = request.values("Transfer-Encoding").next().is_some()
        || request
            .values("Content-Length")
            .any(|length| length != b"0");
    if has_body && matches!(what, What::Download | What::View | What::Preflight) {
        return Err(Answer::line(400, "this request has no body"));
    }
    Ok(what)
}

fn socket(options: &[&str]) -> Result<What, Answer> {
    let (mut direction, mut messages) = (None, Messages::Bytes);
    for option in options {
        match (*option, Direction::of(option)) {
            ("lines", _) => messages = Messages::Lines,
            (_, Some(wanted)) if direction.is_none() => direction = Some(wanted),
            _ => {
                let known = "one of ?send, ?recv and ?duplex, and &lines";
                return Err(unknown_option(known));
            }
        }
    }
    Ok(What::Socket(direction.unwrap_or(Direction::Recv), messages))
}

fn unknown_option(known: &str) -> Answer {
    Answer::line(400, format!("an unknown option; known are {known}"))
}

/// The host that is asked, with its port, if it is this one.
fn host<'a>(request: &'a ForeignRequest, config: &GatewayConfig) -> Result<&'a str, Answer> {
    let refused = || {
        let why = "this host is not known under that name: the relay's --gateway-host lists names";
        Answer::line(403, why)
    };
    let host = request.only("Host").ok_or_else(refused)?;
    let name = without_port(host).ok_or_else(refused)?;
    const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
    let mut known = LOOPBACK
        .into_iter()
        .chain(config.hosts.iter().map(String::as_str));
    if !known.any(|known| known.eq_ignore_ascii_case(name)) {
        return Err(refused());
    }
    Ok(host)
}

/// The name or address of `HOST[:PORT]`; an address of IPv6 without its brackets.
fn without_port(host: &str) -> Option<&str> {
    let is_port = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && text.len() <= 5;
    if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let is_good = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return is_good.then_some(address);
    }
    match host.split_once(':') {
        Some((name, port)) => is_port(port).then_some(name),
        None => Some(host),
    }
    .filter(|name| !name.is_empty())
}

/// The page that asks, if it is a page.
fn page(
    request: &ForeignRequest,
    config: &GatewayConfig,
    host: &str,
    is_secure: bool,
) -> Result<Option<Page>, Answer> {
    let refused = || {
        let why =
            "web pages of this origin may not use pipes: the relay's --origin lists those that may";
        Answer::line(403, why)
    };
    let site = match request.values("Sec-Fetch-Site").next() {
        None => None,
        Some(_) => Some(request.only("Sec-Fetch-Site").ok_or_else(refused)?),
    };
    // Another page shows it or leads to it, or a page of this host's other ports.
    let is_strange = !matches!(site, None | Some("same-origin" | "none"));
    if request.values("Origin").next().is_none() {
        // A browser leaves it out where a page only shows or follows something.
        return match site {
            _ if is_strange => Err(refused()),
            Some("same-origin") => Ok(Some(Page::Own)),
            // No browser; or typed in, or a bookmark.
            _ => Ok(None),
        };
    }
    let origin = request.only("Origin").ok_or_else(refused)?;
    let scheme = match is_secure {
        true => "https",
        false => "http",
    };
    let own = origin.split_once("://");
    let is_own =
        |(s, h): (&str, &str)| s.eq_ignore_ascii_case(scheme) && h.eq_ignore_ascii_case(host);
    if own.is_some_and(is_own) && !is_strange {
        return Ok(Some(Page::Own));
    }
    let mut listed = config.origins.iter();
    match listed.any(|listed| listed.eq_ignore_ascii_case(origin)) {
        true => Ok(Some(Page::Of(origin.to_owned()))),
        false => Err(refused()),
    }
}

#[cfg(test)]
mod tests;
