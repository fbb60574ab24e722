//! Proxies on the way to a listener: which one the environment names, and how it is asked.
//!
//! A proxy is asked for one connection and then passes bytes: TLS lies on top of it, end to end, and
//! the proxy sees none of what is in it. What always holds: not one byte that comes behind a proxy's
//! answer is taken from the stream, for it is the listener's; and no password is ever shown.

mod asking;
mod http;
mod socks;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use farpipe_proto::limits::HANDSHAKE_STEP;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use crate::host_port::{HostPort, HostPortError};
use crate::opener::Blame;
use crate::reach::Unreached;
use crate::tcp::Url;
use farpipe_proto::limits::HTTP_HEAD_MAX;

pub(crate) use asking::Asking;

/// The port of a proxy whose URL has none, as curl has it.
const PORT: u16 = 1080;

/// The variables that may name the proxy of a connection with TLS, the first that is set.
const VARIABLES: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
/// The variables that may name hosts without one.
const EXCEPTIONS: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// How a proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// HTTP's CONNECT; the proxy resolves names.
    Http,
    /// SOCKS 5; names are resolved here.
    Socks5,
    /// SOCKS 5; the proxy resolves names.
    Socks5h,
}

impl Kind {
    const fn scheme(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Socks5 => "socks5",
            Self::Socks5h => "socks5h",
        }
    }
}

/// Who we are to a proxy.
#[derive(Clone, PartialEq, Eq)]
struct Login {
    user: String,
    /// Empty if there is none.
    password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

/// A proxy. Shows as its URL without user and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    kind: Kind,
    at: HostPort,
    login: Option<Login>,
}

/// Why a text is no proxy's URL. Does not show the text, which may have a password in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{what}", variable.map(|name| format!("{name}: ")).unwrap_or_default())]
pub struct ProxyUrlError {
    variable: Option<&'static str>,
    what: &'static str,
}

impl FromStr for Proxy {
    type Err = ProxyUrlError;

    /// `[SCHEME://][USER[:PASSWORD]@]HOST[:PORT]`, `http` and port 1080 if it does not say; user and
    /// password %-escaped.
    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        let error = |what| ProxyUrlError {
            variable: None,
            what,
        };
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let kind = match scheme.to_ascii_lowercase().as_str() {
            "http" => Kind::Http,
            "socks5" => Kind::Socks5,
            "socks5h" => Kind::Socks5h,
            "https" => return Err(error("a proxy behind TLS (https://) cannot be used")),
            _ => return Err(error("a proxy is http://, socks5:// or socks5h://")),
        };
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => {
                let bad = || error("user and password must be %-escaped UTF-8");
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                let user = unescaped(user).ok_or_else(bad)?;
                let password = unescaped(password).ok_or_else(bad)?;
                (Some(Login { user, password }), rest)
            }
            None => (None, rest),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let has_port = match authority.strip_prefix('[') {
            Some(v6) => !v6.ends_with(']'),
            None => authority.contains(':'),
        };
        let at = if has_port {
            authority.parse()
        } else {
            format!("{authority}:{PORT}").parse()
        };
        let at: HostPort = at.map_err(|e: HostPortError| error(e.why()))?;
        if !is_name(&at.host) {
            return Err(error("the host has characters that no host has"));
        }
        Ok(Self { kind, at, login })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.kind.scheme(), self.at)
    }
}

/// What a host's name or address can be made of; nothing that could end a line of HTTP.
fn is_name(host: &str) -> bool {
    host.bytes()
        .all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'#' | b'@'))
}

/// `text` without its %-escapes.
fn unescaped(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(out).ok()
}

impl Proxy {
    /// The proxy that the environment names for `url`, read as curl does: `https_proxy` before
    /// `all_proxy`, lower case before upper case, an empty one is none, `no_proxy` excepts hosts.
    /// None without TLS, which stays on this host, and none for this host.
    ///
    /// # Errors
    /// [`ProxyUrlError`], with the name of the variable; one that counts and is not UTF-8, too.
    pub fn from_environment(
        url: &Url,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>, ProxyUrlError> {
        let first = |names: &[&'static str]| {
            let mut set = names
                .iter()
                .filter_map(|name| Some((*name, variable(name)?)));
            let Some((name, value)) = set.find(|(_, value)| !value.is_empty()) else {
                return Ok(None);
            };
            let error = |_| ProxyUrlError {
                variable: Some(name),
                what: "it is not UTF-8; write other bytes as %XX",
            };
            value
                .into_string()
                .map(|value| Some((name, value)))
                .map_err(error)
        };
        if !url.scheme.is_tls() || is_here(&url.host) {
            return Ok(None);
        }
        let Some((name, value)) = first(&VARIABLES)? else {
            return Ok(None);
        };
        if first(&EXCEPTIONS)?.is_some_and(|(_, hosts)| excepts(&hosts, &url.host)) {
            return Ok(None);
        }
        let proxy = value.parse().map_err(|error| ProxyUrlError {
            variable: Some(name),
            ..error
        })?;
        Ok(Some(proxy))
    }

    /// The variables that [`Proxy::from_environment`] asks for.
    pub fn variables() -> impl Iterator<Item = &'static str> {
        VARIABLES.into_iter().chain(EXCEPTIONS)
    }

