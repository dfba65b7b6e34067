//! `ceiling`: frames a second of tidegate against DPDK's own forwarder.
//!
//! One lcore each, the same vhost guest port, wire port, ring path, burst, descriptors, mbufs and pages, started
//! afresh for each window and measured in turns. The generator on the other CPU counts what the guest port took.
//! tidegate runs as it is meant to: policy `realtime`, protected, histograms on, epochs of 50 ms from the timer; it
//! must have bypassed all media, held and released all else and dropped (nearly) nothing, or the bench fails.
//!
//! How to read it. Where the two cores are far apart, carrying a frame from one to the other is the limit and all
//! devices look alike (ratios near 1, `ring_full` near 0: the generator waits for the same cache lines). Where they are
//! near, the device is the limit (`ring_full` well above 0) and the ratio shows its own work. Both are told apart in
//! `by_distance`; the headline is over all rounds.

use crate::contest::{Conditions, Contest, Distance, Quality, Rounds, Rules};
use crate::dut::Dut;
use crate::failure::Result;
use crate::report::{Aim, Telling, row};
use crate::stats::Spread;
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::ExitCode;

#[derive(Serialize)]
struct Report<'a> {
    bench: &'static str,
    ratio_io: Option<Spread>,
    ratio_mac: Option<Spread>,
    fps: BTreeMap<&'static str, Spread>,
    by_distance: Vec<Part>,
    conditions: &'a Conditions,
    quality: Quality,
    aims: &'a [Aim],
}

/// The rounds in which the two cores were equally far apart.
#[derive(Serialize)]
struct Part {
    cores: Distance,
    rounds: usize,
    ratio_io: Option<Spread>,
    ratio_mac: Option<Spread>,
    fps: BTreeMap<&'static str, Spread>,
    /// See [`Rounds::ring_full`].
    ring_full: f64,
}

impl Part {
    fn of(cores: Distance, rounds: &Rounds<'_>) -> Part {
        Part {
            cores,
            rounds: rounds.len(),
            ratio_io: rounds.ratio(Dut::Tidegate, Dut::Io),
            ratio_mac: rounds.ratio(Dut::Tidegate, Dut::Mac),
            fps: rounds.fps(),
            ring_full: rounds.ring_full(),
        }
    }
}

/// Runs it.
pub fn run(rules: &Rules, telling: Telling) -> Result<ExitCode> {
    let contest = Contest::hold(&[Dut::Io, Dut::Mac, Dut::Tidegate], &[], rules)?;
    let all = contest.rounds(None);
    let ratio_io = all.ratio(Dut::Tidegate, Dut::Io);
    let ratio_mac = all.ratio(Dut::Tidegate, Dut::Mac);
    let aims = [Aim::new("ratio_io", ratio_io, 0.85), Aim::new("ratio_mac", ratio_mac, 0.95)];
    let fps = all.fps();
    let mut lines: Vec<_> = fps.iter().map(|(name, fps)| row(name, Some(*fps), " frames/s")).collect();
    lines.push(row("ratio_io", ratio_io, ""));
    lines.push(row("ratio_mac", ratio_mac, ""));
    let parts = [Distance::Near, Distance::Far].map(|cores| Part::of(cores, &contest.rounds(Some(cores))));
    let by_distance: Vec<Part> = parts.into_iter().filter(|part| part.rounds > 0).collect();
    for part in &by_distance {
        lines.push(format!(
            "{} rounds with cores {:?}, ring full {:.2} of the time:",
            part.rounds, part.cores, part.ring_full
        ));
        lines.push(row("  ratio_io", part.ratio_io, ""));
        lines.push(row("  ratio_mac", part.ratio_mac, ""));
    }
    lines.push(format!("{:?}", contest.conditions));
    lines.push(format!("{:?}", contest.quality()));
    let report = Report {
        bench: "ceiling",
        ratio_io,
        ratio_mac,
        fps,
        by_distance,
        conditions: &contest.conditions,
        quality: contest.quality(),
        aims: &aims,
    };
    Ok(telling.tell(&report, &lines, &aims))
}
