//! Sources of connections that failed to show who they are, or broke the protocol, too often: most of what
//! comes from them is closed before anything is spent on it.
//!
//! Not all of it: behind one address there may be honest peers too, and one that is a proxy's has everybody
//! behind it. One connection in [`PENALTY_EVERY`] gets through. Nothing is counted of connections that were cut,
//! since networks do that, nor of this host's own. Behind a proxy that speaks HTTP the source is known too late to close
//! anything: there the proxy is to do it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use farpipe_proto::limits::{
    PENALTY_BROKEN, PENALTY_EVERY, PENALTY_FAILED, PENALTY_FROM, PENALTY_MAX, PENALTY_SOURCES_MAX,
};
use tokio::time::Instant;

use crate::carrier::CarrierError;
use crate::handshakes::source;
use crate::link::HandshakeError;
use crate::peer::Peer;

/// Of one listener. Policy when full: whose penalty is over first is forgotten.
#[derive(Debug, Default)]
pub(crate) struct Penalties(Mutex<BTreeMap<IpAddr, Penalty>>);

#[derive(Debug, Clone, Copy)]
struct Penalty {
    /// When it is served in full.
    until: Instant,
    /// When one got through last though there was a penalty.
    through: Option<Instant>,
}

/// How long a failed handshake is counted.
fn weight(error: &HandshakeError) -> Duration {
    match error {
        HandshakeError::Decode(_) | HandshakeError::Carrier(CarrierError::Protocol { .. }) => {
            PENALTY_BROKEN
        }
        HandshakeError::Tls(_) | HandshakeError::Link(_) => PENALTY_FAILED,
        // Who was let in and is refused something; who was cut, or slow, for which there are other limits;
        // pages that browsers open.
        HandshakeError::Carrier(_)
        | HandshakeError::Refused(_)
        | HandshakeError::TimedOut
        | HandshakeError::Upgrade(_)
        | HandshakeError::TlsCut(_)
        | HandshakeError::Endless
        | HandshakeError::Foreign
        | HandshakeError::Unserved(_) => Duration::ZERO,
    }
}

impl Penalties {
    /// Whether a connection may begin its handshake.
    pub(crate) fn admits(&self, from: &Peer) -> bool {
        self.admits_at(from, Instant::now())
    }

    /// A handshake has failed.
    pub(crate) fn count(&self, from: &Peer, error: &HandshakeError) {
        self.add(from, weight(error), Instant::now());
    }

    fn admits_at(&self, from: &Peer, now: Instant) -> bool {
        let mut penalties = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(penalty) = penalties.get_mut(&source(from)) else {
            return true;
        };
        if penalty.until - now < PENALTY_FROM && penalty.through.is_none() {
            return true;
        }
        if penalty.until <= now {
            penalties.remove(&source(from));
            return true;
        }
        let is_due = penalty
            .through
            .is_none_or(|through| now - through >= PENALTY_EVERY);
        if is_due {
            penalty.through = Some(now);
        }
        is_due
    }

    fn add(&self, from: &Peer, weight: Duration, now: Instant) {
        if weight.is_zero() || from.address().to_canonical().is_loopback() {
            return;
        }
        let mut penalties = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let source = source(from);
        if !penalties.contains_key(&source) && penalties.len() >= PENALTY_SOURCES_MAX {
            penalties.retain(|_, penalty| penalty.until > now);
            let first = penalties.iter().min_by_key(|(_, penalty)| penalty.until);
            let first = first.map(|(source, _)| *source);
            if let Some(first) = first.filter(|_| penalties.len() >= PENALTY_SOURCES_MAX) {
                penalties.remove(&first);
            }
        }
        let penalty = penalties.entry(source).or_insert(Penalty {
            until: now,
            through: None,
        });
        penalty.until = (penalty.until.max(now) + weight).min(now + PENALTY_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;

    fn at(address: Ipv4Addr) -> Peer {
        Peer::at(SocketAddr::new(address.into(), 1))
    }

    fn from(last: u8) -> Peer {
        at(Ipv4Addr::new(192, 0, 2, last))
    }

    /// A source that has failed so often that a penalty began.
    fn penalised(now: Instant) -> Penalties {
        let penalties = Penalties::default();
        let mut weight = Duration::ZERO;
        while weight < PENALTY_FROM {
            assert!(penalties.admits_at(&from(1), now), "after {weight:?}");
            penalties.add(&from(1), PENALTY_FAILED, now);
            weight += PENALTY_FAILED;
        }
        penalties
    }

    #[test]
    fn who_fails_too_often_gets_one_connection_through_in_a_while_and_nobody_else_suffers() {
        let now = Instant::now();
        let penalties = penalised(now);
        let through = (0..1_000).filter(|_| penalties.admits_at(&from(1), now));
        assert_eq!(through.count(), 1);
        assert!(penalties.admits_at(&from(2), now));
        assert!(!penalties.admits_at(&from(1), now + PENALTY_EVERY / 2));
        assert!(penalties.admits_at(&from(1), now + PENALTY_EVERY));
        assert!(!penalties.admits_at(&from(1), now + PENALTY_EVERY));
    }

    #[test]
    fn a_penalty_is_served_in_time_however_long_the_flood_was() {
        let now = Instant::now();
        let penalties = penalised(now);
        for _ in 0..10_000 {
            penalties.add(&from(1), PENALTY_BROKEN, now);
        }
        assert!(penalties.admits_at(&from(1), now));
        let nearly = now + PENALTY_MAX - Duration::from_millis(1);
        assert!(penalties.admits_at(&from(1), nearly));
        assert!(!penalties.admits_at(&from(1), nearly));
        for _ in 0..3 {
            assert!(penalties.admits_at(&from(1), now + PENALTY_MAX));
        }
    }

    #[test]
    fn what_networks_do_and_this_hosts_own_are_not_counted() {
        let now = Instant::now();
        let penalties = Penalties::default();
        for error in [HandshakeError::TimedOut, HandshakeError::Endless] {
            (0..100).for_each(|_| penalties.count(&from(1), &error));
        }
        let own = at(Ipv4Addr::LOCALHOST);
        (0..100).for_each(|_| penalties.add(&own, PENALTY_BROKEN, now));
        for _ in 0..100 {
            assert!(penalties.admits_at(&from(1), now) && penalties.admits_at(&own, now));
        }
    }

    #[test]
    fn many_sources_take_bounded_room_and_the_worst_are_remembered() {
        let now = Instant::now();
        let penalties = penalised(now);
        (0..10).for_each(|_| penalties.add(&from(1), PENALTY_FAILED, now));
        for n in 0..2 * u32::try_from(PENALTY_SOURCES_MAX).expect("few") {
            let from = at(Ipv4Addr::from_bits(0x0a00_0000 + n));
            penalties.add(&from, PENALTY_FAILED, now);
        }
        let len = penalties.0.lock().expect("nobody panicked").len();
        assert_eq!(len, PENALTY_SOURCES_MAX);
        assert!(penalties.admits_at(&from(1), now) && !penalties.admits_at(&from(1), now));
    }
}
