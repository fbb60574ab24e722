//! Commands as endpoints: their status, their output, and that none is left behind.

use std::fs;

use rustix::process::{Pid, Signal};

use crate::support::process::{self, await_death, is_alive};
use crate::support::{Host, random};

/// The status of a command at either end is the status of both.
#[track_caller]
fn passes_status(endpoint: &str, status: i32) {
    let host = Host::new();
    let listener = host.listen("ws").arg(endpoint).start_listening();
    host.connect(listener.url()).run().exits(status);
    listener.end().exits(status);

    let listener = host.listen("fp").start_listening();
    host.connect(listener.url())
        .arg(endpoint)
        .run()
        .exits(status);
    listener.end().exits(status);
}

#[test]
fn x5_the_exit_status_passes_through() {
    passes_status("exec:true", 0);
    passes_status("sh:exit 3", 3);
    passes_status("sh:exit 255", 255);
}

#[test]
fn x5_death_by_a_signal_is_128_and_its_number() {
    passes_status("sh:kill -TERM $$", 128 + 15);
    passes_status("sh:kill -KILL $$", 128 + 9);
}

#[test]
fn x5_a_command_that_is_not_there_is_127_at_both_ends() {
    let host = Host::new();
    let listener = host
        .listen("ws")
        .arg("exec:no-such-command x")
        .start_listening();
    let connect = host
        .connect(listener.url())
        .input(random(1 << 20, 1))
        .run()
        .exits(127);
    connect.says("farpipe: the far end refused: cannot run 'no-such-command': command not found");
    listener.end().exits(127).says(
        "listening on ws://127.0.0.1:PORT
         farpipe: cannot run 'no-such-command': command not found",
    );
}

#[test]
fn x5_a_file_that_cannot_be_executed_is_126_at_both_ends() {
    let host = Host::new();
    host.file("data", "no program");
    let listener = host.listen("ws").arg("exec:./data").start_listening();
    let connect = host.connect(listener.url()).run().exits(126);
    connect.says(
        "farpipe: the far end refused: cannot run './data': not executable: Permission denied (os error 13)",
    );
    listener.end().exits(126).says(
        "listening on ws://127.0.0.1:PORT
         farpipe: cannot run './data': not executable: Permission denied (os error 13)",
    );
}

/// Opened before anybody is dialled: no session comes about, and the listener goes on.
#[test]
fn x5_a_command_missing_at_connect_leaves_the_listener_alone() {
    let host = Host::new();
    let listener = host.listen("ws").start_listening();
    let connect = host
        .connect(listener.url())
        .arg("exec:no-such-command")
        .run()
        .exits(127);
    connect.says(
        "farpipe: cannot run 'no-such-command': command not found
         hint: exec: takes a program of PATH; for shell syntax and builtins use sh:",
    );
    host.connect(listener.url())
        .input("still there")
        .run()
        .exits(0);
    listener.end().exits(0).printed("still there");
}

#[test]
fn the_status_comes_after_all_output() {
    let output = random(2 << 20, 9);
    for scheme in ["ws", "fp"] {
        let host = Host::new();
        host.file("output", &output);
        let listener = host
            .listen(scheme)
            .arg("sh:cat output; exit 5")
            .start_listening();
        host.connect(listener.url()).run().exits(5).printed(&output);
        listener.end().exits(5);
    }
}

#[test]
fn a_commands_stderr_stays_on_its_own_side() {
    let host = Host::new();
    let listener = host
        .listen("ws")
        .arg("sh:echo to stderr >&2; echo to stdout")
        .start_listening();
    let connect = host
        .connect(listener.url())
        .run()
        .exits(0)
        .printed("to stdout\n");
    assert_eq!(connect.stderr, "");
    listener.end().exits(0).says(
        "listening on ws://127.0.0.1:PORT
         to stderr",
    );
}

#[test]
fn a_command_that_closes_stdout_early_goes_on_to_its_end() {
    let host = Host::new();
    let script = "sh:echo said; exec >&-; cat >heard; exit 6";
    let listener = host.listen("ws").arg(script).start_listening();
    let mut connect = host.connect(listener.url()).open_input().start();
    connect.stdout_until(5);
    connect.write("more for you");
    connect.close_input();
    connect.end().exits(6).printed("said\n");
    listener.end().exits(6);
    assert_eq!(host.content("heard"), b"more for you");
}

