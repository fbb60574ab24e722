//! Credit, windows and acknowledgements of one session, to the byte and the millisecond.
//!
//! The peer is the test, as in `hostile.rs`; the bytes are never looked at, so that windows of
//! their largest size cost no time.

use std::time::Duration;

use farpipe_proto::Instant;
use farpipe_proto::limits::{
    ACK_BYTES_MAX, ACK_DELAY, CREDIT_STEP_MAX, FRAME_MAX, FRAME_MIN, WINDOW_GROWTH_TIME_MIN,
    WINDOW_INITIAL, WINDOW_LEVEL, WINDOW_PROCESS_RESERVED, WINDOW_SESSION_MAX,
};
use farpipe_proto::session::{Event, Session, SessionConfig, Side};
use farpipe_proto::wire::control::Open;
use farpipe_proto::wire::id::StreamId;
use farpipe_proto::wire::inner::{HEADER_LEN, InnerDecoder, InnerFrame, InnerItem, bytes_header};

const STREAM: StreamId = StreamId(1);
const RTT: Duration = Duration::from_millis(100);

/// An acceptor; the peer keeps to the rules.
struct Acceptor {
    session: Session,
    now: Instant,
    /// Session offset of the peer's next byte.
    offset: u64,
    /// Bytes of the stream the peer has sent, and may send.
    sent: u64,
    limit: u64,
    /// Bytes of the stream the sink took.
    consumed: u64,
}

impl Acceptor {
    fn new() -> Self {
        Self::with(SessionConfig::new(Side::Acceptor))
    }

    fn with(config: SessionConfig) -> Self {
        let mut session = Session::new(config);
        let now = Instant::default();
        session.handle_attached(now, 0).expect("a new session");
        session.set_rtt_min(RTT);
        let mut this = Self {
            session,
            now,
            offset: 0,
            sent: 0,
            limit: WINDOW_INITIAL,
            consumed: 0,
        };
        this.hear(&InnerFrame::Open(Open::default()).encode(STREAM));
        this
    }

    /// A new link.
    fn attach(&mut self) {
        let acked = self.session.acked();
        let attached = self.session.handle_attached(self.now, acked);
        attached.expect("within the rules");
    }

    fn hear(&mut self, bytes: &[u8]) {
        let arrived = self
            .session
            .handle_arrived(self.now, self.offset, bytes.len());
        assert_eq!(arrived, Ok(0), "within the rules");
        self.session
            .handle_frames(self.now, bytes)
            .expect("within the rules");
        self.offset += bytes.len() as u64;
        while self.session.poll_event().is_some() {}
    }

    /// The peer sends `len` bytes of the stream as one frame.
    fn hear_payload(&mut self, len: u64) {
        let mut frame = bytes_header(STREAM, len as usize).to_vec();
        frame.resize(HEADER_LEN + len as usize, 0);
        self.hear(&frame);
        self.sent += len;
    }

    /// The peer sends as much as it may.
    fn hear_all(&mut self) {
        while self.sent < self.limit {
            self.hear_payload((self.limit - self.sent).min(FRAME_MAX as u64));
        }
    }

    /// The sink takes `len` bytes; the new limit, if the peer hears one.
    fn consume(&mut self, len: u64) -> Option<u64> {
        self.session.consumed(self.now, STREAM, len as usize);
        self.consumed += len;
        let bytes = self.session.poll_control()?;
        self.session.handle_numbered(bytes.len());
        self.session.handle_sent(self.session.numbered());
        match InnerDecoder::default().next(&bytes) {
            Ok((_, Some(InnerItem::Frame(STREAM, InnerFrame::Credit(limit))))) => {
                self.limit = limit;
                Some(limit)
            }
            other => panic!("{other:?} is no CREDIT"),
        }
    }

    /// The window, if CREDIT was just told.
    fn window(&self) -> u64 {
        self.limit - self.consumed
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
    }
}

#[test]
fn credit_is_told_a_quarter_window_at_a_time() {
    let mut acceptor = Acceptor::new();
    acceptor.pass(Duration::from_secs(10));
    acceptor.hear_all();
    assert_eq!(acceptor.consume(WINDOW_INITIAL / 4 - 1), None);
    assert_eq!(acceptor.consume(1), Some(WINDOW_INITIAL / 4 * 5));
    assert_eq!(
        acceptor.consume(WINDOW_INITIAL / 2),
        Some(WINDOW_INITIAL / 4 * 7)
    );
}

