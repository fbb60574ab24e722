//! `farpipe doctor`: each step that works is told, and the first that does not, with what to do.

use crate::support::net::{foreign_server, silent_port};
use crate::support::pki::shows;
use crate::support::{Ended, Host, Invocation, Listener, assert_text};
use crate::tickets::printed_ticket;

/// Every kind of server certificate that is good or not.
const SERVERS: &str = r#"
    ca ca
    ca other
    issue server ca '1 hour ago' '481 hours' $both "$(here server)"
    issue client ca '1 hour ago' '30 days' $both "$(here client)"
    issue unknown other '1 hour ago' '30 days' $both "$(here x)"
    issue expired ca '30 days ago' '73 hours ago' $both "$(here x)"
    issue early ca '241 hours' '30 days' $both "$(here x)"
    issue elsewhere ca '1 hour ago' '30 days' $both subjectAltName=DNS:other.example,IP:192.0.2.1
    ca selfsigned
    issue clientonly ca '1 hour ago' '30 days' extendedKeyUsage=clientAuth "$(here x)"
"#;

pub(crate) fn doctor(host: &Host, url: &str) -> Invocation {
    host.farpipe(["doctor", url])
}

/// The steps on stdout, without what differs between runs: times, ports, keys.
pub(crate) fn steps(ended: &Ended) -> String {
    let text = String::from_utf8(ended.stdout.clone()).expect("text");
    let mut out = String::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (step, verdict) = (words.next(), words.next());
        let (took, unit) = (words.next(), words.next());
        assert!(took.is_some_and(|t| t.parse::<f64>().is_ok()), "{line}");
        assert_eq!(unit, Some("ms"), "{line}");
        let facts = words.map(|word| match word {
            key if key.starts_with("sha256:") => "KEY",
            address if address.starts_with("127.0.0.1:") => "127.0.0.1:PORT",
            word => word,
        });
        let all = step.into_iter().chain(verdict).chain(facts);
        out.push_str(&all.collect::<Vec<_>>().join(" "));
        out.push('\n');
    }
    out
}

/// It failed after these steps, and says this.
#[track_caller]
pub(crate) fn fails(doctor: Invocation, expected: &str, says: &str) {
    let ended = doctor.run().exits(125);
    assert_text(&steps(&ended), expected);
    ended.says(says);
}

const REACHED: &str = "name ok 127.0.0.1 is an address\ntcp ok connected to 127.0.0.1:PORT\n";

fn version() -> &'static str {
    concat!("farpipe ", env!("CARGO_PKG_VERSION"))
}

fn welcomes(listener: &Listener, doctor: impl Fn(&str) -> Invocation, expected: &str) {
    // Twice: nothing is used up.
    for _ in 0..2 {
        let ended = doctor(listener.url()).run().exits(0).says("");
        assert_text(&steps(&ended), expected);
    }
}

#[test]
fn all_is_well_and_a_one_shot_listener_is_as_good_as_before() {
    for (scheme, upgrade) in [
        ("ws", "upgrade ok a WebSocket server that speaks farpipe\n"),
        ("fp", ""),
    ] {
        let host = Host::new();
        let listener = host.listen(scheme).input("hello").start_listening();
        let expected = format!(
            "{REACHED}{upgrade}farpipe ok {}, protocol 1; it knows this user's loopback secret",
            version()
        );
        welcomes(&listener, |url| doctor(&host, url), &expected);
        host.connect(listener.url()).run().exits(0).printed("hello");
        listener.end().exits(0);
    }
    for (scheme, upgrade) in [
        ("wss", "upgrade ok a WebSocket server that speaks farpipe\n"),
        ("fps", ""),
    ] {
        let host = Host::new();
        host.certificates(SERVERS);
        let listener = host
            .listen(scheme)
            .args(shows("server"))
            .input("hello")
            .start_listening();
        let expected = format!(
            "{REACHED}tls ok TLS 1.3 with CN=server, issued by CN=ca of the tests, good for 20 d; \
             its key is KEY\n{upgrade}farpipe ok {}, protocol 1; it lets this side in by its \
             certificate",
            version()
        );
        let known = |url: &str| doctor(&host, url).args(shows("client"));
        welcomes(&listener, known, &expected);
        let connect = host.connect(listener.url()).args(shows("client"));
        connect.run().exits(0).printed("hello");
        listener.end().exits(0);
    }
}

