//! Topics: what is published is read, once and in order, whatever becomes of the relay, its producers and its readers.

use std::fs;

use crate::support::Host;
use crate::support::process::until;
use crate::support::topics::{lines, publish, relay, subscribe, topic};

#[test]
fn what_is_published_is_read_from_where_somebody_wants_to() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    let (publish, subscribe) = (
        || publish(&host, relay.url()).arg("logs"),
        || subscribe(&host, relay.url()).arg("logs"),
    );
    let ended = publish().input(lines(0..50_000)).run().exits(0);
    assert_eq!(ended.stderr, "", "it says nothing when all goes well");
    let all = subscribe().args(["--from", "earliest", "--exit-at-end"]);
    all.run().exits(0).printed(lines(0..50_000));
    let some = subscribe().args(["--from", "1200", "--count", "3"]);
    some.run().exits(0).printed(lines(1_200..1_203));
    let recent = subscribe().args(["--from", "1h", "--count", "1"]);
    recent.run().exits(0).printed(lines(0..1));
    // Behind the end: what comes.
    let following = subscribe()
        .args(["--from", "50000", "--count", "2"])
        .start();
    // Bytes that are no text, and a last line without an end.
    publish().input(&b"\xff\0\n\nlast"[..]).run().exits(0);
    following.end().exits(0).printed(b"\xff\0\n\n");
    let rest = subscribe().args(["--from", "50000", "--exit-at-end"]);
    rest.run().exits(0).printed(b"\xff\0\n\nlast\n");
    // head -1.
    let shell = format!(
        "{} sub --relay {} logs --from earliest | head -1; printf %s ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_farpipe"),
        relay.url()
    );
    let bash = host.shell(&format!("exec bash -c '{shell}'"));
    bash.run().exits(0).printed("line 0\n141");
    let described = topic(&host, relay.url(), "describe").args(["logs", "--json"]);
    let described = described.run().exits(0).stdout;
    let described = String::from_utf8(described).expect("text");
    assert!(described.contains("\"durability\":\"disk\""), "{described}");
    assert!(described.contains("\"end\":50003"), "{described}");
}

/// L1 by processes: each record once and in order, though the relay is killed again and again.
#[test]
fn l1_whoever_publishes_and_reads_goes_on_when_the_relay_is_killed() {
    let host = Host::new();
    let first = relay(&host, "ws://127.0.0.1:0");
    let url = first.url().to_owned();
    let mut relay_now = Some(first);
    let reading = subscribe(&host, &url).args(["logs", "--from", "earliest", "--count", "60000"]);
    let reading = reading.start();
    let mut publishing = publish(&host, &url).arg("logs").open_input().start();
    for round in 0..4 {
        publishing.write(lines(round * 15_000..(round + 1) * 15_000));
        // In the midst of them.
        let some = usize::try_from(round).expect("few") * 100_000 + 50_000;
        reading.stdout_until(some);
        let relay = relay_now.take().expect("it runs");
        relay.kill();
        relay.end();
        relay_now = Some(self::relay(&host, &url));
    }
    publishing.close_input();
    publishing.end().exits(0);
    reading.end().exits(0).printed(lines(0..60_000));
}

#[test]
fn l1_a_named_producer_that_is_killed_and_run_again_publishes_each_line_once() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    let run = || publish(&host, relay.url()).args(["logs", "--producer", "host1"]);
    for kept in [1, 20_000] {
        let mut publishing = run().open_input().start();
        publishing.write(lines(0..40_000));
        until("nothing is published", || {
            let shown = topic(&host, relay.url(), "describe")
                .args(["logs", "--json"])
                .run();
            let shown = String::from_utf8(shown.stdout).expect("text");
            let end = shown.split("\"end\":").nth(1).unwrap_or("0");
            let end = end
                .split(|c: char| !c.is_ascii_digit())
                .next()
                .unwrap_or("0");
            end.parse::<u64>().is_ok_and(|end| end >= kept)
        });
        publishing.kill();
        publishing.end();
    }
    let ended = run().input(lines(0..40_000)).run().exits(0);
    assert!(
        ended
            .stderr
            .contains("farpipe: 40000 records of logs are on the relay's disk, "),
        "{}",
        ended.stderr
    );
    let all = subscribe(&host, relay.url()).args(["logs", "--from", "earliest", "--exit-at-end"]);
    all.run().exits(0).printed(lines(0..40_000));
}

