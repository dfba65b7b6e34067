//! `scripts/bench sweep`: measures what has not been measured yet, and draws everything.

use super::cell::Numbers;
use super::chart::{CHARTS, draw};
use super::page::Page;
use super::plan::{Cell, Load, Pace, Plan};
use super::run::{Order, run as run_pace};
use super::samples::{Meta, Samples};
use super::verdict::Verdict;
use crate::failure::{Context, Failure, Result};
use crate::testbed::lab::{Lab, Programs};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tidegate_control::cli::Interval;
use tidegate_control::quantity::span;
use tidegate_replica::cadence::Bounds;

/// Its arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where samples, charts and the report go; what is complete there is not measured again
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Checkpoint intervals, and `auto`
    #[arg(
        long,
        value_name = "TIME,..",
        value_delimiter = ',',
        default_value = "25ms,50ms,100ms,200ms,400ms,auto"
    )]
    pub intervals: Vec<Interval>,
    /// Numbers of calls
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1,4,16")]
    pub calls: Vec<u16>,
    /// TCP beside them: none, paced (3 Mbit/s each way), full
    #[arg(long, value_name = "LOAD,..", value_delimiter = ',', default_value = "none,paced,full")]
    pub loads: Vec<Load>,
    /// How long each is measured
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = span)]
    pub length: Duration,
    /// The shortest interval that auto may choose, and that is recommended
    #[arg(long, value_name = "TIME", default_value = "25ms", value_parser = span)]
    pub floor: Duration,
    /// The longest
    #[arg(long, value_name = "TIME", default_value = "400ms", value_parser = span)]
    pub ceiling: Duration,
    /// Measure everything again
    #[arg(long)]
    pub again: bool,
    /// One line of JSON on standard output: what sweep.json has
    #[arg(long)]
    pub json: bool,
    /// The tidegate binary; its other programs and the teller lie beside it
    #[arg(long, env = "TIDEGATE", value_name = "PATH")]
    pub tidegate: PathBuf,
}

/// Of [`Options::length`].
const LENGTHS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
/// What is set up for each interval: two hosts, the first copy; and for each cell: calls, what settles.
const AROUND_PACE: Duration = Duration::from_secs(10);
const AROUND_CELL: Duration = Duration::from_millis(2500);

