//! What benchmarks print for programs.

use serde_json::Value;

use super::Ended;

/// A benchmark's `--json`.
#[track_caller]
pub(crate) fn json(ended: &Ended) -> Value {
    serde_json::from_slice(&ended.stdout).expect("one JSON object")
}

/// A spread of times has this many times, in order.
#[track_caller]
pub(crate) fn assert_spread(spread: &Value, count: u64) {
    assert_eq!(spread["count"], count, "{spread}");
    let parts = ["p50_s", "p99_s", "p99_9_s", "max_s"];
    let times = parts.map(|part| spread[part].as_f64().expect("a time"));
    assert!(times[0] > 0.0 && times.is_sorted(), "{spread}");
    assert!(
        spread["mean_s"]
            .as_f64()
            .is_some_and(|mean| mean > 0.0 && mean <= times[3])
    );
}
