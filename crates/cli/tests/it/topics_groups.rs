//! Groups of readers: what one member has written, none reads again.

use crate::support::Host;
use crate::support::process::{Invocation, until};
use crate::support::topics::{lines, publish, relay, subscribe, topic};

fn member(host: &Host, relay: &str, group: &str) -> Invocation {
    subscribe(host, relay).args(["shared", "--group", group, "--from", "earliest"])
}

/// A topic of three partitions, with these lines in it.
fn shared(host: &Host, relay: &str, lines: std::ops::Range<u64>) {
    let create = topic(host, relay, "create").args(["shared", "--partitions", "3"]);
    create.run().exits(0);
    publish_shared(host, relay, lines);
}

fn publish_shared(host: &Host, relay: &str, lines: std::ops::Range<u64>) {
    let input: String = lines.map(|n| format!("key{n}:{n}\n")).collect();
    let publish = publish(host, relay).args(["shared", "--key-separator", ":"]);
    publish.input(input).run().exits(0);
}

/// The numbers that some members have written, sorted.
fn numbers<'a>(outputs: impl IntoIterator<Item = &'a [u8]>) -> Vec<u64> {
    let mut all = Vec::new();
    for output in outputs {
        let text = std::str::from_utf8(output).expect("text");
        // Of one that was killed the last line may be a part.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        all.extend(
            whole
                .lines()
                .map(|line| line.parse::<u64>().expect("a number")),
        );
    }
    all.sort_unstable();
    all
}

#[test]
fn what_a_group_has_written_is_read_by_none_of_its_members_again() {
    let host = Host::new();
    let first = relay(&host, "ws://127.0.0.1:0");
    shared(&host, first.url(), 0..9_000);
    let some = member(&host, first.url(), "g")
        .args(["--count", "1000"])
        .run()
        .exits(0);
    // A relay started anew remembers it, too.
    let url = first.url().to_owned();
    first.kill();
    first.end();
    let relay = relay(&host, &url);
    let rest = member(&host, relay.url(), "g")
        .arg("--exit-at-end")
        .run()
        .exits(0);
    let all = numbers([&some.stdout[..], &rest.stdout[..]]);
    assert!(all.iter().copied().eq(0..9_000), "{} lines", all.len());
    let none = member(&host, relay.url(), "g").arg("--exit-at-end").run();
    none.exits(0).printed("");
    let described = topic(&host, relay.url(), "describe").arg("shared").run();
    let described = String::from_utf8(described.stdout).expect("text");
    assert_eq!(described.matches(", 0 behind\n").count(), 3, "{described}");
    let others = member(&host, relay.url(), "h")
        .arg("--exit-at-end")
        .run()
        .exits(0);
    assert_eq!(numbers([&others.stdout[..]]).len(), 9_000);
}

#[test]
fn l7_members_share_partitions_and_one_that_is_killed_loses_its_own_to_the_others() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    shared(&host, relay.url(), 0..3_000);
    let members: Vec<_> = (0..3)
        .map(|_| member(&host, relay.url(), "g").start())
        .collect();
    let written = |members: &[crate::support::Running]| {
        let outputs: Vec<String> = members.iter().map(|one| one.printed_so_far()).collect();
        numbers(outputs.iter().map(String::as_bytes))
    };
    until("not all is read", || written(&members).len() >= 3_000);
    // All of them have some, once they have shared.
    until("one has nothing", || {
        publish_shared(&host, relay.url(), 3_000..3_030);
        members.iter().all(|one| !one.printed_so_far().is_empty())
    });
    members[1].kill();
    publish_shared(&host, relay.url(), 10_000..13_000);
    until("what the killed one had is not read", || {
        let mut read = written(&members);
        read.dedup();
        read.iter().filter(|number| **number >= 10_000).count() == 3_000
    });
    for one in [&members[0], &members[2]] {
        one.signal(rustix::process::Signal::TERM);
    }
    let ended: Vec<_> = members.into_iter().map(|one| one.end()).collect();
    assert_eq!(ended[0].status.code(), Some(143), "{}", ended[0].stderr);
    let read = numbers(ended.iter().map(|ended| &ended.stdout[..]));
    // The killed one had written something, perhaps, and not said so: it is read again, and nothing else.
    let first = read.iter().filter(|number| **number < 3_000).count();
    assert_eq!(first, 3_000);
    let left = member(&host, relay.url(), "g").arg("--exit-at-end").run();
    left.exits(0).printed("");
}

