//! Connections that never live long: everything arrives all the same.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use farpipe_faultproxy::{Cut, Fault, How, Plan, When};

use crate::support::{Faults, Host, Listener, SCHEMES, assert_same, at_once, random};

fn lifetimes(millis: RangeInclusive<u64>, how: &[Cut]) -> Plan {
    let (from, to) = millis.into_inner();
    let range = Duration::from_millis(from)..=Duration::from_millis(to);
    Plan {
        faults: vec![Fault {
            when: When::Lifetime(range),
            how: how.iter().copied().map(How::Cut).collect(),
        }],
        ..Plan::default()
    }
}

/// Connections of 2 to 9 ms.
fn cut_often(listener: &Listener, seed: u64) -> Faults {
    Faults::shaped(listener, |config| {
        config.plan = lifetimes(2..=9, &[Cut::Reset, Cut::Fin]);
        config.seed = seed;
    })
}

#[test]
fn n1_resets_every_six_to_eight_milliseconds_lose_and_double_nothing() {
    for scheme in SCHEMES {
        let (there, back) = (random(4 << 20, 1), random(4 << 20, 2));
        let host = Host::new();
        let listener = host.listen(scheme).input(back.as_slice()).start_listening();
        let faults = Faults::between(&listener, lifetimes(6..=8, &[Cut::Reset]));
        let connect = host
            .connect(&faults.url())
            .input(there.as_slice())
            .run()
            .exits(0);
        let listened = listener.end().exits(0);
        assert_same(&listened.stdout, &there);
        assert_same(&connect.stdout, &back);
        let stats = faults.stop();
        assert!(
            stats.cuts_reset > 0,
            "no connection was cut: {}",
            stats.to_json()
        );
    }
}

/// Whatever happens to connections: one request, one run, and its whole output before its status.
#[test]
fn n1_a_command_runs_once_however_often_the_connection_is_cut() {
    let (question, answer) = (random(500_000, 3), random(1 << 20, 4));
    at_once(0..12, |seed| {
        let host = Host::new();
        host.file("answer", &answer);
        let script = "sh:echo run >>runs; cat >question; cat answer; exit 9";
        let listener = host.listen("ws").arg(script).start_listening();
        let faults = cut_often(&listener, seed);
        let connect = host.connect(&faults.url()).input(question.as_slice());
        connect.run().exits(9).printed(&answer);
        listener.end().exits(9);
        assert_same(&host.content("question"), &question);
        assert_eq!(host.content("runs"), b"run\n");
    });
}

#[test]
fn n1_a_command_that_cannot_be_run_is_127_through_cuts() {
    at_once(0..12, |seed| {
        let host = Host::new();
        let listener = host
            .listen("fp")
            .arg("exec:no-such-command")
            .start_listening();
        let faults = cut_often(&listener, seed);
        let connect = host.connect(&faults.url()).input(random(1 << 20, seed));
        connect.run().exits(127).printed("");
        listener.end().exits(127);
    });
}

/// Many sessions of one listener: the cuts of one do not mix its bytes into another's.
#[test]
fn n1_sessions_of_one_listener_are_cut_beside_each_other() {
    let host = Host::new();
    let listener = host
        .listen("ws")
        .args(["--keep", "exec:cat"])
        .start_listening();
    let faults = cut_often(&listener, 0);
    at_once(0..16, |number| {
        let data = random(400_000, number);
        let connect = host.connect(&faults.url()).input(data.as_slice());
        connect.run().exits(0).printed(&data);
    });
    listener.signal(rustix::process::Signal::TERM);
    listener.end().exits(143);
}

/// The end of a reader is not lost with the connection it was to go over.
#[test]
fn n1_a_reader_that_goes_away_is_heard_of_through_cuts() {
    at_once(0..12, |seed| {
        let host = Host::new();
        let script = "{ \"$FARPIPE\" listen fp://127.0.0.1:0; echo $? >status; } | head -c 1000000";
        let listener = host.shell(script).start_listening();
        let faults = cut_often(&listener, seed);
        let script = format!(
            "yes | {{ \"$FARPIPE\" connect {}; echo $?; }}",
            faults.url()
        );
        host.shell(&script).run().exits(0).printed("141\n");
        listener.end().exits(0).printed("y\n".repeat(500_000));
        assert_eq!(host.content("status"), b"141\n");
    });
}

#[test]
fn n1_fifty_short_pipes_over_connections_of_two_to_nine_milliseconds_all_succeed() {
    let cuts = AtomicU64::new(0);
    at_once(0..50, |number| {
        let host = Host::new();
        let (there, back) = (random(20_000, number), random(30_000, number + 1_000));
        let listener = host.listen("ws").input(back.as_slice()).start_listening();
        let faults = cut_often(&listener, number);
        let connect = host
            .connect(&faults.url())
            .input(there.as_slice())
            .run()
            .exits(0);
        let listened = listener.end().exits(0);
        assert_same(&listened.stdout, &there);
        assert_same(&connect.stdout, &back);
        cuts.fetch_add(faults.stop().cuts(), Ordering::Relaxed);
    });
    assert!(cuts.into_inner() > 0, "nothing was cut");
}
