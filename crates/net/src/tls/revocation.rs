//! Certificates that were taken back before their time: revocation lists (CRL, RFC 5280) as files.
//!
//! Nothing is fetched from anywhere: whoever revokes distributes the file, as he does authorities.

use std::path::Path;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::{parse_x509_certificate, parse_x509_crl};

use super::dates::{Dates, unix_time};
use super::files::{FileError, no_pem, read};

/// The lists that a side goes by, and how long it may.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) lists: Vec<CertificateRevocationListDer<'static>>,
    /// The dates of the one that has to be replaced first; `None`: of none.
    pub(super) dates: Option<Dates>,
}

impl Lists {
    /// Reads a file with a list or more.
    pub(super) fn read(path: &Path) -> Result<Self, FileError> {
        let lists = lists(path)?;
        let mut dates: Option<Dates> = None;
        for list in &lists {
            let (_, parsed) = parse_x509_crl(list).map_err(|_| malformed(path))?;
            // RFC 5280 wants the date; a list without it is not used by the verifier either.
            let next = parsed.next_update().ok_or_else(|| malformed(path))?;
            let its = Dates {
                from: unix_time(parsed.last_update()),
                until: unix_time(next),
            };
            if dates.is_none_or(|first| its.until < first.until) {
                dates = Some(its);
            }
        }
        Ok(Self { lists, dates })
    }

    /// Until when all of them may be relied on.
    pub(super) fn until(&self) -> Option<UnixTime> {
        self.dates.map(|dates| dates.until)
    }
}

/// A certificate that was taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Its serial number, big-endian.
    pub serial: Vec<u8>,
    /// When it was taken back, in seconds since 1970.
    pub at: u64,
}

/// What a list says, for whoever writes the next one. Its signature is not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevocationList {
    /// Its number; each list of an authority has a higher one.
    pub number: u64,
    /// In the order in which they stand there.
    pub revoked: Vec<Revoked>,
}

impl RevocationList {
    /// Reads the one list in a PEM file, which must be of the authority `ca`.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn read(path: &Path, ca: &[u8]) -> Result<Self, FileError> {
        let lists = lists(path)?;
        let [list] = lists.as_slice() else {
            return Err(FileError::new(path, "holds more than one revocation list"));
        };
        let (_, list) = CertificateRevocationList::from_der(list).map_err(|_| malformed(path))?;
        let (_, ca) = parse_x509_certificate(ca).map_err(|_| malformed(path))?;
        if list.issuer().as_raw() != ca.subject().as_raw() {
            return Err(FileError::new(
                path,
                "is the revocation list of another authority",
            ));
        }
        let number = list.crl_number().map_or(Some(0), |n| n.try_into().ok());
        Ok(Self {
            number: number.ok_or_else(|| malformed(path))?,
            revoked: list
                .iter_revoked_certificates()
                .map(|revoked| Revoked {
                    serial: positive(revoked.raw_serial()),
                    at: unix_time(revoked.revocation_date).as_secs(),
                })
                .collect(),
        })
    }
}

/// The serial number of a certificate that names the authority `ca` as its issuer; `None` if it
/// names another, or one of the two is no certificate.
#[must_use]
pub fn serial_under(ca: &[u8], certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, ca) = parse_x509_certificate(ca).ok()?;
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    let is_its_own = certificate.issuer().as_raw() == ca.subject().as_raw();
    is_its_own.then(|| positive(certificate.raw_serial()))
}

/// The lists in a PEM file; one at least.
fn lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, FileError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| no_pem(path, &error))?;
    if found.is_empty() {
        let is_certificate = CertificateDer::from_pem_slice(&text).is_ok();
        let what = if is_certificate {
            "holds a certificate, but no revocation list"
        } else {
            "holds no revocation list in PEM form"
        };
        return Err(FileError::new(path, what)
            .hinted("`farpipe cert revoke` writes one beside its authority: crl.pem"));
    }
    Ok(found)
}

/// DER puts a zero in front of what would be a negative number.
fn positive(serial: &[u8]) -> Vec<u8> {
    serial.strip_prefix(&[0]).unwrap_or(serial).to_vec()
}

fn malformed(path: &Path) -> FileError {
    FileError::new(path, "its revocation list is malformed")
}
