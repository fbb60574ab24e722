//! What each side is told about TLS, and the connections it makes of it.
//!
//! Certificates are always verified; there is nothing to switch it off. TLS 1.3 only. Both sides
//! remember sessions, so that a reconnect costs no certificates and no signatures; what they remember
//! lives and dies with the configuration that verified it, so a changed file begins anew.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farpipe_proto::limits::TLS_SESSIONS_MAX;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ClientSessionMemoryCache, Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};

use super::buffer::Buffers;
use super::dates::{Concern, Dates, now, span};
use super::error::{Peer, TlsError};
use super::files::{FileError, KeyFiles, SelfSigned, authorities};
use super::identity::PeerIdentity;
use super::judge::{ClientJudge, ServerJudge, Shown, expired_list};
use super::machine::{Agreed, Machine};
use super::reload::Reloading;
use super::revocation::Lists;
use super::shake::shake;
use super::stream::TlsStream;
use super::verify::{Pin, PinVerifier};
use crate::clock::WallClock;

/// What an accepting side is told.
#[derive(Debug, Clone)]
pub struct ServerTlsOptions {
    /// Its certificate and key.
    pub identity: KeyFiles,
    /// Authorities of clients. Without one no client certificate is asked for.
    pub ca: Option<PathBuf>,
    /// Revocation lists, one of each authority that issues: then a client whose certificate is in
    /// one, or whose authority has none there that is in date, is refused.
    pub crl: Option<PathBuf>,
    /// Whether a client without a certificate is refused; without `ca` it means nothing.
    pub client_auth: ClientAuth,
    /// What dates are compared with.
    pub clock: WallClock,
}

/// Whether clients must have a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Or they are refused.
    Required,
    /// One that they show must be good.
    Optional,
}

/// What a dialling side is told.
#[derive(Debug, Clone, Default)]
pub struct ClientTlsOptions {
    /// Its certificate and key, where the server wants one.
    pub identity: Option<KeyFiles>,
    /// Authorities of servers; `None`: those the system trusts.
    pub ca: Option<PathBuf>,
    /// Revocation lists of those authorities, as [`ServerTlsOptions::crl`]; means nothing for a pin.
    pub crl: Option<PathBuf>,
    /// The keys that are good, if not empty: then no authority is asked.
    pub pins: Vec<Pin>,
    /// What dates are compared with.
    pub clock: WallClock,
}

/// Why TLS cannot be configured as was said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A file is missing, open to others, or not what it should be.
    #[error(transparent)]
    File(#[from] FileError),
    /// The system names no authorities.
    #[error("the system has no certificate authorities ({0})")]
    NoSystemRoots(String),
    /// rustls refuses the combination.
    #[error("TLS cannot be configured: {0}")]
    Rustls(#[from] rustls::Error),
    /// No verifier can be made of the authorities.
    #[error("the authorities cannot be used: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl TlsConfigError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::File(error) => error.hint(),
            Self::NoSystemRoots(_) => Some("name the server's authority with --ca"),
            Self::Rustls(_) | Self::Verifier(_) => None,
        }
    }
}

/// The protocol inside TLS, told by ALPN: another one is refused in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alpn(pub &'static str);

/// What a handshake has told of the peer.
#[derive(Debug, Clone)]
pub struct Handshaken {
    /// Who it is, if it showed a certificate.
    pub peer: Option<PeerIdentity>,
    /// Its certificate, DER, if it showed one: [`CertificateFacts`] reads it.
    ///
    /// [`CertificateFacts`]: super::CertificateFacts
    pub certificate: Option<Vec<u8>>,
    /// Whether an earlier session was taken up again.
    pub resumed: bool,
}

/// The accepting side of TLS.
#[derive(Debug)]
pub struct TlsServer {
    shows: Shows,
    alpn: Alpn,
    side: Reloading<ServerSide>,
    buffers: Buffers,
}

/// What an accepting side shows, and whom it asks for what.
#[derive(Debug)]
enum Shows {
    Files(ServerTlsOptions),
    /// To clients that have its pin; they are asked for no certificate.
    SelfSigned(SelfSigned),
}

