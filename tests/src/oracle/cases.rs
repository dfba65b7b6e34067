//! The oracle judged by hand-made logs in which exactly one thing is wrong.

use super::*;

const GENERATION: u64 = 7_000_000_000;

fn sent(run: u32, end: u64) -> Line {
    Line::Sent { run, ends: vec![end], must_hold: 0 }
}

fn closed(run: u32, epoch: u64) -> Line {
    Line::Closed { at: 0, run, epoch, generation: GENERATION, frames: 0 }
}

fn commit(at: u64, epoch: u64) -> Line {
    Line::Commit { at, generation: GENERATION, epoch }
}

fn answer(granted: bool) -> Line {
    Line::Answer { granted, reason: String::new() }
}

fn frame(at: u64, number: u64, run: u32, kind: Kind) -> Seen {
    let label = Label { guest: 0, lane: 0, kind, stream: 0, run, sequence: number as u32, number };
    Seen { at, wire: 0, label: Some(label) }
}

fn tcp(at: u64, number: u64, run: u32) -> Seen {
    frame(at, number, run, Kind::Tcp)
}

fn judge_policy(policy: Policy, log: &[Line], accounts: (u64, u64), capture: &[Seen]) -> Verdict {
    let (held, dropped) = accounts;
    let mut lines = vec![Line::Start { guest: 0, lanes: 1, policy, rings: "packed".into() }];
    lines.extend_from_slice(log);
    let received = lines.iter().filter_map(|line| match line {
        Line::Sent { ends, .. } => ends.first().copied(),
        _ => None,
    });
    let received = received.max().unwrap_or(0);
    lines.push(Line::Accounts { received, held, dropped });
    lines.push(Line::End { at: 10_000, plane_gone: false });
    let mut oracle = Oracle::new(&lines).expect("sound");
    for seen in capture {
        oracle.see(seen);
    }
    oracle.finish()
}

fn judge(log: &[Line], accounts: (u64, u64), capture: &[Seen]) -> Verdict {
    judge_policy(Policy::HoldAll, log, accounts, capture)
}

/// Two runs of two frames, epochs 5 and 6, committed at 1000 and at 2000.
fn two_runs() -> Vec<Line> {
    vec![
        sent(1, 2),
        closed(1, 5),
        sent(2, 4),
        closed(2, 6),
        commit(1000, 5),
        answer(true),
        commit(2000, 6),
        answer(true),
    ]
}

#[test]
fn what_is_right_is_good() {
    let capture = [tcp(1000, 0, 1), tcp(1001, 1, 1), tcp(2000, 2, 2), tcp(9000, 3, 2)];
    let verdict = judge(&two_runs(), (0, 0), &capture);
    assert!(verdict.is_good(), "{verdict}");
    assert_eq!((verdict.frames, verdict.seen, verdict.epochs, verdict.epochs_committed), (4, 4, 2, 2));
}

#[test]
fn one_nanosecond_early_is_early() {
    let capture = [tcp(1000, 0, 1), tcp(1001, 1, 1), tcp(1999, 2, 2), tcp(9000, 3, 2)];
    let verdict = judge(&two_runs(), (0, 0), &capture);
    assert_eq!((verdict.early_releases, verdict.early_most_ns), (1, 1));
    assert_eq!(verdict.early_examples[0].commit_ns, Some(2000));
    assert!(!verdict.is_good());
}

#[test]
fn a_frame_whose_commit_never_came_is_early_whenever_it_comes() {
    let log = [sent(1, 2), closed(1, 5), sent(2, 4), closed(2, 6), commit(1000, 5)];
    let capture = [tcp(1000, 0, 1), tcp(1001, 1, 1), tcp(9999, 2, 2)];
    let verdict = judge(&log, (1, 0), &capture);
    assert_eq!((verdict.early_releases, verdict.early_most_ns, verdict.lost), (1, 1, 0));
    assert_eq!(verdict.early_examples[0].commit_ns, None);
    let log = [sent(1, 2), closed(1, 5), sent(2, 3), commit(1000, 5)];
    let verdict = judge(&log, (0, 0), &[tcp(1000, 0, 1), tcp(1001, 1, 1), tcp(9999, 2, 2)]);
    assert_eq!(verdict.early_releases, 1, "of a run that was never closed");
}

