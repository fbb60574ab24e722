//! What happens to sessions through a relay when the relay, the agent or a link fails.

use std::io::Write as _;
use std::thread;

use farpipe_faultproxy::{Cut, Dir, Fault, Plan, When};
use rustix::process::Signal;

use crate::support::certs::{certified, shows};
use crate::support::process::{await_death, pid};
use crate::support::{Faults, Host, Invocation, Running, assert_same, random};

/// Bytes between two faults.
const STEP: usize = 4 << 20;

/// Runs `exec … cat` with bytes that end only when `fault` was called for each of `faults` steps;
/// all come back, and it ran once.
#[track_caller]
pub(crate) fn survives(host: &Host, exec: Invocation, faults: usize, mut fault: impl FnMut(usize)) {
    let bytes = random(STEP * (faults + 2), 13);
    let script = format!("echo ran >>{}/runs; cat", host.dir().display());
    let exec = exec.args(["--", "sh", "-c", &script]).open_input();
    let mut exec = exec.start();
    let mut stdin = exec.take_stdin();
    let written = bytes.clone();
    let writing = thread::spawn(move || stdin.write_all(&written).expect("it is read"));
    for number in 1..=faults {
        exec.stdout_until(number * STEP);
        fault(number);
    }
    let ended = exec.end().exits(0);
    writing.join().expect("a thread of ours");
    assert_same(&ended.stdout, &bytes);
    assert_eq!(host.content("runs"), b"ran\n", "once");
}

/// A relay where one was before.
#[track_caller]
fn again(host: &Host, url: &str) -> Running {
    let relay = host.relay_at(url).start();
    relay.stderr_until(|text| text.contains("listening on "));
    relay
}

#[test]
fn n13_a_relay_that_is_killed_and_started_again_loses_nothing() {
    for scheme in ["ws", "fp"] {
        let host = Host::new();
        let listener = host.relay(scheme).start_listening();
        let url = listener.url().to_owned();
        let agent = host.agent_at(&url, "web1").start_registered(1);
        let mut relay = Some(listener.into_running());
        survives(&host, host.exec_at(&url, "web1"), 3, |number| {
            // Dropped is killed, and waited for: its port is free again.
            drop(relay.take());
            relay = Some(again(&host, &url));
            agent.await_registered(1 + number);
        });
    }
}

/// All sessions of a relay at once: each goes on where it was.
#[test]
fn n19_all_callers_of_a_relay_that_was_killed_come_back() {
    const CALLERS: u64 = 12;
    const FIRST: usize = 100_000;
    let host = Host::new();
    let listener = host.relay("ws").start_listening();
    let url = listener.url().to_owned();
    let agent = host.agent_at(&url, "web1").start_registered(1);
    let contents: Vec<_> = (0..CALLERS).map(|seed| random(3 * FIRST, seed)).collect();
    let begun = contents.iter().map(|bytes| {
        let exec = host.exec_at(&url, "web1").args(["--", "cat"]);
        let mut caller = exec.open_input().start();
        caller.write(&bytes[..FIRST]);
        caller.stdout_until(FIRST);
        caller
    });
    let callers: Vec<_> = begun.collect();
    drop(listener);
    let _relay = again(&host, &url);
    for (mut caller, bytes) in callers.into_iter().zip(&contents) {
        caller.write(&bytes[FIRST..]);
        caller.close_input();
        assert_same(&caller.end().exits(0).stdout, bytes);
    }
    agent.await_registered(2);
}

/// What is sealed up to the agent is sent again as it was, by a relay that knows nothing of it.
#[test]
fn n13_a_sealed_session_outlives_relays_and_links() {
    let host = certified();
    let start = |url: &str| host.relay_at(url).args(shows("relay"));
    let listener = start("wss://127.0.0.1:0").start_listening();
    let url = listener.url().to_owned();
    let agent = host.farpipe(["agent", &url, "--allow", "exec"]);
    let agent = agent.args(shows("web1")).start_registered(1);
    let mut relay = Some(listener.into_running());
    let exec = host.farpipe(["exec", "--relay", &url]).args(shows("alice"));
    survives(&host, exec.arg("web1"), 3, |number| {
        drop(relay.take());
        let again = start(&url).start();
        again.stderr_until(|text| text.contains("listening on "));
        relay = Some(again);
        agent.await_registered(1 + number);
    });
}

