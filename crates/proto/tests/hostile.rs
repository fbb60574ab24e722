//! A peer that breaks the rules, one row of the fault model per test (the id begins the name).
//!
//! The peer is this test: it says frames as it likes and hears what the session answers. Every
//! breach ends the session with an error that no retry mends, and before anything is kept.

use std::time::Duration;

use farpipe_proto::Instant;
use farpipe_proto::limits::{
    EMPTY_FRAMES_MAX, INNER_BYTES_MAX, OFFSET_MAX, RESETS_MAX, RESETS_WINDOW, STREAMS_MAX,
    WINDOW_INITIAL,
};
use farpipe_proto::session::{Event, Session, SessionConfig, SessionError, Side};
use farpipe_proto::wire::control::{Abort, AbortCode, Exit, Open, Refuse};
use farpipe_proto::wire::id::StreamId;
use farpipe_proto::wire::inner::{InnerDecoder, InnerFrame, InnerItem, bytes_header};

/// A session whose peer is the test.
struct Victim {
    session: Session,
    now: Instant,
    /// Session offset of the peer's next byte.
    offset: u64,
    /// Our frames that left, in order.
    said: Vec<(StreamId, InnerFrame)>,
}

impl Victim {
    fn new(side: Side) -> Self {
        Self::with(SessionConfig::new(side))
    }

    fn with(config: SessionConfig) -> Self {
        let mut session = Session::new(config);
        let now = Instant::default();
        session.handle_attached(now, 0).expect("a new session");
        Self {
            session,
            now,
            offset: 0,
            said: Vec::new(),
        }
    }

    /// The peer says bytes of its session stream.
    fn hears_bytes(&mut self, bytes: &[u8]) -> Result<Vec<Event>, SessionError> {
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        let result = self.session.handle_data(self.now, offset, bytes);
        self.session.assert_invariants();
        let events = std::iter::from_fn(|| self.session.poll_event()).collect();
        self.flush();
        result.map(|()| events)
    }

    fn hears(&mut self, id: u32, frame: InnerFrame) -> Result<Vec<Event>, SessionError> {
        self.hears_bytes(&frame.encode(StreamId(id)))
    }

    fn hears_open(&mut self, id: u32) -> Result<Vec<Event>, SessionError> {
        self.hears(id, InnerFrame::Open(Open::default()))
    }

    fn hears_payload(&mut self, id: u32, len: usize) -> Result<Vec<Event>, SessionError> {
        let mut frame = bytes_header(StreamId(id), len).to_vec();
        frame.resize(frame.len() + len, 7);
        self.hears_bytes(&frame)
    }

    /// Numbers and sends what the session has to say; the peer acknowledges nothing by itself.
    fn flush(&mut self) {
        let mut decoder = InnerDecoder::default();
        while let Some(bytes) = self.session.poll_control() {
            let (taken, item) = decoder.next(&bytes).expect("our own frames");
            assert_eq!(taken, bytes.len());
            let Some(InnerItem::Frame(id, frame)) = item else {
                panic!("{item:?} is no control frame");
            };
            self.said.push((id, frame));
        }
        self.session.handle_sent(self.session.numbered());
    }
}

fn abort(code: AbortCode) -> Abort {
    Abort {
        code: code as u32,
        message: String::new(),
    }
}

fn is_protocol(result: &Result<Vec<Event>, SessionError>) -> bool {
    matches!(result, Err(error @ SessionError::Protocol(_)) if !error.is_transient())
}

fn is_flow(result: &Result<Vec<Event>, SessionError>) -> bool {
    matches!(result, Err(error @ SessionError::Flow(_)) if !error.is_transient())
}

#[test]
fn p3_a_stream_id_used_twice_ends_the_session() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("the first");
    assert!(is_protocol(&victim.hears_open(1)));
}

#[test]
fn p3_a_stream_id_going_down_ends_the_session() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(9).expect("ids may leave gaps");
    assert!(is_protocol(&victim.hears_open(7)));
}

#[test]
fn p3_a_stream_id_of_the_wrong_side_ends_the_session() {
    for (side, id) in [(Side::Acceptor, 2), (Side::Opener, 1), (Side::Opener, 3)] {
        let mut victim = Victim::new(side);
        let result = victim.hears_open(id);
        assert!(is_protocol(&result), "{side:?} {id}: {result:?}");
    }
}

