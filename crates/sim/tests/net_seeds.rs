//! Seeded scenarios of the real net code: each plays twice, all bytes arrive, nobody hangs.

use farpipe_sim::net::{Stage, seeds};

#[test]
fn n1_n2_n3_n5_n10_seeds() {
    match seeds(&mut Stage::new(), 0..200) {
        Ok(report) => println!("{report}"),
        Err(failure) => panic!("{failure}"),
    }
}
