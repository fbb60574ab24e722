//! What a session has that another cannot have beside it: a port that it listens on, a file that it has
//! locked, the part of a file that is copied, a reader's place at the writer of a pipe.
//!
//! A client that was killed and one whose link was cut look alike from here, so a session keeps what it has
//! as long as it may be resumed. When the same caller asks for the same thing again meanwhile, one of the two
//! is more likely: the session without a link is ended, its client hears why if it comes back after all, and
//! the thing is free. A session that has a link keeps what it has, and so does one of another caller.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farpipe_net::{HostPort, Linked, SessionEnd, SessionHandle};
use farpipe_proto::identity::Caller;
use farpipe_proto::limits::{VACATE_LINKED, VACATE_MAX};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::Serving;
use crate::copy::{Claim, Claims};
use crate::endpoint::OpenError;

/// One thing, by the name that it is asked for: who asks again asks in the same words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Thing {
    /// A file or a socket.
    Path(PathBuf),
    /// A port to listen on.
    Port { host: String, port: u16 },
    /// A reader's place, by its number.
    Reader(usize),
}

impl Thing {
    pub(super) fn port(on: &HostPort) -> Self {
        let HostPort { host, port } = on.clone();
        Self::Port { host, port }
    }
}

/// Who has what, of all sessions of an agent.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// Several may read one file.
    holders: BTreeMap<Thing, Vec<(u64, Asker)>>,
    next: u64,
}

/// A session, and who has opened it.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) session: SessionHandle,
    pub(crate) caller: Option<Caller>,
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker")
            .field("caller", &self.caller)
            .finish_non_exhaustive()
    }
}

/// A thing is held until this is dropped; what holds it at the system is to be dropped before.
#[derive(Debug)]
pub(crate) struct Holding {
    held: Held,
    thing: Thing,
    number: u64,
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut table = self.held.lock();
        if let Some(holders) = table.holders.get_mut(&self.thing) {
            holders.retain(|(number, _)| *number != self.number);
            if holders.is_empty() {
                table.holders.remove(&self.thing);
            }
        }
    }
}

/// What is to be done about those who have a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nobody,
    /// One who keeps it.
    Keeps,
    /// The same caller, with a link, or in the session that asks.
    Linked,
    /// Only sessions that are ending.
    Ending,
}

