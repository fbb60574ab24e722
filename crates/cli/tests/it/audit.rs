//! The audit logs of agents and relays (docs/audit.md): what is in them, that nothing happens which cannot
//! be written there, and that what is done to them is found.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::certs::{certified, shows};
use crate::support::process::until;
use crate::support::relay::Admin;
use crate::support::{Ended, Host, Listener};

/// The lines of a log.
fn lines(host: &Host, name: &str) -> Vec<Value> {
    let text = String::from_utf8(host.content(name)).expect("UTF-8");
    let line = |line: &str| serde_json::from_str(line).expect("JSON");
    text.lines().map(line).collect()
}

/// What the lines tell of, once so many are there: what is over is written a moment later.
fn events(host: &Host, name: &str, count: usize) -> Vec<Value> {
    until("too few lines", || lines(host, name).len() >= count);
    let found = lines(host, name);
    assert_eq!(found.len(), count, "{found:#?}");
    found
}

fn verify(host: &Host, args: &[&str]) -> Ended {
    host.farpipe(["audit", "verify"]).args(args).run()
}

fn audited(host: &Host) -> Listener {
    let agent = host.agent("ws").args(["--audit-log", "log"]);
    agent.args(["--audit-head", "head"]).start_listening()
}

#[test]
fn who_ran_what_is_written_and_nothing_of_it_can_be_changed_unseen() {
    let host = Host::new();
    let agent = audited(&host);
    let run = |args: &[&str]| host.exec(agent.url()).args(args).run();
    run(&["--env", "LC_TIME=xyzzy", "--", "sh", "-c", "exit 3"]).exits(3);
    run(&["--", "echo", "http://user:xyzzy@there/?token=xyzzy"]).exits(0);
    run(&["--", "no-such-program"]).exits(127);
    let events = events(&host, "log", 8);
    let told: Vec<_> = events.iter().map(|line| line["event"].as_str()).collect();
    let wanted = [
        "opened", "allowed", "started", "ended", "allowed", "started", "ended", "refused",
    ];
    assert_eq!(told, wanted.map(Some));
    let first = &events[1];
    assert_eq!(
        first["what"]["exec"],
        serde_json::json!(["sh", "-c", "exit 3"])
    );
    assert_eq!(first["what"]["variables"], serde_json::json!(["LC_TIME"]));
    assert!(
        first["who"]
            .as_str()
            .is_some_and(|who| who.contains("this user")),
        "{first}"
    );
    assert!(
        first["address"]
            .as_str()
            .is_some_and(|at| at.starts_with("127.0.0.1:")),
        "{first}"
    );
    assert_eq!(first["rule"], "--allow exec");
    assert_eq!(events[3]["status"]["code"], 3);
    assert_eq!(events[3]["stream"], first["stream"]);
    assert!(
        events[7]["why"]
            .as_str()
            .is_some_and(|why| why.contains("no such program"))
    );
    let text = String::from_utf8(host.content("log")).expect("UTF-8");
    assert!(!text.contains("xyzzy"), "{text}");

    let head = String::from_utf8(host.content("head")).expect("UTF-8");
    let whole = ["log", "--head", head.trim()];
    let said = verify(&host, &whole).exits(0);
    let said = String::from_utf8(said.stdout).expect("UTF-8");
    assert!(
        said.starts_with("8 records, as they were written\n"),
        "{said}"
    );
    assert!(
        said.ends_with(&format!("head: {}\n", head.trim())),
        "{said}: {head}"
    );
    let spoil = |lines: Vec<&str>, fault: &str| {
        host.file("spoilt", lines.join("\n") + "\n");
        let args = ["spoilt", "--head", head.trim()];
        let ended = verify(&host, &args).exits(1).printed("");
        assert!(
            ended.stderr.starts_with(&format!("farpipe: {fault}\n")),
            "{}",
            ended.stderr
        );
    };
    let lines: Vec<&str> = text.lines().collect();
    let changed = lines[2].replace("started", "stopped");
    let mut with = lines.clone();
    with[2] = &changed;
    spoil(with, "line 3 was changed");
    let mut with = lines.clone();
    with.remove(4);
    spoil(with, "record 5 is missing before line 5");
    let mut with = lines.clone();
    with.swap(1, 2);
    spoil(with, "record 2 is missing before line 2");
    spoil(
        lines[..6].to_vec(),
        "the end was cut off: records 7 to 8 are missing",
    );
}

