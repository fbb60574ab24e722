//! `farpipe tail`: files of an agent's host, followed through whatever happens to them and to the way there.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use farpipe_faultproxy::{Cut, Dir, Place, Plan, When};
use farpipe_proto::limits::TAILS_EACH_MAX;
use rustix::process::Signal;

use crate::support::{Faults, Host, Invocation, Listener, Running, assert_same};

/// A relay, and an agent behind it that lets its directory of logs be read.
struct Net {
    host: Host,
    relay: Listener,
    agent: Option<Running>,
}

impl Net {
    fn new() -> Self {
        let host = Host::new();
        fs::create_dir(host.path("log")).expect("a directory");
        let relay = host.relay("ws").start_listening();
        let mut net = Self {
            host,
            relay,
            agent: None,
        };
        net.start_agent();
        net
    }

    /// The agent, anew.
    fn start_agent(&mut self) {
        let allowed = format!("read:{}", self.host.path("log").display());
        let agent = [
            "agent",
            "--no-reuse",
            self.relay.url(),
            "--name",
            "web1",
            "-v",
            "--allow",
            &allowed,
        ];
        self.agent = Some(self.host.farpipe(agent).start_registered(1));
    }

    fn tail(&self, names: &[&str]) -> Invocation {
        self.tail_by(self.relay.url(), names)
    }

    fn tail_by(&self, url: &str, names: &[&str]) -> Invocation {
        let words = names
            .iter()
            .map(|name| format!("web1:{}", self.path(name).display()));
        self.host.farpipe(["tail", "--relay", url]).args(words)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.host.path("log").join(name)
    }

    fn append(&self, name: &str, text: impl AsRef<[u8]>) {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path(name));
        let written = file.and_then(|mut file| file.write_all(text.as_ref()));
        written.expect("a file of our own");
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).expect("files of our own");
    }

    /// As logrotate does: the newest is 1.
    fn rotate(&self, name: &str) {
        let is_there = |n: &usize| self.path(&format!("{name}.{n}")).exists();
        let last = (1..).take_while(is_there).count();
        for n in (1..=last).rev() {
            self.rename(&format!("{name}.{n}"), &format!("{name}.{}", n + 1));
        }
        self.rename(name, &format!("{name}.1"));
    }

    /// What stderr says, with the directory left out.
    fn said(&self, stderr: &str) -> String {
        stderr.replace(&format!("{}/", self.host.path("log").display()), "")
    }
}

/// Stops a tail that follows; what it printed and said.
fn stop(tail: Running) -> (Vec<u8>, String) {
    tail.signal(Signal::INT);
    let ended = tail.end().exits(130);
    (ended.stdout, ended.stderr)
}

/// Waits until so much is printed, and for all that is said then.
#[track_caller]
fn prints(tail: Running, expected: &str) -> String {
    tail.stdout_until(expected.len());
    let (printed, said) = stop(tail);
    assert_text(&printed, expected);
    said
}

#[track_caller]
fn assert_text(printed: &[u8], expected: &str) {
    assert_eq!(String::from_utf8_lossy(printed), expected);
}

/// Lines with their numbers.
fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers
        .map(|n| format!("{n} is the number of this line\n"))
        .collect()
}

#[test]
fn it_begins_where_it_is_told_to_and_goes_on() {
    let net = Net::new();
    net.append("app.log", lines(0..15));
    for (args, from) in [
        (&[][..], 5),
        (&["-n", "2"], 13),
        (&["-n", "0"], 15),
        (&["-n", "+3"], 2),
        (&["--from-start"], 0),
    ] {
        let once = net.tail(&["app.log"]).args(args).arg("--no-follow");
        let ended = once.run().exits(0).printed(lines(from..15));
        assert_eq!(ended.stderr, "");
    }
    let tail = net.tail(&["app.log"]).start();
    tail.stdout_until(lines(5..15).len());
    net.append("app.log", lines(15..16));
    net.append("app.log", "half");
    assert_eq!(prints(tail, &(lines(5..16) + "half")), "");
}

/// As they are typed for tail.
#[test]
fn the_flags_of_tail_are_taken() {
    let net = Net::new();
    net.append("app.log", "0123456789\nab\n");
    for (args, expected) in [
        (&["-c", "3"][..], "ab\n"),
        (&["-c", "+9"], "89\nab\n"),
        (&["-c", "0"], ""),
        (&["--bytes", "1K"], "0123456789\nab\n"),
    ] {
        let once = net.tail(&["app.log"]).args(args).arg("--no-follow");
        once.run().exits(0).printed(expected);
    }
    for args in [&["-f", "-c", "3"][..], &["-F", "-n1"], &["-fF", "-n1"]] {
        let tail = net.tail(&["app.log"]).args(args).start();
        prints(tail, "ab\n");
    }
    let both = net.tail(&["app.log"]).args(["-f", "--no-follow"]).run();
    both.exits(2);
}

