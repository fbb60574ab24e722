//! The same commands with a local agent and without: the same output, the same words, the same status.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

use farpipe_faultproxy::{Cut, Plan};
use rustix::process::Signal;

use crate::support::programs::{ask_tcp, echo, server};
use crate::support::relay::{agent_at, relay};
use crate::support::websocket::dial;
use crate::support::{DEADLINE, Ended, Faults, Host, Invocation, Listener, Running, Terminal};
use crate::support::{assert_same, random};

/// With a local agent, and without.
const BOTH: [&str; 2] = ["0", "1"];

struct Net {
    host: Host,
    relay: Listener,
    far: Running,
    local: Running,
}

impl Net {
    fn new(args: &[&str]) -> Self {
        let host = Host::new();
        let relay = relay(&host, &[]);
        let args: Vec<&str> = ["--no-reuse"].iter().chain(args).copied().collect();
        let far = agent_at(&host, relay.url(), "web1", &args);
        let local = host.farpipe(["agent", "--client-only", "-v"]).start();
        local.stderr_until(|text| text.contains("taking this user's commands at"));
        Self {
            host,
            relay,
            far,
            local,
        }
    }

    fn exec(&self, no_reuse: &str) -> Invocation {
        let exec = self.host.exec_at(self.relay.url(), "web1");
        exec.env("FARPIPE_NO_REUSE", no_reuse)
    }

    /// Commands have gone through the local agent.
    #[track_caller]
    fn is_used(&self) {
        let said = self.local.stderr_until(|_| true);
        assert!(said.contains(": opened"), "{said}");
    }
}

/// What is seen of a command that has ended.
fn seen(ended: &Ended) -> (Option<i32>, String, String) {
    let stdout = String::from_utf8_lossy(&ended.stdout).into_owned();
    (ended.status.code(), stdout, ended.stderr.clone())
}

#[test]
fn every_end_of_a_command_is_the_same() {
    let net = Net::new(&[]);
    let at = |host: &str| format!("\"$FARPIPE\" exec --relay {} {host} --", net.relay.url());
    let (web1, nobody) = (at("web1"), at("nobody"));
    for line in [
        format!("{web1} true"),
        format!("{web1} false"),
        format!("{web1} sh -c 'kill -TERM $$'"),
        format!("{web1} sh -c 'echo out; echo err >&2; exit 3'"),
        format!("{{ yes; echo yes $? >&2; }} | {web1} head -1"),
        format!("{{ {web1} yes; echo exec $? >&2; }} | head -1"),
        format!("{web1} cat </dev/null >/dev/full"),
        format!("{web1} echo x >/dev/full"),
        format!("{web1} no-such-program"),
        format!("{web1} /etc"),
        format!("{nobody} true"),
    ] {
        let ended = BOTH.map(|no_reuse| {
            let line = net.host.shell(&line).env("FARPIPE_NO_REUSE", no_reuse);
            seen(&line.run())
        });
        assert_eq!(ended[0], ended[1], "{line}");
    }
    net.is_used();
}

#[test]
fn what_is_not_allowed_is_the_same() {
    let host = Host::new();
    let far = host.strict_agent("ws").arg("--no-reuse").start_listening();
    let local = host.farpipe(["agent", "--client-only", "-v"]).start();
    local.stderr_until(|text| text.contains("taking this user's commands at"));
    let ended = BOTH.map(|no_reuse| {
        let exec = host.exec(far.url()).env("FARPIPE_NO_REUSE", no_reuse);
        seen(&exec.args(["--", "true"]).run())
    });
    assert_eq!(ended[0], ended[1]);
    assert_eq!(ended[0].0, Some(125), "{}", ended[0].2);
    local.stderr_until(|text| text.contains(": opened"));
}

#[test]
fn an_interrupt_and_a_terminal_are_the_same() {
    let net = Net::new(&[]);
    for (script, signal) in [
        ("echo up; exec sleep 1000", Signal::INT),
        (
            "trap 'exit 9' TERM; echo up; sleep 1000 & wait",
            Signal::TERM,
        ),
    ] {
        let ended = BOTH.map(|no_reuse| {
            let exec = net.exec(no_reuse).args(["--", "sh", "-c", script]).start();
            exec.stdout_until(3);
            exec.signal(signal);
            seen(&exec.end())
        });
        assert_eq!(ended[0], ended[1], "{script}");
    }
    let shown = BOTH.map(|no_reuse| {
        let terminal = Terminal::new();
        let screen = terminal.screen();
        let exec =
            net.exec(no_reuse)
                .args(["-t", "--", "sh", "-c", "tty >/dev/null && echo tty; exit 4"]);
        let ended = exec.on_terminal(&terminal).start().end().exits(4);
        let shown = screen.until(|bytes| bytes.ends_with(b"tty\r\n"));
        assert!(shown.is_ok(), "{}", screen.text());
        ended.status.code()
    });
    assert_eq!(shown[0], shown[1]);
    net.is_used();
}

