//! What every carrier must do, as tests: `carrier_conformance!(name, make)`.
//!
//! `make` is an async function or closure that gives two connected ends, the one that dialled
//! first. Each direction between them must hold less than [`SEGMENT_LARGE`] bytes, so that a send
//! nobody reads has to wait. Nothing here looks at a clock except the one limit that turns a hang
//! into a failure.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, BytesMut};

use super::framed::MESSAGE_MAX;
use super::{Carrier, CarrierError, Close, Piece};
use crate::pool::Pool;
use crate::segment::Segment;

/// Runs the conformance suite on the pairs that `$make` makes, in a module called `$name`.
#[macro_export]
macro_rules! carrier_conformance {
    ($name:ident, $make:expr) => {
        mod $name {
            use super::*;
            $crate::carrier_conformance! { @cases $make;
                queued_messages_arrive_whole_and_in_order
                segments_arrive_with_their_header
                a_message_queued_while_another_is_half_sent_lines_up_behind_it
                a_send_nobody_reads_waits
                both_directions_can_be_full_at_once
                a_segment_cut_off_on_one_carrier_goes_on_on_another
                a_half_sent_segment_may_lose_what_has_arrived
                receiving_goes_on_without_free_slots
                queued_counts_what_a_flush_writes
                a_close_arrives_after_all_that_was_queued
                both_ends_may_close_at_once
                an_end_without_a_handshake_is_not_clean
                a_send_to_one_who_is_gone_fails
                a_close_cuts_a_half_sent_message
                nothing_can_be_sent_to_one_who_closed
            }
        }
    };
    (@cases $make:expr; $($case:ident)*) => {$(
        #[test]
        fn $case() {
            $crate::carrier::conformance::run($crate::carrier::conformance::$case($make));
        }
    )*};
}

/// A segment that no connection under test can hold.
pub const SEGMENT_LARGE: usize = MESSAGE_MAX - HEADER.len();

/// Far beyond what any of this takes; only a hang gets here.
const HANG: Duration = Duration::from_secs(60);

/// As long as the header of a DATA frame.
const HEADER: &[u8] = b"DATA-header13";

/// The two ends of a connection.
type Pair = (Box<dyn Carrier>, Box<dyn Carrier>);

/// One end and what its user keeps.
struct End {
    carrier: Box<dyn Carrier>,
    pool: Pool,
    /// The part of a message that has arrived.
    partial: Option<(usize, Vec<u8>)>,
}

/// Runs one case to its end on a runtime of its own.
///
/// # Panics
/// If the case hangs.
pub fn run(case: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made")
        .block_on(async { tokio::time::timeout(HANG, case).await })
        .expect("the carrier hangs");
}

/// See the name.
pub async fn queued_messages_arrive_whole_and_in_order(make: impl AsyncFn() -> Pair) {
    both_ways(make, async |mut from, mut to| {
        let sizes = [0, 1, 125, 126, 127, 128, 4_000, 65_535, 65_536, 0, 2];
        for (seed, size) in sizes.into_iter().enumerate() {
            from.carrier.queue(&noise(size, seed));
        }
        let receiving = async {
            for (seed, size) in sizes.into_iter().enumerate() {
                assert_eq!(to.recv().await.expect("a message"), noise(size, seed));
            }
        };
        let (flushed, ()) = tokio::join!(from.flush(), receiving);
        flushed.expect("flushed");
    })
    .await;
}

/// See the name.
pub async fn segments_arrive_with_their_header(make: impl AsyncFn() -> Pair) {
    both_ways(make, async |mut from, mut to| {
        let sizes = [
            0,
            1,
            2,
            3,
            4,
            5,
            112,
            113,
            65_522,
            65_523,
            262_144,
            SEGMENT_LARGE,
        ];
        for (seed, size) in sizes.into_iter().enumerate() {
            // Headers of other lengths put the data at every phase of a mask.
            let header = &HEADER[seed % 5..];
            let mut segment = segment(0, size, seed);
            let (sent, message) = tokio::join!(from.send(header, &mut segment), to.recv());
            sent.expect("sent");
            let expected = [header, &noise(size, seed)].concat();
            assert!(message.expect("a message") == expected, "{size} bytes");
        }
    })
    .await;
}

