//! A pipe by a relay between those who know each other by their certificates: end to end.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::certs::{certified, shows};
use crate::support::{Host, Invocation, Listener, random};

/// A relay, and hosts with certificates of one authority.
struct Net {
    host: Host,
    relay: Listener,
}

impl Net {
    fn new() -> Self {
        let host = certified();
        let relay = host.relay("wss").args(shows("relay")).start_listening();
        Self { host, relay }
    }

    fn send(&self, who: &str) -> Invocation {
        self.host.send_at(self.relay.url(), "logs").args(shows(who))
    }

    fn recv(&self, who: &str) -> Invocation {
        self.host.recv_at(self.relay.url(), "logs").args(shows(who))
    }
}

/// The identity of a client whom `farpipe cert` made.
fn client(name: &str) -> String {
    format!("farpipe://local/client/{name}")
}

#[test]
fn clients_and_agents_send_to_each_other_end_to_end() {
    let net = Net::new();
    let bytes = random(3 << 20, 51);
    for (writer, reader) in [("alice", "bob"), ("web1", "alice"), ("alice", "web1")] {
        let recv = net.recv(reader).arg("-v").start();
        let send = net.send(writer).input(bytes.as_slice()).arg("-v").run();
        let said = send.exits(0).stderr;
        assert!(said.contains(&format!("/{reader}) has come")), "{said}");
        let ended = recv.end().exits(0).printed(&bytes);
        assert!(
            ended.stderr.contains("the writer is farpipe://"),
            "{}",
            ended.stderr
        );
        assert!(
            ended.stderr.contains(&format!("/{writer} (")),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn each_side_says_whom_it_means() {
    let net = Net::new();
    let recv = net.recv("bob").args(["--from", &client("bob")]).start();
    let send = net
        .send("alice")
        .args(["--to", &client("bob")])
        .input("hi\n");
    let send = send.start_registered(1);
    let ended = recv.end().exits(125).printed("");
    assert_eq!(
        ended.stderr,
        format!(
            "farpipe: the writer is {} (e2e-cert), whom --from does not name\n",
            client("alice")
        )
    );
    let other = net.recv("web1").run().exits(125).printed("");
    other.says(
        "farpipe: the far end refused: the writer of the pipe logs does not send to this identity",
    );
    // Neither was one of its readers.
    let recv = net.recv("bob").args(["--from", "farpipe://local/client/*"]);
    recv.run().exits(0).printed("hi\n");
    send.end().exits(0);
}

/// A relay that reads along would be a reader without a certificate.
#[test]
fn a_writer_with_a_certificate_sends_to_nobody_without() {
    let net = Net::new();
    let send = net.send("alice").input("secret\n").start_registered(1);
    let plain = net.recv("bob").arg("--no-e2e").run().exits(125).printed("");
    plain.says(
        "farpipe: the far end refused: the writer of the pipe logs sends to readers with a \
         certificate only: give --cert, --key and --ca",
    );
    net.recv("bob").run().exits(0).printed("secret\n");
    send.end().exits(0);
    let send = net
        .send("alice")
        .arg("--no-e2e")
        .input("open\n")
        .start_registered(1);
    net.recv("bob")
        .arg("--no-e2e")
        .run()
        .exits(0)
        .printed("open\n");
    send.end().exits(0);
    let from = net
        .recv("bob")
        .args(["--no-e2e", "--from", &client("alice")]);
    from.run().exits(2).says(
        "farpipe: --from means nothing without certificates: who writes is shown end to end only
         hint: give --cert, --key and --ca, and leave out --no-e2e",
    );
}

/// The relay believes both, and the reader only its own authority.
#[test]
fn a_writer_of_another_authority_is_refused() {
    let net = Net::new();
    let cert = |args: &[&str]| {
        let cert = net.host.farpipe(["cert", "-q"]).args(args);
        cert.args(["--dir", "others"]).run().exits(0);
    };
    cert(&["init"]);
    cert(&["issue", "mallory"]);
    let both = [
        net.host.content("farpipe-certs/ca.pem"),
        net.host.content("others/ca.pem"),
    ];
    net.host.file("both.pem", both.concat());
    let [cert_flag, cert, key_flag, key, ca_flag, _] = shows("relay");
    let relay = net.host.relay("wss").args([
        cert_flag,
        cert,
        key_flag,
        key,
        ca_flag,
        "both.pem".to_owned(),
    ]);
    let relay = relay.start_listening();
    let send = net.host.send_at(relay.url(), "logs").args([
        "--cert",
        "others/mallory.pem",
        "--key",
        "others/mallory-key.pem",
        "--ca",
        "both.pem",
    ]);
    let send = send.input("false\n").start_registered(1);
    let recv = net.host.recv_at(relay.url(), "logs").args(shows("bob"));
    let ended = recv.run().exits(125).printed("");
    assert!(ended.stderr.contains("end-to-end: "), "{}", ended.stderr);
    drop(send);
}

#[test]
fn a_name_is_its_writers_as_long_as_it_writes() {
    let net = Net::new();
    let alice = net.send("alice").open_input().start_registered(1);
    let bob = net.send("bob").run().exits(125);
    let said = bob.said();
    let why = "farpipe: wss://127.0.0.1:PORT refused: the pipe logs has a writer already";
    assert!(said.contains(why), "{said}");
    drop(alice);
    let bob = net.send("bob").input("bob\n").start_registered(1);
    net.recv("alice").run().exits(0).printed("bob\n");
    bob.end().exits(0);
}

/// What lets open sessions lets write to a pipe and read it; what registers agents does not.
#[test]
fn a_token_to_attach_is_good_for_both_ends() {
    let host = certified();
    for (name, scope) in [("carol", "attach"), ("dave", "register")] {
        let issue = host.farpipe(["token", "issue", name, "--store", "t.yaml"]);
        let token = issue.args(["--scope", scope]).run().exits(0).stdout;
        let file = host.file(name, token);
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("ours");
    }
    let relay = host.relay("wss").args(shows("relay"));
    let relay = relay.args(["--tokens", "t.yaml"]).start_listening();
    let proves =
        |name: &str| ["--ca", "farpipe-certs/ca.pem", "--token-file", name].map(str::to_owned);
    let send = host.send_at(relay.url(), "logs").args(proves("carol"));
    let send = send.input("by token\n").start_registered(1);
    let recv = host.recv_at(relay.url(), "logs").args(proves("carol"));
    recv.run().exits(0).printed("by token\n");
    send.end().exits(0);
    for invocation in [
        host.send_at(relay.url(), "logs"),
        host.recv_at(relay.url(), "logs"),
    ] {
        let ended = invocation.args(proves("dave")).run().exits(125).printed("");
        assert!(
            ended.stderr.contains("the token is not good here"),
            "{}",
            ended.stderr
        );
    }
}
