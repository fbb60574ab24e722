//! Whom a relay's gateway lets in, and what becomes of the others: they are in nobody's way.

use crate::support::certs::{certified, shows};
use crate::support::gateway::{at, await_writer, begin};
use crate::support::process::until;
use crate::support::relay::{Admin, relay};
use crate::support::{Host, Listener};

fn with_admin(host: &Host) -> (Listener, Admin) {
    let relay = relay(host, &["--admin-listen", "127.0.0.1:0"]);
    let admin = Admin::of(&relay);
    (relay, admin)
}

#[test]
fn who_is_not_let_in_takes_no_place_and_counts_as_refused() {
    let host = Host::new();
    let (relay, admin) = with_admin(&host);
    // More than there are places; each stays as long as it is let.
    let stranger = "GET /p/logs HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    let strangers: Vec<_> = (0..300).map(|_| begin(&relay, stranger)).collect();
    let pipe = at(&relay, "logs");
    let writing = host.curl(["-T", "-", &pipe]).input("served\n").start();
    await_writer(&relay, "logs");
    host.recv_at(relay.url(), "logs")
        .run()
        .exits(0)
        .printed("served\n");
    writing.end().exits(0).printed("7 bytes handed over\n");
    drop(strangers);
    let failed = "farpipe_relay_handshakes_failed_total{step=\"gateway\"}";
    until("no refusal is counted", || admin.metric(failed) > 0);
    relay.stderr_until(|text| text.contains(": gateway: answered 403: this host is not known"));
}

#[test]
fn what_there_is_not_is_no_refusal() {
    let host = Host::new();
    let (relay, admin) = with_admin(&host);
    let asked = host.curl(["-o", "/dev/null", "-w", "%{http_code}", &at(&relay, "NO")]);
    asked.run().printed("404");
    relay.stderr_until(|text| text.contains("answered 404"));
    for step in ["gateway", "cut"] {
        let failed = format!("farpipe_relay_handshakes_failed_total{{step=\"{step}\"}}");
        assert_eq!(admin.metric(&failed), 0, "{step}");
    }
}

/// What a page's ticket stands for is taken back before it is shown.
#[test]
fn a_ticket_is_as_good_as_what_it_was_made_for() {
    let host = certified();
    let issued = host.farpipe(["token", "issue", "carol", "--store", "t.yaml"]);
    let issued = issued.args(["--scope", "attach"]).run().exits(0);
    let token = String::from_utf8(issued.stdout).expect("text");
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let relay = host.relay("wss").args(shows("relay"));
    let relay = relay.args(["--tokens", "t.yaml", "-v"]).start_listening();
    let pipe = format!("https://{}/p/logs", relay.addr());
    let origin = format!("Origin: https://{}", relay.addr());
    let curl = |args: &[&str]| {
        let ca = ["--http1.1", "--cacert", "farpipe-certs/ca.pem"];
        host.curl(ca).args(["-H", &origin]).args(args)
    };
    let ticket = |shown: &[&str]| {
        let asked = format!("{pipe}?ticket=recv");
        let told = curl(&["-X", "POST", &asked]).args(shown).run().exits(0);
        let told: serde_json::Value = serde_json::from_slice(&told.stdout).expect("JSON");
        told["protocol"].as_str().expect("text").to_owned()
    };
    let shows = |ticket: &str, args: &[&str]| {
        let protocol = format!("Sec-WebSocket-Protocol: farpipe, {ticket}");
        let opened = format!("{pipe}?recv");
        let lines = [
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            &protocol,
        ];
        let lines = lines.iter().flat_map(|line| ["-H", *line]);
        let status = ["-o", "/dev/null", "-w", "%{http_code}", &opened];
        curl(&status).args(lines).args(args)
    };
    let (by_token, later) = (ticket(&["-H", &bearer]), ticket(&["-H", &bearer]));
    let (cert, key) = ("farpipe-certs/alice.pem", "farpipe-certs/alice-key.pem");
    let alice = ["--cert", cert, "--key", key];
    let (with, without) = (ticket(&alice), ticket(&alice));
    let opened = shows(&by_token, &[]).start();
    relay.stderr_until(|text| text.contains("WebSocket to p/logs"));
    drop(opened);
    let id = token.trim().trim_start_matches("fpk1-");
    let id = id.split('.').next().expect("an id");
    let revoke = host.farpipe(["token", "revoke", id, "--store", "t.yaml"]);
    revoke.run().exits(0);
    shows(&later, &[]).run().printed("401");
    relay.stderr_until(|text| text.contains("client/carol: revoked"));
    shows(&without, &[]).run().printed("401");
    let opened = shows(&with, &alice).start();
    relay.stderr_until(|text| text.matches("WebSocket to p/logs").count() == 2);
    drop(opened);
}
