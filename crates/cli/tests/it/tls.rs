//! wss and fps: who gets in, what is said to who does not, and that cuts lose nothing there either.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use farpipe_faultproxy::{Cut, Plan, When};
use rustix::process::Signal;

use crate::support::pki::{replace, shows};
use crate::support::{Faults, Host, Invocation, assert_same, at_once, random};

const SCHEMES: [&str; 2] = ["wss", "fps"];

/// What only an admitted peer may see, each way.
const SECRET: &[u8] = b"for nobody else";

/// Every kind of certificate that must not be good enough.
const BAD: &str = r#"
    ca ca
    ca other
    issue server ca '1 hour ago' '30 days' $both "$(here server)"
    issue client ca '1 hour ago' '30 days' $both "$(here client)"
    issue unknown other '1 hour ago' '30 days' $both "$(here x)"
    issue expired ca '30 days ago' '73 hours ago' $both "$(here x)"
    issue early ca '241 hours' '30 days' $both "$(here x)"
    issue elsewhere ca '1 hour ago' '30 days' $both subjectAltName=DNS:other.example,IP:192.0.2.1
    CN=127.0.0.1 issue cnonly ca '1 hour ago' '30 days' $both
    issue serveronly ca '1 hour ago' '30 days' extendedKeyUsage=serverAuth "$(here x)"
    issue clientonly ca '1 hour ago' '30 days' extendedKeyUsage=clientAuth "$(here x)"
    issue byleaf client '1 hour ago' '30 days' $both "$(here x)"
    issue revoked ca '1 hour ago' '30 days' $both "$(here x)"
    revoke ca revoked
    weakly issue weak ca '1 hour ago' '30 days' $both "$(here x)"
    cat client.pem >>byleaf.pem
"#;

fn listen(host: &Host, scheme: &str, name: &str) -> Invocation {
    host.farpipe(["-v", "listen", &format!("{scheme}://127.0.0.1:0")])
        .args(shows(name))
}

#[test]
fn data_goes_both_ways_between_two_who_know_each_other() {
    for scheme in SCHEMES {
        let host = Host::new();
        host.usual_certificates();
        let (there, back) = (random(3_000_000, 1), random(2_000_000, 2));
        let listener = listen(&host, scheme, "server")
            .input(back.as_slice())
            .start_listening();
        let connect = host.connect(listener.url()).args(shows("client"));
        let connected = connect.input(there.as_slice()).run().exits(0);
        assert_same(&connected.stdout, &back);
        let listened = listener.end().exits(0);
        assert_same(&listened.stdout, &there);
        let named = listened.stderr.contains("farpipe://test/client/client");
        assert!(named, "the log names the client:\n{}", listened.stderr);
    }
}

/// Row A1, the dialling side: the server's certificate is no good.
#[test]
fn a1_a_server_that_is_not_the_right_one_gets_nothing() {
    let cases = [
        (
            "unknown",
            "unknown certificate authority; --ca names one (for ws:wss:// the variable \
         SSL_CERT_FILE does), and a listener that printed a ticket is known by that",
        ),
        ("expired", "certificate expired 3 d ago"),
        ("early", "certificate is not yet valid: it will be in 10 d"),
        (
            "elsewhere",
            "certificate is not for 127.0.0.1 (it names: other.example, 192.0.2.1)",
        ),
        (
            "cnonly",
            "certificate is not for 127.0.0.1 (it names no host; a CN alone does not name a host)",
        ),
        (
            "clientonly",
            "certificate is not for this use: its extended key usage lacks serverAuth",
        ),
        (
            "byleaf",
            "a leaf cannot issue: its certificate was issued by one that is no authority's",
        ),
        ("revoked", "certificate revoked"),
    ];
    let host = Host::new();
    host.certificates(BAD);
    let all = SCHEMES.into_iter().flat_map(|s| cases.map(|c| (s, c)));
    at_once(all, |(scheme, (name, words))| {
        let listener = listen(&host, scheme, name).input(SECRET).start_listening();
        let connect = host.connect(listener.url()).args(shows("client"));
        let connect = connect.args(["--crl", "ca-crl.pem"]);
        let refused = connect.input(SECRET).run().exits(125).printed("");
        let expected =
            format!("farpipe: {scheme}://127.0.0.1:PORT: the server was refused: {words}");
        refused.says(&expected);
        // It hears that it was refused, has seen nothing, and still waits for the right one.
        listener.stderr_until(|text| text.contains("the client refused this certificate: "));
        listener.signal(Signal::TERM);
        listener.end().exits(143).printed("");
    });
}

