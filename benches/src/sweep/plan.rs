//! What is measured: every interval with every number of calls and every load, a cell each.

use crate::failure::{Failure, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tidegate_control::cli::Interval;

/// Calls that the server in the VM, whose CPU may be emulated, is asked for at most.
const CALLS_MAX: u16 = 200;
/// Of a fixed interval.
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(10);

/// The TCP beside the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Load {
    /// None but transactions and signalling.
    None,
    /// 3 Mbit/s each way.
    Paced,
    /// What the server can send, and take.
    Full,
}

impl Load {
    /// All of them.
    pub const ALL: [Load; 3] = [Load::None, Load::Paced, Load::Full];

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Load::None => "none",
            Load::Paced => "paced",
            Load::Full => "full",
        }
    }
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Load, String> {
        let found = Load::ALL.into_iter().find(|load| load.name() == text);
        found.ok_or_else(|| format!("there is no load {text:?}; there are none, paced, full"))
    }
}

/// An interval as a word: `100ms`, `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace(pub Interval);

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Interval::Auto => f.write_str("auto"),
            Interval::Fixed(interval) if interval.subsec_micros() % 1000 == 0 => {
                write!(f, "{}ms", interval.as_millis())
            }
            Interval::Fixed(interval) => write!(f, "{}us", interval.as_micros()),
        }
    }
}

impl Pace {
    /// Milliseconds, of one that is fixed.
    pub fn fixed_ms(self) -> Option<f64> {
        match self.0 {
            Interval::Auto => None,
            Interval::Fixed(interval) => Some(interval.as_secs_f64() * 1e3),
        }
    }

    /// For `tidegate replicate`. A fixed one is kept whatever waits; `auto` moves in `floor` to `ceiling`.
    pub fn words(self, floor: Duration, ceiling: Duration) -> String {
        match self.0 {
            Interval::Auto => {
                format!("--interval auto --floor {}us --ceiling {}us", floor.as_micros(), ceiling.as_micros())
            }
            Interval::Fixed(_) => format!("--interval {self} --floor {self} --ceiling {self}"),
        }
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The checkpoints' pace.
    pub pace: Pace,
    /// Calls at once.
    pub calls: u16,
    /// TCP beside them.
    pub load: Load,
}

impl Cell {
    /// Its directory below that of the sweep.
    pub fn name(&self) -> String {
        format!("{}/calls-{}-tcp-{}", self.pace, self.calls, self.load.name())
    }
}

/// All of them.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The paces, in the order in which they are run.
    pub paces: Vec<Pace>,
    /// The numbers of calls.
    pub calls: Vec<u16>,
    /// The loads.
    pub loads: Vec<Load>,
}

impl Plan {
    /// Refuses what cannot be measured.
    pub fn new(paces: Vec<Pace>, mut calls: Vec<u16>, mut loads: Vec<Load>) -> Result<Plan> {
        if paces.is_empty() || calls.is_empty() || loads.is_empty() {
            return Err(Failure::new("--intervals, --calls and --loads each want one at least"));
        }
        for pace in &paces {
            if let Interval::Fixed(interval) = pace.0
                && !INTERVALS.contains(&interval)
            {
                return Err(Failure::new(format!("--intervals: {pace}; they go from 10ms to 10s, and auto")));
            }
        }
        if let Some(calls) = calls.iter().find(|calls| **calls == 0 || **calls > CALLS_MAX) {
            return Err(Failure::new(format!("--calls: {calls}; from 1 to {CALLS_MAX} at once")));
        }
        let mut kept = Vec::new();
        paces.into_iter().for_each(|pace| {
            if !kept.contains(&pace) {
                kept.push(pace);
            }
        });
        calls.sort_unstable();
        calls.dedup();
        loads.sort_unstable();
        loads.dedup();
        Ok(Plan { paces: kept, calls, loads })
    }

    /// The cells of one pace: a load is begun once, and the calls change under it.
    pub fn cells(&self, pace: Pace) -> Vec<Cell> {
        let of = |load: Load| self.calls.iter().map(move |&calls| Cell { pace, calls, load });
        self.loads.iter().flat_map(|&load| of(load)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(ms: u64) -> Pace {
        Pace(Interval::Fixed(Duration::from_millis(ms)))
    }

    #[test]
    fn cells_have_names_of_their_own_and_a_load_is_begun_once() {
        let plan =
            Plan::new(vec![fixed(25), Pace(Interval::Auto), fixed(25)], vec![8, 1, 1], Load::ALL.into())
                .unwrap();
        assert_eq!((plan.paces.len(), plan.calls.as_slice()), (2, [1, 8].as_slice()));
        let names: Vec<_> = plan.cells(plan.paces[0]).iter().map(Cell::name).collect();
        assert_eq!(names[..3], ["25ms/calls-1-tcp-none", "25ms/calls-8-tcp-none", "25ms/calls-1-tcp-paced"]);
        assert_eq!(plan.cells(plan.paces[1])[5].name(), "auto/calls-8-tcp-full");
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        for (paces, calls, said) in [
            (vec![fixed(1)], vec![1], "10ms"),
            (vec![fixed(100)], vec![0], "from 1"),
            (vec![fixed(100)], vec![9999], "to 200"),
            (vec![], vec![1], "--intervals"),
        ] {
            let refusal = Plan::new(paces, calls, vec![Load::None]).unwrap_err().to_string();
            assert!(refusal.contains(said), "{refusal}");
        }
        assert!("fast".parse::<Load>().unwrap_err().contains("paced"));
    }

    #[test]
    fn a_fixed_pace_is_kept_whatever_waits() {
        let ms = Duration::from_millis;
        assert_eq!(fixed(50).words(ms(25), ms(400)), "--interval 50ms --floor 50ms --ceiling 50ms");
        let auto = Pace(Interval::Auto).words(ms(25), ms(400));
        assert_eq!(auto, "--interval auto --floor 25000us --ceiling 400000us");
    }
}
