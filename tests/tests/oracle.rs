//! No held frame is on the wire before its commit, judged frame by frame by an oracle that shares no code
//! with the plane: 10^7 frames and 10^4 epochs, and what happens when the plane or its source dies.
//!
//! `TIDEGATE_ORACLE_FRAMES` and `TIDEGATE_ORACLE_EPOCHS` ask for more (or fewer): the three policies share
//! them. A capture takes 32 bytes a frame under the directory for temporary files, until it is judged.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidegate_tests::ensure;
use tidegate_tests::failure::{Failure, Result};
use tidegate_tests::oracle::kind::Policy;
use tidegate_tests::oracle::trial::{Bench, Judged, Trial};
use tidegate_tests::virtio::RingPath;

const FRAMES: u64 = 10_000_000;
const EPOCHS: u64 = 10_000;

/// A plane and a generator use two CPUs: one trial at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bench() -> Result<Bench> {
    Bench::open(Path::new(env!("CARGO_BIN_EXE_tidegate-lab")))
}

fn asked(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| Failure::new(format!("{name}={text} is no number"))),
        Err(_) => Ok(default),
    }
}

/// A share, in tenths, of all frames and epochs.
fn share(policy: Policy, tenths: u64) -> Result<Trial> {
    let (frames, epochs) =
        (asked("TIDEGATE_ORACLE_FRAMES", FRAMES)?, asked("TIDEGATE_ORACLE_EPOCHS", EPOCHS)?);
    let runs = (epochs * tenths / 10).max(1);
    let mut trial = Trial::new(policy, runs as u32, (frames / epochs.max(1)).max(1) as u32);
    // A slow machine makes 20 000 frames and 20 epochs a second.
    trial.within = Duration::from_secs(60 + frames / 20_000 + epochs / 20);
    Ok(trial)
}

/// Good, and not because nothing happened.
fn good(judged: &Judged) -> Result<()> {
    let verdict = &judged.verdict;
    ensure!(judged.good && verdict.is_good(), "a promise was broken:\n{verdict}");
    ensure!(verdict.seen_held_kinds > 0, "nothing that is held ever came out:\n{verdict}");
    Ok(())
}

/// Good, everything was committed that should be, and the boundaries of the epochs were exact.
fn whole(judged: &Judged, trial: &Trial) -> Result<()> {
    let verdict = &judged.verdict;
    good(judged)?;
    ensure!(verdict.merged == 0, "{} closes were not granted", verdict.merged);
    ensure!(verdict.epochs == u64::from(trial.runs), "{} epochs of {} runs", verdict.epochs, trial.runs);
    ensure!(verdict.epochs_committed + 2 == verdict.epochs, "two epochs are left without a commit");
    ensure!(verdict.stamped_late == 0, "a vouched pause is an exact boundary:\n{verdict}");
    ensure!(verdict.held > 0, "what was not committed is held:\n{verdict}");
    Ok(())
}

#[test]
fn hold_all_lets_nothing_out_before_its_commit() -> Result<()> {
    let (_alone, mut bench) = (alone(), bench()?);
    let trial = share(Policy::HoldAll, 4)?;
    whole(&bench.judge(&trial)?, &trial)?;
    bench.passed();
    Ok(())
}

#[test]
fn non_tcp_holds_tcp_on_split_rings() -> Result<()> {
    let (_alone, mut bench) = (alone(), bench()?);
    let trial = Trial { rings: RingPath::Split, ..share(Policy::NonTcp, 2)? };
    let judged = bench.judge(&trial)?;
    whole(&judged, &trial)?;
    passes(&judged)?;
    bench.passed();
    Ok(())
}

#[test]
fn realtime_holds_everything_but_media_on_two_lanes() -> Result<()> {
    let (_alone, mut bench) = (alone(), bench()?);
    let trial = Trial { lanes: 2, protect: true, ..share(Policy::Realtime, 4)? };
    let judged = bench.judge(&trial)?;
    whole(&judged, &trial)?;
    passes(&judged)?;
    bench.passed();
    Ok(())
}