/// Row A1, the listening side: the client's certificate is no good, and the client is told.
#[test]
fn a1_a_client_that_is_not_known_gets_nothing_and_hears_why() {
    let refused = "the server refused this certificate: ";
    let cases = [
        (
            None,
            "the server wants a client certificate: give --cert and --key".to_owned(),
            "the client was refused: it has no certificate",
        ),
        (
            Some("unknown"),
            format!("{refused}unknown certificate authority"),
            "the client was refused: unknown certificate authority",
        ),
        (
            Some("expired"),
            format!("{refused}certificate expired or not yet valid"),
            "the client was refused: certificate expired 3 d ago",
        ),
        (
            Some("early"),
            format!("{refused}certificate expired or not yet valid"),
            "the client was refused: certificate is not yet valid: it will be in 10 d",
        ),
        (
            Some("serveronly"),
            format!("{refused}certificate is not for this use"),
            "its extended key usage lacks clientAuth",
        ),
        (
            Some("byleaf"),
            format!("{refused}certificate not acceptable"),
            "the client was refused: a leaf cannot issue",
        ),
        (
            Some("revoked"),
            format!("{refused}certificate revoked"),
            "the client was refused: certificate revoked (it names farpipe://test/client/x)",
        ),
    ];
    let host = Host::new();
    host.certificates(BAD);
    let all = SCHEMES
        .into_iter()
        .flat_map(|s| cases.clone().map(|c| (s, c)));
    at_once(all, |(scheme, (name, words, logged))| {
        // Without -v: whoever runs a listener sees whom it refuses.
        let listener = host
            .farpipe(["listen", &format!("{scheme}://127.0.0.1:0")])
            .args(shows("server"))
            .args(["--crl", "ca-crl.pem"])
            .input(SECRET)
            .start_listening();
        let connect = host.connect(listener.url());
        let connect = match name {
            Some(name) => connect.args(shows(name)),
            None => connect.args(["--ca", "ca.pem"]),
        };
        let refused = connect.input(SECRET).run().exits(125).printed("");
        refused.says(&format!("farpipe: {scheme}://127.0.0.1:PORT: {words}"));
        let text = listener.stderr_until(|text| text.contains(logged));
        assert!(text.contains(" WARN 127.0.0.1:"), "the address:\n{text}");
        assert!(text.contains(": tls: the client was"), "the step:\n{text}");
        // It was not used up: the right one is served.
        let connect = host.connect(listener.url()).args(shows("client"));
        connect.run().exits(0).printed(SECRET);
        listener.end().exits(0).printed("");
    });
}

/// Row A1: keys that prove nothing, shown by programs that allow them.
#[test]
fn a1_a_weak_key_is_refused_in_words() {
    let host = Host::new();
    host.certificates(BAD);
    let listener = host
        .farpipe(["listen", "fps://127.0.0.1:0"])
        .args(shows("server"))
        .input(SECRET)
        .start_listening();
    let client = format!(
        "openssl s_client -connect {} -cert weak.pem -key weak-key.pem -CAfile ca.pem -alpn farpipe/1 \
         -cipher DEFAULT@SECLEVEL=0",
        listener.addr()
    );
    let heard = host.shell(&client).run();
    assert!(!String::from_utf8_lossy(&heard.stdout).contains("for nobody else"));
    listener.stderr_until(|text| {
        text.contains("its RSA key of 1024 bits is too weak: at least 2048 are wanted")
    });
    let connect = host.connect(listener.url()).args(shows("client"));
    connect.run().exits(0).printed(SECRET);
    listener.end().exits(0);
}