impl Shows {
    fn side(&self, alpn: Alpn) -> Result<ServerSide, TlsConfigError> {
        match self {
            Self::Files(options) => ServerSide::new(options, alpn),
            Self::SelfSigned(own) => Ok(ServerSide::self_signed(own, alpn)?),
        }
    }
}

/// What handshakes are made of, until a file changes; with it go the sessions it remembers.
#[derive(Debug)]
pub(super) struct ServerSide {
    provider: Arc<CryptoProvider>,
    own: Arc<SingleCertAndKey>,
    /// Judges clients, if they are asked for certificates.
    clients: Option<Arc<dyn ClientCertVerifier>>,
    /// Until when the revocation lists may be relied on.
    lists_until: Option<UnixTime>,
    sessions: Arc<dyn StoresServerSessions>,
    alpn: Alpn,
    clock: WallClock,
}

impl ServerSide {
    pub(super) fn new(options: &ServerTlsOptions, alpn: Alpn) -> Result<Self, TlsConfigError> {
        let provider = provider();
        let own = options.identity.load(&provider)?;
        let now = now(&options.clock);
        options.identity.warn(&own, now);
        let mut side = Self::showing(own, provider, alpn, options.clock.clone());
        if let Some(ca) = &options.ca {
            let roots = Arc::new(authorities(ca)?);
            let lists = revocation_lists(options.crl.as_deref(), now)?;
            side.lists_until = lists.until();
            let provider = Arc::clone(&side.provider);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .with_crls(lists.lists)
                .enforce_revocation_expiration();
            let verifier = match options.client_auth {
                ClientAuth::Required => verifier,
                ClientAuth::Optional => verifier.allow_unauthenticated(),
            };
            side.clients = Some(verifier.build()?);
        }
        Ok(side)
    }

    fn self_signed(own: &SelfSigned, alpn: Alpn) -> Result<Self, rustls::Error> {
        let provider = provider();
        let own = own.certified(&provider)?;
        Ok(Self::showing(own, provider, alpn, WallClock::System))
    }

    fn showing(
        own: Arc<CertifiedKey>,
        provider: Arc<CryptoProvider>,
        alpn: Alpn,
        clock: WallClock,
    ) -> Self {
        Self {
            provider,
            own: Arc::new(SingleCertAndKey::from(own)),
            clients: None,
            lists_until: None,
            sessions: ServerSessionMemoryCache::new(TLS_SESSIONS_MAX),
            alpn,
            clock,
        }
    }

