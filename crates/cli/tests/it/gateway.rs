//! Pipes at a relay for those who have no farpipe: real `curl` and a WebSocket client of the tests' own.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use crate::support::certs::{certified, shows};
use crate::support::gateway::{answer, at, await_held, await_writer, begin, relay, socket, status};
use crate::support::websocket::{ask, request};
use crate::support::{DEADLINE, Host, assert_same, random};

#[test]
fn curl_writes_and_a_farpipe_reads_either_side_first() {
    let host = Host::new();
    let (relay, bytes) = (relay(&host), random(3 << 20, 7));
    let handed = format!("{} bytes handed over\n", bytes.len());
    host.file("bytes", &bytes);
    // A file has a length; what comes from a pipe is chunked.
    for (n, source) in ["bytes", "-"].into_iter().enumerate() {
        let pipe = at(&relay, &format!("a{n}"));
        let curl = || {
            let curl = host.curl(["-f", "-T", source, &pipe]);
            curl.input(bytes.as_slice())
        };
        let name = format!("a{n}");
        let recv = || host.recv_at(relay.url(), &name);
        let writing = curl().start();
        await_writer(&relay, &name);
        recv().run().exits(0).printed(&bytes);
        writing.end().exits(0).printed(&handed);
        let reading = recv().start();
        await_held(&relay, n + 1);
        curl().run().exits(0).printed(&handed);
        reading.end().exits(0).printed(&bytes);
    }
}

#[test]
fn a_farpipe_writes_and_curl_reads_either_side_first() {
    let host = Host::new();
    let (relay, bytes) = (relay(&host), random(3 << 20, 8));
    let pipe = at(&relay, "logs");
    let send = || host.send_at(relay.url(), "logs").input(bytes.as_slice());
    let writing = send().start_registered(1);
    host.curl([&pipe]).run().exits(0).printed(&bytes);
    writing.end().exits(0);
    let reading = host.curl([&pipe]).start();
    await_held(&relay, 1);
    send().run().exits(0);
    reading.end().exits(0).printed(&bytes);
}

#[test]
fn what_is_written_is_read_while_it_is_written() {
    let host = Host::new();
    let relay = relay(&host);
    let reading = host.curl([at(&relay, "logs")]).start();
    await_held(&relay, 1);
    let mut writing = host
        .curl(["-T", "-", &at(&relay, "logs")])
        .open_input()
        .start();
    for (n, line) in ["one\n", "two\n", "three\n"].into_iter().enumerate() {
        writing.write(line);
        let len = ["one\n", "two\n", "three\n"][..=n].concat().len();
        assert!(reading.stdout_until(len).ends_with(line.as_bytes()));
    }
    writing.close_input();
    writing.end().exits(0).printed("14 bytes handed over\n");
    reading.end().exits(0).printed("one\ntwo\nthree\n");
    // A body of nothing is a pipe of nothing.
    let reading = host.curl([at(&relay, "none")]).start();
    host.curl(["-T", "-", &at(&relay, "none")]).run().exits(0);
    reading.end().exits(0).printed("");
}

#[test]
fn a_body_is_asked_for_when_there_is_a_reader() {
    let host = Host::new();
    let relay = relay(&host);
    let head = "PUT /p/logs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\
                Expect: 100-continue\r\n\r\n";
    let mut client = begin(&relay, head);
    await_writer(&relay, "logs");
    let a_moment = Some(Duration::from_millis(300));
    client.set_read_timeout(a_moment).expect("a timeout");
    let early = client.read(&mut [0]).expect_err("nothing yet");
    assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let reading = host.recv_at(relay.url(), "logs").start();
    let expected = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut told = vec![0; expected.len()];
    client.read_exact(&mut told).expect("an answer");
    assert_eq!(told, expected);
    client.write_all(b"all\n").expect("it reads");
    let mut rest = String::new();
    client.read_to_string(&mut rest).expect("an answer");
    assert!(rest.ends_with("\r\n\r\n4 bytes handed over\n"), "{rest}");
    reading.end().exits(0).printed("all\n");
}

