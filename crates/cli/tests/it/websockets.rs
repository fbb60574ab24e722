//! ws: and ws-listen: against a client and a server of this test's own, frame by frame.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use farpipe_net::WallClock;
use farpipe_net::tls::{Alpn, ClientAuth, KeyFiles, ServerTlsOptions, TlsServer};
use rustix::net::sockopt::set_socket_linger;
use rustix::process::Signal;

use crate::support::websocket::{KEY, Ws, address, ask, dial, request, server};
use crate::support::{DEADLINE, Host, Listener, assert_same, at_once, random};

fn pipe(host: &Host, src: &str, dst: &str) -> Listener {
    host.farpipe(["pipe", src, dst]).start_listening()
}

#[test]
fn each_connection_has_a_command_of_its_own_and_every_byte() {
    let host = Host::new();
    let listener = pipe(&host, "exec:cat", "ws-listen:0");
    thread::scope(|scope| {
        for number in 0..5 {
            let mut ws = dial(&listener, "");
            scope.spawn(move || {
                let data = random(700_000 + number as usize, number);
                let mut writer = Ws {
                    stream: ws.stream.try_clone().expect("a duplicate"),
                    mask: ws.mask,
                };
                let mut all = Vec::new();
                thread::scope(|scope| {
                    let data = &data;
                    scope.spawn(move || {
                        for part in data.chunks(123_456) {
                            writer.send(0x82, part);
                        }
                    });
                    while all.len() < data.len() {
                        let (first, bytes) = ws.next();
                        assert_eq!(first, 0x82);
                        all.extend(bytes);
                    }
                });
                assert_same(&all, &data);
                // The end of what is said ends cat, and that is said.
                ws.send(0x88, &[3, 232]);
                assert_eq!(ws.next(), (0x88, vec![3, 232]));
                let end = ws.stream.read(&mut [0]).expect("an end, no reset");
                assert_eq!(end, 0);
            });
        }
    });
    listener.signal(Signal::TERM);
    let ended = listener.end().exits(143);
    assert!(!ended.stderr.contains("farpipe:"), "{}", ended.stderr);
}

#[test]
fn between_hosts_each_connection_is_a_stream_of_the_session() {
    let host = Host::new();
    let far = host.listen("ws").arg("exec:sort").start_listening();
    let near = host.connect(far.url()).arg("ws-listen:0").start_listening();
    for _ in 0..2 {
        let mut ws = dial(&near, "");
        ws.send(0x82, b"pear\napple\n");
        // WebSocket has no half-close: sort is not done, and its output is lost with the reader.
        ws.send(0x88, &[3, 232]);
        assert_eq!(ws.next(), (0x88, vec![3, 232]));
    }
    near.signal(Signal::TERM);
    near.end().exits(143);
    far.end().exits(0);
}

#[test]
fn only_pages_of_listed_origins_are_admitted() {
    let host = Host::new();
    let spec = "ws-listen:0?origin=http://localhost:3000&origin=https://example.org:443/";
    let command = format!("sh:echo started >>{}; cat", host.path("log").display());
    let listener = pipe(&host, &command, spec);
    for origins in [
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Origin: http://localhost\r\n",
        "Origin: https://localhost:3000\r\n",
        "Origin: http://localhost:3000.evil.example\r\n",
        "Origin:\r\n",
        "origin: http://localhost:3000\r\nOrigin: http://evil.example\r\n",
    ] {
        let (head, _) = ask(&listener, &request("/", origins));
        assert!(head.starts_with("HTTP/1.1 403 "), "{origins}: {head}");
    }
    assert!(!host.path("log").exists(), "a page reached the command");
    for origins in [
        "",
        "Origin: http://localhost:3000\r\n",
        "Origin: https://example.org\r\n",
    ] {
        let mut ws = dial(&listener, origins);
        ws.send(0x82, b"x");
        assert_eq!(ws.next(), (0x82, b"x".to_vec()));
        ws.send(0x88, b"");
        assert_eq!(ws.next(), (0x88, Vec::new()));
    }
    listener.signal(Signal::TERM);
    let stderr = listener.end().exits(143).stderr;
    assert_eq!(stderr.matches("?origin=URL admits").count(), 1, "{stderr}");
    assert_eq!(host.content("log"), b"started\nstarted\nstarted\n");
}

#[test]
fn beyond_loopback_nothing_listens_and_the_way_around_is_named() {
    let host = Host::new();
    for address in ["0.0.0.0:0", "[::]:0"] {
        let spec = format!("ws-listen:{address}");
        host.farpipe(["pipe", "exec:cat", &spec])
            .run()
            .exits(125)
            .says(&format!(
                "farpipe: cannot listen on ws {address}: without TLS and authentication only \
                 loopback addresses are allowed\n\
                 hint: listen on 127.0.0.1, behind a proxy on this host that speaks TLS and knows \
                 who may connect; or run it where its clients are: farpipe connect wss://… \
                 ws-listen:PORT"
            ));
    }
}

