//! What is taken back ends what it has begun: certificates and tokens at relays and agents, permissions at
//! agents; and everybody else goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::certs::{certified, shows};
use crate::support::{Host, Invocation, Listener, Running};

/// A command that answers line by line, and has answered once.
#[track_caller]
fn cat(exec: Invocation) -> Running {
    let mut cat = exec.args(["--", "cat"]).open_input().start();
    cat.write("in\n");
    assert_eq!(cat.stdout_until(3), b"in\n");
    cat
}

/// It goes on, up to its end.
#[track_caller]
fn goes_on(mut cat: Running) {
    cat.write("on\n");
    cat.close_input();
    cat.end().exits(0).printed("in\non\n");
}

/// It was ended from the far side, with these words.
#[track_caller]
fn is_ended(cat: Running, words: &str) {
    let ended = cat.end().exits(125);
    assert!(ended.stderr.contains(words), "{}", ended.stderr);
}

fn revoke(host: &Host, names: &[&str]) {
    let certs = names.iter().map(|name| format!("farpipe-certs/{name}.pem"));
    let revoke = host.farpipe(["cert", "-q", "revoke"]).args(certs);
    revoke.run().exits(0);
}

const CRL: [&str; 2] = ["--crl", "farpipe-certs/crl.pem"];

fn exec(host: &Host, relay: &Listener, who: &str) -> Invocation {
    let exec = host.farpipe(["exec", "--relay", relay.url(), "web1"]);
    exec.args(shows(who))
}

#[test]
fn a_relay_cuts_whose_certificate_is_revoked() {
    let host = certified();
    revoke(&host, &[]);
    let relay = host.relay("wss").args(shows("relay")).args(CRL);
    let relay = relay.arg("-v").start_listening();
    let agent = |name| {
        let agent = host.farpipe(["agent", relay.url(), "--allow", "exec"]);
        agent.args(shows(name)).start_registered(1)
    };
    let (_web1, web2) = (agent("web1"), agent("web2"));
    let (alice, bob) = (
        cat(exec(&host, &relay, "alice")),
        cat(exec(&host, &relay, "bob")),
    );
    revoke(&host, &["alice", "web2"]);
    let who = "this session ends: farpipe://local/client/alice: its certificate was revoked";
    is_ended(alice, who);
    let ended = web2.end();
    assert!(!ended.status.success());
    let who = "this session ends: farpipe://local/agent/web2: its certificate was revoked";
    assert!(ended.stderr.contains(who), "{}", ended.stderr);
    goes_on(bob);
}

/// The relay has no list: what is inside is the agent's to judge.
#[test]
fn an_agent_ends_sessions_whose_certificate_inside_is_revoked() {
    let host = certified();
    revoke(&host, &[]);
    let relay = host.relay("wss").args(shows("relay")).start_listening();
    let agent = host.farpipe([
        "agent",
        relay.url(),
        "--allow",
        "exec",
        "--audit-log",
        "log",
    ]);
    let _agent = agent.args(shows("web1")).args(CRL).start_registered(1);
    let (alice, bob) = (
        cat(exec(&host, &relay, "alice")),
        cat(exec(&host, &relay, "bob")),
    );
    revoke(&host, &["alice"]);
    let who = "this session ends: farpipe://local/client/alice: its certificate was revoked";
    is_ended(alice, who);
    goes_on(bob);
}

#[test]
fn a_token_that_is_taken_back_ends_its_session() {
    let host = certified();
    let issue = |name: &str| {
        let id = format!("farpipe://local/client/{name}");
        let issue = host.farpipe(["token", "issue", "-q", "--store", "t.yaml", &id]);
        let token = issue.run().exits(0).stdout;
        let file = host.file(name, &token);
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("ours");
        let token = String::from_utf8(token).expect("text");
        let id = token
            .strip_prefix("fpk1-")
            .and_then(|rest| rest.split('.').next());
        id.expect("an id").to_owned()
    };
    let (alice, _bob) = (issue("alice"), issue("bob"));
    let [.., ca_flag, ca] = shows("relay");
    let agent = host.agent("wss").args(&shows("relay")[..4]);
    let agent = agent.args(["--tokens", "t.yaml"]).start_listening();
    let exec = |name: &str| {
        let exec = host.exec(agent.url()).args(["--token-file", name]);
        cat(exec.args([&ca_flag, &ca]))
    };
    let (by_alice, by_bob) = (exec("alice"), exec("bob"));
    let revoke = host.farpipe(["token", "revoke", "-q", "--store", "t.yaml", &alice]);
    revoke.run().exits(0);
    is_ended(by_alice, "this session ends: token ");
    goes_on(by_bob);
}

#[test]
fn what_the_policy_does_not_allow_any_more_is_ended() {
    let host = certified();
    let policy = |who: &str| {
        let text = format!(
            "rules:\n  - who: farpipe://local/client/{who}\n    exec: any\n    read: {}\n",
            host.dir().display()
        );
        let new = host.file("new", text);
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("ours");
        fs::rename(new, host.path("p.yaml")).expect("ours");
    };
    policy("*");
    let agent = host.strict_agent("wss").args(shows("relay"));
    let agent = agent
        .args(["--policy", "p.yaml", "--audit-log", "log"])
        .start_listening();
    let exec = |who: &str| cat(host.exec(agent.url()).args(shows(who)));
    let (alice, bob) = (exec("alice"), exec("bob"));
    policy("bob");
    // As by a hangup: its own end is told as ever.
    alice.end().exits(129);
    agent.stderr_until(|log| log.contains("the policy does not allow it any more"));
    goes_on(bob);
    let log = String::from_utf8(host.content("log")).expect("UTF-8");
    assert!(log.contains("not allowed any more: "), "{log}");
}
