//! Credit, windows, turns and acknowledgements between two ends, in virtual time.

use std::time::Duration;

use farpipe_proto::limits::{ACK_DELAY, FRAME_MAX, WINDOW_INITIAL};
use farpipe_proto::wire::control::AbortCode;
use farpipe_proto::wire::id::StreamId;
use farpipe_sim::pair::{Options, Pair};

const WINDOW: usize = WINDOW_INITIAL as usize;

/// More than any window here.
const WRITTEN: usize = 16 << 20;

/// A stream whose reader reads nothing by itself.
fn paused_reader(pair: &mut Pair) -> StreamId {
    let id = pair.opener.open();
    pair.drive();
    pair.acceptor.pause(id, true);
    id
}

/// The window, from how much the writer is ahead of the reader once credit has stopped it.
fn window(pair: &mut Pair, id: StreamId) -> usize {
    pair.acceptor.pause(id, true);
    pair.opener.write(id, &vec![0; WRITTEN]);
    pair.drive();
    let ahead = pair.opener.end(id).numbered - pair.acceptor.end(id).read;
    let window = (0..).map(|n| WINDOW << n).find(|window| *window >= ahead);
    let window = window.unwrap_or_default();
    // What was read since the last CREDIT is less than a quarter.
    assert!(ahead > window / 4 * 3, "{ahead} of {window}");
    window
}

#[test]
fn credit_blocks_the_writer_until_the_reader_reads() {
    let mut pair = Pair::connected();
    let id = paused_reader(&mut pair);
    pair.opener.write(id, &[1; 4 * WINDOW]);
    pair.drive();
    assert_eq!(pair.opener.end(id).numbered, WINDOW);
    assert_eq!(pair.acceptor.end(id).received.len(), WINDOW);

    // Less than a quarter is not worth a frame.
    pair.acceptor.read(id, WINDOW / 4 - 1);
    pair.drive();
    assert_eq!(pair.opener.end(id).numbered, WINDOW);
    pair.acceptor.read(id, 1);
    pair.drive();
    assert_eq!(pair.opener.end(id).numbered, WINDOW + WINDOW / 4);

    pair.acceptor.pause(id, false);
    pair.drive();
    assert_eq!(pair.acceptor.end(id).received.len(), 4 * WINDOW);
}

#[test]
fn a_window_grows_while_the_window_is_what_limits_a_fast_reader() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    pair.opener.write(id, &vec![1; 24 * WINDOW]);
    pair.drive();
    assert_eq!(pair.acceptor.end(id).received.len(), 24 * WINDOW);
    let grown = window(&mut pair, id);
    assert!(grown >= 4 * WINDOW, "{grown}");
}

#[test]
fn a_window_does_not_grow_for_a_slow_reader() {
    let mut pair = Pair::connected();
    let id = paused_reader(&mut pair);
    pair.opener.write(id, &vec![1; 8 * WINDOW]);
    // Half a window in more than two round trips.
    for _ in 0..14 {
        pair.run_for(Duration::from_millis(25));
        assert_eq!(pair.acceptor.read(id, WINDOW / 2), WINDOW / 2);
    }
    assert_eq!(window(&mut pair, id), WINDOW);
}

#[test]
fn a_window_does_not_grow_for_a_sender_that_was_never_blocked() {
    let mut pair = Pair::connected();
    let id = pair.opener.open();
    for _ in 0..40 {
        pair.opener.write(id, &[1; WINDOW / 5]);
        pair.drive();
    }
    assert_eq!(window(&mut pair, id), WINDOW);
}

#[test]
fn windows_never_grow_beyond_the_sessions_limit() {
    for (buffer_max, expected) in [(1 << 20, 1 << 20), (3 << 20, 2 << 20), (1 << 16, WINDOW)] {
        let mut options = Options::default();
        options.acceptor.buffer_max = buffer_max;
        let mut pair = Pair::connected_by(options);
        let id = pair.opener.open();
        pair.opener.write(id, &vec![1; 8 << 20]);
        pair.drive();
        assert_eq!(window(&mut pair, id), expected, "limit {buffer_max}");
    }
}

#[test]
fn windows_share_the_sessions_limit() {
    let mut options = Options::default();
    options.acceptor.buffer_max = 2 << 20;
    let mut pair = Pair::connected_by(options);
    let ids = [(); 3].map(|()| pair.opener.open());
    for id in ids {
        pair.opener.write(id, &vec![1; 8 << 20]);
    }
    pair.drive();
    let sum: usize = ids.map(|id| window(&mut pair, id)).iter().sum();
    assert!(sum <= 2 << 20, "{sum}");
    assert!(sum > 3 * WINDOW, "{sum}");
}

#[test]
fn n7_a_stalled_reader_blocks_only_its_stream() {
    let mut pair = Pair::connected();
    let stalled = paused_reader(&mut pair);
    let live = pair.opener.open();
    pair.opener.write(stalled, &vec![1; 4 << 20]);
    pair.opener.write(live, &vec![2; 4 << 20]);
    pair.opener.finish(live);
    pair.drive();
    assert!(pair.opener.end(live).done);
    assert_eq!(pair.acceptor.end(stalled).received.len(), WINDOW);
}

