//! Delays summed up twice: all of them, and those that no hiccup of the machine touched.

use serde::{Deserialize, Serialize};

/// Percentiles, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// The middle one.
    pub p50: f64,
    /// Of a hundred.
    pub p99: f64,
    /// Of a thousand.
    pub p999: f64,
    /// The longest.
    pub worst: f64,
    /// How many there were.
    pub n: usize,
}

impl Percentiles {
    /// Of any numbers; all 0 for none.
    pub fn of(mut ns: Vec<f64>) -> Percentiles {
        ns.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = ((ns.len() as f64 * share).ceil() as usize).max(1);
            ns.get(rank - 1).copied().unwrap_or(0.0)
        };
        Percentiles { p50: at(0.5), p99: at(0.99), p999: at(0.999), worst: at(1.0), n: ns.len() }
    }
}

/// See the module's head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delays {
    /// All of them.
    pub raw: Percentiles,
    /// Those that no hiccup touched.
    pub clean: Percentiles,
    /// Share of them that one did.
    pub excluded_share: f64,
}

impl Delays {
    /// Of delays in nanoseconds, each with whether a hiccup touched it.
    pub fn of(all: &[(f64, bool)]) -> Delays {
        let clean: Vec<f64> = all.iter().filter(|(_, touched)| !touched).map(|(ns, _)| *ns).collect();
        let excluded_share = 1.0 - clean.len() as f64 / all.len().max(1) as f64;
        let excluded_share = if all.is_empty() { 0.0 } else { excluded_share };
        let raw = Percentiles::of(all.iter().map(|(ns, _)| *ns).collect());
        Delays { raw, clean: Percentiles::of(clean), excluded_share }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_hiccup_touched_counts_in_raw_only() {
        let delays: Vec<_> = (1..=1000).map(|ns| (f64::from(ns), ns > 900)).collect();
        let sum = Delays::of(&delays);
        assert_eq!((sum.raw.p50, sum.raw.p99, sum.raw.p999, sum.raw.worst), (500.0, 990.0, 999.0, 1000.0));
        assert_eq!((sum.clean.worst, sum.clean.p99, sum.clean.n), (900.0, 891.0, 900));
        assert!((sum.excluded_share - 0.1).abs() < 1e-9);
        assert_eq!(Delays::of(&[]), Delays::default());
    }
}
