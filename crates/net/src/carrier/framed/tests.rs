//! Tests of the loops between a byte stream and a framing.

use std::future::poll_fn;

use tokio::io::DuplexStream;

use super::*;
use crate::carrier::fp;
use crate::carrier::script::{Script, close, flush, pool, recv, recv_all, settle};
use crate::carrier::ws::{MaskKeys, Role, WsCarrier, WsFraming};
use crate::carrier_conformance;

/// Holds less than a large segment, and is not a round number.
const ROOM: usize = 50_021;

carrier_conformance!(ws_on_a_stream, async || boxed(ws_pair(tokio::io::duplex(
    ROOM
))));
carrier_conformance!(fp_on_a_stream, async || boxed(fp_pair(tokio::io::duplex(
    ROOM
))));
carrier_conformance!(ws_on_a_narrow_stream, async || boxed(ws_pair(
    tokio::io::duplex(331)
)));
carrier_conformance!(fp_on_a_narrow_stream, async || boxed(fp_pair(
    tokio::io::duplex(331)
)));

#[derive(Debug, Default)]
struct CountedKeys(u32);

impl MaskKeys for CountedKeys {
    fn next_key(&mut self) -> [u8; 4] {
        self.0 = self.0.wrapping_mul(2_654_435_761).wrapping_add(12_345);
        self.0.to_be_bytes()
    }
}

fn ws_pair(
    (near, far): (DuplexStream, DuplexStream),
) -> (WsCarrier<DuplexStream>, WsCarrier<DuplexStream>) {
    let client = Role::Client(Box::new(CountedKeys::default()));
    (
        Framed::new(near, WsFraming::new(client), BytesMut::new()),
        Framed::new(far, WsFraming::new(Role::Server), BytesMut::new()),
    )
}

fn fp_pair(
    (near, far): (DuplexStream, DuplexStream),
) -> (fp::FpCarrier<DuplexStream>, fp::FpCarrier<DuplexStream>) {
    (fp::start(near), fp::start(far))
}

fn boxed<C: Carrier + 'static>((near, far): (C, C)) -> (Box<dyn Carrier>, Box<dyn Carrier>) {
    (Box::new(near), Box::new(far))
}

/// A client and its keys, on a script.
fn client(script: Script) -> WsCarrier<Script> {
    let keys = Role::Client(Box::new(CountedKeys::default()));
    Framed::new(script, WsFraming::new(keys), BytesMut::new())
}

/// What a client sends, all of it at once: a queued message, one from a segment.
fn sent_at_once(len: usize) -> (Vec<u8>, usize) {
    let mut carrier = client(Script::new([]));
    carrier.queue(b"queued");
    let mut segment = segment(len);
    send(&mut carrier, &mut segment)
        .expect("it fits")
        .expect("sent");
    let script = carrier.transport();
    (script.written.clone(), script.writes.len())
}

fn segment(len: usize) -> Segment {
    let mut buf = BytesMut::zeroed(Segment::HEADROOM);
    buf.extend((0..len).map(|i| (i * 11) as u8));
    Segment::new(0, buf, Segment::HEADROOM)
}

fn send(
    carrier: &mut WsCarrier<Script>,
    segment: &mut Segment,
) -> Option<Result<(), CarrierError>> {
    settle(poll_fn(|cx| {
        carrier.poll_send(cx, b"DATA-header13", segment)
    }))
}

/// A server's frame of `len` bytes.
fn message(len: usize) -> Vec<u8> {
    let mut out = BytesMut::new();
    WsFraming::new(Role::Server).put_message(&mut out, &vec![9; len]);
    out.to_vec()
}

#[test]
fn what_is_queued_and_a_segment_leave_in_one_write() {
    let (written, writes) = sent_at_once(300_000);
    assert_eq!(writes, 1);
    let mut server = Framed::new(
        Script::new(written),
        WsFraming::new(Role::Server),
        BytesMut::new(),
    );
    let (messages, _) = recv_all(&mut server, &mut pool());
    let data = segment(300_000);
    assert!(messages == [&b"queued"[..], &[b"DATA-header13", data.framed(0)].concat()]);
}

#[test]
fn a_write_that_stops_anywhere_goes_on_there() {
    let (whole, _) = sent_at_once(90);
    for stop in 0..whole.len() {
        let mut script = Script::new([]);
        script.room = stop;
        let mut carrier = client(script);
        carrier.queue(b"queued");
        let mut segment = segment(90);
        assert!(send(&mut carrier, &mut segment).is_none());
        carrier.queue(b"behind");
        carrier.transport_mut().room = usize::MAX;
        send(&mut carrier, &mut segment)
            .expect("it fits")
            .expect("sent");
        flush(&mut carrier).expect("it fits").expect("flushed");
        let written = &carrier.transport().written;
        assert_eq!(written[..whole.len()], whole, "stopped at {stop}");
        assert_eq!(written.len(), whole.len() + 6 + b"behind".len());
    }
}

