//! `idle`: how late a frame leaves when its lcore was asleep.
//!
//! Single ARP requests (they bypass) with silences between them, from a guest port to a wire port that leads back to
//! the sender, once with an lcore that spins and once with one that backs off. What the back-off costs is the
//! difference; its bound is the configured longest sleep and what it takes to wake a thread.

use crate::dut::{Dut, Setup, Wire};
use crate::failure::Result;
use crate::frames::{Checksums, Mix};
use crate::machine::{Cpus, Pages, Scratch};
use crate::report::{Aim, Telling};
use crate::stats::Spread;
use crate::trial::Arena;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Longer than the lcore needs to fall asleep: 4096 empty polls.
const SILENCE_US: u64 = 2_000;
/// What Linux may take to wake a thread beyond its sleep, microseconds. (The plane asks for no timer slack.)
const WAKE_US: u64 = 20;

/// What `idle` can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Frames, each after 2 to 4 ms of silence
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub frames: u32,
    /// The longest sleep, microseconds
    #[arg(long, default_value_t = 50)]
    pub max_sleep_us: u64,
    /// Where mbufs live [default: huge pages if enough are free]
    #[arg(long)]
    pub pages: Option<Pages>,
    /// The tidegate binary
    #[arg(long, env = "TIDEGATE", value_name = "PATH")]
    pub tidegate: PathBuf,
}

/// Percentiles, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Delay {
    p50: u64,
    p99: u64,
    max: u64,
    n: usize,
}

impl Delay {
    fn of(mut ns: Vec<u64>) -> Delay {
        ns.sort_unstable();
        let at =
            |share: f64| ns.get(((ns.len() as f64 * share).ceil() as usize).max(1) - 1).copied().unwrap_or(0);
        Delay { p50: at(0.5), p99: at(0.99), max: at(1.0), n: ns.len() }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    bench: &'static str,
    delay_ns: Delays,
    /// Longest sleep, and what it may take to wake a thread when nothing else runs on that CPU.
    bound_ns: u64,
    /// Bound over the difference of the medians: 1 or more when the median wake-up keeps the bound.
    ratio_bound: f64,
    max_sleep_us: u64,
    pages: Pages,
    aims: &'a [Aim],
}

#[derive(Serialize)]
struct Delays {
    spin: Delay,
    backoff: Delay,
}

/// Runs it.
pub fn run(options: &Options, telling: Telling) -> Result<ExitCode> {
    let pages =
        options.pages.unwrap_or_else(|| Pages::choose(crate::dut::MEMORY_MIB + crate::generator::MEMORY_MIB));
    let mut setup = Setup {
        tidegate: options.tidegate.clone(),
        cpus: Cpus::choose()?,
        wire: Wire::Vhost,
        pages,
        checksums: Checksums::Guest,
        variant: Vec::new(),
        eal: Vec::new(),
    };
    let spin = Delay::of(measure(&setup, options.frames)?);
    setup.eal = vec!["idle = \"backoff\"".into(), format!("max_sleep_us = {}", options.max_sleep_us)];
    let backoff = Delay::of(measure(&setup, options.frames)?);
    let bound_ns = (options.max_sleep_us + WAKE_US) * 1_000;
    let ratio_bound = bound_ns as f64 / backoff.p50.saturating_sub(spin.p50).max(1) as f64;
    let aims = [Aim::new("ratio_bound", Spread::of([ratio_bound]), 1.0)];
    let line = |name: &str, delay: Delay| {
        let us = |ns: u64| ns as f64 / 1_000.0;
        let Delay { p50, p99, max, n } = delay;
        format!(
            "{name:<12}p50 {:>9.1} us   p99 {:>9.1} us   max {:>9.1} us   (n = {n})",
            us(p50),
            us(p99),
            us(max)
        )
    };
    let lines = [
        line("spin", spin),
        line("backoff", backoff),
        format!("bound       {:>13} us: longest sleep and what waking takes", bound_ns / 1_000),
    ];
    let report = Report {
        bench: "idle",
        delay_ns: Delays { spin, backoff },
        bound_ns,
        ratio_bound,
        max_sleep_us: options.max_sleep_us,
        pages,
        aims: &aims,
    };
    Ok(telling.tell(&report, &lines, &aims))
}

fn measure(setup: &Setup, frames: u32) -> Result<Vec<u64>> {
    let scratch = Scratch::new()?;
    let mut arena = Arena::set_up(&[Dut::Tidegate], setup, Mix::Rtp, &scratch)?;
    arena.delays(0, frames, SILENCE_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let delay = Delay::of((1..=200).rev().collect());
        assert_eq!((delay.p50, delay.p99, delay.max, delay.n), (100, 198, 200, 200));
        assert_eq!(Delay::of(vec![7]).p99, 7);
    }
}
