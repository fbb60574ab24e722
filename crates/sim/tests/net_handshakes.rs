//! Connections that take their time, and acceptors without room: nobody is held for long.

use std::sync::Arc;
use std::time::Duration;

use farpipe_net::{Acceptor, Clock, Sessions};
use farpipe_proto::limits::{HANDSHAKE_STEP, HANDSHAKE_TOTAL};
use farpipe_proto::wire::control::{Attach, RefuseCode};
use farpipe_proto::wire::hop::HopFrame;
use farpipe_sim::net::Scenario;
use farpipe_sim::net::cable::{End, Quality};
use farpipe_sim::net::network::{Kind, Network};
use farpipe_sim::net::raw::{Heard, Raw};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\n\
    Host: sim\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: farpipe.1\r\n\r\n";

/// An address somebody listens at who does not look at the sessions yet.
fn listen(kind: Kind) -> (Network, Sessions, JoinSet<()>) {
    let network = Network::new(kind, Quality::default(), Vec::new());
    let mut config = Scenario::default().acceptor(Clock::Tokio(Instant::now()), None);
    config.sessions_max = 3;
    let (acceptor, sessions) = Acceptor::new(config);
    let mut tasks = JoinSet::new();
    tasks.spawn(network.clone().serve(Arc::new(acceptor)));
    (network, sessions, tasks)
}

/// Writes `words` with a pause before each byte and waits for the end of the connection; how long
/// that took, up to a minute.
async fn held(kind: Kind, words: &[u8], pause: Duration) -> Duration {
    let (network, _sessions, _tasks) = listen(kind);
    let began = Instant::now();
    let end = network.connect().await.expect("somebody listens");
    let (mut reader, mut writer) = tokio::io::split(end);
    let writing = async {
        for byte in words {
            sleep(pause).await; // sleep: virtual time, and the pause is what is tested
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        let mut waste = [0; 1024];
        while reader.read(&mut waste).await.is_ok_and(|len| len > 0) {}
    };
    let over = async {
        tokio::select! {
            () = writing => {}
            () = reading => {}
        }
    };
    timeout(60 * SECOND, over).await.expect("it is given up");
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_that_stands_still_is_given_up_after_one_step() {
    for words in [b"".as_slice(), &UPGRADE[..20]] {
        let held = held(Kind::Ws, words, Duration::ZERO).await;
        assert_eq!(held.as_secs(), HANDSHAKE_STEP.as_secs());
    }
}

#[tokio::test(start_paused = true)]
async fn p15_upgrade_and_handshake_together_have_one_deadline() {
    // A byte now and then is progress, but not for ever.
    let trickle = held(Kind::Ws, UPGRADE, 9 * SECOND).await;
    assert_eq!(trickle.as_secs(), HANDSHAKE_TOTAL.as_secs());
    // The upgrade takes 25 s; then 5 are left for HELLO, not a step of 10 or another 30.
    let pause = 25 * SECOND / u32::try_from(UPGRADE.len()).expect("a short request");
    let late = held(Kind::Ws, UPGRADE, pause).await;
    assert_eq!(late.as_secs(), HANDSHAKE_TOTAL.as_secs());
}

async fn ask(network: &Network, key: u8, epoch: u64) -> Raw {
    let end: End = network.connect().await.expect("somebody listens");
    let mut raw = Raw::new(end);
    let attach = Attach {
        key: vec![key; 32],
        epoch,
        resume_for_ms: 60_000,
        caller: String::new(),
        ..Attach::default()
    };
    raw.attach(attach).await;
    raw
}

/// The refusal, which comes at once or not at all.
async fn refusal(raw: &mut Raw) -> Option<(RefuseCode, bool)> {
    match timeout(SECOND / 10, raw.hear()).await.ok()? {
        Heard::Frame(HopFrame::Refused(_, refused)) => {
            Some((RefuseCode::from_wire(refused.code)?, refused.is_final))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_too_many_is_refused_for_now() {
    let (network, mut sessions, _tasks) = listen(Kind::Fp);
    let mut waiting = Vec::new();
    for key in 0..3 {
        let mut raw = ask(&network, key, 1).await;
        assert_eq!(refusal(&mut raw).await, None, "{key}");
        waiting.push(raw);
    }
    // Whether they wait or run.
    let mut running = JoinSet::new();
    running.spawn(sessions.next().await.expect("the first").run());
    for _ in 0..2 {
        let mut raw = ask(&network, 3, 1).await;
        assert_eq!(refusal(&mut raw).await, Some((RefuseCode::Limit, false)));
    }
    // Its key is not used up.
    drop(sessions.next().await);
    let mut raw = ask(&network, 3, 1).await;
    assert_eq!(refusal(&mut raw).await, None);
    drop(sessions);
    let mut raw = ask(&network, 4, 1).await;
    let shut = Some((RefuseCode::ShuttingDown, false));
    assert_eq!(refusal(&mut raw).await, shut);
}

#[tokio::test(start_paused = true)]
async fn an_attach_more_than_can_wait_is_refused_for_now_and_fences_nothing() {
    let (network, mut sessions, _tasks) = listen(Kind::Fp);
    let mut waiting = Vec::new();
    for epoch in 1..=5 {
        let mut raw = ask(&network, 1, epoch).await;
        assert_eq!(refusal(&mut raw).await, None, "{epoch}");
        waiting.push(raw);
    }
    let mut raw = ask(&network, 1, 6).await;
    assert_eq!(refusal(&mut raw).await, Some((RefuseCode::Limit, false)));
    let session = sessions.next().await.expect("the session");
    let mut running = JoinSet::new();
    running.spawn(session.run());
    // The newest that waited has the session.
    let mut newest = waiting.pop().expect("five of them");
    let heard = newest.hear().await;
    assert!(
        matches!(heard, Heard::Frame(HopFrame::Attached(..))),
        "{heard:?}"
    );
    let mut again = ask(&network, 1, 6).await;
    let heard = again.hear().await;
    assert!(
        matches!(heard, Heard::Frame(HopFrame::Attached(..))),
        "{heard:?}"
    );
}
