//! Tests of the inner frame codec: the same frames however the byte stream is cut, and every
//! malformed one.

use proptest::prelude::*;

use super::*;
use crate::limits::{INNER_BYTES_MAX, INNER_CONTROL_MAX, INNER_OPEN_MAX};
use crate::wire::control::{AbortCode, Accept, Command, Terminal};

/// A frame, with the pieces of BYTES put together again.
#[derive(Debug, Clone, PartialEq)]
enum Found {
    Bytes(StreamId, Vec<u8>),
    Control(StreamId, InnerFrame),
}

impl Found {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Bytes(stream, bytes) => {
                let mut frame = bytes_header(*stream, bytes.len()).to_vec();
                frame.extend_from_slice(bytes);
                frame
            }
            Self::Control(stream, frame) => frame.encode(*stream),
        }
    }
}

/// Decodes `input`, given in pieces of the given lengths, over and over.
fn decode_cut(input: &[u8], cuts: &[usize]) -> Result<Vec<Found>, DecodeError> {
    let mut decoder = InnerDecoder::default();
    let mut found = Vec::new();
    // Payload bytes that a BytesHeader promised and that have not come yet.
    let mut promised = 0;
    let mut rest = input;
    for len in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (mut piece, after) = rest.split_at((*len).min(rest.len()));
        rest = after;
        while !piece.is_empty() {
            let (taken, item) = decoder.next(piece)?;
            assert!(taken > 0, "every call moves on");
            match item {
                None => assert_eq!(promised, 0),
                Some(InnerItem::BytesHeader(stream, len)) => {
                    assert_eq!(promised, 0, "a frame began inside another");
                    promised = len;
                    found.push(Found::Bytes(stream, Vec::new()));
                }
                Some(InnerItem::Bytes(stream, len)) => {
                    promised -= len;
                    let Some(Found::Bytes(of, bytes)) = found.last_mut() else {
                        panic!("bytes without a header");
                    };
                    assert_eq!(*of, stream);
                    bytes.extend_from_slice(&piece[taken - len..taken]);
                }
                Some(InnerItem::Frame(stream, frame)) => {
                    assert_eq!(promised, 0, "a frame began inside another");
                    found.push(Found::Control(stream, frame));
                }
            }
            piece = &piece[taken..];
        }
    }
    Ok(found)
}

fn raw(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(kind, StreamId(stream), payload.len()).to_vec();
    frame.extend_from_slice(payload);
    frame
}

fn controls() -> impl Strategy<Value = InnerFrame> {
    let abort = (any::<u32>(), ".{0,60}", any::<u64>()).prop_map(|(code, message, taken)| Abort {
        code,
        message,
        taken,
    });
    prop_oneof![
        (".{0,200}", any::<bool>(), any::<bool>()).prop_map(|(target, interactive, blocks)| {
            InnerFrame::Open(Open {
                target,
                interactive,
                blocks,
                ..Open::default()
            })
        }),
        (commands(), any::<u32>()).prop_map(|(command, stderr_of)| {
            InnerFrame::Open(Open {
                command: Some(Box::new(command)),
                stderr_of,
                ..Open::default()
            })
        }),
        any::<bool>().prop_map(|has_command| InnerFrame::Accept(Accept { has_command })),
        (any::<u32>(), ".{0,60}")
            .prop_map(|(status, message)| InnerFrame::Refuse(Refuse { status, message })),
        any::<u64>().prop_map(InnerFrame::Credit),
        any::<u64>().prop_map(InnerFrame::Fin),
        abort.clone().prop_map(InnerFrame::Reset),
        abort.prop_map(InnerFrame::Stop),
        (
            any::<Option<u32>>(),
            any::<Option<u32>>(),
            any::<bool>(),
            any::<u64>()
        )
            .prop_map(
                |(code, signal, core_dumped, dropped)| InnerFrame::Exit(Exit {
                    code,
                    signal,
                    core_dumped,
                    dropped
                })
            ),
        any::<u64>().prop_map(InnerFrame::Done),
        Just(InnerFrame::Complete),
        any::<u32>().prop_map(|number| InnerFrame::Signal(Signal { number })),
        (any::<u32>(), any::<u32>())
            .prop_map(|(rows, cols)| InnerFrame::Resize(Resize { rows, cols })),
    ]
}

fn commands() -> impl Strategy<Value = Command> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    let words = move || proptest::collection::vec(bytes(), 0..5);
    let terminal = (any::<u32>(), any::<u32>(), bytes());
    let terminal = terminal.prop_map(|(rows, cols, term)| Terminal { rows, cols, term });
    (
        words(),
        any::<bool>(),
        bytes(),
        words(),
        proptest::option::of(terminal),
    )
        .prop_map(|(argv, shell, cwd, env, terminal)| Command {
            argv,
            shell,
            cwd,
            env,
            terminal,
            detached: None,
        })
}

