//! Medians, and differences that more than chance has made.

use serde_json::{Value, json};

/// The median; of an even number of values the mean of the middle two; `None` of none.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[n / 2]),
        n => Some(f64::midpoint(values[n / 2 - 1], values[n / 2])),
    }
}

/// What is less than this does not count as a difference, however steady it is.
const CLEAR_MIN: f64 = 0.05;

/// How much faster one thing is than another: from the ratios within each round, so that a slow
/// minute of the machine hits both sides of a ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Change {
    /// The median: 0.5 is half as fast again, -0.5 half as fast.
    pub(crate) gain: f64,
    /// Every round says that it is faster, or every round that it is slower, and by no trifle.
    pub(crate) is_clear: bool,
}

impl Change {
    /// From the rates of the same rounds; `None` where there are none.
    pub(crate) fn between(new: &[f64], old: &[f64]) -> Option<Self> {
        let gains: Vec<f64> = new
            .iter()
            .zip(old)
            .map(|(new, old)| new / old - 1.0)
            .collect();
        let gain = median(&gains)?;
        let agree = gains.iter().all(|one| one.signum() == gain.signum());
        Some(Self {
            gain,
            is_clear: agree && gain.abs() >= CLEAR_MIN,
        })
    }

    pub(crate) fn percent(self) -> f64 {
        self.gain * 100.0
    }

    pub(crate) fn to_json(self) -> Value {
        json!({ "gain_percent": self.percent(), "clear": self.is_clear })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_no_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_change_is_the_median_of_the_ratios_of_each_round() {
        // The second round was slow for both.
        let change = Change::between(&[3.0, 0.3, 4.5], &[2.0, 0.2, 3.0]).expect("three rounds");
        assert!((change.gain - 0.5).abs() < 1e-9, "{change:?}");
        assert!(change.is_clear);
        assert_eq!(Change::between(&[], &[]), None);
    }

    #[test]
    fn a_change_is_clear_only_if_all_rounds_agree_and_it_is_no_trifle() {
        let is_clear = |new: &[f64]| {
            let old = vec![1.0; new.len()];
            Change::between(new, &old).expect("rounds").is_clear
        };
        assert!(is_clear(&[1.1, 1.2, 1.01]));
        assert!(is_clear(&[0.9, 0.8, 0.99]));
        assert!(!is_clear(&[1.1, 1.2, 0.99]), "one round says otherwise");
        assert!(!is_clear(&[1.02, 1.03, 1.04]), "a trifle");
    }
}