    /// Whether its URL had a password.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.login.as_ref().is_some_and(|l| !l.password.is_empty())
    }

    /// Where it is.
    pub(crate) fn at(&self) -> &HostPort {
        &self.at
    }

    /// Whether it looks up the host of `url`, which is then not done here. Without TLS it is: what
    /// is dialled must be known to be on this host.
    #[must_use]
    pub fn resolves(&self, url: &Url) -> bool {
        url.scheme.is_tls() && self.kind != Kind::Socks5
    }

    /// Asks it, on a fresh connection to it, for one to `to`. Gives up after 10 s. Whatever comes
    /// behind its answer is still to be read.
    pub(crate) async fn ask<S>(&self, stream: &mut S, to: &HostPort) -> Result<Granted, ProxyError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if !is_name(&to.host) {
            return Err(ProxyError::Name("has characters that no host has"));
        }
        let login = self.login.as_ref();
        let asking = async {
            match self.kind {
                Kind::Http => http::ask(stream, to, login).await,
                Kind::Socks5 | Kind::Socks5h => socks::ask(stream, to, login).await,
            }
        };
        tokio::time::timeout(HANDSHAKE_STEP, asking)
            .await
            .unwrap_or(Err(ProxyError::Silent))
    }
}

/// Whether a host is this one, as far as its name tells.
fn is_here(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    host.parse().map_or_else(
        |_| {
            let host = host.to_ascii_lowercase();
            host == "localhost" || host.ends_with(".localhost")
        },
        |address: IpAddr| {
            let address = address.to_canonical();
            address.is_loopback() || address.is_unspecified()
        },
    )
}

/// Whether a `NO_PROXY` has `host` in it: `*`, a name or a domain above it, an address or a network.
fn excepts(list: &str, host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    list.trim() == "*"
        || list
            .split([',', ' ', '\t'])
            .filter(|entry| !entry.is_empty())
            .any(|entry| match address {
                Some(address) => is_in(address, entry),
                None => {
                    let entry = entry.trim_matches('.').to_ascii_lowercase();
                    let above = host.strip_suffix(&entry);
                    !entry.is_empty()
                        && above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
                }
            })
}

/// Whether `address` is `entry` or in the network `entry`.
fn is_in(address: IpAddr, entry: &str) -> bool {
    let (network, bits) = match entry.split_once('/') {
        Some((network, bits)) => (network, bits.parse().ok()),
        None => (entry, Some(128)),
    };
    let network = network.trim_start_matches('[').trim_end_matches(']');
    let (Ok(network), Some(bits)) = (network.parse::<IpAddr>(), bits) else {
        return false;
    };
    let bits: u32 = bits;
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            let differ = a.to_bits() ^ n.to_bits();
            differ.leading_zeros() >= bits.min(32)
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => {
            let differ = a.to_bits() ^ n.to_bits();
            differ.leading_zeros() >= bits.min(128)
        }
        _ => false,
    }
}

/// A proxy's yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// What it said, escaped: `HTTP 200 Connected`, `SOCKS 5: connected`.
    pub answer: String,
    /// Where it says that it leads.
    pub to: HostPort,
    /// Whether it calls what follows a web page: most likely it is one, and leads nowhere.
    pub is_page: bool,
}