#[test]
fn p3_a_frame_on_a_stream_never_opened_ends_the_session() {
    let frames = [
        InnerFrame::Accept,
        InnerFrame::Refuse(Refuse::default()),
        InnerFrame::Credit(1 << 20),
        InnerFrame::Fin(0),
        InnerFrame::Reset(Abort::default()),
        InnerFrame::Stop(Abort::default()),
        InnerFrame::Exit(Exit::default()),
        InnerFrame::Done(0),
        InnerFrame::Complete,
    ];
    for frame in frames {
        for id in [1, 2, 3, 4] {
            let mut victim = Victim::new(Side::Acceptor);
            let result = victim.hears(id, frame.clone());
            assert!(is_protocol(&result), "{id} {frame:?}: {result:?}");
        }
    }
    let mut victim = Victim::new(Side::Acceptor);
    assert!(is_protocol(&victim.hears_payload(1, 1)));
}

#[test]
fn p3_a_frame_of_a_stream_on_the_session_itself_ends_it() {
    for frame in [
        InnerFrame::Open(Open::default()),
        InnerFrame::Accept,
        InnerFrame::Credit(1 << 20),
        InnerFrame::Fin(0),
        InnerFrame::Exit(Exit::default()),
        InnerFrame::Complete,
    ] {
        let mut victim = Victim::new(Side::Acceptor);
        let result = victim.hears(0, frame.clone());
        assert!(is_protocol(&result), "{frame:?}: {result:?}");
    }
    let mut victim = Victim::new(Side::Opener);
    assert!(is_protocol(&victim.hears(0, InnerFrame::Complete)));
    let mut victim = Victim::new(Side::Opener);
    assert!(is_protocol(&victim.hears(0, InnerFrame::Done(0))));
    let mut victim = Victim::new(Side::Acceptor);
    assert!(is_protocol(&victim.hears_payload(0, 1)));
}

/// An acceptor whose stream 1 is settled: the peer reset it, and wants nothing of it either.
fn with_a_closed_stream() -> Victim {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    let reset = InnerFrame::Reset(abort(AbortCode::Failed));
    victim.hears(1, reset).expect("resets");
    let stop = InnerFrame::Stop(abort(AbortCode::ReaderGone));
    victim.hears(1, stop).expect("stops");
    assert_eq!(victim.session.open_streams(), 0);
    victim
}

#[test]
fn p3_late_frames_on_a_stream_just_closed_are_ignored() {
    for frame in [
        InnerFrame::Credit(1 << 20),
        InnerFrame::Stop(Abort::default()),
        InnerFrame::Done(0),
        InnerFrame::Reset(Abort::default()),
    ] {
        let mut victim = with_a_closed_stream();
        let result = victim.hears(1, frame.clone());
        assert_eq!(result, Ok(vec![]), "{frame:?}");
    }
}

#[test]
fn p3_a_senders_frame_on_a_closed_stream_ends_the_session() {
    let mut victim = with_a_closed_stream();
    assert!(is_protocol(&victim.hears(1, InnerFrame::Fin(0))));
    let mut victim = with_a_closed_stream();
    assert!(is_protocol(&victim.hears_payload(1, 1)));
    let mut victim = with_a_closed_stream();
    assert!(is_protocol(&victim.hears_open(1)));
}

#[test]
fn p3_an_answer_that_crossed_the_streams_end_is_ignored() {
    for answer in [InnerFrame::Accept, InnerFrame::Refuse(Refuse::default())] {
        let mut victim = Victim::new(Side::Opener);
        let id = victim
            .session
            .open(victim.now, Open::default())
            .expect("room");
        victim.session.stop(id, abort(AbortCode::Cancelled));
        victim.session.reset(id, abort(AbortCode::Cancelled));
        victim.flush();
        let confirmed = InnerFrame::Reset(abort(AbortCode::Stopped));
        assert_eq!(victim.hears(id.0, confirmed), Ok(vec![]));
        assert_eq!(victim.session.open_streams(), 0);
        assert_eq!(victim.hears(id.0, answer.clone()), Ok(vec![]), "{answer:?}");
    }
}

#[test]
fn p3_an_answer_to_ones_own_open_ends_the_session() {
    for answer in [InnerFrame::Accept, InnerFrame::Refuse(Refuse::default())] {
        let mut victim = Victim::new(Side::Acceptor);
        victim.hears_open(1).expect("opens");
        assert!(is_protocol(&victim.hears(1, answer)));
    }
}

