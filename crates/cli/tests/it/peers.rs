//! Who may join a listener, when, and how many.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use farpipe_proto::wire::hop::HopFrame;
use rustix::process::Signal;

use crate::support::peer::Peer;
use crate::support::{DEADLINE, Host, SCHEMES, assert_same, random};

#[test]
fn a_second_peer_hears_busy_and_the_first_goes_on() {
    for scheme in SCHEMES {
        let host = Host::new();
        let mut listener = host.listen(scheme).open_input().start_listening();
        let mut first = host.connect(listener.url()).open_input().start();
        first.write("first");
        listener.stdout_until(5);
        let second = host
            .connect(listener.url())
            .input("second")
            .run()
            .exits(125);
        second.printed("").says(&format!(
            "farpipe: {scheme}://127.0.0.1:PORT refused: busy: this one-shot listener serves \
             another session (use --keep for many)"
        ));
        first.write(" goes on");
        listener.stdout_until(13);
        first.close_input();
        listener.close_input();
        first.end().exits(0);
        listener.end().exits(0).printed("first goes on");
    }
}

#[test]
fn port_probes_and_failed_handshakes_do_not_use_up_a_listener() {
    for scheme in SCHEMES {
        let host = Host::new();
        let listener = host.listen(scheme).start_listening();
        let addr = listener.addr();
        for probe in [
            "",
            "x",
            "GET / HTTP/1.1\r\n\r\n",
            "farpipe\x01",
            "\r\n\r\n",
            "SSH-2.0-x\r\n",
        ] {
            let mut stream = TcpStream::connect(addr).expect("it listens");
            stream.write_all(probe.as_bytes()).expect("it is there");
        }
        // Still open, and silent: not the only one who may come.
        let _silent = TcpStream::connect(addr).expect("it listens");
        // A user with another secret.
        let stranger = Host::new();
        stranger.connect(listener.url()).input("stolen").run().exits(125).says(&format!(
            "farpipe: {scheme}://127.0.0.1:PORT: the process at the other end does not know this \
             user's loopback secret"
        ));
        if scheme == "fp" {
            let mut peer = Peer::dial(addr);
            peer.introduce(&host);
            peer.send(&HopFrame::Ping(1));
            assert_eq!(peer.refusal(), "no ATTACH after the handshake");
        }
        host.connect(listener.url()).input("welcome").run().exits(0);
        let said = listener.end().exits(0).printed("welcome").said();
        let mut lines = said.lines();
        let first = format!("listening on {scheme}://127.0.0.1:PORT");
        assert_eq!(lines.next(), Some(first.as_str()), "{said}");
        // Who says nothing is no news, and everybody else is one.
        let step = |line: &str| {
            let rest = line.strip_prefix("WARN 127.0.0.1:PORT: ")?;
            Some(rest.starts_with("upgrade: ") || rest.starts_with("farpipe: "))
        };
        assert!(lines.all(|line| step(line) == Some(true)), "{said}");
    }
}

/// As many as may be in the handshake at once: the oldest makes room for who comes to talk, and
/// nobody has to wait until all of them are timed out.
#[test]
fn p15_a_crowd_of_silent_connections_does_not_keep_others_out() {
    const CROWD: usize = 64;
    for scheme in SCHEMES {
        let host = Host::new();
        let listener = host
            .listen(scheme)
            .args(["--keep", "exec:cat"])
            .start_listening();
        let mut crowd: Vec<_> = (0..CROWD)
            .map(|_| TcpStream::connect(listener.addr()).expect("it listens"))
            .collect();
        for words in ["first", "second"] {
            let connect = host.connect(listener.url()).input(words);
            connect.run().exits(0).printed(words);
        }
        // Until it is dropped; the newest is still open by then.
        let oldest = &mut crowd[0];
        oldest.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        oldest.read_to_end(&mut Vec::new()).expect("its end");
        let newest = &mut crowd[CROWD - 1];
        newest.set_nonblocking(true).expect("flags");
        let error = newest.read_to_end(&mut Vec::new());
        let error = error.expect_err("it is still open");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        listener.signal(Signal::TERM);
        listener.end().exits(143);
    }
}

#[test]
fn p16_a_browser_page_gets_no_upgrade() {
    let host = Host::new();
    let listener = host.listen("ws").start_listening();
    let mut stream = TcpStream::connect(listener.addr()).expect("it listens");
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Origin: https://evil.example\r\n\r\n",
        listener.addr()
    );
    stream.write_all(request.as_bytes()).expect("it is there");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    host.connect(listener.url()).input("welcome").run().exits(0);
    listener.end().exits(0).printed("welcome");
}

