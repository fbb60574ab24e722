//! Who is refused, what they are told, and that a refusal uses nothing up.

use std::sync::Arc;
use std::time::Duration;

use farpipe_net::{Clock, LoopbackSecret, Opener, SessionEnd};
use farpipe_proto::wire::control::{Attach, Attached, Open, RefuseCode};
use farpipe_proto::wire::hop::HopFrame;
use farpipe_proto::wire::id::{StreamId, TunnelId};
use farpipe_proto::wire::inner::InnerFrame;
use farpipe_sim::net::app::{self, Ended};
use farpipe_sim::net::cable::{Cut, Fault, Quality, Way};
use farpipe_sim::net::flow;
use farpipe_sim::net::network::{Answer, Fortune, Kind, Network};
use farpipe_sim::net::process::Process;
use farpipe_sim::net::raw::{Heard, Raw};
use farpipe_sim::net::{Lane, Scenario, pass};
use tokio::time::Instant;

fn clock() -> Clock {
    Clock::Tokio(Instant::now())
}

fn secret(byte: u8) -> Option<Arc<LoopbackSecret>> {
    Some(Arc::new(LoopbackSecret::new([byte; 32])))
}

fn network(fortunes: Vec<Fortune>) -> Network {
    Network::new(Kind::Fp, Quality::default(), fortunes)
}

fn lanes() -> Vec<Lane> {
    vec![Lane::plain(100_000, 100_000)]
}

/// Opens a session and plays it to its end.
async fn open(network: &Network, clock: Clock, secret: Option<Arc<LoopbackSecret>>) -> Ended {
    let opener = Opener::new(Scenario::default().opener(clock, secret));
    app::opened(opener, network, &lanes(), 0).await
}

fn start(
    network: &Network,
    keep: bool,
    clock: Clock,
    secret: Option<Arc<LoopbackSecret>>,
) -> Process {
    let scenario = Scenario {
        keep,
        ..Scenario::default()
    };
    Process::start(network, scenario.acceptor(clock, secret), lanes(), 0)
}

fn is_whole(ended: &Ended) -> bool {
    ended.result.is_ok()
        && ended
            .parts
            .iter()
            .all(|part| part.told.ended == flow::Ended::Whole)
}

/// A connection that ends before the opener hears that it is attached.
fn unheard(fault: Fault) -> Fortune {
    let cut = Cut {
        way: Way::Down,
        at: 8,
        fault,
    };
    Fortune {
        cuts: vec![cut],
        ..Fortune::good()
    }
}

fn key(byte: u8) -> Attach {
    Attach {
        key: vec![byte; 32],
        epoch: 1,
        resume_for_ms: 60_000,
        caller: String::new(),
        ..Attach::default()
    }
}

async fn raw(network: &Network) -> Raw {
    Raw::new(network.connect().await.expect("somebody listens"))
}

