//! TCP under the carriers: addresses, dialling, socket options; listening is in `tcp/listen.rs`.

mod listen;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use farpipe_proto::limits::HANDSHAKE_STEP;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::carrier::ws::upgrade::{self, Request, UpgradeError};
use crate::carrier::{Carrier, fp};
use crate::checkup::{Seen, Watch};
use crate::host_port::{HostPort, HostPortError};
use crate::opener::{Blame, Dial, DialError, Dialled};
use crate::proxy::{Asking, Granted, Proxy, ProxyError};
use crate::reach::{happy_eyeballs, resolve};
use crate::redact::redacted_url;
use crate::tls::{Alpn, PeerIdentity, TlsClient, TlsError};

pub use listen::{ListenError, Listener, ProxyBefore};

/// Unacknowledged data on a connection for this long ends it, whatever the heartbeat thinks.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Kinds of carrier, known here and in their own files only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// WebSocket on TCP.
    Ws,
    /// WebSocket on TLS.
    Wss,
    /// farpipe framing on TCP.
    Fp,
    /// farpipe framing on TLS.
    Fps,
}

/// How messages are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frames {
    WebSocket,
    Farpipe,
}

impl Scheme {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "ws" => Self::Ws,
            "wss" => Self::Wss,
            "fp" => Self::Fp,
            "fps" => Self::Fps,
            _ => return None,
        })
    }

    /// The name in a URL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Fp => "fp",
            Self::Fps => "fps",
        }
    }

    /// Whether TLS lies under it. One without stays on loopback.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        match self {
            Self::Ws | Self::Fp => false,
            Self::Wss | Self::Fps => true,
        }
    }

    /// Whether it begins with an HTTP upgrade.
    #[must_use]
    pub const fn is_web_socket(self) -> bool {
        matches!(self.frames(), Frames::WebSocket)
    }

    /// What TLS is told that lies on it.
    #[must_use]
    pub const fn alpn(self) -> Alpn {
        Alpn(match self.frames() {
            Frames::WebSocket => "http/1.1",
            Frames::Farpipe => "farpipe/1",
        })
    }

    const fn frames(self) -> Frames {
        match self {
            Self::Ws | Self::Wss => Frames::WebSocket,
            Self::Fp | Self::Fps => Frames::Farpipe,
        }
    }
}

/// Why a URL is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url}: {what}")]
pub struct UrlError {
    url: String,
    what: &'static str,
}

/// Where a carrier leads: `ws://HOST:PORT[/PATH]` or `fp://HOST:PORT`; with TLS `wss` and `fps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Kind of carrier.
    pub scheme: Scheme,
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path of the upgrade request, from `/`.
    pub path: String,
}

impl std::str::FromStr for Url {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let error = |what| UrlError {
            url: redacted_url(url),
            what,
        };
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(error("not a URL; write wss://HOST:PORT or ws://HOST:PORT"));
        };
        let Some(scheme) = Scheme::from_name(scheme) else {
            return Err(error(
                "unknown scheme; use wss:// or fps://, or ws:// or fp:// on loopback",
            ));
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        if scheme.frames() == Frames::Farpipe && path != "/" {
            return Err(error("fp:// and fps:// have no path"));
        }
        if authority.contains('@') {
            return Err(error("no user or password in a URL"));
        }
        if !path.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(error("the path has characters that must be %-escaped"));
        }
        let HostPort { host, port } = authority
            .parse()
            .map_err(|e: HostPortError| error(e.why()))?;
        Ok(Self {
            scheme,
            host,
            port,
            path: path.to_owned(),
        })
    }
}

/// For people: without what its query has of secrets. [`Url::revealed`] has all.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted_url(&self.revealed()))
    }
}

impl Url {
    /// The same with another port: what a listener on port 0 really has.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// As it was typed: what dials it, in a command for another host.
    #[must_use]
    pub fn revealed(&self) -> String {
        let scheme = self.scheme.name();
        let path = if self.path == "/" { "" } else { &self.path };
        format!("{scheme}://{}{path}", self.host_port())
    }

