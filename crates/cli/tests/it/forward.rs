//! `farpipe forward`: connections that are taken at one host and made at another, by a relay.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use farpipe_faultproxy::{Cut, Plan, When};
use rustix::process::Signal;

use crate::support::programs::{ask_tcp, ask_unix, echo, echo_at, server};
use crate::support::{DEADLINE, Faults, Host, Invocation, Listener, Running, assert_same, random};

/// One relay, and one host behind it that allows this.
struct Net {
    host: Host,
    relay: Listener,
    agent: Running,
}

impl Net {
    fn new(allowed: &[&str]) -> Self {
        Self::of(Host::new(), allowed)
    }

    fn of(host: Host, allowed: &[&str]) -> Self {
        let relay = host.relay("ws").start_listening();
        let mut agent = host.agent_at(relay.url(), "web1").arg("-v");
        for allow in allowed {
            agent = agent.args(["--allow", allow]);
        }
        let agent = agent.start_registered(1);
        Self { host, relay, agent }
    }

    fn forward(&self) -> Invocation {
        self.forward_by(self.relay.url())
    }

    fn forward_by(&self, url: &str) -> Invocation {
        self.host.farpipe(["forward", "--relay", url, "web1"])
    }
}

/// Where the forwards listen, in the order in which they are told.
fn addresses(forward: &Running, count: usize) -> Vec<String> {
    let said = forward
        .stderr_until(|text| text.ends_with('\n') && text.matches("forwarding ").count() == count);
    let told = said
        .lines()
        .filter_map(|line| line.strip_prefix("forwarding "));
    let address = |line: &str| line.split(' ').nth(1).map(str::to_owned);
    told.filter_map(address).collect()
}

fn dial(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

fn stop(forward: Running) -> String {
    forward.signal(Signal::TERM);
    forward.end().exits(143).stderr
}

#[test]
fn a_port_here_is_one_there_and_half_close_is_kept() {
    let target = server(echo);
    let net = Net::new(&[&format!("connect:{target}")]);
    let forward = net.forward().args(["-L", &format!("0:{target}")]).start();
    let address = addresses(&forward, 1).remove(0);
    thread::scope(|scope| {
        for number in 0..20 {
            let stream = dial(&address);
            scope.spawn(move || {
                let data = random(300_000 + 1000 * number as usize, number);
                assert_same(&ask_tcp(stream, &data), &data);
            });
        }
    });
    let said = stop(forward);
    assert!(!said.contains("farpipe:"), "{said}");
}

/// As ssh does it: a name that leads to `::1` first is not refused.
#[test]
fn every_address_is_both_of_ipv4_and_of_ipv6() {
    let target = server(echo);
    let net = Net::new(&[&format!("connect:{target}")]);
    let to = format!("*:0:{target}");
    let forward = net.forward().args(["-L", &to, "-L", &to[1..]]).start();
    let has_v6 = TcpListener::bind("[::1]:0").is_ok();
    for address in addresses(&forward, 2) {
        let port = address.rsplit(':').next().expect("a port");
        for host in ["127.0.0.1", "[::1]"] {
            if has_v6 || host != "[::1]" {
                let stream = dial(&format!("{host}:{port}"));
                assert_same(&ask_tcp(stream, b"hello"), b"hello");
            }
        }
    }
    stop(forward);
}

/// As for `exec`, and before a port is announced; also by a local agent, to which the session is at once.
#[test]
fn a_host_that_nobody_knows_is_an_error_at_once() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let local = host.farpipe(["agent", "--client-only", "-v"]).start();
    local.stderr_until(|text| text.contains("taking this user's commands at"));
    for no_reuse in ["1", "0"] {
        for what in [
            ["-L", "0:localhost:1"],
            ["-D", "0"],
            ["-R", "0:localhost:1"],
        ] {
            let forward = host.farpipe(["forward", "--relay", relay.url(), "nohost"]);
            let forward = forward.args(what).env("FARPIPE_NO_REUSE", no_reuse);
            let said = forward.run().exits(125).said();
            let expected = "refused: no agent nohost is registered here";
            assert!(said.contains(expected), "{what:?}: {said}");
            assert!(!said.contains("forwarding"), "{what:?}: {said}");
        }
    }
    local.stderr_until(|text| text.matches(": opened").count() >= 3);
}