#[test]
fn what_is_no_websocket_never_reaches_the_pipe() {
    let host = Host::new();
    let listener = host.farpipe(["pipe", "--once", "ws-listen:0/feed", "-"]);
    let listener = listener.input("hello").start_listening();
    let good = request("/feed", "");
    let lines = "X: y\r\n".repeat(101);
    let long = format!("X: {}\r\n", "y".repeat(17 << 10));
    for (head, status) in [
        ("GET /feed HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 426),
        (request("/", ""), 404),
        (request("/feeder?feed", ""), 404),
        (good.replace("GET", "POST"), 400),
        (good.replace("HTTP/1.1", "HTTP/1.0"), 400),
        (good.replace("Host: localhost\r\n", ""), 400),
        (good.replace("Version: 13", "Version: 8"), 426),
        (good.replace(KEY, "c2hvcnQ="), 400),
        (request("/feed", "Content-Length: 5\r\n"), 400),
        (request("/feed", &lines), 431),
        (request("/feed", &long), 431),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".to_owned(), 400),
    ] {
        let (answer, _) = ask(&listener, &head);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{head}: {answer}"
        );
    }
    // One that never finishes its request holds nobody up.
    let mut slow = TcpStream::connect(address(&listener)).expect("it listens");
    slow.write_all(b"GET /feed HTTP/1.1\r\n")
        .expect("it is read");
    let (answer, stream) = ask(&listener, &request("/feed?whatever", ""));
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let mask = Some([1, 2, 3, 4]);
    let (all, code) = Ws { stream, mask }.rest();
    assert_eq!((&all[..], &code[..]), (&b"hello"[..], &[3, 232][..]));
    listener.end().exits(0);
}

