//! The verdict: a generator's log and a capture, reconciled after the fact.
//!
//! A frame of a kind that the policy holds is *early* when it was seen before any commit that covers its run
//! was sent. Which commit covers a run is worked out here, from the log alone: one that names the
//! generation and the number of an epoch closed before it. What the plane says of itself (its counters, its
//! answers) never excuses an early frame.

use super::capture::Seen;
use super::journal::Line;
use super::kind::{Kind, Policy};
use super::label::Label;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;

/// Early frames that are told of one by one.
const EXAMPLES: usize = 5;
const NEVER: u64 = u64::MAX;

/// Why there can be no verdict: the log contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsound(String);

impl fmt::Display for Unsound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the generator's log is unsound: {}; generate again", self.0)
    }
}

impl std::error::Error for Unsound {}

/// A frame that came too soon.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Early {
    /// When it was seen.
    pub at_ns: u64,
    /// When its commit was sent; `None`: never.
    pub commit_ns: Option<u64>,
    /// Its run.
    pub run: u32,
    /// Its number in the lane.
    pub number: u64,
    /// What it is.
    pub kind: String,
}

/// What was found. All counts are frames, unless a name says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Verdict {
    /// The policy that was tested.
    pub policy: String,
    /// Made by the generator.
    pub frames: u64,
    /// Seen behind the wire, each counted once.
    pub seen: u64,
    /// Those sent that the policy holds.
    pub sent_held_kinds: u64,
    /// Those seen that the policy holds.
    pub seen_held_kinds: u64,
    /// Those seen that the policy lets pass, and that came before the commit of their run.
    pub passed_ahead: u64,
    /// Epochs closed.
    pub epochs: u64,
    /// Epochs that some commit covers.
    pub epochs_committed: u64,
    /// Runs whose close was not granted; they count to the next epoch.
    pub merged: u64,
    /// Commits sent.
    pub commits: u64,
    /// Seen before the commit that covers them was sent (I1). Must be 0.
    pub early_releases: u64,
    /// The longest time by which one was early, nanoseconds; of one whose commit never came: up to the end.
    pub early_most_ns: u64,
    /// The first of them.
    pub early_examples: Vec<Early>,
    /// Held kinds not in arrival order, bypassed ones not in the order of their stream (I3). Must be 0.
    pub reordered: u64,
    /// The first of them, told for people.
    pub reordered_examples: Vec<String>,
    /// Seen twice. Must be 0.
    pub duplicated: u64,
    /// Sent, and neither seen nor held at the end nor counted as dropped (I6). Must be 0. Not judged when the
    /// plane was killed: what it held is lost, rightly.
    pub lost: u64,
    /// Committed and not seen at the end, beyond what was dropped (I7). Must be 0; judged like `lost`.
    pub overdue: u64,
    /// Seen, held and dropped that were never sent: the plane counts wrongly (I6). Must be 0.
    pub surplus: u64,
    /// Dropped, as the plane counts.
    pub dropped: u64,
    /// Held at the end, as the plane counts.
    pub held: u64,
    /// Never fetched by the plane, because the guest took its rings away.
    pub left: u64,
    /// Without a label, with a broken one, or behind the wrong wire. Must be 0.
    pub unexpected: u64,
    /// Frames that the plane counted to a later epoch than the generator did: safe, but not exact (I2).
    pub stamped_late: u64,
    /// Commits that no closed epoch stands behind and that the plane took nevertheless (I5). Must be 0.
    pub wrong_commits_taken: u64,
    /// Commits that were right and refused. Must be 0.
    pub right_commits_refused: u64,
}

