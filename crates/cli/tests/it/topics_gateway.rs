//! Topics for those who have no farpipe: real `curl`, server-sent events and WebSockets, each record once and in order.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Shutdown, TcpStream};

use rustix::process::Signal;

use crate::support::gateway::{answer, begin, socket, status};
use crate::support::process::{Invocation, until};
use crate::support::websocket::{Ws, address, ask, request};
use crate::support::{Host, Listener};

/// A relay that keeps topics and says much.
fn relay(host: &Host) -> Listener {
    relay_at(host, "ws://127.0.0.1:0")
}

fn relay_at(host: &Host, url: &str) -> Listener {
    let relay = host.relay_at(url).args(["--data", "data", "-v"]);
    relay.start_listening()
}

/// Where a topic is for those who have no farpipe.
fn at(relay: &Listener, topic: &str) -> String {
    format!("http://{}/t/{topic}", address(relay))
}

fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|n| format!("line {n}\n")).collect()
}

/// An upload by curl of what is on its stdin.
fn upload(host: &Host, url: &str) -> Invocation {
    host.curl(["-T", "-", url])
}

/// What an upload is answered.
fn kept(topic: &str, records: u64, repeated: u64) -> String {
    format!(
        "{{\"level\":\"disk\",\"records\":{records},\"repeated\":{repeated},\"topic\":\"{topic}\"}}\n"
    )
}

/// All that there is.
#[track_caller]
fn all(host: &Host, relay: &Listener, topic: &str) -> Vec<u8> {
    let url = at(relay, &format!("{topic}?from=earliest&follow=false"));
    host.curl([&url]).run().exits(0).stdout
}

/// What a request without a body is answered.
#[track_caller]
fn get(relay: &Listener, line: &str, lines: &str) -> (u16, String, String) {
    answer(
        relay,
        &format!("{line} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"),
    )
}

/// A reader of server-sent events.
struct Events {
    stream: BufReader<TcpStream>,
    /// What came in chunks and was not read.
    rest: Vec<u8>,
}

/// An event, or a comment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    id: String,
    kind: String,
    data: Option<String>,
}

impl Events {
    #[track_caller]
    fn of(relay: &Listener, target: &str, last: Option<&str>) -> Self {
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n"));
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{}\r\n",
            last.unwrap_or_default()
        );
        let (head, stream) = ask(relay, &head);
        assert_eq!(status(&head), 200, "{head}");
        assert!(
            head.contains("Content-Type: text/event-stream\r\n"),
            "{head}"
        );
        Self {
            stream: BufReader::new(stream),
            rest: Vec::new(),
        }
    }

    /// The next line; `None`: the last chunk has come, or the connection was cut.
    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.drain(..=at).collect();
                let line = String::from_utf8(line).expect("text");
                return Some(line.trim_end_matches('\n').to_owned());
            }
            let mut size = String::new();
            self.stream.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim_end(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            self.stream.read_exact(&mut chunk).ok()?;
            self.rest.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return None;
            }
        }
    }

    /// The next event; `None`: there are no more.
    fn next(&mut self) -> Option<Event> {
        let mut event = Event::default();
        let mut is_begun = false;
        loop {
            let line = self.line()?;
            match line.split_once(": ") {
                Some(("id", id)) => event.id = id.to_owned(),
                Some(("event", kind)) => event.kind = kind.to_owned(),
                Some(("data", text)) => {
                    event.data = Some(match event.data.take() {
                        Some(before) => before + "\n" + text,
                        None => text.to_owned(),
                    });
                }
                _ if line == ":" => event.kind = "comment".to_owned(),
                _ if line.is_empty() && is_begun => return Some(event),
                _ => assert_eq!(line, "", "no line of an event"),
            }
            is_begun = true;
        }
    }

    /// The next one with data.
    fn data(&mut self) -> Option<(String, String)> {
        loop {
            let Event { id, kind, data } = self.next()?;
            match data {
                Some(data) => return Some((id, format!("{kind}{data}"))),
                None => continue,
            }
        }
    }
}