/// Why a proxy gave no connection. Words go behind "the proxy URL ".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// Its name has no address.
    #[error("cannot be reached: its name cannot be resolved: {0}")]
    Unknown(io::Error),
    /// There was no asking it.
    #[error("cannot be reached: {0}")]
    Unreachable(Unreached),
    /// It would carry unencrypted data off this host.
    #[error("is not on this host; without TLS only loopback is allowed")]
    Elsewhere,
    /// The connection to it broke.
    #[error("broke the connection before it answered: {0}")]
    Io(#[from] io::Error),
    /// It ended the connection.
    #[error("ended the connection before it answered")]
    Cut,
    /// There was no answer in time.
    #[error("did not answer within {} s", HANDSHAKE_STEP.as_secs())]
    Silent,
    /// It is another kind of proxy, or none.
    #[error(
        "does not speak {wanted}: it began with \"{seen}\"{}",
        looks_like(wanted, seen)
    )]
    Stranger {
        /// What it was asked in.
        wanted: &'static str,
        /// Its first bytes, escaped.
        seen: String,
    },
    /// Its answer has no end.
    #[error("answers with an HTTP header longer than {} KiB", HTTP_HEAD_MAX >> 10)]
    HeadTooLong,
    /// Its answer is no HTTP.
    #[error("answers with a malformed HTTP header: {0}")]
    Malformed(httparse::Error),
    /// Its status and reason, escaped.
    #[error("answers HTTP {code}{reason}{}", status_words(*code, location.as_deref()))]
    Status {
        /// The status.
        code: u16,
        /// A space and its words, if there are any.
        reason: String,
        /// Where it says to go instead, escaped.
        location: Option<String>,
    },
    /// It said yes, and sent a page in the place of the listener's bytes.
    #[error("answers with a web page instead of a connection")]
    Page,
    /// It does not work for everybody.
    #[error("wants a user and a password")]
    LoginWanted,
    /// It does not work for us.
    #[error("does not take this user and password")]
    LoginRefused,
    /// Ways to log in that it offers, escaped.
    #[error("wants a login that farpipe does not have: {0}")]
    LoginUnknown(String),
    /// The reply code of SOCKS 5.
    #[error("answers: {}", socks::words(*.0))]
    Reply(u8),
    /// The last of several failures, one for each address of the listener.
    #[error("{last} (asked for {asked})")]
    ForEach {
        /// The addresses.
        asked: String,
        /// What came of the last.
        last: Box<Self>,
    },
    /// The listener's name cannot be put into a request.
    #[error("cannot be asked: the name {0}")]
    Name(&'static str),
    /// Nor can user and password.
    #[error("cannot be asked: user and password have 1 to 255 bytes each for SOCKS")]
    LoginTooLong,
}

fn looks_like(wanted: &str, seen: &str) -> &'static str {
    if seen.starts_with("HTTP/") && wanted != http::NAME {
        " (it looks like HTTP: write http://)"
    } else if seen.starts_with("\\x05") && wanted != socks::NAME {
        " (it looks like SOCKS 5: write socks5h://)"
    } else if seen.starts_with("farpipe") {
        " (it looks like farpipe itself, not like a proxy)"
    } else {
        ""
    }
}

fn status_words(code: u16, location: Option<&str>) -> String {
    let words = match (code, location) {
        (_, Some(location)) => return format!(" and says to go to {location}"),
        (403, _) => ": it does not allow this host or port",
        (405 | 501, _) => ": it is no proxy for CONNECT",
        (300..400, _) => ": a login page or another server may stand in its place",
        (502..=504, _) => ": what is behind it does not answer",
        _ => "",
    };
    words.to_owned()
}

/// What helps against a page in the place of an answer.
pub const PORTAL: &str = "a network that wants a login first answers so (a captive portal): open \
                                 http://example.com/ in a browser, log in, and try again";

impl ProxyError {
    /// What became of all addresses of a listener that a proxy was asked for.
    pub(crate) fn for_each(mut failed: Vec<(SocketAddr, Option<Self>)>) -> Self {
        let asked: Vec<_> = failed.iter().map(|(a, _)| a.ip().to_string()).collect();
        let last = failed.pop().and_then(|(_, error)| error);
        let last = last.unwrap_or(Self::Silent);
        if asked.len() <= 1 {
            return last;
        }
        Self::ForEach {
            asked: asked.join(", "),
            last: Box::new(last),
        }
    }

    /// How it counts: only a proxy that says that nobody is there says anything about the listener;
    /// all else is the proxy's own trouble. What was answered is final before the first link; what
    /// was cut or not answered at all is tried again, as it is without a proxy.
    pub(crate) fn blame(&self) -> Blame {
        match self {
            Self::Status { code, .. } => match code {
                408 | 429 | 504 => Blame::Cut,
                501 => Blame::Stranger,
                500.. => Blame::Refused,
                _ => Blame::Stranger,
            },
            Self::Reply(reply) => socks::blame(*reply),
            Self::ForEach { last, .. } => last.blame(),
            Self::Unreachable(unreached) if unreached.is_silent() => Blame::Cut,
            Self::Io(_) | Self::Cut | Self::Silent => Blame::Cut,
            Self::Unknown(error) if error.kind() == io::ErrorKind::TimedOut => Blame::Cut,
            Self::Unknown(_)
            | Self::Unreachable(_)
            | Self::Stranger { .. }
            | Self::HeadTooLong
            | Self::Malformed(_)
            | Self::Page
            | Self::LoginWanted
            | Self::LoginRefused
            | Self::LoginUnknown(_) => Blame::Stranger,
            Self::Elsewhere | Self::Name(_) | Self::LoginTooLong => Blame::Final,
        }
    }