#[test]
fn the_retained_bytes_stay_below_their_limit_and_the_writer_goes_on_after_an_ack() {
    let mut options = Options::default();
    options.opener.buffer_max = 64 * 1024;
    options.latency = Duration::from_millis(50);
    let mut pair = Pair::connected_by(options);
    let id = pair.opener.open();
    pair.opener.write(id, &vec![1; 1 << 20]);
    pair.opener.finish(id);
    while !pair.opener.end(id).done {
        let session = &pair.opener.session;
        let retained = session.numbered() - session.acked();
        assert!(retained <= (64 << 10) + 1024, "{retained}");
        let before = pair.now();
        let moved = pair.drive_until(|pair| pair.now() > before || pair.opener.end(id).done);
        assert!(moved, "nothing happens any more");
    }
}

#[test]
fn interactive_bytes_go_before_bulk() {
    let mut pair = Pair::connected_by(Options {
        // A megabyte a second: a frame is 4 KiB, four milliseconds.
        rate: Some(1_000_000),
        ..Options::default()
    });
    let bulk = pair.opener.open();
    let keys = pair.opener.open_interactive();
    pair.opener.write(bulk, &vec![0; 4 << 20]);
    for key in 1..20 {
        pair.run_for(Duration::from_millis(61));
        let begin = pair.now();
        pair.opener.write(keys, b"k");
        assert!(pair.drive_until(|pair| pair.acceptor.end(keys).received.len() == key));
        let took = pair.now() - begin;
        // The link's own millisecond, and two frames that were numbered before.
        assert!(took <= Duration::from_millis(5 + 2 + 2 * 5), "{took:?}");
    }
    assert!(pair.opener.end(bulk).numbered < 4 << 20, "bulk was waiting");
}

#[test]
fn bulk_streams_take_turns() {
    let mut pair = Pair::connected_by(Options {
        rate: Some(10_000_000),
        ..Options::default()
    });
    let ids = [(); 4].map(|()| pair.opener.open());
    for id in ids {
        pair.opener.write(id, &vec![0; 4 << 20]);
    }
    pair.run_for(Duration::from_secs(1));
    let got = ids.map(|id| pair.acceptor.end(id).received.len());
    let most = got.into_iter().max().unwrap_or_default();
    let least = got.into_iter().min().unwrap_or_default();
    assert!(least > 1 << 20, "{got:?}");
    assert!(most - least <= 2 * FRAME_MAX, "{got:?}");
}

#[test]
fn a_lone_byte_is_acknowledged_after_the_ack_delay() {
    let mut pair = Pair::connected();
    let id = paused_reader(&mut pair);
    let begin = pair.now();
    pair.opener.write(id, b"x");
    assert!(pair.drive_until(|pair| {
        let session = &pair.opener.session;
        session.acked() == session.numbered() && session.numbered() > 9
    }));
    assert_eq!(pair.now() - begin, Duration::from_millis(5 + 5) + ACK_DELAY);
}

#[test]
fn p6_credit_is_back_at_the_start_when_nothing_is_open() {
    let mut options = Options::default();
    options.acceptor.buffer_max = 1 << 20;
    let mut pair = Pair::connected_by(options);
    for round in 0..60 {
        let id = pair.opener.open();
        pair.acceptor.habits.reads = false;
        pair.opener.write(id, &vec![1; 1 << 20]);
        pair.drive_until(|pair| pair.acceptor.ends.contains_key(&id));
        // Reset, stopped or read with data in flight and data unread.
        pair.run_for(Duration::from_millis(round % 7));
        match round % 3 {
            0 => pair.opener.reset(id, AbortCode::Failed),
            1 => pair.acceptor.stop(id, AbortCode::ReaderGone),
            _ => {
                pair.opener.finish(id);
                pair.acceptor.habits.reads = true;
                pair.run_for(Duration::from_millis(5));
                pair.acceptor.pause(id, false);
            }
        }
        pair.drive();
        pair.acceptor.finish(id);
        pair.acceptor.read(id, usize::MAX);
        pair.drive();
        assert_eq!(pair.opener.session.open_streams(), 0, "round {round}");
        assert_eq!(pair.acceptor.session.open_streams(), 0, "round {round}");
        // The resets of one round are no flood.
        pair.run_for(Duration::from_secs(1));
    }
    let session = &pair.opener.session;
    assert_eq!(session.acked(), session.numbered(), "nothing is retained");
    // A new stream has all of the credit, and the whole limit to grow into.
    pair.acceptor.habits.reads = true;
    let id = paused_reader(&mut pair);
    assert_eq!(window(&mut pair, id), WINDOW);
    pair.acceptor.pause(id, false);
    pair.drive();
    assert_eq!(window(&mut pair, id), 1 << 20);
}