#[test]
fn a_ticket_that_was_looked_at_is_still_good() {
    for scheme in ["wss", "fps"] {
        let host = Host::new();
        let listener = host
            .listen(scheme)
            .args(["--ticket-file", "ticket"])
            .input("hello")
            .start_listening();
        listener.stderr_until(|text| text.contains("--ticket-file ticket\n"));
        let file = ["--ticket-file", "ticket"];
        for _ in 0..2 {
            let ended = doctor(&host, listener.url()).args(file).run().exits(0);
            let last = "it knows the ticket, which is still to be used\n";
            assert!(steps(&ended).ends_with(last), "{}", steps(&ended));
        }
        let connect = host.connect(listener.url()).args(file);
        connect.run().exits(0).printed("hello");
        listener.end().exits(0);
    }
}

#[test]
fn nothing_listens_or_the_name_is_not_known() {
    let host = Host::new();
    let (addr, _guard) = silent_port();
    fails(
        doctor(&host, &format!("ws://{addr}")),
        "name ok 127.0.0.1 is an address\ntcp failed",
        "farpipe: ws://127.0.0.1:PORT: nothing listens there
         hint: start `farpipe listen ws://127.0.0.1:PORT` first",
    );
    let unknown = doctor(&host, "wss://nobody.invalid:7000").run().exits(125);
    assert_text(&steps(&unknown), "name failed");
    let hint = "\nhint: see that the host is spelled as it is known: `getent hosts HOST`\n";
    assert!(unknown.stderr.ends_with(hint), "{}", unknown.stderr);
    fails(
        doctor(&host, "ws://192.0.2.1:7000"),
        "name failed",
        "farpipe: ws://192.0.2.1:7000: 192.0.2.1 is not on this host; without TLS only loopback is \
         allowed
         hint: write wss:// or fps://",
    );
}

#[test]
fn other_servers_are_named_and_what_to_do_about_them() {
    let web = "a web server answers, not farpipe: see that host, port and path are right, and that \
               a proxy there passes the upgrade on (headers Upgrade and Connection)";
    let cases: [(&[u8], &str, &str); 9] = [
        (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            "the other side does not speak HTTP: it began with \"SSH-2.0-OpenSSH_9.2\\r\\n\" (it \
             looks like SSH)",
            "another program listens on that port: give the one of `farpipe listen`; one on fp:// \
             or fps:// is dialled so",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "the server answered HTTP 200 OK instead of upgrading to WebSocket",
            web,
        ),
        (
            b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://new.example/\r\n\r\n",
            "the server answered HTTP 301 Moved Permanently and says to go to \
             https://new.example/; if farpipe is there, give that URL",
            "if farpipe has moved to https://new.example/, give that, with wss:// in the place of \
             https://; if it is a login page: a network that wants a login first answers so (a \
             captive portal): open http://example.com/ in a browser, log in, and try again",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>",
            "the server answered HTTP 200 OK with a web page instead of upgrading to WebSocket",
            "a network that wants a login first answers so (a captive portal): open \
             http://example.com/ in a browser, log in, and try again; if it is a web server of your \
             own, see that host, port and path are right, and that a proxy there passes the upgrade \
             on (headers Upgrade and Connection)",
        ),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
            "the server's WebSocket handshake is wrong: it does not say \"Upgrade: websocket\"",
            "a proxy on the way strips the upgrade: let it pass the headers Upgrade and Connection \
             on, in HTTP/1.1; or another server answers there: see that host, port and path are right",
        ),
        (
            b"HTTP/1.1 302 Found\r\nLocation: https://login.hotel.example/?to=x\r\n\r\n",
            "the server answered HTTP 302 Found and says to go to \
             https://login.hotel.example/?to=x; if farpipe is there, give that URL",
            "a network that wants a login first answers so (a captive portal): open \
             http://example.com/ in a browser, log in, and try again; if \
             https://login.hotel.example/?to=x is where farpipe is, give that",
        ),
        (
            b"HTTP/1.1 404 Not Found\r\n\r\n",
            "the server answered HTTP 404 Not Found instead of upgrading to WebSocket",
            "see that the path is right, and that the proxy there knows it",
        ),
        (
            b"HTTP/1.1 502 Bad Gateway\r\nServer: nginx\r\n\r\n",
            "a proxy answered HTTP 502 Bad Gateway; what is behind it does not answer",
            "the proxy is there and what is behind it is not: start `farpipe listen` there, and \
             see where the proxy sends this path",
        ),
        (
            b"HTTP/1.1 511 Network Authentication Required\r\n\r\n",
            "the server answered HTTP 511 Network Authentication Required instead of upgrading to \
             WebSocket",
            "a network that wants a login first answers so (a captive portal): open \
             http://example.com/ in a browser, log in, and try again",
        ),
    ];
    let host = Host::new();
    for (answer, message, hint) in cases {
        let addr = foreign_server(answer);
        fails(
            doctor(&host, &format!("ws://{addr}")),
            &format!("{REACHED}upgrade failed"),
            &format!("farpipe: ws://127.0.0.1:PORT: {message}\nhint: {hint}"),
        );
    }
    // None of them speaks TLS.
    let addr = foreign_server(cases[0].0);
    fails(
        doctor(&host, &format!("wss://{addr}")),
        &format!("{REACHED}tls failed"),
        "farpipe: wss://127.0.0.1:PORT: the server does not speak TLS (a URL without the s in front \
         of :// may be the right one)
         hint: see which program listens there; a farpipe without TLS is on loopback only",
    );
}

