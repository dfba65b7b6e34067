//! The plane's program. `tidegate run` becomes it; by itself it takes the same arguments.

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;
use tidegate_control::cli::{FAILED, WRONG_USE, check, say_error};
use tidegate_control::config::{Host, RunArgs};
use tidegate_plane::start::{self, StartError};

/// The plane's program; start it with `tidegate run`.
#[derive(Debug, Parser)]
#[command(name = "tidegate run", version)]
struct Plane {
    #[command(flatten)]
    run: RunArgs,
    /// Print the version of DPDK and end
    #[arg(long, hide = true)]
    dpdk_version: bool,
}

fn main() -> ExitCode {
    let args = Plane::parse();
    if args.dpdk_version {
        let _ = writeln!(std::io::stdout(), "{}", tidegate_dataplane::dpdk::version());
        return ExitCode::SUCCESS;
    }
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("TIDEGATE_LOG", "info"))
        .format_target(false)
        .init();
    if args.run.check {
        return check(&args.run, &Host::this());
    }
    let config = match args.run.config() {
        Ok(config) => config,
        Err(problem) => {
            say_error(&problem);
            return ExitCode::from(WRONG_USE);
        }
    };
    match start::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError::Configuration(problem)) => {
            say_error(&problem);
            ExitCode::from(WRONG_USE)
        }
        Err(StartError::Failed(problem)) => {
            say_error(&problem);
            ExitCode::from(FAILED)
        }
    }
}
