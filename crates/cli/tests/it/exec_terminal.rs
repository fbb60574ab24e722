//! `farpipe exec -t`: a terminal there that is the one here.

use std::num::{NonZeroU64, NonZeroUsize};

use farpipe_faultproxy::Cut;
use rustix::process::Signal;
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::support::process::{await_death, pid, until};
use crate::support::{DEADLINE, Faults, Host, Running, Terminal, at_once};

/// Waits until the screen shows this, and returns all that it has shown.
#[track_caller]
fn shows(screen: &crate::support::output::Output, what: &str) -> String {
    let found = screen.until(|bytes| String::from_utf8_lossy(bytes).contains(what));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    match found {
        Ok(bytes) => text(bytes),
        Err(bytes) => panic!("no {what:?} in {DEADLINE:?} on:\n{}", text(bytes)),
    }
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

/// What tells one terminal's modes from another's.
fn modes(terminal: &Terminal) -> String {
    let modes: Termios = tcgetattr(terminal.open()).expect("a terminal");
    format!(
        "{:?} {:?} {:?} {:?}",
        modes.input_modes, modes.output_modes, modes.control_modes, modes.local_modes
    )
}

#[test]
fn keys_reach_the_command_and_sizes_follow() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let mut terminal = Terminal::new();
    // Open all the time, or the screen would end.
    let _kept = terminal.open();
    let (screen, before) = (terminal.screen(), modes(&terminal));
    let size = Winsize {
        ws_row: 31,
        ws_col: 97,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal.open(), size).expect("a terminal");
    let script = "stty size; echo $TERM; trap 'stty size' WINCH; tty; \
                  while read x; do test \"$x\" = end && exit 4; echo \"<$x>\"; done";
    let exec = host
        .exec(agent.url())
        .args(["-t", "--", "bash", "-c", script]);
    let exec = exec.env("TERM", "vt220").on_terminal(&terminal).start();
    let text = shows(&screen, "/dev/");
    assert!(text.contains("31 97\r\nvt220\r\n"), "{text:?}");
    assert_ne!(modes(&terminal), before, "raw");
    terminal.write("hello\r");
    shows(&screen, "<hello>\r\n");
    resize(&terminal, &exec, 44, 132);
    // bash runs the trap when a read is over, and a key may overtake the size.
    until("the size does not follow", || {
        terminal.write("more\r");
        screen.text().contains("44 132\r\n")
    });
    terminal.write("end\r");
    exec.end().exits(4);
    assert_eq!(modes(&terminal), before, "as it was");
}

#[test]
fn interrupting_is_a_key_and_not_a_signal_here() {
    let host = Host::new();
    let agent = host.agent("fp").start_listening();
    let mut terminal = Terminal::new();
    let (_kept, screen) = (terminal.open(), terminal.screen());
    let script = "trap 'echo caught; exit 8' INT; echo up; while :; do sleep 0.01; done";
    let exec = host
        .exec(agent.url())
        .args(["-t", "--", "sh", "-c", script]);
    let exec = exec.on_terminal(&terminal).start();
    shows(&screen, "up\r\n");
    terminal.write("\x03");
    exec.end().exits(8);
    shows(&screen, "caught\r\n");
}

#[test]
fn without_a_command_there_is_a_login_shell() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let mut terminal = Terminal::new();
    let (_kept, screen) = (terminal.open(), terminal.screen());
    let exec = host.exec(agent.url()).arg("-t");
    let exec = exec.on_terminal(&terminal).start();
    terminal.write("echo \"name=$0 at=$PWD home=$HOME\"; exit 6\r");
    exec.end().exits(6);
    let text = shows(&screen, "name=-");
    let home = std::env::home_dir().expect("a home directory");
    let home = home.display();
    assert!(text.contains(&format!("at={home} home={home}")), "{text:?}");
}

#[test]
fn the_terminal_here_is_as_before_however_exec_ends() {
    let host = Host::new();
    for how in ["given up", "ended there", "lost"] {
        let agent = host.agent("ws").start_listening();
        let terminal = Terminal::new();
        let _kept = terminal.open();
        let (screen, before) = (terminal.screen(), modes(&terminal));
        let script = "trap '' TERM INT; echo $$; while :; do sleep 0.01; done";
        let exec = host.exec(agent.url()).args(["--resume-for", "500ms", "-t"]);
        let exec = exec.args(["--", "sh", "-c", script]);
        let exec = exec.on_terminal(&terminal).start();
        let text = shows(&screen, "\r\n");
        assert_ne!(modes(&terminal), before, "{how}: raw");
        match how {
            "given up" => {
                exec.signal(Signal::TERM);
                std::thread::sleep(std::time::Duration::from_millis(400)); // sleep: within 250 ms a signal counts as the same
                exec.signal(Signal::TERM);
                exec.end().exits(143);
            }
            "ended there" => {
                agent.signal(Signal::TERM);
                exec.end().exits(129);
            }
            _ => {
                agent.kill();
                exec.end().exits(125);
            }
        }
        assert_eq!(modes(&terminal), before, "{how}: as it was");
        await_death(pid(&text), "shell");
    }
}

#[test]
fn x7_a_storm_of_sizes_ends_with_the_last_one() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let mut terminal = Terminal::new();
    let (_kept, screen) = (terminal.open(), terminal.screen());
    let script = "echo up; while :; do stty size; sleep 0.01; done";
    let exec = host
        .exec(agent.url())
        .args(["-t", "--", "sh", "-c", script]);
    let exec = exec.on_terminal(&terminal).start();
    shows(&screen, "up\r\n");
    for n in 1..=500 {
        resize(&terminal, &exec, 10, 20 + n);
    }
    resize(&terminal, &exec, 11, 33);
    shows(&screen, "11 33\r\n");
    terminal.write("\x03");
    exec.end().exits(130);
}

