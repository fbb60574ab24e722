//! The dialling side: whom it believes, what it shows, and its part of a handshake.

use std::io;
use std::sync::Arc;

use farpipe_proto::limits::TLS_SESSIONS_MAX;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ClientSessionMemoryCache, Resumption, WebPkiServerVerifier};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};

use super::buffer::Buffers;
use super::config::{
    Alpn, ClientTlsOptions, Handshaken, TlsConfigError, provider, revocation_lists, still_good,
    told,
};
use super::dates::now;
use super::error::Peer;
use super::files::{KeyFiles, authorities};
use super::judge::{ServerJudge, WriterJudge};
use super::machine::Machine;
use super::reload::Reloading;
use super::revocation::Lists;
use super::shake::shake;
use super::stream::TlsStream;
use super::verify::PinVerifier;

/// What dials, until a file changes.
#[derive(Debug)]
struct ClientSide {
    config: Arc<ClientConfig>,
    /// Judges servers, if not by pins.
    stock: Option<Arc<WebPkiServerVerifier>>,
    /// Judges writers of pipes, if an authority was named.
    writers: Option<Arc<dyn ClientCertVerifier>>,
    /// Until when the revocation lists may be relied on.
    lists_until: Option<UnixTime>,
}

/// What an agent's name is a label of, as the host that its certificate is good for.
pub(super) const AGENT_DOMAIN: &str = ".agent.farpipe";

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
    /// [`TlsError`]: super::TlsError
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

    /// This end of TLS inside a session with an agent. Nothing is remembered of it: a session shakes
    /// hands once.
    ///
    /// # Errors
    /// The agent's name is none, or rustls refuses.
    pub(super) fn machine_for_agent(&self, agent: &str) -> Result<Machine, rustls::Error> {
        let side = self.side.current(|| client_side(&self.options, self.alpn));
        let host = format!("{agent}{AGENT_DOMAIN}");
        let name = ServerName::try_from(host)
            .map_err(|_| rustls::Error::General(format!("{agent:?} is no name of an agent")))?;
        let mut config = ClientConfig::clone(&side.config);
        if let Some(stock) = &side.stock {
            let stock = Arc::clone(stock);
            let agent = Some(agent.to_owned());
            let judge = Arc::new(ServerJudge { stock, agent });
            config.dangerous().set_certificate_verifier(judge);
        }
        config.resumption = Resumption::disabled();
        Machine::client(Arc::new(config), name)
    }
}

impl TlsClient {
    /// This end of TLS inside a session with the writer of a pipe, likewise: any client or agent that
    /// the authority vouches for.
    ///
    /// # Errors
    /// No authority was named, or rustls refuses.
    pub(super) fn machine_for_writer(&self) -> Result<Machine, rustls::Error> {
        let side = self.side.current(|| client_side(&self.options, self.alpn));
        let writers = side.writers.as_ref().ok_or_else(|| {
            rustls::Error::General("writers of pipes are believed by --ca only".to_owned())
        })?;
        let name = ServerName::try_from("writer.pipe.farpipe")
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut config = ClientConfig::clone(&side.config);
        let judge = Arc::new(WriterJudge(Arc::clone(writers)));
        config.dangerous().set_certificate_verifier(judge);
        config.resumption = Resumption::disabled();
        Machine::client(Arc::new(config), name)
    }
}

fn client_side(options: &ClientTlsOptions, alpn: Alpn) -> Result<ClientSide, TlsConfigError> {
    let lists = revocation_lists(options.crl.as_deref(), now(&options.clock))?;
    let lists_until = lists.until();
    let writers = match &options.ca {
        Some(ca) => {
            let roots = Arc::new(authorities(ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                .with_crls(lists.lists.clone())
                .enforce_revocation_expiration();
            Some(verifier.build()?)
        }
        None => None,
    };
    let stock = match options.pins.is_empty() {
        true => Some(stock_verifier(options, lists)?),
        false => None,
    };
    Ok(ClientSide {
        lists_until,
        writers,
        config: Arc::new(client_config(options, stock.clone(), alpn)?),
        stock,
    })
}

pub(super) fn stock_verifier(
    options: &ClientTlsOptions,
    lists: Lists,
) -> Result<Arc<WebPkiServerVerifier>, TlsConfigError> {
    let roots = Arc::new(match &options.ca {
        Some(ca) => authorities(ca)?,
        None => system_authorities()?,
    });
    Ok(
        WebPkiServerVerifier::builder_with_provider(roots, provider())
            .with_crls(lists.lists)
            .enforce_revocation_expiration()
            .build()?,
    )
}

pub(super) fn client_config(
    options: &ClientTlsOptions,
    stock: Option<Arc<WebPkiServerVerifier>>,
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
    let verifier: Arc<dyn ServerCertVerifier> = match stock {
        Some(stock) => Arc::new(ServerJudge { stock, agent: None }),
        None => {
            let pins = options.pins.clone();
            Arc::new(PinVerifier { pins, provider })
        }
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
