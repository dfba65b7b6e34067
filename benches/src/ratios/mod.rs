//! `ratios`: the nine ratios of the testbed, each under its key, each with its aim beside it.
//!
//! | key | what is measured, and where |
//! |---|---|
//! | `R1_io`, `R1_mac`, `R9` | [`forwarding`]: frames/s in turns, vhost-user to `net_null` |
//! | `R2_bypass`, `R2_held` | [`forwarding`]: ticks a frame on one core, prepared frames to `net_null` |
//! | `R3`, `R3_worst_us`, `R6`, `R6_first_p99_us`, `R7` | [`holding`]: the lane between ports in memory |
//! | `R4_gap`, `R4_pdv`, `R5_us` | [`calls`]: calls through the whole of tidegate, vhost-user on both sides |
//! | `R8_pps`, `R8_p99` | [`bridge`]: the kernel's bridge with IFB, in a namespace made for it |
//!
//! Devices are measured in turns and a ratio is formed within a round. What cannot be measured on a machine says so.

pub mod bridge;
pub mod calls;
pub mod figure;
pub mod forwarding;
pub mod holding;

use crate::core_distance::round_trip_ns;
use crate::failure::{Failure, Result};
use crate::machine::{Cpus, Pages, Scratch};
use crate::report::{Aim, Telling};
use crate::testbed::conditions::Conditions;
use crate::testbed::hiccups::{Noise, Watch};
use figure::{Figure, Part};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Every key, the sign of its aim, and the aim.
pub const AIMS: [(&str, char, f64); 16] = [
    ("R1_io", '>', 0.85),
    ("R1_mac", '>', 0.95),
    ("R2_bypass", '<', 40.0),
    ("R2_held", '<', 80.0),
    ("R3", '<', 1.2),
    ("R3_worst_us", '<', 20.0),
    ("R4_gap", '>', 100.0),
    ("R4_pdv", '>', 100.0),
    ("R5_us", '<', 5.0),
    ("R6", '<', 1.25),
    ("R6_first_p99_us", '<', 5.0),
    ("R7", '<', 1.02),
    ("R7_lost", '<', 0.0),
    ("R8_pps", '>', 4.0),
    ("R8_p99", '<', 0.25),
    ("R9", '>', 0.98),
];

/// What `ratios` can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Rounds: in each, every device is measured once
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeats: u32,
    /// These only, e.g. R3,R6
    #[arg(long, value_delimiter = ',', value_name = "R1,R2,...")]
    pub only: Vec<String>,
    /// One round of short windows: proves that all of it runs, says nothing of speed
    #[arg(long)]
    pub short: bool,
    /// Where mbufs live [default: huge pages if enough are free]
    #[arg(long)]
    pub pages: Option<Pages>,
    /// The tidegate binary
    #[arg(long, env = "TIDEGATE", value_name = "PATH")]
    pub tidegate: PathBuf,
}

/// How a part is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds.
    pub repeats: u32,
    /// Windows are as short as they can be.
    pub short: bool,
    /// Where mbufs live; `None`: wherever there is room.
    pub pages: Option<Pages>,
    /// The tidegate binary.
    pub tidegate: PathBuf,
    /// What was asked for: `R1` to `R9`.
    pub wanted: Vec<String>,
}

impl Plan {
    /// Milliseconds, or a tenth of them where it is to be short.
    pub fn ms(&self, ms: u64) -> u64 {
        if self.short { (ms / 10).max(100) } else { ms }
    }

    /// True when one of these was asked for.
    pub fn wants(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.wanted.iter().any(|wanted| wanted == name))
    }
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    #[serde(flatten)]
    figures: BTreeMap<&'static str, Figure>,
    /// How each part was measured, and what else it saw.
    parts: BTreeMap<&'static str, Value>,
    /// True: the windows were too short for any verdict.
    short: bool,
    repeats: u32,
    machine: Conditions,
    cpus: Cpus,
    core_round_trip_ns: [Option<f64>; 2],
    noise: BTreeMap<&'static str, Value>,
    aims: Vec<Aim>,
}

/// A part: its name, the ratios that it gives, how it is measured.
type Measure = fn(&Plan) -> Result<Part>;
const PARTS: [(&str, &[&str], Measure); 6] = [
    ("forwarding", &["R1", "R9"], forwarding::rates),
    ("ticks", &["R2"], forwarding::ticks),
    ("holding", &["R3", "R6", "R7"], holding::measure),
    ("epochs", &["R4"], calls::epochs),
    ("jitter", &["R5"], calls::jitter),
    ("bridge", &["R8"], bridge::measure),
];

/// Runs it.
pub fn run(options: &Options, telling: Telling) -> Result<ExitCode> {
    let plan = plan(options)?;
    let cpus = Cpus::choose()?;
    let distance = || round_trip_ns(cpus.generator, cpus.dut);
    let before = distance();
    let (mut figures, mut parts, mut noise) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let chosen: Vec<_> = PARTS.iter().filter(|(_, gives, _)| plan.wants(gives)).collect();
    for (n, (name, gives, measure)) in chosen.iter().enumerate() {
        eprintln!("ratios: {}/{} {name} ({})", n + 1, chosen.len(), gives.join(", "));
        let (begin, watch) = (Instant::now(), Watch::start());
        // What one part cannot do is no reason to leave the others out.
        let part = measure(&plan).unwrap_or_else(|failure| Part::skipped(gives, &failure.to_string()));
        noise.insert(*name, told(&watch.finish()));
        eprintln!("ratios: {name} took {:.0} s", begin.elapsed().as_secs_f64());
        figures.extend(part.figures);
        parts.insert(*name, part.detail);
    }
    figures.retain(|key, _| plan.wanted.iter().any(|wanted| belongs(key, wanted)));
    let report = Report {
        bench: "ratios",
        aims: aims(&figures),
        figures,
        parts,
        short: options.short,
        repeats: plan.repeats,
        machine: machine(&options.tidegate),
        cpus,
        core_round_trip_ns: [before, distance()],
        noise,
    };
    // A short run gives no verdict.
    let telling = Telling { check: telling.check && !options.short, ..telling };
    let lines = lines(&report);
    let verdict = if options.short { &[][..] } else { &report.aims };
    Ok(telling.tell(&report, &lines, verdict))
}

