//! `farpipe exec` and `farpipe agent`: a command elsewhere is as one here.

use std::fs;
use std::time::Duration;

use farpipe_faultproxy::{Cut, Dir, Fault, How, Plan, When};
use rustix::process::Signal;

use crate::support::process::{await_death, is_alive, pid, until};
use crate::support::{Faults, Host, SCHEMES, assert_same, random};

#[test]
fn x5_the_exit_status_is_the_commands_own() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    for (script, status) in [
        ("true", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -KILL $$", 137),
        ("kill -TERM $$", 143),
    ] {
        let exec = host.exec(agent.url()).args(["--", "sh", "-c", script]);
        let ended = exec.run().exits(status);
        assert_eq!(ended.stderr, "", "{script}");
    }
}

#[test]
fn x5_what_cannot_run_is_127_126_or_125_and_says_why() {
    let host = Host::new();
    host.file("data", "no program");
    let dir = host.dir().to_str().expect("UTF-8").to_owned();
    let agent = host.agent("fp").start_listening();
    let refused = |args: &[&str], status, why: &str| {
        let ended = host.exec(agent.url()).args(args).run().exits(status);
        ended.says(&format!("farpipe: the far end refused: {why}"));
    };
    let why = "cannot run 'no-such-command': command not found";
    refused(&["--", "no-such-command", "x"], 127, why);
    let why = "cannot run './data': not executable: Permission denied (os error 13)";
    refused(&["--cwd", &dir, "--", "./data"], 126, why);
    let why = "cannot change to the directory '/no/such': No such file or directory (os error 2)";
    refused(&["--cwd", "/no/such", "--", "true"], 125, why);
    let why = "the policy of that host does not allow it; its log says why";
    refused(&["--env", "LD_PRELOAD=/x.so", "--", "true"], 125, why);
    refused(&["--env", "DEPLOY_ID=7", "--", "true"], 125, why);
    agent.stderr_until(|log| log.contains("the variable LD_PRELOAD, which no caller may set"));
    agent.stderr_until(|log| log.contains("the variable DEPLOY_ID, which its `env` does not list"));
}

#[test]
fn stdin_stdout_and_stderr_are_apart_and_byte_exact() {
    let (input, aside) = (random(3 << 20, 1), random(2 << 20, 2));
    for scheme in SCHEMES {
        let host = Host::new();
        let aside = host.file("aside", &aside);
        let agent = host.agent(scheme).start_listening();
        let script = format!("cat {} >&2 & cat; wait; exit 5", aside.display());
        let line = format!(
            "\"$FARPIPE\" exec {} -- sh -c '{script}' 2>heard",
            agent.url()
        );
        let ended = host.shell(&line).input(input.as_slice()).run();
        ended.exits(5).printed(&input);
        assert_same(&host.content("heard"), &host.content("aside"));
    }
}

#[test]
fn words_reach_the_program_as_they_are() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let exec = host.exec(agent.url());
    exec.args(["--", "printf", "%s|", "a  b", "", "$HOME", "*", "-x", "'\n"])
        .run()
        .exits(0)
        .printed("a  b||$HOME|*|-x|'\n|");
    let exec = host.exec(agent.url());
    exec.args(["--sh", "printf %s, a", "  b; exit 3"])
        .run()
        .exits(3)
        .printed("a,b,");
}

#[test]
fn a7_a_command_line_too_long_for_a_frame_is_refused_here() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let long = "x".repeat(100 << 10);
    let exec = host.exec(agent.url()).args(["--", "printf", "%s%s"]);
    let printed = exec.args([&long, &long]).run().exits(0);
    assert_eq!(printed.stdout.len(), 200 << 10);
    let exec = host.exec(agent.url()).args(["--", "printf"]);
    let ended = exec.args([&long, &long, &long]).run().exits(125);
    assert!(
        ended.stderr.contains("the command is too long"),
        "{}",
        ended.stderr
    );
}

