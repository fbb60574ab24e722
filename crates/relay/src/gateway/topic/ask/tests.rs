//! Requests for topics as programs write them, and as none should.

use super::*;

fn wanted(line: &str, lines: &str) -> Result<Wanted, (u16, String)> {
    let head = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
    let request = ForeignRequest::parse(head.as_bytes()).expect("a head");
    let query = request
        .target
        .split_once('?')
        .map_or("", |(_, query)| query);
    Wanted::of(&request, query).map_err(|answer| (answer.status, answer.words()))
}

fn follow(query: &str, lines: &str) -> Follow {
    match wanted(&format!("GET /t/logs?{query}"), lines) {
        Ok(Wanted::Follow(follow)) => follow,
        other => panic!("{query}: {other:?}"),
    }
}

fn publish(query: &str, lines: &str) -> Publish {
    match wanted(&format!("PUT /t/logs?{query}"), lines) {
        Ok(Wanted::Publish(publish)) => publish,
        other => panic!("{query}: {other:?}"),
    }
}

const EVENTS: &str = "Accept: text/event-stream\r\n";

#[test]
fn a_reader_says_where_it_begins_and_ends() {
    let plain = follow("", "");
    assert_eq!(plain.span.from, Start::Latest);
    assert_eq!((plain.span.until, plain.way), (Until::Never, Way::Lines));
    let all = follow("from=earliest&count=3&follow=false&partition=2&json", "");
    assert_eq!(all.span.from, Start::Earliest);
    assert_eq!((all.count, all.span.partition), (Some(3), Some(2)));
    assert_eq!((all.span.until, all.shown), (Until::End, Shown::Json));
    assert_eq!(follow("from=17", "").span.from, Start::Offset(17));
    let places = Start::Places(vec![(0, 5), (3, 0)]);
    assert_eq!(follow("from=0:5,3:0", "").span.from, places);
    assert_eq!(follow("from=0%3A5%2c3%3A0", "").span.from, places);
    let socket = follow("raw", "Upgrade: websocket\r\n");
    assert_eq!((socket.way, socket.shown), (Way::Socket, Shown::Value));
}

#[test]
fn one_who_asks_again_goes_on_behind_the_last_event() {
    for (id, from) in [
        ("17", Start::Offset(18)),
        ("-1", Start::Offset(0)),
        ("2:7,0:-1", Start::Places(vec![(2, 8), (0, 0)])),
    ] {
        let lines = format!("{EVENTS}Last-Event-ID: {id}\r\n");
        assert_eq!(follow("from=latest", &lines).span.from, from, "{id}");
    }
    for id in ["", "x", "-2", "1:", "0:1,0:2", "18446744073709551615"] {
        let lines = format!("{EVENTS}Last-Event-ID: {id}\r\n");
        let (status, why) = wanted("GET /t/logs", &lines).expect_err(id);
        assert_eq!(status, 400, "{why}");
    }
}

#[test]
fn a_producer_is_the_one_that_pub_has_by_the_same_name() {
    let publish = publish("", "Farpipe-Producer: host1\r\nFarpipe-Sequence: 7\r\n");
    let hash = blake3::hash(b"host1");
    assert_eq!(&publish.taking.producer.0, &hash.as_bytes()[..16]);
    assert_eq!(publish.taking.sequence, 7);
    let same = self::publish("producer=host1&sequence=7&partition=1&wait=5", "");
    assert_eq!(same.taking.producer, publish.taking.producer);
    assert_eq!(same.taking.partition, Some(1));
    assert_eq!(same.taking.wait, Duration::from_secs(5));
    assert_eq!(self::publish("raw", "").records, Records::Whole);
}

#[test]
fn what_cannot_be_is_refused_with_words_that_say_what() {
    for (line, lines, words) in [
        ("GET /t/logs?from=yesterday", "", "from is earliest"),
        ("GET /t/logs?from=-1", "", "from is earliest"),
        ("GET /t/logs?from=", "", "from is earliest"),
        ("GET /t/logs?from=0:1,0:2", "", "from is earliest"),
        ("GET /t/logs?from=1&from=2", "", "from is said twice"),
        ("GET /t/logs?count=many", "", "count is a number"),
        (
            "GET /t/logs?partition=99999999999",
            "",
            "partition is a number",
        ),
        ("GET /t/logs?follow=no", "", "follow is true or false"),
        ("GET /t/logs?raw", "", "unknown option: raw"),
        ("GET /t/logs?x%ff", "", "percent encoding"),
        ("GET /t/logs?x%2", "", "percent encoding"),
        ("GET /t/logs", "Content-Length: 3\r\n", "no body"),
        ("PUT /t/logs?from=1", "", "unknown option: from"),
        ("PUT /t/logs?sequence=1", "", "say Farpipe-Producer"),
        ("PUT /t/logs?producer=", "", "name is empty"),
        ("PUT /t/logs?raw&producer=a", "", "say Farpipe-Sequence"),
        (
            "PUT /t/logs?producer=a",
            "Farpipe-Producer: a\r\n",
            "in the head and in the query",
        ),
    ] {
        let (status, why) = wanted(line, lines).expect_err(line);
        assert_eq!(status, 400, "{line}");
        assert!(why.contains(words), "{line}: {why}");
    }
    assert_eq!(wanted("DELETE /t/logs", "").expect_err("none").0, 405);
    assert_eq!(wanted("HEAD /t/logs", ""), Ok(Wanted::Head));
    assert_eq!(wanted("POST /t/logs?ticket", ""), Ok(Wanted::Ticket));
}
