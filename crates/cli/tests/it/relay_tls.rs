//! Relays between hosts that do not trust each other: who is who, and what a relay gets to see.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::PermissionsExt as _;

use crate::support::certs::{certified, shows};
use crate::support::{Ended, Host, Listener, Running, random};

#[track_caller]
fn relay(host: &Host) -> Listener {
    host.relay("wss").args(shows("relay")).start_listening()
}

#[track_caller]
fn agent(host: &Host, relay: &Listener, name: &str, more: &[&str]) -> Running {
    let agent = host.farpipe(["agent", relay.url()]).args(shows(name));
    agent.args(more).start_registered(1)
}

fn exec(host: &Host, relay: &Listener, who: &str, more: &[&str]) -> Ended {
    let exec = host
        .farpipe(["exec", "--relay", relay.url()])
        .args(shows(who));
    exec.args(more).run()
}

#[test]
fn a_command_is_allowed_to_whom_its_agent_knows_end_to_end() {
    let host = certified();
    let relay = relay(&host);
    let agents = ["web1", "web2"].map(|name| agent(&host, &relay, name, &["--allow", "exec"]));
    for name in ["web1", "web2"] {
        let ended = exec(
            &host,
            &relay,
            "alice",
            &[name, "--", "sh", "-c", "echo in; exit 7"],
        );
        assert_eq!(ended.exits(7).printed("in\n").stderr, "");
    }
    // What only the relay says counts for little.
    let ended = exec(
        &host,
        &relay,
        "alice",
        &["--no-e2e", "web1", "--", "echo", "in"],
    );
    ended.exits(125).printed("").says(
        "farpipe: the far end refused: the policy of that host does not allow it; its log says why",
    );
    drop(agents);
    let trusting = host.file("trusting.yaml", "trust_relay: true\n");
    fs::set_permissions(&trusting, fs::Permissions::from_mode(0o600)).expect("ours");
    let more = ["--policy", "trusting.yaml", "--allow", "exec"];
    let _agent = agent(&host, &relay, "web1", &more);
    let ended = exec(
        &host,
        &relay,
        "alice",
        &["--no-e2e", "web1", "--", "echo", "in"],
    );
    ended.exits(0).printed("in\n");
}

/// The name is the certificate's, for routes and for permissions.
/// Certificates are for the doors that have TLS; this user's own processes come by another one.
#[test]
fn a_relay_has_doors_with_and_without_tls() {
    let host = certified();
    let relay = host.farpipe(["relay", "--listen", "wss://127.0.0.1:0"]);
    let relay = relay
        .args(["--listen", "ws://127.0.0.1:0"])
        .args(shows("relay"))
        .start();
    let said = relay.stderr_until(|text| text.matches("listening on ").count() == 2);
    let urls: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("listening on "))
        .collect();
    let [tls, plain] = urls[..] else {
        panic!("{said}")
    };
    let agent = host
        .farpipe(["agent", tls])
        .args(shows("web1"))
        .start_registered(1);
    let ping = host.farpipe(["ping", "--relay", plain, "web1", "-c", "1"]);
    ping.run().exits(0);
    let ping = host.farpipe(["ping", "--relay", tls, "web1", "-c", "1"]);
    ping.args(shows("alice")).run().exits(0);
    let plain = host
        .farpipe(["relay", "--listen", "ws://127.0.0.1:0"])
        .args(shows("relay"));
    let said = plain.run().exits(2).said();
    assert!(said.contains("certificates mean nothing there"), "{said}");
    drop(agent);
}

#[test]
fn a5_nobody_registers_or_answers_under_another_name() {
    let host = certified();
    let relay = relay(&host);
    let ended = host
        .farpipe(["agent", relay.url(), "--name", "web2", "--allow", "exec"])
        .args(shows("web1"))
        .run();
    ended.exits(2).says(
        "farpipe: the certificate is that of the agent web1, not of web2
         hint: leave out --name, or issue a certificate for that name",
    );
    // A client's certificate is no agent's.
    let ended = host
        .farpipe(["agent", relay.url(), "--name", "web2", "--allow", "exec"])
        .args(shows("alice"))
        .run();
    ended.exits(125).says(
        "farpipe: wss://127.0.0.1:PORT refused: farpipe://local/client/alice is not the agent web2",
    );
}

