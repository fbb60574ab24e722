//! When an opener dials at once, and when it waits first.

use std::sync::Mutex;
use std::time::Duration;

use farpipe_net::{Clock, Dial, Dialled, Opener};
use farpipe_proto::wire::control::Accept;
use farpipe_proto::wire::control::{Attached, Welcome};
use farpipe_proto::wire::hop::HopFrame;
use farpipe_proto::wire::id::{StreamId, TunnelId};
use farpipe_proto::wire::inner::InnerFrame;
use farpipe_sim::net::Scenario;
use farpipe_sim::net::network::{Kind, carry};
use farpipe_sim::net::raw::{Heard, Raw};
use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// An acceptor that always says the same first words and hangs up.
#[derive(Debug, Default)]
struct Parrot {
    /// It is a relay that holds who asks, and knows nobody to attach to.
    holds: bool,
    dials: Mutex<Vec<Instant>>,
    talking: Mutex<JoinSet<()>>,
}

impl Dial for Parrot {
    fn dial(&self) -> Dialled<'_> {
        let mut dials = self.dials.lock().expect("no panic");
        assert!(dials.len() < 20, "dials without end: {dials:?}");
        dials.push(Instant::now());
        let (near, far) = duplex(64 * 1024);
        self.talking
            .lock()
            .expect("no panic")
            .spawn(repeat(far, self.holds));
        Box::pin(carry(near, Kind::Fp))
    }

    fn peer(&self) -> String {
        "a parrot".to_owned()
    }
}

async fn repeat(far: DuplexStream, holds: bool) {
    let mut raw = Raw::new(far);
    let heard = raw.hear().await;
    assert!(
        matches!(heard, Heard::Frame(HopFrame::Hello(_))),
        "{heard:?}"
    );
    raw.send(&HopFrame::Welcome(Welcome {
        version: 1,
        nonce: vec![1; 32],
        ..Welcome::default()
    }));
    let heard = raw.hear().await;
    assert!(
        matches!(heard, Heard::Frame(HopFrame::Attach(..))),
        "{heard:?}"
    );
    if holds {
        return;
    }
    raw.send(&HopFrame::Attached(TunnelId(1), Attached::default()));
    raw.data(
        0,
        &InnerFrame::Accept(Accept::default()).encode(StreamId(1)),
    );
    // What was queued leaves with the next look.
    raw.hear().await;
}

/// How long an opener waited between its dials within a minute, in ms.
async fn waits(parrot: Parrot) -> Vec<u64> {
    let scenario = Scenario::default();
    let opener = Opener::new(scenario.opener(Clock::Tokio(Instant::now()), None));
    let stream = opener.handle().open("").expect("the first stream");
    let minute = Duration::from_secs(60);
    timeout(minute, opener.run(&parrot))
        .await
        .expect_err("it tries on");
    drop(stream);
    let dials = parrot.dials.into_inner().expect("no panic");
    dials
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_millis() as u64)
        .collect()
}

/// Who is cut as often at the other side of the relay has to be met.
#[tokio::test(start_paused = true)]
async fn a_link_that_is_cut_at_a_relay_is_back_within_seconds() {
    let waits = waits(Parrot {
        holds: true,
        ..Parrot::default()
    });
    let waits = waits.await;
    let four = [4_000; 20];
    for (wait, planned) in waits.iter().zip([1_000, 2_000].iter().chain(&four)) {
        assert!(wait.abs_diff(*planned) <= planned / 5, "{waits:?}");
    }
    assert!(waits.len() > 10, "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn n7_a_link_that_brings_only_repeats_is_no_progress() {
    let waits = waits(Parrot::default()).await;
    // At once after the first words, which were news; then 1, 2, 4, 8, 16 s, give or take a fifth.
    assert_eq!(waits[0], 0);
    for (wait, planned) in waits[1..].iter().zip([1_000, 2_000, 4_000, 8_000, 16_000]) {
        assert!(wait.abs_diff(planned) <= planned / 5, "{waits:?}");
    }
    assert!((6..9).contains(&waits.len()), "{waits:?}");
}
