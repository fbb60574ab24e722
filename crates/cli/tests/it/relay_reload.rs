//! A relay that ends in order, and one that is told anew what to do. Row A6.

use std::os::unix::net::UnixDatagram;

use rustix::process::Signal;

use crate::support::process::until;
use crate::support::relay::{Admin, agent_at, relay};
use crate::support::{DEADLINE, Host, Listener};

/// A relay with these settings, and its admin.
fn configured(host: &Host, listen: &[&str]) -> (Listener, Admin) {
    write(host, listen, "");
    let relay = host.farpipe(["--config", "relay.yaml", "relay", "-v"]);
    let relay = relay
        .args(["--admin-listen", "127.0.0.1:0"])
        .start_listening();
    let admin = Admin::of(&relay);
    (relay, admin)
}

fn write(host: &Host, listen: &[&str], more: &str) {
    let urls: String = listen.iter().map(|url| format!("    - {url}\n")).collect();
    host.file("new.yaml", format!("relay:\n  listen:\n{urls}{more}"));
    std::fs::rename(host.path("new.yaml"), host.path("relay.yaml")).expect("in our directory");
}

/// The last URL that it listens on.
fn newest(relay: &Listener, count: usize) -> String {
    let is_there =
        |text: &str| text.matches("listening on ").count() == count && text.ends_with('\n');
    let said = relay.stderr_until(is_there);
    let mut urls = said
        .lines()
        .filter_map(|line| line.strip_prefix("listening on "));
    urls.next_back().expect("waited for").to_owned()
}

#[test]
fn doors_open_and_close_as_the_changed_file_says() {
    let host = Host::new();
    let (relay, admin) = configured(&host, &["ws://127.0.0.1:0"]);
    let _agent = agent_at(&host, relay.url(), "web1", &[]);
    // The agent's link came by a door that is closed now, and stays.
    write(&host, &["fp://127.0.0.1:0"], "");
    let second = newest(&relay, 2);
    let closed = format!("closed {}", relay.url());
    relay.stderr_until(|text| text.contains(&closed));
    let exec = host
        .exec("web1")
        .args(["--relay", &second, "--", "echo", "hello"]);
    exec.run().exits(0).printed("hello\n");
    let ls = host
        .farpipe(["ls", "--relay", relay.url()])
        .run()
        .exits(125);
    assert!(ls.stderr.contains("nothing listens there"), "{}", ls.stderr);
    assert_eq!(admin.metric("farpipe_relay_doors"), 1);
    // What cannot be changed is said.
    write(&host, &["fp://127.0.0.1:0"], "  heartbeat: 5s\n");
    relay.signal(Signal::HUP);
    let told = "heartbeat: takes effect when the relay is started anew";
    relay.stderr_until(|text| text.contains(told));
    relay.signal(Signal::TERM);
    relay.end().exits(0);
}

#[test]
fn a6_a_broken_file_changes_nothing_and_is_told_with_its_place() {
    let host = Host::new();
    let (relay, admin) = configured(&host, &["ws://127.0.0.1:0"]);
    for (more, place) in [
        ("  hartbeat: 5s\n", ":4:3: unknown key 'hartbeat'"),
        ("  heartbeat: soon\n", ":4:3: 'heartbeat'"),
        ("    - nonsense\n", ":4:7: 'listen'"),
    ] {
        write(&host, &["ws://127.0.0.1:0"], more);
        let (status, body) = admin.ask("POST", "/reload");
        assert_eq!(status, 422, "{body}");
        assert!(body.contains(place), "{body}");
    }
    relay.stderr_until(|text| text.contains("the last good one stays"));
    // One good and one that cannot be opened: neither.
    let taken = relay.url().to_owned();
    write(
        &host,
        &["fp://127.0.0.1:0", &taken.replace("ws:", "fp:")],
        "",
    );
    let (status, body) = admin.ask("POST", "/reload");
    assert_eq!(status, 422, "{body}");
    assert!(body.contains("another process listens on port"), "{body}");
    assert_eq!(admin.metric("farpipe_relay_doors"), 1);
    let _agent = agent_at(&host, relay.url(), "web1", &[]);
    write(&host, &["ws://127.0.0.1:0"], "");
    assert_eq!(
        admin.json("POST", "/reload")["changes"],
        serde_json::json!([])
    );
}

