//! How much of something this process has for all callers at once, and how much of that for each: so that
//! one caller who asks for much leaves something for the others. What is not there is refused at once,
//! nobody waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farpipe_proto::identity::Caller;

/// For all callers of this process.
#[derive(Debug)]
pub(crate) struct Quota {
    all_max: usize,
    each_max: usize,
    taken: Mutex<BTreeMap<Arc<str>, usize>>,
}

/// Nothing is left: for whom, and how much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// All callers together have it.
    All(usize),
    /// This one has its share.
    Caller(usize),
}

/// One of what there is, until dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    quota: &'static Quota,
    who: Arc<str>,
}

impl Quota {
    pub(crate) const fn new(all_max: usize, each_max: usize) -> Self {
        Self {
            all_max,
            each_max,
            taken: Mutex::new(BTreeMap::new()),
        }
    }

    /// Takes one.
    pub(crate) fn take(&'static self, who: &Arc<str>) -> Result<Taken, Full> {
        let mut taken = self.lock();
        let own = taken.get(who).copied().unwrap_or_default();
        if own >= self.each_max {
            return Err(Full::Caller(self.each_max));
        }
        if taken.values().sum::<usize>() >= self.all_max {
            return Err(Full::All(self.all_max));
        }
        taken.insert(Arc::clone(who), own + 1);
        drop(taken);
        Ok(Taken {
            quota: self,
            who: Arc::clone(who),
        })
    }

    /// A count is never half changed.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut taken = self.quota.lock();
        // Who has nothing is forgotten: callers come and go.
        match taken.get_mut(&self.who) {
            Some(own) if *own > 1 => *own -= 1,
            Some(_) | None => drop(taken.remove(&self.who)),
        }
    }
}

/// Whose share something is: one name has one, however it was proven.
pub(crate) fn whose(caller: Option<&Caller>) -> Arc<str> {
    let name = |caller: &Caller| match caller.identity() {
        Some(identity) => identity.to_string(),
        None => caller.source().to_owned(),
    };
    caller.map(name).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_leaves_something_for_the_others() {
        static QUOTA: Quota = Quota::new(5, 3);
        let (one, other) = (Arc::from("one"), Arc::from("other"));
        let mut ones: Vec<_> = (0..3).map(|_| QUOTA.take(&one).expect("a share")).collect();
        assert_eq!(QUOTA.take(&one).err(), Some(Full::Caller(3)));
        let others = [QUOTA.take(&other), QUOTA.take(&other)];
        assert!(others.iter().all(Result::is_ok));
        assert_eq!(QUOTA.take(&other).err(), Some(Full::All(5)));
        ones.pop();
        ones.push(QUOTA.take(&one).expect("it was given back"));
        drop((ones, others));
        assert!(QUOTA.lock().is_empty(), "nobody is remembered");
    }
}
