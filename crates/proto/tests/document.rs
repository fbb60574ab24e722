//! docs/protocol.md says what the code does: numbers, fields and states are compared here;
//! `limits.rs` compares the limits.
//!
//! A failing test prints the part as it should be.

use std::fmt::Write as _;

use farpipe_proto::session::{RecvInput, RecvState, SendInput, SendState};
use farpipe_proto::wire::control::{
    Abort, AbortCode, Accept, Attach, Attached, Auth, Command, Copy, Detached, DetachedCommand,
    DetachedCommands, Endpoint, Exit, GoAway, Hello, Host, List, Listed, Manage, Open, Refuse,
    RefuseCode, Refused, Register, Registered, Resize, Signal, Terminal, Welcome,
};
use farpipe_proto::wire::hop::{HopFrame, data_header};
use farpipe_proto::wire::id::{StreamId, TunnelId};
use farpipe_proto::wire::inner::{InnerFrame, bytes_header};

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");

/// The text of a section, up to the next heading.
fn section(number: &str) -> &'static str {
    let starts = |line: &str| {
        line.starts_with('#') && line.trim_start_matches('#').trim().starts_with(number)
    };
    let begin = DOCUMENT
        .lines()
        .find(|line| starts(line))
        .and_then(|line| DOCUMENT.find(line).map(|at| at + line.len()));
    let text = &DOCUMENT[begin.expect("the section is there")..];
    text.find("\n#").map_or(text, |end| &text[..end])
}

/// The first two cells of each row of the first table whose first cell begins with a backquote.
fn rows(text: &'static str) -> Vec<(&'static str, &'static str)> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(first, rest)| (first, rest.split(" | ").next().unwrap_or(rest)))
        .collect()
}

fn assert_shown(section_number: &str, expected: &str) {
    assert!(
        section(section_number).contains(expected),
        "section {section_number} of docs/protocol.md should have:\n{expected}"
    );
}

#[test]
fn hop_frames_have_the_documented_numbers() {
    let tunnel = TunnelId(1);
    let coded = [
        ("HELLO", HopFrame::Hello(Hello::default()).encode()),
        ("WELCOME", HopFrame::Welcome(Welcome::default()).encode()),
        ("AUTH", HopFrame::Auth(Auth::default()).encode()),
        (
            "ATTACH",
            HopFrame::Attach(tunnel, Attach::default()).encode(),
        ),
        (
            "ATTACHED",
            HopFrame::Attached(tunnel, Attached::default()).encode(),
        ),
        (
            "REFUSED",
            HopFrame::Refused(tunnel, Refused::default()).encode(),
        ),
        ("DATA", data_header(tunnel, 0).to_vec()),
        ("ACK", HopFrame::Ack(tunnel, 0).encode()),
        ("DETACH", HopFrame::Detach(tunnel).encode()),
        ("PING", HopFrame::Ping(0).encode()),
        ("PONG", HopFrame::Pong(0).encode()),
        ("HOP-CREDIT", HopFrame::HopCredit(tunnel, 0).encode()),
        ("GOAWAY", HopFrame::GoAway(GoAway::default()).encode()),
        ("REGISTER", HopFrame::Register(Register::default()).encode()),
        ("LIST", HopFrame::List(List::default()).encode()),
        (
            "REGISTERED",
            HopFrame::Registered(Registered::default()).encode(),
        ),
        ("LISTED", HopFrame::Listed(Listed::default()).encode()),
    ];
    assert_numbers("2.", &coded);
}