#[test]
fn a_command_that_closes_stdout_and_runs_on_passes_its_status() {
    let host = Host::new();
    let gate = host.fifo("gate");
    let script = "sh:exec >&-; cat; read line <gate; exit $line";
    let listener = host.listen("ws").arg(script).start_listening();
    let connect = host.connect(listener.url()).start();
    fs::write(gate, "7\n").expect("the command reads it");
    connect.end().exits(7);
    listener.end().exits(7);
}

#[test]
fn n15_a_status_that_died_with_its_listener_is_never_a_success() {
    let host = Host::new();
    let (gate, told) = (host.fifo("gate"), host.fifo("told"));
    // Both ways, or opening it would wait for the command; it ends when the test drops this.
    let mut options = fs::OpenOptions::new();
    let _gate = options.read(true).write(true).open(gate).expect("a FIFO");
    let script = "sh:exec >&-; cat; echo >told; read line <gate; exit 7";
    let listener = host.listen("ws").arg(script).start_listening();
    let connect = host.connect(listener.url()).args(["--resume-for", "1s"]);
    let connect = connect.start();
    // stdin was taken to its end.
    fs::read(told).expect("the command writes it");
    listener.kill();
    connect.end().exits(125);
}

#[test]
fn the_end_of_a_command_ends_the_pipe_though_stdin_is_open() {
    let host = Host::new();
    let listener = host
        .listen("ws")
        .arg("sh:read line; echo $line; exit 4")
        .start_listening();
    let mut connect = host.connect(listener.url()).open_input().start();
    connect.write("one line\n");
    // stdin stays open: it does not hold anything.
    connect.end().exits(4).printed("one line\n");
    listener.end().exits(4);
}

#[test]
fn x3_a_grandchild_that_holds_stdout_does_not_hold_the_pipe() {
    let host = Host::new();
    let script = "sh:sleep 1000 2>/dev/null </dev/null & echo $! >sleeper; echo done; exit 3";
    let listener = host.listen("ws").arg(script).start_listening();
    host.connect(listener.url())
        .run()
        .exits(3)
        .printed("done\n");
    listener.end().exits(3);
    let sleeper = pid(&host, "sleeper");
    assert!(
        is_alive(sleeper),
        "it was told nothing: its parent ended by itself"
    );
    rustix::process::kill_process(sleeper, Signal::KILL).expect("a sleeper");
}

#[test]
fn x3_a_command_that_ignores_sigterm_does_not_outlive_the_pipe() {
    let host = Host::new();
    let script =
        "sh:trap '' TERM; sleep 1000 & echo $$ >shell; echo $! >sleeper; echo up; wait; wait";
    let listener = host.listen("ws").arg(script).start_listening();
    let connect = host.connect(listener.url()).open_input().start();
    connect.stdout_until(3);
    listener.signal(Signal::INT);
    listener.end().exits(130);
    connect.end().exits(125);
    for name in ["shell", "sleeper"] {
        assert!(!is_alive(pid(&host, name)), "the {name} is an orphan");
    }
}

#[test]
fn n16_the_far_command_ends_with_a_cancelled_connect() {
    let host = Host::new();
    let script = "sh:echo $$ >shell; sleep 1000 & echo $! >sleeper; echo up; wait";
    let listener = host.listen("ws").arg(script).start_listening();
    let connect = host.connect(listener.url()).open_input().start();
    connect.stdout_until(3);
    connect.signal(Signal::TERM);
    connect.end().exits(143);
    listener.end().exits(125);
    for name in ["shell", "sleeper"] {
        await_death(pid(&host, name), name);
    }
}

#[test]
fn two_commands_talk_to_each_other() {
    let host = Host::new();
    let listener = host.listen("ws").arg("exec:tr a-z A-Z").start_listening();
    let connect = host.connect(listener.url());
    connect
        .arg("sh:echo hello; exec >&-; cat >answer; exit 0")
        .run()
        .exits(0);
    listener.end().exits(0);
    assert_eq!(host.content("answer"), b"HELLO\n");
}

#[test]
fn words_are_split_as_posix_says_and_nothing_is_expanded() {
    let host = Host::new();
    let listener = host
        .listen("ws")
        .arg(r#"exec:printf "%s|" 'a  b' $HOME * \$x"#)
        .start_listening();
    host.connect(listener.url())
        .run()
        .exits(0)
        .printed("a  b|$HOME|*|$x|");
    listener.end().exits(0);
}

fn pid(host: &Host, name: &str) -> Pid {
    process::pid(&fs::read_to_string(host.path(name)).expect("the script wrote it"))
}