/// A limit on the size of files stands for a disk that is full: the last write is cut short, and the next
/// one fails.
#[test]
fn what_cannot_be_written_does_not_start() {
    let host = Host::new();
    let agent = "trap '' XFSZ; ulimit -f 4; exec \"$FARPIPE\" agent --listen ws://127.0.0.1:0 \
                 --allow exec --audit-log log";
    let agent = host.shell(agent).start_listening();
    let ran = host.path("ran").display().to_string();
    let mut started = 0;
    loop {
        let _ = fs::remove_file(host.path("ran"));
        let ended = host.exec(agent.url()).args(["--", "touch", &ran]).run();
        if ended.status.success() {
            started += 1;
            assert!(started < 100, "it has no limit");
            continue;
        }
        ended.exits(125).says(
            "farpipe: the far end refused: that host cannot write its audit log, and does nothing until it \
             can; its own log says why",
        );
        assert!(!host.path("ran").exists(), "it ran");
        break;
    }
    assert!(started > 0);
    agent.stderr_until(|log| log.contains("the audit log log cannot be written: "));
    let said = String::from_utf8(verify(&host, &["log"]).exits(0).stdout).expect("UTF-8");
    assert!(!said.contains("cut"), "what was cut is taken back: {said}");

    // Moved away there is room again, and the chain goes on.
    fs::rename(host.path("log"), host.path("log.1")).expect("ours");
    agent.signal(Signal::HUP);
    until("no new file", || host.path("log").exists());
    host.exec(agent.url())
        .args(["--", "touch", &ran])
        .run()
        .exits(0);
    assert!(host.path("ran").exists());
    events(&host, "log", 3);
    verify(&host, &["log.1", "log"]).exits(0);
    // Without the older file that is seen, and no fault.
    let said = String::from_utf8(verify(&host, &["log"]).exits(0).stdout).expect("UTF-8");
    assert!(
        said.contains("those before it are in other files"),
        "{said}"
    );
}

