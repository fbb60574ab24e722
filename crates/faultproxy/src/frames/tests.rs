//! Golden byte streams, each fed whole, byte by byte and in every two pieces.

use super::*;

const WS_UP: &[u8] = b"GET /farpipe HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n";
const WS_DOWN: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

/// All frames of the stream; panics if the pieces change the answer.
fn frames(framing: Framing, stream: &[u8]) -> Vec<Frame> {
    let scan = |pieces: &[&[u8]]| {
        let mut scanner = Scanner::new(framing);
        let mut found = Vec::new();
        for piece in pieces {
            scanner.feed(piece, |frame| found.push(frame));
        }
        found
    };
    let whole = scan(&[stream]);
    assert_eq!(whole, scan(&stream.chunks(1).collect::<Vec<_>>()));
    for at in 0..stream.len() {
        assert_eq!(whole, scan(&[&stream[..at], &stream[at..]]), "cut at {at}");
    }
    whole
}

/// `(start, payload, end, kind)` relative to the end of the head.
fn relative(frames: &[Frame], head: usize) -> Vec<(u64, u64, u64, Option<u8>)> {
    let head = head as u64;
    frames
        .iter()
        .map(|f| (f.start - head, f.payload - head, f.end - head, f.kind))
        .collect()
}

#[test]
fn ws_client_frames_are_unmasked() {
    let mut stream = WS_UP.to_vec();
    stream.extend([0x82, 0x83, 0xa0, 1, 2, 3, 0x05 ^ 0xa0, 0xff, 0xff]);
    stream.extend([0x82, 0x80, 9, 9, 9, 9]);
    stream.extend([0x82, 0xfe, 0x01, 0x00, 0x11, 0, 0, 0, 0x07 ^ 0x11]);
    stream.extend([0; 255]);
    stream.extend([0x81, 0x81, 0, 0, 0, 0, b'x']);
    let expected = [
        (0, 6, 9, Some(5)),
        (9, 15, 15, None),
        (15, 23, 279, Some(7)),
        (279, 285, 286, Some(b'x')),
    ];
    assert_eq!(
        relative(&frames(Framing::Auto, &stream), WS_UP.len()),
        expected
    );
    assert_eq!(
        relative(&frames(Framing::Ws, &stream), WS_UP.len()),
        expected
    );
}

#[test]
fn ws_server_frames_of_each_length_form() {
    let mut stream = WS_DOWN.to_vec();
    stream.extend([0x82, 2, 4, 4]);
    stream.extend([0x82, 126, 0, 200, 6]);
    stream.extend([0; 199]);
    stream.extend([0x82, 127, 0, 0, 0, 0, 0, 0, 1, 0, 8]);
    stream.extend([0; 255]);
    stream.extend([0x82, 1, 9]);
    let expected = [
        (0, 2, 4, Some(4)),
        (4, 8, 208, Some(6)),
        (208, 218, 474, Some(8)),
        (474, 476, 477, Some(9)),
    ];
    assert_eq!(
        relative(&frames(Framing::Auto, &stream), WS_DOWN.len()),
        expected
    );
}

#[test]
fn ws_control_and_continuation_frames_are_not_counted() {
    let mut stream = WS_DOWN.to_vec();
    stream.extend([0x02, 1, 3]); // the first fragment
    stream.extend([0x89, 1, 0]); // a ping between fragments
    stream.extend([0x80, 1, 0]); // the last fragment
    stream.extend([0x82, 1, 5]);
    stream.extend([0x88, 2, 3, 0xe8]);
    assert_eq!(
        relative(&frames(Framing::Ws, &stream), WS_DOWN.len()),
        [(0, 2, 3, Some(3)), (9, 11, 12, Some(5))]
    );
}

#[test]
fn fp_messages_after_the_preface() {
    let mut stream = b"\x00farpipe".to_vec();
    stream.extend([0, 0, 0, 3, 0x10, 1, 2]);
    stream.extend([0, 0, 0, 0]);
    stream.extend([0, 0, 1, 0, 0x11]);
    stream.extend([0; 255]);
    stream.extend([0, 0, 0, 1, 0x12]);
    let expected = [
        (0, 4, 7, Some(0x10)),
        (7, 11, 11, None),
        (11, 15, 271, Some(0x11)),
        (271, 275, 276, Some(0x12)),
    ];
    assert_eq!(relative(&frames(Framing::Auto, &stream), 8), expected);
    assert_eq!(relative(&frames(Framing::Fp, &stream), 8), expected);
}

#[test]
fn an_answer_other_than_101_and_tls_are_opaque() {
    let refused = b"HTTP/1.1 403 Forbidden\r\n\r\n\x82\x01\x05";
    assert_eq!(frames(Framing::Auto, refused), []);
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaa";
    assert_eq!(frames(Framing::Auto, tls), []);
    let mut scanner = Scanner::new(Framing::Auto);
    scanner.feed(tls, |_| {});
    assert!(scanner.is_opaque());
}

#[test]
fn a_length_near_the_maximum_overflows_nothing() {
    let mut stream = WS_DOWN.to_vec();
    stream.extend([0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 5]);
    stream.extend([0; 64]);
    let found = frames(Framing::Auto, &stream);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].end, u64::MAX);
}

#[test]
fn a_shorter_head_line_than_any_status_does_not_panic() {
    assert_eq!(frames(Framing::Ws, b"HTTP/\r\n\r\n\x82\x01\x05"), []);
    assert_eq!(frames(Framing::Ws, b"\r\n\r\n\x82\x01\x05").len(), 1);
}

#[test]
fn an_incomplete_header_is_undecided_from_its_first_byte() {
    let mut scanner = Scanner::new(Framing::Fp);
    scanner.feed(b"\x00farpipe", |_| {});
    assert_eq!(scanner.undecided_from(), None);
    scanner.feed(&[0, 0], |_| {});
    assert_eq!(scanner.undecided_from(), Some(8));
    scanner.feed(&[0, 2], |_| {});
    assert_eq!(
        scanner.undecided_from(),
        Some(8),
        "the type is not known yet"
    );
    scanner.feed(&[7], |frame| assert_eq!(frame.kind, Some(7)));
    assert_eq!(scanner.undecided_from(), None);
    scanner.feed(&[0], |_| {});
    assert_eq!(scanner.undecided_from(), None);
}