#[test]
fn p3_open_after_the_last_stream_ends_the_session() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears(0, InnerFrame::Done(0)).expect("no more");
    assert!(is_protocol(&victim.hears_open(1)));
}

#[test]
fn p3_an_open_that_crossed_the_openers_last_word_is_served() {
    let mut victim = Victim::new(Side::Opener);
    victim.session.finish_opening();
    victim.flush();
    let opened = Event::Opened(StreamId(2), Open::default());
    assert_eq!(victim.hears_open(2), Ok(vec![opened]));
}

#[test]
fn p3_what_a_sender_says_after_its_last_frame_ends_the_session() {
    let last_words = [
        InnerFrame::Fin(0),
        InnerFrame::Reset(abort(AbortCode::Failed)),
    ];
    for last in last_words {
        let mut victim = Victim::new(Side::Acceptor);
        victim.hears_open(1).expect("opens");
        victim.hears(1, last.clone()).expect("its last frame");
        assert!(
            is_protocol(&victim.hears(1, InnerFrame::Fin(0))),
            "{last:?}"
        );
        let mut victim = Victim::new(Side::Acceptor);
        victim.hears_open(1).expect("opens");
        victim.hears(1, last.clone()).expect("its last frame");
        assert!(is_protocol(&victim.hears_payload(1, 1)), "{last:?}");
    }
}

#[test]
fn p3_counts_that_do_not_agree_end_the_session() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    victim.hears_payload(1, 10).expect("ten bytes");
    assert!(is_protocol(&victim.hears(1, InnerFrame::Fin(9))));

    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    victim.session.write(StreamId(1), 5);
    victim.session.finish(StreamId(1));
    victim.flush();
    assert!(is_protocol(&victim.hears(1, InnerFrame::Done(4))));

    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    assert!(
        is_protocol(&victim.hears(1, InnerFrame::Done(0))),
        "before FIN"
    );
}

#[test]
fn p3_a_status_before_all_output_ends_the_session() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    assert!(is_protocol(
        &victim.hears(1, InnerFrame::Exit(Exit::default()))
    ));
}

#[test]
fn p4_credit_beyond_any_stream_ends_the_session() {
    for limit in [OFFSET_MAX + 1, u64::MAX] {
        let mut victim = Victim::new(Side::Acceptor);
        victim.hears_open(1).expect("opens");
        assert!(is_flow(&victim.hears(1, InnerFrame::Credit(limit))));
    }
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    let writable = Event::Writable(StreamId(1));
    assert_eq!(
        victim.hears(1, InnerFrame::Credit(OFFSET_MAX)),
        Ok(vec![writable])
    );
}

#[test]
fn p4_credit_that_gives_nothing_ends_the_session() {
    for limit in [0, 1, WINDOW_INITIAL] {
        let mut victim = Victim::new(Side::Acceptor);
        victim.hears_open(1).expect("opens");
        assert!(is_flow(&victim.hears(1, InnerFrame::Credit(limit))));
    }
}

#[test]
fn p5_data_beyond_credit_ends_the_session() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    victim
        .hears_payload(1, WINDOW_INITIAL as usize)
        .expect("all of the credit");
    assert!(is_flow(&victim.hears_payload(1, 1)));
}

#[test]
fn p5_a_first_frame_larger_than_the_window_is_refused_by_its_header() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    for len in [WINDOW_INITIAL as usize + 1, INNER_BYTES_MAX] {
        // Only the header comes; the refusal waits for no payload.
        let header = bytes_header(StreamId(1), len);
        assert!(is_flow(&victim.hears_bytes(&header)));
        victim = Victim::new(Side::Acceptor);
        victim.hears_open(1).expect("opens");
    }
}

#[test]
fn p5_credit_counts_what_is_dropped_too() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    victim
        .session
        .stop(StreamId(1), abort(AbortCode::ReaderGone));
    let events = victim.hears_payload(1, WINDOW_INITIAL as usize);
    assert_eq!(events, Ok(vec![]), "dropped");
    assert!(is_flow(&victim.hears_payload(1, 1)));
}

