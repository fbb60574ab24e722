//! The gate driven as the pump drives it, with golden streams in pieces of every size.

use super::*;
use crate::plan::Dir;

fn armed(trigger: Trigger, how: impl Into<How>) -> Armed {
    Armed {
        trigger,
        dir: Dir::Up,
        how: how.into(),
        bit: 0,
    }
}

fn frame(nth: u64, kind: Option<u8>, place: Place) -> Trigger {
    Trigger::Frame { nth, kind, place }
}

/// What passes, and the cut if one came, reading `piece` bytes at a time.
fn run(faults: &[Armed], stream: &[u8], piece: usize) -> (Vec<u8>, Option<Cut>) {
    let mut gate = Gate::new(faults.iter(), Framing::Auto);
    let mut out = Vec::new();
    let mut held = Vec::new();
    let mut pieces = stream.chunks(piece);
    let mut ended = false;
    loop {
        match gate.step(held.len()) {
            Step::Pass(length) => {
                assert!(length > 0);
                gate.passed(&held[..length]);
                out.extend(held.drain(..length));
            }
            Step::Discard(length) => {
                assert!(length > 0);
                gate.discarded(length);
                held.drain(..length);
            }
            Step::Flip { mask } => held[0] ^= mask,
            Step::Replay(bytes) => out.extend(bytes),
            Step::Cut(cut) => return (out, Some(cut)),
            step @ (Step::HalfClose | Step::Mute) => panic!("{step:?}"),
            Step::Read if ended => return (out, None),
            Step::Read => match pieces.next() {
                Some(piece) => {
                    gate.scan(piece);
                    held.extend_from_slice(piece);
                }
                None => {
                    gate.end();
                    ended = true;
                }
            },
        }
    }
}

/// `run` with every size of piece; they must agree.
fn all(faults: &[Armed], stream: &[u8]) -> (Vec<u8>, Option<Cut>) {
    let whole = run(faults, stream, stream.len());
    for piece in 1..stream.len() {
        assert_eq!(whole, run(faults, stream, piece), "pieces of {piece}");
    }
    whole
}

fn fp(frames: &[&[u8]]) -> Vec<u8> {
    let mut stream = b"\x00farpipe".to_vec();
    for frame in frames {
        stream.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
        stream.extend_from_slice(frame);
    }
    stream
}

#[test]
fn nothing_armed_passes_all() {
    let stream = fp(&[b"abc"]);
    assert_eq!(all(&[], &stream), (stream.clone(), None));
}

#[test]
fn cut_at_byte_n_lets_n_bytes_pass() {
    let stream: Vec<u8> = (0..20).collect();
    for n in 0..=20 {
        let (out, cut) = all(&[armed(Trigger::Byte(n), Cut::Fin)], &stream);
        assert_eq!(
            (out.as_slice(), cut),
            (&stream[..n as usize], Some(Cut::Fin))
        );
    }
    let (out, cut) = all(&[armed(Trigger::Byte(21), Cut::Fin)], &stream);
    assert_eq!((out, cut), (stream, None));
}

#[test]
fn cut_at_the_kth_frame_of_a_type() {
    let frames: [&[u8]; 5] = [b"\x01one", b"\x05five", b"", b"\x01uno", b"\x05cinque"];
    let stream = fp(&frames);
    let start = |n: usize| 8 + frames[..n].iter().map(|f| f.len() + 4).sum::<usize>();
    let cut = |trigger| {
        let (out, cut) = all(&[armed(trigger, Cut::Reset)], &stream);
        cut.map(|_| out.len())
    };
    for (n, payload) in frames.iter().enumerate() {
        let nth = n as u64 + 1;
        let end = start(n) + 4 + payload.len();
        assert_eq!(cut(frame(nth, None, Place::Before)), Some(start(n)));
        assert_eq!(cut(frame(nth, None, Place::Inside(0))), Some(start(n) + 4));
        assert_eq!(
            cut(frame(nth, None, Place::Inside(2))),
            Some((start(n) + 6).min(end))
        );
        assert_eq!(cut(frame(nth, None, Place::After)), Some(end));
    }
    assert_eq!(cut(frame(2, Some(5), Place::Before)), Some(start(4)));
    assert_eq!(cut(frame(2, Some(1), Place::After)), Some(start(4)));
    assert_eq!(cut(frame(3, Some(5), Place::Before)), None);
    assert_eq!(cut(frame(6, None, Place::Before)), None);
}

