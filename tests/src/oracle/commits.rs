//! When a source commits what: some epochs late and out of order, several in flight, and now and then a
//! commit that must be refused.

use super::frames::Random;

/// A commit as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The generation that it names.
    pub generation: u64,
    /// The epoch that it names.
    pub epoch: u64,
}

/// Every so many runs one wrong commit, in the mean.
const WRONG_EVERY: u64 = 8;
/// Every so many runs one that was sent before, in the mean.
const AGAIN_EVERY: u64 = 8;

/// The commits that are still to be sent.
#[derive(Debug)]
pub struct Schedule {
    random: Random,
    /// Runs by which a commit follows its close, at most.
    lag: u64,
    /// The last run whose epoch is ever committed.
    until: u32,
    /// When each is due.
    due: Vec<(u64, Commit)>,
    last_closed: Option<Commit>,
    last_sent: Option<Commit>,
}

impl Schedule {
    /// Each commit follows its close by 0 to `lag` runs; no run after `until` is committed.
    pub fn new(seed: u64, lag: u32, until: u32) -> Self {
        let (random, lag) = (Random::new(seed), u64::from(lag));
        Self { random, lag, until, due: Vec::new(), last_closed: None, last_sent: None }
    }

    /// The epoch that ended with `run` is closed.
    pub fn closed(&mut self, run: u32, generation: u64, epoch: u64) {
        let commit = Commit { generation, epoch };
        if run <= self.until {
            self.due.push((u64::from(run) + self.random.below(self.lag + 1), commit));
        }
        self.last_closed = Some(commit);
    }

    /// What is to be sent after `run`, in this order; what was due before and not sent is among it.
    pub fn at(&mut self, run: u32) -> Vec<Commit> {
        let due = |at: &u64| *at <= u64::from(run);
        let mut now: Vec<Commit> = self.due.iter().filter(|(at, _)| due(at)).map(|(_, c)| *c).collect();
        self.due.retain(|(at, _)| !due(at));
        for at in (1..now.len()).rev() {
            let other = self.random.below(at as u64 + 1) as usize;
            now.swap(at, other);
        }
        if let Some(last) = now.last() {
            self.last_sent = Some(*last);
        }
        if let Some(again) = self.last_sent.filter(|_| self.random.below(AGAIN_EVERY) == 0) {
            now.push(again);
        }
        if let Some(last) = self.last_closed.filter(|_| self.random.below(WRONG_EVERY) == 0) {
            let wrong = self.wrong(last);
            let place = self.random.below(now.len() as u64 + 1) as usize;
            now.insert(place, wrong);
        }
        now
    }

    /// All that is left.
    pub fn rest(&mut self) -> Vec<Commit> {
        self.due.drain(..).map(|(_, commit)| commit).collect()
    }

    /// A commit that nothing stands behind.
    fn wrong(&mut self, last: Commit) -> Commit {
        let Commit { generation, epoch } = last;
        match self.random.below(6) {
            0 => Commit { generation, epoch: epoch + 1 },
            1 => Commit { generation, epoch: epoch + 1000 },
            2 => Commit { generation, epoch: u64::MAX },
            3 => Commit { generation: generation.wrapping_add(1), epoch },
            4 => Commit { generation: generation.wrapping_sub(1), epoch },
            _ => Commit { generation: 0, epoch },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_is_committed_some_late_some_out_of_order_and_wrong_ones_are_thrown_in() {
        let mut schedule = Schedule::new(3, 8, 998);
        let (mut right, mut disorder, mut wrong, mut in_flight) = (Vec::new(), 0, 0, 0);
        for run in 1..=1000u32 {
            schedule.closed(run, 77, u64::from(run) + 10);
            for commit in schedule.at(run) {
                if commit.generation == 77 && commit.epoch <= u64::from(run) + 10 {
                    disorder += u32::from(right.last().is_some_and(|last| *last > commit.epoch));
                    right.push(commit.epoch);
                } else {
                    wrong += 1;
                }
            }
            in_flight = in_flight.max(schedule.due.len());
        }
        assert!(disorder > 100 && wrong > 60 && in_flight > 4, "{disorder} {wrong} {in_flight}");
        let again = right.len();
        right.extend(schedule.rest().iter().map(|commit| commit.epoch));
        right.sort_unstable();
        right.dedup();
        assert!(again > right.len(), "some are sent twice");
        assert_eq!(right, (11..=1008).collect::<Vec<_>>());
    }
}
