//! How times are spread.

use std::time::Duration;

use serde_json::{Value, json};

/// Many times of one thing, in order of length. Never empty.
#[derive(Debug, Clone)]
pub(super) struct Spread(Vec<Duration>);

impl Spread {
    /// # Panics
    /// If there are none.
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty(), "something was measured");
        times.sort_unstable();
        Self(times)
    }

    /// The time that `part` of 1000 do not exceed.
    pub(super) fn per_mille(&self, part: usize) -> Duration {
        let rank = (self.0.len() * part).div_ceil(1000).max(1);
        self.0[rank - 1]
    }

    pub(super) fn mean(&self) -> Duration {
        let sum: Duration = self.0.iter().sum();
        sum / u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn max(&self) -> Duration {
        self.per_mille(1000)
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "count": self.0.len(),
            "mean_s": self.mean().as_secs_f64(),
            "p50_s": self.per_mille(500).as_secs_f64(),
            "p99_s": self.per_mille(990).as_secs_f64(),
            "p99_9_s": self.per_mille(999).as_secs_f64(),
            "max_s": self.max().as_secs_f64(),
        })
    }
}

/// A time with three digits.
pub(super) fn shown(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        _ if ms < 1.0 => format!("{:.0} us", ms * 1e3),
        _ if ms < 10.0 => format!("{ms:.2} ms"),
        _ if ms < 100.0 => format!("{ms:.1} ms"),
        _ => format!("{ms:.0} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_time_that_so_many_do_not_exceed() {
        let ms = Duration::from_millis;
        let of = |n: u64| Spread::of((1..=n).rev().map(ms).collect());
        let thousand = of(1000);
        let parts = [500, 990, 999, 1000].map(|part| thousand.per_mille(part));
        assert_eq!(parts, [500, 990, 999, 1000].map(ms));
        assert_eq!(thousand.mean(), Duration::from_micros(500_500));
        assert_eq!(of(1).per_mille(500), ms(1));
        assert_eq!(of(3).per_mille(500), ms(2));
        assert_eq!(of(10).per_mille(990), ms(10));
    }

    #[test]
    fn times_are_shown_with_three_digits() {
        for (micros, text) in [
            (7, "7 us"),
            (999, "999 us"),
            (1234, "1.23 ms"),
            (12_345, "12.3 ms"),
            (1_234_567, "1235 ms"),
        ] {
            assert_eq!(shown(Duration::from_micros(micros)), text);
        }
    }
}
