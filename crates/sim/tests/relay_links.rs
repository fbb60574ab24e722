//! What a relay makes of agents and clients that stand still, overrun, lie or come twice.

use std::sync::Arc;
use std::time::Duration;

use farpipe_net::{Clock, Greeting};
use farpipe_proto::limits::{HOP_FRAME_MAX, HOP_WINDOW};
use farpipe_proto::wire::control::{Attach, Attached, List, RefuseCode, Refused};
use farpipe_proto::wire::hop::HopFrame;
use farpipe_proto::wire::id::TunnelId;
use farpipe_relay::{Load, Relay, RelayConfig};
use farpipe_sim::net::cable::Quality;
use farpipe_sim::net::chance;
use farpipe_sim::net::network::{Kind, Network};
use farpipe_sim::net::pass;
use farpipe_sim::net::raw::{Heard, Raw};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const NAME: &str = "web1";
const NEAR: TunnelId = TunnelId(1);
const PIECE: usize = 32 * 1024;

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

/// A relay and its address.
struct Place {
    network: Network,
    relay: Arc<Relay>,
    _tasks: JoinSet<()>,
}

fn place() -> Place {
    chance::seed(1);
    let network = Network::new(Kind::Fp, Quality::default(), Vec::new());
    let (relay, running) = Relay::new(RelayConfig {
        clock: Clock::Tokio(Instant::now()),
        ..RelayConfig::default()
    });
    let relay = Arc::new(relay);
    let mut tasks = JoinSet::new();
    tasks.spawn(network.clone().serve(Arc::new(relay.door(greeting()))));
    tasks.spawn(running.run(std::future::pending()));
    Place {
        network,
        relay,
        _tasks: tasks,
    }
}

impl Place {
    async fn connect(&self) -> Raw {
        Raw::new(self.network.connect().await.expect("somebody listens"))
    }

    async fn agent(&self, instance: u8) -> Raw {
        let mut agent = self.connect().await;
        agent.register(NAME, instance).await;
        agent
    }

    /// A client that is joined to the agent, and its tunnel there.
    async fn client(&self, agent: &mut Raw, key: u8) -> (Raw, TunnelId) {
        let mut client = self.connect().await;
        client.attach(asks(key)).await;
        let tunnel = match client_comes(agent).await {
            (tunnel, attach) if attach.key == vec![key; 32] => tunnel,
            other => panic!("{other:?}"),
        };
        agent.send(&HopFrame::Attached(
            tunnel,
            Attached {
                received: 0,
                kept_ms: 0,
            },
        ));
        agent.push(ms(1)).await;
        let heard = client.hear().await;
        assert!(
            matches!(heard, Heard::Frame(HopFrame::Attached(NEAR, _))),
            "{heard:?}"
        );
        (client, tunnel)
    }
}

fn asks(key: u8) -> Attach {
    Attach {
        route: NAME.to_owned(),
        key: vec![key; 32],
        epoch: 1,
        resume_for_ms: 60_000,
        ..Attach::default()
    }
}

