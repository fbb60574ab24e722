//! `farpipe send` and `farpipe recv`: a pipe that has a name at a relay, one way, either side first.

use rustix::process::Signal;

use crate::support::{Host, Listener, Running, SCHEMES, assert_same, random};

/// A relay that says who is held.
fn relay(host: &Host, scheme: &str) -> Listener {
    host.relay(scheme).arg("-v").start_listening()
}

/// Waits until so many attaches were held at the relay.
#[track_caller]
fn await_held(relay: &Running, times: usize) {
    relay.stderr_until(|text| text.matches(": held: ").count() >= times);
}

#[test]
fn either_side_comes_first() {
    let bytes = random(3 << 20, 17);
    for scheme in SCHEMES {
        let host = Host::new();
        let relay = relay(&host, scheme);
        let url = relay.url().to_owned();
        let send = host.send_at(&url, "logs").input(bytes.as_slice());
        let send = send.start_registered(1);
        host.recv_at(&url, "logs").run().exits(0).printed(&bytes);
        send.end().exits(0).printed("");
        let recv = host.recv_at(&url, "logs").start();
        await_held(&relay, 1);
        // What goes well needs no words.
        let send = host.farpipe(["send", "--relay", &url, "logs"]);
        send.input(bytes.as_slice()).run().exits(0).says("");
        assert_same(&recv.end().exits(0).stdout, &bytes);
    }
}

/// One writer and one reader after the other: none meets what is left of an earlier one.
#[test]
fn loops_of_both_sides_meet_one_by_one() {
    const TIMES: usize = 8;
    let host = Host::new();
    let relay = relay(&host, "ws");
    let env = |shell: &str| host.shell(shell).env("FARPIPE_RELAY", relay.url());
    let recv = "for n in $(seq 8); do \"$FARPIPE\" recv logs || exit; done";
    let recv = env(recv).start();
    let send = "for n in $(seq 8); do echo $n | \"$FARPIPE\" -q send logs || exit; done";
    env(send).run().exits(0).says("");
    let numbers: String = (1..=TIMES).map(|n| format!("{n}\n")).collect();
    recv.end().exits(0).printed(numbers);
}

#[test]
fn a_second_writer_is_refused_and_the_first_goes_on() {
    let host = Host::new();
    let relay = relay(&host, "ws");
    let mut first = host.send_at(relay.url(), "logs").open_input().start();
    first.await_registered(1);
    let second = host.send_at(relay.url(), "logs").run().exits(125);
    second.says("farpipe: ws://127.0.0.1:PORT refused: the pipe logs has a writer already");
    let recv = host.recv_at(relay.url(), "logs").start();
    first.write("one\n");
    first.close_input();
    recv.end().exits(0).printed("one\n");
    first.end().exits(0);
}

#[test]
fn a_second_reader_is_refused() {
    let host = Host::new();
    let relay = relay(&host, "ws");
    let mut send = host.send_at(relay.url(), "logs").open_input().start();
    send.await_registered(1);
    let first = host.recv_at(relay.url(), "logs").start();
    send.write("one\n");
    first.stdout_until(4);
    let second = host.recv_at(relay.url(), "logs").run().exits(125);
    second.says("farpipe: the far end refused: the pipe logs has all its readers");
    send.write("two\n");
    send.close_input();
    send.end().exits(0);
    first.end().exits(0).printed("one\ntwo\n");
}

#[test]
fn a_reader_that_leaves_ends_the_writer() {
    let host = Host::new();
    let relay = relay(&host, "ws");
    let url = relay.url();
    let line = format!("{{ yes; echo $? >yes; }} | \"$FARPIPE\" send --relay {url} logs");
    let send = host.shell(&line).start();
    let line = format!("\"$FARPIPE\" recv --relay {url} logs | head -1");
    host.shell(&line).run().exits(0).printed("y\n");
    send.end().exits(141);
    assert_eq!(host.content("yes"), b"141\n");
}

#[test]
fn who_waits_has_a_limit_to_it() {
    let host = Host::new();
    let relay = relay(&host, "ws");
    let recv = host.recv_at(relay.url(), "logs").args(["--wait", "300ms"]);
    recv.run()
        .exits(125)
        .says("farpipe: waited 300 ms in vain for a writer of the pipe logs");
    let send = host.farpipe(["send", "--relay", relay.url(), "logs", "--wait", "300ms"]);
    let why = "farpipe: waited 0.3 s in vain for a reader of the pipe logs";
    send.run().exits(125).says(why);
    // A relay that is not there at all is no matter of patience.
    let url = relay.url().to_owned();
    relay.signal(Signal::TERM);
    relay.end().exits(0);
    let recv = host.recv_at(&url, "logs").run().exits(125);
    recv.says("farpipe: ws://127.0.0.1:PORT: nothing listens there; start `farpipe relay` there");
}

#[test]
fn a_name_is_one_and_no_agents() {
    let host = Host::new();
    let relay = relay(&host, "ws");
    for name in ["Logs", "a/b", "..", "*", ""] {
        host.send_at(relay.url(), name).run().exits(2);
        host.recv_at(relay.url(), name).run().exits(2);
    }
    let _agent = host.agent_at(relay.url(), "web1").start_registered(1);
    let send = host.send_at(relay.url(), "web1").input("through\n");
    let send = send.start_registered(1);
    let exec = host
        .exec_at(relay.url(), "web1")
        .args(["--", "echo", "agent"]);
    exec.run().exits(0).printed("agent\n");
    host.recv_at(relay.url(), "web1")
        .run()
        .exits(0)
        .printed("through\n");
    send.end().exits(0);
}

#[test]
fn pipes_are_listed_and_are_no_hosts() {
    let host = Host::new();
    let relay = relay(&host, "ws");
    let mut send = host.send_at(relay.url(), "logs").open_input().start();
    send.await_registered(1);
    let recv = host.recv_at(relay.url(), "logs").start();
    send.write("one\n");
    recv.stdout_until(4);
    let ls = |what: &str| {
        let ls = host.farpipe(["ls", "--relay", relay.url(), what, "--json"]);
        let printed = ls.run().exits(0).stdout;
        serde_json::from_slice::<serde_json::Value>(&printed).expect("JSON")
    };
    assert_eq!(ls("hosts")["hosts"], serde_json::json!([]));
    let pipes = &ls("pipes")["pipes"];
    assert_eq!(
        (&pipes[0]["name"], &pipes[0]["readers"]),
        (&"logs".into(), &1.into())
    );
    let table = host.farpipe(["ls", "pipes", "--relay", relay.url()]);
    let table = String::from_utf8(table.run().exits(0).stdout).expect("text");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|row| row.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["NAME", "UP", "READERS", "RELAYS"]);
    assert_eq!(
        (rows[1][0], rows[1][2], rows[1][3]),
        ("logs", "1", relay.url())
    );
    send.close_input();
    send.end().exits(0);
    recv.end().exits(0);
}
