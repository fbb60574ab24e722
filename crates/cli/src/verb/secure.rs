//! The flags that say which certificates are shown and which are believed.
//!
//! Files only: nothing secret is ever an argument, where every process of the host could read it.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use farpipe_net::tls::{
    ClientAuth, ClientTlsOptions, KeyFiles, Pin, ServerTlsOptions, TlsClient, TlsConfigError,
    TlsServer,
};
use farpipe_net::{TcpDial, Url};

use crate::exit::WithStatus;

/// What the listening side shows and believes.
#[derive(Debug, Args)]
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
}

/// What the dialling side shows and believes.
#[derive(Debug, Args)]
pub(crate) struct ConnectTls {
    /// wss, fps: the certificate to show, PEM, with what leads to its authority
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// wss, fps: its private key, PEM, mode 0600
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// wss, fps: the authority of the server, PEM; those the system trusts if not given
    #[arg(long, value_name = "FILE", conflicts_with = "pin")]
    ca: Option<PathBuf>,
    /// wss, fps: believe exactly the server with this key, whoever issued its certificate;
    /// repeatable
    #[arg(long, value_name = "sha256:HEX")]
    pin: Vec<Pin>,
}

impl ListenTls {
    /// The TLS that `url` needs.
    pub(crate) fn server(&self, url: &Url) -> anyhow::Result<Option<TlsServer>> {
        let scheme = url.scheme;
        if !scheme.is_tls() {
            let given = self.cert.is_some() || self.ca.is_some();
            return refuse_if(given, url).map(|()| None);
        }
        let Some(identity) = key_files(self.cert.as_ref(), self.key.as_ref()) else {
            return Err(WithStatus::usage(
                format!("{}:// needs a certificate", scheme.name()),
                "give --cert, --key and --ca; `farpipe cert` makes all three",
            ));
        };
        let options = ServerTlsOptions {
            identity,
            ca: self.ca.clone(),
            client_auth: ClientAuth::Required,
        };
        let server = TlsServer::new(options, scheme.alpn()).map_err(|error| failed(&error))?;
        Ok(Some(server))
    }
}

impl ConnectTls {
    /// What dials `url`.
    pub(crate) fn dial(&self, url: Url) -> anyhow::Result<TcpDial> {
        if !url.scheme.is_tls() {
            let given = self.cert.is_some() || self.ca.is_some() || !self.pin.is_empty();
            return refuse_if(given, &url).map(|()| TcpDial::new(url));
        }
        let options = ClientTlsOptions {
            identity: key_files(self.cert.as_ref(), self.key.as_ref()),
            ca: self.ca.clone(),
            pins: self.pin.clone(),
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
fn refuse_if(given: bool, url: &Url) -> anyhow::Result<()> {
    if given {
        let name = url.scheme.name();
        return Err(WithStatus::usage(
            format!("{name}:// has no TLS: certificates mean nothing there"),
            format!("write {name}s://"),
        ));
    }
    Ok(())
}

fn failed(error: &TlsConfigError) -> anyhow::Error {
    WithStatus::failure(error.to_string(), error.hint().map(str::to_owned))
}
