//! `farpipe policy`: what an agent's policy would decide, by real files and programs.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use crate::support::{Ended, Host};

const ALICE: &str = "farpipe://example.org/client/alice";
const BOB: &str = "farpipe://example.org/client/bob";

/// A host with programs `bin/tool` and `bin/other`, and a policy for Alice.
fn scene() -> Host {
    let host = Host::new();
    std::fs::create_dir(host.path("bin")).expect("ours");
    std::fs::create_dir(host.path("data")).expect("ours");
    for name in ["bin/tool", "bin/other"] {
        let tool = host.file(name, "#!/bin/sh\n");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(tool, executable).expect("ours");
    }
    host.file("data/a", "");
    host.file("secret", "");
    let dir = host.dir().canonicalize().expect("there");
    let dir = dir.display();
    write(
        &host,
        &format!(
            "rules:\n  - who: {ALICE}\n    exec:\n      - {dir}/bin/tool log *\n    read: {dir}/data\n    \
             connect: 'db:5432'\n    env: BUILD_*\n"
        ),
    );
    host
}

fn write(host: &Host, text: &str) {
    let path = host.file("p.yaml", text);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("ours");
}

#[track_caller]
fn test(host: &Host, who: &str, args: &[&str]) -> Ended {
    let all = ["policy", "test", "--as", who, "--policy", "p.yaml"];
    let path = format!("{}:/usr/bin:/bin", host.path("bin").display());
    host.farpipe(all).args(args).env("PATH", path).run()
}

#[track_caller]
fn allowed(host: &Host, who: &str, args: &[&str], by: &str) {
    let ended = test(host, who, args).exits(0).says("");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(said.starts_with(&format!("allowed by {by}")), "{said}");
}

#[track_caller]
fn denied(host: &Host, who: &str, args: &[&str], why: &str) {
    let ended = test(host, who, args).exits(1).says("");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(said.starts_with("denied: ") && said.contains(why), "{said}");
}

#[test]
fn a_decision_names_its_rule_and_the_status_is_the_answer() {
    let host = scene();
    allowed(
        &host,
        ALICE,
        &["exec", "tool", "log", "x"],
        "p.yaml:4:9, run as /",
    );
    allowed(
        &host,
        ALICE,
        &["read", &host.path("data/a").display().to_string()],
        "p.yaml:5:5, beneath /",
    );
    allowed(&host, ALICE, &["connect", "db:5432"], "p.yaml:6:5\n");
    allowed(
        &host,
        ALICE,
        &["--env", "BUILD_ID=7", "exec", "tool", "log", "x"],
        "p.yaml:4:9",
    );
    denied(
        &host,
        ALICE,
        &["connect", "db:22"],
        "no rule allows farpipe://example.org/client/alice (e2e-cert) to connect to db:22",
    );
    denied(&host, ALICE, &["shell"], "no rule allows");
    denied(
        &host,
        ALICE,
        &["exec", "tool", "log", "--x"],
        "no rule allows",
    );
    denied(
        &host,
        ALICE,
        &["--shown", "relay", "exec", "tool", "log", "x"],
        "p.yaml:4:9 would allow it, but nothing but a relay",
    );
    allowed(
        &host,
        ALICE,
        &["--shown", "direct", "exec", "tool", "log", "x"],
        "p.yaml:4:9",
    );
    allowed(
        &host,
        "self",
        &["--allow", "exec", "exec", "other", "--flag"],
        "--allow exec\n",
    );
}

#[test]
fn a5_nobody_gets_what_a_rule_gives_another() {
    let host = scene();
    for who in [
        BOB,
        "farpipe://example.org/agent/alice",
        "farpipe://example.com/client/alice",
        "self",
    ] {
        denied(&host, who, &["connect", "db:5432"], "no rule allows");
    }
}

#[test]
fn a4_who_asks_is_one_identity_or_nobody() {
    let host = scene();
    for who in [
        "alice",
        "farpipe://example.org/client/a,b",
        "farpipe://example.org/client/*",
        "farpipe://example.org/ca/root",
        "farpipe://example.org/client/Alice",
        "farpipe://example.org/client/a\nb",
    ] {
        test(&host, who, &["connect", "db:5432"])
            .exits(2)
            .printed("");
        let issue = host.farpipe(["token", "issue", "--store", "t.yaml", who]);
        if who != "alice" {
            issue.run().exits(2).printed("");
        }
    }
    assert!(!host.path("t.yaml").exists());
    host.farpipe(["cert", "init"]).run().exits(0);
    for name in ["a,b", "a/b", "*", "..", "Alice", "a\nb", "\u{430}lice", ""] {
        host.farpipe(["cert", "issue", name])
            .run()
            .exits(2)
            .printed("");
        let token = host.farpipe(["token", "issue", "--store", "t.yaml", name]);
        token.run().exits(2).printed("");
    }
}