/// It was there: what it goes away for need not be wrong.
#[test]
fn a_host_that_goes_away_later_is_waited_for() {
    let target = server(echo);
    let net = Net::new(&[&format!("connect:{target}")]);
    let mut faults = Faults::between(&net.relay, Plan::default());
    let forward = net.forward_by(&faults.url());
    let forward = forward.args(["-L", &format!("0:{target}")]).start();
    let address = addresses(&forward, 1).remove(0);
    faults.refuse(true);
    faults.cut_all(Cut::Reset);
    forward.stderr_until(|said| said.contains("no connection"));
    let stream = dial(&address);
    faults.refuse(false);
    assert_same(&ask_tcp(stream, b"hello"), b"hello");
    stop(forward);
}

/// Whether it was killed or told to end: what listens here stays, what listened there does so again, and what
/// connects meanwhile waits.
#[test]
fn an_agent_that_is_started_anew_is_found_again() {
    for (how, is_direct) in [
        (Signal::KILL, true),
        (Signal::TERM, true),
        (Signal::TERM, false),
    ] {
        let target = server(echo);
        let host = Host::new();
        let relay = host.relay("ws").start_listening();
        let agent = |url: &str| {
            let agent = match is_direct {
                true => host.farpipe(["agent", "--listen", url, "--no-reuse"]),
                false => host.agent_at(url, "web1"),
            };
            agent.args(["--allow", "all"])
        };
        let (first, url) = match is_direct {
            true => {
                let first = agent("ws://127.0.0.1:0").start_listening();
                let url = first.url().to_owned();
                (first.into_running(), url)
            }
            false => {
                let url = relay.url().to_owned();
                (agent(&url).start_registered(1), url)
            }
        };
        let forward = match is_direct {
            true => host.farpipe(["forward", &url]),
            false => host.farpipe(["forward", "--relay", &url, "web1"]),
        };
        let to = format!("0:{target}");
        let forward = forward.args(["-L", &to, "-R", &to]).start();
        let told = addresses(&forward, 2);
        assert_same(&ask_tcp(dial(&told[1]), b"before"), b"before");
        first.signal(how);
        first.end();
        forward.stderr_until(|said| {
            said.contains("is asked anew in") || is_direct && said.contains("no connection")
        });
        let waiting = dial(&told[0]);
        let second = agent(&url);
        let second = match is_direct {
            true => second.start_listening().into_running(),
            false => second.start_registered(1),
        };
        let again = addresses(&forward, 4);
        assert_eq!(again[2], told[0], "{how:?}");
        if how == Signal::TERM {
            assert_same(&ask_tcp(waiting, b"waited"), b"waited");
        }
        for address in &again[2..] {
            assert_same(&ask_tcp(dial(address), b"after"), b"after");
        }
        stop(forward);
        drop(second);
    }
}

/// It had a session through it; the next one is its own.
#[test]
fn a_local_agent_that_is_killed_ends_no_forward() {
    let target = server(echo);
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let agent = host.agent_at(relay.url(), "web1").arg("--no-reuse");
    let agent = agent.args(["--allow", "all"]).start_registered(1);
    let local = host.farpipe(["agent", "--client-only", "-v"]).start();
    local.stderr_until(|text| text.contains("taking this user's commands at"));
    let forward = host.farpipe(["forward", "--relay", relay.url(), "web1"]);
    let forward = forward.env("FARPIPE_NO_REUSE", "0");
    let forward = forward.args(["-L", &format!("0:{target}")]).start();
    let address = addresses(&forward, 1).remove(0);
    local.stderr_until(|text| text.contains(": opened"));
    local.kill();
    local.end();
    assert_eq!(addresses(&forward, 2)[1], address);
    assert_same(&ask_tcp(dial(&address), b"after"), b"after");
    stop(forward);
    drop(agent);
}

#[test]
fn an_answer_that_ends_first_leaves_the_request_open() {
    let (told, hears) = std::sync::mpsc::channel();
    let target = server(move |mut stream| {
        stream.write_all(b"greeting").expect("it is read");
        stream.shutdown(Shutdown::Write).expect("a half-close");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the end");
        told.send(rest).expect("somebody hears");
    });
    let net = Net::new(&[&format!("connect:{target}")]);
    let forward = net.forward().args(["-L", &format!("0:{target}")]).start();
    let mut stream = dial(&addresses(&forward, 1)[0]);
    let mut greeting = Vec::new();
    stream.read_to_end(&mut greeting).expect("its end");
    assert_eq!(greeting, b"greeting");
    stream.write_all(b"thanks").expect("it is open");
    drop(stream);
    let rest = hears.recv_timeout(DEADLINE).expect("an end");
    assert_eq!(rest, b"thanks");
    stop(forward);
}

