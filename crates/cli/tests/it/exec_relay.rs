//! `farpipe exec NAME`: through a relay a command is as one here, however it ends and whatever fails.

use std::fs;
use std::net::TcpStream;

use farpipe_faultproxy::{Cut, Dir, Fault, Place, Plan, When};
use rustix::process::Signal;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::support::process::{await_death, is_alive, pid, until};
use crate::support::stubborn::{STUBBORN, numbers};
use crate::support::{Faults, Host, Invocation, Listener, Running, Terminal, at_once};

/// One relay, and one host behind it.
struct Net {
    host: Host,
    relay: Listener,
    agent: Running,
}

impl Net {
    fn new() -> Self {
        let host = Host::new();
        let relay = host.relay("ws").start_listening();
        let agent = host.agent_at(relay.url(), "web1").start_registered(1);
        Self { host, relay, agent }
    }

    fn exec(&self) -> Invocation {
        self.host.exec_at(self.relay.url(), "web1")
    }

    /// `farpipe exec web1 -- COMMAND`, as a shell reads it.
    fn line(&self, command: &str) -> String {
        let url = self.relay.url();
        format!("\"$FARPIPE\" exec --relay {url} web1 -- {command}")
    }

    fn script(&self, script: &str) -> Invocation {
        self.exec().args(["--", "sh", "-c", script])
    }
}

#[test]
fn x5_the_status_is_the_commands_own() {
    let net = Net::new();
    net.host.file("data", "no program");
    for (script, status) in [("exit 7", 7), ("kill -KILL $$", 137), ("true", 0)] {
        assert_eq!(net.script(script).run().exits(status).stderr, "");
    }
    let dir = net.host.dir().to_str().expect("UTF-8");
    let data = net.exec().args(["--cwd", dir, "--", "./data"]);
    data.run().exits(126).printed("");
    let unknown = net.exec().args(["--", "no-such-command"]);
    unknown.run().exits(127).printed("");
}

#[test]
fn stdout_and_stderr_are_apart() {
    let net = Net::new();
    let ended = net.script("echo out; echo err >&2; exit 3").run();
    ended.exits(3).printed("out\n").says("err\n");
}

#[test]
fn x1_input_that_nobody_reads_holds_nothing_open() {
    let net = Net::new();
    // This end of the pipe is open, and silent, until exec has ended.
    let silent = net.exec().args(["--", "true"]).open_input();
    silent.run().exits(0);
    // Nor does a writer that lives on.
    let line = format!(
        "sh -c 'echo $$ >pid; exec sleep 1000' | {{ {}; echo $?; \
         until test -s pid; do sleep 0.01; done; kill $(cat pid) && echo it lived; }}",
        net.line("true")
    );
    let ended = net.host.shell(&line).run().exits(0);
    ended.printed("0\nit lived\n");
    let line = format!("yes | {}", net.line("true"));
    assert_eq!(net.host.shell(&line).run().exits(0).stderr, "");
}

#[test]
fn x2_a_reader_that_leaves_ends_the_writer_there() {
    let net = Net::new();
    let line = format!("{{ {}; echo $? >status; }} | head -1", net.line("yes"));
    net.host.shell(&line).run().exits(0).printed("y\n");
    assert_eq!(net.host.content("status"), b"141\n");
}

#[test]
fn x3_an_interrupt_reaches_the_command() {
    let net = Net::new();
    let script = "trap 'echo caught; exit 8' INT; echo up; while :; do sleep 0.01; done";
    let exec = net.script(script).start();
    exec.stdout_until(3);
    exec.signal(Signal::INT);
    exec.end().exits(8).printed("up\ncaught\n");
}

fn resize(terminal: &Terminal, exec: &Running, ws_row: u16, ws_col: u16) {
    let size = Winsize {
        ws_row,
        ws_col,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal.open(), size).expect("a terminal");
    // It would come from the system if the terminal were the process's own.
    exec.signal(Signal::WINCH);
}

