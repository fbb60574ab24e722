//! The rules of RFC 6455, fed as bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::carrier::script::{Script, Then, close, flush, pool, recv, recv_all};
use crate::carrier::{Carrier, CarrierError, Close};

/// A client that always masks as in RFC 6455 section 5.7, so that bytes can be compared; what
/// depends on fresh keys uses [`Counted`].
#[derive(Debug)]
struct Fixed;

#[derive(Debug, Default)]
struct Counted(Arc<AtomicU32>);

const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

const GONE: Close = Close {
    code: 1001,
    reason: "home",
};

impl MaskKeys for Fixed {
    fn next_key(&mut self) -> [u8; 4] {
        KEY
    }
}

impl MaskKeys for Counted {
    fn next_key(&mut self) -> [u8; 4] {
        (0x0102_0304 + self.0.fetch_add(1, Ordering::Relaxed)).to_be_bytes()
    }
}

fn server(script: Script) -> WsCarrier<Script> {
    Framed::new(script, WsFraming::new(Role::Server), BytesMut::new())
}

fn client(script: Script) -> WsCarrier<Script> {
    Framed::new(
        script,
        WsFraming::new(Role::Client(Box::new(Fixed))),
        BytesMut::new(),
    )
}

/// A frame with the first byte `first`, masked as a client's.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, payload, Some(KEY))
}

/// The same as a server's.
fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, payload, None)
}

fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let header = Header {
        key,
        ..Header::whole(Opcode::Binary, payload.len(), None)
    };
    let mut bytes = header.encode().as_slice().to_vec();
    bytes[0] = first;
    let begin = bytes.len();
    bytes.extend_from_slice(payload);
    apply_mask(&mut bytes[begin..], key.unwrap_or_default());
    bytes
}

/// Code and words of the only closing frame a server sends back.
fn answer_to(bytes: Vec<u8>) -> (CarrierError, u16) {
    let mut carrier = server(Script::ending(bytes));
    let (_, error) = recv_all(&mut carrier, &mut pool());
    let error = error.expect("it ends");
    let _ = close(&mut carrier, GONE).expect("the script ends");
    assert!(carrier.transport().shut);
    let written = &carrier.transport().written;
    assert_eq!(written[0], 0x88, "a closing frame");
    assert_eq!(
        usize::from(written[1]) + 2,
        written.len(),
        "and nothing else"
    );
    (error, u16::from_be_bytes([written[2], written[3]]))
}

#[test]
fn frames_are_those_of_the_rfc() {
    let mut carrier = client(Script::new(plain(0x89, b"Hello")));
    assert!(recv(&mut carrier, &mut pool()).is_none());
    flush(&mut carrier).expect("it fits").expect("flushed");
    let pong = [
        0x8A, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58,
    ];
    assert_eq!(carrier.transport().written, pong);

    let mut carrier = server(Script::new(pong));
    carrier.queue(&[7; 256]);
    assert!(
        recv(&mut carrier, &mut pool()).is_none(),
        "a pong nobody asked for is ignored"
    );
    flush(&mut carrier).expect("it fits").expect("flushed");
    let written = &carrier.transport().written;
    assert_eq!(written[..4], [0x82, 0x7E, 0x01, 0x00]);
    assert_eq!(written[4..], [7; 256]);
}

