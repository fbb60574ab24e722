//! The word that the relay is going away, to all its tasks; they hear it in the order they asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Whether the relay is going away. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Going(Arc<Word>);

#[derive(Debug, Default)]
struct Word {
    is_said: AtomicBool,
    heard: Notify,
}

impl Going {
    /// Says so.
    pub(crate) fn say(&self) {
        self.0.is_said.store(true, Ordering::Release);
        self.0.heard.notify_waiters();
    }

    /// Ready when it was said. Cancel safe.
    pub(crate) async fn said(&self) {
        // Before the look: what is said from now on is heard.
        let heard = self.0.heard.notified();
        if !self.0.is_said.load(Ordering::Acquire) {
            heard.await;
        }
    }
}
