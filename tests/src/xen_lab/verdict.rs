//! What a record shows: who left too early, whether each epoch was closed while the domain was suspended, and how long
//! things took.

use std::collections::BTreeMap;

use super::record::{Close, Record};
use crate::capture::{Frame, Kind};
use crate::survival::seen::{Saying, from_guest, sayings};

/// See the module's head.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Verdict {
    /// Checkpoints that came to their end, each with an epoch of its own.
    pub checkpoints: usize,
    /// Those whose acknowledgement came.
    pub commits: usize,
    /// Numbered things that were on the wire before the backup's acknowledgement of a checkpoint that has them.
    pub early: Vec<Saying>,
    /// Numbered things on the wire that were judged: of nothing, nothing is shown.
    pub judged: usize,
    /// Epochs that were not closed while the domain was suspended.
    pub outside_suspend: usize,
    /// How long the domain stood still each time, milliseconds.
    pub pauses_ms: Vec<f64>,
    /// From a checkpoint's end to its acknowledgement, milliseconds.
    pub commits_ms: Vec<f64>,
    /// The longest silence of the guest's voice on the wire, milliseconds, and its packets.
    pub voice: (f64, usize),
}

/// What of the guest's sayings waits for a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The numbered datagrams do; TCP always does.
    pub marks: bool,
}

impl Held {
    fn holds(self, saying: &Saying) -> bool {
        self.marks || matches!(saying, Saying::Answer(..))
    }
}

const MS: f64 = 1e6;

impl Verdict {
    /// Of the time from `from_ns` to `until_ns`.
    pub fn of(record: &Record, held: Held, from_ns: u64, until_ns: u64) -> Verdict {
        let within = |ns: u64| (from_ns..until_ns).contains(&ns);
        let closes: Vec<&Close> = record.closes.iter().filter(|close| within(close.asked_ns)).collect();
        let (early, judged) = early(record, held, from_ns, until_ns);
        let windows = windows(record);
        let inside = |close: &Close| {
            windows.iter().any(|&(begin, end)| begin <= close.asked_ns && close.answered_ns <= end)
        };
        Verdict {
            checkpoints: closes.len(),
            commits: closes.iter().filter(|close| close.commits && close.acknowledged_ns.is_some()).count(),
            early,
            judged,
            outside_suspend: closes.iter().filter(|close| !inside(close)).count(),
            pauses_ms: windows
                .iter()
                .filter(|(begin, _)| within(*begin))
                .map(|(begin, end)| (end - begin) as f64 / MS)
                .collect(),
            commits_ms: closes
                .iter()
                .filter_map(|close| Some(close.acknowledged_ns?.saturating_sub(close.ended_ns) as f64 / MS))
                .collect(),
            voice: voice(&record.outside, from_ns, until_ns),
        }
    }
}

/// The times in which the domain was suspended: from the last look that saw it run to the first that saw it run again.
fn windows(record: &Record) -> Vec<(u64, u64)> {
    let pairs = record.changes.windows(2);
    pairs
        .filter(|pair| pair[0].state == "suspended" && pair[1].state == "running")
        .map(|pair| (pair[0].before_ns, pair[1].at_ns))
        .collect()
}

/// The sayings of the guest that were out before any acknowledgement that covers them, and how many were looked at.
///
/// Something that came to the guest's port after the answer to a close belongs to a later epoch. So the first close that
/// was answered after it came is the first that can cover it, and it may leave with that acknowledgement or a later one.
fn early(record: &Record, held: Held, from_ns: u64, until_ns: u64) -> (Vec<Saying>, usize) {
    let mut came: BTreeMap<Saying, u64> = BTreeMap::new();
    for (saying, at_ns) in said(&record.inside) {
        came.entry(saying).or_insert(at_ns);
    }
    let Some(begin_ns) = record.closes.first().map(|close| close.answered_ns) else { return (Vec::new(), 0) };
    let (mut early, mut judged) = (Vec::new(), 0);
    for (saying, left_ns) in said(&record.outside) {
        let Some(&came_ns) = came.get(&saying) else { continue };
        // Before protection began, nothing waited.
        if came_ns <= begin_ns || !held.holds(&saying) || !(from_ns..until_ns).contains(&left_ns) {
            continue;
        }
        judged += 1;
        let covering = record.closes.iter().filter(|close| close.answered_ns >= came_ns && close.commits);
        if !covering.filter_map(|close| close.acknowledged_ns).any(|at_ns| at_ns <= left_ns) {
            early.push(saying);
        }
    }
    (early, judged)
}

