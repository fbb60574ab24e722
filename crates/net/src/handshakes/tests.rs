//! Who gets a place, who gives way, and who waits, in virtual time.

use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use farpipe_proto::limits::HANDSHAKES_WAITING_MAX;
use tokio::sync::mpsc;

use super::*;

const GRACE: Duration = HANDSHAKE_GRACE;

/// Tells its number when it is dropped.
struct Dropped(usize, mpsc::Sender<usize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.1.try_send(self.0);
    }
}

struct Step {
    handshakes: Handshakes<usize>,
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

    /// One more that says nothing, of a source of its own; its switch, and how long it waited for its
    /// place.
    async fn come(&mut self) -> (Known, Duration) {
        let source = Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(self.came).expect("few"));
        self.come_from((source, 1).into()).await
    }

    async fn come_from(&mut self, peer: SocketAddr) -> (Known, Duration) {
        let began = Instant::now();
        assert!(self.handshakes.come(Peer::at(peer), self.came).is_none());
        self.came += 1;
        let known = self.next().await.1;
        (known, began.elapsed())
    }

    /// Whose turn is next, by number.
    async fn next(&mut self) -> (usize, Known) {
        let Turn { peer, what, taken } = self.handshakes.next().await;
        let (known, held) = (Known::default(), Dropped(what, self.tell.clone()));
        let handshake = async move {
            let _held = held;
            pending().await
        };
        let taken = (peer, taken);
        self.handshakes.spawn(taken, known.clone(), handshake);
        (what, known)
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
    let anybodys = HANDSHAKES_MAX - HANDSHAKES_FIRST;
    for n in 1..u16::try_from(anybodys).expect("few") {
        step.come_from(SocketAddr::new(in_network(n).into(), n))
            .await;
    }
    for goes in 1..anybodys - 1 {
        let another = SocketAddr::new(in_network(u16::MAX).into(), 1);
        step.come_from(another).await;
        assert_eq!(step.gone.try_recv(), Ok(goes));
    }
    // Nor does it take the last places: others have them at once.
    for _ in 0..HANDSHAKES_FIRST {
        assert_eq!(step.come().await.1, Duration::ZERO);
    }
    assert!(step.gone.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn p15_who_has_fewest_in_the_handshake_is_next_however_many_came_before() {
    let mut step = Step::new();
    let flood = SocketAddr::new([192, 0, 2, 1].into(), 1);
    for n in 0..HANDSHAKES_MAX + HANDSHAKES_WAITING_MAX {
        step.handshakes.come(Peer::at(flood), n);
    }
    while let Ok((_, known)) = tokio::time::timeout(GRACE / 2, step.next()).await {
        assert!(!known.get());
    }
    let honest = SocketAddr::new([192, 0, 2, 7].into(), 1);
    // Two at once: the second is before the flood, too, though its source has one already.
    let dropped: Vec<_> = [1_000, 1_001]
        .into_iter()
        .filter_map(|n| step.handshakes.come(Peer::at(honest), n))
        .map(|peer| source(&peer))
        .collect();
    assert!(dropped.iter().all(|dropped| *dropped == flood.ip()));
    let began = Instant::now();
    assert_eq!(
        (step.next().await.0, began.elapsed()),
        (1_000, Duration::ZERO)
    );
    assert_eq!(step.next().await.0, 1_001);
    assert!(began.elapsed() < GRACE);
}

#[tokio::test(start_paused = true)]
async fn of_too_many_that_wait_the_source_with_most_loses_its_newest() {
    let mut handshakes: Handshakes<usize> = Handshakes::default();
    let at = |last: u8| Peer::at(SocketAddr::new([192, 0, 2, last].into(), 1));
    for n in 0..HANDSHAKES_WAITING_MAX {
        assert!(handshakes.come(at(1), n).is_none());
    }
    assert_eq!(
        handshakes.come(at(2), 1_000).map(|peer| source(&peer)),
        Some(source(&at(1)))
    );
    assert_eq!(
        handshakes.come(at(1), 1_001).map(|peer| source(&peer)),
        Some(source(&at(1)))
    );
    let mut turns = Vec::new();
    while let Some(turn) = handshakes.turn(&BTreeMap::new()) {
        turns.push(turn.what);
        drop(turn);
    }
    let first = 0..HANDSHAKES_WAITING_MAX - 1;
    assert_eq!(turns, first.chain([1_000]).collect::<Vec<_>>());
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
