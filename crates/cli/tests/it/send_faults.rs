//! A pipe by a relay when something on its way is killed.

use std::io::Write as _;
use std::thread;

use rustix::process::Signal;

use crate::support::{Host, Running, assert_same, random};

/// Bytes between two faults.
const STEP: usize = 4 << 20;

/// A relay where one was before.
#[track_caller]
fn again(host: &Host, url: &str) -> Running {
    let relay = host.relay_at(url).start();
    relay.stderr_until(|text| text.contains("listening on "));
    relay
}

#[test]
fn a_relay_that_is_killed_and_started_again_loses_nothing() {
    let host = Host::new();
    let listener = host.relay("ws").start_listening();
    let url = listener.url().to_owned();
    let mut relay = Some(listener.into_running());
    let bytes = random(STEP * 5, 41);
    let mut send = host.send_at(&url, "logs").open_input().start_registered(1);
    let recv = host.recv_at(&url, "logs").start();
    let mut stdin = send.take_stdin();
    let written = bytes.clone();
    let writing = thread::spawn(move || stdin.write_all(&written).expect("it is read"));
    for number in 1..=3 {
        recv.stdout_until(number * STEP);
        // Dropped is killed, and waited for: its port is free again.
        drop(relay.take());
        relay = Some(again(&host, &url));
        send.await_registered(1 + number);
    }
    assert_same(&recv.end().exits(0).stdout, &bytes);
    writing.join().expect("a thread of ours");
    send.end().exits(0);
}

#[test]
fn a_pipe_goes_on_over_another_relay_of_the_list() {
    let host = Host::new();
    let first = host.relay("ws").start_listening();
    let second = host.relay("ws").start_listening();
    let list = format!("{},{}", first.url(), second.url());
    let mut send = host.send_at(&list, "logs").open_input().start_registered(2);
    let recv = host.recv_at(&list, "logs").start();
    send.write("one\n");
    recv.stdout_until(4);
    first.kill();
    send.write("two\n");
    recv.stdout_until(8);
    send.close_input();
    recv.end().exits(0).printed("one\ntwo\n");
    send.end().exits(0);
}

/// Its writer comes to another relay than the first of its list, and later.
#[test]
fn a_reader_walks_its_relays_until_a_writer_comes_to_one() {
    let host = Host::new();
    let relays = [(); 2].map(|()| host.relay("ws").arg("-v").start_listening());
    let list = format!("{},{}", relays[0].url(), relays[1].url());
    let recv = host.recv_at(&list, "logs").start();
    for relay in &relays {
        relay.stderr_until(|text| text.contains(": held: "));
    }
    let send = host.send_at(relays[1].url(), "logs").input("here\n").run();
    send.exits(0);
    recv.end().exits(0).printed("here\n");
}

/// The wait outlives the relay it is spent at.
#[test]
fn a_reader_that_waits_goes_on_waiting_when_its_relay_is_killed() {
    let host = Host::new();
    let relay = host.relay("ws").arg("-v").start_listening();
    let url = relay.url().to_owned();
    let recv = host.recv_at(&url, "logs").start();
    relay.stderr_until(|text| text.contains(": held: "));
    relay.kill();
    // Waited for: its port is free again, and nobody listens there when it is asked next.
    drop(relay);
    recv.stderr_until(|text| text.contains("nothing listens there"));
    let _relay = again(&host, &url);
    host.send_at(&url, "logs").input("here\n").run().exits(0);
    recv.end().exits(0).printed("here\n");
}

#[test]
fn a_writer_that_is_killed_is_never_an_end() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let mut send = host.send_at(relay.url(), "logs").open_input().start();
    let recv = host.recv_at(relay.url(), "logs");
    let recv = recv.args(["--resume-for", "1s"]).start();
    send.write("one\n");
    recv.stdout_until(4);
    send.kill();
    recv.end().exits(125).printed("one\n");
}

#[test]
fn a_writer_that_is_told_to_end_is_never_an_end() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    for readers in ["1", "2"] {
        let send = host
            .send_at(relay.url(), "logs")
            .args(["--readers", readers]);
        let mut send = send.open_input().start_registered(1);
        let readers: Vec<Running> = (0..readers.parse().expect("a number"))
            .map(|_| host.recv_at(relay.url(), "logs").start())
            .collect();
        send.write("one\n");
        for reader in &readers {
            reader.stdout_until(4);
        }
        send.signal(Signal::TERM);
        send.end().exits(143);
        for reader in readers {
            let ended = reader.end().exits(125).printed("one\n");
            ended.says("farpipe: the far end failed: interrupted");
        }
    }
}

#[test]
fn a_reader_that_is_killed_fails_its_writer() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let send = host
        .send_at(relay.url(), "logs")
        .args(["--resume-for", "500ms"]);
    let mut send = send.open_input().start_registered(1);
    let recv = host.recv_at(relay.url(), "logs").start();
    send.write("one\n");
    recv.stdout_until(4);
    recv.kill();
    send.close_input();
    let said = send.end().exits(125).said();
    assert!(said.contains("was given up after"), "{said}");
}

/// What it got is gone, so the pipe fails at once, and does not wait for who never comes back.
#[test]
fn a_killed_reader_that_is_run_again_ends_its_writer() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    for readers in ["1", "2"] {
        let send = host.send_at(relay.url(), "logs");
        let mut send = send.args(["--readers", readers]).open_input().start();
        let is_more = readers == "2";
        let other = is_more.then(|| host.recv_at(relay.url(), "logs").start());
        let recv = host.recv_at(relay.url(), "logs").start();
        send.write("one\n");
        recv.stdout_until(4);
        recv.kill();
        recv.end();
        send.stderr_until(|text| text.contains(" has no connection; waiting for it"));
        let said = host.recv_at(relay.url(), "logs").run().exits(125).said();
        let why = "what its reader before this one got is not sent twice";
        assert!(said.contains(why), "{said}");
        if let Some(other) = other {
            send.write("two\n");
            send.close_input();
            other.end().exits(0).printed("one\ntwo\n");
        }
        let said = send.end().exits(125).said();
        let why = "is gone: its place was taken by a later command of ";
        assert!(said.contains(why), "{said}");
    }
}

/// Before the beginning nothing is lost with it.
#[test]
fn a_reader_that_is_killed_before_the_beginning_has_its_place_taken() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let send = host.send_at(relay.url(), "logs").args(["--readers", "2"]);
    let mut send = send.arg("-v").open_input().start();
    send.write("one\n");
    let recv = || host.recv_at(relay.url(), "logs").start();
    let killed = recv();
    send.stderr_until(|text| text.contains("reader 1 has come"));
    killed.kill();
    killed.end();
    let (second, third) = (recv(), recv());
    second.stdout_until(4);
    third.stdout_until(4);
    send.write("two\n");
    send.close_input();
    second.end().exits(0).printed("one\ntwo\n");
    third.end().exits(0).printed("one\ntwo\n");
    send.end().exits(0);
}

/// What the reader's consumer does before a writer comes is noticed.
#[test]
fn a_reader_whose_consumer_has_gone_waits_for_nobody() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let line = format!(
        "{{ \"$FARPIPE\" recv --relay {} logs; echo $? >status; }} | true",
        relay.url()
    );
    host.shell(&line).run().exits(0);
    assert_eq!(host.content("status"), b"141\n");
}
