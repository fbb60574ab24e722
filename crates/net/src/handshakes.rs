//! The connections of a listener that are not sessions yet: a bounded number, of which a silent one
//! gives way.
//!
//! Anybody can open connections and say nothing, or little and slowly; each is allowed 10 s a step
//! and 30 s in all, for slow links are honest, too. So when there is no place left, the oldest
//! stranger of the source that has most of them goes for the one that waits, once it had
//! [`HANDSHAKE_GRACE`] to say who it is. A burst of honest peers only waits its turn: each is done, or
//! known, within its grace; and one source that takes all places takes them from itself.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use farpipe_proto::limits::{HANDSHAKE_GRACE, HANDSHAKES_MAX};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::Instant;

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

/// The handshakes that run. Dropping it drops their connections.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    running: JoinSet<()>,
    /// Those who have not shown who they are, oldest first; also some that have since, or are done.
    strangers: VecDeque<Stranger>,
}

#[derive(Debug)]
struct Stranger {
    peer: Peer,
    since: Instant,
    known: Known,
    task: AbortHandle,
}

impl Handshakes {
    /// Waits until there is room for one more.
    ///
    /// # Cancellation
    /// Safe.
    pub(crate) async fn room(&mut self) {
        loop {
            self.strangers
                .retain(|stranger| !stranger.known.get() && !stranger.task.is_finished());
            if self.running.len() < HANDSHAKES_MAX {
                return;
            }
            let next = self.gives_way();
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

    /// Runs one; there must be [`Self::room`].
    pub(crate) fn spawn(
        &mut self,
        peer: Peer,
        known: Known,
        handshake: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = self.running.spawn(handshake);
        self.strangers.push_back(Stranger {
            peer,
            since: Instant::now(),
            known,
            task,
        });
    }

    /// Clears away one that is done; never ready while none runs.
    ///
    /// # Cancellation
    /// Safe.
    pub(crate) async fn ended(&mut self) {
        match self.running.join_next().await {
            Some(ended) => log_panic(ended),
            None => std::future::pending().await,
        }
    }

    /// Who goes next: the oldest of the source with most.
    fn gives_way(&self) -> Option<usize> {
        let mut of: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for stranger in &self.strangers {
            *of.entry(source(&stranger.peer)).or_default() += 1;
        }
        let strangers = self.strangers.iter().enumerate();
        let next = strangers.max_by_key(|(at, stranger)| {
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
mod tests {
    use std::future::pending;
    use std::net::SocketAddr;
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    const GRACE: Duration = HANDSHAKE_GRACE;
    const PEER: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    /// Tells its number when it is dropped.
    struct Dropped(usize, mpsc::Sender<usize>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.1.try_send(self.0);
        }
    }

    struct Step {
        handshakes: Handshakes,
        tell: mpsc::Sender<usize>,
        gone: mpsc::Receiver<usize>,
        came: usize,
    }

    impl Step {
        fn new() -> Self {
            let (tell, gone) = mpsc::channel(4 * HANDSHAKES_MAX);
            Self {
                handshakes: Handshakes::default(),
                tell,
                gone,
                came: 0,
            }
        }

        /// One more that says nothing; its switch, and how long it waited for its place.
        async fn come(&mut self) -> (Known, Duration) {
            self.come_from(PEER).await
        }

        async fn come_from(&mut self, peer: SocketAddr) -> (Known, Duration) {
            let began = Instant::now();
            self.handshakes.room().await;
            let (known, held) = (Known::default(), Dropped(self.came, self.tell.clone()));
            self.came += 1;
            self.handshakes
                .spawn(Peer::at(peer), known.clone(), async move {
                    let _held = held;
                    pending().await
                });
            (known, began.elapsed())
        }

        async fn full() -> (Self, Vec<Known>) {
            let mut step = Self::new();
            let mut switches = Vec::new();
            for _ in 0..HANDSHAKES_MAX {
                let (known, waited) = step.come().await;
                assert_eq!(waited, Duration::ZERO);
                switches.push(known);
            }
            (step, switches)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn p15_the_oldest_stranger_gives_way_after_its_grace() {
        let (mut step, _switches) = Step::full().await;
        let waited = step.come().await.1;
        assert!(waited >= GRACE && waited < 2 * GRACE, "{waited:?}");
        assert_eq!(step.gone.try_recv(), Ok(0));
        // The others had theirs meanwhile: nobody waits any more.
        for number in 1..HANDSHAKES_MAX {
            assert_eq!(step.come().await.1, Duration::ZERO, "{number}");
            assert_eq!(step.gone.try_recv(), Ok(number));
        }
        // And then begins the grace of those.
        let waited = step.come().await.1;
        assert!(waited >= GRACE / 2 && waited < 2 * GRACE, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn p15_a_source_that_takes_all_places_takes_them_from_itself() {
        let mut step = Step::new();
        let honest = SocketAddr::new([192, 0, 2, 7].into(), 1);
        step.come_from(honest).await;
        let in_network = |n: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, n);
        for n in 1..u16::try_from(HANDSHAKES_MAX).expect("few") {
            step.come_from(SocketAddr::new(in_network(n).into(), n))
                .await;
        }
        for goes in 1..HANDSHAKES_MAX - 1 {
            let another = SocketAddr::new(in_network(u16::MAX).into(), 1);
            step.come_from(another).await;
            assert_eq!(step.gone.try_recv(), Ok(goes));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn p15_nobody_goes_while_there_is_room_or_nobody_waits() {
        let (mut step, _switches) = Step::full().await;
        tokio::time::sleep(10 * GRACE).await; // sleep: virtual time, longer than the grace
        assert!(step.gone.try_recv().is_err());
        assert_eq!(step.handshakes.running.len(), HANDSHAKES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn p15_who_is_known_does_not_give_way() {
        let (mut step, switches) = Step::full().await;
        switches[0].set();
        switches[2].set();
        for goes in [1, 3] {
            step.come().await;
            assert_eq!(step.gone.try_recv(), Ok(goes));
        }
        // Known only while somebody waits for its place.
        let (mut step, switches) = Step::full().await;
        let knowing = async {
            tokio::time::sleep(GRACE / 2).await; // sleep: virtual time, in the middle of the grace
            switches.iter().for_each(Known::set);
        };
        let all_known =
            tokio::time::timeout(100 * GRACE, async { tokio::join!(step.come(), knowing).0 });
        assert!(all_known.await.is_err(), "a known one was dropped");
        assert!(step.gone.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_done_makes_room_at_once() {
        let (mut step, _switches) = Step::full().await;
        step.handshakes.strangers[7].task.abort();
        assert_eq!(step.come().await.1, Duration::ZERO);
        assert_eq!(step.gone.try_recv(), Ok(7));
        assert!(step.handshakes.strangers.len() <= HANDSHAKES_MAX);
        assert!(step.gone.try_recv().is_err());
    }
}
