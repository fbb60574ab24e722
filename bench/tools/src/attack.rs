//! Strangers who attack a door on this host: `farpipe-bench attack KIND HOST:PORT SECONDS RATE HELD`, which
//! `flood` runs as a process of its own so that its CPU can be told from the relay's. They come from
//! 127.0.0.2 and on, never leave this host, and end after SECONDS.

use std::io::{ErrorKind, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use serde_json::json;
use socket2::{Domain, Socket, Type};

/// Addresses that strangers come from.
const SOURCES: u64 = 8;
/// Strangers that speak at once, of those who do.
const SPEAKERS: usize = 16;
/// A stranger that is not answered tries anew.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at the connections that are held.
const LOOK: Duration = Duration::from_millis(5);

/// What strangers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Say nothing, as many as are held at once.
    Silent,
    /// Speak TLS and show no certificate, as fast as they are let.
    Tls,
    /// Connect and reset at once.
    Reset,
    /// Speak TLS, then half the head of an HTTP request, and wait.
    Heads,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Silent, Self::Tls, Self::Reset, Self::Heads];

    pub fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Tls => "tls",
            Self::Reset => "reset",
            Self::Heads => "heads",
        }
    }

    pub fn named(name: &str) -> Result<Self> {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == name);
        kind.with_context(|| format!("no attack {name}: silent, tls, reset, heads"))
    }
}

/// What all strangers of a process share.
struct Attack {
    at: SocketAddr,
    until: Instant,
    began: Instant,
    /// Connections a second, at most.
    rate: u64,
    tried: AtomicU64,
    shaken: AtomicU64,
    turned_away: AtomicU64,
}

/// Prints one JSON object: connections tried, handshakes of TLS that the relay did its part of, and
/// connections that it closed.
pub fn run(kind: &str, at: &str, seconds: &str, rate: &str, held: usize) -> Result<()> {
    let began = Instant::now();
    let at: SocketAddr = at.parse()?;
    ensure!(at.ip().is_loopback(), "{at} is not on this host");
    let attack = Attack {
        at,
        until: began + Duration::from_secs_f64(seconds.parse()?),
        began,
        rate: rate.parse()?,
        tried: AtomicU64::new(0),
        shaken: AtomicU64::new(0),
        turned_away: AtomicU64::new(0),
    };
    match Kind::named(kind)? {
        Kind::Silent => attack.hold(held),
        Kind::Reset => attack.reset(),
        Kind::Tls => attack.speak(0),
        Kind::Heads => attack.speak(held / SPEAKERS),
    }
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    println!(
        "{}",
        json!({
            "tried": count(&attack.tried),
            "shaken": count(&attack.shaken),
            "turned_away": count(&attack.turned_away),
        })
    );
    Ok(())
}

impl Attack {
    /// Waits for the next one's turn; `None` at the end.
    fn turn(&self) -> Option<u64> {
        let number = self.tried.fetch_add(1, Ordering::Relaxed);
        let due = self.began + Duration::from_secs_f64(number as f64 / self.rate as f64);
        if due.max(Instant::now()) >= self.until {
            self.tried.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        Some(number)
    }

    fn socket(&self, number: u64) -> std::io::Result<Socket> {
        let source = Ipv4Addr::new(127, 0, 0, 2 + (number % SOURCES) as u8);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        Ok(socket)
    }

    /// A connection that does not wait until it is accepted.
    fn begun(&self, number: u64) -> std::io::Result<Socket> {
        let socket = self.socket(number)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&self.at.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error),
            _ => Ok(socket),
        }
    }

    fn hold(&self, held_max: usize) {
        let mut held: Vec<Socket> = Vec::new();
        let mut looked = Instant::now();
        while Instant::now() < self.until {
            if held.len() < held_max
                && let Some(number) = self.turn()
            {
                held.extend(self.begun(number));
            }
            if looked.elapsed() >= LOOK || held.len() >= held_max {
                thread::sleep(LOOK);
                let before = held.len();
                held.retain(is_open);
                let gone = (before - held.len()) as u64;
                self.turned_away.fetch_add(gone, Ordering::Relaxed);
                looked = Instant::now();
            }
        }
    }

    fn reset(&self) {
        while let Some(number) = self.turn() {
            // Descriptors are given back at once; a failed one is the next one's gain.
            if let Ok(socket) = self.begun(number) {
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
        }
    }

    fn speak(&self, held_max: usize) {
        let config = Arc::new(careless());
        thread::scope(|scope| {
            for _ in 0..SPEAKERS {
                scope.spawn(|| {
                    let mut held = std::collections::VecDeque::new();
                    while let Some(number) = self.turn() {
                        let Ok(stream) = self.spoken(number, &config, held_max > 0) else {
                            self.turned_away.fetch_add(1, Ordering::Relaxed);
                            continue;
                        };
                        held.push_back(stream);
                        if held.len() > held_max {
                            held.pop_front();
                        }
                    }
                });
            }
        });
    }

    /// Through TLS; with half a head behind it, or until the relay has found that there is no certificate.
    fn spoken(
        &self,
        number: u64,
        config: &Arc<ClientConfig>,
        says_half: bool,
    ) -> Result<TcpStream> {
        let socket = self.socket(number)?;
        socket.connect_timeout(&self.at.into(), PATIENCE)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from("127.0.0.1")?;
        let mut tls = ClientConnection::new(Arc::clone(config), name)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut stream)?;
        }
        // The client is done once the server has sent its certificate and signature.
        self.shaken.fetch_add(1, Ordering::Relaxed);
        if says_half {
            let head = b"GET / HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nX-";
            tls.writer().write_all(head)?;
            tls.complete_io(&mut stream)?;
            return Ok(stream);
        }
        while tls.wants_write() {
            tls.write_tls(&mut stream)?;
        }
        let mut rest = [0; 1024];
        while stream.read(&mut rest)? > 0 {}
        Ok(stream)
    }
}

/// Whether nobody has closed it.
fn is_open(socket: &Socket) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    match socket.recv(&mut byte) {
        Ok(len) => len > 0,
        Err(error) => matches!(
            error.kind(),
            ErrorKind::WouldBlock | ErrorKind::NotConnected
        ),
    }
}

/// Takes any certificate: an attacker spends nothing on it.
fn careless() -> ClientConfig {
    ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Careless))
        .with_no_client_auth()
}

#[derive(Debug)]
struct Careless;

impl ServerCertVerifier for Careless {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA256,
        ]
    }
}
