//! `farpipe send --readers N`: each reader gets all of it, whatever becomes of the others, the relay and
//! the reader's own pace.

use std::thread;

use crate::support::{Ended, Host, Listener, Running, assert_same, random};

/// A relay, and what is sent through it.
struct Net {
    host: Host,
    relay: Listener,
}

impl Net {
    fn new() -> Self {
        let host = Host::new();
        let relay = host.relay("ws").start_listening();
        Self { host, relay }
    }

    /// A writer that has registered.
    fn send(&self, args: &[&str]) -> Running {
        let send = self.host.send_at(self.relay.url(), "logs").args(args);
        send.arg("-v").open_input().start_registered(1)
    }

    fn recv(&self) -> Running {
        self.host.recv_at(self.relay.url(), "logs").start()
    }
}

/// Waits until so many readers have come.
#[track_caller]
fn await_readers(send: &Running, readers: usize) {
    send.stderr_until(|text| text.matches(" has come").count() >= readers);
}

/// Writes to the writer from a thread.
fn write(send: &mut Running, bytes: &[u8]) -> thread::JoinHandle<()> {
    let (mut stdin, bytes) = (send.take_stdin(), bytes.to_vec());
    thread::spawn(move || {
        // A writer that is told to end reads no more.
        let _ = std::io::Write::write_all(&mut stdin, &bytes);
    })
}

#[test]
fn nothing_is_sent_before_all_have_come_and_one_more_is_refused() {
    let net = Net::new();
    let bytes = random(5 << 20, 31);
    let mut send = net.send(&["--readers", "3"]);
    let writing = write(&mut send, &bytes);
    let first = [net.recv(), net.recv()];
    await_readers(&send, 2);
    assert_eq!(first[0].printed_so_far(), "");
    // One that leaves while it waits is none.
    drop(first);
    send.stderr_until(|text| {
        text.matches("left before all had come").count() >= 2 || text.contains("lost: ")
    });
    drop(send);
    writing.join().expect("a thread of ours");
    // The same, and nobody leaves.
    let mut send = net.send(&["--readers", "3"]);
    let readers = [net.recv(), net.recv(), net.recv()];
    await_readers(&send, 3);
    let late = net.recv().end().exits(125);
    late.says("farpipe: the far end refused: the pipe logs has all its readers");
    let writing = write(&mut send, &bytes);
    for reader in readers {
        assert_same(&reader.end().exits(0).stdout, &bytes);
    }
    writing.join().expect("a thread of ours");
    send.end().exits(0);
}

#[test]
fn one_that_leaves_leaves_the_others_alone() {
    let net = Net::new();
    let bytes = random(5 << 20, 32);
    let mut send = net.send(&["--readers", "2"]);
    let line = format!(
        "{{ \"$FARPIPE\" recv --relay {} logs; echo $? >status; }} | head -c 3",
        net.relay.url()
    );
    let leaves = net.host.shell(&line).start();
    await_readers(&send, 1);
    let stays = net.recv();
    await_readers(&send, 2);
    let writing = write(&mut send, &bytes);
    leaves.end().exits(0).printed(&bytes[..3]);
    assert_same(&stays.end().exits(0).stdout, &bytes);
    writing.join().expect("a thread of ours");
    send.end().exits(0);
    assert_eq!(net.host.content("status"), b"141\n");
}

#[test]
fn when_all_have_left_the_writer_gets_sigpipe() {
    let net = Net::new();
    let url = net.relay.url();
    let line =
        format!("{{ yes; echo $? >yes; }} | \"$FARPIPE\" send --relay {url} logs --readers 2");
    let send = net.host.shell(&line).start();
    let line = format!("\"$FARPIPE\" recv --relay {url} logs | head -1");
    let readers = [net.host.shell(&line).start(), net.host.shell(&line).start()];
    for reader in readers {
        reader.end().exits(0).printed("y\n");
    }
    send.end().exits(141);
    assert_eq!(net.host.content("yes"), b"141\n");
}

