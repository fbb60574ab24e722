//! Credit, floods and numbers of streams.

use std::time::Duration;

use farpipe_proto::limits::{
    EMPTY_FRAMES_MAX, INNER_BYTES_MAX, OFFSET_MAX, RESETS_MAX, RESETS_WINDOW, STREAMS_MAX,
    WINDOW_INITIAL,
};
use farpipe_proto::session::{Event, SessionConfig, SessionError, Side};
use farpipe_proto::wire::control::{Abort, AbortCode, Open, Refuse};
use farpipe_proto::wire::id::StreamId;
use farpipe_proto::wire::inner::{InnerFrame, bytes_header};

use crate::victim::{Victim, abort, is_flow};

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
            let answered = vec![Event::StopAnswered(id)];
            assert_eq!(victim.hears(id.0, answer), Ok(answered));
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
    let answered = vec![Event::StopAnswered(StreamId(7))];
    assert_eq!(victim.hears(7, last), Ok(answered));
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

#[test]
fn a_stream_for_which_the_process_has_no_memory_is_refused_and_its_bytes_are_dropped() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.session.set_window_room(2 * WINDOW_INITIAL - 1);
    victim.hears_open(1).expect("opens");
    assert_eq!(victim.hears_open(3), Ok(Vec::new()));
    let Some((StreamId(3), InnerFrame::Refuse(refuse))) = victim.said.last() else {
        panic!("{:?}", victim.said);
    };
    assert_eq!(refuse.status, 125);
    // OPEN and the first bytes leave together, before the refusal can be heard.
    assert_eq!(victim.hears_payload(3, WINDOW_INITIAL as usize), Ok(vec![]));
    assert!(is_flow(&victim.hears_payload(3, 1)));
}

#[test]
fn a_stream_of_our_own_needs_room_for_its_window_too() {
    let mut victim = Victim::new(Side::Opener);
    victim.session.set_window_room(WINDOW_INITIAL);
    let now = victim.now;
    let first = victim.session.open(now, Open::default());
    assert_eq!(first, Some(StreamId(1)));
    assert_eq!(victim.session.open(now, Open::default()), None);
    victim.session.set_window_room(2 * WINDOW_INITIAL);
    assert!(victim.session.open(now, Open::default()).is_some());
}
