//! Relays behind real proxies, Envoy and nginx, with the configurations of deploy/.
//!
//! Every test of relays also runs behind them, with `FARPIPE_WAY` (`support/front.rs`); here is what
//! is only there with a proxy.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustix::net;

use crate::relay_faults::survives;
use crate::support::certs::{certified, shows};
use crate::support::front::{Door, Front, PROXIES, Way, certificates};
use crate::support::relay::Admin;
use crate::support::{Host, Invocation, Listener, at_once};

/// Where a client of the tests is, so that it is told from a proxy.
const CLIENT: [u8; 4] = [127, 0, 0, 5];

/// A relay that lets in by token, behind a proxy that ends TLS.
struct Ended {
    front: Front,
    relay: Listener,
    host: Host,
}

impl Ended {
    fn new(way: Way) -> Self {
        let host = certified();
        for (name, scopes) in [
            ("web1", &["--scope", "register"][..]),
            ("alice", &["--scope", "attach"]),
        ] {
            let kind = if name == "web1" { "agent" } else { "client" };
            let issue = ["token", "issue", &format!("farpipe://local/{kind}/{name}")];
            let issue = host.farpipe(issue).args(scopes).args(["--store", "t.yaml"]);
            let token = issue.run().exits(0).stdout;
            let file = host.file(name, token);
            fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("ours");
        }
        // Whoever dials believes the proxy by its authority, and the far end by ours.
        let authorities = [
            host.content("farpipe-certs/ca.pem"),
            fs::read(certificates().path().join("ca.pem")).expect("made"),
        ];
        host.file("both.pem", authorities.concat());
        let relay = host.farpipe(["relay", "--listen", "ws://127.0.0.1:0", "-v"]);
        let relay = relay
            .args(["--behind-proxy", "http", "--tokens", "t.yaml"])
            .args(["--admin-listen", "127.0.0.1:0"])
            .start_listening();
        let front = Front::start(way, Door::Https, relay.addr().port(), None);
        Self { front, relay, host }
    }

    fn url(&self) -> String {
        format!("wss://127.0.0.1:{}", self.front.port())
    }

    /// With the token and the certificate of `name`.
    fn farpipe(&self, args: &[&str], name: &str) -> Invocation {
        let [cert, cert_file, key, key_file, ..] = shows(name);
        let known = [cert, cert_file, key, key_file];
        let farpipe = self.host.farpipe(args).args(known);
        farpipe.args(["--ca", "both.pem", "--token-file", name])
    }

    fn curl(&self, path: &str, more: &[&str]) -> Invocation {
        let url = format!("https://127.0.0.1:{}{path}", self.front.port());
        let curl = self
            .host
            .curl(["--cacert", "both.pem", "-w", " %{http_code}"]);
        curl.args(more).arg(url)
    }
}

#[test]
fn behind_a_proxy_that_ends_tls_a_token_lets_in_and_nothing_else() {
    for way in PROXIES {
        let ended = Ended::new(way);
        let url = ended.url();
        let agent = ended.farpipe(&["agent", &url, "--allow", "exec"], "web1");
        let _agent = agent.start_registered(1);
        let exec = ["exec", "--relay", &url];
        let hello = ["web1", "--", "echo", "hello"];
        let told = ended.farpipe(&exec, "alice").args(hello).run();
        // Allowed, because the agent has seen her certificate through all that.
        told.exits(0).printed("hello\n");
        let bare = ended.host.farpipe(exec).args(["--ca", "both.pem"]);
        let refused = bare.args(hello).run().exits(125);
        assert!(
            refused.stderr.contains("asks for a secret"),
            "{}",
            refused.stderr
        );
        // Of this user, and on this host: the door is no different for that.
        let near = ended.host.exec_at(ended.relay.url(), "web1");
        near.args(["--", "echo", "hello"])
            .run()
            .exits(125)
            .printed("");
        // Whoever is not farpipe.
        let told = ended.curl("/p/logs", &[]).run();
        assert!(
            told.stdout.ends_with(b" 401"),
            "{}",
            told.stdout.escape_ascii()
        );
        let agents = Admin::of(&ended.relay).json("GET", "/agents");
        let address = agents["agents"][0]["address"].as_str().expect("an address");
        assert!(address.contains(" via 127.0.0.1:"), "{address}");
    }
}

#[test]
fn behind_a_proxy_pipes_are_reached_by_http_and_addresses_are_not_made_up() {
    for way in PROXIES {
        let ended = Ended::new(way);
        let token = String::from_utf8(ended.host.content("alice")).expect("text");
        let bearer = ended
            .host
            .file("bearer", format!("Authorization: Bearer {token}"));
        let bearer = format!("@{}", bearer.display());
        let reading = ended.farpipe(
            &["recv", "--relay", &ended.url(), "--no-e2e", "logs"],
            "alice",
        );
        let reading = reading.start();
        let input = ended.host.file("input", "by hand\n");
        let input = input.to_str().expect("UTF-8");
        let sent = ended.curl("/p/logs", &["-H", &bearer, "-T", input]).run();
        let sent = String::from_utf8(sent.exits(0).stdout).expect("text");
        assert!(sent.contains("8 bytes handed over"), "{sent}");
        reading.end().exits(0).printed("by hand\n");
        // What a client says of itself is not believed.
        let forged = [
            "--interface",
            "127.0.0.5",
            "-H",
            "X-Forwarded-For: 203.0.113.9",
        ];
        ended.curl("/p/logs", &forged).run();
        let refused = ended.relay.stderr_until(|log| log.contains("answered 401"));
        assert!(refused.contains("127.0.0.5 via 127.0.0.1:"), "{refused}");
        assert!(!refused.contains("203.0.113.9"), "{refused}");
    }
}

