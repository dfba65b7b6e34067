//! Devices measured in turns: A B C A B C ..., so that whatever else the machine does meets all of them alike.

use crate::core_distance::round_trip_ns;
use crate::dut::{Dut, Setup, Wire};
use crate::failure::Result;
use crate::frames::{Checksums, Mix};
use crate::machine::{Cpus, Pages, Scratch};
use crate::stats::Spread;
use crate::trial::{Arena, Trial};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How a contest is held; every option has the default that the aims are stated for.
#[derive(Clone, Debug, clap::Args)]
pub struct Rules {
    /// Seconds measured in each window
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    pub seconds: f64,
    /// Rounds: in each, every device is measured once
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeats: u32,
    /// What the guest sends
    #[arg(long, default_value = "mixed")]
    pub mix: Mix,
    /// Who puts the checksums of UDP and TCP in
    #[arg(long, default_value = "device")]
    pub checksums: Checksums,
    /// Where the wire port leads
    #[arg(long, default_value = "null")]
    pub wire: Wire,
    /// Where mbufs live [default: huge pages if enough are free]
    #[arg(long)]
    pub pages: Option<Pages>,
    /// The tidegate binary
    #[arg(long, env = "TIDEGATE", value_name = "PATH")]
    pub tidegate: PathBuf,
}

/// MiB that a contest of so many devices takes.
fn memory_mib(devices: usize) -> u32 {
    devices as u32 * crate::dut::MEMORY_MIB + crate::generator::MEMORY_MIB
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds from 0.1 to 600".into()),
    }
}

/// What all devices had in common: stated with each result, because a ratio means nothing without it.
#[derive(Clone, Debug, Serialize)]
pub struct Conditions {
    mix: Mix,
    checksums: Checksums,
    wire: Wire,
    ring: &'static str,
    burst: usize,
    pages: Pages,
    cpus: Cpus,
    seconds: f64,
    repeats: u32,
    epoch_ms: u64,
    commit_delay_ms: u64,
}

/// How the measuring itself went.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Quality {
    /// Windows thrown away because a polling thread did not get its CPU.
    thrown_away: u32,
    /// Windows kept although that was so.
    disturbed: u32,
    /// Nanoseconds for a cache line's round trip between the two cores.
    core_round_trip_ns: Option<Spread>,
}

/// Whether the two cores share a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// A round trip takes less than [`FAR_NS`].
    Near,
    /// It takes longer.
    Far,
}

/// Cores that share a third-level cache were seen at 25 to 60 ns, others at 300.
const FAR_NS: f64 = 150.0;

/// Every device measured once.
#[derive(Debug)]
pub struct Round {
    trials: BTreeMap<&'static str, Trial>,
    /// Nanoseconds for a cache line's round trip between the cores, just before.
    cores: Option<f64>,
    /// And just after.
    cores_after: Option<f64>,
}

impl Round {
    /// `None` when that changed meanwhile.
    fn distance(&self) -> Option<Distance> {
        let distance = |ns| if ns < FAR_NS { Distance::Near } else { Distance::Far };
        let (before, after) = (distance(self.cores?), distance(self.cores_after?));
        (before == after).then_some(before)
    }

    fn fps(&self, dut: Dut) -> Option<f64> {
        Some(self.trials.get(dut.name())?.window.fps())
    }
}

/// The windows of all rounds.
#[derive(Debug)]
pub struct Contest {
    /// What they had in common.
    pub conditions: Conditions,
    rounds: Vec<Round>,
}