#[test]
fn commits_are_cumulative_and_a_late_duplicate_changes_nothing() {
    let log = [
        sent(1, 2),
        closed(1, 5),
        sent(2, 4),
        closed(2, 6),
        commit(1000, 6),
        answer(true),
        commit(2000, 5),
        answer(true),
        commit(2500, 3),
        answer(true),
    ];
    let capture = [tcp(1000, 0, 1), tcp(1001, 1, 1), tcp(1002, 2, 2), tcp(1003, 3, 2)];
    let verdict = judge(&log, (0, 0), &capture);
    assert!(verdict.is_good(), "{verdict}");
}

#[test]
fn a_merged_run_waits_for_the_epoch_that_closes_it() {
    let merged = Line::Merged { run: 1, reason: "slow".into() };
    let log = [sent(1, 2), merged, sent(2, 4), closed(2, 6), commit(1000, 6)];
    let capture = [tcp(999, 0, 1), tcp(1001, 1, 1), tcp(1002, 2, 2), tcp(1003, 3, 2)];
    let verdict = judge(&log, (0, 0), &capture);
    assert_eq!((verdict.early_releases, verdict.merged), (1, 1));
}

#[test]
fn a_wrong_commit_excuses_nothing() {
    for wrong in [
        Line::Commit { at: 500, generation: GENERATION, epoch: 6 },
        Line::Commit { at: 500, generation: GENERATION, epoch: 90 },
        Line::Commit { at: 500, generation: GENERATION - 1, epoch: 5 },
        Line::Commit { at: 500, generation: 0, epoch: 5 },
    ] {
        let log = [
            sent(1, 2),
            closed(1, 5),
            wrong.clone(),
            answer(true),
            sent(2, 2),
            commit(1000, 5),
            answer(true),
        ];
        let verdict = judge(&log, (0, 0), &[tcp(600, 0, 1), tcp(1001, 1, 1)]);
        assert_eq!((verdict.early_releases, verdict.wrong_commits_taken), (1, 1), "{wrong:?}");
    }
    let log = [sent(1, 1), closed(1, 5), commit(1000, 5), answer(false)];
    assert_eq!(judge(&log, (1, 0), &[]).right_commits_refused, 1);
}

#[test]
fn an_older_generation_commits_nothing_once_a_newer_one_has_closed() {
    let newer = Line::Closed { at: 0, run: 2, epoch: 6, generation: GENERATION + 1, frames: 0 };
    let log = [sent(1, 1), closed(1, 5), sent(2, 2), newer, commit(1000, 5), answer(true)];
    let verdict = judge(&log, (1, 0), &[tcp(1500, 0, 1)]);
    assert_eq!((verdict.early_releases, verdict.wrong_commits_taken), (1, 1));
}

#[test]
fn twice_missing_and_from_nowhere_are_told_apart() {
    let good = [tcp(1000, 0, 1), tcp(1001, 1, 1), tcp(2000, 2, 2), tcp(9000, 3, 2)];
    let twice = [&good[..], &good[3..]].concat();
    assert_eq!(judge(&two_runs(), (0, 0), &twice).duplicated, 1);
    assert_eq!(judge(&two_runs(), (0, 0), &good[..3]).lost, 1);
    let held = judge(&two_runs(), (1, 0), &good[..3]);
    assert_eq!((held.lost, held.overdue), (0, 1), "held at the end, although it was committed");
    assert!(!held.is_good());
    assert_eq!(judge(&two_runs(), (0, 1), &good[..3]).lost, 0, "dropped and counted");
    assert_eq!(judge(&two_runs(), (0, 1), &good).surplus, 1, "dropped and sent");
    let unlabelled = Seen { at: 3000, wire: 0, label: None };
    let beyond = tcp(9500, 4, 2);
    let old_run = tcp(9500, 3, 1);
    let other_wire = Seen { wire: 1, ..good[3] };
    for odd in [unlabelled, beyond, old_run, other_wire, tcp(9500, 0, 0), tcp(9500, 0, 9)] {
        let verdict = judge(&two_runs(), (0, 0), &[&good[..], &[odd]].concat());
        assert_eq!((verdict.unexpected, verdict.duplicated), (1, 0), "{odd:?}");
    }
}

