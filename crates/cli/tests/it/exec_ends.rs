//! What becomes of a far command when the link, its caller, or its agent goes: it outlives the first,
//! and no process of it the others.

use std::fs;

use farpipe_faultproxy::Cut;
use rustix::process::Signal;

use crate::support::process::{await_death, is_alive, pid, until};
use crate::support::stubborn::{STUBBORN, numbers};
use crate::support::{Faults, Host};

#[test]
fn n16_no_process_of_a_command_outlives_a_caller_that_was_killed() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let exec = host.exec(agent.url()).open_input();
    let exec = exec.args(["--resume-for", "100ms", "--", "sh", "-c", STUBBORN]);
    let exec = exec.start();
    let numbers = numbers(&exec);
    exec.kill();
    for number in &numbers {
        await_death(pid(number), "stubborn process");
    }
    agent.stderr_until(|text| text.contains("was given up after 200 ms without a link"));
}

#[test]
fn a_command_whose_caller_is_gone_hears_a_hangup_and_may_tidy_up() {
    let host = Host::new();
    let agent = host.agent("fp").start_listening();
    let tidy = host.path("tidy");
    let script = format!(
        "trap 'sleep 0.3; head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2; echo yes >{}; exit' HUP; echo up; while :; do sleep 0.01; done",
        tidy.display()
    );
    let exec = host.exec(agent.url()).open_input();
    let exec = exec.args(["--resume-for", "100ms", "--", "sh", "-c", &script]);
    let exec = exec.start();
    exec.stdout_until(3);
    exec.kill();
    until("it was not let tidy up", || {
        fs::read(&tidy).is_ok_and(|text| text == b"yes\n")
    });
}

/// The command has ended; what it left behind holds its output, and would talk to nobody for ever.
#[test]
fn n16_what_a_command_left_behind_and_still_talks_does_not_outlive_the_caller() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let script = "trap '' HUP PIPE; (while :; do echo x; sleep 0.01; done) & echo $!";
    let exec = host.exec(agent.url()).open_input();
    let exec = exec.args(["--resume-for", "100ms", "--", "bash", "-c", script]);
    let exec = exec.start();
    let said = String::from_utf8(exec.stdout_until(20)).expect("text");
    let talker = said.lines().find(|line| *line != "x").expect("a number");
    exec.kill();
    await_death(pid(talker), "talker");
    agent.stderr_until(|text| text.contains("was given up"));
    agent.signal(Signal::TERM);
    agent.end().exits(143);
}

/// What left the session on purpose stays, as with ssh.
#[test]
fn a_daemon_stays() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let script = "setsid sh -c 'echo $$; exec sleep 1000 <&- >&- 2>&-' &
        read x; echo $$; exec sleep 1000";
    let mut exec = host.exec(agent.url()).open_input();
    exec = exec.args(["--resume-for", "100ms", "--", "sh", "-c", script]);
    let mut exec = exec.start();
    let daemon = String::from_utf8(exec.stdout_until(2)).expect("a number");
    exec.write("\n");
    let both = String::from_utf8(exec.stdout_until(daemon.len() + 2)).expect("numbers");
    exec.kill();
    await_death(pid(&both[daemon.len()..]), "command");
    assert!(is_alive(pid(&daemon)));
    rustix::process::kill_process(pid(&daemon), Signal::KILL).expect("it runs");
}

#[test]
fn an_agent_that_is_told_to_end_hangs_its_commands_up_and_passes_on_their_last_words() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let script = "trap 'echo bye; exit 3' HUP; echo up; while :; do sleep 0.01; done";
    let exec = host.exec(agent.url()).open_input();
    let polite = exec.args(["--", "sh", "-c", script]).start();
    polite.stdout_until(3);
    let exec = host.exec(agent.url()).open_input();
    let plain = exec.args(["--", "sh", "-c", "echo up; exec sleep 1000"]);
    let plain = plain.start();
    plain.stdout_until(3);
    let exec = host.exec(agent.url()).open_input();
    let stubborn = exec.args(["--", "sh", "-c", STUBBORN]).start();
    let numbers = numbers(&stubborn);
    agent.signal(Signal::TERM);
    polite.end().exits(3).printed("up\nbye\n");
    plain.end().exits(129);
    stubborn.end().exits(137);
    agent
        .end()
        .exits(143)
        .says("listening on ws://127.0.0.1:PORT");
    for number in &numbers {
        assert!(!is_alive(pid(number)), "an orphan");
    }
}

