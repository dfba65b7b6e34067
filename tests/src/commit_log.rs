//! The log of commits as the *test's* source knows them, and the verdict on a capture.
//!
//! At each pause the guest's counter is read. A frame numbered above the counter of epoch `e` was made
//! after that pause, so it belongs to a later epoch; it may be on the wire only after the commit of an
//! epoch whose counter covers it. A commit is noted before the order for it is given, and the capture
//! stamps a frame when it is there already: so whatever this finds early was early.

use std::collections::{BTreeMap, BTreeSet};

use crate::beacon_record::{Carrier, Record};
use crate::capture::Frame;

/// One closed epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The generation it belongs to.
    pub generation: u64,
    /// The plane's number for it.
    pub epoch: u64,
    /// When the guest was paused and the close was answered, ns since 1970.
    pub closed_ns: u64,
    /// The beacon that ran at that time.
    pub boot: u64,
    /// Its counter during the pause.
    pub counter: u64,
    /// When the order to commit was given.
    pub committed_ns: Option<u64>,
}

/// The epochs in the order they were closed.
#[derive(Debug, Default, Clone)]
pub struct CommitLog {
    closed: Vec<Closed>,
}

/// A numbered frame that was on the wire before its epoch's commit.
#[derive(Debug, Clone)]
pub struct Early {
    /// The frame's number and way.
    pub record: Record,
    /// When it was seen, ns since 1970.
    pub at_ns: u64,
    /// The first epoch that covers it, and when that was committed; nothing when none ever covered it.
    pub covered_by: Option<(u64, Option<u64>)>,
}

/// What a capture shows.
#[derive(Debug, Default, Clone)]
pub struct Verdict {
    /// Numbered frames seen, by the way they came.
    pub seen: BTreeMap<Carrier, u64>,
    /// The boots of the guest that they came from.
    pub boots: BTreeSet<u64>,
    /// Those among them that were there too early.
    pub early: Vec<Early>,
}

impl CommitLog {
    /// Notes a close.
    pub fn close(&mut self, closed: Closed) {
        self.closed.push(closed);
    }

    /// Notes that everything up to `epoch` is about to be committed: to be called **before** the order.
    pub fn commit(&mut self, generation: u64, epoch: u64, at_ns: u64) {
        for closed in &mut self.closed {
            if closed.generation == generation && closed.epoch <= epoch {
                closed.committed_ns.get_or_insert(at_ns);
            }
        }
    }

    /// The epochs so far.
    pub fn epochs(&self) -> &[Closed] {
        &self.closed
    }

    /// The first epoch that can hold the frame (the first whose counter had reached the number, or the
    /// first of a later boot), and all after it: TCP sends a lost segment again in a later one.
    fn covering(&self, record: &Record) -> &[Closed] {
        let mut its_boot_was_seen = false;
        let first = self.closed.iter().position(|closed| {
            if closed.boot == record.boot {
                its_boot_was_seen = true;
                closed.counter >= record.number
            } else {
                its_boot_was_seen
            }
        });
        first.map_or(&[], |first| &self.closed[first..])
    }

    /// Judges the numbered frames of a capture that come by one of the `held` carriers.
    pub fn judge(&self, frames: &[Frame], held: &[Carrier]) -> Verdict {
        let mut verdict = Verdict::default();
        for frame in frames {
            for record in Record::all_in(&frame.payload) {
                if !held.contains(&record.carrier) {
                    continue;
                }
                *verdict.seen.entry(record.carrier).or_default() += 1;
                verdict.boots.insert(record.boot);
                let covering = self.covering(&record);
                let in_time = covering
                    .iter()
                    .filter_map(|closed| closed.committed_ns)
                    .any(|at_ns| at_ns <= frame.at_ns);
                if !in_time {
                    verdict.early.push(Early {
                        record,
                        at_ns: frame.at_ns,
                        covered_by: covering.first().map(|closed| (closed.epoch, closed.committed_ns)),
                    });
                }
            }
        }
        verdict
    }
}

impl Verdict {
    /// A sentence that names the count of early frames and the first of them.
    pub fn summary(&self) -> String {
        match self.early.first() {
            None => format!("no early frame among {:?}", self.seen),
            Some(first) => format!(
                "{} early frames among {:?}, the first: {:?} number {} at {} ns, covered by {:?}",
                self.early.len(),
                self.seen,
                first.record.carrier,
                first.record.number,
                first.at_ns,
                first.covered_by
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Kind;

    fn frame(boot: u64, number: u64, at_ns: u64) -> Frame {
        let record = Record { boot, carrier: Carrier::Udp4, number, sequence: 0 };
        Frame {
            at_ns,
            source_mac: [0; 6],
            vlan: None,
            kind: Kind::Other,
            payload: record.to_bytes().to_vec(),
            checksums: None,
        }
    }

    fn early(log: &CommitLog, frame: Frame) -> bool {
        !log.judge(&[frame], &[Carrier::Udp4]).early.is_empty()
    }

    fn close(log: &mut CommitLog, generation: u64, epoch: u64, boot: u64, counter: u64) {
        log.close(Closed { generation, epoch, closed_ns: 0, boot, counter, committed_ns: None });
    }

    fn log() -> CommitLog {
        let mut log = CommitLog::default();
        close(&mut log, 1, 1, 7, 10);
        close(&mut log, 1, 2, 7, 20);
        log.commit(1, 1, 250);
        close(&mut log, 1, 3, 7, 30);
        log
    }

    #[test]
    fn a_frame_waits_for_the_commit_of_the_epoch_whose_counter_covers_it() {
        let log = log();
        assert!(!early(&log, frame(7, 10, 250)), "the last one of a committed epoch");
        assert!(early(&log, frame(7, 10, 249)), "before the commit");
        assert!(early(&log, frame(7, 11, 260)), "the first one of the next epoch, not committed");
        assert!(early(&log, frame(7, 31, 400)), "covered by nothing");
        assert!(early(&log, frame(8, 1, 400)), "of a boot that no close has seen");
    }

    #[test]
    fn a_commit_covers_what_was_closed_before_and_does_not_change_earlier_commits() {
        let mut log = log();
        log.commit(1, 3, 400);
        assert!(!early(&log, frame(7, 10, 250)));
        assert!(early(&log, frame(7, 20, 399)));
        assert!(!early(&log, frame(7, 30, 400)));
    }

    #[test]
    fn what_a_boot_left_is_covered_by_the_first_close_of_the_next() {
        let mut log = log();
        log.commit(1, 3, 400);
        close(&mut log, 1, 4, 8, 5);
        assert!(early(&log, frame(7, 31, 550)));
        log.commit(1, 4, 600);
        assert!(!early(&log, frame(7, 31, 600)));
        assert!(!early(&log, frame(8, 5, 600)));
        assert!(early(&log, frame(8, 6, 600)));
    }

    #[test]
    fn what_a_dead_plane_held_comes_again_only_under_a_commit_of_the_new_one() {
        let mut log = log();
        close(&mut log, 2, 1, 7, 40);
        assert!(early(&log, frame(7, 25, 500)), "the old generation never committed it");
        log.commit(2, 1, 600);
        assert!(!early(&log, frame(7, 25, 600)));
    }

    #[test]
    fn other_carriers_are_not_judged() {
        assert!(log().judge(&[frame(7, 31, 1)], &[Carrier::Tcp]).early.is_empty());
    }
}
