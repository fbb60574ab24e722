//! The flags that say which certificates are shown and which are believed.
//!
//! Files only: nothing secret is ever an argument, where every process of the host could read it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args};
use farpipe_net::tls::{
    AcceptorSeal, ClientAuth, ClientTlsOptions, KeyFiles, OpenerSeal, Pin, SealConfigError,
    SealOptions, ServerTlsOptions, TlsClient, TlsConfigError, TlsServer,
};
use farpipe_net::token::{Token, TokenStore};
use farpipe_net::{Admission, Clock, TcpDial, Ticket, Tickets, Url, WallClock};
use farpipe_proto::limits::TICKET_FOR;

use super::cert::self_signed;
use super::environment::Environment;
use super::given::given;
use super::ticket::{Outlet, valid_for};
use crate::exit::WithStatus;

/// What the listening side shows and believes.
#[derive(Debug, PartialEq, Eq, Args)]
pub(crate) struct ListenTls {
    /// wss, fps: the certificate to show, PEM, with what leads to its authority
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// wss, fps: its private key, PEM, mode 0600
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// wss, fps: the authority of clients, PEM; a client without its certificate is refused
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// wss, fps: revocation lists, PEM, one of each authority in use: a client whose certificate is
    /// in one, or whose authority has none there that is in date, is refused; `farpipe cert revoke`
    /// writes one
    #[arg(long, value_name = "FILE")]
    crl: Option<PathBuf>,
    /// wss, fps: whether a client has to show a certificate; only `true` is possible, because
    /// nothing else would keep strangers out
    #[arg(long, value_name = "BOOL", default_value = "true", value_parser = required,
        action = ArgAction::Set, hide_default_value = true)]
    client_auth_required: bool,
    /// wss, fps without certificates: write the ticket to this new file, mode 0600, instead of
    /// printing it; the file goes when the ticket is used, or with the listener
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cert", "key", "ca", "crl"])]
    ticket_file: Option<PathBuf>,
    /// Let in who proves a token of this file, which `farpipe token issue --store FILE` writes; read
    /// again when it changes. With --ca a client shows a certificate or proves a token, without it a
    /// token; on loopback this user's processes need none
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// wss, fps without certificates: how long a ticket is good if nobody comes, 1s to 1d; then
    /// there is another [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = valid_for,
        conflicts_with_all = ["cert", "key", "ca", "crl"])]
    ticket_for: Option<Duration>,
}

/// Settings that are copied from other programs have this key.
fn required(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Err(
            "without it anybody could connect; for hosts without certificates of their \
                        own there are tickets"
                .to_owned(),
        ),
        _ => Err("write true".to_owned()),
    }
}

/// What keeps strangers out of a listener with TLS.
#[derive(Debug)]
pub(crate) struct Guarded {
    pub(crate) tls: TlsServer,
    /// Where the tickets go, if they are what lets in.
    pub(crate) outlet: Option<Outlet>,
}

/// The certificates that the dialling side shows and believes.
#[derive(Debug, Args)]
pub(crate) struct ConnectCertificates {
    /// wss, fps: the certificate to show, PEM, with what leads to its authority
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(super) cert: Option<PathBuf>,
    /// wss, fps: its private key, PEM, mode 0600
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(super) key: Option<PathBuf>,
    /// wss, fps: the authority of the server, PEM; those the system trusts if not given
    #[arg(long, value_name = "FILE", conflicts_with = "pin")]
    pub(super) ca: Option<PathBuf>,
    /// wss, fps: revocation lists, PEM, one of each authority in use: a server whose certificate is
    /// in one, or whose authority has none there that is in date, is refused
    #[arg(long, value_name = "FILE", conflicts_with = "pin")]
    pub(super) crl: Option<PathBuf>,
    /// wss, fps: believe exactly the server with this key, whoever issued its certificate;
    /// repeatable
    #[arg(long, value_name = "sha256:HEX")]
    pub(super) pin: Vec<Pin>,
}

