//! When did the commit come, when did its first and its last frame leave: R6 of the testbed, and what an
//! operator looks at when a release takes long.

use crate::histogram::Histogram;

/// Commits watched at once; when more are under way, the newest ones share an entry.
const WATCHED: usize = 64;

#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    epoch: u64,
    arrived: u64,
    last_sent: Option<u64>,
}

/// The commits whose frames are on their way out, oldest first.
#[derive(Debug)]
pub struct CommitWatch {
    seen: u64,
    watches: [Watch; WATCHED],
    first: usize,
    len: usize,
}

impl CommitWatch {
    /// Nothing committed after `epoch` has been seen.
    pub fn new(epoch: u64) -> Self {
        Self { seen: epoch, watches: [Watch::default(); WATCHED], first: 0, len: 0 }
    }

    /// The gate says that `epoch` is committed since `arrived`, TSC.
    #[inline]
    pub fn see(&mut self, epoch: u64, arrived: u64) {
        if epoch <= self.seen {
            return;
        }
        self.seen = epoch;
        if self.len == WATCHED {
            self.watches[(self.first + self.len - 1) % WATCHED].epoch = epoch;
            return;
        }
        self.watches[(self.first + self.len) % WATCHED] = Watch { epoch, arrived, last_sent: None };
        self.len += 1;
    }

    /// A frame stamped `epoch` left at `now`.
    pub fn sent(&mut self, epoch: u64, now: u64, first: &Histogram, last: &Histogram) {
        while self.len > 0 && self.watches[self.first].epoch < epoch {
            self.end(last);
        }
        if self.len > 0 {
            let watch = &mut self.watches[self.first];
            if watch.last_sent.is_none() {
                first.record(now.saturating_sub(watch.arrived));
            }
            watch.last_sent = Some(now);
        }
    }

    /// Nothing that is committed waits any more.
    pub fn all_sent(&mut self, last: &Histogram) {
        while self.len > 0 {
            self.end(last);
        }
    }

    fn end(&mut self, last: &Histogram) {
        let watch = self.watches[self.first];
        if let Some(sent) = watch.last_sent {
            last.record(sent.saturating_sub(watch.arrived));
        }
        self.first = (self.first + 1) % WATCHED;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Heap;

    #[test]
    fn first_and_last_are_told_for_each_commit_that_let_something_go() {
        let (first, last) = (Histogram::new(&mut Heap), Histogram::new(&mut Heap));
        let mut watch = CommitWatch::new(0);
        watch.see(2, 100);
        watch.see(5, 200);
        watch.sent(1, 110, &first, &last);
        watch.sent(2, 120, &first, &last);
        watch.sent(4, 230, &first, &last);
        watch.all_sent(&last);
        watch.see(6, 300); // lets nothing go
        watch.all_sent(&last);
        let told = |h: &Histogram| h.snapshot().buckets().collect::<Vec<_>>();
        assert_eq!(told(&first), [(10, 1), (30, 1)]);
        assert_eq!(told(&last), [(20, 1), (30, 1)]);
    }

    #[test]
    fn more_commits_than_entries_lose_nothing_but_detail() {
        let (first, last) = (Histogram::new(&mut Heap), Histogram::new(&mut Heap));
        let mut watch = CommitWatch::new(0);
        (1..=200).for_each(|epoch| watch.see(epoch, 10));
        (1..=200).for_each(|epoch| watch.sent(epoch, 20, &first, &last));
        watch.all_sent(&last);
        assert_eq!(first.snapshot().count(), WATCHED as u64);
        assert_eq!(last.snapshot().max(), 10);
    }
}