#[test]
fn p12_each_breach_of_the_rules_is_answered_with_its_code() {
    let with_length = |length: u8, bytes: &[u8]| [&[0x82, 0x80 | length], bytes, &KEY].concat();
    let table: [(&str, Vec<u8>, u16); 20] = [
        ("an unmasked frame", plain(0x82, b"x"), 1002),
        ("an unmasked close", plain(0x88, b""), 1002),
        (
            "RSV1: compression was not negotiated",
            masked(0xC2, b"x"),
            1002,
        ),
        ("RSV2", masked(0xA2, b"x"), 1002),
        ("RSV3 on a control frame", masked(0x99, b"x"), 1002),
        ("an unknown data frame", masked(0x83, b"x"), 1002),
        ("an unknown control frame", masked(0x8B, b"x"), 1002),
        (
            "a wasteful 16-bit length",
            with_length(126, &[0, 125]),
            1002,
        ),
        (
            "a wasteful 64-bit length",
            with_length(127, &[0, 0, 0, 0, 0, 0, 255, 255]),
            1002,
        ),
        (
            "the highest bit of a length",
            with_length(127, &[0x80, 0, 0, 0, 0, 0, 0, 0]),
            1002,
        ),
        ("a fragmented ping", masked(0x09, b"x"), 1002),
        ("a fragmented close", masked(0x08, b""), 1002),
        ("a ping of 126 bytes", masked(0x89, &[0; 126]), 1002),
        ("a continuation of nothing", masked(0x80, b"x"), 1002),
        (
            "a message inside of another",
            [masked(0x02, b"x"), masked(0x82, b"y")].concat(),
            1002,
        ),
        ("text", masked(0x81, b"x"), 1003),
        ("fragmented text", masked(0x01, b"x"), 1003),
        ("a closing frame of one byte", masked(0x88, b"\x03"), 1002),
        ("close code 1005", masked(0x88, b"\x03\xED"), 1002),
        (
            "a reason that is not UTF-8",
            masked(0x88, b"\x03\xE8\xC3\x28"),
            1007,
        ),
    ];
    for (what, bytes, code) in table {
        let (error, told) = answer_to(bytes);
        let CarrierError::Protocol {
            carrier,
            code: ours,
            ..
        } = error
        else {
            panic!("{what}: {error}");
        };
        assert_eq!((carrier, ours, told), ("ws", code, code), "{what}");
    }
}

#[test]
fn p12_a_client_refuses_masked_frames() {
    let mut carrier = client(Script::new(masked(0x82, b"x")));
    let error = recv(&mut carrier, &mut pool())
        .expect("at once")
        .expect_err("refused");
    assert!(
        matches!(error, CarrierError::Protocol { code: 1002, .. }),
        "{error}"
    );
}

#[test]
fn p1_oversized_frame_is_refused_from_the_header_alone() {
    for len in [MESSAGE_MAX as u64 + 1, 1 << 32, u64::MAX >> 1] {
        let header = Header {
            len,
            ..Header::whole(Opcode::Binary, 0, Some(KEY))
        };
        let mut carrier = server(Script::new(header.encode().as_slice()));
        let mut pool = pool();
        let error = recv(&mut carrier, &mut pool)
            .expect("at once")
            .expect_err("refused");
        assert!(
            matches!(error, CarrierError::Protocol { code: 1009, .. }),
            "{error}"
        );
        assert_eq!(
            carrier.transport().reads.len(),
            1,
            "nothing more is read for it"
        );
        let small = carrier.transport().reads[0];
        assert!(small <= 8 << 10, "nothing is set aside for it: {small}");
    }
}

#[test]
fn p1_fragments_are_refused_when_their_sum_is_too_long() {
    let part = vec![0; MESSAGE_MAX];
    let mut bytes = masked(0x02, &part);
    let mut carrier = server(Script::new([bytes.clone(), masked(0x80, b"")].concat()));
    let (messages, error) = recv_all(&mut carrier, &mut pool());
    assert!(
        error.is_none() && messages == [part],
        "just the limit is not too long"
    );

    bytes.extend(masked(0x80, b"x"));
    let (error, told) = answer_to(bytes);
    assert!(
        matches!(error, CarrierError::Protocol { code: 1009, .. }),
        "{error}"
    );
    assert_eq!(told, 1009);
}

#[test]
fn fragments_and_what_comes_between_them_make_one_message() {
    let bytes = [
        masked(0x82, b"whole"),
        masked(0x02, b"one "),
        masked(0x89, b"ping"),
        masked(0x00, b""),
        masked(0x00, b"two "),
        masked(0x8A, b"pong"),
        masked(0x80, b"three"),
        masked(0x02, b""),
        masked(0x80, b""),
        masked(0x82, b"end"),
    ]
    .concat();
    let mut carrier = server(Script::new(bytes));
    let (messages, error) = recv_all(&mut carrier, &mut pool());
    assert!(error.is_none());
    assert_eq!(messages, [&b"whole"[..], b"one two three", b"", b"end"]);
    flush(&mut carrier).expect("it fits").expect("flushed");
    assert_eq!(carrier.transport().written, plain(0x8A, b"ping"));
}