/// What the policy lets pass came, all of it, and did not wait for commits.
fn passes(judged: &Judged) -> Result<()> {
    let verdict = &judged.verdict;
    let sent = verdict.frames - verdict.sent_held_kinds;
    let seen = verdict.seen - verdict.seen_held_kinds;
    // Frames on probation may be held at the end: three of each stream.
    ensure!(seen + 100 >= sent, "{seen} of {sent} frames that may pass came out:\n{verdict}");
    ensure!(verdict.passed_ahead * 10 > seen * 9, "frames that may pass waited for commits:\n{verdict}");
    Ok(())
}

#[test]
fn a_ring_that_stops_closes_the_epoch_by_itself() -> Result<()> {
    let (_alone, mut bench) = (alone(), bench()?);
    for policy in [Policy::HoldAll, Policy::Realtime] {
        let trial = Trial { in_band: true, ..Trial::new(policy, 60, 500) };
        let judged = bench.judge(&trial)?;
        good(&judged)?;
        let verdict = &judged.verdict;
        ensure!(verdict.epochs == 60 && verdict.merged == 0, "each pause closes an epoch:\n{verdict}");
    }
    bench.passed();
    Ok(())
}

#[test]
fn a_plane_that_dies_flushes_nothing_and_comes_back_holding() -> Result<()> {
    let (_alone, mut bench) = (alone(), bench()?);
    for policy in [Policy::HoldAll, Policy::NonTcp, Policy::Realtime] {
        for incident in ["kill@40", "term@40"] {
            // Ten epochs in flight: there is much that could be flushed.
            let trial = Trial { lag: 20, ..Trial::new(policy, 60, 600) }.with(incident)?;
            let judged = bench.judge(&trial)?;
            good(&judged)?;
            let verdict = &judged.verdict;
            ensure!(judged.summary["plane_gone"] == true, "the plane outlived {incident}");
            let missing = verdict.sent_held_kinds - verdict.seen_held_kinds;
            ensure!(missing > 100, "it held {missing} frames only:\n{verdict}");
        }
        let trial = Trial::new(policy, 20, 300);
        whole(&bench.judge(&trial)?, &trial)?;
    }
    bench.passed();
    Ok(())
}

#[test]
fn a_lost_control_connection_and_a_silent_source_release_nothing() -> Result<()> {
    let (_alone, mut bench) = (alone(), bench()?);
    for policy in [Policy::HoldAll, Policy::Realtime] {
        let trial = Trial { lag: 10, ..Trial::new(policy, 60, 400) }
            .with("lose-control=300@20")?
            .with("silence=500@30")?
            .with("withhold=12@40")?;
        let judged = bench.judge(&trial)?;
        whole(&judged, &trial)?;
    }
    bench.passed();
    Ok(())
}

#[test]
fn a_full_hold_queue_drops_and_never_flushes_and_media_passes_by() -> Result<()> {
    let (_alone, mut bench) = (alone(), bench()?);
    for policy in [Policy::HoldAll, Policy::Realtime] {
        let trial = Trial { hold_frames: 2048, ..Trial::new(policy, 60, 500) }.with("withhold=30@20")?;
        let judged = bench.judge(&trial)?;
        good(&judged)?;
        let verdict = &judged.verdict;
        ensure!(verdict.dropped > 1000, "the queue never was full:\n{verdict}");
        ensure!(verdict.epochs_committed + 2 == verdict.epochs, "commits go on afterwards:\n{verdict}");
        if policy == Policy::Realtime {
            passes(&judged)?;
        }
    }
    bench.passed();
    Ok(())
}

/// The oracle has teeth: a plane that holds too little is found out, in both ways in which it can be.
#[test]
fn a_plane_that_holds_too_little_is_found_out() -> Result<()> {
    let (_alone, mut bench) = (alone(), bench()?);
    for (configured, policy) in [
        ("bypass-all", Policy::HoldAll),
        ("bypass-all", Policy::NonTcp),
        ("non-tcp", Policy::Realtime),
        ("realtime", Policy::HoldAll),
    ] {
        let judged = bench.judge(&Trial { configured, ..Trial::new(policy, 20, 300) })?;
        let verdict = &judged.verdict;
        ensure!(!judged.good, "{configured} passed for {policy}");
        ensure!(verdict.early_releases > 100, "{configured} for {policy}:\n{verdict}");
    }
    bench.passed();
    Ok(())
}
