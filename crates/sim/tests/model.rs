//! Random operations against the reference, many of them.

use farpipe_sim::draw::Draw;
use farpipe_sim::model;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn what_arrives_is_a_prefix_and_everything_ends(
        choices in proptest::collection::vec(any::<u8>(), 0..500),
    ) {
        model::run(&mut Draw::from_bytes(&choices));
    }
}

#[test]
fn seeds_give_the_same_run_twice() {
    for seed in 0..20 {
        let [first, second] =
            [(); 2].map(|()| format!("{:?}", model::run(&mut Draw::from_seed(seed))));
        assert_eq!(first, second, "seed {seed}");
    }
}