/// See the name.
pub async fn a_message_queued_while_another_is_half_sent_lines_up_behind_it(
    make: impl AsyncFn() -> Pair,
) {
    both_ways(make, async |mut from, mut to| {
        let mut segment = segment(0, SEGMENT_LARGE, 1);
        from.carrier.queue(b"before");
        assert!(
            from.sends_at_once(HEADER, &mut segment).await.is_none(),
            "it is half sent"
        );
        from.carrier.queue(b"after");
        let sending = async {
            from.send(HEADER, &mut segment).await.expect("sent");
            from.flush().await.expect("flushed");
        };
        let receiving = async {
            assert_eq!(to.recv().await.expect("a message"), b"before");
            let large = to.recv().await.expect("a message");
            assert!(large == [HEADER, &noise(SEGMENT_LARGE, 1)].concat());
            assert_eq!(to.recv().await.expect("a message"), b"after");
        };
        tokio::join!(sending, receiving);
    })
    .await;
}

/// See the name.
pub async fn a_send_nobody_reads_waits(make: impl AsyncFn() -> Pair) {
    both_ways(make, async |mut from, mut to| {
        let mut segment = segment(0, SEGMENT_LARGE, 1);
        for _ in 0..3 {
            assert!(from.sends_at_once(HEADER, &mut segment).await.is_none());
        }
        let (sent, message) = tokio::join!(from.send(HEADER, &mut segment), to.recv());
        sent.expect("sent");
        assert!(message.expect("a message") == [HEADER, &noise(SEGMENT_LARGE, 1)].concat());
    })
    .await;
}

