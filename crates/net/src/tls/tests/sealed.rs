//! Sealed sessions: carried, cut and resumed like others, and never wrong whoever is in between.

mod carried;
mod certificates;
mod changed;
mod middle;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use farpipe_proto::identity::Caller;
use farpipe_proto::wire::control::{Accept, Exit};
use tokio::task::JoinSet;

use super::pki::Pki;
use crate::clock::WallClock;
use crate::tls::{AcceptorSeal, OpenerSeal, SealOptions};
use crate::{
    Acceptor, AcceptorConfig, Clock, Fate, Greeting, Opener, OpenerConfig, RecvStream, SendStream,
    SessionEnd, Stream, system_random,
};
use middle::{Middle, OnAttach, Tamper};

static PKI: LazyLock<Pki> = LazyLock::new(|| {
    let pki = Pki::new();
    pki.issue_to("client", "alice", "alice.example");
    pki.issue_to("agent", "web1", "web1.agent.farpipe");
    pki.issue_to("agent", "web2", "web2.agent.farpipe");
    // Names that some host and the agent have in common, and no more.
    pki.issue_to("client", "web1", "web1.agent.farpipe");
    pki.issue_to("relay", "hub", "hub.example");
    pki
});

fn options(pki: &Pki, who: &str) -> SealOptions {
    SealOptions {
        identity: pki.files(who),
        ca: pki.path("ca.pem"),
        crl: None,
        clock: WallClock::System,
    }
}

fn alice() -> Option<OpenerSeal> {
    Some(opener(options(&PKI, "client-alice")))
}

fn opener(options: SealOptions) -> OpenerSeal {
    OpenerSeal::new(options, "web1").expect("good files")
}

fn web1() -> Option<AcceptorSeal> {
    Some(acceptor(options(&PKI, "agent-web1")))
}

fn acceptor(options: SealOptions) -> AcceptorSeal {
    AcceptorSeal::new(options).expect("good files")
}

fn honest() -> Tamper {
    Box::new(|_, _, bytes| bytes)
}

fn leave_attach(_: &mut Vec<u8>) {}

/// Who takes part.
struct Play {
    opener: Option<OpenerSeal>,
    acceptor: Option<AcceptorSeal>,
    tamper: Tamper,
    on_attach: OnAttach,
    cuts: Vec<usize>,
    len: usize,
}

impl Default for Play {
    fn default() -> Self {
        Self {
            opener: alice(),
            acceptor: web1(),
            tamper: honest(),
            on_attach: leave_attach,
            cuts: Vec::new(),
            len: 0,
        }
    }
}

/// What became of it; `None`: nothing, in a minute.
struct Outcome {
    opened: Option<Result<(), SessionEnd>>,
    accepted: Option<Result<(), SessionEnd>>,
    /// The status that the opener heard.
    exit: Option<Exit>,
    got_there: Vec<u8>,
    got_back: Vec<u8>,
    peer: Option<Caller>,
}

impl Outcome {
    fn is_success(&self) -> bool {
        self.opened == Some(Ok(()))
    }

    /// Nothing that was not said has come out at either end.
    fn assert_no_wrong_byte(&self, len: usize, what: &str) {
        assert!(bytes(1, len).starts_with(&self.got_there), "{what}: there");
        assert!(bytes(2, len).starts_with(&self.got_back), "{what}: back");
        let right = Exit {
            code: Some(STATUS),
            ..Exit::default()
        };
        assert!(
            self.exit.is_none() || self.exit == Some(right),
            "{what}: {:?}",
            self.exit
        );
    }

    fn words(&self) -> (String, String) {
        let words = |end: &Option<Result<(), SessionEnd>>| match end {
            None => "nothing".to_owned(),
            Some(Ok(())) => "success".to_owned(),
            Some(Err(end)) => end.to_string(),
        };
        (words(&self.opened), words(&self.accepted))
    }
}

const STATUS: u32 = 7;

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn greeting() -> Greeting {
    Greeting {
        software: "test".to_owned(),
        prover: None,
        keys: None,
        tokens: None,
        random: system_random,
    }
}