/// Nothing ever comes of it. Beside a file it is told, and the file is followed.
#[test]
fn a_directory_is_an_error() {
    let net = Net::new();
    fs::create_dir(net.path("dir")).expect("a directory");
    let said = net.tail(&["dir"]).run().exits(1).printed("").stderr;
    let expected = "farpipe: web1:dir: cannot be read: it is a directory\n";
    assert_eq!(net.said(&said), expected);
    let tail = net.tail(&["dir", "app.log"]).args(["--names", "none"]);
    let tail = tail.start();
    tail.stderr_until(|text| text.contains("waiting for it"));
    net.append("app.log", lines(0..5));
    let said = prints(tail, &lines(0..5));
    assert!(net.said(&said).contains(expected), "{said}");
}

#[test]
fn several_files_have_headers_or_names_and_keep_their_lines() {
    let net = Net::new();
    net.append("a.log", "1\n2\n");
    net.append("b.log", "3\n");
    let (a, b) = (net.path("a.log"), net.path("b.log"));
    let (a, b) = (a.display(), b.display());
    let both = ["a.log", "b.log"];
    let once = || net.tail(&both).arg("--no-follow");
    let headers = format!("==> {a} <==\n1\n2\n\n==> {b} <==\n3\n");
    once().run().exits(0).printed(&headers);
    let each = format!("{a}: 1\n{a}: 2\n{b}: 3\n");
    once().arg("--prefix").run().exits(0).printed(&each);
    once()
        .args(["--names", "none"])
        .run()
        .exits(0)
        .printed("1\n2\n3\n");
    let tail = net.tail(&["*.log"]).arg("--prefix").start();
    tail.stdout_until(each.len());
    net.append("a.log", "ha");
    net.append("b.log", "4\n");
    let each = format!("{each}{b}: 4\n");
    tail.stdout_until(each.len());
    net.append("a.log", "lf\n");
    prints(tail, &format!("{each}{a}: half\n"));
}

#[test]
fn a_pattern_finds_what_comes_later_from_its_start() {
    let net = Net::new();
    net.append("a.log", "1\n");
    net.append("other", "no\n");
    let tail = net.tail(&["*.log"]).args(["-n", "0", "--prefix"]).start();
    // What comes from now on is later.
    let agent = net.agent.as_ref().expect("started");
    agent.stderr_until(|text| text.contains("follows"));
    let later = lines(0..20);
    net.append("b.log", &later);
    let b = net.path("b.log");
    let named = |line: &str| format!("{}: {line}", b.display());
    let expected: String = later.split_inclusive('\n').map(named).collect();
    prints(tail, &expected);
}

#[test]
fn what_is_missing_is_said_and_waited_for() {
    let net = Net::new();
    let tail = net.tail(&["app.log"]).start();
    tail.stderr_until(|text| text.ends_with("waiting for it\n"));
    net.append("app.log", lines(0..20));
    let said = prints(tail, &lines(0..20));
    let expected = "farpipe: web1:app.log: not there yet; waiting for it\n";
    assert_eq!(net.said(&said), expected);
    let once = net.tail(&["none"]).arg("--no-follow").run().exits(1);
    assert_eq!(net.said(&once.stderr), "farpipe: web1:none: not there\n");
}

#[test]
fn a_pattern_that_nothing_fits_is_an_error_unless_it_is_waited_for() {
    let net = Net::new();
    net.append("app.log", "1\n");
    // What fits is printed all the same; a directory that is not there has nothing that fits.
    let once = |names: &[&str]| net.tail(names).args(["--no-follow", "--names", "none"]);
    let ended = once(&["*.nothing", "none/*.log", "*.log"]).run().exits(1);
    assert_text(&ended.stdout, "1\n");
    assert_eq!(
        net.said(&ended.stderr),
        "farpipe: web1:*.nothing: not there\nfarpipe: web1:none/*.log: not there\n"
    );
    let ended = once(&["*.nothing"]).run().exits(1).printed("");
    let said = "farpipe: web1:*.nothing: not there\n";
    assert_eq!(net.said(&ended.stderr), said);
    let tail = net.tail(&["*.late"]).args(["--names", "none"]).start();
    tail.stderr_until(|text| text.ends_with("waiting for it\n"));
    net.append("app.late", lines(0..3));
    let said = prints(tail, &lines(0..3));
    let expected = "farpipe: web1:*.late: not there yet; waiting for it\n";
    assert_eq!(net.said(&said), expected);
}