#[test]
fn a_line_that_was_too_long_is_published_when_it_comes_again_shorter() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    let run = || publish(&host, relay.url()).args(["logs", "--producer", "host1"]);
    // The one is a line beyond the limit, the other a record.
    for (name, len) in [("line", (1 << 20) + 1), ("record", 1 << 20)] {
        let long = format!("{}{}\n", lines(0..3), "x".repeat(len));
        let ended = run().input(long).run().exits(125);
        let told = format!("stdin, {name} 4: ");
        assert!(ended.stderr.contains(&told), "{}", ended.stderr);
    }
    run().input(lines(0..5)).run().exits(0);
    let all = subscribe(&host, relay.url()).args(["logs", "--from", "earliest", "--exit-at-end"]);
    all.run().exits(0).printed(lines(0..5));
}

#[test]
fn a_producer_that_begins_ends_the_one_before_it() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    let run = || publish(&host, relay.url()).args(["logs", "--producer", "host1"]);
    let mut older = run().open_input().start();
    older.write("line 0\n");
    let shown = || subscribe(&host, relay.url()).args(["logs", "--from", "0", "--count", "1"]);
    shown().run().exits(0).printed("line 0\n");
    run().input(lines(0..2)).run().exits(0);
    older.write("line x\n");
    let ended = older.end().exits(125);
    assert!(
        ended
            .stderr
            .contains("another process publishes as this producer now"),
        "{}",
        ended.stderr
    );
    let all = subscribe(&host, relay.url()).args(["logs", "--from", "earliest", "--exit-at-end"]);
    all.run().exits(0).printed(lines(0..2));
}

#[test]
fn records_of_a_key_stay_in_order_in_one_partition() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    let create = topic(&host, relay.url(), "create").args(["keyed", "--partitions", "4"]);
    create.run().exits(0);
    let input: String = (0..4_000)
        .map(|n| format!("key{}\t{n}\n", n % 40))
        .collect();
    let publish = publish(&host, relay.url()).args(["keyed", "--key-separator", "TAB"]);
    publish.input(input).run().exits(0);
    let read = subscribe(&host, relay.url()).args(["keyed", "--from", "earliest", "--exit-at-end"]);
    let read = read.args(["--key-separator", "TAB"]).run().exits(0);
    let read = String::from_utf8(read.stdout).expect("text");
    assert_eq!(read.lines().count(), 4_000);
    for key in 0..40 {
        let of_it = format!("key{key}\t");
        let values = read.lines().filter_map(|line| line.strip_prefix(&of_it));
        let wanted = (0..4_000_u32)
            .filter(|n| n % 40 == key)
            .map(|n| n.to_string());
        assert!(values.eq(wanted), "{of_it}");
    }
    let one = subscribe(&host, relay.url()).args(["keyed", "--from", "earliest", "--exit-at-end"]);
    let one = one.args(["--partition", "0"]).run().exits(0);
    let count = one.stdout.iter().filter(|byte| **byte == b'\n').count();
    assert!(count > 0 && count < 4_000, "{count}");
}