#[test]
fn curl_publishes_lines_and_reads_them_from_where_it_wants_to() {
    let host = Host::new();
    let relay = relay(&host);
    let logs = at(&relay, "logs");
    let ended = upload(&host, &logs).input(lines(0..50_000)).run().exits(0);
    ended.printed(kept("logs", 50_000, 0));
    host.file("more", b"\xff\0\n\nlast");
    let posted = host.curl(["--data-binary", "@more", &logs]).run().exits(0);
    posted.printed(kept("logs", 3, 0));
    let expected = [lines(0..50_000).as_bytes(), b"\xff\0\n\nlast\n"].concat();
    assert_eq!(all(&host, &relay, "logs"), expected);
    let read = |query: &str| host.curl([format!("{logs}?{query}")]);
    read("from=1200&count=3")
        .run()
        .exits(0)
        .printed(lines(1_200..1_203));
    read("from=50003&follow=false").run().exits(0).printed("");
    read("from=earliest&count=0").run().exits(0).printed("");
    let json = read("from=7&count=1&json").run().exits(0).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(json["offset"], 7);
    assert_eq!(json["value"], "line 7");
    // A farpipe reads the same.
    let sub = host.farpipe(["sub", "--relay", relay.url(), "logs", "--from", "49999"]);
    let sub = sub.arg("--exit-at-end").run().exits(0);
    sub.printed(b"line 49999\n\xff\0\n\nlast\n");
    // Nothing is a success as well, and makes a topic.
    let none = upload(&host, &at(&relay, "none")).run().exits(0);
    none.printed(kept("none", 0, 0));
    let (status, head, _) = get(&relay, "HEAD /t/logs", "");
    assert_eq!(status, 200, "{head}");
    assert!(head.contains("Farpipe-Offsets: 0-50003\r\n"), "{head}");
}

#[test]
fn what_is_published_is_followed_while_the_upload_goes_on() {
    let host = Host::new();
    let relay = relay(&host);
    let logs = at(&relay, "logs");
    let following = host.curl([format!("{logs}?count=3")]).start();
    relay.stderr_until(|text| text.contains("reads t/logs"));
    let mut writing = upload(&host, &logs).open_input().start();
    let mut len = 0;
    for line in ["one\n", "two\n", "three\n"] {
        writing.write(line);
        len += line.len();
        assert!(following.stdout_until(len).ends_with(line.as_bytes()));
    }
    following.end().exits(0).printed("one\ntwo\nthree\n");
    writing.close_input();
    writing.end().exits(0).printed(kept("logs", 3, 0));
    // One that leaves is not read for any more.
    let following = host.curl([&logs]).start();
    relay.stderr_until(|text| text.matches("reads t/logs").count() == 2);
    following.kill();
    relay.stderr_until(|text| text.contains("t/logs: 0 records"));
}

#[test]
fn a_raw_body_is_one_record() {
    let host = Host::new();
    let relay = relay(&host);
    let raw = at(&relay, "raw?raw");
    let whole = "a\nb\n\nc";
    let kind = "Content-Type: application/octet-stream";
    let send = |bytes: &[u8]| {
        host.file("body", bytes);
        host.curl(["-H", kind, "--data-binary", "@body", &raw])
    };
    send(whole.as_bytes())
        .run()
        .exits(0)
        .printed(kept("raw", 1, 0));
    let (mut ws, _) = socket(&relay, "/t/raw?from=0&raw", "");
    assert_eq!(ws.next(), (0x82, whole.as_bytes().to_vec()));
    let large = vec![b'x'; (1 << 20) - 64];
    send(&large).run().exits(0).printed(kept("raw", 1, 0));
    assert_eq!(ws.next(), (0x82, large));
    let refused = send(&vec![b'x'; (1 << 20) + 1]).arg("-f").run();
    assert_ne!(refused.status.code(), Some(0), "{}", refused.stderr);
    let (status, _, _) = get(&relay, "HEAD /t/raw", "");
    assert_eq!(status, 200);
    assert_eq!(get(&relay, "GET /t/raw?from=3", "").0, 416);
}