#[test]
fn one_writer_and_one_reader_and_others_hear_why_not() {
    let host = Host::new();
    let relay = relay(&host);
    let pipe = at(&relay, "logs");
    let mut first = host.curl(["-T", "-", &pipe]).open_input().start();
    await_writer(&relay, "logs");
    // The status is in the answer, and what makes nothing of statuses fails as well.
    let second = host.curl(["-T", "-", &pipe, "-w", "%{http_code}"]);
    let second = second.input("x").run().exits(18);
    second.printed("this relay refused: the pipe logs has a writer already\n409");
    let send = host.send_at(relay.url(), "logs").input("x").run();
    send.exits(125);
    let reading = host.curl([&pipe]).start();
    first.write("one\n");
    reading.stdout_until(4);
    let late = host.recv_at(relay.url(), "logs").run().exits(125);
    late.says("farpipe: the far end refused: the pipe has all its readers");
    let late = host.curl([&pipe]).run().exits(18);
    late.printed("refused: the pipe has all its readers\n");
    first.write("two\n");
    first.close_input();
    first.end().exits(0);
    reading.end().exits(0).printed("one\ntwo\n");
}

#[test]
fn websockets_write_and_read_bytes_and_lines() {
    let host = Host::new();
    let relay = relay(&host);
    let bytes = random(700_000, 9);
    // Answered at once, before anybody else is there.
    let (mut ws, head) = socket(&relay, "/p/up?send", "");
    assert!(!head.contains("Sec-WebSocket-Protocol"), "{head}");
    for part in bytes.chunks(123_456) {
        ws.send(0x82, part);
    }
    let reading = host.recv_at(relay.url(), "up").start();
    reading.stdout_until(bytes.len());
    ws.send(0x88, &[3, 232]);
    assert_eq!(ws.next(), (0x88, vec![3, 232]));
    assert_same(&reading.end().exits(0).stdout, &bytes);

    let (mut ws, _) = socket(&relay, "/p/down?recv", "");
    await_held(&relay, 1);
    let send = host.send_at(relay.url(), "down").input(bytes.as_slice());
    let writing = send.start();
    let (got, code) = ws.rest();
    assert_same(&got, &bytes);
    assert_eq!(code, [3, 232]);
    writing.end().exits(0);

    let (mut writer, _) = socket(&relay, "/p/lines?send&lines", "");
    let (mut reader, _) = socket(&relay, "/p/lines?lines", "");
    for line in ["one", "", "d\u{20ac}"] {
        writer.send(0x81, line.as_bytes());
        assert_eq!(reader.next(), (0x81, line.as_bytes().to_vec()));
    }
    writer.send(0x88, &[3, 232]);
    assert_eq!(reader.next(), (0x88, vec![3, 232]));
    reader.send(0x88, &[3, 232]);
}

#[test]
fn a_duplex_websocket_is_two_pipes() {
    let host = Host::new();
    let relay = relay(&host);
    let (mut ws, _) = socket(&relay, "/p/talk?duplex&lines", "");
    let reading = host.recv_at(relay.url(), "talk.up").start();
    let mut writing = host.send_at(relay.url(), "talk").open_input().start();
    ws.send(0x81, b"up");
    assert_eq!(reading.stdout_until(3), b"up\n");
    writing.write("down\n");
    assert_eq!(ws.next(), (0x81, b"down".to_vec()));
    writing.close_input();
    assert_eq!(ws.next(), (0x88, vec![3, 232]));
    ws.send(0x88, &[3, 232]);
    writing.end().exits(0);
    reading.end().exits(0).printed("up\n");
}

#[test]
fn what_goes_to_browsers_is_compressed() {
    let host = Host::new();
    let relay = relay(&host);
    let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let (mut ws, head) = socket(&relay, "/p/logs?recv", offer);
    assert!(head.contains("permessage-deflate"), "{head}");
    let line = vec![b'a'; 60_000];
    let writing = host.send_at(relay.url(), "logs").input(line).start();
    let mut compressed = 0;
    loop {
        match ws.next() {
            (0xC2, part) => compressed += part.len(),
            (0x88, code) => break ws.send(0x88, &code),
            other => panic!("unexpected {other:?}"),
        }
    }
    assert!((1..6000).contains(&compressed), "{compressed}");
    writing.end().exits(0);
}