fn frames() -> impl Strategy<Value = Found> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..400);
    prop_oneof![
        (any::<u32>(), controls()).prop_map(|(id, frame)| Found::Control(StreamId(id), frame)),
        (any::<u32>(), bytes).prop_map(|(id, bytes)| Found::Bytes(StreamId(id), bytes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn n5_frames_glued_together_and_cut_anywhere_are_the_same_frames(
        sent in proptest::collection::vec(frames(), 1..8),
        cuts in proptest::collection::vec(1..120usize, 1..12),
    ) {
        let glued: Vec<u8> = sent.iter().flat_map(Found::encode).collect();
        prop_assert_eq!(decode_cut(&glued, &cuts), Ok(sent.clone()));
        prop_assert_eq!(decode_cut(&glued, &[1]), Ok(sent.clone()));
        prop_assert_eq!(decode_cut(&glued, &[usize::MAX]), Ok(sent));
    }

    #[test]
    fn p10_garbage_is_refused_or_read_but_never_a_panic(
        frames in proptest::collection::vec(
            (any::<u8>(), 0..4u32, proptest::collection::vec(any::<u8>(), 0..24)), 1..6),
        cuts in proptest::collection::vec(1..9usize, 1..4),
    ) {
        let glued: Vec<u8> = frames
            .iter()
            .flat_map(|(kind, stream, payload)| raw(*kind, *stream, payload))
            .collect();
        prop_assert_eq!(decode_cut(&glued, &[usize::MAX]), decode_cut(&glued, &cuts));
    }
}

#[test]
fn p1_a_length_bomb_is_refused_from_the_header_alone() {
    for (kind, max) in [
        (kind::BYTES, INNER_BYTES_MAX),
        (kind::OPEN, INNER_OPEN_MAX),
        (kind::FIN, INNER_CONTROL_MAX),
        (0x99, INNER_CONTROL_MAX),
    ] {
        for len in [max + 1, u32::MAX as usize] {
            let mut decoder = InnerDecoder::default();
            let bomb = header(kind, StreamId(1), len);
            assert_eq!(
                decoder.next(&bomb),
                Err(DecodeError::TooLarge {
                    what: match kind {
                        kind::BYTES => "BYTES",
                        kind::OPEN => "OPEN",
                        _ => "inner control",
                    },
                    len,
                    max
                })
            );
            assert_eq!(decoder.control.capacity(), 0, "nothing was kept");
        }
        let mut decoder = InnerDecoder::default();
        let largest = header(kind, StreamId(1), max);
        assert!(decoder.next(&largest).is_ok(), "{kind:#04x} of {max}");
        assert_eq!(decoder.control.capacity(), 0, "room comes with the bytes");
    }
}

#[test]
fn p2_unknown_types_are_errors_and_optional_ones_are_skipped() {
    for kind in (0..=u8::MAX).filter(|kind| !(kind::OPEN..=kind::RESIZE).contains(kind)) {
        let mut glued = raw(kind, 1, b"anything");
        glued.extend(InnerFrame::Accept(Accept::default()).encode(StreamId(3)));
        let found = decode_cut(&glued, &[1]);
        if kind >= kind::OPTIONAL {
            let accept = Found::Control(StreamId(3), InnerFrame::Accept(Accept::default()));
            assert_eq!(found, Ok(vec![accept]), "{kind:#04x}");
        } else {
            let unknown = DecodeError::UnknownType {
                layer: "inner",
                kind,
            };
            assert_eq!(found, Err(unknown));
        }
    }
}

#[test]
fn p2_numbers_have_eight_bytes() {
    for kind in [kind::CREDIT, kind::FIN, kind::DONE] {
        for len in (0..=16).filter(|len| *len != 8) {
            let found = decode_cut(&raw(kind, 1, &vec![0; len]), &[usize::MAX]);
            assert!(
                matches!(found, Err(DecodeError::Malformed { .. })),
                "{kind:#04x} of {len}: {found:?}"
            );
        }
        assert!(decode_cut(&raw(kind, 1, &[0; 8]), &[1]).is_ok());
    }
}

#[test]
fn p7_an_empty_bytes_frame_is_seen_once() {
    let stream = StreamId(5);
    let mut glued = bytes_header(stream, 0).to_vec();
    glued.extend(InnerFrame::Fin(0).encode(stream));
    for cut in [1, 4, 9, 100] {
        assert_eq!(
            decode_cut(&glued, &[cut]),
            Ok(vec![
                Found::Bytes(stream, Vec::new()),
                Found::Control(stream, InnerFrame::Fin(0)),
            ])
        );
    }
}

#[test]
fn p10_nested_groups_and_claimed_lengths_are_refused_without_harm() {
    let nested = vec![0x4b; INNER_CONTROL_MAX];
    let mut claimed = vec![0x0a];
    claimed.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f]);
    let no_utf8 = vec![0x0a, 2, 0xc3, 0x28];
    for payload in [nested, claimed, no_utf8] {
        let found = decode_cut(&raw(kind::OPEN, 1, &payload), &[usize::MAX]);
        assert!(
            matches!(found, Err(DecodeError::Malformed { what: "OPEN", .. })),
            "{found:?}"
        );
    }
}

#[test]
fn p10_an_unknown_abort_code_is_a_failure() {
    for (wire, code) in [
        (0, AbortCode::Failed),
        (1, AbortCode::ReaderGone),
        (2, AbortCode::Failed),
        (3, AbortCode::Cancelled),
        (4, AbortCode::Stopped),
        (5, AbortCode::Ended),
        (6, AbortCode::Failed),
        (u32::MAX, AbortCode::Failed),
    ] {
        assert_eq!(AbortCode::from_wire(wire), code);
    }
}
