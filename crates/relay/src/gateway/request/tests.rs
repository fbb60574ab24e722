//! Requests as curl, browsers and those who mean harm write them.

use super::*;

fn asked(request: &str, lines: &str) -> Result<Asked, u16> {
    asked_over(request, lines, false)
}

fn asked_over(request: &str, lines: &str, is_secure: bool) -> Result<Asked, u16> {
    let config = GatewayConfig {
        hosts: vec!["relay.example".to_owned(), "10.0.0.7".to_owned()],
        origins: vec!["https://app.example".to_owned()],
    };
    let head = format!("{request} HTTP/1.1\r\n{lines}\r\n");
    let request = ForeignRequest::parse(head.as_bytes()).expect("a head");
    Asked::of(&request, &config, is_secure).map_err(|answer| answer.status)
}

const HOST: &str = "Host: localhost:7000\r\n";

#[test]
fn p16_only_a_host_of_the_relays_own_is_served() {
    for host in [
        "localhost",
        "LocalHost:7000",
        "127.0.0.1:7000",
        "[::1]:7000",
        "[::1]",
        "relay.example",
        "RELAY.example:443",
        "10.0.0.7:7000",
    ] {
        let asked = asked("GET /p/logs", &format!("Host: {host}\r\n"));
        assert_eq!(asked.expect(host).what, What::Download);
    }
    for lines in [
        "",
        "Host:\r\n",
        "Host: :7000\r\n",
        "Host: evil.example\r\n",
        "Host: localhost.evil.example\r\n",
        "Host: localhost:7000:1\r\n",
        "Host: localhost:80@evil.example\r\n",
        "Host: 127.0.0.2\r\n",
        "Host: [::1]x\r\n",
        "Host: [::1\r\n",
        "Host: localhost\r\nHost: localhost\r\n",
        "Host: localhost\r\nhost: evil.example\r\n",
    ] {
        assert_eq!(asked("GET /p/logs", lines), Err(403), "{lines}");
    }
}

#[test]
fn p16_only_pages_of_the_relay_and_of_listed_origins_are_served() {
    let with = |more: &str| asked("GET /p/logs", &format!("{HOST}{more}"));
    for (more, page) in [
        ("", None),
        ("Sec-Fetch-Site: none\r\n", None),
        ("Sec-Fetch-Site: same-origin\r\n", Some(Page::Own)),
        ("Origin: http://localhost:7000\r\n", Some(Page::Own)),
        (
            "Origin: http://LOCALHOST:7000\r\nSec-Fetch-Site: same-origin\r\n",
            Some(Page::Own),
        ),
        (
            "Origin: https://app.example\r\nSec-Fetch-Site: cross-site\r\n",
            Some(Page::Of("https://app.example".to_owned())),
        ),
    ] {
        assert_eq!(with(more).expect(more).page, page, "{more}");
    }
    for more in [
        "Origin: null\r\n",
        "Origin:\r\n",
        "Origin: http://evil.example\r\n",
        // Another port of this host is another origin, and so is the other scheme.
        "Origin: http://localhost:3000\r\n",
        "Origin: http://localhost\r\n",
        "Origin: https://localhost:7000\r\n",
        "Origin: http://localhost:7000\r\nOrigin: http://evil.example\r\n",
        "Origin: http://app.example\r\n",
        "Origin: https://app.example.evil.example\r\n",
        "Origin: http://localhost:7000\r\nSec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Sec-Fetch-Site: \r\n",
        "Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n",
    ] {
        assert_eq!(with(more), Err(403), "{more}");
    }
    let secure = |more: &str| asked_over("GET /p/logs", &format!("{HOST}{more}"), true);
    assert!(secure("Origin: https://localhost:7000\r\n").is_ok());
    assert_eq!(secure("Origin: http://localhost:7000\r\n"), Err(403));
}

#[test]
fn what_is_asked_for_is_said_by_method_path_and_query() {
    let body = "Content-Length: 3\r\n";
    let upgrade = "Upgrade: websocket\r\n";
    let socket = |direction, messages| Ok(What::Socket(direction, messages));
    for (request, more, what) in [
        ("GET /p/a.b-c_1", "", Ok(What::Download)),
        ("GET /p/a?", "", Ok(What::Download)),
        ("GET /p/a?view", "", Ok(What::View)),
        ("PUT /p/a", body, Ok(What::Upload)),
        ("POST /p/a", body, Ok(What::Upload)),
        ("POST /p/a?ticket", "", Ok(What::Ticket(Direction::Recv))),
        (
            "POST /p/a?ticket=send",
            "",
            Ok(What::Ticket(Direction::Send)),
        ),
        ("POST /p/a?ticket=both", "", Err(400)),
        ("GET /p/a?ticket", "", Err(400)),
        ("GET /p/a?viewer", "", Err(400)),
        ("GET /p/a", body, Err(400)),
        ("GET /p/a", "Transfer-Encoding: chunked\r\n", Err(400)),
        ("HEAD /p/a", "", Err(405)),
        ("DELETE /p/a", "", Err(405)),
        // Of no page.
        ("OPTIONS /p/a", "", Err(405)),
        ("GET /p/", "", Err(404)),
        ("GET /p/A", "", Err(404)),
        ("GET /p/a/b", "", Err(404)),
        ("GET /p/../p/a", "", Err(404)),
        ("GET /p/%61", "", Err(404)),
        (
            "GET /p/a",
            upgrade,
            socket(Direction::Recv, Messages::Bytes),
        ),
        (
            "GET /p/a?send&lines",
            upgrade,
            socket(Direction::Send, Messages::Lines),
        ),
        (
            "GET /p/a?lines&duplex",
            upgrade,
            socket(Direction::Duplex, Messages::Lines),
        ),
        ("GET /p/a?send&recv", upgrade, Err(400)),
        ("GET /p/a?token=x", upgrade, Err(400)),
    ] {
        let asked = asked(request, &format!("{HOST}{more}"));
        assert_eq!(asked.map(|asked| asked.what), what, "{request}");
    }
    // The name of the other pipe is longer.
    for (len, is_served) in [(60, true), (61, false), (63, false)] {
        let name = "a".repeat(len);
        let duplex = [("POST", "ticket=duplex", ""), ("GET", "duplex", upgrade)];
        for (method, query, more) in duplex {
            let asked = asked(
                &format!("{method} /p/{name}?{query}"),
                &format!("{HOST}{more}"),
            );
            assert_eq!(asked.is_ok(), is_served, "{len}");
            assert!(asked.is_ok() || asked == Err(404), "{len}");
        }
        let both = [("POST", "ticket=recv", ""), ("GET", "send", upgrade)];
        for (method, query, more) in both {
            let asked = asked(
                &format!("{method} /p/{name}?{query}"),
                &format!("{HOST}{more}"),
            );
            assert!(asked.is_ok(), "{len}");
        }
    }
    let page = format!("{HOST}Origin: https://app.example\r\n");
    let preflight = asked("OPTIONS /p/a?ticket", &page);
    assert_eq!(preflight.map(|asked| asked.what), Ok(What::Preflight));
}
