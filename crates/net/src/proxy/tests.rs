//! Proxies that follow a script: what they are asked, and what is made of their answers.

use std::os::unix::ffi::OsStringExt as _;

use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::time::{Instant, sleep};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn proxy(url: &str) -> Proxy {
    url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn target(text: &str) -> HostPort {
    text.parse().expect("a host and a port")
}

/// Asks `url` for a connection to `to`; the other end is played by `peer`. Also what is left in the
/// stream afterwards.
async fn asked<F: Future<Output = ()>>(
    url: &str,
    to: &str,
    peer: impl FnOnce(DuplexStream) -> F,
) -> (Result<Granted, ProxyError>, Vec<u8>) {
    let (mut near, far) = tokio::io::duplex(1 << 16);
    let (proxy, to) = (proxy(url), target(to));
    let asking = async {
        let answer = proxy.ask(&mut near, &to).await;
        let mut left = Vec::new();
        if answer.is_ok() {
            near.read_to_end(&mut left).await.expect("a duplex pipe");
        }
        // The script may still wait for more.
        drop(near);
        (answer, left)
    };
    let (answer, ()) = tokio::join!(asking, peer(far));
    answer
}

/// Reads exactly these bytes.
async fn hear(far: &mut DuplexStream, expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    far.read_exact(&mut heard).await.expect("a request");
    assert_eq!(
        heard.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );
}

/// Reads up to the end of a head.
async fn hear_head(far: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(far.read_u8().await.expect("a request"));
    }
    String::from_utf8(head).expect("text")
}