fn refusal(heard: &Heard) -> Option<(RefuseCode, bool)> {
    match heard {
        Heard::Frame(HopFrame::Refused(_, refused)) => {
            Some((RefuseCode::from_wire(refused.code)?, refused.is_final))
        }
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a1_a_wrong_secret_is_refused_and_uses_nothing_up() {
    let (network, clock) = (network(Vec::new()), clock());
    let mut process = start(&network, false, clock, secret(1));
    for wrong in [secret(2), None] {
        let refused = open(&network, clock, wrong).await;
        assert!(
            matches!(refused.result, Err(SessionEnd::Refused(_))),
            "{refused:?}"
        );
        assert!(
            refused
                .parts
                .iter()
                .all(|part| part.told.bytes == 0 || part.giver)
        );
    }
    assert!(is_whole(&open(&network, clock, secret(1)).await));
    process.ended(1).await;
    assert_eq!(process.kill().await.begun, 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_peer_of_a_one_shot_listener_hears_busy() {
    let (network, clock) = (network(Vec::new()), clock());
    let process = start(&network, false, clock, None);
    let mut first = raw(&network).await;
    first.attach(key(1)).await;
    let attached = first.hear().await;
    assert_eq!(
        attached,
        Heard::Frame(HopFrame::Attached(
            TunnelId(1),
            Attached {
                received: 0,
                kept_ms: 0
            }
        ))
    );
    let second = open(&network, clock, None).await;
    let Err(SessionEnd::Refused(why)) = &second.result else {
        panic!("{second:?}");
    };
    assert!(why.contains("busy"), "{why}");
    // The first is none the worse for it.
    first.data(0, &open_frame());
    assert!(matches!(first.hear().await, Heard::Data(0, _)));
    assert_eq!(process.kill().await.begun, 1);
}

fn open_frame() -> Vec<u8> {
    let open = Open {
        target: "0".to_owned(),
        ..Open::default()
    };
    InnerFrame::Open(open).encode(StreamId(1))
}

#[tokio::test(start_paused = true)]
async fn n12_an_established_session_that_is_not_known_is_refused_for_good() {
    let (network, clock) = (network(Vec::new()), clock());
    let process = start(&network, true, clock, None);
    let mut peer = raw(&network).await;
    let established = Attach {
        epoch: 2,
        established: true,
        ..key(1)
    };
    peer.attach(established).await;
    let heard = peer.hear().await;
    assert_eq!(refusal(&heard), Some((RefuseCode::UnknownSession, true)));
    assert_eq!(process.kill().await.begun, 0);
}

#[tokio::test(start_paused = true)]
async fn n10_n11_an_older_attach_is_fenced_and_the_newer_link_is_none_the_worse() {
    let (network, clock) = (network(Vec::new()), clock());
    let process = start(&network, true, clock, None);
    let mut newer = raw(&network).await;
    newer.attach(Attach { epoch: 5, ..key(1) }).await;
    assert!(matches!(
        newer.hear().await,
        Heard::Frame(HopFrame::Attached(..))
    ));
    for epoch in [5, 4, 1, 0] {
        let mut older = raw(&network).await;
        older.attach(Attach { epoch, ..key(1) }).await;
        let heard = older.hear().await;
        assert_eq!(
            refusal(&heard),
            Some((RefuseCode::Fenced, false)),
            "{epoch}"
        );
    }
    newer.data(0, &open_frame());
    assert!(matches!(newer.hear().await, Heard::Data(0, _)));
    assert_eq!(process.kill().await.begun, 1);
}

#[tokio::test(start_paused = true)]
async fn p11_offsets_that_cannot_be_are_refused_and_end_the_session() {
    for received in [1_000_000_000, u64::MAX, 1] {
        let (network, clock) = (network(Vec::new()), clock());
        let mut process = start(&network, true, clock, None);
        let mut peer = raw(&network).await;
        // Not one byte was sent yet, whatever it says it has.
        peer.attach(Attach { received, ..key(1) }).await;
        let heard = peer.hear().await;
        assert_eq!(refusal(&heard), Some((RefuseCode::Offset, true)));
        assert!(matches!(peer.hear().await, Heard::Gone(_)));
        process.ended(1).await;
        let log = process.kill().await;
        assert!(matches!(log.ended[0].result, Err(SessionEnd::Protocol(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn p11_an_acknowledgement_of_what_was_not_sent_ends_the_session() {
    let (network, clock) = (network(Vec::new()), clock());
    let mut process = start(&network, true, clock, None);
    let mut peer = raw(&network).await;
    peer.attach(key(1)).await;
    peer.hear().await;
    peer.ack(1);
    assert_eq!(
        refusal(&peer.hear().await),
        Some((RefuseCode::Protocol, true))
    );
    process.ended(1).await;
    let log = process.kill().await;
    assert!(matches!(log.ended[0].result, Err(SessionEnd::Protocol(_))));
}

#[tokio::test(start_paused = true)]
async fn p11_an_acknowledgement_of_what_an_older_link_sent_and_this_one_did_not_is_no_panic() {
    let (network, clock) = (network(Vec::new()), clock());
    let mut process = start(&network, true, clock, None);
    let mut peer = raw(&network).await;
    peer.attach(key(1)).await;
    peer.hear().await;
    peer.data(0, &open_frame());
    let mut heard = 0;
    while heard < 50_000 {
        match peer.hear().await {
            Heard::Data(offset, bytes) => heard = offset + bytes.len() as u64,
            other => panic!("{other:?}"),
        }
    }
    drop(peer);
    // It has nothing, it says, and then, before a byte was sent again, all of it.
    let mut liar = raw(&network).await;
    let attach = Attach {
        epoch: 2,
        established: true,
        ..key(1)
    };
    liar.ask(attach);
    liar.ack(heard);
    loop {
        match liar.hear().await {
            Heard::Gone(_) => break,
            Heard::Data(..) | Heard::Frame(_) => {}
        }
    }
    process.ended(1).await;
    let log = process.kill().await;
    assert!(matches!(log.ended[0].result, Err(SessionEnd::Protocol(_))));
}

#[tokio::test(start_paused = true)]
async fn x8_a_process_younger_than_the_request_does_not_run_it() {
    // The request arrives, its answer does not; then the process is another.
    let (network, clock) = (network(vec![unheard(Fault::BlackHole)]), clock());
    let first = start(&network, true, clock, None);
    let opening = open(&network, clock, None);
    let restart = async {
        pass(Duration::from_secs(1)).await;
        assert_eq!(first.kill().await.begun, 1);
        pass(Duration::from_secs(1)).await;
        start(&network, true, clock, None)
    };
    let (ended, second) = tokio::join!(opening, restart);
    let Err(SessionEnd::Refused(why)) = &ended.result else {
        panic!("{ended:?}");
    };
    assert!(why.contains("younger"), "{why}");
    assert_eq!(second.kill().await.begun, 0);
}

#[tokio::test(start_paused = true)]
async fn n1_an_opener_that_reached_nobody_so_far_may_be_older_than_the_process() {
    // Nothing was ever asked of anybody, so nothing can have been done.
    let silence = Fortune {
        answer: Answer::Silence,
        cuts: Vec::new(),
    };
    let (network, clock) = (network(vec![silence]), clock());
    let opening = open(&network, clock, None);
    let late = async {
        pass(Duration::from_secs(5)).await;
        start(&network, true, clock, None)
    };
    let (ended, process) = tokio::join!(opening, late);
    assert!(is_whole(&ended), "{:?}", ended.result);
    assert_eq!(process.kill().await.begun, 1);
}