#[test]
fn held_frames_keep_one_order_and_bypassed_ones_that_of_their_stream() {
    let capture = [tcp(1000, 1, 1), tcp(1001, 0, 1), tcp(2000, 2, 2), tcp(9000, 3, 2)];
    assert_eq!(judge(&two_runs(), (0, 0), &capture).reordered, 1);
    let media = |at, number, run| frame(at, number, run, Kind::Rtp);
    let overtaking = [media(10, 1, 1), media(20, 3, 2), tcp(1000, 0, 1), tcp(2000, 2, 2)];
    let verdict = judge_policy(Policy::Realtime, &two_runs(), (0, 0), &overtaking);
    assert!(verdict.is_good(), "{verdict}");
    let swapped = [media(10, 3, 2), media(20, 1, 1), tcp(1000, 0, 1), tcp(2000, 2, 2)];
    assert_eq!(judge_policy(Policy::Realtime, &two_runs(), (0, 0), &swapped).reordered, 1);
    assert_eq!(judge(&two_runs(), (0, 0), &overtaking).early_releases, 2, "hold-all holds media too");
}

/// Media whose run the guest tore, with its rings, waits for its commit; it may not come before, and no other may be late.
#[test]
fn a_packet_whose_run_was_torn_with_the_rings_may_come_after_its_stream() {
    let media = |at, number, run| frame(at, number, run, Kind::Rtp);
    let torn = |left: &[Line]| {
        let mut log = two_runs();
        let after_first = log.iter().position(|line| matches!(line, Line::Closed { .. })).unwrap() + 1;
        log.splice(after_first..after_first, left.iter().cloned());
        log
    };
    let left = [Line::Left { frames: 1 }];
    let committed = [media(600, 2, 2), media(1500, 0, 1)];
    assert_eq!(judge_policy(Policy::Realtime, &torn(&left), (1, 0), &committed).reordered, 0);
    assert_eq!(judge_policy(Policy::Realtime, &torn(&[]), (1, 0), &committed).reordered, 1);
    let too_early = [media(600, 2, 2), media(700, 0, 1)];
    assert_eq!(judge_policy(Policy::Realtime, &torn(&left), (1, 0), &too_early).reordered, 1);
    let not_torn = [media(600, 3, 2), media(9000, 2, 2)];
    assert_eq!(judge_policy(Policy::Realtime, &torn(&left), (1, 0), &not_torn).reordered, 1);
}

#[test]
fn frames_that_the_plane_counts_to_a_later_epoch_are_told() {
    let log = |frames| {
        let sent = Line::Sent { run: 1, ends: vec![3], must_hold: 3 };
        let closed = Line::Closed { at: 0, run: 1, epoch: 1, generation: GENERATION, frames };
        [sent, closed]
    };
    assert_eq!(judge(&log(2), (3, 0), &[]).stamped_late, 1);
    assert_eq!(judge(&log(3), (3, 0), &[]).stamped_late, 0);
    assert_eq!(judge(&log(2), (2, 1), &[]).stamped_late, 0, "a dropped frame is in no epoch");
}

#[test]
fn what_a_killed_plane_held_is_not_lost_but_must_not_come_out() {
    let lines = [
        Line::Start { guest: 0, lanes: 1, policy: Policy::HoldAll, rings: "split".into() },
        sent(1, 2),
        Line::Incident { at: 400, what: "kill".into() },
        Line::End { at: 900, plane_gone: true },
    ];
    let mut oracle = Oracle::new(&lines).expect("sound");
    oracle.see(&tcp(500, 0, 1));
    let verdict = oracle.finish();
    assert_eq!((verdict.early_releases, verdict.lost), (1, 0));
}

#[test]
fn a_log_that_contradicts_itself_is_no_basis() {
    let start = || Line::Start { guest: 0, lanes: 1, policy: Policy::HoldAll, rings: String::new() };
    let end = || Line::End { at: 1, plane_gone: false };
    for lines in [
        vec![],
        vec![start()],
        vec![start(), sent(1, 2)],
        vec![sent(1, 2), end()],
        vec![start(), sent(2, 2), end()],
        vec![start(), sent(1, 2), sent(2, 1), end()],
        vec![start(), closed(1, 1), end()],
        vec![start(), sent(1, 2), closed(1, 1), closed(1, 2), end()],
        vec![start(), start(), end()],
    ] {
        assert!(Oracle::new(&lines).is_err(), "{lines:?}");
    }
}