#[test]
fn inner_frames_have_the_documented_numbers() {
    let stream = StreamId(1);
    let coded = [
        ("OPEN", InnerFrame::Open(Open::default()).encode(stream)),
        (
            "ACCEPT",
            InnerFrame::Accept(Accept::default()).encode(stream),
        ),
        (
            "REFUSE",
            InnerFrame::Refuse(Refuse::default()).encode(stream),
        ),
        ("BYTES", bytes_header(stream, 0).to_vec()),
        ("CREDIT", InnerFrame::Credit(0).encode(stream)),
        ("FIN", InnerFrame::Fin(0).encode(stream)),
        ("RESET", InnerFrame::Reset(Abort::default()).encode(stream)),
        ("STOP", InnerFrame::Stop(Abort::default()).encode(stream)),
        ("EXIT", InnerFrame::Exit(Exit::default()).encode(stream)),
        ("DONE", InnerFrame::Done(0).encode(stream)),
        ("COMPLETE", InnerFrame::Complete.encode(StreamId::SESSION)),
        (
            "SIGNAL",
            InnerFrame::Signal(Signal::default()).encode(stream),
        ),
        (
            "RESIZE",
            InnerFrame::Resize(Resize::default()).encode(stream),
        ),
    ];
    assert_numbers("6.1", &coded);
}

fn assert_numbers(number: &str, coded: &[(&str, Vec<u8>)]) {
    let documented = rows(section(number));
    let expected: Vec<(String, &str)> = coded
        .iter()
        .map(|(name, bytes)| (format!("{:#04x}", bytes[0]), *name))
        .collect();
    let documented: Vec<(String, &str)> = documented
        .into_iter()
        .map(|(kind, name)| (kind.to_owned(), name))
        .collect();
    assert_eq!(documented, expected);
}

#[test]
fn codes_have_the_documented_numbers() {
    let refuse = (1..).map_while(RefuseCode::from_wire);
    let refuse: Vec<(String, String)> = refuse
        .map(|code| ((code as u32).to_string(), shouted(&format!("{code:?}"))))
        .collect();
    assert_eq!(owned(rows(section("4.5"))), refuse);
    for code in (1..).map_while(RefuseCode::from_wire) {
        let name = shouted(&format!("{code:?}"));
        let is_final = if code.is_final() { "yes" } else { "no" };
        let row = format!("| `{}` | {name} | {is_final} |", code as u32);
        assert!(section("4.5").contains(&row), "{row}");
    }
    let abort = [
        AbortCode::ReaderGone,
        AbortCode::Failed,
        AbortCode::Cancelled,
        AbortCode::Stopped,
        AbortCode::Ended,
    ];
    let abort: Vec<(String, String)> = abort
        .into_iter()
        .map(|code| ((code as u32).to_string(), shouted(&format!("{code:?}"))))
        .collect();
    assert_eq!(owned(rows(section("6.4"))), abort);
}

fn owned(rows: Vec<(&str, &str)>) -> Vec<(String, String)> {
    rows.into_iter()
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .collect()
}