#[test]
fn a_window_doubles_when_the_sender_was_blocked_and_half_is_consumed_in_two_round_trips() {
    for (span, grows) in [
        (Duration::ZERO, true),
        (RTT * 2, true),
        (RTT * 2 + Duration::from_micros(1), false),
    ] {
        let mut acceptor = Acceptor::new();
        acceptor.hear_all();
        acceptor.pass(span);
        let size = if grows { 2 } else { 1 } * WINDOW_INITIAL;
        let limit = WINDOW_INITIAL / 2 + size;
        assert_eq!(
            acceptor.consume(WINDOW_INITIAL / 2),
            Some(limit),
            "{span:?}"
        );
    }
}

#[test]
fn a_very_short_round_trip_counts_as_two_milliseconds() {
    for (span, grows) in [
        (WINDOW_GROWTH_TIME_MIN, true),
        (WINDOW_GROWTH_TIME_MIN + Duration::from_micros(1), false),
    ] {
        let mut acceptor = Acceptor::new();
        acceptor.session.set_rtt_min(Duration::from_micros(3));
        acceptor.hear_all();
        acceptor.pass(span);
        let size = if grows { 2 } else { 1 } * WINDOW_INITIAL;
        let limit = WINDOW_INITIAL / 2 + size;
        assert_eq!(
            acceptor.consume(WINDOW_INITIAL / 2),
            Some(limit),
            "{span:?}"
        );
    }
}

/// One whose window grows by speed only, on a new link to a neighbour that is near.
fn at_level() -> Acceptor {
    let mut acceptor = Acceptor::new();
    while acceptor.window() < WINDOW_LEVEL {
        acceptor.hear_all();
        acceptor.consume(acceptor.sent - acceptor.consumed);
    }
    acceptor.session.set_rtt_min(Duration::from_micros(3));
    acceptor.pass(RTT);
    acceptor.attach();
    acceptor
}

#[test]
fn the_round_trip_between_the_ends_counts_where_the_link_s_is_shorter() {
    // By a relay near the reader: what the sender sends on credit arrives `RTT` after it was told.
    let grown = |rest: u64| {
        let mut acceptor = at_level();
        let left = acceptor.limit - acceptor.sent - rest;
        for _ in 0..left / WINDOW_INITIAL {
            acceptor.hear_payload(WINDOW_INITIAL - 1);
        }
        acceptor.hear_payload(acceptor.limit - acceptor.sent - rest);
        acceptor.pass(Duration::from_secs(1));
        assert!(acceptor.consume(WINDOW_LEVEL / 2).is_some());
        assert_eq!(acceptor.window(), WINDOW_LEVEL, "too slow to grow");
        acceptor.pass(RTT);
        acceptor.hear_payload(rest + 1);
        acceptor.hear_all();
        acceptor.pass(RTT);
        acceptor.consume(WINDOW_LEVEL / 2);
        acceptor.window() > WINDOW_LEVEL
    };
    assert!(grown(0));
    assert!(!grown(1), "a sender that did not wait says nothing");
}

#[test]
fn the_round_trip_between_the_ends_is_that_of_the_present_way() {
    let mut acceptor = at_level();
    acceptor.hear_all();
    acceptor.pass(Duration::from_secs(1));
    assert!(acceptor.consume(WINDOW_LEVEL / 2).is_some());
    // The link was away meanwhile.
    acceptor.pass(Duration::from_secs(60));
    acceptor.attach();
    acceptor.hear_all();
    acceptor.pass(RTT);
    acceptor.consume(WINDOW_LEVEL / 2);
    assert_eq!(acceptor.window(), WINDOW_LEVEL);
}

#[test]
fn large_windows_tell_credit_a_mebibyte_at_a_time() {
    let mut acceptor = Acceptor::new();
    while acceptor.window() < 16 * CREDIT_STEP_MAX {
        acceptor.hear_all();
        acceptor.consume(acceptor.sent - acceptor.consumed);
    }
    acceptor.hear_all();
    assert_eq!(acceptor.consume(CREDIT_STEP_MAX - 1), None);
    assert!(acceptor.consume(1).is_some());
}

