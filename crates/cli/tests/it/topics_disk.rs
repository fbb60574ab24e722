//! A relay whose disk fails in the midst of its work: strace has the system answer so, and limits are the system's own. Whatever
//! happens, what was acknowledged is there when the relay is started again, and the rest comes once when it is sent again.

use crate::support::topics::{lines, publish, relay, subscribe};
use crate::support::{Ended, Host, Listener, tools};

/// A relay whose system calls fail as `fault` says (`strace -e inject`).
fn failing(host: &Host, fault: &str) -> Listener {
    let (strace, libraries) = tools::strace();
    let call = fault.split(':').next().unwrap_or_default();
    // The tracer is no parent of the relay, which is the process that the test has.
    let script = format!(
        "LD_LIBRARY_PATH={} exec {} -D -f -qq -o strace.log -E LD_LIBRARY_PATH -e trace={call} \
         -e inject={fault} \"$FARPIPE\" relay --listen ws://127.0.0.1:0 --data data",
        libraries.display(),
        strace.display()
    );
    host.shell(&script).start_listening()
}

/// How many records a producer says are kept.
fn kept(ended: &Ended) -> u64 {
    let said = ended.stderr.lines().find_map(|line| {
        let (count, rest) = line.strip_prefix("farpipe: ")?.split_once(' ')?;
        rest.contains("on the relay's disk")
            .then(|| count.parse().ok())?
    });
    said.unwrap_or_else(|| panic!("it does not say how many are kept: {}", ended.stderr))
}

const ALL: u64 = 60_000;

/// Publishes until the disk fails for good; then everything is as it was promised.
fn fails_for_good(fault: &str) {
    let host = Host::new();
    let failing = failing(&host, fault);
    let run = |url: &str| {
        let run = publish(&host, url).args(["logs", "--producer", "p", "--window", "100000"]);
        run.args(["--resume-for", "2s"]).input(lines(0..ALL))
    };
    let ended = run(failing.url()).run().exits(125);
    let promised = kept(&ended);
    assert!(
        ended
            .stderr
            .contains("the log takes nothing more, because its disk failed"),
        "{fault}: {}",
        ended.stderr
    );
    assert!(promised < ALL, "{fault}: nothing has failed");
    // Nothing is taken any more, also by others, until it is opened anew.
    let other = publish(&host, failing.url()).args(["logs", "--resume-for", "1s"]);
    other.input("other\n").run().exits(125);
    failing.kill();
    failing.end();
    let relay = relay(&host, "ws://127.0.0.1:0");
    let read = || {
        let read = subscribe(&host, relay.url()).args(["logs", "--from", "earliest"]);
        read.arg("--exit-at-end").run().exits(0)
    };
    let there = read().stdout.iter().filter(|byte| **byte == b'\n').count() as u64;
    assert!(
        promised <= there,
        "{fault}: {promised} were promised, {there} are there"
    );
    run(relay.url()).run().exits(0);
    read().printed(lines(0..ALL));
}

/// L4: what the disk has after a failed sync is not known.
#[test]
fn l4_a_sync_that_fails_ends_all_writing_and_nothing_acknowledged_is_lost() {
    fails_for_good("fdatasync:error=EIO:when=5+");
    fails_for_good("fdatasync:error=EIO:when=5");
    fails_for_good("fdatasync:error=ENOSPC:when=4");
}

#[test]
fn l4_a_write_that_fails_ends_all_writing_and_nothing_acknowledged_is_lost() {
    fails_for_good("pwrite64:error=EIO:when=12");
}

/// L5: each of these is over when it is tried again.
#[test]
fn l5_want_of_room_and_interruptions_are_waited_out() {
    for fault in [
        "pwrite64:error=ENOSPC:when=3..9",
        "pwrite64:error=EDQUOT:when=6+5",
        "pwrite64:error=EINTR:when=2+2",
    ] {
        let host = Host::new();
        let relay = failing(&host, fault);
        let run = publish(&host, relay.url()).args(["logs", "--window", "100000"]);
        run.input(lines(0..ALL)).run().exits(0);
        let read = subscribe(&host, relay.url()).args(["logs", "--from", "earliest"]);
        read.arg("--exit-at-end")
            .run()
            .exits(0)
            .printed(lines(0..ALL));
        relay.kill();
        relay.end();
        let log = std::fs::read_to_string(host.path("strace.log")).expect("strace's");
        assert!(log.contains("(INJECTED)"), "{fault}: nothing has failed");
    }
}

/// L2: the system writes a part of what it was given, and the process is gone (SIGXFSZ).
#[test]
fn l2_a_write_that_is_cut_short_with_the_relay_loses_nothing_acknowledged() {
    let host = Host::new();
    let script = "ulimit -f 300; exec \"$FARPIPE\" relay --listen ws://127.0.0.1:0 --data data";
    let short = host
        .shell(&format!("exec bash -c '{script}'"))
        .start_listening();
    let run = |url: &str| {
        let run = publish(&host, url).args(["logs", "--producer", "p", "--window", "100000"]);
        run.args(["--resume-for", "2s"]).input(lines(0..ALL))
    };
    let promised = kept(&run(short.url()).run().exits(125));
    let died = short.end();
    assert!(
        !died.status.success(),
        "it was not cut short: {}",
        died.stderr
    );
    let relay = relay(&host, "ws://127.0.0.1:0");
    let read = || {
        let read = subscribe(&host, relay.url()).args(["logs", "--from", "earliest"]);
        read.arg("--exit-at-end").run().exits(0)
    };
    let there = read().stdout.iter().filter(|byte| **byte == b'\n').count() as u64;
    assert!(
        promised <= there && there < ALL,
        "{promised} were promised, {there} are there"
    );
    run(relay.url()).run().exits(0);
    read().printed(lines(0..ALL));
}
