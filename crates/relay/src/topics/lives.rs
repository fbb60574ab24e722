//! Which life of a producer is the newest: given out when it is asked for, so that two that begin at once have not the same one, and
//! an older one ends when a newer one begins, not when that has something kept.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use farpipe_log::Topic;
use farpipe_record::ProducerId;

/// Those of all producers that are here. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Lives(Arc<Mutex<ByProducer>>);

/// By topic and producer. Bounded by the sessions and requests that there are: what none of them has is forgotten.
type ByProducer = HashMap<(String, ProducerId), Arc<AtomicU32>>;

/// A life, as long as it is lived.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) producer: ProducerId,
    pub(crate) epoch: u32,
    newest: Arc<AtomicU32>,
}

impl Life {
    /// Whether none began since.
    pub(crate) fn is_newest(&self) -> bool {
        self.newest.load(Ordering::SeqCst) == self.epoch
    }
}

impl Lives {
    /// Begins one, or goes on with the one that was given out as `epoch`; `None`: there is a newer one.
    pub(super) fn begin(
        &self,
        name: &str,
        topic: &Topic,
        producer: ProducerId,
        epoch: u32,
    ) -> Option<Life> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, newest| Arc::strong_count(newest) > 1);
        if producer == ProducerId::NONE {
            let newest = Arc::new(AtomicU32::new(0));
            let epoch = 0;
            return Some(Life {
                producer,
                epoch,
                newest,
            });
        }
        let known = topic.partitions.iter().map(|one| one.producer(producer).0);
        let newest = all.entry((name.to_owned(), producer)).or_default();
        let latest = newest.load(Ordering::SeqCst).max(known.max().unwrap_or(0));
        let epoch = match epoch {
            0 => latest.checked_add(1)?,
            epoch if epoch < latest => return None,
            epoch => epoch,
        };
        newest.store(epoch, Ordering::SeqCst);
        Some(Life {
            producer,
            epoch,
            newest: Arc::clone(newest),
        })
    }
}
