//! `farpipe bench push`: what it prints has the promised shape, and every reader has every message.
//! No time is asserted.

use crate::support::Host;
use crate::support::figures::{assert_spread, json};

#[test]
fn push_gives_every_message_to_every_reader_and_counts_what_is_said() {
    let host = Host::new();
    let flags = ["--messages", "40", "--rate", "100", "--size", "50"];
    let measured = host.farpipe(["bench", "push", "--json"]).args(flags);
    let figures = json(&measured.run().exits(0).says("measuring for about 1 s"));
    assert_eq!(figures["bench"], "push");
    let ways = figures["ways"].as_array().expect("rows");
    let names: Vec<_> = ways.iter().map(|way| way["way"].as_str()).collect();
    let expected = [
        "WebSocket push",
        "HTTP long polling",
        "HTTP polling, 100 ms",
        "HTTP polling, 1 s",
    ];
    assert_eq!(names, expected.map(Some));
    for way in ways {
        assert_spread(&way["latency"], 40);
        let wire = way["wire_bytes"].as_u64().expect("bytes");
        // At least the messages, and a head each way for each request.
        let requests = way["requests"].as_u64();
        assert!(wire > 40 * 50 + requests.unwrap_or(0) * 100, "{way}");
        assert_eq!(requests.is_none(), way["way"] == "WebSocket push");
    }
    let requests = |at: usize| ways[at]["requests"].as_u64();
    assert!(
        requests(1) <= Some(40) && requests(3) < requests(2),
        "{figures:#}"
    );

    let flags = ["--messages", "3", "--rate", "100"];
    let measured = host.farpipe(["-q", "bench", "push"]).args(flags).run();
    let text = String::from_utf8(measured.exits(0).says("").stdout).expect("text");
    for begin in expected {
        let begin = format!("{begin}  ");
        assert_eq!(
            text.lines().filter(|line| line.starts_with(&begin)).count(),
            1,
            "{text}"
        );
    }
    assert!(
        text.lines().all(|line| line.chars().count() <= 100),
        "{text}"
    );
    for (flag, value) in [("--size", "0"), ("--rate", "0"), ("--messages", "0")] {
        host.farpipe(["bench", "push", flag, value]).run().exits(2);
    }
}