#[test]
fn p7_a_flood_of_empty_frames_ends_the_session() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    for _ in 0..EMPTY_FRAMES_MAX {
        assert_eq!(victim.hears_payload(1, 0), Ok(vec![]));
    }
    victim.hears_payload(1, 1).expect("a byte ends the row");
    for _ in 0..EMPTY_FRAMES_MAX {
        assert_eq!(victim.hears_payload(1, 0), Ok(vec![]));
    }
    assert!(is_flow(&victim.hears_payload(1, 0)));
}

#[test]
fn p8_streams_opened_and_reset_in_a_loop_end_the_session() {
    let mut victim = Victim::new(Side::Acceptor);
    let round = |victim: &mut Victim, n: u32| {
        victim.hears_open(2 * n + 1)?;
        victim.session.reset(StreamId(2 * n + 1), Abort::default());
        victim.hears(2 * n + 1, InnerFrame::Reset(Abort::default()))
    };
    for n in 0..RESETS_MAX {
        round(&mut victim, n).expect("up to the limit");
    }
    assert!(is_flow(&round(&mut victim, RESETS_MAX)));
}

#[test]
fn p8_resets_spread_over_time_are_allowed() {
    let mut victim = Victim::new(Side::Acceptor);
    let pause = RESETS_WINDOW / RESETS_MAX + Duration::from_millis(1);
    for n in 0..10 * RESETS_MAX {
        victim.hears_open(2 * n + 1).expect("opens");
        victim.session.reset(StreamId(2 * n + 1), Abort::default());
        victim
            .hears(2 * n + 1, InnerFrame::Reset(Abort::default()))
            .expect("not too many at once");
        victim.now = victim.now + pause;
    }
}

#[test]
fn p8_resets_that_our_own_stop_or_refusal_asked_for_do_not_count() {
    for refuses in [true, false] {
        let mut victim = Victim::new(Side::Acceptor);
        for n in 0..3 * RESETS_MAX {
            let id = StreamId(2 * n + 1);
            victim.hears_open(id.0).expect("opens");
            if refuses {
                victim.session.refuse(id, Refuse::default());
            } else {
                victim.session.stop(id, abort(AbortCode::ReaderGone));
                victim.session.reset(id, abort(AbortCode::Failed));
            }
            let answer = InnerFrame::Reset(abort(AbortCode::Stopped));
            assert_eq!(victim.hears(id.0, answer), Ok(vec![]));
            assert_eq!(victim.session.open_streams(), 0);
        }
    }
}

#[test]
fn p9_a_stream_too_many_is_refused_and_the_others_live() {
    let mut config = SessionConfig::new(Side::Acceptor);
    config.streams_max = 3;
    let mut victim = Victim::with(config);
    for id in [1, 3, 5] {
        assert_eq!(victim.hears_open(id).expect("opens").len(), 1);
    }
    assert_eq!(victim.hears_open(7), Ok(vec![]));
    let refused = victim.said.iter().find_map(|(id, frame)| match frame {
        InnerFrame::Refuse(refuse) => Some((id.0, refuse.status)),
        _ => None,
    });
    assert_eq!(refused, Some((7, 125)));
    // What crossed the refusal is dropped, and the stream is gone with the peer's last word.
    assert_eq!(victim.hears_payload(7, 100), Ok(vec![]));
    let last = InnerFrame::Reset(abort(AbortCode::Stopped));
    assert_eq!(victim.hears(7, last), Ok(vec![]));
    assert_eq!(victim.session.open_streams(), 3);
    assert_eq!(victim.hears_payload(1, 100).expect("lives").len(), 1);
    // One that never hears the refusals meets a second limit.
    let next = |n: usize| 9 + 2 * n as u32;
    for n in 0..STREAMS_MAX {
        assert_eq!(victim.hears_open(next(n)), Ok(vec![]));
    }
    assert!(is_flow(&victim.hears_open(next(STREAMS_MAX))));
}

#[test]
fn p10_garbage_inside_a_session_ends_it() {
    for garbage in [
        &[0x01, 0, 0, 0, 1, 0, 0, 0, 1, 0xff][..],
        &[0xff; 40],
        &[0x00; 40],
    ] {
        let mut victim = Victim::new(Side::Acceptor);
        let result = victim.hears_bytes(garbage);
        assert!(
            matches!(&result, Err(error @ SessionError::Decode(_)) if !error.is_transient()),
            "{garbage:02x?}: {result:?}"
        );
    }
}