    /// The configuration of one handshake, which tells `shown` whom the client's certificate names.
    pub(super) fn config(&self, shown: Shown) -> Result<ServerConfig, rustls::Error> {
        let clock = Arc::new(self.clock.clone());
        let builder = ServerConfig::builder_with_details(Arc::clone(&self.provider), clock)
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let builder = match &self.clients {
            Some(stock) => {
                let stock = Arc::clone(stock);
                builder.with_client_cert_verifier(Arc::new(ClientJudge { stock, shown }))
            }
            None => builder.with_no_client_auth(),
        };
        let own = Arc::clone(&self.own);
        let mut config = builder.with_cert_resolver(own);
        config.alpn_protocols = vec![self.alpn.0.into()];
        // For the record layer of our own; no secret leaves the process.
        config.enable_secret_extraction = true;
        config.session_storage = Arc::clone(&self.sessions);
        Ok(config)
    }
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsConfigError`].
    pub fn new(options: ServerTlsOptions, alpn: Alpn) -> Result<Self, TlsConfigError> {
        let KeyFiles { cert, key } = options.identity.clone();
        let others = options.ca.iter().chain(&options.crl).cloned();
        let paths = [cert, key].into_iter().chain(others).collect();
        Self::showing(Shows::Files(options), paths, alpn)
    }

    /// Shows a certificate of its own making. It knows no client: each has to prove a ticket.
    ///
    /// # Errors
    /// [`TlsConfigError`], if the certificate and the key do not belong together.
    pub fn self_signed(own: SelfSigned, alpn: Alpn) -> Result<Self, TlsConfigError> {
        Self::showing(Shows::SelfSigned(own), Vec::new(), alpn)
    }

    fn showing(shows: Shows, paths: Vec<PathBuf>, alpn: Alpn) -> Result<Self, TlsConfigError> {
        let side = Reloading::new(paths, || shows.side(alpn))?;
        Ok(Self {
            shows,
            alpn,
            side,
            buffers: Buffers::default(),
        })
    }

    /// Whether every client that gets in has a certificate that was verified.
    #[must_use]
    pub fn knows_clients(&self) -> bool {
        match &self.shows {
            Shows::Files(options) => {
                options.ca.is_some() && options.client_auth == ClientAuth::Required
            }
            Shows::SelfSigned(_) => false,
        }
    }

    /// Whether it shows a certificate of its own making, which only those believe who have a ticket.
    #[must_use]
    pub fn is_self_signed(&self) -> bool {
        matches!(self.shows, Shows::SelfSigned(_))
    }

    /// Shakes hands on a connection that was accepted. A client that is refused is told why, within
    /// a second, before this returns. Bound it by a timer.
    ///
    /// # Errors
    /// [`TlsError`] inside, if it was TLS that failed.
    ///
    /// # Cancellation
    /// Dropping it drops the connection.
    pub async fn accept<S>(&self, io: S) -> io::Result<(TlsStream<S>, Handshaken)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let side = self.side.current(|| self.shows.side(self.alpn));
        let shown = Shown::default();
        let config = side.config(shown.clone()).map_err(io::Error::other)?;
        let machine = Machine::server(Arc::new(config)).map_err(io::Error::other)?;
        let shaken = shake(io, machine, self.buffers.clone()).await;
        let (stream, agreed) = shaken.map_err(|error| {
            let known = TlsError::of(&error).zip(shown.name());
            match known {
                Some((refused, name)) => refused.clone().naming(name).into(),
                None => error,
            }
        })?;
        if let Err(error) = still_good(&agreed, Peer::Client, &side.clock, side.lists_until) {
            // A full handshake would have refused it, and from now on there are only those.
            self.side.forget();
            return Err(error.into());
        }
        Ok((stream, told(&agreed)))
    }
}

/// What dials, until a file changes.
#[derive(Debug)]
struct ClientSide {
    config: Arc<ClientConfig>,
    /// Until when the revocation lists may be relied on.
    lists_until: Option<UnixTime>,
}

/// The dialling side of TLS.
#[derive(Debug)]
pub struct TlsClient {
    options: ClientTlsOptions,
    alpn: Alpn,
    side: Reloading<ClientSide>,
    buffers: Buffers,
}

impl TlsClient {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsConfigError`].
    pub fn new(options: ClientTlsOptions, alpn: Alpn) -> Result<Self, TlsConfigError> {
        let identity = options.identity.clone();
        let paths = identity
            .into_iter()
            .flat_map(|KeyFiles { cert, key }| [cert, key])
            .chain(options.ca.clone())
            .chain(options.crl.clone())
            .collect();
        let side = Reloading::new(paths, || client_side(&options, alpn))?;
        Ok(Self {
            options,
            alpn,
            side,
            buffers: Buffers::default(),
        })
    }

    /// Shakes hands with `host` on a connection to it. Bound it by a timer. That the server refuses
    /// this side's certificate shows only when something is read.
    ///
    /// # Errors
    /// [`TlsError`] inside, if it was TLS that failed.
    ///
    /// # Cancellation
    /// Dropping it drops the connection.
    pub async fn connect<S>(&self, io: S, host: &str) -> io::Result<(TlsStream<S>, Handshaken)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let side = self.side.current(|| client_side(&self.options, self.alpn));
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no valid host name"))?;
        let config = Arc::clone(&side.config);
        let machine = Machine::client(config, name).map_err(io::Error::other)?;
        let (stream, agreed) = shake(io, machine, self.buffers.clone()).await?;
        if self.options.pins.is_empty() {
            let clock = &self.options.clock;
            still_good(&agreed, Peer::Server, clock, side.lists_until).inspect_err(|_| {
                // The next attempt gets the full answer.
                self.side.forget();
            })?;
        }
        Ok((stream, told(&agreed)))
    }
}

