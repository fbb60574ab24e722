//! A peer that breaks the protocol in the handshake, against `listen`: it is told why, and the
//! listener waits on for another.

use farpipe_proto::link::Prover as _;
use farpipe_proto::wire::control::{Auth, Hello};
use farpipe_proto::wire::hop::HopFrame;

use crate::support::peer::{Heard, KEY, Peer, STREAM, TUNNEL};
use crate::support::{Host, Listener, SAME_FARPIPE};

/// Someone who fails in the handshake is told why, and the one-shot listener waits on.
#[track_caller]
fn handshake_fails(act: impl FnOnce(&Host, &mut Peer), told: &str) {
    let host = Host::new();
    host.secret();
    let listener = host.listen("fp").start_listening();
    let mut peer = Peer::dial(listener.addr());
    act(&host, &mut peer);
    assert_eq!(peer.refusal(), told);
    peer.hang_up();
    serves_the_next(&host, listener);
}

/// The same where nothing can be said to the peer.
#[track_caller]
fn handshake_is_cut(act: impl FnOnce(&Host, &mut Peer)) {
    let host = Host::new();
    host.secret();
    let listener = host.listen("fp").start_listening();
    let mut peer = Peer::dial(listener.addr());
    act(&host, &mut peer);
    assert_eq!(peer.hear_frame(), Heard::Closed);
    peer.hang_up();
    serves_the_next(&host, listener);
}

/// The refusal is a line in the listener's log, and that is all.
#[track_caller]
fn serves_the_next(host: &Host, listener: Listener) {
    listener.stderr_until(|text| text.contains(" WARN 127.0.0.1:") && text.ends_with('\n'));
    host.connect(listener.url())
        .input("unharmed")
        .run()
        .exits(0);
    let said = listener.end().exits(0).printed("unharmed").said();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert_eq!(lines[0], "listening on fp://127.0.0.1:PORT");
    let logged = lines[1].starts_with("WARN 127.0.0.1:PORT: farpipe: ");
    assert!(logged, "{said}");
}

fn hello(change: impl FnOnce(&mut Hello)) -> HopFrame {
    let mut hello = Hello {
        version_min: 1,
        version_max: 1,
        nonce: vec![1; 32],
        software: "a test".to_owned(),
        wants_proof: true,
        ..Hello::default()
    };
    change(&mut hello);
    HopFrame::Hello(hello)
}

#[test]
fn p2_another_protocol_version_is_named_with_both_ranges() {
    let hello = hello(|hello| {
        hello.version_min = 7;
        hello.version_max = 9;
        hello.software = "farpipe \x1b[2J9.0".to_owned();
    });
    handshake_fails(
        |_, peer| peer.send(&hello),
        "no common protocol version: this side (farpipe 0.1.0) speaks 1 to 1, the other (farpipe \
         \u{fffd}[2J9.0) 7 to 9",
    );
}

#[test]
fn p2_frames_out_of_order_are_refused() {
    handshake_fails(
        |_, peer| peer.attach(|_| {}),
        "a handshake frame out of order",
    );
    handshake_fails(
        |_, peer| {
            peer.send(&hello(|_| {}));
            peer.hear_frame();
            peer.attach(|_| {});
        },
        "a handshake frame out of order",
    );
    handshake_fails(
        |host, peer| {
            peer.introduce(host);
            peer.send(&HopFrame::Ping(1));
        },
        "no ATTACH after the handshake",
    );
    handshake_fails(
        |host, peer| {
            peer.introduce(host);
            peer.data("early");
        },
        "DATA before the handshake was over",
    );
}

#[test]
fn p2_a_short_nonce_is_refused() {
    handshake_fails(
        |_, peer| peer.send(&hello(|hello| hello.nonce.truncate(31))),
        "HELLO without a nonce of 32 bytes",
    );
}

#[test]
fn a_peer_without_the_secret_is_refused() {
    const TOLD: &str = "the loopback secret was not proven; both sides must run as the same user";
    handshake_fails(
        |_, peer| {
            peer.send(&hello(|_| {}));
            peer.hear_frame();
            peer.send(&HopFrame::Auth(Auth { proof: vec![0; 32] }));
        },
        TOLD,
    );
    handshake_fails(
        |_, peer| peer.send(&hello(|hello| hello.wants_proof = false)),
        "this side asks for a secret: the user's on loopback, a ticket's or a token's elsewhere",
    );
    // The accepting side's own proof, sent back.
    handshake_fails(
        |_, peer| {
            peer.send(&hello(|_| {}));
            let Heard::Frame(HopFrame::Welcome(welcome)) = peer.hear_frame() else {
                panic!("no WELCOME");
            };
            peer.send(&HopFrame::Auth(Auth {
                proof: welcome.proof,
            }));
        },
        TOLD,
    );
    // A proof for another connection's nonces.
    handshake_fails(
        |host, peer| {
            peer.send(&hello(|_| {}));
            peer.hear_frame();
            let label = "farpipe loopback, dialling side";
            let proof = host.secret().prove(label, &[1; 32], &[3; 32]).to_vec();
            peer.send(&HopFrame::Auth(Auth { proof }));
        },
        TOLD,
    );
}