/// Whoever runs a listener hears of its own certificate's dates before clients do, also when a new one
/// is put in its place. One that has expired is no reason not to start: a pin believes it, and it may
/// be the clock that is wrong.
#[test]
fn a_listener_warns_of_the_dates_of_its_own_certificate() {
    let host = Host::new();
    host.certificates(BAD);
    host.certificates(
        r#"issue soon ca '80 days ago' '73 hours' $both "$(here server)"
        issue fresh ca '1 hour ago' '73 hours' $both "$(here server)""#,
    );
    let cases = [
        (
            "expired",
            "WARN expired.pem: this certificate expired 3 d ago: no client believes it",
        ),
        (
            "early",
            "WARN early.pem: this certificate is not yet valid, it will be in 10 d",
        ),
        (
            "soon",
            "WARN soon.pem: this certificate expires in 3 d; a new one in its place is used",
        ),
        ("fresh", ""),
        ("server", ""),
    ];
    for (name, words) in cases {
        let listen = host.farpipe(["listen", "wss://127.0.0.1:0"]);
        let listener = listen.args(shows(name)).start_listening();
        listener.signal(Signal::TERM);
        let said = listener.end().exits(143).said();
        assert!(said.contains(words), "{name}: {said}");
        assert_eq!(
            said.lines().count(),
            1 + usize::from(!words.is_empty()),
            "{said}"
        );
    }
    // The same upon reload.
    for name in ["soon", "soon-key"] {
        replace(&host, &format!("{name}.pem"), &format!("now-{name}.pem"));
    }
    replace(&host, "server.pem", "now.pem");
    replace(&host, "server-key.pem", "now-key.pem");
    let listener = listen(&host, "wss", "now")
        .args(["--keep", "exec:cat"])
        .start_listening();
    replace(&host, "soon-key.pem", "now-key.pem");
    replace(&host, "soon.pem", "now.pem");
    let connect = host.connect(listener.url()).args(shows("client"));
    connect.input("echo").run().exits(0).printed("echo");
    listener.stderr_until(|text| text.contains("WARN now.pem: this certificate expires in 3 d"));
}

/// `farpipe cert` is enough: nobody needs openssl to take a certificate back.
#[test]
fn a_revoked_certificate_of_our_own_is_refused_and_the_others_stay_good() {
    let host = Host::new();
    let cert = |args: &[&str]| host.farpipe([&["cert"], args].concat()).run();
    cert(&["revoke"]).exits(125).says(
        "farpipe: farpipe-certs/ca.pem: no such file
         hint: `farpipe cert init` makes an authority",
    );
    cert(&["init"]).exits(0);
    cert(&["issue", "server", "--san", "127.0.0.1"]).exits(0);
    for name in ["alice", "bob"] {
        cert(&["issue", name]).exits(0);
    }
    // A list without anybody in it, to begin with.
    cert(&["revoke"]).exits(0).printed("");
    let shows = |name: &str| {
        let file = |end| format!("farpipe-certs/{name}{end}");
        let ca = "farpipe-certs/ca.pem".to_owned();
        let [cert, key, authority] = ["--cert", "--key", "--ca"].map(str::to_owned);
        [cert, file(".pem"), key, file("-key.pem"), authority, ca]
    };
    let crl = ["--crl", "farpipe-certs/crl.pem"];
    let listener = host
        .farpipe(["listen", "wss://127.0.0.1:0", "--keep", "exec:cat"])
        .args(shows("server"))
        .args(crl)
        .start_listening();
    let connect = |name: &str| {
        let connect = host.connect(listener.url()).args(shows(name));
        connect.args(crl).input("echo").run()
    };
    for name in ["alice", "bob"] {
        connect(name).exits(0).printed("echo");
    }
    let revoked = cert(&["revoke", "farpipe-certs/alice.pem"])
        .exits(0)
        .printed("");
    assert!(
        revoked
            .stderr
            .contains("farpipe-certs/alice.pem is revoked")
    );
    connect("alice").exits(125).printed("").says(
        "farpipe: wss://127.0.0.1:PORT: the server refused this certificate: certificate revoked",
    );
    listener.stderr_until(|text| {
        let words = "certificate revoked (it names farpipe://local/client/alice)";
        text.contains(words) && text.contains(" WARN 127.0.0.1:")
    });
    connect("bob").exits(0).printed("echo");
    // Another one: the first stays in the list. Twice is no harm.
    let both = ["revoke", "farpipe-certs/bob.pem", "farpipe-certs/alice.pem"];
    let revoked = cert(&both).exits(0);
    assert!(
        revoked.stderr.contains("alice.pem was revoked already"),
        "{}",
        revoked.stderr
    );
    assert!(
        revoked.stderr.contains("names 2 certificates"),
        "{}",
        revoked.stderr
    );
    for name in ["alice", "bob"] {
        let refused = connect(name).exits(125).printed("");
        assert!(
            refused.stderr.contains("certificate revoked"),
            "{}",
            refused.stderr
        );
    }
    // The server's own: the dialling side goes by the list, too.
    cert(&["issue", "carol"]).exits(0);
    cert(&["revoke", "farpipe-certs/server.pem"]).exits(0);
    let refused = connect("carol").exits(125).printed("");
    let words = "the server was refused: certificate revoked";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
    // What other programs make of the list.
    let verify = "openssl crl -in farpipe-certs/crl.pem -CAfile farpipe-certs/ca.pem -noout 2>&1 &&
        openssl verify -crl_check -CAfile farpipe-certs/ca.pem -CRLfile farpipe-certs/crl.pem \
        farpipe-certs/carol.pem";
    host.shell(verify).run().exits(0);
    let revoked = verify.replace("carol", "alice");
    assert!(!host.shell(&revoked).run().status.success());
}

