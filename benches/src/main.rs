//! The benches by name; `scripts/bench` builds what they need and calls this.

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use tidegate_benches::contest::Rules;
use tidegate_benches::failure::Result;
use tidegate_benches::hosts::command as hosts;
use tidegate_benches::report::Telling;
use tidegate_benches::sweep::command as sweep;
use tidegate_benches::testbed::figures;
use tidegate_benches::{ceiling, classify, cost, generator, idle, peers, ratios, rig, scale, variant};

#[derive(Parser)]
#[command(name = "bench", about = "Benches of tidegate", max_term_width = 110)]
struct Command {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Frames a second of tidegate against testpmd's `io` and `mac` on the same ports
    #[command(
        after_help = "Examples:\n  scripts/bench ceiling\n  scripts/bench ceiling --mix rtp --repeats 9 --json"
    )]
    Ceiling {
        #[command(flatten)]
        rules: Rules,
        #[command(flatten)]
        telling: Telling,
    },
    /// Instructions for a frame of each class, against the recorded figures
    #[command(
        after_help = "Examples:\n  scripts/bench cost\n  scripts/bench cost --profiles /tmp/profiles\n  scripts/bench cost --record"
    )]
    Cost {
        #[command(flatten)]
        options: cost::Options,
        #[command(flatten)]
        telling: Telling,
    },
    /// Frames/s and instructions with histograms over those without
    #[command(name = "ratio_histograms", after_help = "Example:\n  scripts/bench ratio_histograms --json")]
    RatioHistograms {
        #[command(flatten)]
        rules: Rules,
        #[command(flatten)]
        telling: Telling,
    },
    /// Frames/s of tidegate over those of tidegate with other keys in its lane's configuration
    #[command(after_help = "Example:\n  scripts/bench variant --key 'verify_checksums = false'")]
    Variant {
        /// A line of the lane's section; may be repeated
        #[arg(long, required = true, value_name = "KEY = VALUE")]
        key: Vec<String>,
        #[command(flatten)]
        rules: Rules,
        #[command(flatten)]
        telling: Telling,
    },
    /// How late a frame leaves when its lcore was asleep
    #[command(after_help = "Example:\n  scripts/bench idle --max-sleep-us 20")]
    Idle {
        #[command(flatten)]
        options: idle::Options,
        #[command(flatten)]
        telling: Telling,
    },
    /// What looking at a frame costs on one core, over testpmd's `mac`
    #[command(
        after_help = "Examples:\n  scripts/bench classify\n  scripts/bench classify --repeats 15 --json"
    )]
    Classify {
        #[command(flatten)]
        options: classify::Options,
        #[command(flatten)]
        telling: Telling,
    },
    /// The paper's figures: real calls through a VM that is replicated, as drawings, a report and JSON
    #[command(
        after_help = "Examples:\n  scripts/bench figures --out /tmp/figures\n  scripts/bench figures --out /tmp/figures --only 6-realtime-400 --length 60s\n\nInterrupted, it goes on with the scenario that was not complete."
    )]
    Figures(figures::Options),
    /// The nine ratios of the testbed, each under its key, its aim beside it
    #[command(
        after_help = "Examples:\n  scripts/bench ratios\n  scripts/bench ratios --only R3,R6 --json\n  scripts/bench ratios --short"
    )]
    Ratios {
        #[command(flatten)]
        options: ratios::Options,
        #[command(flatten)]
        telling: Telling,
    },
    /// Cost of a frame and memory of a held one as calls, guests, streams, epochs and depth grow: curves, a report, JSON
    #[command(
        after_help = "Examples:\n  scripts/bench scale --out /tmp/scale\n  scripts/bench scale --out /tmp/scale --only depth --json"
    )]
    Scale(scale::Options),
    /// The lane between ports in memory, in a process of its own
    #[command(hide = true)]
    Rig(rig::Order),
    /// tidegate beside testpmd, the kernel's bridge and sch_plug, QEMU's filter-buffer and Open vSwitch
    #[command(
        after_help = "Examples:\n  scripts/bench peers --out /tmp/peers\n  scripts/bench peers --only filter-buffer --only tidegate-realtime --json\n\nWhat cannot run here is named in the report, with the reason."
    )]
    Peers(peers::Options),
    /// The best checkpoint interval: a VM replicated at one after the other, under calls and TCP
    #[command(
        after_help = "Examples:\n  scripts/bench sweep --out /tmp/sweep\n  scripts/bench sweep --out /tmp/sweep --intervals 50ms,100ms,auto --calls 1,8 --loads full\n\nInterrupted, it goes on with what was not complete."
    )]
    Sweep(sweep::Options),
    /// Calls, TCP and SIP through a plane between two or three hosts with NICs of their own
    #[command(subcommand)]
    Hosts(hosts::Command),
    /// One run of `cost`, to be run by valgrind
    #[command(hide = true)]
    CostRun(cost::Run),
    /// The guest of the other benches, in a process of its own
    #[command(hide = true)]
    Generate(generator::Order),
}

fn main() -> ExitCode {
    match run(Command::parse().bench) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(bench: Bench) -> Result<ExitCode> {
    match bench {
        Bench::Ceiling { rules, telling } => ceiling::run(&rules, telling),
        Bench::Cost { options, telling } => cost::run(&options, telling),
        Bench::RatioHistograms { rules, telling } => variant::histograms(&rules, telling),
        Bench::Variant { key, rules, telling } => variant::run(&key, &rules, telling),
        Bench::Idle { options, telling } => idle::run(&options, telling),
        Bench::Classify { options, telling } => classify::run(&options, telling),
        Bench::Figures(options) => figures::run(&options),
        Bench::Ratios { options, telling } => ratios::run(&options, telling),
        Bench::Scale(options) => scale::run(&options),
        Bench::Rig(order) => {
            rig::run(&order)?;
            Ok(ExitCode::SUCCESS)
        }
        Bench::Peers(options) => peers::run(&options),
        Bench::Sweep(options) => sweep::run(&options),
        Bench::Hosts(command) => hosts::run(&command),
        Bench::CostRun(run) => run.execute().map(|()| ExitCode::SUCCESS),
        Bench::Generate(order) => {
            generator::run(&order)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
