//! Both ends of the upgrade, each against bytes, and against each other on TCP.

use std::time::Duration;

use farpipe_proto::limits::{HTTP_HEAD_MAX, HTTP_HEADERS_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use super::*;
use crate::carrier::script::{Script, pool, recv_all};
use crate::carrier::ws::MaskKeys;
use crate::carrier::{Carrier, CarrierError};
use crate::carrier_conformance;

carrier_conformance!(ws_on_tcp, tcp_pair);

/// Draws the nonce of the example in RFC 6455 section 1.3.
#[derive(Debug, Default)]
struct SampleNonce(usize);

impl MaskKeys for SampleNonce {
    fn next_key(&mut self) -> [u8; 4] {
        let parts = b"the sample nonce".as_chunks().0;
        self.0 += 1;
        parts[(self.0 - 1) % 4]
    }
}

const REQUEST: Request<'_> = Request {
    host: "relay.example:7000",
    path: "/farpipe?x=1",
    headers: &[("X-Hop", "one two")],
};

/// What a client sends for it, by RFC 6455 section 1.3.
const ASKED: &str = "GET /farpipe?x=1 HTTP/1.1\r\n\
    Host: relay.example:7000\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: farpipe.1\r\n\
    X-Hop: one two\r\n\r\n";

/// What a server answers.
const ANSWERED: &str = "HTTP/1.1 101 Switching Protocols\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
    Sec-WebSocket-Protocol: farpipe.1\r\n\r\n";

/// Small buffers, so that the connection holds less than a large segment.
async fn tcp_pair() -> (Box<dyn Carrier>, Box<dyn Carrier>) {
    const BUFFER: u32 = 16 << 10;
    let narrow = || {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_send_buffer_size(BUFFER).expect("a size");
        socket.set_recv_buffer_size(BUFFER).expect("a size");
        socket
    };
    let listening = narrow();
    listening
        .bind(([127, 0, 0, 1], 0).into())
        .expect("a free port");
    let listener: TcpListener = listening.listen(1).expect("listening");
    let address = listener.local_addr().expect("an address");
    let near = async {
        let stream = narrow().connect(address).await.expect("connected");
        connect(stream, REQUEST).await.expect("upgraded")
    };
    let far = async {
        let (stream, _) = listener.accept().await.expect("accepted");
        accept(stream).await.expect("upgraded")
    };
    let (near, far) = tokio::join!(near, far);
    (Box::new(near), Box::new(far))
}

async fn ask(script: &mut Script) -> Result<(), UpgradeError> {
    connect_with(script, REQUEST, Box::<SampleNonce>::default())
        .await
        .map(drop)
}

async fn ask_and_get(answer: &str) -> UpgradeError {
    ask(&mut Script::ending(answer))
        .await
        .expect_err("it is no upgrade")
}

/// Status line and whole text of what a server answers.
async fn get_answer(request: impl Into<Vec<u8>>) -> (UpgradeError, String) {
    let mut script = Script::ending(request);
    let error = accept(&mut script).await.expect_err("it is refused");
    assert!(
        script.shut && script.incoming.is_empty(),
        "the answer can arrive"
    );
    (error, String::from_utf8(script.written).expect("text"))
}

fn refused(error: &UpgradeError) -> u16 {
    match error {
        UpgradeError::Refused { status, .. } => *status,
        _ => panic!("{error}"),
    }
}

#[tokio::test]
async fn request_and_answer_are_those_of_the_rfc() {
    let mut script = Script::new(ANSWERED);
    ask(&mut script).await.expect("upgraded");
    assert_eq!(String::from_utf8_lossy(&script.written), ASKED);
    assert_eq!(script.writes.len(), 1);

    let mut script = Script::new(ASKED);
    drop(accept(&mut script).await.expect("upgraded"));
    assert_eq!(String::from_utf8_lossy(&script.written), ANSWERED);
    assert_eq!(script.writes.len(), 1);
}

#[tokio::test]
async fn n5_a_dribbled_head_and_frames_glued_to_it_are_the_same() {
    let to_client = [ANSWERED.as_bytes(), b"\x82\x05hello"].concat();
    let to_server = [ASKED.as_bytes(), b"\x82\x85\0\0\0\0hello"].concat();
    let keys = || Box::<SampleNonce>::default();
    for dribbles in [false, true] {
        let script = |bytes: &[u8]| {
            let script = Script::new(bytes);
            if dribbles { script.dribbling() } else { script }
        };
        let mut client = connect_with(script(&to_client), REQUEST, keys())
            .await
            .expect("upgraded");
        assert_eq!(recv_all(&mut client, &mut pool()).0, [b"hello"]);
        let mut server = accept(script(&to_server)).await.expect("upgraded");
        assert_eq!(recv_all(&mut server, &mut pool()).0, [b"hello"]);
    }
}