#[test]
fn keep_serves_several_at_the_same_time_and_ends_on_sigterm() {
    const SESSIONS: usize = 5;
    for scheme in SCHEMES {
        let host = Host::new();
        let listener = host
            .listen(scheme)
            .args(["--keep", "exec:cat"])
            .start_listening();
        let mut connects: Vec<_> = (0..SESSIONS)
            .map(|_| host.connect(listener.url()).open_input().start())
            .collect();
        // All are open before the first one ends.
        for (number, connect) in connects.iter_mut().enumerate() {
            connect.write(format!("hello from {number}"));
            connect.stdout_until(12);
        }
        for (number, connect) in connects.iter_mut().enumerate() {
            connect.write(random(300_000, number as u64));
            connect.close_input();
        }
        for (number, connect) in connects.into_iter().enumerate() {
            let ended = connect.end().exits(0);
            let hello = format!("hello from {number}");
            let expected = [hello.as_bytes(), &random(300_000, number as u64)].concat();
            assert_same(&ended.stdout, &expected);
        }
        listener.signal(Signal::TERM);
        listener
            .end()
            .exits(143)
            .says(&format!("listening on {scheme}://127.0.0.1:PORT"));
    }
}

#[test]
fn keep_outlives_sessions_that_fail() {
    let host = Host::new();
    let listener = host
        .listen("ws")
        .args(["--keep", "sh:read word; exit $word"])
        .start_listening();
    for status in [3, 0, 125, 7] {
        let connect = host.connect(listener.url()).input(format!("{status}\n"));
        connect.run().exits(status);
    }
    listener.signal(Signal::TERM);
    listener.end().exits(143);
}

#[test]
fn keep_ends_open_sessions_in_order_on_sigterm() {
    let host = Host::new();
    let listener = host
        .listen("ws")
        .args(["--keep", "exec:cat"])
        .start_listening();
    let mut connect = host.connect(listener.url()).open_input().start();
    connect.write("x");
    connect.stdout_until(1);
    listener.signal(Signal::TERM);
    listener.end().exits(143);
    connect
        .end()
        .exits(125)
        .printed("x")
        .says("farpipe: the far end failed: interrupted");
}

#[test]
fn a_file_is_sent_to_each_of_many() {
    let host = Host::new();
    let data = random(500_000, 1);
    host.file("data", &data);
    let listener = host
        .listen("fp")
        .args(["--keep", "--send", "data"])
        .start_listening();
    for _ in 0..3 {
        host.connect(listener.url()).run().exits(0).printed(&data);
    }
    listener.signal(Signal::TERM);
    listener.end().exits(143);
}

#[test]
fn names_and_ipv6_lead_to_loopback_too() {
    let host = Host::new();
    for url in [
        "ws://localhost:0",
        "fp://[::1]:0",
        "ws://127.0.0.1:0/any/path",
    ] {
        let listener = host.farpipe(["listen", url]).start_listening();
        host.connect(listener.url()).input(url).run().exits(0);
        listener.end().exits(0).printed(url);
    }
}

/// Out of descriptors: who is served stays served, and who comes later gets in again.
#[test]
fn x6_a_listener_without_free_descriptors_keeps_its_sessions() {
    let host = Host::new();
    let script = "ulimit -n 32; exec \"$FARPIPE\" listen ws://127.0.0.1:0 --keep exec:cat";
    let listener = host.shell(script).start_listening();
    let mut served = host.connect(listener.url()).open_input().start();
    served.write("one ");
    served.stdout_until(4);
    let flood: Vec<_> = (0..60)
        .map(|_| TcpStream::connect(listener.addr()).expect("the kernel takes it"))
        .collect();
    listener.stderr_until(|said| said.contains("cannot accept a connection"));
    served.write("two");
    served.stdout_until(7);
    drop(flood);
    host.connect(listener.url())
        .input("three")
        .run()
        .exits(0)
        .printed("three");
    served.close_input();
    served.end().exits(0).printed("one two");
    listener.signal(Signal::TERM);
    listener.end().exits(143);
}

#[test]
fn p14_a_request_without_end_is_refused() {
    let host = Host::new();
    let listener = host.listen("ws").start_listening();
    let mut stream = TcpStream::connect(listener.addr()).expect("it listens");
    let head = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 20_000]].concat();
    // It may have heard enough before this is written.
    let _ = stream.write_all(&head);
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    host.connect(listener.url()).input("welcome").run().exits(0);
    listener.end().exits(0).printed("welcome");
}