#[test]
fn certificates_that_are_no_good_are_explained() {
    let host = Host::new();
    host.certificates(SERVERS);
    let cases = [
        (
            "unknown",
            "unknown certificate authority; --ca names one (for ws:wss:// the variable \
         SSL_CERT_FILE does), and a listener that printed a ticket is known by that",
            "give the authority of the listener's certificate with --ca, or its ticket; one that \
             issued itself (self-signed) is believed by its key: --pin; if that is not it, something \
             between opens TLS: a proxy",
        ),
        (
            "expired",
            "certificate expired 3 d ago",
            "issue the listener a new certificate; or this host's clock is wrong: see `date`",
        ),
        (
            "early",
            "certificate is not yet valid: it will be in 10 d",
            "one of the two hosts' clocks is wrong: see `date`",
        ),
        (
            "elsewhere",
            "certificate is not for 127.0.0.1 (it names: other.example, 192.0.2.1)",
            "dial a name that the certificate has, or issue one with `--san HOST`",
        ),
        (
            "selfsigned",
            "an authority's certificate does not name a host",
            "it issued itself (self-signed): issue the listener one of an authority, `farpipe cert` \
             does; or believe its key with --pin sha256:HEX in the place of --ca, where HEX is what \
             `openssl x509 -in CERT -pubkey -noout | openssl pkey -pubin -outform der | sha256sum` \
             says there",
        ),
        (
            "clientonly",
            "certificate is not for this use: its extended key usage lacks serverAuth",
            "issue one that is for servers: `farpipe cert issue` does",
        ),
    ];
    for (name, message, hint) in cases {
        let listener = host.listen("wss").args(shows(name)).start_listening();
        fails(
            doctor(&host, listener.url()).args(shows("client")),
            &format!("{REACHED}tls failed"),
            &format!(
                "farpipe: wss://127.0.0.1:PORT: the server was refused: {message}\nhint: {hint}"
            ),
        );
    }
}

#[test]
fn who_would_not_be_let_in_hears_what_is_missing() {
    let host = Host::new();
    host.certificates(SERVERS);
    for scheme in ["wss", "fps"] {
        let listener = host.listen(scheme).args(shows("server")).start_listening();
        let tls = "tls ok TLS 1.3 with CN=server, issued by CN=ca of the tests, good for 20 d; its \
                   key is KEY";
        let at = format!("farpipe: {scheme}://127.0.0.1:PORT");
        fails(
            doctor(&host, listener.url()).args(["--ca", "ca.pem"]),
            &format!("{REACHED}{tls}\ncertificate failed"),
            &format!(
                "{at}: the server wants a client certificate: give --cert and --key
                 hint: show a certificate of the authority that the listener names with --ca: give \
                 --cert and --key"
            ),
        );
        let flags = [
            "--ca",
            "ca.pem",
            "--cert",
            "unknown.pem",
            "--key",
            "unknown-key.pem",
        ];
        fails(
            doctor(&host, listener.url()).args(flags),
            &format!("{REACHED}{tls}\ncertificate failed"),
            &format!(
                "{at}: the server refused this certificate: unknown certificate authority
                 hint: show one that is valid now, and of the authority that the listener names \
                 with --ca"
            ),
        );
    }
    let listener = host.listen("fp").start_listening();
    let stranger = Host::new();
    fails(
        doctor(&stranger, listener.url()),
        &format!("{REACHED}farpipe failed"),
        "farpipe: fp://127.0.0.1:PORT: the process at the other end does not know this user's \
         loopback secret
         hint: run both as the same user of this host; between users or hosts use wss://",
    );
    // A ticket that is no good any more is found out without an ATTACH.
    let listener = host
        .listen("fps")
        .args(["--ticket-for", "1s"])
        .start_listening();
    let (old, _new) = (printed_ticket(&listener, 0), printed_ticket(&listener, 1));
    let refused = doctor(&host, listener.url())
        .env("FARPIPE_TICKET", old)
        .run()
        .exits(125);
    let words = "refused: this ticket has expired unused; copy the newest one";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
}
