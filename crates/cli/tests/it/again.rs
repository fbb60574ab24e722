//! A command whose client was killed is run again at once: what its session holds at the agent, a port, a
//! locked file or the part of a copy, is given up to the same caller, and to nobody else.

use std::fs;
use std::net::TcpListener;
use std::num::NonZeroU64;

use farpipe_faultproxy::Cut;

use crate::support::certs::{certified, shows};
use crate::support::process::until;
use crate::support::programs::{ask_tcp, echo, server};
use crate::support::{Faults, Host, Invocation, Listener, Running, assert_same, random};

/// Agents that callers come to in two ways.
struct Net {
    host: Host,
    relay: Listener,
    _behind: Running,
    /// One that is dialled itself.
    agent: Listener,
}

/// How a command comes to its agent.
#[derive(Debug, Clone, Copy)]
enum By {
    Itself,
    Relay,
}

const WAYS: [By; 2] = [By::Itself, By::Relay];

impl Net {
    fn new() -> Self {
        let host = certified();
        let issue = [
            "cert",
            "-q",
            "issue",
            "web3",
            "--kind",
            "agent",
            "--san",
            "127.0.0.1",
        ];
        host.farpipe(issue).run().exits(0);
        fs::create_dir(host.path("there")).expect("a directory");
        let there = host.path("there").display().to_string();
        let relay = host.relay("wss").args(shows("relay")).start_listening();
        let agent = |way: &[&str], name| {
            let agent = host.farpipe(["agent", "-v"]).args(way).args(shows(name));
            agent
                .args(["--allow", &format!("write:{there}")])
                .args(["--allow", "listen:0-65535"])
        };
        let behind = agent(&[relay.url()], "web1").start_registered(1);
        let agent = agent(&["--listen", "wss://127.0.0.1:0"], "web3").start_listening();
        Self {
            host,
            relay,
            _behind: behind,
            agent,
        }
    }

    fn target(&self, by: By) -> String {
        match by {
            By::Itself => format!("[{}]", self.agent.url()),
            By::Relay => "web1".to_owned(),
        }
    }

    fn farpipe(&self, verb: &str, by: By, who: &str) -> Invocation {
        let command = self.host.farpipe([verb]).args(shows(who));
        match by {
            By::Itself => command,
            By::Relay => command.args(["--relay", self.relay.url()]),
        }
    }

    /// Writes its stdin to a file there.
    fn write(&self, by: By, who: &str) -> Invocation {
        let to = format!(
            "{}:{}",
            self.target(by),
            self.host.path("there/f").display()
        );
        self.farpipe("pipe", by, who).args(["-", &to])
    }

    /// A writer that has written.
    fn writer(&self, by: By, who: &str) -> Running {
        let mut writer = self.write(by, who).open_input().start();
        writer.write("old\n");
        until("nothing is written", || {
            fs::read(self.host.path("there/f")).is_ok_and(|content| content == b"old\n")
        });
        writer
    }

    /// Listens on a port there.
    fn listen(&self, by: By, who: &str, port: u16, target: &str) -> Invocation {
        let host = match by {
            By::Itself => self.agent.url().to_owned(),
            By::Relay => "web1".to_owned(),
        };
        self.farpipe("forward", by, who)
            .args([&host, "-R", &format!("{port}:{target}")])
    }
}

fn kill(running: Running) {
    running.kill();
    running.end();
}

/// A port that was free just now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

fn listening(forward: &Running) {
    forward.stderr_until(|said| said.contains("forwarding "));
}

#[test]
fn a_killed_writer_gives_up_its_file_to_its_caller() {
    let net = Net::new();
    for by in WAYS {
        kill(net.writer(by, "alice"));
        net.write(by, "alice").input("new\n").run().exits(0);
        assert_same(&net.host.content("there/f"), b"new\n");
        fs::remove_file(net.host.path("there/f")).expect("it is there");
    }
}

#[test]
fn a_killed_forward_gives_up_its_port_to_its_caller() {
    let net = Net::new();
    let target = server(echo);
    for by in WAYS {
        let port = free_port();
        let first = net.listen(by, "alice", port, &target).start();
        listening(&first);
        kill(first);
        let second = net.listen(by, "alice", port, &target).start();
        listening(&second);
        let stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        assert_same(&ask_tcp(stream, b"hello"), b"hello");
        kill(second);
    }
}

