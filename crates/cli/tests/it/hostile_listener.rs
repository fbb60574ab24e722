//! A listener that breaks the protocol, or is none, against `connect`: it fails with a clear line.

use std::net::TcpListener;

use farpipe_proto::wire::control::{Accept, Attached, RefuseCode, Refused, Welcome};
use farpipe_proto::wire::hop::HopFrame;
use farpipe_proto::wire::id::{StreamId, TunnelId};
use farpipe_proto::wire::inner::InnerFrame;

use crate::support::net::{foreign_server, serve, silent_port};
use crate::support::peer::{Heard, Peer, STREAM, TUNNEL};
use crate::support::{Ended, Host, Running, SAME_FARPIPE, assert_text};

/// A `connect` and the listener it has found.
fn found(host: &Host) -> (Running, Peer) {
    host.secret();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("fp://{}", listener.local_addr().expect("its address"));
    let connect = host
        .connect(&url)
        .open_input()
        .args(["--resume-for", "1s"])
        .start();
    (connect, Peer::accept(&listener))
}

/// The `connect` of a peer that does this fails and says why.
#[track_caller]
fn fails(act: impl FnOnce(&Host, &mut Peer), said: &str) -> Ended {
    let host = Host::new();
    let (connect, mut peer) = found(&host);
    act(&host, &mut peer);
    // It is told what is wrong, or not, and the connection is closed from this side.
    while peer.hear() != Heard::Closed {}
    peer.hang_up();
    connect.end().exits(125).says(said)
}

/// As [`fails`], in the midst of a session.
#[track_caller]
fn session_fails(act: impl FnOnce(&mut Peer), why: &str) {
    fails(
        |host, peer| {
            peer.attach_peer(host, 0);
            act(peer);
        },
        &format!("farpipe: fp://127.0.0.1:PORT: {why}\n{SAME_FARPIPE}"),
    );
}

fn broken(why: &str) -> String {
    format!("the other side broke the protocol: {why}")
}

// ---- no farpipe ---------------------------------------------------------------------------------

#[test]
fn nothing_listens_there() {
    let host = Host::new();
    let (addr, _guard) = silent_port();
    for scheme in ["ws", "fp"] {
        host.connect(&format!("{scheme}://{addr}"))
            .run()
            .exits(125)
            .says(&format!(
                "farpipe: {scheme}://127.0.0.1:PORT: nothing listens there; start `farpipe listen \
             {scheme}://127.0.0.1:PORT` first"
            ));
    }
}

/// What `connect` says about servers with these answers, without the URL.
fn about(scheme: &str, answers: &[&[u8]]) -> String {
    let host = Host::new();
    let mut said = String::new();
    for answer in answers {
        let addr = foreign_server(*answer);
        let ended = host.connect(&format!("{scheme}://{addr}")).run().exits(125);
        let words = ended.said();
        let words = words.strip_prefix(&format!("farpipe: {scheme}://127.0.0.1:PORT: "));
        said.push_str(words.unwrap_or_else(|| panic!("{}", ended.stderr)));
    }
    said
}

#[test]
fn n18_an_http_server_that_does_not_upgrade_is_named_with_its_status() {
    let answers: [&[u8]; 6] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://elsewhere.example/\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\n\r\n",
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\nServer: nginx\r\n\r\n",
        b"HTTP/1.0 503 Service Unavailable\r\n\r\n",
    ];
    assert_text(
        &about("ws", &answers),
        "the server answered HTTP 200 OK instead of upgrading to WebSocket
         the server answered HTTP 301 Moved Permanently and says to go to \
         https://elsewhere.example/; if farpipe is there, give that URL
         the server answered HTTP 404 Not Found instead of upgrading to WebSocket
         the server answered HTTP 407 Proxy Authentication Required instead of upgrading to \
         WebSocket
         a proxy answered HTTP 502 Bad Gateway; what is behind it does not answer
         a proxy answered HTTP 503 Service Unavailable; what is behind it does not answer",
    );
}

#[test]
fn n18_an_upgrade_to_something_else_is_not_taken_for_ours() {
    let answers: [&[u8]; 3] = [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: bm90IHRoZSByaWdodCBvbmU=\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 nonsense\r\n\r\n",
    ];
    assert_text(
        &about("ws", &answers),
        "the server's WebSocket handshake is wrong: its Sec-WebSocket-Accept does not answer our key
         the server's WebSocket handshake is wrong: it does not say \"Upgrade: websocket\"
         the other side's HTTP header is malformed: a bad status line",
    );
}