/// L1 by processes.
#[test]
fn l1_what_an_upload_was_answered_for_outlives_the_relay() {
    let host = Host::new();
    let mut relay = relay(&host);
    let url = relay.url().to_owned();
    for round in 0..3 {
        let input = lines(round * 1_000..(round + 1) * 1_000);
        let ended = upload(&host, &at(&relay, "logs")).input(input).run();
        ended.exits(0).printed(kept("logs", 1_000, 0));
        relay.kill();
        relay.end();
        relay = relay_at(&host, &url);
    }
    assert_eq!(all(&host, &relay, "logs"), lines(0..3_000).into_bytes());
}

#[test]
fn l1_a_producer_that_repeats_its_upload_has_each_record_kept_once() {
    let host = Host::new();
    let mut relay = relay(&host);
    let url = relay.url().to_owned();
    let logs = at(&relay, "logs");
    let run = |more: &[&str]| {
        let curl = upload(&host, &logs).args(["-H", "Farpipe-Producer: host1"]);
        curl.args(more)
    };
    // It is killed, and so is the relay, in the midst of it.
    let mut killed = run(&[]).open_input().start();
    killed.write(lines(0..40_000));
    let count = |relay: &Listener| {
        let (_, head, _) = get(relay, "HEAD /t/logs", "");
        let offsets = head.split("Farpipe-Offsets: 0-").nth(1).unwrap_or("0");
        let end = offsets.split("\r\n").next().unwrap_or("0");
        end.parse::<u64>().unwrap_or(0)
    };
    until("nothing is kept", || count(&relay) > 0);
    relay.kill();
    relay.end();
    killed.close_input();
    assert_ne!(killed.end().status.code(), Some(0));
    relay = relay_at(&host, &url);
    let before = count(&relay);
    let again = || run(&[]).input(lines(0..40_000)).run().exits(0);
    again().printed(kept("logs", 40_000, before));
    again().printed(kept("logs", 40_000, 40_000));
    // A farpipe of the same name is the same producer.
    let pub_ = host.farpipe(["pub", "--relay", relay.url(), "logs", "--producer", "host1"]);
    pub_.input(lines(0..40_001)).run().exits(0);
    let sequence = "Farpipe-Sequence: 40001";
    for repeated in [0, 2] {
        let more = run(&["-H", sequence]).input(lines(40_001..40_003)).run();
        more.exits(0).printed(kept("logs", 2, repeated));
    }
    let gap = run(&["-H", "Farpipe-Sequence: 50000", "-w", "%{http_code}"]);
    let gap = gap.input("x\n").run().exits(18).stdout;
    let gap = String::from_utf8(gap).expect("text");
    assert!(
        gap.contains("begins with its record 50000, where 40003 is next: 0 records are kept"),
        "{gap}"
    );
    assert!(gap.ends_with("409"), "{gap}");
    assert_eq!(all(&host, &relay, "logs"), lines(0..40_003).into_bytes());
}

