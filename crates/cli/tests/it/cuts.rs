//! Connections that are cut at chosen places: at a byte, at a frame, in one direction only.

use std::time::Duration;

use farpipe_faultproxy::{Cut, Dir, Fault, How, Place, Plan, When};

use crate::support::{Faults, Host, SCHEMES, assert_same, at_once, random};

/// Runs a two-way pipe through each plan's proxy and expects it to succeed. A cut in the first
/// handshake costs a second of backoff, so they run beside each other.
fn survives(plans: Vec<(&'static str, Plan)>, len: usize) {
    at_once(plans, |(scheme, plan)| survives_one(scheme, plan, len));
}

fn survives_one(scheme: &str, plan: Plan, len: usize) {
    let what = format!("{scheme} {:?}", plan.faults);
    let (there, back) = (random(len, 1), random(len, 2));
    let host = Host::new();
    let listener = host.listen(scheme).input(back.as_slice()).start_listening();
    let faults = Faults::between(&listener, plan);
    let connect = host.connect(&faults.url()).args(["--heartbeat", "300ms"]);
    let connect = connect.input(there.as_slice()).run();
    assert!(
        connect.status.success(),
        "{what}: {} {}",
        connect.status,
        connect.stderr
    );
    let listened = listener.end();
    assert!(
        listened.status.success(),
        "{what}: {} {}",
        listened.status,
        listened.stderr
    );
    assert_same(&listened.stdout, &there);
    assert_same(&connect.stdout, &back);
}

fn each<T: Copy>(values: &[T], plan: impl Fn(T) -> Plan) -> Vec<(&'static str, Plan)> {
    let mut plans = Vec::new();
    for scheme in SCHEMES {
        plans.extend(values.iter().map(|value| (scheme, plan(*value))));
    }
    plans
}

/// Only the first connections are cut; the last one must get through.
fn first(connections: u64, plan: Plan) -> Plan {
    Plan {
        connections: 0..=connections - 1,
        ..plan
    }
}

/// HTTP head or preface, HELLO, AUTH, ATTACH, and then data.
const BYTES: [u64; 12] = [0, 1, 7, 8, 40, 130, 200, 260, 330, 500, 5_000, 90_000];

#[test]
fn n1_reset_after_any_byte_on_the_way_there() {
    survives(each(&BYTES, |at| reset_at(Dir::Up, at)), 100_000);
}

#[test]
fn n1_reset_after_any_byte_on_the_way_back() {
    survives(each(&BYTES, |at| reset_at(Dir::Down, at)), 100_000);
}

fn reset_at(dir: Dir, at: u64) -> Plan {
    first(1, Plan::of(When::Byte { dir, at: at..=at }, Cut::Reset))
}

#[test]
fn n1_the_end_instead_of_a_reset_at_any_byte() {
    let plans = each(&[0, 9, 210, 350, 60_000], |at| {
        let at = at..=at;
        first(1, Plan::of(When::Byte { dir: Dir::Up, at }, Cut::Fin))
    });
    survives(plans, 100_000);
}

#[test]
fn n1_resets_around_each_of_the_first_frames_in_both_directions() {
    let mut cases = Vec::new();
    for dir in [Dir::Up, Dir::Down] {
        for nth in 1..=5 {
            for place in [Place::Inside(1), Place::After] {
                cases.push((dir, nth, place));
            }
        }
    }
    let plans = each(&cases, |(dir, nth, place)| {
        let nth = nth..=nth;
        let when = When::Frame {
            dir,
            nth,
            kind: None,
            place,
        };
        first(1, Plan::of(when, Cut::Reset))
    });
    survives(plans, 300_000);
}

/// The last words are the ones nobody sends anything after.
#[test]
fn n1_resets_around_the_frames_that_end_a_pipe() {
    let cases: Vec<_> = (4..=14)
        .flat_map(|nth| [(Dir::Up, nth), (Dir::Down, nth)])
        .collect();
    let plans = each(&cases, |(dir, nth)| {
        let nth = nth..=nth;
        let when = When::Frame {
            dir,
            nth,
            kind: None,
            place: Place::After,
        };
        first(1, Plan::of(when, Cut::Reset))
    });
    survives(plans, 10);
}

#[test]
fn n2_a_cut_between_a_frame_and_its_acknowledgement() {
    const ACK: u8 = 0x08;
    let plans = each(
        &[(Dir::Up, 1), (Dir::Down, 1), (Dir::Up, 3), (Dir::Down, 3)],
        |(dir, nth)| {
            let nth = nth..=nth;
            let when = When::Frame {
                dir,
                nth,
                kind: Some(ACK),
                place: Place::Before,
            };
            first(3, Plan::of(when, Cut::Reset))
        },
    );
    survives(plans, 2 << 20);
}

#[test]
fn n4_resets_with_data_unread_lose_nothing() {
    let plans = each(&[Dir::Up, Dir::Down], |dir| {
        first(
            5,
            Plan::of(
                When::Byte {
                    dir,
                    at: 200_000..=700_000,
                },
                Cut::Reset,
            ),
        )
    });
    survives(plans, 4 << 20);
}

/// One direction of the connection ends by a FIN of the proxy; farpipe's own ends are frames, so
/// this is a broken link and not the end of a pipe.
#[test]
fn n4_a_connection_that_ends_in_one_direction_only_is_replaced() {
    let plans = each(
        &[
            (Dir::Up, 50_000),
            (Dir::Down, 50_000),
            (Dir::Up, 100),
            (Dir::Down, 100),
        ],
        |(dir, at)| first(2, Plan::of(When::Byte { dir, at: at..=at }, How::HalfClose)),
    );
    survives(plans, 1 << 20);
}

/// Nothing arrives in one direction any more, and nobody is told.
#[test]
fn n3_a_direction_that_falls_silent_is_noticed_and_replaced() {
    let plans = each(&[(Dir::Up, 50_000), (Dir::Down, 50_000)], |(dir, at)| {
        first(1, Plan::of(When::Byte { dir, at: at..=at }, How::Mute))
    });
    survives(plans, 1 << 20);
}

/// Plain `ws` and `fp` trust TCP for content; that frames go missing or come twice they notice.
#[test]
fn p11_frames_that_come_twice_or_never_are_not_delivered() {
    const DATA: u8 = 0x07;
    let how = [
        How::Drop(farpipe_faultproxy::Amount::Frame),
        How::Replay(farpipe_faultproxy::Amount::Frame),
    ];
    let mut cases = Vec::new();
    for how in how {
        for dir in [Dir::Up, Dir::Down] {
            cases.push((how, dir));
        }
    }
    let plans = each(&cases, |(how, dir)| {
        let when = When::Frame {
            dir,
            nth: 2..=4,
            kind: Some(DATA),
            place: Place::Before,
        };
        first(
            1,
            Plan {
                faults: vec![Fault::new(when, how)],
                ..Plan::default()
            },
        )
    });
    survives(plans, 2 << 20);
}

/// As proxies that serve HTTP do, only sooner; the beat may be two and a half times as long as what is asked for.
#[test]
fn n3_an_idle_session_is_kept_by_its_heartbeat_or_resumed() {
    at_once([(3_000, true), (300, false)], |(cutter, is_kept)| {
        let host = Host::new();
        let listener = host.listen("ws").arg("exec:cat").start_listening();
        let plan = Plan {
            cut_idle: Some(Duration::from_millis(cutter)),
            ..Plan::default()
        };
        let faults = Faults::between(&listener, plan);
        let connect = host.connect(&faults.url()).args(["--heartbeat", "1s"]);
        let mut connect = connect.open_input().start();
        connect.write("before\n");
        connect.stdout_until("before\n".len());
        std::thread::sleep(2 * CUTTER_LONGEST); // sleep: silence is what is tested
        let cuts = faults.stats().cuts_reset;
        connect.write("after\n");
        connect.close_input();
        connect.end().exits(0).printed("before\nafter\n");
        assert_eq!(cuts == 0, is_kept, "{cuts} cuts after {cutter} ms each");
        assert!(is_kept || cuts > 1, "{cuts} cuts");
    });
}

/// See there.
const CUTTER_LONGEST: Duration = Duration::from_secs(3);