fn told(agreed: &Agreed) -> Handshaken {
    let leaf = agreed.leaf.as_ref();
    Handshaken {
        peer: leaf.and_then(PeerIdentity::of),
        certificate: leaf.map(|leaf| leaf.to_vec()),
        resumed: agreed.resumed,
    }
}

/// A resumed session relies on a certificate that was verified before, and may have expired since;
/// so may the lists that said it was not revoked. That it is in a newer list needs no look: another
/// list is another configuration, which remembers no session.
fn still_good(
    agreed: &Agreed,
    peer: Peer,
    clock: &WallClock,
    lists_until: Option<UnixTime>,
) -> Result<(), TlsError> {
    let Some(leaf) = agreed.leaf.as_ref() else {
        return Ok(());
    };
    let now = now(clock);
    Dates::of(leaf)
        .and_then(|dates| dates.check(now))
        .map_err(|error| TlsError::certificate(peer, &error))?;
    match lists_until {
        Some(until) if now > until => Err(TlsError::certificate(peer, &expired_list(now, until))),
        _ => Ok(()),
    }
}

/// The lists in a file, if one is named; warns of those that have to be replaced.
fn revocation_lists(path: Option<&Path>, now: UnixTime) -> Result<Lists, FileError> {
    let Some(path) = path else {
        return Ok(Lists::default());
    };
    let lists = Lists::read(path)?;
    let shown = path.display();
    match lists.dates.and_then(|dates| dates.concern(now)) {
        Some(Concern::Expired(ago)) => tracing::warn!(
            "{shown}: this revocation list expired {} ago: nobody whom it is about is believed",
            span(ago)
        ),
        Some(Concern::Soon(left)) => tracing::warn!(
            "{shown}: this revocation list expires in {}; then nobody whom it is about is believed",
            span(left)
        ),
        // A list that is too new is a clock that is behind; it says the same tomorrow.
        Some(Concern::Early(_)) | None => {}
    }
    Ok(lists)
}

/// TLS 1.3, the fastest cipher first: what both sides' processors do best is AES with 128 bits.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    })
}

fn client_side(options: &ClientTlsOptions, alpn: Alpn) -> Result<ClientSide, TlsConfigError> {
    let lists = revocation_lists(options.crl.as_deref(), now(&options.clock))?;
    Ok(ClientSide {
        lists_until: lists.until(),
        config: Arc::new(client_config(options, lists, alpn)?),
    })
}

pub(super) fn client_config(
    options: &ClientTlsOptions,
    lists: Lists,
    alpn: Alpn,
) -> Result<ClientConfig, TlsConfigError> {
    let provider = provider();
    let identity = match &options.identity {
        Some(files) => Some(files.load(&provider)?),
        None => None,
    };
    let clock = Arc::new(options.clock.clone());
    let builder = ClientConfig::builder_with_details(Arc::clone(&provider), clock)
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let verifier: Arc<dyn ServerCertVerifier> = if options.pins.is_empty() {
        let roots = Arc::new(match &options.ca {
            Some(ca) => authorities(ca)?,
            None => system_authorities()?,
        });
        let stock = WebPkiServerVerifier::builder_with_provider(roots, provider)
            .with_crls(lists.lists)
            .enforce_revocation_expiration()
            .build()?;
        Arc::new(ServerJudge { stock })
    } else {
        let pins = options.pins.clone();
        Arc::new(PinVerifier { pins, provider })
    };
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.0.into()];
    config.enable_secret_extraction = true;
    config.resumption =
        Resumption::store(Arc::new(ClientSessionMemoryCache::new(TLS_SESSIONS_MAX)));
    Ok(config)
}

fn system_authorities() -> Result<RootCertStore, TlsConfigError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A few that cannot be parsed are no reason to do without the others.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found
            .errors
            .first()
            .map_or_else(|| "none were found".to_owned(), |error| error.to_string());
        return Err(TlsConfigError::NoSystemRoots(why));
    }
    Ok(roots)
}

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(now(self))
    }
}

impl fmt::Display for Handshaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.resumed {
            "TLS session resumed"
        } else {
            "TLS session made"
        })?;
        match &self.peer {
            Some(peer) => write!(f, " with {peer}"),
            None => Ok(()),
        }
    }
}