/// What the dialling side shows and believes.
#[derive(Debug, Args)]
pub(crate) struct ConnectTls {
    #[command(flatten)]
    pub(super) certificates: ConnectCertificates,
    /// wss, fps: the ticket that the listener made, in a file of mode 0600; $FARPIPE_TICKET holds
    /// the ticket itself
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cert", "key", "ca", "crl", "pin"])]
    pub(super) ticket_file: Option<PathBuf>,
    /// The token to prove, as `farpipe token issue` printed it, in a file of mode 0600;
    /// $FARPIPE_TOKEN holds the token itself
    #[arg(long, value_name = "FILE", conflicts_with = "ticket_file")]
    pub(super) token_file: Option<PathBuf>,
    /// Where the variables are.
    #[arg(skip)]
    pub(super) environment: Environment,
}

/// What the dialling side proves beside its certificate.
#[derive(Debug, Clone)]
pub(crate) enum Proves {
    /// Nothing, or the loopback secret.
    Usual,
    Ticket(Arc<Ticket>),
    Token(Arc<Token>),
}

impl Proves {
    pub(crate) fn ticket(&self) -> Option<&Ticket> {
        match self {
            Self::Ticket(ticket) => Some(ticket),
            Self::Usual | Self::Token(_) => None,
        }
    }

    fn token(&self) -> Option<&Token> {
        match self {
            Self::Token(token) => Some(token),
            Self::Usual | Self::Ticket(_) => None,
        }
    }

    pub(crate) fn admission(&self, url: &Url) -> Admission {
        Admission::shown(url.scheme, self.ticket(), self.token())
    }
}

impl Guarded {
    /// For a listener that serves many: a ticket is good for one session.
    pub(crate) fn without_tickets(self) -> anyhow::Result<TlsServer> {
        if self.outlet.is_some() {
            return Err(WithStatus::usage(
                "a relay lets in by certificate, and none was given",
                "give --cert, --key and --ca; `farpipe cert` makes all three",
            ));
        }
        Ok(self.tls)
    }
}

impl ListenTls {
    /// What callers that come by a relay are shown, and have to show; `None` without certificates.
    pub(crate) fn seal(&self) -> anyhow::Result<Option<AcceptorSeal>> {
        let identity = key_files(self.cert.as_ref(), self.key.as_ref());
        let options = seal_options(identity, self.ca.as_ref(), self.crl.as_ref());
        let seal = options.map(AcceptorSeal::new);
        seal.transpose().map_err(|error| unsealed(&error))
    }

    /// The certificate to show, if one was given.
    pub(crate) fn certificate(&self) -> Option<&Path> {
        self.cert.as_deref()
    }

