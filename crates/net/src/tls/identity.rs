//! Who a certificate is about: read once, when the handshake is over, into a type.
//!
//! The identity is the one URI `farpipe://DOMAIN/KIND/NAME` among the alternative names; policy may
//! rely on it. The subject and other names are for people: the CN is never compared with anything.

use std::fmt;
use std::net::IpAddr;

use farpipe_proto::identity::{Caller, Fingerprint, Identity, Kind};
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::prelude::X509Certificate;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Name;

use super::vouched::Vouched;
use crate::clock::WallClock;

/// What a peer's certificate says of it. It was verified before this was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The one farpipe URI, if there is exactly one.
    pub identity: Option<Identity>,
    /// The subject, for people, escaped.
    pub subject: String,
    /// SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// What has verified it, where it was verified by this side as the one that accepts.
    pub vouched: Vouched,
}

/// What a certificate says, for people. Whether it is true is not asked here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whom it is about, escaped.
    pub subject: String,
    /// Who issued it, escaped.
    pub issuer: String,
    /// The last whole day on which it is good, counted from today; negative if that has passed.
    pub days_left: i64,
}

impl CertificateFacts {
    /// Reads a certificate; `None` if it is none.
    #[must_use]
    pub fn read(der: &[u8], clock: &WallClock) -> Option<Self> {
        const DAY_SECS: i64 = 86_400;
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let now = i64::try_from(clock.now().as_secs()).ok()?;
        let left = certificate.validity().not_after.timestamp() - now;
        let escaped = |name: &X509Name<'_>| name.to_string().escape_debug().to_string();
        Some(Self {
            subject: escaped(certificate.subject()),
            issuer: escaped(certificate.issuer()),
            days_left: left.div_euclid(DAY_SECS),
        })
    }
}

/// The identity in a certificate that nobody has verified here.
#[must_use]
pub fn identity_in_certificate(der: &[u8]) -> Option<Identity> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    only_identity(&certificate)
}

/// The hosts that a certificate is for: names in small letters, and addresses.
#[must_use]
pub fn hosts_in_certificate(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = parse_x509_certificate(der) else {
        return Vec::new();
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let host = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    };
    names.value.general_names.iter().filter_map(host).collect()
}

impl PeerIdentity {
    /// Of a certificate that was verified.
    pub(super) fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        Some(Self {
            identity: only_identity(&certificate).filter(|who| who.kind() != Kind::Authority),
            subject: certificate.subject().to_string().escape_debug().to_string(),
            fingerprint: Sha256::digest(der).into(),
            vouched: Vouched::default(),
        })
    }

    pub(super) fn vouched_for(self, vouched: Vouched) -> Self {
        Self { vouched, ..self }
    }

    /// Whom a policy decides on, if the connection on which this was shown ends here.
    #[must_use]
    pub fn direct(&self) -> Option<Caller> {
        Some(Caller::Direct {
            identity: self.identity.clone()?,
            fingerprint: self.fingerprint,
        })
    }

    /// Whom a policy decides on, if this was shown in the session itself.
    #[must_use]
    pub fn end_to_end(&self) -> Option<Caller> {
        Some(Caller::EndToEnd {
            identity: self.identity.clone()?,
            fingerprint: self.fingerprint,
        })
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.identity {
            Some(identity) => write!(f, "{identity}"),
            None => f.write_str(&self.subject),
        }
    }
}

/// Two identities are none: whoever checks one could mean the other.
fn only_identity(certificate: &X509Certificate<'_>) -> Option<Identity> {
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with("farpipe:") => Some(*uri),
            _ => None,
        });
    let (first, second) = (uris.next()?, uris.next());
    let identity = first.parse().ok()?;
    second.is_none().then_some(identity)
}

/// Whether a certificate may issue others.
pub(super) fn is_authority(der: &CertificateDer<'_>) -> bool {
    parse_x509_certificate(der).is_ok_and(|(_, certificate)| certificate.is_ca())
}

/// SHA-256 of the public key (SubjectPublicKeyInfo), which is what a pin names.
pub(super) fn key_digest(der: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    Some(Sha256::digest(certificate.public_key().raw).into())
}

/// The length of an RSA key; `None` if the certificate's key is of another kind.
pub(super) fn rsa_bits(der: &CertificateDer<'_>) -> Option<usize> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    let PublicKey::RSA(key) = certificate.public_key().parsed().ok()? else {
        return None;
    };
    let zeros = key.modulus.iter().take_while(|byte| **byte == 0).count();
    Some(8 * (key.modulus.len() - zeros))
}
