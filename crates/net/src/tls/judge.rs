//! The stock verifiers, with two things around them: keys that are too weak to prove anything are
//! refused in words, and whom a refused client's certificate names is kept for the log.

use std::sync::{Arc, OnceLock};

use farpipe_proto::identity::{Identity, Kind};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use super::dates::span_between;
use super::identity::{PeerIdentity, identity_in_certificate, rsa_bits};

/// The shortest RSA keys that are believed; also what the provider of cryptography verifies.
pub(super) const RSA_BITS_MIN: usize = 2048;
/// Of a name that nobody has verified, in the log.
const NAME_MAX: usize = 100;

/// What a certificate was refused for beside rustls' own reasons, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Objection(String);

/// Refused in words of ours; the peer hears "certificate not acceptable".
fn objection(words: String) -> CertificateError {
    CertificateError::Other(OtherError(Arc::new(Objection(words))))
}

/// Whom the certificate names that a client has shown, if it has; not verified, escaped, cut.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown(Arc<OnceLock<String>>);

impl Shown {
    pub(super) fn name(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    fn see(&self, certificate: &CertificateDer<'_>) {
        let Some(peer) = PeerIdentity::of(certificate) else {
            return;
        };
        let mut name = peer.to_string();
        if let Some((cut, _)) = name.char_indices().nth(NAME_MAX) {
            name.truncate(cut);
            name.push('…');
        }
        // One certificate a connection.
        let _ = self.0.set(name);
    }
}

/// What an RSA key should have and does not.
pub(super) fn weakness(certificate: &CertificateDer<'_>) -> Option<String> {
    let bits = rsa_bits(certificate)?;
    (bits < RSA_BITS_MIN).then(|| {
        format!("its RSA key of {bits} bits is too weak: at least {RSA_BITS_MIN} are wanted")
    })
}

fn check_keys<'a>(chain: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> Result<(), Error> {
    match chain.into_iter().find_map(weakness) {
        Some(words) => Err(objection(words).into()),
        None => Ok(()),
    }
}

/// A DNS name is not enough: whoever may name hosts could name agents.
fn check_agent(certificate: &CertificateDer<'_>, agent: &str) -> Result<(), Error> {
    let identity = identity_in(certificate)?;
    if identity.kind() == Kind::Agent && identity.name() == agent {
        return Ok(());
    }
    Err(objection(format!(
        "its certificate is that of {identity}, not of the agent {agent}"
    ))
    .into())
}

/// A relay passes sessions on; it opens none and writes to no pipe.
fn check_opener(certificate: &CertificateDer<'_>) -> Result<(), Error> {
    let identity = identity_in(certificate)?;
    match identity.kind() {
        Kind::Client | Kind::Agent => Ok(()),
        Kind::Relay | Kind::Authority => Err(objection(format!(
            "its certificate is that of {identity}, and neither a client's nor an agent's"
        ))
        .into()),
    }
}

fn identity_in(certificate: &CertificateDer<'_>) -> Result<Identity, Error> {
    let nobody = || objection("its certificate names nobody by a farpipe:// URI".to_owned());
    let identity = identity_in_certificate(certificate);
    identity.ok_or_else(|| nobody().into())
}

const UNKNOWN: &str = "whether its certificate was revoked is not known: ";

/// The list that would say whether a certificate was revoked is too old.
pub(super) fn expired_list(now: UnixTime, until: UnixTime) -> CertificateError {
    objection(format!(
        "{UNKNOWN}the revocation list of --crl expired {} ago",
        span_between(until, now)
    ))
}

/// What is wrong with our list is not the peer's fault, and "unknown authority" would mislead it.
fn in_our_words(error: Error) -> Error {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownRevocationStatus) => objection(format!(
            "{UNKNOWN}--crl has no list of the authority that issued it"
        )),
        Error::InvalidCertificate(CertificateError::ExpiredRevocationListContext {
            time,
            next_update,
        }) => expired_list(time, next_update),
        Error::InvalidCertRevocationList(why) => objection(format!(
            "{UNKNOWN}the list of --crl was not made by the authority that it names, or cannot be \
             used ({why:?})"
        )),
        error => return error,
    }
    .into()
}

/// Judges clients.
#[derive(Debug)]
pub(super) struct ClientJudge {
    pub(super) stock: Arc<dyn ClientCertVerifier>,
    pub(super) shown: Shown,
    /// Whether it has to name somebody who may open a session: a client, or an agent.
    pub(super) opens: bool,
}

impl ClientCertVerifier for ClientJudge {
    fn offer_client_auth(&self) -> bool {
        self.stock.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.stock.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.stock.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.shown.see(end_entity);
        check_keys(std::iter::once(end_entity).chain(intermediates))?;
        let good = self
            .stock
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(in_our_words)?;
        if self.opens {
            check_opener(end_entity)?;
        }
        Ok(good)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.stock.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.stock.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.stock.supported_verify_schemes()
    }
}

/// Judges the writer of a pipe, which accepts sessions and has whatever certificate a client or an
/// agent has: no host's name is looked for in it.
#[derive(Debug)]
pub(super) struct WriterJudge(pub(super) Arc<dyn ClientCertVerifier>);

impl ServerCertVerifier for WriterJudge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        check_keys(std::iter::once(end_entity).chain(intermediates))?;
        self.0
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(in_our_words)?;
        check_opener(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Judges servers.
#[derive(Debug)]
pub(super) struct ServerJudge {
    pub(super) stock: Arc<WebPkiServerVerifier>,
    /// The agent that has to be there; `None`: whoever has the name that was dialled.
    pub(super) agent: Option<String>,
}

impl ServerCertVerifier for ServerJudge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        check_keys(std::iter::once(end_entity).chain(intermediates))?;
        let good = self
            .stock
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(in_our_words)?;
        if let Some(agent) = &self.agent {
            check_agent(end_entity, agent)?;
        }
        Ok(good)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.stock.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.stock.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.stock.supported_verify_schemes()
    }
}
