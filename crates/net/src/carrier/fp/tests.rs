//! The rules of farpipe's own framing, fed as bytes.

use super::*;
use crate::carrier::script::{Script, Then, close, flush, pool, recv, recv_all};
use crate::carrier::{Carrier, CarrierError, Close};

const GONE: Close = Close {
    code: 1001,
    reason: "home",
};

/// The preface and what follows it.
fn opened(bytes: &[u8]) -> Vec<u8> {
    [&PREFACE[..], bytes].concat()
}

fn message(payload: &[u8]) -> Vec<u8> {
    [&length(payload.len())[..], payload].concat()
}

fn closing(code: u16, reason: &[u8]) -> Vec<u8> {
    let code = code.to_be_bytes();
    [&[0xFF; 4][..], &code, &[reason.len() as u8], reason].concat()
}

fn violation(bytes: Vec<u8>) -> (&'static str, u16) {
    let mut carrier = start(Script::ending(bytes));
    match recv_all(&mut carrier, &mut pool()).1 {
        Some(CarrierError::Protocol {
            carrier: "fp",
            what,
            code,
        }) => {
            let _ = close(&mut carrier, GONE).expect("the script ends");
            let told = &carrier.transport().written;
            assert_eq!(
                told[..PREFACE.len() + 6],
                opened(&closing(code, b""))[..PREFACE.len() + 6]
            );
            (what, code)
        }
        error => panic!("{error:?}"),
    }
}

#[test]
fn the_first_flight_is_preface_and_messages_together() {
    let mut carrier = start(Script::new(opened(&message(b"hello"))));
    assert_eq!(
        carrier.queued(),
        PREFACE.len(),
        "the preface is to be flushed"
    );
    carrier.queue(b"hi");
    carrier.queue(b"");
    flush(&mut carrier).expect("it fits").expect("flushed");
    let script = carrier.transport();
    assert_eq!(script.written, b"farpipe\x01\0\0\0\x02hi\0\0\0\0");
    assert_eq!(script.writes.len(), 1);
    assert_eq!(recv_all(&mut carrier, &mut pool()).0, [b"hello"]);
}

#[test]
fn who_does_not_speak_farpipe_is_named() {
    let table: [(&[u8], &str); 8] = [
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP server"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "SSH server"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "fps://"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "fps://"),
        (b"GET / HTTP/1.1\r\n", "text protocol"),
        (b"farpipe\x02", "another version"),
        (b"\0\0\0\0", "does not speak farpipe"),
        (b"farce", "does not speak farpipe"),
    ];
    for (seen, words) in table {
        let (what, code) = violation(seen.to_vec());
        assert!(what.contains(words), "{what}");
        assert_eq!(code, 1002);
    }
}

#[test]
fn p2_the_first_wrong_byte_of_a_preface_is_enough() {
    // One who waits for an answer first would never send the rest.
    let mut carrier = start(Script::new(*b"farX"));
    let error = recv(&mut carrier, &mut pool())
        .expect("at once")
        .expect_err("refused");
    assert!(matches!(error, CarrierError::Protocol { .. }), "{error}");
}

#[test]
fn p1_oversized_frame_is_refused_from_the_header_alone() {
    for len in [MESSAGE_MAX as u32 + 1, u32::MAX - 1] {
        let mut carrier = start(Script::new(opened(&len.to_be_bytes())));
        let error = recv(&mut carrier, &mut pool())
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
        assert!(
            carrier.transport().reads[0] <= 8 << 10,
            "nothing is set aside for it"
        );
    }
    let limit = opened(&message(&vec![1; MESSAGE_MAX]));
    let (messages, error) = recv_all(&mut start(Script::new(limit)), &mut pool());
    assert!(error.is_none() && messages == [vec![1; MESSAGE_MAX]]);
}

#[test]
fn p2_closing_messages_follow_the_rules_of_websocket() {
    for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        assert_eq!(violation(opened(&closing(code, b""))).1, 1002);
    }
    assert_eq!(violation(opened(&closing(1000, b"\xC3\x28"))).1, 1007);
}

#[test]
fn n5_dribbled_and_glued_frames_are_the_same() {
    let body = |len: usize| -> Vec<u8> { (0..len).map(|i| (i * 7 + len) as u8).collect() };
    let expected = [0, 1, 300, 65_536].map(body);
    let mut bytes = opened(
        &expected
            .iter()
            .flat_map(|body| message(body))
            .collect::<Vec<_>>(),
    );
    bytes.extend(closing(1001, &[b'x'; 255]));
    bytes.extend(message(b"ignored, behind the close"));
    for read_max in [1, 2, 3, 4, 5, 7, 8, 9, 4_096, usize::MAX] {
        for stutters in [true, false] {
            let mut script = Script::new(bytes.clone());
            (script.read_max, script.stutters) = (read_max, stutters);
            let (messages, error) = recv_all(&mut start(script), &mut pool());
            assert!(messages == expected, "{read_max} bytes at once");
            let Some(CarrierError::Closed { code: 1001, reason }) = error else {
                panic!("{error:?}");
            };
            assert_eq!(reason, "x".repeat(255));
        }
    }
}

#[test]
fn a_close_is_answered_by_one_with_its_code() {
    let mut carrier = start(Script::ending(opened(&closing(4000, b"bye"))));
    recv(&mut carrier, &mut pool())
        .expect("at once")
        .expect_err("it closed");
    close(&mut carrier, GONE).expect("it ends").expect("clean");
    assert_eq!(carrier.transport().written, opened(&closing(4000, b"")));
    assert!(carrier.transport().shut);
}

#[test]
fn a_broken_transport_stays_broken() {
    let mut script = Script::new(PREFACE);
    script.then = Then::Fail(std::io::ErrorKind::ConnectionReset);
    let mut carrier = start(script);
    for _ in 0..2 {
        let error = recv(&mut carrier, &mut pool())
            .expect("at once")
            .expect_err("broken");
        let CarrierError::Io(error) = error else {
            panic!("{error}");
        };
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    let closed = close(&mut carrier, GONE).expect("at once");
    assert!(matches!(closed, Err(CarrierError::Io(_))), "{closed:?}");
}