    /// Whether another address of the same listener may do better.
    pub(crate) fn is_about_target(&self) -> bool {
        match self {
            Self::Status { code, .. } => matches!(code, 500 | 502..=504),
            Self::Reply(reply) => matches!(reply, 1 | 3..=6 | 8),
            Self::Cut | Self::Silent | Self::Io(_) => true,
            _ => false,
        }
    }

    /// What to do about it that its words do not say already.
    pub(crate) fn advice(&self, proxy: &Proxy) -> Option<String> {
        match self {
            Self::LoginWanted => {
                let (scheme, at) = (proxy.kind.scheme(), &proxy.at);
                Some(format!(
                    "put them into the environment: HTTPS_PROXY={scheme}://USER:PASSWORD@{at}"
                ))
            }
            Self::Page => Some(PORTAL.to_owned()),
            Self::ForEach { last, .. } => last.advice(proxy),
            _ => None,
        }
    }

    /// What most often helps, for somebody who looks for the cause.
    #[must_use]
    pub fn usual_advice(&self) -> Option<String> {
        let advice = match self {
            Self::Unknown(_) => {
                "see that the proxy's host is spelled as it is known: `getent hosts HOST`; and that \
                 --http-proxy, or the variable of the environment, is for this network"
            }
            Self::Unreachable(unreached) if unreached.is_refused() => {
                "nothing listens on the proxy's port: see that host and port are right; 1080 is taken \
                 if none is given, and many have 3128 or 8080"
            }
            Self::Unreachable(_) | Self::Silent => {
                "see that the proxy is up, and its port right; a firewall that drops what it does not \
                 know looks like this, too"
            }
            Self::Io(_) | Self::Cut => {
                "it may refuse this host or port without a word, or not be that kind of proxy: ask \
                 whoever runs it; most allow port 443"
            }
            Self::Elsewhere => {
                "write wss:// or fps://: through a proxy of another host only TLS goes"
            }
            Self::Stranger { .. } | Self::HeadTooLong | Self::Malformed(_) => {
                "another program listens on that port: give the one of a proxy, with the scheme that \
                 it speaks: http://, socks5:// or socks5h://"
            }
            Self::Status {
                location: Some(location),
                ..
            } => return Some(format!("{PORTAL}; the page is {location}")),
            Self::Status { code, .. } => match code {
                300..400 | 511 => PORTAL,
                403 => {
                    "ask whoever runs the proxy to allow it, or listen on port 443, which most allow"
                }
                405 | 501 => "give the URL of a proxy that knows CONNECT",
                500 | 502..=504 => LISTENER,
                _ => "ask whoever runs the proxy: its log says more",
            },
            Self::Page => PORTAL,
            Self::LoginRefused => {
                "see user and password in the variable that names the proxy; what is not a letter or \
                 digit there is written as %XX"
            }
            Self::LoginUnknown(_) => {
                "only user and password (Basic) are known here: ask for such an account, or start a \
                 proxy of your own that logs in to that one"
            }
            Self::Reply(2) => "ask whoever runs the proxy to allow this host and port",
            Self::Reply(1 | 3..=6) => LISTENER,
            Self::Reply(8) => "write socks5h://: then the proxy resolves the name",
            Self::ForEach { last, .. } => return last.usual_advice(),
            Self::Reply(_) | Self::LoginWanted | Self::Name(_) | Self::LoginTooLong => return None,
        };
        Some(advice.to_owned())
    }
}

/// What helps when a proxy says that nobody is there.
const LISTENER: &str = "the proxy works and does not reach the listener: start `farpipe listen` there, and \
                        see that its host and port are right, as the proxy sees them";

/// Bytes from a proxy made fit for a line on a terminal.
fn printable(bytes: &[u8]) -> String {
    /// More fills the screen.
    const MAX: usize = 80;
    bytes[..bytes.len().min(MAX)].escape_ascii().to_string()
}

/// What a proxy says that does not speak `wanted`: `begun` and what comes with it.
async fn stranger<S: AsyncRead + Unpin>(
    stream: &mut S,
    wanted: &'static str,
    begun: &[u8],
) -> ProxyError {
    /// What came together is there at once.
    const PATIENCE: Duration = Duration::from_secs(1);
    /// Enough to tell what it is.
    const SHOWN: usize = 24;
    let mut seen = begun.to_vec();
    let mut more = [0; SHOWN];
    if let Ok(Ok(len)) = tokio::time::timeout(PATIENCE, stream.read(&mut more)).await {
        seen.extend_from_slice(&more[..len]);
    }
    seen.truncate(SHOWN);
    let seen = printable(&seen);
    ProxyError::Stranger { wanted, seen }
}

/// A read that ended too early is a cut.
fn cut(error: io::Error) -> ProxyError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ProxyError::Cut,
        _ => ProxyError::Io(error),
    }
}

#[cfg(test)]
mod tests;