#[test]
fn a_server_of_another_protocol_is_named() {
    let ssh = b"SSH-2.0-OpenSSH_9.9\r\n";
    let http = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    let tls = b"\x15\x03\x01\x00\x02\x02\x16";
    let garbage = &[0xee; 100];
    assert_text(
        &about("ws", &[ssh, tls, garbage]),
        r#"the other side does not speak HTTP: it began with "SSH-2.0-OpenSSH_9.9\r\n" (it looks like SSH)
        the other side does not speak HTTP: it began with "\x15\x03\x01\x00\x02\x02\x16" (it looks like TLS)
        the other side does not speak HTTP: it began with "\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee""#,
    );
    assert_text(
        &about("fp", &[ssh, http, tls, garbage]),
        "the other side broke the fp protocol: it is an SSH server, not a farpipe server
         the other side broke the fp protocol: it is an HTTP server, not a farpipe server (a ws:// \
         URL may be the right one)
         the other side broke the fp protocol: it speaks TLS, not plain farpipe (an fps:// URL may \
         be the right one)
         the other side broke the fp protocol: it does not speak farpipe",
    );
}

/// A head that never ends is not read for ever.
#[test]
fn p14_an_answer_without_end_is_refused() {
    let endless = [
        b"HTTP/1.1 101 Switching Protocols\r\n".as_slice(),
        &[b'x'; 40_000],
    ]
    .concat();
    assert_text(
        &about("ws", &[&endless]),
        "the other side's HTTP header is longer than 16 KiB",
    );
}

/// Somebody who accepts and hangs up may be a farpipe that was cut: it is tried again, and not for
/// ever.
#[test]
fn a_server_that_hangs_up_without_a_word_is_tried_again_until_the_time_is_over() {
    for scheme in ["ws", "fp"] {
        let host = Host::new();
        let addr = serve(drop);
        let connect = host
            .connect(&format!("{scheme}://{addr}"))
            .args(["--resume-for", "1500ms"]);
        let connect = connect.run().exits(125);
        let last = connect.said().lines().last().unwrap_or_default().to_owned();
        assert!(
            last.starts_with(&format!(
                "farpipe: no link to {scheme}://127.0.0.1:PORT for 1"
            )),
            "{last}"
        );
    }
}

// ---- the handshake ------------------------------------------------------------------------------

#[test]
fn a_listener_without_the_secret_gets_no_data() {
    fails(
        |_, peer| {
            peer.hear_frame();
            peer.send(&welcome(|_| {}));
        },
        "farpipe: fp://127.0.0.1:PORT: the process at the other end does not know this user's \
         loopback secret",
    );
}

#[test]
fn p2_a_welcome_to_what_was_not_offered_is_refused() {
    let cases = [
        (
            (|welcome| welcome.version = 2) as fn(&mut Welcome),
            "WELCOME names a version not offered",
        ),
        (
            |welcome| welcome.features = 1 << 40,
            "WELCOME names a feature not offered",
        ),
    ];
    for (change, why) in cases {
        fails(
            |_, peer| {
                peer.hear_frame();
                peer.send(&welcome(change));
            },
            &format!(
                "farpipe: fp://127.0.0.1:PORT: {}\n{SAME_FARPIPE}",
                broken(why)
            ),
        );
    }
}

fn welcome(change: impl FnOnce(&mut Welcome)) -> HopFrame {
    let mut welcome = Welcome {
        version: 1,
        nonce: vec![2; 32],
        software: "a test".to_owned(),
        proof: vec![0; 32],
        ..Welcome::default()
    };
    change(&mut welcome);
    HopFrame::Welcome(welcome)
}

#[test]
fn p2_other_frames_than_an_answer_are_refused() {
    let handshake_fails = |act: &dyn Fn(&Host, &mut Peer), why| {
        fails(
            act,
            &format!(
                "farpipe: fp://127.0.0.1:PORT: {}\n{SAME_FARPIPE}",
                broken(why)
            ),
        );
    };
    handshake_fails(
        &|_, peer| peer.send(&HopFrame::Pong(1)),
        "no WELCOME in answer to HELLO",
    );
    handshake_fails(
        &|_, peer| peer.message([0x7f; 9]),
        "unknown hop frame type 0x7f",
    );
    handshake_fails(
        &|host, peer| {
            peer.welcome(host);
            peer.send(&HopFrame::Detach(TUNNEL));
        },
        "no answer to ATTACH",
    );
}

#[test]
fn a_refusal_is_final_and_shown_without_what_moves_the_cursor() {
    fails(
        |host, peer| {
            peer.welcome(host);
            let refused = Refused {
                code: RefuseCode::Limit as u32,
                is_final: true,
                message: "too \x1b[2J many".to_owned(),
            };
            peer.send(&HopFrame::Refused(TUNNEL, refused));
        },
        "farpipe: fp://127.0.0.1:PORT refused: too \u{fffd}[2J many",
    );
    // Before the first session a passing reason is final as well: nobody waits in vain.
    fails(
        |host, peer| {
            peer.welcome(host);
            let refused = Refused {
                code: RefuseCode::ShuttingDown as u32,
                is_final: false,
                message: "going away".to_owned(),
            };
            peer.send(&HopFrame::Refused(TunnelId::LINK, refused));
        },
        "farpipe: fp://127.0.0.1:PORT refused: going away",
    );
}

