//! The judge: did any frame leave before the commit that covers it was sent?
//!
//! It knows what the guest made (and in which run), what the sink's capture saw (and when), and the tool
//! stack's own closes and commits. It asks the plane nothing and shares no code with it.

use super::reports::{Close, Commit, Kind, Made, Seen};
use serde::{Deserialize, Serialize};

/// What the guest, its tool stack and the sink know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence<'a> {
    /// By label.
    pub made: &'a [Made],
    /// In the order of the capture.
    pub seen: &'a [Seen],
    /// In order.
    pub closes: &'a [Close],
    /// In order.
    pub commits: &'a [Commit],
    /// Kinds that the policy lets through, so that they owe nothing to a commit.
    pub bypassing: &'a [Kind],
}

/// All in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Verdict {
    /// Seen behind the gate.
    pub seen: u64,
    /// Of those, of kinds that have to wait for a commit: each was judged.
    pub judged: u64,
    /// Judged, and seen before the first commit that covers their run had been sent.
    pub early: u64,
    /// Judged, and seen after one that the guest made later (I3).
    pub disordered: u64,
    /// Seen with a label that the guest never gave.
    pub unknown: u64,
    /// Seen more than once.
    pub repeated: u64,
    /// Made, covered by a commit, and never seen.
    pub missing: u64,
    /// Made, and covered by no commit.
    pub uncommitted: u64,
}

/// Reconciles.
pub(super) fn judge(evidence: &Evidence<'_>) -> Verdict {
    let free_from = release_times(evidence);
    let mut verdict = Verdict { seen: evidence.seen.len() as u64, ..Verdict::default() };
    let mut times_seen = vec![0u8; evidence.made.len()];
    let mut last = None;
    for seen in evidence.seen {
        let Some((made, times)) = usize::try_from(seen.label)
            .ok()
            .and_then(|label| evidence.made.get(label).zip(times_seen.get_mut(label)))
        else {
            verdict.unknown += 1;
            continue;
        };
        *times = times.saturating_add(1);
        verdict.repeated += u64::from(*times > 1);
        if evidence.bypassing.contains(&made.kind) {
            continue;
        }
        verdict.judged += 1;
        verdict.early += u64::from(free_from(made.run).is_none_or(|from_ns| seen.at_ns < from_ns));
        verdict.disordered += u64::from(last > Some(seen.label));
        last = last.max(Some(seen.label));
    }
    for (made, times) in evidence.made.iter().zip(&times_seen) {
        let covered = free_from(made.run).is_some();
        verdict.missing += u64::from(covered && *times == 0);
        verdict.uncommitted += u64::from(!covered);
    }
    verdict
}

/// When the frames of a run could leave first: the sending of the first commit that covers it.
fn release_times(evidence: &Evidence<'_>) -> impl Fn(u64) -> Option<u64> + use<> {
    let covering = |close: &Close| {
        let covers = |commit: &&Commit| commit.generation == close.generation && commit.epoch >= close.epoch;
        let sent = evidence.commits.iter().filter(covers).map(|commit| commit.sent_ns).min();
        (close.run, sent)
    };
    // Runs and closes both rise, and each close ends one run.
    let mut by_run: Vec<(u64, Option<u64>)> = evidence.closes.iter().map(covering).collect();
    by_run.sort_unstable_by_key(|(run, _)| *run);
    move |run| {
        let place = by_run.binary_search_by_key(&run, |(run, _)| *run).ok()?;
        by_run[place].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERATION: u64 = 9;

    /// Three runs of two frames each (TCP, then media); run n ends in epoch n + 1, committed at
    /// (n + 1) * 100; the third has no commit.
    struct Case {
        made: Vec<Made>,
        seen: Vec<Seen>,
        closes: Vec<Close>,
        commits: Vec<Commit>,
    }

    fn case() -> Case {
        let made = (0..6u64).map(|n| Made { run: n / 2, kind: [Kind::Tcp, Kind::Media][n as usize % 2] });
        let close = |run: u64| Close { run, epoch: run + 1, generation: GENERATION, pause_ns: 0 };
        let commit = |run: u64| Commit { epoch: run + 1, generation: GENERATION, sent_ns: (run + 1) * 100 };
        let seen = |(label, at_ns)| Seen { label, at_ns };
        Case {
            made: made.collect(),
            seen: [(0, 101), (1, 102), (2, 201), (3, 202)].map(seen).into(),
            closes: (0..3).map(close).collect(),
            commits: (0..2).map(commit).collect(),
        }
    }

    fn judged(case: &Case, bypassing: &[Kind]) -> Verdict {
        let Case { made, seen, closes, commits } = case;
        judge(&Evidence { made, seen, closes, commits, bypassing })
    }

    #[test]
    fn frames_after_their_commits_are_not_early() {
        let verdict = judged(&case(), &[]);
        assert_eq!(verdict, Verdict { seen: 4, judged: 4, uncommitted: 2, ..Verdict::default() });
    }

    #[test]
    fn a_frame_before_its_commit_or_without_one_is_early_unless_its_kind_passes() {
        let mut early = case();
        early.seen[2].at_ns = 199;
        assert_eq!(judged(&early, &[]).early, 1);
        early.seen.push(Seen { label: 5, at_ns: 900 });
        assert_eq!(judged(&early, &[]).early, 2, "its run was never committed");
        let verdict = judged(&early, &[Kind::Media]);
        assert_eq!((verdict.early, verdict.judged), (1, 2));
    }

    #[test]
    fn a_commit_of_another_generation_covers_nothing() {
        let mut other = case();
        other.commits[0].generation += 1;
        assert_eq!(judged(&other, &[]).early, 2, "free only with the next commit, which is cumulative");
    }

    #[test]
    fn what_is_missing_repeated_disordered_or_unknown_is_counted() {
        let mut case = case();
        case.seen =
            [(1, 300), (0, 301), (1, 302), (77, 303)].map(|(label, at_ns)| Seen { label, at_ns }).into();
        let verdict = judged(&case, &[]);
        let expected = Verdict {
            seen: 4,
            judged: 3,
            early: 0,
            disordered: 1,
            unknown: 1,
            repeated: 1,
            missing: 2,
            uncommitted: 2,
        };
        assert_eq!(verdict, expected);
    }
}
