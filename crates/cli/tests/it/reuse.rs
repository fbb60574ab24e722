//! Commands that go through a local agent: that they do, and that nobody can tell by what comes of
//! them.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;

use farpipe_faultproxy::Cut;
use rustix::process::Signal;

use crate::support::certs::{certified, shows};
use crate::support::process::{await_death, pid, until};
use crate::support::relay::{agent_at, relay};
use crate::support::{Ended, Faults, Host, Invocation, Listener, Running, Terminal, random};

/// A far agent, and a local one through which this user's commands reach it.
struct Net {
    host: Host,
    far: Listener,
    local: Running,
}

impl Net {
    fn new() -> Self {
        let host = Host::new();
        let far = host.agent("ws").arg("--no-reuse").start_listening();
        let local = local_agent(&host);
        Self { host, far, local }
    }

    /// `farpipe exec` through the local agent.
    fn exec(&self) -> Invocation {
        reusing(self.host.exec(self.far.url()))
    }

    fn script(&self, script: &str) -> Invocation {
        self.exec().args(["--", "sh", "-c", script])
    }

    /// The same without it.
    fn script_anew(&self, script: &str) -> Invocation {
        let exec = self.host.exec(self.far.url());
        exec.args(["--no-reuse", "--", "sh", "-c", script])
    }
}

fn reusing(invocation: Invocation) -> Invocation {
    invocation.env("FARPIPE_NO_REUSE", "0")
}

fn local_agent(host: &Host) -> Running {
    let local = host.farpipe(["agent", "--client-only", "-v"]).start();
    await_local(&local);
    local
}

fn await_local(local: &Running) {
    local.stderr_until(|text| text.contains("taking this user's commands at"));
}

/// Sessions that the local agent has begun to a far one.
fn begun(local: &Running) -> usize {
    let said = local.stderr_until(|_| true);
    let lines = said.lines().filter(|line| line.contains("INFO session"));
    lines.filter(|line| line.ends_with(": opened")).count()
}

#[test]
fn what_comes_of_a_command_is_the_same_with_and_without_it() {
    let net = Net::new();
    for (script, status) in [
        ("echo out; echo err >&2; exit 7", 7),
        ("exit 0", 0),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("cat; echo end", 0),
        ("exec 2>&-; cat", 0),
        ("read x; echo \"$x\"; exit 3", 3),
        ("exec /nonexistent/program", 127),
    ] {
        let input = "one\ntwo\n";
        let with = net.script(script).input(input).run().exits(status);
        let without = net.script_anew(script).input(input).run().exits(status);
        assert_eq!(with.stdout, without.stdout, "{script}");
        assert_eq!(with.stderr, without.stderr, "{script}");
    }
    let refused = |words: &[&str]| {
        let exec = |invocation: Invocation| invocation.args(["--"]).args(words).run();
        let with = exec(net.exec());
        let without = exec(net.host.exec(net.far.url()).arg("--no-reuse"));
        assert_eq!(with.stderr, without.stderr, "{words:?}");
        (with, without)
    };
    for (words, status) in [(["/etc/passwd"], 126), (["/nonexistent"], 127)] {
        let (with, without) = refused(&words);
        with.exits(status);
        without.exits(status);
    }
    assert_eq!(begun(&net.local), 1, "one session for all of them");
}

#[test]
fn much_data_passes_both_ways_at_once() {
    let net = Net::new();
    let data = random(20 << 20, 3);
    let echoed = net.script("cat").input(data.clone()).run().exits(0);
    assert!(echoed.stdout == data, "the same bytes");
    let script = "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2";
    let both = net.script(script).run().exits(0);
    assert_eq!(
        (both.stdout.len(), both.stderr.len()),
        (3_000_000, 3_000_000)
    );
    assert_eq!(begun(&net.local), 1);
}

#[test]
fn x2_a_reader_that_leaves_ends_the_writer_at_either_end() {
    let net = Net::new();
    let url = net.far.url();
    let line = format!(
        "FARPIPE_NO_REUSE=0; export FARPIPE_NO_REUSE; \
         {{ \"$FARPIPE\" exec {url} -- yes; echo $? >status; }} | head -1; \
         {{ yes; echo $? >writer; }} | \"$FARPIPE\" exec {url} -- head -1"
    );
    net.host.shell(&line).run().exits(0).printed("y\ny\n");
    assert_eq!(net.host.content("status"), b"141\n");
    assert_eq!(net.host.content("writer"), b"141\n");
    assert_eq!(begun(&net.local), 1);
}

#[test]
fn x3_an_interrupt_reaches_the_command() {
    let net = Net::new();
    let script = "trap 'echo caught; exit 8' INT; echo up; while :; do sleep 0.01; done";
    let exec = net.script(script).start();
    exec.stdout_until(3);
    exec.signal(Signal::INT);
    exec.end().exits(8).printed("up\ncaught\n");
    assert_eq!(begun(&net.local), 1);
}

