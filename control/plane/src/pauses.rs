//! How long a guest stands still: from the first ring that stops, or the close of a source, until it is seen to run.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tidegate_dataplane::arena::Heap;
use tidegate_dataplane::histogram::Histogram;

/// See the module's head. Written under the ledger's lock, read by anybody.
#[derive(Debug)]
pub struct Pauses {
    /// TSC; 0 while the guest runs.
    since: AtomicU64,
    /// In ticks.
    pub histogram: Histogram,
}

impl Default for Pauses {
    fn default() -> Self {
        Pauses { since: AtomicU64::new(0), histogram: Histogram::new(&mut Heap) }
    }
}

impl Pauses {
    /// The guest stands still since `tsc`, unless it did before.
    pub fn began(&self, tsc: u64) {
        if self.since.load(Relaxed) == 0 {
            self.since.store(tsc, Relaxed);
        }
    }

    /// It runs at `tsc`.
    pub fn ended(&self, tsc: u64) {
        let since = self.since.swap(0, Relaxed);
        if since != 0 {
            self.histogram.record(tsc.saturating_sub(since));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_counts_once_from_its_first_sign_to_the_first_sign_of_life() {
        let pauses = Pauses::default();
        pauses.ended(5);
        pauses.began(100);
        pauses.began(140);
        pauses.ended(150);
        pauses.ended(170);
        let seen = pauses.histogram.snapshot();
        assert_eq!((seen.count(), seen.max()), (1, 50));
    }
}
