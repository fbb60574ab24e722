//! Stream ids, the order of frames, and frames that make no sense.

use farpipe_proto::session::{Event, SessionError, Side};
use farpipe_proto::wire::control::{Abort, AbortCode, Accept, Exit, Open, Refuse, Resize, Signal};
use farpipe_proto::wire::id::StreamId;
use farpipe_proto::wire::inner::InnerFrame;

use crate::victim::{Victim, abort, is_protocol};

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
        InnerFrame::Accept(Accept::default()),
        InnerFrame::Refuse(Refuse::default()),
        InnerFrame::Credit(1 << 20),
        InnerFrame::Fin(0),
        InnerFrame::Reset(Abort::default()),
        InnerFrame::Stop(Abort::default()),
        InnerFrame::Exit(Exit::default()),
        InnerFrame::Done(0),
        InnerFrame::Complete,
        InnerFrame::Signal(Signal::default()),
        InnerFrame::Resize(Resize::default()),
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
        InnerFrame::Accept(Accept::default()),
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
        InnerFrame::Signal(Signal { number: 15 }),
        InnerFrame::Resize(Resize::default()),
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

/// A command's host gives its caller no orders.
#[test]
fn p3_a_signal_for_a_stream_of_anothers_ends_the_session() {
    for frame in [
        InnerFrame::Signal(Signal { number: 15 }),
        InnerFrame::Resize(Resize::default()),
    ] {
        let mut victim = Victim::new(Side::Opener);
        let open = victim.session.open(victim.now, Open::default());
        let id = open.expect("room");
        victim.flush();
        let result = victim.hears(id.0, frame.clone());
        assert!(is_protocol(&result), "{frame:?}: {result:?}");
    }
}

#[test]
fn p3_an_answer_that_crossed_the_streams_end_is_ignored() {
    for answer in [
        InnerFrame::Accept(Accept::default()),
        InnerFrame::Refuse(Refuse::default()),
    ] {
        let mut victim = Victim::new(Side::Opener);
        let id = victim
            .session
            .open(victim.now, Open::default())
            .expect("room");
        victim.session.stop(id, abort(AbortCode::Cancelled));
        victim.session.reset(id, abort(AbortCode::Cancelled));
        victim.flush();
        let confirmed = InnerFrame::Reset(abort(AbortCode::Stopped));
        let answered = vec![Event::StopAnswered(id)];
        assert_eq!(victim.hears(id.0, confirmed), Ok(answered));
        assert_eq!(victim.session.open_streams(), 0);
        assert_eq!(victim.hears(id.0, answer.clone()), Ok(vec![]), "{answer:?}");
    }
}

#[test]
fn p3_an_answer_to_ones_own_open_ends_the_session() {
    for answer in [
        InnerFrame::Accept(Accept::default()),
        InnerFrame::Refuse(Refuse::default()),
    ] {
        let mut victim = Victim::new(Side::Acceptor);
        victim.hears_open(1).expect("opens");
        assert!(is_protocol(&victim.hears(1, answer)));
    }
}

#[test]
fn p3_a_second_answer_to_an_open_ends_the_session() {
    let accept = InnerFrame::Accept(Accept::default());
    let refuse = InnerFrame::Refuse(Refuse::default());
    for answers in [[&accept, &accept], [&accept, &refuse]] {
        let mut victim = Victim::new(Side::Opener);
        let open = victim.session.open(victim.now, Open::default());
        let id = open.expect("room").0;
        victim.hears(id, answers[0].clone()).expect("an answer");
        assert!(is_protocol(&victim.hears(id, answers[1].clone())));
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
    victim.write(StreamId(1), 5);
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