#[test]
fn what_cannot_be_revoked_is_explained_and_leaves_the_list_alone() {
    let host = Host::new();
    let cert = |args: &[&str]| host.farpipe([&["cert"], args].concat()).run();
    for dir in ["farpipe-certs", "other"] {
        cert(&["init", "--dir", dir]).exits(0);
        cert(&["issue", "alice", "--dir", dir]).exits(0);
    }
    cert(&["revoke", "farpipe-certs/alice.pem"]).exits(0);
    let before = host.content("farpipe-certs/crl.pem");
    cert(&["revoke", "other/alice.pem"]).exits(125).says(
        "farpipe: other/alice.pem was not issued by farpipe-certs/ca.pem
         hint: --dir names the directory of the authority that issued it",
    );
    cert(&["revoke", "farpipe-certs/ca.pem"]).exits(125).says(
        "farpipe: farpipe-certs/ca.pem is the authority itself, which no list of its own can take back
         hint: make another one with `farpipe cert init --dir DIR`, and name that with --ca",
    );
    assert_eq!(host.content("farpipe-certs/crl.pem"), before);
    cert(&["revoke", "--dir", "other"]).exits(0);
    replace(&host, "other/crl.pem", "farpipe-certs/crl.pem");
    cert(&["revoke"])
        .exits(125)
        .says("farpipe: farpipe-certs/crl.pem: is the revocation list of another authority");
    host.file("farpipe-certs/crl.pem", "half of a li");
    cert(&["revoke"]).exits(125);
    assert_eq!(host.content("farpipe-certs/crl.pem"), b"half of a li");
}