#[test]
fn a_repeated_upload_into_several_partitions_is_kept_once() {
    let host = Host::new();
    let relay = relay(&host);
    let create = host.farpipe(["topic", "create", "--relay", relay.url(), "many"]);
    create.args(["--partitions", "3"]).run().exits(0);
    let many = at(&relay, "many");
    let run = |from: u64, to: u64| {
        let sequence = format!("Farpipe-Sequence: {from}");
        let curl = upload(&host, &many).args(["-H", "Farpipe-Producer: a", "-H", &sequence]);
        curl.input(lines(from..to)).run().exits(0)
    };
    run(0, 5_000).printed(kept("many", 5_000, 0));
    run(0, 5_000).printed(kept("many", 5_000, 5_000));
    run(4_000, 9_000).printed(kept("many", 5_000, 1_000));
    let read = all(&host, &relay, "many");
    let read = String::from_utf8(read).expect("text");
    let mut numbers: Vec<u64> = read
        .lines()
        .map(|line| line[5..].parse().expect("a number"))
        .collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..9_000), "{}", numbers.len());
    // Into one of them, and out of it.
    let one = at(&relay, "many?partition=2");
    upload(&host, &one).input("last\n").run().exits(0);
    let read = host.curl([format!("{one}&from=earliest&follow=false")]);
    let read = read.run().exits(0).stdout;
    assert!(read.ends_with(b"\nlast\n"));
    let (status, _, told) = get(&relay, "GET /t/many?from=5", "");
    assert_eq!(status, 400, "{told}");
    assert!(told.contains("say partition=N"), "{told}");
    // Who has read some of each goes on where it was.
    let mut events = Events::of(&relay, "/t/many?from=earliest&follow=false", None);
    let mut seen: Vec<String> = Vec::new();
    let mut last = String::new();
    for _ in 0..2_500 {
        let (id, data) = events.data().expect("an event");
        last = id;
        seen.push(data);
    }
    drop(events);
    assert_eq!(last.split(',').count(), 3, "{last}");
    let target = "/t/many?from=earliest&follow=false";
    let mut events = Events::of(&relay, target, Some(&last));
    while let Some((_, data)) = events.data().filter(|(_, data)| data != "end") {
        seen.push(data);
    }
    assert_eq!(seen.len(), 9_001);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 9_001);
}

#[test]
fn an_upload_that_breaks_is_no_success_and_says_what_is_kept() {
    let host = Host::new();
    let relay = relay(&host);
    let cases = [
        ("short", "Content-Length: 99\r\n\r\n", "one\ntwo\nthr"),
        (
            "open",
            "Transfer-Encoding: chunked\r\n\r\n",
            "b\r\none\ntwo\nthr\r\n",
        ),
        (
            "wrong",
            "Transfer-Encoding: chunked\r\n\r\n",
            "b\r\none\ntwo\nthrX\r\n0\r\n\r\n",
        ),
    ];
    for (name, head, body) in cases {
        let head = format!("PUT /t/{name} HTTP/1.1\r\nHost: localhost\r\n{head}{body}");
        let mut client = begin(&relay, &head);
        client.shutdown(Shutdown::Write).expect("it is open");
        let mut told = String::new();
        client.read_to_string(&mut told).expect("an answer");
        assert!(told.starts_with("HTTP/1.1 400 "), "{told}");
        let words = format!(": 2 records are kept in {name}\n");
        assert!(told.contains(&words), "{told}");
        assert!(!told.contains("\r\n0\r\n"), "a last chunk: {told}");
        assert_eq!(all(&host, &relay, name), b"one\ntwo\n", "{name}");
    }
    // Killed: what has come is kept, and its last line was none.
    let mut writing = upload(&host, &at(&relay, "killed")).open_input().start();
    writing.write("one\ntwo\nthr");
    until("it is not kept", || {
        get(&relay, "HEAD /t/killed", "").1.contains(": 0-2\r\n")
    });
    writing.kill();
    relay.stderr_until(|text| text.contains(": 2 records are kept in killed"));
    assert_eq!(all(&host, &relay, "killed"), b"one\ntwo\n");
}

#[test]
fn a_line_that_is_too_long_is_refused_and_those_before_it_are_kept() {
    let host = Host::new();
    let relay = relay(&host);
    for (name, end) in [("ends", "\nbehind\n"), ("open", "")] {
        let long = format!("{}{}{end}", lines(0..3), "x".repeat((1 << 20) + 1));
        let head = format!(
            "PUT /t/{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{long}",
            long.len()
        );
        let (status, _, told) = answer(&relay, &head);
        assert_eq!(status, 413, "{told}");
        let words = format!("record 4 is longer than 1 MiB: 3 records are kept in {name}\n");
        assert!(told.contains(&words), "{told}");
        assert_eq!(all(&host, &relay, name), lines(0..3).into_bytes());
    }
}

