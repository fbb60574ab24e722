//! The relay's admin: how it is, and the orders it takes.

use rustix::process::Signal;

use crate::support::process::until;
use crate::support::relay::{Admin, agent_at, relay};
use crate::support::{Host, Listener};

fn with_admin(host: &Host) -> (Listener, Admin) {
    let relay = relay(host, &["--admin-listen", "127.0.0.1:0"]);
    let admin = Admin::of(&relay);
    (relay, admin)
}

#[test]
fn the_admin_tells_who_is_there_and_what_passes() {
    let host = Host::new();
    let (relay, admin) = with_admin(&host);
    assert_eq!(admin.ask("GET", "/healthz").0, 200);
    assert_eq!(admin.ask("GET", "/readyz").0, 200);
    let _agent = agent_at(&host, relay.url(), "web1", &["--tag", "zone=a"]);
    let agents = admin.json("GET", "/agents");
    let agent = &agents["agents"][0];
    assert_eq!(agent["name"], "web1");
    assert_eq!(agent["tags"][0], "zone=a");
    assert_eq!(
        agent["instance"].as_str().map(str::len),
        Some(8),
        "{agents}"
    );
    assert!(
        agent["address"]
            .as_str()
            .is_some_and(|a| a.starts_with("127.0.0.1:"))
    );
    let exec = host
        .exec("web1")
        .args(["--relay", relay.url(), "--", "cat"]);
    let mut exec = exec.open_input().start();
    exec.write("12345678");
    exec.stdout_until(8);
    let tunnels = admin.json("GET", "/tunnels");
    let tunnel = &tunnels["tunnels"][0];
    assert_eq!(tunnel["agent"], "web1");
    assert!(tunnel["bytes_to_client"].as_u64() >= Some(8), "{tunnels}");
    assert_eq!(admin.json("GET", "/agents")["agents"][0]["sessions"], 1);
    for (name, value) in [
        ("farpipe_relay_agents", 1),
        ("farpipe_relay_tunnels", 1),
        ("farpipe_relay_doors", 1),
        ("farpipe_relay_draining", 0),
        ("farpipe_relay_sessions_joined_total", 1),
        (
            "farpipe_relay_registrations_total{outcome=\"registered\"}",
            1,
        ),
    ] {
        assert_eq!(admin.metric(name), value, "{name}");
    }
    assert!(admin.metric("farpipe_relay_passed_to_agents_bytes_total") >= 8);
    assert!(admin.metric("farpipe_relay_windows_bytes") >= 256 << 10);
    exec.close_input();
    exec.end().exits(0).printed("12345678");
    until("the tunnel is counted though it is over", || {
        admin.metric("farpipe_relay_tunnels") == 0
    });
    let parted = "farpipe_relay_sessions_parted_total{reason=\"by_client\"}";
    assert_eq!(admin.metric(parted), 1);
    host.exec("nobody")
        .args(["--relay", relay.url(), "--", "true"])
        .run()
        .exits(125);
    let refused = "farpipe_relay_sessions_refused_total{reason=\"no_route\"}";
    assert_eq!(admin.metric(refused), 1);
}

#[test]
fn metrics_are_text_that_prometheus_reads() {
    let host = Host::new();
    let (_relay, admin) = with_admin(&host);
    let (_, text) = admin.ask("GET", "/metrics");
    assert!(
        text.contains("# TYPE farpipe_relay_agents gauge\n"),
        "{text}"
    );
    let version = env!("CARGO_PKG_VERSION");
    let build = format!("farpipe_build_info{{version=\"{version}\"}} 1\n");
    assert!(text.contains(&build), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    // What is counted is in the documentation, and nothing else is there.
    let docs = include_str!("../../../../docs/relay.md");
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).expect("a name");
        let bare = name.trim_start_matches("farpipe_relay_");
        let known = [
            format!("`{bare}`"),
            format!("`{bare}_total`"),
            format!("`{bare}_info{{"),
        ];
        assert!(known.iter().any(|known| docs.contains(known)), "{name}");
    }
}

#[test]
fn a_disconnected_agent_comes_back_and_its_session_goes_on() {
    let host = Host::new();
    let (relay, admin) = with_admin(&host);
    let _agent = agent_at(&host, relay.url(), "web1", &[]);
    let exec = host
        .exec("web1")
        .args(["--relay", relay.url(), "--", "cat"]);
    let mut exec = exec.open_input().start();
    exec.write("before,");
    exec.stdout_until(7);
    assert_eq!(
        admin.json("POST", "/agents/web1/disconnect")["disconnected"],
        "web1"
    );
    exec.write("after");
    exec.close_input();
    exec.end().exits(0).printed("before,after");
    let gone = "farpipe_relay_agents_gone_total{reason=\"disconnected\"}";
    assert_eq!(admin.metric(gone), 1);
    assert_eq!(admin.metric("farpipe_relay_agents"), 1);
    assert_eq!(admin.ask("POST", "/agents/nobody/disconnect").0, 404);
}

