//! What relays and agents give up before they listen (docs/decisions/0021-sandbox.md), and that they still have what
//! they need.
//! What is denied is shown by the tests of crates/sandbox, in a process that tries it.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::process::Signal;

use crate::support::certs::{certified, shows};
use crate::support::process::{is_alive, pid, until};
use crate::support::relay::Admin;
use crate::support::{Host, Listener, Running};

/// The lines of all threads of a process that begin so.
fn of_all_threads(process: &Running, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).expect("it runs");
    let statuses = tasks.map(|task| {
        let path = task.expect("a thread").path().join("status");
        fs::read_to_string(path).expect("its status")
    });
    let line = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.expect("there").trim().to_owned()
    };
    statuses.map(line).collect()
}

#[test]
fn a_relay_closes_all_its_threads_before_it_listens() {
    let host = Host::new();
    let relay = "\"$FARPIPE\" relay -v --listen ws://localhost:0 --status-fd 3 3>events";
    let relay = host.shell(&format!("exec {relay}")).start_listening();
    let (calls, programs) = (
        of_all_threads(&relay, "Seccomp:"),
        of_all_threads(&relay, "NoNewPrivs:"),
    );
    // The runtime's, stderr's, the events'.
    assert!(calls.len() >= 3, "{calls:?}");
    assert!(calls.iter().all(|mode| mode == "2"), "{calls:?}");
    assert!(programs.iter().all(|is_so| is_so == "1"), "{programs:?}");
    let said = relay.stderr_until(|text| text.contains("listening on "));
    let (before, _) = said.split_once("listening on ").expect("waited for");
    assert!(before.contains("sandbox: landlock: version "), "{said}");
    assert!(before.contains("seccomp: yes"), "{said}");
    until("no event", || host.content("events").contains(&b'\n'));
    let events = String::from_utf8(host.content("events")).expect("UTF-8");
    let first: serde_json::Value =
        serde_json::from_str(events.lines().next().expect("one")).expect("JSON");
    assert_eq!(first["event"], "sandbox");
    assert_eq!(first["seccomp"], true);
    assert!(
        first["landlock"]
            .as_u64()
            .is_some_and(|version| version > 0)
    );

    let open = host.relay("ws").arg("--no-sandbox").start_listening();
    assert!(
        of_all_threads(&open, "Seccomp:")
            .iter()
            .all(|mode| mode == "0")
    );
}

/// In directories of their own: certificates behind links that are swapped, as Kubernetes has them; tokens, of
/// which one is used up; the audit log, which is moved away.
#[test]
fn what_a_closed_relay_reads_and_writes_is_open_to_it() {
    let host = certified();
    let dir = |name: &str| fs::create_dir(host.path(name)).expect("a directory");
    for name in ["links", "links/one", "links/two", "let-in", "log"] {
        dir(name);
    }
    for (name, one, two) in [("cert", "relay", "web1"), ("key", "relay-key", "web1-key")] {
        let copy = |of: &str, to: &str| {
            let from = host.path(&format!("farpipe-certs/{of}.pem"));
            fs::copy(from, host.path(&format!("{to}/{name}.pem"))).expect("a copy");
        };
        copy(one, "links/one");
        copy(two, "links/two");
        let link = host.path(&format!("links/{name}.pem"));
        symlink(format!("now/{name}.pem"), link).expect("a link");
    }
    let lead_to = |to: &str| {
        symlink(to, host.path("links/new")).expect("a link");
        fs::rename(host.path("links/new"), host.path("links/now")).expect("swapped");
    };
    lead_to("one");
    let issued = host.farpipe([
        "token",
        "issue",
        "carol",
        "-q",
        "--once",
        "--store",
        "let-in/tokens.yaml",
    ]);
    host.file("carol", issued.run().exits(0).stdout);
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(host.path("carol"), private).expect("ours");
    let relay = host.farpipe(["relay", "-v", "--listen", "wss://127.0.0.1:0"]);
    let relay = relay
        .args(["--cert", "links/cert.pem", "--key", "links/key.pem"])
        .args([
            "--ca",
            "farpipe-certs/ca.pem",
            "--tokens",
            "let-in/tokens.yaml",
        ])
        .args(["--audit-log", "log/audit"])
        .start_listening();
    let ls = |shown: &[String]| {
        let ls = host.farpipe(["ls", "--relay", relay.url()]).args(shown);
        ls.run()
    };
    ls(&shows("alice")).exits(0);
    let token = ["--ca", "farpipe-certs/ca.pem", "--token-file", "carol"].map(str::to_owned);
    ls(&token).exits(0);
    // Used up, which is in the file.
    ls(&token).exits(125);
    relay.stderr_until(|text| text.contains("client/carol: used"));
    // An agent's certificate is no relay's.
    lead_to("two");
    ls(&shows("alice")).exits(125);
    lead_to("one");
    ls(&shows("alice")).exits(0);

    fs::rename(host.path("log/audit"), host.path("log/audit.1")).expect("ours");
    relay.signal(Signal::HUP);
    until("no new log", || host.path("log/audit").exists());
    relay.signal(Signal::TERM);
    relay.end().exits(0);
}

