//! Sealed sessions: carried, cut and resumed like others, and never wrong whoever is in between.

mod middle;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use farpipe_proto::identity::Caller;
use farpipe_proto::wire::control::{Accept, Exit};
use farpipe_proto::wire::id::StreamId;
use farpipe_proto::wire::inner::InnerFrame;
use tokio::task::JoinSet;

use super::pki::Pki;
use crate::clock::WallClock;
use crate::tls::{AcceptorSeal, OpenerSeal, SealOptions};
use crate::{
    Acceptor, AcceptorConfig, Clock, Fate, Greeting, Opener, OpenerConfig, RecvStream, SendStream,
    SessionEnd, Stream, system_random,
};
use middle::{Middle, OnAttach, Tamper, Way};

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

#[tokio::test(start_paused = true)]
async fn a_sealed_session_carries_both_ways_and_says_who_opened_it() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let wire = Arc::clone(&seen);
    let len = 3 << 20;
    let outcome = play(Play {
        tamper: Box::new(move |_, _, bytes| {
            wire.lock().expect("no panic").extend_from_slice(&bytes);
            bytes
        }),
        len,
        ..Play::default()
    })
    .await;
    assert!(outcome.is_success(), "{:?}", outcome.words());
    assert_eq!(outcome.accepted, Some(Ok(())));
    assert!(outcome.got_there == bytes(1, len) && outcome.got_back == bytes(2, len));
    assert_eq!(outcome.exit.and_then(|exit| exit.code), Some(STATUS));
    let peer = outcome.peer.expect("known");
    assert_eq!(peer.source(), "e2e-cert");
    let identity = peer.identity().expect("named").to_string();
    assert_eq!(identity, "farpipe://test/client/alice");
    let seen = seen.lock().expect("no panic");
    for seed in [1, 2] {
        let plain = bytes(seed, 64);
        assert!(!seen.windows(64).any(|window| window == plain), "plain");
    }
}

#[tokio::test(start_paused = true)]
async fn a_plain_session_has_nobody_proven() {
    let outcome = play(Play {
        opener: None,
        len: 100_000,
        ..Play::default()
    })
    .await;
    assert!(outcome.is_success(), "{:?}", outcome.words());
    assert_eq!(outcome.peer, None);
    outcome.assert_no_wrong_byte(100_000, "plain");
}

/// Passes all on; what has an offset has one content, however often it is sent: another handshake
/// would have another.
fn one_content() -> Tamper {
    let mut said = [Vec::new(), Vec::new()];
    Box::new(move |way, offset, bytes| {
        let said: &mut Vec<u8> = &mut said[way as usize];
        let at = usize::try_from(offset).expect("small");
        let known = said[at..].len().min(bytes.len());
        assert!(said[at..][..known] == bytes[..known], "other bytes");
        said.extend_from_slice(&bytes[known..]);
        bytes
    })
}

/// The handshake of both ways has less than this.
const HANDSHAKE: usize = 3_200;