/// A pattern whose directory may not be read is said to be so, beside others.
#[test]
fn a_pattern_that_may_not_be_compared_is_denied() {
    let net = Net::new();
    net.append("app.log", "1\n");
    let elsewhere = format!("web1:{}/*", net.host.dir().display());
    let tail = net.tail(&["app.log"]).arg(elsewhere);
    let ended = tail.args(["--no-follow", "--names", "none"]).run().exits(1);
    assert_text(&ended.stdout, "1\n");
    let told = "the policy of that host does not allow it; its log says why";
    assert!(
        ended.stderr.ends_with(&format!("/*: {told}\n")),
        "{}",
        ended.stderr
    );
}

#[test]
fn every_line_comes_once_while_logs_are_rotated_and_links_are_cut() {
    const ROTATIONS: u32 = 100;
    const EACH: u32 = 40;
    let net = Net::new();
    net.append("app.log", "");
    let bytes = When::Byte {
        dir: Dir::Down,
        at: 2000..=5000,
    };
    let plan = Plan {
        connections: 0..=19,
        ..Plan::of(bytes, Cut::Reset)
    };
    let faults = Faults::between(&net.relay, plan);
    let tail = net.tail_by(&faults.url(), &["app.log"]);
    let tail = tail.args(["--from-start", "--heartbeat", "300ms"]).start();
    let mut written = String::new();
    for n in 0..ROTATIONS {
        let some = lines(n * EACH..(n + 1) * EACH);
        for line in some.split_inclusive('\n') {
            net.append("app.log", line);
        }
        written += &some;
        if n % 5 == 0 {
            // Not all at once: the cuts are to fall between the rotations.
            tail.stdout_until(written.len() / 2);
        }
        net.rotate("app.log");
    }
    net.append("app.log", "the end\n");
    written += "the end\n";
    tail.stdout_until(written.len());
    let (printed, said) = stop(tail);
    assert_same(&printed, written.as_bytes());
    assert!(!said.contains("missing"), "{said}");
    let cuts = faults.stop().connections;
    assert!(cuts > 20, "{cuts} connections");
}

/// Waits until a process has a file open, or for so long.
fn is_opened(process: &Running, path: &Path, patience: Duration) {
    let until = Instant::now() + patience;
    let has = || {
        let fds = fs::read_dir(format!("/proc/{}/fd", process.id())).expect("it runs");
        fds.flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == path))
    };
    while !has() && Instant::now() < until {
        std::thread::yield_now();
    }
}

#[test]
fn what_is_rotated_away_while_the_link_is_gone_is_kept_open() {
    let net = Net::new();
    net.append("app.log", "the first line\n");
    let mut faults = Faults::between(&net.relay, Plan::default());
    let tail = net.tail_by(&faults.url(), &["app.log"]);
    let tail = tail.arg("--from-start").start();
    let mut written = "the first line\n".to_owned();
    tail.stdout_until(written.len());
    faults.refuse(true);
    faults.cut_all(Cut::Reset);
    let agent = net.agent.as_ref().expect("it runs");
    for n in 0..20 {
        // More than the stream takes without an answer.
        let some = lines(n * 1000..(n + 1) * 1000);
        net.append("app.log", &some);
        written += &some;
        net.rotate("app.log");
        net.append("app.log", "");
        // A log that keeps two old files waits for nobody for ever.
        is_opened(agent, &net.path("app.log.1"), Duration::from_millis(400));
        let _ = fs::remove_file(net.path("app.log.3"));
    }
    faults.refuse(false);
    let said = prints(tail, &written);
    assert!(!said.contains("missing"), "{said}");
}

#[test]
fn an_agent_that_is_killed_and_started_again_goes_on_where_it_was() {
    let mut net = Net::new();
    net.append("app.log", lines(0..50));
    let tail = net.tail(&["app.log"]).arg("--from-start").start();
    let mut next = 50;
    for round in 0..3 {
        tail.stdout_until(lines(0..next).len());
        // Dropped is killed.
        drop(net.agent.take());
        for _ in 0..=round {
            net.append("app.log", lines(next..next + 10));
            net.rotate("app.log");
            net.append("app.log", lines(next + 10..next + 13));
            next += 13;
        }
        net.start_agent();
    }
    net.append("app.log", lines(next..next + 1));
    let said = prints(tail, &lines(0..next + 1));
    let told = "farpipe: the agent was started anew; web1 is asked anew in 1 s\n";
    assert!(said.contains(told), "{said}");
    let back = "farpipe: web1 is followed again, from where it was\n";
    assert_eq!(said.matches(back).count(), 3, "{said}");
    assert!(!said.contains("missing"), "{said}");
}

