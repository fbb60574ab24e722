//! Medians and other quantiles.

/// The median; of an even number of values the mean of the middle two; `None` of none.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[n / 2]),
        n => Some(f64::midpoint(values[n / 2 - 1], values[n / 2])),
    }
}

/// The value that `part` (0 to 1) of the others lie below, the nearest one; `None` of none. Half is the
/// [`median`].
pub fn quantile(values: impl Iterator<Item = f64>, part: f64) -> Option<f64> {
    if part == 0.5 {
        return median(values);
    }
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    values.get((last as f64 * part).round() as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_no_values() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn quantiles_are_values_that_were_there() {
        let values = || (0..=100).rev().map(f64::from);
        assert_eq!(quantile(values(), 0.1), Some(10.0));
        assert_eq!(quantile(values(), 0.99), Some(99.0));
        assert_eq!(quantile(values(), 1.0), Some(100.0));
        assert_eq!(quantile(std::iter::empty(), 0.9), None);
    }
}