#[test]
fn what_cannot_be_is_refused_with_words() {
    let host = Host::new();
    let none = host.relay("ws").start_listening();
    let ended = publish(&host, none.url())
        .arg("logs")
        .input("x\n")
        .run()
        .exits(125);
    assert!(
        ended
            .stderr
            .contains("this relay keeps no topics: start it with --data DIR"),
        "{}",
        ended.stderr
    );
    let strict = host
        .relay("ws")
        .args(["--data", "strict", "--auto-create", "false"]);
    let strict = strict.start_listening();
    let says = |ended: crate::support::Ended, words: &str| {
        let ended = ended.exits(125);
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
    };
    let unknown = "there is no topic logs: make it with farpipe topic create";
    says(
        publish(&host, strict.url()).arg("logs").input("x\n").run(),
        unknown,
    );
    says(subscribe(&host, strict.url()).arg("logs").run(), unknown);
    let create = |args: &[&str]| topic(&host, strict.url(), "create").args(args).run();
    create(&["logs"]).exits(0);
    for (how, shown) in [
        ("interval=20ms", "durability interval 20 ms"),
        ("durable", "durability disk"),
        ("os", "durability os"),
    ] {
        create(&["logs", "--durability", how]).exits(0);
        let described = topic(&host, strict.url(), "describe").arg("logs").run();
        let described = String::from_utf8(described.stdout).expect("text");
        assert!(described.contains(shown), "{described}");
    }
    // What is not named stays as it is.
    create(&["logs", "--retain-bytes", "1000000"]).exits(0);
    let described = topic(&host, strict.url(), "describe").arg("logs").run();
    let described = String::from_utf8(described.stdout).expect("text");
    assert!(
        described.contains("durability os\nretain_bytes 1000000\n"),
        "{described}"
    );
    create(&["logs", "--durability", "ram"]).exits(2);
    create(&["logs", "--partitions", "0"]).exits(2);
    says(
        create(&["logs", "--partitions", "3"]),
        "the topic logs has 1 partitions, for good",
    );
    let beyond = subscribe(&host, strict.url()).args(["logs", "--from", "5"]);
    says(
        beyond.run(),
        "offset 5 of logs (partition 0) is not there yet: the next one to come is 0",
    );
    let elsewhere = subscribe(&host, strict.url()).args(["logs", "--partition", "1"]);
    says(
        elsewhere.run(),
        "there is no partition 1 of logs: it has 1, counted from 0",
    );
    let long = [b"short\n".to_vec(), vec![b'x'; 1 << 20], b"\n".to_vec()].concat();
    let ended = publish(&host, strict.url()).arg("logs").input(long).run();
    let kept = "farpipe: 1 record of logs is in the relay's memory\n";
    assert!(ended.stderr.contains(kept), "{}", ended.stderr);
    says(ended, "farpipe: stdin, record 2: a record of 10485");
    // What stood before it is published.
    let all = subscribe(&host, strict.url()).args(["logs", "--from", "earliest", "--exit-at-end"]);
    all.run().exits(0).printed("short\n");
    topic(&host, strict.url(), "rm").arg("logs").run().exits(0);
    says(
        topic(&host, strict.url(), "rm").arg("logs").run(),
        "there is no topic logs",
    );
    publish(&host, strict.url()).arg("a/b").run().exits(2);
}

/// L6: one process at a time, and nothing that is none of its own.
#[test]
fn l6_a_log_that_another_relay_has_or_that_is_none_is_not_opened() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    publish(&host, relay.url())
        .arg("logs")
        .input("x\n")
        .run()
        .exits(0);
    let second = || {
        host.relay("ws")
            .args(["--data", "data"])
            .run()
            .exits(125)
            .stderr
    };
    let said = second();
    assert!(said.contains("another process has this log"), "{said}");
    relay.signal(rustix::process::Signal::TERM);
    relay.end().exits(0);
    fs::write(host.path("data/topics/logs/0/notes.txt"), "mine").expect("ours");
    let said = second();
    assert!(
        said.contains("notes.txt does not belong into a log: move it away"),
        "{said}"
    );
    fs::remove_file(host.path("data/topics/logs/0/notes.txt")).expect("ours");
    let groups = fs::read(host.path("data/groups")).expect("there");
    fs::remove_file(host.path("data/groups")).expect("ours");
    let said = second();
    assert!(said.contains("groups is missing: restore it"), "{said}");
    let log = |action: &str| host.farpipe(["log", action, "data"]).run();
    log("verify").exits(1);
    log("repair").exits(1);
    log("verify").exits(0);
    fs::write(host.path("data/groups"), groups).expect("ours");
    fs::write(host.path("data/format"), "farpipe-log 2\n").expect("ours");
    let said = second();
    assert!(
        said.contains("is no log of this version of farpipe"),
        "{said}"
    );
}

#[test]
fn l3_damage_on_the_disk_is_found_told_and_served_to_nobody() {
    let host = Host::new();
    let first = relay(&host, "ws://127.0.0.1:0");
    let url = first.url().to_owned();
    for n in 0..4_u64 {
        let publish = publish(&host, &url).arg("logs");
        publish.input(lines(n * 100..(n + 1) * 100)).run().exits(0);
    }
    let log = |args: &[&str]| host.farpipe(["log"]).args(args).run();
    let listed = log(&["ls", "data"]).exits(0).stdout;
    let listed = String::from_utf8(listed).expect("text");
    assert!(
        listed.starts_with("logs/0: offsets 0 to 400, 4 batches, "),
        "{listed}"
    );
    log(&["verify", "data"])
        .exits(0)
        .printed("whole: 1 partitions, 4 batches\n");
    first.kill();
    first.end();
    // One byte of the second batch.
    let path = "data/topics/logs/0/00000000000000000000.seg";
    let mut bytes = host.content(path);
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("batches");
    let at = end * 3 / 8;
    bytes[at] ^= 0x20;
    fs::write(host.path(path), &bytes).expect("ours");
    let verified = log(&["verify", "data"])
        .exits(1)
        .printed("damaged: 1 partitions, 3 batches\n");
    assert!(
        verified.stderr.contains("offsets 100 to 199 are damaged"),
        "{}",
        verified.stderr
    );
    let kept = format!("{}{}", lines(0..100), lines(200..400));
    log(&["dump", "data", "logs"]).exits(1).printed(&kept);
    let json = log(&[
        "dump", "data", "logs", "--from", "250", "--count", "1", "--json",
    ])
    .exits(0);
    let json = String::from_utf8(json.stdout).expect("text");
    assert!(
        json.contains("\"offset\":250") && json.contains("\"value\":\"line 250\""),
        "{json}"
    );
    let relay = relay(&host, &url);
    let read = subscribe(&host, relay.url()).args(["logs", "--from", "earliest", "--exit-at-end"]);
    let ended = read.run().exits(125).printed(&kept);
    assert!(
        ended.stderr.contains(
            "records 100 to 199 of partition 0 are missing: they are damaged on the disk"
        ),
        "{}",
        ended.stderr
    );
    // What is whole goes on.
    publish(&host, relay.url())
        .arg("logs")
        .input("more\n")
        .run()
        .exits(0);
    let last = subscribe(&host, relay.url()).args(["logs", "--from", "400", "--exit-at-end"]);
    last.run().exits(0).printed("more\n");
}

