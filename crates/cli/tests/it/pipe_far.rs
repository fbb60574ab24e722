//! `farpipe pipe` with ends at other hosts: the same as here, as far as their policies allow it.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use farpipe_faultproxy::{Cut, Plan, When};
use rustix::process::Signal;

use crate::support::programs::{ask_tcp, echo, server};
use crate::support::{Faults, Host, Invocation, Listener, Running, assert_same, random};

/// One relay, and two hosts behind it: one may be read and run commands, the other be written to as well.
struct Net {
    host: Host,
    relay: Listener,
    agents: [Running; 2],
}

impl Net {
    fn new() -> Self {
        let host = Host::new();
        fs::create_dir(host.path("data")).expect("a directory");
        let relay = host.relay("ws").start_listening();
        let data = host.path("data").display().to_string();
        let agent = |name: &str, allow: String| {
            let agent = host.agent_at(relay.url(), name).arg("-v");
            agent.args(["--allow", &allow]).start_registered(1)
        };
        let agents = [
            agent("web1", format!("read:{data}")),
            agent("db1", format!("write:{data}")),
        ];
        Self {
            host,
            relay,
            agents,
        }
    }

    fn pipe(&self, src: &str, dst: &str) -> Invocation {
        self.pipe_by(self.relay.url(), src, dst)
    }

    fn pipe_by(&self, url: &str, src: &str, dst: &str) -> Invocation {
        self.host.farpipe(["pipe", "--relay", url, src, dst])
    }

    fn at(&self, host: &str, name: &str) -> String {
        format!("{host}:{}", self.host.path(name).display())
    }
}

const DENIED: &str = "farpipe: the far end refused: the policy of that host does not allow it; its log says \
                      why\n";

#[test]
fn files_go_from_any_host_to_any_other() {
    let net = Net::new();
    let bytes = random(3_000_000, 1);
    net.host.file("data/a", &bytes);
    let read = net.pipe(&net.at("web1", "data/a"), "-").run().exits(0);
    assert_same(&read.stdout, &bytes);
    net.pipe("data/a", &net.at("db1", "data/b")).run().exits(0);
    assert_same(&net.host.content("data/b"), &bytes);
    let between = net.pipe(&net.at("web1", "data/b"), &net.at("db1", "data/c"));
    between.run().exits(0).printed("");
    assert_same(&net.host.content("data/c"), &bytes);
}

#[test]
fn a_host_may_be_the_url_of_an_agent() {
    let host = Host::new();
    host.file("a", "text");
    let dir = host.dir().display().to_string();
    let agent = host.agent("ws").args(["--allow", &format!("read:{dir}")]);
    let agent = agent.start_listening();
    let src = format!("[{}]:{dir}/a", agent.url());
    host.farpipe(["pipe", &src, "-"])
        .run()
        .exits(0)
        .printed("text");
}

#[test]
fn commands_there_have_their_status_and_this_stderr() {
    let net = Net::new();
    let ended = net
        .pipe("web1:sh:echo out; echo err >&2; exit 7", "-")
        .run();
    ended.exits(7).printed("out\n").says("err\n");
    let counted = net.pipe("-", "web1:exec:wc -l").input("a\nb\n").run();
    counted.exits(0).printed("2\n");
    let missing = net.pipe("web1:exec:no-such-command", "-").run();
    missing.exits(127).printed("");
    let two = net
        .pipe("web1:sh:seq 1 100000", "db1:sh:tail -1 >&2; exit 3")
        .run();
    two.exits(3).printed("").says("100000\n");
    let first = net.pipe("web1:sh:exit 9", "db1:exec:cat").run();
    assert_eq!(first.exits(9).stderr, "");
    // A file as the other end: what the command says is this process's stdout.
    net.host.file("data/a", "x\ny\n");
    net.pipe("data/a", "web1:exec:wc -l")
        .run()
        .exits(0)
        .printed("2\n");
}

#[test]
fn a_reader_that_goes_away_ends_the_writer_there() {
    let net = Net::new();
    let line = format!(
        "\"$FARPIPE\" pipe --relay {} web1:exec:yes - </dev/null | head -1; echo \"${{PIPESTATUS[0]}}\"",
        net.relay.url()
    );
    let bash = format!("bash -c '{}'", line.replace('\'', "'\\''"));
    net.host.shell(&bash).run().exits(0).printed("y\n141\n");
    net.pipe("web1:exec:yes", "db1:exec:head -1")
        .run()
        .exits(141);
}

#[test]
fn what_is_denied_is_told_alike_whether_it_is_there_or_not() {
    let net = Net::new();
    net.host.file("secret", "secret");
    for name in ["secret", "nothing", "no/such/thing", "data/../secret"] {
        let read = net.pipe(&net.at("web1", name), "-").run();
        assert_eq!(read.exits(125).printed("").stderr, DENIED, "{name}");
    }
    net.host.file("data/a", "a");
    let write = net.pipe("data/a", &net.at("web1", "data/b")).run();
    assert_eq!(write.exits(125).stderr, DENIED);
    assert!(!net.host.path("data/b").exists());
    // Who may read the directory may know what is not in it.
    let missing = net.pipe(&net.at("web1", "data/none"), "-").run().exits(125);
    assert!(
        missing.stderr.contains("no such file or directory"),
        "{}",
        missing.stderr
    );
}

