//! Links that are slow, late, silent, or gone for good.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use farpipe_faultproxy::{Config, Cut, Delay, Dir, Plan, Shape, When};

use rustix::process::Signal;

use crate::support::{Faults, Host, SCHEMES, assert_same, random};

/// Both ways at once through links of this shape; a beat this short finds a link dead that only
/// is slow, if anything does.
fn passes(shape: &Shape, there: &[u8], back: &[u8]) {
    for scheme in SCHEMES {
        let host = Host::new();
        let listener = host
            .listen(scheme)
            .args(["--heartbeat", "300ms"])
            .input(back);
        let listener = listener.start_listening();
        let faults = Faults::shaped(&listener, |config| {
            config.up = shape.clone();
            config.down = shape.clone();
        });
        let connect = host
            .connect(&faults.url())
            .args(["--heartbeat", "300ms"])
            .input(there);
        let connect = connect.run().exits(0);
        let listened = listener.end().exits(0);
        assert_same(&listened.stdout, there);
        assert_same(&connect.stdout, back);
        let stats = faults.stop();
        assert_eq!(
            stats.connections,
            1,
            "one connection was enough: {}",
            stats.to_json()
        );
    }
}

#[test]
fn n5_a_dribble_of_single_bytes_is_as_good_as_one_write() {
    let shape = Shape {
        dribble: NonZeroUsize::new(1),
        ..Shape::default()
    };
    passes(&shape, &random(20_000, 1), &random(20_000, 2));
}

#[test]
fn n5_pieces_that_cut_every_header_somewhere() {
    for piece in [3, 7, 13] {
        let shape = Shape {
            dribble: NonZeroUsize::new(piece),
            ..Shape::default()
        };
        passes(&shape, &random(30_000, 3), &random(1_000, 4));
    }
}

#[test]
fn n6_a_very_slow_link_does_not_time_out_while_it_moves() {
    let shape = Shape {
        throttle: NonZeroU64::new(10_000),
        socket_buffer: NonZeroUsize::new(4_096),
        ..Shape::default()
    };
    passes(&shape, &random(20_000, 5), &random(10_000, 6));
}

#[test]
fn a_long_link_is_only_long() {
    let shape = Shape {
        delay: Some(Delay::new(
            Duration::from_millis(60),
            Duration::from_millis(20),
        )),
        ..Shape::default()
    };
    passes(&shape, &random(1 << 20, 7), &random(1 << 20, 8));
}

/// The proxy keeps the connection and moves nothing: no end, no reset, no error.
#[test]
fn n3_a_link_that_stalls_is_found_by_the_heartbeat_and_replaced() {
    for scheme in SCHEMES {
        let (there, back) = (random(2 << 20, 9), random(2 << 20, 10));
        let host = Host::new();
        let listener = host
            .listen(scheme)
            .args(["--heartbeat", "300ms"])
            .input(back.as_slice());
        let listener = listener.start_listening();
        let plan = Plan {
            connections: 0..=1,
            ..Plan::of(
                When::Byte {
                    dir: Dir::Up,
                    at: 300_000..=500_000,
                },
                Cut::Stall,
            )
        };
        let faults = Faults::between(&listener, plan);
        let connect = host.connect(&faults.url()).args(["--heartbeat", "300ms"]);
        let connect = connect.input(there.as_slice()).run().exits(0);
        assert_same(&listener.end().exits(0).stdout, &there);
        assert_same(&connect.stdout, &back);
        assert!(faults.stop().cuts_stall >= 1);
    }
}

/// From some moment on nothing arrives any more, new connections included, and nobody is told.
#[test]
fn n12_a_network_that_stays_away_is_125_at_both_ends() {
    for scheme in SCHEMES {
        let host = Host::new();
        let flags = ["--heartbeat", "300ms"];
        let mut listener = host
            .listen(scheme)
            .args(flags)
            .open_input()
            .start_listening();
        let faults = Faults::shaped(&listener, |_: &mut Config| {});
        let connect = host
            .connect(&faults.url())
            .args(flags)
            .args(["--resume-for", "2s"]);
        let mut connect = connect.open_input().start();
        connect.write("there");
        listener.stdout_until(5);
        listener.write("back");
        connect.stdout_until(4);
        faults.black_hole(true);
        connect.write("into the hole");
        let ended = connect.end().exits(125).printed("back");
        assert!(listener.is_running(), "the opener gives up first");
        let last = ended.said().lines().last().unwrap_or_default().to_owned();
        let begin = format!("farpipe: no link to {scheme}://127.0.0.1:PORT for 2 s: ");
        assert!(last.starts_with(&begin), "{last}");
        let ended = listener.end().exits(125).printed("there");
        let last = ended.said().lines().last().unwrap_or_default().to_owned();
        assert!(
            last.contains("was given up after 4 s without a link"),
            "{last}"
        );
    }
}

#[test]
fn n12_a_network_that_comes_back_in_time_loses_nothing() {
    let (there, back) = (random(1 << 20, 11), random(1 << 20, 12));
    let host = Host::new();
    let flags = ["--heartbeat", "300ms"];
    let mut listener = host.listen("ws").args(flags).open_input().start_listening();
    let faults = Faults::shaped(&listener, |_: &mut Config| {});
    let mut connect = host.connect(&faults.url()).args(flags).open_input().start();
    let (half_there, half_back) = (there.len() / 2, back.len() / 2);
    connect.write(&there[..half_there]);
    listener.write(&back[..half_back]);
    listener.stdout_until(half_there);
    connect.stdout_until(half_back);
    // Nobody listens there for a while, and what was open is reset.
    let mut faults = faults;
    faults.refuse(true);
    faults.cut_all(Cut::Reset);
    connect.stderr_until(|said| said.contains("next try in"));
    connect.write(&there[half_there..]);
    listener.write(&back[half_back..]);
    connect.close_input();
    listener.close_input();
    faults.refuse(false);
    assert_same(&connect.end().exits(0).stdout, &back);
    assert_same(&listener.end().exits(0).stdout, &there);
}

/// Stopped for longer than the heartbeat allows, and dialled anew meanwhile.
#[test]
fn n10_a_listener_that_was_stopped_goes_on_with_the_newest_connection() {
    for scheme in SCHEMES {
        let host = Host::new();
        let mut listener = host.listen(scheme).open_input().start_listening();
        let connect = host
            .connect(listener.url())
            .args(["--heartbeat", "200ms", "-vv"]);
        let mut connect = connect.open_input().start();
        connect.write("before ");
        listener.stdout_until(7);
        listener.signal(Signal::STOP);
        connect.write("meanwhile ");
        listener.write("meanwhile");
        // From here on its kernel takes connections that no process answers.
        connect.stderr_until(|said| said.contains("event=Lost"));
        listener.signal(Signal::CONT);
        connect.write("after");
        connect.close_input();
        listener.close_input();
        connect.end().exits(0).printed("meanwhile");
        listener.end().exits(0).printed("before meanwhile after");
    }
}