#[test]
fn a7_tricks_with_paths_and_variables_are_denied() {
    let host = scene();
    let (bin, data) = (host.path("bin"), host.path("data"));
    symlink(host.path("secret"), data.join("way")).expect("ours");
    symlink(bin.join("other"), bin.join("link")).expect("ours");
    symlink(bin.join("tool"), host.path("to-tool")).expect("ours");
    let text = |path: std::path::PathBuf| path.display().to_string();
    denied(
        &host,
        ALICE,
        &["read", &text(data.join("way"))],
        "no rule allows",
    );
    denied(
        &host,
        ALICE,
        &["read", &text(data.join("../secret"))],
        "no rule allows",
    );
    denied(
        &host,
        ALICE,
        &["exec", "link", "log", "x"],
        "/bin/other with 2 arguments",
    );
    denied(
        &host,
        ALICE,
        &["exec", &text(bin.join("../bin/other")), "log", "x"],
        "no rule allows",
    );
    denied(
        &host,
        ALICE,
        &["--env", "LD_PRELOAD=/tmp/x.so", "exec", "tool", "log", "x"],
        "LD_PRELOAD, which no caller may set",
    );
    denied(
        &host,
        ALICE,
        &["--env", "PATH=/tmp", "exec", "tool", "log", "x"],
        "PATH, which no caller may set",
    );
    denied(
        &host,
        ALICE,
        &["--env", "JOB=1", "exec", "tool", "log", "x"],
        "JOB, which its `env` does not list",
    );
    denied(
        &host,
        ALICE,
        &["--cwd", "/tmp", "exec", "tool", "log", "x"],
        "its `cwd` does not list it",
    );
    // However it is reached, it is the program that the rule names.
    allowed(
        &host,
        ALICE,
        &["exec", &text(host.path("to-tool")), "log", "x"],
        "p.yaml:4:9",
    );
    allowed(
        &host,
        ALICE,
        &["exec", &text(bin.join("../bin/tool")), "log", "x"],
        "p.yaml:4:9",
    );
    test(&host, ALICE, &["exec", "bin/tool"])
        .exits(2)
        .printed("");
    test(&host, ALICE, &["exec", "missing"])
        .exits(2)
        .printed("");
    test(&host, ALICE, &["read", "data/a"]).exits(2).printed("");
}

#[test]
fn a6_a_policy_that_cannot_be_used_is_told_with_line_and_column() {
    let host = scene();
    let check = |text: &str| {
        write(&host, text);
        host.farpipe(["policy", "check", "p.yaml"]).run()
    };
    check("rules:\n  - who: self\n    exec: any\n")
        .exits(0)
        .says("p.yaml: ok, 1 thing allowed\n");
    check("").exits(0).says("p.yaml: ok, allows nothing\n");
    denied(&host, "self", &["shell"], "no rule allows");
    check("rules:\n  - who: self\n    exce: any\n").exits(2).says(
        "farpipe: p.yaml:3:5: unknown key 'exce'\nhint: known here: who, exec, shell, read, write, connect, listen, \
         publish, subscribe, env, cwd\n",
    );
    test(&host, ALICE, &["shell"]).exits(2).printed("");
    check("rules:\n  - who: self\n    read: /").exits(2).says(
        "farpipe: p.yaml: the last line has no end: is the file still being written?\nhint: end it with a newline\n",
    );
    let open = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(host.path("p.yaml"), open).expect("ours");
    host.farpipe(["policy", "check", "p.yaml"]).run().exits(2).says(
        "farpipe: p.yaml: others may write to this policy (mode 0666)\nhint: chmod go-w p.yaml\n",
    );
    std::fs::remove_file(host.path("p.yaml")).expect("ours");
    test(&host, ALICE, &["shell"]).exits(2).printed("");
}

#[test]
fn the_usual_policy_is_in_the_users_settings() {
    let host = Host::new();
    std::fs::create_dir(host.path("farpipe")).expect("ours");
    let path = host.file(
        "farpipe/policy.yaml",
        "rules:\n  - who: self\n    shell: true\n",
    );
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("ours");
    let test = host.farpipe(["policy", "test", "--as", "self", "shell"]);
    let ended = test.env("XDG_CONFIG_HOME", host.dir()).run().exits(0);
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(said.ends_with("/farpipe/policy.yaml:3:5\n"), "{said}");
}