#[test]
fn x7_a_storm_of_sizes_ends_with_the_last_one() {
    let net = Net::new();
    let mut terminal = Terminal::new();
    let (_kept, screen) = (terminal.open(), terminal.screen());
    let script = "echo up; while :; do stty size; sleep 0.01; done";
    let exec = net.exec().args(["-t", "--", "sh", "-c", script]);
    let exec = exec.on_terminal(&terminal).start();
    let shows = |what: &str| {
        let found = screen.until(|bytes| String::from_utf8_lossy(bytes).contains(what));
        found.unwrap_or_else(|_| panic!("no {what:?} on the screen"));
    };
    shows("up\r\n");
    resize(&terminal, &exec, 44, 132);
    shows("44 132\r\n");
    for n in 1..=500 {
        resize(&terminal, &exec, 10, 20 + n);
    }
    resize(&terminal, &exec, 11, 33);
    shows("11 33\r\n");
    terminal.write("\x03");
    exec.end().exits(130);
}

/// A child that left its parents holds the output open, and is not waited for.
#[test]
fn x4_a_grandchild_that_holds_the_output_holds_nothing_up() {
    let net = Net::new();
    let ended = net.script("(sleep 1000 & echo $!); exit 6").run().exits(6);
    let left = pid(&String::from_utf8(ended.stdout).expect("a number"));
    assert!(is_alive(left), "it is not waited for");
    rustix::process::kill_process(left, Signal::KILL).expect("it runs");
}

#[test]
fn n16_no_process_of_a_command_outlives_a_caller_that_was_killed() {
    let net = Net::new();
    let exec = net.exec().args(["--resume-for", "200ms", "--"]);
    let stubborn = exec.args(["sh", "-c", STUBBORN]).open_input().start();
    let numbers = numbers(&stubborn);
    let tidy = net.host.path("tidy");
    let script = format!(
        "trap 'echo yes >{}; exit' HUP; echo up; while :; do sleep 0.01; done",
        tidy.display()
    );
    let exec = net.exec().args(["--resume-for", "200ms", "--"]);
    let polite = exec.args(["sh", "-c", &script]).open_input().start();
    polite.stdout_until(3);
    polite.kill();
    stubborn.kill();
    until("it was not let tidy up", || {
        fs::read(&tidy).is_ok_and(|text| text == b"yes\n")
    });
    for number in &numbers {
        await_death(pid(number), "stubborn process");
    }
}

#[test]
fn an_agent_that_is_told_to_end_hangs_its_commands_up_and_passes_on_their_last_words() {
    let net = Net::new();
    let script = "trap 'echo bye; exit 3' HUP; echo up; while :; do sleep 0.01; done";
    let polite = net.script(script).open_input().start();
    let plain = net.script("echo up; exec sleep 1000").open_input().start();
    let stubborn = net.script(STUBBORN).open_input().start();
    polite.stdout_until(3);
    plain.stdout_until(3);
    let numbers = numbers(&stubborn);
    net.agent.signal(Signal::TERM);
    polite.end().exits(3).printed("up\nbye\n");
    plain.end().exits(129);
    stubborn.end().exits(137);
    net.agent.end().exits(143);
    for number in &numbers {
        assert!(!is_alive(pid(number)), "an orphan");
    }
}

/// Idle connections take every descriptor of a relay that may have forty.
#[test]
fn x6_a_relay_without_descriptors_keeps_the_sessions_it_has() {
    let host = Host::new();
    let script = "ulimit -n 40; exec \"$FARPIPE\" relay --listen ws://127.0.0.1:0";
    let relay = host.shell(script).start_listening();
    let agent = host.agent_at(relay.url(), "web1").start_registered(1);
    let net = Net { host, relay, agent };
    let mut old = net.exec().args(["--", "cat"]).open_input().start();
    old.write("old\n");
    old.stdout_until(4);
    let dial = || TcpStream::connect(net.relay.addr()).expect("the system's queue has room");
    let idle: Vec<TcpStream> = std::iter::repeat_with(dial).take(60).collect();
    let exec = net.exec().args(["--resume-for", "2s", "--", "echo", "in"]);
    let new = exec.start();
    old.write("still\n");
    old.stdout_until(10);
    let new = new.end();
    assert!(
        matches!(new.status.code(), Some(0 | 125)),
        "{}: {}",
        new.status,
        new.stderr
    );
    old.write("and on\n");
    old.stdout_until(17);
    drop(idle);
    let after = net.exec().args(["--", "echo", "in"]);
    after.run().exits(0).printed("in\n");
    old.close_input();
    old.end().exits(0).printed("old\nstill\nand on\n");
}