#[test]
fn other_paths_and_methods_are_refused_and_a_relay_may_have_no_gateway() {
    let host = Host::new();
    let with = relay(&host);
    let plain = |line: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    for (line, expected) in [
        ("HEAD /p/logs", 405),
        ("DELETE /p/logs", 405),
        ("GET /p/Logs", 404),
        ("GET /p/", 404),
        ("PUT /p/logs", 411),
        ("CONNECT localhost:80", 426),
        ("GET http://localhost/p/logs", 426),
        ("GET /", 426),
    ] {
        let (status, head, _) = answer(&with, &plain(line));
        assert_eq!(status, expected, "{line}: {head}");
        assert_eq!(
            head.contains("Allow: GET, PUT, POST"),
            status == 405,
            "{head}"
        );
    }
    let old = "GET /p/logs HTTP/1.0\r\nHost: localhost\r\n\r\n";
    assert_eq!(status(&ask(&with, old).0), 400);
    let without = host.relay("ws").arg("--no-gateway").start_listening();
    let (status, _, _) = answer(&without, &plain("GET /p/logs"));
    assert_eq!(status, 426);
}

#[test]
fn p16_pages_and_other_hosts_touch_no_pipe() {
    let host = Host::new();
    let relay = relay(&host);
    let lines = [
        "Host: evil.example\r\n",
        "Host: localhost.evil.example\r\n",
        "Host: localhost\r\nOrigin: http://evil.example\r\n",
        "Host: localhost\r\nOrigin: null\r\n",
        "Host: localhost\r\nOrigin: http://localhost:3000\r\n",
        "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n",
        "Host: localhost\r\nSec-Fetch-Site: same-site\r\n",
        // A name that a page has bound to this address.
        "Host: evil.example\r\nOrigin: http://evil.example\r\nSec-Fetch-Site: same-origin\r\n",
    ];
    for lines in lines {
        for (line, more) in [
            ("GET /p/logs", ""),
            ("GET /p/logs?view", ""),
            ("PUT /p/logs", "Content-Length: 1\r\n\r\nx"),
            ("POST /p/logs?ticket", "Content-Length: 0\r\n"),
            ("OPTIONS /p/logs", ""),
        ] {
            let request = format!("{line} HTTP/1.1\r\n{lines}{more}\r\n");
            let (status, head, _) = answer(&relay, &request);
            assert_eq!(status, 403, "{request}");
            assert!(!head.contains("Access-Control"), "{head}");
        }
        let upgrade = request("/p/logs?send", "").replace("Host: localhost\r\n", lines);
        assert_eq!(status(&ask(&relay, &upgrade).0), 403, "{upgrade}");
    }
    let said = relay.stderr_until(|_| true);
    assert!(!said.contains("registered"), "{said}");
}

#[test]
fn hosts_and_origins_that_are_listed_are_served() {
    let host = Host::new();
    let relay = host.relay("ws").args([
        "--gateway-host",
        "Pipes.example",
        "--origin",
        "https://app.example:443/",
    ]);
    let relay = relay.start_listening();
    let ask_for = |line: &str, lines: &str| {
        let request = format!("{line} HTTP/1.1\r\n{lines}Content-Length: 0\r\n\r\n");
        answer(&relay, &request)
    };
    let listed =
        "Host: pipes.example:8443\r\nOrigin: https://app.example\r\nSec-Fetch-Site: cross-site\r\n";
    let (status, head, body) = ask_for("POST /p/logs?ticket=send", listed);
    assert_eq!(status, 200, "{head}");
    assert!(
        head.contains("Access-Control-Allow-Origin: https://app.example\r\n"),
        "{head}"
    );
    assert!(body.contains("farpipe.ticket."), "{body}");
    let (status, head, _) = ask_for("OPTIONS /p/logs?ticket=send", listed);
    assert_eq!(status, 204, "{head}");
    assert!(
        head.contains("Access-Control-Allow-Headers: Authorization"),
        "{head}"
    );
    let (status, head, _) = ask_for("POST /p/logs?ticket", "Host: pipes.example\r\n");
    assert_eq!(status, 200);
    assert!(!head.contains("Access-Control"), "{head}");
    let bad = host.relay("ws").args(["--origin", "app.example"]).run();
    let said = bad.exits(2).stderr;
    assert!(said.contains("an origin is SCHEME://HOST"), "{said}");
    let bad = host.relay("ws").args(["--gateway-host", "a:b:1"]).run();
    assert!(bad.exits(2).stderr.contains("without a port"));
}

