//! The places of requests that were let in: a bounded number, of which nobody can take all.
//!
//! Policy: who has as many as are free gets no more. Alone one can have half of all; of several each has
//! less, and however many there are, there is a place for the next one. Who is not known takes none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farpipe_proto::identity::Identity;
use farpipe_proto::limits::GATEWAY_REQUESTS_MAX;

/// The places, and who has them: an identity, or all of this host who need none.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<BTreeMap<Option<Identity>, usize>>);

/// One of them; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    who: Option<Identity>,
}

impl Places {
    /// A place for `who`; `None` if that is one too many.
    pub(super) fn take(self: &Arc<Self>, who: Option<Identity>) -> Option<Place> {
        let mut taken = self.lock();
        let free = GATEWAY_REQUESTS_MAX.saturating_sub(taken.values().sum());
        let own = taken.get(&who).copied().unwrap_or(0);
        if own >= free {
            return None;
        }
        taken.insert(who.clone(), own + 1);
        let places = Arc::clone(self);
        Some(Place { places, who })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Option<Identity>, usize>> {
        // Nothing here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if let Some(own) = taken.get_mut(&self.who) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(name: &str) -> Option<Identity> {
        let identity = format!("farpipe://example.org/client/{name}").parse();
        Some(identity.expect("an identity"))
    }

    fn all_for(places: &Arc<Places>, who: &Option<Identity>) -> Vec<Place> {
        std::iter::from_fn(|| places.take(who.clone())).collect()
    }

    #[test]
    fn one_alone_has_half_and_the_next_one_always_a_place() {
        let places = Arc::new(Places::default());
        let this_host = all_for(&places, &None);
        assert_eq!(this_host.len(), GATEWAY_REQUESTS_MAX / 2);
        let mut others = Vec::new();
        for n in 0..6 {
            let more = all_for(&places, &who(&format!("c{n}")));
            assert!(!more.is_empty(), "{n}");
            others.push(more);
        }
        assert_eq!(others[0].len(), GATEWAY_REQUESTS_MAX / 4);
        assert!(places.take(None).is_none());
        drop((this_host, others));
        assert!(places.lock().is_empty());
        assert_eq!(all_for(&places, &who("c0")).len(), GATEWAY_REQUESTS_MAX / 2);
    }
}
