//! `tidegate-survival`: kills a primary over and over, and says what its peers noticed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

use super::aims;
use super::blow::{Blow, plan};
use super::host::{HOLD_FRAMES, Setting, Snapshot};
use super::network::Network;
use super::outcome::Outcome;
use super::replication::Means;
use super::report::Report;
use super::trial::{World, run};
use crate::failure::Result;
use crate::guest_image::{GuestImage, Service};
use crate::laboratory::alone;

/// Kills the primary of a replicated VM over and over, and says what its peers noticed.
///
/// Two hosts in network namespaces: on each a plane, a QEMU, and a side of the replication. Through the guest run TCP
/// transfers, numbered transactions and a call. Needs root.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub struct Args {
    /// Deaths
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub kills: usize,
    /// A line of JSON a trial, and at the end one with the sums
    #[arg(long)]
    pub json: bool,
    /// The planes' policy
    #[arg(long, value_name = "NAME", default_value = "realtime")]
    pub policy: String,
    /// Where in the list of victims and moments it begins
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Deaths under bypass-all, which must be noticed [default: 1 a started 40, 2 at least]
    #[arg(long, value_name = "N")]
    pub unsafe_kills: Option<usize>,
    /// Seconds without a death [default: as long as the guest was protected in all trials]
    #[arg(long, value_name = "SECONDS")]
    pub control: Option<u64>,
    /// What replicates
    #[arg(long, value_enum, default_value_t = By::Programs)]
    pub by: By,
    /// The tidegate program
    #[arg(long, value_name = "PATH")]
    pub tidegate: PathBuf,
    /// The teller, for the guest
    #[arg(long, value_name = "PATH")]
    pub teller: PathBuf,
}

/// See [`Args::by`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// tidegate replicate and tidegate standby
    Programs,
    /// The harness itself, by full copies: to test the harness
    Hand,
}

/// Runs it.
pub fn main(args: &Args) -> ExitCode {
    match survive(args, &|line| println!("{line}")) {
        Ok(report) => {
            let faults = report.faults();
            if args.json {
                println!("{}", report.to_json());
            } else {
                println!("{:#}", report.to_json());
            }
            for line in aims::lines(&report.to_json()["aims"]) {
                eprintln!("survival: {line}");
            }
            for fault in &faults {
                eprintln!("survival: {fault}");
            }
            if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(failure) => {
            eprintln!("survival: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// All trials; `tell` gets a line a trial.
pub fn survive(args: &Args, tell: &dyn Fn(String)) -> Result<Report> {
    let _alone = alone()?;
    let image = GuestImage::build(&args.teller, Service::Accounts)?;
    let network = Network::new()?;
    let setting = |policy| Setting {
        tidegate: &args.tidegate,
        image: &image,
        policy,
        guest: "",
        hold_frames: HOLD_FRAMES,
    };
    let means = match args.by {
        By::Programs => Means::Programs(args.tidegate.clone()),
        By::Hand => Means::Hand,
    };
    let begin = Instant::now();
    let snapshot = Snapshot::take(&setting("bypass-all"), &network)?;
    eprintln!("survival: the guest booted in {:.1} s", begin.elapsed().as_secs_f64());
    let world = |policy| World {
        network: &network,
        snapshot: &snapshot,
        setting: setting(policy),
        means: means.clone(),
    };
    let told = |outcome: &Outcome| {
        let line = outcome.to_json();
        if args.json {
            tell(line.to_string());
        } else {
            let promotion = &line["promotion"];
            tell(format!(
                "{:>13} at {:<12} held {:<5} outage {} ms (detected {}, decided {}, loaded {}), lost {}, broken {}, early {}, {} ms in all",
                line["victim"].as_str().unwrap_or(""),
                line["moment"].as_str().unwrap_or(""),
                line["held"],
                line["outage_ms"],
                promotion["detection_ms"],
                promotion["decision_ms"],
                promotion["load_ms"],
                line["lost_acks"],
                line["broken_tcp"],
                line["early_releases"],
                line["all_ms"],
            ));
        }
    };
    let interval_ms = means.interval().as_millis() as u64;
    let mut report = Report { interval_ms, ..Report::default() };
    let strike = |report: &mut Report, blow: Blow| -> Result<()> {
        let outcome = run(&world(&args.policy), Some(blow), Duration::ZERO)?;
        told(&outcome);
        for fault in outcome.faults() {
            eprintln!("survival: {fault}");
        }
        if let Some(step) = outcome.missed() {
            eprintln!("survival: the step {step:?} did not come in time: this death was at any moment");
        }
        report.trials.push(outcome);
        Ok(())
    };
    let blows = plan(args.kills, args.seed);
    for blow in &blows {
        strike(&mut report, *blow)?;
    }
    // A step that was missed gets a second chance; then it is a fault that none fell there.
    for moment in report.unmet() {
        if let Some(blow) = blows.iter().find(|blow| blow.moment == moment) {
            strike(&mut report, *blow)?;
        }
    }
    let protected_ms: u64 = report.trials.iter().map(|trial| trial.protected_ms).sum();
    let quiet = args.control.map_or(Duration::from_millis(protected_ms), Duration::from_secs);
    if !quiet.is_zero() {
        let outcome = run(&world(&args.policy), None, quiet.max(Duration::from_secs(5)))?;
        told(&outcome);
        report.control = Some(outcome);
    }
    for blow in plan(args.unsafe_kills.unwrap_or(args.kills.div_ceil(40).max(2)), args.seed) {
        let outcome = run(&world("bypass-all"), Some(blow), Duration::ZERO)?;
        told(&outcome);
        report.unsafe_trials.push(outcome);
    }
    Ok(report)
}
