//! Repeats in a few numbers.

use serde::{Deserialize, Serialize};

/// Times of some repeats, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Times {
    pub median: f64,
    /// Quartiles: half of the repeats lie between them.
    pub low: f64,
    pub high: f64,
    /// Of a hundred repeats or more, the time that one in a hundred exceeds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p99: Option<f64>,
    pub repeats: usize,
}

impl Times {
    /// Of at least one repeat; zeros of none.
    pub fn of(seconds: &[f64]) -> Times {
        let mut sorted = seconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        Times {
            median: quantile(&sorted, 0.5),
            low: quantile(&sorted, 0.25),
            high: quantile(&sorted, 0.75),
            p99: (sorted.len() >= 100).then(|| quantile(&sorted, 0.99)),
            repeats: sorted.len(),
        }
    }

    /// The standard deviation of a normal distribution with these quartiles: outliers do not move it.
    pub fn deviation(&self) -> f64 {
        (self.high - self.low) / 1.349
    }
}

/// Between the two values around it, in proportion.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = share * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_quartiles() {
        let times = Times::of(&[4.0, 1.0, 2.0, 3.0, 100.0]);
        assert_eq!((times.median, times.low, times.high, times.p99), (3.0, 2.0, 4.0, None));
        assert_eq!(Times::of(&[1.0, 2.0]).median, 1.5);
        assert_eq!(Times::of(&[7.0]), Times { median: 7.0, low: 7.0, high: 7.0, p99: None, repeats: 1 });
        let hundred: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(Times::of(&hundred).p99, Some(99.0));
        assert!((Times::of(&hundred).deviation() - 50.0 / 1.349).abs() < 1e-12);
    }
}