#[test]
fn the_environment_is_a_new_one_with_what_is_allowed() {
    let host = Host::new();
    let agent = host
        .agent("ws")
        .env("SECRET_OF_THE_AGENT", "1")
        .args(["--allow-env", "DEPLOY_*"])
        .start_listening();
    let exec = host.exec(agent.url()).env("HERE", "1");
    let ended = exec
        .args(["--env", "TZ=X Y", "--env", "DEPLOY_ID==7", "--", "env"])
        .run()
        .exits(0);
    let text = String::from_utf8(ended.stdout).expect("UTF-8");
    let mut names: Vec<&str> = text
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .filter(|name| *name != "LANG")
        .collect();
    names.sort_unstable();
    let expected = [
        "DEPLOY_ID",
        "HOME",
        "LOGNAME",
        "PATH",
        "SHELL",
        "TZ",
        "USER",
    ];
    assert_eq!(names, expected);
    for line in ["TZ=X Y", "DEPLOY_ID==7"] {
        assert!(text.lines().any(|other| other == line), "{text}");
    }
}

#[test]
fn a_command_runs_where_it_is_told_in_a_session_of_its_own_with_three_descriptors() {
    let host = Host::new();
    let dir = host.dir().to_str().expect("UTF-8").to_owned();
    // A descriptor that the agent inherited, and knows nothing of.
    let script = "exec 9</dev/null; exec \"$FARPIPE\" agent --listen ws://127.0.0.1:0 --allow exec";
    let agent = host.shell(script).start_listening();
    let script = "pwd; ls /proc/self/fd | wc -l; read p c s pp g sid rest </proc/$$/stat; \
                  test $sid = $$ && test $g = $$ && echo leads";
    let exec = host.exec(agent.url()).args(["--cwd", &dir]);
    let ended = exec.args(["--", "sh", "-c", script]).run().exits(0);
    // Its own three, and the directory that ls reads.
    ended.printed(format!("{dir}\n4\nleads\n"));
}

/// An agent in the background of a script ignores SIGINT, one under nohup SIGHUP.
#[test]
fn a_command_ignores_no_signal_because_its_agent_does() {
    let host = Host::new();
    let script = "trap '' INT HUP; exec \"$FARPIPE\" agent --listen ws://127.0.0.1:0 --allow exec";
    let agent = host.shell(script).start_listening();
    for (name, status) in [("INT", 130), ("HUP", 129), ("PIPE", 141)] {
        let script = format!("kill -{name} $$; echo ignored");
        let exec = host.exec(agent.url()).args(["--", "sh", "-c", &script]);
        exec.run().exits(status).printed("");
    }
    agent.kill();
}

#[test]
fn over_tls_a_ticket_or_a_certificate_lets_a_caller_in() {
    let host = Host::new();
    let agent = host.agent("wss").args(["--ticket-file", "ticket"]);
    let agent = agent.start_listening();
    let told = agent.stderr_until(|text| text.contains(" -- CMD\n"));
    assert!(told.contains("farpipe exec wss://"), "{told}");
    let exec = |args: &[&str]| host.exec(agent.url()).args(args).args(["--", "echo", "in"]);
    let ended = exec(&["--ticket-file", "ticket"]).run().exits(0);
    ended.printed("in\n");
    exec(&[]).run().exits(125).printed("");

    host.usual_certificates();
    let tls = |name: &str| {
        let flags = ["--ca", "ca.pem"].map(str::to_owned);
        let own = ["--cert", "", "--key", "-key"];
        let own = own
            .chunks(2)
            .flat_map(|pair| [pair[0].to_owned(), format!("{name}{}.pem", pair[1])]);
        flags.into_iter().chain(own).collect::<Vec<_>>()
    };
    let agent = host.agent("fps").args(tls("server")).start_listening();
    let exec = |args: &[String]| host.exec(agent.url()).args(args).args(["--", "echo", "in"]);
    exec(&tls("client")).run().exits(0).printed("in\n");
    exec(&tls("client")[..2]).run().exits(125).printed("");
}

