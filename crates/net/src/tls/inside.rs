//! Who is who in TLS inside a session: an opener with a client's or an agent's certificate, and the
//! agent that it names, each of an authority that the other believes. At a pipe in place of the agent
//! its writer, which has a certificate as an opener has.
//!
//! The same files, verifiers, revocation lists and reloading as under a carrier, with another
//! protocol in ALPN, so that nobody in between leads the one to the other.

use std::path::PathBuf;
use std::sync::Arc;

use farpipe_proto::identity::is_name;

use super::client::TlsClient;
use super::config::{Alpn, ClientAuth, ClientTlsOptions, ServerTlsOptions, TlsConfigError};
use super::files::KeyFiles;
use super::seal::{Seal, SealError};
use super::server::TlsServer;
use crate::clock::WallClock;

/// What is inside.
const ALPN: Alpn = Alpn("farpipe-e2e/1");

/// What one end shows, and whom it believes.
#[derive(Debug, Clone)]
pub struct SealOptions {
    /// Its certificate and key.
    pub identity: KeyFiles,
    /// Authorities of the other end.
    pub ca: PathBuf,
    /// Revocation lists of those authorities, as [`ServerTlsOptions::crl`].
    pub crl: Option<PathBuf>,
    /// What dates are compared with.
    pub clock: WallClock,
}

/// The opener's end of sealed sessions with one agent, or with writers of pipes. Clones share the files.
#[derive(Debug, Clone)]
pub struct OpenerSeal {
    tls: Arc<TlsClient>,
    whom: Whom,
}

/// Who has to be at the other end.
#[derive(Debug, Clone)]
enum Whom {
    /// The agent of that name.
    Agent(String),
    /// The writer of a pipe: a client or an agent, whichever.
    Writer,
}

/// The acceptor's end of sealed sessions.
#[derive(Debug, Clone)]
pub struct AcceptorSeal {
    tls: Arc<TlsServer>,
}

/// Why no session can be sealed as was said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealConfigError {
    /// The files.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
    /// The agent's name is none.
    #[error("{0:?} is no name of an agent")]
    Agent(String),
}

impl OpenerSeal {
    /// Reads the files. `agent` is the name of the agent that has to be at the other end.
    ///
    /// # Errors
    /// [`SealConfigError`].
    pub fn new(options: SealOptions, agent: &str) -> Result<Self, SealConfigError> {
        Self::to_writer(options)?.to_agent(agent)
    }

    /// Reads the files. The writer of a pipe has to be at the other end: any client or agent whom the
    /// authority vouches for.
    ///
    /// # Errors
    /// [`SealConfigError::Tls`].
    pub fn to_writer(options: SealOptions) -> Result<Self, SealConfigError> {
        let options = ClientTlsOptions {
            identity: Some(options.identity),
            ca: Some(options.ca),
            crl: options.crl,
            pins: Vec::new(),
            clock: options.clock,
        };
        Ok(Self {
            tls: Arc::new(TlsClient::new(options, ALPN)?),
            whom: Whom::Writer,
        })
    }

    /// The same for another agent.
    ///
    /// # Errors
    /// [`SealConfigError::Agent`].
    pub fn to_agent(&self, agent: &str) -> Result<Self, SealConfigError> {
        if !is_name(agent) {
            return Err(SealConfigError::Agent(agent.to_owned()));
        }
        Ok(Self {
            tls: Arc::clone(&self.tls),
            whom: Whom::Agent(agent.to_owned()),
        })
    }

    /// The end of one session.
    pub(crate) fn begin(&self) -> Result<Seal, SealError> {
        let machine = match &self.whom {
            Whom::Agent(agent) => self.tls.machine_for_agent(agent),
            Whom::Writer => self.tls.machine_for_writer(),
        };
        Seal::opener(machine.map_err(unusable)?)
    }
}

impl AcceptorSeal {
    /// Reads the files.
    ///
    /// # Errors
    /// [`SealConfigError::Tls`].
    pub fn new(options: SealOptions) -> Result<Self, SealConfigError> {
        let options = ServerTlsOptions {
            identity: options.identity,
            ca: Some(options.ca),
            crl: options.crl,
            client_auth: ClientAuth::Required,
            clock: options.clock,
        };
        let tls = Arc::new(TlsServer::new(options, ALPN)?);
        Ok(Self { tls })
    }

    /// The end of one session.
    pub(crate) fn begin(&self) -> Result<Seal, SealError> {
        let (machine, shown) = self.tls.machine_for_opener().map_err(unusable)?;
        Ok(Seal::acceptor(
            machine,
            shown,
            Arc::clone(self.tls.source()),
        ))
    }
}

/// What this end has cannot be used.
fn unusable(error: rustls::Error) -> SealError {
    SealError::Unusable(error.to_string())
}
