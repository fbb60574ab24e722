//! What programs hear on `--status-fd`, and what people see on stderr.

use farpipe_faultproxy::{Cut, Dir, Plan, When};
use serde_json::Value;

use crate::support::{Faults, Host, Invocation, Terminal, assert_same, random};

fn events(host: &Host, name: &str) -> Vec<Value> {
    let text = String::from_utf8(host.content(name)).expect("UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

fn names(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["event"].as_str().expect("its name"))
        .collect()
}

#[test]
fn events_of_a_pipe_that_worked() {
    let host = Host::new();
    let script = "\"$FARPIPE\" listen ws://127.0.0.1:0 --status-fd 3 3>listen.events";
    let listener = host.shell(script).input("to connect").start_listening();
    let script = format!(
        "\"$FARPIPE\" connect {} --status-fd 3 3>connect.events",
        listener.url()
    );
    host.shell(&script)
        .input("to listen!")
        .run()
        .exits(0)
        .printed("to connect");
    let url = listener.url().to_owned();
    listener.end().exits(0).printed("to listen!");

    let listen = events(&host, "listen.events");
    let connect = events(&host, "connect.events");
    assert_eq!(names(&listen), ["listening", "connected", "exit"]);
    assert_eq!(names(&connect), ["connected", "exit"]);
    assert_eq!(listen[0]["url"], url.as_str());
    assert_eq!(connect[0]["peer"], url.as_str());
    assert_eq!(
        listen[1]["session"], connect[0]["session"],
        "the same at both ends"
    );
    for exit in [&listen[2], &connect[1]] {
        assert_eq!(exit["status"], 0);
        assert_eq!(exit["sent_bytes"], 10);
        assert_eq!(exit["received_bytes"], 10);
        assert_eq!(exit["error"], Value::Null);
    }
}

#[test]
fn events_of_a_pipe_whose_connection_was_cut() {
    let host = Host::new();
    let data = random(1 << 20, 1);
    let script = "\"$FARPIPE\" listen ws://127.0.0.1:0 --status-fd 3 3>listen.events";
    let listener = host.shell(script).start_listening();
    let plan = Plan {
        connections: 0..=1,
        ..Plan::of(
            When::Byte {
                dir: Dir::Up,
                at: 300_000..=300_000,
            },
            Cut::Reset,
        )
    };
    let faults = Faults::between(&listener, plan);
    let script = format!(
        "\"$FARPIPE\" connect {} --status-fd 3 3>connect.events",
        faults.url()
    );
    host.shell(&script).input(data.as_slice()).run().exits(0);
    listener.end().exits(0).printed(&data);

    let connect = events(&host, "connect.events");
    assert_eq!(
        names(&connect),
        ["connected", "lost", "resumed", "lost", "resumed", "exit"]
    );
    assert_eq!(connect[1]["failures"], 0, "it had made progress");
    assert_eq!(connect[1]["retry_in_ms"], 0, "so it is dialled at once");
    assert!(
        connect[1]["why"].as_str().expect("words").contains("reset"),
        "{}",
        connect[1]
    );
    assert_eq!(connect[2]["epoch"], 2);
    assert!(connect[2]["resent_bytes"].as_u64().expect("a number") > 0);
    assert_eq!(connect[4]["epoch"], 3);
    let listen = events(&host, "listen.events");
    let names = names(&listen);
    assert_eq!(
        (names[0], names[1], names[names.len() - 1]),
        ("listening", "connected", "exit")
    );
    assert_eq!(names.iter().filter(|name| **name == "resumed").count(), 2);
}

#[test]
fn the_exit_event_says_what_went_wrong() {
    let host = Host::new();
    let listener = host
        .listen("ws")
        .arg("exec:no-such-command")
        .start_listening();
    let script = format!(
        "\"$FARPIPE\" connect {} --status-fd 5 5>events",
        listener.url()
    );
    host.shell(&script).run().exits(127);
    listener.end().exits(127);
    let events = events(&host, "events");
    let exit = events.last().expect("an event");
    assert_eq!(exit["status"], 127);
    assert_eq!(
        exit["error"],
        "the far end refused: cannot run 'no-such-command': command not found"
    );
}

#[test]
fn the_exit_event_is_there_though_no_pipe_was() {
    let host = Host::new();
    let lines = [
        ("listen ws://127.0.0.1:0 missing --send", 125),
        ("connect ws://127.0.0.1:1 exec:no-such-command", 127),
        ("pipe missing out", 125),
    ];
    for (line, status) in lines {
        let script = format!("\"$FARPIPE\" {line} --status-fd 3 3>events");
        host.shell(&script).run().exits(status);
        let events = events(&host, "events");
        let exit = events.last().expect("an event");
        assert_eq!(
            (&exit["event"], &exit["status"]),
            (&"exit".into(), &status.into())
        );
        assert!(exit["error"].is_string(), "{exit}");
    }
    let script = "exec \"$FARPIPE\" listen ws://127.0.0.1:0 --status-fd 3 3>events";
    let listener = host.shell(script).start_listening();
    listener.signal(rustix::process::Signal::TERM);
    listener.end().exits(143);
    assert_eq!(names(&events(&host, "events")), ["listening", "exit"]);
}

#[test]
fn a_keeping_listener_tells_of_each_session() {
    let host = Host::new();
    let script =
        "exec \"$FARPIPE\" listen ws://127.0.0.1:0 --keep 'sh:cat; exit 3' --status-fd 3 3>events";
    let listener = host.shell(script).start_listening();
    for _ in 0..2 {
        host.connect(listener.url()).input("12345").run().exits(3);
    }
    listener.signal(rustix::process::Signal::TERM);
    listener.end().exits(143);
    let events = events(&host, "events");
    let names = names(&events);
    assert_eq!(names.iter().filter(|name| **name == "connected").count(), 2);
    let exits: Vec<_> = events
        .iter()
        .filter(|event| event["event"] == "exit")
        .collect();
    assert_eq!(exits.len(), 2, "{names:?}");
    for exit in &exits {
        assert_eq!(exit["status"], 3);
        assert_eq!(
            (&exit["sent_bytes"], &exit["received_bytes"]),
            (&5.into(), &5.into())
        );
    }
    assert_ne!(exits[0]["session"], exits[1]["session"]);
}

#[test]
fn progress_as_json_goes_to_stderr_and_data_only_to_stdout() {
    let host = Host::new();
    let data = random(3_000_000, 2);
    let listener = host
        .listen("ws")
        .args(["--progress", "json"])
        .start_listening();
    let connect = host.connect(listener.url()).args(["--progress", "json"]);
    let connect = connect.input(data.as_slice()).run().exits(0).printed("");
    let listened = listener.end().exits(0);
    assert_same(&listened.stdout, &data);
    for (stderr, count) in [
        (&connect.stderr, "sent_bytes"),
        (&listened.stderr, "received_bytes"),
    ] {
        let lines = stderr
            .lines()
            .filter(|line| !line.starts_with("listening on"));
        let lines: Vec<Value> = lines
            .map(|line| serde_json::from_str(line).expect(line))
            .collect();
        let last = lines.last().expect("at least the final one");
        assert_eq!(last["event"], "progress");
        assert_eq!(last[count], 3_000_000);
    }
}

#[test]
fn progress_of_a_file_knows_the_whole() {
    let host = Host::new();
    host.file("data", random(100_000, 3));
    let listener = host.listen("ws").start_listening();
    let connect = host
        .connect(listener.url())
        .args(["--send", "data", "--progress", "json"]);
    let connect = connect.run().exits(0);
    listener.end().exits(0);
    let last = connect.stderr.lines().last().expect("a line");
    let last: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(last["total_bytes"], 100_000);
}

/// What a bar shows beside the bytes.
const RATE: &str = "B/s";

/// All three standard descriptors are one terminal.
fn screen_of(invocation: Invocation, keys: &str) -> String {
    let mut terminal = Terminal::new();
    let running = invocation.on_terminal(&terminal).start();
    terminal.write(keys);
    let screen = terminal.screen();
    running.end().exits(0);
    let shown = screen.until_end().expect("the process was the last");
    String::from_utf8(shown).expect("UTF-8")
}

#[test]
fn a_bar_is_shown_on_a_terminal_that_the_data_does_not_use() {
    let host = Host::new();
    host.file("file", "data");
    let listener = host.listen("ws").start_listening();
    let connect = host.connect(listener.url()).args(["file", "--send"]);
    let shown = screen_of(connect, "");
    assert!(shown.contains(RATE), "{shown}");
    listener.end().exits(0).printed("data");

    let shown = screen_of(host.farpipe(["pipe", "file", "copy"]), "");
    assert!(shown.contains(RATE), "{shown}");
}

#[test]
fn no_bar_is_shown_where_the_data_is() {
    let host = Host::new();
    host.file("file", "data\n");
    for (endpoint, keys) in [
        (["-", "--recv"], ""),
        (["sh:cat", "--recv"], ""),
        // Typed by a person, who then types the end.
        (["-", "--send"], "typed\n\x04"),
    ] {
        let listener = host.listen("ws");
        let listener = match keys {
            "" => listener.args(["file", "--send"]),
            _ => listener.args(["copy", "--recv"]),
        };
        let listener = listener.start_listening();
        let connect = host.connect(listener.url()).args(endpoint);
        let shown = screen_of(connect, keys);
        assert!(!shown.contains(RATE), "{endpoint:?}: {shown}");
        listener.end().exits(0);
    }
    let shown = screen_of(host.farpipe(["pipe", "file", "sh:cat"]), "");
    assert_eq!(shown, "data\r\n");
}

/// With `-q` a listener's port cannot be read from stderr; its status tells it.
#[test]
fn quiet_says_nothing_but_errors() {
    let host = Host::new();
    host.fifo("events");
    let script = "exec \"$FARPIPE\" -q listen ws://127.0.0.1:0 --status-fd 3 3>events";
    let listener = host.shell(script).start();
    let mut lines = {
        use std::io::BufRead as _;
        let fifo = std::fs::File::open(host.path("events")).expect("the FIFO");
        std::io::BufReader::new(fifo).lines()
    };
    let listening = lines.next().expect("a line").expect("text");
    let listening: Value = serde_json::from_str(&listening).expect("JSON");
    let url = listening["url"].as_str().expect("a URL");
    host.connect(url)
        .arg("-q")
        .input("data")
        .run()
        .exits(0)
        .says("");
    listener.end().exits(0).printed("data").says("");

    let connect = host.connect(url).arg("-q").run().exits(125);
    assert!(
        connect.stderr.contains("nothing listens there"),
        "{}",
        connect.stderr
    );
}

/// The command line, with a FIFO that is full and read by nobody as descriptor 3.
fn with_full_fifo(host: &Host, name: &str, line: &str) -> Invocation {
    host.fifo(name);
    let script = format!("exec 3<>{name}; head -c 65536 /dev/zero >&3; exec \"$FARPIPE\" {line}");
    host.shell(&script)
}

#[test]
fn a_full_status_descriptor_does_not_stop_the_data() {
    let host = Host::new();
    let data = random(3 << 20, 8);
    let line = "listen ws://127.0.0.1:0 --status-fd 3";
    let listener = with_full_fifo(&host, "listen.full", line).start_listening();
    let line = format!("connect {} --status-fd 3", listener.url());
    let connect = with_full_fifo(&host, "connect.full", &line);
    connect.input(data.as_slice()).run().exits(0);
    listener.end().exits(0).printed(&data);
}

#[test]
fn a_full_stderr_does_not_stop_the_data() {
    let host = Host::new();
    let data = random(3 << 20, 9);
    let listener = host.listen("ws").start_listening();
    let line = format!("connect {} -vvv --progress json 2>&3", listener.url());
    let connect = with_full_fifo(&host, "full", &line);
    connect.input(data.as_slice()).run().exits(0);
    listener.end().exits(0).printed(&data);
}

#[test]
fn a_status_descriptor_that_is_read_late_tells_how_it_ended() {
    use std::io::Read as _;

    let host = Host::new();
    let listener = host.listen("ws").start_listening();
    let line = format!("connect {} --status-fd 3", listener.url());
    let connect = with_full_fifo(&host, "full", &line);
    let mut connect = connect.open_input().start();
    connect.write("data");
    listener.stdout_until(4);
    let mut options = std::fs::OpenOptions::new();
    let full = options.read(true).open(host.path("full"));
    connect.close_input();
    let mut text = String::new();
    let mut full = full.expect("the FIFO");
    full.read_to_string(&mut text).expect("text");
    connect.end().exits(0);
    listener.end().exits(0);
    let text = text.trim_start_matches('\0');
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(names(&events), ["connected", "exit"]);
    assert_eq!(events[1]["status"], 0);
}

#[test]
fn a_status_descriptor_whose_reader_has_gone_holds_nothing() {
    let host = Host::new();
    host.fifo("events");
    let listener = host.listen("ws").start_listening();
    let script = format!(
        "exec 3<>events 4>events 3<&-; exec \"$FARPIPE\" connect {} --status-fd 4",
        listener.url()
    );
    host.shell(&script).input("data").run().exits(0).says("");
    listener.end().exits(0).printed("data");
}

#[test]
fn a_socket_takes_events_as_well() {
    let host = Host::new();
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
    theirs.set_nonblocking(true).expect("a flag");
    let script = "exec \"$FARPIPE\" pipe exec:true exec:true --status-fd 0";
    host.shell(script)
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .run()
        .exits(0);
    let mut events = String::new();
    std::io::Read::read_to_string(&mut ours, &mut events).expect("events");
    let event: Value = serde_json::from_str(events.trim()).expect("JSON");
    assert_eq!(event["event"], "exit");
}

#[test]
fn events_do_not_go_where_they_would_do_harm() {
    let host = Host::new();
    host.file("precious", "precious\n");
    let script = "exec \"$FARPIPE\" pipe exec:true exec:true --status-fd 3 3<precious";
    let ended = host.shell(script).run().exits(2);
    assert!(
        ended.stderr.contains("open for reading only"),
        "{}",
        ended.stderr
    );
    assert_eq!(host.content("precious"), b"precious\n");
    let script = "exec \"$FARPIPE\" pipe precious - --status-fd 3 3>&1";
    let ended = host.shell(script).run().exits(2).printed("");
    assert!(
        ended
            .stderr
            .contains("--status-fd 3: stdout carries the data"),
        "{}",
        ended.stderr
    );
}
