//! How records stand on stdin and stdout: lines, raw, JSON and Protobuf messages, checked against their file or not.

use std::fs;

use crate::support::Host;
use crate::support::topics::{lines, publish, relay, subscribe, topic};

const CHAT: &str = r#"
syntax = "proto3";
package chat.v1;
message ChatMessage {
  string sender = 1;
  string content = 2;
  int64 timestamp = 3;
}
"#;

#[test]
fn json_says_all_of_a_record_and_what_was_read_is_published_again() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    let said = r#"{"key":"k","value":"two\nlines","time":"2026-11-27T22:04:47.000000001Z","headers":[{"name":"n","value":"v"}]}
{"value_base64":"/wA="}
"#;
    let publish = |name: &str| publish(&host, relay.url()).args([name, "--format", "json"]);
    let read = |name: &str| {
        let read =
            subscribe(&host, relay.url()).args([name, "--from", "earliest", "--exit-at-end"]);
        read.args(["--format", "json"])
    };
    publish("first").input(said).run().exits(0);
    let shown = read("first").run().exits(0).stdout;
    let text = String::from_utf8(shown.clone()).expect("text");
    let first = r#"{"headers":[{"name":"n","value":"v"}],"key":"k","offset":0,"partition":0,"time":"2026-11-27T22:04:47.000000001Z","topic":"first","value":"two\nlines"}"#;
    assert_eq!(text.lines().next(), Some(first));
    assert!(text.contains("\"value_base64\":\"/wA=\""), "{text}");
    // A copy of the topic, times and all.
    publish("second").input(shown).run().exits(0);
    let copy = read("second").run().exits(0).stdout;
    let copy = String::from_utf8(copy).expect("text");
    assert_eq!(copy.replace("\"second\"", "\"first\""), text);
    let dumped = host.farpipe(["log", "dump", "data", "first", "--json"]);
    dumped.run().exits(0).printed(text);
    // What is none is told with its line, and what stood before it is kept.
    let refused = publish("third")
        .input("{\"value\":\"good\"}\n{\"walue\":1}\n")
        .run();
    let refused = refused.exits(125);
    assert!(
        refused
            .stderr
            .contains("stdin, line 2: a record has no field \"walue\""),
        "{}",
        refused.stderr
    );
    assert!(
        refused
            .stderr
            .contains("1 record of third is on the relay's disk"),
        "{}",
        refused.stderr
    );
}

#[test]
fn messages_of_a_schema_are_checked_and_read_as_json() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    fs::write(host.path("chat.proto"), CHAT).expect("written");
    let publish = |format: &str| {
        let publish = publish(&host, relay.url()).args(["chat", "--format", format]);
        publish.args(["--schema", "chat.proto"])
    };
    let json = r#"{"value":{"sender":"ada","content":"hi\nthere","timestamp":"1795817087"}}"#;
    publish("json").input(json).run().exits(0);
    // As protoc --encode writes it, with its length in front.
    let bob = b"\x0a\x0a\x03bob\x12\x03yes";
    publish("delimited").input(&bob[..]).run().exits(0);
    let read = |format: &str| {
        let read = subscribe(&host, relay.url()).args(["chat", "--from", "earliest"]);
        read.args(["--exit-at-end", "--format", format])
    };
    let ada = b"\x15\x0a\x03ada\x12\x08hi\nthere\x18\xff\xfc\xa7\xd8\x06";
    read("delimited")
        .run()
        .exits(0)
        .printed([&ada[..], bob].concat());
    let shown = read("json")
        .args(["--schema", "chat.proto:ChatMessage"])
        .run()
        .exits(0);
    let shown = String::from_utf8(shown.stdout).expect("text");
    let value = r#""value":{"sender":"ada","content":"hi\nthere","timestamp":"1795817087"}"#;
    let sorted = r#""value":{"content":"hi\nthere","sender":"ada","timestamp":"1795817087"}"#;
    assert!(shown.contains(value) || shown.contains(sorted), "{shown}");
    for (format, input, why) in [
        (
            "delimited",
            &b"\x02\x38\x01"[..],
            "stdin, record 1: it is no chat.v1.ChatMessage: ChatMessage has a field of number 7",
        ),
        (
            "delimited",
            b"\x05abc",
            "stdin, record 1: the input ends within it",
        ),
        (
            "json",
            br#"{"value":{"colour":"red"}}"#,
            "stdin, line 1: it is no chat.v1.ChatMessage in JSON",
        ),
        (
            "raw",
            b"hello",
            "stdin, record 1: it is no chat.v1.ChatMessage",
        ),
    ] {
        let refused = publish(format).input(input).run().exits(125);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
    let refused = publish("lines").input("x").run().exits(125);
    assert!(
        refused.stderr.contains("--schema goes with --format json"),
        "{}",
        refused.stderr
    );
    fs::write(host.path("chat.proto"), "message {").expect("written");
    let refused = publish("json").input("x").run().exits(125);
    assert!(
        refused.stderr.contains("--schema chat.proto: "),
        "{}",
        refused.stderr
    );
}