#[test]
fn f2_a_link_leads_out_of_no_directory() {
    let net = Net::new();
    net.host.file("secret", "secret");
    symlink(net.host.path("secret"), net.host.path("data/link")).expect("a link");
    let read = net.pipe(&net.at("web1", "data/link"), "-").run();
    assert_eq!(read.exits(125).printed("").stderr, DENIED);
    let write = net.pipe("secret", &net.at("db1", "data/link")).run();
    assert_eq!(write.exits(125).stderr, DENIED);
    // One that stays within leads where it says.
    net.host.file("data/a", "a");
    symlink("a", net.host.path("data/inner")).expect("a link");
    net.pipe(&net.at("web1", "data/inner"), "-")
        .run()
        .exits(0)
        .printed("a");
}

#[test]
fn a_port_there_is_joined_to_programs_here() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let agent = host
        .agent_at(relay.url(), "web1")
        .args(["--allow", "listen:0-65535"]);
    let _agent = agent.start_registered(1);
    let to = format!("tcp:{}", server(echo));
    let pipe = host.farpipe(["pipe", "--relay", relay.url(), "web1:tcp-listen:0", &to]);
    let pipe = pipe.start();
    let said = pipe.stderr_until(|text| text.contains("listening on tcp ") && text.ends_with('\n'));
    let address = said.split(' ').nth(3).expect("an address");
    let data = random(100_000, 2);
    let stream = std::net::TcpStream::connect(address).expect("it listens");
    assert_same(&ask_tcp(stream, &data), &data);
}

/// What listens, here or there, is for many connections: an agent that is started anew is asked anew.
#[test]
fn a_listening_end_outlives_the_agent() {
    let host = Host::new();
    let agent = |url: &str| {
        let agent = host.farpipe(["agent", "--listen", url, "--no-reuse"]);
        agent.args(["--allow", "all"]).start_listening()
    };
    let first = agent("ws://127.0.0.1:0");
    let url = first.url().to_owned();
    let to = format!("tcp:{}", server(echo));
    let there = |end: &str| format!("[{url}]:{end}");
    let pipes = [
        host.farpipe(["pipe", &there("tcp-listen:0"), &to]).start(),
        host.farpipe(["pipe", "tcp-listen:0", &there(&to)]).start(),
    ];
    let ask = |pipe: &Running, listens: usize| {
        let said = pipe.stderr_until(|text| {
            text.matches("listening on tcp ").count() == listens && text.ends_with('\n')
        });
        let mut told = said
            .lines()
            .filter(|line| line.starts_with("listening on tcp "));
        let address = told.next_back().and_then(|line| line.split(' ').nth(3));
        let stream = std::net::TcpStream::connect(address.expect("an address"));
        assert_same(&ask_tcp(stream.expect("it listens"), b"hello"), b"hello");
    };
    for pipe in &pipes {
        ask(pipe, 1);
    }
    let first = first.into_running();
    first.signal(Signal::TERM);
    first.end();
    let _second = agent(&url);
    for (pipe, listens) in pipes.iter().zip([2, 1]) {
        pipe.stderr_until(|text| text.contains("is asked anew in"));
        ask(pipe, listens);
    }
}

#[test]
fn n1_a_pipe_between_two_hosts_survives_cuts_of_either_session() {
    let net = Net::new();
    let bytes = random(8_000_000, 4);
    net.host.file("data/a", &bytes);
    let lifetime = Duration::from_millis(6)..=Duration::from_millis(30);
    let faults = Faults::between(&net.relay, Plan::of(When::Lifetime(lifetime), Cut::Reset));
    let pipe = net.pipe_by(
        &faults.url(),
        &net.at("web1", "data/a"),
        &net.at("db1", "data/b"),
    );
    pipe.run().exits(0);
    assert_same(&net.host.content("data/b"), &bytes);
    let stats = faults.stop();
    assert!(stats.cuts_reset > 2, "nothing was cut: {}", stats.to_json());
}

#[test]
fn an_agent_that_is_gone_is_never_success() {
    let mut net = Net::new();
    let pipe = net.pipe("web1:sh:echo begun; sleep 1000", "db1:exec:cat >&2");
    let pipe = pipe.args(["--resume-for", "1s"]).start();
    net.agents[0].stderr_until(|text| text.contains("runs as process"));
    net.agents[0].kill();
    assert!(pipe.end().exits(125).stderr.contains("farpipe:"));
    let _ = net.agents[1].is_running();
}

#[test]
fn words_that_name_nothing_are_told() {
    let host = Host::new();
    let pipe = |src: &str| {
        let pipe = host.farpipe(["pipe", "--relay", "ws://127.0.0.1:1", src, "-"]);
        pipe.run().exits(2).stderr
    };
    assert!(pipe("web1:-").contains("`-` at web1 would be the agent's own"));
    assert!(pipe("web1:").contains("empty endpoint"));
    assert!(pipe("kafka:x").contains("not supported yet"));
    let nowhere = host.farpipe(["pipe", "web1:/x", "-"]).run().exits(2).stderr;
    assert!(
        nowhere.contains("no relay was named that may know a host web1"),
        "{nowhere}"
    );
}