#[test]
fn what_cannot_be_is_refused_with_words() {
    let host = Host::new();
    let relay = relay(&host);
    upload(&host, &at(&relay, "logs")).input(lines(0..3)).run();
    for (line, expected, words) in [
        ("GET /t/.logs", 404, "no topic: it begins with a dot"),
        ("GET /t/", 404, "no topic: it is empty"),
        ("GET /t/logs?from=4", 416, "the next one to come is 3"),
        ("GET /t/logs?from=x", 400, "from is earliest, latest"),
        ("GET /t/logs?count=x", 400, "count is a number"),
        ("GET /t/logs?partition=1", 400, "there is no partition 1"),
        ("GET /t/logs?since=1", 400, "an unknown option: since"),
        ("PUT /t/logs?partition=1", 411, "a body is sent with"),
        ("DELETE /t/logs", 405, "a topic is read by GET"),
    ] {
        let (status, head, told) = get(&relay, line, "");
        assert_eq!(status, expected, "{line}: {told}");
        assert!(told.contains(words), "{line}: {told}");
        assert!(!head.contains("Content-Length: 0\r\n"), "{head}");
    }
    assert_eq!(get(&relay, "HEAD /t/other", "").0, 404);
    let put = "Content-Length: 2\r\n";
    let request = format!("PUT /t/logs?partition=1 HTTP/1.1\r\nHost: localhost\r\n{put}\r\nx\n");
    let (status, _, told) = answer(&relay, &request);
    assert_eq!(status, 400, "{told}");
    // curl fails also without -f, and shows the words.
    let ended = host.curl([at(&relay, "logs?from=4")]).run().exits(18);
    assert!(ended.said().contains("transfer closed"), "{}", ended.said());

    let strict = host.relay("ws").args(["--data", "strict"]);
    let strict = strict.args(["--auto-create", "false"]).start_listening();
    let without = host.relay("ws").start_listening();
    for (relay, words) in [
        (
            &strict,
            "there is no topic logs: make it with farpipe topic create",
        ),
        (
            &without,
            "this relay keeps no topics: start it with --data DIR",
        ),
    ] {
        for (line, more) in [("GET", ""), ("PUT", "Content-Length: 0\r\n")] {
            let (status, _, told) = get(relay, &format!("{line} /t/logs"), more);
            assert_eq!(status, 404, "{told}");
            assert!(told.contains(words), "{told}");
        }
        let (head, _) = ask(relay, &request_of("/t/logs"));
        assert_eq!(self::status(&head), 404, "{head}");
    }
}

fn request_of(path: &str) -> String {
    request(path, "")
}

/// One who reads by events asks again with the last one's id, as `EventSource` does.
#[test]
fn l1_events_over_relays_that_are_killed_come_once_and_in_order() {
    let host = Host::new();
    let mut relay = relay(&host);
    let url = relay.url().to_owned();
    let mut read = Vec::new();
    // Before the first record there is an id as well: what comes while nobody reads is not missing.
    let mut events = Events::of(&relay, "/t/logs", None);
    let first = events.next().expect("an event");
    assert_eq!((first.id.as_str(), &first.data), ("-1", &None));
    let mut last = first.id;
    for round in 0..4_u64 {
        let input = lines(round * 1_000..(round + 1) * 1_000);
        let ended = upload(&host, &at(&relay, "logs")).input(input).run();
        ended.exits(0);
        // Some of them only.
        while read.len() < usize::try_from(round * 1_000 + 300).expect("few") {
            let (id, data) = events.data().expect("an event");
            assert_eq!(id, read.len().to_string());
            last = id;
            read.push(data);
        }
        relay.kill();
        relay.end();
        drop(events);
        relay = relay_at(&host, &url);
        events = Events::of(&relay, "/t/logs", Some(&last));
    }
    while read.len() < 4_000 {
        read.push(events.data().expect("an event").1);
    }
    let read: String = read.iter().map(|line| format!("{line}\n")).collect();
    assert_eq!(read, lines(0..4_000));
    // It hears something before a proxy takes it for dead.
    let heard = std::time::Instant::now();
    assert_eq!(events.next().expect("a comment").kind, "comment");
    assert!(heard.elapsed() < std::time::Duration::from_secs(15));
}

