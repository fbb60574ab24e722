//! Certificates and keys as files: read, checked, and explained when they are wrong.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::Access;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::dates::{Concern, Dates, span};
use super::identity::is_authority;
use super::judge::weakness;
use super::verify::Pin;

/// Longest file that is read: a system's whole bundle has a quarter of it.
const FILE_MAX: u64 = 1 << 20;

/// A certificate with its chain, and its key: PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFiles {
    /// The certificate, then those that lead to its authority.
    pub cert: PathBuf,
    /// Its private key, readable by its owner only.
    pub key: PathBuf,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct FileError {
    path: PathBuf,
    what: String,
    hint: Option<String>,
}

impl FileError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    pub(super) fn new(path: &Path, what: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            what: what.into(),
            hint: None,
        }
    }

    pub(super) fn hinted(self, hint: impl Into<String>) -> Self {
        let hint = Some(hint.into());
        Self { hint, ..self }
    }
}

/// A certificate that vouches for itself, and its key, in memory only: whoever is to believe it is
/// given its pin.
pub struct SelfSigned {
    cert: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    pin: Pin,
}

impl SelfSigned {
    /// Takes both as DER, the key as PKCS #8; `None` if the certificate is none.
    #[must_use]
    pub fn new(cert: Vec<u8>, key: Vec<u8>) -> Option<Self> {
        let key = Zeroizing::new(key);
        let pin = Pin::of(&cert)?;
        Some(Self { cert, key, pin })
    }

    /// What shows that it is the one.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.pin
    }

    pub(super) fn certified(
        &self,
        provider: &CryptoProvider,
    ) -> Result<Arc<CertifiedKey>, rustls::Error> {
        let key = PrivatePkcs8KeyDer::from(self.key.to_vec());
        let chain = vec![self.cert.clone().into()];
        CertifiedKey::from_der(chain, key.into(), provider).map(Arc::new)
    }
}

impl fmt::Debug for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SelfSigned").field(&self.pin).finish()
    }
}

impl KeyFiles {
    /// Reads both and checks that they belong together.
    pub(super) fn load(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, FileError> {
        let chain = certificates(&self.cert)?;
        if let Some(weakness) = chain.first().and_then(weakness) {
            return Err(FileError::new(&self.cert, weakness)
                .hinted("`farpipe cert issue` makes a certificate with an ECDSA key"));
        }
        let key = private_key(&self.key)?;
        let certified =
            CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => FileError::new(
                    &self.key,
                    format!("is not the key of the certificate {}", self.cert.display()),
                ),
                error => FileError::new(&self.cert, format!("cannot be used: {error}")),
            })?;
        Ok(Arc::new(certified))
    }

    /// Says what whoever runs this side should know of the dates of its own certificate. A warning,
    /// not an error: a pin believes it all the same, and it may be the clock that is wrong.
    pub(super) fn warn(&self, own: &CertifiedKey, now: UnixTime) {
        let shown = self.cert.display();
        let dates = own.cert.first().and_then(|leaf| Dates::of(leaf).ok());
        match dates.and_then(|dates| dates.concern(now)) {
            Some(Concern::Expired(ago)) => tracing::warn!(
                "{shown}: this certificate expired {} ago: no client believes it, but by a pin; \
                 issue a new one, or see `date`",
                span(ago)
            ),
            Some(Concern::Early(left)) => tracing::warn!(
                "{shown}: this certificate is not yet valid, it will be in {}: no client believes it, \
                 but by a pin; see `date`",
                span(left)
            ),
            Some(Concern::Soon(left)) => tracing::warn!(
                "{shown}: this certificate expires in {}; a new one in its place is used at once",
                span(left)
            ),
            None => {}
        }
    }
}

/// The first certificate of a PEM file, as DER.
///
/// # Errors
/// [`FileError`].
pub fn read_certificate(path: &Path) -> Result<Vec<u8>, FileError> {
    let first = certificates(path)?.into_iter().next();
    Ok(first.map(|der| der.to_vec()).unwrap_or_default())
}

/// The private key of a PEM file, as DER; never of one that others can read.
///
/// # Errors
/// [`FileError`].
pub fn read_private_key(path: &Path) -> Result<Vec<u8>, FileError> {
    Ok(private_key(path)?.secret_der().to_vec())
}