/// The next ATTACH that the agent hears.
async fn client_comes(agent: &mut Raw) -> (TunnelId, Attach) {
    loop {
        match agent.hear().await {
            Heard::Frame(HopFrame::Attach(tunnel, attach)) => return (tunnel, attach),
            Heard::Frame(HopFrame::HopCredit(..)) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn refused(heard: Heard) -> Refused {
    match heard {
        Heard::Frame(HopFrame::Refused(_, refused)) => refused,
        other => panic!("{other:?}"),
    }
}

/// Sends `len` bytes of a tunnel from `offset` on, whatever the credit is.
async fn pour(agent: &mut Raw, tunnel: TunnelId, offset: u64, len: usize) {
    let piece = vec![7; PIECE];
    for at in (0..len).step_by(PIECE) {
        let part = &piece[..PIECE.min(len - at)];
        agent.data_of(tunnel, offset + at as u64, part);
    }
    agent.push(ms(10)).await;
}

/// An agent that sends what credit allows, and a client that reads all of it; how long that takes.
async fn stream(agent: &mut Raw, client: &mut Raw, tunnel: TunnelId, len: u64) -> Duration {
    let began = Instant::now();
    let sending = async {
        let (mut sent, mut limit) = (0, HOP_WINDOW);
        while sent < len {
            while sent < limit.min(len) {
                agent.data_of(tunnel, sent, &[7; PIECE]);
                sent += PIECE as u64;
            }
            if sent >= len {
                break;
            }
            match agent.hear().await {
                Heard::Frame(HopFrame::HopCredit(of, raised)) if of == tunnel => limit = raised,
                Heard::Frame(HopFrame::HopCredit(..)) => {}
                other => panic!("{other:?}"),
            }
        }
        agent.push(Duration::from_secs(1)).await;
    };
    let reading = async {
        let mut read = 0;
        while read < len {
            match client.hear().await {
                Heard::Data(offset, bytes) if offset == read => read += bytes.len() as u64,
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(Duration::from_secs(60), async {
        tokio::join!(sending, reading)
    })
    .await
    .expect("nobody is in the way");
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn n7_a_client_that_stands_still_costs_its_window_and_slows_nobody() {
    let place = place();
    let mut agent = place.agent(1).await;
    let (mut first, tunnel) = place.client(&mut agent, 1).await;
    let alone = stream(&mut agent, &mut first, tunnel, 4 << 20).await;
    let (still, stopped) = place.client(&mut agent, 2).await;
    let (mut second, tunnel) = place.client(&mut agent, 3).await;
    pour(&mut agent, stopped, 0, HOP_WINDOW as usize).await;
    let beside = stream(&mut agent, &mut second, tunnel, 4 << 20).await;
    assert!(beside <= alone + ms(1), "{alone:?} {beside:?}");
    drop(still);
    drop((first, second));
    pass(Duration::from_secs(5)).await;
    let load = place.relay.load();
    assert_eq!((load.tunnels, load.windows), (0, 0), "{load:?}");
}

/// Credit does not wait for the next thing that happens.
#[tokio::test(start_paused = true)]
async fn an_agent_hears_at_once_that_a_slow_client_has_taken_all() {
    let place = place();
    let mut agent = place.agent(1).await;
    let (mut slow, tunnel) = place.client(&mut agent, 1).await;
    pour(&mut agent, tunnel, 0, HOP_WINDOW as usize).await;
    pass(ms(100)).await;
    let mut read = 0;
    while read < HOP_WINDOW {
        match slow.hear().await {
            Heard::Data(_, bytes) => read += bytes.len() as u64,
            other => panic!("{other:?}"),
        }
    }
    let mut limit = 0;
    let told = async {
        while limit < 2 * HOP_WINDOW - HOP_WINDOW / 4 {
            match agent.hear().await {
                Heard::Frame(HopFrame::HopCredit(of, raised)) if of == tunnel => limit = raised,
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(ms(1), told).await.expect("at once");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_overruns_its_credit_is_cut() {
    let place = place();
    let mut agent = place.agent(1).await;
    let (mut still, stopped) = place.client(&mut agent, 1).await;
    let (mut other, _) = place.client(&mut agent, 2).await;
    pour(&mut agent, stopped, 0, HOP_WINDOW as usize + HOP_FRAME_MAX).await;
    assert_eq!(place.relay.load().tunnels, 2);
    let piece = vec![7; PIECE];
    let offset = HOP_WINDOW + HOP_FRAME_MAX as u64;
    for n in 0..8 {
        // More than its connection holds of it.
        agent.data_of(stopped, offset + n * PIECE as u64, &piece);
    }
    agent.push(ms(10)).await;
    let heard = timeout(Duration::from_secs(5), async {
        loop {
            if let Heard::Gone(why) = agent.hear().await {
                return why;
            }
        }
    });
    heard.await.expect("it is cut");
    assert_eq!(refused(other.hear().await).code, RefuseCode::Cut as u32);
    // What it was given before it had no room for more still arrives; the rest is sent again.
    while let Heard::Data(..) = still.hear().await {}
    pass(Duration::from_secs(5)).await;
    assert_eq!(place.relay.load(), Load::default());
}

#[tokio::test(start_paused = true)]
async fn more_clients_that_stand_still_than_there_are_buffers_slow_nobody() {
    let place = place();
    let mut agent = place.agent(1).await;
    let (mut first, tunnel) = place.client(&mut agent, 0).await;
    let alone = stream(&mut agent, &mut first, tunnel, 1 << 20).await;
    let mut still = Vec::new();
    for key in 1..=80 {
        let (client, tunnel) = place.client(&mut agent, key).await;
        pour(&mut agent, tunnel, 0, HOP_WINDOW as usize).await;
        still.push(client);
    }
    let (mut last, tunnel) = place.client(&mut agent, 200).await;
    let beside = stream(&mut agent, &mut last, tunnel, 1 << 20).await;
    assert!(beside <= alone + ms(1), "{alone:?} {beside:?}");
}

/// The relay reads nothing of a client while a piece of it waits; an agent that says nothing does not
/// wake it.
#[tokio::test(start_paused = true)]
async fn a_client_is_read_again_when_its_agents_link_has_room_again() {
    const ALL: usize = 4 << 20;
    let place = place();
    let mut agent = place.agent(1).await;
    let (mut client, _) = place.client(&mut agent, 1).await;
    for at in (0..ALL).step_by(PIECE) {
        client.data(at as u64, &[7; PIECE]);
    }
    let reading = async {
        let mut read = 0;
        while read < ALL as u64 {
            match agent.hear().await {
                Heard::Data(offset, bytes) if offset == read => read += bytes.len() as u64,
                other => panic!("{other:?}"),
            }
        }
    };
    let both = async { tokio::join!(reading, client.push(ms(5_000))) };
    timeout(ms(5_000), both).await.expect("all arrives");
}

/// What two clients send takes turns on the agent's link.
#[tokio::test(start_paused = true)]
async fn clients_of_one_agent_share_its_link_by_bytes() {
    const EACH: usize = 2 << 20;
    let place = place();
    let mut agent = place.agent(1).await;
    let (mut first, one) = place.client(&mut agent, 1).await;
    let (mut second, _) = place.client(&mut agent, 2).await;
    // The one in large frames, the other in small ones.
    for at in (0..EACH).step_by(PIECE) {
        first.data(at as u64, &[7; PIECE]);
    }
    for at in (0..EACH).step_by(1_000) {
        second.data(at as u64, &[7; 1_000]);
    }
    let mut heard = [0; 2];
    let reading = async {
        while heard.iter().all(|bytes| *bytes < EACH as u64 / 2) {
            match agent.hear().await {
                // It says nothing itself: no word of it wakes the relay.
                Heard::Data(offset, bytes) => {
                    let of = usize::from(agent.tunnel != one);
                    assert_eq!(offset, heard[of]);
                    heard[of] += bytes.len() as u64;
                }
                other => panic!("{other:?}"),
            }
        }
    };
    let pushing = async { tokio::join!(first.push(ms(9_000)), second.push(ms(9_000))) };
    tokio::select! {
        () = reading => {}
        _ = pushing => panic!("nothing moves any more: {heard:?}"),
    }
    // In turns, up to what one read of a client brings.
    assert!(heard[0].abs_diff(heard[1]) <= 512 * 1024, "{heard:?}");
}

/// The middle of a message is no place for a last word: its client is cut, and hears nothing wrong.
#[tokio::test(start_paused = true)]
async fn a_client_in_the_midst_of_a_message_is_cut_when_its_agent_is_lost() {
    let place = place();
    let mut agent = place.agent(1).await;
    let (mut still, stopped) = place.client(&mut agent, 1).await;
    pour(&mut agent, stopped, 0, HOP_WINDOW as usize).await;
    drop(agent);
    pass(ms(1)).await;
    let mut read = 0;
    let why = loop {
        match still.hear().await {
            Heard::Data(offset, bytes) if offset == read => {
                assert!(bytes.iter().all(|byte| *byte == 7));
                read += bytes.len() as u64;
            }
            Heard::Gone(why) => break why,
            other => panic!("{other:?}"),
        }
    };
    assert!(read > 0 && read < HOP_WINDOW, "{read}");
    assert!(why.contains("1006"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn frames_that_have_no_place_end_their_link_and_no_other() {
    let place = place();
    let mut agent = place.agent(1).await;
    let (mut good, tunnel) = place.client(&mut agent, 1).await;
    let odd = |key| {
        [
            HopFrame::Attach(TunnelId(3), asks(key)),
            HopFrame::Attached(
                NEAR,
                Attached {
                    received: 0,
                    kept_ms: 0,
                },
            ),
            HopFrame::HopCredit(NEAR, 1),
            HopFrame::List(List::default()),
            HopFrame::Ack(TunnelId(7), 1),
        ]
    };
    for (key, frame) in (2..).zip(odd(9)) {
        let (mut client, parted) = place.client(&mut agent, key).await;
        client.send(&frame);
        let why = refused(client.hear().await);
        assert_eq!(why.code, RefuseCode::Protocol as u32, "{frame:?}");
        match agent.hear().await {
            Heard::Frame(HopFrame::Refused(tunnel, refused)) => {
                assert_eq!((tunnel, refused.code), (parted, RefuseCode::Cut as u32));
            }
            other => panic!("{other:?}"),
        }
    }
    stream(&mut agent, &mut good, tunnel, 1 << 20).await;
    agent.send(&HopFrame::Attach(TunnelId(3), asks(9)));
    while !matches!(agent.hear().await, Heard::Gone(_)) {}
    assert_eq!(refused(good.hear().await).code, RefuseCode::Cut as u32);
}

#[tokio::test(start_paused = true)]
async fn n8_a_flood_of_pings_or_lists_is_its_senders_own_affair() {
    let place = place();
    let mut agent = place.agent(1).await;
    let (mut flooding, _) = place.client(&mut agent, 1).await;
    let (mut good, tunnel) = place.client(&mut agent, 2).await;
    let mut listing = place.connect().await;
    listing.hello();
    for number in 0..50_000 {
        // Nobody reads the answers.
        flooding.send(&HopFrame::Ping(number));
        listing.send(&HopFrame::List(List::default()));
    }
    tokio::join!(flooding.push(ms(100)), listing.push(ms(100)));
    let took = stream(&mut agent, &mut good, tunnel, 4 << 20).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_name_goes_to_the_newer_link_and_the_older_hears_whose_it_is() {
    let place = place();
    let mut first = place.agent(1).await;
    let (mut client, _) = place.client(&mut first, 1).await;
    let mut second = place.agent(1).await;
    let same = refused(first.hear().await);
    assert_eq!(
        (same.code, same.is_final),
        (RefuseCode::Fenced as u32, false)
    );
    assert_eq!(refused(client.hear().await).code, RefuseCode::Cut as u32);
    let mut third = place.agent(2).await;
    let other = refused(second.hear().await);
    assert_eq!(
        (other.code, other.is_final),
        (RefuseCode::Fenced as u32, true)
    );
    place.client(&mut third, 2).await;
}

#[tokio::test(start_paused = true)]
async fn an_established_session_is_held_for_its_agent_and_ages_meanwhile() {
    let place = place();
    let mut held = place.connect().await;
    held.attach(Attach {
        established: true,
        age_ms: 1_000,
        ..asks(1)
    })
    .await;
    pass(ms(10_000)).await;
    assert_eq!(place.relay.load().held, 1);
    let mut agent = place.agent(1).await;
    let (_, attach) = client_comes(&mut agent).await;
    assert!((11_000..11_100).contains(&attach.age_ms), "{attach:?}");
    pass(ms(1)).await;
    assert_eq!(
        (place.relay.load().held, place.relay.load().tunnels),
        (0, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_hold_ends_after_30_s_and_is_no_final_no() {
    let place = place();
    let began = Instant::now();
    let mut held = place.connect().await;
    held.attach(Attach {
        established: true,
        age_ms: 1_000,
        ..asks(1)
    })
    .await;
    let why = refused(held.hear().await);
    assert_eq!(
        (why.code, why.is_final),
        (RefuseCode::NoRoute as u32, false)
    );
    assert_eq!(began.elapsed().as_secs(), 30);
    // One that was never attached is told at once.
    let mut fresh = place.connect().await;
    fresh.attach(asks(2)).await;
    let why = refused(fresh.hear().await);
    assert_eq!((why.code, why.is_final), (RefuseCode::NoRoute as u32, true));
    assert_eq!(began.elapsed().as_secs(), 30);
    pass(ms(2_000)).await;
    assert_eq!(place.relay.load(), Load::default());
}

/// A reader may come before the writer of its pipe, and is told when nobody came; not finally.
#[tokio::test(start_paused = true)]
async fn the_first_attach_to_a_pipe_is_held_as_long_as_it_says() {
    let place = place();
    let began = Instant::now();
    let mut held = place.connect().await;
    held.attach(Attach {
        route: "p/logs".to_owned(),
        hold_ms: 2_000,
        ..asks(1)
    })
    .await;
    let why = refused(held.hear().await);
    assert_eq!(
        (why.code, why.is_final),
        (RefuseCode::NoRoute as u32, false)
    );
    assert_eq!(began.elapsed().as_secs(), 2);
    let mut odd = place.connect().await;
    odd.attach(Attach {
        route: "p/../logs".to_owned(),
        hold_ms: 2_000,
        ..asks(2)
    })
    .await;
    let why = refused(odd.hear().await);
    assert_eq!(
        (why.code, why.is_final),
        (RefuseCode::Protocol as u32, true)
    );
    pass(ms(2_000)).await;
    assert_eq!(place.relay.load(), Load::default());
}

/// More than the queue to one agent has places: none is told to come again later.
#[tokio::test(start_paused = true)]
async fn a_hundred_held_sessions_are_joined_as_soon_as_their_agent_is_back() {
    let place = place();
    let mut held = Vec::new();
    for key in 1..=100 {
        let mut client = place.connect().await;
        client
            .attach(Attach {
                established: true,
                age_ms: 1_000,
                ..asks(key)
            })
            .await;
        held.push(client);
    }
    pass(ms(1_000)).await;
    assert_eq!(place.relay.load().held, 100);
    let mut agent = place.agent(1).await;
    let all = async {
        for _ in 0..100 {
            client_comes(&mut agent).await;
        }
    };
    timeout(ms(100), all).await.expect("all of them at once");
    assert_eq!(
        (place.relay.load().held, place.relay.load().tunnels),
        (0, 100)
    );
}
