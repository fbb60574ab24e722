//! Which relays there are, what is shown to others and believed of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farpipe_net::tls::{
    AcceptorSeal, ClientTlsOptions, KeyFiles, OpenerSeal, SealOptions, TlsClient,
};
use farpipe_net::token::Token;
use farpipe_net::{Greeting, LoopbackSecret, RelayDial, TcpDial, Url, WallClock, system_random};
use farpipe_proto::identity::is_name;
use farpipe_proto::limits::{HEARTBEAT, RESUME_FOR};

use crate::{Error, Host, Service};

/// Certificates, as `farpipe cert` makes them: PEM files, read again when they change.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The certificate to show, with what leads to its authority.
    pub cert: PathBuf,
    /// Its key, mode 0600.
    pub key: PathBuf,
    /// The authority of the others.
    pub ca: PathBuf,
}

/// How to reach hosts and be reached. One value serves any number of sessions.
#[derive(Debug, Clone)]
pub struct Settings {
    relays: Vec<String>,
    certificates: Option<Certificates>,
    token: Option<String>,
    resume_for: Duration,
    heartbeat: Duration,
    end_to_end: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self::new()
    }
}

impl Settings {
    /// The defaults: no relay, no certificates. On loopback (`ws://127.0.0.1:PORT`) this user's processes
    /// know each other by a secret in the runtime directory.
    #[must_use]
    pub fn new() -> Self {
        Self {
            relays: Vec::new(),
            certificates: None,
            token: None,
            resume_for: RESUME_FOR,
            heartbeat: HEARTBEAT,
            end_to_end: true,
        }
    }

    /// One more relay: `wss://HOST:PORT` or `fps://HOST:PORT`, on this host also `ws://` or `fp://`. Who connects
    /// asks them in turn, who serves registers at all of them.
    #[must_use]
    pub fn relay(mut self, url: impl Into<String>) -> Self {
        self.relays.push(url.into());
        self
    }

    /// What is shown and believed, at relays and end to end.
    #[must_use]
    pub fn certificates(mut self, certificates: Certificates) -> Self {
        self.certificates = Some(certificates);
        self
    }

    /// The token to prove to relays, as `farpipe token issue` printed it. A secret: read it from a file.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// How long a lost connection is tried to be had back. Default 10 min.
    #[must_use]
    pub fn resume_for(mut self, span: Duration) -> Self {
        self.resume_for = span;
        self
    }

    /// How often the neighbour is asked whether it is there. Default 10 s.
    #[must_use]
    pub fn heartbeat(mut self, span: Duration) -> Self {
        self.heartbeat = span;
        self
    }

    /// **Warning**: the relay reads what passes, and could change it. Without this, sessions are TLS from
    /// end to end wherever there are certificates.
    #[must_use]
    pub fn without_end_to_end(mut self) -> Self {
        self.end_to_end = false;
        self
    }

    /// A session with the host of this name. It is connected in the background: what is opened waits for
    /// that. Needs to be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Settings`]. That the host is not there is for [`Host::open`] to say.
    pub fn connect(&self, host: &str) -> Result<Host, Error> {
        if !is_name(host) {
            return Err(Error::Settings(format!("{host:?} is no name of a host")));
        }
        let dials = self.dials()?;
        let greeting = self.greeting(&dials)?;
        let seal = match (self.seal_options(), self.end_to_end) {
            (Some(options), true) => Some(OpenerSeal::new(options, host).map_err(settings)?),
            _ => None,
        };
        let dials = dials.into_iter().map(|(_, dial)| dial).collect();
        let dial = RelayDial::new(host.to_owned(), dials);
        Ok(Host::start(
            dial,
            greeting,
            seal,
            self.resume_for,
            self.heartbeat,
        ))
    }

    /// Serves under this name at all relays of the list, until dropped. Needs to be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`Error::Settings`]. That no relay takes it is for [`Service::accept`] to say.
    pub fn serve(&self, name: &str) -> Result<Service, Error> {
        if !is_name(name) {
            return Err(Error::Settings(format!("{name:?} cannot be a name")));
        }
        let dials = self.dials()?;
        let greeting = self.greeting(&dials)?;
        let seal = self.seal_options().map(AcceptorSeal::new).transpose();
        let sealed_only = self.end_to_end && self.certificates.is_some();
        Ok(Service::start(
            name,
            dials.into_iter().map(|(_, dial)| dial).collect(),
            greeting,
            seal.map_err(settings)?,
            sealed_only,
            self.heartbeat,
        ))
    }

    fn dials(&self) -> Result<Vec<(Url, TcpDial)>, Error> {
        if self.relays.is_empty() {
            return Err(Error::Settings("no relay was named".to_owned()));
        }
        let dial = |text: &String| {
            let url: Url = text.parse().map_err(settings)?;
            if !url.scheme.is_tls() {
                return Ok((url.clone(), TcpDial::new(url)));
            }
            let options = ClientTlsOptions {
                identity: self.identity(),
                ca: self.certificates.as_ref().map(|files| files.ca.clone()),
                crl: None,
                clock: WallClock::System,
                pins: Vec::new(),
            };
            let tls = TlsClient::new(options, url.scheme.alpn()).map_err(settings)?;
            Ok((url.clone(), TcpDial::tls(url, Arc::new(tls))))
        };
        self.relays.iter().map(dial).collect()
    }

    /// What is said in every handshake.
    fn greeting(&self, dials: &[(Url, TcpDial)]) -> Result<Greeting, Error> {
        let mut greeting = Greeting {
            software: concat!("libfarpipe ", env!("CARGO_PKG_VERSION")).to_owned(),
            prover: None,
            keys: None,
            tokens: None,
            random: system_random,
        };
        let is_local = |(url, _): &(Url, TcpDial)| !url.scheme.is_tls();
        if let Some(token) = &self.token {
            let token: Token = token.parse().map_err(settings)?;
            greeting.prover = Some(Arc::new(token));
        } else if dials.iter().any(is_local) {
            if !dials.iter().all(is_local) {
                let why = "the relays of the list let in by different ways: name some with TLS, or \
                           some on this host";
                return Err(Error::Settings(why.to_owned()));
            }
            let secret = LoopbackSecret::load_or_create().map_err(settings)?;
            greeting.prover = Some(Arc::new(secret));
        }
        Ok(greeting)
    }

    fn identity(&self) -> Option<KeyFiles> {
        let files = self.certificates.as_ref()?;
        Some(KeyFiles {
            cert: files.cert.clone(),
            key: files.key.clone(),
        })
    }

    fn seal_options(&self) -> Option<SealOptions> {
        Some(SealOptions {
            identity: self.identity()?,
            ca: self.certificates.as_ref()?.ca.clone(),
            crl: None,
            clock: WallClock::System,
        })
    }
}

fn settings(error: impl std::fmt::Display) -> Error {
    Error::Settings(error.to_string())
}