#[test]
fn a1_files_that_cannot_be_used_are_explained_before_anything_is_opened() {
    let host = Host::new();
    host.certificates(BAD);
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(host.path("early-key.pem"), mode).expect("a file of ours");
    host.file("empty.pem", "");
    let cases: [(&[&str], &str); 9] = [
        (
            &[
                "--cert",
                "weak.pem",
                "--key",
                "weak-key.pem",
                "--ca",
                "ca.pem",
            ],
            "farpipe: weak.pem: its RSA key of 1024 bits is too weak: at least 2048 are wanted
             hint: `farpipe cert issue` makes a certificate with an ECDSA key",
        ),
        (
            &[
                "--cert",
                "client.pem",
                "--key",
                "client-key.pem",
                "--ca",
                "empty.pem",
            ],
            "farpipe: empty.pem: holds no certificate in PEM form
             hint: name the file of the authority that issued the other side's certificate; \
             `farpipe cert init` makes one: ca.pem",
        ),
        (
            &[
                "--cert",
                "client.pem",
                "--key",
                "client-key.pem",
                "--ca",
                "/dev/null",
            ],
            "farpipe: /dev/null: is no regular file, so there is nothing in it
             hint: name the file of the authority that issued the other side's certificate; \
             `farpipe cert init` makes one: ca.pem",
        ),
        (
            &[
                "--cert",
                "client.pem",
                "--key",
                "client-key.pem",
                "--ca",
                "ca.pem",
                "--crl",
                "ca.pem",
            ],
            "farpipe: ca.pem: holds a certificate, but no revocation list
             hint: `farpipe cert revoke` writes one beside its authority: crl.pem",
        ),
        (
            &[
                "--cert",
                "early.pem",
                "--key",
                "early-key.pem",
                "--ca",
                "ca.pem",
            ],
            "farpipe: early-key.pem: this key is open to others (mode 0644)
             hint: chmod 600 early-key.pem",
        ),
        (
            &[
                "--cert",
                "server.pem",
                "--key",
                "none.pem",
                "--ca",
                "ca.pem",
            ],
            "farpipe: none.pem: no such file",
        ),
        (
            &[
                "--cert",
                "server.pem",
                "--key",
                "client-key.pem",
                "--ca",
                "ca.pem",
            ],
            "farpipe: client-key.pem: is not the key of the certificate server.pem",
        ),
        (
            &[
                "--cert",
                "server.pem",
                "--key",
                "server.pem",
                "--ca",
                "ca.pem",
            ],
            "farpipe: server.pem: this key is open to others (mode 0644)
             hint: chmod 600 server.pem",
        ),
        (
            &[
                "--cert",
                "server.pem",
                "--key",
                "server-key.pem",
                "--ca",
                "client.pem",
            ],
            "farpipe: client.pem: a leaf cannot issue: this is no authority's certificate
             hint: give the certificate of the authority that issued it",
        ),
    ];
    for (flags, words) in cases {
        for verb in ["listen", "connect"] {
            let url = "wss://127.0.0.1:1";
            let args = [&[verb, url], flags].concat();
            host.farpipe(args).run().exits(125).printed("").says(words);
        }
    }
}

#[test]
fn a_listener_that_would_let_in_everybody_does_not_listen() {
    let host = Host::new();
    host.usual_certificates();
    host.farpipe(["listen", "wss://127.0.0.1:0", "--ca", "ca.pem"])
        .run()
        .exits(2)
        .says(
            "farpipe: wss:// needs a certificate
             hint: give --cert, --key and --ca, `farpipe cert` makes all three; or none of them: \
             then a ticket lets in",
        );
    let flags = ["--cert", "server.pem", "--key", "server-key.pem"];
    let listen = host.farpipe(["listen", "fps://0.0.0.0:0"]).args(flags);
    listen.run().exits(2).says(
        "farpipe: fps:// needs a way to know who may come in
         hint: give --cert, --key and --ca: only clients with a certificate of that authority get in; \
         or none of them: only who has the ticket gets in",
    );
    let listen = host.farpipe(["listen", "ws://127.0.0.1:0"]).args(flags);
    listen.run().exits(2).says(
        "farpipe: ws:// has no TLS: certificates mean nothing there
         hint: write wss://",
    );
}

/// With TLS every address may be listened on; whoever comes is known.
#[test]
fn a_listener_with_tls_may_be_on_every_address() {
    let host = Host::new();
    host.usual_certificates();
    let listener = host
        .farpipe(["listen", "wss://0.0.0.0:0"])
        .args(shows("server"))
        .input("hello")
        .start_listening();
    let url = listener.url().replace("0.0.0.0", "localhost");
    let connect = host.connect(&url).args(shows("client"));
    connect.run().exits(0).printed("hello");
    listener.end().exits(0);
}