    fn host_port(&self) -> HostPort {
        HostPort {
            host: self.host.clone(),
            port: self.port,
        }
    }

    /// The addresses of the host; each on loopback, where there is no TLS.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, DialError> {
        let addresses = resolve(&self.host, self.port).await;
        let addresses = addresses.map_err(|error| DialError {
            blame: match error.kind() {
                io::ErrorKind::TimedOut => Blame::Cut,
                _ => Blame::Refused,
            },
            message: format!("{self}: the name {} cannot be resolved: {error}", self.host),
            advice: None,
        })?;
        let elsewhere = addresses.iter().find(|a| !a.ip().is_loopback());
        if let Some(other) = elsewhere.filter(|_| !self.scheme.is_tls()) {
            return Err(DialError {
                blame: Blame::Final,
                message: format!(
                    "{self}: {} is not on this host; without TLS only loopback is allowed",
                    other.ip()
                ),
                advice: None,
            });
        }
        Ok(addresses)
    }
}

/// Connects to whichever address of `to` answers first (RFC 8305), within 10 s, and tunes the
/// socket. For connections that are no carriers: any host will do.
///
/// # Cancellation
/// Dropping it closes what was begun.
///
/// # Errors
/// The name's, or each address's.
pub async fn connect(to: &HostPort) -> io::Result<TcpStream> {
    let addresses = resolve(&to.host, to.port).await?;
    let stream = happy_eyeballs(&addresses).await?;
    tune(&stream);
    Ok(stream)
}

/// Options every carrier's socket has.
pub(crate) fn tune_carrier(stream: &TcpStream) {
    tune(stream);
    #[cfg(target_os = "linux")]
    {
        let millis = u32::try_from(USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
        let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, millis);
    }
}

/// Options every socket has. All are hints: a kernel that lacks one is no error.
pub fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        let loopback = stream.peer_addr().is_ok_and(|a| a.ip().is_loopback());
        if loopback {
            // A pacing algorithm such as bbr costs 10 to 40 % where there is nothing to pace.
            let _ = sockopt::set_tcp_congestion(stream, "reno")
                .or_else(|_| sockopt::set_tcp_congestion(stream, "cubic"));
        }
    }
}

/// Dials a URL.
#[derive(Debug, Clone)]
pub struct TcpDial {
    url: Url,
    tls: Option<Arc<TlsClient>>,
    watch: Option<Watch>,
    proxy: Option<Proxy>,
}

impl TcpDial {
    /// Dials `url`, which needs no TLS.
    ///
    /// # Panics
    /// If it does: such a URL is for [`TcpDial::tls`].
    #[must_use]
    pub fn new(url: Url) -> Self {
        assert!(!url.scheme.is_tls(), "no TLS was given for {url}");
        Self {
            url,
            tls: None,
            watch: None,
            proxy: None,
        }
    }

    /// Dials `url` with TLS. What TLS remembers is shared by all that dial with it.
    ///
    /// # Panics
    /// If there is no TLS under the URL's scheme: what was meant to be secret would not be.
    #[must_use]
    pub fn tls(url: Url, tls: Arc<TlsClient>) -> Self {
        assert!(url.scheme.is_tls(), "{url} has no TLS");
        Self {
            url,
            tls: Some(tls),
            watch: None,
            proxy: None,
        }
    }

    /// The same with somebody who is told what it meets.
    #[must_use]
    pub fn watched(mut self, watch: Watch) -> Self {
        self.watch = Some(watch);
        self
    }

    fn see(&self, seen: Seen<'_>) {
        if let Some(watch) = &self.watch {
            watch.see(seen);
        }
    }

    /// The same through `proxy`, if there is one. Without TLS both must be on this host.
    #[must_use]
    pub fn through(mut self, proxy: Option<Proxy>) -> Self {
        self.proxy = proxy;
        self
    }