/// A relay on loopback has no names to say.
#[test]
fn a_killed_forward_gives_up_its_port_over_this_users_own_relay() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let agent = host.farpipe(["agent", relay.url(), "--name", "web1"]);
    let _agent = agent
        .args(["--allow", "listen:0-65535"])
        .start_registered(1);
    let (port, target) = (free_port(), server(echo));
    let forward = || {
        host.farpipe(["forward", "web1", "--relay", relay.url()])
            .args(["-R", &format!("{port}:{target}")])
            .start()
    };
    let first = forward();
    listening(&first);
    kill(first);
    let second = forward();
    listening(&second);
    kill(second);
}

#[test]
fn a_killed_copy_gives_up_its_part_to_its_caller() {
    let host = Host::new();
    fs::create_dir(host.path("there")).expect("a directory");
    let there = host.path("there").display().to_string();
    let agent = host
        .strict_agent("ws")
        .args(["-v", "--allow", &format!("write:{there}")]);
    let agent = agent.start_listening();
    let bytes = random(32 << 20, 3);
    host.file("large", &bytes);
    let cp = |url: &str| host.farpipe(["cp", "-v", "large", &format!("[{url}]:{there}/large")]);
    let slow = Faults::shaped(&agent, |config| {
        config.up.throttle = NonZeroU64::new(8 << 20);
    });
    let first = cp(&slow.url()).start();
    let part = host.path("there/.large.farpipe-part");
    until("nothing comes", || {
        part.metadata().is_ok_and(|meta| meta.len() > 9 << 20)
    });
    kill(first);
    let said = cp(agent.url()).run().exits(0).said();
    assert!(
        said.contains("received part kept, and not read again"),
        "{said}"
    );
    assert_same(&host.content("there/large"), &bytes);
    assert_eq!(fs::read_dir(there).expect("a directory").count(), 1);
}

const IN_USE: &str = "it is being read or written by another end";

#[test]
fn what_a_linked_session_has_is_not_given_up() {
    let net = Net::new();
    let mut writer = net.writer(By::Itself, "alice");
    let said = net.write(By::Itself, "alice").run().exits(125).said();
    assert!(said.contains(IN_USE), "{said}");
    writer.write("more\n");
    writer.close_input();
    writer.end().exits(0);
    assert_same(&net.host.content("there/f"), b"old\nmore\n");
    let port = free_port();
    let target = server(echo);
    let first = net.listen(By::Relay, "alice", port, &target).start();
    listening(&first);
    let second = net.listen(By::Relay, "alice", port, &target).run();
    let said = second.exits(125).said();
    assert!(said.contains("address already in use"), "{said}");
    let stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    assert_same(&ask_tcp(stream, b"hello"), b"hello");
}

#[test]
fn what_a_killed_client_had_is_given_up_to_no_other_caller() {
    let net = Net::new();
    for by in WAYS {
        kill(net.writer(by, "alice"));
        let said = net.write(by, "bob").input("new").run().exits(125).said();
        assert!(said.contains(IN_USE), "{said}");
        assert_same(&net.host.content("there/f"), b"old\n");
        net.write(by, "alice").input("new").run().exits(0);
        fs::remove_file(net.host.path("there/f")).expect("it is there");
    }
}

/// A client that was not killed, only cut, does not take it back.
#[test]
fn who_comes_back_later_hears_who_has_its_place() {
    let net = Net::new();
    let mut faults = Faults::before(net.agent.url(), |_| {});
    let to = format!("[{}]:{}", faults.url(), net.host.path("there/f").display());
    let first = net.farpipe("pipe", By::Itself, "alice").args(["-", &to]);
    let mut first = first.open_input().start();
    first.write("old\n");
    until("nothing is written", || net.host.path("there/f").exists());
    faults.refuse(true);
    faults.cut_all(Cut::Reset);
    first.stderr_until(|said| said.contains("no connection"));
    net.write(By::Itself, "alice").input("new\n").run().exits(0);
    faults.refuse(false);
    let said = first.end().exits(125).said();
    let why = "its place was taken by a later command of farpipe://local/client/alice";
    assert!(said.contains(why), "{said}");
    assert_same(&net.host.content("there/f"), b"new\n");
}