/// Who may run anything at a host has still nothing to do with what another one has started there.
#[test]
fn a_detached_command_is_its_starters_over_whichever_relay() {
    let host = certified();
    let relays = [(); 2].map(|()| relay(&host));
    let list = format!("{},{}", relays[0].url(), relays[1].url());
    let agent = host.farpipe(["agent", &list]).args(shows("web1"));
    let _agent = agent.args(["--allow", "exec"]).start_registered(2);
    let ask = |who: &str, relay: &Listener, verb: &str, more: &[&str]| {
        let asked = host.farpipe([verb, "--relay", relay.url(), "web1"]);
        asked.args(shows(who)).args(more).run()
    };
    let script = ["-d", "--id", "job.1", "--", "sh", "-c", "echo out; read x"];
    let started = ask("alice", &relays[0], "exec", &script).exits(0);
    started.printed("job.1\n");
    ask("bob", &relays[0], "ps", &["--json"])
        .exits(0)
        .printed("");
    for (verb, more) in [
        ("attach", &["job.1"][..]),
        ("wait", &["job.1"]),
        ("kill", &["job.1"]),
        ("kill", &["job.1", "--grace", "1s"]),
    ] {
        let unknown = ask("bob", &relays[0], verb, more).exits(125).printed("");
        unknown.says(
            "farpipe: the far end refused: no detached command here has the id 'job.1'; farpipe ps lists them\n",
        );
    }
    // Not even by the words that started it.
    let taken = ask("bob", &relays[0], "exec", &script)
        .exits(125)
        .printed("");
    assert!(
        taken.stderr.contains("another command's"),
        "{}",
        taken.stderr
    );
    let other = &relays[1];
    let listed = ask("alice", other, "ps", &["--json"]).exits(0).stdout;
    let listed = String::from_utf8(listed).expect("JSON");
    assert!(listed.contains("\"state\":\"running\""), "{listed}");
    ask("alice", other, "kill", &["job.1", "--grace", "10s"]).exits(0);
    ask("alice", other, "wait", &["job.1"]).exits(143);
    let attached = ask("alice", other, "attach", &["-n", "job.1"]);
    attached.exits(143).printed("out\n");
}

/// A relay that leads to another host than was asked for: the host cannot show the name.
#[test]
fn p17_a_relay_that_leads_elsewhere_is_found_out() {
    let host = certified();
    // Two relays' worth of trust: this one lets anybody register by token, under any name.
    let issue = host.farpipe([
        "token",
        "issue",
        "farpipe://local/agent/web1",
        "--scope",
        "register",
        "--store",
        "t.yaml",
    ]);
    let ended = issue.run();
    let token = host.file("token", &ended.exits(0).stdout);
    fs::set_permissions(token, fs::Permissions::from_mode(0o600)).expect("ours");
    let relay = host
        .relay("wss")
        .args(shows("relay"))
        .args(["--tokens", "t.yaml"])
        .start_listening();
    let impostor = host
        .farpipe(["agent", relay.url(), "--name", "web1", "--allow", "exec"])
        .args(["--token-file", "token", "--ca", "farpipe-certs/ca.pem"]);
    let _impostor = impostor.start_registered(1);
    let ended = exec(&host, &relay, "alice", &["web1", "--", "echo", "in"]);
    let ended = ended.exits(125).printed("");
    assert!(
        ended.stderr.contains("has no certificate"),
        "{}",
        ended.stderr
    );
}

/// What passes between two ends with certificates is in nobody's memory on the way.
#[test]
fn p17_the_memory_of_a_relay_holds_nothing_of_what_passes() {
    let host = certified();
    let relay = relay(&host);
    let more = ["--policy", "trusting.yaml", "--allow", "exec"];
    let trusting = host.file("trusting.yaml", "trust_relay: true\n");
    fs::set_permissions(&trusting, fs::Permissions::from_mode(0o600)).expect("ours");
    let _agent = agent(&host, &relay, "web1", &more);
    // So often that a stray buffer has it.
    let pass = |marker: &[u8], more: &[&str]| {
        let input = marker.repeat(64 << 10);
        let exec = host
            .farpipe(["exec", "--relay", relay.url()])
            .args(shows("alice"));
        let exec = exec.args(more).args(["web1", "--", "cat"]);
        exec.input(input.as_slice()).run().exits(0).printed(&input);
    };
    let (sealed, bare) = (random(64, 17), random(64, 18));
    pass(&sealed, &[]);
    pass(&bare, &["--no-e2e"]);
    assert!(holds(&relay, &bare), "the search finds what is there");
    assert!(!holds(&relay, &sealed), "plaintext in the relay's memory");
}

/// Whether a process has these bytes anywhere in its memory.
fn holds(process: &Running, bytes: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{}/maps", process.id())).expect("our child");
    let mut memory = fs::File::open(format!("/proc/{}/mem", process.id())).expect("our child");
    maps.lines().any(|line| {
        let mut words = line.split_whitespace();
        let (Some(range), Some(access)) = (words.next(), words.next()) else {
            return false;
        };
        let (from, to) = range.split_once('-').expect("a range");
        let parse = |number| u64::from_str_radix(number, 16).expect("an address");
        let (from, to) = (parse(from), parse(to));
        if !access.starts_with("rw") || memory.seek(SeekFrom::Start(from)).is_err() {
            return false;
        }
        let mut content = vec![0; usize::try_from(to - from).expect("it fits")];
        let mut len = 0;
        while let Ok(read @ 1..) = memory.read(&mut content[len..]) {
            len += read;
        }
        content[..len]
            .windows(bytes.len())
            .any(|window| window == bytes)
    })
}
