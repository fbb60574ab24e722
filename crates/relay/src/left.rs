//! Which agents and pipes were there and are no more, and why: so that who asks for one hears what is
//! known.

use std::collections::BTreeMap;

use farpipe_proto::Instant;

use crate::registry::Route;

/// Policy when full: the one that has been away longest is forgotten.
#[derive(Debug)]
pub(crate) struct Left {
    of: BTreeMap<Route, Leave>,
    /// In the order in which they left: whoever is oldest is found at once, for ten thousand may
    /// leave in one second.
    order: BTreeMap<u64, Route>,
    last: u64,
    most: usize,
}

#[derive(Debug)]
struct Leave {
    number: u64,
    at: Instant,
    why: &'static str,
}

impl Left {
    /// Remembers so many.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            of: BTreeMap::new(),
            order: BTreeMap::new(),
            last: 0,
            most,
        }
    }

    /// One has left.
    pub(crate) fn note(&mut self, route: Route, at: Instant, why: &'static str) {
        self.forget(&route);
        if self.of.len() >= self.most
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.of.remove(&oldest);
        }
        self.last += 1;
        let number = self.last;
        self.order.insert(number, route.clone());
        self.of.insert(route, Leave { number, at, why });
    }

    /// It is there again.
    pub(crate) fn forget(&mut self, route: &Route) {
        if let Some(leave) = self.of.remove(route) {
            self.order.remove(&leave.number);
        }
    }

    /// When it left, and why.
    pub(crate) fn get(&self, route: &Route) -> Option<(Instant, &'static str)> {
        self.of.get(route).map(|leave| (leave.at, leave.why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str) -> Route {
        Route::Agent(name.to_owned())
    }

    #[test]
    fn who_has_been_away_longest_is_forgotten_first() {
        let mut left = Left::new(2);
        let now = Instant::default();
        left.note(agent("a"), now, "it ended");
        left.note(agent("b"), now, "it ended");
        // Again, and later than the other.
        left.note(agent("a"), now, "it was silent");
        left.note(agent("c"), now, "it ended");
        assert_eq!(left.get(&agent("b")), None);
        assert_eq!(left.get(&agent("a")), Some((now, "it was silent")));
        left.forget(&agent("a"));
        left.note(agent("d"), now, "it ended");
        assert!(left.get(&agent("c")).is_some(), "there was room");
        assert_eq!((left.of.len(), left.order.len()), (2, 2));
    }
}