/// A little of everything, with all forms of lengths.
fn mixture() -> (Vec<u8>, Vec<Vec<u8>>) {
    let body = |len: usize| -> Vec<u8> { (0..len).map(|i| (i * 7 + len) as u8).collect() };
    let mut bytes = Vec::new();
    let mut messages = Vec::new();
    for len in [0, 1, 125, 126, 700, 65_535, 65_536] {
        bytes.extend(masked(0x82, &body(len)));
        messages.push(body(len));
        bytes.extend(masked(0x89, &body(len % 126)));
    }
    bytes.extend([masked(0x02, &body(300)), masked(0x80, &body(200))].concat());
    messages.push([body(300), body(200)].concat());
    bytes.extend(masked(0x88, b"\x03\xE9going"));
    bytes.extend(masked(0x82, b"ignored, behind the close"));
    (bytes, messages)
}

#[test]
fn n5_dribbled_and_glued_frames_are_the_same() {
    let (bytes, expected) = mixture();
    for read_max in [1, 2, 3, 5, 13, 14, 4_096, 65_537, usize::MAX] {
        for stutters in [true, false] {
            let mut script = Script::new(bytes.clone());
            (script.read_max, script.stutters) = (read_max, stutters);
            let mut carrier = server(script);
            let (messages, error) = recv_all(&mut carrier, &mut pool());
            assert!(messages == expected, "{read_max} bytes at once");
            let Some(CarrierError::Closed { code, reason }) = error else {
                panic!("{error:?}");
            };
            assert_eq!((code, reason.as_str()), (1001, "going"));
        }
    }
}

#[test]
fn n5_dribbled_writes_are_the_same() {
    let mut whole = client(Script::new([]));
    let mut dribbled = client(Script::new([]).dribbling());
    for carrier in [&mut whole, &mut dribbled] {
        carrier.queue(b"");
        carrier.queue(&[5; 300]);
        flush(carrier).expect("it fits").expect("flushed");
    }
    assert_eq!(whole.transport().writes.len(), 1);
    assert!(dribbled.transport().writes.len() > 300);
    assert_eq!(whole.transport().written, dribbled.transport().written);
}

#[test]
fn every_frame_of_a_client_has_a_key_of_its_own() {
    let used = Arc::new(AtomicU32::new(0));
    let keys = Box::new(Counted(Arc::clone(&used)));
    let framing = WsFraming::new(Role::Client(keys));
    let mut carrier = Framed::new(Script::new([]), framing, BytesMut::new());
    carrier.queue(&[0; 4]);
    carrier.queue(&[0; 4]);
    flush(&mut carrier).expect("it fits").expect("flushed");
    let written = &carrier.transport().written;
    // A payload of zeros shows the key.
    assert_eq!(written[2..6], written[6..10]);
    assert_eq!(written[12..16], written[16..20]);
    assert_ne!(written[2..6], written[12..16]);
    assert_eq!(used.load(Ordering::Relaxed), 2);
}

#[test]
fn random_keys_do_not_repeat_over_a_refill() {
    let mut keys = RandomKeys::default();
    let drawn: std::collections::HashSet<_> = (0..3_000).map(|_| keys.next_key()).collect();
    // 3,000 of 2^32: three equal ones mean that it is not random.
    assert!(drawn.len() >= 2_998);
    assert_eq!(
        format!("{keys:?}"),
        "RandomKeys { .. }",
        "keys to come are secret"
    );
}

#[test]
fn only_the_last_of_many_pings_is_answered() {
    let pings: Vec<u8> = (0..100).flat_map(|i| masked(0x89, &[i; 20])).collect();
    let mut carrier = server(Script::new(pings));
    assert!(recv(&mut carrier, &mut pool()).is_none());
    assert_eq!(carrier.queued(), 22, "the flood is not kept");
    flush(&mut carrier).expect("it fits").expect("flushed");
    assert_eq!(carrier.transport().written, plain(0x8A, &[99; 20]));
    assert_eq!(carrier.queued(), 0);
}