#[test]
fn a_slow_reader_and_a_relay_that_is_killed_lose_nothing() {
    let Net { host, relay } = Net::new();
    let (url, mut relay) = (relay.url().to_owned(), Some(relay.into_running()));
    let bytes = random(40 << 20, 33);
    let send = host.send_at(&url, "logs").args(["--readers", "3", "-v"]);
    let mut send = send.open_input().start_registered(1);
    let fast = [(); 2].map(|()| host.recv_at(&url, "logs").start());
    let (slow, output) = host.recv_at(&url, "logs").unread_stdout();
    let slow = slow.start();
    await_readers(&send, 3);
    let writing = write(&mut send, &bytes);
    fast[0].stdout_until(4 << 20);
    // Dropped is killed, and waited for: its port is free again.
    drop(relay.take());
    relay = Some(host.relay_at(&url).start());
    send.await_registered(2);
    output.read_on();
    let got = output.until_end().expect("nobody else holds it");
    assert_same(&got, &bytes);
    slow.end().exits(0);
    for reader in fast {
        assert_same(&reader.end().exits(0).stdout, &bytes);
    }
    writing.join().expect("a thread of ours");
    send.end().exits(0);
    drop(relay);
}

/// Numbered lines, more than session and pipes hold.
fn lines(count: usize) -> Vec<u8> {
    let lines = (0..count).map(|n| format!("{n:07} {}\n", "x".repeat(90)));
    lines.collect::<String>().into_bytes()
}

#[test]
fn a_reader_that_is_behind_loses_whole_lines_where_the_writer_drops() {
    const MARK: &str = "farpipe: ";
    let net = Net::new();
    let bytes = lines(1_500_000);
    for (allow, status) in [(&["--allow-drops"][..], 0), (&[], 125)] {
        let mut send = net.send(&["--readers", "2", "--slow", "drop", "--status-fd", "2"]);
        let fast = net.recv();
        await_readers(&send, 1);
        let slow = net.host.recv_at(net.relay.url(), "logs").args(allow);
        let (slow, output) = slow.unread_stdout();
        let slow = slow.start();
        await_readers(&send, 2);
        let writing = write(&mut send, &bytes);
        // It is never waited for.
        writing.join().expect("a thread of ours");
        output.read_on();
        let got = output.until_end().expect("nobody else holds it");
        let got = String::from_utf8(got).expect("text");
        let (marks, kept): (Vec<&str>, Vec<&str>) =
            got.lines().partition(|line| line.starts_with(MARK));
        let dropped = marks.iter().map(|mark| {
            let number = mark.split(' ').nth(1).expect("a number");
            number.parse::<usize>().expect("a number")
        });
        let kept_len: usize = kept.iter().map(|line| line.len() + 1).sum();
        assert!(!marks.is_empty(), "something was dropped");
        let dropped: usize = dropped.sum();
        assert_eq!(kept_len + dropped, bytes.len(), "all is there or counted");
        assert!(kept.iter().all(|line| line.len() == 98), "whole lines");
        assert!(kept.is_sorted(), "in order, each once");
        let ended = slow.end().exits(status);
        let why = format!(
            "farpipe: {dropped} bytes are missing: this reader was behind, and the writer dropped \
             them (--slow drop)\n"
        );
        assert_eq!(ended.stderr, why);
        let said = format!(
            "farpipe: reader 2 was behind and lost {} lines, {dropped} bytes (--slow drop)\n",
            dropped / 99
        );
        let is_event = |line: &str| {
            let event: Result<serde_json::Value, _> = serde_json::from_str(line);
            event.is_ok_and(|event| {
                event["event"] == "dropped"
                    && event["reader"] == "reader 2"
                    && event["bytes"] == dropped
                    && event["lines"] == dropped / 99
            })
        };
        send.stderr_until(|text| text.contains(&said) && text.lines().any(is_event));
        // Whether the other one kept up is the machine's to say.
        let _: Ended = fast.end();
        send.end().exits(0);
    }
}