#[test]
fn values_are_data_of_events_whatever_is_in_them() {
    let host = Host::new();
    let relay = relay(&host);
    let raw = at(&relay, "raw?raw");
    for body in [&b"a\nid: 9\n\nb"[..], b"\xff", b""] {
        host.file("body", body);
        let ended = host.curl(["--data-binary", "@body", &raw]).run();
        ended.exits(0);
    }
    let mut events = Events::of(&relay, "/t/raw?from=earliest&follow=false", None);
    for expected in [
        ("0", "a\nid: 9\n\nb"),
        ("1", "base64/w=="),
        ("2", ""),
        ("", "end"),
    ] {
        let (id, data) = events.data().expect("an event");
        assert_eq!((id.as_str(), data.as_str()), expected);
    }
    assert_eq!(events.next(), None, "the last chunk");
}

/// A message's JSON.
fn told(ws: &mut Ws) -> serde_json::Value {
    let (kind, text) = ws.next();
    assert_eq!(kind, 0x81, "{}", String::from_utf8_lossy(&text));
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn a_websocket_reads_messages_and_goes_on_behind_the_last_one() {
    let host = Host::new();
    let mut relay = relay(&host);
    let url = relay.url().to_owned();
    let (mut ws, _) = socket(&relay, "/t/logs", "");
    let pub_ = host.farpipe(["pub", "--relay", relay.url(), "logs"]);
    let pub_ = pub_.args(["--key-separator", ":"]);
    pub_.input(&b"k:one\ntwo\n\xff\n"[..]).run().exits(0);
    let first = told(&mut ws);
    assert_eq!(first["offset"], 0);
    assert_eq!(first["partition"], 0);
    assert_eq!(first["key"], "k");
    assert_eq!(first["value"], "one");
    assert!(
        first["time"]
            .as_str()
            .is_some_and(|time| time.starts_with("20")),
        "{first}"
    );
    assert_eq!(told(&mut ws)["value"], "two");
    let binary = told(&mut ws);
    assert_eq!(binary["value_base64"], "/w==");
    relay.kill();
    relay.end();
    relay = relay_at(&host, &url);
    let input = "three\n".repeat(10_000);
    upload(&host, &at(&relay, "logs")).input(input).run();
    let next = binary["offset"].as_u64().expect("a number") + 1;
    let (mut ws, _) = socket(&relay, &format!("/t/logs?from={next}&count=10000"), "");
    for offset in next..next + 10_000 {
        assert_eq!(told(&mut ws)["offset"], offset);
    }
    assert_eq!(ws.next(), (0x88, vec![3, 232]));
    ws.send(0x88, &[3, 232]);
    let (mut ws, _) = socket(&relay, "/t/logs?from=0&count=1&raw", "");
    assert_eq!(ws.next(), (0x82, b"one".to_vec()));
    // A relay that ends says so.
    let (mut ws, _) = socket(&relay, "/t/logs", "");
    relay.stderr_until(|text| text.matches("reads t/logs").count() >= 3);
    relay.signal(Signal::TERM);
    assert_eq!(ws.next(), (0x88, vec![3, 233]));
}

/// A page shows what it is let in by, as at a pipe.
#[test]
fn p16_pages_read_topics_of_their_own_relay_or_with_a_listed_origin() {
    let host = Host::new();
    let relay = host.relay("ws").args(["--data", "data"]);
    let relay = relay.args(["--origin", "https://app.example"]);
    let relay = relay.start_listening();
    upload(&host, &at(&relay, "logs")).input("one\n").run();
    let own = "Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n";
    let listed = "Origin: https://app.example\r\nSec-Fetch-Site: cross-site\r\n";
    for lines in [
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "User-Agent: Mozilla/5.0\r\n",
    ] {
        for line in ["GET /t/logs?from=0&count=1", "GET /t/new"] {
            let (status, head, _) = get(&relay, line, lines);
            assert_eq!(status, 403, "{lines}: {head}");
            assert!(!head.contains("Access-Control"), "{head}");
        }
    }
    assert_eq!(get(&relay, "HEAD /t/new", "").0, 404, "nobody made it");
    let (status, head, told) = get(&relay, "GET /t/logs?from=0&count=1", listed);
    assert_eq!(status, 200, "{head}");
    assert!(told.contains("one\n"), "{told}");
    let allowed = "Access-Control-Allow-Origin: https://app.example\r\n";
    assert!(head.contains(allowed), "{head}");
    let (status, head, _) = get(&relay, "GET /t/logs?from=0&count=1", own);
    assert_eq!(status, 200, "{head}");
    // What is typed in says that it is.
    let typed = "User-Agent: Mozilla/5.0\r\nSec-Fetch-Site: none\r\n";
    assert_eq!(get(&relay, "GET /t/logs?from=0&count=1", typed).0, 200);
    let (status, head, _) = get(&relay, "OPTIONS /t/logs", listed);
    assert_eq!(status, 204, "{head}");
    assert!(head.contains("Farpipe-Producer"), "{head}");
    // A WebSocket of a page needs a ticket, which is good for its topic and no pipe.
    let (head, _) = ask(&relay, &request("/t/logs?from=0", own));
    assert_eq!(self::status(&head), 401, "{head}");
    let ticket = |path: &str| {
        let (status, _, told) = get(&relay, path, &format!("{own}Content-Length: 0\r\n"));
        assert_eq!(status, 200, "{told}");
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        let protocol = told["protocol"].as_str().expect("text");
        format!("{own}Sec-WebSocket-Protocol: farpipe, {protocol}\r\n")
    };
    let (mut ws, head) = socket(&relay, "/t/logs?from=0", &ticket("POST /t/logs?ticket"));
    assert!(head.contains("Protocol: farpipe\r\n"), "{head}");
    assert_eq!(told_value(&mut ws), "one");
    for (asked, opened) in [
        ("POST /t/logs?ticket", "/p/logs?recv"),
        ("POST /p/logs?ticket", "/t/logs"),
        ("POST /t/logs?ticket", "/t/other"),
    ] {
        let (head, _) = ask(&relay, &request(opened, &ticket(asked)));
        assert_eq!(self::status(&head), 401, "{asked} {opened}");
    }
}

fn told_value(ws: &mut Ws) -> String {
    let value = told(ws)["value"].clone();
    value.as_str().expect("text").to_owned()
}

#[test]
fn l3_damage_is_told_where_that_can_be_and_never_looks_like_an_end() {
    let host = Host::new();
    let first = relay(&host);
    let url = first.url().to_owned();
    for n in 0..4_u64 {
        let input = lines(n * 100..(n + 1) * 100);
        upload(&host, &at(&first, "logs"))
            .input(input)
            .run()
            .exits(0);
    }
    first.kill();
    first.end();
    let path = "data/topics/logs/0/00000000000000000000.seg";
    let mut bytes = host.content(path);
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("batches");
    let at_byte = end * 3 / 8;
    bytes[at_byte] ^= 0x20;
    std::fs::write(host.path(path), &bytes).expect("ours");
    let relay = relay_at(&host, &url);
    let cut = host.curl([at(&relay, "logs?from=earliest&follow=false")]);
    cut.run().exits(18).printed(lines(0..100));
    let said = "records 100 to 199 of partition 0 are damaged on the disk";
    relay.stderr_until(|text| text.contains(said));
    let mut events = Events::of(&relay, "/t/logs?from=99&follow=false", None);
    assert_eq!(events.data().expect("an event").1, "line 99");
    let damaged = "damaged{\"damaged\":{\"first\":100,\"last\":199},\"partition\":0}";
    let expected = ("199".to_owned(), damaged.to_owned());
    assert_eq!(events.data(), Some(expected));
    assert_eq!(events.data().expect("an event").1, "line 200");
    let (mut ws, _) = socket(&relay, "/t/logs?from=150&count=1", "");
    assert_eq!(told(&mut ws)["damaged"]["last"], 199);
    assert_eq!(told(&mut ws)["offset"], 200);
    assert_eq!(ws.next(), (0x88, vec![3, 232]));
    let (mut ws, _) = socket(&relay, "/t/logs?from=150&raw", "");
    assert_eq!(ws.next(), (0x88, vec![3, 243]), "it failed");
}

/// L5 by a real disk.
#[test]
fn l5_a_full_disk_makes_an_upload_wait_and_then_says_what_is_kept() {
    let host = Host::new();
    let script = "\"$FARPIPE\" relay --listen ws://127.0.0.1:0 --data data 2> ../log & relay=$!; \
         at=; while [ -z \"$at\" ]; do kill -0 $relay || exit 9; \
         at=$(sed -n 's/^listening on ws/http/p' ../log); done; \
         seq 1 300000 > ../in; put() { curl -q -sS -T ../in -w ' %{http_code}\\n' \
         -H 'Farpipe-Producer: a' \"${at%/}/t/logs?wait=$1\" 2> ../err; }; \
         put 2 > ../first; echo \"status $?\"; cat ../first; \
         put 60 > ../second & put=$!; until grep -q publishes ../log || kill -0 $put; do :; done; \
         mount -o remount,size=60m .; wait $put; echo \"status $?\"; cat ../second; \
         curl -q -sSN \"${at%/}/t/logs?from=earliest&follow=false\" | cmp - ../in && echo same; \
         kill $relay; wait $relay";
    let Some(ended) = host.with_disk("size=1m", script) else {
        return;
    };
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    let mut told = said.lines();
    assert_eq!(told.next(), Some("status 18"), "{said}{}", ended.stderr);
    let words = told.next().expect("words");
    let kept = words
        .strip_prefix("the disk of the topic's relay is full: ")
        .and_then(|rest| rest.split_once(" records are kept in logs, and more may be later"))
        .and_then(|(kept, _)| kept.parse::<u64>().ok());
    assert!(
        kept.is_some_and(|kept| kept > 0 && kept < 300_000),
        "{said}"
    );
    assert_eq!(told.next(), Some(" 507"), "{said}");
    assert_eq!(told.next(), Some("status 0"), "{said}");
    let second = told.next().expect("an answer");
    assert!(second.contains("\"records\":300000,"), "{said}");
    assert_eq!(told.next(), Some(" 200"), "{said}");
    assert_eq!(told.next(), Some("same"), "{said}");
}

/// Who does not read costs the relay no more than a bound.
#[test]
fn readers_that_stand_still_cost_bounded_memory_and_get_all_later() {
    let host = Host::new();
    let relay = relay(&host);
    let logs = at(&relay, "logs");
    let line = format!("{}\n", "x".repeat(999));
    let input = line.repeat(64_000);
    upload(&host, &logs).input(input.clone()).run().exits(0);
    let before = relay.memory_peak();
    let target = "GET /t/logs?from=earliest&follow=false HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut readers: Vec<TcpStream> = (0..16).map(|_| begin(&relay, target)).collect();
    relay.stderr_until(|text| text.matches("reads t/logs").count() == 16);
    upload(&host, &logs)
        .input(line.repeat(1_000))
        .run()
        .exits(0);
    let grown = relay.memory_peak().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes");
    let mut got = Vec::new();
    readers[0].read_to_end(&mut got).expect("all");
    assert!(got.ends_with(b"\r\n0\r\n\r\n"), "the last chunk");
    assert!(got.len() > input.len());
}
