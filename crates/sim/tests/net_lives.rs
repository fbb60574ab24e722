//! Sessions that outlive their links, and the ends of those that do not.

use std::time::Duration;

use farpipe_net::{Acceptor, Clock, Opener, SessionEnd};
use farpipe_proto::wire::control::Refuse;
use farpipe_sim::net::app::{self, Ended};
use farpipe_sim::net::cable::{Cut, Fault, Quality, Way};
use farpipe_sim::net::flow;
use farpipe_sim::net::network::{Answer, Fortune, Kind, Network};
use farpipe_sim::net::process::Process;
use farpipe_sim::net::{Lane, Scenario, Stage, pass};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const KB: u64 = 1_000;

fn clock() -> Clock {
    Clock::Tokio(Instant::now())
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn scenario() -> Scenario {
    Scenario {
        kind: Kind::Ws,
        quality: Quality {
            latency: Duration::from_millis(5),
            rate: Some(1_000 * KB),
            ..Quality::default()
        },
        resume_for: secs(60),
        lanes: vec![Lane::plain(500 * KB, 500 * KB)],
        ..Scenario::default()
    }
}

fn network(scenario: &Scenario, fortunes: Vec<Fortune>) -> Network {
    Network::new(scenario.kind, scenario.quality.clone(), fortunes)
}

fn start(scenario: &Scenario, network: &Network, clock: Clock) -> Process {
    let config = scenario.acceptor(clock, None);
    Process::start(network, config, scenario.lanes.clone(), scenario.seed)
}

async fn open(scenario: &Scenario, network: &Network, clock: Clock) -> Ended {
    let opener = Opener::new(scenario.opener(clock, None));
    app::opened(opener, network, &scenario.lanes, scenario.seed).await
}

fn cut(way: Way, at: u64) -> Fortune {
    let fault = Fault::Reset;
    Fortune {
        cuts: vec![Cut { way, at, fault }],
        ..Fortune::good()
    }
}

fn refused(times: usize) -> Vec<Fortune> {
    let refused = Fortune {
        answer: Answer::Refused,
        cuts: Vec::new(),
    };
    vec![refused; times]
}

/// Every end of a flow that thinks all went well.
fn whole(ended: &Ended) -> usize {
    let parts = ended.parts.iter();
    parts
        .filter(|part| part.told.ended == flow::Ended::Whole)
        .count()
}

fn assert_no_wrong_byte(ended: &Ended) {
    for part in &ended.parts {
        assert!(
            !matches!(part.told.ended, flow::Ended::Wrong(_)),
            "{part:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn n12_when_no_link_comes_back_in_time_both_ends_fail_and_say_so() {
    let scenario = scenario();
    let mut fortunes = vec![cut(Way::Up, 200 * KB)];
    fortunes.extend(refused(1_000));
    let (network, clock) = (network(&scenario, fortunes), clock());
    let began = Instant::now();
    let mut process = start(&scenario, &network, clock);
    let opened = open(&scenario, &network, clock).await;
    let Err(SessionEnd::Lost(why)) = &opened.result else {
        panic!("{opened:?}");
    };
    assert!(why.contains("no link") && why.contains("1 min"), "{why}");
    let tried = opened.at - began;
    assert!((secs(60)..secs(62)).contains(&tried), "{tried:?}");
    process.ended(1).await;
    // The other end waits longer than the opener can try.
    let parked = began.elapsed();
    assert!((secs(120)..secs(122)).contains(&parked), "{parked:?}");
    let log = process.kill().await;
    let accepted = &log.ended[0];
    let Err(SessionEnd::Lost(why)) = &accepted.result else {
        panic!("{accepted:?}");
    };
    assert!(why.contains("bytes received"), "{why}");
    for ended in [&opened, accepted] {
        assert_eq!(whole(ended), 0, "{ended:?}");
        assert_no_wrong_byte(ended);
    }
}

#[tokio::test(start_paused = true)]
async fn n12_a_link_in_the_last_moment_saves_everything() {
    let scenario = scenario();
    let mut fortunes = vec![cut(Way::Up, 200 * KB)];
    // 1, 2, 4, 8 and 16 s later; then the last try, when the minute is over.
    fortunes.extend(refused(6));
    let (network, clock) = (network(&scenario, fortunes), clock());
    let began = Instant::now();
    let mut process = start(&scenario, &network, clock);
    let opened = open(&scenario, &network, clock).await;
    assert!(opened.result.is_ok(), "{:?}", opened.result);
    assert_eq!(whole(&opened), 2);
    assert!(opened.at - began >= secs(60));
    process.ended(1).await;
    assert!(process.kill().await.ended[0].result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn n12_a_listener_that_is_killed_and_restarted_does_not_know_the_session() {
    let scenario = scenario();
    let (network, clock) = (network(&scenario, Vec::new()), clock());
    let first = start(&scenario, &network, clock);
    let restart = async {
        pass(Duration::from_millis(300)).await;
        assert_eq!(first.kill().await.begun, 1);
        pass(secs(3)).await;
        start(&scenario, &network, clock)
    };
    let (opened, second) = tokio::join!(open(&scenario, &network, clock), restart);
    let Err(SessionEnd::Forgotten(why)) = &opened.result else {
        panic!("{opened:?}");
    };
    assert!(why.contains("not known"), "{why}");
    assert_eq!(whole(&opened), 0);
    assert_no_wrong_byte(&opened);
    assert_eq!(second.kill().await.begun, 0);
}

#[tokio::test(start_paused = true)]
async fn n16_an_opener_that_is_killed_is_waited_for_and_given_up() {
    let scenario = scenario();
    let (network, clock) = (network(&scenario, Vec::new()), clock());
    let mut process = start(&scenario, &network, clock);
    let killed = timeout(Duration::from_millis(300), open(&scenario, &network, clock));
    assert!(killed.await.is_err());
    let gone = Instant::now();
    process.ended(1).await;
    assert!((secs(119)..secs(122)).contains(&gone.elapsed()));
    let log = process.kill().await;
    assert!(matches!(log.ended[0].result, Err(SessionEnd::Lost(_))));
    assert_eq!(whole(&log.ended[0]), 0);
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_gets_settled_without_a_link_does_not_wait_for_a_dead_opener() {
    let mut scenario = scenario();
    scenario.resume_for = secs(600);
    scenario.keep = false;
    scenario.lanes = vec![Lane::plain(1_000, 0)];
    // The sink is not closed before 40 s have passed.
    scenario.lanes[0].up.sink_delay = secs(20);
    let (network, clock) = (network(&scenario, Vec::new()), clock());
    let began = Instant::now();
    let mut process = start(&scenario, &network, clock);
    let killed = timeout(secs(5), open(&scenario, &network, clock));
    assert!(killed.await.is_err());
    process.ended(1).await;
    let waited = began.elapsed();
    assert!((secs(99)..secs(102)).contains(&waited), "{waited:?}");
    let log = process.kill().await;
    assert!(log.ended[0].result.is_ok(), "{:?}", log.ended[0]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_ended_while_it_dials_is_over_at_once() {
    let silence = Fortune {
        answer: Answer::Silence,
        cuts: Vec::new(),
    };
    let scenario = scenario();
    let network = network(&scenario, vec![silence]);
    let opener = Opener::new(scenario.opener(clock(), None));
    let handle = opener.handle();
    let began = Instant::now();
    let ending = async {
        pass(secs(1)).await;
        handle.end(SessionEnd::Closed);
    };
    let (ended, ()) = tokio::join!(opener.run(&network), ending);
    assert_eq!(ended, Err(SessionEnd::Closed));
    assert_eq!(began.elapsed().as_secs(), 1);
}

/// Kills the listener when the connection is cut at this byte of what it sends, and starts it
/// anew.
async fn killed_at(at: u64, mut scenario: Scenario) -> (Ended, Process, u64) {
    scenario.kind = Kind::Fp;
    let (network, clock) = (network(&scenario, vec![cut(Way::Down, at)]), clock());
    let process = start(&scenario, &network, clock);
    let opening = open(&scenario, &network, clock);
    let kill = async {
        let moment = Duration::from_millis(1);
        while network.live() == 0 {
            pass(moment).await;
        }
        while network.live() > 0 && network.counts().dials == 1 {
            pass(moment).await;
        }
        process.kill().await;
        start(&scenario, &network, clock)
    };
    let (opened, second) = tokio::join!(opening, kill);
    (opened, second, network.counts().bytes[1])
}

#[tokio::test(start_paused = true)]
async fn n12_success_needs_confirmation_and_confirmation_is_success() {
    let scenario = Scenario {
        lanes: vec![Lane::plain(3 * KB, 2 * KB)],
        ..scenario()
    };
    // Where the acceptor's bytes end, as they do without a cut.
    let (uncut, process, end) = killed_at(u64::MAX, scenario.clone()).await;
    assert!(uncut.result.is_ok());
    process.kill().await;
    let (mut confirmed, mut unconfirmed) = (0, 0);
    for at in end - 150..end {
        let (opened, second, _) = killed_at(at, scenario.clone()).await;
        let has_all = opened.fates.iter().all(|(_, fate)| fate.done) && whole(&opened) == 2;
        assert_eq!(opened.result.is_ok(), has_all, "cut at {at}: {opened:?}");
        assert_eq!(second.kill().await.begun, 0);
        *if has_all {
            &mut confirmed
        } else {
            &mut unconfirmed
        } += 1;
    }
    assert!(
        confirmed > 0 && unconfirmed > 0,
        "{confirmed} {unconfirmed}"
    );
}

#[tokio::test(start_paused = true)]
async fn n19_a_hundred_openers_come_back_at_once() {
    const OPENERS: usize = 100;
    let scenario = scenario();
    let mut fortunes = vec![cut(Way::Up, 100 * KB); OPENERS];
    fortunes.extend(refused(3 * OPENERS));
    let (network, clock) = (network(&scenario, fortunes), clock());
    let mut process = start(&scenario, &network, clock);
    let began = Instant::now();
    let mut openers = JoinSet::new();
    for _ in 0..OPENERS {
        let (scenario, network) = (scenario.clone(), network.clone());
        openers.spawn(async move { open(&scenario, &network, clock).await });
    }
    for opened in openers.join_all().await {
        assert!(opened.result.is_ok(), "{:?}", opened.result);
        assert_eq!(whole(&opened), 2);
    }
    process.ended(OPENERS).await;
    assert!(began.elapsed() < secs(30), "{:?}", began.elapsed());
    assert_eq!(process.kill().await.begun, OPENERS);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_crosses_the_openers_last_word_is_heard() {
    let scenario = scenario();
    let (network, clock) = (network(&scenario, Vec::new()), clock());
    let (acceptor, mut sessions) = Acceptor::new(scenario.acceptor(clock, None));
    let serving = network.clone().serve(std::sync::Arc::new(acceptor));
    let opener = Opener::new(scenario.opener(clock, None));
    let handle = opener.handle();
    handle.finish_opening();
    let refusing = async {
        while let Some((stream, _)) = handle.accept().await {
            stream.refuse(Refuse::default());
        }
    };
    let accepting = async {
        let session = sessions.next().await.expect("a session");
        let stream = session.handle().open("late").expect("not over yet");
        let result = session.run().await;
        (result, stream.watch.fate())
    };
    let both = async { tokio::join!(opener.run(&network), accepting, refusing) };
    let ended = tokio::select! {
        ended = timeout(secs(10), both) => ended,
        () = serving => unreachable!("it serves for ever"),
    };
    let (opened, (accepted, fate), ()) = ended.expect("nobody hangs");
    assert!(
        opened.is_ok() && accepted.is_ok(),
        "{opened:?} {accepted:?}"
    );
    assert!(fate.refused.is_some(), "{fate:?}");
}

#[test]
fn n1_the_longest_outage_there_is_ends_well_when_the_network_comes_back() {
    // Ten failures in a row raise the alarm; the session goes on.
    let mut fortunes = vec![cut(Way::Down, 100 * KB)];
    fortunes.extend(refused(20));
    let scenario = Scenario {
        resume_for: secs(7_200),
        fortunes,
        ..scenario()
    };
    let (report, lines) = Stage::new()
        .play_traced(&scenario)
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert!(
        lines
            .iter()
            .any(|line| line.contains("Alarm { failures: 10"))
    );
    assert_eq!(report.bytes, 1_000 * KB);
    assert_eq!(report.disconnects, 21);
}
