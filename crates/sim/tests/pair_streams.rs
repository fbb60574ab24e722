//! The life of streams between two ends, as transcripts in virtual time.

use std::time::Duration;

use farpipe_proto::session::{Event, SendState};
use farpipe_proto::wire::control::{AbortCode, Accept, Exit, Refuse};
use farpipe_sim::pair::{Options, Pair};

const LATENCY: Duration = Duration::from_millis(5);

#[test]
fn half_close_keeps_the_other_way_open() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.opener.write(id, b"ping");
    pair.opener.finish(id);
    pair.drive();
    assert_eq!(pair.acceptor.end(id).received, b"ping");
    assert!(pair.acceptor.end(id).finished);
    assert!(pair.opener.end(id).done);

    pair.acceptor.write(id, b"pong");
    pair.drive();
    assert_eq!(pair.opener.end(id).received, b"pong");
    assert!(!pair.opener.end(id).finished);
    pair.acceptor.finish(id);
    pair.drive();
    assert!(pair.opener.end(id).finished);
    assert_eq!(pair.opener.session.open_streams(), 0);
    assert_eq!(pair.acceptor.session.open_streams(), 0);
}

#[test]
fn open_and_the_first_bytes_travel_together() {
    let mut pair = Pair::connected();
    let begin = pair.now();
    let id = pair.opener.open();
    pair.opener.write(id, b"no round trip first");
    assert!(pair.drive_until(|pair| pair.acceptor.ends.contains_key(&id)));
    assert_eq!(pair.now() - begin, LATENCY);
    assert_eq!(pair.acceptor.end(id).received, b"no round trip first");
}

#[test]
fn a_reader_that_goes_away_stops_an_idle_writer_within_a_trip() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.opener.write(id, b"some");
    pair.drive();
    let begin = pair.now();
    pair.acceptor.stop(id, AbortCode::ReaderGone);
    assert!(pair.drive_until(|pair| pair.opener.end(id).stopped.is_some()));
    assert_eq!(pair.now() - begin, LATENCY);
    let stopped = pair.opener.end(id).stopped.as_ref().map(|abort| abort.code);
    assert_eq!(stopped, Some(AbortCode::ReaderGone as u32));
    assert_eq!(pair.opener.session.send_state(id), Some(SendState::Stopped));

    // The writer's RESET is the answer, and no news to who asked for it.
    pair.drive();
    assert!(pair.acceptor.end(id).reset.is_none());
    pair.acceptor.finish(id);
    pair.drive();
    assert_eq!(pair.acceptor.session.open_streams(), 0);
}

#[test]
fn a_stop_frees_a_writer_that_waits_for_credit() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.acceptor.habits.reads = false;
    pair.opener.write(id, &[1; 1 << 20]);
    pair.opener.finish(id);
    pair.drive();
    assert!(pair.opener.end(id).numbered < 1 << 20);
    pair.acceptor.stop(id, AbortCode::ReaderGone);
    pair.acceptor.finish(id);
    pair.drive();
    assert!(!pair.acceptor.end(id).finished, "cut short is not finished");
    assert_eq!(pair.opener.session.open_streams(), 0);
    assert_eq!(pair.acceptor.session.open_streams(), 0);
}

#[test]
fn stop_and_finish_may_cross() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.drive();
    pair.opener.finish(id);
    pair.acceptor.stop(id, AbortCode::ReaderGone);
    pair.acceptor.reset(id, AbortCode::Failed);
    pair.drive();
    assert_eq!(pair.opener.session.open_streams(), 0);
    assert_eq!(pair.acceptor.session.open_streams(), 0);
}

#[test]
fn a_reset_comes_behind_all_bytes_that_were_numbered() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.opener.write(id, b"before the failure");
    pair.drive();
    pair.opener.reset(id, AbortCode::Failed);
    pair.drive();
    let end = pair.acceptor.end(id);
    assert_eq!(end.received, b"before the failure");
    assert!(!end.finished);
    let code = end.reset.as_ref().map(|abort| abort.code);
    assert_eq!(code, Some(AbortCode::Failed as u32));
}

#[test]
fn a_reset_that_crosses_done_is_no_news() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.opener.finish(id);
    pair.acceptor.habits.says_done = false;
    pair.drive();
    pair.acceptor.done(id);
    pair.opener.reset(id, AbortCode::Cancelled);
    pair.drive();
    assert!(pair.acceptor.end(id).reset.is_none());
    assert_eq!(pair.opener.session.send_state(id), Some(SendState::Reset));
}

#[test]
fn done_waits_for_the_sinks_close() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.acceptor.habits.says_done = false;
    pair.opener.write(id, b"all of it");
    pair.opener.finish(id);
    pair.drive();
    assert!(pair.acceptor.end(id).finished);
    assert!(
        !pair.opener.end(id).done,
        "an acknowledgement is no success"
    );
    assert_eq!(pair.opener.session.acked(), pair.opener.session.numbered());
    pair.acceptor.done(id);
    pair.drive();
    assert!(pair.opener.end(id).done);
}

#[test]
fn complete_waits_for_both_ends_and_every_hold() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.drive();
    pair.acceptor.session.hold();
    pair.acceptor.session.hold();
    pair.opener.finish(id);
    pair.drive();
    pair.acceptor.finish(id);
    pair.drive();
    assert_eq!(pair.acceptor.session.open_streams(), 0);
    assert!(!pair.acceptor.session.is_complete(), "more may be opened");

    pair.opener.session.finish_opening();
    pair.drive();
    assert!(pair.opener.session.is_confirmed());
    assert!(!pair.opener.session.is_complete(), "two hold it");
    pair.acceptor.session.release();
    pair.drive();
    assert!(!pair.opener.session.is_complete(), "one holds it");
    pair.acceptor.session.release();
    pair.drive();
    assert!(pair.opener.session.is_complete());
    assert!(pair.acceptor.session.is_complete());
    assert_eq!(pair.opener.events.last(), Some(&Event::Completed));
    assert!(pair.opener.try_open(Default::default()).is_none());
}

