//! A relay with TLS, and certificates of one authority.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use farpipe::{Certificates, Settings};
use farpipe_net::tls::{ClientAuth, KeyFiles, ServerTlsOptions, TlsServer};
use farpipe_net::{Greeting, Listener, Url, WallClock, system_random};
use farpipe_relay::{Relay, RelayConfig};
use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// The relay's tasks, and everybody's certificates.
pub(crate) struct Net {
    dir: TempDir,
    url: Url,
    tasks: JoinSet<()>,
}

impl Net {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let authority = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test");
        let certificate = params.self_signed(&authority).expect("a certificate");
        write(&dir, "ca.pem", "CERTIFICATE", certificate.der());
        let issuer = Issuer::new(params, authority);
        for (kind, name, host) in [
            ("relay", "relay", "localhost"),
            ("agent", "web1", "web1.agent.farpipe"),
            ("client", "alice", "alice"),
        ] {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::new([host.to_owned()]).expect("a name");
            let uri = format!("farpipe://test/{kind}/{name}");
            let uri = Ia5String::try_from(uri).expect("ASCII");
            params.subject_alt_names.push(SanType::URI(uri));
            let certificate = params.signed_by(&key, &issuer).expect("a certificate");
            write(
                &dir,
                &format!("{name}.pem"),
                "CERTIFICATE",
                certificate.der(),
            );
            write(
                &dir,
                &format!("{name}-key.pem"),
                "PRIVATE KEY",
                key.serialized_der(),
            );
        }
        let mut net = Self {
            dir,
            url: "wss://localhost:0".parse().expect("a URL"),
            tasks: JoinSet::new(),
        };
        net.start().await;
        net
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a relay where the last one was.
    async fn start(&mut self) {
        let options = ServerTlsOptions {
            identity: KeyFiles {
                cert: self.path("relay.pem"),
                key: self.path("relay-key.pem"),
            },
            ca: Some(self.path("ca.pem")),
            crl: None,
            client_auth: ClientAuth::Required,
            clock: WallClock::System,
        };
        let tls = TlsServer::new(options, self.url.scheme.alpn()).expect("good files");
        let listener = Listener::bind_with(self.url.clone(), Some(tls), false, None)
            .await
            .expect("a port");
        self.url = listener.url().clone();
        let (relay, running) = Relay::new(RelayConfig::default());
        let door = Arc::new(relay).door(Greeting {
            software: "test".to_owned(),
            prover: None,
            keys: None,
            tokens: None,
            random: system_random,
        });
        self.tasks.spawn(listener.serve(Arc::new(door)));
        self.tasks.spawn(running.run(std::future::pending()));
    }

    /// Kills the relay, and starts another one in its place.
    pub(crate) async fn replace_relay(&mut self) {
        self.tasks.shutdown().await;
        self.start().await;
    }

    pub(crate) fn settings(&self, name: &str) -> Settings {
        Settings::new()
            .relay(self.url.to_string())
            .certificates(Certificates {
                cert: self.path(&format!("{name}.pem")),
                key: self.path(&format!("{name}-key.pem")),
                ca: self.path("ca.pem"),
            })
    }
}

fn write(dir: &TempDir, name: &str, what: &str, der: &[u8]) {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut options = fs::File::options();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(dir.path().join(name)).expect("a file");
    writeln!(file, "-----BEGIN {what}-----\n{text}\n-----END {what}-----").expect("room");
}