#[test]
fn n15_a_command_whose_agent_was_killed_is_no_success_and_runs_once() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let url = agent.url().to_owned();
    let ran = host.path("ran");
    let script = format!("echo ran >>{}; echo $$; exec sleep 1000", ran.display());
    let exec = host.exec(&url).open_input();
    let exec = exec.args(["--", "sh", "-c", &script]).start();
    let command = String::from_utf8(exec.stdout_until(2)).expect("a number");
    agent.kill();
    drop(agent);
    await_death(pid(&command), "command");
    let _again = host
        .farpipe(["agent", "--listen", &url, "--allow", "exec"])
        .start_listening();
    let ended = exec.end().exits(125);
    assert!(
        ended.stderr.contains("is not known here"),
        "{}",
        ended.stderr
    );
    assert_eq!(host.content("ran"), b"ran\n", "once");
}

#[test]
fn a_command_goes_on_while_its_link_is_lost() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let mut faults = Faults::between(&agent, farpipe_faultproxy::Plan::default());
    let (gate, said) = (host.fifo("gate"), host.path("said"));
    let script = format!(
        "echo up; read x <{}; echo \"$x\" >{}; echo down; exit 5",
        gate.display(),
        said.display()
    );
    let exec = host.exec(&faults.url()).args(["--heartbeat", "200ms"]);
    let exec = exec.open_input().args(["--", "sh", "-c", &script]).start();
    exec.stdout_until(3);
    faults.refuse(true);
    faults.cut_all(Cut::Reset);
    fs::write(gate, "without a link\n").expect("the command reads it");
    until("the command did not go on", || {
        fs::read(&said).is_ok_and(|text| text == b"without a link\n")
    });
    faults.refuse(false);
    exec.end().exits(5).printed("up\ndown\n");
}

#[test]
fn x4_nothing_is_left_of_commands_that_have_ended() {
    let host = Host::new();
    let agent = host.agent("fp").start_listening();
    let open = || {
        let open = fs::read_dir(format!("/proc/{}/fd", agent.id()));
        open.expect("it runs").count()
    };
    let before = open();
    for _ in 0..20 {
        host.exec(agent.url()).args(["--", "true"]).run().exits(0);
        host.exec(agent.url())
            .args(["-t", "--", "true"])
            .run()
            .exits(0);
        host.exec(agent.url())
            .args(["--", "no-such"])
            .run()
            .exits(127);
    }
    let children = format!("/proc/{0}/task/{0}/children", agent.id());
    until("a child is left", || {
        fs::read(&children).is_ok_and(|children| children.is_empty())
    });
    until("descriptors are left", || open() <= before);
}

#[test]
fn x6_an_agent_without_descriptors_refuses_new_commands_and_keeps_the_old_ones() {
    let host = Host::new();
    let script = "ulimit -n 34; exec \"$FARPIPE\" agent --listen ws://127.0.0.1:0 --allow exec";
    let agent = host.shell(script).start_listening();
    let old = host.exec(agent.url()).open_input().args(["--", "cat"]);
    let mut old = old.start();
    old.write("old\n");
    old.stdout_until(4);
    let mut more = Vec::new();
    let refused = loop {
        let exec = host.exec(agent.url()).open_input();
        let exec = exec.args(["--resume-for", "1s", "--", "sh", "-c"]);
        let mut exec = exec.arg("echo up; exec cat").start();
        let mut is_running = true;
        until("neither runs nor refused", || {
            is_running = exec.is_running();
            !exec.printed_so_far().is_empty() || !is_running
        });
        if !is_running {
            break exec.end();
        }
        more.push(exec);
        assert!(more.len() < 20, "it has descriptors without end");
    };
    let refused = refused.exits(125);
    assert!(refused.stderr.contains("farpipe: "), "{}", refused.stderr);
    old.write("still\n");
    old.close_input();
    old.end().exits(0).printed("old\nstill\n");
    drop(more);
}