impl Contest {
    /// Holds it; `variant`: see [`Setup::variant`]. Tells on standard error how it goes.
    pub fn hold(duts: &[Dut], variant: &[String], rules: &Rules) -> Result<Contest> {
        let (cpus, scratch) = (Cpus::choose()?, Scratch::new()?);
        let pages = rules.pages.unwrap_or_else(|| Pages::choose(memory_mib(duts.len())));
        let variant = variant.to_vec();
        let (tidegate, checksums, wire) = (rules.tidegate.clone(), rules.checksums, rules.wire);
        let setup = Setup { tidegate, cpus, wire, pages, checksums, variant, eal: Vec::new() };
        let window = Duration::from_secs_f64(rules.seconds);
        let mut arena = Arena::set_up(duts, &setup, rules.mix, &scratch)?;
        let duts: Vec<Dut> = arena.duts().collect();
        let mut rounds = Vec::new();
        for round in 1..=rules.repeats {
            let cores = round_trip_ns(cpus.generator, cpus.dut);
            let mut trials = BTreeMap::new();
            for (n, dut) in duts.iter().enumerate() {
                let trial = arena.trial(n, window)?;
                let note = if trial.disturbed { " DISTURBED" } else { "" };
                eprintln!(
                    "round {round}/{}: {:<24}{:>8.3} Mframes/s{}{note}",
                    rules.repeats,
                    dut.name(),
                    trial.window.fps() / 1e6,
                    trial.window.circumstances(),
                );
                trials.insert(dut.name(), trial);
            }
            let cores_after = round_trip_ns(cpus.generator, cpus.dut);
            rounds.push(Round { trials, cores, cores_after });
        }
        arena.close()?;
        let conditions = Conditions {
            mix: rules.mix,
            checksums: rules.checksums,
            wire: rules.wire,
            ring: crate::generator::RING,
            burst: crate::dut::BURST,
            pages,
            cpus,
            seconds: rules.seconds,
            repeats: rules.repeats,
            epoch_ms: crate::dut::EPOCH_MS,
            commit_delay_ms: crate::dut::COMMIT_DELAY_MS,
        };
        Ok(Contest { conditions, rounds })
    }

    /// All rounds, or those held while the cores were near each other, or far: what a ratio says depends on it.
    pub fn rounds(&self, distance: Option<Distance>) -> Rounds<'_> {
        let within = |round: &&Round| distance.is_none() || round.distance() == distance;
        Rounds(self.rounds.iter().filter(within).collect())
    }

    /// How the measuring went.
    pub fn quality(&self) -> Quality {
        let all = self.rounds(None);
        let cores = Spread::of(self.rounds.iter().filter_map(|round| round.cores));
        let mut quality = Quality { core_round_trip_ns: cores, ..Quality::default() };
        for trial in all.0.iter().flat_map(|round| round.trials.values()) {
            quality.thrown_away += trial.thrown_away;
            quality.disturbed += u32::from(trial.disturbed);
        }
        quality
    }
}

/// Some of the rounds of a contest.
#[derive(Debug)]
pub struct Rounds<'a>(Vec<&'a Round>);

impl Rounds<'_> {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True for none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Frames a second of each device.
    pub fn fps(&self) -> BTreeMap<&'static str, Spread> {
        let trials = || self.0.iter().flat_map(|round| &round.trials);
        let of =
            |name| Spread::of(trials().filter(|(of, _)| **of == name).map(|(_, trial)| trial.window.fps()));
        trials().filter_map(|(&name, _)| Some((name, of(name)?))).collect()
    }

    /// Frames a second of one device over those of another, round by round.
    pub fn ratio(&self, of: Dut, over: Dut) -> Option<Spread> {
        Spread::of(self.0.iter().filter_map(|round| Some(round.fps(of)? / round.fps(over)?)))
    }

    /// Median share of the time in which the generator found a device's ring full, for the device where that is
    /// least. Near 0 the generator was the limit there, and a ratio with that device is an upper bound at best.
    pub fn ring_full(&self) -> f64 {
        let names = self.0.iter().flat_map(|round| round.trials.keys());
        let full = |name: &str| {
            let windows =
                self.0.iter().filter_map(move |round| Some(round.trials.get(name)?.window.ring_full));
            Spread::of(windows).map(|full| full.median)
        };
        names.filter_map(|name| full(name)).fold(1.0, f64::min)
    }
}