/// See the name.
pub async fn both_directions_can_be_full_at_once(make: impl AsyncFn() -> Pair) {
    let (mut near, mut far) = ends(make().await);
    // Each end is one task that sends and receives: if receiving waited for sending, both would
    // wait for ever.
    let work = async |end: &mut End| {
        let mut outgoing = segment(0, SEGMENT_LARGE, 7);
        let (mut to_send, mut received) = (2, 0);
        poll_fn(|cx| {
            while to_send > 0 && end.carrier.poll_send(cx, HEADER, &mut outgoing).is_ready() {
                to_send -= 1;
            }
            while let Poll::Ready(piece) = end.carrier.poll_recv(cx, &mut end.pool) {
                received += piece.expect("a piece").bytes.len();
            }
            if to_send == 0 && received == 2 * MESSAGE_MAX {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    };
    tokio::join!(work(&mut near), work(&mut far));
}

/// See the name.
pub async fn a_segment_cut_off_on_one_carrier_goes_on_on_another(make: impl AsyncFn() -> Pair) {
    let plain = noise(SEGMENT_LARGE, 3);
    let mut segment = segment(5_000, SEGMENT_LARGE, 3);
    let (mut from, mut to) = ends(make().await);
    assert!(
        from.sends_at_once(HEADER, &mut segment).await.is_none(),
        "it is half sent"
    );
    let begun = to.recv_what_is_there().await;
    drop((from, to));
    // As in a resume: what has arrived is not sent again.
    let arrived = begun.len().saturating_sub(HEADER.len());
    segment.trim_to(5_000 + arrived as u64);
    let (mut from, mut to) = ends(make().await);
    let (sent, message) = tokio::join!(from.send(b"other header", &mut segment), to.recv());
    sent.expect("sent");
    assert!(message.expect("a message") == [b"other header", &plain[arrived..]].concat());
}

/// See the name.
pub async fn a_half_sent_segment_may_lose_what_has_arrived(make: impl AsyncFn() -> Pair) {
    both_ways(make, async |mut from, mut to| {
        let mut segment = segment(5_000, SEGMENT_LARGE, 3);
        let mut received = Vec::new();
        while from.sends_at_once(HEADER, &mut segment).await.is_none() {
            received.extend(to.recv_what_is_there().await);
            // The runtime stops feeding a task that never lets go.
            tokio::task::yield_now().await;
            let arrived = received.len().saturating_sub(HEADER.len());
            segment.trim_to(5_000 + arrived as u64);
        }
        let rest = async {
            while received.len() < MESSAGE_MAX {
                received.extend_from_slice(&to.piece().await.expect("a piece").bytes);
            }
        };
        let (flushed, ()) = tokio::join!(from.flush(), rest);
        flushed.expect("flushed");
        assert!(received == [HEADER, &noise(SEGMENT_LARGE, 3)].concat());
    })
    .await;
}

/// See the name.
pub async fn receiving_goes_on_without_free_slots(make: impl AsyncFn() -> Pair) {
    both_ways(make, async |mut from, mut to| {
        to.pool = Pool::new(64 << 10, 1);
        let mut held = Vec::new();
        let mut segment = segment(0, SEGMENT_LARGE, 4);
        let receiving = async {
            loop {
                let piece: Piece = to.piece().await.expect("a piece");
                let last = piece.last;
                held.push(piece.bytes);
                if last {
                    break;
                }
            }
        };
        let (sent, ()) = tokio::join!(from.send(HEADER, &mut segment), receiving);
        sent.expect("sent");
        assert!(held.concat() == [HEADER, &noise(SEGMENT_LARGE, 4)].concat());
    })
    .await;
}

/// See the name.
pub async fn queued_counts_what_a_flush_writes(make: impl AsyncFn() -> Pair) {
    both_ways(make, async |mut from, mut to| {
        from.flush().await.expect("whatever begins the connection");
        assert_eq!(from.carrier.queued(), 0);
        from.carrier.queue(b"");
        let empty = from.carrier.queued();
        assert!(empty > 0, "an empty message is also one");
        from.carrier.queue(b"1234567");
        assert!(from.carrier.queued() >= empty + 7);
        from.flush().await.expect("flushed");
        assert_eq!(from.carrier.queued(), 0);
        assert_eq!(to.recv().await.expect("a message"), b"");
        assert_eq!(to.recv().await.expect("a message"), b"1234567");
    })
    .await;
}

/// See the name.
pub async fn a_close_arrives_after_all_that_was_queued(make: impl AsyncFn() -> Pair) {
    both_ways(make, async |mut from, mut to| {
        from.carrier.queue(b"last words");
        let close = Close {
            code: 1001,
            reason: "going home",
        };
        let closing = async {
            from.close(close).await.expect("the other side answers");
        };
        let closed = async {
            assert_eq!(to.recv().await.expect("a message"), b"last words");
            // Asking again gives the same answer.
            for _ in 0..2 {
                let error = to.recv().await.expect_err("it closed");
                let CarrierError::Closed { code, reason } = error else {
                    panic!("{error}");
                };
                assert_eq!((code, reason.as_str()), (1001, "going home"));
            }
            to.close(NORMAL).await.expect("it closed cleanly");
        };
        tokio::join!(closing, closed);
    })
    .await;
}

/// See the name.
pub async fn both_ends_may_close_at_once(make: impl AsyncFn() -> Pair) {
    let (mut near, mut far) = ends(make().await);
    near.carrier.queue(b"unread");
    far.carrier.queue(b"unread");
    let (one, other) = tokio::join!(near.close(NORMAL), far.close(NORMAL));
    one.expect("clean");
    other.expect("clean");
}

/// See the name.
pub async fn an_end_without_a_handshake_is_not_clean(make: impl AsyncFn() -> Pair) {
    both_ways(make, async |mut from, mut to| {
        from.carrier.queue(b"last words");
        from.flush().await.expect("flushed");
        assert_eq!(to.recv().await.expect("a message"), b"last words");
        drop(from);
        assert_cut(&to.recv().await.expect_err("it is gone"));
        assert_cut(&to.close(NORMAL).await.expect_err("nobody answers"));
    })
    .await;
}

/// See the name.
pub async fn a_send_to_one_who_is_gone_fails(make: impl AsyncFn() -> Pair) {
    both_ways(make, async |mut from, to| {
        let mut segment = segment(0, SEGMENT_LARGE, 4);
        let leaving = async {
            tokio::task::yield_now().await;
            drop(to);
        };
        let (sent, ()) = tokio::join!(from.send(HEADER, &mut segment), leaving);
        assert_cut(&sent.expect_err("it does not fit into the connection"));
    })
    .await;
}

/// See the name.
pub async fn a_close_cuts_a_half_sent_message(make: impl AsyncFn() -> Pair) {
    both_ways(make, async |mut from, mut to| {
        let mut segment = segment(0, SEGMENT_LARGE, 4);
        assert!(from.sends_at_once(HEADER, &mut segment).await.is_none());
        let closed = async {
            assert_cut(&to.recv().await.expect_err("the message is cut"));
            // Whether the one who was cut off learns of it depends on who is faster.
            let _ = to.close(NORMAL).await;
        };
        let (closing, ()) = tokio::join!(from.close(NORMAL), closed);
        drop(closing);
    })
    .await;
}

/// See the name.
pub async fn nothing_can_be_sent_to_one_who_closed(make: impl AsyncFn() -> Pair) {
    both_ways(make, async |mut from, mut to| {
        let refused = async {
            to.recv().await.expect_err("it closed");
            let sent = to.send(HEADER, &mut segment(0, 10, 0)).await;
            assert!(
                matches!(sent, Err(CarrierError::Closed { code: 1000, .. })),
                "{sent:?}"
            );
            to.close(NORMAL).await.expect("clean");
        };
        let (closed, ()) = tokio::join!(from.close(NORMAL), refused);
        closed.expect("clean");
        from.send(HEADER, &mut segment(0, 10, 0))
            .await
            .expect_err("we closed");
    })
    .await;
}

const NORMAL: Close = Close {
    code: 1000,
    reason: "",
};

impl End {
    fn new(carrier: Box<dyn Carrier>) -> Self {
        Self {
            carrier,
            pool: Pool::new(512 << 10, 4),
            partial: None,
        }
    }

    /// A transport may hold what it took; a flush makes it leave.
    async fn send(&mut self, header: &[u8], segment: &mut Segment) -> Result<(), CarrierError> {
        poll_fn(|cx| self.carrier.poll_send(cx, header, segment)).await?;
        self.flush().await
    }

    /// Tries once; `None`: it has to wait.
    async fn sends_at_once(
        &mut self,
        header: &[u8],
        segment: &mut Segment,
    ) -> Option<Result<(), CarrierError>> {
        poll_fn(|cx| match self.carrier.poll_send(cx, header, segment) {
            Poll::Ready(sent) => Poll::Ready(Some(sent)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    async fn flush(&mut self) -> Result<(), CarrierError> {
        poll_fn(|cx| self.carrier.poll_flush(cx)).await
    }

    async fn close(&mut self, close: Close) -> Result<(), CarrierError> {
        poll_fn(|cx| self.carrier.poll_close(cx, close)).await
    }

    async fn piece(&mut self) -> Result<Piece, CarrierError> {
        poll_fn(|cx| self.carrier.poll_recv(cx, &mut self.pool)).await
    }

    /// The next whole message, put together from well-formed pieces.
    async fn recv(&mut self) -> Result<Vec<u8>, CarrierError> {
        loop {
            let piece = self.piece().await?;
            if let Some(message) = self.put_together(&piece) {
                return Ok(message);
            }
        }
    }

    /// Bytes of the pieces that can be had without waiting.
    async fn recv_what_is_there(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        poll_fn(|cx| {
            while let Poll::Ready(piece) = self.carrier.poll_recv(cx, &mut self.pool) {
                bytes.extend_from_slice(&piece.expect("a piece").bytes);
            }
            Poll::Ready(())
        })
        .await;
        bytes
    }

    fn put_together(&mut self, piece: &Piece) -> Option<Vec<u8>> {
        let (len, mut message) = match (piece.first, self.partial.take()) {
            (Some(len), None) => (len, Vec::new()),
            (None, Some(partial)) => partial,
            (first, _) => panic!("a piece out of place: {first:?}"),
        };
        let empty = piece.bytes.is_empty();
        assert!(
            !empty || len == 0,
            "an empty piece of a message that is not empty"
        );
        message.extend_from_slice(&piece.bytes);
        assert_eq!(
            piece.last,
            message.len() == len,
            "{} of {len}",
            message.len()
        );
        if piece.last {
            return Some(message);
        }
        self.partial = Some((len, message));
        None
    }
}

/// Runs `case` from the end that dialled to the other, and on a new connection the other way.
async fn both_ways(make: impl AsyncFn() -> Pair, case: impl AsyncFn(End, End)) {
    let (near, far) = ends(make().await);
    case(near, far).await;
    let (near, far) = ends(make().await);
    case(far, near).await;
}

fn ends((near, far): Pair) -> (End, End) {
    (End::new(near), End::new(far))
}

fn assert_cut(error: &CarrierError) {
    assert!(
        matches!(
            error,
            CarrierError::Io(_) | CarrierError::Closed { code: 1006, .. }
        ),
        "this is not a cut: {error}"
    );
}

fn segment(start: u64, len: usize, seed: usize) -> Segment {
    let mut buf = BytesMut::zeroed(Segment::HEADROOM);
    buf.put_slice(&noise(len, seed));
    Segment::new(start, buf, Segment::HEADROOM)
}

/// Bytes without a short period, so that a mistake of any distance shows.
fn noise(len: usize, seed: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let mut step = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(|_| step()).collect()
}
