//! Certificates to test with: an authority and two ends, as files.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, string::Ia5String,
};
use tempfile::TempDir;

use crate::tls::{
    Alpn, ClientAuth, ClientTlsOptions, KeyFiles, ServerTlsOptions, TlsClient, TlsServer, to_pem,
};

pub(crate) const ALPN: Alpn = Alpn("test");

/// Files of one authority: `ca.pem`, `server.pem`, `client.pem` and keys.
#[derive(Debug)]
pub(crate) struct Pki {
    dir: TempDir,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let pki = Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
        };
        pki.issue();
        pki
    }

    /// Makes all files anew, with another authority.
    pub(crate) fn issue(&self) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Two authorities of one name would be one with a wrong signature.
        let name: String = key
            .public_key_raw()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("a certificate");
        self.write("ca.pem", "CERTIFICATE", certificate.der());
        let issuer = Issuer::new(params, key);
        for name in ["server", "client"] {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
            let uri = Ia5String::try_from(format!("farpipe://test/client/{name}")).expect("ASCII");
            params.subject_alt_names.push(SanType::URI(uri));
            let certificate = params.signed_by(&key, &issuer).expect("a certificate");
            self.write(&format!("{name}.pem"), "CERTIFICATE", certificate.der());
            self.write(
                &format!("{name}-key.pem"),
                "PRIVATE KEY",
                key.serialized_der(),
            );
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, label: &str, der: &[u8]) {
        let text = to_pem(label, der);
        // Beside the old one and over it: a reader sees one or the other.
        let new = self.path("new");
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .expect("a file of our own");
        fs::rename(&new, self.path(name)).expect("the same directory");
    }

    pub(crate) fn files(&self, name: &str) -> KeyFiles {
        KeyFiles {
            cert: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}-key.pem")),
        }
    }

    pub(crate) fn server_options(&self) -> ServerTlsOptions {
        ServerTlsOptions {
            identity: self.files("server"),
            ca: Some(self.path("ca.pem")),
            client_auth: ClientAuth::Required,
        }
    }

    pub(crate) fn client_options(&self) -> ClientTlsOptions {
        ClientTlsOptions {
            identity: Some(self.files("client")),
            ca: Some(self.path("ca.pem")),
            pins: Vec::new(),
        }
    }

    pub(crate) fn server(&self) -> TlsServer {
        TlsServer::new(self.server_options(), ALPN).expect("good files")
    }

    pub(crate) fn client(&self) -> TlsClient {
        TlsClient::new(self.client_options(), ALPN).expect("good files")
    }
}
