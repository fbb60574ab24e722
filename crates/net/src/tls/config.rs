//! What each side is told about TLS, and what both sides have in common.
//!
//! Certificates are always verified; there is nothing to switch it off. TLS 1.3 only. Both sides
//! remember sessions, so that a reconnect costs no certificates and no signatures; what they remember
//! lives and dies with the configuration that verified it, so a changed file begins anew.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use super::dates::{Concern, Dates, now, span};
use super::error::{Peer, TlsError};
use super::files::{FileError, KeyFiles};
use super::identity::PeerIdentity;
use super::judge::expired_list;
use super::machine::Agreed;
use super::revocation::Lists;
use super::verify::Pin;
use crate::clock::WallClock;

/// What an accepting side is told.
#[derive(Debug, Clone)]
pub struct ServerTlsOptions {
    /// Its certificate and key.
    pub identity: KeyFiles,
    /// Authorities of clients. Without one no client certificate is asked for.
    pub ca: Option<PathBuf>,
    /// Revocation lists, one of each authority that issues: then a client whose certificate is in
    /// one, or whose authority has none there that is in date, is refused.
    pub crl: Option<PathBuf>,
    /// Whether a client without a certificate is refused; without `ca` it means nothing.
    pub client_auth: ClientAuth,
    /// What dates are compared with.
    pub clock: WallClock,
}

/// Whether clients must have a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Or they are refused.
    Required,
    /// One that they show must be good.
    Optional,
}

/// What a dialling side is told.
#[derive(Debug, Clone, Default)]
pub struct ClientTlsOptions {
    /// Its certificate and key, where the server wants one.
    pub identity: Option<KeyFiles>,
    /// Authorities of servers; `None`: those the system trusts.
    pub ca: Option<PathBuf>,
    /// Revocation lists of those authorities, as [`ServerTlsOptions::crl`]; means nothing for a pin.
    pub crl: Option<PathBuf>,
    /// The keys that are good, if not empty: then no authority is asked.
    pub pins: Vec<Pin>,
    /// What dates are compared with.
    pub clock: WallClock,
}

/// Why TLS cannot be configured as was said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A file is missing, open to others, or not what it should be.
    #[error(transparent)]
    File(#[from] FileError),
    /// The system names no authorities.
    #[error("the system has no certificate authorities ({0})")]
    NoSystemRoots(String),
    /// rustls refuses the combination.
    #[error("TLS cannot be configured: {0}")]
    Rustls(#[from] rustls::Error),
    /// No verifier can be made of the authorities.
    #[error("the authorities cannot be used: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl TlsConfigError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::File(error) => error.hint(),
            Self::NoSystemRoots(_) => Some("name the server's authority with --ca"),
            Self::Rustls(_) | Self::Verifier(_) => None,
        }
    }
}

/// The protocol inside TLS, told by ALPN: another one is refused in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alpn(pub &'static str);

/// What a handshake has told of the peer.
#[derive(Debug, Clone)]
pub struct Handshaken {
    /// Who it is, if it showed a certificate.
    pub peer: Option<PeerIdentity>,
    /// Its certificate, DER, if it showed one: [`CertificateFacts`] reads it.
    ///
    /// [`CertificateFacts`]: super::CertificateFacts
    pub certificate: Option<Vec<u8>>,
    /// Whether an earlier session was taken up again.
    pub resumed: bool,
}

pub(super) fn told(agreed: &Agreed) -> Handshaken {
    let leaf = agreed.leaf.as_ref();
    Handshaken {
        peer: leaf.and_then(PeerIdentity::of),
        certificate: leaf.map(|leaf| leaf.to_vec()),
        resumed: agreed.resumed,
    }
}

/// A resumed session relies on a certificate that was verified before, and may have expired since;
/// so may the lists that said it was not revoked. That it is in a newer list needs no look: another
/// list is another configuration, which remembers no session.
pub(super) fn still_good(
    agreed: &Agreed,
    peer: Peer,
    clock: &WallClock,
    lists_until: Option<UnixTime>,
) -> Result<(), TlsError> {
    let Some(leaf) = agreed.leaf.as_ref() else {
        return Ok(());
    };
    let now = now(clock);
    Dates::of(leaf)
        .and_then(|dates| dates.check(now))
        .map_err(|error| TlsError::certificate(peer, &error))?;
    match lists_until {
        Some(until) if now > until => Err(TlsError::certificate(peer, &expired_list(now, until))),
        _ => Ok(()),
    }
}

/// The lists in a file, if one is named; warns of those that have to be replaced.
pub(super) fn revocation_lists(path: Option<&Path>, now: UnixTime) -> Result<Lists, FileError> {
    let Some(path) = path else {
        return Ok(Lists::default());
    };
    let lists = Lists::read(path)?;
    let shown = path.display();
    match lists.dates.and_then(|dates| dates.concern(now)) {
        Some(Concern::Expired(ago)) => tracing::warn!(
            "{shown}: this revocation list expired {} ago: nobody whom it is about is believed",
            span(ago)
        ),
        Some(Concern::Soon(left)) => tracing::warn!(
            "{shown}: this revocation list expires in {}; then nobody whom it is about is believed",
            span(left)
        ),
        // A list that is too new is a clock that is behind; it says the same tomorrow.
        Some(Concern::Early(_)) | None => {}
    }
    Ok(lists)
}

/// TLS 1.3, the fastest cipher first: what both sides' processors do best is AES with 128 bits.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    })
}

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(now(self))
    }
}

impl fmt::Display for Handshaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.resumed {
            "TLS session resumed"
        } else {
            "TLS session made"
        })?;
        match &self.peer {
            Some(peer) => write!(f, " with {peer}"),
            None => Ok(()),
        }
    }
}