/// Beyond loopback, as at other doors: a certificate, or a token.
#[test]
fn certificates_and_tokens_let_in() {
    let host = certified();
    let issued = host
        .farpipe([
            "token", "issue", "carol", "--store", "t.yaml", "--scope", "attach",
        ])
        .run()
        .exits(0);
    let token = String::from_utf8(issued.stdout).expect("text");
    let token = token.trim();
    let relay = host.relay("wss").args(shows("relay"));
    let relay = relay.args(["--tokens", "t.yaml", "-v"]).start_listening();
    let pipe = format!("https://{}/p/logs", relay.addr());
    let dir = "farpipe-certs";
    let ca = format!("{dir}/ca.pem");
    let (cert, key) = (format!("{dir}/alice.pem"), format!("{dir}/alice-key.pem"));
    let curl = |args: &[&str]| host.curl(["--cacert", &ca, &pipe]).args(args);
    let shown = ["--cert", &cert, "--key", &key];
    let bearer = format!("Authorization: Bearer {token}");
    let writing = curl(&shown).args(["-T", "-"]).input("by alice\n").start();
    await_writer(&relay, "logs");
    let reading = curl(&["-H", &bearer]).run().exits(0);
    reading.printed("by alice\n");
    writing.end().exits(0).printed("9 bytes handed over\n");
    let damaged = format!("{bearer}x");
    let unknown = bearer.replace(
        token,
        "fpk1-0123456789abcdef.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.4c6c1f10",
    );
    for lines in ["Authorization: Basic eDp5", &damaged, &unknown, "X: y"] {
        for more in [&["-T", "-"][..], &["-X", "POST", "-d", ""]] {
            let ended = curl(&["-H", lines, "-o", "/dev/null", "-w", "%{http_code}"])
                .args(more)
                .run();
            assert_eq!(ended.stdout, b"401", "{lines}: {}", ended.stderr);
        }
    }
    let said = relay.stderr_until(|_| true);
    let secret = token.split('.').nth(1).expect("a secret");
    assert!(!said.contains(secret), "{said}");
    assert!(
        said.contains("farpipe://local/client/alice") || said.contains("/client/alice"),
        "{said}"
    );
}

/// The gateway reads what passes: who wants it otherwise is told.
#[test]
fn a_farpipe_with_certificates_says_that_its_pipe_need_not_be_end_to_end() {
    let host = certified();
    let relay = host.relay("wss").args(shows("relay"));
    let relay = relay.arg("-v").start_listening();
    let pipe = format!("https://{}/p/logs", relay.addr());
    let curl = || {
        let dir = "farpipe-certs";
        host.curl(["--cacert", &format!("{dir}/ca.pem"), &pipe])
            .args(["--cert", &format!("{dir}/bob.pem")])
            .args(["--key", &format!("{dir}/bob-key.pem")])
    };
    let recv = || host.recv_at(relay.url(), "logs").args(shows("alice"));
    let mut writing = curl().args(["-T", "-"]).open_input().start();
    await_writer(&relay, "logs");
    let said = recv().run().exits(125).stderr;
    assert!(
        said.contains("nothing is end to end with it (give --no-e2e)"),
        "{said}"
    );
    writing.write("in the clear\n");
    writing.close_input();
    let reading = recv().arg("--no-e2e").run().exits(0);
    reading.printed("in the clear\n");
    writing.end().exits(0);

    let send = || host.send_at(relay.url(), "logs").args(shows("alice"));
    let sealed = send().open_input().start();
    sealed.await_registered(1);
    let told = curl().run().exits(18).stdout;
    let told = String::from_utf8(told).expect("text");
    assert!(told.contains("with a certificate only"), "{told}");
    sealed.kill();
    sealed.end();
    relay.stderr_until(|text| text.matches("pipe logs: cleaned up").count() == 2);
    let writing = send().arg("--no-e2e").input("in the clear\n").start();
    writing.await_registered(1);
    curl().run().exits(0).printed("in the clear\n");
    writing.end().exits(0);
}
