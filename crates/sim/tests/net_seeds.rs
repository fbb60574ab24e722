//! Seeded scenarios of the real net code: each plays twice, all bytes arrive, nobody hangs.

use farpipe_sim::net::{Scenario, Stage, seeds, storms};

#[test]
fn n1_n2_n3_n5_n10_seeds() {
    if let Err(failure) = seeds(&mut Stage::new(), 0..200) {
        panic!("{failure}");
    }
}

/// Two hosts in turmoil's network: partitions, held and late messages, a listener that is killed.
#[test]
fn n1_n3_n10_n12_storms() {
    if let Err(failure) = storms(0..200) {
        panic!("{failure}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let stage = &mut Stage::new();
    let mut play = |seed| {
        let scenario = Scenario::from_seed(seed);
        stage
            .play(&scenario)
            .unwrap_or_else(|failure| panic!("{failure}"))
    };
    assert_eq!(play(3), play(3));
    assert_ne!(play(3).trace, play(4).trace);
}
