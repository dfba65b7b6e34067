//! `scripts/bench figures`: runs what has not been run yet, and draws everything.

use super::lab::{Lab, Programs};
use super::page::Page;
use super::panel::Panel;
use super::plot::{Labels, draw};
use super::run::run as run_scenario;
use super::samples::{Meta, Samples};
use super::scenario::Scenario;
use crate::failure::{Context, Failure, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Its arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where samples, drawings and the report go; what is complete there is not run again
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    pub out: Option<PathBuf>,
    /// Other scenarios than the paper's, in the form of benches/figures.toml
    #[arg(long, value_name = "FILE")]
    pub scenarios: Option<PathBuf>,
    /// Only this scenario; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Measure for so long instead of what the scenarios say
    #[arg(long, value_name = "TIME", value_parser = tidegate_control::quantity::span)]
    pub length: Option<Duration>,
    /// Run everything again
    #[arg(long)]
    pub again: bool,
    /// Say which scenarios there are, and how long they take; run nothing
    #[arg(long)]
    pub list: bool,
    /// One line of JSON on standard output: what figures.json has
    #[arg(long)]
    pub json: bool,
    /// The tidegate binary; its other programs and the teller lie beside it
    #[arg(long, env = "TIDEGATE", value_name = "PATH")]
    pub tidegate: PathBuf,
}

/// What is set up for each scenario beside its length: boot or load, first copy, the end of the call.
const AROUND: Duration = Duration::from_secs(12);

