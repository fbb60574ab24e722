//! TCP under the carriers: addresses, dialling, listening, socket options.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use farpipe_proto::limits::HANDSHAKE_STEP;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};

use crate::acceptor::Acceptor;
use crate::carrier::ws::upgrade::{self, Request, UpgradeError};
use crate::carrier::{Carrier, fp};
use crate::opener::{Blame, DIAL_MAX, Dial, DialError, Dialled};

/// Unacknowledged data on a connection for this long ends it, whatever the heartbeat thinks.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Wait before the next address family is tried as well (RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Connections in the handshake at once. Policy when full: the listener waits to accept.
const HANDSHAKES_MAX: usize = 64;
/// Wait after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Kinds of carrier, known here and in their own files only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// WebSocket on TCP.
    Ws,
    /// farpipe framing on TCP.
    Fp,
}

impl Scheme {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "ws" => Self::Ws,
            "fp" => Self::Fp,
            _ => return None,
        })
    }

    /// The name in a URL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Fp => "fp",
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

/// Where a carrier leads: `ws://HOST:PORT[/PATH]` or `fp://HOST:PORT`.
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
            url: url.to_owned(),
            what,
        };
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(error("not a URL; write ws://HOST:PORT or fp://HOST:PORT"));
        };
        let Some(scheme) = Scheme::from_name(scheme) else {
            return Err(error(match scheme {
                "wss" | "fps" => "TLS is not supported yet; use ws:// or fp:// on loopback",
                _ => "unknown scheme; use ws:// or fp://",
            }));
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        if scheme == Scheme::Fp && path != "/" {
            return Err(error("fp:// has no path"));
        }
        if authority.contains('@') {
            return Err(error("no user or password in a URL"));
        }
        if !path.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(error("the path has characters that must be %-escaped"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6
                    .split_once("]:")
                    .ok_or_else(|| error("no port; write [ADDRESS]:PORT"))?;
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err(error("no IPv6 address between the brackets"));
                }
                (host, port)
            }
            None => authority
                .rsplit_once(':')
                .ok_or_else(|| error("no port; write HOST:PORT"))?,
        };
        if host.is_empty() {
            return Err(error("no host; write HOST:PORT"));
        }
        if host.contains(':') && !authority.starts_with('[') {
            return Err(error("write an IPv6 address in brackets: [ADDRESS]:PORT"));
        }
        let port = port
            .parse()
            .map_err(|_| error("the port is no number from 0 to 65535"))?;
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.name();
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)?;
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)?;
        }
        if self.path == "/" {
            Ok(())
        } else {
            f.write_str(&self.path)
        }
    }
}

impl Url {
    /// The same with another port: what a listener on port 0 really has.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The addresses of the host, each on loopback: without TLS no other is used.
    async fn loopback_addresses(&self) -> Result<Vec<SocketAddr>, DialError> {
        let failed = |blame, why: &dyn fmt::Display| DialError {
            blame,
            message: format!("{self}: the name {} cannot be resolved: {why}", self.host),
            advice: None,
        };
        let looking = tokio::net::lookup_host((self.host.as_str(), self.port));
        let found = tokio::time::timeout(DIAL_MAX, looking)
            .await
            .map_err(|_| failed(Blame::Cut, &"no answer from the resolver"))?
            .map_err(|error| failed(Blame::Refused, &error))?;
        let addresses: Vec<_> = found.collect();
        if let Some(other) = addresses.iter().find(|a| !a.ip().is_loopback()) {
            return Err(DialError {
                blame: Blame::Final,
                message: format!(
                    "{self}: {} is not on this host; without TLS only loopback is allowed",
                    other.ip()
                ),
                advice: None,
            });
        }
        if addresses.is_empty() {
            return Err(DialError {
                blame: Blame::Refused,
                message: format!("{self}: the name {} has no address", self.host),
                advice: None,
            });
        }
        Ok(interleaved(addresses))
    }
}

/// Addresses in the order of RFC 8305 section 4: families in turn, the resolver's first first.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut ours, mut others): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|a| a.is_ipv6() == first_is_v6);
    ours.reverse();
    others.reverse();
    let mut out = Vec::with_capacity(ours.len() + others.len());
    loop {
        match (ours.pop(), others.pop()) {
            (None, None) => return out,
            (a, b) => out.extend(a.into_iter().chain(b)),
        }
    }
}

/// Connects to the first address that answers: the next one is tried when one fails, or after
/// 250 ms beside it.
async fn happy_eyeballs(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut waiting = addresses.iter().copied();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match waiting.next() {
            Some(address) => {
                attempts.spawn(TcpStream::connect(address));
            }
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            Some(attempt) = attempts.join_next() => match attempt {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(join) => return Err(io::Error::other(join)),
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if waiting.len() > 0 => {}
        }
    }
}

/// Options every carrier's socket has. All are hints: a kernel that lacks one is no error.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        let millis = u32::try_from(USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
        let _ = sockopt::set_tcp_user_timeout(stream, millis);
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
}

