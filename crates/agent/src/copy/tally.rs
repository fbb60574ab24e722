//! What is told of a copy while it runs: counts for a display, and events in words.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use farpipe_proto::link::handshake::printable;

use super::error::CopyError;
use super::message::{Counts, Trouble};
use crate::shown::shown;

/// Counts of a copy, as one end sees them.
#[derive(Debug, Default)]
pub struct Tally {
    /// Bytes of the files that are to be copied, as far as they are known.
    pub wanted_bytes: AtomicU64,
    /// These files.
    pub wanted_files: AtomicU64,
    /// Bytes of them that have been sent or received, holes and what was kept as well.
    pub moved_bytes: AtomicU64,
    /// Files that have been sent or received.
    pub moved_files: AtomicU64,
    /// Entries that failed, at either end.
    pub troubles: AtomicU64,
    /// Hosts that have taken their end of it.
    pub hosts: AtomicU64,
    /// Everything that is to be copied is known.
    pub is_known: AtomicBool,
}

/// Something that is worth a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An entry was not copied.
    Trouble {
        /// Which, as [`shown`] has it.
        path: String,
        /// Why.
        message: String,
        /// At which end.
        side: Side,
    },
    /// An entry would be copied to there.
    Would(Vec<u8>),
    /// A file goes on where an earlier copy of it was cut.
    Kept {
        /// Which, as [`shown`] has it.
        path: String,
        /// Bytes that need not come again.
        kept: u64,
        /// They were read again where they lie: somebody else may have been at them.
        is_reread: bool,
    },
    /// What is kept of a file fits the source no more: it begins again.
    Restarted {
        /// Which, as [`shown`] has it.
        path: String,
        /// Why.
        why: &'static str,
    },
}

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// That has the sources.
    Sending,
    /// That has the target.
    Receiving,
}

/// How a copy ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// What the receiving end has made.
    pub counts: Counts,
    /// Entries that failed, at either end.
    pub troubles: u64,
}

/// Where an end says what happens. Clones are the same.
#[derive(Clone)]
pub struct Journal {
    /// Its counts.
    pub tally: Arc<Tally>,
    tell: Arc<dyn Fn(Event) + Send + Sync>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("tally", &self.tally)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Events go to `tell`, which must not wait: it is called by whoever has something to say.
    pub fn new(tell: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self {
            tally: Arc::default(),
            tell: Arc::new(tell),
        }
    }

    pub(crate) fn tell(&self, event: Event) {
        (self.tell)(event);
    }

    /// An entry failed here; what the other end is told of it.
    pub(crate) fn trouble(&self, side: Side, path: Vec<u8>, message: String) -> Trouble {
        self.tally.troubles.fetch_add(1, Ordering::Relaxed);
        self.tell(Event::Trouble {
            path: shown(&path),
            message: message.clone(),
            side,
        });
        Trouble {
            path: shorter(path),
            message,
            ends: false,
        }
    }

    /// An entry failed at the other end, which is this one.
    pub(crate) fn far_trouble(&self, side: Side, trouble: &Trouble) {
        self.tally.troubles.fetch_add(1, Ordering::Relaxed);
        self.tell(Event::Trouble {
            path: shown(&trouble.path),
            message: message_of(trouble),
            side,
        });
    }

    pub(crate) fn count(&self, counter: impl FnOnce(&Tally) -> &AtomicU64, more: u64) {
        counter(&self.tally).fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn summary(&self, counts: Counts) -> Summary {
        Summary {
            counts,
            troubles: self.tally.troubles.load(Ordering::Relaxed),
        }
    }
}

/// A peer's words, for people: printable and not too long.
pub(crate) fn message_of(trouble: &Trouble) -> String {
    let short: String = trouble.message.chars().take(500).collect();
    printable(&short)
}

impl Trouble {
    /// The last word of an end.
    pub(crate) fn ending(error: &CopyError) -> Self {
        Self {
            path: Vec::new(),
            message: error.to_string().chars().take(2000).collect(),
            ends: true,
        }
    }
}

/// A path that fits a frame: its end says most.
pub(crate) fn shorter(mut path: Vec<u8>) -> Vec<u8> {
    const MAX: usize = 8 * 1024;
    let extra = path.len().saturating_sub(MAX);
    path.drain(..extra);
    path
}