/// It was there, so it comes back: an answer is no condition. An unknown host is an error all the same, and
/// what may not be read, whoever passes that on.
#[test]
fn an_agent_that_is_killed_before_its_first_answer_is_asked_anew() {
    const ATTACHED: u8 = 0x05;
    let mut net = Net::new();
    net.append("app.log", lines(0..5));
    let attached = When::Frame {
        dir: Dir::Down,
        nth: 1..=1,
        kind: Some(ATTACHED),
        place: Place::After,
    };
    let local = net.host.farpipe(["agent", "--client-only", "-v"]).start();
    local.stderr_until(|text| text.contains("taking this user's commands at"));
    for no_reuse in ["1", "0"] {
        let plan = Plan {
            connections: 0..=0,
            ..Plan::of(attached.clone(), Cut::Stall)
        };
        let mut faults = Faults::between(&net.relay, plan);
        let by = |name: &str| {
            let tail = net
                .host
                .farpipe(["tail", "-v", "--relay", &faults.url(), name]);
            tail.env("FARPIPE_NO_REUSE", no_reuse)
        };
        let log = format!("web1:{}", net.path("app.log").display());
        let tail = by(&log).start();
        let opener = if no_reuse == "1" { &tail } else { &local };
        opener.stderr_until(|text| text.contains(": attached by ws:"));
        let (unknown, denied) = (by("nohost:app.log"), by("web1:/etc/passwd"));
        drop(net.agent.take());
        net.start_agent();
        faults.cut_all(Cut::Reset);
        let said = prints(tail, &lines(0..5));
        assert!(said.contains("web1 is asked anew in 1 s"), "{said}");
        let said = unknown.run().exits(125).said();
        assert!(said.contains("no agent nohost is registered"), "{said}");
        assert!(!said.contains("anew"), "{said}");
        let said = denied.run().exits(125).said();
        assert!(said.contains("does not allow it"), "{said}");
        faults.refuse(true);
    }
}

#[test]
fn what_is_gone_with_an_agent_is_said() {
    let mut net = Net::new();
    net.append("app.log", lines(0..5));
    let tail = net.tail(&["app.log"]).start();
    tail.stdout_until(lines(0..5).len());
    net.agent.as_ref().expect("started").signal(Signal::TERM);
    net.agent.take().expect("started").end();
    fs::remove_file(net.path("app.log")).expect("it was there");
    net.append("app.log", lines(7..9));
    net.start_agent();
    let said = prints(tail, &(lines(0..5) + &lines(7..9)));
    assert!(said.contains("nobody knows how much is missing"), "{said}");
}

#[test]
fn an_emptied_file_is_read_from_its_start_and_its_copy_to_its_end() {
    let net = Net::new();
    net.append("app.log", lines(0..20));
    let tail = net.tail(&["app.log"]).arg("--from-start").start();
    tail.stdout_until(lines(0..20).len());
    // Nobody sees what is between until it goes on.
    let agent = net.agent.as_ref().expect("started");
    agent.signal(Signal::STOP);
    net.append("app.log", lines(20..25));
    fs::copy(net.path("app.log"), net.path("app.log.1")).expect("a copy");
    let file = OpenOptions::new().write(true).open(net.path("app.log"));
    file.and_then(|file| file.set_len(0)).expect("emptied");
    net.append("app.log", lines(25..60));
    agent.signal(Signal::CONT);
    let said = prints(tail, &lines(0..60));
    let expected = "farpipe: web1:app.log: emptied; read from its start\n";
    assert_eq!(net.said(&said), expected);
}

/// The agent reads no more than it can send, and keeps what is rotated meanwhile.
#[test]
fn a_stopped_reader_costs_time_and_nothing_else() {
    const MEGABYTES: usize = 50;
    let net = Net::new();
    net.append("app.log", "begin\n");
    let tail = net.tail(&["app.log"]).start();
    tail.stdout_until("begin\n".len());
    tail.signal(Signal::STOP);
    let mut written = b"begin\n".to_vec();
    for n in 0..MEGABYTES {
        let line = format!("{n} of so many megabytes and so on\n");
        let some = line.repeat((1 << 20) / line.len());
        net.append("app.log", &some);
        written.extend_from_slice(some.as_bytes());
        if n % 20 == 19 {
            net.rotate("app.log");
        }
    }
    tail.signal(Signal::CONT);
    tail.stdout_until(written.len());
    let agent = net.agent.as_ref().expect("started");
    let peak = agent.memory_peak();
    let (printed, _) = stop(tail);
    assert_same(&printed, &written);
    // Its windows and what else a debug build needs; not what was written.
    assert!(peak < 45 << 20, "{peak} bytes");
}