#[test]
fn a_record_whose_readers_are_lost_is_put_aside() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    let create = topic(&host, relay.url(), "create").args(["shared", "--partitions", "1"]);
    create.run().exits(0);
    publish_shared(&host, relay.url(), 0..3);
    // Its stdout is full, so that it has what it never writes.
    let (stuck, _unread) = member(&host, relay.url(), "g")
        .args(["--max-deliver", "1"])
        .stdin(std::process::Stdio::null())
        .unread_stdout();
    let large: String = (0..20_000).map(|n| format!("key:{n:0100}\n")).collect();
    let publish = publish(&host, relay.url()).args(["shared", "--key-separator", ":"]);
    publish.input(large).run().exits(0);
    let stuck = stuck.start();
    // It is there, and so has the only partition.
    let members = |number: u32| {
        until("the group has not as many members", || {
            let described = topic(&host, relay.url(), "describe").arg("shared").run();
            let described = String::from_utf8_lossy(&described.stdout).into_owned();
            described.contains(&format!("group g: members {number}\n"))
        });
    };
    members(1);
    let next = || member(&host, relay.url(), "g").args(["--max-deliver", "1"]);
    let waiting = next().args(["--count", "1"]).start();
    // The first has been sent what it asked for before the second is there.
    members(2);
    stuck.kill();
    stuck.end();
    let ended = waiting.end().exits(0);
    assert!(!ended.stdout.is_empty());
    let aside = subscribe(&host, relay.url());
    let aside = aside.args(["shared.dlq", "--from", "earliest", "--count", "1"]);
    assert!(!aside.run().exits(0).stdout.is_empty());
}

#[test]
fn a_group_goes_on_where_it_is_told_to_and_is_forgotten() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    publish(&host, relay.url())
        .arg("shared")
        .input(lines(0..100))
        .run()
        .exits(0);
    let read = || member(&host, relay.url(), "g").arg("--exit-at-end");
    read().run().exits(0).printed(lines(0..100));
    read().run().exits(0).printed("");
    let reset =
        |to: &str| topic(&host, relay.url(), "reset").args(["shared", "--group", "g", "--to", to]);
    reset("90").run().exits(0);
    read().run().exits(0).printed(lines(90..100));
    reset("1h").run().exits(0);
    // A group with members says itself where it is.
    let member = member(&host, relay.url(), "g").start();
    member.stdout_until(lines(0..100).len());
    let refused = reset("earliest").run().exits(125);
    assert!(
        refused
            .stderr
            .contains("the group g has members (1): end them first"),
        "{}",
        refused.stderr
    );
    member.kill();
    member.end();
    until("the lost member is not let go", || {
        reset("latest").run().status.success()
    });
    read().run().exits(0).printed("");
    let refused = reset("101").run().exits(125);
    assert!(
        refused
            .stderr
            .contains("offset 101 of shared (partition 0) is not there yet"),
        "{}",
        refused.stderr
    );
    let forget = || topic(&host, relay.url(), "forget").args(["shared", "--group", "g"]);
    forget().run().exits(0);
    read().run().exits(0).printed(lines(0..100));
    forget().run().exits(0);
    let refused = forget().run().exits(125);
    assert!(
        refused.stderr.contains("there is no group g of shared"),
        "{}",
        refused.stderr
    );
}

/// A group begins when its first member comes, and not when that has read something.
#[test]
fn l7_what_comes_while_the_first_member_is_away_is_read_by_its_group() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    publish(&host, relay.url())
        .arg("shared")
        .input(lines(0..5))
        .run()
        .exits(0);
    let latest = || subscribe(&host, relay.url()).args(["shared", "--group", "g"]);
    let first = latest().start();
    until("the group does not begin", || {
        let shown = topic(&host, relay.url(), "describe").arg("shared").run();
        String::from_utf8_lossy(&shown.stdout).contains("group g: partition 0 at 5, 0 behind")
    });
    first.kill();
    first.end();
    publish(&host, relay.url())
        .arg("shared")
        .input(lines(5..9))
        .run()
        .exits(0);
    latest()
        .args(["--count", "4"])
        .run()
        .exits(0)
        .printed(lines(5..9));
}

/// What a lost member had ends in the midst of a batch, and another batch follows.
#[test]
fn l7_a_group_misses_nothing_behind_what_a_lost_member_had() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    let create = topic(&host, relay.url(), "create").args(["shared", "--partitions", "1"]);
    create.run().exits(0);
    // Longer than a pipe, so that who does not get rid of it has it and the two behind it.
    let long = format!("key:{}\n", "x".repeat(100_000));
    let publish = || publish(&host, relay.url()).args(["shared", "--key-separator", ":"]);
    let short: String = (1..30).map(|n| format!("key:{n}\n")).collect();
    publish().input(format!("{long}{short}")).run().exits(0);
    publish_shared(&host, relay.url(), 30..35);
    let (stuck, _unread) = member(&host, relay.url(), "g")
        .args(["--max-in-flight", "3"])
        .stdin(std::process::Stdio::null())
        .unread_stdout();
    let stuck = stuck.start();
    let members = |number: u32| {
        until("the group has not as many members", || {
            let described = topic(&host, relay.url(), "describe").arg("shared").run();
            let described = String::from_utf8_lossy(&described.stdout).into_owned();
            described.contains(&format!("group g: members {number}\n"))
        });
    };
    members(1);
    let next = member(&host, relay.url(), "g").args(["--max-in-flight", "100", "--exit-at-end"]);
    let next = next.start();
    members(2);
    stuck.kill();
    stuck.end();
    let read = next.end().exits(0).stdout;
    let short = read.split_inclusive(|byte| *byte == b'\n').skip(1);
    let wanted = (1..35).map(|n| format!("{n}\n").into_bytes());
    assert!(short.eq(wanted), "records are missing");
}
