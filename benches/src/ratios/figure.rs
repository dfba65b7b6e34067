//! A figure: repeats summed up, or the reason why there are none.

use crate::stats::Spread;
use serde::Serialize;
use serde_json::{Value, json};

/// See the module's head. In JSON `{"median", "min", "max", "n"}` or `{"skipped": reason}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Figure {
    /// It was measured.
    Measured(Spread),
    /// It was not.
    Skipped {
        /// Why.
        skipped: String,
    },
}

impl Figure {
    /// Of repeats.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Figure {
        Figure::from(Spread::of(values))
    }

    /// `why` it was not measured.
    pub fn skipped(why: &str) -> Figure {
        Figure::Skipped { skipped: why.lines().next().unwrap_or_default().to_owned() }
    }

    /// The repeats.
    pub fn spread(&self) -> Option<Spread> {
        match self {
            Figure::Measured(spread) => Some(*spread),
            Figure::Skipped { .. } => None,
        }
    }

    /// The line for people; `short`: without a verdict.
    pub fn line(&self, key: &str, sign: char, aim: f64, short: bool) -> String {
        match self {
            Figure::Skipped { skipped } => format!("{key:<17}skipped: {skipped}"),
            Figure::Measured(Spread { median, min, max, n }) => {
                let met = if sign == '>' { *median >= aim } else { *median <= aim };
                let verdict = match (short, met) {
                    (true, _) => "",
                    (false, true) => "  met",
                    (false, false) => "  MISSED",
                };
                format!(
                    "{key:<17}{:>10}   {:>10} .. {:<10} n = {n:<3} aim {sign}= {aim}{verdict}",
                    digits(*median),
                    digits(*min),
                    digits(*max)
                )
            }
        }
    }
}

impl From<Option<Spread>> for Figure {
    fn from(spread: Option<Spread>) -> Figure {
        spread.map_or_else(|| Figure::skipped("no round could be measured"), Figure::Measured)
    }
}

fn digits(value: f64) -> String {
    if value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

/// What measuring one part gave.
#[derive(Clone, Debug)]
pub struct Part {
    /// By key.
    pub figures: Vec<(&'static str, Figure)>,
    /// The ring path, the noise, and what else was seen.
    pub detail: Value,
}

impl Part {
    /// It could not be measured: all its keys say why.
    pub fn skipped(ratios: &[&str], why: &str) -> Part {
        let keys = super::AIMS.iter().map(|(key, ..)| *key);
        let figures = keys
            .filter(|key| ratios.iter().any(|ratio| super::belongs(key, ratio)))
            .map(|key| (key, Figure::skipped(why)))
            .collect();
        Part { figures, detail: json!({ "skipped": why }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_cannot_run_says_so_under_each_of_its_keys() {
        let part = Part::skipped(&["R3", "R6"], "no CPU\nand a long log");
        let keys: Vec<_> = part.figures.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["R3", "R3_worst_us", "R6", "R6_first_p99_us"]);
        assert!(part.figures.iter().all(|(_, figure)| *figure == Figure::skipped("no CPU")));
    }

    #[test]
    fn a_line_has_its_verdict_unless_it_was_short() {
        let figure = Figure::of([5.0, 6.0, 7.0]);
        assert!(figure.line("R5_us", '<', 5.0, false).ends_with("MISSED"));
        assert!(figure.line("R5_us", '<', 6.0, false).ends_with("met"));
        assert!(figure.line("R5_us", '<', 5.0, true).ends_with("<= 5"));
        assert!(Figure::of([]).line("R1_io", '>', 1.0, false).contains("skipped"));
    }
}
