//! What each side is told about TLS, and the connections it makes of it.
//!
//! Certificates are always verified; there is nothing to switch it off. TLS 1.3 only. Both sides
//! remember sessions, so that a reconnect costs no certificates and no signatures; what they remember
//! lives and dies with the configuration that verified it, so a changed file begins anew.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use farpipe_proto::limits::TLS_SESSIONS_MAX;
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::ServerName;
use rustls::server::{ServerSessionMemoryCache, WantsServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};
use tokio::io::{AsyncRead, AsyncWrite};

use super::buffer::Buffers;
use super::error::{Peer, TlsError};
use super::files::{FileError, KeyFiles, SelfSigned, authorities};
use super::identity::{PeerIdentity, check_dates};
use super::machine::{Agreed, Machine};
use super::reload::Reloading;
use super::shake::shake;
use super::stream::TlsStream;
use super::verify::{Pin, PinVerifier};

/// What an accepting side is told.
#[derive(Debug, Clone)]
pub struct ServerTlsOptions {
    /// Its certificate and key.
    pub identity: KeyFiles,
    /// Authorities of clients. Without one no client certificate is asked for.
    pub ca: Option<PathBuf>,
    /// Whether a client without a certificate is refused; without `ca` it means nothing.
    pub client_auth: ClientAuth,
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
    /// The keys that are good, if not empty: then no authority is asked.
    pub pins: Vec<Pin>,
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
    Verifier(#[from] rustls::client::VerifierBuilderError),
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
    config: Reloading<ServerConfig>,
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
    fn config(&self, alpn: Alpn) -> Result<ServerConfig, TlsConfigError> {
        match self {
            Self::Files(options) => server_config(options, alpn),
            Self::SelfSigned(own) => {
                let provider = provider();
                let own = own.certified(&provider)?;
                let builder = server_builder(&provider)?.with_no_client_auth();
                Ok(finish_server(builder, own, alpn))
            }
        }
    }
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsConfigError`].
    pub fn new(options: ServerTlsOptions, alpn: Alpn) -> Result<Self, TlsConfigError> {
        let KeyFiles { cert, key } = options.identity.clone();
        let paths = [cert, key].into_iter().chain(options.ca.clone()).collect();
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
        let config = Reloading::new(paths, || shows.config(alpn))?;
        Ok(Self {
            shows,
            alpn,
            config,
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
        let config = self.config.current(|| self.shows.config(self.alpn));
        let machine = Machine::server(config).map_err(io::Error::other)?;
        let (stream, agreed) = shake(io, machine, self.buffers.clone()).await?;
        if let Err(error) = still_valid(&agreed, Peer::Client) {
            // A full handshake would have refused it, and from now on there are only those.
            self.config.forget();
            return Err(error.into());
        }
        Ok((stream, told(&agreed)))
    }
}

/// The dialling side of TLS.
#[derive(Debug)]
pub struct TlsClient {
    options: ClientTlsOptions,
    alpn: Alpn,
    config: Reloading<ClientConfig>,
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
            .collect();
        let config = Reloading::new(paths, || client_config(&options, alpn))?;
        Ok(Self {
            options,
            alpn,
            config,
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
        let config = self
            .config
            .current(|| client_config(&self.options, self.alpn));
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no valid host name"))?;
        let machine = Machine::client(config, name).map_err(io::Error::other)?;
        let (stream, agreed) = shake(io, machine, self.buffers.clone()).await?;
        if self.options.pins.is_empty() {
            still_valid(&agreed, Peer::Server)?;
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

/// A resumed session relies on a certificate that was verified before, and may have expired since.
fn still_valid(agreed: &Agreed, peer: Peer) -> Result<(), TlsError> {
    let leaf = agreed.leaf.as_ref();
    leaf.map_or(Ok(()), check_dates)
        .map_err(|error| TlsError::certificate(peer, &error))
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

pub(super) fn server_config(
    options: &ServerTlsOptions,
    alpn: Alpn,
) -> Result<ServerConfig, TlsConfigError> {
    let provider = provider();
    let identity = options.identity.load(&provider)?;
    let builder = server_builder(&provider)?;
    let builder = match &options.ca {
        Some(ca) => {
            let roots = Arc::new(authorities(ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = match options.client_auth {
                ClientAuth::Required => verifier,
                ClientAuth::Optional => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build()?)
        }
        None => builder.with_no_client_auth(),
    };
    Ok(finish_server(builder, identity, alpn))
}

fn server_builder(
    provider: &Arc<CryptoProvider>,
) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, rustls::Error> {
    ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
}

fn finish_server(
    builder: ConfigBuilder<ServerConfig, WantsServerCert>,
    identity: Arc<CertifiedKey>,
    alpn: Alpn,
) -> ServerConfig {
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    config.alpn_protocols = vec![alpn.0.into()];
    // For the record layer of our own; no secret leaves the process.
    config.enable_secret_extraction = true;
    config.session_storage = ServerSessionMemoryCache::new(TLS_SESSIONS_MAX);
    config
}

pub(super) fn client_config(
    options: &ClientTlsOptions,
    alpn: Alpn,
) -> Result<ClientConfig, TlsConfigError> {
    let provider = provider();
    let identity = match &options.identity {
        Some(files) => Some(files.load(&provider)?),
        None => None,
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = if options.pins.is_empty() {
        let roots = match &options.ca {
            Some(ca) => authorities(ca)?,
            None => system_authorities()?,
        };
        builder.with_root_certificates(roots)
    } else {
        let pins = options.pins.clone();
        let verifier = Arc::new(PinVerifier { pins, provider });
        builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
    };
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