#[test]
fn a_pin_believes_one_server_whoever_issued_its_certificate() {
    let host = Host::new();
    host.certificates(BAD);
    host.certificates(
        "openssl x509 -in expired.pem -noout -pubkey | openssl pkey -pubin -outform DER |
         sha256sum | cut -c1-64 >pin",
    );
    let pin = format!(
        "sha256:{}",
        String::from_utf8_lossy(&host.content("pin")).trim()
    );
    let client = ["--cert", "client.pem", "--key", "client-key.pem", "--pin"];
    let listener = listen(&host, "wss", "expired")
        .input("hello")
        .start_listening();
    let other = format!("sha256:{}", "0".repeat(64));
    let connect = host.connect(listener.url()).args(client).arg(other);
    connect.run().exits(125).says(&format!(
        "farpipe: wss://127.0.0.1:PORT: the server was refused: another server answers there, or \
         it was started anew: its key is not the one of the ticket or pin (it is {pin})"
    ));
    let connect = host.connect(listener.url()).args(client).arg(&pin);
    connect.run().exits(0).printed("hello");
    listener.end().exits(0);
}

#[test]
fn who_speaks_no_tls_is_told_so() {
    let host = Host::new();
    host.usual_certificates();
    let listener = host.listen("ws").start_listening();
    let url = listener.url().replace("ws://", "wss://");
    let connect = host.connect(&url).args(shows("client"));
    connect.run().exits(125).says(
        "farpipe: wss://127.0.0.1:PORT: the server does not speak TLS (a URL without the s in front \
         of :// may be the right one)",
    );
    let listener = listen(&host, "wss", "server").start_listening();
    let url = listener.url().replace("wss://", "ws://");
    host.connect(&url).run().exits(125).printed("");
    listener.stderr_until(|text| text.contains("the client does not speak TLS"));
}

/// A listener that serves on believes and shows what its files say now.
#[test]
fn changed_certificates_count_from_the_next_connection_on() {
    let host = Host::new();
    host.certificates(BAD);
    for name in ["ca", "server", "server-key"] {
        replace(&host, &format!("{name}.pem"), &format!("{name}.old"));
    }
    let listener = listen(&host, "wss", "server")
        .args(["--keep", "exec:cat"])
        .start_listening();
    let connect = |name| {
        let connect = host.connect(listener.url()).args(shows(name));
        connect.input("echo").run()
    };
    connect("client").exits(0).printed("echo");
    // A key alone is half of a change: the last good pair stays.
    replace(&host, "expired-key.pem", "server-key.pem");
    connect("client").exits(0).printed("echo");
    listener
        .stderr_until(|text| text.contains("the old ones stay: server-key.pem: is not the key"));
    replace(&host, "expired.pem", "server.pem");
    let refused = connect("client").exits(125).printed("");
    assert!(
        refused.stderr.contains("expired 3 d ago"),
        "{}",
        refused.stderr
    );
    replace(&host, "server.old", "server.pem");
    replace(&host, "server-key.old", "server-key.pem");
    connect("client").exits(0).printed("echo");
    listener.signal(Signal::TERM);
    listener.end().exits(143);
}

/// As Kubernetes does: the files are links into a directory that is a link itself, which is swapped. What
/// is connected goes on, also with a certificate that nobody would be let in with any more.
#[test]
fn certificates_are_taken_up_through_a_swapped_link_and_live_sessions_go_on() {
    let host = Host::new();
    host.certificates(BAD);
    host.certificates(
        "for v in 1 2 3 4; do mkdir v$v; done
         cp ca.pem server.pem server-key.pem v1
         cp ca.pem v2; cp expired.pem v2/server.pem; cp expired-key.pem v2/server-key.pem
         cp ca.pem server-key.pem v3; head -c 300 server.pem >v3/server.pem
         cp other.pem v4/ca.pem; cp server.pem server-key.pem v4
         ln -s v1 now
         for f in ca server server-key; do ln -s now/$f.pem tls-$f.pem; done",
    );
    let swap = |to: &str| {
        std::os::unix::fs::symlink(to, host.path("new")).expect("a link");
        std::fs::rename(host.path("new"), host.path("now")).expect("swapped");
    };
    let listener = host
        .farpipe(["listen", "wss://127.0.0.1:0", "--keep", "exec:cat"])
        .args(["--cert", "tls-server.pem", "--key", "tls-server-key.pem"])
        .args(["--ca", "tls-ca.pem"])
        .start_listening();
    let connect = || host.connect(listener.url()).args(shows("client"));
    let mut live = connect().open_input().start();
    live.write("one");
    assert_eq!(live.stdout_until(3), b"one");
    swap("v2");
    let refused = connect().input("echo").run().exits(125).printed("");
    assert!(
        refused.stderr.contains("expired 3 d ago"),
        "{}",
        refused.stderr
    );
    listener.stderr_until(|text| text.contains("this certificate expired 3 d ago"));
    swap("v1");
    connect().input("echo").run().exits(0).printed("echo");
    // Half of a file: the last good one stays, with one warning however many come.
    swap("v3");
    for _ in 0..3 {
        connect().input("echo").run().exits(0).printed("echo");
    }
    // Another authority: this client is known no more, and the one that is there stays.
    swap("v4");
    let refused = connect().input("echo").run().exits(125).printed("");
    assert!(
        refused.stderr.contains("unknown certificate authority"),
        "{}",
        refused.stderr
    );
    live.write("two");
    assert_eq!(live.stdout_until(6), b"onetwo");
    live.close_input();
    live.end().exits(0).printed("onetwo");
    listener.signal(Signal::TERM);
    let ended = listener.end().exits(143);
    let warned = ended.stderr.matches("the old ones stay").count();
    assert_eq!(warned, 1, "{}", ended.stderr);
}

