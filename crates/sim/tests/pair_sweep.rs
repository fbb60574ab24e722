//! The slices of the simulation that fit every run of the tests. The whole of it:
//! `cargo run --release -p farpipe-sim --example sweep -- --seeds 10000 --exhaustive`.

use farpipe_sim::pair::{positions, seeds, sweep};

/// The handshake and the first frames of each way, cut at every byte.
const BEGIN: u64 = 300;

#[test]
fn n1_a_stream_survives_a_cut_at_any_byte() {
    let all = positions();
    let up = all / 2;
    let begins = (0..BEGIN).chain(up - BEGIN..up + BEGIN);
    // A prime: every phase of every frame over time.
    let slice = (0..all).step_by(499);
    let ends = all - BEGIN..all;
    let report = sweep(begins.chain(slice).chain(ends)).unwrap_or_else(|f| panic!("{f}"));
    assert_eq!(report.disconnects, report.runs);
    assert_eq!(report.wrong, 0);
    assert_eq!(report.bytes, report.runs * 2 * 64 * 1024);
}

#[test]
fn n1_seeded_scenarios_lose_and_double_nothing() {
    let report = seeds(0..400).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!((report.runs, report.wrong), (400, 0));
    assert!(report.disconnects > 400, "{report}");
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    let run = || seeds(0..20).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(run(), run());
}