#[test]
fn sigterm_sends_a_session_to_the_next_relay_with_nothing_lost() {
    let host = Host::new();
    let one = relay(&host, &["--admin-listen", "127.0.0.1:0"]);
    let two = relay(&host, &[]);
    let both = format!("{},{}", one.url(), two.url());
    let agent = agent_at(&host, &both, "web1", &[]);
    let exec = host
        .exec("web1")
        .args(["-v", "--relay", &both, "--", "cat"]);
    let mut exec = exec.open_input().start();
    exec.write("one,");
    exec.stdout_until(4);
    one.signal(Signal::TERM);
    // At the other, not when the first is back.
    two.stderr_until(|text| text.contains("joined to web1"));
    exec.write("two");
    exec.close_input();
    exec.end().exits(0).printed("one,two");
    let url = one.url().to_owned();
    let ended = one.end().exits(0);
    assert!(
        ended.stderr.contains("draining: 1 agents and 1 tunnels"),
        "{}",
        ended.stderr
    );
    // The agent dials the first one until it is back.
    let again = host.relay_at(&url).start_listening();
    let registered = format!("registered as web1 at {url}");
    agent.stderr_until(|text| text.matches(&registered).count() == 2);
    drop(again);
}

#[test]
fn a_second_signal_ends_a_draining_relay_at_once() {
    let host = Host::new();
    let relay = relay(&host, &["--admin-listen", "127.0.0.1:0"]);
    let admin = Admin::of(&relay);
    let agent = agent_at(&host, relay.url(), "web1", &[]);
    let exec = host
        .exec("web1")
        .args(["--relay", relay.url(), "--", "cat"]);
    let mut exec = exec.open_input().start();
    exec.write("x");
    exec.stdout_until(1);
    // Both are stopped, so that neither leaves.
    agent.signal(Signal::STOP);
    exec.signal(Signal::STOP);
    assert_eq!(admin.ask("POST", "/drain").0, 202);
    relay.stderr_until(|text| text.contains("draining: "));
    until("a draining relay is not ready", || {
        admin.ask("GET", "/readyz").0 == 503
    });
    assert_eq!(admin.ask("GET", "/healthz").0, 200);
    relay.signal(Signal::TERM);
    relay.signal(Signal::INT);
    relay.end();
    agent.signal(Signal::CONT);
    exec.signal(Signal::CONT);
}

#[test]
fn a_service_manager_hears_how_the_relay_is() {
    let host = Host::new();
    let path = host.path("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket in our directory");
    socket.set_read_timeout(Some(DEADLINE)).expect("a span");
    let heard = || {
        let mut words = [0; 256];
        let len = socket.recv(&mut words).expect("it is told");
        String::from_utf8_lossy(&words[..len]).into_owned()
    };
    let relay = host.farpipe(["relay", "--listen", "ws://127.0.0.1:0"]);
    let relay = relay.env("NOTIFY_SOCKET", &path).start_listening();
    assert_eq!(heard(), "READY=1");
    relay.signal(Signal::HUP);
    assert!(heard().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(heard(), "READY=1");
    relay.signal(Signal::TERM);
    assert_eq!(heard(), "STOPPING=1");
    relay.end().exits(0);
}

#[test]
fn the_examples_of_deploy_can_be_used() {
    use std::os::unix::fs::PermissionsExt as _;

    let host = Host::new();
    let manifests = include_str!("../../../../deploy/kubernetes/relay.yaml");
    let (_, map) = manifests.split_once("  relay.yaml: |\n").expect("a map");
    let (map, _) = map.split_once("---\n").expect("more than the map");
    let in_kubernetes = map.replace("\n    ", "\n").trim_start().to_owned();
    for (name, key, text) in [
        (
            "relay.yaml",
            "relay-key.pem",
            include_str!("../../../../deploy/relay.yaml"),
        ),
        (
            "agent.yaml",
            "agent-key.pem",
            include_str!("../../../../deploy/agent.yaml"),
        ),
        ("relay-map.yaml", "relay-key.pem", &in_kubernetes),
    ] {
        let key = host.file(key, "");
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(key, private).expect("our own file");
        let here = format!("{}/", host.dir().display());
        let text = text.replace("/etc/farpipe/", &here);
        host.file(name, text.replace("/secrets/", &here));
        host.farpipe(["config", "check", name]).run().exits(0);
    }
}