#[test]
fn bytes_acknowledged_before_they_were_sent_are_a_breach_and_no_panic() {
    let mut script = Script::new([]);
    script.room = 50;
    let mut carrier = client(script);
    let mut segment = segment(90);
    assert!(send(&mut carrier, &mut segment).is_none());
    segment.trim_to(80);
    let error = send(&mut carrier, &mut segment)
        .expect("at once")
        .expect_err("a breach");
    assert!(matches!(error, CarrierError::Protocol { .. }), "{error}");
}

#[test]
fn bytes_that_stick_in_the_transport_are_remembered() {
    let mut script = Script::new([]);
    script.sticks = true;
    let mut carrier = client(script);
    send(&mut carrier, &mut segment(90))
        .expect("it fits")
        .expect("sent");
    assert!(carrier.queued() > 0, "or nobody would flush again");
    assert!(flush(&mut carrier).is_none());
    carrier.transport_mut().sticks = false;
    flush(&mut carrier).expect("it goes").expect("flushed");
    assert_eq!(carrier.queued(), 0);
}

#[test]
fn a_transport_that_takes_nothing_is_an_error_and_no_loop() {
    let mut script = Script::new([]);
    script.write_max = 0;
    let mut carrier = client(script);
    carrier.queue(b"x");
    let error = flush(&mut carrier)
        .expect("at once")
        .expect_err("it takes nothing");
    assert!(matches!(error, CarrierError::Io(_)), "{error}");
    let error = send(&mut carrier, &mut segment(9))
        .expect("at once")
        .expect_err("the same");
    assert!(matches!(error, CarrierError::Io(_)), "{error}");
}

#[test]
fn reads_grow_with_what_comes_and_shrink_again() {
    let mut carrier = client(Script::new(message(1_000_000)));
    let mut pool = pool();
    recv_all(&mut carrier, &mut pool);
    let reads = std::mem::take(&mut carrier.transport_mut().reads);
    assert!(reads[0] <= 8 << 10, "{reads:?}");
    assert_eq!(reads[1], pool.slot_size(), "{reads:?}");
    assert!(reads.len() <= 5, "{reads:?}");
    for _ in 0..20 {
        carrier.transport_mut().incoming.extend(message(100));
        recv_all(&mut carrier, &mut pool);
    }
    let last = *carrier.transport().reads.last().expect("it was read");
    assert!(last <= 8 << 10, "{last}");
}

#[test]
fn a_waiting_carrier_holds_no_buffer() {
    let mut carrier = client(Script::new([]));
    let mut pool = Pool::new(64 << 10, 1);
    let slot = pool.take(64 << 10).expect("a slot");
    let place = slot.as_ptr();
    pool.put_back(slot);
    assert!(recv(&mut carrier, &mut pool).is_none());
    assert_eq!(carrier.inbox.buf.capacity(), 0);
    carrier.transport_mut().incoming.extend(message(200_000));
    let (messages, _) = recv_all(&mut carrier, &mut pool);
    assert_eq!(messages.len(), 1);
    assert_eq!(carrier.inbox.buf.capacity(), 0);
    // Takes the place of the slot, should that have been dropped.
    let _decoy = BytesMut::with_capacity(64 << 10);
    let slot = pool.take(64 << 10).expect("it is free again");
    assert_eq!(slot.as_ptr(), place, "the same slot, not another");
}

#[test]
fn a_queue_keeps_its_memory_only_while_it_is_used() {
    let mut carrier = client(Script::new([]));
    let mut flushed = |len: usize| {
        carrier.queue(&vec![0; len]);
        flush(&mut carrier).expect("it fits").expect("flushed");
        carrier.outbox.queue().try_reclaim(2_000)
    };
    assert!(
        flushed(60_000),
        "or a stream of small writes would allocate for each flush"
    );
    assert!(flushed(10) && flushed(10) && flushed(5_000) && flushed(10));
    assert!((0..20).any(|_| !flushed(10)), "heartbeats do not need it");
}

#[test]
fn pieces_lie_where_they_were_read() {
    let mut carrier = client(Script::new([message(20_000), message(30_000)].concat()));
    let mut pool = pool();
    carrier.inbox.grow();
    let pieces: Vec<Piece> = std::iter::from_fn(|| recv(&mut carrier, &mut pool))
        .map(|piece| piece.expect("a piece"))
        .collect();
    let [one, other] = &pieces[..] else {
        panic!("{} pieces", pieces.len());
    };
    let gap = other.bytes.as_ptr() as usize - one.bytes.as_ptr_range().end as usize;
    assert_eq!(gap, 4, "only the second header lies between them");
}

