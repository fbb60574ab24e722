//! A cut at each byte of a connection, each way, on each carrier: handshake, stream, last words.
//!
//! The example `net_sweep` cuts 64 KiB at every byte; here, each byte of a small stream and a
//! slice of that.

use std::time::Duration;

use farpipe_sim::net::cable::Fault;
use farpipe_sim::net::{Stage, Sweep, Swept};

/// Plays every so-manieth position, and says how many runs that were.
fn sweep(swept: Swept, every: usize) -> u64 {
    let stage = &mut Stage::new();
    let report = Sweep::new(stage, swept).and_then(|sweep| {
        let positions = (0..sweep.positions()).step_by(every);
        sweep.run(stage, positions)
    });
    match report {
        Ok(report) => {
            assert!(report.disconnects >= report.runs);
            report.runs
        }
        Err(failure) => panic!("{failure}"),
    }
}

fn small(fault: Fault, proven: bool) -> Swept {
    Swept {
        fault,
        bytes: 100,
        proven,
    }
}

#[test]
fn n1_n2_a_reset_at_each_byte() {
    for proven in [false, true] {
        let runs = sweep(small(Fault::Reset, proven), 1);
        assert!(runs > 1_500, "{runs}");
    }
}

#[test]
fn n1_an_end_at_each_byte() {
    sweep(small(Fault::Close, false), 1);
    sweep(small(Fault::HalfClose, true), 1);
}

#[test]
fn n3_silence_from_each_byte_on() {
    sweep(small(Fault::BlackHole, false), 1);
    sweep(small(Fault::Stall(Duration::from_secs(5)), true), 1);
}

#[test]
fn n10_one_end_alone_is_reset_at_each_byte() {
    sweep(small(Fault::Ghost(Duration::ZERO), true), 1);
    sweep(small(Fault::Ghost(Duration::from_secs(20)), false), 1);
}

#[test]
fn n1_n2_a_slice_of_64_kib() {
    let runs = sweep(Swept::default(), 199);
    assert!(runs > 1_000, "{runs}");
}