// ---- the session --------------------------------------------------------------------------------

#[test]
fn p11_an_offset_that_was_never_sent_ends_the_session() {
    fails(
        |host, peer| {
            peer.welcome(host);
            peer.send(&HopFrame::Attached(
                TUNNEL,
                Attached {
                    received: 5_000,
                    kept_ms: 0,
                },
            ));
            // Told, or the listener would keep the session until it is given up.
            let Heard::Frame(HopFrame::Refused(TUNNEL, refused)) = peer.hear_frame() else {
                panic!("it does not say why");
            };
            let code = RefuseCode::from_wire(refused.code);
            assert_eq!((code, refused.is_final), (Some(RefuseCode::Offset), true));
        },
        &format!(
            "farpipe: fp://127.0.0.1:PORT: cannot resume: the other side has bytes up to 5000, but \
             0 to 0 is what it can have\n{SAME_FARPIPE}"
        ),
    );
    session_fails(
        |peer| peer.send(&HopFrame::Ack(TUNNEL, 1 << 50)),
        "the other side has bytes up to 1125899906842624, but 0 to 9 is what it can have",
    );
}

#[test]
fn p3_p5_what_a_listener_may_not_say_ends_the_session() {
    session_fails(
        |peer| peer.inner(StreamId(2), &InnerFrame::Accept(Accept::default())),
        &broken("a frame for a stream never opened"),
    );
    session_fails(
        |peer| peer.bytes(StreamId(4), b"x"),
        &broken("bytes for a stream that is not open"),
    );
    session_fails(
        |peer| {
            peer.data(farpipe_proto::wire::inner::bytes_header(
                STREAM,
                256 * 1024 + 1,
            ))
        },
        "the other side ignores the limits: data beyond credit",
    );
    session_fails(
        |peer| peer.inner(STREAM, &InnerFrame::Done(9)),
        &broken("DONE with another count than sent"),
    );
}

/// Success is what the listener says only after the sink has everything.
#[test]
fn p11_a_session_that_is_called_complete_too_early_is_a_failure() {
    session_fails(
        |peer| peer.inner(StreamId::SESSION, &InnerFrame::Complete),
        &broken("COMPLETE before all was settled"),
    );
}

#[test]
fn a_session_whose_listener_left_is_never_a_success() {
    let host = Host::new();
    let (connect, mut peer) = found(&host);
    peer.attach_peer(&host, 0);
    peer.inner(STREAM, &InnerFrame::Accept(Accept::default()));
    peer.bytes(STREAM, b"a part");
    // A connection that is closed with bytes unread takes back what it has sent.
    connect.stdout_until(6);
    peer.hang_up();
    let ended = connect.end().exits(125).printed("a part");
    let last = ended.said().lines().last().unwrap_or_default().to_owned();
    assert!(
        last.starts_with("farpipe: no link to fp://127.0.0.1:PORT for 1 s: "),
        "{last}"
    );
}

/// The listener's last word and the end of the connection came together: it may not know that its
/// word was heard, and is told over a new connection.
#[test]
fn n2_a_goodbye_that_was_cut_is_said_again() {
    let host = Host::new();
    host.secret();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("fp://{}", listener.local_addr().expect("its address"));
    let connect = host.connect(&url).start();
    let mut first = Peer::accept(&listener);
    first.attach_peer(&host, 0);
    first.inner(STREAM, &InnerFrame::Accept(Accept::default()));
    first.inner(STREAM, &InnerFrame::Fin(0));
    let mut heard = Vec::new();
    let mut hear_until = |peer: &mut Peer, last: &[u8]| {
        while !heard.windows(last.len()).any(|part| part == last) {
            if let Heard::Data(.., bytes) = peer.hear() {
                heard.extend(bytes);
            }
        }
        heard.len() as u64
    };
    // DONE answers FIN: earlier it would break the protocol.
    hear_until(&mut first, &InnerFrame::Fin(0).encode(STREAM));
    first.inner(STREAM, &InnerFrame::Done(0));
    let last = InnerFrame::Done(0).encode(StreamId::SESSION);
    let received = hear_until(&mut first, &last);
    first.inner(StreamId::SESSION, &InnerFrame::Complete);
    let all = first.offset;
    first.hang_up();
    let mut second = Peer::accept(&listener);
    let attach = second.attach_peer(&host, received);
    assert!(attach.established);
    assert_eq!((attach.epoch, attach.received), (2, all));
    assert_eq!(second.hear_frame(), Heard::Frame(HopFrame::Detach(TUNNEL)));
    second.close();
    connect.end().exits(0).says("");
}