#[test]
fn one_way_settled_is_not_complete() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.opener.finish(id);
    pair.opener.session.finish_opening();
    pair.drive();
    assert!(pair.opener.end(id).done);
    assert!(!pair.opener.session.is_confirmed());
    assert!(!pair.acceptor.session.is_complete());
}

#[test]
fn a_status_comes_behind_all_output_and_before_the_end() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.opener.finish(id);
    pair.opener.session.finish_opening();
    pair.drive();
    pair.acceptor.session.hold();
    // More than the credit of a stream, so that its end has to wait.
    pair.acceptor.write(id, &[b'x'; 1 << 20]);
    pair.acceptor.finish(id);
    pair.drive();
    let exit = Exit {
        code: Some(3),
        ..Exit::default()
    };
    pair.acceptor.session.exit(id, exit);
    pair.acceptor.session.release();
    pair.drive();
    assert_eq!(pair.opener.end(id).received.len(), 1 << 20);
    assert_eq!(pair.opener.end(id).exit, Some(exit));
    let ours = |event: &&Event| {
        matches!(
            event,
            Event::Finished(_) | Event::Exited(..) | Event::Completed
        )
    };
    let order: Vec<&Event> = pair.opener.events.iter().filter(ours).collect();
    assert_eq!(
        order,
        [
            &Event::Finished(id),
            &Event::Exited(id, exit),
            &Event::Completed
        ]
    );
}

#[test]
fn a_refused_stream_is_gone_and_the_session_goes_on() {
    let mut pair = Pair::connected();
    pair.acceptor.habits.accepts = false;
    let id = pair.opener.open();
    pair.opener.write(id, &[5; 300_000]);
    pair.drive_until(|pair| pair.acceptor.ends.contains_key(&id));
    let refuse = Refuse {
        status: 127,
        message: "no such command".to_owned(),
    };
    pair.acceptor.session.refuse(id, refuse.clone());
    pair.drive();
    assert_eq!(pair.opener.end(id).refused, Some(refuse));
    assert_eq!(pair.opener.session.open_streams(), 0);
    assert_eq!(pair.acceptor.session.open_streams(), 0);

    pair.acceptor.habits.accepts = true;
    let next = pair.opener.open();
    pair.opener.write(next, b"another");
    pair.drive();
    assert!(pair.opener.end(next).accepted);
    assert_eq!(pair.acceptor.end(next).received, b"another");
}

#[test]
fn an_answer_may_come_after_the_opener_gave_the_stream_up() {
    for accepts in [true, false] {
        let mut pair = Pair::connected();
        pair.acceptor.habits.accepts = false;
        let id = pair.opener.open();
        pair.opener.stop(id, AbortCode::Cancelled);
        pair.drive();
        // The target answers while the opener's last word is on its way.
        pair.opener.reset(id, AbortCode::Cancelled);
        if accepts {
            pair.acceptor.session.accept(id, Accept::default());
        } else {
            pair.acceptor.session.refuse(id, Refuse::default());
        }
        pair.drive();
        assert_eq!(pair.opener.session.open_streams(), 0);
        assert_eq!(pair.acceptor.session.open_streams(), 0);
    }
}

#[test]
fn both_sides_open_streams_and_the_last_word_may_cross_an_open() {
    let mut pair = Pair::connected();
    let up = pair.opener.open();
    let down = pair.acceptor.open();
    assert_eq!((up.0, down.0), (1, 2));
    pair.opener.session.finish_opening();
    for id in [up, down] {
        pair.opener.finish(id);
        pair.acceptor.finish(id);
    }
    pair.drive();
    for id in [up, down] {
        pair.opener.finish(id);
        pair.acceptor.finish(id);
    }
    pair.drive();
    assert!(pair.opener.session.is_complete());
    assert!(pair.acceptor.try_open(Default::default()).is_none());
}

#[test]
fn p9_more_streams_than_the_other_end_allows_are_refused_one_by_one() {
    let mut options = Options::default();
    options.acceptor.streams_max = 2;
    let mut pair = Pair::connected_by(options);
    let ids: Vec<_> = (0..4).map(|_| pair.opener.open()).collect();
    for id in &ids {
        pair.opener.write(*id, b"hello");
    }
    pair.drive();
    let refused = |pair: &Pair| {
        let ends = ids.iter().map(|id| pair.opener.end(*id).refused.clone());
        ends.map(|refuse| refuse.map(|refuse| refuse.status))
            .collect::<Vec<_>>()
    };
    assert_eq!(refused(&pair), [None, None, Some(125), Some(125)]);
    assert_eq!(pair.opener.session.open_streams(), 2);
    // Room again: the next one is taken.
    pair.opener.finish(ids[0]);
    pair.acceptor.finish(ids[0]);
    pair.drive();
    let next = pair.opener.open();
    pair.drive();
    assert!(pair.opener.end(next).accepted);
}

#[test]
fn p9_an_end_opens_no_more_than_its_own_limit() {
    let mut options = Options::default();
    options.opener.streams_max = 2;
    let mut pair = Pair::connected_by(options);
    assert!(pair.opener.try_open(Default::default()).is_some());
    assert!(pair.opener.try_open(Default::default()).is_some());
    assert!(pair.opener.try_open(Default::default()).is_none());
}
