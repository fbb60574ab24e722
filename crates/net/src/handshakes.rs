//! The connections of a listener that are not sessions yet: a bounded number in the handshake, of which a
//! silent one gives way, and a bounded number before it.
//!
//! Anybody can open connections and say nothing, or little and slowly; each is allowed 10 s a step
//! and 30 s in all, for slow links are honest, too. So when there is no place left, the oldest
//! stranger of the source that has most of them goes for the one that waits, once it had
//! [`HANDSHAKE_GRACE`] to say who it is. A burst of honest peers only waits its turn: each is done, or
//! known, within its grace; and one source that takes all places takes them from itself.
//!
//! Who waits is taken in by source, too: next is who has fewest in the handshake, and the last
//! [`HANDSHAKES_FIRST`] places are for sources that have none there. A queue in the order of coming, such as the
//! system's, would be a place that one source can fill for everybody.

mod waiting;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use farpipe_proto::limits::{HANDSHAKE_GRACE, HANDSHAKES_FIRST, HANDSHAKES_MAX};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::Instant;

use self::waiting::Waiting;
use crate::peer::Peer;

/// Set once a peer has shown who it is; from then on it does not give way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known(Arc<AtomicBool>);

impl Known {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The handshakes that run, and what waits for one. Dropping it drops their connections.
#[derive(Debug)]
pub(crate) struct Handshakes<W> {
    running: JoinSet<()>,
    /// Those who have not shown who they are, oldest first; also some that have since, or are done.
    strangers: VecDeque<Stranger>,
    waiting: Waiting<W>,
    anybodys: Places,
    /// For sources that have none in the handshake.
    firsts: Places,
}

/// Some places.
#[derive(Debug)]
struct Places {
    /// Whoever has a place has a clone of it.
    taken: Arc<()>,
    max: usize,
}

/// A place in the handshake, free again when dropped.
#[derive(Debug)]
struct Place(#[expect(dead_code, reason = "it is counted")] Arc<()>);

impl Places {
    fn new(max: usize) -> Self {
        let taken = Arc::default();
        Self { taken, max }
    }

    fn have_room(&self) -> bool {
        Arc::strong_count(&self.taken) - 1 < self.max
    }

    fn take(&self) -> Place {
        Place(Arc::clone(&self.taken))
    }
}

#[derive(Debug)]
struct Stranger {
    peer: Peer,
    since: Instant,
    known: Known,
    task: AbortHandle,
    /// Whether anybody could have its place.
    is_anybodys: bool,
}

/// One whose turn it is.
#[derive(Debug)]
pub(crate) struct Turn<W> {
    pub(crate) peer: Peer,
    pub(crate) what: W,
    pub(crate) taken: Taken,
}

/// The place that it has.
#[derive(Debug)]
pub(crate) struct Taken {
    place: Place,
    is_anybodys: bool,
}

impl<W> Default for Handshakes<W> {
    fn default() -> Self {
        Self {
            running: JoinSet::new(),
            strangers: VecDeque::new(),
            waiting: Waiting::default(),
            anybodys: Places::new(HANDSHAKES_MAX - HANDSHAKES_FIRST),
            firsts: Places::new(HANDSHAKES_FIRST),
        }
    }
}

impl<W> Handshakes<W> {
    /// One has come and waits for its turn; returns one that is turned away for it, if too many wait.
    pub(crate) fn come(&mut self, peer: Peer, what: W) -> Option<Peer> {
        self.waiting.push(peer, what)
    }

    /// Waits until it is somebody's turn; clears away those that are done.
    ///
    /// # Cancellation
    /// Safe.
    pub(crate) async fn next(&mut self) -> Turn<W> {
        loop {
            self.strangers
                .retain(|stranger| !stranger.known.get() && !stranger.task.is_finished());
            let of = self.of_sources();
            if let Some(turn) = self.turn(&of) {
                return turn;
            }
            let next = self.gives_way(&of);
            let until = next.map(|next| self.strangers[next].since + HANDSHAKE_GRACE);
            let too_long = async {
                match (next, until) {
                    (Some(next), Some(until)) => {
                        tokio::time::sleep_until(until).await;
                        next
                    }
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(ended) = self.running.join_next() => log_panic(ended),
                next = too_long => self.drop_stranger(next).await,
            }
        }
    }

    /// Runs the handshake of one whose turn it was.
    pub(crate) fn spawn(
        &mut self,
        (peer, taken): (Peer, Taken),
        known: Known,
        handshake: impl Future<Output = ()> + Send + 'static,
    ) {
        let Taken { place, is_anybodys } = taken;
        let task = self.running.spawn(async move {
            let _place = place;
            handshake.await;
        });
        self.strangers.push_back(Stranger {
            peer,
            since: Instant::now(),
            known,
            task,
            is_anybodys,
        });
    }

    /// How many strangers are in the handshake of each source.
    fn of_sources(&self) -> BTreeMap<IpAddr, usize> {
        let mut of = BTreeMap::new();
        for stranger in &self.strangers {
            *of.entry(source(&stranger.peer)).or_default() += 1;
        }
        of
    }

    fn turn(&mut self, of: &BTreeMap<IpAddr, usize>) -> Option<Turn<W>> {
        let is_anybodys = self.anybodys.have_room();
        if !is_anybodys && !self.firsts.have_room() {
            return None;
        }
        let has = |source: &IpAddr| of.get(source).copied().unwrap_or(0);
        let most = if is_anybodys { usize::MAX } else { 0 };
        let (peer, what) = self.waiting.pop(has, most)?;
        let place = match is_anybodys {
            true => self.anybodys.take(),
            false => self.firsts.take(),
        };
        let taken = Taken { place, is_anybodys };
        Some(Turn { peer, what, taken })
    }

    /// Who goes next: the oldest of the source with most, if that makes room for one that waits.
    fn gives_way(&self, of: &BTreeMap<IpAddr, usize>) -> Option<usize> {
        if self.waiting.is_empty() {
            return None;
        }
        let is_new = self
            .waiting
            .sources()
            .any(|source| !of.contains_key(source));
        let strangers = self.strangers.iter().enumerate();
        let helps = |stranger: &Stranger| is_new || stranger.is_anybodys;
        let next = strangers.filter(|(_, stranger)| helps(stranger));
        let next = next.max_by_key(|(at, stranger)| {
            let its = of.get(&source(&stranger.peer)).copied();
            (its, Reverse(*at))
        });
        next.map(|(at, _)| at)
    }

    async fn drop_stranger(&mut self, at: usize) {
        let Some(stranger) = self.strangers.get(at) else {
            return;
        };
        // In the meantime it may have said who it is.
        if stranger.known.get() {
            return;
        }
        let peer = &stranger.peer;
        tracing::info!("{peer}: dropped: others wait, and it did not say who it is");
        stranger.task.abort();
        // This one at the latest: it is still among those that run.
        if let Some(ended) = self.running.join_next().await {
            log_panic(ended);
        }
    }
}

/// Whose connections count together: an address; of IPv6 the network, for a host has all of it.
pub(crate) fn source(peer: &Peer) -> IpAddr {
    match peer.address().to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            Ipv6Addr::from_bits(network).into()
        }
        address => address,
    }
}

/// One connection's handshake must not take the listener down with it, but a bug is to be seen.
fn log_panic(ended: Result<(), JoinError>) {
    match ended {
        Err(error) if error.is_panic() => {
            tracing::error!("a connection's handshake failed: {error}");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
