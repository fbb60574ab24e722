//! What a certificate says.

use rustls::pki_types::CertificateDer;

use super::identity::{key_digest, rsa_bits};
use super::{CertificateFacts, PeerIdentity, hosts_in_certificate, identity_in_certificate};
use crate::clock::WallClock;

/// A certificate that nobody has verified. An identity stands in it letter for letter, and what is shown
/// of it moves no cursor.
pub fn certificate(der: &[u8]) {
    let identity = identity_in_certificate(der);
    if let Some(identity) = &identity {
        let text = identity.to_string();
        assert_eq!(text.parse().as_ref(), Ok(identity));
        assert!(der.windows(text.len()).any(|part| part == text.as_bytes()));
    }
    let der_of = CertificateDer::from(der);
    if let Some(peer) = PeerIdentity::of(&der_of) {
        assert!(peer.identity.is_none() || peer.identity == identity);
        assert!(!peer.to_string().chars().any(char::is_control));
    } else {
        assert_eq!(identity, None);
    }
    if let Some(facts) = CertificateFacts::read(der, &WallClock::System) {
        let shown = [facts.subject, facts.issuer].concat();
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
    for host in hosts_in_certificate(der) {
        assert_eq!(host, host.to_ascii_lowercase());
    }
    assert!(rsa_bits(&der_of).is_none() || key_digest(&der_of).is_some());
}