#[test]
fn unix_sockets_stand_at_either_end() {
    let host = Host::new();
    echo_at(&host.path("far"));
    let target = server(echo);
    let (far, near) = (host.path("far"), host.path("near"));
    let (far, near) = (far.display(), near.display());
    let allowed = [format!("connect:unix:{far}"), format!("connect:{target}")];
    let net = Net::of(host, &[&allowed[0], &allowed[1]]);
    let data = random(300_000, 3);
    let forward = net.forward();
    let forward = forward
        .args(["-L", &format!("0:{far}")])
        .args(["-L", &format!("{near}:{target}")])
        .start();
    let tcp = addresses(&forward, 2).remove(0);
    assert_same(&ask_tcp(dial(&tcp), &data), &data);
    let unix = UnixStream::connect(net.host.path("near")).expect("it listens");
    assert_same(&ask_unix(unix, &data), &data);
    stop(forward);
    assert!(!net.host.path("near").exists(), "the socket's file is left");
}

#[test]
fn what_listens_there_reaches_a_program_here() {
    let host = Host::new();
    let socket = host.path("there").display().to_string();
    let allowed = format!("listen:unix:{socket}");
    let net = Net::of(host, &["listen:0-65535", &allowed]);
    let target = server(echo);
    let forward = net
        .forward()
        .args([
            "-R",
            &format!("0:{target}"),
            "-R",
            &format!("{socket}:{target}"),
        ])
        .start();
    let data = random(300_000, 5);
    let addresses = addresses(&forward, 2);
    let tcp = addresses.iter().find(|address| !address.starts_with('/'));
    assert_same(&ask_tcp(dial(tcp.expect("a port")), &data), &data);
    let unix = UnixStream::connect(&socket).expect("it listens");
    assert_same(&ask_unix(unix, &data), &data);
    stop(forward);
    // Nobody listens there any more, and nothing is left of it.
    net.agent
        .stderr_until(|text| text.matches("no longer listening on").count() == 2);
    assert!(TcpStream::connect(tcp.expect("a port")).is_err());
    assert!(!std::path::Path::new(&socket).exists());
}

#[test]
fn what_an_agent_may_not_listen_on_ends_the_command() {
    let net = Net::new(&["listen:1"]);
    let forward = net.forward().args(["-R", "0:localhost:1"]).run();
    let said = forward.exits(125).stderr;
    assert!(
        said.contains("the policy of that host does not allow it"),
        "{said}"
    );
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let net = Net::new(&["listen:0-65535"]);
    let forward = net
        .forward()
        .args(["-R", &format!("{port}:localhost:1")])
        .run();
    let said = forward.exits(125).stderr;
    assert!(
        said.contains("address already in use") || said.contains("in use"),
        "{said}"
    );
}

#[test]
fn a_port_in_use_here_is_told_before_anything_is_dialled() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let host = Host::new();
    // There is no relay: nobody asks.
    let forward = host.farpipe(["forward", "--relay", "ws://127.0.0.1:1", "web1"]);
    let ended = forward
        .args(["-L", &format!("{port}:localhost:1")])
        .run()
        .exits(125);
    let said = ended.stderr;
    assert!(said.contains(&format!("127.0.0.1:{port}")), "{said}");
    assert!(said.contains("hint: choose another port"), "{said}");
}

#[test]
fn a_connection_that_cannot_be_made_ends_alone() {
    let target = server(echo);
    // Nobody listens where somebody did.
    let gone = TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound");
    let net = Net::new(&[&format!("connect:{target}"), &format!("connect:{gone}")]);
    let forward = net.forward();
    let forward = forward
        .args(["-L", &format!("0:{target}"), "-L", &format!("0:{gone}")])
        .args(["-L", "0:127.0.0.1:1"])
        .start();
    let addresses = addresses(&forward, 3);
    let mut living = dial(&addresses[0]);
    living.write_all(b"one").expect("it is open");
    for address in &addresses[1..] {
        let mut stream = dial(address);
        let mut nothing = [0; 1];
        let read = stream.read(&mut nothing);
        assert!(!matches!(read, Ok(1)), "{read:?}");
    }
    forward.stderr_until(|text| {
        text.contains("onnection refused") && text.contains("the policy of that host")
    });
    assert_same(&ask_tcp(living, b" two"), b"one two");
    stop(forward);
}