#[test]
fn the_status_comes_at_once_whatever_stdin_does() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    // A pipe that stays open and silent.
    let exec = host.exec(agent.url()).open_input().args(["--", "true"]);
    exec.run().exits(0);
    let line = format!("yes | \"$FARPIPE\" exec {} -- true", agent.url());
    assert_eq!(host.shell(&line).run().exits(0).stderr, "");
    // A child that inherits stdin, reads nothing and lives on.
    let script = "exec 5<&0; sleep 1000 <&5 >/dev/null 2>&1 & echo $!";
    let mut exec = host.exec(agent.url()).open_input();
    exec = exec.args(["--", "sh", "-c", script]);
    let ended = exec.run().exits(0);
    kill(&String::from_utf8(ended.stdout).expect("a number"));
}

#[test]
fn n_reads_nothing() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let exec = host.exec(agent.url()).input("not for you");
    exec.args(["-n", "--", "cat"]).run().exits(0).printed("");
}

#[test]
fn the_end_of_stdin_reaches_the_command_and_its_closing_reaches_the_writer() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let exec = host.exec(agent.url()).input("3\n1\n2\n");
    exec.args(["--", "sort"])
        .run()
        .exits(0)
        .printed("1\n2\n3\n");
    // The writer gets SIGPIPE while the command runs on.
    let gate = host.fifo("gate");
    let script = format!("exec <&-; echo closed; read x <{}; exit 4", gate.display());
    let line = format!(
        "(yes; echo $? >writer) | \"$FARPIPE\" exec {} -- sh -c '{script}'",
        agent.url()
    );
    let running = host.shell(&line).start();
    running.stdout_until(7);
    until("the writer goes on", || {
        fs::read(host.path("writer")).is_ok_and(|text| text == b"141\n")
    });
    fs::write(gate, "\n").expect("the command reads it");
    running.end().exits(4);
}

#[test]
fn a_reader_that_leaves_ends_the_writer_there() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    for redirected in ["yes", "sh -c \"exec yes >&2\" 2>&1 >/dev/null"] {
        let line = format!(
            "{{ \"$FARPIPE\" exec {} -- {redirected}; echo $? >status; }} | head -1",
            agent.url()
        );
        host.shell(&line).run().exits(0).printed("y\n");
        assert_eq!(host.content("status"), b"141\n", "{redirected}");
    }
}

/// A command that takes its input to the end although nobody reads its output is not told that the
/// input has ended before it has.
#[test]
fn a_reader_that_leaves_cuts_no_input_short() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let heard = host.path("heard");
    let input = random(4 << 20, 3);
    let script = format!(
        "trap \"\" PIPE; echo begun; echo more 2>/dev/null; cat >{}",
        heard.display()
    );
    let line = format!(
        "{{ \"$FARPIPE\" exec {} -- sh -c '{script}'; echo $? >status; }} | head -c 1",
        agent.url()
    );
    host.shell(&line).input(input.as_slice()).run().exits(0);
    // The command did not mind.
    assert_eq!(host.content("status"), b"0\n");
    assert_same(&host.content("heard"), &input);
}

#[test]
fn x3_a_grandchild_that_holds_the_output_does_not_hold_the_status() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let script = "sleep 1000 & echo $!; exit 3";
    let exec = host.exec(agent.url()).args(["--", "sh", "-c", script]);
    let ended = exec.run().exits(3);
    let sleeper = String::from_utf8(ended.stdout).expect("a number");
    assert!(
        is_alive(pid(&sleeper)),
        "its parent left it behind in order"
    );
    kill(&sleeper);
}

