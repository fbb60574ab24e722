//! What an agent's policy lets callers run: real agents, callers, files and programs. Rows A6 and A7.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use rustix::process::Signal;

use crate::support::pki::shows;
use crate::support::{Ended, Host, Listener};

const TOLD: &str =
    "farpipe: the far end refused: the policy of that host does not allow it; its log says why";

/// Writes a policy as a careful editor does.
fn policy(host: &Host, text: &str) {
    let new = host.file("new", text);
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("ours");
    fs::rename(new, host.path("p.yaml")).expect("ours");
}

/// A policy with this for this user.
fn own(host: &Host, keys: &str) {
    policy(host, &format!("rules:\n  - who: self\n    {keys}\n"));
}

fn program(host: &Host, name: &str, script: &str) -> PathBuf {
    let path = host.file(name, format!("#!/bin/sh\n{script}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
    path.canonicalize().expect("it is there")
}

fn guarded(host: &Host) -> Listener {
    let agent = host.strict_agent("ws").args(["--policy", "p.yaml"]);
    agent.start_listening()
}

fn exec(host: &Host, agent: &Listener, args: &[&str]) -> Ended {
    host.exec(agent.url()).args(args).run()
}

#[track_caller]
fn denied(host: &Host, agent: &Listener, args: &[&str], why: &str) {
    exec(host, agent, args).exits(125).printed("").says(TOLD);
    agent.stderr_until(|log| log.contains(why));
}

#[test]
fn an_agent_that_was_told_nothing_allows_nothing_and_says_so() {
    let host = Host::new();
    let agent = host.strict_agent("ws").start_listening();
    let log = agent.stderr_until(|log| log.contains("listening"));
    assert!(
        log.contains("this agent allows nothing: start it with --policy FILE"),
        "{log}"
    );
    let why = "no rule allows this user (loopback-secret) to run /";
    denied(&host, &agent, &["--", "true"], why);
    denied(&host, &agent, &["--sh", "true"], "to use a shell");
    denied(&host, &agent, &["--", "no-such-program"], "no such program");
    agent.stderr_until(|log| log.contains("start the agent with --policy or --allow"));
}

#[test]
fn the_policy_in_its_usual_place_holds_unless_flags_say_what_does() {
    let host = Host::new();
    let (on, off) = (
        program(&host, "on", "echo on"),
        program(&host, "off", "echo off"),
    );
    fs::create_dir_all(host.path("config/farpipe")).expect("ours");
    own(&host, &format!("exec: {}", on.display()));
    fs::rename(host.path("p.yaml"), host.path("config/farpipe/policy.yaml")).expect("ours");
    let [on, off] = [on, off].map(|path| path.display().to_string());
    // Root's is in /etc.
    if !rustix::process::geteuid().is_root() {
        let agent = host.strict_agent("ws").start_listening();
        exec(&host, &agent, &["--", &on]).exits(0).printed("on\n");
        denied(&host, &agent, &["--", &off], "no rule allows");
    }
    own(&host, &format!("exec: {on}"));
    let both = host
        .strict_agent("ws")
        .args(["--policy", "p.yaml", "--allow", "exec"]);
    let both = both.start_listening();
    exec(&host, &both, &["--", &on]).exits(0).printed("on\n");
    exec(&host, &both, &["--", &off]).exits(0).printed("off\n");
}

/// What is asked for is looked up first, and runs as the rule calls it.
#[test]
fn a7_tricks_with_paths_names_and_variables_reach_only_what_a_rule_names() {
    let host = Host::new();
    fs::create_dir(host.path("bin")).expect("ours");
    let tool = program(
        &host,
        "bin/tool",
        "echo \"$0 $*\"; echo \"$EXTRA$LD_PRELOAD\"",
    );
    let other = program(&host, "bin/other", "echo other");
    let dir = host.dir().canonicalize().expect("it is there");
    let dir = dir.display();
    symlink(&tool, host.path("link")).expect("ours");
    symlink(&other, host.path("tool")).expect("ours");
    own(
        &host,
        &format!("exec: {dir}/bin/tool **\n    env: EXTRA\n    cwd: {dir}/bin"),
    );
    // More than ten lines at once are for -v.
    let agent = host.strict_agent("ws").args(["--policy", "p.yaml", "-v"]);
    let agent = agent
        .env("PATH", format!("{dir}/bin:/usr/bin:/bin"))
        .start_listening();
    let at = |path: &str| format!("{dir}/{path}");
    let ran = |args: &[&str], said: &str| {
        let said = format!("{} {said}\n", tool.display());
        exec(&host, &agent, args).exits(0).printed(said);
    };
    // Each of these is the tool, and hears the rule's name as its own.
    ran(&["--", "tool", "a b", "-x"], "a b -x\n");
    ran(&["--", &at("link")], "\n");
    ran(&["--", &at("bin/../bin/tool")], "\n");
    ran(&["--cwd", &at("bin"), "--", "./tool"], "\n");
    ran(&["--cwd", &at("bin"), "--", "../link"], "\n");
    ran(&["--env", "EXTRA=e", "--", "tool"], "\ne");
    // And each of these is not, or asks for more than the rule has.
    let resolved = format!("to run {dir}/bin/other");
    denied(&host, &agent, &["--", "other"], &resolved);
    denied(&host, &agent, &["--", &at("tool")], &resolved);
    denied(&host, &agent, &["--", &at("bin/../tool")], &resolved);
    denied(
        &host,
        &agent,
        &["--cwd", &at("bin"), "--", "../tool"],
        &resolved,
    );
    denied(&host, &agent, &["--", "sh", "-c", "id"], "to run /");
    denied(&host, &agent, &["--sh", "tool"], "to use a shell");
    denied(
        &host,
        &agent,
        &["--", &at("bin/missing")],
        "no such program",
    );
    let directory = "its `cwd` does not list it";
    denied(&host, &agent, &["--cwd", &at(""), "--", "tool"], directory);
    denied(
        &host,
        &agent,
        &["--cwd", &at("bin/.."), "--", "tool"],
        directory,
    );
    denied(
        &host,
        &agent,
        &["--cwd", &at("none"), "--", "tool"],
        "cannot change to the directory",
    );
    for name in [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "PATH",
        "BASH_ENV",
        "PYTHONPATH",
        "GIT_SSH",
    ] {
        let variable = format!("{name}=/x");
        let why = format!("the variable {name}, which no caller may set");
        denied(&host, &agent, &["--env", &variable, "--", "tool"], &why);
    }
    let why = "the variable OTHER, which its `env` does not list";
    denied(&host, &agent, &["--env", "OTHER=1", "--", "tool"], why);
}

#[test]
fn a7_a_mebibyte_of_arguments_is_refused_before_it_is_sent() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let line = format!(
        "\"$FARPIPE\" exec {} -- echo $(yes {} | head -16384)",
        agent.url(),
        "x".repeat(63),
    );
    let ended = host.shell(&line).run().exits(125).printed("");
    assert!(ended.stderr.contains("too long"), "{}", ended.stderr);
}

/// One line for each change, and what held before holds.
#[test]
fn a6_a_policy_that_changes_while_the_agent_runs() {
    let host = Host::new();
    let tool = program(&host, "tool", "echo ran");
    let tool = tool.display().to_string();
    own(&host, &format!("exec: {tool}"));
    let agent = guarded(&host);
    let runs = || {
        exec(&host, &agent, &["--", &tool])
            .exits(0)
            .printed("ran\n")
    };
    runs();
    // Half written: the last good one holds.
    policy(&host, "rules:\n  - who: self\n    exec: [/bin");
    runs();
    agent.stderr_until(|log| log.contains("the last one holds: p.yaml"));
    policy(
        &host,
        "rules:\n  - who: self\n    exec: any\n    exce: /bin/true\n",
    );
    runs();
    agent.stderr_until(|log| log.contains("p.yaml:4:5: unknown key 'exce'"));
    // Empty, gone, or open to others: nothing is allowed.
    let refused = |why: &str| denied(&host, &agent, &["--", &tool], why);
    policy(&host, "");
    refused("no rule allows");
    own(&host, &format!("exec: {tool}"));
    runs();
    fs::remove_file(host.path("p.yaml")).expect("ours");
    refused("the policy cannot be used: p.yaml: cannot be read");
    own(&host, &format!("exec: {tool}"));
    runs();
    fs::set_permissions(host.path("p.yaml"), fs::Permissions::from_mode(0o666)).expect("ours");
    refused("others may write to this policy (mode 0666)");
    // SIGHUP looks at once, and ends nothing.
    policy(&host, "rules: nothing\n");
    agent.signal(Signal::HUP);
    agent.stderr_until(|log| log.contains("p.yaml:1:1: 'rules' is a list"));
    refused("nothing is allowed");
    own(&host, &format!("exec: {tool}"));
    runs();
    agent.signal(Signal::TERM);
    agent.end().exits(143);
}

#[test]
fn a6_an_agent_does_not_start_on_a_policy_that_it_cannot_use() {
    let host = Host::new();
    let start = || {
        let agent = host
            .strict_agent("ws")
            .args(["--policy", "p.yaml", "--allow", "exec"]);
        agent.run().exits(2).said()
    };
    assert!(start().contains("p.yaml: cannot be read"));
    policy(&host, "rules:\n  - who: nobody/x\n    exec: any\n");
    let said = start();
    assert!(said.contains("p.yaml:2:5: 'who'"), "{said}");
    for wrong in [
        "everything",
        "exec:x",
        "read:a",
        "read:/a/../b",
        "connect:5",
    ] {
        host.strict_agent("ws")
            .args(["--allow", wrong])
            .run()
            .exits(2);
    }
    host.strict_agent("ws")
        .args(["--allow", "exec", "--allow-env", "LD_X"])
        .run()
        .exits(2);
    host.strict_agent("ws")
        .args(["--allow-env", "X"])
        .run()
        .exits(2);
}

/// A certificate's name is compared whole, and SIGHUP without a file ends the agent.
#[test]
fn rules_are_for_who_the_certificate_says() {
    let host = Host::new();
    host.usual_certificates();
    host.certificates(
        r#"
        issue other ca '1 hour ago' '30 days' $both "$(here client2)"
        issue nameless ca '1 hour ago' '30 days' $both subjectAltName=IP:127.0.0.1
        "#,
    );
    policy(
        &host,
        "rules:\n  - who: farpipe://test/client/client\n    exec: any\n",
    );
    let agent = host
        .strict_agent("wss")
        .args(shows("server"))
        .args(["--policy", "p.yaml"]);
    let agent = agent.start_listening();
    let exec = |agent: &Listener, name: &str| {
        let exec = host.exec(agent.url()).args(shows(name));
        exec.args(["--", "echo", "in"]).run()
    };
    exec(&agent, "client").exits(0).printed("in\n");
    for (name, who) in [
        ("other", "farpipe://test/client/client2 (direct-cert)"),
        ("nameless", "somebody without a name (direct-cert)"),
    ] {
        exec(&agent, name).exits(125).says(TOLD);
        agent.stderr_until(|log| log.contains(&format!("denied to {who}: no rule allows")));
    }
    let agent = host
        .strict_agent("wss")
        .args(shows("server"))
        .args(["--allow", "exec"]);
    let agent = agent.start_listening();
    for name in ["client", "other", "nameless"] {
        exec(&agent, name).exits(0).printed("in\n");
    }
    agent.signal(Signal::HUP);
    agent.end().exits(129);
}

/// Whoever lost what allowed a command cannot go on giving it input.
#[test]
fn what_is_not_allowed_any_more_cannot_be_joined_any_more() {
    let host = Host::new();
    own(&host, "exec: any");
    let agent = guarded(&host);
    let ended = exec(&host, &agent, &["-d", "--", "sh"]).exits(0);
    let id = String::from_utf8(ended.stdout).expect("an id");
    own(&host, "exec: /bin/true");
    let attach = host.farpipe(["attach", agent.url(), id.trim()]);
    let attach = attach.input("echo in\n").run();
    attach.exits(125).printed("").says(TOLD);
    // To end it is still its caller's right.
    let kill = ["kill", agent.url(), id.trim(), "-s", "KILL"];
    host.farpipe(kill).run().exits(0);
}
