//! What an agent's link makes of a relay that is played by hand, and of what it passes on.

use std::sync::Arc;
use std::time::Duration;

use farpipe_net::{
    Acceptor, AcceptorConfig, AgentLink, AgentLinkConfig, Clock, Greeting, Sessions,
};
use farpipe_proto::limits::HOP_WINDOW;
use farpipe_proto::wire::control::{Attach, RefuseCode, Refused};
use farpipe_proto::wire::hop::HopFrame;
use farpipe_proto::wire::id::TunnelId;
use farpipe_sim::net::cable::Quality;
use farpipe_sim::net::chance;
use farpipe_sim::net::flow::{Flow, give};
use farpipe_sim::net::network::{Kind, Listening, Network};
use farpipe_sim::net::raw::{Heard, Raw};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

fn greeting() -> Greeting {
    Greeting {
        software: "sim".to_owned(),
        prover: None,
        keys: None,
        tokens: None,
        random: chance::random,
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn asks(key: u8) -> Attach {
    Attach {
        key: vec![key; 32],
        epoch: 1,
        resume_for_ms: 60_000,
        ..Attach::default()
    }
}

fn refused(heard: Heard) -> Refused {
    match heard {
        Heard::Frame(HopFrame::Refused(_, refused)) => refused,
        other => panic!("{other:?}"),
    }
}

/// An agent, and a relay that is played by hand.
struct Hand {
    listening: Listening,
    acceptor: Arc<Acceptor>,
    sessions: Sessions,
    tasks: JoinSet<()>,
}

fn hand() -> Hand {
    chance::seed(1);
    let network = Network::new(Kind::Fp, Quality::default(), Vec::new());
    let mut config = AcceptorConfig::new(greeting());
    config.clock = Clock::Tokio(Instant::now());
    let (acceptor, sessions) = Acceptor::new(config);
    let acceptor = Arc::new(acceptor);
    let config = AgentLinkConfig::new("web1".to_owned(), greeting());
    let link = AgentLink::new(Arc::clone(&acceptor), config);
    let listening = network.listen();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let Err(end) = link.run(&network).await;
        panic!("{end}");
    });
    Hand {
        listening,
        acceptor,
        sessions,
        tasks,
    }
}

impl Hand {
    async fn relay(&self) -> Raw {
        let mut relay = Raw::new(self.listening.accepted().await);
        relay.be_relay(HOP_WINDOW).await;
        relay
    }

