//! Medians and spread of a handful of repeats.

use serde::Serialize;

/// Repeats of one number, summed up. Medians, because a shared machine's outliers lie on one side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many.
    pub n: usize,
}

impl Spread {
    /// Of finite numbers; `None` for none at all.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let n = values.len();
        let median = (values.get(n / 2)? + values[(n - 1) / 2]) / 2.0;
        Some(Spread { median: round(median), min: round(values[0]), max: round(values[n - 1]), n })
    }
}

/// Six significant digits: more would be noise, and unreadable.
fn round(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        let odd = Spread::of([3.0, 1.0, 1000.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max, odd.n), (3.0, 1.0, 1000.0, 3));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([f64::NAN, 7.0]).unwrap().n, 1);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn numbers_keep_six_digits() {
        let spread = Spread::of([7_654_321.9, 0.912_345_678]).unwrap();
        assert_eq!((spread.max, spread.min), (7_654_320.0, 0.912346));
    }
}
