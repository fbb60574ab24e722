//! Certificates to test with: an authority and two ends, as files.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
    string::Ia5String,
};
use tempfile::TempDir;

use crate::clock::WallClock;
use crate::tls::{
    Alpn, ClientAuth, ClientTlsOptions, KeyFiles, ServerTlsOptions, TlsClient, TlsServer,
    read_certificate, serial_under, to_pem,
};

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) const ALPN: Alpn = Alpn("test");

/// Files of one authority: `ca.pem`, `server.pem`, `client.pem` and keys.
#[derive(Debug)]
pub(crate) struct Pki {
    dir: TempDir,
    issuer: Mutex<Option<Issuer<'static, KeyPair>>>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let pki = Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
            issuer: Mutex::default(),
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
            let now = date_time_ymd(1970, 1, 1) + WallClock::System.now();
            (params.not_before, params.not_after) = (now - 10 * DAY, now + 10 * DAY);
            let certificate = params.signed_by(&key, &issuer).expect("a certificate");
            self.write(&format!("{name}.pem"), "CERTIFICATE", certificate.der());
            self.write(
                &format!("{name}-key.pem"),
                "PRIVATE KEY",
                key.serialized_der(),
            );
        }
        *self.issuer.lock().expect("no panic") = Some(issuer);
    }

    /// Writes the certificate of `farpipe://test/KIND/NAME` as `KIND-NAME.pem`, good for the host `dns`.
    pub(crate) fn issue_to(&self, kind: &str, name: &str, dns: &str) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([dns.to_owned()]).expect("a name");
        let uri = Ia5String::try_from(format!("farpipe://test/{kind}/{name}")).expect("ASCII");
        params.subject_alt_names.push(SanType::URI(uri));
        let now = date_time_ymd(1970, 1, 1) + WallClock::System.now();
        (params.not_before, params.not_after) = (now - 10 * DAY, now + 10 * DAY);
        let issuer = self.issuer.lock().expect("no panic");
        let issuer = issuer.as_ref().expect("made with it");
        let certificate = params.signed_by(&key, issuer).expect("a certificate");
        let file = format!("{kind}-{name}");
        self.write(&format!("{file}.pem"), "CERTIFICATE", certificate.der());
        self.write(
            &format!("{file}-key.pem"),
            "PRIVATE KEY",
            key.serialized_der(),
        );
    }

    /// Writes `crl.pem`, in which these are, good for two days.
    pub(crate) fn revoke(&self, names: &[&str]) {
        let certificate = |name: &str| {
            let path = self.path(&format!("{name}.pem"));
            read_certificate(&path).expect("a certificate of our own")
        };
        let ca = certificate("ca");
        let now = date_time_ymd(1970, 1, 1) + WallClock::System.now();
        let revoked_certs = names.iter().map(|name| RevokedCertParams {
            serial_number: SerialNumber::from_slice(
                &serial_under(&ca, &certificate(name)).expect("issued by it"),
            ),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + 2 * DAY,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = self.issuer.lock().expect("no panic");
        let issuer = issuer.as_ref().expect("made with it");
        let list = params.signed_by(issuer).expect("a list");
        self.write("crl.pem", "X509 CRL", list.der());
    }

    pub(crate) fn server_by(&self, clock: WallClock) -> TlsServer {
        let options = ServerTlsOptions {
            clock,
            ..self.server_options()
        };
        TlsServer::new(options, ALPN).expect("good files")
    }

    pub(crate) fn client_by(&self, clock: WallClock) -> TlsClient {
        let options = ClientTlsOptions {
            clock,
            ..self.client_options()
        };
        TlsClient::new(options, ALPN).expect("good files")
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
            crl: None,
            client_auth: ClientAuth::Required,
            clock: WallClock::System,
        }
    }

    pub(crate) fn client_options(&self) -> ClientTlsOptions {
        ClientTlsOptions {
            identity: Some(self.files("client")),
            ca: Some(self.path("ca.pem")),
            ..ClientTlsOptions::default()
        }
    }

    pub(crate) fn server(&self) -> TlsServer {
        TlsServer::new(self.server_options(), ALPN).expect("good files")
    }

    pub(crate) fn client(&self) -> TlsClient {
        TlsClient::new(self.client_options(), ALPN).expect("good files")
    }
}
