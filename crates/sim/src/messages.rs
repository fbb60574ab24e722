//! Checks of what is written and read as a message or a text, on arbitrary bytes.
//!
//! Fuzz targets call these; `tests/corpus.rs` replays their seeds (docs/fuzzing.md).

use std::cell::Cell;
use std::fmt::Debug;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use farpipe_proto::identity::{Identity, is_name};
use farpipe_proto::limits::TAIL_MESSAGE_MAX;
use farpipe_proto::link::handshake::refusal;
use farpipe_proto::link::{Accepting, Dialling, Features, Keys, Prover, Shared, Step};
use farpipe_proto::wire::control;
use farpipe_proto::wire::hop::HopFrame;
use farpipe_proto::wire::local::{LOCAL_PREFACE, WayAnswer, WayAsked, exactly};
use farpipe_proto::wire::tail::{TailError, TailEvent};
use farpipe_proto::wire::topic;
use farpipe_yaml::{Section, Value};
use prost::Message;

/// A message of the kind that the first byte says: it is the same when it is sent on, and no longer.
///
/// # Panics
/// When it is not.
pub fn messages(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    macro_rules! one_of {
        ($($message:ty),* $(,)?) => {{
            let all: &[fn(&[u8])] = &[$(same::<$message>),*];
            all[usize::from(*kind) % all.len()](bytes);
        }};
    }
    one_of!(
        control::Hello,
        control::Welcome,
        control::Auth,
        control::Attach,
        control::Attached,
        control::Register,
        control::Registered,
        control::List,
        control::Listed,
        control::GoAway,
        control::Refused,
        control::Open,
        control::Manage,
        control::DetachedCommands,
        control::Signal,
        control::Resize,
        control::Accept,
        control::Refuse,
        control::Abort,
        control::Exit,
        TailEvent,
        WayAsked,
        WayAnswer,
        topic::TopicAsk,
        topic::PublishEvent,
        topic::SubscribeEvent,
        topic::ConsumerSays,
        topic::TopicState,
    );
}

fn same<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else {
        return;
    };
    let encoded = message.encode_to_vec();
    assert_eq!(M::decode(&encoded[..]).as_ref(), Ok(&message));
    assert_eq!(exactly::<M>(&encoded).as_ref(), Some(&message));
    assert_eq!(exactly::<M>(bytes).is_some(), encoded == bytes);
}

/// What a command says to the local agent, behind its preface and length; the way that is read is the way
/// that was written.
///
/// # Panics
/// When it is not.
pub fn local_way(data: &[u8]) {
    let message = match data.strip_prefix(&LOCAL_PREFACE) {
        Some([_, _, _, _, message @ ..]) => message,
        _ => data,
    };
    if let Some(asked) = exactly::<WayAsked>(message) {
        assert_eq!(asked.to_bytes(), message);
    }
    if let Some(answer) = exactly::<WayAnswer>(message) {
        assert_eq!(answer.to_bytes(), message);
    }
}

/// Messages of a stream that follows files: each is whole or it is not there, and is the same when it is
/// said again.
///
/// # Panics
/// When it is not.
pub fn tail_events(mut data: &[u8]) {
    loop {
        match TailEvent::from_bytes(data) {
            Ok(Some((event, len))) => {
                assert!((4..=4 + TAIL_MESSAGE_MAX).contains(&len) && len <= data.len());
                for cut in [0, 3, 4, len / 2, len - 1] {
                    let cut = cut.min(len - 1);
                    assert_eq!(TailEvent::from_bytes(&data[..cut]), Ok(None), "{cut}");
                }
                let said = event.to_bytes();
                let len_said = said.len();
                assert_eq!(TailEvent::from_bytes(&said), Ok(Some((event, len_said))));
                data = &data[len..];
            }
            Ok(None) => return,
            Err(TailError::TooLarge(len)) => {
                return assert!(len as usize > TAIL_MESSAGE_MAX);
            }
            Err(TailError::Malformed) => return,
        }
    }
}

/// An identity as it is written: there is one way, and it has nothing in it that could be misread.
///
/// # Panics
/// When there are two.
pub fn identity(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(identity) = text.parse::<Identity>() {
        assert_eq!(identity.to_string(), text);
        for part in [identity.domain(), identity.name()] {
            assert!(is_name(part));
            assert!(!part.is_empty() && !part.contains("..") && !part.contains(['/', '*', '%']));
            assert_eq!(part, part.to_ascii_lowercase());
        }
        let again = Identity::new(identity.domain(), identity.kind(), identity.name());
        assert_eq!(again, Ok(identity));
    }
}

/// A secret that takes note of having been proven.
#[derive(Debug, Default)]
struct Noted(AtomicBool);