/// What a session was opened with may end while it lasts: then it ends, too, and at once.
#[test]
fn a_certificate_that_is_refused_later_is_final_as_well() {
    for scheme in SCHEMES {
        let host = Host::new();
        host.certificates(BAD);
        replace(&host, "ca.pem", "clients.pem");
        let listener = host
            .farpipe(["-v", "listen", &format!("{scheme}://127.0.0.1:0")])
            .args(["--cert", "server.pem", "--key", "server-key.pem"])
            .args(["--ca", "clients.pem", "exec:cat"])
            .start_listening();
        let faults = Faults::between(&listener, Plan::default());
        let connect = host.connect(&faults.url()).args(shows("client"));
        let mut connect = connect.open_input().start();
        connect.write("echo");
        assert_eq!(connect.stdout_until(4), b"echo");
        replace(&host, "other.pem", "clients.pem");
        faults.cut_all(Cut::Reset);
        let ended = connect.end().exits(125);
        let words = "the server refused this certificate: unknown certificate authority";
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
    }
}

#[test]
fn n1_resets_every_forty_milliseconds_lose_and_double_nothing_under_tls() {
    for scheme in SCHEMES {
        let host = Host::new();
        host.usual_certificates();
        let (there, back) = (random(6 << 20, 1), random(6 << 20, 2));
        let listener = listen(&host, scheme, "server")
            .input(back.as_slice())
            .start_listening();
        let faults = Faults::shaped(&listener, |config| {
            let lifetime = Duration::from_millis(30)..=Duration::from_millis(50);
            config.plan = Plan::of(When::Lifetime(lifetime), Cut::Reset);
            // Slow enough for many connections, however fast this machine is.
            let rate = std::num::NonZeroU64::new(8 << 20);
            (config.up.throttle, config.down.throttle) = (rate, rate);
        });
        let connect = host.connect(&faults.url()).args(shows("client"));
        let connected = connect.input(there.as_slice()).run().exits(0);
        let listened = listener.end().exits(0);
        assert_same(&listened.stdout, &there);
        assert_same(&connected.stdout, &back);
        let stats = faults.stop();
        assert!(stats.cuts_reset > 0, "no cut: {}", stats.to_json());
        // A reconnect is cheap: no certificates, no signatures.
        let resumed = listened.stderr.matches("TLS session resumed").count();
        assert!(resumed > 0, "no session was resumed:\n{}", listened.stderr);
    }
}

