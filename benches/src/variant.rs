//! `variant`: what a key of the lane's configuration costs, in frames a second: tidegate with it over tidegate without.
//!
//! `ratio_histograms` is the variant that is watched: histograms on over histograms off, and the instructions of both.

use crate::contest::{Conditions, Contest, Quality, Rules};
use crate::cost;
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
    /// Frames a second of the plain lane over those of the variant.
    ratio: Option<Spread>,
    variant: &'a [String],
    fps: BTreeMap<&'static str, Spread>,
    /// Instructions without histograms over those with them, by class: as a ratio of speeds, so that both say the same.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    ratio_instructions: BTreeMap<String, f64>,
    conditions: &'a Conditions,
    quality: Quality,
    aims: &'a [Aim],
}

/// The plain lane against one with other keys.
pub fn run(keys: &[String], rules: &Rules, telling: Telling) -> Result<ExitCode> {
    contest("variant", keys, BTreeMap::new(), rules, telling)
}

/// What the histograms cost.
pub fn histograms(rules: &Rules, telling: Telling) -> Result<ExitCode> {
    let (seeing, _) = cost::measure(false, None)?;
    let (blind, _) = cost::measure(true, None)?;
    let both = seeing.iter().filter_map(|(name, seeing)| Some((name, seeing, blind.get(name)?)));
    let ratios =
        both.map(|(name, seeing, blind)| (name.clone(), (blind / seeing * 1e4).round() / 1e4)).collect();
    contest("ratio_histograms", &["histograms = false".into()], ratios, rules, telling)
}

fn contest(
    bench: &'static str,
    keys: &[String],
    ratio_instructions: BTreeMap<String, f64>,
    rules: &Rules,
    telling: Telling,
) -> Result<ExitCode> {
    let contest = Contest::hold(&[Dut::Tidegate, Dut::Variant], keys, rules)?;
    let all = contest.rounds(None);
    let (ratio, fps) = (all.ratio(Dut::Tidegate, Dut::Variant), all.fps());
    let mut lines: Vec<_> = fps.iter().map(|(name, fps)| row(name, Some(*fps), " frames/s")).collect();
    lines.push(row("ratio", ratio, ""));
    for (name, ratio) in &ratio_instructions {
        lines.push(format!("{name:<28}{ratio:>12.3} of the instructions are left without histograms"));
    }
    lines.push(format!("{:?}", contest.conditions));
    lines.push(format!("{:?}", contest.quality()));
    let aims: Vec<Aim> = if bench == "variant" { Vec::new() } else { vec![Aim::new("ratio", ratio, 0.98)] };
    let report = Report {
        bench,
        ratio,
        variant: keys,
        fps,
        ratio_instructions,
        conditions: &contest.conditions,
        quality: contest.quality(),
        aims: &aims,
    };
    Ok(telling.tell(&report, &lines, &aims))
}
