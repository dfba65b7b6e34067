//! A latency histogram that one lcore writes and anybody reads while it is written.
//!
//! Fixed log-linear buckets over TSC ticks: exact below 64, then 64 buckets for each power of two, so
//! a bucket's width is at most 1/64 (1.6 %) of its value. One store per record, no allocation, no lock;
//! a reader may see a count a few records old, never a torn one.
//! The control side turns a [`Snapshot`] into nanoseconds, percentiles and `.hlog` files.

use crate::arena::{Arena, Slice};
use crate::tsc::TscRate;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;
/// Largest power of two told apart: 2^42 ticks are 28 minutes at 2.6 GHz. Above, the last bucket.
const MAX_BITS: u32 = 42;
/// Buckets of a histogram.
pub const BUCKETS: usize = (SUB as usize) * (MAX_BITS - SUB_BITS + 1) as usize;

/// See the module's head. Shape: [`BUCKETS`] counts and one maximum, in ticks (or whatever the owner
/// records: burst sizes are frames).
#[derive(Debug)]
pub struct Histogram {
    counts: Slice<AtomicU64>,
    max: AtomicU64,
}

impl Histogram {
    /// An empty histogram in `arena`.
    pub fn new(arena: &mut impl Arena) -> Self {
        Self { counts: arena.slice(BUCKETS, || AtomicU64::new(0)), max: AtomicU64::new(0) }
    }

    /// Counts `value` once. For the one thread that owns the histogram.
    #[inline]
    pub fn record(&self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts `value` `n` times, at the price of one.
    #[inline]
    pub fn record_n(&self, value: u64, n: u64) {
        let count = &self.counts[bucket(value)];
        // Load and store instead of a locked add: there is one writer.
        count.store(count.load(Relaxed) + n, Relaxed);
        if value > self.max.load(Relaxed) {
            self.max.store(value, Relaxed);
        }
    }

    /// The counts as they stand.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            counts: self.counts.iter().map(|c| c.load(Relaxed)).collect(),
            max: self.max.load(Relaxed),
        }
    }
}

/// The bucket of a value. Total: every `u64` has one.
#[inline]
fn bucket(value: u64) -> usize {
    if value < SUB {
        return value as usize;
    }
    let bits = 63 - value.leading_zeros(); // >= SUB_BITS
    if bits >= MAX_BITS {
        return BUCKETS - 1;
    }
    let shift = bits - SUB_BITS;
    ((shift as u64 + 1) * SUB + ((value >> shift) - SUB)) as usize
}

/// Lowest and highest value of a bucket; the last one reaches to `u64::MAX`.
pub fn bounds(bucket: usize) -> (u64, u64) {
    let (row, column) = (bucket as u64 / SUB, bucket as u64 % SUB);
    if row == 0 {
        return (column, column);
    }
    let shift = row - 1;
    let low = (SUB + column) << shift;
    let high = if bucket == BUCKETS - 1 { u64::MAX } else { low + (1 << shift) - 1 };
    (low, high)
}

/// A copy of a histogram's counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    counts: Vec<u64>,
    max: u64,
}

impl Snapshot {
    /// Values recorded.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Largest value recorded, exact, in ticks.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// What was recorded since `earlier`; the maximum is that of the highest new bucket.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let counts: Vec<u64> = self
            .counts
            .iter()
            .enumerate()
            .map(|(n, count)| count - earlier.counts.get(n).copied().unwrap_or(0).min(*count))
            .collect();
        let top = counts.iter().rposition(|&count| count > 0);
        let max = top.map_or(0, |n| bounds(n).1.min(self.max));
        Snapshot { counts, max }
    }

    /// Adds the counts of another histogram of the same unit.
    pub fn merge(&mut self, other: &Snapshot) {
        self.counts.resize(BUCKETS, 0);
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.max = self.max.max(other.max);
    }

    /// The non-empty buckets as (value in the middle of the bucket, count), rising.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(n, &count)| {
            let (low, high) = bounds(n);
            let high = high.min(self.max.max(low));
            (low + (high - low) / 2, count)
        })
    }

    /// The smallest bucket middle that at least `share` (0..=1) of the values do not exceed; the exact
    /// maximum for 1. `None` without values.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let wanted = ((share * total as f64).ceil() as u64).clamp(1, total);
        if wanted == total && share >= 1.0 {
            return Some(self.max);
        }
        let mut seen = 0;
        self.buckets().find_map(|(value, count)| {
            seen += count;
            (seen >= wanted).then_some(value)
        })
    }

    /// The same as [`Snapshot::quantile`], in nanoseconds.
    pub fn quantile_ns(&self, share: f64, rate: TscRate) -> Option<u64> {
        self.quantile(share).map(|ticks| rate.ns(ticks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Heap;
    use proptest::prelude::*;

    #[test]
    fn every_bucket_starts_where_the_one_before_ends() {
        for n in 1..BUCKETS {
            assert_eq!(bounds(n).0, bounds(n - 1).1 + 1, "bucket {n}");
        }
    }

    proptest! {
        #[test]
        fn a_value_lies_within_its_bucket_and_the_bucket_is_narrow(value: u64) {
            let (low, high) = bounds(bucket(value));
            prop_assert!(low <= value && value <= high);
            if (SUB..1 << MAX_BITS).contains(&value) {
                prop_assert!(high - low < low / SUB + 1);
            }
        }

        #[test]
        fn quantiles_follow_a_sorted_list(mut values in proptest::collection::vec(0u64..1 << 40, 1..300)) {
            let histogram = Histogram::new(&mut Heap);
            values.iter().for_each(|v| histogram.record(*v));
            values.sort_unstable();
            let snapshot = histogram.snapshot();
            for share in [0.5, 0.9, 0.99, 1.0] {
                let exact = values[((share * values.len() as f64).ceil() as usize).max(1) - 1];
                let told = snapshot.quantile(share).unwrap();
                prop_assert!(told.abs_diff(exact) <= exact / SUB + 1, "{share}: {told} for {exact}");
            }
            prop_assert_eq!(snapshot.count(), values.len() as u64);
        }
    }

    #[test]
    fn since_subtracts() {
        let histogram = Histogram::new(&mut Heap);
        histogram.record_n(10, 5);
        let first = histogram.snapshot();
        histogram.record(1000);
        let fresh = histogram.snapshot().since(&first);
        assert_eq!((fresh.count(), fresh.max()), (1, 1000));
        assert_eq!(Snapshot::default().quantile(0.5), None);
    }
}
