//! Proxies on the way to a listener: which one the environment names, and how it is asked.
//!
//! A proxy is asked for one connection and then passes bytes: TLS lies on top of it, end to end, and
//! the proxy sees none of what is in it. What always holds: not one byte that comes behind a proxy's
//! answer is taken from the stream, for it is the listener's; and no password is ever shown.

mod http;
mod socks;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use farpipe_proto::limits::HANDSHAKE_STEP;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use crate::host_port::{HostPort, HostPortError};
use crate::opener::Blame;
use crate::tcp::Url;
use farpipe_proto::limits::HTTP_HEAD_MAX;

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
    /// [`ProxyUrlError`], with the name of the variable.
    pub fn from_environment(
        url: &Url,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, ProxyUrlError> {
        let first = |names: &[&'static str]| {
            let mut set = names
                .iter()
                .filter_map(|name| Some((*name, variable(name)?)));
            set.find(|(_, value)| !value.is_empty())
        };
        if !url.scheme.is_tls() || is_here(&url.host) {
            return Ok(None);
        }
        let Some((name, value)) = first(&VARIABLES) else {
            return Ok(None);
        };
        if first(&EXCEPTIONS).is_some_and(|(_, hosts)| excepts(&hosts, &url.host)) {
            return Ok(None);
        }
        let proxy = value.parse().map_err(|error| ProxyUrlError {
            variable: Some(name),
            ..error
        })?;
        Ok(Some(proxy))
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

    /// Whether it wants addresses, not names.
    pub(crate) fn wants_address(&self) -> bool {
        self.kind == Kind::Socks5
    }

    /// Asks it, on a fresh connection to it, for one to `to`. Gives up after 10 s. Whatever comes
    /// behind its answer is still to be read.
    pub(crate) async fn ask<S>(&self, stream: &mut S, to: &HostPort) -> Result<(), ProxyError>
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

/// Why a proxy gave no connection. Words go behind "the proxy URL ".
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    /// There was no asking it.
    #[error("cannot be reached: {0}")]
    Unreachable(io::Error),
    /// The same, and no answer at all.
    #[error("cannot be reached: no answer within {} s", HANDSHAKE_STEP.as_secs())]
    Away,
    /// It would carry unencrypted data off this host.
    #[error("is not on this host; without TLS only loopback is allowed")]
    Elsewhere,
    #[error("broke the connection before it answered: {0}")]
    Io(#[from] io::Error),
    #[error("ended the connection before it answered")]
    Cut,
    #[error("did not answer within {} s", HANDSHAKE_STEP.as_secs())]
    Silent,
    #[error(
        "does not speak {wanted}: it began with \"{seen}\"{}",
        looks_like(wanted, seen)
    )]
    Stranger {
        wanted: &'static str,
        /// Its first bytes, escaped.
        seen: String,
    },
    #[error("answers with an HTTP header longer than {} KiB", HTTP_HEAD_MAX >> 10)]
    HeadTooLong,
    #[error("answers with a malformed HTTP header: {0}")]
    Malformed(httparse::Error),
    /// Its status and reason, escaped.
    #[error("answers HTTP {code}{reason}{}", status_words(*code))]
    Status { code: u16, reason: String },
    #[error("wants a user and a password")]
    LoginWanted,
    #[error("does not take this user and password")]
    LoginRefused,
    /// Ways to log in that it offers, escaped.
    #[error("wants a login that farpipe does not have: {0}")]
    LoginUnknown(String),
    /// The reply code of SOCKS 5.
    #[error("answers: {}", socks::words(*.0))]
    Reply(u8),
    #[error("cannot be asked: the name {0}")]
    Name(&'static str),
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

fn status_words(code: u16) -> &'static str {
    match code {
        403 => ": it does not allow this host or port",
        405 | 501 => ": it is no proxy for CONNECT",
        300..400 => ": a login page or another server may stand in its place",
        502..=504 => ": what is behind it does not answer",
        _ => "",
    }
}

impl ProxyError {
    /// How it counts: only a proxy that says that nobody is there says anything about the listener;
    /// all else is the proxy's own trouble, final before the first link.
    pub(crate) fn blame(&self) -> Blame {
        match self {
            Self::Status { code, .. } => match code {
                408 | 429 | 504 => Blame::Cut,
                501 => Blame::Stranger,
                500.. => Blame::Refused,
                _ => Blame::Stranger,
            },
            Self::Reply(reply) => socks::blame(*reply),
            Self::Away | Self::Io(_) | Self::Cut | Self::Silent => Blame::Cut,
            Self::Unreachable(_)
            | Self::Stranger { .. }
            | Self::HeadTooLong
            | Self::Malformed(_)
            | Self::LoginWanted
            | Self::LoginRefused
            | Self::LoginUnknown(_) => Blame::Stranger,
            Self::Elsewhere | Self::Name(_) | Self::LoginTooLong => Blame::Final,
        }
    }

    /// What to do about it.
    pub(crate) fn advice(&self, proxy: &Proxy) -> Option<String> {
        match self {
            Self::LoginWanted => {
                let (scheme, at) = (proxy.kind.scheme(), &proxy.at);
                Some(format!(
                    "put them into the environment: HTTPS_PROXY={scheme}://USER:PASSWORD@{at}"
                ))
            }
            _ => None,
        }
    }
}

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
