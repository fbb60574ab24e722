//! What vouched for a certificate, to be asked again while its connection lasts: a certificate that is
//! revoked, or whose authority is taken away, must not go on until its owner happens to leave.
//!
//! Dates are not looked at again: an expired certificate ends no session that it began, as it always was; the
//! next connection needs a newer one.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, Error};

use super::dates::now;
use super::server::{ServerSide, Source};

/// How a certificate was verified here; empty where it was not, and then it cannot fall.
#[derive(Clone, Default)]
pub struct Vouched(Option<Arc<Inner>>);

struct Inner {
    by: Arc<Source>,
    chain: Vec<CertificateDer<'static>>,
    /// By what it was found good last. Files that are as they were need no second look.
    good_by: Mutex<Weak<ServerSide>>,
}

impl Vouched {
    pub(super) fn new(by: &Arc<Source>, chain: Vec<CertificateDer<'static>>) -> Self {
        if chain.is_empty() {
            return Self::default();
        }
        Self(Some(Arc::new(Inner {
            by: Arc::clone(by),
            chain,
            good_by: Mutex::default(),
        })))
    }

    /// Whether it can fall at all.
    pub(crate) fn can_fall(&self) -> bool {
        self.0.is_some()
    }

    /// Why it is not good any more. Blocks on the disk for a moment.
    pub(crate) fn fallen(&self) -> Option<&'static str> {
        let Inner { by, chain, good_by } = self.0.as_deref()?;
        let side = by.current();
        let mut good_by = good_by.lock().unwrap_or_else(PoisonError::into_inner);
        if good_by
            .upgrade()
            .is_some_and(|good| Arc::ptr_eq(&good, &side))
        {
            return None;
        }
        let (leaf, others) = chain.split_first()?;
        let clients = side.clients.as_ref()?;
        let why = match clients.verify_client_cert(leaf, others, now(&side.clock)) {
            Err(Error::InvalidCertificate(CertificateError::Revoked)) => {
                "its certificate was revoked"
            }
            Err(Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            )) => "the authority of its certificate is not believed any more",
            // Good; or what the next connection will be refused for.
            Ok(_) | Err(_) => {
                *good_by = Arc::downgrade(&side);
                return None;
            }
        };
        Some(why)
    }
}

/// Two identities are the same whoever has verified them.
impl PartialEq for Vouched {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Vouched {}

impl fmt::Debug for Vouched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Vouched").field(&self.0.is_some()).finish()
    }
}