#[test]
fn p2_malformed_and_unknown_frames_are_refused() {
    let cases: [&[u8]; 5] = [
        // Shorter than a header; unknown; no protobuf; of a tunnel but for the link; reserved.
        &[0x01, 0, 0],
        &[0x7f, 0, 0, 0, 0],
        &[0x01, 0, 0, 0, 0, 0xff, 0xff],
        &[0x01, 0, 0, 0, 1],
        &[0x12, 0, 0, 0, 0],
    ];
    for case in cases {
        handshake_fails(|_, peer| peer.message(case), "a malformed frame");
    }
}

#[test]
fn p1_an_oversized_frame_is_refused_from_its_header_alone() {
    // One byte beyond a control frame's limit; nothing of it but the header is ever sent.
    handshake_fails(
        |_, peer| {
            peer.raw((16 * 1024 + 1u32).to_be_bytes());
            peer.raw([0x01, 0, 0, 0, 0]);
        },
        "a malformed frame",
    );
    // Beyond any message's limit: the carrier itself ends.
    for len in [1024 * 1024 + 65, u32::MAX - 1] {
        handshake_is_cut(|_, peer| peer.raw(len.to_be_bytes()));
    }
}

#[test]
fn optional_frames_are_skipped() {
    let host = Host::new();
    let listener = host.listen("fp").start_listening();
    let mut peer = Peer::dial(listener.addr());
    peer.message([0x80, 0, 0, 0, 0, 1, 2, 3]);
    peer.introduce(&host);
    peer.message([0xff, 0, 0, 0, 9]);
    peer.attach(|_| {});
    assert!(matches!(
        peer.hear_frame(),
        Heard::Frame(HopFrame::Attached(TUNNEL, _))
    ));
}

#[test]
fn n11_an_attach_that_cannot_be_granted_is_refused() {
    handshake_fails(
        |host, peer| {
            peer.introduce(host);
            peer.attach(|attach| attach.key.truncate(5));
        },
        "a key of 32 bytes is wanted",
    );
    handshake_fails(
        |host, peer| {
            peer.introduce(host);
            peer.attach(|attach| attach.established = true);
        },
        "this session is not known here (any more): it ended, was given up, or this is another \
         process than before",
    );
    handshake_fails(
        |host, peer| {
            peer.introduce(host);
            peer.attach(|attach| attach.age_ms = 3_600_000);
        },
        "this process is younger than the request: whether it was carried out before is not known",
    );
}

#[test]
fn n10_an_attach_that_is_not_newer_is_fenced() {
    let host = Host::new();
    let listener = host.listen("fp").open_input().start_listening();
    let mut first = Peer::attached(&host, listener.addr());
    let mut second = Peer::dial(listener.addr());
    second.introduce(&host);
    second.attach(|attach| attach.established = true);
    assert_eq!(
        second.refusal(),
        "a newer connection of this session is known"
    );
    // The first one goes on.
    first.open();
    first.bytes(STREAM, b"still here");
    listener.stdout_until(10);
}

#[test]
fn n10_a_newer_attach_takes_over_and_no_byte_comes_twice() {
    let host = Host::new();
    let listener = host.listen("fp").open_input().start_listening();
    let mut first = Peer::attached(&host, listener.addr());
    first.open();
    first.bytes(STREAM, b"one ");
    listener.stdout_until(4);
    let mut second = Peer::dial(listener.addr());
    second.introduce(&host);
    second.attach(|attach| {
        attach.established = true;
        attach.epoch = 2;
    });
    let Heard::Frame(HopFrame::Attached(_, attached)) = second.hear_frame() else {
        panic!("no ATTACHED");
    };
    assert_eq!(attached.received, first.offset);
    // What the older one still says is not heard any more.
    first.bytes(STREAM, b"lost ");
    // All is sent again from the start: the repeat is not delivered again.
    second.open();
    second.bytes(STREAM, b"one ");
    second.bytes(STREAM, b"two");
    assert_eq!(listener.stdout_until(7), b"one two");
}

#[test]
fn n12_a_resume_at_an_impossible_offset_ends_the_session() {
    let host = Host::new();
    let listener = host.listen("fp").open_input().start_listening();
    Peer::attached(&host, listener.addr()).hang_up();
    let mut peer = Peer::dial(listener.addr());
    peer.introduce(&host);
    peer.attach(|attach| {
        attach.established = true;
        attach.epoch = 2;
        attach.received = 1_000_000;
    });
    let told = peer.refusal();
    let expected =
        "cannot resume: the other side has bytes up to 1000000, but 0 to 0 is what it can have";
    assert_eq!(told, expected);
    listener.end().exits(125).says(&format!(
        "listening on fp://127.0.0.1:PORT\nfarpipe: {expected}\n{SAME_FARPIPE}"
    ));
}

#[test]
fn n11_another_key_is_another_session_and_the_first_one_stays() {
    let host = Host::new();
    let listener = host.listen("fp").open_input().start_listening();
    let mut first = Peer::attached(&host, listener.addr());
    let mut other = Peer::dial(listener.addr());
    other.introduce(&host);
    other.attach(|attach| attach.key = vec![8; 32]);
    assert_eq!(
        other.refusal(),
        "busy: this one-shot listener serves another session (use --keep for many)"
    );
    assert_ne!(KEY, [8; 32]);
    first.open();
    first.bytes(STREAM, b"first");
    listener.stdout_until(5);
}
