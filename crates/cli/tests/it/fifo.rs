//! FIFOs that nobody opens at the other end: they hold no process.

use rustix::process::Signal;

use crate::support::{Host, Running};

/// Waits until the process has a FIFO to wait for: it catches signals before it opens one.
#[track_caller]
fn await_signals(running: &Running) {
    let path = format!("/proc/{}/status", running.id());
    let catches = || {
        let text = std::fs::read_to_string(&path).expect("the status of a running process");
        let line = text.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(line.expect("SigCgt").trim(), 16).expect("a mask");
        caught & 1 << (Signal::TERM.as_raw() - 1) != 0
    };
    let until = std::time::Instant::now() + crate::support::DEADLINE;
    while !catches() {
        assert!(std::time::Instant::now() < until, "catches no signals");
        std::thread::sleep(std::time::Duration::from_millis(5)); // sleep: polls another process, with a deadline
    }
}

#[test]
fn a_signal_ends_a_pipe_whose_fifo_has_no_partner() {
    let host = Host::new();
    host.fifo("fifo");
    host.file("file", "");
    let listener = host.listen("ws").start_listening();
    let url = listener.url();
    let lines = [
        vec!["connect", url, "fifo", "--recv"],
        vec!["connect", url, "fifo", "--send"],
        vec!["pipe", "file", "fifo"],
        vec!["pipe", "fifo", "out"],
    ];
    for line in lines {
        let running = host.farpipe(line).start();
        await_signals(&running);
        running.signal(Signal::INT);
        running.end().exits(130).says("");
    }
}

#[test]
fn a_signal_ends_a_listener_whose_fifo_has_no_reader() {
    let host = Host::new();
    host.fifo("fifo");
    for keep in [["--recv", "fifo"].as_slice(), &["--keep", "--recv", "fifo"]] {
        let listener = host.listen("ws").args(keep).start_listening();
        let connect = host.connect(listener.url()).args(["--status-fd", "2"]);
        let connect = connect.open_input().start();
        connect.stderr_until(|text| text.contains("connected"));
        listener.signal(Signal::TERM);
        listener.end().exits(143);
        connect.end().exits(125);
    }
}

#[test]
fn a_peer_that_leaves_ends_a_listener_whose_fifo_has_no_reader() {
    let host = Host::new();
    host.fifo("fifo");
    for signal in [Signal::INT, Signal::KILL] {
        let listener = host.listen("ws").args(["--recv", "fifo"]).start_listening();
        let connect = host.connect(listener.url());
        let connect = connect.args(["--status-fd", "2", "--resume-for", "300ms"]);
        let connect = connect.open_input().start();
        connect.stderr_until(|text| text.contains("connected"));
        connect.signal(signal);
        let said = listener.end().exits(125).said();
        let why = match signal {
            Signal::INT => "farpipe: the far end failed: interrupted",
            _ => "was given up after",
        };
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn a_fifo_is_written_once_its_reader_has_come() {
    let host = Host::new();
    let fifo = host.fifo("fifo");
    let listener = host.listen("ws").args(["--recv", "fifo"]).start_listening();
    let connect = host.connect(listener.url()).input("late").start();
    assert_eq!(std::fs::read(fifo).expect("the FIFO"), b"late");
    connect.end().exits(0);
    listener.end().exits(0);
}