/// What a relay was not told of when it began stays closed.
#[test]
fn a_new_door_with_certificates_elsewhere_needs_a_relay_started_anew() {
    let host = certified();
    for name in ["settings", "elsewhere"] {
        fs::create_dir(host.path(name)).expect("a directory");
    }
    for name in ["relay", "relay-key", "ca"] {
        let from = host.path(&format!("farpipe-certs/{name}.pem"));
        fs::copy(from, host.path(&format!("elsewhere/{name}.pem"))).expect("a copy");
    }
    let configure = |certificates: &str, doors: &[&str]| {
        let mut text = format!(
            "relay:\n  tls:\n    cert_file: {0}/relay.pem\n    key_file: {0}/relay-key.pem\n    ca_file: {0}/ca.pem\n  listen:\n",
            host.path(certificates).display()
        );
        for door in doors {
            text += &format!("    - {door}\n");
        }
        host.file("settings/relay.yaml", text);
    };
    configure("farpipe-certs", &["wss://127.0.0.1:0"]);
    let relay = host.farpipe(["--config", "settings/relay.yaml", "relay"]);
    let relay = relay
        .args(["--admin-listen", "127.0.0.1:0"])
        .start_listening();
    let admin = Admin::of(&relay);
    configure("elsewhere", &["wss://127.0.0.1:0", "fps://127.0.0.1:0"]);
    let (status, body) = admin.ask("POST", "/reload");
    assert_eq!(status, 422, "{body}");
    assert!(
        body.contains("its mode allows it, and a sandbox does not"),
        "{body}"
    );
    assert!(body.contains("start it anew"), "{body}");
    configure("farpipe-certs", &["wss://127.0.0.1:0", "fps://127.0.0.1:0"]);
    // Told, or seen by itself.
    admin.json("POST", "/reload");
    relay.stderr_until(|text| text.contains("listening on fps://"));
}

