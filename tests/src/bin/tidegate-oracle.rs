//! `tidegate-oracle`: was any held frame on the wire before its commit? Exit code 0: no, and nothing else is
//! wrong; 1: yes, or something else is; 2: wrong use.

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use tidegate_tests::oracle::verdict::{Oracle, Verdict};
use tidegate_tests::oracle::{capture, journal};

/// Reconciles what a generator sent and committed with what was captured behind the wire.
///
/// It reads two files and asks nothing of the plane.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  tidegate-lab generate --help\n  tidegate-oracle generated.log capture.bin --json"
)]
struct Args {
    /// The generator's log: runs, epochs, commits.
    #[arg(value_name = "GENERATED.log")]
    generated: PathBuf,
    /// The frames that were seen behind the wire.
    #[arg(value_name = "CAPTURE")]
    capture: PathBuf,
    /// One object of JSON instead of sentences.
    #[arg(long)]
    json: bool,
}

fn judge(args: &Args) -> Result<Verdict, String> {
    let lines = journal::read(&args.generated)
        .map_err(|error| format!("cannot read the log {}: {error}", args.generated.display()))?;
    let mut oracle = Oracle::new(&lines).map_err(|error| format!("{}: {error}", args.generated.display()))?;
    capture::each(&args.capture, |seen| oracle.see(&seen)).map_err(|error| {
        format!("cannot read the capture {}: {error}; generate again", args.capture.display())
    })?;
    Ok(oracle.finish())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let verdict = match judge(&args) {
        Ok(verdict) => verdict,
        Err(error) => {
            eprintln!("tidegate-oracle: {error}");
            return ExitCode::FAILURE;
        }
    };
    if args.json {
        println!("{}", serde_json::json!(verdict));
    } else {
        println!("{verdict}");
    }
    if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