#[test]
fn cut_at_a_masked_websocket_frame_of_a_type() {
    let head = b"GET / HTTP/1.1\r\n\r\n";
    let mut stream = head.to_vec();
    stream.extend([0x82, 0x82, 0xf0, 1, 2, 3, 0x03 ^ 0xf0, 0]);
    stream.extend([0x82, 0x82, 0x0f, 1, 2, 3, 0x05 ^ 0x0f, 0]);
    let (out, cut) = all(
        &[armed(frame(1, Some(5), Place::Before), Cut::Stall)],
        &stream,
    );
    assert_eq!((out.len(), cut), (head.len() + 8, Some(Cut::Stall)));
}

#[test]
fn flips_one_bit() {
    let stream: Vec<u8> = (0..10).collect();
    let fault = Armed {
        trigger: Trigger::Byte(4),
        dir: Dir::Up,
        how: How::FlipBit,
        bit: 7,
    };
    let mut expected = stream.clone();
    expected[4] ^= 0x80;
    assert_eq!(all(&[fault], &stream), (expected, None));
}

#[test]
fn drops_bytes_and_whole_frames() {
    let stream: Vec<u8> = (0..10).collect();
    let fault = armed(Trigger::Byte(2), How::Drop(Amount::Bytes(3)));
    assert_eq!(all(&[fault], &stream), (vec![0, 1, 5, 6, 7, 8, 9], None));
    let fault = armed(frame(2, None, Place::After), How::Drop(Amount::Frame));
    assert_eq!(
        all(&[fault], &fp(&[b"one", b"two", b"three"])),
        (fp(&[b"one", b"three"]), None)
    );
}

#[test]
fn replays_bytes_and_whole_frames() {
    let stream: Vec<u8> = (0..6).collect();
    let fault = armed(Trigger::Byte(4), How::Replay(Amount::Bytes(2)));
    assert_eq!(all(&[fault], &stream), (vec![0, 1, 2, 3, 2, 3, 4, 5], None));
    let fault = armed(frame(2, None, Place::Before), How::Replay(Amount::Frame));
    assert_eq!(
        all(&[fault], &fp(&[b"one", b"two", b"three"])),
        (fp(&[b"one", b"two", b"two", b"three"]), None)
    );
}

#[test]
fn several_faults_happen_in_the_order_of_their_places() {
    let stream: Vec<u8> = (0..10).collect();
    let faults = [
        armed(Trigger::Byte(8), Cut::Fin),
        armed(Trigger::Byte(1), How::Drop(Amount::Bytes(2))),
        armed(Trigger::Byte(5), How::FlipBit),
        armed(Trigger::Byte(2), How::FlipBit),
    ];
    // The flip at 2 finds its byte gone and takes the next one.
    assert_eq!(
        all(&faults, &stream),
        (vec![0, 3 ^ 1, 4, 5 ^ 1, 6, 7], Some(Cut::Fin))
    );
}

#[test]
fn a_header_cut_short_by_the_end_still_passes() {
    let stream = b"\x00farpipe\x00\x00";
    let fault = armed(frame(1, None, Place::Before), Cut::Reset);
    assert_eq!(all(&[fault], stream), (stream.to_vec(), None));
}

#[test]
fn history_is_bounded_and_keeps_the_newest() {
    let fault = armed(Trigger::Byte(1_000_000), How::Replay(Amount::Bytes(100)));
    let mut gate = Gate::new([fault].iter(), Framing::Auto);
    for n in 0..10_000_u32 {
        gate.passed(&n.to_be_bytes());
        assert!(gate.history.as_ref().unwrap().bytes.len() <= 204);
    }
    let last = gate.history.as_ref().unwrap().last(8);
    assert_eq!(
        last,
        [9998_u32.to_be_bytes(), 9999_u32.to_be_bytes()].concat()
    );
}

#[test]
fn a_fault_armed_now_hits_the_next_byte() {
    let mut gate = Gate::new([].iter(), Framing::Auto);
    gate.passed(b"abc");
    gate.arm_now(How::FlipBit, 3);
    assert_eq!(gate.step(0), Step::Read);
    assert_eq!(gate.step(2), Step::Flip { mask: 8 });
    assert!(!gate.is_armed());
    gate.arm_now(How::Drop(Amount::Bytes(2)), 0);
    assert_eq!(gate.step(0), Step::Read);
    assert_eq!(gate.step(3), Step::Discard(2));
}