/// Runs it: fails when an interval could not be measured; the others are drawn all the same.
pub fn run(options: &Options) -> Result<ExitCode> {
    let out = &options.out;
    let plan = Plan::new(
        options.intervals.iter().map(|i| Pace(*i)).collect(),
        options.calls.clone(),
        options.loads.clone(),
    )?;
    if !LENGTHS.contains(&options.length) {
        return Err(Failure::new(format!("--length is {:?}; it goes from 1s to 10min", options.length)));
    }
    if options.floor > options.ceiling || options.floor < Duration::from_millis(1) {
        return Err(Failure::new("--floor is a millisecond at least, and not above --ceiling"));
    }
    fs::create_dir_all(out).context(|| format!("cannot make {}", out.display()))?;
    let missing = measure(&plan, options)?;
    let mut cells = Vec::new();
    for cell in plan.paces.iter().flat_map(|pace| plan.cells(*pace)) {
        let samples = Samples::of(&cell, out);
        // What could not be measured is told below.
        if let Some(meta) = samples.meta()? {
            cells.push(Numbers::of(&samples, meta)?);
        }
    }
    let verdict = Verdict::of(&cells, Bounds { floor: options.floor, ceiling: options.ceiling });
    let mut charts = Vec::new();
    for chart in &CHARTS {
        if let Some(drawing) = draw(chart, &cells) {
            write(&out.join(format!("{}.svg", chart.name)), &drawing)?;
            charts.push(drawing);
        }
    }
    let not: Vec<_> = missing.iter().map(|(pace, why)| json!({ "pace": pace, "why": why })).collect();
    let report = json!({ "cells": cells, "verdict": verdict, "missing": not });
    write(&out.join("sweep.json"), &format!("{report:#}\n"))?;
    let command = command(options, &plan);
    let page =
        Page { cells: &cells, verdict: &verdict, charts: &charts, missing: &missing, command: &command };
    write(&out.join("sweep.html"), &page.html())?;
    if options.json {
        println!("{report}");
    } else {
        cells.iter().for_each(|cell| println!("{}", line(cell)));
        println!("{}", words(&verdict));
        println!("the report: {}", out.join("sweep.html").display());
    }
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// True when a cell is complete; a failure when that was another measurement of the same name.
fn complete(cell: &Cell, options: &Options) -> Result<bool> {
    let Some(meta) = Samples::of(cell, &options.out).meta()? else { return Ok(false) };
    let Meta { length_ms, .. } = meta;
    if u128::from(length_ms) != options.length.as_millis() {
        return Err(Failure::new(format!(
            "{} has {} of {length_ms} ms: take another --out, or --again to measure anew",
            options.out.display(),
            cell.name()
        )));
    }
    Ok(true)
}

/// Measures what is not known; which paces could not be, and why.
fn measure(plan: &Plan, options: &Options) -> Result<Vec<(String, String)>> {
    let (mut wanted, mut known) = (Vec::new(), 0);
    for pace in &plan.paces {
        let mut cells = plan.cells(*pace);
        let all = cells.len();
        if !options.again {
            let mut left = Vec::new();
            for cell in cells {
                if !complete(&cell, options)? {
                    left.push(cell);
                }
            }
            cells = left;
        }
        known += all - cells.len();
        if !cells.is_empty() {
            wanted.push((*pace, cells));
        }
    }
    if known > 0 {
        eprintln!("sweep: {known} are complete in {} and not measured again", options.out.display());
    }
    let count = wanted.iter().map(|(_, cells)| cells.len()).sum::<usize>();
    if count == 0 {
        return Ok(Vec::new());
    }
    let programs = Programs::beside(&options.tidegate)?;
    let about = AROUND_PACE * wanted.len() as u32 + (options.length + AROUND_CELL) * count as u32;
    eprintln!("sweep: {count} to measure at {} paces, about {} s", wanted.len(), about.as_secs());
    let mut lab = Lab::open(programs)?;
    let mut missing = Vec::new();
    for (n, (pace, cells)) in wanted.iter().enumerate() {
        let begin = Instant::now();
        let tell = |what: &str| eprintln!("sweep: {}/{} {pace}: {what}", n + 1, wanted.len());
        let bounds = (options.floor, options.ceiling);
        let order = Order { pace: *pace, bounds, cells, length: options.length, out: &options.out };
        match run_pace(&mut lab, &order, &tell) {
            Ok(()) => tell(&format!("done in {:.0} s", begin.elapsed().as_secs_f64())),
            Err(failure) => {
                tell(&format!("could not be measured: {failure}"));
                let first = failure.to_string().lines().next().unwrap_or_default().to_owned();
                missing.push((pace.to_string(), first));
            }
        }
    }
    Ok(missing)
}

/// As it would be typed.
fn command(options: &Options, plan: &Plan) -> String {
    let list = |words: Vec<String>| words.join(",");
    format!(
        "scripts/bench sweep --out {} --intervals {} --calls {} --loads {} --length {}ms",
        options.out.display(),
        list(plan.paces.iter().map(Pace::to_string).collect()),
        list(plan.calls.iter().map(u16::to_string).collect()),
        list(plan.loads.iter().map(|load| load.name().to_owned()).collect()),
        options.length.as_millis()
    )
}

/// A cell in one line.
fn line(cell: &Numbers) -> String {
    let tcp = cell.tcp_outward_mbit.map(|mbit| format!("{mbit:.1} Mbit/s out")).unwrap_or_default();
    format!(
        "{:<6} {:>2} calls, TCP {:<5}  every {:>4.0} ms, pause {:>5.1} ms ({:>4.1} %)   INVITE {:>6.1} / {:>6.1} ms   \
         transaction {:>6.1} ms   held {:>6.0} KiB   MOS {:.2}   {tcp}",
        cell.pace,
        cell.calls,
        cell.load,
        cell.interval_ms,
        cell.pause_ms.median,
        cell.stands_still_percent,
        cell.signalling.p50_ms,
        cell.signalling.p99_ms,
        cell.transaction.p50_ms,
        cell.held.p99_bytes / 1024.0,
        cell.voice.mos_60.min
    )
}

fn words(verdict: &Verdict) -> String {
    match (verdict.calls_come_ms, verdict.calls_last_ms) {
        (Some(come), Some(last)) => format!(
            "recommended: {:.0} ms while calls are set up ({:.0} to {:.0}), {:.0} ms while they only last ({:.0} to {:.0})",
            come.median, come.min, come.max, last.median, last.min, last.max
        ),
        _ => "nothing is recommended: no fixed interval was measured".into(),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).context(|| format!("cannot write {}", path.display()))
}
