//! Windows are memory: what all sessions of a process have of them together has a limit.

use std::sync::Arc;

use farpipe_net::{AcceptedSession, Acceptor, Clock, Stream, WindowBudget};
use farpipe_proto::limits::WINDOW_INITIAL;
use farpipe_proto::wire::control::{Abort, Accept, Attach, Open, Refuse};
use farpipe_proto::wire::hop::HopFrame;
use farpipe_proto::wire::id::StreamId;
use farpipe_proto::wire::inner::InnerFrame;
use farpipe_sim::net::Scenario;
use farpipe_sim::net::cable::Quality;
use farpipe_sim::net::network::{Kind, Network};
use farpipe_sim::net::raw::{Heard, Raw};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Accepts every stream and keeps it, until its sender gives up.
async fn keep(session: AcceptedSession) {
    let handle = session.handle();
    let keeping = async {
        let mut kept: Vec<Stream> = Vec::new();
        while let Some((stream, open)) = handle.accept().await {
            if open.target == "drop" {
                kept.clear();
            }
            stream.accept(Accept::default());
            kept.push(stream);
        }
    };
    let _ = tokio::join!(session.run(), keeping);
}

/// A peer of a session.
struct Peer {
    raw: Raw,
    offset: u64,
    next_id: u32,
}

impl Peer {
    async fn attached(network: &Network, key: u8) -> Self {
        let mut raw = Raw::new(network.connect().await.expect("somebody listens"));
        raw.attach(Attach {
            key: vec![key; 32],
            epoch: 1,
            resume_for_ms: 1_000,
            caller: String::new(),
            ..Attach::default()
        })
        .await;
        let heard = raw.hear().await;
        assert!(
            matches!(heard, Heard::Frame(HopFrame::Attached(..))),
            "{heard:?}"
        );
        Self {
            raw,
            offset: 0,
            next_id: 1,
        }
    }

    fn say(&mut self, id: u32, frame: &InnerFrame) {
        let bytes = frame.encode(StreamId(id));
        self.raw.data(self.offset, &bytes);
        self.offset += bytes.len() as u64;
    }

    /// Opens a stream; whether it was accepted.
    async fn open(&mut self, target: &str) -> bool {
        let id = self.next_id;
        self.next_id += 2;
        let open = Open {
            target: target.to_owned(),
            ..Open::default()
        };
        self.say(id, &InnerFrame::Open(open));
        let accept = InnerFrame::Accept(Accept::default()).encode(StreamId(id));
        let refuse = Refuse {
            status: 125,
            message: "no memory for another stream; try again later".to_owned(),
        };
        let refuse = InnerFrame::Refuse(refuse).encode(StreamId(id));
        let mut said = Vec::new();
        loop {
            match self.raw.hear().await {
                Heard::Data(_, bytes) => said.extend(bytes),
                Heard::Frame(HopFrame::Ack(..)) => {}
                other => panic!("{other:?}"),
            }
            if said.ends_with(&accept) {
                return true;
            }
            if said.ends_with(&refuse) {
                return false;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn streams_of_all_sessions_share_the_windows_of_the_process() {
    let network = Network::new(Kind::Fp, Quality::default(), Vec::new());
    let budget = Arc::new(WindowBudget::new(3 * WINDOW_INITIAL + 1));
    let mut config = Scenario::default().acceptor(Clock::Tokio(Instant::now()), None);
    config.windows = Arc::clone(&budget);
    let (acceptor, mut sessions) = Acceptor::new(config);
    let mut tasks = JoinSet::new();
    tasks.spawn(network.clone().serve(Arc::new(acceptor)));
    tasks.spawn(async move {
        let mut running = JoinSet::new();
        while let Some(session) = sessions.next().await {
            running.spawn(keep(session));
        }
    });
    let mut one = Peer::attached(&network, 1).await;
    let mut other = Peer::attached(&network, 2).await;
    assert!(one.open("").await);
    assert!(one.open("").await);
    assert!(other.open("").await);
    assert_eq!(budget.used(), 3 * WINDOW_INITIAL);
    assert!(!one.open("").await);
    assert!(!other.open("").await);
    assert_eq!(budget.used(), 3 * WINDOW_INITIAL);
    // A refused stream is over with its last word, and had no window.
    other.say(3, &InnerFrame::Reset(Abort::default()));
    // One that ends makes room for another, in whichever session.
    one.say(1, &InnerFrame::Reset(Abort::default()));
    one.say(1, &InnerFrame::Stop(Abort::default()));
    assert!(one.open("drop").await);
    assert!(!other.open("").await);
    one.say(7, &InnerFrame::Reset(Abort::default()));
    one.say(3, &InnerFrame::Reset(Abort::default()));
    one.say(3, &InnerFrame::Stop(Abort::default()));
    assert!(one.open("").await);
    assert_eq!(budget.used(), 3 * WINDOW_INITIAL);
    // So does a session.
    tasks.shutdown().await;
    drop(one);
    assert_eq!(budget.used(), 0);
}