#[test]
fn a_window_stays_while_the_sender_has_credit_left() {
    let mut acceptor = Acceptor::new();
    acceptor.hear_payload(WINDOW_INITIAL - 1);
    let limit = WINDOW_INITIAL / 2 + WINDOW_INITIAL;
    assert_eq!(acceptor.consume(WINDOW_INITIAL / 2), Some(limit));
}

#[test]
fn a_sender_that_used_up_an_older_limit_was_blocked_too() {
    // The reader takes everything at once, so every limit is raised before it is reached; on a
    // long link the sender still waits a round trip for each.
    let mut acceptor = Acceptor::new();
    let quarter = WINDOW_INITIAL / 4;
    for n in 1..4 {
        acceptor.hear_payload(quarter);
        assert_eq!(
            acceptor.consume(quarter),
            Some(WINDOW_INITIAL + n * quarter)
        );
    }
    acceptor.hear_payload(quarter);
    assert_eq!(acceptor.consume(quarter), Some(3 * WINDOW_INITIAL));
}

#[test]
fn a_frame_beyond_an_older_limit_shows_that_the_sender_knew_the_newer_one() {
    let mut acceptor = Acceptor::new();
    let quarter = WINDOW_INITIAL / 4;
    for n in 1..4 {
        acceptor.hear_payload(quarter);
        assert_eq!(
            acceptor.consume(quarter),
            Some(WINDOW_INITIAL + n * quarter)
        );
    }
    acceptor.hear_payload(quarter + 1);
    assert_eq!(acceptor.consume(quarter + 1), Some(2 * WINDOW_INITIAL + 1));
}

#[test]
fn a_window_grows_to_the_sessions_limit_and_not_beyond() {
    let mut acceptor = Acceptor::new();
    for _ in 0..12 {
        acceptor.hear_all();
        acceptor.consume(acceptor.sent - acceptor.consumed);
    }
    assert_eq!(acceptor.window(), WINDOW_SESSION_MAX);
}

#[test]
fn a_window_grows_only_into_what_the_other_streams_leave() {
    let mut config = SessionConfig::new(Side::Acceptor);
    config.buffer_max = 5 * WINDOW_INITIAL;
    let mut acceptor = Acceptor::with(config);
    for id in [3, 5, 7] {
        acceptor.hear(&InnerFrame::Open(Open::default()).encode(StreamId(id)));
    }
    // Four windows of one, and one left.
    acceptor.hear_all();
    let limit = WINDOW_INITIAL / 2 + 2 * WINDOW_INITIAL;
    assert_eq!(acceptor.consume(WINDOW_INITIAL / 2), Some(limit));
    acceptor.hear_all();
    let consumed = 3 * WINDOW_INITIAL / 2;
    let limit = consumed + 2 * WINDOW_INITIAL;
    assert_eq!(
        acceptor.consume(WINDOW_INITIAL),
        Some(limit),
        "all is taken"
    );
}

#[test]
fn a_window_grows_only_into_what_the_other_sessions_of_the_process_leave() {
    for (room, windows) in [(0, 1), (1, 1), (2, 2), (3, 2), (9, 8)] {
        let mut acceptor = Acceptor::new();
        let room = WINDOW_PROCESS_RESERVED + room * WINDOW_INITIAL;
        acceptor.session.set_window_room(room);
        for _ in 0..8 {
            acceptor.hear_all();
            acceptor.consume(acceptor.sent - acceptor.consumed);
        }
        assert_eq!(acceptor.window(), windows * WINDOW_INITIAL);
        assert_eq!(acceptor.session.windows(), acceptor.window());
        acceptor.session.assert_invariants();
    }
}

#[test]
fn an_acknowledgement_is_due_after_ten_milliseconds() {
    let mut acceptor = Acceptor::new();
    let due = acceptor.now + ACK_DELAY;
    assert_eq!(acceptor.session.poll_timeout(), Some(due));
    // More bytes do not put it off.
    acceptor.pass(ACK_DELAY / 2);
    acceptor.hear_payload(100);
    assert_eq!(acceptor.session.poll_timeout(), Some(due));
    assert_eq!(acceptor.session.poll_ack(acceptor.now), None);
    acceptor.now = due;
    assert_eq!(acceptor.session.poll_ack(due), Some(acceptor.offset));
    assert_eq!(acceptor.session.poll_ack(due), None);
    assert_eq!(acceptor.session.poll_timeout(), None);
}