fn plan(options: &Options) -> Result<Plan> {
    let all: Vec<String> = (1..=9).map(|n| format!("R{n}")).collect();
    if let Some(unknown) = options.only.iter().find(|name| !all.contains(name)) {
        return Err(Failure::new(format!("--only {unknown}: there are {}", all.join(", "))));
    }
    Ok(Plan {
        repeats: if options.short { 1 } else { options.repeats },
        short: options.short,
        pages: options.pages,
        tidegate: options.tidegate.clone(),
        wanted: if options.only.is_empty() { all } else { options.only.clone() },
    })
}

/// `R3_worst_us` belongs to `R3`.
fn belongs(key: &str, ratio: &str) -> bool {
    key.split('_').next() == Some(ratio)
}

fn aims(figures: &BTreeMap<&'static str, Figure>) -> Vec<Aim> {
    let measured = AIMS.iter().filter_map(|aim| Some((aim, figures.get(aim.0)?.spread()?)));
    measured
        .map(|(&(key, sign, bound), spread)| match sign {
            '>' => Aim::new(key, Some(spread), bound),
            _ => Aim::at_most(key, Some(spread), bound),
        })
        .collect()
}

/// A watch's account, without the moments.
fn told(noise: &Noise) -> Value {
    json!({
        "hiccups_2ms": noise.count,
        "worst_ms": noise.worst_ms,
        "busy_percent": noise.busy_percent,
        "stolen_percent": noise.stolen_percent,
    })
}

fn lines(report: &Report) -> Vec<String> {
    let mut lines = vec![
        format!("machine: {}; load {}", report.machine.machine(), report.machine.load),
        format!(
            "cores: {:?} ns for a cache line's round trip, before and after; {} rounds{}",
            report.core_round_trip_ns.map(|ns| ns.unwrap_or(f64::NAN)),
            report.repeats,
            if report.short { "; SHORT: no verdict" } else { "" }
        ),
        format!("dpdk {}, software stamps (TSC)", report.machine.dpdk),
    ];
    for (key, sign, aim) in AIMS {
        if let Some(figure) = report.figures.get(key) {
            lines.push(figure.line(key, sign, aim, report.short));
        }
    }
    for (name, part) in &report.parts {
        let path = part["path"].as_str().unwrap_or("not measured");
        let noise = &report.noise[name];
        lines.push(format!(
            "{name}: {path}; {} hiccups over 2 ms, worst {:.1} ms, {:.1} % stolen",
            noise["hiccups_2ms"],
            noise["worst_ms"].as_f64().unwrap_or(0.0),
            noise["stolen_percent"].as_f64().unwrap_or(0.0)
        ));
    }
    lines
}

/// This machine; which path a frame takes, each part says for itself.
pub fn machine(tidegate: &Path) -> Conditions {
    Conditions {
        path: "see parts".into(),
        stamps: "software stamps: the CPU's TSC, read by the generator or the rig".into(),
        ..Conditions::now(tidegate, false)
    }
}

/// A directory for one part's sockets and logs.
pub fn scratch() -> Result<Scratch> {
    Scratch::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Spread;

    fn options() -> Options {
        Options { repeats: 7, only: Vec::new(), short: false, pages: None, tidegate: PathBuf::new() }
    }

    #[test]
    fn keys_belong_to_their_ratio_and_every_ratio_is_measured_somewhere() {
        assert!(belongs("R3", "R3") && belongs("R3_worst_us", "R3") && !belongs("R3", "R30"));
        for n in 1..=9 {
            let name = format!("R{n}");
            assert!(AIMS.iter().any(|(key, ..)| belongs(key, &name)), "{name} has a key");
            assert!(PARTS.iter().any(|(_, gives, _)| gives.contains(&name.as_str())), "{name}");
        }
    }

    #[test]
    fn one_can_choose_ratios_by_name() {
        let one = Options { only: vec!["R6".into()], ..options() };
        let plan = plan(&one).unwrap();
        assert!(plan.wants(&["R3", "R6"]) && !plan.wants(&["R1"]));
        let unknown = super::plan(&Options { only: vec!["R10".into()], ..options() });
        assert!(unknown.unwrap_err().to_string().contains("R9"));
    }

    #[test]
    fn what_was_skipped_has_no_verdict() {
        let measured = Figure::of([0.9, 0.8, 1.0]);
        let figures = BTreeMap::from([("R1_io", measured), ("R8_pps", Figure::skipped("not root"))]);
        let aims = aims(&figures);
        assert_eq!((aims.len(), aims[0].of, aims[0].met), (1, "R1_io", true));
        let json = serde_json::to_value(&figures).unwrap();
        assert_eq!(json["R1_io"]["median"], 0.9);
        assert_eq!(json["R8_pps"]["skipped"], "not root");
        assert_eq!(Spread::of([0.9, 0.8, 1.0]).unwrap().n, 3);
    }
}