#[test]
fn n8_a_ping_flood_from_one_who_does_not_read_stays_bounded() {
    let mut script = Script::new([]);
    script.room = 5;
    let mut carrier = server(script);
    let mut pool = pool();
    for i in 0..100 {
        carrier
            .transport_mut()
            .incoming
            .extend(masked(0x89, &[i; 20]));
        assert!(recv(&mut carrier, &mut pool).is_none());
        assert!(flush(&mut carrier).is_none(), "it does not fit");
        assert!(carrier.queued() <= 2 * 22, "{}", carrier.queued());
    }
    carrier.transport_mut().room = usize::MAX;
    flush(&mut carrier).expect("it fits").expect("flushed");
    flush(&mut carrier).expect("it fits").expect("flushed");
    let answers = [plain(0x8A, &[0; 20]), plain(0x8A, &[99; 20])].concat();
    assert_eq!(
        carrier.transport().written,
        answers,
        "the begun one and the last"
    );
}

#[test]
fn a_close_is_echoed_once_and_nothing_after_it_counts() {
    for (payload, echoed) in [(&b"\x0F\xA0bye"[..], &b"\x0F\xA0"[..]), (b"", b"")] {
        let bytes = [
            masked(0x82, b"before"),
            masked(0x88, payload),
            masked(0x89, b"after"),
            masked(0x88, payload),
            vec![0xFF; 10],
        ];
        let mut carrier = server(Script::ending(bytes.concat()));
        let (messages, error) = recv_all(&mut carrier, &mut pool());
        assert_eq!(messages, [b"before"]);
        let code = if payload.is_empty() { 1005 } else { 4000 };
        let Some(CarrierError::Closed { code: given, .. }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(given, code);
        carrier.queue(b"too late");
        close(&mut carrier, GONE).expect("it ends").expect("clean");
        assert_eq!(carrier.transport().written, plain(0x88, echoed));
    }
}

#[test]
fn our_close_waits_for_theirs_before_the_shutdown() {
    let mut carrier = client(Script::new(plain(0x82, b"late")));
    assert!(close(&mut carrier, GONE).is_none());
    assert_eq!(carrier.transport().written, masked(0x88, b"\x03\xE9home"));
    assert!(
        !carrier.transport().shut,
        "a proxy would drop what is still to come"
    );
    carrier
        .transport_mut()
        .incoming
        .extend(plain(0x82, b"later"));
    carrier
        .transport_mut()
        .incoming
        .extend(plain(0x88, b"\x03\xE9"));
    assert!(
        close(&mut carrier, GONE).is_none(),
        "the transport has not ended"
    );
    assert!(carrier.transport().shut);
    carrier.transport_mut().then = Then::End;
    close(&mut carrier, GONE).expect("it ends").expect("clean");
    assert_eq!(
        carrier.transport().written,
        masked(0x88, b"\x03\xE9home"),
        "only one"
    );
}

#[test]
fn an_end_inside_of_a_message_is_not_clean() {
    let mut bytes = masked(0x82, &[1; 100]);
    bytes.truncate(50);
    let mut carrier = server(Script::ending(bytes));
    let (messages, error) = recv_all(&mut carrier, &mut pool());
    assert!(messages.is_empty());
    assert!(
        matches!(error, Some(CarrierError::Closed { code: 1006, .. })),
        "{error:?}"
    );
    let closed = close(&mut carrier, GONE).expect("it has ended");
    assert!(
        matches!(closed, Err(CarrierError::Closed { code: 1006, .. })),
        "{closed:?}"
    );
}

#[test]
fn debug_shows_no_payload() {
    let mut script = Script::new([]);
    script.incoming.extend(masked(0x89, b"secret"));
    let mut carrier = server(script);
    carrier.queue(b"secret");
    assert!(recv(&mut carrier, &mut pool()).is_none());
    let shown = format!("{carrier:?}");
    assert!(
        !shown.contains("secret") && !shown.contains("115, 101, 99"),
        "{shown}"
    );
}