#[test]
fn tiny_pieces_that_are_kept_share_their_memory() {
    let mut carrier = client(Script::new([]));
    let mut pool = pool();
    let kept: Vec<Piece> = (0..1_000)
        .map(|_| {
            carrier.transport_mut().incoming.extend(message(1));
            let piece = recv(&mut carrier, &mut pool).expect("at once");
            assert!(recv(&mut carrier, &mut pool).is_none(), "it waits");
            piece.expect("a piece")
        })
        .collect();
    let mut places: Vec<_> = kept
        .iter()
        .map(|piece| piece.bytes.as_ptr() as usize)
        .collect();
    places.sort_unstable();
    let far = places
        .windows(2)
        .filter(|pair| pair[1] - pair[0] > 64)
        .count();
    assert!(far < 4, "{far} buffers for 3 KB");
}

#[test]
fn an_answer_goes_out_with_the_next_send() {
    let mut carrier = client(Script::new(*b"\x89\x02hi"));
    assert!(recv(&mut carrier, &mut pool()).is_none());
    assert!(carrier.queued() > 0, "or nobody would send it");
    send(&mut carrier, &mut segment(9))
        .expect("it fits")
        .expect("sent");
    let script = carrier.transport();
    assert_eq!(script.written[0], 0x8A, "the pong");
    assert_eq!(script.writes.len(), 1);
    assert_eq!(carrier.queued(), 0);
}

#[test]
fn a_message_that_is_half_sent_when_the_neighbour_closes_can_be_finished() {
    let mut script = Script::ending(*b"\x88\x00");
    script.room = 50;
    let mut carrier = client(script);
    let mut segment = segment(90);
    assert!(send(&mut carrier, &mut segment).is_none());
    recv(&mut carrier, &mut pool())
        .expect("at once")
        .expect_err("it closed");
    carrier.transport_mut().room = usize::MAX;
    send(&mut carrier, &mut segment)
        .expect("it fits")
        .expect("the rest of it is no new message");
    send(&mut carrier, &mut segment)
        .expect("at once")
        .expect_err("another one is");
    close(&mut carrier, NORMAL)
        .expect("it ends")
        .expect("clean");
    let written = &carrier.transport().written;
    assert_eq!(
        written[written.len() - 6],
        0x88,
        "the answer stands behind it"
    );
    assert_eq!(written.len(), 6 + 13 + 90 + 6);
}

#[test]
fn a_close_hears_last_words_of_one_who_takes_none() {
    let mut script = Script::ending(*b"\x88\x02\x03\xE9");
    script.write_max = 0;
    let mut carrier = client(script);
    close(&mut carrier, NORMAL)
        .expect("it ends")
        .expect("the other side closed cleanly");
}

#[test]
fn a_close_writes_nothing_into_a_half_sent_message() {
    let mut script = Script::ending([]);
    script.room = 50;
    let mut carrier = client(script);
    assert!(send(&mut carrier, &mut segment(90)).is_none());
    carrier.queue(b"behind");
    carrier.transport_mut().room = usize::MAX;
    close(&mut carrier, NORMAL)
        .expect("it ends")
        .expect_err("the other side was cut off");
    let script = carrier.transport();
    assert!(script.written.len() == 50 && script.shut);
}

#[test]
fn what_a_violator_still_sends_is_drained() {
    // Closing with unread bytes would reset the connection, and our reason would be lost.
    let mut script = Script::ending([&[0xFF; 2][..], &[0; 100_000]].concat());
    script.read_max = 1_000;
    let mut carrier = client(script);
    recv(&mut carrier, &mut pool())
        .expect("at once")
        .expect_err("a violation");
    close(&mut carrier, NORMAL)
        .expect("it ends")
        .expect("it was told");
    assert!(carrier.transport().incoming.is_empty());
}

#[test]
fn nothing_is_sent_behind_our_own_close() {
    let mut carrier = client(Script::new([]));
    assert!(close(&mut carrier, NORMAL).is_none());
    let closing = carrier.transport().written.len();
    carrier.queue(b"late");
    let error = send(&mut carrier, &mut segment(9))
        .expect("at once")
        .expect_err("too late");
    assert!(matches!(error, CarrierError::Io(_)), "{error}");
    assert!(close(&mut carrier, NORMAL).is_none());
    assert_eq!(carrier.transport().written.len(), closing);
}

const NORMAL: Close = Close {
    code: 1000,
    reason: "",
};
