//! What all tunnels' windows of a relay have in common: a limit, [`HOP_WINDOWS_MAX`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use farpipe_proto::limits::{HOP_WINDOW, HOP_WINDOWS_MAX, HOP_WINDOWS_RESERVED, WINDOW_LEVEL};

/// All windows of a relay.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    /// Bytes that they have together.
    used: AtomicU64,
    /// How many there are.
    count: AtomicU64,
}

impl Windows {
    /// The first window of a tunnel; `None`: there is no room.
    pub(crate) fn first(self: &Arc<Self>) -> Option<Share> {
        self.take(HOP_WINDOW, HOP_WINDOWS_MAX).then(|| {
            self.count.fetch_add(1, Ordering::Relaxed);
            Share {
                windows: Arc::clone(self),
                bytes: HOP_WINDOW,
            }
        })
    }

    /// Bytes of all windows there are.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64, max: u64) -> bool {
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= max);
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok()
    }
}

/// One tunnel's share; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    windows: Arc<Windows>,
    bytes: u64,
}

impl Share {
    /// What this window may grow to as all others may, for readers that keep up.
    pub(crate) fn level(&self) -> u64 {
        let count = self.windows.count.load(Ordering::Relaxed).max(1);
        WINDOW_LEVEL.min((HOP_WINDOWS_MAX - HOP_WINDOWS_RESERVED) / count)
    }

    /// So many bytes more, if they leave room for new tunnels.
    pub(crate) fn grow(&mut self, bytes: u64) -> bool {
        let fits = self
            .windows
            .take(bytes, HOP_WINDOWS_MAX - HOP_WINDOWS_RESERVED);
        if fits {
            self.bytes += bytes;
        }
        fits
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.windows.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.windows.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_grow_leave_room_for_new_tunnels() {
        let windows = Arc::new(Windows::default());
        let mut fat = windows.first().expect("the first");
        while fat.grow(HOP_WINDOW) {}
        let mut others = Vec::new();
        while let Some(share) = windows.first() {
            others.push(share);
        }
        assert_eq!(others.len() as u64, HOP_WINDOWS_RESERVED / HOP_WINDOW);
        drop(fat);
        assert!(windows.first().is_some());
        drop(others);
        assert_eq!(windows.used(), 0);
    }
}