/// What the last try to get it back has met may differ.
#[test]
fn a_relay_that_is_killed_for_good_is_the_same() {
    let Net {
        host,
        relay,
        far: _far,
        local,
    } = Net::new(&[]);
    let running = BOTH.map(|no_reuse| {
        let exec = host
            .exec_at(relay.url(), "web1")
            .env("FARPIPE_NO_REUSE", no_reuse);
        let exec = exec.args([
            "--resume-for",
            "300ms",
            "--",
            "sh",
            "-c",
            "echo up; exec sleep 1000",
        ]);
        let exec = exec.open_input().start();
        exec.stdout_until(3);
        exec
    });
    relay.kill();
    let ended = running.map(|exec| {
        let (status, stdout, stderr) = seen(&exec.end());
        let words = stderr.lines().last().unwrap_or_default().to_owned();
        (
            status,
            stdout,
            words.split(" for ").next().map(str::to_owned),
        )
    });
    assert_eq!(ended[0], ended[1]);
    assert_eq!(ended[0].0, Some(125));
    local.stderr_until(|text| text.contains(": opened"));
}

/// The far end had more to say when the reader had ended in order; it was on its way.
#[test]
fn bytes_for_a_reader_that_has_ended_in_order_are_told_as_lost() {
    for no_reuse in BOTH {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = listener.local_addr().expect("bound");
        let (go, goes) = mpsc::channel::<()>();
        let (said, has_said) = mpsc::channel();
        let far_program = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            goes.recv_timeout(DEADLINE).expect("its time comes");
            stream.write_all(b"late").expect("it is read");
            said.send(()).expect("somebody hears");
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let net = Net::new(&["--allow", &format!("connect:{target}")]);
        let mut faults = Faults::between(&net.relay, Plan::default());
        let to = format!("web1:tcp:{target}");
        let pipe = net.host.farpipe([
            "pipe",
            "--relay",
            &faults.url(),
            "--once",
            "ws-listen:0",
            &to,
        ]);
        let pipe = pipe.env("FARPIPE_NO_REUSE", no_reuse).start_listening();
        let mut page = dial(&pipe, "");
        page.send(0x82, b"hello");
        net.far
            .stderr_until(|text| text.contains(&target.to_string()));
        faults.refuse(true);
        faults.cut_all(Cut::Reset);
        go.send(()).expect("it waits");
        has_said.recv_timeout(DEADLINE).expect("it is said");
        page.send(0x88, &[3, 232]);
        assert_eq!(page.next(), (0x88, vec![3, 232]));
        faults.refuse(false);
        pipe.end().exits(141);
        far_program.join().expect("a thread of ours");
    }
}

#[test]
fn forwards_are_the_same() {
    let target = server(echo);
    let net = Net::new(&[
        "--allow",
        &format!("connect:{target}"),
        "--allow",
        "listen:0-65535",
    ]);
    let data = random(300_000, 4);
    for no_reuse in BOTH {
        let forward = net
            .host
            .farpipe(["forward", "--relay", net.relay.url(), "web1"]);
        let forward = forward.env("FARPIPE_NO_REUSE", no_reuse);
        let to = format!("0:{target}");
        let forward = forward.args(["-L", &to, "-R", &to]).start();
        let told = forward
            .stderr_until(|text| text.ends_with('\n') && text.matches("forwarding ").count() == 2);
        let addresses = told
            .lines()
            .filter_map(|line| line.strip_prefix("forwarding "));
        let addresses: Vec<_> = addresses
            .filter_map(|line| line.split(' ').nth(1))
            .collect();
        assert_eq!(addresses.len(), 2, "{told}");
        for address in addresses {
            let stream = std::net::TcpStream::connect(address).expect("it listens");
            stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
            assert_same(&ask_tcp(stream, &data), &data);
        }
        forward.signal(Signal::TERM);
        forward.end().exits(143);
    }
    net.is_used();
}