/// What an agent may read and write it can, with modes and times, through rotations; what its policy allows later is
/// not allowed, though the file says so.
#[test]
fn an_agent_without_commands_keeps_what_its_policy_names_when_it_begins() {
    let host = Host::new();
    for name in ["settings", "out", "in", "later"] {
        fs::create_dir(host.path(name)).expect("a directory");
    }
    let private = || std::os::unix::fs::PermissionsExt::from_mode(0o600);
    let policy = |more: &str| {
        let dir = host.dir().canonicalize().expect("it is there");
        let dir = dir.display();
        let rules = format!("  - who: self\n    read: {dir}/out\n    write: {dir}/in\n{more}");
        let new = host.file("settings/new", format!("rules:\n{rules}"));
        fs::set_permissions(&new, private()).expect("ours");
        fs::rename(new, host.path("settings/policy.yaml")).expect("ours");
    };
    policy("");
    let agent = host
        .strict_agent("ws")
        .args(["-v", "--policy", "settings/policy.yaml", "--sandbox"])
        .start_listening();
    let modes = of_all_threads(&agent, "Seccomp:");
    assert!(modes.iter().all(|mode| mode == "2"), "{modes:?}");
    let said = agent.stderr_until(|text| text.contains("listening on "));
    assert!(said.contains("sandbox: landlock: version "), "{said}");

    // cp, both ways.
    host.file("out/data", "content");
    fs::set_permissions(host.path("out/data"), private()).expect("ours");
    let there = |path: &str| format!("[{}]:{}", agent.url(), host.path(path).display());
    let cp = |from: &str, to: &str| host.farpipe(["cp", "-q", from, to]).run();
    cp(&there("out/data"), "copy").exits(0);
    assert_eq!(host.content("copy"), b"content");
    cp("copy", &there("in/copy")).exits(0);
    assert_eq!(host.content("in/copy"), b"content");

    // More is allowed, and not to this process.
    let dir = host.dir().canonicalize().expect("it is there");
    policy(&format!(
        "    exec: /bin/true\n  - who: self\n    write: {}/later\n",
        dir.display()
    ));
    agent.signal(Signal::HUP);
    let told = "takes effect when this agent is started anew: its sandbox is closed to that";
    let log = agent.stderr_until(|text| text.matches(told).count() >= 2);
    assert!(log.contains("policy.yaml:5:"), "{log}");
    assert!(log.contains("policy.yaml:7:"), "{log}");
    let refused = host.exec(agent.url()).args(["--", "/bin/true"]).run();
    let refused = refused.exits(125).said();
    assert!(
        refused.contains("the policy of that host does not allow it"),
        "{refused}"
    );
    cp("copy", &there("later/copy")).exits(125);
    cp("copy", &there("in/again")).exits(0);
    agent.signal(Signal::TERM);
    agent.end();
    let agent = host
        .strict_agent("ws")
        .args(["-v", "--policy", "settings/policy.yaml"])
        .start_listening();
    agent.stderr_until(|text| text.contains("sandbox: none, for the policy names files"));
    assert!(
        of_all_threads(&agent, "Seccomp:")
            .iter()
            .all(|mode| mode == "0")
    );
    host.exec(agent.url())
        .args(["--", "/bin/true"])
        .run()
        .exits(0);
}

/// A rule of a sandbox holds a directory and not its name.
#[test]
fn an_agent_that_serves_files_serves_what_takes_their_place() {
    let host = Host::new();
    let dir = host.path("in");
    fs::create_dir(&dir).expect("a directory");
    let allow = format!(
        "write:{}",
        host.dir()
            .canonicalize()
            .expect("it is there")
            .join("in")
            .display()
    );
    let agent = host
        .strict_agent("ws")
        .args(["-v", "--allow", &allow])
        .start_listening();
    agent.stderr_until(|text| text.contains("sandbox: none, for the policy names files"));
    fs::remove_dir(&dir).expect("ours");
    fs::create_dir(&dir).expect("ours");
    host.file("file", "content");
    let there = format!("[{}]:{}", agent.url(), host.path("in/file").display());
    host.farpipe(["cp", "-q", "file", &there]).run().exits(0);
    assert_eq!(host.content("in/file"), b"content");
}

/// An agent of this user's whose policy has these commands; its own process, and the one that starts them.
fn with_commands(host: &Host, exec: &str, more: &[&str]) -> (Listener, u32) {
    fs::create_dir(host.path("settings")).expect("a directory");
    let policy = host.file(
        "settings/policy.yaml",
        format!("rules:\n  - who: self\n    exec: {exec}\n"),
    );
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(policy, private).expect("ours");
    let agent = host
        .strict_agent("ws")
        .args(["-v", "--policy", "settings/policy.yaml"])
        .args(more)
        .start_listening();
    let said = agent.stderr_until(|text| text.contains("listening on "));
    assert!(said.contains("sandbox: landlock: version "), "{said}");
    let modes = of_all_threads(&agent, "Seccomp:");
    assert!(modes.iter().all(|mode| mode == "2"), "{modes:?}");
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", agent.id()));
    let spawner = children.expect("it runs").trim().parse().expect("one");
    (agent, spawner)
}

