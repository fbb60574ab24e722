//! What went wrong in TLS, in words for the person at the keyboard.
//!
//! Three things decide what follows: whether a certificate was refused (final, whoever refused it),
//! whether the connection was cut (tried again), or whether TLS itself failed (final before a first
//! link, tried again later). What the other side says is a number; the words for it are ours.

use std::fmt;
use std::io;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, InvalidMessage};

use super::dates::span_between;
use super::judge::Objection;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// We dialled.
    Server,
    /// We accepted.
    Client,
}

/// Why a TLS connection is of no more use.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", words(*.peer, .cause))]
pub struct TlsError {
    peer: Peer,
    cause: Cause,
}

#[derive(Debug, Clone)]
enum Cause {
    /// The transport ended without close_notify.
    Truncated,
    /// We refuse the peer's certificate.
    Certificate(String, Option<&'static str>),
    /// The peer sent an alert.
    Alert(AlertDescription),
    /// What came is not TLS.
    NotTls,
    /// TLS failed otherwise.
    Failed(String),
}

impl TlsError {
    pub(super) fn new(peer: Peer, error: rustls::Error) -> Self {
        let cause = match error {
            rustls::Error::AlertReceived(alert) => Cause::Alert(alert),
            rustls::Error::InvalidCertificate(error) => {
                Cause::Certificate(certificate(peer, &error), certificate_advice(&error))
            }
            rustls::Error::NoCertificatesPresented => {
                Cause::Certificate("it has no certificate".to_owned(), None)
            }
            rustls::Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => Cause::NotTls,
            rustls::Error::PeerIncompatible(why) => Cause::Failed(format!(
                "no way to speak TLS 1.3 with the {peer} was found ({why:?})"
            )),
            rustls::Error::NoApplicationProtocol => Cause::Failed(format!(
                "the {peer} speaks TLS, but another protocol inside it"
            )),
            rustls::Error::DecryptError => {
                Cause::Failed("what arrived was changed on the way".to_owned())
            }
            error => Cause::Failed(format!("TLS failed: {error}")),
        };
        Self { peer, cause }
    }

    /// The transport ended, and the peer had not said that it would.
    pub(super) fn truncated(peer: Peer) -> Self {
        let cause = Cause::Truncated;
        Self { peer, cause }
    }

    /// We refuse the peer's certificate.
    pub(super) fn certificate(peer: Peer, error: &CertificateError) -> Self {
        let cause = Cause::Certificate(certificate(peer, error), certificate_advice(error));
        Self { peer, cause }
    }

    /// With whom the refused certificate names, for the log. Nobody vouches for that.
    pub(super) fn naming(mut self, name: &str) -> Self {
        if let Cause::Certificate(words, _) = &mut self.cause {
            words.push_str(&format!(" (it names {name})"));
        }
        self
    }

    /// The words for TLS inside a session, which no URL asked for.
    pub(super) fn inside(&self) -> String {
        match &self.cause {
            Cause::NotTls => format!("what came from the {} is not TLS", self.peer),
            cause => words(self.peer, cause),
        }
    }

    /// Whether a certificate was refused, here or there: trying again cannot help.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match &self.cause {
            Cause::Certificate(..) => true,
            Cause::Alert(alert) => is_about_certificate(*alert),
            Cause::Truncated | Cause::NotTls | Cause::Failed(_) => false,
        }
    }

    /// Whether the connection was cut, which says nothing of the peer.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        matches!(self.cause, Cause::Truncated)
    }

    /// What the dialling side can do about it.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        match &self.cause {
            Cause::Certificate(_, advice) => *advice,
            Cause::Alert(AlertDescription::CertificateRequired) => Some(
                "show a certificate of the authority that the listener names with --ca: give --cert \
                 and --key",
            ),
            Cause::Alert(alert) if is_about_certificate(*alert) => Some(
                "show one that is valid now, and of the authority that the listener names with --ca",
            ),
            Cause::NotTls => {
                Some("see which program listens there; a farpipe without TLS is on loopback only")
            }
            Cause::Truncated => Some("something between may cut TLS: a firewall, or a proxy"),
            Cause::Alert(_) | Cause::Failed(_) => None,
        }
    }

    /// The error of TLS inside an error of I/O.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Whether an error of I/O is a refused certificate.
    #[must_use]
    pub fn is_final_in(error: &io::Error) -> bool {
        Self::of(error).is_some_and(Self::is_final)
    }
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        let kind = match &error.cause {
            Cause::Truncated => io::ErrorKind::UnexpectedEof,
            Cause::Certificate(..) => io::ErrorKind::PermissionDenied,
            Cause::Alert(_) => io::ErrorKind::ConnectionAborted,
            Cause::NotTls | Cause::Failed(_) => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Client => "client",
        })
    }
}