#[test]
fn n13_another_relay_takes_over() {
    let host = Host::new();
    let relays = [(); 2].map(|()| host.relay("ws").start_listening());
    let list = format!("{},{}", relays[0].url(), relays[1].url());
    let _agent = host.agent_at(&list, "web1").start_registered(2);
    survives(&host, host.exec_at(&list, "web1"), 1, |_| {
        relays[0].kill();
    });
}

/// Told to end, it says so, and the session moves before the link goes.
#[test]
fn n13_a_relay_that_goes_away_in_order_hands_its_sessions_over() {
    let host = Host::new();
    let relays = [(); 2].map(|()| Some(host.relay("ws").start_listening()));
    let [mut first, Some(second)] = relays else {
        unreachable!("two were started")
    };
    let url = first.as_ref().expect("started").url().to_owned();
    let list = format!("{url},{}", second.url());
    let _agent = host.agent_at(&list, "web1").start_registered(2);
    survives(&host, host.exec_at(&list, "web1"), 1, |_| {
        let relay = first.take().expect("one fault");
        relay.signal(Signal::TERM);
        relay.end().exits(0);
    });
}

#[test]
fn n1_an_agent_whose_link_is_cut_again_and_again_loses_nothing() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let plan = Plan {
        faults: vec![Fault::new(
            When::Byte {
                dir: Dir::Up,
                at: 3 << 20..=9 << 20,
            },
            Cut::Reset,
        )],
        ..Plan::default()
    };
    let faults = Faults::between(&relay, plan);
    let _agent = host.agent_at(&faults.url(), "web1").start_registered(1);
    survives(&host, host.exec_at(relay.url(), "web1"), 3, |_| {});
    let stats = faults.stop();
    assert!(stats.cuts_reset > 1, "{}", stats.to_json());
}

/// The host is asked for while it is not there: held until it is back.
#[test]
fn n15_an_agent_that_was_killed_leaves_the_outcome_unknown() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let agent = host.agent_at(relay.url(), "web1").start_registered(1);
    let script = "echo $$; trap '' HUP; sleep 600";
    let exec = host
        .exec_at(relay.url(), "web1")
        .args(["--", "sh", "-c", script]);
    let exec = exec.start();
    exec.stdout_until(2);
    agent.kill();
    drop(agent);
    let _agent = host.agent_at(relay.url(), "web1").start_registered(1);
    let ended = exec.end().exits(125);
    assert!(
        ended.stderr.contains("another process than before"),
        "{}",
        ended.stderr
    );
}

#[test]
fn n16_a_caller_that_was_killed_leaves_no_command() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let _agent = host.agent_at(relay.url(), "web1").start_registered(1);
    let exec = host.exec_at(relay.url(), "web1").args([
        "--resume-for",
        "500ms",
        "--",
        "sh",
        "-c",
        "echo $$; sleep 600",
    ]);
    let exec = exec.start();
    let text = String::from_utf8(exec.stdout_until(2)).expect("a number");
    let command = pid(text.trim());
    exec.kill();
    await_death(command, "the command of a caller that is gone");
}

/// Another configuration: the name is not registered any more.
#[test]
fn n14_a_relay_that_came_back_without_the_host_says_so() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let url = relay.url().to_owned();
    let agent = host.agent_at(&url, "web1").start_registered(1);
    let exec = host.exec_at(&url, "web1").args([
        "--resume-for",
        "2s",
        "--",
        "sh",
        "-c",
        "echo up; sleep 600",
    ]);
    let exec = exec.start();
    exec.stdout_until(3);
    agent.kill();
    relay.kill();
    drop(agent);
    drop(relay);
    let _relay = again(&host, &url);
    let ended = exec.end().exits(125);
    assert!(ended.stderr.contains("no agent web1"), "{}", ended.stderr);
}
