//! What is said of a session: one story in three logs, found by its key.

use rustix::process::Signal;

use crate::support::Host;
use crate::support::gateway::{at, await_writer};
use crate::support::process::until;
use crate::support::relay::{Admin, agent_at, relay};

/// What is said of session `key`, without its key and what stands before.
fn story(log: &str, key: &str) -> Vec<String> {
    let mark = format!("session {key}");
    let said = log.lines().filter_map(|line| line.split_once(&mark));
    said.map(|(_, rest)| rest.trim_start_matches([':', ',']).trim().to_owned())
        .collect()
}

#[track_caller]
fn assert_story(log: &str, key: &str, expected: &[&str]) {
    let story = story(log, key);
    let mut at = story.iter();
    for expected in expected {
        let found = at.any(|said| said.starts_with(expected));
        assert!(found, "{expected} is missing of {key} in {story:#?}");
    }
}

#[test]
fn three_logs_tell_one_story_by_the_key_of_the_session() {
    let host = Host::new();
    let first = relay(&host, &[]);
    let url = first.url().to_owned();
    let agent = agent_at(&host, &url, "web1", &[]);
    let exec = host.exec("web1").args(["-v", "--relay", &url, "--", "cat"]);
    let mut exec = exec.open_input().start();
    exec.write("one,");
    exec.stdout_until(4);
    first.kill();
    let before = first.end().stderr;
    let again = host.relay_at(&url).arg("-v").start_listening();
    exec.write("two");
    exec.close_input();
    let ended = exec.end().exits(0).printed("one,two");
    let mark = "session ";
    let at = ended.stderr.find(mark).expect("a session in the log") + mark.len();
    let key = &ended.stderr[at..at + 8];
    assert_story(
        &ended.stderr,
        key,
        &["opened", "attached", "lost: ", "resumed ", "ended"],
    );
    assert_story(&before, key, &["joined to web1"]);
    let said = again.stderr_until(|text| text.contains("parted from web1"));
    assert_story(&said, key, &["joined to web1", "parted from web1"]);
    let ended = format!("session {key}: ended");
    let said = agent.stderr_until(|text| text.contains(&ended));
    let expected = [
        "opened from ",
        "attached",
        "stream 1: runs",
        "lost: ",
        "resumed ",
        "ended",
    ];
    assert_story(&said, key, &expected);
}

#[test]
fn logs_can_be_json_line_by_line() {
    let host = Host::new();
    let relay = relay(&host, &[]);
    let agent = host.farpipe([
        "--log-format",
        "json",
        "-v",
        "agent",
        relay.url(),
        "--name",
        "web1",
        "--allow",
        "exec",
    ]);
    let agent = agent.start();
    agent.stderr_until(|text| text.contains("registered as web1 at") && text.ends_with('\n'));
    agent.signal(Signal::TERM);
    let said = agent.end().stderr;
    assert!(said.lines().count() > 1, "{said}");
    for line in said.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect(line);
        for key in ["timestamp", "level", "message"] {
            assert!(line[key].is_string(), "{line}");
        }
    }
}

#[test]
fn who_ends_in_order_is_not_lost() {
    let host = Host::new();
    let relay = relay(&host, &["--admin-listen", "127.0.0.1:0"]);
    let admin = Admin::of(&relay);
    let agent = agent_at(&host, relay.url(), "web1", &[]);
    agent.signal(Signal::TERM);
    agent.end().exits(143);
    let recv = |pipe: &str| host.recv_at(relay.url(), pipe).run().exits(0).printed("x");
    let send = host
        .send_at(relay.url(), "logs")
        .input("x")
        .start_registered(1);
    recv("logs");
    send.end().exits(0);
    let upload = host.curl(["-T", "-", &at(&relay, "up")]).input("x").start();
    await_writer(&relay, "up");
    recv("up");
    upload.end().exits(0);
    let gone = |reason: &str| {
        admin.metric(&format!(
            "farpipe_relay_agents_gone_total{{reason=\"{reason}\"}}"
        ))
    };
    until("not all have left", || gone("left") == 3);
    assert_eq!(gone("lost"), 0);
    let said = relay.stderr_until(|_| true);
    for what in [
        "agent web1: ended: ",
        "pipe logs: ended: ",
        "pipe up: ended: ",
    ] {
        assert!(said.contains(what), "{what} is missing in {said}");
    }
    // Who is killed is.
    agent_at(&host, relay.url(), "web1", &[]).kill();
    until("it is not lost", || gone("lost") == 1);
}