    /// The files with certificates, keys and revocation lists that were given; they are read again and again.
    pub(crate) fn certificate_files(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.cert, &self.key, &self.ca, &self.crl];
        files.into_iter().flatten().map(PathBuf::as_path)
    }

    /// The file with tokens that was given; one that is good once is used up there.
    pub(crate) fn token_file(&self) -> Option<&Path> {
        self.tokens.as_deref()
    }

    /// Where tickets are written, if that is a file.
    pub(crate) fn ticket_file(&self) -> Option<&Path> {
        self.ticket_file.as_deref()
    }

    /// What dials `url`, a neighbour of one who listens, too, by the same certificates.
    pub(crate) fn dial(&self, url: Url) -> anyhow::Result<TcpDial> {
        let certificates = ConnectCertificates {
            cert: self.cert.clone(),
            key: self.key.clone(),
            ca: self.ca.clone(),
            crl: self.crl.clone(),
            pin: Vec::new(),
        };
        // For loopback they are not wanted, and another relay of the list may want them.
        if !url.scheme.is_tls() {
            return Ok(TcpDial::new(url));
        }
        certificates.dial(url, None)
    }

    /// The tokens that let in.
    pub(crate) fn tokens(&self) -> anyhow::Result<Option<Arc<TokenStore>>> {
        let Some(file) = &self.tokens else {
            return Ok(None);
        };
        let store = TokenStore::new(file.clone(), WallClock::System);
        // Nobody would get in, and nobody would know why.
        let entries = store.list().map_err(|error| {
            WithStatus::failure(error.to_string(), Some(error.hint().to_owned()))
        })?;
        if entries.is_empty() {
            let file = file.display();
            return Err(WithStatus::failure(
                format!("no tokens are in {file}"),
                Some(format!("farpipe token issue NAME --store {file}")),
            ));
        }
        Ok(Some(Arc::new(store)))
    }

    /// The TLS that `url` needs. Without certificates of the user's it makes its own, and tickets.
    pub(crate) fn server(&self, url: &Url, quiet: bool) -> anyhow::Result<Option<Guarded>> {
        let scheme = url.scheme;
        if !scheme.is_tls() {
            let given = self.cert.is_some() || self.ca.is_some() || self.crl.is_some();
            refuse_if(given, url, "certificates mean")?;
            let given = self.ticket_file.is_some() || self.ticket_for.is_some();
            refuse_if(given, url, "tickets mean")?;
            return Ok(None);
        }
        if self.cert.is_none() && self.ca.is_none() && self.crl.is_none() {
            if self.tokens.is_some() {
                return Err(WithStatus::usage(
                    "tokens are proven to a listener that callers can verify",
                    "give --cert and --key, `farpipe cert` makes both; with --ca certificates let in \
                     as well",
                ));
            }
            return self.ticketed(url, quiet).map(Some);
        }
        let Some(identity) = key_files(self.cert.as_ref(), self.key.as_ref()) else {
            return Err(WithStatus::usage(
                format!("{}:// needs a certificate", scheme.name()),
                "give --cert, --key and --ca, `farpipe cert` makes all three; or none of them: then \
                 a ticket lets in",
            ));
        };
        let options = ServerTlsOptions {
            identity,
            ca: self.ca.clone(),
            crl: self.crl.clone(),
            clock: WallClock::System,
            client_auth: if self.client_auth_required && self.tokens.is_none() {
                ClientAuth::Required
            } else {
                ClientAuth::Optional
            },
        };
        let tls = TlsServer::new(options, scheme.alpn()).map_err(|error| failed(&error))?;
        Ok(Some(Guarded { tls, outlet: None }))
    }

    fn ticketed(&self, url: &Url, quiet: bool) -> anyhow::Result<Guarded> {
        if quiet && self.ticket_file.is_none() {
            return Err(WithStatus::usage(
                "-q would hide the ticket, without which nobody gets in",
                "write it to a file with --ticket-file, or give --cert, --key and --ca",
            ));
        }
        let own = self_signed()?;
        let valid_for = self.ticket_for.unwrap_or(TICKET_FOR);
        let random = farpipe_net::system_random;
        let tickets = Tickets::new(own.pin(), valid_for, Clock::Boot, random);
        let tls = TlsServer::self_signed(own, url.scheme.alpn()).map_err(|error| failed(&error))?;
        let outlet = Outlet {
            tickets: Arc::new(tickets),
            valid_for,
            file: self.ticket_file.clone(),
        };
        Ok(Guarded {
            tls,
            outlet: Some(outlet),
        })
    }
}

impl ConnectTls {
    /// What to prove to `url`.
    pub(crate) fn proves(&self, url: &Url) -> anyhow::Result<Proves> {
        let ticket: Option<Ticket> = given(self.ticket_file.as_deref(), &self.environment)?;
        let token: Option<Token> = given(self.token_file.as_deref(), &self.environment)?;
        if ticket.is_some() && token.is_some() {
            return Err(WithStatus::usage(
                "a ticket and a token: only one of them can let in",
                "unset FARPIPE_TICKET or FARPIPE_TOKEN",
            ));
        }
        if let Some(token) = token {
            return Ok(Proves::Token(Arc::new(token)));
        }
        if ticket.is_some() {
            refuse_if(!url.scheme.is_tls(), url, "tickets mean")?;
        }
        if ticket.is_some() && self.certificates.are_given() {
            return Err(WithStatus::usage(
                "a ticket in FARPIPE_TICKET beside certificates: only one of them can let in",
                "unset FARPIPE_TICKET, or leave out --cert, --key, --ca and --pin",
            ));
        }
        Ok(ticket.map_or(Proves::Usual, |ticket| Proves::Ticket(Arc::new(ticket))))
    }