#[test]
fn a_request_that_trickles_is_cut_off() {
    let host = Host::new();
    let listener = pipe(&host, "exec:cat", "ws-listen:0");
    let mut slow = TcpStream::connect(address(&listener)).expect("it listens");
    slow.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let begin = std::time::Instant::now();
    let mut trickle = slow.try_clone().expect("a duplicate");
    let trickling = thread::spawn(move || {
        let _ = trickle.write_all(b"GET / HTTP/1.1\r\nX: ");
        while trickle.write_all(b"y").is_ok() {
            thread::sleep(std::time::Duration::from_millis(200)); // sleep: that is what trickling is
        }
    });
    match slow.read(&mut [0]) {
        Ok(len) => assert_eq!(len, 0, "it got an answer"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    let took = begin.elapsed().as_secs();
    assert!((9..60).contains(&took), "{took} s");
    trickling.join().expect("no panic");
    listener.signal(Signal::TERM);
    listener.end().exits(143);
}

#[test]
fn lines_are_text_messages_both_ways() {
    let host = Host::new();
    let script = "sh:printf '\u{20ac} one\\n\\ntwo\\n'; sed 's/^/got /'";
    let listener = pipe(&host, script, "ws-listen:0?lines");
    let mut ws = dial(&listener, "");
    for line in ["\u{20ac} one", "", "two"] {
        assert_eq!(ws.next(), (0x81, line.as_bytes().to_vec()));
    }
    ws.send(0x89, b"still there?");
    assert_eq!(ws.next(), (0x8A, b"still there?".to_vec()));
    ws.send(0x88, &[3, 232]);
    listener.signal(Signal::TERM);
    listener.end().exits(143);

    let once = host
        .farpipe(["pipe", "--once", "ws-listen:0?lines", "out"])
        .start_listening();
    let mut ws = dial(&once, "");
    ws.send(0x81, b"a");
    ws.send(0x01, b"b");
    ws.send(0x80, b"c\n");
    ws.send(0x82, b"");
    ws.send(0x88, &[3, 232]);
    assert_eq!(ws.next(), (0x88, vec![3, 232]));
    once.end().exits(0);
    assert_eq!(host.content("out"), b"a\nbc\n\n");
}

#[test]
fn messages_to_those_who_offer_it_are_compressed() {
    let host = Host::new();
    let listener = pipe(&host, "exec:cat", "ws-listen:0?lines");
    let mut ws = dial(
        &listener,
        "Sec-WebSocket-Extensions: permessage-deflate\r\n",
    );
    // RFC 7692 section 7.2.3.1: "Hello" in one compressed block.
    let hello = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
    ws.send(0xC1, &hello);
    let (first, answer) = ws.next();
    assert_eq!((first, &answer[..]), (0xC1, &hello[..]));
    // The second needs what came before.
    ws.send(0xC1, &[0xF2, 0x00, 0x11, 0x00, 0x00]);
    let (first, again) = ws.next();
    assert_eq!(first, 0xC1);
    assert!(again.len() < hello.len(), "{again:?}");
    ws.send(0x88, &[3, 232]);
    listener.signal(Signal::TERM);
    listener.end().exits(143);
}

/// A broken foreign end is never a success.
#[test]
fn only_a_close_with_a_good_code_is_an_end() {
    let host = Host::new();
    let cases: [(Option<&[u8]>, i32, &str); 8] = [
        (Some(&[3, 232]), 0, ""),
        (Some(&[3, 233]), 0, ""),
        (Some(b""), 0, ""),
        (
            Some(b"\x03\xF3oops"),
            125,
            "the other end closed with code 1011: oops",
        ),
        (
            Some(&[0x0F, 0xA0]),
            125,
            "the other end closed with code 4000",
        ),
        (Some(&[3, 238]), 125, "broke the WebSocket protocol"),
        (None, 125, "cut without a WebSocket close"),
        (Some(b"reset"), 125, "eset"),
    ];
    at_once(
        cases.into_iter().enumerate(),
        |(number, (close, status, why))| {
            let name = format!("out{number}");
            let listener = host
                .farpipe(["pipe", "--once", "ws-listen:0", &name])
                .start_listening();
            let mut ws = dial(&listener, "");
            ws.send(0x82, b"all of it");
            match close {
                Some(b"reset") => {
                    set_socket_linger(&ws.stream, Some(std::time::Duration::ZERO))
                        .expect("a socket");
                }
                Some(code) => {
                    ws.send(0x88, code);
                    let _ = ws.try_next();
                }
                None => {}
            }
            drop(ws);
            let ended = listener.end().exits(status);
            assert!(ended.stderr.contains(why), "{}", ended.stderr);
            if status == 0 {
                assert_eq!(host.content(&name), b"all of it");
            }
        },
    );
}

#[test]
fn those_who_trickle_their_requests_keep_nobody_out() {
    let host = Host::new();
    let listener = pipe(&host, "exec:cat", "ws-listen:0");
    let place = listener.url().trim_start_matches("ws://");
    let place = place.trim_end_matches('/');
    let crowd: Vec<_> = (0..400)
        .map(|_| {
            let mut stream = TcpStream::connect(place).expect("a listener");
            std::io::Write::write_all(&mut stream, b"GET / HT").expect("room for it");
            stream
        })
        .collect();
    let mut ws = dial(&listener, "");
    ws.send(0x82, b"x");
    assert_eq!(ws.next(), (0x82, b"x".to_vec()));
    drop(crowd);
    listener.signal(Signal::TERM);
    listener.end().exits(143);
}

#[test]
fn a_reader_that_leaves_ends_a_command_like_a_pipe_does() {
    let host = Host::new();
    let listener = host
        .farpipe(["pipe", "--once", "exec:yes", "ws-listen:0"])
        .start_listening();
    let mut ws = dial(&listener, "");
    assert_eq!(ws.next().0, 0x82);
    ws.send(0x88, &[3, 233]);
    // Its own Close may be lost: what it still had to say is taken back by a reset.
    while ws.try_next().is_ok_and(|(head, _)| head != 0x88) {}
    listener.end().exits(141);
}

#[test]
fn a_reader_that_stops_holds_the_command_back() {
    let host = Host::new();
    let listener = pipe(&host, "exec:cat /dev/zero", "ws-listen:0");
    let mut ws = dial(&listener, "");
    let before = listener.memory_peak();
    for _ in 0..1000 {
        assert_eq!(ws.next().0, 0x82);
    }
    thread::sleep(std::time::Duration::from_secs(1)); // sleep: time for what would go wrong
    let after = listener.memory_peak();
    assert!(after < before + (8 << 20), "{before} grew to {after}");
    listener.signal(Signal::TERM);
    listener.end().exits(143);
}

#[test]
fn a_server_gets_the_request_and_its_answer_arrives_whole() {
    let host = Host::new();
    let data = random(3_000_000, 1);
    let expected = data.clone();
    let url = server(move |head, mut ws| {
        assert!(head.starts_with("GET /chat?token=1 HTTP/1.1\r\n"), "{head}");
        assert!(
            !head.contains("Origin") && !head.contains("Sec-WebSocket-Ext"),
            "{head}"
        );
        assert_eq!(ws.next(), (0x82, b"request".to_vec()));
        for part in expected.chunks(300_000) {
            ws.send(0x82, part);
        }
        // All is said; the client closes.
        assert_eq!(ws.rest(), (Vec::new(), vec![3, 232]));
    });
    let answer = host
        .farpipe(["pipe", "-", &format!("ws:ws://{url}/chat?token=1")])
        .input("request")
        .run()
        .exits(0);
    assert_same(&answer.stdout, &data);
}

#[test]
fn a_servers_lines_and_failures_arrive() {
    let host = Host::new();
    let url = server(|head, mut ws| {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        assert_eq!(ws.next(), (0x81, b"line".to_vec()));
        ws.send(0x81, b"answer");
        match &path[..] {
            "/good?a&b" => drop(ws.rest()),
            "/bad" => {
                ws.send(0x88, b"\x03\xF3sorry");
                let _ = ws.try_next();
            }
            _ => {}
        }
    });
    for (path, status, why) in [
        ("good?a&lines&b", 0, ""),
        (
            "bad?lines",
            125,
            "the other end closed with code 1011: sorry",
        ),
        ("cut?lines", 125, "cut without a WebSocket close"),
    ] {
        let spec = format!("ws:ws://{url}/{path}");
        let ended = host.farpipe(["pipe", "-", &spec]).input("line\n").run();
        let ended = ended.exits(status);
        assert_eq!(ended.stdout, b"answer\n");
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
    }
}

#[test]
fn a_server_that_is_none_is_named() {
    let host = Host::new();
    let gone = crate::support::net::foreign_server("HTTP/1.1 404 Not Found\r\n\r\n");
    let spec = format!("ws:ws://{gone}/x");
    let ended = host.farpipe(["pipe", "-", &spec]).run().exits(125);
    let what = "the server answered HTTP 404 Not Found instead of upgrading to WebSocket";
    assert!(ended.stderr.contains(what), "{}", ended.stderr);
    let (silent, _guard) = crate::support::net::silent_port();
    let spec = format!("ws:ws://{silent}");
    let ended = host.farpipe(["pipe", "-", &spec]).run().exits(125);
    assert!(
        ended.stderr.contains("cannot connect to ws://"),
        "{}",
        ended.stderr
    );
}

/// TLS in front of `server`, with the host's usual certificate.
fn with_tls(host: &Host, server: String) -> u16 {
    let identity = KeyFiles {
        cert: host.path("server.pem"),
        key: host.path("server-key.pem"),
    };
    let options = ServerTlsOptions {
        identity,
        ca: None,
        crl: None,
        clock: WallClock::System,
        client_auth: ClientAuth::Optional,
    };
    let tls = TlsServer::new(options, Alpn("http/1.1")).expect("good files");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let listening = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
    let listener = listening.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        runtime.block_on(async {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok((mut outer, _)) = tls.accept(stream).await else {
                    continue;
                };
                let inner = tokio::net::TcpStream::connect(&server).await;
                let mut inner = inner.expect("it listens");
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            }
        });
    });
    port
}

