//! What a bench prints: a table for people, one line of JSON for programs, and whether an aim is met.

use crate::stats::Spread;
use serde::Serialize;
use std::process::ExitCode;

/// A number that ought to be at least, or at most, so large.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Aim {
    /// The key of the number in the report.
    pub of: &'static str,
    /// The least it should be, by its median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// The most it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// Whether it is.
    pub met: bool,
}

impl Aim {
    /// `number`: what was measured.
    pub fn new(of: &'static str, number: Option<Spread>, at_least: f64) -> Aim {
        let met = number.is_some_and(|number| number.median >= at_least);
        Aim { of, at_least: Some(at_least), at_most: None, met }
    }

    /// The other way round.
    pub fn at_most(of: &'static str, number: Option<Spread>, at_most: f64) -> Aim {
        let met = number.is_some_and(|number| number.median <= at_most);
        Aim { of, at_least: None, at_most: Some(at_most), met }
    }
}

/// How a bench tells its result.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Telling {
    /// One line of JSON on standard output, nothing else there
    #[arg(long)]
    pub json: bool,
    /// Exit with 1 when an aim is missed; otherwise only say so
    #[arg(long)]
    pub check: bool,
}

impl Telling {
    /// Prints `report` as JSON, or `lines` for people, and the aims in either case.
    pub fn tell(self, report: &impl Serialize, lines: &[String], aims: &[Aim]) -> ExitCode {
        if self.json {
            match serde_json::to_string(report) {
                Ok(line) => println!("{line}"),
                Err(error) => {
                    eprintln!("bench: the report cannot be written as JSON: {error}");
                    return ExitCode::FAILURE;
                }
            }
        } else {
            lines.iter().for_each(|line| println!("{line}"));
            for aim in aims {
                let verdict = if aim.met { "met" } else { "MISSED" };
                let (sign, bound) = match (aim.at_least, aim.at_most) {
                    (Some(least), _) => (">=", least),
                    (None, most) => ("<=", most.unwrap_or_default()),
                };
                println!("aim: {} {sign} {bound}: {verdict}", aim.of);
            }
        }
        if self.check && aims.iter().any(|aim| !aim.met) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// A line of a table: a name and a spread.
pub fn row(name: &str, spread: Option<Spread>, unit: &str) -> String {
    match spread {
        None => format!("{name:<28}        -"),
        Some(Spread { median, min, max, n }) => {
            format!("{name:<28}{:>12}{unit}   {} .. {} (n = {n})", digits(median), digits(min), digits(max))
        }
    }
}

fn digits(value: f64) -> String {
    if value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}
