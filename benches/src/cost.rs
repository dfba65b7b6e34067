//! `cost`: instructions for a frame of each class, through the shipped lcore and lane, under callgrind.
//!
//! Counted are 16384 frames less 8192: what is needed once (tables, the probation of new streams) cancels out. What
//! the ports in memory need is taken off. The figures are recorded in `benches/cost.json`; another compiler gives
//! slightly others, so a drift says "look", not "wrong".

use crate::callgrind;
use crate::failure::{Context, Failure, Result};
use crate::machine::Scratch;
use crate::memory_lane::{BarePorts, Kind, MemoryLane};
use crate::report::{Aim, Telling};
use crate::stats::Spread;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Frames of the shorter run; the longer one has twice as many.
const FRAMES: usize = 8192;
/// Drift that is noise of the compiler rather than a change.
const TOLERANCE: f64 = 0.02;
/// Under a small load each poll brings one frame.
const LONELY: usize = 1;

/// What `cost` can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The recorded figures
    #[arg(long, env = "TIDEGATE_COST", value_name = "FILE")]
    pub recorded: PathBuf,
    /// Write the figures there instead of comparing with them
    #[arg(long)]
    pub record: bool,
    /// Keep a profile of each class in this directory, for callgrind_annotate
    #[arg(long, value_name = "DIR")]
    pub profiles: Option<PathBuf>,
}

/// One run, in a process of its own under valgrind.
#[derive(Clone, Debug, clap::Args)]
pub struct Run {
    /// What is sent
    #[arg(long)]
    kind: Kind,
    /// How many
    #[arg(long)]
    frames: usize,
    /// Frames a poll
    #[arg(long)]
    burst: usize,
    /// Without histograms
    #[arg(long)]
    blind: bool,
    /// Ports only
    #[arg(long)]
    bare: bool,
}

impl Run {
    /// Sends the frames.
    pub fn execute(&self) -> Result<()> {
        let sent = if self.bare {
            BarePorts::new(self.kind, self.frames, self.burst).tidegate_measured()
        } else {
            MemoryLane::new(self.kind, self.frames, self.burst, !self.blind).tidegate_measured()
        };
        let expected = if self.bare { self.frames } else { self.kind.expected(self.frames) };
        if sent == expected {
            return Ok(());
        }
        Err(Failure::new(format!("{sent} frames reached the wire, {expected} should have")))
    }

    fn args(&self) -> Vec<String> {
        let mut args = vec!["cost-run".into(), "--kind".into(), format!("{:?}", self.kind).to_lowercase()];
        args.extend(["--frames".into(), self.frames.to_string(), "--burst".into(), self.burst.to_string()]);
        args.extend(self.blind.then(|| "--blind".into()));
        args.extend(self.bare.then(|| "--bare".into()));
        args
    }
}

/// Instructions a frame, by name.
pub type Figures = BTreeMap<String, f64>;

#[derive(Serialize, Deserialize)]
struct Recorded {
    /// The compiler that the figures came from.
    compiler: String,
    /// Instructions a frame.
    instructions: Figures,
}

#[derive(Serialize)]
struct Report<'a> {
    bench: &'static str,
    instructions: &'a Figures,
    ports: f64,
    recorded: Option<&'a Figures>,
    /// Against the recorded figure, 0.01 is one per cent more.
    drift: Figures,
    tolerance: f64,
    steady: bool,
    compiler: String,
}

/// Instructions a frame of one kind, ports included.
pub fn gross(run: &Run, scratch: &Scratch, keep: Option<PathBuf>) -> Result<f64> {
    let short = callgrind::instructions(&run.args(), scratch, None)?;
    let long = Run { frames: run.frames * 2, ..run.clone() };
    let long = callgrind::instructions(&long.args(), scratch, keep.as_deref())?;
    Ok((long - short) as f64 / run.frames as f64)
}

/// Instructions a frame of each kind, and of the ports alone, which are taken off already.
pub fn measure(blind: bool, profiles: Option<&PathBuf>) -> Result<(Figures, f64)> {
    measure_kinds(&Kind::ALL, blind, profiles)
}