    /// What dials `url`.
    pub(crate) fn dial(&self, url: Url, ticket: Option<&Ticket>) -> anyhow::Result<TcpDial> {
        self.certificates.dial(url, ticket)
    }
}

impl ConnectTls {
    /// What shows to the agent, and believes of it, whatever lies between; `None` without certificates.
    pub(crate) fn seal(&self, agent: &str) -> anyhow::Result<Option<OpenerSeal>> {
        let seal = self.seal_options();
        let seal = seal.map(|options| OpenerSeal::new(options, agent));
        seal.transpose().map_err(|error| unsealed(&error))
    }

    /// The same for the writer of a pipe, whoever that is.
    pub(crate) fn seal_to_writer(&self) -> anyhow::Result<Option<OpenerSeal>> {
        let seal = self.seal_options().map(OpenerSeal::to_writer);
        seal.transpose().map_err(|error| unsealed(&error))
    }

    /// What the writer of a pipe shows to its readers, and believes of them; `None` without
    /// certificates.
    pub(crate) fn seal_of_writer(&self) -> anyhow::Result<Option<AcceptorSeal>> {
        let seal = self.seal_options().map(AcceptorSeal::new);
        seal.transpose().map_err(|error| unsealed(&error))
    }

    fn seal_options(&self) -> Option<SealOptions> {
        let certificates = &self.certificates;
        seal_options(
            key_files(certificates.cert.as_ref(), certificates.key.as_ref()),
            certificates.ca.as_ref(),
            certificates.crl.as_ref(),
        )
    }
}

/// What both ends of a session show and believe; `None` if one of the three is missing.
fn seal_options(
    identity: Option<KeyFiles>,
    ca: Option<&PathBuf>,
    crl: Option<&PathBuf>,
) -> Option<SealOptions> {
    Some(SealOptions {
        identity: identity?,
        ca: ca?.clone(),
        crl: crl.cloned(),
        clock: WallClock::System,
    })
}

fn unsealed(error: &SealConfigError) -> anyhow::Error {
    match error {
        SealConfigError::Tls(error) => failed(error),
        error => WithStatus::failure(error.to_string(), None),
    }
}

impl ConnectCertificates {
    fn are_given(&self) -> bool {
        self.cert.is_some() || self.ca.is_some() || self.crl.is_some() || !self.pin.is_empty()
    }

    /// What dials `url`.
    pub(crate) fn dial(&self, url: Url, ticket: Option<&Ticket>) -> anyhow::Result<TcpDial> {
        if !url.scheme.is_tls() {
            refuse_if(self.are_given(), &url, "certificates mean")?;
            return Ok(TcpDial::new(url));
        }
        let options = ClientTlsOptions {
            identity: key_files(self.cert.as_ref(), self.key.as_ref()),
            ca: self.ca.clone(),
            crl: self.crl.clone(),
            clock: WallClock::System,
            pins: ticket.map_or_else(|| self.pin.clone(), |ticket| vec![ticket.pin()]),
        };
        let client = TlsClient::new(options, url.scheme.alpn()).map_err(|error| failed(&error))?;
        Ok(TcpDial::tls(url, Arc::new(client)))
    }
}

fn key_files(cert: Option<&PathBuf>, key: Option<&PathBuf>) -> Option<KeyFiles> {
    let (cert, key) = (cert?.clone(), key?.clone());
    Some(KeyFiles { cert, key })
}

/// Flags that would silently mean nothing.
fn refuse_if(given: bool, url: &Url, what: &str) -> anyhow::Result<()> {
    if given {
        let name = url.scheme.name();
        return Err(WithStatus::usage(
            format!("{name}:// has no TLS: {what} nothing there"),
            format!("write {name}s://"),
        ));
    }
    Ok(())
}

fn failed(error: &TlsConfigError) -> anyhow::Error {
    WithStatus::failure(error.to_string(), error.hint().map(str::to_owned))
}