#[test]
fn an_acknowledgement_is_due_after_a_quarter_of_the_smallest_window() {
    let mut acceptor = Acceptor::new();
    let told = acceptor
        .session
        .poll_ack(acceptor.now + ACK_DELAY)
        .expect("the OPEN");
    assert_eq!(told, acceptor.offset);
    let quarter = WINDOW_INITIAL / 4;
    acceptor.hear_payload(quarter - HEADER_LEN as u64 - 1);
    assert_eq!(acceptor.session.poll_ack(acceptor.now), None);
    acceptor.hear_payload(1);
    assert_eq!(
        acceptor.session.poll_ack(acceptor.now),
        Some(acceptor.offset)
    );
}

#[test]
fn an_acknowledgement_is_due_after_256_kib_whatever_the_windows_are() {
    let mut acceptor = Acceptor::new();
    for _ in 0..6 {
        acceptor.hear_all();
        acceptor.consume(acceptor.sent - acceptor.consumed);
    }
    assert!(acceptor.window() > 4 * ACK_BYTES_MAX);
    acceptor.session.poll_ack(acceptor.now + ACK_DELAY);
    acceptor.hear_payload(ACK_BYTES_MAX - HEADER_LEN as u64 - 1);
    assert_eq!(acceptor.session.poll_ack(acceptor.now), None);
    acceptor.hear_payload(1);
    assert!(acceptor.session.poll_ack(acceptor.now).is_some());
}

#[test]
fn an_acknowledgement_is_due_at_once_when_credit_is_used_up() {
    let mut acceptor = Acceptor::new();
    acceptor.hear_payload(WINDOW_INITIAL - 1);
    acceptor.session.poll_ack(acceptor.now + ACK_DELAY);
    acceptor.hear_payload(1);
    assert_eq!(
        acceptor.session.poll_ack(acceptor.now),
        Some(acceptor.offset)
    );
}

#[test]
fn an_attach_tells_the_offset_and_leaves_nothing_to_acknowledge() {
    let mut acceptor = Acceptor::new();
    acceptor.hear_payload(WINDOW_INITIAL);
    acceptor
        .session
        .handle_attached(acceptor.now, 0)
        .expect("attached");
    assert_eq!(acceptor.session.poll_timeout(), None);
    assert_eq!(acceptor.session.poll_ack(acceptor.now), None);
    assert_eq!(acceptor.session.poll_ack(acceptor.now + ACK_DELAY), None);
}

fn number(session: &mut Session) {
    while let Some(bytes) = session.poll_control() {
        session.handle_numbered(bytes.len());
    }
}

fn write(session: &mut Session, id: StreamId, len: usize) {
    session.write(id, len);
    session.handle_numbered(HEADER_LEN + len);
}

#[test]
fn frames_follow_the_rate_and_a_faster_link_wakes_who_waited() {
    let mut session = Session::new(SessionConfig::new(Side::Opener));
    let mut now = Instant::default();
    session.handle_attached(now, 0).expect("a new session");
    let id = session.open(now, Open::default()).expect("room");
    number(&mut session);
    assert_eq!(session.grant(id), FRAME_MIN, "nothing is known of the link");
    write(&mut session, id, FRAME_MIN);
    assert_eq!(session.grant(id), 0);
    assert!(session.is_backlogged());
    // One byte of the frame leaves; the rest is a backlog still.
    session.handle_sent(FRAME_MIN as u64);
    while session.poll_event().is_some() {}
    let grant = session.grant(id);
    write(&mut session, id, grant);
    assert_eq!(session.grant(id), 0);
    session.handle_ack(now, 1).expect("a first sample");
    assert_eq!(session.poll_event(), None, "still a backlog");
    now = now + Duration::from_millis(1);
    session
        .handle_ack(now, FRAME_MIN as u64)
        .expect("4 MB a second");
    assert!(session.grant(id) > 0);
    assert_eq!(session.poll_event(), Some(Event::Writable(id)));
}