impl Verdict {
    /// True when nothing was broken.
    pub fn is_good(&self) -> bool {
        let Verdict { early_releases, reordered, duplicated, lost, surplus, unexpected, .. } = *self;
        let Verdict { overdue, wrong_commits_taken, right_commits_refused, .. } = *self;
        early_releases + reordered + duplicated + lost + surplus + unexpected == 0
            && overdue + wrong_commits_taken + right_commits_refused == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} frames sent, {} seen, {} dropped, {} held at the end; {} epochs, {} of them committed",
            self.policy, self.frames, self.seen, self.dropped, self.held, self.epochs, self.epochs_committed
        )?;
        writeln!(f, "early_releases {} (most: {} ns)", self.early_releases, self.early_most_ns)?;
        for early in &self.early_examples {
            writeln!(
                f,
                "  {} {} of run {} seen at {} ns, commit sent {}",
                early.kind,
                early.number,
                early.run,
                early.at_ns,
                early.commit_ns.map_or("never".into(), |at| format!("at {at} ns"))
            )?;
        }
        for reordered in &self.reordered_examples {
            writeln!(f, "  {reordered}")?;
        }
        write!(
            f,
            "reordered {} duplicated {} lost {} overdue {} surplus {} unexpected {} stamped late {} \
             wrong commits taken {} right commits refused {}",
            self.reordered,
            self.duplicated,
            self.lost,
            self.overdue,
            self.surplus,
            self.unexpected,
            self.stamped_late,
            self.wrong_commits_taken,
            self.right_commits_refused
        )
    }
}

struct Closed {
    run: u32,
    epoch: u64,
    generation: u64,
    /// When the first commit that covers it was sent.
    committed_at: u64,
}

/// Reads the log first, then sees frame after frame.
pub struct Oracle {
    guest: u8,
    policy: Policy,
    /// For each run, for each lane: where it ends.
    ends: Vec<Vec<u64>>,
    /// For each run, when its first covering commit was sent.
    released_at: Vec<u64>,
    /// For each lane, a bit for each frame seen.
    seen: Vec<Vec<u64>>,
    /// For each lane, the number of the last held frame seen, plus one.
    last_held: Vec<u64>,
    /// For each bypassed stream, the sequence of the last frame seen.
    last_bypassed: HashMap<(u8, Kind, u8), u32>,
    ended_at: u64,
    plane_gone: bool,
    received: Option<u64>,
    /// The last run of which frames were left in the rings.
    torn: u32,
    verdict: Verdict,
}

/// The part of [`Oracle::new`] that walks through the log.
struct Reading {
    ends: Vec<Vec<u64>>,
    must_hold: Vec<u64>,
    closes: Vec<Closed>,
    /// The highest epoch that a right commit has named.
    committed: u64,
    /// The last commit was a right one; `None`: it has been answered.
    right: Option<bool>,
    stamped_late: u64,
    verdict: Verdict,
}

impl Oracle {
    /// Works out from the log when each run's frames might leave.
    pub fn new(lines: &[Line]) -> Result<Oracle, Unsound> {
        let unsound = |what: &str| Unsound(what.to_owned());
        let Some((Line::Start { guest, lanes, policy, .. }, rest)) = lines.split_first() else {
            return Err(unsound("it does not begin with `start`"));
        };
        let Some((Line::End { at: ended_at, plane_gone }, rest)) = rest.split_last() else {
            return Err(unsound("it does not finish with `end`"));
        };
        let lanes = usize::from(*lanes);
        let mut reading = Reading {
            ends: Vec::new(),
            must_hold: Vec::new(),
            closes: Vec::new(),
            committed: 0,
            right: None,
            stamped_late: 0,
            verdict: Verdict { policy: policy.name().into(), ..Verdict::default() },
        };
        let (mut received, mut torn) = (None, 0);
        for line in rest {
            match line {
                Line::Accounts { received: taken, held, dropped } => {
                    received = Some(*taken);
                    (reading.verdict.held, reading.verdict.dropped) = (*held, *dropped);
                }
                Line::Left { frames } => {
                    reading.verdict.left += frames;
                    torn = reading.ends.len() as u32;
                }
                line => reading.read(line, lanes)?,
            }
        }
        let Reading { ends, closes, mut verdict, .. } = reading;
        if verdict.dropped == 0 {
            verdict.stamped_late = reading.stamped_late; // Dropped frames are in no epoch.
        }
        let made: Vec<u64> = ends.last().cloned().unwrap_or_else(|| vec![0; lanes]);
        verdict.frames = made.iter().sum();
        verdict.sent_held_kinds = reading.must_hold.iter().sum();
        verdict.epochs = closes.len() as u64;
        verdict.epochs_committed = closes.iter().filter(|closed| closed.committed_at != NEVER).count() as u64;
        let mut released_at = vec![NEVER; ends.len()];
        let mut first = 1;
        for closed in &closes {
            released_at[first - 1..closed.run as usize].fill(closed.committed_at);
            first = closed.run as usize + 1;
        }
        Ok(Oracle {
            guest: *guest,
            policy: *policy,
            released_at,
            seen: made.iter().map(|&frames| vec![0; frames.div_ceil(64) as usize]).collect(),
            last_held: vec![0; lanes],
            last_bypassed: HashMap::new(),
            ends,
            ended_at: *ended_at,
            plane_gone: *plane_gone,
            received,
            torn,
            verdict,
        })
    }