/// The same of these kinds only.
pub fn measure_kinds(kinds: &[Kind], blind: bool, profiles: Option<&PathBuf>) -> Result<(Figures, f64)> {
    let scratch = Scratch::new()?;
    if let Some(dir) = profiles {
        std::fs::create_dir_all(dir).context(|| format!("cannot make {}", dir.display()))?;
    }
    let run = |kind, burst, bare| Run { kind, frames: FRAMES, burst, blind, bare };
    let ports = gross(&run(Kind::Tcp, BURST, true), &scratch, None)?;
    let lonely = gross(&run(Kind::Tcp, LONELY, true), &scratch, None)?;
    let mut figures = Figures::new();
    for &kind in kinds {
        let keep = profiles.map(|dir| dir.join(format!("{}.callgrind", kind.name())));
        let cost = gross(&run(kind, BURST, false), &scratch, keep)? - ports;
        eprintln!("{:<28}{cost:>8.1} instructions a frame", kind.name());
        figures.insert(kind.name().into(), round(cost));
    }
    let keep = profiles.map(|dir| dir.join("rtp_bypass_alone.callgrind"));
    let cost = gross(&run(Kind::Rtp, LONELY, false), &scratch, keep)? - lonely;
    figures.insert("rtp_bypass_alone".into(), round(cost));
    Ok((figures, round(ports)))
}

const BURST: usize = tidegate_dataplane::port::BURST;

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Runs it.
pub fn run(options: &Options, telling: Telling) -> Result<ExitCode> {
    let (figures, ports) = measure(false, options.profiles.as_ref())?;
    let file = options.recorded.display();
    let compiler = env!("TIDEGATE_RUSTC").to_owned();
    if options.record {
        let recorded = Recorded { compiler, instructions: figures };
        let text = serde_json::to_string_pretty(&recorded).context(|| "the figures".into())?;
        std::fs::write(&options.recorded, text + "\n").context(|| format!("cannot write {file}"))?;
        eprintln!("recorded in {file}");
        return Ok(ExitCode::SUCCESS);
    }
    let text = std::fs::read_to_string(&options.recorded).context(|| format!("cannot read {file}"))?;
    let recorded: Recorded =
        serde_json::from_str(&text).context(|| format!("{file} is not what --record writes"))?;
    let drift = drift(&figures, &recorded.instructions);
    let largest = drift.values().copied().fold(0.0, |most: f64, drift| most.max(drift.abs()));
    let mut lines = Vec::new();
    for (name, cost) in &figures {
        let drift = drift.get(name).map_or("new".into(), |drift| format!("{:+.1} %", drift * 100.0));
        lines.push(format!("{name:<28}{cost:>8.1} instructions a frame   {drift}"));
    }
    lines.push(format!("{:<28}{ports:>8.1} (taken off)", "ports"));
    lines.push(format!("recorded with {}", recorded.compiler));
    // Said as an aim, so that `--check` fails on it: what did not drift.
    let steady = Aim::new("1 - drift", Spread::of([1.0 - largest]), 1.0 - TOLERANCE);
    let report = Report {
        bench: "cost",
        instructions: &figures,
        ports,
        recorded: Some(&recorded.instructions),
        drift,
        tolerance: TOLERANCE,
        steady: steady.met,
        compiler,
    };
    Ok(telling.tell(&report, &lines, &[steady]))
}

fn drift(now: &Figures, recorded: &Figures) -> Figures {
    let both = now.iter().filter_map(|(name, now)| Some((name, now, recorded.get(name)?)));
    both.map(|(name, now, then)| (name.clone(), ((now / then - 1.0) * 1e4).round() / 1e4)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_is_relative_and_new_classes_have_none() {
        let figures = |list: &[(&str, f64)]| list.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        let drift =
            drift(&figures(&[("rtp", 110.0), ("new", 5.0)]), &figures(&[("rtp", 100.0), ("old", 1.0)]));
        assert_eq!(drift, figures(&[("rtp", 0.1)]));
    }

    #[test]
    fn the_recorded_figures_can_be_read_and_name_every_class() {
        let recorded: Recorded = serde_json::from_str(include_str!("../cost.json")).unwrap();
        for kind in Kind::ALL {
            assert!(recorded.instructions.contains_key(kind.name()), "{}", kind.name());
        }
    }
}
