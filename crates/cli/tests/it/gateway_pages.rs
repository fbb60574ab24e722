//! What browsers do at a relay's gateway: tickets, and the page that shows a pipe.

use std::io::Read as _;

use crate::support::gateway::{answer, await_held, relay, socket, status};
use crate::support::websocket::{Ws, ask, request};
use crate::support::{Host, Listener};

/// The origin of the relay's own pages, to who asks for `localhost`.
const OWN: &str = "Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n";

/// The ticket that a page is given.
#[track_caller]
fn ticket(relay: &Listener, path: &str) -> String {
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{OWN}Content-Length: 0\r\n\r\n");
    let (status, head, body) = answer(relay, &request);
    assert_eq!(status, 200, "{head}{body}");
    let told: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(told["expires_in"], 60);
    told["protocol"].as_str().expect("text").to_owned()
}

/// The status of a page's WebSocket with a ticket.
fn shows(relay: &Listener, path: &str, ticket: &str) -> u16 {
    let more = format!("{OWN}Sec-WebSocket-Protocol: farpipe, {ticket}\r\n");
    status(&ask(relay, &request(path, &more)).0)
}

#[test]
fn a_page_opens_a_websocket_by_a_ticket_that_is_good_once() {
    let host = Host::new();
    let relay = relay(&host);
    assert_eq!(status(&ask(&relay, &request("/p/logs?recv", OWN)).0), 401);
    let good = ticket(&relay, "/p/logs?ticket=recv");
    let more = format!("{OWN}Sec-WebSocket-Protocol: farpipe, {good}\r\n");
    let (mut ws, head) = socket(&relay, "/p/logs?recv", &more);
    assert!(
        head.contains("Sec-WebSocket-Protocol: farpipe\r\n"),
        "{head}"
    );
    assert_eq!(shows(&relay, "/p/logs?recv", &good), 401, "twice");
    await_held(&relay, 1);
    let send = host
        .send_at(relay.url(), "logs")
        .input("for a page\n")
        .start();
    assert_eq!(ws.rest(), (b"for a page\n".to_vec(), vec![3, 232]));
    send.end().exits(0);
    for (asked, opened) in [
        ("/p/logs?ticket=recv", "/p/logs?send"),
        ("/p/logs?ticket=send", "/p/logs?recv"),
        ("/p/logs?ticket=send", "/p/logs?duplex"),
        ("/p/logs?ticket", "/p/others?recv"),
    ] {
        let other = ticket(&relay, asked);
        assert_eq!(shows(&relay, opened, &other), 401, "{asked} {opened}");
        // It was shown.
        let meant = asked.replace("ticket=", "").replace("ticket", "recv");
        assert_eq!(shows(&relay, &meant, &other), 401, "{asked}");
    }
    assert_eq!(shows(&relay, "/p/logs?recv", "farpipe.ticket.AAAA"), 401);
    let said = relay.stderr_until(|_| true);
    assert!(!said.contains("farpipe.ticket."), "{said}");
}

#[test]
fn the_page_of_a_pipe_brings_its_ticket_and_may_do_little() {
    let host = Host::new();
    let relay = relay(&host);
    let get = "GET /p/a.b?view HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: none\r\n\r\n";
    let (status, head, page) = answer(&relay, get);
    assert_eq!(status, 200, "{head}");
    for line in [
        "Content-Type: text/html; charset=utf-8",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "X-Frame-Options: DENY",
        "Referrer-Policy: no-referrer",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    let policy = head.split("Content-Security-Policy: ").nth(1).expect("one");
    let policy = policy.split("\r\n").next().expect("a line");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'nonce-"),
        "{policy}"
    );
    assert!(
        policy.contains("connect-src 'self' ws://localhost;"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    let nonce = policy
        .split("'nonce-")
        .nth(1)
        .and_then(|rest| rest.split('\'').next());
    assert!(page.contains(&format!("<script nonce=\"{}\">", nonce.expect("one"))));
    assert!(
        page.contains("<title>a.b · farpipe</title>") && !page.contains("{{"),
        "{page}"
    );
    let ticket = page
        .split("content=\"farpipe.ticket.")
        .nth(1)
        .expect("a ticket");
    let ticket = ticket.split('"').next().expect("its end");
    let ticket = format!("farpipe.ticket.{ticket}");
    assert_eq!(shows(&relay, "/p/a.b?recv", &ticket), 101);
    let (_, _, again) = answer(&relay, get);
    assert!(!again.contains(&ticket), "each has its own");
}

/// A page that is left has said what it had to say, and is no reader any more.
#[test]
fn a_page_that_is_left_ends_its_writer() {
    let host = Host::new();
    let relay = relay(&host);
    let (ws, _) = socket(&relay, "/p/logs?recv", "");
    let mut ws: Ws = ws;
    let mut send = host.send_at(relay.url(), "logs").open_input().start();
    send.write("one\n");
    assert_eq!(ws.next(), (0x82, b"one\n".to_vec()));
    ws.send(0x88, &[3, 233]);
    assert_eq!(ws.next(), (0x88, vec![3, 233]));
    assert_eq!(ws.stream.read(&mut [0]).expect("an end"), 0);
    // It has all that was said: an end in order. What is said once more before that is known finds a
    // reader that is gone.
    let mut stdin = send.take_stdin();
    while std::io::Write::write_all(&mut stdin, b"more\n").is_ok() {}
    let ended = send.end();
    assert!(
        matches!(ended.status.code(), Some(0 | 141)),
        "{}",
        ended.status
    );
}