    /// Judges a frame. To be called in the order of the capture.
    pub fn see(&mut self, seen: &Seen) {
        let Some(label) = seen.label.filter(|label| self.is_ours(label, seen.wire)) else {
            self.verdict.unexpected += 1;
            return;
        };
        let lane = usize::from(label.lane);
        let (word, bit) = ((label.number / 64) as usize, 1 << (label.number % 64));
        if self.seen[lane][word] & bit != 0 {
            self.verdict.duplicated += 1;
            return;
        }
        self.seen[lane][word] |= bit;
        self.verdict.seen += 1;
        if !self.policy.holds(label.kind) {
            let ahead = seen.at < self.released_at[label.run as usize - 1];
            self.verdict.passed_ahead += u64::from(ahead);
            if !ahead && label.run <= self.torn {
                // What proved its stream was left in the rings: it waited for its commit, while the stream went on.
                return;
            }
            let last = self.last_bypassed.insert((label.lane, label.kind, label.stream), label.sequence);
            if let Some(last) = last.filter(|last| label.sequence <= *last) {
                self.reordered(seen.at, &label, format!("after its stream's sequence {last}"));
            }
            return;
        }
        self.verdict.seen_held_kinds += 1;
        if label.number < self.last_held[lane] {
            self.reordered(seen.at, &label, format!("after number {}", self.last_held[lane] - 1));
        }
        self.last_held[lane] = self.last_held[lane].max(label.number + 1);
        let released_at = self.released_at[label.run as usize - 1];
        if seen.at < released_at {
            self.early(seen.at, released_at, &label);
        }
    }

    /// Frames of committed runs that were not seen.
    fn committed_and_missing(&self) -> u64 {
        let mut missing = 0;
        for (lane, seen) in self.seen.iter().enumerate() {
            let mut number = 0;
            for (ends, released_at) in self.ends.iter().zip(&self.released_at) {
                if *released_at != NEVER {
                    let unseen = |n: &u64| seen[(n / 64) as usize] & 1 << (n % 64) == 0;
                    missing += (number..ends[lane]).filter(unseen).count() as u64;
                }
                number = ends[lane];
            }
        }
        missing
    }

    /// A label that this generator wrote, behind the wire of its lane.
    fn is_ours(&self, label: &Label, wire: u8) -> bool {
        let (run, lane) = (label.run as usize, usize::from(label.lane));
        let Some(end) = run.checked_sub(1).and_then(|run| self.ends.get(run)?.get(lane)) else {
            return false;
        };
        let start = if run == 1 { 0 } else { self.ends[run - 2][lane] };
        label.guest == self.guest && label.lane == wire && (start..*end).contains(&label.number)
    }

    fn reordered(&mut self, at: u64, label: &Label, after: String) {
        self.verdict.reordered += 1;
        if self.verdict.reordered_examples.len() < EXAMPLES {
            let Label { kind, stream, sequence, number, run, lane, .. } = label;
            self.verdict.reordered_examples.push(format!(
                "{kind:?} {number} of run {run} in lane {lane}, stream {stream} sequence {sequence}, seen at {at} ns {after}"
            ));
        }
    }

