//! `farpipe ls`, `farpipe ping` and `farpipe doctor` through relays.

use rustix::process::Signal;

use crate::support::Host;
use crate::support::relay::{agent_at, relay};

#[test]
fn ls_knows_the_agents_of_all_relays() {
    let host = Host::new();
    let (one, two) = (relay(&host, &[]), relay(&host, &[]));
    let both = format!("{},{}", one.url(), two.url());
    let _web1 = agent_at(&host, &both, "web1", &["--tag", "zone=a", "--tag", "prod"]);
    let _web2 = agent_at(&host, two.url(), "web2", &[]);
    let listed = host.farpipe(["ls", "--relay", &both]).run().exits(0);
    assert_eq!(listed.stderr, "");
    let text = String::from_utf8(listed.stdout).expect("UTF-8");
    let words: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(words[0], ["NAME", "UP", "SESSIONS", "TAGS", "RELAYS"]);
    assert_eq!(words[1][0], "web1", "{text}");
    assert_eq!(words[1][2..], ["0", "zone=a,prod", &both], "{text}");
    assert_eq!(words[2][0], "web2", "{text}");
    assert_eq!(words[2][2..], ["0", "-", two.url()], "{text}");
    assert_eq!(words.len(), 3, "{text}");
    let listed = host.farpipe(["ls", "hosts", "--json", "--relay", &both]);
    let json: serde_json::Value =
        serde_json::from_slice(&listed.run().exits(0).stdout).expect("JSON");
    assert_eq!(json["hosts"][0]["name"], "web1");
    assert_eq!(json["hosts"][0]["tags"][1], "prod");
    assert_eq!(json["hosts"][0]["relays"][1]["url"], two.url());
    assert_eq!(json["relays"][0]["error"], serde_json::Value::Null);
    // A relay that is not there is said, and hides nothing of the others.
    one.kill();
    let gone = one.url().to_owned();
    one.end();
    let partly = host.farpipe(["ls", "--relay", &both]).run().exits(125);
    let text = String::from_utf8(partly.stdout).expect("UTF-8");
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(partly.stderr.contains(&gone), "{}", partly.stderr);
}

#[test]
fn ls_without_a_relay_says_how_to_name_one() {
    let said = Host::new()
        .farpipe(["ls"])
        .run()
        .exits(2)
        .printed("")
        .said();
    assert!(said.contains("give --relay wss://HOST:PORT"), "{said}");
}

#[test]
fn ping_measures_the_way_to_the_agent_and_back() {
    let host = Host::new();
    let relay = relay(&host, &[]);
    let _agent = agent_at(&host, relay.url(), "web1", &[]);
    let ping = ["ping", "web1", "-c", "3", "--interval", "20ms", "--relay"];
    let ended = host.farpipe(ping).arg(relay.url()).run().exits(0);
    let text = String::from_utf8(ended.stdout).expect("UTF-8");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    for (number, line) in lines[..3].iter().enumerate() {
        let began = format!("web1 by {}: n={} time=", relay.url(), number + 1);
        assert!(line.starts_with(&began) && line.ends_with(" ms"), "{text}");
    }
    assert_eq!(lines[3], "--- web1: 3 asked, 3 answered, 0 missing");
    assert!(lines[4].starts_with("rtt min/mean/max = "), "{text}");
    // As of ping(8): an interrupted one has its figures, and what was answered counts.
    let endless = host.farpipe(["ping", "web1", "-i", "20ms", "--relay", relay.url()]);
    let endless = endless.start();
    endless.stdout_until(100);
    endless.signal(Signal::INT);
    let ended = endless.end().exits(0);
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(text.contains(" answered, 0 missing\n"), "{text}");
}

#[test]
fn ping_says_who_does_not_answer() {
    let host = Host::new();
    let relay = relay(&host, &[]);
    let ping = |name: &str| {
        let args = ["ping", name, "-c", "2", "-i", "20ms", "--wait", "300ms"];
        host.farpipe(args).args(["--relay", relay.url()])
    };
    let said = ping("nobody").run().exits(125).said();
    assert!(
        said.contains("no agent nobody is registered here"),
        "{said}"
    );
    // One that is stopped has a link, and gives no answer.
    let agent = agent_at(&host, relay.url(), "web1", &[]);
    agent.signal(Signal::STOP);
    let ended = ping("web1").run().exits(125);
    agent.signal(Signal::CONT);
    assert!(!String::from_utf8_lossy(&ended.stdout).contains("time="));
}

#[test]
fn doctor_goes_on_through_each_relay_to_the_agent() {
    let host = Host::new();
    let (one, two) = (relay(&host, &[]), relay(&host, &[]));
    let agent = agent_at(&host, one.url(), "web1", &["--tag", "zone=a"]);
    let doctor = |relays: &str| host.farpipe(["doctor", "web1", "--relay", relays]);
    let ended = doctor(one.url()).run().exits(0);
    let text = String::from_utf8(ended.stdout).expect("UTF-8");
    let steps: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let expected = ["name", "tcp", "upgrade", "farpipe", "relay", "agent"];
    assert_eq!(steps, expected, "{text}");
    assert!(text.contains("knows web1: up "), "{text}");
    assert!(text.contains("tags zone=a"), "{text}");
    assert!(text.contains("web1 answers within "), "{text}");
    // The other relay knows nobody; the first is told all the same.
    let ended = doctor(&format!("{},{}", two.url(), one.url()))
        .run()
        .exits(125);
    let text = String::from_utf8(ended.stdout).expect("UTF-8");
    assert!(text.contains("web1 answers within "), "{text}");
    let why = "no agent web1 is registered here; 0 others are";
    assert!(ended.stderr.contains(why), "{}", ended.stderr);
    assert!(ended.stderr.contains("hint: "), "{}", ended.stderr);
    // One that was there is remembered.
    agent.kill();
    agent.end();
    one.stderr_until(|text| text.contains("agent web1: cleaned up"));
    let said = doctor(one.url()).run().exits(125).stderr;
    assert!(
        said.contains(" s ago: its link was lost; 0 others are"),
        "{said}"
    );
    // What is no relay is said to be none.
    let listener = host
        .listen("ws")
        .args(["--keep", "exec:cat"])
        .start_listening();
    let said = doctor(listener.url()).run().exits(125).stderr;
    assert!(
        said.contains("does not say which agents it knows"),
        "{said}"
    );
}