#[test]
fn p11_an_acknowledgement_beyond_what_was_sent_ends_the_session() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    victim.session.write(StreamId(1), 100);
    // Numbered, but not sent.
    let now = victim.now;
    let result = victim.session.handle_ack(now, 1);
    let beyond = SessionError::AckOutOfRange {
        offset: 1,
        acked: 0,
        sent: 0,
    };
    assert_eq!(result, Err(beyond));
    victim.flush();
    let numbered = victim.session.numbered();
    assert_eq!(victim.session.handle_ack(now, numbered), Ok(true));
    assert_eq!(victim.session.handle_ack(now, numbered), Ok(false));
    for offset in [numbered + 1, u64::MAX] {
        let result = victim.session.handle_ack(now, offset);
        assert!(matches!(
            result,
            Err(SessionError::AckOutOfRange { sent, .. }) if sent == numbered
        ));
    }
}

#[test]
fn p11_an_acknowledgement_going_back_ends_the_session() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    victim.session.write(StreamId(1), 100);
    victim.flush();
    let now = victim.now;
    assert_eq!(victim.session.handle_ack(now, 50), Ok(true));
    let back = SessionError::AckOutOfRange {
        offset: 49,
        acked: 50,
        sent: 109,
    };
    assert!(!back.is_transient());
    assert_eq!(victim.session.handle_ack(now, 49), Err(back.clone()));
    assert_eq!(victim.session.handle_attached(now, 49), Err(back));
}

#[test]
fn p11_an_impossible_offset_at_the_attach_ends_the_session() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    victim.session.write(StreamId(1), 100);
    victim.flush();
    let now = victim.now;
    for offset in [110, u64::MAX] {
        assert!(matches!(
            victim.session.handle_attached(now, offset),
            Err(SessionError::AckOutOfRange { .. })
        ));
    }
    assert_eq!(victim.session.handle_attached(now, 109), Ok(true));
}

#[test]
fn p11_a_gap_asks_for_another_attach_and_delivers_nothing() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    let expected = victim.offset;
    victim.offset += 1;
    let gap = victim.hears_payload(1, 10).expect_err("a gap");
    assert_eq!(
        gap,
        SessionError::Gap {
            offset: expected + 1,
            expected
        }
    );
    assert!(gap.is_transient());
    assert_eq!(victim.session.received(), expected);
    // The same bytes at the right place are taken.
    victim.offset = expected;
    assert_eq!(victim.hears_payload(1, 10).expect("in place").len(), 1);
}

#[test]
fn p11_a_repeat_is_trimmed_wherever_it_ends() {
    let mut frame = bytes_header(StreamId(1), 20).to_vec();
    frame.extend(0..20);
    let open = InnerFrame::Open(Open::default()).encode(StreamId(1));
    for heard in 0..=frame.len() {
        for from in 0..=heard {
            let mut victim = Victim::new(Side::Acceptor);
            victim.hears_bytes(&open).expect("opens");
            let begin = victim.offset;
            let mut got = Vec::new();
            for (start, end) in [(0, heard), (from, frame.len())] {
                victim.offset = begin + start as u64;
                let bytes = &frame[start..end];
                for event in victim.hears_bytes(bytes).expect("repeats are no breach") {
                    let Event::Bytes(_, range) = event else {
                        panic!("{event:?}");
                    };
                    got.extend_from_slice(&bytes[range]);
                }
            }
            assert_eq!(got, (0..20).collect::<Vec<u8>>(), "{heard} {from}");
        }
    }
}

#[test]
fn n8_requests_of_a_peer_that_acknowledges_nothing_are_bounded() {
    let mut config = SessionConfig::new(Side::Acceptor);
    config.buffer_max = 64 * 1024;
    let mut victim = Victim::with(config);
    let mut id = 1;
    let error = loop {
        // Each round makes us say DONE and RESET, and settles the stream.
        let mut round = || {
            victim.hears_open(id)?;
            victim.hears(id, InnerFrame::Fin(0))?;
            victim.session.done(StreamId(id));
            victim.hears(id, InnerFrame::Stop(Abort::default()))
        };
        if let Err(error) = round() {
            break error;
        }
        id += 2;
        assert!(id < 2_000_000, "without end");
    };
    assert!(matches!(error, SessionError::Flow(_)), "{error}");
    assert!(victim.session.numbered() < 8 << 20, "kept too much");
}