/// Runs it: fails when a scenario could not be run; the others are drawn all the same.
pub fn run(options: &Options) -> Result<ExitCode> {
    let scenarios = chosen(options)?;
    let Some(out) = options.out.as_deref().filter(|_| !options.list) else {
        for scenario in &scenarios {
            println!(
                "{:<22} figure {:<3} {:>5} s   {}",
                scenario.name,
                scenario.figure,
                scenario.length.as_secs(),
                scenario.title
            );
        }
        return Ok(ExitCode::SUCCESS);
    };
    fs::create_dir_all(out).context(|| format!("cannot make {}", out.display()))?;
    // Before the first minute is spent.
    let mut known = Vec::new();
    for scenario in &scenarios {
        known.push(if options.again { None } else { complete(scenario, out)? });
    }
    let missing = measure(&scenarios, &known, out, options)?;
    let mut panels = Vec::new();
    for scenario in
        scenarios.iter().filter(|scenario| !missing.iter().any(|(other, _)| other.name == scenario.name))
    {
        let samples = Samples::of(scenario, out);
        let meta =
            samples.meta()?.ok_or_else(|| Failure::new(format!("{} has no samples", scenario.name)))?;
        let panel = Panel::of(&samples, meta)?;
        let drawings: Vec<String> = panel
            .voices
            .iter()
            .map(|voice| {
                let title = match panel.voices.len() {
                    1 => scenario.title.clone(),
                    _ => format!("{}: {}", scenario.title, voice.name),
                };
                draw(voice, Labels { title: &title, ..labels(&panel) })
            })
            .collect();
        for (n, drawing) in drawings.iter().enumerate() {
            let suffix = if n == 0 { String::new() } else { format!("-{}", n + 1) };
            write(&out.join(format!("{}{suffix}.svg", scenario.name)), drawing)?;
        }
        panels.push((panel, drawings));
    }
    let report = report(&panels, &missing);
    write(&out.join("figures.json"), &format!("{report:#}\n"))?;
    let page = Page { panels: &panels, missing: &missing, command: &command(options, out) };
    write(&out.join("figures.html"), &page.html())?;
    if options.json {
        println!("{report}");
    } else {
        panels.iter().for_each(|(panel, _)| println!("{}", line(panel)));
        println!("the report: {}", out.join("figures.html").display());
    }
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn chosen(options: &Options) -> Result<Vec<Scenario>> {
    let mut scenarios = match &options.scenarios {
        Some(file) => Scenario::read(file)?,
        None => Scenario::paper()?,
    };
    if let Some(name) = options.only.iter().find(|name| !scenarios.iter().any(|one| one.name == **name)) {
        let names: Vec<_> = scenarios.iter().map(|scenario| scenario.name.as_str()).collect();
        return Err(Failure::new(format!("there is no scenario {name:?}; there are {}", names.join(", "))));
    }
    if !options.only.is_empty() {
        scenarios.retain(|scenario| options.only.contains(&scenario.name));
    }
    for scenario in &mut scenarios {
        scenario.length = options.length.unwrap_or(scenario.length);
        scenario
            .check()
            .map_err(|what| Failure::new(format!("--length: scenario {:?}: {what}", scenario.name)))?;
    }
    Ok(scenarios)
}

/// What is known of a scenario that was run before; a failure when that was another one of the same name.
fn complete(scenario: &Scenario, out: &Path) -> Result<Option<Meta>> {
    let samples = Samples::of(scenario, out);
    let meta = samples.meta()?;
    if let Some(meta) = &meta
        && meta.scenario != *scenario
    {
        return Err(Failure::new(format!(
            "{} has samples of another scenario of that name ({} s long): take another --out, or --again to measure anew",
            samples.dir().display(),
            meta.scenario.length.as_secs_f64()
        )));
    }
    Ok(meta)
}

/// Runs what is not known; what could not be run, and why.
fn measure(
    scenarios: &[Scenario],
    known: &[Option<Meta>],
    out: &Path,
    options: &Options,
) -> Result<Vec<(Scenario, String)>> {
    let wanted: Vec<_> =
        scenarios.iter().zip(known).filter(|(_, known)| known.is_none()).map(|(one, _)| one).collect();
    let kept = scenarios.len() - wanted.len();
    if kept > 0 {
        eprintln!(
            "figures: {kept} of {} are complete in {} and not run again",
            scenarios.len(),
            out.display()
        );
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let programs = Programs::beside(&options.tidegate)?;
    let about: Duration = wanted.iter().map(|scenario| scenario.length + AROUND).sum();
    eprintln!("figures: {} to run, about {} s", wanted.len(), about.as_secs());
    let mut lab = Lab::open(programs)?;
    let mut missing = Vec::new();
    for (n, scenario) in wanted.iter().enumerate() {
        let begin = Instant::now();
        let tell = |what: &str| eprintln!("figures: {}/{} {}: {what}", n + 1, wanted.len(), scenario.name);
        match run_scenario(&mut lab, scenario, &Samples::of(scenario, out), &tell) {
            Ok(()) => tell(&format!("done in {:.0} s", begin.elapsed().as_secs_f64())),
            Err(failure) => {
                tell(&format!("could not be run: {failure}"));
                let first = failure.to_string().lines().next().unwrap_or_default().to_owned();
                missing.push(((*scenario).clone(), first));
            }
        }
    }
    Ok(missing)
}

fn labels(panel: &Panel) -> Labels<'_> {
    Labels {
        title: &panel.scenario.title,
        seconds: (panel.meta.end_ns - panel.meta.begin_ns) as f64 / 1e9,
        killed_s: panel.killed_s,
    }
}

fn report(panels: &[(Panel, Vec<String>)], missing: &[(Scenario, String)]) -> Value {
    let panels: Vec<&Panel> = panels.iter().map(|(panel, _)| panel).collect();
    let missing: Vec<Value> =
        missing.iter().map(|(scenario, why)| json!({ "name": scenario.name, "why": why })).collect();
    json!({ "panels": panels, "missing": missing })
}

/// As it would be typed.
fn command(options: &Options, out: &Path) -> String {
    let mut words = format!("scripts/bench figures --out {}", out.display());
    if let Some(file) = &options.scenarios {
        words.push_str(&format!(" --scenarios {}", file.display()));
    }
    if let Some(length) = options.length {
        words.push_str(&format!(" --length {}ms", length.as_millis()));
    }
    words
}

/// A panel in one line.
fn line(panel: &Panel) -> String {
    let voice = &panel.voices[0];
    let part = voice.parts.last().unwrap_or(voice.whole());
    let (quality, playout) = (&part.quality, &part.playout);
    let outage = panel.outage_ms.map(|outage| format!(", silent for {outage:.0} ms")).unwrap_or_default();
    format!(
        "{:<18} MOS {:.2}   jitter {:>6.2} ms (max {:>6.2})   longest gap {:>6.1} ms   PDV p99 {:>6.1} ms   late {} / {}, lost {}{outage}",
        panel.scenario.name,
        playout.mos_60,
        quality.jitter_ms,
        quality.jitter_ms_max,
        voice.whole().quality.delta_ms_max,
        playout.pdv_ms_p99,
        playout.late_60,
        playout.late_200,
        voice.whole().quality.lost,
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::conditions::Conditions;
    use super::*;

    fn options() -> Options {
        Options {
            out: None,
            scenarios: None,
            only: Vec::new(),
            length: None,
            again: false,
            list: false,
            json: false,
            tidegate: PathBuf::new(),
        }
    }

    #[test]
    fn one_can_choose_and_shorten() {
        let only = Options { only: vec!["4-vm".into()], length: Some(Duration::from_secs(5)), ..options() };
        let chosen_ones = chosen(&only).unwrap();
        assert_eq!((chosen_ones.len(), chosen_ones[0].length), (1, Duration::from_secs(5)));
        let unknown = chosen(&Options { only: vec!["8".into()], ..options() }).unwrap_err().to_string();
        assert!(unknown.contains("7-failover"), "{unknown}");
        let short = chosen(&Options { length: Some(Duration::ZERO), ..options() }).unwrap_err().to_string();
        assert!(short.contains("from 2s"), "{short}");
    }

    #[test]
    fn samples_of_another_scenario_are_neither_used_nor_replaced() {
        let out = std::env::temp_dir().join(format!("tidegate-bench-figures-{}", std::process::id()));
        let scenario = Scenario::paper().unwrap().remove(0);
        let samples = Samples::of(&scenario, &out);
        samples.clear().unwrap();
        assert_eq!(complete(&scenario, &out).unwrap(), None);
        samples.complete(&Meta::new(&scenario, Conditions::default())).unwrap();
        assert!(complete(&scenario, &out).unwrap().is_some());
        let longer = Scenario { length: Duration::from_secs(99), ..scenario };
        let refusal = complete(&longer, &out).unwrap_err().to_string();
        assert!(refusal.contains("--again") && refusal.contains("20 s long"), "{refusal}");
        fs::remove_dir_all(out).unwrap();
    }
}