#[test]
fn n1_connections_survive_resets_of_the_one_that_carries_them() {
    let target = server(echo);
    let net = Net::new(&[&format!("connect:{target}")]);
    let lifetime = Duration::from_millis(6)..=Duration::from_millis(30);
    let faults = Faults::between(&net.relay, Plan::of(When::Lifetime(lifetime), Cut::Reset));
    let forward = net.forward_by(&faults.url());
    let forward = forward.args(["-L", &format!("0:{target}")]).start();
    let address = addresses(&forward, 1).remove(0);
    thread::scope(|scope| {
        for number in 0..10 {
            let stream = dial(&address);
            scope.spawn(move || {
                let data = random(200_000, number);
                assert_same(&ask_tcp(stream, &data), &data);
            });
        }
    });
    forward.signal(Signal::TERM);
    forward.end();
    let stats = faults.stop();
    assert!(stats.cuts_reset > 0, "nothing was cut: {}", stats.to_json());
}

#[test]
fn n7_connections_outlive_a_relay_that_is_killed_with_bytes_under_way() {
    let target = server(echo);
    let Net { host, relay, agent } = Net::new(&[&format!("connect:{target}")]);
    let url = relay.url().to_owned();
    let forward = host.farpipe(["forward", "--relay", &url, "web1"]);
    let forward = forward.args(["-L", &format!("0:{target}")]).start();
    let mut stream = dial(&addresses(&forward, 1)[0]);
    let data = random(30 << 20, 11);
    let (mut writes, bytes) = (stream.try_clone().expect("a socket"), data.clone());
    let writing = thread::spawn(move || {
        writes.write_all(&bytes).expect("it is open");
        writes.shutdown(Shutdown::Write).expect("a half-close");
    });
    let mut got = vec![0; 1 << 20];
    stream.read_exact(&mut got).expect("an echo");
    // Dropped is killed, and waited for: its port is free again.
    drop(relay);
    let _relay = host.relay_at(&url).start();
    agent.await_registered(2);
    stream.read_to_end(&mut got).expect("its end");
    assert_same(&got, &data);
    writing.join().expect("a thread of ours");
    stop(forward);
}

/// Asks for a connection by SOCKS5; what the reply says.
fn socks(stream: &mut TcpStream, to: SocketAddr) -> u8 {
    let SocketAddr::V4(to) = to else {
        panic!("IPv4 only")
    };
    stream.write_all(&[5, 1, 0]).expect("it reads");
    let mut method = [0; 2];
    stream.read_exact(&mut method).expect("a method");
    assert_eq!(method, [5, 0]);
    let mut request = vec![5, 1, 0, 1];
    request.extend(to.ip().octets());
    request.extend(to.port().to_be_bytes());
    stream.write_all(&request).expect("it reads");
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).expect("a reply");
    assert_eq!([reply[0], reply[2]], [5, 0]);
    reply[1]
}

#[test]
fn socks_reaches_what_the_policy_allows_and_tells_why_not() {
    let target: SocketAddr = server(echo).parse().expect("an address");
    let gone = TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound");
    let net = Net::new(&[&format!("connect:{target}"), &format!("connect:{gone}")]);
    let forward = net.forward().args(["-D", "0"]).start();
    let address = addresses(&forward, 1).remove(0);
    let mut stream = dial(&address);
    assert_eq!(socks(&mut stream, target), 0);
    let data = random(300_000, 7);
    assert_same(&ask_tcp(stream, &data), &data);
    let denied: SocketAddr = "127.0.0.1:1".parse().expect("an address");
    assert_eq!(socks(&mut dial(&address), denied), 2);
    assert_eq!(socks(&mut dial(&address), gone), 5);
    // What speaks something else is turned away, and nobody else notices.
    let mut http = dial(&address);
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it reads");
    let mut nothing = Vec::new();
    let _ = http.read_to_end(&mut nothing);
    assert_eq!(nothing, b"");
    assert_eq!(socks(&mut dial(&address), target), 0);
    stop(forward);
}

#[test]
fn words_that_are_no_forward_are_told() {
    let host = Host::new();
    let forward = |args: &[&str]| {
        let forward = host.farpipe(["forward", "--relay", "ws://127.0.0.1:1", "web1"]);
        forward.args(args).run().exits(2).stderr
    };
    assert!(forward(&[]).contains("hint: for example: farpipe forward web1 -L 8080:localhost:80"));
    assert!(forward(&["-L", "8080:x"]).contains("write [A:]P:H:P"));
    assert!(forward(&["-D", "x"]).contains("from 0 to 65535"));
}