#[test]
fn raw_is_a_record_of_all_there_is() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    let publish = || publish(&host, relay.url()).args(["blobs", "--format", "raw"]);
    publish().input(&b"a\nb\0"[..]).run().exits(0);
    publish().input("c").run().exits(0);
    let read = subscribe(&host, relay.url()).args(["blobs", "--from", "earliest"]);
    let read = read.args(["--exit-at-end", "--format", "raw"]);
    read.run().exits(0).printed(b"a\nb\0c");
    let refused = publish().input(vec![b'x'; (1 << 20) + 1]).run().exits(125);
    assert!(
        refused
            .stderr
            .contains("stdin, record 1: it has more than 1048576 bytes"),
        "{}",
        refused.stderr
    );
}

/// A line without an end fills no memory, and what stood before it is kept.
#[test]
fn a_line_beyond_the_limit_ends_the_producer_with_the_number_of_the_line() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    let input = [lines(0..3).as_bytes(), &vec![b'x'; 3 << 20]].concat();
    let refused = publish(&host, relay.url())
        .arg("logs")
        .input(input)
        .run()
        .exits(125);
    assert!(
        refused
            .stderr
            .contains("stdin, line 4: it has more than 1048576 bytes"),
        "{}",
        refused.stderr
    );
    assert!(
        refused
            .stderr
            .contains("3 records of logs are on the relay's disk"),
        "{}",
        refused.stderr
    );
}

#[test]
fn compressed_batches_take_less_on_the_disk_and_are_read_as_they_were() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    for (name, how) in [("plain", "none"), ("folded", "zstd:9")] {
        let publish = publish(&host, relay.url()).args([name, "--compress", how]);
        publish.input(lines(0..20_000)).run().exits(0);
        let read = subscribe(&host, relay.url()).args([name, "--from", "7", "--exit-at-end"]);
        read.run().exits(0).printed(lines(7..20_000));
        // A member is sent parts of batches.
        let member =
            subscribe(&host, relay.url()).args([name, "--group", "g", "--from", "earliest"]);
        let member = member.args(["--max-in-flight", "100", "--count", "1000"]);
        member.run().exits(0).printed(lines(0..1_000));
    }
    let bytes = |name: &str| -> u64 {
        let shown = topic(&host, relay.url(), "describe")
            .args([name, "--json"])
            .run();
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        shown["partitions"][0]["bytes"].as_u64().expect("a number")
    };
    assert!(bytes("folded") * 3 < bytes("plain"));
    let refused = publish(&host, relay.url())
        .args(["x", "--compress", "zstd:20"])
        .run();
    refused.exits(2);
}

#[test]
fn a_topic_is_read_from_a_time_of_day() {
    let host = Host::new();
    let relay = relay(&host, "ws://127.0.0.1:0");
    publish(&host, relay.url())
        .arg("logs")
        .input(lines(0..3))
        .run()
        .exits(0);
    let from = |when: &str| {
        let read = subscribe(&host, relay.url()).args(["logs", "--from", when]);
        read.arg("--exit-at-end").run().exits(0)
    };
    from("2026-01-01T00:00:00Z").printed(lines(0..3));
    from("2200-01-01T00:00:00+02:00").printed("");
    let refused = subscribe(&host, relay.url())
        .args(["logs", "--from", "yesterday"])
        .run();
    assert!(refused.exits(2).stderr.contains("2026-11-27T22:04:47Z"));
}