#[tokio::test]
async fn each_answer_that_is_no_upgrade_is_told_in_one_line() {
    let table = [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "the server answered HTTP 200 OK instead of upgrading to WebSocket",
            false,
        ),
        (
            "HTTP/1.1 301 Moved Permanently\r\nLocation: https://relay.example/\r\n\r\n",
            "the server answered HTTP 301 Moved Permanently and says to go to \
             https://relay.example/; if farpipe is there, give that URL",
            false,
        ),
        (
            "HTTP/1.1 308\r\nLocation: wss://\u{9b}2J\r\n\r\n",
            "the server answered HTTP 308 and says to go to wss://\\xc2\\x9b2J; if farpipe is there, give that URL",
            false,
        ),
        (
            "HTTP/1.1 502 Bad Gateway\r\n\r\n",
            "a proxy answered HTTP 502 Bad Gateway; what is behind it does not answer",
            true,
        ),
        (
            "HTTP/1.1 503 Service Unavailable\r\n\r\n",
            "a proxy answered HTTP 503 Service Unavailable; what is behind it does not answer",
            true,
        ),
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nVia: 1.1 squid\r\n\r\n",
            "a proxy answered HTTP 407 Proxy Authentication Required instead of upgrading to \
             WebSocket",
            false,
        ),
        (
            "HTTP/1.1 429 Too Many Requests\r\nLocation: nowhere\r\n\r\n",
            "the server answered HTTP 429 Too Many Requests instead of upgrading to WebSocket",
            true,
        ),
        (
            "SSH-2.0-OpenSSH_9.9\r\n",
            "the other side does not speak HTTP: it began with \"SSH-2.0-OpenSSH_9.9\\r\\n\" \
             (it looks like SSH)",
            false,
        ),
        (
            "\x15\x03\x03\0\x02\x02\x46",
            "the other side does not speak HTTP: it began with \"\\x15\\x03\\x03\\x00\\x02\\x02F\" \
             (it looks like TLS)",
            false,
        ),
        (
            "",
            "the connection was cut during the WebSocket handshake",
            true,
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgra",
            "the connection was cut during the WebSocket handshake",
            true,
        ),
        (
            "HTTP/1.1 1O1 Switching Protocols\r\n\r\n",
            "the other side's HTTP header is malformed: a bad status line",
            false,
        ),
    ];
    for (answer, words, transient) in table {
        let error = ask_and_get(answer).await;
        assert_eq!(error.to_string(), words);
        assert_eq!(error.is_transient(), transient, "{words}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_line_of_a_plain_text_is_told_too() {
    let answer = |kind: &str, len: usize, text: &str| {
        format!("HTTP/1.1 400 No\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n\r\n{text}")
    };
    let before = "the server answered HTTP 400 No instead of upgrading to WebSocket";
    let table = [
        (
            answer("text/plain; charset=utf-8", 9, "One.\nTwo."),
            ": One.",
        ),
        (answer("Text/Plain", 4, "One.garbage"), ": One."),
        (answer("text/plain", 400, "cut"), ": cut"),
        (answer("text/plain", 6, "\x1b[2J\r\n"), ": \\x1b[2J"),
        (answer("text/plain", 0, "x"), ""),
        (answer("text/plain", 5_000, "x"), ""),
        (answer("text/html", 4, "One."), ""),
    ];
    for (answer, words) in table {
        let error = ask_and_get(&answer).await;
        assert_eq!(error.to_string(), format!("{before}{words}"));
        // It may also come late, or never.
        let mut script = Script::new(answer).dribbling();
        let error = ask(&mut script).await.expect_err("it is no upgrade");
        assert_eq!(error.to_string(), format!("{before}{words}"));
    }
    let (near, far) = tokio::io::duplex(1_000);
    let request = Request {
        headers: &[("Origin", "x")],
        ..REQUEST
    };
    let (asked, _) = tokio::join!(connect(near, request), accept(far));
    let words = "the server answered HTTP 403 Forbidden instead of upgrading to WebSocket: \
                 This is a farpipe endpoint: web pages are not served here.";
    assert_eq!(asked.expect_err("refused").to_string(), words);
}

#[tokio::test]
async fn a_wrong_101_is_no_farpipe() {
    let without = |line: &str, instead: &str| {
        let answer = ANSWERED.replace(line, instead);
        assert_ne!(answer, ANSWERED);
        answer
    };
    let table = [
        (
            without("Upgrade: websocket", "Upgrade: h2c"),
            "Upgrade: websocket",
        ),
        (
            without("Connection: Upgrade", "Connection: close"),
            "Connection: Upgrade",
        ),
        (without("s3pPLM", "S3pPLM"), "does not answer our key"),
        (
            without("\r\n\r\n", "\r\nSec-WebSocket-Accept: x\r\n\r\n"),
            "does not answer our key",
        ),
        (
            without(
                "\r\n\r\n",
                "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
            ),
            "extension nobody offered",
        ),
        (
            without("Sec-WebSocket-Protocol: farpipe.1\r\n", ""),
            "a WebSocket server, but not farpipe: it did not choose",
        ),
        (
            without(
                "Sec-WebSocket-Protocol: farpipe.1",
                "Sec-WebSocket-Protocol: mqtt",
            ),
            "a WebSocket server, but not farpipe: it chose the subprotocol \"mqtt\"",
        ),
    ];
    for (answer, words) in table {
        let error = ask_and_get(&answer).await;
        assert!(error.to_string().contains(words), "{error}");
        assert!(!error.is_transient());
    }
    let lists = without("Connection: Upgrade", "connection: keep-alive, UPGRADE");
    ask(&mut Script::new(lists))
        .await
        .expect("names and lists are as HTTP has them");
}

#[tokio::test]
async fn what_would_break_a_request_is_not_sent() {
    let bad = [
        Request {
            path: "/a b",
            ..REQUEST
        },
        Request {
            path: "",
            ..REQUEST
        },
        Request {
            host: "a\r\nX: y",
            ..REQUEST
        },
        Request {
            headers: &[("X Y", "z")],
            ..REQUEST
        },
        Request {
            headers: &[("X", "z\nOrigin: y")],
            ..REQUEST
        },
    ];
    for request in bad {
        let mut script = Script::new(ANSWERED);
        let error = connect(&mut script, request)
            .await
            .expect_err("it is refused");
        let UpgradeError::Io(error) = error else {
            panic!("{error}");
        };
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(script.written.is_empty());
    }
}

#[tokio::test]
async fn p14_heads_without_end_are_refused_at_the_limit() {
    let bomb = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1 << 20));
    let mut script = Script::new(bomb).dribbling();
    let error = ask(&mut script).await.expect_err("it has no end");
    assert!(matches!(error, UpgradeError::HeadTooLong), "{error}");
    assert_eq!(script.reads.len(), HTTP_HEAD_MAX, "no more was read");

    let many = format!(
        "HTTP/1.1 101 X\r\n{}\r\n",
        "A: b\r\n".repeat(HTTP_HEADERS_MAX + 1)
    );
    let error = ask_and_get(&many).await;
    assert!(
        error.to_string().contains("too many header lines"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn p14_the_same_for_requests_with_an_answer() {
    let bomb = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(HTTP_HEAD_MAX));
    let (error, answer) = get_answer(bomb).await;
    assert!(matches!(error, UpgradeError::HeadTooLong), "{error}");
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");

    let many = format!(
        "GET / HTTP/1.1\r\n{}\r\n",
        "A: b\r\n".repeat(HTTP_HEADERS_MAX + 1)
    );
    let (error, answer) = get_answer(many).await;
    assert_eq!(refused(&error), 431);
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn p14_a_head_that_stands_still_is_given_up() {
    let began = tokio::time::Instant::now();
    let error = accept(Script::new("GET / HTTP/1.1\r\nHost: "))
        .await
        .expect_err("nothing more comes");
    assert!(matches!(error, UpgradeError::Silent), "{error}");
    assert!(error.is_transient());
    assert_eq!(began.elapsed(), farpipe_proto::limits::HANDSHAKE_STEP);
}

#[tokio::test(start_paused = true)]
async fn each_bad_request_has_its_status() {
    let with = |line: &str, instead: &str| {
        let request = ASKED.replace(line, instead);
        assert_ne!(request, ASKED);
        request
    };
    let table = [
        (with("GET", "POST"), 400),
        (with("HTTP/1.1", "HTTP/1.0"), 400),
        (with("Host: relay.example:7000\r\n", ""), 400),
        (with("X-Hop:", "Host:"), 400),
        (with("Upgrade: websocket\r\n", ""), 426),
        (with("Connection: Upgrade", "Connection: close"), 400),
        (with("Version: 13", "Version: 8"), 426),
        (with("Sec-WebSocket-Version: 13\r\n", ""), 426),
        (
            with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
            400,
        ),
        (with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="), 400),
        (
            with("dGhlIHNhbXBsZSBub25jZQ==", "not base64 at all!!!"),
            400,
        ),
        (
            with(
                "X-Hop: one two",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            ),
            400,
        ),
        (with("farpipe.1", "mqtt, farpipe.2"), 400),
        (with("Sec-WebSocket-Protocol: farpipe.1\r\n", ""), 400),
        (with("X-Hop: one two", "Content-Length: 5"), 400),
        (with("X-Hop: one two", "Transfer-Encoding: chunked"), 400),
        (with("X-Hop: one two", "Bad Name: x"), 400),
    ];
    for (request, status) in table {
        let (error, answer) = get_answer(request.clone()).await;
        assert_eq!(refused(&error), status, "{request}");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(!error.is_transient());
    }
    let lists = with("farpipe.1", "mqtt, farpipe.1").replace("Upgrade: w", "upgrade: h2c, W");
    accept(Script::new(lists))
        .await
        .expect("lists are as HTTP has them");
}

#[tokio::test(start_paused = true)]
async fn p16_web_pages_are_refused() {
    for origin in ["https://evil.example", "null", "http://127.0.0.1:7000"] {
        let request = ASKED.replace("X-Hop: one two", &format!("oRIGIN: {origin}"));
        let (error, answer) = get_answer(request).await;
        assert_eq!(refused(&error), 403);
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_in_plain_http_is_told_what_this_is() {
    let (error, answer) = get_answer("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(refused(&error), 426);
    let (head, text) = answer.split_once("\r\n\r\n").expect("a head");
    for line in [
        "HTTP/1.1 426 Upgrade Required",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Connection: Upgrade, close",
        &format!("Content-Length: {}", text.len()),
    ] {
        assert!(head.lines().any(|has| has == line), "{line} in {head}");
    }
    assert!(
        text.contains("This is a farpipe endpoint") && text.ends_with('\n'),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn who_speaks_tls_to_a_plain_port_is_not_waited_for() {
    let mut script = Script::new(b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03");
    let error = accept(&mut script).await.expect_err("it is not HTTP");
    assert!(error.to_string().contains("it looks like TLS"), "{error}");
    assert!(script.written.starts_with(b"HTTP/1.1 400 "));
}

#[tokio::test(start_paused = true)]
async fn a_refused_upload_gets_the_answer() {
    let (near, mut far) = tokio::io::duplex(1_000);
    let uploading = async {
        let body = vec![b'x'; 10_000];
        far.write_all(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n")
            .await?;
        far.write_all(&body).await?;
        far.shutdown().await?;
        let mut answer = String::new();
        far.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let (accepted, answer) = tokio::join!(accept(near), uploading);
    assert_eq!(refused(&accepted.expect_err("it is refused")), 426);
    assert!(
        answer
            .expect("the upload was drained")
            .starts_with("HTTP/1.1 426 ")
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_that_never_ends_is_left_after_a_moment() {
    let before = tokio::time::Instant::now();
    let mut script = Script::new("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    accept(&mut script).await.expect_err("it is refused");
    assert_eq!(before.elapsed(), Duration::from_secs(1));
}

#[tokio::test]
async fn a_broken_transport_is_transient() {
    let mut script = Script::new("");
    script.then = crate::carrier::script::Then::Fail(std::io::ErrorKind::ConnectionReset);
    let error = ask(&mut script).await.expect_err("it broke");
    assert!(
        matches!(error, UpgradeError::Io(_)) && error.is_transient(),
        "{error}"
    );
}

#[tokio::test]
async fn a_client_takes_no_frames_a_server_may_not_send() {
    let bytes = [ANSWERED.as_bytes(), b"\xC2\x01x"].concat();
    let mut client = connect_with(Script::new(bytes), REQUEST, Box::<SampleNonce>::default())
        .await
        .expect("up");
    // P13: RSV1 would mean compressed, and that was never offered.
    let (_, error) = recv_all(&mut client, &mut pool());
    assert!(
        matches!(error, Some(CarrierError::Protocol { code: 1002, .. })),
        "{error:?}"
    );
}