async fn write_all(send: &mut SendStream, mut data: &[u8]) {
    while !data.is_empty() {
        let Ok(grant) = poll_fn(|cx| send.poll_grant(cx)).await else {
            return;
        };
        let mut buf = poll_fn(|cx| send.poll_buffer(cx, grant)).await;
        let len = grant.min(data.len()).min(buf.capacity() - buf.len());
        buf.extend_from_slice(&data[..len]);
        data = &data[len..];
        send.commit(buf);
        tokio::task::yield_now().await;
    }
    send.finish();
}

/// Reads to the end, or until the session is over.
async fn read_all(recv: &mut RecvStream, got: &Mutex<Vec<u8>>) {
    let mut chunks = VecDeque::new();
    while let Ok(more) = poll_fn(|cx| recv.poll_chunks(cx, &mut chunks)).await {
        if !more {
            recv.done();
            return;
        }
        for chunk in chunks.drain(..) {
            got.lock().expect("no panic").extend_from_slice(&chunk);
            recv.consumed(chunk.len());
        }
    }
}

/// One session in which both sides say `len` bytes, and a command's status is told.
async fn play(play: Play) -> Outcome {
    let clock = Clock::Tokio(tokio::time::Instant::now());
    let len = play.len;
    let mut config = AcceptorConfig::new(greeting());
    config.clock = clock;
    config.seal = play.acceptor;
    let (acceptor, mut sessions) = Acceptor::new(config);
    let mut config = OpenerConfig::new(greeting());
    config.clock = clock;
    config.seal = play.opener;
    let opener = Opener::new(config);
    let middle = Middle::new(acceptor, play.tamper)
        .on_attach(play.on_attach)
        .cut_after(play.cuts);
    let got_there = Arc::new(Mutex::new(Vec::new()));
    let got_back = Arc::new(Mutex::new(Vec::new()));
    let peer = Arc::new(Mutex::new(None));
    let exit = Arc::new(Mutex::new(None));
    let accepted = Arc::new(Mutex::new(None));
    let mut tasks = JoinSet::new();
    let (got, who, ended) = (
        Arc::clone(&got_there),
        Arc::clone(&peer),
        Arc::clone(&accepted),
    );
    tasks.spawn(async move {
        let session = sessions.next().await.expect("a session");
        let handle = session.handle();
        let serving = async {
            let caller = handle.peer_identity().await;
            *who.lock().expect("no panic") = caller;
            let Some((stream, _)) = handle.accept().await else {
                return;
            };
            stream.accept(Accept { has_command: true });
            let Stream {
                mut send,
                mut recv,
                watch,
            } = stream;
            let data = bytes(2, len);
            tokio::join!(write_all(&mut send, &data), read_all(&mut recv, &got));
            send.exit(Exit {
                code: Some(STATUS),
                ..Exit::default()
            });
            drop((send, recv, watch));
        };
        let (result, ()) = tokio::join!(session.run(), serving);
        *ended.lock().expect("no panic") = Some(result);
    });
    let handle = opener.handle();
    let got = Arc::clone(&got_back);
    let heard = Arc::clone(&exit);
    let app = async {
        let mut stream = handle.open("").expect("room");
        handle.finish_opening();
        let data = bytes(1, len);
        tokio::join!(
            write_all(&mut stream.send, &data),
            read_all(&mut stream.recv, &got)
        );
        let watch = &mut stream.watch;
        let is_told = |fate: &Fate| fate.exited.is_some() || fate.end.is_some();
        let fate = poll_fn(|cx| watch.poll_until(cx, is_told)).await;
        *heard.lock().expect("no panic") = fate.exited;
    };
    let session = async { tokio::join!(opener.run(&middle), app).0 };
    let opened = tokio::time::timeout(Duration::from_secs(60), session).await;
    // The other end hears of it, or parks.
    let _ = tokio::time::timeout(Duration::from_secs(5), async {
        while tasks.join_next().await.is_some() {}
    })
    .await;
    tasks.shutdown().await;
    let take = |bytes: &Mutex<Vec<u8>>| std::mem::take(&mut *bytes.lock().expect("no panic"));
    Outcome {
        opened: opened.ok(),
        accepted: accepted.lock().expect("no panic").take(),
        exit: exit.lock().expect("no panic").take(),
        got_there: take(&got_there),
        got_back: take(&got_back),
        peer: peer.lock().expect("no panic").take(),
    }
}