fn words(peer: Peer, cause: &Cause) -> String {
    match cause {
        Cause::Truncated => "the connection was cut: it ended without TLS's closing alert".into(),
        Cause::Certificate(why, _) => format!("the {peer} was refused: {why}"),
        Cause::Alert(AlertDescription::CertificateRequired) if peer == Peer::Server => {
            "the server wants a client certificate: give --cert and --key".into()
        }
        Cause::Alert(alert) if is_about_certificate(*alert) => {
            format!(
                "the {peer} refused this certificate: {}",
                alert_words(*alert)
            )
        }
        Cause::Alert(alert) => format!("the {peer} ended TLS: {}", alert_words(*alert)),
        Cause::NotTls => format!(
            "the {peer} does not speak TLS (a URL without the s in front of :// may be the right one)"
        ),
        Cause::Failed(why) => why.clone(),
    }
}

fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

/// RFC 8446 section 6.2, in a few words.
fn alert_words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => "unknown certificate authority".into(),
        AlertDescription::CertificateExpired => "certificate expired or not yet valid".into(),
        AlertDescription::BadCertificate => "bad certificate".into(),
        AlertDescription::UnsupportedCertificate => "certificate is not for this use".into(),
        AlertDescription::CertificateRevoked => "certificate revoked".into(),
        AlertDescription::CertificateUnknown => "certificate not acceptable".into(),
        AlertDescription::AccessDenied => "access denied".into(),
        AlertDescription::CertificateRequired => "a certificate is required".into(),
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3".into(),
        AlertDescription::HandshakeFailure => "nothing both sides can use was found".into(),
        AlertDescription::NoApplicationProtocol => "it serves another protocol".into(),
        AlertDescription::BadRecordMac => "what it received was changed on the way".into(),
        AlertDescription::DecryptError => {
            "a signature is wrong, as when an authority was made anew under its old name".into()
        }
        alert => format!("{alert:?}"),
    }
}

/// Why we refuse a certificate.
fn certificate(peer: Peer, error: &CertificateError) -> String {
    match error {
        CertificateError::ExpiredContext { time, not_after } => {
            format!("certificate expired {} ago", span_between(*not_after, *time))
        }
        CertificateError::Expired => "certificate expired".into(),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "certificate is not yet valid: it will be in {}",
            span_between(*time, *not_before)
        ),
        CertificateError::NotValidYet => "certificate is not yet valid".into(),
        // Most often forgotten: a variable that sudo drops, too.
        CertificateError::UnknownIssuer if peer == Peer::Server => {
            "unknown certificate authority; --ca names one (for ws:wss:// the variable SSL_CERT_FILE \
             does), and a listener that printed a ticket is known by that"
                .into()
        }
        CertificateError::UnknownIssuer => "unknown certificate authority".into(),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => not_for(expected, presented),
        CertificateError::InvalidPurposeContext { required, .. } => format!(
            "certificate is not for this use: its extended key usage lacks {}",
            match required {
                rustls::ExtendedKeyPurpose::ClientAuth => "clientAuth".to_owned(),
                rustls::ExtendedKeyPurpose::ServerAuth => "serverAuth".to_owned(),
                required => required.to_string(),
            }
        ),
        CertificateError::InvalidPurpose => "certificate is not for this use".into(),
        CertificateError::BadSignature => {
            "unknown certificate authority: the one of that name has another key".into()
        }
        CertificateError::BadEncoding => "certificate is malformed".into(),
        CertificateError::Revoked => "certificate revoked".into(),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "certificate is signed in a way that is not believed: SHA-1, or a rare curve".into()
        }
        // Errors that rustls passes on from its verifier by their names.
        CertificateError::Other(error) => match error.to_string().as_str() {
            "EndEntityUsedAsCa" => {
                "a leaf cannot issue: its certificate was issued by one that is no authority's"
                    .into()
            }
            "CaUsedAsEndEntity" => "an authority's certificate does not name a host".into(),
            other => other.to_owned(),
        },
        error => format!("certificate not acceptable: {error}"),
    }
}