#[test]
fn signals_reach_the_whole_group_and_the_command_says_what_they_mean() {
    for (signal, name) in [
        (Signal::INT, "INT"),
        (Signal::TERM, "TERM"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
    ] {
        let host = Host::new();
        let agent = host.agent("ws").start_listening();
        // In the background of a shell without job control, SIGINT and SIGQUIT are ignored.
        let is_heard = matches!(name, "TERM" | "HUP");
        let wait = if is_heard { "wait; " } else { "" };
        let script = format!(
            "trap '{wait}echo heard; exit 9' {name}; sh -c 'echo $$; exec sleep 1000 >&-' & wait"
        );
        let exec = host.exec(agent.url()).open_input();
        let exec = exec.args(["--", "sh", "-c", &script]).start();
        let sleeper = String::from_utf8(exec.stdout_until(2)).expect("a number");
        exec.signal(signal);
        let ended = exec.end().exits(9);
        assert!(ended.stdout.ends_with(b"\nheard\n"), "{name}");
        assert_eq!(is_alive(pid(&sleeper)), !is_heard, "{name}");
        if !is_heard {
            kill(&sleeper);
        }
    }
}

#[test]
fn a_signal_that_ends_the_command_is_its_status_here() {
    let host = Host::new();
    let agent = host.agent("fp").start_listening();
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let exec = host.exec(agent.url()).open_input();
        let exec = exec.args(["--", "sh", "-c", "echo up; exec sleep 1000"]);
        let exec = exec.start();
        exec.stdout_until(3);
        exec.signal(signal);
        assert_eq!(exec.end().exits(status).stderr, "");
    }
}

#[test]
fn a_second_signal_gives_the_command_up() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let script = "trap '' INT; trap 'echo asked' TERM; echo $$; while :; do sleep 0.01; done";
    let exec = host.exec(agent.url()).open_input();
    let exec = exec.args(["--", "sh", "-c", script]).start();
    let shell = String::from_utf8(exec.stdout_until(2)).expect("a number");
    // The first one is the command's, and it ignores it; one that follows at once is the same.
    exec.signal(Signal::INT);
    exec.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(400)); // sleep: within 250 ms a signal counts as the same
    assert!(is_alive(pid(&shell)), "it was given up by the same signal");
    exec.signal(Signal::INT);
    exec.end().exits(130);
    await_death(pid(&shell), "shell");
}

#[test]
fn a_signal_before_the_command_runs_ends_exec() {
    let host = Host::new();
    host.secret();
    // Takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("fp://{}", silent.local_addr().expect("its address"));
    let exec = host.exec(&url).args(["--", "true"]).start();
    let _connection = crate::support::net::accept(&silent);
    exec.signal(Signal::INT);
    exec.end().exits(130);
}

/// Ends a process by its number.
fn kill(number: &str) {
    rustix::process::kill_process(pid(number), Signal::KILL).expect("it runs");
}

#[test]
fn the_last_line_is_never_missing() {
    for (scheme, runs) in [("ws", 10), ("fp", 10)] {
        let host = Host::new();
        let agent = host.agent(scheme).start_listening();
        for _ in 0..runs {
            let line = format!(
                "seq 1 2000000 | \"$FARPIPE\" exec {} -- cat | tail -1",
                agent.url()
            );
            host.shell(&line).run().exits(0).printed("2000000\n");
        }
    }
}

#[test]
fn n1_a_connection_that_is_cut_again_and_again_loses_nothing_and_runs_nothing_twice() {
    for scheme in SCHEMES {
        let host = Host::new();
        let agent = host.agent(scheme).start_listening();
        let cut = |dir| {
            Fault::new(
                When::Byte {
                    dir,
                    at: 200_000..=2_000_000,
                },
                How::Cut(Cut::Reset),
            )
        };
        let plan = Plan {
            faults: vec![cut(Dir::Up), cut(Dir::Down)],
            connections: 0..=9,
            ..Plan::default()
        };
        let faults = Faults::between(&agent, plan);
        let ran = host.path("ran");
        let script = format!("echo ran >>{}; cat; echo done >&2; exit 6", ran.display());
        let line = format!(
            "seq 1 2000000 | {{ \"$FARPIPE\" -q exec {} --heartbeat 300ms -- sh -c '{script}'; \
             echo $? >status; }} | sha256sum",
            faults.url()
        );
        let expected = host.shell("seq 1 2000000 | sha256sum").run().exits(0);
        let ended = host.shell(&line).run().exits(0);
        ended.says("done").printed(&expected.stdout);
        assert_eq!(host.content("status"), b"6\n");
        assert_eq!(host.content("ran"), b"ran\n", "once");
        assert!(faults.stop().connections >= 5);
    }
}
