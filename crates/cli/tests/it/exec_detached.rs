//! `farpipe exec -d`, `ps`, `attach`, `wait` and `kill`: a command that goes on without its caller.

use std::fs;

use farpipe_faultproxy::{Cut, Dir, Fault, How, Plan, When};
use rustix::process::Signal;

use crate::support::process::{await_death, is_alive, pid, until};
use crate::support::{Faults, Host, Running, assert_same, random};

/// Starts `script`, and returns its id.
fn detach(host: &Host, url: &str, flags: &[&str], script: &str) -> String {
    let exec = host.exec(url).arg("-d").args(flags);
    let ended = exec.args(["--", "sh", "-c", script]).run().exits(0);
    assert_eq!(ended.stderr, "");
    let id = String::from_utf8(ended.stdout).expect("an id");
    let id = id.strip_suffix('\n').expect("a line").to_owned();
    assert!(!id.contains('\n'), "{id}");
    id
}

/// What `ps --json` says of all commands.
fn listed(host: &Host, url: &str) -> Vec<serde_json::Value> {
    let ended = host.farpipe(["ps", url, "--json"]).run().exits(0);
    let text = String::from_utf8(ended.stdout).expect("JSON");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn a_detached_command_is_started_listed_joined_and_waited_for() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let url = agent.url();
    let script = "echo out; echo err >&2; read x; echo \"got $x\"; exit 7";
    let id = detach(&host, url, &[], script);
    until("its output does not wait", || {
        listed(&host, url)[0]["kept"] == 8
    });
    let shown = &listed(&host, url)[0];
    assert_eq!(shown["id"], *id);
    assert_eq!(shown["state"], "running");
    assert_eq!(shown["command"], format!("sh -c {script}"));
    assert!(is_alive(pid(&shown["pid"].to_string())));
    let attach = host.farpipe(["attach", url, &id]).input("a line\n");
    let ended = attach.run().exits(7);
    ended.says("err\n").printed("out\ngot a line\n");
    host.farpipe(["wait", url, &id]).run().exits(7).printed("");
    // Its output is gone, its status is not.
    let again = host.farpipe(["attach", url, &id]).run().exits(7);
    again.says("").printed("");
    assert_eq!(listed(&host, url)[0]["status"], 7);
    let unknown = host.farpipe(["wait", url, "nobody"]).run().exits(125);
    unknown.says("farpipe: the far end refused: no detached command here has the id 'nobody'; farpipe ps lists them\n");
}

#[test]
fn x5_one_that_cannot_run_is_127_126_or_125_and_no_id_is_printed() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    for (args, status) in [
        (&["--", "no-such-command"][..], 127),
        (&["--", "/etc/passwd"], 126),
        (&["--cwd", "/no/such", "--", "true"], 125),
    ] {
        let exec = host.exec(agent.url()).arg("-d").args(args);
        exec.run().exits(status).printed("");
    }
    assert!(listed(&host, agent.url()).is_empty());
}

#[test]
fn x8_the_same_request_again_starts_nothing_however_often_the_link_is_cut() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let cut = |dir, at| Fault::new(When::Byte { dir, at }, How::Cut(Cut::Reset));
    let plan = Plan {
        faults: vec![cut(Dir::Up, 200..=900), cut(Dir::Down, 200..=900)],
        connections: 0..=5,
        ..Plan::default()
    };
    let faults = Faults::between(&agent, plan);
    let ran = host.path("ran");
    let script = format!("echo ran >>{}; exec sleep 1000", ran.display());
    for _ in 0..3 {
        let id = detach(&host, &faults.url(), &["-q", "--id", "job.1"], &script);
        assert_eq!(id, "job.1");
    }
    until("it did not run", || ran.exists());
    let other = host
        .exec(agent.url())
        .args(["-d", "--id", "job.1", "--", "true"]);
    other.run().exits(125).says(
        "farpipe: the far end refused: the id 'job.1' is another command's; choose one with --id, or none\n",
    );
    let kill = host.farpipe(["kill", agent.url(), "job.1", "--grace", "10s"]);
    kill.run().exits(0);
    // Also when it has ended.
    detach(&host, agent.url(), &["--id", "job.1"], &script);
    assert_eq!(host.content("ran"), b"ran\n", "once");
    host.farpipe(["wait", agent.url(), "job.1"])
        .run()
        .exits(143);
    assert!(faults.stop().connections > 3, "no link was cut");
}

#[test]
fn a_full_buffer_makes_the_command_wait_and_loses_nothing() {
    let host = Host::new();
    let data = random(6 << 20, 4);
    let file = host.file("data", &data);
    let agent = host.agent("ws").start_listening();
    let script = format!("cat {}; exit 3", file.display());
    let id = detach(&host, agent.url(), &["--keep-output", "64K"], &script);
    until("the buffer is not full", || {
        listed(&host, agent.url())[0]["kept"] == 64 << 10
    });
    let shown = &listed(&host, agent.url())[0];
    assert_eq!(shown["state"], "running", "it waits");
    let ended = host
        .farpipe(["attach", "-n", agent.url(), &id])
        .run()
        .exits(3);
    assert_same(&ended.stdout, &data);
}

