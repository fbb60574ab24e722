//! A relay whose disk fails in the midst of its work: strace has the system answer so, and limits are the system's own. Whatever
//! happens, what was acknowledged is there when the relay is started again, and the rest comes once when it is sent again.

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::process::until;
use crate::support::topics::{failing, lines, publish, relay, subscribe, topic};
use crate::support::{Ended, Host};

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
    let failing = failing(&host, "ws://127.0.0.1:0", fault);
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
    fails_for_good("pwrite64:error=EIO:when=12+");
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
        let relay = failing(&host, "ws://127.0.0.1:0", fault);
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

/// L5: there is no descriptor for the file of the next segment.
#[test]
fn l5_want_of_descriptors_where_a_segment_begins_is_waited_out() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    let line = |n: u32| format!("{n} {}\n", "x".repeat(200_000));
    let mut publishing = publish(&host, relay.url()).arg("logs").open_input().start();
    // Nearly all that a segment has room for.
    for n in 0..320 {
        publishing.write(line(n));
    }
    until("not all is published", || {
        let shown = topic(&host, relay.url(), "describe").arg("logs").run();
        String::from_utf8_lossy(&shown.stdout).contains("offsets 0 to 320,")
    });
    let id = i32::try_from(relay.id()).ok().and_then(Pid::from_raw);
    let limit = |current: u64| {
        let limits = Rlimit {
            current: Some(current),
            maximum: Some(4096),
        };
        prlimit(id, Resource::Nofile, limits).expect("our own process");
    };
    limit(4);
    for n in 320..350 {
        publishing.write(line(n));
    }
    publishing.stderr_until(|said| said.contains("it has no descriptors left"));
    limit(4096);
    publishing.close_input();
    publishing.end().exits(0);
    let all: String = (0..350).map(line).collect();
    let read = subscribe(&host, relay.url()).args(["logs", "--from", "earliest"]);
    read.arg("--exit-at-end").run().exits(0).printed(all);
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

/// L3: a group goes on behind what is damaged, and is told of it once.
#[test]
fn l3_damage_does_not_stop_a_group() {
    let host = Host::new();
    let first = relay(&host, "ws://127.0.0.1:0");
    for batch in 0..4 {
        let publish = publish(&host, first.url()).arg("logs");
        publish
            .input(lines(batch * 100..(batch + 1) * 100))
            .run()
            .exits(0);
    }
    first.kill();
    first.end();
    let path = "data/topics/logs/0/00000000000000000000.seg";
    let mut bytes = host.content(path);
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("batches");
    bytes[end * 3 / 8] ^= 0x20;
    std::fs::write(host.path(path), &bytes).expect("ours");
    let relay = relay(&host, "ws://127.0.0.1:0");
    let member = || {
        let member = subscribe(&host, relay.url()).args(["logs", "--group", "g"]);
        member.args([
            "--from",
            "earliest",
            "--exit-at-end",
            "--max-in-flight",
            "40",
        ])
    };
    let kept = format!("{}{}", lines(0..100), lines(200..400));
    let ended = member().run().exits(125).printed(&kept);
    assert!(
        ended
            .stderr
            .contains("records 100 to 199 of partition 0 are missing"),
        "{}",
        ended.stderr
    );
    member().run().exits(0).printed("");
}

/// L3: a log that has lost its end, and says so: a group is not beyond it for ever.
#[test]
fn l3_a_group_is_not_beyond_the_end_of_a_log_that_was_cut() {
    let host = Host::new();
    let first = relay(&host, "ws://127.0.0.1:0");
    publish(&host, first.url())
        .arg("logs")
        .input(lines(0..100))
        .run()
        .exits(0);
    let member = |url: &str| {
        let member = subscribe(&host, url).args(["logs", "--group", "g"]);
        member.args(["--from", "earliest", "--exit-at-end"])
    };
    member(first.url()).run().exits(0).printed(lines(0..100));
    first.kill();
    first.end();
    // As a loss of power leaves a topic that does not promise more: the cursor is there, and the records are not.
    for name in ["00000000000000000000.seg", "mark"] {
        std::fs::write(host.path("data/topics/logs/0").join(name), b"").expect("ours");
    }
    let relay = relay(&host, "ws://127.0.0.1:0");
    publish(&host, relay.url())
        .arg("logs")
        .input(lines(100..105))
        .run()
        .exits(0);
    member(relay.url()).run().exits(0).printed(lines(100..105));
}

/// L7: what a member has written and its relay had no time to remember, the next relay hears from the member.
#[test]
fn l7_a_member_that_outlives_its_relay_is_sent_nothing_again() {
    let host = Host::new();
    let first = relay(&host, "ws://127.0.0.1:0");
    let url = first.url().to_owned();
    let member = || {
        let member = subscribe(&host, &url).args(["shared", "--group", "g"]);
        member.args(["--from", "earliest"])
    };
    let publish = |range| {
        let publish = publish(&host, &url).arg("shared");
        publish.input(lines(range)).run().exits(0);
    };
    publish(0..1_000);
    // The group is there, so that nothing has to be remembered when it is joined.
    let begun = member().args(["--count", "100"]).run();
    begun.exits(0).printed(lines(0..100));
    first.kill();
    first.end();
    let slow = failing(&host, &url, "pwrite64:delay_enter=60s");
    let reading = member().args(["--count", "1100"]).start();
    let written = reading.stdout_until(lines(100..1_000).len());
    assert_eq!(written, lines(100..1_000).as_bytes());
    slow.kill();
    slow.end();
    let _relay = relay(&host, &url);
    publish(1_000..1_200);
    reading.end().exits(0).printed(lines(100..1_200));
    let rest = member().arg("--exit-at-end");
    rest.run().exits(0).printed("");
}
