//! Rows A2, A3 and A8: tokens let in at a real listener, and their secrets are in nobody's log.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::pki::shows;
use crate::support::{Ended, Host, Listener};

const TOLD: &str = "the token is not good here; its log says why";

/// A new token of `store` in the file `name`, and its text.
fn issue(host: &Host, store: &str, name: &str, more: &[&str]) -> String {
    let issue = host.farpipe(["token", "issue", name, "--store", store]);
    let ended = issue.args(more).run().exits(0);
    let file = host.file(name, &ended.stdout);
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("ours");
    String::from_utf8(ended.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

fn id(token: &str) -> &str {
    let id = token.strip_prefix("fpk1-").expect("a token");
    id.split('.').next().expect("an id")
}

fn exec(host: &Host, agent: &Listener, args: &[&str]) -> Ended {
    let exec = host.exec(agent.url()).args(["-vv"]).args(args);
    exec.args(["--", "echo", "in"]).run()
}

#[test]
fn a2_a3_a8_tokens_let_in_and_each_wrong_one_is_told_the_same() {
    let host = Host::new();
    host.usual_certificates();
    let mut secrets = vec![
        issue(&host, "t.yaml", "alice", &[]),
        issue(&host, "t.yaml", "short", &["--expires", "1s"]),
        issue(&host, "t.yaml", "scope", &["--scope", "register"]),
        issue(&host, "t.yaml", "bound", &["--bind", "client.pem"]),
        issue(&host, "t.yaml", "once", &["--once"]),
        issue(&host, "other.yaml", "other", &[]),
    ];
    let [cert, cert_file, key, key_file, ..] = shows("server");
    let agent = host
        .strict_agent("wss")
        .args([cert, cert_file, key, key_file]);
    let agent = agent.args(["--tokens", "t.yaml", "--allow", "exec", "-vv"]);
    let agent = agent.start_listening();
    let mut heard = String::new();
    let mut ca = |args: &[&str]| {
        let ended = exec(&host, &agent, &[&["--ca", "ca.pem"], args].concat());
        heard.push_str(&ended.stderr);
        ended
    };
    ca(&["--token-file", "alice"]).exits(0).printed("in\n");
    ca(&["--token-file", "once"]).exits(0).printed("in\n");
    assert!(ca(&[]).exits(125).stderr.contains("asks for a secret"));
    let revoke = ["token", "revoke", id(&secrets[0]), "--store", "t.yaml"];
    host.farpipe(revoke).run().exits(0);
    for (name, why) in [
        ("alice", "client/alice: revoked"),
        ("once", "client/once: used"),
        ("scope", "client/scope: not for attach"),
        ("bound", "client/bound: bound to another certificate"),
        ("other", "no token has the id"),
    ] {
        let ended = ca(&["--token-file", name]).exits(125).printed("");
        assert!(ended.stderr.contains(TOLD), "{}", ended.stderr);
        agent.stderr_until(|log| log.contains(why));
    }
    // It ends by itself, sooner or later.
    let ended = loop {
        let ended = ca(&["--token-file", "short"]);
        if !ended.status.success() {
            break ended;
        }
    };
    assert!(ended.stderr.contains(TOLD), "{}", ended.stderr);
    agent.stderr_until(|log| log.contains("client/short: expired"));
    // A cut one is none, and one in argv or a URL is not taken.
    let cut = secrets[0][..40].to_owned();
    let file = host.file("cut", &cut);
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("ours");
    assert!(
        ca(&["--token-file", "cut"])
            .exits(125)
            .stderr
            .contains("the token is damaged")
    );
    let text = secrets[0].clone();
    assert!(
        ca(&["--token-file", &text])
            .exits(2)
            .stderr
            .contains("can now see in ps")
    );
    let url = format!("wss://127.0.0.1:1/?token={text}");
    let ended = host.connect(&url).run().exits(2);
    assert!(
        ended.stderr.contains("a token in a URL"),
        "{}",
        ended.stderr
    );
    heard.push_str(&ended.stderr);
    agent.signal(rustix::process::Signal::TERM);
    heard.push_str(&agent.end().exits(143).stderr);
    secrets.push(format!("fpk1-.{}.", &cut[27..]));
    for token in secrets {
        let secret = token.split('.').nth(1).expect("a secret");
        assert!(!heard.contains(secret), "{heard}");
    }
}

/// Another user of this host has no loopback secret, and a token.
#[test]
fn a2_on_loopback_a_token_does_as_well_as_the_secret() {
    let (host, other) = (Host::new(), Host::new());
    issue(&host, "t.yaml", "alice", &[]);
    let agent = host
        .strict_agent("ws")
        .args(["--tokens", "t.yaml", "--allow", "exec", "-v"]);
    let agent = agent.start_listening();
    let token = host.path("alice").display().to_string();
    exec(&other, &agent, &["--token-file", &token])
        .exits(0)
        .printed("in\n");
    agent.stderr_until(|log| log.contains("farpipe://local/client/alice (direct-token)"));
    exec(&other, &agent, &[]).exits(125);
    exec(&host, &agent, &[]).exits(0).printed("in\n");
    // Who takes no tokens says so.
    let plain = host.agent("ws").start_listening();
    let ended = exec(&other, &plain, &["--token-file", &token]).exits(125);
    assert!(
        ended.stderr.contains("this side takes no tokens"),
        "{}",
        ended.stderr
    );
}