#[test]
fn x6_an_agent_without_descriptors_refuses_new_commands_and_keeps_the_old_ones() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let script = format!(
        "ulimit -n 34; exec \"$FARPIPE\" agent {} --name web1 --allow exec",
        relay.url()
    );
    let agent = host.shell(&script).start_registered(1);
    let net = Net { host, relay, agent };
    let mut old = net.exec().args(["--", "cat"]).open_input().start();
    old.write("old\n");
    old.stdout_until(4);
    let mut more = Vec::new();
    let refused = loop {
        let mut exec = net.script("echo up; exec cat").open_input().start();
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
    assert!(
        refused.stderr.contains("the far end refused"),
        "{}",
        refused.stderr
    );
    for exec in &mut more {
        exec.close_input();
    }
    for exec in more {
        exec.end().exits(0);
    }
    // What those had is free for others, and the old one goes on.
    net.script("exit 4").run().exits(4);
    old.write("still\n");
    old.close_input();
    old.end().exits(0).printed("old\nstill\n");
}

/// The caller does not know whether its first ATTACH arrived, and asks again.
#[test]
fn x8_a_command_whose_link_is_cut_behind_its_attach_runs_once() {
    /// ATTACH and ATTACHED, on the wire.
    const ATTACH: u8 = 0x04;
    const ATTACHED: u8 = 0x05;
    let net = Net::new();
    let (host, url) = (&net.host, net.relay.url().to_owned());
    at_once(0..20, |seed| {
        let frame = |dir, kind, place| When::Frame {
            dir,
            nth: 1..=1,
            kind: Some(kind),
            place,
        };
        let when = match seed % 3 {
            0 => frame(Dir::Up, ATTACH, Place::After),
            // It has arrived, and the caller does not hear that.
            1 => frame(Dir::Down, ATTACHED, Place::Before),
            // The answer of the command is on its way.
            _ => frame(Dir::Down, ATTACHED, Place::After),
        };
        let plan = Plan {
            faults: vec![Fault::new(when, Cut::Reset)],
            connections: 0..=2,
            ..Plan::default()
        };
        let faults = Faults::before(&url, |config| {
            config.seed = seed;
            config.plan = plan;
        });
        let script = format!("echo ran >>{}/ran.{seed}; exit 9", host.dir().display());
        let exec = host.exec_at(&faults.url(), "web1").arg("-q");
        exec.args(["--", "sh", "-c", &script]).run().exits(9);
        let ran = host.content(&format!("ran.{seed}"));
        assert_eq!(ran, b"ran\n", "seed {seed}: once");
        assert!(faults.stop().cuts_reset > 0, "seed {seed}: no cut");
    });
}

#[test]
fn a_detached_command_outlives_the_relay_that_it_was_asked_for_through() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let url = relay.url().to_owned();
    let agent = host.agent_at(&url, "web1").start_registered(1);
    let script = "echo out; read x; echo \"got $x\"; exit 7";
    let exec = host.exec_at(&url, "web1").args(["-d", "--id", "job.1"]);
    let started = exec.args(["--", "sh", "-c", script]).run().exits(0);
    started.printed("job.1\n");
    relay.kill();
    // Waited for: its port is free again.
    drop(relay);
    let relay = host.relay_at(&url).start();
    relay.stderr_until(|text| text.contains("listening on "));
    agent.await_registered(2);
    let attach = host.farpipe(["attach", "--relay", &url, "web1", "job.1"]);
    let ended = attach.input("a line\n").run().exits(7);
    ended.printed("out\ngot a line\n");
    let wait = host.farpipe(["wait", "--relay", &url, "web1", "job.1"]);
    wait.run().exits(7);
}
