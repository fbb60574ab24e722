//! From when until when a certificate is good: of a peer that is known from before, and of our own,
//! which nobody else tells us about in time.

use std::time::Duration;

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;

use crate::clock::WallClock;

/// What soon ends is said at most this long before, and not before the last quarter of its life: a
/// certificate for a day is no news.
const SOON_MAX: Duration = Duration::from_secs(14 * 86_400);
const SOON_PART: u32 = 4;

/// From when until when something is good, both included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dates {
    pub(super) from: UnixTime,
    pub(super) until: UnixTime,
}

/// How the dates and now go together, if there is something to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Concern {
    /// It was good until so long ago.
    Expired(Duration),
    /// It will be good in so long.
    Early(Duration),
    /// It is good, and only for so long.
    Soon(Duration),
}

impl Dates {
    /// Those of a certificate.
    pub(super) fn of(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let (_, certificate) =
            parse_x509_certificate(der).map_err(|_| CertificateError::BadEncoding)?;
        let validity = certificate.validity();
        Ok(Self {
            from: unix_time(validity.not_before),
            until: unix_time(validity.not_after),
        })
    }

    /// A resumed connection verifies no certificate again; its dates are still looked at.
    pub(super) fn check(self, time: UnixTime) -> Result<(), CertificateError> {
        let Self { from, until } = self;
        if time > until {
            let not_after = until;
            return Err(CertificateError::ExpiredContext { time, not_after });
        }
        if time < from {
            let not_before = from;
            return Err(CertificateError::NotValidYetContext { time, not_before });
        }
        Ok(())
    }

    /// What its owner should know now.
    pub(super) fn concern(self, now: UnixTime) -> Option<Concern> {
        let Self { from, until } = self;
        if now > until {
            return Some(Concern::Expired(between(until, now)));
        }
        if now < from {
            return Some(Concern::Early(between(now, from)));
        }
        let left = between(now, until);
        let soon = (between(from, until) / SOON_PART).min(SOON_MAX);
        (left < soon).then_some(Concern::Soon(left))
    }
}

fn between(from: UnixTime, to: UnixTime) -> Duration {
    Duration::from_secs(to.as_secs().saturating_sub(from.as_secs()))
}

pub(super) fn unix_time(time: ASN1Time) -> UnixTime {
    // Dates before 1970 are as good as its beginning.
    let secs = u64::try_from(time.timestamp()).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_secs(secs))
}

pub(super) fn now(clock: &WallClock) -> UnixTime {
    UnixTime::since_unix_epoch(clock.now())
}

/// A span of calendar time in its largest unit.
pub(super) fn span(time: Duration) -> String {
    let secs = time.as_secs();
    match secs {
        0..120 => format!("{secs} s"),
        120..7_200 => format!("{} min", secs / 60),
        7_200..172_800 => format!("{} h", secs / 3_600),
        _ => format!("{} d", secs / 86_400),
    }
}

/// The span between two times; none if they are in the wrong order.
pub(super) fn span_between(from: UnixTime, to: UnixTime) -> String {
    span(between(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(days * 86_400))
    }

    #[test]
    fn an_owner_hears_of_dates_in_time_and_not_too_early() {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let year = Dates {
            from: at(1_000),
            until: at(1_365),
        };
        assert_eq!(year.concern(at(998)), Some(Concern::Early(days(2))));
        assert_eq!(year.concern(at(1_000)), None);
        assert_eq!(year.concern(at(1_351)), None);
        assert_eq!(year.concern(at(1_352)), Some(Concern::Soon(days(13))));
        assert_eq!(year.concern(at(1_368)), Some(Concern::Expired(days(3))));
        let four_days = Dates {
            from: at(0),
            until: at(4),
        };
        assert_eq!(four_days.concern(at(3)), None);
    }

    #[test]
    fn a_resumed_session_ends_with_its_certificate_and_does_not_begin_before_it() {
        let dates = Dates {
            from: at(10),
            until: at(20),
        };
        dates.check(at(10)).expect("from the first second");
        dates.check(at(20)).expect("to the last second");
        dates.check(at(21)).expect_err("it has expired");
        dates.check(at(9)).expect_err("it is not yet valid");
    }
}