#[test]
fn a_server_with_tls_is_verified_by_the_systems_authorities() {
    let host = Host::new();
    host.usual_certificates();
    let data = random(1_000_000, 3);
    let expected = data.clone();
    let url = server(move |_, mut ws| {
        assert_eq!(ws.next(), (0x82, b"request".to_vec()));
        for part in expected.chunks(300_000) {
            ws.send(0x82, part);
        }
        assert_eq!(ws.rest(), (Vec::new(), vec![3, 232]));
    });
    let port = with_tls(&host, url);
    let ask = |name: &str, authorities: &str| {
        let spec = format!("ws:wss://{name}:{port}/");
        host.farpipe(["pipe", "-", &spec])
            .env("SSL_CERT_FILE", host.path(authorities))
            .input("request")
            .run()
    };
    let stranger = ask("localhost", "client.pem").exits(125);
    let what = format!("farpipe: cannot connect to wss://localhost:{port}/: ");
    assert!(stranger.stderr.starts_with(&what), "{}", stranger.stderr);
    assert!(
        stranger.stderr.contains("certificate"),
        "{}",
        stranger.stderr
    );
    assert_same(&ask("localhost", "ca.pem").exits(0).stdout, &data);
}

#[test]
fn farpipes_own_ends_talk_to_each_other() {
    let host = Host::new();
    let listener = pipe(&host, "ws-listen:0", "exec:cat");
    let spec = format!("ws:{}", listener.url());
    let data = random(2_000_000, 7);
    let ended = host.farpipe(["pipe", "-", &spec]).input(data.clone()).run();
    assert_same(&ended.exits(0).stdout, &data);
    listener.signal(Signal::TERM);
    listener.end().exits(143);
}