#[tokio::test(start_paused = true)]
async fn a_cut_anywhere_in_the_handshake_is_resumed_without_another() {
    for at in (0..HANDSHAKE).step_by(3) {
        let outcome = play(Play {
            tamper: one_content(),
            cuts: vec![at],
            len: 1_000,
            ..Play::default()
        })
        .await;
        assert!(outcome.is_success(), "{at}: {:?}", outcome.words());
        assert_eq!(outcome.got_there, bytes(1, 1_000), "{at}");
        assert_eq!(outcome.got_back, bytes(2, 1_000), "{at}");
        assert!(outcome.peer.is_some(), "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn cuts_anywhere_in_the_data_are_resumed_with_the_same_records() {
    let len = 600_000;
    let mut draw = bytes(3, 4_000).into_iter();
    for turn in 0..12 {
        let mut next = || {
            let pair = [draw.next(), draw.next()].map(|byte| usize::from(byte.unwrap_or(1)));
            pair[0] << 8 | pair[1]
        };
        let cuts: Vec<usize> = (0..10).map(|_| 2 * next()).collect();
        let outcome = play(Play {
            tamper: one_content(),
            cuts: cuts.clone(),
            len,
            ..Play::default()
        })
        .await;
        assert!(
            outcome.is_success(),
            "{turn}: {cuts:?} {:?}",
            outcome.words()
        );
        assert!(outcome.got_there == bytes(1, len), "{turn}: {cuts:?}");
        assert!(outcome.got_back == bytes(2, len), "{turn}: {cuts:?}");
    }
}

/// Both ends say that something was changed, if they say anything: one that has finished saying may
/// only hear that the other is gone.
fn assert_changed(outcome: &Outcome, len: usize, what: &str) {
    outcome.assert_no_wrong_byte(len, what);
    let (opened, accepted) = outcome.words();
    assert!(!outcome.is_success(), "{what}");
    let told = [&opened, &accepted].map(|words| words.contains("E2E_INTEGRITY"));
    assert_eq!(told, [true, true], "{what}: {opened} | {accepted}");
}

/// What somebody in between does to bytes that lie at or behind some place.
fn at(place: u64, way: Way, mut act: impl FnMut(&mut Vec<u8>, usize) + Send + 'static) -> Tamper {
    let mut done = false;
    Box::new(move |its, offset, mut bytes| {
        let end = offset + bytes.len() as u64;
        if its == way && !done && end > place + 64 {
            done = true;
            let from = usize::try_from(place.saturating_sub(offset)).expect("small");
            act(&mut bytes, from);
        }
        bytes
    })
}

const LEN: usize = 400_000;

#[tokio::test(start_paused = true)]
async fn bytes_that_are_changed_dropped_or_repeated_end_the_session() {
    for way in [Way::There, Way::Back] {
        for place in [5_000, 20_000, 100_001, 300_000] {
            type Act = fn(&mut Vec<u8>, usize);
            let acts: [(&str, Act); 5] = [
                ("flip", |bytes, at| bytes[at] ^= 0x10),
                ("drop", |bytes, at| drop(bytes.drain(at..at + 30))),
                ("repeat", |bytes, at| {
                    let run = bytes[at..at + 40].to_vec();
                    bytes.splice(at..at, run);
                }),
                ("reorder", |bytes, at| bytes[at..at + 60].rotate_left(20)),
                ("insert", |bytes, at| {
                    let exit = Exit {
                        code: Some(0),
                        ..Exit::default()
                    };
                    bytes.splice(at..at, InnerFrame::Exit(exit).encode(StreamId(1)));
                }),
            ];
            for (name, act) in acts {
                let outcome = play(Play {
                    tamper: at(place, way, act),
                    len: LEN,
                    ..Play::default()
                })
                .await;
                assert_changed(&outcome, LEN, &format!("{name} {way:?} {place}"));
            }
        }
    }
}

/// Whole records dropped or repeated, so that what is left is well formed.
#[tokio::test(start_paused = true)]
async fn records_that_are_dropped_repeated_or_forged_end_the_session() {
    for (name, act) in [("drop", 0), ("repeat", 1), ("forge", 2)] {
        let mut stream: Vec<u8> = Vec::new();
        let mut done = false;
        let tamper: Tamper = Box::new(move |way, _, bytes| {
            if way == Way::Back {
                return bytes;
            }
            // Passes on whole records only.
            stream.extend_from_slice(&bytes);
            let mut goes = Vec::new();
            while stream.len() >= 5 {
                let len = 5 + usize::from(u16::from_be_bytes([stream[3], stream[4]]));
                if stream.len() < len {
                    break;
                }
                let record: Vec<u8> = stream.drain(..len).collect();
                let is_long = record.len() > 3_000;
                match act {
                    _ if done || !is_long => goes.extend_from_slice(&record),
                    0 => done = true,
                    1 => {
                        done = true;
                        goes.extend_from_slice(&record);
                        goes.extend_from_slice(&record);
                    }
                    _ => {
                        done = true;
                        // As if it were an alert in clear.
                        goes.extend_from_slice(&[21, 3, 3, 0, 2, 1, 0]);
                        goes.extend_from_slice(&record);
                    }
                }
            }
            goes
        });
        let outcome = play(Play {
            tamper,
            len: LEN,
            ..Play::default()
        })
        .await;
        assert_changed(&outcome, LEN, name);
    }
}

/// The bytes of one session in another, from some place on.
#[tokio::test(start_paused = true)]
async fn two_sessions_that_are_swapped_end() {
    for way in [Way::There, Way::Back] {
        for place in [0, 30_000] {
            let first = Arc::new(Mutex::new(Vec::new()));
            let into = Arc::clone(&first);
            let outcome = play(Play {
                tamper: Box::new(move |its, _, bytes| {
                    if its == way {
                        into.lock().expect("no panic").extend_from_slice(&bytes);
                    }
                    bytes
                }),
                len: LEN,
                ..Play::default()
            })
            .await;
            assert!(outcome.is_success(), "{:?}", outcome.words());
            let outcome = play(Play {
                tamper: Box::new(move |its, offset, mut bytes| {
                    let first = first.lock().expect("no panic");
                    let offset = usize::try_from(offset).expect("small");
                    for (at, byte) in bytes.iter_mut().enumerate() {
                        if its == way && offset + at >= place {
                            *byte = first.get(offset + at).copied().unwrap_or_default();
                        }
                    }
                    bytes
                }),
                len: LEN,
                ..Play::default()
            })
            .await;
            assert_changed(&outcome, LEN, &format!("{way:?} {place}"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_change_of_the_handshake_leads_to_a_wrong_byte_or_to_another_peer() {
    for way in [Way::There, Way::Back] {
        for place in (0..1_500).step_by(11) {
            let outcome = play(Play {
                tamper: Box::new(move |its, offset, mut bytes| {
                    let at = usize::try_from(place - offset.min(place)).expect("small");
                    if its == way && offset <= place && at < bytes.len() {
                        bytes[at] ^= 0x01;
                    }
                    bytes
                }),
                len: 500,
                ..Play::default()
            })
            .await;
            let what = format!("{way:?} {place}");
            outcome.assert_no_wrong_byte(500, &what);
            if let Some(peer) = &outcome.peer {
                assert_eq!(
                    peer.identity().map(|who| who.name()),
                    Some("alice"),
                    "{what}"
                );
            }
            if outcome.is_success() {
                // The version in the header of a record says nothing (RFC 8446 section 5.1).
                assert_eq!(outcome.got_there, bytes(1, 500), "{what}");
                continue;
            }
            let (opened, accepted) = outcome.words();
            let told = |words: &str| {
                // A length that was made longer waits for bytes that never come.
                words == "nothing" || words.contains("E2E_INTEGRITY")
            };
            assert!(
                told(&opened) || told(&accepted),
                "{what}: {opened} | {accepted}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_flag_that_is_stripped_or_set_ends_the_session_at_both_ends() {
    // Field 9, a bool.
    const SEALED: [u8; 2] = [0x48, 1];
    let strip: OnAttach = |attach| {
        assert!(attach.ends_with(&SEALED));
        attach.truncate(attach.len() - SEALED.len());
    };
    let outcome = play(Play {
        on_attach: strip,
        len: 1_000,
        ..Play::default()
    })
    .await;
    let (opened, accepted) = outcome.words();
    assert!(outcome.got_there.is_empty() && outcome.got_back.is_empty());
    assert!(
        opened.contains("end-to-end TLS had not come about"),
        "{opened}"
    );
    assert!(
        matches!(outcome.accepted, Some(Err(SessionEnd::Integrity(_)))),
        "{accepted}"
    );

    let outcome = play(Play {
        opener: None,
        on_attach: |attach| attach.extend(SEALED),
        len: 1_000,
        ..Play::default()
    })
    .await;
    let (opened, accepted) = outcome.words();
    assert!(outcome.got_there.is_empty() && outcome.got_back.is_empty());
    assert!(opened.contains("E2E_INTEGRITY"), "{opened}");
    assert!(accepted.contains("is not TLS"), "{accepted}");
}

/// What each end says when certificates are not right.
#[tokio::test(start_paused = true)]
async fn certificates_that_are_refused_are_refused_in_words_at_both_ends() {
    let other = Pki::new();
    other.issue_to("client", "alice", "alice.example");
    other.issue_to("agent", "web1", "web1.agent.farpipe");
    let later = || {
        let by = std::sync::atomic::AtomicI64::new(30 * 86_400);
        WallClock::Moved(Arc::new(by))
    };
    let moved = |who: &str| SealOptions {
        clock: later(),
        ..options(&PKI, who)
    };
    let cases = [
        (
            "an agent's certificate of another authority",
            alice(),
            Some(acceptor(SealOptions {
                ca: PKI.path("ca.pem"),
                ..options(&other, "agent-web1")
            })),
            "the server was refused: unknown certificate authority",
            "the client refused this certificate: unknown certificate authority",
        ),
        (
            "an expired agent",
            Some(opener(moved("client-alice"))),
            web1(),
            "the server was refused: certificate expired",
            "the client refused this certificate: certificate expired",
        ),
        (
            "another agent",
            alice(),
            Some(acceptor(options(&PKI, "agent-web2"))),
            "certificate is not for web1.agent.farpipe",
            "the client refused this certificate",
        ),
        (
            "a client's certificate with the agent's name",
            alice(),
            Some(acceptor(options(&PKI, "client-web1"))),
            "its certificate is that of farpipe://test/client/web1, not of the agent web1",
            "the client refused this certificate: certificate not acceptable",
        ),
        (
            "an opener of another authority",
            Some(opener(SealOptions {
                ca: PKI.path("ca.pem"),
                ..options(&other, "client-alice")
            })),
            web1(),
            "the server refused this certificate: unknown certificate authority",
            "the client was refused: unknown certificate authority",
        ),
        (
            "an expired opener",
            alice(),
            Some(acceptor(moved("agent-web1"))),
            "the server refused this certificate: certificate expired",
            "the client was refused: certificate expired",
        ),
        (
            "a relay as the opener",
            Some(opener(options(&PKI, "relay-hub"))),
            web1(),
            "the server refused this certificate: certificate not acceptable",
            "its certificate is that of farpipe://test/relay/hub, and neither a client's nor an \
             agent's",
        ),
    ];
    for (what, opener, acceptor, opened_words, accepted_words) in cases {
        let outcome = play(Play {
            opener,
            acceptor,
            len: 1_000,
            ..Play::default()
        })
        .await;
        let (opened, accepted) = outcome.words();
        assert!(opened.contains(opened_words), "{what}: {opened}");
        assert!(accepted.contains(accepted_words), "{what}: {accepted}");
        assert!(
            matches!(outcome.opened, Some(Err(SessionEnd::Refused(_)))),
            "{what}"
        );
        assert!(
            outcome.got_there.is_empty() && outcome.got_back.is_empty(),
            "{what}"
        );
        assert_eq!(outcome.peer, None, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_a_certificate_says_so() {
    let outcome = play(Play {
        acceptor: None,
        ..Play::default()
    })
    .await;
    let Some(Err(SessionEnd::Refused(why))) = outcome.opened else {
        panic!("{:?}", outcome.words());
    };
    assert!(why.contains("this agent has no certificate"), "{why}");
}

#[test]
fn an_agent_has_a_name_that_is_one() {
    for wrong in ["", "Web1", "web1/../x", "web 1", "*"] {
        let error = OpenerSeal::new(options(&PKI, "client-alice"), wrong).expect_err("no name");
        assert!(error.to_string().contains("no name of an agent"), "{error}");
    }
}