#[test]
fn a_line_that_a_kill_cut_is_no_tampering() {
    let host = Host::new();
    let agent = audited(&host);
    host.exec(agent.url()).args(["--", "true"]).run().exits(0);
    events(&host, "log", 4);
    agent.kill();
    // What a kill in the middle of a write leaves.
    let whole = host.content("log");
    let torn = [&whole[..], br#"{"seq":5,"time":"20"#].concat();
    host.file("log", &torn);
    let said = String::from_utf8(verify(&host, &["log"]).exits(0).stdout).expect("UTF-8");
    assert!(said.contains("the last line is one of those\n"), "{said}");
    let agent = audited(&host);
    host.exec(agent.url()).args(["--", "true"]).run().exits(0);
    until("no end", || {
        let log = String::from_utf8(host.content("log")).expect("UTF-8");
        log.matches("\"ended\"").count() == 2
    });
    let said = String::from_utf8(verify(&host, &["log"]).exits(0).stdout).expect("UTF-8");
    assert!(
        said.starts_with("8 records, as they were written\n"),
        "{said}"
    );
    assert!(
        said.contains("by a crash: 1\n") && !said.contains("the last"),
        "{said}"
    );
    // A second process would break the chain of the first.
    let second = host.agent("ws").args(["--audit-log", "log"]).run();
    second.exits(125).says(
        "farpipe: log: another process writes to this audit log\nhint: give each process an audit log of its own",
    );
}

#[test]
fn a_relay_writes_who_registers_who_is_refused_and_who_asks_for_whom() {
    let host = certified();
    let relay = host.relay("wss").args(shows("relay"));
    let relay = relay.args(["--audit-log", "log", "--admin-listen", "127.0.0.1:0"]);
    let relay = relay.start_listening();
    let admin = Admin::of(&relay);
    let agent = |name: &str| {
        let agent = host.farpipe(["agent", relay.url(), "--name", "web1", "--allow", "exec"]);
        agent.args(shows(name))
    };
    let first = agent("web1").start_registered(1);
    // A second one of the name takes its place.
    let _second = agent("web1").start_registered(1);
    first.end().exits(125);
    events(&host, "log", 4);
    // Who shows nothing does not get in.
    let stranger = host.farpipe(["exec", "--relay", relay.url(), "web1", "--ca"]);
    let stranger = stranger.args(["farpipe-certs/ca.pem", "--", "true"]).run();
    assert!(!stranger.status.success());
    events(&host, "log", 5);
    let exec = host.farpipe(["exec", "--relay", relay.url(), "web1"]);
    exec.args(shows("alice"))
        .args(["--", "true"])
        .run()
        .exits(0);
    let events = events(&host, "log", 7);
    let told = |n: usize| {
        let line: &Value = &events[n];
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        (text("event"), text("who"), line["what"].to_string())
    };
    let [web1, alice] = ["agent/web1", "client/alice"].map(|who| format!("farpipe://local/{who}"));
    let registers = r#"{"name":"web1","register":"agent"}"#.to_owned();
    assert_eq!(
        told(1),
        ("allowed".to_owned(), web1.clone(), registers.clone())
    );
    assert_eq!(told(2), ("allowed".to_owned(), web1, registers.clone()));
    assert_eq!((told(3).0, told(3).2), ("ended".to_owned(), registers));
    let connects = r#"{"connect":true}"#.to_owned();
    assert_eq!(told(4), ("refused".to_owned(), String::new(), connects));
    let asks = r#"{"attach":"web1"}"#.to_owned();
    assert_eq!(told(5), ("allowed".to_owned(), alice, asks));
    assert_eq!(events[6]["event"], "ended");
    assert_eq!(events[6]["session"], events[5]["session"]);
    let (status, head) = admin.ask("GET", "/audit-head");
    assert_eq!(status, 200);
    verify(&host, &["log", "--head", head.trim()]).exits(0);
}

/// By a disk that is really full: nobody is let in unseen, and all goes on when there is room.
#[test]
fn a_relay_whose_audit_log_has_no_room_lets_nobody_in_until_it_has() {
    let host = Host::new();
    let script = "\"$FARPIPE\" relay --listen ws://127.0.0.1:0 --audit-log audit.log 2> ../log & relay=$!; \
         FARPIPE_RELAY=; while [ -z \"$FARPIPE_RELAY\" ]; do kill -0 $relay || exit 9; \
         FARPIPE_RELAY=$(sed -n 's/^listening on //p' ../log); done; export FARPIPE_RELAY; \
         \"$FARPIPE\" agent \"$FARPIPE_RELAY\" --name web1 --allow exec 2> ../agent & agent=$!; \
         until \"$FARPIPE\" exec web1 -- true 2> ../first; do kill -0 $agent || exit 8; done; \
         dd if=/dev/zero of=filler bs=512 2> /dev/null; \
         n=0; while \"$FARPIPE\" exec web1 -- true 2> ../said; do n=$((n + 1)); [ $n -lt 100 ] || exit 7; done; \
         \"$FARPIPE\" exec web1 -- echo ran; echo \"status $?\"; cat ../said >&2; \
         rm filler; \"$FARPIPE\" exec web1 -- echo again; echo \"status $?\"; \
         \"$FARPIPE\" audit verify audit.log > ../verified; echo \"status $?\"; \
         kill $agent $relay; wait $agent $relay";
    let Some(ended) = host.with_disk("size=64k", script) else {
        return;
    };
    let printed = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(
        printed, "status 125\nagain\nstatus 0\nstatus 0\n",
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("audit log"), "{}", ended.stderr);
}