#[test]
fn a_proxy_that_passes_tls_on_tells_whose_connection_it_is() {
    for way in PROXIES {
        let host = certified();
        let relay = host.farpipe(["relay", "-v", "--listen", "wss://127.0.0.1:0"]);
        let relay = relay.args(shows("relay")).args(["--behind-proxy", "tcp"]);
        let relay = relay.start_listening();
        let front = Front::start(way, Door::TcpTold, relay.addr().port(), None);
        let url = format!("wss://127.0.0.1:{}", front.port());
        let agent = host
            .farpipe(["agent", &url, "--allow", "exec"])
            .args(shows("web1"));
        let _agent = agent.start_registered(1);
        let exec = host.farpipe(["exec", "--relay", &url]).args(shows("alice"));
        let exec = exec.args(["web1", "--", "echo", "hello"]);
        exec.run().exits(0).printed("hello\n");
        let mut stranger = from(CLIENT, front.port());
        stranger
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .expect("it reads");
        relay.stderr_until(|log| {
            let mut refused = log.lines().filter(|line| line.contains(": tls: "));
            refused.any(|line| line.contains("127.0.0.5:") && line.contains(" via 127.0.0.1:"))
        });
        // Past the proxy nobody gets in.
        let mut past = from(CLIENT, relay.addr().port());
        past.write_all(&[0x16; 32]).expect("it reads");
        relay.stderr_until(|log| log.contains("no PROXY protocol header came"));
    }
}

/// Without being told of the proxy, a relay takes its requests for this host's own.
#[test]
fn a_relay_that_was_not_told_of_its_proxy_says_so() {
    let host = Host::new();
    let relay = host
        .farpipe(["relay", "--listen", "ws://127.0.0.1:0"])
        .start_listening();
    for way in PROXIES {
        let front = Front::start(way, Door::Http, relay.addr().port(), None);
        let url = format!("http://localhost:{}/p/logs", front.port());
        let refused = host.curl(["-w", " %{http_code}", &url]).run();
        let said = String::from_utf8(refused.stdout).expect("text");
        assert!(said.contains("--behind-proxy http"), "{said}");
        assert!(said.ends_with(" 403"), "{said}");
    }
    let bare = host
        .farpipe(["relay", "--behind-proxy", "http"])
        .run()
        .exits(2);
    bare.says(
        "farpipe: ws:// behind a proxy needs tokens to know who may come in
         hint: give --tokens FILE; `farpipe token issue NAME --store FILE` writes it",
    );
    let tls = host.farpipe([
        "relay",
        "--behind-proxy",
        "http",
        "--listen",
        "wss://127.0.0.1:0",
    ]);
    assert!(
        tls.args(shows("relay"))
            .run()
            .exits(2)
            .stderr
            .contains("a door without TLS")
    );
}

/// Row N13, with what is in the middle.
#[test]
fn a_proxy_that_is_killed_and_started_again_loses_nothing() {
    for way in PROXIES {
        let mut ended = Ended::new(way);
        let url = ended.url();
        let agent = ended.farpipe(&["agent", &url, "--allow", "exec"], "web1");
        let agent = agent.start_registered(1);
        let exec = ended.farpipe(&["exec", "--relay", &url, "web1"], "alice");
        let Ended { front, host, .. } = &mut ended;
        survives(host, exec, 2, |number| {
            front.restart();
            agent.await_registered(1 + number);
        });
    }
}

#[test]
fn a_reload_of_nginx_loses_nothing() {
    let host = Host::new();
    let relay = host
        .farpipe(["relay", "--listen", "ws://127.0.0.1:0"])
        .start_listening();
    let front = Front::start(Way::Nginx, Door::Http, relay.addr().port(), None);
    let url = format!("ws://127.0.0.1:{}", front.port());
    let agent = host.agent_at(&url, "web1").start_registered(1);
    survives(&host, host.exec_at(&url, "web1"), 2, |number| {
        front.reload();
        agent.await_registered(1 + number);
    });
}

/// Row N8: what is silent for longer than the proxy allows is cut, and goes on.
#[test]
fn a_proxy_that_cuts_who_is_silent_ends_nothing() {
    let all = PROXIES.map(|way| [(way, Door::Http, "ws"), (way, Door::Tcp, "fp")]);
    at_once(all.concat(), |(way, door, scheme)| {
        let host = Host::new();
        let relay = host.farpipe(["relay", "--listen", &format!("{scheme}://127.0.0.1:0")]);
        let relay = relay.start_listening();
        let idle = Some(Duration::from_secs(2));
        let front = Front::start(way, door, relay.addr().port(), idle);
        let url = format!("{scheme}://127.0.0.1:{}", front.port());
        let _agent = host.agent_at(&url, "web1").start_registered(1);
        let exec = host.exec_at(&url, "web1").args(["-v", "--", "cat"]);
        let mut exec = exec.open_input().start();
        exec.write("before,");
        exec.stdout_until(7);
        // By the limit of the proxy: the first sign of life is due after 10 s.
        exec.stderr_until(|log| log.contains(": resumed "));
        exec.write("after");
        exec.close_input();
        exec.end().exits(0).printed("before,after");
    });
}

/// A connection from an address of this host.
fn from(address: [u8; 4], port: u16) -> TcpStream {
    let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None);
    let socket = socket.expect("a socket");
    net::bind(&socket, &std::net::SocketAddr::from((address, 0))).expect("of this host");
    let to = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    net::connect(&socket, &to).expect("it listens");
    socket.into()
}
