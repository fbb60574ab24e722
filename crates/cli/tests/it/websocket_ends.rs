//! How ws: and ws-listen: end: what each side of a pipe makes of a Close, and what pages see when a
//! pipe ends first.

use std::io::{Read, Write as _};

use rustix::process::Signal;

use crate::support::websocket::{Ws, dial, server};
use crate::support::{Host, Listener};

/// Says all and closes, as a client that uploads does.
fn upload(listener: &Listener) {
    let mut ws = dial(listener, "");
    ws.send(0x82, b"all of it");
    ws.send(0x88, &[3, 232]);
    assert_eq!(ws.next(), (0x88, vec![3, 232]));
}

#[test]
fn an_upload_that_is_closed_in_order_is_a_success_though_nothing_was_answered() {
    let host = Host::new();
    for (script, status) in [("cat >out; exit 0", 0), ("cat >out; exit 3", 3)] {
        let command = format!("sh:{script}");
        let args = ["pipe", "--once", "ws-listen:0", &command];
        let listener = host.farpipe(args).start_listening();
        upload(&listener);
        listener.end().exits(status);
        assert_eq!(host.content("out"), b"all of it");
    }
    // stdin is open, and silent.
    let args = ["pipe", "--once", "ws-listen:0", "-"];
    let listener = host.farpipe(args).open_input().start_listening();
    upload(&listener);
    listener.end().exits(0).printed("all of it");
    // Between hosts neither side has lost anything.
    for compress in ["none", "zstd"] {
        for endpoint in ["-", "sh:cat >out; exit 0"] {
            let far = host.listen("ws").arg(endpoint).open_input();
            let far = far.start_listening();
            let near = host.connect(far.url());
            let near = near.args(["--once", "ws-listen:0", "--compress", compress]);
            let near = near.start_listening();
            upload(&near);
            near.end().exits(0);
            far.end().exits(0);
        }
    }
}

/// What is still said to who has left is lost, and that is told as ever.
#[test]
fn who_has_something_to_say_after_the_close_gets_what_a_closed_pipe_gives() {
    let host = Host::new();
    host.fifo("go");
    let script = "sh:cat >out; read word <go; echo late; echo later";
    let args = ["pipe", "--once", "ws-listen:0", script];
    let listener = host.farpipe(args).start_listening();
    upload(&listener);
    host.shell("echo now >go").run().exits(0);
    listener.end().exits(141);

    let far = host.listen("ws").arg(script).start_listening();
    let near = host.connect(far.url());
    let near = near.args(["--once", "ws-listen:0"]).start_listening();
    upload(&near);
    host.shell("echo now >go").run().exits(0);
    near.end().exits(141);
    far.end().exits(141);
}

/// The code of the Close that comes, and the end of the connection behind it: no reset.
fn closed(ws: &mut Ws) -> u16 {
    let (first, payload) = ws.next();
    assert_eq!(first, 0x88, "{payload:?}");
    let rest = ws.stream.read(&mut [0]).expect("an end, no reset");
    assert_eq!(rest, 0);
    u16::from_be_bytes([payload[0], payload[1]])
}

#[test]
fn pages_that_are_open_when_a_signal_comes_are_told_that_it_goes_away() {
    let host = Host::new();
    let open = |listener: &Listener| {
        let mut ws = dial(listener, "");
        ws.send(0x82, b"x");
        assert_eq!(ws.next(), (0x82, b"x".to_vec()));
        // Never read: a reset would overtake the Close.
        ws.send(0x81, &vec![b'y'; 300_000]);
        ws
    };
    let script = "sh:head -c 1; sleep 600";
    let listener = host.farpipe(["pipe", script, "ws-listen:0"]);
    let listener = listener.start_listening();
    let mut pages = [open(&listener), open(&listener)];
    listener.signal(Signal::TERM);
    for ws in &mut pages {
        // One that does not even answer.
        assert_eq!(closed(ws), 1001);
    }
    listener.end().exits(143);

    let far = host.listen("ws").arg(script).start_listening();
    let near = host.connect(far.url()).arg("ws-listen:0").start_listening();
    let mut page = open(&near);
    near.signal(Signal::TERM);
    assert_eq!(closed(&mut page), 1001);
    near.end().exits(143);
    far.end().exits(125);
}

/// What a server that is stopped had not said yet is missing.
#[test]
fn a_server_that_goes_away_is_a_failure_and_a_page_that_is_left_an_end() {
    let host = Host::new();
    let url = server(|_, mut ws| {
        ws.send(0x82, b"so far");
        ws.send(0x88, &[3, 233]);
        let _ = ws.try_next();
    });
    let spec = format!("ws:ws://{url}/");
    let ended = host.farpipe(["pipe", "-", &spec]).open_input().run();
    let ended = ended.exits(125).printed("so far");
    let why = "the other end closed with code 1001";
    assert!(ended.stderr.contains(why), "{}", ended.stderr);
}

#[test]
fn lines_in_front_of_one_that_cannot_be_sent_arrive_and_the_code_says_why() {
    let host = Host::new();
    let long = "head -c 2000000 /dev/zero | tr '\\0' a";
    for (bad, code, why) in [
        ("printf 'b\\377d\\n'", 1007, "not UTF-8"),
        (long, 1009, "longer than 1024 KiB"),
    ] {
        let script = format!("sh:head -c 1 >/dev/null; echo one; echo two; {bad}; sleep 600");
        let args = ["pipe", "--once", &script, "ws-listen:0?lines"];
        let listener = host.farpipe(args).start_listening();
        let mut ws = dial(&listener, "");
        // Never read: a reset would overtake the Close.
        ws.send(0x81, &vec![b'y'; 300_000]);
        assert_eq!(ws.next(), (0x81, b"one".to_vec()));
        assert_eq!(ws.next(), (0x81, b"two".to_vec()));
        assert_eq!(closed(&mut ws), code);
        let ended = listener.end().exits(125);
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
    }
}

#[test]
fn messages_in_front_of_one_that_breaks_the_rules_arrive_and_the_code_says_why() {
    let host = Host::new();
    for place in ["-", "out"] {
        for (first, code) in [(0x81, 1007), (0x80, 1002)] {
            let args = ["pipe", "--once", "ws-listen:0?lines", place];
            let listener = host.farpipe(args).open_input().start_listening();
            let mut ws = dial(&listener, "");
            for _ in 0..1000 {
                ws.send(0x81, &[b'x'; 300]);
            }
            ws.send(first, b"\xFF");
            // The client has not heard yet.
            let _ = ws.stream.write_all(&vec![0; 300_000]);
            assert_eq!(closed(&mut ws), code);
            let ended = listener.end().exits(125);
            let arrived = match place {
                "-" => ended.stdout,
                _ => host.content("out"),
            };
            assert_eq!(arrived.len(), 301_000, "{place}, {code}");
        }
    }
}