/// L3: what can be mended is, what cannot is told, and nothing that is whole is touched.
#[test]
fn l3_a_damaged_log_is_repaired_as_far_as_that_can_be() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    for batch in 0..4 {
        let publish = publish(&host, relay.url()).arg("logs");
        publish
            .input(lines(batch * 100..(batch + 1) * 100))
            .run()
            .exits(0);
    }
    let log = |action: &str| host.farpipe(["log", action, "data"]).run();
    let refused = log("repair").exits(125);
    assert!(
        refused.stderr.contains("another process has this log"),
        "{}",
        refused.stderr
    );
    let url = relay.url().to_owned();
    relay.kill();
    relay.end();
    log("repair").exits(0).printed("");
    let segment = "data/topics/logs/0/00000000000000000000.seg";
    let whole = host.content(segment);
    let end = whole.iter().rposition(|byte| *byte != 0).expect("batches");
    // One bit in the second batch, two in the fourth, and the topic's settings.
    let mut bytes = whole.clone();
    bytes[end * 3 / 8] ^= 0x20;
    bytes[end - 5] ^= 1;
    bytes[end - 9] ^= 1;
    fs::write(host.path(segment), &bytes).expect("ours");
    fs::write(host.path("data/topics/logs/settings"), "partitions 2\n").expect("ours");
    let refused = host
        .relay_at(&url)
        .args(["--data", "data"])
        .run()
        .exits(125);
    assert!(
        refused.stderr.contains("farpipe log repair"),
        "{}",
        refused.stderr
    );
    let verified = log("verify").exits(1);
    assert!(
        verified
            .stderr
            .contains("settings: it is damaged, or missing: no relay opens this log"),
        "{}",
        verified.stderr
    );
    let repaired = log("repair").exits(1);
    let said = String::from_utf8(repaired.stdout).expect("text");
    for words in [
        "settings: written anew for 1 partitions",
        "offsets 100 to 199 are whole again: one bit of byte ",
        "offsets 300 to 399 are damaged (",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let second = host.content(segment);
    assert_eq!(second[..end / 2], whole[..end / 2]);
    log("verify")
        .exits(1)
        .printed("damaged: 1 partitions, 3 batches\n");
    let again = self::relay(&host, &url);
    let read = subscribe(&host, again.url()).args(["logs", "--from", "earliest", "--exit-at-end"]);
    read.run().exits(125).printed(lines(0..300));
}

/// L5 by a real disk.
#[test]
fn l5_a_full_disk_makes_producers_wait_and_loses_nothing() {
    let host = Host::new();
    let script = "\"$FARPIPE\" relay --listen ws://127.0.0.1:0 --data data 2> ../log & relay=$!; \
         FARPIPE_RELAY=; while [ -z \"$FARPIPE_RELAY\" ]; do kill -0 $relay || exit 9; \
         FARPIPE_RELAY=$(sed -n 's/^listening on //p' ../log); done; export FARPIPE_RELAY; \
         \"$FARPIPE\" topic create more; seq 1 300000 > ../in; \"$FARPIPE\" pub logs < ../in 2> ../err & pub=$!; \
         until grep -q 'disk of the topic.s relay is full' ../err; do kill -0 $pub || exit 8; done; \
         \"$FARPIPE\" pub more --resume-for 2s < ../in; echo \"status $?\"; \
         mount -o remount,size=60m .; wait $pub; echo \"status $?\"; \
         \"$FARPIPE\" sub logs --from earliest --exit-at-end | cmp - ../in && echo same; \
         kill $relay; wait $relay";
    let Some(ended) = host.with_disk("size=1m", script) else {
        return;
    };
    let said = &ended.stderr;
    assert_eq!(
        String::from_utf8_lossy(&ended.stdout),
        "status 125\nstatus 0\nsame\n",
        "{said}"
    );
    assert!(
        said.contains("farpipe: nothing was acknowledged for 2 s"),
        "{said}"
    );
}

