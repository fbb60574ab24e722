//! The bytes of every frame, as docs/protocol.md section 10 prints them for other implementers.
//!
//! `golden/frames.txt` is the agreed form: a change of it is a change of the protocol.

use std::fmt::Write as _;

use farpipe_proto::link::{
    Accepting, Dialling, Features, Keys, NotLetIn, Prover, SecretId, Shared, Step,
};
use farpipe_proto::wire::control::{
    Abort, AbortCode, Accept, Attach, Attached, Command, Copy, Detached, Endpoint, Exit, GoAway,
    Halves, Host, List, Listed, Manage, ManageWhat, Open, Refuse, RefuseCode, Refused, Register,
    Registered, Resize, Signal, Terminal,
};
use farpipe_proto::wire::hop::{HopDecoder, HopFrame, HopItem, data_header};
use farpipe_proto::wire::id::{SessionKey, StreamId, TunnelId};
use farpipe_proto::wire::inner::{InnerDecoder, InnerFrame, InnerItem, bytes_header};
use farpipe_proto::wire::tail::Tail;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

const GOLDEN: &str = include_str!("golden/frames.txt");
const DOCUMENT: &str = include_str!("../../../docs/protocol.md");

/// The proof of docs/protocol.md section 4.3.
#[derive(Debug)]
struct Secret([u8; 32]);