    fn early(&mut self, at: u64, released_at: u64, label: &Label) {
        let by = if released_at == NEVER { self.ended_at } else { released_at } - at.min(self.ended_at);
        self.verdict.early_releases += 1;
        self.verdict.early_most_ns = self.verdict.early_most_ns.max(by);
        if self.verdict.early_examples.len() < EXAMPLES {
            self.verdict.early_examples.push(Early {
                at_ns: at,
                commit_ns: (released_at != NEVER).then_some(released_at),
                run: label.run,
                number: label.number,
                kind: format!("{:?}", label.kind),
            });
        }
    }

    /// The verdict, when the capture is at its end.
    pub fn finish(mut self) -> Verdict {
        if !self.plane_gone {
            let missing = self.committed_and_missing();
            let verdict = &mut self.verdict;
            let accounted = verdict.seen + verdict.dropped + verdict.held + verdict.left;
            verdict.overdue = missing.saturating_sub(verdict.dropped + verdict.left);
            verdict.lost = verdict.frames.saturating_sub(accounted);
            verdict.surplus = accounted.saturating_sub(verdict.frames);
            if let Some(received) = self.received {
                verdict.surplus += (received + verdict.left).saturating_sub(verdict.frames);
            }
        }
        self.verdict
    }
}

impl Reading {
    fn read(&mut self, line: &Line, lanes: usize) -> Result<(), Unsound> {
        let runs = self.ends.len() as u32;
        match line {
            Line::Sent { run, ends, must_hold } => {
                let rising = self
                    .ends
                    .last()
                    .is_none_or(|before| before.iter().zip(ends).all(|(before, end)| before <= end));
                if *run != runs + 1 || ends.len() != lanes || !rising {
                    return Err(Unsound(format!("run {run} after {runs} runs")));
                }
                self.ends.push(ends.clone());
                self.must_hold.push(*must_hold);
            }
            Line::Merged { .. } => self.verdict.merged += 1,
            Line::Closed { run, epoch, generation, frames, .. } => {
                let first = self.closes.last().map_or(0, |closed| closed.run) + 1;
                if *run < first || *run > runs {
                    return Err(Unsound(format!("epoch {epoch} closes run {run} after {runs} runs")));
                }
                if first == *run {
                    // Of several runs the plane tells the frames of the last one only.
                    self.stamped_late += self.must_hold[first as usize - 1].saturating_sub(*frames);
                }
                let (run, epoch, generation) = (*run, *epoch, *generation);
                self.closes.push(Closed { run, epoch, generation, committed_at: NEVER });
            }
            Line::Commit { at, generation, epoch } => self.commit(*at, *generation, *epoch),
            Line::Answer { granted, .. } => {
                let right = self.right.take();
                self.verdict.wrong_commits_taken += u64::from(right == Some(false) && *granted);
                self.verdict.right_commits_refused += u64::from(right == Some(true) && !*granted);
            }
            Line::Incident { .. } => {}
            Line::Start { .. } | Line::End { .. } | Line::Accounts { .. } | Line::Left { .. } => {
                return Err(Unsound("`start` and `end` stand inside".into()));
            }
        }
        Ok(())
    }

    fn commit(&mut self, at: u64, generation: u64, epoch: u64) {
        self.verdict.commits += 1;
        let current = self.closes.last().is_some_and(|closed| closed.generation == generation);
        let named = |closed: &Closed| closed.epoch == epoch && closed.generation == generation;
        let closed = self.closes.iter().rev().any(named);
        let right = current && (closed || epoch <= self.committed);
        self.right = Some(right);
        if right {
            self.committed = self.committed.max(epoch);
            for closed in self.closes.iter_mut().rev().filter(|closed| closed.epoch <= epoch) {
                if closed.committed_at != NEVER {
                    break; // Commits are cumulative: so are all before it.
                }
                closed.committed_at = at;
            }
        }
    }
}

#[cfg(test)]
#[path = "cases.rs"]
mod cases;