/// `ReaderGone` as `READER_GONE`.
fn shouted(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.char_indices() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

/// A message of the schema, from a value all of whose fields are set.
fn message<M: prost::Message + std::fmt::Debug>(value: &M, types: &[&str]) -> String {
    let debug = format!("{value:?}");
    let name = debug.split(' ').next().unwrap_or_default();
    let fields = own_fields(&debug);
    assert_eq!(fields.len(), types.len(), "{debug}");
    let bytes = value.encode_to_vec();
    let mut out = format!("message {name} {{\n");
    let mut at = 0;
    for (field, kind) in fields.iter().zip(types) {
        let (tag, wire_type) = (bytes[at] >> 3, bytes[at] & 7);
        // All values here are one byte long, but for messages, which are empty.
        let (expected, len) = match kind.rsplit(' ').next() {
            Some("bytes" | "string") => (2, 3),
            Some(message) if message.starts_with(char::is_uppercase) => (2, 2),
            _ => (0, 2),
        };
        assert_eq!(wire_type, expected, "{name}.{field}");
        at += len;
        writeln!(out, "  {kind} {field} = {tag};").expect("a string");
    }
    assert_eq!(at, bytes.len(), "every field of {name} is set");
    out.push_str("}\n");
    out
}

/// The names of a value's fields, without those of the messages in it.
fn own_fields(debug: &str) -> Vec<&str> {
    let mut depth = 0;
    let mut fields = Vec::new();
    for word in debug.split(' ') {
        if let Some(field) = word.strip_suffix(':').filter(|_| depth == 1) {
            fields.push(field);
        }
        depth += word.matches('{').count();
        depth -= word.matches('}').count();
    }
    fields
}

#[test]
fn control_payloads_have_the_documented_fields() {
    let text = || "x".to_owned();
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        features: 1,
        nonce: vec![1],
        software: text(),
        wants_proof: true,
        ticket: vec![1],
        token: vec![1],
    };
    let welcome = Welcome {
        version: 1,
        features: 1,
        nonce: vec![1],
        software: text(),
        proof: vec![1],
    };
    let attach = Attach {
        route: text(),
        key: vec![1],
        epoch: 1,
        received: 1,
        established: true,
        age_ms: 1,
        resume_for_ms: 1,
        caller: text(),
        sealed: true,
        hold_ms: 1,
    };
    let register = Register {
        name: text(),
        tags: vec![text()],
        instance: vec![1],
        pipe: true,
    };
    let host = Host {
        name: text(),
        tags: vec![text()],
        up_ms: 1,
        sessions: 1,
    };
    let listed = Listed {
        hosts: vec![Host::default()],
        more: true,
    };
    let refused = Refused {
        code: 1,
        is_final: true,
        message: text(),
    };
    let open = Open {
        target: text(),
        interactive: true,
        blocks: true,
        command: Some(Box::default()),
        stderr_of: 1,
        manage: Some(Box::default()),
        endpoint: Some(Box::default()),
        accepted_at: 1,
        tail: Some(Box::default()),
        copy: Some(Box::default()),
        topic: Some(Box::default()),
    };
    let endpoint = Endpoint {
        spec: vec![1],
        halves: 1,
        once: true,
    };
    let copy = Copy {
        sources: vec![vec![1]],
        target: Some(vec![1]),
        names: vec![vec![1]],
        several: true,
        dry_run: true,
    };
    let detached = Detached {
        id: text(),
        keep: 1,
        drops: true,
        no_stdin: true,
    };
    let manage = Manage {
        what: 1,
        id: text(),
        signal: 1,
        grace_ms: 1,
        terminal: Some(Terminal::default()),
        no_stdin: true,
    };
    let listed_command = DetachedCommand {
        id: text(),
        line: vec![1],
        pid: 1,
        started_ms: 1,
        exit: Some(Exit::default()),
        kept: 1,
        dropped: 1,
        attached: true,
        terminal: true,
    };
    let commands = DetachedCommands {
        commands: vec![DetachedCommand::default()],
    };
    let command = Command {
        argv: vec![vec![1]],
        shell: true,
        cwd: vec![1],
        env: vec![vec![1]],
        terminal: Some(Terminal::default()),
        detached: Some(Detached::default()),
    };
    let terminal = Terminal {
        rows: 1,
        cols: 1,
        term: vec![1],
    };
    let accept = Accept { has_command: true };
    let refuse = Refuse {
        status: 1,
        message: text(),
    };
    let abort = Abort {
        code: 1,
        message: text(),
        taken: 1,
    };
    let exit = Exit {
        code: Some(1),
        signal: Some(1),
        core_dumped: true,
        dropped: 1,
    };
    let schema = [
        message(
            &hello,
            &[
                "uint32", "uint32", "uint64", "bytes", "string", "bool", "bytes", "bytes",
            ],
        ),
        message(&welcome, &["uint32", "uint64", "bytes", "string", "bytes"]),
        message(&Auth { proof: vec![1] }, &["bytes"]),
        message(
            &attach,
            &[
                "string", "bytes", "uint64", "uint64", "bool", "uint64", "uint64", "string",
                "bool", "uint64",
            ],
        ),
        message(
            &Attached {
                received: 1,
                kept_ms: 1,
            },
            &["uint64", "uint64"],
        ),
        message(&register, &["string", "repeated string", "bytes", "bool"]),
        message(&Registered { window: 1 }, &["uint64"]),
        message(
            &List {
                after: text(),
                pipes: true,
            },
            &["string", "bool"],
        ),
        message(&listed, &["repeated Host", "bool"]),
        message(&host, &["string", "repeated string", "uint64", "uint32"]),
        message(&GoAway { urls: vec![text()] }, &["repeated string"]),
        message(&refused, &["uint32", "bool", "string"]),
        message(
            &open,
            &[
                "string", "bool", "bool", "Command", "uint32", "Manage", "Endpoint", "uint32",
                "Tail", "Copy", "TopicAsk",
            ],
        ),
        message(&endpoint, &["bytes", "uint32", "bool"]),
        message(
            &copy,
            &[
                "repeated bytes",
                "optional bytes",
                "repeated bytes",
                "bool",
                "bool",
            ],
        ),
        message(
            &command,
            &[
                "repeated bytes",
                "bool",
                "bytes",
                "repeated bytes",
                "Terminal",
                "Detached",
            ],
        ),
        message(&detached, &["string", "uint64", "bool", "bool"]),
        message(
            &manage,
            &["uint32", "string", "uint32", "uint64", "Terminal", "bool"],
        ),
        message(&commands, &["repeated DetachedCommand"]),
        message(
            &listed_command,
            &[
                "string", "bytes", "uint32", "uint64", "Exit", "uint64", "uint64", "bool", "bool",
            ],
        ),
        message(&terminal, &["uint32", "uint32", "bytes"]),
        message(&Signal { number: 1 }, &["uint32"]),
        message(&Resize { rows: 1, cols: 1 }, &["uint32", "uint32"]),
        message(&accept, &["bool"]),
        message(&refuse, &["uint32", "string"]),
        message(&abort, &["uint32", "string", "uint64"]),
        message(
            &exit,
            &["optional uint32", "optional uint32", "bool", "uint64"],
        ),
    ];
    let shown: Vec<String> = section("3.")
        .lines()
        .map(|line| {
            line.split("  //")
                .next()
                .unwrap_or(line)
                .trim_end()
                .to_owned()
                + "\n"
        })
        .collect();
    let shown = shown.concat();
    for message in schema {
        assert!(
            shown.contains(&message),
            "section 3 should have:\n{message}"
        );
    }
}