/// The first caller's link is lost with output on its way to it: more than can be on its way.
#[test]
fn what_a_lost_caller_had_not_received_is_there_for_the_next_one() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let mut faults = Faults::between(&agent, Plan::default());
    let gate = host.fifo("gate");
    let script = format!("echo one; read x <{}; seq 1 100000; exit 4", gate.display());
    let id = detach(&host, agent.url(), &[], &script);
    let first = host.farpipe(["attach", "-n", &faults.url(), &id]).start();
    first.stdout_until(4);
    until("what arrived is kept", || {
        listed(&host, agent.url())[0]["kept"] == 0
    });
    faults.refuse(true);
    faults.cut_all(Cut::Reset);
    fs::write(gate, "\n").expect("the command reads it");
    until("it did not end", || {
        listed(&host, agent.url())[0]["state"] == "exited"
    });
    let second = host
        .farpipe(["attach", "-n", agent.url(), &id])
        .run()
        .exits(4);
    let expected = host.shell("seq 1 100000").run().exits(0);
    second.printed(&expected.stdout);
    // Back again, it hears that its place is taken.
    faults.refuse(false);
    let first = first.end().exits(125);
    let why = "another `farpipe attach` has taken its place";
    assert!(first.stderr.contains(why), "{}", first.stderr);
}

#[test]
fn dropped_output_is_whole_lines_and_a_failure_unless_allowed() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    for (flags, status) in [(&["-n"][..], 125), (&["-n", "--allow-drops"], 0)] {
        let id = detach(
            &host,
            agent.url(),
            &["--keep-output", "64", "--drop-output"],
            "seq 1 1000",
        );
        host.farpipe(["wait", agent.url(), &id]).run().exits(0);
        until("its output has not ended", || {
            listed(&host, agent.url())
                .iter()
                .all(|one| one["dropped"] == 3832)
        });
        let attach = host.farpipe(["attach", agent.url(), &id]).args(flags);
        let ended = attach.run().exits(status);
        assert!(
            ended
                .stderr
                .contains("3832 bytes of the output were dropped"),
            "{}",
            ended.stderr
        );
        let kept: Vec<String> = (986..=1000).map(|n| format!("{n}\n")).collect();
        ended.printed(kept.concat());
    }
}

#[test]
fn a_caller_that_leaves_does_not_end_the_command() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let script = "trap 'echo asked' INT; echo up; while read x; do echo \"$x\"; done; exit 5";
    let id = detach(&host, agent.url(), &[], script);
    let attach = || {
        host.farpipe(["attach", agent.url(), &id])
            .open_input()
            .start()
    };
    for (signal, status, shown) in [(Signal::HUP, 129, "up\nx\n"), (Signal::TERM, 143, "x\n")] {
        let mut attached = attach();
        attached.write("x\n");
        attached.stdout_until(shown.len());
        attached.signal(signal);
        attached.end().exits(status);
    }
    let killed = attach();
    killed.kill();
    assert_eq!(listed(&host, agent.url())[0]["state"], "running");
    let attached = host.farpipe(["attach", agent.url(), &id]).input("end\n");
    attached.run().exits(5).printed("end\n");
}

#[test]
fn kill_asks_and_with_a_grace_it_ends_all_of_the_session() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let url = agent.url();
    let script = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.01; done' & \
                  trap 'exit 9' USR1; while :; do sleep 0.01; done";
    let id = detach(&host, url, &[], script);
    let attached = host.farpipe(["attach", "-n", url, &id]).start();
    let child = String::from_utf8(attached.stdout_until(2)).expect("a number");
    host.farpipe(["kill", url, &id]).run().exits(0);
    assert!(is_alive(pid(&child)), "it ignores SIGTERM");
    host.farpipe(["kill", url, &id, "--grace", "200ms"])
        .run()
        .exits(0);
    attached.end().exits(137);
    await_death(pid(&child), "child");
    let late = host
        .farpipe(["kill", url, &id, "-s", "hup"])
        .run()
        .exits(125);
    late.says(&format!(
        "farpipe: the far end refused: the command '{id}' has ended already\n"
    ));
    let id = detach(&host, url, &["-n"], "exec sleep 1000");
    host.farpipe(["kill", url, &id, "-s", "SIGUSR1"])
        .run()
        .exits(0);
    host.farpipe(["wait", url, &id]).run().exits(138);
}

#[test]
fn a_detached_command_on_a_terminal_has_its_size() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let id = detach(
        &host,
        agent.url(),
        &["-t"],
        "read x; stty size; test -t 2; exit 6",
    );
    let attach = host
        .farpipe(["attach", "-t", agent.url(), &id])
        .input("go\n");
    let ended = attach.run().exits(6);
    assert!(ended.stdout.ends_with(b"24 80\r\n"), "{:?}", ended.stdout);
    let id = detach(&host, agent.url(), &[], "exec sleep 1000");
    let refused = host
        .farpipe(["attach", "-t", agent.url(), &id])
        .run()
        .exits(125);
    refused.says("farpipe: the far end refused: this command has no terminal; attach without -t\n");
}

