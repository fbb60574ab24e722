//! The flags that say which certificates are shown and which are believed.
//!
//! Files only: nothing secret is ever an argument, where every process of the host could read it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args};
use farpipe_net::tls::{
    ClientAuth, ClientTlsOptions, KeyFiles, Pin, ServerTlsOptions, TlsClient, TlsConfigError,
    TlsServer,
};
use farpipe_net::{Clock, TcpDial, Ticket, Tickets, Url, WallClock};
use farpipe_proto::limits::TICKET_FOR;

use super::cert::self_signed;
use super::ticket::{self, Outlet, valid_for};
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
    cert: Option<PathBuf>,
    /// wss, fps: its private key, PEM, mode 0600
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// wss, fps: the authority of the server, PEM; those the system trusts if not given
    #[arg(long, value_name = "FILE", conflicts_with = "pin")]
    ca: Option<PathBuf>,
    /// wss, fps: revocation lists, PEM, one of each authority in use: a server whose certificate is
    /// in one, or whose authority has none there that is in date, is refused
    #[arg(long, value_name = "FILE", conflicts_with = "pin")]
    crl: Option<PathBuf>,
    /// wss, fps: believe exactly the server with this key, whoever issued its certificate;
    /// repeatable
    #[arg(long, value_name = "sha256:HEX")]
    pin: Vec<Pin>,
}

/// What the dialling side shows and believes.
#[derive(Debug, Args)]
pub(crate) struct ConnectTls {
    #[command(flatten)]
    certificates: ConnectCertificates,
    /// wss, fps: the ticket that the listener made, in a file of mode 0600; $FARPIPE_TICKET holds
    /// the ticket itself
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cert", "key", "ca", "crl", "pin"])]
    ticket_file: Option<PathBuf>,
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
    /// The certificate to show, if one was given.
    pub(crate) fn certificate(&self) -> Option<&Path> {
        self.cert.as_deref()
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
            client_auth: if self.client_auth_required {
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
    /// The ticket to show to `url`.
    pub(crate) fn ticket(&self, url: &Url) -> anyhow::Result<Option<Arc<Ticket>>> {
        let ticket = ticket::given(self.ticket_file.as_deref())?;
        if ticket.is_some() {
            refuse_if(!url.scheme.is_tls(), url, "tickets mean")?;
        }
        if ticket.is_some() && self.certificates.are_given() {
            return Err(WithStatus::usage(
                "a ticket in FARPIPE_TICKET beside certificates: only one of them can let in",
                "unset FARPIPE_TICKET, or leave out --cert, --key, --ca and --pin",
            ));
        }
        Ok(ticket.map(Arc::new))
    }

    /// What dials `url`.
    pub(crate) fn dial(&self, url: Url, ticket: Option<&Ticket>) -> anyhow::Result<TcpDial> {
        self.certificates.dial(url, ticket)
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