impl TcpDial {
    /// Dials `url`.
    #[must_use]
    pub fn new(url: Url) -> Self {
        Self { url }
    }

    async fn dial_now(&self) -> Result<Box<dyn Carrier>, DialError> {
        let url = &self.url;
        let fail = |blame, message: String| DialError {
            blame,
            message: format!("{url}: {message}"),
            advice: None,
        };
        let addresses = url.loopback_addresses().await?;
        let stream = match tokio::time::timeout(DIAL_MAX, happy_eyeballs(&addresses)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(DialError {
                    advice: Some(format!("start `farpipe listen {url}` first")),
                    ..fail(Blame::Refused, "nothing listens there".to_owned())
                });
            }
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset => {
                return Err(fail(Blame::Reset, format!("cannot connect: {e}")));
            }
            Ok(Err(e)) => return Err(fail(Blame::Refused, format!("cannot connect: {e}"))),
            Err(_) => {
                return Err(fail(
                    Blame::Cut,
                    format!("no answer within {} s", DIAL_MAX.as_secs()),
                ));
            }
        };
        tune(&stream);
        match url.scheme {
            Scheme::Fp => Ok(Box::new(fp::start(stream))),
            Scheme::Ws => {
                let host = url.host_header();
                let request = Request {
                    host: &host,
                    path: &url.path,
                    headers: &[],
                };
                match tokio::time::timeout(HANDSHAKE_STEP, upgrade::connect(stream, request)).await
                {
                    Ok(Ok(carrier)) => Ok(Box::new(carrier)),
                    Ok(Err(error)) => Err(fail(Blame::from(&error), error.to_string())),
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

impl Url {
    fn host_header(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
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

/// Why listening is not possible.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {url}: {what}")]
pub struct ListenError {
    url: Url,
    what: String,
}

/// A listening socket for one URL.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    url: Url,
}

impl Listener {
    /// Binds; port 0 picks a free one, which [`Listener::url`] tells.
    ///
    /// # Errors
    /// [`ListenError`]: not loopback, in use, not permitted, not resolvable.
    pub async fn bind(url: Url) -> Result<Self, ListenError> {
        let fail = |what: String| ListenError {
            url: url.clone(),
            what,
        };
        let addresses = url.loopback_addresses().await.map_err(|e| {
            fail(match e.blame {
                Blame::Final => "without TLS only loopback addresses are allowed".to_owned(),
                _ => e.message,
            })
        })?;
        let listener =
            TcpListener::bind(addresses.as_slice())
                .await
                .map_err(|e| match e.kind() {
                    io::ErrorKind::AddrInUse => fail(format!(
                        "another process listens on port {}; choose another, or 0 for any",
                        url.port
                    )),
                    io::ErrorKind::PermissionDenied => fail(format!(
                        "port {} needs privileges; choose one above 1023",
                        url.port
                    )),
                    _ => fail(e.to_string()),
                })?;
        let port = listener
            .local_addr()
            .map_err(|e| fail(e.to_string()))?
            .port();
        Ok(Self {
            listener,
            url: url.with_port(port),
        })
    }

    /// What to give to `connect`.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Accepts connections for ever and hands them to `acceptor`.
    ///
    /// # Cancellation
    /// Dropping it closes the socket and every connection still in its handshake; sessions go on.
    pub async fn serve(self, acceptor: Arc<Acceptor>) {
        let mut handshakes = JoinSet::new();
        loop {
            while handshakes.len() >= HANDSHAKES_MAX {
                log_panic(handshakes.join_next().await);
            }
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        handshakes.spawn(handshake(
                            stream,
                            from,
                            self.url.scheme,
                            Arc::clone(&acceptor),
                        ));
                    }
                    Err(error) => {
                        // EMFILE and the like pass; one broken connection is no reason to stop.
                        tracing::warn!("cannot accept a connection: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = handshakes.join_next() => log_panic(Some(ended)),
            }
        }
    }
}

/// One connection's handshake must not take the listener down with it, but a bug is to be seen.
fn log_panic(ended: Option<Result<(), JoinError>>) {
    if let Some(Err(error)) = ended {
        tracing::error!("a connection's handshake failed: {error}");
    }
}

async fn handshake(stream: TcpStream, from: SocketAddr, scheme: Scheme, acceptor: Arc<Acceptor>) {
    tune(&stream);
    let peer = from.to_string();
    if !from.ip().is_loopback() {
        tracing::warn!("{peer}: not on this host, refused");
        return;
    }
    let carrier = async {
        let carrier: Box<dyn Carrier> = match scheme {
            Scheme::Fp => Box::new(fp::start(stream)),
            Scheme::Ws => Box::new(upgrade::accept(stream).await?),
        };
        Ok(carrier)
    };
    if let Err(error) = acceptor.serve(carrier, peer.clone()).await {
        tracing::info!("{peer}: {error}");
    }
}