const COMMANDS: &str = "[/bin/cat, /bin/sh -c *, /usr/bin/tty, /bin/sleep *]";

#[test]
fn an_agent_with_commands_is_closed_and_they_are_not() {
    let host = Host::new();
    let (agent, spawner) = with_commands(&host, COMMANDS, &[]);
    let status = fs::read_to_string(format!("/proc/{spawner}/status")).expect("it runs");
    assert!(status.contains("\nSeccomp:\t0\n"), "{status}");
    let exec = |line: &str| host.exec(agent.url()).args(["--", "/bin/sh", "-c", line]);
    exec("cat; echo e >&2; exit 7")
        .input("in")
        .run()
        .exits(7)
        .printed("in")
        .says("e\n");
    // What the agent itself cannot do.
    let made = host.path("made").display().to_string();
    let line = format!("grep -h ^Seccomp: /proc/self/status; echo x > {made} && cat {made}");
    exec(&line).run().exits(0).printed("Seccomp:\t0\nx\n");
    exec("kill -9 $$").run().exits(137);
    let terminal = host
        .exec(agent.url())
        .args(["-t", "--", "/usr/bin/tty"])
        .run();
    let terminal = terminal.exits(0).stdout;
    assert!(terminal.starts_with(b"/dev/pts/"), "{terminal:?}");
    host.exec(agent.url())
        .args(["--", "/bin/sleep"])
        .run()
        .exits(125);
    let id = host
        .exec(agent.url())
        .args(["-d", "--", "/bin/sh", "-c", "exit 5"])
        .run()
        .exits(0)
        .stdout;
    let id = String::from_utf8(id).expect("an id");
    host.farpipe(["wait", agent.url(), id.trim()])
        .run()
        .exits(5);
    let children = format!("/proc/{spawner}/task/{spawner}/children");
    until("a child of the spawner's is left", || {
        fs::read(&children).is_ok_and(|children| children.is_empty())
    });
}

/// Asks a process that starts commands, as a closed agent does: what it says.
fn ask_spawner(host: &Host, words: &[&str]) -> String {
    use std::io::{IoSlice, Read as _};
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd as _, OwnedFd};
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::CommandExt as _;

    use rustix::net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
        SocketType,
    };

    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let pair = rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.expect("a pair");
    let mut spawner = std::process::Command::new(env!("CARGO_BIN_EXE_farpipe"));
    spawner
        .arg0("farpipe-spawn")
        .args(["agent", "--listen", "ws://127.0.0.1:0"])
        .args(["--policy", "settings/policy.yaml"])
        .current_dir(host.dir())
        .stdin(theirs);
    let mut spawner = spawner.spawn().expect("it starts");
    let (mut leash, far) = UnixStream::pair().expect("a pair");
    let null: OwnedFd = fs::File::open("/dev/null").expect("there").into();
    // The message of docs/protocol.md section 3, whose first field is the words.
    let field = |word: &&str| [&[0x0a, word.len() as u8], word.as_bytes()].concat();
    let asked: Vec<u8> = words.iter().flat_map(field).collect();
    let fds = [far.as_fd(), null.as_fd(), null.as_fd(), null.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    assert!(rights.push(SendAncillaryMessage::ScmRights(&fds)));
    let flags = SendFlags::NOSIGNAL;
    rustix::net::sendmsg(&ours, &[IoSlice::new(&asked)], &mut rights, flags).expect("it is asked");
    drop(far);
    let mut answer = [0; 1024];
    let len = leash.read(&mut answer).expect("an answer");
    // Without an agent it ends.
    drop(ours);
    assert!(spawner.wait().expect("ours").success());
    match answer[..len] {
        [b'p', ..] => "started".to_owned(),
        [b'f', ref why @ ..] => String::from_utf8_lossy(why).into_owned(),
        ref other => panic!("{other:?}"),
    }
}

