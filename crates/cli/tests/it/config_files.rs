//! Row G1: configuration files that cannot be used. Each is told with file, line, column and the fix,
//! the exit status is 2, and nothing is started.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::Host;

/// What `config check` says of a file with this text.
#[track_caller]
fn refused(text: impl AsRef<[u8]>, at: &str, what: &str, hint: &str) {
    let host = Host::new();
    host.file("c.yaml", text);
    refused_at(&host, at, what, hint);
}

#[track_caller]
fn refused_at(host: &Host, at: &str, what: &str, hint: &str) {
    let words = format!("farpipe: c.yaml{at}: {what}\nhint: {hint}\n");
    let check = host.farpipe(["config", "check", "c.yaml"]);
    check.run().exits(2).printed("").says(&words);
}

#[test]
fn g1_a_secret_in_the_file_is_refused_wherever_it_stands() {
    for url in [
        "http://me:hunter2@p:3128",
        "me:hunter2@p:3128",
        "socks5h://me:hunter2@p",
    ] {
        refused(
            format!("connect:\n  http_proxy: {url}\n"),
            ":2:3",
            "'http_proxy': a password does not belong into this file",
            "put the URL into the environment, as HTTPS_PROXY",
        );
    }
    refused(
        "connect:\n  url: wss://me:hunter2@h:1\n",
        ":2:3",
        "'url': a password does not belong into this file",
        "leave it out: tickets and certificates say who may connect",
    );
    let host = Host::new();
    let listen = host.farpipe(["listen", "wss://127.0.0.1:0"]);
    let listening = listen.start();
    let told = listening.stderr_until(|text| text.contains("FARPIPE_TICKET="));
    let ticket = told.split("FARPIPE_TICKET=").nth(1).expect("a ticket");
    let ticket = ticket.split(' ').next().expect("a ticket");
    listening.signal(rustix::process::Signal::TERM);
    listening.end();
    refused(
        format!("heartbeat: 5s\nticket_file: {ticket}\n"),
        ":2:1",
        "'ticket_file': a ticket does not belong into this file",
        "write the ticket to a file of mode 0600 and give its name, or set FARPIPE_TICKET",
    );
}

#[test]
fn g1_one_key_twice_is_refused_in_whatever_spelling() {
    for (text, at, what) in [
        (
            "resume_for: 10m\nheartbeat: 5s\nresume-for: 20m\n",
            ":3:1",
            "'resume-for' is 'resume_for' again, which stands at 1:1",
        ),
        (
            "listen:\n  cert: a.pem\n  key: k.pem\n  tls:\n    cert_file: b.pem\n",
            ":5:5",
            "'cert_file' is 'cert' again, which stands at 2:3",
        ),
        (
            "tls:\n  key_file: a\n  key-file: b\n",
            ":3:3",
            "'key-file' is 'key_file' again, which stands at 2:3",
        ),
    ] {
        refused(text, at, what, "remove one of them");
    }
    refused(
        "heartbeat: 5s\nheartbeat: 6s\n",
        ":2:1",
        "'heartbeat' is there twice",
        "see https://yaml.org; write KEY: VALUE, and indent with spaces",
    );
}

#[test]
fn g1_half_of_what_belongs_together_is_refused() {
    for (text, at, what, hint) in [
        (
            "tls:\n  key_file: k.pem\n",
            ":2:3",
            "'key_file' means nothing without 'cert'",
            "add cert, or remove this",
        ),
        (
            "connect:\n  cert: c.pem\n",
            ":2:3",
            "'cert' means nothing without 'key'",
            "add key, or remove this",
        ),
    ] {
        refused(text, at, what, hint);
    }
    // The other half may be typed.
    let host = Host::new();
    host.file("c.yaml", "connect:\n  cert: c.pem\n");
    let connect = host.farpipe(["--config", "c.yaml", "connect", "ws://127.0.0.1:1"]);
    let ended = connect.args(["--key", "k.pem"]).run();
    assert!(
        !ended.stderr.contains("means nothing without"),
        "{}",
        ended.stderr
    );
}

#[test]
fn g1_a_private_key_that_others_can_read_is_told_at_its_key() {
    let host = Host::new();
    host.usual_certificates();
    let key = host.path("server-key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("ours");
    let text = "listen:\n  url: wss://127.0.0.1:0\n  tls:\n    cert_file: server.pem\n    \
                key_file: server-key.pem\n    ca_file: ca.pem\n";
    host.file("c.yaml", text);
    let what = "'key_file': server-key.pem: this private key is open to others (mode 0644)";
    let hint = "chmod 600 server-key.pem";
    refused_at(&host, ":5:5", what, hint);
    let words = format!("farpipe: c.yaml:5:5: {what}\nhint: {hint}\n");
    let listen = host.farpipe(["--config", "c.yaml", "listen"]);
    listen.run().exits(2).printed("").says(&words);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("ours");
    host.farpipe(["config", "check", "c.yaml"]).run().exits(0);
    std::fs::remove_file(&key).expect("ours");
    let what = "'key_file': server-key.pem: no such file";
    refused_at(&host, ":5:5", what, "see that the path is right");
}

#[test]
fn g1_values_of_the_wrong_type_are_refused() {
    for (text, at, what, hint) in [
        (
            "heartbeat: [1s, 2s]\n",
            ":1:1",
            "'heartbeat' takes one value, not a list",
            "heartbeat: VALUE",
        ),
        (
            "listen:\n  keep: 5\n",
            ":2:3",
            "'keep': \"5\" cannot be used: it is a switch",
            "write true or false",
        ),
        (
            "listen:\n  heartbeat:\n    every: 5s\n",
            ":2:3",
            "'heartbeat' takes a value, not settings below it",
            "heartbeat: VALUE",
        ),
        (
            "- heartbeat\n",
            ":1:1",
            "not a list of settings",
            "see https://yaml.org; write KEY: VALUE, and indent with spaces",
        ),
    ] {
        refused(text, at, what, hint);
    }
}

#[test]
fn g1_files_of_other_editors_are_read_and_other_encodings_refused() {
    let host = Host::new();
    let text = "\u{feff}heartbeat: 5s\r\nlisten:\r\n  keep: true\r\n";
    host.file("c.yaml", text);
    let check = host.farpipe(["config", "check", "c.yaml"]).run();
    check.exits(0).says("c.yaml: ok, 2 settings\n");
    refused(
        format!("{text}  kep: true\r\n"),
        ":4:3",
        "unknown key 'kep'",
        "did you mean 'keep'?",
    );
    let utf16: Vec<u8> = "\u{feff}keep: true\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let hint = "save the file as UTF-8, not as UTF-16 or Latin-1";
    refused(utf16, ":1:1", "not UTF-8", hint);
    refused(
        b"# good\nresume_for: 5s # f\xfcnf\n",
        ":2:19",
        "not UTF-8",
        hint,
    );
}

#[test]
fn g1_a_file_that_is_not_there_is_refused_before_anything_starts() {
    let host = Host::new();
    let what = "farpipe: none.yaml: cannot be read: No such file or directory (os error 2)
                hint: check the path given with --config or $FARPIPE_CONFIG";
    let check = host.farpipe(["config", "check", "none.yaml"]);
    check.run().exits(2).says(what);
    let listen = host.farpipe(["--config", "none.yaml", "listen", "ws://127.0.0.1:0"]);
    listen.run().exits(2).printed("").says(what);
}
