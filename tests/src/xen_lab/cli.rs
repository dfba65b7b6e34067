//! `tidegate-xen-lab`: boots emulated Xen hosts, replicates a domain, and says what its peers noticed.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use super::image::Image;
use super::packages::Packages;
use super::report::{Report, UNSAFE};
use super::trial::World;
use crate::failure::{Context, Result};
use crate::scratch::Scratch;

/// Boots emulated Xen hosts, replicates a domain with `xl remus` through tidegate, and says what its peers noticed. Needs
/// root, and Debian's packages.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub struct Args {
    /// Two hosts, of which the first dies so often; without it, one host that replicates to itself
    #[arg(long, value_name = "N")]
    pub failovers: Option<usize>,
    /// The same under bypass-all, which must be noticed [default: 1 a started 10]
    #[arg(long, value_name = "N")]
    pub unsafe_failovers: Option<usize>,
    /// The policy [default: realtime; one host shows all of them]
    #[arg(long, value_enum)]
    pub policy: Option<Policy>,
    /// Xen's interval, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 400)]
    pub interval: u32,
    /// Checkpoints under each policy, or before each failover
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub checkpoints: usize,
    /// At the end only the line with the sums
    #[arg(long)]
    pub json: bool,
    /// Where Debian's packages are kept unpacked
    #[arg(long, value_name = "DIR")]
    pub cache: PathBuf,
    /// The directory of tidegate's programs and the teller
    #[arg(long, value_name = "DIR")]
    pub bin: PathBuf,
}

/// A policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Policy {
    HoldAll,
    NonTcp,
    Realtime,
}

impl Policy {
    fn name(self) -> &'static str {
        match self {
            Policy::HoldAll => "hold-all",
            Policy::NonTcp => "non-tcp",
            Policy::Realtime => "realtime",
        }
    }
}

/// Runs it.
pub fn main(args: &Args) -> ExitCode {
    match run(args) {
        Ok(report) => {
            let faults = report.faults();
            let sums = report.to_json();
            if args.json {
                println!("{sums}");
            } else {
                println!("{sums:#}");
            }
            for fault in &faults {
                eprintln!("xen-lab: {fault}");
            }
            if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(failure) => {
            eprintln!("xen-lab: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// The whole run.
pub fn run(args: &Args) -> Result<Report> {
    std::fs::create_dir_all(&args.cache).context(|| format!("cannot make {}", args.cache.display()))?;
    let packages = Packages::ready(&args.cache)?;
    let image = Image::build(&packages, &args.bin, &args.cache)?;
    let world = |packages: &Packages, image: &Image| -> Result<World> {
        Ok(World {
            packages: packages.clone(),
            image: image.clone(),
            interval_ms: args.interval,
            checkpoints: args.checkpoints,
            scratch: Scratch::new()?,
        })
    };
    let Some(failovers) = args.failovers else {
        let mut world = world(&packages, &image)?;
        let shown = args.policy.map_or_else(|| Policy::value_variants().to_vec(), |policy| vec![policy]);
        let mut policies: Vec<&str> = shown.into_iter().map(Policy::name).collect();
        policies.push(UNSAFE);
        let report = world.one_host(&policies)?;
        if report.faults().is_empty() {
            world.scratch.forget();
        }
        return Ok(report);
    };
    let mut report = Report { hosts: 2, ..Report::default() };
    let dangerous = args.unsafe_failovers.unwrap_or(failovers.div_ceil(10));
    for number in 0..failovers + dangerous {
        let policy = if number < failovers { args.policy.unwrap_or(Policy::Realtime).name() } else { UNSAFE };
        let mut world = world(&packages, &image)?;
        let failover = world.failover(policy)?;
        eprintln!(
            "xen-lab: failover {} under {policy}: outage {:.0} ms, {} early, {} lost, {} broken",
            number + 1,
            failover.outage_ms,
            failover.early,
            failover.lost_acks,
            failover.broken.len()
        );
        if policy == UNSAFE {
            report.unsafe_failovers.push(failover);
        } else {
            report.failovers.push(failover);
        }
        if report.faults().is_empty() {
            world.scratch.forget();
        }
    }
    Ok(report)
}