#[test]
fn a_limit_of_a_spool_that_there_is_not_is_a_mistake() {
    let host = Host::new();
    for slow in ["block", "drop"] {
        let send = host.send_at("ws://127.0.0.1:1", "logs");
        let ended = send.args(["--spool-max", "1M", "--slow", slow]).run();
        ended.exits(2).says(
            "farpipe: --spool-max means nothing without --slow spool\n\
             hint: give --slow spool, or leave it out",
        );
    }
}

#[test]
fn what_a_slow_reader_lacks_is_spooled_and_the_fast_one_goes_on() {
    let net = Net::new();
    let bytes = random(150 << 20, 34);
    let spool = net.host.path("spool");
    std::fs::create_dir(&spool).expect("a directory of ours");
    let send = net.host.send_at(net.relay.url(), "logs");
    let send = send.args(["-v", "--readers", "2", "--slow", "spool"]);
    let mut send = send.env("TMPDIR", &spool).open_input().start_registered(1);
    let fast = net.recv();
    await_readers(&send, 1);
    let (slow, output) = net.host.recv_at(net.relay.url(), "logs").unread_stdout();
    let slow = slow.start();
    await_readers(&send, 2);
    let writing = write(&mut send, &bytes);
    // More than the session of the slow one and the window hold: it has read nothing yet.
    assert_same(&fast.stdout_until(bytes.len()), &bytes);
    writing.join().expect("a thread of ours");
    let names = std::fs::read_dir(&spool)
        .expect("a directory of ours")
        .count();
    assert_eq!(names, 0, "the file has no name");
    output.read_on();
    let got = output.until_end().expect("nobody else holds it");
    assert_same(&got, &bytes);
    slow.end().exits(0);
    fast.end().exits(0);
    send.end().exits(0);
}

/// A reader that was killed is lost when it is given up; the others have all.
#[test]
fn one_that_is_killed_is_named_at_the_end() {
    let net = Net::new();
    let bytes = random(3 << 20, 35);
    let mut send = net.send(&["--readers", "2", "--resume-for", "500ms"]);
    let dies = net.recv();
    await_readers(&send, 1);
    let lives = net.recv();
    await_readers(&send, 2);
    dies.kill();
    let writing = write(&mut send, &bytes);
    assert_same(&lives.end().exits(0).stdout, &bytes);
    writing.join().expect("a thread of ours");
    let ended = send.end().exits(125);
    let said = ended.said();
    assert!(
        said.contains("farpipe: reader 1: the session from"),
        "{said}"
    );
    assert!(
        said.trim_end()
            .ends_with("farpipe: the far end failed: 1 of 2 readers did not get all"),
        "{said}"
    );
}

#[test]
fn one_reader_has_it_compressed_and_another_not() {
    let net = Net::new();
    let bytes = lines(200_000);
    let mut send = net.send(&["--readers", "2"]);
    let recv = net.host.recv_at(net.relay.url(), "logs");
    let readers = [recv.args(["--compress", "auto"]).start(), net.recv()];
    await_readers(&send, 2);
    let writing = write(&mut send, &bytes);
    for reader in readers {
        assert_same(&reader.end().exits(0).stdout, &bytes);
    }
    writing.join().expect("a thread of ours");
    send.end().exits(0);
}

#[test]
fn the_status_of_a_command_reaches_every_reader() {
    let net = Net::new();
    let send = net.host.send_at(net.relay.url(), "logs");
    let send = send.args(["--readers", "2", "sh:echo out; exit 7"]).start();
    let readers = [net.recv(), net.recv()];
    for reader in readers {
        reader.end().exits(7).printed("out\n");
    }
    send.end().exits(7);
}

#[test]
fn readers_that_came_hear_that_the_writer_waits_no_more() {
    let net = Net::new();
    let send = net.host.send_at(net.relay.url(), "logs");
    let send = send.args(["-v", "--readers", "2", "--wait", "2s"]).start();
    let recv = net.recv();
    await_readers(&send, 1);
    recv.end().exits(125).says(
        "farpipe: the far end refused: the writer has given up: not all its readers have come",
    );
    let said = send.end().exits(125).said();
    let why = "farpipe: waited 2 s in vain for 2 readers of the pipe logs: 1 came";
    assert!(said.trim_end().ends_with(why), "{said}");
}