/// By itself, since whoever asks may not be the agent any more that it was.
#[test]
fn what_starts_commands_asks_the_policy_itself() {
    let host = Host::new();
    let (agent, _) = with_commands(&host, "/bin/cat", &[]);
    host.exec(agent.url())
        .args(["--", "/bin/cat"])
        .run()
        .exits(0);
    // Past the agent.
    let anything = ask_spawner(&host, &["/bin/echo", "x"]);
    assert!(anything.contains("no rule allows"), "{anything}");
    assert!(ask_spawner(&host, &["/bin/cat", "/etc/passwd"]).contains("no rule allows"));
    assert_eq!(ask_spawner(&host, &["/bin/cat"]), "started");
}

#[test]
fn commands_end_with_a_closed_agent() {
    let host = Host::new();
    let (agent, spawner) = with_commands(&host, COMMANDS, &[]);
    let exec = host.exec(agent.url()).args(["--", "/bin/sh", "-c"]);
    let sleeping = exec.arg("echo $$; exec sleep 1000").start();
    sleeping.stdout_until(2);
    let command = pid(&sleeping.printed_so_far());
    agent.kill();
    until("a command outlives its agent", || !is_alive(command));
    let spawner = pid(&spawner.to_string());
    until("a spawner outlives its agent", || !is_alive(spawner));
    sleeping.kill();
}

#[test]
fn a_closed_agent_ends_without_what_starts_its_commands() {
    let host = Host::new();
    let (agent, spawner) = with_commands(&host, COMMANDS, &[]);
    let spawner = pid(&spawner.to_string());
    rustix::process::kill_process(spawner, Signal::KILL).expect("ours");
    let ended = agent.end().exits(125);
    assert!(
        ended
            .stderr
            .contains("what starts the commands of this agent is gone: start it anew"),
        "{}",
        ended.stderr
    );
}

#[test]
fn an_agent_that_lets_somebody_run_anything_is_closed_if_it_is_told_to() {
    let host = Host::new();
    let agent = host
        .strict_agent("ws")
        .args(["-v", "--allow", "exec"])
        .start_listening();
    agent.stderr_until(|text| {
        text.contains("sandbox: none, for the policy lets somebody run anything")
    });
    let host = Host::new();
    let agent = host
        .strict_agent("ws")
        .args(["-v", "--allow", "exec", "--sandbox"])
        .start_listening();
    agent.stderr_until(|text| text.contains("sandbox: landlock: version "));
    host.exec(agent.url())
        .args(["--sh", "echo $0"])
        .run()
        .exits(0)
        .printed("sh\n");
}

#[test]
fn an_agent_for_its_users_commands_alone_is_closed_and_serves_them() {
    let host = Host::new();
    let far = host.agent("ws").arg("--no-reuse").start_listening();
    let local = host.farpipe(["agent", "-v", "--client-only"]).start();
    local.stderr_until(|text| text.contains("taking this user's commands at "));
    assert!(
        of_all_threads(&local, "Seccomp:")
            .iter()
            .all(|mode| mode == "2")
    );
    let exec = host.exec(far.url()).env("FARPIPE_NO_REUSE", "0");
    let ended = exec
        .args(["-v", "--", "echo", "in"])
        .run()
        .exits(0)
        .printed("in\n");
    assert!(
        ended.stderr.contains("by the local agent to "),
        "{}",
        ended.stderr
    );
}

/// What is said before there is a sandbox starts no thread, which would be in its way.
#[test]
fn an_agent_that_has_something_to_say_first_is_closed_and_says_it() {
    let host = Host::new();
    let agent = host.strict_agent("ws").arg("-v").start_listening();
    let said = agent.stderr_until(|text| text.contains("listening on "));
    let first = said.find("this agent allows nothing").expect("a warning");
    let closed = said
        .find("sandbox: landlock: version ")
        .expect("what is closed");
    assert!(first < closed, "{said}");
}