#[test]
fn the_state_tables_are_those_of_the_code() {
    let inputs = [
        (SendInput::Finish, "FIN sent"),
        (SendInput::Reset, "RESET sent"),
        (SendInput::StopReceived, "STOP heard"),
        (SendInput::DoneReceived, "DONE heard"),
    ];
    let mut table = heading("sending", inputs.map(|(_, name)| name));
    for state in SendState::ALL {
        let next = inputs.map(|(input, _)| state.next(input).map(|next| format!("{next:?}")));
        row(&mut table, &format!("{state:?}"), state.is_final(), next);
    }
    assert_shown("6.3", &table);
    let inputs = [
        (RecvInput::FinReceived, "FIN heard"),
        (RecvInput::ResetReceived, "RESET heard"),
        (RecvInput::Stop, "STOP sent"),
        (RecvInput::Done, "DONE sent"),
    ];
    let mut table = heading("receiving", inputs.map(|(_, name)| name));
    for state in RecvState::ALL {
        let next = inputs.map(|(input, _)| state.next(input).map(|next| format!("{next:?}")));
        row(&mut table, &format!("{state:?}"), state.is_final(), next);
    }
    assert_shown("6.3", &table);
}

fn heading(half: &str, inputs: [&str; 4]) -> String {
    let inputs = inputs.join(" | ");
    format!("| {half} half | {inputs} |\n|---|---|---|---|---|\n")
}

fn row(table: &mut String, state: &str, is_final: bool, next: [Option<String>; 4]) {
    let mark = if is_final { " (final)" } else { "" };
    let next = next.map(|next| next.unwrap_or_else(|| "–".to_owned()));
    writeln!(table, "| {state}{mark} | {} |", next.join(" | ")).expect("a string");
}