/// What is made of an HTTP proxy's whole answer.
async fn answered(url: &str, answer: &[u8]) -> (Result<Granted, ProxyError>, Vec<u8>) {
    asked(url, "listener.example:7000", async |mut far| {
        hear_head(&mut far).await;
        let _ = far.write_all(answer).await;
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn connect_names_the_host_and_proves_the_user() {
    for (url, to, expected) in [
        (
            "http://p:1",
            "listener.example:7000",
            "CONNECT listener.example:7000 HTTP/1.1\r\nHost: listener.example:7000\r\n\
             User-Agent: farpipe\r\n\r\n",
        ),
        (
            "http://me:se%3Acret%21@p:1",
            "[2001:db8::1]:443",
            "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\
             User-Agent: farpipe\r\nProxy-Authorization: Basic bWU6c2U6Y3JldCE=\r\n\r\n",
        ),
    ] {
        let (answer, left) = asked(url, to, async |mut far| {
            assert_eq!(hear_head(&mut far).await, expected);
            let answer = b"HTTP/1.0 200 Connection established\r\n\r\n";
            far.write_all(answer).await.expect("room");
        })
        .await;
        answer.expect("a connection");
        assert_eq!(left, b"");
    }
}

/// The listener may speak first; its bytes may come with the proxy's answer.
#[tokio::test(start_paused = true)]
async fn what_comes_behind_the_answer_is_the_listeners() {
    for head in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 299 Fine\n\n",
        // A length means nothing in a yes to CONNECT, and news comes before it.
        "HTTP/1.1 103 Early\r\nX: y\r\n\r\nHTTP/1.1 200\r\nContent-Length: 3\r\n\r\n",
    ] {
        let (answer, left) = answered("http://p:1", format!("{head}farpipe\x01").as_bytes()).await;
        answer.expect("a connection");
        assert_eq!(left, b"farpipe\x01", "{head:?}");
    }
    let (answer, left) = asked("socks5h://p:1", "h:7", async |mut far| {
        hear(&mut far, &[5, 1, 0]).await;
        far.write_all(&[5, 0]).await.expect("room");
        hear(&mut far, &[5, 1, 0, 3, 1, b'h', 0, 7]).await;
        far.write_all(b"\x05\x00\x00\x03\x02ab\x00\x07farpipe\x01")
            .await
            .expect("room");
    })
    .await;
    answer.expect("a connection");
    assert_eq!(left, b"farpipe\x01");
}

#[tokio::test(start_paused = true)]
async fn answers_of_an_http_proxy_in_words() {
    let basic =
        "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n\r\n";
    let other =
        "HTTP/1.1 407 No\r\nproxy-authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n";
    let cases: [(&str, &str, &str, Blame); 20] = [
        (
            "me:pw@p:1",
            "HTTP/1.1 401 Unauthorized\r\n\r\n",
            "does not take this user and password",
            Blame::Stranger,
        ),
        (
            "p:1",
            "HTTP/1.1 403 Forbidden\r\n\r\n",
            "answers HTTP 403 Forbidden: it does not allow this host or port",
            Blame::Stranger,
        ),
        (
            "p:1",
            "HTTP/1.1 404 a\tb\x7f\r\n\r\n",
            "answers with a malformed HTTP header: invalid response status",
            Blame::Stranger,
        ),
        (
            "p:1",
            "HTTP/1.1 405 No\r\n\r\n",
            "answers HTTP 405 No: it is no proxy for CONNECT",
            Blame::Stranger,
        ),
        (
            "p:1",
            "HTTP/1.1 302 Found\r\n\r\n",
            "answers HTTP 302 Found: a login page or another server may stand in its place",
            Blame::Stranger,
        ),
        ("p:1", basic, "wants a user and a password", Blame::Stranger),
        (
            "me:pw@p:1",
            basic,
            "does not take this user and password",
            Blame::Stranger,
        ),
        (
            "me:pw@p:1",
            other,
            "wants a login that farpipe does not have: Negotiate, NTLM",
            Blame::Stranger,
        ),
        (
            "p:1",
            "HTTP/1.1 500 Unable to connect\r\n\r\n",
            "answers HTTP 500 Unable to connect",
            Blame::Refused,
        ),
        (
            "p:1",
            "HTTP/1.1 501 No\r\n\r\n",
            "answers HTTP 501 No: it is no proxy for CONNECT",
            Blame::Stranger,
        ),
        (
            "p:1",
            "HTTP/1.1 502 Bad Gateway\r\n\r\n",
            "answers HTTP 502 Bad Gateway: what is behind it does not answer",
            Blame::Refused,
        ),
        (
            "p:1",
            "HTTP/1.1 503\r\n\r\n",
            "answers HTTP 503: what is behind it does not answer",
            Blame::Refused,
        ),
        (
            "p:1",
            "HTTP/1.1 504 Late\r\n\r\n",
            "answers HTTP 504 Late: what is behind it does not answer",
            Blame::Cut,
        ),
        (
            "p:1",
            "HTTP/1.1 429 Wait\r\n\r\n",
            "answers HTTP 429 Wait",
            Blame::Cut,
        ),
        (
            "p:1",
            "HTTP/1.1 101 Other\r\n\r\n",
            "answers HTTP 101 Other",
            Blame::Stranger,
        ),
        (
            "p:1",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "answers with a malformed HTTP header: invalid response status",
            Blame::Stranger,
        ),
        (
            "p:1",
            "SSH-2.0-OpenSSH\r\n",
            "does not speak HTTP: it began with \"SSH-2.0-OpenSSH\\r\\n\"",
            Blame::Stranger,
        ),
        (
            "p:1",
            "\x05\x7f",
            "does not speak HTTP: it began with \"\\x05\\x7f\" (it looks like SOCKS 5: write socks5h://)",
            Blame::Stranger,
        ),
        (
            "p:1",
            "HTTP/1.1 200 O",
            "ended the connection before it answered",
            Blame::Cut,
        ),
        (
            "p:1",
            "",
            "ended the connection before it answered",
            Blame::Cut,
        ),
    ];
    for (at, answer, words, blame) in cases {
        let (refused, _) = answered(&format!("http://{at}"), answer.as_bytes()).await;
        let error = refused.expect_err(answer);
        assert_eq!(error.to_string(), words, "{answer:?}");
        assert_eq!(error.blame(), blame, "{answer:?}");
    }
}

/// SOCKS: what the proxy says at once, whatever it is asked.
#[tokio::test(start_paused = true)]
async fn answers_of_a_socks_proxy_in_words() {
    let reply = |code| vec![5, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0];
    let cases: [(&str, Vec<u8>, &str, Blame); 17] = [
        ("p:1", reply(1), "answers: general failure", Blame::Refused),
        (
            "p:1",
            reply(2),
            "answers: its rules do not allow this connection",
            Blame::Stranger,
        ),
        (
            "p:1",
            reply(3),
            "answers: network unreachable",
            Blame::Refused,
        ),
        ("p:1", reply(4), "answers: host unreachable", Blame::Refused),
        (
            "p:1",
            reply(5),
            "answers: connection refused",
            Blame::Refused,
        ),
        (
            "p:1",
            reply(6),
            "answers: the connection timed out (TTL expired)",
            Blame::Cut,
        ),
        (
            "p:1",
            reply(7),
            "answers: it does not know the command CONNECT",
            Blame::Stranger,
        ),
        (
            "p:1",
            reply(8),
            "answers: it does not know this kind of address",
            Blame::Stranger,
        ),
        (
            "p:1",
            reply(99),
            "answers: failure number 99",
            Blame::Stranger,
        ),
        (
            "p:1",
            vec![5, 0xff],
            "wants a user and a password",
            Blame::Stranger,
        ),
        (
            "me:pw@p:1",
            vec![5, 0xff],
            "wants a login that farpipe does not have: no password",
            Blame::Stranger,
        ),
        (
            "me:pw@p:1",
            vec![5, 2, 1, 1],
            "does not take this user and password",
            Blame::Stranger,
        ),
        // A proxy that takes a way which was not offered.
        (
            "p:1",
            vec![5, 2],
            "wants a login that farpipe does not have: number 2",
            Blame::Stranger,
        ),
        (
            "p:1",
            b"HTTP/1.1 400 Bad\r\n".to_vec(),
            "does not speak SOCKS 5: it began with \"HTTP/1.1 400 Bad\\r\\n\" (it looks like HTTP: write http://)",
            Blame::Stranger,
        ),
        (
            "p:1",
            vec![4, 90],
            "does not speak SOCKS 5: it began with \"\\x04Z\"",
            Blame::Stranger,
        ),
        (
            "p:1",
            vec![5, 0, 5, 0, 0, 9, 1],
            "does not speak SOCKS 5: it began with \"\\x05\\x00\\x00\\t\\x01\"",
            Blame::Stranger,
        ),
        (
            "p:1",
            vec![5, 0, 5],
            "ended the connection before it answered",
            Blame::Cut,
        ),
    ];
    for (at, answer, words, blame) in cases {
        let url = format!("socks5://{at}");
        let (refused, _) = asked(&url, "192.0.2.1:7", async |mut far| {
            far.write_all(&answer).await.expect("room");
            far.shutdown().await.expect("a duplex pipe");
            let mut rest = Vec::new();
            far.read_to_end(&mut rest).await.expect("a duplex pipe");
        })
        .await;
        let error = refused.expect_err(words);
        assert_eq!(error.to_string(), words);
        assert_eq!(error.blame(), blame, "{words}");
    }
}

#[tokio::test(start_paused = true)]
async fn socks_proves_the_user_and_names_addresses() {
    for (to, request) in [
        ("192.0.2.1:258", vec![5, 1, 0, 1, 192, 0, 2, 1, 1, 2]),
        (
            "[2001:db8::1]:258",
            vec![
                5, 1, 0, 4, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2,
            ],
        ),
    ] {
        let (answer, _) = asked("socks5h://me:pw@p:1", to, async |mut far| {
            hear(&mut far, &[5, 2, 0, 2]).await;
            far.write_all(&[5, 2]).await.expect("room");
            hear(&mut far, b"\x01\x02me\x02pw").await;
            far.write_all(&[1, 0]).await.expect("room");
            hear(&mut far, &request).await;
            far.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
                .await
                .expect("room");
        })
        .await;
        answer.expect("a connection");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_asked_is_not() {
    let long = "x".repeat(256);
    for (url, to, words) in [
        (
            "http://p:1",
            "a\r\nX:7",
            "cannot be asked: the name has characters that no host has",
        ),
        (
            "socks5h://p:1",
            &format!("{long}:7"),
            "cannot be asked: the name is longer than 255 bytes",
        ),
        (
            "socks5h://me@p:1",
            "h:7",
            "cannot be asked: user and password have 1 to 255 bytes each for SOCKS",
        ),
    ] {
        let (refused, _) = asked(url, to, async |mut far| {
            let mut heard = Vec::new();
            far.read_to_end(&mut heard).await.expect("a duplex pipe");
            assert_eq!(heard, b"");
        })
        .await;
        let error = refused.expect_err(words);
        assert_eq!(error.to_string(), words);
        assert_eq!(error.blame(), Blame::Final);
    }
}

/// One limit for the whole conversation: a byte now and then does not prolong it.
#[tokio::test(start_paused = true)]
async fn a_slow_proxy_is_given_up_after_one_step() {
    for (url, first) in [
        ("http://p:1", &b"HTTP/1.1 200 "[..]),
        ("socks5h://p:1", &[5][..]),
    ] {
        let began = Instant::now();
        let (refused, _) = asked(url, "h:7", async |mut far| {
            let mut next = first.iter().chain(std::iter::repeat(&b'x'));
            let mut is_open = true;
            while is_open {
                sleep(3 * SECOND).await; // sleep: virtual time, and the pause is what is tested
                let byte = *next.next().expect("endless");
                is_open = byte == b'x' && first.len() == 1 || far.write_all(&[byte]).await.is_ok();
                is_open &= began.elapsed() < 20 * SECOND;
            }
        })
        .await;
        let error = refused.expect_err("too slow");
        assert_eq!(error.to_string(), "did not answer within 10 s");
        assert_eq!(error.blame(), Blame::Cut);
    }
}

#[tokio::test(start_paused = true)]
async fn an_endless_answer_is_cut_at_the_limit() {
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HTTP_HEAD_MAX));
    let news = "HTTP/1.1 102 Wait\r\n\r\n".repeat(HTTP_HEAD_MAX / 21 + 1);
    for answer in [endless, news] {
        let (refused, _) = answered("http://p:1", answer.as_bytes()).await;
        let error = refused.expect_err("too long");
        assert!(matches!(error, ProxyError::HeadTooLong), "{error}");
    }
}

#[test]
fn urls_of_proxies() {
    for (text, shown) in [
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("http://proxy.example:3128/", "http://proxy.example:3128"),
        ("HTTP://proxy.example", "http://proxy.example:1080"),
        ("proxy.example:8080", "http://proxy.example:8080"),
        ("socks5://[::1]", "socks5://[::1]:1080"),
        ("socks5h://[::1]:9050", "socks5h://[::1]:9050"),
        (
            "http://me:p@ss/w0rd@proxy.example:1",
            "http://proxy.example:1",
        ),
    ] {
        let proxy = proxy(text);
        assert_eq!(proxy.to_string(), shown);
        assert!(!format!("{proxy:?}").contains("w0rd"), "{proxy:?}");
        assert_eq!(proxy.has_password(), text.contains("w0rd"));
    }
    for (text, why) in [
        (
            "https://p:1",
            "a proxy behind TLS (https://) cannot be used",
        ),
        (
            "socks4://p:1",
            "a proxy is http://, socks5:// or socks5h://",
        ),
        ("http://", "no host; write HOST:PORT"),
        ("http://p:x", "the port is no number from 0 to 65535"),
        ("http://p:1/path", "the port is no number from 0 to 65535"),
        ("http://a b:1", "the host has characters that no host has"),
        (
            "http://me:se%zzcret@p:1",
            "user and password must be %-escaped UTF-8",
        ),
        (
            "http://me:secret%ff@p:1",
            "user and password must be %-escaped UTF-8",
        ),
        (
            "http://me:secret%2@p:1",
            "user and password must be %-escaped UTF-8",
        ),
    ] {
        let error = text.parse::<Proxy>().expect_err(text);
        assert_eq!(error.to_string(), why, "{text}");
    }
}

/// What the environment names for `url`.
fn environment(url: &str, variables: &[(&str, &str)]) -> Option<String> {
    let url = url.parse().expect("a URL");
    let variable = |wanted: &str| {
        let found = variables.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| OsString::from(*value))
    };
    let proxy = Proxy::from_environment(&url, variable).expect("proxies that can be used");
    proxy.map(|proxy| proxy.at.host)
}

#[test]
fn the_environment_is_read_as_curl_does() {
    let all = [
        ("ALL_PROXY", "AL:1"),
        ("all_proxy", "al:1"),
        ("HTTPS_PROXY", "HS:1"),
        ("https_proxy", "hs:1"),
    ];
    for url in ["wss://h.example:1", "fps://h.example:1"] {
        for (known, expected) in [(4, "hs"), (3, "HS"), (2, "al"), (1, "AL")] {
            assert_eq!(environment(url, &all[..known]).as_deref(), Some(expected));
        }
        assert_eq!(environment(url, &[]), None);
        let empty = [("https_proxy", ""), ("HTTPS_PROXY", "HS:1")];
        assert_eq!(environment(url, &empty).as_deref(), Some("HS"));
        let foreign = [("http_proxy", "x:1"), ("HTTP_PROXY", "x:1")];
        assert_eq!(environment(url, &foreign), None);
    }
    // Without TLS, and to this host, there is none.
    for url in [
        "ws://h.example:1",
        "fp://h.example:1",
        "wss://localhost:1",
        "wss://LocalHost.:1",
        "wss://a.localhost:1",
        "wss://127.1.2.3:1",
        "fps://[::1]:1",
        "fps://[::ffff:127.0.0.1]:1",
        "wss://0.0.0.0:1",
    ] {
        assert_eq!(environment(url, &all), None, "{url}");
    }
    assert!(environment("wss://localhost.example:1", &all).is_some());
    let variable = |name: &str| (name == "ALL_PROXY").then(|| "https://me:secret@p".into());
    let url = "wss://h.example:1".parse().expect("a URL");
    let error = Proxy::from_environment(&url, variable).expect_err("TLS");
    let words = "ALL_PROXY: a proxy behind TLS (https://) cannot be used";
    assert_eq!(error.to_string(), words);
}

/// curl would use them or fail; going past the proxy without a word may be what nobody wanted.
#[test]
fn a_variable_that_is_not_utf8_is_named_and_not_passed_over() {
    let odd = || OsString::from_vec(b"http://p\xff:1".to_vec());
    let url = "wss://h.example:1".parse().expect("a URL");
    for bad in ["https_proxy", "ALL_PROXY", "NO_PROXY"] {
        let variable = |name: &str| match name {
            _ if name == bad => Some(odd()),
            "all_proxy" if bad == "NO_PROXY" => Some("p:1".into()),
            _ => None,
        };
        let error = Proxy::from_environment(&url, variable).expect_err(bad);
        let words = format!("{bad}: it is not UTF-8; write other bytes as %XX");
        assert_eq!(error.to_string(), words);
        // One that does not count is nobody's trouble.
        let here = "wss://localhost:1".parse().expect("a URL");
        assert_eq!(Proxy::from_environment(&here, variable), Ok(None));
    }
}

#[test]
fn no_proxy_excepts_names_domains_addresses_and_networks() {
    for (list, host, excepted) in [
        ("*", "h.example", true),
        ("h.example", "H.Example.", true),
        ("example", "h.example", true),
        (".example", "h.example", true),
        ("a.example, h.example", "h.example", true),
        ("a.example h.example", "h.example", true),
        ("ample", "h.example", false),
        (".h.example", "h.example", true),
        ("x.h.example", "h.example", false),
        ("*.example", "h.example", false),
        (",. ,", "h.example", false),
        ("192.0.2.1", "192.0.2.1", true),
        ("192.0.2.1", "192.0.2.10", false),
        ("2.1", "192.0.2.1", false),
        ("192.0.2.0/24", "192.0.2.77", true),
        ("192.0.2.0/24", "192.0.3.77", false),
        ("192.0.2.0/x", "192.0.2.77", false),
        ("0.0.0.0/0", "192.0.2.77", true),
        ("2001:db8::/32", "[2001:db8:1::1]", true),
        ("[2001:db8::1]", "[2001:db8::1]", true),
        ("2001:db8::/32", "[2001:db9::1]", false),
        ("0.0.0.0/0", "[2001:db9::1]", false),
    ] {
        let url = format!("wss://{host}:1");
        let proxied = [("HTTPS_PROXY", "p:1"), ("NO_PROXY", list)];
        let found = environment(&url, &proxied);
        assert_eq!(found.is_none(), excepted, "{list:?} {host}");
    }
    let both = [("https_proxy", "p:1"), ("no_proxy", "x"), ("NO_PROXY", "*")];
    assert!(environment("wss://h.example:1", &both).is_some());
}