#[test]
fn an_agent_that_is_told_to_end_leaves_no_detached_command_behind() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let said = host.path("said");
    let polite = format!(
        "trap 'echo bye >{}; exit 3' HUP; echo $$; while :; do sleep 0.01; done",
        said.display()
    );
    let stubborn = "trap '' HUP TERM; echo $$; while :; do sleep 0.01; done";
    let numbers: Vec<Running> = [polite.as_str(), stubborn]
        .iter()
        .map(|script| {
            let id = detach(&host, agent.url(), &[], script);
            host.farpipe(["attach", "-n", agent.url(), &id]).start()
        })
        .collect();
    let pids: Vec<String> = numbers
        .iter()
        .map(|attached| String::from_utf8(attached.stdout_until(2)).expect("a number"))
        .collect();
    agent.signal(Signal::TERM);
    let ends = [3, 137];
    for (attached, status) in numbers.into_iter().zip(ends) {
        attached.end().exits(status);
    }
    agent.end().exits(143);
    assert_eq!(fs::read(said).expect("it was let tidy up"), b"bye\n");
    for number in &pids {
        assert!(!is_alive(pid(number)), "an orphan");
    }
}

/// Two that the command left behind: one still talks, one has nothing to do with it any more.
#[test]
fn what_a_detached_command_left_behind_ends_with_the_agent() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let talker = host.path("talker");
    let script = format!(
        "(echo $$ >/dev/null; sh -c 'echo $$ >{}; while :; do echo x; sleep 0.01; done') & \
         sleep 1000 >/dev/null 2>&1 & echo $! >{}; exit 7",
        talker.display(),
        host.path("silent").display()
    );
    let id = detach(&host, agent.url(), &[], &script);
    host.farpipe(["wait", agent.url(), &id]).run().exits(7);
    until("it left nobody behind", || {
        fs::read(&talker).is_ok_and(|text| text.ends_with(b"\n"))
    });
    let left = ["talker", "silent"].map(|name| {
        let text = String::from_utf8(host.content(name)).expect("a number");
        pid(&text)
    });
    assert!(left.into_iter().all(is_alive));
    agent.signal(Signal::TERM);
    agent.end().exits(143);
    for pid in left {
        assert!(!is_alive(pid), "an orphan");
    }
}

#[test]
fn x4_nothing_is_left_of_detached_commands_that_have_ended() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let open = || {
        let open = fs::read_dir(format!("/proc/{}/fd", agent.id()));
        open.expect("it runs").count()
    };
    let before = open();
    for n in 0..8 {
        // What it leaves behind is gone a moment later.
        let script = format!("sleep 0.{n} & kill -9 $$");
        let id = detach(&host, agent.url(), &[], &script);
        host.farpipe(["wait", agent.url(), &id]).run().exits(137);
        let id = detach(&host, agent.url(), &["-t"], "exit 3");
        let attach = host.farpipe(["attach", "-n", agent.url(), &id]);
        attach.run().exits(3);
    }
    let children = || {
        let threads = fs::read_dir(format!("/proc/{}/task", agent.id())).expect("it runs");
        let children = threads.map(|thread| fs::read(thread?.path().join("children")));
        // A thread may end meanwhile.
        children.flatten().map(|text| text.len()).sum::<usize>()
    };
    until("a child is left", || children() == 0);
    until("descriptors are left", || open() <= before);
}

#[test]
fn a_caller_that_reads_nothing_leaves_the_commands_stdin_open() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let script = "echo up; read x || exit 9; echo \"got $x\"";
    let id = detach(&host, agent.url(), &[], script);
    let attach = |flags: &[&str]| {
        host.farpipe(["attach"])
            .args(flags)
            .args([agent.url(), &id])
    };
    let first = attach(&["-n"]).start();
    first.stdout_until(3);
    first.signal(Signal::TERM);
    first.end().exits(143);
    let second = attach(&[]).input("a line\n").run().exits(0);
    second.printed("got a line\n");
}

/// The command has ended, and what it started in the background has not.
#[test]
fn what_a_command_left_behind_can_be_killed() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let id = detach(&host, agent.url(), &["-n"], "sleep 600 >&- 2>&- & echo $!");
    let attach = host.farpipe(["attach", "-n", agent.url(), &id]);
    let left = attach.run().exits(0);
    let left = pid(String::from_utf8_lossy(&left.stdout).trim());
    assert!(is_alive(left));
    let kill = || host.farpipe(["kill", agent.url(), &id, "-s", "KILL"]).run();
    kill().exits(0);
    await_death(left, "what the command left");
    until("the agent does not see that all has ended", || {
        kill().stderr.contains("has ended already")
    });
}
