//! Tests of the hop frame codec: the same frames however they are cut, and every malformed one.

use proptest::prelude::*;

use super::*;
use crate::limits::{HOP_CONTROL_MAX, HOP_FRAME_MAX};
use crate::wire::control::{Host, RefuseCode};

/// What a message is, with the pieces of DATA put together again.
#[derive(Debug, Clone, PartialEq)]
enum Message {
    Data(TunnelId, u64, Vec<u8>),
    Control(HopFrame),
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Data(tunnel, offset, bytes) => {
                let mut message = data_header(*tunnel, *offset).to_vec();
                message.extend_from_slice(bytes);
                message
            }
            Self::Control(frame) => frame.encode(),
        }
    }
}

/// Feeds one message in pieces of the given lengths, over and over.
fn feed_cut(
    decoder: &mut HopDecoder,
    message: &[u8],
    cuts: &[usize],
) -> Result<Option<Message>, DecodeError> {
    let mut first = Some(message.len());
    let mut rest = message;
    let mut cuts = cuts.iter().cycle();
    let mut found = None;
    loop {
        let len = (*cuts.next().unwrap_or(&usize::MAX)).min(rest.len());
        let (piece, after) = rest.split_at(len);
        rest = after;
        match decoder.feed(first.take(), piece, rest.is_empty())? {
            None => {}
            Some(HopItem::Frame(frame)) => found = Some(Message::Control(frame)),
            Some(HopItem::Data {
                tunnel,
                offset,
                skip,
            }) => {
                let bytes = &piece[skip..];
                assert!(!bytes.is_empty(), "data items are never empty");
                match &mut found {
                    Some(Message::Data(of, start, so_far)) => {
                        assert_eq!((*of, *start + so_far.len() as u64), (tunnel, offset));
                        so_far.extend_from_slice(bytes);
                    }
                    _ => found = Some(Message::Data(tunnel, offset, bytes.to_vec())),
                }
            }
        }
        if rest.is_empty() {
            return Ok(found);
        }
    }
}

fn feed_whole(message: &[u8]) -> Result<Option<HopItem>, DecodeError> {
    HopDecoder::default().feed(Some(message.len()), message, true)
}

/// A raw frame, well-formed or not.
fn raw(kind: u8, tunnel: u32, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend_from_slice(&tunnel.to_be_bytes());
    message.extend_from_slice(payload);
    message
}

fn tunnels() -> impl Strategy<Value = TunnelId> {
    prop_oneof![Just(1), Just(u32::MAX), 1..=u32::MAX].prop_map(TunnelId)
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..max)
}

fn controls() -> impl Strategy<Value = HopFrame> {
    prop_oneof![
        (
            any::<[u32; 2]>(),
            any::<u64>(),
            bytes(40),
            ".{0,40}",
            any::<bool>()
        )
            .prop_map(
                |([version_min, version_max], features, nonce, software, wants_proof)| {
                    HopFrame::Hello(Hello {
                        version_min,
                        version_max,
                        features,
                        nonce,
                        software,
                        wants_proof,
                        ticket: if wants_proof { vec![7; 8] } else { Vec::new() },
                        token: if wants_proof { Vec::new() } else { vec![7; 8] },
                    })
                }
            ),
        (any::<u32>(), any::<u64>(), bytes(40), ".{0,40}", bytes(40)).prop_map(
            |(version, features, nonce, software, proof)| {
                HopFrame::Welcome(Welcome {
                    version,
                    features,
                    nonce,
                    software,
                    proof,
                })
            }
        ),
        bytes(40).prop_map(|proof| HopFrame::Auth(Auth { proof })),
        (
            tunnels(),
            ".{0,300}",
            bytes(40),
            any::<[u64; 5]>(),
            any::<bool>()
        )
            .prop_map(|(tunnel, route, key, numbers, established)| {
                let [epoch, received, age_ms, resume_for_ms, hold_ms] = numbers;
                HopFrame::Attach(
                    tunnel,
                    Attach {
                        route,
                        key,
                        epoch,
                        received,
                        established,
                        age_ms,
                        resume_for_ms,
                        caller: String::new(),
                        sealed: false,
                        hold_ms,
                    },
                )
            }),
        (tunnels(), any::<u64>()).prop_map(|(tunnel, received)| {
            let kept_ms = received / 2;
            HopFrame::Attached(tunnel, Attached { received, kept_ms })
        }),
        (any::<u32>(), any::<u32>(), any::<bool>(), ".{0,300}").prop_map(
            |(tunnel, code, is_final, message)| {
                HopFrame::Refused(
                    TunnelId(tunnel),
                    Refused {
                        code,
                        is_final,
                        message,
                    },
                )
            }
        ),
        (tunnels(), any::<u64>()).prop_map(|(tunnel, offset)| HopFrame::Ack(tunnel, offset)),
        tunnels().prop_map(HopFrame::Detach),
        any::<u64>().prop_map(HopFrame::Ping),
        any::<u64>().prop_map(HopFrame::Pong),
        of_relays(),
    ]
}

