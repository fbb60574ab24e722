//! Whom a relay's gateway lets in, and what becomes of the others: they are in nobody's way.

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