#[test]
fn a_terminal_there_needs_none_here() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let script = "stty -echo; tty >/dev/null && echo yes; cat; exit 2";
    let exec = host.exec(agent.url()).open_input();
    let mut exec = exec.args(["-t", "--", "sh", "-c", script]).start();
    // What is typed before is shown.
    exec.stdout_until(5);
    exec.write("two\nlines\nand a half");
    // The end of input is the key for it, which has to be typed twice within a line.
    exec.close_input();
    exec.end()
        .exits(2)
        .printed("yes\r\ntwo\r\nlines\r\nand a half");
}

/// Whether a process is stopped.
fn is_stopped(number: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| rest.starts_with('T'))
}

#[test]
fn a_client_that_is_stopped_gives_the_terminal_back_and_takes_it_again() {
    let host = Host::new();
    let agent = host.agent("ws").start_listening();
    let mut terminal = Terminal::new();
    let (_kept, screen, before) = (terminal.open(), terminal.screen(), modes(&terminal));
    let script = "echo up; while read x; do echo \"<$x>\"; test \"$x\" = end && exit 4; done";
    let exec = host
        .exec(agent.url())
        .args(["-t", "--", "sh", "-c", script]);
    let exec = exec.on_terminal(&terminal).start();
    shows(&screen, "up\r\n");
    let raw = modes(&terminal);
    assert_ne!(raw, before);
    exec.signal(Signal::TSTP);
    until("it does not stop", || is_stopped(exec.id()));
    assert_eq!(modes(&terminal), before, "the terminal is not given back");
    exec.signal(Signal::CONT);
    until("it is not raw again", || modes(&terminal) == raw);
    terminal.write("end\r");
    exec.end().exits(4);
    assert_eq!(modes(&terminal), before);
}

/// On a link that carries 100 kB/s and is full, no more is shown after ^C than what was on its way: with a
/// terminal there, and with none.
#[test]
fn an_interrupted_command_on_a_slow_link_shows_little_more() {
    let host = Host::new();
    at_once(["-t", "-n"], |flag| {
        let agent = host.agent("ws").start_listening();
        let slow = Faults::shaped(&agent, |config| {
            config.down.throttle = NonZeroU64::new(100_000);
            config.down.socket_buffer = NonZeroUsize::new(8192);
        });
        let mut terminal = Terminal::new();
        let (_kept, screen) = (terminal.open(), terminal.screen());
        let script =
            "trap 'echo the end; exit 8' INT; echo up; while :; do echo 0123456789abcdef; done";
        let exec = host
            .exec(&slow.url())
            .args([flag, "--", "bash", "-c", script]);
        let exec = exec.on_terminal(&terminal).start();
        // The link is full by then, whatever lies between.
        screen.until(|bytes| bytes.len() > 200_000).expect("output");
        let shown = screen.text().len();
        match flag {
            "-t" => terminal.write("\x03"),
            // As the terminal would, if it were this process's own.
            _ => exec.signal(Signal::INT),
        }
        exec.end().exits(8);
        let text = shows(&screen, "the end\r\n");
        // With a command's pipe as large as ever it is more than 1 MiB. Some 35 kB are on their way here, and a busy
        // machine is late to say ^C.
        let more = text.len() - shown;
        assert!(more < 400_000, "{flag}: {more} bytes more");
    });
}

/// Without a terminal anywhere nothing of the output is lost, however much of it is on its way; the signal does
/// not wait for it, nor for a connection that is cut at that moment.
#[test]
fn an_interrupt_overtakes_output_that_is_on_its_way_and_loses_none_of_it() {
    let host = Host::new();
    at_once(["kept", "cut"], |how| {
        let agent = host.agent("ws").start_listening();
        let slow = Faults::shaped(&agent, |config| {
            config.down.throttle = NonZeroU64::new(300_000);
        });
        let stamp = host.path(how);
        let script = "import os, signal, sys\n\
             told = []\n\
             def tell(*_):\n    open(sys.argv[1], 'x').close()\n    told.append(1)\n\
             signal.signal(signal.SIGINT, tell)\n\
             n = 0\n\
             while not told:\n    n += 1\n    os.write(1, b'%0100d\\n' % n)\n\
             open(sys.argv[1] + '.lines', 'w').write(str(n))\n\
             sys.exit(8)";
        let exec = host.exec(&slow.url()).args(["-n", "--", "python3", "-c"]);
        let exec = exec.arg(script).arg(&stamp).start();
        exec.stdout_until(300_000);
        exec.signal(Signal::INT);
        if how == "cut" {
            slow.cut_all(Cut::Reset);
        }
        until("the command has no signal", || stamp.exists());
        let before = exec.printed_so_far().lines().count();
        let ended = exec.end().exits(8);
        let lines = ended.stdout.len() / LINE;
        let written = host.content(&format!("{how}.lines"));
        assert_eq!(written, lines.to_string().as_bytes(), "{how}: all of it");
        assert!(
            before + 1_000 < lines,
            "{how}: {before} lines of {lines} were there already"
        );
        let all: String = (1..=lines).map(|line| format!("{line:0100}\n")).collect();
        ended.printed(all);
    });
}

/// With its end.
const LINE: usize = 101;