    /// Serves the next session.
    async fn serve(&mut self) {
        let session = self.sessions.next().await.expect("a session");
        self.tasks.spawn(async move {
            let _ = session.run().await;
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_number_of_the_wrong_kind_ends_the_link_and_the_agent_comes_again() {
    let hand = hand();
    for numbers in [vec![3], vec![0], vec![4, 2], vec![2, 2]] {
        let mut relay = hand.relay().await;
        for (key, number) in (1..).zip(numbers) {
            relay.send(&HopFrame::Attach(TunnelId(number), asks(key)));
        }
        while !matches!(relay.hear().await, Heard::Gone(_)) {}
    }
    hand.relay().await;
}

/// Who is cut as often at the other side has to be met.
#[tokio::test(start_paused = true)]
async fn an_agent_that_is_cut_again_and_again_is_back_within_seconds() {
    let hand = hand();
    for _ in 0..12 {
        let began = Instant::now();
        let mut relay = hand.relay().await;
        let waited = began.elapsed();
        assert!(waited <= ms(4_900), "{waited:?}");
        relay.push(ms(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_attach_fences_the_older_tunnel_and_the_relay_hears_it() {
    let mut hand = hand();
    let mut relay = hand.relay().await;
    let (first, second, third) = (TunnelId(2), TunnelId(4), TunnelId(6));
    relay.send(&HopFrame::Attach(first, asks(1)));
    relay.push(ms(1)).await;
    hand.serve().await;
    let is_attached = |heard: &Heard, tunnel| matches!(heard, Heard::Frame(HopFrame::Attached(of, _)) if *of == tunnel);
    let heard = relay.hear().await;
    assert!(is_attached(&heard, first), "{heard:?}");
    let newer = Attach {
        epoch: 2,
        established: true,
        age_ms: 5,
        ..asks(1)
    };
    relay.send(&HopFrame::Attach(second, newer.clone()));
    match relay.hear().await {
        Heard::Frame(HopFrame::Refused(of, refused)) => {
            assert_eq!((of, refused.code), (first, RefuseCode::Fenced as u32));
        }
        other => panic!("{other:?}"),
    }
    let heard = relay.hear().await;
    assert!(is_attached(&heard, second), "{heard:?}");
    // The same again is too late.
    relay.send(&HopFrame::Attach(third, newer));
    match relay.hear().await {
        Heard::Frame(HopFrame::Refused(of, refused)) => {
            assert_eq!((of, refused.code), (third, RefuseCode::Fenced as u32));
        }
        other => panic!("{other:?}"),
    }
}

/// ATTACH and the end of its client in one breath: the session was linked to nothing, for ever.
#[tokio::test(start_paused = true)]
async fn a_client_that_left_before_its_session_looked_leaves_it_parked_and_not_linked() {
    for last in [
        HopFrame::Detach(TunnelId(2)),
        HopFrame::Refused(
            TunnelId(2),
            Refused {
                code: RefuseCode::Cut as u32,
                is_final: false,
                message: "lost".to_owned(),
            },
        ),
    ] {
        let mut hand = hand();
        let mut relay = hand.relay().await;
        relay.send(&HopFrame::Attach(TunnelId(2), asks(1)));
        relay.send(&last);
        relay.push(ms(1)).await;
        hand.serve().await;
        let heard = timeout(ms(100_000), relay.hear()).await;
        assert!(heard.is_err(), "{heard:?}");
        // 60 s, and 60 s more.
        timeout(ms(30_000), relay.hear()).await.unwrap_err();
        assert_eq!(hand.acceptor.sessions(), 0, "{last:?}");
    }
}

/// Two sessions that always have something to say take turns on the link.
#[tokio::test(start_paused = true)]
async fn sessions_of_one_agent_share_its_link_by_bytes() {
    let mut hand = hand();
    let mut relay = hand.relay().await;
    for (number, key) in [(2, 1), (4, 2)] {
        relay.send(&HopFrame::Attach(TunnelId(number), asks(key)));
        relay.push(ms(1)).await;
        let session = hand.sessions.next().await.expect("a session");
        let handle = session.handle();
        // The second one joins late.
        let flow = Flow {
            len: 1 << 20,
            chunk: [1_000, 64 * 1024][usize::from(key == 1)],
            ..Flow::default()
        };
        hand.tasks.spawn(async move {
            let mut stream = handle.open("out").expect("room for one");
            let told = give(&flow, 1, &mut stream.send);
            tokio::join!(session.run(), told).0.unwrap_err();
        });
    }
    let mut heard = [0u64; 2];
    // As long as credit lasts.
    while heard.iter().all(|bytes| *bytes < HOP_WINDOW / 2) {
        match relay.hear().await {
            Heard::Data(_, bytes) => {
                heard[usize::from(relay.tunnel == TunnelId(4))] += bytes.len() as u64;
            }
            Heard::Frame(HopFrame::Attached(..)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(heard[0].abs_diff(heard[1]) <= 80 * 1024, "{heard:?}");
}

/// A session that nobody serves is no reason for its client to wait.
#[tokio::test(start_paused = true)]
async fn a_session_that_is_dropped_unserved_is_told_to_its_client() {
    let mut hand = hand();
    let mut relay = hand.relay().await;
    relay.send(&HopFrame::Attach(TunnelId(2), asks(1)));
    relay.push(ms(1)).await;
    drop(hand.sessions.next().await.expect("a session"));
    let heard = timeout(ms(1_000), relay.hear()).await.expect("an answer");
    assert_eq!(refused(heard).code, RefuseCode::Cut as u32);
}