impl Noted {
    fn is_proven(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Prover for Noted {
    fn prove(&self, label: &str, dialling: &[u8], accepting: &[u8]) -> [u8; 32] {
        let mut proof = [label.len() as u8; 32];
        for (i, byte) in dialling.iter().chain(accepting).enumerate() {
            proof[i % 32] = proof[i % 32].wrapping_mul(31).wrapping_add(*byte);
        }
        proof
    }

    fn verify(&self, label: &str, dialling: &[u8], accepting: &[u8], proof: &[u8]) -> bool {
        let is_it = self.prove(label, dialling, accepting) == proof;
        self.0.fetch_or(is_it, Ordering::Relaxed);
        is_it
    }
}

impl Shared for Noted {}

/// Frames that both sides of a handshake hear, each behind a byte of which bit 0 says which side, and
/// bits 1 and 2 whether it is in truth what the other side has last said, and its length in one byte. Bit 0
/// of the first byte: a secret is to be proven. Nobody is let in who has not proven it.
///
/// # Panics
/// When somebody is.
pub fn handshake(data: &[u8]) {
    let Some((flags, mut rest)) = data.split_first() else {
        return;
    };
    let needs_proof = flags & 1 != 0;
    let secrets = [Noted::default(), Noted::default()];
    let features = Features(u64::from(*flags));
    let dialling = Dialling::new(
        [1; 32],
        features,
        needs_proof.then_some(&secrets[0] as &dyn Prover),
        "fuzz",
    );
    let mut accepting = Accepting::new(
        [2; 32],
        Features(3),
        needs_proof.then_some(&secrets[1] as &dyn Keys),
        "fuzz",
    );
    let mut said = [Some(dialling.hello()), None];
    let is_over = Cell::new(false);
    while let Some(([how, len], after)) = rest.split_first_chunk::<2>() {
        let (bytes, next) = after.split_at(after.len().min(usize::from(*len)));
        rest = next;
        let to_acceptor = how & 1 == 0;
        let honest = said[usize::from(!to_acceptor)]
            .clone()
            .filter(|_| how & 6 == 6);
        let frame = match honest {
            Some(frame) => frame,
            None => match HopFrame::decode(bytes) {
                Ok(Some(frame)) => frame,
                Ok(None) | Err(_) => continue,
            },
        };
        if to_acceptor {
            match accepting.handle(&frame) {
                Ok(Step::Send(frame)) => said[1] = Some(frame),
                Ok(Step::Up(frame)) => {
                    assert!(
                        !needs_proof || secrets[1].is_proven(),
                        "let in without a proof"
                    );
                    assert!(!is_over.replace(true) || needs_proof, "let in twice");
                    said[1] = frame.or_else(|| said[1].take());
                }
                Err(error) => {
                    let told = refusal(&error);
                    assert!(told.is_none_or(|told| told.encode().len() < 16 << 10));
                }
            }
        } else if let Ok(auth) = dialling.handle(&frame) {
            assert_eq!(auth.is_some(), needs_proof);
            assert!(
                !needs_proof || secrets[0].is_proven(),
                "believed without a proof"
            );
            let HopFrame::Welcome(welcome) = &frame else {
                panic!("up without WELCOME");
            };
            assert_eq!(welcome.features & !features.0, 0);
            said[0] = auth.or_else(|| said[0].take());
        }
    }
    let was_proven = secrets[1].is_proven();
    assert!(accepting.into_proven().is_none() || was_proven);
}

/// A YAML file: every key and value has a place in it, and so has what is wrong.
///
/// # Panics
/// When one has not.
pub fn yaml(data: &[u8]) {
    // YAML ends a line with a lone carriage return as well; words about what is not UTF-8 do not.
    let text = String::from_utf8_lossy(data).replace("\r\n", "\n");
    let is_utf8 = std::str::from_utf8(data).is_ok();
    let ends: &[char] = if is_utf8 { &['\n', '\r'] } else { &['\n'] };
    let lines: Vec<usize> = text.split(ends).map(|line| line.chars().count()).collect();
    let is_there = |place: &str| {
        let (line, column) = place.split_once(':').expect("a line and a column");
        let line: usize = line.parse().expect("a number");
        let column: usize = column.parse().expect("a number");
        // Behind the last character, or in a line that the file does not begin any more.
        let len = lines.get(line - 1).copied();
        assert!(line <= lines.len() + 1, "{place} of {} lines", lines.len());
        assert!(
            column <= len.unwrap_or_default() + 2,
            "{place}: {len:?} characters"
        );
    };
    match farpipe_yaml::parse(Path::new("f"), data.to_vec()) {
        Ok(root) => look(&root, 0, &is_there),
        Err(error) => {
            let said = error.to_string();
            let place = said.strip_prefix("f:").expect("the file first");
            assert!(!error.hint.is_empty());
            // About the file as a whole, or a place in it.
            if !place.starts_with(' ') {
                let end = place.find(": ").expect("what is wrong");
                is_there(&place[..end]);
            }
        }
    }
}

fn look(section: &Section, depth: usize, is_there: &impl Fn(&str)) {
    assert!(depth <= 40, "nested deeper than allowed");
    let mut keys: Vec<&str> = section.entries.iter().map(|entry| &*entry.key).collect();
    keys.sort_unstable();
    assert!(keys.windows(2).all(|two| two[0] != two[1]), "a key twice");
    for entry in &section.entries {
        is_there(&entry.place.in_file());
        look_into(&entry.value, depth + 1, is_there);
    }
}

fn look_into(value: &Value, depth: usize, is_there: &impl Fn(&str)) {
    match value {
        Value::Text(_) => {}
        Value::Section(section) => look(section, depth, is_there),
        Value::List(items) => {
            for item in items {
                is_there(&item.place.in_file());
                look_into(&item.value, depth + 1, is_there);
            }
        }
    }
}