    fn failed(&self, blame: Blame, message: String) -> DialError {
        DialError {
            blame,
            message: format!("{}: {message}", self.url),
            advice: None,
        }
    }

    /// A connection to the listener itself.
    async fn connect(&self) -> Result<TcpStream, DialError> {
        let url = &self.url;
        let fail = |blame, message| self.failed(blame, message);
        let addresses = url.addresses().await?;
        self.see(Seen::Resolved(&addresses));
        let unreached = match happy_eyeballs(&addresses).await {
            Ok(stream) => return Ok(stream),
            Err(unreached) => unreached,
        };
        let tried = unreached.tried(&url.host);
        if unreached.is_refused() {
            return Err(DialError {
                advice: Some(format!("start `farpipe listen {url}` first")),
                ..fail(Blame::Refused, format!("nothing listens there{tried}"))
            });
        }
        // What did not answer, or was cut, may be back in a moment.
        let blame = match (unreached.is_silent(), unreached.is_reset()) {
            (true, _) => Blame::Cut,
            (false, true) => Blame::Reset,
            (false, false) => Blame::Refused,
        };
        // Several addresses are in there already.
        let tried = if addresses.len() == 1 { &tried } else { "" };
        Err(fail(blame, format!("cannot connect: {unreached}{tried}")))
    }

    fn proxy_failed(&self, proxy: &Proxy, error: &ProxyError) -> DialError {
        self.see(Seen::NoProxy(error));
        DialError {
            advice: error.advice(proxy),
            ..self.failed(error.blame(), format!("the proxy {proxy} {error}"))
        }
    }

    /// A connection to the listener by way of `proxy`.
    async fn connect_through(&self, proxy: &Proxy) -> Result<(TcpStream, Granted), DialError> {
        let url = &self.url;
        let failed = |error| self.proxy_failed(proxy, &error);
        let targets = if proxy.resolves(url) {
            None
        } else {
            let addresses = url.addresses().await?;
            self.see(Seen::Resolved(&addresses));
            Some(addresses)
        };
        let at = proxy.at();
        let addresses = resolve(&at.host, at.port).await;
        let addresses = addresses.map_err(|error| failed(ProxyError::Unknown(error)))?;
        if !url.scheme.is_tls() && addresses.iter().any(|a| !a.ip().is_loopback()) {
            return Err(failed(ProxyError::Elsewhere));
        }
        self.see(Seen::ProxyResolved {
            host: &at.host,
            addresses: &addresses,
        });
        let asking = Asking {
            proxy: proxy.clone(),
            addresses,
            watch: self.watch.clone(),
        };
        let asked = match targets {
            None => asking.ask(&url.host_port()).await,
            Some(targets) => asking.ask_for_each(&targets).await,
        };
        let (stream, granted) = asked.map_err(failed)?;
        self.see(Seen::ProxyGranted(&granted));
        Ok((stream, granted))
    }

    async fn dial_now(&self) -> Result<Box<dyn Carrier>, DialError> {
        let Some(proxy) = &self.proxy else {
            let stream = self.connect().await?;
            tune_carrier(&stream);
            if let Ok(address) = stream.peer_addr() {
                self.see(Seen::Connected(address));
            }
            return self.carrier_on(stream).await;
        };
        let (stream, granted) = self.connect_through(proxy).await?;
        let dialled = self.carrier_on(stream).await;
        dialled.map_err(|error| match error.blame {
            // A yes whose page was sent instead of what the listener says.
            Blame::Refused | Blame::Stranger if granted.is_page => {
                self.proxy_failed(proxy, &ProxyError::Page)
            }
            _ => error,
        })
    }