/// What the dialling side can do about a certificate that it refuses.
fn certificate_advice(error: &CertificateError) -> Option<&'static str> {
    Some(match error {
        CertificateError::ExpiredContext { .. } | CertificateError::Expired => {
            "issue the listener a new certificate; or this host's clock is wrong: see `date`"
        }
        CertificateError::NotValidYetContext { .. } | CertificateError::NotValidYet => {
            "one of the two hosts' clocks is wrong: see `date`"
        }
        CertificateError::NotValidForNameContext { .. } | CertificateError::NotValidForName => {
            "dial a name that the certificate has, or issue one with `--san HOST`"
        }
        CertificateError::InvalidPurposeContext { .. } | CertificateError::InvalidPurpose => {
            "issue one that is for servers: `farpipe cert issue` does"
        }
        CertificateError::Revoked => {
            "its authority has taken it back; issue the listener a new certificate"
        }
        CertificateError::Other(error) if error.0.is::<Objection>() => return None,
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "give the authority of the listener's certificate with --ca, or its ticket; one that \
             issued itself (self-signed) is believed by its key: --pin; if that is not it, something \
             between opens TLS: a proxy"
        }
        CertificateError::Other(error) if error.to_string() == "CaUsedAsEndEntity" => {
            "it issued itself (self-signed): issue the listener one of an authority, `farpipe cert` \
             does; or believe its key with --pin sha256:HEX in the place of --ca, where HEX is what \
             `openssl x509 -in CERT -pubkey -noout | openssl pkey -pubin -outform der | sha256sum` \
             says there"
        }
        CertificateError::Other(error) if error.to_string() == "EndEntityUsedAsCa" => {
            "issue the listener's certificate by an authority: `farpipe cert` does"
        }
        CertificateError::Other(_) => {
            "see that host and port are right, and copy the listener's newest ticket or pin"
        }
        _ => return None,
    })
}

/// More names do not help anybody and fill the screen.
const NAMES_SHOWN_MAX: usize = 5;

fn not_for(expected: &ServerName<'_>, presented: &[String]) -> String {
    let host = expected.to_str();
    let mut names: Vec<String> = presented
        .iter()
        .filter_map(|name| host_name(name))
        .collect();
    if names.is_empty() {
        return format!(
            "certificate is not for {host} (it names no host; a CN alone does not name a host)"
        );
    }
    if names.len() > NAMES_SHOWN_MAX {
        names.truncate(NAMES_SHOWN_MAX);
        names.push("…".to_owned());
    }
    format!(
        "certificate is not for {host} (it names: {})",
        names.join(", ")
    )
}

/// `DnsName("a.example")` and `IpAddress(127.0.0.1)` as people write them; other names, such as
/// URIs, are no hosts'.
fn host_name(presented: &str) -> Option<String> {
    let (kind, rest) = presented.split_once('(')?;
    if kind != "DnsName" && kind != "IpAddress" {
        return None;
    }
    let name = rest.strip_suffix(')')?.trim_matches('"');
    Some(name.escape_debug().to_string())
}