#[test]
fn x7_a_terminal_has_keys_and_sizes() {
    use rustix::termios::{Winsize, tcsetwinsize};

    let net = Net::new();
    let mut terminal = Terminal::new();
    let (kept, screen) = (terminal.open(), terminal.screen());
    let shows = |what: &str| {
        let found = screen.until(|bytes| String::from_utf8_lossy(bytes).contains(what));
        assert!(found.is_ok(), "no {what:?}");
    };
    let resize = |screen: &std::fs::File, ws_row, ws_col| {
        let size = Winsize {
            ws_row,
            ws_col,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(screen, size).expect("a terminal");
    };
    resize(&kept, 31, 97);
    let script = "stty size; trap 'stty size' WINCH; \
                  while read x; do test \"$x\" = end && exit 4; echo \"<$x>\"; done";
    let exec = net.exec().args(["-t", "--", "bash", "-c", script]);
    let exec = exec.on_terminal(&terminal).start();
    shows("31 97\r\n");
    terminal.write("key\r");
    shows("<key>\r\n");
    resize(&kept, 11, 22);
    exec.signal(Signal::WINCH);
    // bash runs the trap when a read is over, and a key may overtake the size.
    until("the size does not follow", || {
        terminal.write("more\r");
        screen.text().contains("11 22\r\n")
    });
    terminal.write("end\r");
    exec.end().exits(4);
    assert_eq!(begun(&net.local), 1);
}

#[test]
fn n16_a_command_whose_caller_was_killed_is_hung_up_at_once() {
    let net = Net::new();
    // Without a local agent it would go on for as long as its caller tries to come back.
    let exec = net.script("echo $$; exec sleep 1000").open_input().start();
    let command = String::from_utf8(exec.stdout_until(2)).expect("a number");
    exec.kill();
    await_death(pid(&command), "command");
    // Its session goes on.
    net.script("exit 5").run().exits(5);
    assert_eq!(begun(&net.local), 1);
}

#[test]
fn n15_a_local_agent_that_is_killed_makes_no_success() {
    let net = Net::new();
    let exec = net.script("echo up; exec sleep 1000").open_input().start();
    exec.stdout_until(3);
    net.local.kill();
    let ended = exec.end().exits(125);
    let why = format!(
        "farpipe: the local agent, through which {} was reached, is gone\n",
        net.far.url()
    );
    assert_eq!(ended.stderr, why);
    // The next one goes its own way, and says nothing of it.
    net.script("exit 6").run().exits(6).says("");
}

#[test]
fn a_local_agent_that_is_told_to_end_hangs_up_the_commands_that_go_through_it() {
    let net = Net::new();
    let exec = net.script("echo $$; exec sleep 1000").open_input().start();
    let command = String::from_utf8(exec.stdout_until(2)).expect("a number");
    net.local.signal(Signal::TERM);
    let ended = exec.end().exits(125);
    assert_eq!(ended.stderr, "farpipe: the local agent was told to end\n");
    await_death(pid(&command), "command");
    let Net { host, local, .. } = net;
    local.end().exits(143);
    assert!(
        !host.path("farpipe/agent.sock").exists(),
        "it is left behind"
    );
}

#[test]
fn a_command_goes_on_while_the_link_behind_the_local_agent_is_lost() {
    let Net { host, far, local } = Net::new();
    let faults = Faults::between(&far, farpipe_faultproxy::Plan::default());
    let gate = host.fifo("gate");
    let script = format!("echo up; read x <{}; echo \"$x\"; exit 5", gate.display());
    let exec = reusing(host.exec(&faults.url())).open_input();
    let exec = exec.args(["--", "sh", "-c", &script]).start();
    exec.stdout_until(3);
    faults.cut_all(Cut::Reset);
    fs::write(gate, "down\n").expect("the command reads it");
    exec.end().exits(5).printed("up\ndown\n");
    local.stderr_until(|text| text.contains(": resumed by"));
}

#[test]
fn a_far_agent_that_is_lost_for_good_is_told_as_without_a_local_one() {
    let host = Host::new();
    let far = host.agent("ws").arg("--no-reuse").start_listening();
    let _local = local_agent(&host);
    let url = far.url().to_owned();
    let exec = |invocation: Invocation| {
        let patience = [
            "--resume-for",
            "300ms",
            "--",
            "sh",
            "-c",
            "echo up; exec sleep 1000",
        ];
        let running = invocation.open_input().args(patience).start();
        running.stdout_until(3);
        running
    };
    let with = exec(reusing(host.exec(&url)));
    let without = exec(host.exec(&url).arg("--no-reuse"));
    far.kill();
    let (with, without) = (with.end().exits(125), without.end().exits(125));
    assert!(with.stderr.contains("no link to"), "{}", with.stderr);
    // What the last try met may differ.
    let began = |ended: &Ended| {
        let text = ended.stderr.lines().last().unwrap_or_default();
        text.split(" for ").next().map(str::to_owned)
    };
    assert_eq!(began(&with), began(&without));
}

#[test]
fn a_lost_link_is_not_given_to_the_next_command() {
    let Net { host, far, local } = Net::new();
    let mut faults = Faults::between(&far, farpipe_faultproxy::Plan::default());
    let exec = || reusing(host.exec(&faults.url())).args(["--", "true"]);
    exec().run().exits(0);
    faults.refuse(true);
    faults.cut_all(Cut::Reset);
    local.stderr_until(|text| text.contains(": lost: "));
    let exec = || reusing(host.exec(&faults.url())).args(["--", "true"]);
    let refused = exec().run().exits(125);
    assert!(
        refused.stderr.contains("nothing listens there"),
        "{}",
        refused.stderr
    );
    faults.refuse(false);
    reusing(host.exec(&faults.url()))
        .args(["--", "true"])
        .run()
        .exits(0);
}

/// The far agent says who it takes a caller for, in its log.
#[test]
fn commands_with_different_certificates_do_not_share() {
    let host = certified();
    let relay = host.relay("wss").args(shows("relay")).start_listening();
    let mut args: Vec<String> = shows("web1").into();
    args.extend(["--no-reuse", "-v"].map(str::to_owned));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let far = agent_at(&host, relay.url(), "web1", &args);
    let local = local_agent(&host);
    let exec = |name: &str| {
        let exec = reusing(host.exec_at(relay.url(), "web1")).args(shows(name));
        exec.args(["--", "sh", "-c", "echo up"])
            .run()
            .exits(0)
            .printed("up\n");
    };
    let allowed = |name: &str| {
        let said = far.stderr_until(|_| true);
        let whose = format!("/client/{name}");
        let lines = said.lines().filter(|line| line.contains("allowed by"));
        lines.filter(|line| line.contains(&whose)).count()
    };
    for name in ["alice", "bob", "alice", "bob"] {
        exec(name);
    }
    assert_eq!((allowed("alice"), allowed("bob")), (2, 2));
    assert_eq!(begun(&local), 2, "one for each");
    // A certificate that was replaced is another one.
    let cert = host.path("farpipe-certs/alice.pem");
    fs::write(host.path("new"), fs::read(&cert).expect("a certificate")).expect("a file");
    fs::rename(host.path("new"), &cert).expect("a certificate");
    exec("alice");
    assert_eq!(begun(&local), 3, "the files are others");
    // What it was not shown it has not shown either.
    let exec = reusing(host.exec_at(relay.url(), "web1")).args(shows("alice"));
    exec.args(["--no-e2e", "--", "true"]).run();
    assert_eq!(begun(&local), 4, "without a seal");
}

#[test]
fn what_is_the_commands_own_goes_its_own_way() {
    let net = Net::new();
    net.script("true")
        .env("FARPIPE_TOKEN", "fpk1-none")
        .run()
        .exits(125);
    net.script("true")
        .arg("x")
        .env("FARPIPE_NO_REUSE", "1")
        .run()
        .exits(0);
    let fd = net
        .exec()
        .args(["--status-fd", "2", "--", "true"])
        .run()
        .exits(0);
    assert!(fd.stderr.contains("\"connected\""), "{}", fd.stderr);
    assert_eq!(begun(&net.local), 0);
}

#[test]
fn nobody_else_can_come_by_the_socket() {
    let host = Host::new();
    let _local = local_agent(&host);
    let mode = |name: &str| {
        fs::metadata(host.path(name))
            .expect(name)
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(mode("farpipe"), 0o700);
    assert_eq!(mode("farpipe/agent.sock"), 0o600);
    assert_eq!(mode("farpipe/agent.lock"), 0o600);
}

#[test]
fn a_socket_that_was_left_behind_is_replaced_and_one_that_lives_is_not() {
    let net = Net::new();
    net.local.kill();
    let socket = net.host.path("farpipe/agent.sock");
    let kind = fs::symlink_metadata(&socket)
        .expect("it is left behind")
        .file_type();
    assert!(kind.is_socket());
    net.script("exit 4").run().exits(4).says("");
    let again = local_agent(&net.host);
    net.script("exit 4").run().exits(4);
    assert_eq!(begun(&again), 1);
    let second = net
        .host
        .farpipe(["agent", "--client-only"])
        .run()
        .exits(125);
    assert!(
        second.stderr.contains("another agent of this user has"),
        "{}",
        second.stderr
    );
    // One that serves others as well goes without, and says nothing of it.
    let other = net.host.agent("fp").start_listening();
    net.script("exit 4").run().exits(4);
    assert_eq!(begun(&again), 1);
    other.signal(Signal::TERM);
    other
        .end()
        .exits(143)
        .says("listening on fp://127.0.0.1:PORT");
}

#[test]
fn one_that_answers_nothing_or_nonsense_is_passed_over() {
    let host = Host::new();
    let far = host.agent("ws").arg("--no-reuse").start_listening();
    let exec = || reusing(host.exec(far.url())).args(["--", "sh", "-c", "exit 4"]);
    let socket = UnixListener::bind(host.path("farpipe/agent.sock")).expect("a socket");
    let silent = std::thread::spawn(move || {
        let kept = socket.accept().expect("a command");
        let (mut other, _) = socket.accept().expect("another");
        std::io::Write::write_all(&mut other, b"SSH-2.0-OpenSSH_9.2\r\n").expect("it reads");
        kept
    });
    exec().run().exits(4).says("");
    exec().run().exits(4).says("");
    drop(silent.join());
}

#[test]
fn the_other_verbs_go_through_it() {
    let host = Host::new();
    let relay = relay(&host, &[]);
    let dir = host.dir().display().to_string();
    let (read, write) = (format!("read:{dir}"), format!("write:{dir}"));
    let allow = ["--no-reuse", "--allow", &read, "--allow", &write];
    let _far = agent_at(&host, relay.url(), "web1", &allow);
    let local = local_agent(&host);
    let verb = |args: &[&str]| {
        let args = args.iter().copied().chain(["--relay", relay.url()]);
        reusing(host.farpipe(args))
    };
    verb(&["ping", "web1", "-c", "2", "-i", "10ms"])
        .run()
        .exits(0);
    let id = verb(&["exec", "web1", "-d", "--id", "job"]);
    id.args(["--", "sh", "-c", "echo kept; exit 3"])
        .run()
        .exits(0);
    verb(&["wait", "web1", "job"]).run().exits(3);
    verb(&["attach", "web1", "job"])
        .run()
        .exits(3)
        .printed("kept\n");
    let bytes = random(3_000_000, 5);
    host.file("here", &bytes);
    let there = format!("web1:{dir}/there");
    verb(&["cp", "here", &there]).run().exits(0);
    verb(&["cp", &there, "back"]).run().exits(0);
    assert!(host.content("back") == bytes, "the same bytes");
    host.file("log", "one\ntwo\n");
    let log = format!("web1:{dir}/log");
    let tail = verb(&["tail", "--no-follow", "-n", "1", &log]);
    tail.run().exits(0).printed("two\n");
    verb(&["pipe", &log, "-"])
        .run()
        .exits(0)
        .printed("one\ntwo\n");
    assert_eq!(begun(&local), 2, "ping is less patient than the others");
}

#[test]
fn many_commands_at_once_have_a_session_more() {
    let net = Net::new();
    let gate = net.host.path("gate");
    let script = format!(
        "echo up; while ! test -e {}; do sleep 0.05; done",
        gate.display()
    );
    // One after the other: each has its two streams before the next one is begun.
    let up = |_| {
        let one = net.script(&script).start();
        one.stdout_until(3);
        one
    };
    let running: Vec<Running> = (0..66).map(up).collect();
    assert_eq!(begun(&net.local), 2);
    fs::write(gate, "").expect("a file");
    for one in running {
        one.end().exits(0).printed("up\n");
    }
}

/// All is written and its end is said; only the far end knows whether it arrived.
#[test]
fn what_the_far_end_has_not_confirmed_is_no_success() {
    let host = Host::new();
    let relay = relay(&host, &[]);
    let dir = host.dir().display().to_string();
    let write = format!("write:{dir}");
    let _far = agent_at(
        &host,
        relay.url(),
        "web1",
        &["--no-reuse", "--allow", &write],
    );
    let local = local_agent(&host);
    let mut faults = Faults::before(relay.url(), |_| {});
    let to = format!("web1:{dir}/there");
    let url = faults.url();
    let pipe = || {
        let pipe = reusing(host.farpipe(["pipe", "--relay", &url, "-", &to]));
        pipe.open_input().start()
    };
    let mut whole = pipe();
    whole.write("whole\n");
    whole.close_input();
    whole.end().exits(0);
    assert_eq!(host.content("there"), b"whole\n");
    let mut half = pipe();
    half.write("half\n");
    until("nothing arrived", || host.content("there") == b"half\n");
    faults.refuse(true);
    faults.cut_all(Cut::Reset);
    local.stderr_until(|text| text.contains(": lost: "));
    half.close_input();
    std::thread::sleep(std::time::Duration::from_millis(300)); // sleep: nothing is to happen
    assert!(half.is_running(), "who has confirmed it?");
    local.kill();
    half.end().exits(125);
}
