//! The accepting side: what it shows, whom it asks for what, and its part of a handshake.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use farpipe_proto::limits::TLS_SESSIONS_MAX;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncRead, AsyncWrite};

use super::buffer::Buffers;
use super::config::{
    Alpn, ClientAuth, Handshaken, ServerTlsOptions, TlsConfigError, provider, revocation_lists,
    still_good, told,
};
use super::dates::now;
use super::error::{Peer, TlsError};
use super::files::{KeyFiles, SelfSigned, authorities};
use super::judge::{ClientJudge, Shown};
use super::machine::Machine;
use super::reload::Reloading;
use super::shake::shake;
use super::stream::TlsStream;
use super::vouched::Vouched;
use crate::clock::WallClock;

/// The accepting side of TLS.
#[derive(Debug)]
pub struct TlsServer {
    source: Arc<Source>,
    buffers: Buffers,
}

/// Where the newest good side comes from.
#[derive(Debug)]
pub(super) struct Source {
    shows: Shows,
    alpn: Alpn,
    side: Reloading<ServerSide>,
}

impl Source {
    /// Blocks on the disk for a moment.
    pub(super) fn current(&self) -> Arc<ServerSide> {
        self.side.current(|| self.shows.side(self.alpn))
    }
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
    pub(super) clients: Option<Arc<dyn ClientCertVerifier>>,
    /// Until when the revocation lists may be relied on.
    lists_until: Option<UnixTime>,
    sessions: Arc<dyn StoresServerSessions>,
    alpn: Alpn,
    pub(super) clock: WallClock,
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

    /// The configuration of one handshake, which tells `shown` whom the client's certificate names;
    /// if the client opens a session by it (`opens`), it has to be one who may.
    pub(super) fn config(&self, shown: Shown, opens: bool) -> Result<ServerConfig, rustls::Error> {
        let clock = Arc::new(self.clock.clone());
        let builder = ServerConfig::builder_with_details(Arc::clone(&self.provider), clock)
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let builder = match &self.clients {
            Some(stock) => {
                let judge = ClientJudge {
                    stock: Arc::clone(stock),
                    shown,
                    opens,
                };
                builder.with_client_cert_verifier(Arc::new(judge))
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
            source: Arc::new(Source { shows, alpn, side }),
            buffers: Buffers::default(),
        })
    }

    /// Whether every client that gets in has a certificate that was verified.
    #[must_use]
    pub fn knows_clients(&self) -> bool {
        match &self.source.shows {
            Shows::Files(options) => {
                options.ca.is_some() && options.client_auth == ClientAuth::Required
            }
            Shows::SelfSigned(_) => false,
        }
    }

    /// Whether it shows a certificate of its own making, which only those believe who have a ticket.
    #[must_use]
    pub fn is_self_signed(&self) -> bool {
        matches!(self.source.shows, Shows::SelfSigned(_))
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
        let side = self.source.current();
        let shown = Shown::default();
        let config = side
            .config(shown.clone(), false)
            .map_err(io::Error::other)?;
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
            self.source.side.forget();
            return Err(error.into());
        }
        let mut told = told(&agreed);
        let vouched = Vouched::new(&self.source, agreed.chain);
        told.peer = told.peer.map(|peer| peer.vouched_for(vouched));
        Ok((stream, told))
    }

    /// What a certificate rests on that this has verified.
    pub(super) fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// This end of TLS inside a session, and where it tells whom the opener's certificate names.
    /// Nothing is remembered of it: a session shakes hands once.
    ///
    /// # Errors
    /// rustls refuses.
    pub(super) fn machine_for_opener(&self) -> Result<(Machine, Shown), rustls::Error> {
        let side = self.source.current();
        let shown = Shown::default();
        let mut config = side.config(shown.clone(), true)?;
        config.send_tls13_tickets = 0;
        Ok((Machine::server(Arc::new(config))?, shown))
    }
}