fn of_relays() -> impl Strategy<Value = HopFrame> {
    let texts = || proptest::collection::vec(".{0,40}", 0..4);
    prop_oneof![
        (tunnels(), any::<u64>()).prop_map(|(tunnel, limit)| HopFrame::HopCredit(tunnel, limit)),
        texts().prop_map(|urls| HopFrame::GoAway(GoAway { urls })),
        (".{0,80}", texts(), bytes(20), any::<bool>()).prop_map(|(name, tags, instance, pipe)| {
            HopFrame::Register(Register {
                name,
                tags,
                instance,
                pipe,
            })
        }),
        (".{0,80}", any::<bool>()).prop_map(|(after, pipes)| HopFrame::List(List { after, pipes })),
        any::<u64>().prop_map(|window| HopFrame::Registered(Registered { window })),
        (texts(), texts(), any::<(u64, u32, bool)>()).prop_map(
            |(names, tags, (up_ms, sessions, more))| {
                let host = |name| Host {
                    name,
                    tags: tags.clone(),
                    up_ms,
                    sessions,
                };
                let hosts = names.into_iter().map(host).collect();
                HopFrame::Listed(Listed { hosts, more })
            }
        ),
    ]
}

fn messages() -> impl Strategy<Value = Message> {
    prop_oneof![
        controls().prop_map(Message::Control),
        (
            tunnels(),
            0..=1u64 << 62,
            proptest::collection::vec(any::<u8>(), 1..600)
        )
            .prop_map(|(tunnel, offset, bytes)| Message::Data(tunnel, offset, bytes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn n5_messages_in_any_cuts_are_the_same_messages(
        sent in proptest::collection::vec(messages(), 1..6),
        cuts in proptest::collection::vec(0..200usize, 1..12).prop_map(|mut cuts| {
            // A piece of every round moves on.
            cuts.push(1);
            cuts
        }),
    ) {
        let mut decoder = HopDecoder::default();
        for message in &sent {
            let found = feed_cut(&mut decoder, &message.encode(), &cuts);
            prop_assert_eq!(found.as_ref(), Ok(&Some(message.clone())));
        }
    }

    #[test]
    fn p10_garbage_is_refused_or_read_but_never_a_panic(
        kind in any::<u8>(),
        tunnel in 0..3u32,
        payload in bytes(64),
        cuts in proptest::collection::vec(1..20usize, 1..4),
    ) {
        let message = raw(kind, tunnel, &payload);
        let whole = feed_cut(&mut HopDecoder::default(), &message, &[usize::MAX]);
        let cut = feed_cut(&mut HopDecoder::default(), &message, &cuts);
        prop_assert_eq!(&whole, &cut);
        if let Ok(Some(Message::Control(frame))) = whole {
            prop_assert_eq!(HopFrame::decode(&frame.encode()), Ok(Some(frame)));
        }
    }
}

#[test]
fn n5_a_dribble_of_single_bytes_is_the_same_as_one_write() {
    let attach = Attach {
        route: "host".to_owned(),
        key: vec![9; 32],
        epoch: 3,
        received: u64::MAX,
        ..Attach::default()
    };
    let mut decoder = HopDecoder::default();
    for message in [
        Message::Control(HopFrame::Attach(TunnelId(7), attach)),
        Message::Data(TunnelId(7), 1 << 40, (0..=255).collect()),
        Message::Control(HopFrame::Detach(TunnelId(7))),
        Message::Control(HopFrame::Ping(u64::MAX)),
    ] {
        let found = feed_cut(&mut decoder, &message.encode(), &[1]);
        assert_eq!(found, Ok(Some(message)));
    }
}

#[test]
fn p1_a_length_bomb_is_refused_from_its_length_alone() {
    for len in [HOP_FRAME_MAX + 1, usize::MAX] {
        let mut decoder = HopDecoder::default();
        assert!(matches!(
            decoder.feed(Some(len), &[], false),
            Err(DecodeError::TooLarge { len: claimed, .. }) if claimed == len
        ));
        assert_eq!(decoder.held.capacity(), 0, "nothing was kept");
    }
    // The largest DATA frame passes, and none of it is kept.
    let mut message = data_header(TunnelId(1), 0).to_vec();
    message.resize(HOP_FRAME_MAX, 0);
    let mut decoder = HopDecoder::default();
    assert!(decoder.feed(Some(message.len()), &message, true).is_ok());
    assert!(decoder.held.capacity() <= 64);
}

#[test]
fn p1_a_long_control_frame_is_refused_at_its_first_byte() {
    for kind in [kind::HELLO, kind::ATTACH, kind::PING, 0x33, 0x99] {
        let mut decoder = HopDecoder::default();
        assert!(matches!(
            decoder.feed(Some(HOP_CONTROL_MAX + 1), &[kind], false),
            Err(DecodeError::TooLarge { max, .. }) if max == HOP_CONTROL_MAX
        ));
        assert_eq!(decoder.held.capacity(), 0, "nothing was kept");
    }
    let longest = raw(kind::REFUSED, 0, &vec![0x82; HOP_CONTROL_MAX - HEADER_LEN]);
    assert!(matches!(
        feed_whole(&longest),
        Err(DecodeError::Malformed { .. })
    ));
}

#[test]
fn p2_unknown_types_are_errors_and_optional_ones_are_skipped() {
    for kind in (0..=u8::MAX).filter(|kind| !(kind::HELLO..=kind::LISTED).contains(kind)) {
        for tunnel in [0, 1] {
            let found = feed_whole(&raw(kind, tunnel, b"anything"));
            if kind >= kind::OPTIONAL {
                assert_eq!(found, Ok(None), "{kind:#04x}");
            } else {
                assert_eq!(found, Err(DecodeError::UnknownType { layer: "hop", kind }));
            }
        }
    }
}

#[test]
fn p2_frames_of_the_link_and_of_tunnels_are_not_mixed_up() {
    let of_link = [
        HopFrame::Hello(Hello::default()).encode(),
        HopFrame::Welcome(Welcome::default()).encode(),
        HopFrame::Auth(Auth::default()).encode(),
        HopFrame::Ping(1).encode(),
        HopFrame::Pong(1).encode(),
        HopFrame::GoAway(GoAway::default()).encode(),
        HopFrame::Register(Register::default()).encode(),
        HopFrame::List(List::default()).encode(),
        HopFrame::Registered(Registered::default()).encode(),
        HopFrame::Listed(Listed::default()).encode(),
    ];
    for mut message in of_link {
        assert!(matches!(feed_whole(&message), Ok(Some(_))));
        message[4] = 1;
        assert!(matches!(
            feed_whole(&message),
            Err(DecodeError::Malformed { .. })
        ));
    }
    let of_tunnels = [
        HopFrame::Attach(TunnelId(1), Attach::default()).encode(),
        HopFrame::Attached(TunnelId(1), Attached::default()).encode(),
        HopFrame::Ack(TunnelId(1), 1).encode(),
        HopFrame::Detach(TunnelId(1)).encode(),
        Message::Data(TunnelId(1), 0, vec![1]).encode(),
    ];
    for mut message in of_tunnels {
        assert!(matches!(feed_whole(&message), Ok(Some(_))));
        message[4] = 0;
        assert!(matches!(
            feed_whole(&message),
            Err(DecodeError::Malformed { .. })
        ));
    }
}

#[test]
fn p2_messages_that_are_too_short_or_of_the_wrong_length_are_errors() {
    let whole = [
        raw(kind::PING, 0, &[0; 8]),
        raw(kind::ACK, 1, &[0; 8]),
        data_header(TunnelId(1), 5).to_vec(),
    ];
    for message in &whole {
        for len in 0..message.len() {
            let short = feed_whole(&message[..len]);
            assert!(short.is_err(), "{len} of {message:?}: {short:?}");
            let short = feed_cut(&mut HopDecoder::default(), &message[..len], &[1]);
            assert!(short.is_err(), "{len} of {message:?}: {short:?}");
        }
        if message[0] != kind::DATA {
            let mut long = message.clone();
            long.push(0);
            assert!(feed_whole(&long).is_err(), "{long:?}");
        }
    }
}

#[test]
fn p2_pieces_must_make_up_their_message() {
    let broken = |pieces: &[(Option<usize>, usize, bool)]| {
        let mut decoder = HopDecoder::default();
        let data = data_header(TunnelId(1), 0);
        pieces
            .iter()
            .try_for_each(|(first, len, last)| {
                decoder.feed(*first, &data[..*len], *last).map(|_| ())
            })
            .is_err()
    };
    assert!(broken(&[(None, 1, false)]), "no message has begun");
    assert!(broken(&[(Some(5), 6, false)]), "more than the message has");
    assert!(
        broken(&[(Some(20), 13, true)]),
        "fewer than the message has"
    );
    assert!(
        broken(&[(Some(20), 13, false), (Some(5), 5, true)]),
        "one inside another"
    );
    assert!(!broken(&[(Some(13), 13, true), (Some(13), 13, true)]));
}

#[test]
fn p7_an_empty_data_frame_is_nothing() {
    assert_eq!(feed_whole(&data_header(TunnelId(1), 9)), Ok(None));
}

#[test]
fn p10_nested_groups_and_claimed_lengths_are_refused_without_harm() {
    // Field 9, wire type 3: begins a group inside a group inside a group…
    let nested = raw(kind::HELLO, 0, &[0x4b; 16_000]);
    // Field 5, wire type 2: a string of 2^62 bytes that are not there.
    let mut claimed = vec![0x2a];
    claimed.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f]);
    let endless_varint = [0x08; 1].into_iter().chain([0xff; 32]).collect::<Vec<_>>();
    let no_utf8 = vec![0x2a, 2, 0xc3, 0x28];
    let wrong_wire_type = vec![0x0d, 0, 0, 0, 0];
    let field_zero = vec![0x00, 0x00];
    assert!(feed_whole(&nested).is_err());
    for payload in [
        claimed,
        endless_varint,
        no_utf8,
        wrong_wire_type,
        field_zero,
    ] {
        let found = feed_whole(&raw(kind::HELLO, 0, &payload));
        assert!(found.is_err(), "{payload:02x?}: {found:?}");
    }
}

#[test]
fn p10_the_last_of_duplicate_fields_counts_and_unknown_ones_are_skipped() {
    let payload = [
        0x08, 1, // version_min 1
        0x08, 2, // and again: 2
        0xf8, 0x07, 7, // field 127, a varint
        0xfa, 0x07, 2, b'h', b'i', // field 127, bytes
    ];
    let Ok(Some(HopItem::Frame(HopFrame::Hello(hello)))) =
        feed_whole(&raw(kind::HELLO, 0, &payload))
    else {
        panic!("a HELLO");
    };
    assert_eq!(hello.version_min, 2);
}

#[test]
fn p10_an_unknown_refuse_code_keeps_its_finality() {
    for code in 1..=15 {
        assert_eq!(
            RefuseCode::from_wire(code).map(|code| code as u32),
            Some(code)
        );
    }
    assert_eq!(RefuseCode::from_wire(0), None);
    assert_eq!(RefuseCode::from_wire(16), None);
    let refused = Refused {
        code: 4_000_000_000,
        is_final: true,
        message: String::new(),
    };
    let frame = HopFrame::Refused(TunnelId::LINK, refused);
    assert_eq!(HopFrame::decode(&frame.encode()), Ok(Some(frame)));
}
