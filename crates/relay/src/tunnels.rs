//! The tunnels that are joined now, and what has passed through them: for the admin and the log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farpipe_proto::Instant;
use prometheus_client::metrics::counter::Counter;

/// What is known of a joined tunnel.
#[derive(Debug)]
pub(crate) struct Tunnel {
    /// The session's key, shortened.
    pub(crate) key: String,
    /// The agent's name.
    pub(crate) agent: String,
    /// Where the opener came from.
    pub(crate) peer: String,
    /// Who it is by its certificate; empty: it has shown none.
    pub(crate) caller: String,
    pub(crate) since: Instant,
    /// Payload towards the agent and towards the client.
    passed: [AtomicU64; 2],
}

impl Tunnel {
    pub(crate) fn new(
        key: String,
        agent: String,
        peer: String,
        caller: String,
        since: Instant,
    ) -> Self {
        Self {
            key,
            agent,
            peer,
            caller,
            since,
            passed: Default::default(),
        }
    }

    pub(crate) fn passed(&self) -> [u64; 2] {
        [0, 1].map(|way: usize| self.passed[way].load(Ordering::Relaxed))
    }
}

/// All that are joined.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    live: Mutex<(u64, BTreeMap<u64, Arc<Tunnel>>)>,
    /// Of all that ever were: towards agents and towards clients.
    pub(crate) passed: [Counter; 2],
}

/// One tunnel's entry; taken out when dropped.
#[derive(Debug)]
pub(crate) struct Passing {
    tunnels: Arc<Tunnels>,
    number: u64,
    tunnel: Arc<Tunnel>,
}

impl Tunnels {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Arc<Tunnel>>)> {
        // Nothing here panics half-way.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(self: &Arc<Self>, tunnel: Tunnel) -> Passing {
        let tunnel = Arc::new(tunnel);
        let mut live = self.lock();
        live.0 += 1;
        let number = live.0;
        live.1.insert(number, Arc::clone(&tunnel));
        drop(live);
        Passing {
            tunnels: Arc::clone(self),
            number,
            tunnel,
        }
    }

    /// In the order in which they were joined.
    pub(crate) fn all(&self) -> Vec<Arc<Tunnel>> {
        self.lock().1.values().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().1.len()
    }
}

impl Passing {
    /// So many bytes went to the agent.
    pub(crate) fn up(&self, len: usize) {
        self.count(0, len);
    }

    /// So many went to the client.
    pub(crate) fn down(&self, len: usize) {
        self.count(1, len);
    }

    fn count(&self, way: usize, len: usize) {
        self.tunnel.passed[way].fetch_add(len as u64, Ordering::Relaxed);
        self.tunnels.passed[way].inc_by(len as u64);
    }

    /// Towards the agent and towards the client.
    pub(crate) fn passed(&self) -> [u64; 2] {
        self.tunnel.passed()
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.tunnels.lock().1.remove(&self.number);
    }
}