impl Prover for Secret {
    fn prove(&self, label: &str, dialling: &[u8], accepting: &[u8]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes any key");
        for part in [label.as_bytes(), &[0], dialling, accepting] {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    fn verify(&self, label: &str, dialling: &[u8], accepting: &[u8], proof: &[u8]) -> bool {
        self.prove(label, dialling, accepting) == proof
    }
}

impl Shared for Secret {}

/// The token of the same secret, at both ends.
#[derive(Debug)]
struct Token(Secret);

impl Token {
    fn mac(&self, label: &str, dialling: &[u8], accepting: &[u8]) -> [u8; 32] {
        let digest = Secret(Sha256::digest(self.0.0).into());
        digest.prove(label, dialling, accepting)
    }
}

impl Prover for Token {
    fn secret(&self) -> SecretId {
        SecretId::Token(vec![0xa1; 8])
    }

    fn prove(&self, label: &str, dialling: &[u8], accepting: &[u8]) -> [u8; 32] {
        let mask = self.mac(label, dialling, accepting);
        std::array::from_fn(|i| self.0.0[i] ^ mask[i])
    }

    fn verify(&self, label: &str, dialling: &[u8], accepting: &[u8], proof: &[u8]) -> bool {
        self.mac(label, dialling, accepting) == proof
    }
}

/// Has the digest alone.
impl Keys for Token {
    fn prove_for(
        &self,
        _secret: &SecretId,
        label: &str,
        dialling: &[u8],
        accepting: &[u8],
    ) -> Result<[u8; 32], NotLetIn> {
        Ok(self.mac(label, dialling, accepting))
    }

    fn verify_for(
        &self,
        _secret: &SecretId,
        label: &str,
        dialling: &[u8],
        accepting: &[u8],
        proof: &[u8],
    ) -> Result<(), NotLetIn> {
        let mask = self.mac(label, dialling, accepting);
        let secret: Vec<u8> = proof.iter().zip(mask).map(|(a, b)| a ^ b).collect();
        assert_eq!(Sha256::digest(secret), Sha256::digest(self.0.0));
        Ok(())
    }

    fn claim(&self, _ticket: &[u8], _session: &SessionKey) -> Result<(), String> {
        Ok(())
    }

    fn release(&self, _session: &SessionKey) {}
}

/// HELLO, WELCOME and AUTH of one handshake.
fn handshake(prover: Option<&dyn Prover>, keys: Option<&dyn Keys>) -> Vec<HopFrame> {
    let dialling = Dialling::new([0xd1; 32], Features(0), prover, "farpipe 0.1.0");
    let mut accepting = Accepting::new([0xac; 32], Features(0), keys, "farpipe 0.1.0");
    let hello = dialling.hello();
    let (Step::Send(welcome) | Step::Up(Some(welcome))) =
        accepting.handle(&hello).expect("a WELCOME")
    else {
        panic!("no WELCOME");
    };
    let mut frames = vec![hello, welcome];
    if let Some(auth) = dialling.handle(&frames[1]).expect("the link is up") {
        assert_eq!(accepting.handle(&auth), Ok(Step::Up(None)));
        frames.push(auth);
    }
    frames
}

fn hop_frames() -> Vec<(&'static str, HopFrame)> {
    let secret = Secret(std::array::from_fn(|i| i as u8));
    let mut frames = Vec::new();
    let names = ["HELLO, no secret", "WELCOME, no secret"];
    frames.extend(names.into_iter().zip(handshake(None, None)));
    let names = [
        "HELLO, secret 00 to 1f",
        "WELCOME, secret 00 to 1f",
        "AUTH, secret 00 to 1f",
    ];
    frames.extend(
        names
            .into_iter()
            .zip(handshake(Some(&secret), Some(&secret))),
    );
    let names = [
        "HELLO, token a1, secret 00 to 1f",
        "WELCOME, token a1, secret 00 to 1f",
        "AUTH, token a1, secret 00 to 1f",
    ];
    let token = Token(secret);
    frames.extend(names.into_iter().zip(handshake(Some(&token), Some(&token))));
    let tunnel = TunnelId(1);
    let attach = Attach {
        route: String::new(),
        key: vec![0x4b; 32],
        epoch: 2,
        received: 300,
        established: true,
        age_ms: 1500,
        resume_for_ms: 600_000,
        caller: String::new(),
        sealed: false,
        hold_ms: 0,
    };
    let to_pipe = Attach {
        route: "p/logs".to_owned(),
        key: vec![0x4b; 32],
        epoch: 1,
        resume_for_ms: 600_000,
        hold_ms: 2_000,
        ..Attach::default()
    };
    let refused = Refused {
        code: RefuseCode::Busy as u32,
        is_final: true,
        message: "busy".to_owned(),
    };
    frames.extend([
        ("ATTACH", HopFrame::Attach(tunnel, attach)),
        ("ATTACH to a pipe", HopFrame::Attach(tunnel, to_pipe)),
        (
            "ATTACHED",
            HopFrame::Attached(
                tunnel,
                Attached {
                    received: 70_000,
                    kept_ms: 0,
                },
            ),
        ),
        (
            "ATTACHED, kept for 10 s",
            HopFrame::Attached(
                tunnel,
                Attached {
                    received: 70_000,
                    kept_ms: 10_000,
                },
            ),
        ),
        ("REFUSED", HopFrame::Refused(tunnel, refused)),
        ("ACK", HopFrame::Ack(tunnel, 70_000)),
        ("DETACH", HopFrame::Detach(tunnel)),
        ("PING", HopFrame::Ping(7)),
        ("PONG", HopFrame::Pong(7)),
        ("HOP-CREDIT", HopFrame::HopCredit(TunnelId(2), 524_288)),
        (
            "GOAWAY",
            HopFrame::GoAway(GoAway {
                urls: vec!["wss://two.example".to_owned()],
            }),
        ),
        (
            "REGISTER",
            HopFrame::Register(Register {
                name: "web1".to_owned(),
                tags: vec!["zone=a".to_owned()],
                instance: vec![0x15; 16],
                pipe: false,
            }),
        ),
        (
            "REGISTER of a pipe",
            HopFrame::Register(Register {
                name: "logs".to_owned(),
                tags: Vec::new(),
                instance: vec![0x15; 16],
                pipe: true,
            }),
        ),
        ("LIST", HopFrame::List(List::default())),
        (
            "REGISTERED",
            HopFrame::Registered(Registered { window: 262_144 }),
        ),
        (
            "LISTED",
            HopFrame::Listed(Listed {
                hosts: vec![Host {
                    name: "web1".to_owned(),
                    tags: vec!["zone=a".to_owned()],
                    up_ms: 1500,
                    sessions: 3,
                }],
                more: false,
            }),
        ),
    ]);
    frames
}

fn inner_frames() -> Vec<(&'static str, StreamId, InnerFrame)> {
    let stream = StreamId(1);
    let open = Open {
        target: String::new(),
        interactive: true,
        ..Open::default()
    };
    let command = Open {
        command: Some(Box::new(Command {
            argv: vec![b"ls".to_vec(), b"-l".to_vec()],
            shell: false,
            cwd: b"/srv".to_vec(),
            env: vec![b"TZ=UTC".to_vec()],
            terminal: None,
            detached: None,
        })),
        ..Open::default()
    };
    let shell = Open {
        interactive: true,
        command: Some(Box::new(Command {
            terminal: Some(Terminal {
                rows: 24,
                cols: 80,
                term: b"xterm".to_vec(),
            }),
            ..Command::default()
        })),
        ..Open::default()
    };
    let detached = Open {
        command: Some(Box::new(Command {
            argv: vec![b"ls".to_vec()],
            detached: Some(Detached {
                id: "a1".to_owned(),
                keep: 4096,
                drops: true,
                no_stdin: true,
            }),
            ..Command::default()
        })),
        ..Open::default()
    };
    let kill = Open {
        manage: Some(Box::new(Manage {
            what: ManageWhat::Kill as u32,
            id: "a1".to_owned(),
            signal: 15,
            grace_ms: 500,
            ..Manage::default()
        })),
        ..Open::default()
    };
    let stderr = Open {
        stderr_of: 1,
        ..Open::default()
    };
    let endpoint = Open {
        endpoint: Some(Box::new(Endpoint {
            spec: b"/etc/hosts".to_vec(),
            halves: Halves::Source as u32,
            once: true,
        })),
        ..Open::default()
    };
    let copy = Open {
        copy: Some(Box::new(Copy {
            sources: vec![b"a".to_vec()],
            ..Copy::default()
        })),
        ..Open::default()
    };
    let accepted = Open {
        accepted_at: 1,
        ..Open::default()
    };
    let tail = Open {
        tail: Some(Box::new(Tail {
            paths: vec![b"/var/log/app.log".to_vec()],
            lines: 10,
            ..Tail::default()
        })),
        ..Open::default()
    };
    let refuse = Refuse {
        status: 127,
        message: "no such command".to_owned(),
    };
    let ended = Abort {
        taken: 5,
        ..Abort::new(AbortCode::Ended, "")
    };
    let exited = Exit {
        code: Some(0),
        signal: None,
        core_dumped: false,
        dropped: 0,
    };
    let killed = Exit {
        code: None,
        signal: Some(9),
        core_dumped: false,
        dropped: 0,
    };
    vec![
        ("OPEN, interactive", stream, InnerFrame::Open(open)),
        (
            "OPEN, of blocks",
            stream,
            InnerFrame::Open(Open {
                blocks: true,
                ..Open::default()
            }),
        ),
        ("OPEN, a command", stream, InnerFrame::Open(command)),
        (
            "OPEN, a login shell on a terminal",
            stream,
            InnerFrame::Open(shell),
        ),
        (
            "OPEN, a detached command",
            stream,
            InnerFrame::Open(detached),
        ),
        (
            "OPEN, end a detached command",
            stream,
            InnerFrame::Open(kill),
        ),
        (
            "OPEN, stderr of stream 1",
            StreamId(2),
            InnerFrame::Open(stderr),
        ),
        ("OPEN, read a file", stream, InnerFrame::Open(endpoint)),
        ("OPEN, copy from there", stream, InnerFrame::Open(copy)),
        ("OPEN, follow a file", stream, InnerFrame::Open(tail)),
        (
            "OPEN, a connection to what stream 1 listens for",
            StreamId(2),
            InnerFrame::Open(accepted),
        ),
        ("ACCEPT", stream, InnerFrame::Accept(Accept::default())),
        (
            "ACCEPT, with a command",
            stream,
            InnerFrame::Accept(Accept { has_command: true }),
        ),
        ("REFUSE", stream, InnerFrame::Refuse(refuse)),
        ("CREDIT", stream, InnerFrame::Credit(327_680)),
        ("FIN after 5 bytes", stream, InnerFrame::Fin(5)),
        (
            "RESET in answer to STOP",
            stream,
            InnerFrame::Reset(Abort::new(AbortCode::Stopped, "")),
        ),
        (
            "STOP, reader gone",
            stream,
            InnerFrame::Stop(Abort::new(AbortCode::ReaderGone, "")),
        ),
        ("STOP, ended after 5 bytes", stream, InnerFrame::Stop(ended)),
        (
            "STOP, disk full",
            stream,
            InnerFrame::Stop(Abort::new(AbortCode::Failed, "no space left on device")),
        ),
        ("EXIT, status 0", stream, InnerFrame::Exit(exited)),
        ("EXIT, signal 9", stream, InnerFrame::Exit(killed)),
        ("DONE after 5 bytes", stream, InnerFrame::Done(5)),
        (
            "DONE, no more streams",
            StreamId::SESSION,
            InnerFrame::Done(0),
        ),
        ("COMPLETE", StreamId::SESSION, InnerFrame::Complete),
        (
            "SIGNAL, SIGINT",
            stream,
            InnerFrame::Signal(Signal { number: 2 }),
        ),
        (
            "RESIZE",
            stream,
            InnerFrame::Resize(Resize {
                rows: 50,
                cols: 132,
            }),
        ),
    ]
}

/// The bytes in hex, with a space behind each field of the header.
fn line(out: &mut String, name: &str, bytes: &[u8], fields: &[usize]) {
    write!(out, "{name}:").expect("a string");
    let mut at = 0usize;
    for len in fields.iter().chain([&usize::MAX]) {
        let end = at.saturating_add(*len).min(bytes.len());
        if end > at {
            out.push(' ');
        }
        for byte in &bytes[at..end] {
            write!(out, "{byte:02x}").expect("a string");
        }
        at = end;
    }
    out.push('\n');
}

fn encoded() -> String {
    let mut out = String::new();
    for (name, frame) in hop_frames() {
        line(&mut out, name, &frame.encode(), &[1, 4]);
    }
    let mut data = data_header(TunnelId(1), 70_000).to_vec();
    data.extend_from_slice(b"hello");
    line(&mut out, "DATA", &data, &[1, 4, 8]);
    out.push('\n');
    for (name, stream, frame) in inner_frames() {
        line(&mut out, name, &frame.encode(stream), &[1, 4, 4]);
    }
    let mut bytes = bytes_header(StreamId(1), 5).to_vec();
    bytes.extend_from_slice(b"hello");
    line(&mut out, "BYTES", &bytes, &[1, 4, 4]);
    out
}

#[test]
fn frames_are_encoded_as_agreed() {
    let encoded = encoded();
    assert!(encoded == GOLDEN, "golden/frames.txt should be:\n{encoded}");
}

#[test]
fn the_document_shows_the_agreed_bytes() {
    let (hop, inner) = GOLDEN.split_once("\n\n").expect("two kinds of frames");
    for block in [hop, inner.trim_end()] {
        let shown = format!("\n```text\n{block}\n```\n");
        assert!(
            DOCUMENT.contains(&shown),
            "docs/protocol.md lacks:\n{block}"
        );
    }
}

#[test]
fn agreed_bytes_are_decoded_to_the_same_frames() {
    let bytes = |name: &str| {
        let line = GOLDEN
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let hex: String = line.expect("a line").split(' ').collect();
        let pairs = hex.as_bytes().chunks(2);
        pairs
            .map(|pair| {
                let pair = std::str::from_utf8(pair).expect("hex");
                u8::from_str_radix(pair, 16).expect("hex")
            })
            .collect::<Vec<u8>>()
    };
    for (name, frame) in hop_frames() {
        let bytes = bytes(name);
        let item = HopDecoder::default().feed(Some(bytes.len()), &bytes, true);
        assert_eq!(item, Ok(Some(HopItem::Frame(frame))), "{name}");
    }
    for (name, stream, frame) in inner_frames() {
        let bytes = bytes(name);
        let item = InnerDecoder::default().next(&bytes);
        let whole = (bytes.len(), Some(InnerItem::Frame(stream, frame)));
        assert_eq!(item, Ok(whole), "{name}");
    }
}
