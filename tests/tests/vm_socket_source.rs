//! A real guest behind tidegate, with the test as its tool stack on the control socket: it pauses the
//! VM, closes the epoch, reads the guest's counter, and commits 100 ms later. One VM goes through the
//! three policies while it runs.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tidegate_tests::ensure;
use tidegate_tests::failure::Result;
use tidegate_tests::laboratory::{Laboratory, MEDIA, Setting, from_guest, tidegate};
use tidegate_tests::media::{is_media, percentile};
use tidegate_tests::outcome::{CARRIERS, Policy, as_sent, quiet, whole_and_in_order, whole_calls};
use tidegate_tests::plane::{GUEST, Source};
use tidegate_tests::tool_stack::{Parts, Rhythm, ToolStack};
use tidegate_tests::wall_clock::now_ns;

const RHYTHM: Rhythm = Rhythm { interval: Duration::from_millis(200), delay: Duration::from_millis(100) };
/// How long a released epoch may take to reach the wire, on a busy machine.
const SETTLE: Duration = Duration::from_millis(500);
const MS: u64 = 1_000_000;

#[test]
fn held_frames_wait_for_the_commit_that_covers_them_and_media_does_not() -> Result<()> {
    let setting = Setting {
        kind: tidegate()?,
        policy: Policy::HoldAll.name(),
        source: Source::Socket,
        plane_is_client: false,
    };
    let mut laboratory = Laboratory::open(&setting, Path::new(env!("CARGO_BIN_EXE_beacon")))?;
    let mut parts = laboratory.tool_stack(RHYTHM)?.stop()?;
    for policy in [Policy::HoldAll, Policy::NonTcp, Policy::Realtime] {
        parts.control.execute("policy", json!({ "guest": GUEST, "name": policy.name() }))?;
        // What the former policy held does not move by the change: it leaves under this commit.
        parts = ToolStack::start(parts, RHYTHM).stop()?;
        std::thread::sleep(SETTLE);
        parts = one_policy(&mut laboratory, parts, policy)?;
    }
    laboratory.plane.stop()?;
    laboratory.passed();
    Ok(())
}

fn one_policy(laboratory: &mut Laboratory, parts: Parts, policy: Policy) -> Result<Parts> {
    let capture = laboratory.capture(policy.name())?;
    let stack = ToolStack::start(parts, RHYTHM);
    let calls = laboratory.calls(1)?;
    std::thread::sleep(Duration::from_secs(2));
    // The call is in its media. Now the backup is slow: epochs are closed, nothing is committed.
    stack.withhold(true);
    std::thread::sleep(SETTLE);
    let silent_from = now_ns();
    std::thread::sleep(Duration::from_millis(1500));
    let silent_to = now_ns();
    stack.withhold(false);
    laboratory.ping("10.9.0.2", 5)?;
    laboratory.ping("fd09::2", 3)?;
    let inward = laboratory.iperf3(1, "20M", false)?;
    let outward = laboratory.iperf3(1, "20M", true)?;
    calls.succeed()?;
    laboratory.check_sinks()?;
    let parts = stack.stop()?;
    std::thread::sleep(SETTLE);
    let frames = capture.finish()?;

    let verdict = parts.log.judge(&frames, policy.held_carriers());
    ensure!(verdict.early.is_empty(), "{}: {}", policy.name(), verdict.summary());
    let free = parts.log.judge(&frames, &CARRIERS);
    for carrier in CARRIERS {
        let seen = free.seen.get(&carrier).copied().unwrap_or(0);
        let early = free.early.iter().filter(|early| early.record.carrier == carrier).count() as u64;
        ensure!(seen > 50, "{}: only {seen} numbered frames came by {carrier:?}", policy.name());
        let held = policy.held_carriers().contains(&carrier);
        ensure!(held || early * 10 > seen * 9, "{}: {carrier:?} was held back", policy.name());
    }
    let passed = quiet(&frames, policy, silent_from, silent_to)?;
    let media = frames
        .iter()
        .filter(|frame| (silent_from..silent_to).contains(&frame.at_ns) && from_guest(frame))
        .filter(|frame| is_media(frame, MEDIA))
        .count();
    as_sent(&frames)?;
    whole_and_in_order(&frames)?;
    let voices = whole_calls(&frames, 1)?;
    let delays = voices[0].delays_ns();
    let (least, median, most) =
        (percentile(&delays, 0.0), percentile(&delays, 0.5), percentile(&delays, 1.0));
    let gap = percentile(&voices[0].gaps_ns(), 0.98);
    println!(
        "{}: epochs {}, {:?}, media delay {}/{}/{} ms (least/median/most), 98 % of gaps below {} ms, \
         {passed} frames ({media} media) while nothing was committed, iperf3 {:.1}/{:.1} Mbit/s in/out",
        policy.name(),
        parts.log.epochs().len(),
        free.seen,
        least / MS,
        median / MS,
        most / MS,
        gap / MS,
        inward / 1e6,
        outward / 1e6,
    );
    if policy == Policy::HoldAll {
        // No packet can be back before its epoch has ended and the checkpoint has travelled.
        ensure!(least >= 100 * MS, "a media packet was back after {least} ns, before any commit");
        ensure!(most >= 1500 * MS, "media was not held while nothing was committed: at most {most} ns");
    } else {
        // 50 packets of 30 ms fit into the time without a commit, less what the pauses take.
        ensure!(media >= 30, "only {media} media packets while nothing was committed");
        ensure!(median < 50 * MS, "half of the media packets took {median} ns or longer");
        ensure!(gap < 100 * MS, "2 % of the media gaps are {gap} ns and more: half an epoch");
    }
    Ok(parts)
}