#[test]
fn a_silent_agent_times_out_is_cleaned_up_and_counted() {
    let host = Host::new();
    let relay = relay(
        &host,
        &["--admin-listen", "127.0.0.1:0", "--heartbeat", "200ms"],
    );
    let admin = Admin::of(&relay);
    let agent = agent_at(&host, relay.url(), "web1", &[]);
    relay.stderr_until(|text| text.contains("agent web1: first heartbeat"));
    agent.signal(Signal::STOP);
    let said = relay.stderr_until(|text| text.contains("agent web1: cleaned up"));
    agent.signal(Signal::CONT);
    let line = |what: &str| {
        let found = said.lines().find(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("{what}:\n{said}"))
    };
    for what in [
        "agent web1: registered: ",
        "agent web1: timed out: ",
        "agent web1: cleaned up",
    ] {
        assert!(line(what).contains("this user, instance "), "{said}");
    }
    line(": let in as this user");
    assert_eq!(
        admin.metric("farpipe_relay_heartbeat_losses_total{neighbour=\"agent\"}"),
        1
    );
    assert_eq!(
        admin.metric("farpipe_relay_agents_gone_total{reason=\"timed_out\"}"),
        1
    );
}

#[test]
fn whoever_is_not_of_this_host_is_turned_away() {
    let host = Host::new();
    let (_relay, admin) = with_admin(&host);
    for headers in [
        "Host: 127.0.0.1\r\nOrigin: http://evil.example\r\n",
        "Host: evil.example\r\n",
    ] {
        assert_eq!(
            admin.ask_with("POST", "/drain", headers).0,
            403,
            "{headers}"
        );
    }
    assert_eq!(admin.ask("GET", "/drain").0, 405);
    assert_eq!(admin.ask("POST", "/metrics").0, 405);
    assert_eq!(admin.ask("GET", "/").0, 404);
    assert_eq!(admin.ask("GET", "/readyz").0, 200);
    let beyond = host.farpipe(["relay", "--listen", "ws://127.0.0.1:0"]);
    let beyond = beyond
        .args(["--admin-listen", "0.0.0.0:0"])
        .run()
        .exits(125);
    let said = beyond.stderr;
    assert!(
        said.contains("would take orders from the network"),
        "{said}"
    );
    assert!(
        said.contains("hint: give an address of this host"),
        "{said}"
    );
}

#[test]
fn a_failed_handshake_is_counted_by_its_step() {
    let host = Host::new();
    let (relay, admin) = with_admin(&host);
    // The relay itself: a proxy would be the one who does not understand.
    let url = format!("fp://{}", relay.own_addr());
    host.connect(&url).run().exits(125);
    let failed = "farpipe_relay_handshakes_failed_total{step=\"upgrade\"}";
    until("the failed handshake is not counted", || {
        admin.metric(failed) == 1
    });
}

#[test]
fn a_probe_from_elsewhere_sees_how_a_relay_is_and_gives_no_orders() {
    let host = Host::new();
    let listens = [
        "--probe-listen",
        "0.0.0.0:0",
        "--admin-listen",
        "127.0.0.1:0",
    ];
    let relay = relay(&host, &listens);
    let (admin, probes) = (Admin::of(&relay), Admin::probes_of(&relay));
    let by_name = "Host: relay-0.relay.default.svc:9091\r\n";
    for path in ["/healthz", "/readyz"] {
        assert_eq!(probes.ask_with("GET", path, by_name).0, 200, "{path}");
    }
    let (status, metrics) = probes.ask_with("GET", "/metrics", by_name);
    assert!(
        status == 200 && metrics.contains("farpipe_relay_doors 1"),
        "{metrics}"
    );
    for (method, path) in [
        ("GET", "/agents"),
        ("GET", "/tunnels"),
        ("GET", "/audit-head"),
        ("POST", "/drain"),
        ("POST", "/reload"),
        ("POST", "/agents/web1/disconnect"),
    ] {
        let (status, why) = probes.ask_with(method, path, by_name);
        assert!(
            status == 404 && why.contains("--admin-listen"),
            "{path} {why}"
        );
    }
    assert_eq!(probes.ask_with("POST", "/healthz", by_name).0, 405);
    assert_eq!(admin.metric("farpipe_relay_draining"), 0);
}

#[test]
fn orders_are_not_taken_from_the_network() {
    let host = Host::new();
    let relay = host.relay("ws").args(["--admin-listen", "0.0.0.0:0"]);
    let refused = relay.run().exits(125);
    assert!(
        refused.said().contains("--probe-listen"),
        "{}",
        refused.said()
    );
}