fn said(frames: &[Frame]) -> impl Iterator<Item = (Saying, u64)> {
    let own = frames.iter().filter(from_guest);
    own.flat_map(|frame| sayings(frame).into_iter().map(|(saying, _)| (saying, frame.at_ns)))
}

fn voice(frames: &[Frame], from_ns: u64, until_ns: u64) -> (f64, usize) {
    let spoken = frames.iter().filter(from_guest).filter(|frame| {
        (from_ns..until_ns).contains(&frame.at_ns)
            && matches!(frame.kind, Kind::Udp(ends) if ends.destination.port() == 6300)
    });
    let at: Vec<u64> = spoken.map(|frame| frame.at_ns).collect();
    let gap = at.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or(0);
    (gap as f64 / MS, at.len())
}

#[cfg(test)]
mod tests {
    use super::super::record::{changes, closes, events};
    use super::*;
    use crate::capture::Ends;
    use crate::qemu::Nic;
    use crate::survival::mark::Mark;

    fn mark(at_ns: u64, number: u64) -> Frame {
        let ends = Ends {
            source: "10.9.0.2:4000".parse().expect("an address"),
            destination: "10.9.0.1:9700".parse().expect("an address"),
        };
        let payload = Mark { number, draw: 7 }.to_bytes().to_vec();
        Frame { at_ns, source_mac: Nic::mac(0), vlan: None, kind: Kind::Udp(ends), payload, checksums: None }
    }

    /// Epoch 2 begins protection at 100; 3 is closed at 200 to 210 and acknowledged at 260, 4 at 300 and never.
    fn record(left_ns: &[(u64, u64)]) -> Record {
        let told = [
            r#"{"event":"step","step":"close","epoch":2,"at_ns":100}"#,
            r#"{"event":"step","step":"send","epoch":2,"at_ns":130}"#,
            r#"{"event":"checkpoint","epoch":2,"close_ms":0.000005,"commits":false}"#,
            "libxl: something else",
            r#"{"event":"step","step":"close","epoch":3,"at_ns":210}"#,
            r#"{"event":"step","step":"send","epoch":3,"at_ns":240}"#,
            r#"{"event":"checkpoint","epoch":3,"close_ms":0.00001,"commits":true}"#,
            r#"{"event":"step","step":"acknowledged","epoch":3,"at_ns":260}"#,
            r#"{"event":"step","step":"close","epoch":4,"at_ns":300}"#,
            r#"{"event":"step","step":"send","epoch":4,"at_ns":330}"#,
            r#"{"event":"checkpoint","epoch":4,"close_ms":0.00001,"commits":true}"#,
        ];
        Record {
            changes: changes(
                "running 0 1\nsuspended 89 91\nrunning 119 121\nsuspended 195 199\nrunning 215 219\n",
            ),
            closes: closes(&events(&told.join("\n"))),
            inside: [(105, 1), (205, 2), (215, 3)].map(|(at_ns, number)| mark(at_ns, number)).to_vec(),
            outside: left_ns.iter().map(|&(at_ns, number)| mark(at_ns, number)).collect(),
        }
    }

    fn verdict(left_ns: &[(u64, u64)], marks: bool) -> Verdict {
        Verdict::of(&record(left_ns), Held { marks }, 0, 1000)
    }

    #[test]
    fn what_waited_for_the_acknowledgement_is_right_and_what_did_not_is_named() {
        let right = verdict(&[(260, 1), (261, 2)], true);
        assert_eq!((right.early, right.judged), (vec![], 2));
        assert_eq!(verdict(&[(259, 1)], true).early, [Saying::Mark(1)], "before the acknowledgement");
        assert_eq!(verdict(&[(270, 3)], true).early, [Saying::Mark(3)], "it came after the close");
        assert_eq!(verdict(&[(259, 1)], false).judged, 0, "datagrams are not held");
    }

    #[test]
    fn an_epoch_that_was_closed_while_the_domain_ran_is_counted() {
        let seen = verdict(&[], true);
        assert_eq!((seen.checkpoints, seen.commits), (3, 1));
        assert_eq!(seen.outside_suspend, 1, "epoch 4 was closed while it ran");
        assert_eq!(seen.pauses_ms, [32e-6, 24e-6]);
        assert_eq!(seen.commits_ms, [20e-6]);
    }
}
