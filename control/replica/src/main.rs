//! `tidegate-replica`: what `tidegate replicate`, `tidegate standby` and their kin become.

use clap::Parser;
use std::process::ExitCode;
use tidegate_control::cli::ReplicationCommand;

/// The program of `tidegate replicate`, `tidegate standby` and their kin; start it by these.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, max_term_width = 100)]
struct Replica {
    #[command(subcommand)]
    command: ReplicationCommand,
}

fn main() -> ExitCode {
    let replica = Replica::parse();
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("TIDEGATE_LOG", "info"))
        .format_target(false)
        .init();
    tidegate_replica::command::execute(replica.command)
}
