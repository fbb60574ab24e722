//! Cuts, resumes and fencing between two ends, in virtual time.

use std::time::Duration;

use farpipe_proto::wire::control::AbortCode;
use farpipe_sim::pair::{Options, Pair, Way};

/// A short talk with every kind of ending: two streams, both ways, a status.
fn talk(pair: &mut Pair) {
    let first = pair.opener.open();
    pair.opener.write(first, b"a question");
    pair.opener.finish(first);
    let second = pair.opener.open_interactive();
    pair.opener.write(second, &[7; 300]);
    pair.acceptor.session.hold();
    pair.opener.session.finish_opening();
    go_on(pair);
    pair.acceptor.write(first, b"an answer");
    pair.acceptor.finish(first);
    pair.acceptor.stop(second, AbortCode::ReaderGone);
    pair.acceptor.finish(second);
    go_on(pair);
    let exit = farpipe_proto::wire::control::Exit {
        code: Some(9),
        ..Default::default()
    };
    pair.acceptor.session.exit(first, exit);
    pair.acceptor.session.release();
    go_on(pair);
    let end = pair.opener.end(first);
    assert_eq!(end.received, b"an answer");
    assert!(end.done && end.finished);
    assert_eq!(end.exit, Some(exit));
    assert_eq!(pair.acceptor.end(first).received, b"a question");
    assert!(pair.opener.end(second).stopped.is_some());
    assert!(pair.opener.session.is_complete() && pair.acceptor.session.is_complete());
}

/// Drives; attaches again if the connection broke.
fn go_on(pair: &mut Pair) {
    pair.drive();
    if !pair.is_attached() {
        pair.dial();
        pair.drive();
    }
    assert!(pair.is_attached(), "one cut, one more attach");
}

fn talk_length(way: Way) -> u64 {
    let mut pair = Pair::connected();
    talk(&mut pair);
    pair.delivered(way)
}

#[test]
fn n1_a_talk_survives_a_cut_after_every_byte() {
    for way in [Way::Up, Way::Down] {
        for after in 0..=talk_length(way) {
            let mut pair = Pair::new(Options::default());
            let cut = Some(after);
            let cuts = match way {
                Way::Up => [cut, None],
                Way::Down => [None, cut],
            };
            pair.dial_in(Duration::ZERO, cuts);
            talk(&mut pair);
            assert_eq!(pair.disconnects, 1, "{way:?} {after}");
        }
    }
}

#[test]
fn n5_a_talk_in_single_bytes_is_the_same_talk() {
    talk(&mut Pair::connected_by(Options {
        piece_max: 1,
        data_max: 1,
        ..Options::default()
    }));
}

#[test]
fn n1_a_link_that_breaks_again_and_again_still_moves_on() {
    let mut pair = Pair::new(Options::default());
    let id = pair.opener.open();
    pair.opener
        .write(id, &(0..100_000).map(|i| i as u8).collect::<Vec<_>>());
    pair.opener.finish(id);
    while !pair.opener.end(id).done {
        assert!(pair.disconnects < 1000, "does not move on");
        // Room for the attach and a little more.
        pair.dial_in(Duration::from_millis(1), [Some(1000), Some(100)]);
        pair.drive();
    }
    assert!(pair.disconnects > 20, "{}", pair.disconnects);
}

#[test]
fn n2_a_cut_between_receipt_and_acknowledgement_repeats_and_trims() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.opener.write(id, b"received, not acknowledged");
    pair.drive_until(|pair| pair.acceptor.ends.contains_key(&id));
    pair.cut();
    let session = &pair.opener.session;
    assert_eq!(session.acked(), 0);
    pair.dial();
    pair.drive();
    // The attach itself told: nothing was sent twice.
    let session = &pair.opener.session;
    assert_eq!(session.acked(), session.numbered());
    assert_eq!(
        pair.acceptor.end(id).received,
        b"received, not acknowledged"
    );
}

#[test]
fn n3_what_a_half_open_link_still_brings_counts() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.opener.write(id, &[3; 1000]);
    // Under way when the opener gives the link up; it arrives before the next attach does.
    pair.run_for(Duration::from_millis(2));
    pair.abandon();
    pair.dial();
    pair.drive();
    assert_eq!(pair.acceptor.end(id).received, [3; 1000]);
    let session = &pair.opener.session;
    assert_eq!(session.acked(), session.numbered());
}

#[test]
fn n10_an_old_attach_that_arrives_late_is_fenced() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.opener.write(id, b"one ");
    pair.drive();
    pair.cut();
    pair.dial();
    pair.opener.write(id, b"two ");
    pair.drive();
    assert_eq!(pair.fenced, 0);
    pair.dial_with_old_epoch();
    pair.opener.write(id, b"three");
    pair.drive();
    assert_eq!(pair.fenced, 1);
    assert!(pair.is_attached());
    assert_eq!(pair.acceptor.end(id).received, b"one two three");
}

#[test]
fn n10_a_newer_attach_fences_a_link_that_looks_alive() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.drive();
    // Slow bytes on the old link; the new attach overtakes them.
    pair.set_latency(Duration::from_millis(500));
    pair.opener.write(id, &[4; 5000]);
    pair.acceptor.write(id, &[5; 5000]);
    pair.run_for(Duration::from_millis(1));
    pair.abandon();
    pair.set_latency(Duration::from_millis(5));
    pair.dial();
    pair.drive();
    assert_eq!(pair.acceptor.end(id).received, [4; 5000]);
    assert_eq!(pair.opener.end(id).received, [5; 5000]);
}

#[test]
fn bytes_written_while_cut_off_wait_for_the_next_link() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.drive();
    pair.cut();
    pair.opener.write(id, &[6; 50_000]);
    pair.acceptor.write(id, &[7; 50_000]);
    pair.drive();
    assert!(pair.acceptor.end(id).received.is_empty());
    pair.dial();
    pair.drive();
    assert_eq!(pair.acceptor.end(id).received, [6; 50_000]);
    assert_eq!(pair.opener.end(id).received, [7; 50_000]);
}

#[test]
fn a_session_that_is_complete_still_answers_an_attach() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.opener.finish(id);
    pair.opener.session.finish_opening();
    pair.drive();
    pair.acceptor.finish(id);
    pair.drive_until(|pair| pair.acceptor.session.is_complete());
    // COMPLETE is lost.
    pair.cut();
    assert!(!pair.opener.session.is_complete());
    pair.dial();
    pair.drive();
    assert!(pair.opener.session.is_complete());
}