#[test]
fn certificates_of_our_own_are_good_for_both_ends() {
    let host = Host::new();
    let cert = |args: &[&str]| host.farpipe([&["cert"], args].concat()).run();
    cert(&["issue", "early"]).exits(125).says(
        "farpipe: farpipe-certs/ca.pem: no such file
         hint: `farpipe cert init` makes an authority",
    );
    cert(&["init", "--domain", "example.org"])
        .exits(0)
        .printed("");
    let server = [
        "issue",
        "server",
        "--san",
        "127.0.0.1",
        "--san",
        "localhost",
    ];
    let made = cert(&server).exits(0).printed("");
    assert!(
        made.stderr
            .contains("farpipe listen wss://127.0.0.1:7000 --cert")
    );
    cert(&["issue", "alice", "--days", "2"]).exits(0);
    let mode = |name| {
        host.path(name)
            .metadata()
            .expect("a file")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("farpipe-certs/alice-key.pem"), 0o600);
    assert_eq!(mode("farpipe-certs/ca-key.pem"), 0o600);

    let shows = |name: &str| {
        let file = |end| format!("farpipe-certs/{name}{end}");
        let ca = "farpipe-certs/ca.pem".to_owned();
        let [cert, key, authority] = ["--cert", "--key", "--ca"].map(str::to_owned);
        [cert, file(".pem"), key, file("-key.pem"), authority, ca]
    };
    let listen = host.farpipe(["-v", "listen", "wss://127.0.0.1:0"]);
    let listener = listen
        .args(shows("server"))
        .input("hello")
        .start_listening();
    let connect = host.connect(listener.url()).args(shows("alice"));
    connect.run().exits(0).printed("hello");
    let ended = listener.end().exits(0);
    assert!(ended.stderr.contains("farpipe://example.org/client/alice"));
}

#[test]
fn nothing_is_overwritten_and_names_are_plain() {
    let host = Host::new();
    let cert = |args: &[&str]| host.farpipe([&["cert"], args].concat()).run();
    cert(&["init"]).exits(0);
    cert(&["issue", "alice"]).exits(0);
    let before = host.content("farpipe-certs/alice-key.pem");
    cert(&["issue", "alice"]).exits(125).says(
        "farpipe: farpipe-certs/alice-key.pem exists and is not overwritten
         hint: choose another name or --dir, or move it away",
    );
    cert(&["init"]).exits(125);
    assert_eq!(host.content("farpipe-certs/alice-key.pem"), before);
    for name in ["a,b", "a/b", "..", "a\nb", "*", "a*", "", "ä", "a b"] {
        let refused = cert(&["issue", name]).exits(2);
        assert!(
            refused
                .stderr
                .contains("a name has 1 to 63 lower-case letters"),
            "{name}"
        );
    }
    for san in [
        "*.example.org",
        "a,b",
        "a b",
        "-x",
        "a..b",
        "a/b",
        "300.1.1.1",
        "1.2.3",
        "7",
    ] {
        let san = format!("--san={san}");
        let refused = cert(&["issue", "bob", &san]).exits(2);
        assert!(refused.stderr.contains("is no host name"), "{san}");
    }
    for days in ["0", "826", "-1"] {
        cert(&["issue", "bob", &format!("--days={days}")]).exits(2);
    }
    assert!(!host.path("farpipe-certs/bob.pem").exists());
}

/// The keys that people bring along from other programs.
#[test]
fn the_tls_section_of_a_file_makes_both_ends() {
    let host = Host::new();
    host.usual_certificates();
    let tls = |name: &str| {
        format!("tls:\n  cert_file: {name}.pem\n  key_file: {name}-key.pem\n  ca_file: ca.pem\n")
    };
    let server = tls("server") + "  client_auth_required: true\n";
    host.file("server.yaml", &server);
    host.file("client.yaml", tls("client"));
    host.file("open.yaml", server.replace("true", "false"));
    let line = ["--config", "server.yaml", "listen", "wss://127.0.0.1:0"];
    let listener = host.farpipe(line).start_listening();
    let line = ["--config", "client.yaml", "connect", listener.url()];
    host.farpipe(line).input("data").run().exits(0);
    listener.end().exits(0).printed("data");

    let checked = host
        .farpipe(["config", "check", "open.yaml"])
        .run()
        .exits(2);
    assert!(
        checked
            .stderr
            .contains("open.yaml:5:3: 'client_auth_required'")
            && checked.stderr.contains("without it anybody could connect"),
        "{}",
        checked.stderr
    );
}