/// What is in a file that holds a secret, which `what` names; never of one that others can read.
///
/// # Errors
/// [`FileError`].
pub fn read_private(path: &Path, what: &str) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let meta = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    let mode = meta.mode() & 0o777;
    if is_open(mode, meta.uid(), rustix::process::geteuid().as_raw()) {
        return Err(FileError::new(
            path,
            format!("this {what} is open to others (mode {mode:04o})"),
        )
        .hinted(format!("chmod 600 {}", path.display())));
    }
    read(path).map(Zeroizing::new)
}

/// Whether others than the one who reads it may have it. Root's files may be read by a group, of whoever is not
/// root: that is how a secret is given to a service that cannot change it (Kubernetes' `fsGroup`).
fn is_open(mode: u32, owner: u32, reader: u32) -> bool {
    let is_given = owner == 0 && reader != 0;
    mode & if is_given { 0o037 } else { 0o077 } != 0
}

/// DER as PEM (RFC 7468).
#[must_use]
pub fn to_pem(label: &str, der: &[u8]) -> String {
    const LINE: usize = 64;
    let mut text = format!("-----BEGIN {label}-----\n");
    let encoded = STANDARD.encode(der);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// The authorities in a file; one at least.
pub(super) fn authorities(path: &Path) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    let found = certificates(path).map_err(|error| {
        let hint = "name the file of the authority that issued the other side's certificate; \
                    `farpipe cert init` makes one: ca.pem";
        match error.hint() {
            Some(_) => error,
            None => error.hinted(hint),
        }
    })?;
    for certificate in found {
        if !is_authority(&certificate) {
            return Err(FileError::new(
                path,
                "a leaf cannot issue: this is no authority's certificate",
            )
            .hinted("give the certificate of the authority that issued it"));
        }
        if let Some(weakness) = weakness(&certificate) {
            return Err(FileError::new(path, weakness));
        }
        roots
            .add(certificate)
            .map_err(|error| FileError::new(path, format!("cannot be used: {error}")))?;
    }
    Ok(roots)
}

/// The certificates in a PEM file; one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| no_pem(path, &error))?;
    if found.is_empty() {
        return Err(FileError::new(path, "holds no certificate in PEM form"));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let text = read_private(path, "key")?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => FileError::new(
            path,
            "holds no private key in PEM form, or one with a password",
        ),
        error => no_pem(path, &error),
    })
}

/// Why a file cannot be read as PEM; the library shows bytes where people want words.
pub(super) fn no_pem(path: &Path, error: &pem::Error) -> FileError {
    match error {
        pem::Error::MissingSectionEnd { .. } => {
            FileError::new(path, "is cut short: a section in it has no end")
        }
        error => FileError::new(path, format!("is no PEM file: {error}")),
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let meta = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !meta.is_file() {
        return Err(FileError::new(
            path,
            "is no regular file, so there is nothing in it",
        ));
    }
    if meta.len() > FILE_MAX {
        return Err(FileError::new(path, "is longer than 1 MiB"));
    }
    fs::read(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &io::Error) -> FileError {
    match error.kind() {
        io::ErrorKind::NotFound => FileError::new(path, "no such file"),
        // Which asks for the mode alone.
        io::ErrorKind::PermissionDenied if rustix::fs::access(path, Access::READ_OK).is_ok() => {
            FileError::new(
                path,
                "cannot be read: its mode allows it, and a sandbox does not",
            )
            .hinted("a relay reads in the directories that it knew when it began: start it anew")
        }
        io::ErrorKind::PermissionDenied => {
            FileError::new(path, "cannot be read: permission denied")
                .hinted("run as the user whom the file belongs to")
        }
        _ => FileError::new(path, format!("cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::is_open;

    #[test]
    fn a_group_may_read_what_root_gives_to_it_and_nothing_else() {
        let (root, service) = (0, 65532);
        for (mode, owner, reader, expected) in [
            (0o600, service, service, false),
            (0o400, root, root, false),
            (0o440, root, service, false),
            (0o640, root, service, false),
            (0o440, service, service, true),
            (0o440, root, root, true),
            (0o440, 1000, service, true),
            (0o460, root, service, true),
            (0o444, root, service, true),
            (0o604, root, service, true),
        ] {
            let is = is_open(mode, owner, reader);
            assert_eq!(is, expected, "{mode:04o} of {owner}, read by {reader}");
        }
    }
}
