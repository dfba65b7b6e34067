//! `scale`: what a frame costs, and what a held one takes, as there are more of everything; where the line bends, and why.
//!
//! | curve | along it grows | measured with |
//! |---|---|---|
//! | `calls` | calls of 50 packets a second, paced | small bursts, as an lcore sees them in service |
//! | `streams` | streams of RTP that come round in turns, as fast as they are taken | full bursts |
//! | `guests` | lanes on one lcore, each with ten streams | full bursts of each |
//! | `epochs` | epochs in flight, as many frames held at each point | 60-byte TCP, paced |
//! | `depth` | frames in the hold queue, cold when the commit comes | taken, then released at once |
//!
//! All of it with the shipped lane between ports in memory (see [`crate::rig`]); what the ports alone cost is taken off.

pub mod curve;
pub mod derived;
pub mod page;
pub mod plot;

use crate::core_distance::round_trip_ns;
use crate::failure::{Context, Failure, Result};
use crate::machine::{Cpus, Pages, Scratch};
use crate::ratios::machine;
use crate::report::row;
use crate::rig::Ask;
use crate::rig::client::{Rig, Size};
use crate::testbed::conditions::Conditions;
use crate::testbed::hiccups::Watch;
use curve::{CURVES, Curve, Kind};
use derived::Derived;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What `scale` can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where the curves, the report and the JSON go
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// These curves only: calls, streams, guests, epochs, depth
    #[arg(long, value_delimiter = ',', value_name = "CURVE,...")]
    pub only: Vec<Kind>,
    /// Times that each point is measured; the points of a curve take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeats: u32,
    /// One round, few and small points: proves that all of it runs
    #[arg(long)]
    pub short: bool,
    /// One line of JSON on standard output, nothing else there
    #[arg(long)]
    pub json: bool,
    /// Where mbufs live [default: huge pages if enough are free]
    #[arg(long)]
    pub pages: Option<Pages>,
    /// The tidegate binary, for its version
    #[arg(long, env = "TIDEGATE", value_name = "PATH")]
    pub tidegate: PathBuf,
}

/// All that was measured, and what follows from it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `scale`.
    pub bench: &'static str,
    /// The curves.
    pub curves: Vec<Curve>,
    /// What a physical machine should give.
    pub derived: Option<Derived>,
    /// The machine.
    pub machine: Conditions,
    /// Ring path.
    pub path: &'static str,
    /// Where mbufs lived.
    pub pages: Pages,
    /// Rounds.
    pub repeats: u32,
    /// True: few points, no verdict.
    pub short: bool,
    /// Hiccups a second of a thread that only reads the clock, longer than 10 us.
    pub machine_hiccups_per_s: f64,
    /// Hiccups of more than 2 ms while it was measured.
    pub hiccups_2ms: usize,
    /// The longest, milliseconds.
    pub hiccup_worst_ms: f64,
    /// Share of the CPUs that the machine below took, per cent.
    pub stolen_percent: f64,
    /// Nanoseconds for a cache line's round trip between two cores.
    pub core_round_trip_ns: Option<f64>,
}

const PATH: &str = "the shipped lane on real mbufs, between a feed in memory and net_null, one thread";

/// Runs it.
pub fn run(options: &Options) -> Result<ExitCode> {
    let (cpus, scratch) = (Cpus::choose()?, Scratch::new()?);
    fs::create_dir_all(&options.out).context(|| format!("cannot make {}", options.out.display()))?;
    let wanted: Vec<Kind> = if options.only.is_empty() { CURVES.to_vec() } else { options.only.clone() };
    let repeats = if options.short { 1 } else { options.repeats };
    let deepest = wanted.iter().map(|kind| kind.mbufs(options.short)).max().unwrap_or(0);
    let lanes = wanted.iter().map(|kind| kind.lanes(options.short)).max().unwrap_or(1);
    let size = Size { mbufs: deepest, data_room: 2048, lanes };
    let mut rig = Rig::start(size, cpus, options.pages, &scratch)?;
    let watch = Watch::start();
    let spin = rig.ask(Ask::Spin { ms: if options.short { 100 } else { 2_000 } })?;
    let mut curves = Vec::new();
    for (n, kind) in wanted.iter().enumerate() {
        eprintln!("scale: {}/{} {}", n + 1, wanted.len(), kind.name());
        curves.push(kind.measure(&mut rig, repeats, options.short)?);
    }
    let noise = watch.finish();
    let report = Report {
        bench: "scale",
        derived: Derived::of(&curves),
        curves,
        machine: machine(&options.tidegate),
        path: PATH,
        pages: rig.pages,
        repeats,
        short: options.short,
        machine_hiccups_per_s: spin.hiccups as f64 / spin.seconds.max(1e-9),
        hiccups_2ms: noise.count,
        hiccup_worst_ms: noise.worst_ms,
        stolen_percent: noise.stolen_percent,
        core_round_trip_ns: round_trip_ns(cpus.generator, cpus.dut),
    };
    keep(&report, options)?;
    Ok(ExitCode::SUCCESS)
}

fn keep(report: &Report, options: &Options) -> Result<()> {
    let out = &options.out;
    let json = serde_json::to_string(report).context(|| "the report".into())?;
    write(&out.join("scale.json"), &format!("{json}\n"))?;
    let drawings: Vec<String> = report.curves.iter().map(plot::draw).collect();
    for (curve, drawing) in report.curves.iter().zip(&drawings) {
        write(&out.join(format!("{}.svg", curve.name)), drawing)?;
    }
    write(&out.join("scale.html"), &page::html(report, &drawings, &command(options)))?;
    if options.json {
        println!("{json}");
        return Ok(());
    }
    for curve in &report.curves {
        println!("{}", curve.title);
        for point in &curve.points {
            println!("{}", row(&format!("  {:>9} {}", point.x, curve.of), Some(point.cost), " ns a frame"));
        }
        println!("  {}", curve.bend_in_words());
    }
    println!("the report: {}", out.join("scale.html").display());
    Ok(())
}

/// As it would be typed.
fn command(options: &Options) -> String {
    let mut words = format!("scripts/bench scale --out {}", options.out.display());
    if !options.only.is_empty() {
        let names: Vec<_> = options.only.iter().map(|kind| kind.name()).collect();
        words.push_str(&format!(" --only {}", names.join(",")));
    }
    if options.short {
        words.push_str(" --short");
    }
    words
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).context(|| format!("cannot write {}", path.display()))
}

/// A curve of that name, or a failure.
pub fn curve_of<'a>(curves: &'a [Curve], name: &str) -> Result<&'a Curve> {
    curves.iter().find(|curve| curve.name == name).ok_or_else(|| Failure::new(format!("no curve {name}")))
}