/// Whether a thing is free now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vacated {
    /// Nobody here had it.
    Nobody,
    /// Those who had it have let go of it.
    Freed,
    /// Somebody keeps it.
    Kept,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the asker has it.
    pub(crate) fn hold(&self, thing: Thing, by: Asker) -> Holding {
        let mut table = self.lock();
        let number = table.next;
        table.next += 1;
        let holders = table.holders.entry(thing.clone()).or_default();
        holders.push((number, by));
        drop(table);
        Holding {
            held: self.clone(),
            thing,
            number,
        }
    }

    /// Looks who has it, and ends the sessions that are to give it up: all of them or none.
    fn look(&self, thing: &Thing, by: &Asker) -> Found {
        let table = self.lock();
        let Some(holders) = table.holders.get(thing) else {
            return Found::Nobody;
        };
        let holders: Vec<_> = holders.iter().map(|(_, holder)| holder.clone()).collect();
        // A session has a lock of its own.
        drop(table);
        let is_same = |holder: &Asker| match (&holder.caller, &by.caller) {
            (Some(has), Some(asks)) => has.is_surely(asks),
            (None, _) | (_, None) => false,
        };
        if !holders.iter().all(is_same) {
            return Found::Keeps;
        }
        let is_linked = |holder: &Asker| {
            let has_link = holder.session.linked() != Linked::Lost;
            !holder.session.is_over() && (has_link || holder.session.is_same(&by.session))
        };
        if holders.iter().any(is_linked) {
            return Found::Linked;
        }
        for holder in &holders {
            if !holder.session.is_over() {
                let later = by.caller.as_ref().map(ToString::to_string);
                let later = later.unwrap_or_default();
                let why = format!("its place was taken by a later command of {later}");
                holder.session.end(SessionEnd::Replaced(why));
            }
        }
        Found::Ending
    }

    /// Waits until nobody has it any more, if those who have it can be made to give it up: at most
    /// [`VACATE_MAX`].
    ///
    /// # Cancellation
    /// Safe; a session that was ended stays so.
    async fn vacate(&self, thing: &Thing, by: &Asker) -> Vacated {
        let began = Instant::now();
        let mut vacated = Vacated::Nobody;
        loop {
            match self.look(thing, by) {
                Found::Nobody => return vacated,
                Found::Keeps => return Vacated::Kept,
                // That its client was killed may be known in a moment.
                Found::Linked if began.elapsed() >= VACATE_LINKED => return Vacated::Kept,
                // What is left of its session may keep nothing that is wanted.
                Found::Ending if began.elapsed() >= VACATE_MAX => return Vacated::Freed,
                Found::Linked | Found::Ending => vacated = Vacated::Freed,
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Held {
    /// Whether all sessions that have something have a link.
    pub(crate) fn are_linked(&self) -> bool {
        let holders: Vec<Asker> = {
            let table = self.lock();
            let all = table.holders.values().flatten();
            all.map(|(_, holder)| holder.clone()).collect()
        };
        // A session has a lock of its own.
        let mut holders = holders.iter();
        holders.all(|holder| holder.session.linked() != Linked::Lost)
    }

    /// As for one thing, for those of which any is as good as another: makes one that can be made to give
    /// up its own do so. Whether one did.
    ///
    /// # Cancellation
    /// Safe; a session that was ended stays so.
    pub(crate) async fn vacate_any(&self, by: &Asker) -> bool {
        let began = Instant::now();
        loop {
            let things: Vec<Thing> = self.lock().holders.keys().cloned().collect();
            let mut may_be_lost = false;
            for thing in things {
                match self.look(&thing, by) {
                    Found::Nobody | Found::Keeps => {}
                    Found::Linked => may_be_lost = true,
                    Found::Ending => return self.vacate(&thing, by).await != Vacated::Kept,
                }
            }
            if !may_be_lost || began.elapsed() >= VACATE_LINKED {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Serving {
    fn asker(&self) -> Asker {
        Asker {
            session: self.handle.clone(),
            caller: self.caller.clone(),
        }
    }

    /// Notes that this stream's session has it.
    pub(super) fn hold(&self, thing: Thing) -> Holding {
        self.agent.held.hold(thing, self.asker())
    }

    /// For opening what may be held by another session.
    pub(super) fn attempts<'a>(&self, thing: &'a Thing) -> Attempts<'a> {
        Attempts {
            held: self.agent.held.clone(),
            by: self.asker(),
            thing,
            left: None,
        }
    }

    /// The parts of a copy, as its receiving end asks for them.
    pub(super) fn claims(&self) -> Arc<dyn Claims> {
        Arc::new(Parts {
            held: self.agent.held.clone(),
            by: self.asker(),
            runtime: Handle::current(),
        })
    }
}

/// Says whether to try again to open something.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    held: Held,
    by: Asker,
    thing: &'a Thing,
    /// Further tries, once it was asked who has it.
    left: Option<u32>,
}

impl Attempts<'_> {
    /// Behind an attempt that failed: whether another may succeed, once whoever has the thing has been made
    /// to give it up.
    ///
    /// # Cancellation
    /// Safe; a session that was ended stays so.
    pub(super) async fn is_worth_another(&mut self, error: &OpenError) -> bool {
        if !error.is_taken() {
            return false;
        }
        match &mut self.left {
            None => {
                let vacated = self.held.vacate(self.thing, &self.by).await;
                self.left = Some(match vacated {
                    // Let go of since it was tried.
                    Vacated::Nobody => 0,
                    Vacated::Freed => CLOSING_TRIES,
                    Vacated::Kept => return false,
                });
            }
            Some(0) => return false,
            Some(left) => {
                // A thread may be about to close it.
                *left -= 1;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        true
    }
}

#[derive(Debug)]
struct Parts {
    held: Held,
    by: Asker,
    runtime: Handle,
}

impl Claims for Parts {
    fn vacate(&self, part: &Path) {
        let thing = Thing::Path(part.to_owned());
        // Whether it is free now, its lock tells.
        let _ = self.runtime.block_on(self.held.vacate(&thing, &self.by));
    }

    fn claim(&self, part: &Path) -> Claim {
        let thing = Thing::Path(part.to_owned());
        Claim::new(self.held.hold(thing, self.by.clone()))
    }
}

/// Between two looks at whether somebody has let go: seldom more than one.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Tries to open what was let go of: a second of them.
const CLOSING_TRIES: u32 = 100;