#[test]
fn what_the_policy_does_not_allow_is_not_read_by_any_name() {
    let net = Net::new();
    net.append("app.log", "1\n");
    let secret = net.host.file("secret", "secret\n");
    symlink(&secret, net.path("link.log")).expect("a link");
    let told = "the policy of that host does not allow it; its log says why";
    // By its name, by a link, and by what is not there.
    for name in ["../secret", "../none", "link.log"] {
        let name = name.strip_prefix("../").map_or_else(
            || net.path(name).display().to_string(),
            |name| net.host.path(name).display().to_string(),
        );
        let tail = net.host.farpipe(["tail", "--relay", net.relay.url()]);
        let ended = tail.arg(format!("web1:{name}")).run().exits(125);
        assert_eq!(
            ended.stderr,
            format!("farpipe: the far end refused: {told}\n")
        );
        assert_eq!(ended.stdout, b"");
    }
    let once = net
        .tail(&["*.log"])
        .args(["--no-follow", "--names", "none"]);
    let ended = once.run().exits(1).printed("1\n");
    let expected = format!("farpipe: web1:link.log: {told}\n");
    assert_eq!(net.said(&ended.stderr), expected);
    // A directory that may not be read is not compared with anything.
    let elsewhere = format!("web1:{}/*", net.host.dir().display());
    let tail = net.host.farpipe(["tail", "--relay", net.relay.url()]);
    tail.arg(elsewhere).run().exits(125).printed("");
}

/// One caller leaves descriptors for the others, and room for their tails.
#[test]
fn files_and_tails_beyond_the_share_of_a_caller_are_refused() {
    let net = Net::new();
    for n in 0..30 {
        net.append(&format!("{n}.log"), "x\n");
    }
    // A quarter of them is for the files of one caller.
    let log = net.host.path("log").display().to_string();
    let line = format!(
        "ulimit -n 80; exec \"$FARPIPE\" agent {} --name web2 --allow read:{log}",
        net.relay.url()
    );
    let _agent = net.host.shell(&line).start_registered(1);
    let tail = |host: &str, name: &str| {
        let tail = net.host.farpipe(["tail", "--relay", net.relay.url()]);
        tail.arg(format!("{host}:{log}/{name}"))
    };
    let once = tail("web2", "*.log").args(["--no-follow", "--names", "none"]);
    let ended = once.run().exits(1);
    assert_text(&ended.stdout, &"x\n".repeat(20));
    let told = "not followed: 20 files are open there for you, and nobody may have more\n";
    assert_eq!(ended.stderr.matches(told).count(), 10, "{}", ended.stderr);
    let tails: Vec<_> = (0..TAILS_EACH_MAX)
        .map(|_| tail("web1", "0.log").start())
        .collect();
    tails.iter().for_each(|tail| drop(tail.stdout_until(2)));
    let refused = tail("web1", "1.log").run().exits(125);
    assert_eq!(
        refused.stderr,
        "farpipe: the far end refused: 32 tails of yours are under way there, and nobody may have more; \
         end one of them\n"
    );
}

#[test]
fn a_reader_that_goes_away_ends_it() {
    let net = Net::new();
    net.append("app.log", lines(0..3));
    let line = format!(
        "\"$FARPIPE\" tail --relay {} web1:{} | head -1; exit 0",
        net.relay.url(),
        net.path("app.log").display()
    );
    net.host.shell(&line).run().exits(0).printed(lines(0..1));
}

#[test]
fn words_that_name_no_file_of_one_host_are_refused() {
    let host = Host::new();
    let tail = |words: &[&str]| {
        host.farpipe(["tail", "--relay", "ws://127.0.0.1:1"])
            .args(words)
    };
    tail(&["/var/log/app.log"]).run().exits(2).says(
        "farpipe: '/var/log/app.log' is no HOST:PATH
         hint: for example: farpipe tail web1:/var/log/app.log",
    );
    tail(&["web1:/a", "web2:/b"]).run().exits(2).says(
        "farpipe: two hosts: web1 and web2
         hint: run one tail for each",
    );
}