    /// The carrier on a connection that leads to the listener.
    async fn carrier_on(&self, stream: TcpStream) -> Result<Box<dyn Carrier>, DialError> {
        let url = &self.url;
        let fail = |blame, message| self.failed(blame, message);
        let Some(tls) = &self.tls else {
            return self.carrier(stream, None).await;
        };
        match tokio::time::timeout(HANDSHAKE_STEP, tls.connect(stream, &url.host)).await {
            Ok(Ok((stream, told))) => {
                tracing::info!("{url}: {told}");
                self.see(Seen::Secured(&told));
                self.carrier(stream, told.peer).await
            }
            Ok(Err(error)) => {
                self.see(Seen::NoTls(&error));
                Err(fail(tls_blame(&error), tls_words(&error)))
            }
            Err(_) => Err(fail(
                Blame::Cut,
                format!("no TLS handshake within {} s", HANDSHAKE_STEP.as_secs()),
            )),
        }
    }

    /// The carrier on a connection whose transport is up.
    async fn carrier<S: Transport>(
        &self,
        stream: S,
        peer: Option<PeerIdentity>,
    ) -> Result<Box<dyn Carrier>, DialError> {
        let url = &self.url;
        let fail = |blame, message| self.failed(blame, message);
        match url.scheme.frames() {
            Frames::Farpipe => Ok(Box::new(fp::start(stream).with_peer(peer))),
            Frames::WebSocket => {
                let host = url.host_port().to_string();
                let request = Request {
                    host: &host,
                    path: &url.path,
                    headers: &[],
                };
                match tokio::time::timeout(HANDSHAKE_STEP, upgrade::connect(stream, request)).await
                {
                    Ok(Ok(carrier)) => {
                        self.see(Seen::Upgraded);
                        Ok(Box::new(carrier.with_peer(peer)))
                    }
                    // In TLS 1.3 a server judges the client's certificate when the client is done.
                    Ok(Err(UpgradeError::Io(error))) if TlsError::of(&error).is_some() => {
                        self.see(Seen::NoTls(&error));
                        Err(fail(tls_blame(&error), tls_words(&error)))
                    }
                    Ok(Err(error)) => {
                        self.see(Seen::NoUpgrade(&error));
                        Err(fail(Blame::from(&error), error.to_string()))
                    }
                    Err(_) => Err(fail(
                        Blame::Cut,
                        format!(
                            "no answer to the upgrade within {} s",
                            HANDSHAKE_STEP.as_secs()
                        ),
                    )),
                }
            }
        }
    }
}

/// What a carrier can stand on.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug + 'static> Transport for S {}

/// How a failed TLS handshake counts: a refused certificate is final, a cut is a cut, other failures
/// are the wrong server.
fn tls_blame(error: &io::Error) -> Blame {
    match TlsError::of(error) {
        Some(error) if error.is_final() => Blame::Final,
        Some(error) if error.is_cut() => Blame::Reset,
        Some(_) => Blame::Refused,
        None if error.kind() == io::ErrorKind::InvalidInput => Blame::Final,
        None => Blame::Reset,
    }
}

fn tls_words(error: &io::Error) -> String {
    match TlsError::of(error) {
        Some(error) => error.to_string(),
        None => format!("the connection broke during the TLS handshake: {error}"),
    }
}

/// A proxy's error, or a server's own, is nobody there; another answer is another program's; a cut
/// is a cut.
impl From<&UpgradeError> for Blame {
    fn from(error: &UpgradeError) -> Self {
        match error {
            UpgradeError::Status(answer) if answer.from_proxy || answer.code >= 500 => {
                Self::Refused
            }
            UpgradeError::Io(_) | UpgradeError::Cut => Self::Reset,
            UpgradeError::Silent => Self::Cut,
            UpgradeError::Status(_)
            | UpgradeError::NotHttp { .. }
            | UpgradeError::HeadTooLong
            | UpgradeError::Malformed(_)
            | UpgradeError::NotWebSocket(_)
            | UpgradeError::NotFarpipe { .. }
            | UpgradeError::Refused { .. } => Self::Stranger,
        }
    }
}

impl Dial for TcpDial {
    fn dial(&self) -> Dialled<'_> {
        Box::pin(self.dial_now())
    }

    fn peer(&self) -> String {
        self.url.to_string()
    }
}

#[cfg(test)]
mod tests;
