//! A foreign end cannot resume: if it breaks, the other end hears so, and nothing that broke looks like
//! an end to it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use farpipe_faultproxy::{Cut, Dir, Plan, When};
use rustix::net::sockopt::set_socket_linger;
use rustix::process::Signal;

use crate::support::gateway::{at, await_held, await_writer, begin, relay, socket};
use crate::support::{Faults, Host, Listener, at_once, random};

/// What the other end says when a foreign one broke after so many bytes.
fn cannot_resume(bytes: usize) -> String {
    format!("farpipe: the far end failed: peer cannot resume, {bytes} bytes handed over")
}

fn cut(stream: &TcpStream) {
    let at_once = Some(std::time::Duration::ZERO);
    set_socket_linger(stream, at_once).expect("it lingers not");
}

#[test]
fn an_upload_that_is_killed_is_no_end() {
    let host = Host::new();
    let relay = relay(&host);
    let bytes = random(1 << 20, 3);
    let mut writing = host
        .curl(["-T", "-", &at(&relay, "logs")])
        .open_input()
        .start();
    await_writer(&relay, "logs");
    let reading = host.recv_at(relay.url(), "logs").start();
    writing.write(&bytes);
    reading.stdout_until(bytes.len());
    writing.kill();
    let ended = reading.end().exits(125).printed(&bytes);
    assert!(
        ended.stderr.contains(&cannot_resume(bytes.len())),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_body_that_does_not_end_as_it_said_is_no_end() {
    let length = "Content-Length: 10\r\n\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    let cases = [
        ("short", format!("{length}hello"), 5),
        ("open", format!("{chunked}5\r\nhello\r\n"), 5),
        ("cut", format!("{chunked}9\r\nhello"), 5),
        ("trailer", format!("{chunked}5\r\nhello\r\n0\r\n"), 5),
        ("wrong", format!("{chunked}5\r\nhelloX\r\n0\r\n\r\n"), 5),
    ];
    at_once(cases, |(name, rest, handed)| {
        let host = Host::new();
        let relay = relay(&host);
        let head = format!("PUT /p/{name} HTTP/1.1\r\nHost: localhost\r\n{rest}");
        let mut client = begin(&relay, &head);
        await_writer(&relay, name);
        let reading = host.recv_at(relay.url(), name).start();
        reading.stdout_until(handed);
        client.shutdown(Shutdown::Write).expect("it is open");
        let ended = reading.end().exits(125).printed("hello");
        assert!(
            ended.stderr.contains(&cannot_resume(handed)),
            "{}",
            ended.stderr
        );
        let mut told = String::new();
        client.read_to_string(&mut told).expect("an answer");
        assert!(told.starts_with("HTTP/1.1 400 "), "{told}");
        assert!(!told.contains("\r\n0\r\n"), "a last chunk: {told}");
    });
}

#[test]
fn a_writer_that_leaves_before_a_reader_came_frees_the_name() {
    let host = Host::new();
    let relay = relay(&host);
    let mut writing = host
        .curl(["-T", "-", &at(&relay, "logs")])
        .open_input()
        .start();
    writing.write("lost\n");
    await_writer(&relay, "logs");
    writing.kill();
    relay.stderr_until(|text| text.contains("it left before a reader came"));
    let (mut ws, _) = socket(&relay, "/p/logs?send", "");
    ws.send(0x82, b"lost too");
    relay.stderr_until(|text| text.matches("pipe logs: registered").count() == 2);
    cut(&ws.stream);
    drop(ws);
    relay.stderr_until(|text| text.matches("it left before a reader came").count() == 2);
    let reading = host.recv_at(relay.url(), "logs").start();
    await_held(&relay, 1);
    let send = host.send_at(relay.url(), "logs").input("kept\n").run();
    send.exits(0);
    reading.end().exits(0).printed("kept\n");
}

#[test]
fn a_reader_that_leaves_before_a_writer_came_is_forgotten() {
    let host = Host::new();
    let relay = relay(&host);
    let reading = host.curl([at(&relay, "logs")]).start();
    await_held(&relay, 1);
    reading.kill();
    relay.stderr_until(|text| text.contains("the client left"));
    let (ws, _) = socket(&relay, "/p/logs?recv", "");
    await_held(&relay, 2);
    cut(&ws.stream);
    drop(ws);
    relay.stderr_until(|text| text.contains("it left before a writer came"));
    let send = host.send_at(relay.url(), "logs").input("kept\n").start();
    send.await_registered(1);
    host.recv_at(relay.url(), "logs")
        .run()
        .exits(0)
        .printed("kept\n");
    send.end().exits(0);
}

#[test]
fn a_download_that_is_killed_is_a_failure_of_its_writer() {
    let host = Host::new();
    let relay = relay(&host);
    // Busy, and idle: a client that is told nothing is missed as well.
    for name in ["busy", "idle"] {
        let mut writing = host.send_at(relay.url(), name).open_input().start();
        let reading = host.curl([at(&relay, name)]).start();
        writing.write("a beginning\n");
        reading.stdout_until(12);
        let mut stdin = writing.take_stdin();
        let feeding = std::thread::spawn(move || {
            let part = [b'x'; 64 << 10];
            while name == "busy" && stdin.write_all(&part).is_ok() {}
            stdin
        });
        if name == "busy" {
            reading.stdout_until(4 << 20);
        }
        reading.kill();
        let ended = writing.end().exits(125);
        feeding.join().expect("it was written");
        let said = &ended.stderr;
        assert!(said.contains("peer cannot resume, "), "{said}");
    }
}

/// All of it is on its way, and the client has not taken it: the writer waits for it.
#[test]
fn what_a_client_has_not_taken_is_not_handed_over() {
    let host = Host::new();
    let relay = relay(&host);
    let client = begin(&relay, "GET /p/logs HTTP/1.1\r\nHost: localhost\r\n\r\n");
    await_held(&relay, 1);
    let mut writing = host
        .send_at(relay.url(), "logs")
        .input("all of it\n")
        .start();
    let mut seen = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains("0\r\n\r\n") {
        client.peek(&mut seen).expect("it comes");
    }
    assert!(writing.is_running(), "nobody has taken it");
    cut(&client);
    drop(client);
    let ended = writing.end().exits(125);
    assert!(
        ended.stderr.contains(&cannot_resume(10)),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_writer_that_is_killed_is_no_end_of_a_download() {
    let host = Host::new();
    let relay = relay(&host);
    let mut writing = host.send_at(relay.url(), "logs").open_input().start();
    writing.await_registered(1);
    let reading = host.curl([at(&relay, "logs")]).start();
    writing.write("a beginning\n");
    reading.stdout_until(12);
    let (mut ws, _) = socket(&relay, "/p/more?recv", "");
    let mut more = host.send_at(relay.url(), "more").open_input().start();
    more.write("a beginning\n");
    assert_eq!(ws.next(), (0x82, b"a beginning\n".to_vec()));
    writing.kill();
    more.kill();
    let ended = reading.end();
    assert!(
        matches!(ended.status.code(), Some(18 | 56)),
        "{}",
        ended.status
    );
    ended.printed("a beginning\n");
    // Something has failed: 1011.
    assert_eq!(ws.next(), (0x88, vec![3, 243]));
}

#[test]
fn a_writer_that_fails_is_no_end_of_a_download() {
    let host = Host::new();
    let relay = relay(&host);
    let mut writing = host
        .curl(["-T", "-", &at(&relay, "logs")])
        .open_input()
        .start();
    await_writer(&relay, "logs");
    let reading = host.curl([at(&relay, "logs")]).start();
    writing.write("a beginning\n");
    reading.stdout_until(12);
    writing.kill();
    let ended = reading.end();
    assert!(
        matches!(ended.status.code(), Some(18 | 56)),
        "{}",
        ended.status
    );
    ended.printed("a beginning\n");
}

#[test]
fn what_a_failed_command_has_said_is_no_end() {
    let cases = [
        ("status", "echo said; exit 1", false),
        ("signal", "echo said; kill -KILL $$", false),
        ("whole", "echo said", true),
    ];
    at_once(cases, |(name, script, is_whole)| {
        let host = Host::new();
        let relay = relay(&host);
        let _writing = host
            .send_at(relay.url(), name)
            .arg(format!("sh:{script}"))
            .start();
        await_writer(&relay, name);
        let ended = host.curl([at(&relay, name)]).run();
        let is_failure = matches!(ended.status.code(), Some(18 | 56));
        assert_eq!(is_failure, !is_whole, "{name}: {}", ended.status);
        ended.printed("said\n");
    });
    at_once(cases, |(name, script, is_whole)| {
        let host = Host::new();
        let relay = relay(&host);
        let _writing = host
            .send_at(relay.url(), name)
            .arg(format!("sh:{script}"))
            .start();
        let (mut ws, _) = socket(&relay, &format!("/p/{name}?recv"), "");
        assert_eq!(ws.next(), (0x82, b"said\n".to_vec()));
        let close = ws.next();
        let expected = if is_whole { vec![3, 232] } else { vec![3, 243] };
        assert_eq!(close, (0x88, expected), "{name}");
    });
}

#[test]
fn a_websocket_without_its_close_is_no_end() {
    // A connection that ends, one that is reset, and an end that says that something went wrong.
    at_once(["ends", "reset", "failed"], |how| {
        let host = Host::new();
        let relay = relay(&host);
        let (mut ws, _) = socket(&relay, &format!("/p/{how}?send"), "");
        ws.send(0x82, b"a beginning\n");
        let reading = host.recv_at(relay.url(), how).start();
        reading.stdout_until(12);
        match how {
            "ends" => ws.stream.shutdown(Shutdown::Write).expect("it is open"),
            "reset" => {
                cut(&ws.stream);
                drop(ws);
            }
            _ => ws.send(0x88, &[3, 243]),
        }
        let ended = reading.end().exits(125).printed("a beginning\n");
        assert!(
            ended.stderr.contains(&cannot_resume(12)),
            "{}",
            ended.stderr
        );
    });
    let host = Host::new();
    let relay = relay(&host);
    let (mut ws, _) = socket(&relay, "/p/down?recv", "");
    let mut writing = host.send_at(relay.url(), "down").open_input().start();
    writing.write("a beginning\n");
    assert_eq!(ws.next(), (0x82, b"a beginning\n".to_vec()));
    cut(&ws.stream);
    drop(ws);
    let ended = writing.end().exits(125);
    assert!(
        ended.stderr.contains("peer cannot resume, "),
        "{}",
        ended.stderr
    );
}

/// Who waits hears it at once; what is under way has as long as anybody.
#[test]
fn a_relay_that_ends_in_order_lets_go_of_who_waits() {
    let host = Host::new();
    let relay = relay(&host);
    let reading = host.curl([at(&relay, "a")]).start();
    let mut writing = host
        .curl(["-T", "-", &at(&relay, "b")])
        .open_input()
        .start();
    let (mut ws, _) = socket(&relay, "/p/c?recv", "");
    await_writer(&relay, "b");
    await_held(&relay, 2);
    relay.signal(Signal::TERM);
    reading.end().exits(18).printed("the relay is going away\n");
    assert_eq!(ws.next(), (0x88, vec![3, 243]));
    writing.close_input();
    writing.end().exits(18).printed("the relay is going away\n");
    relay.end().exits(0);
}

/// Kills the relay under a pipe that is joined.
fn killed(relay: Listener) {
    relay.signal(Signal::KILL);
    relay.end();
}

#[test]
fn a_relay_that_is_killed_breaks_the_pipes_of_its_gateway_at_both_ends() {
    at_once(["put", "get", "send", "recv"], |way| {
        let host = Host::new();
        let relay = relay(&host);
        let beginning = "a beginning\n";
        match way {
            "put" => {
                let mut foreign = host
                    .curl(["-T", "-", &at(&relay, "logs")])
                    .open_input()
                    .start();
                let reading = host.recv_at(relay.url(), "logs").start();
                foreign.write(beginning);
                reading.stdout_until(beginning.len());
                killed(relay);
                // It looks at its connection when it has something to send.
                foreign.close_input();
                let ended = foreign.end();
                assert!(
                    matches!(ended.status.code(), Some(52 | 55 | 56)),
                    "{}",
                    ended.status
                );
                let ended = reading.end().exits(125).printed(beginning);
                assert!(ended.stderr.contains("no link to "), "{}", ended.stderr);
            }
            "get" => {
                let mut writing = host.send_at(relay.url(), "logs").open_input().start();
                let foreign = host.curl([at(&relay, "logs")]).start();
                writing.write(beginning);
                foreign.stdout_until(beginning.len());
                killed(relay);
                let ended = foreign.end();
                assert!(
                    matches!(ended.status.code(), Some(18 | 56)),
                    "{}",
                    ended.status
                );
                let ended = writing.end().exits(125);
                assert!(
                    ended.stderr.contains("given up after 30 s"),
                    "{}",
                    ended.stderr
                );
            }
            "send" => {
                let (mut ws, _) = socket(&relay, "/p/logs?send", "");
                ws.send(0x82, beginning.as_bytes());
                let reading = host.recv_at(relay.url(), "logs").start();
                reading.stdout_until(beginning.len());
                killed(relay);
                assert!(ws.try_next().is_err(), "no close");
                reading.end().exits(125).printed(beginning);
            }
            _ => {
                let (mut ws, _) = socket(&relay, "/p/logs?recv", "");
                let mut writing = host.send_at(relay.url(), "logs").open_input().start();
                writing.write(beginning);
                assert_eq!(ws.next(), (0x82, beginning.as_bytes().to_vec()));
                killed(relay);
                assert!(ws.try_next().is_err(), "no close");
                writing.end().exits(125);
            }
        }
    });
}

/// A lost link of the farpipe's is none of the foreign end's business.
#[test]
fn the_farpipes_own_link_may_be_lost() {
    let host = Host::new();
    let relay = relay(&host);
    let down = When::Byte {
        dir: Dir::Down,
        at: 400_000..=400_000,
    };
    let faults = Faults::between(&relay, Plan::of(down, Cut::Reset));
    let bytes = random(2 << 20, 5);
    let mut writing = host
        .curl(["-T", "-", &at(&relay, "logs")])
        .open_input()
        .start();
    await_writer(&relay, "logs");
    let reading = host.recv_at(&faults.url(), "logs").start();
    writing.write(&bytes);
    writing.close_input();
    writing.end().exits(0);
    reading.end().exits(0).printed(&bytes);
}