#[test]
fn input_that_cannot_be_read_is_no_end_of_it() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    let dir = fs::File::open(host.dir()).expect("a directory");
    let ended = publish(&host, relay.url())
        .arg("logs")
        .stdin(dir)
        .run()
        .exits(125);
    assert!(
        ended.stderr.contains("cannot read stdin: Is a directory"),
        "{}",
        ended.stderr
    );
    publish(&host, relay.url())
        .args(["logs", "--window", "0"])
        .run()
        .exits(2);
}

/// L1: who begins ends the one before it, though it has nothing new kept.
#[test]
fn l1_two_producers_of_a_name_are_two_lives() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    let run = || {
        let run = publish(&host, relay.url()).args(["logs", "--producer", "p"]);
        run.open_input().start()
    };
    let mut first = run();
    first.write("a 0\na 1\n");
    let read = || {
        let read = subscribe(&host, relay.url()).args(["logs", "--from", "earliest"]);
        read.arg("--exit-at-end").run().exits(0).stdout
    };
    until("it is not kept", || read() == b"a 0\na 1\n");
    let mut second = run();
    second.write("a 0\na 1\nb 2\n");
    until("it is not kept", || read() == b"a 0\na 1\nb 2\n");
    // The first would have the same numbers.
    first.write("a 2\n");
    first.close_input();
    let ended = first.end().exits(125);
    assert!(
        ended
            .stderr
            .contains("another process publishes as this producer now"),
        "{}",
        ended.stderr
    );
    second.close_input();
    second.end().exits(0);
    assert_eq!(read(), b"a 0\na 1\nb 2\n");
}

#[test]
fn a_producer_that_is_told_to_end_says_how_many_are_kept() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    let mut publishing = publish(&host, relay.url()).arg("logs").open_input().start();
    publishing.write(lines(0..3));
    let read = subscribe(&host, relay.url()).args(["logs", "--from", "earliest", "--count", "3"]);
    read.run().exits(0).printed(lines(0..3));
    publishing.signal(rustix::process::Signal::TERM);
    let ended = publishing.end();
    assert!(
        ended
            .stderr
            .contains("3 records of logs are on the relay's disk"),
        "{}",
        ended.stderr
    );
    // A member that is told to end has left when it has ended.
    let member = subscribe(&host, relay.url()).args(["logs", "--from", "earliest", "--group", "g"]);
    let member = member.start();
    member.stdout_until(lines(0..3).len());
    member.signal(rustix::process::Signal::TERM);
    member.end();
    let reset = topic(&host, relay.url(), "reset").args(["logs", "--group", "g", "--to", "0"]);
    reset.run().exits(0);
}

#[test]
fn readers_of_a_topic_that_is_removed_hear_of_it() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    publish(&host, relay.url())
        .arg("logs")
        .input(lines(0..100))
        .run()
        .exits(0);
    let reading = subscribe(&host, relay.url())
        .args(["logs", "--from", "earliest"])
        .start();
    let member = subscribe(&host, relay.url()).args(["logs", "--from", "earliest", "--group", "g"]);
    let member = member.start();
    for reader in [&reading, &member] {
        reader.stdout_until(lines(0..100).len());
    }
    topic(&host, relay.url(), "rm").arg("logs").run().exits(0);
    // It is made again by whoever asks first, and has nothing of what they had.
    let ended = reading.end().exits(125);
    assert!(
        ended
            .stderr
            .contains("offset 100 of logs (partition 0) is not there yet"),
        "{}",
        ended.stderr
    );
    publish(&host, relay.url())
        .arg("logs")
        .input(lines(0..5))
        .run()
        .exits(0);
    // A member goes on with what has the name now, from its beginning: the group of the other one is gone with it.
    let both = lines(0..100) + &lines(0..5);
    assert_eq!(member.stdout_until(both.len()), both.as_bytes());
    member.kill();
    member.end();
}
