//! The command line of `tidegate`.

mod handover;
mod interval;
mod replication;
mod start;
mod tables;
mod verbs;

pub use interval::Interval;
pub use replication::*;
pub use start::{check, dpdk_version, plane_program};

use verbs::VerbCommand;

use crate::classify::{self, ClassifyArgs};
use crate::client::ClientError;
use crate::config::{DEFAULT_SOCKET, RunArgs};
use crate::doctor;
use crate::explain::{self, ExplainArgs};
use crate::protocol::Failure;
use clap::{CommandFactory, Parser, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Done.
pub const DONE: u8 = 0;
/// Tried, and failed or refused.
pub const FAILED: u8 = 1;
/// Wrong use: arguments or configuration.
pub const WRONG_USE: u8 = 2;

/// Holds back what a replicated virtual machine sends until the backup has its checkpoint; lets real-time
/// media straight out.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Examples:
  tidegate doctor                    what this host lacks, and the commands that mend it
  tidegate run --config FILE         start the plane
  tidegate status                    every guest, epoch and lane
  tidegate close --guest pbx         the guest is paused: end its epoch

Exit codes: 0 done, 1 failed or refused, 2 wrong use."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the plane; ends with SIGTERM, SIGINT or `tidegate shutdown`
    Run(Box<RunArgs>),
    #[command(flatten)]
    Verb(VerbCommand),
    #[command(flatten)]
    Replication(ReplicationCommand),
    /// What this host lacks: huge pages, IOMMU, CPU isolation, drivers, permissions, kernel features
    #[command(after_help = "Examples:
  tidegate doctor
  tidegate doctor --json | jq '.checks[] | select(.state != \"ok\")'

Exit code 1 when a check fails.")]
    Doctor {
        /// One JSON document instead of a table
        #[arg(long)]
        json: bool,
    },
    /// What the gate would have done with a capture: a dry run on your own traffic
    #[command(after_help = "Examples:
  tidegate classify calls.pcap                         each direction judged as if it were the guest's
  tidegate classify calls.pcapng --guest 10.0.0.5      only what the guest sent
  tidegate classify calls.pcap --config /etc/tidegate/tidegate.toml --guest-name pbx    your own rules
  tidegate classify *.pcap --json | jq '.files[] | {file, bypassed, held}'

It is the very code that runs on the lcore. Exit code 1 when a file cannot be read.")]
    Classify(ClassifyArgs),
    /// Which rule decides about a live stream or a given frame, and why
    #[command(after_help = "Examples:
  tidegate explain --guest pbx --stream 10.0.0.5:40000             all streams from there, as the plane knows them
  tidegate explain --stream [2001:db8::5]:40000/0xcafe0001 --json  one of them
  tidegate explain --frame calls.pcap:17                           frame 17, judged after the 16 before it
  tidegate explain --frame calls.pcap:17 --config /etc/tidegate/tidegate.toml --guest pbx
  tidegate explain --frame 'ffffffffffff 525400000001 0806 ...'    one frame alone, in hex

A frame is asked, in this order: is it the plane's own announcement; which rule of the operator is the first that
matches; is it a later fragment, which goes the way of its first; what is it, and what does the policy say of that.
The answer marks the step that decided. It comes from the very code that runs on the lcore; each direction of a capture
is judged as if it were the guest's. Numbers of rules count from 1, as in the configuration.

Exit code 1 when the plane does not answer or knows no such stream, 2 when the frame cannot be had.")]
    Explain(Box<ExplainArgs>),
    /// Print the completions of a shell
    #[command(after_help = "Example:\n  tidegate completion bash > /etc/bash_completion.d/tidegate")]
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

/// What every client verb takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Reach {
    /// The plane's control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// The answer as one line of JSON
    #[arg(long)]
    pub json: bool,
}

impl Cli {
    /// Does what the command line says.
    pub fn main() -> ExitCode {
        let cli = Cli::try_parse().unwrap_or_else(|error| {
            if error.use_stderr() && std::env::args_os().any(|arg| arg == "--json") {
                print_failure(&wrong_use(&error));
            }
            // clap itself exits with 2 for wrong use and 0 for --help and --version.
            error.exit()
        });
        match cli.command {
            Command::Run(args) => start::run(&args),
            Command::Verb(verb) => {
                let json = verb.reach().json;
                ended(verb.execute(), json)
            }
            Command::Replication(_) => replication::hand_over(),
            Command::Doctor { json } => doctor::main(json),
            Command::Classify(args) => classify::main(&args),
            Command::Explain(args) => explain::main(&args),
            Command::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut script);
                ended(print(&String::from_utf8_lossy(&script)), false)
            }
        }
    }
}

pub(crate) fn ended(result: Result<(), ClientError>, json: bool) -> ExitCode {
    match result {
        Ok(()) => ExitCode::from(DONE),
        Err(error) => {
            if json {
                print_failure(&error.failure());
            }
            say_error(&error.to_string());
            ExitCode::from(FAILED)
        }
    }
}

/// One line on the standard error, as every error of the command is told.
pub fn say_error(what: &str) {
    let _ = writeln!(std::io::stderr(), "tidegate: {what}");
}

/// `{"error":{"reason":...,"desc":...}}` on the standard output: who asked for JSON gets JSON, whatever happens.
pub(crate) fn print_failure(failure: &Failure) {
    let _ = writeln!(std::io::stdout(), "{}", serde_json::json!({ "error": failure }));
}

/// What clap says, without its hints on usage.
fn wrong_use(error: &clap::Error) -> Failure {
    let said = error.to_string();
    let first = said.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first.split_whitespace().collect();
    Failure::new("wrong-use", words.join(" ").trim_start_matches("error: "))
}

/// Prints; a reader that went away (`| head`) is not an error.
pub(crate) fn print(text: &str) -> Result<(), ClientError> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(ClientError::Output(format!("cannot write to the standard output: {e}")))
        }
        Err(_) => std::process::exit(DONE.into()),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_verb_has_help_with_an_example_and_json() {
        let command = Cli::command();
        command.clone().debug_assert();
        for verb in command.get_subcommands() {
            let name = verb.get_name();
            let help = verb.get_after_help().map(|h| h.to_string()).unwrap_or_default();
            assert!(help.contains(&format!("tidegate {name}")), "{name} has no example");
            assert!(verb.get_about().is_some(), "{name} says nothing of itself");
            let json = verb.get_arguments().any(|arg| arg.get_id() == "json");
            assert!(json || name == "completion", "{name} has no --json");
        }
    }

    #[test]
    fn every_verb_of_the_protocol_is_a_verb_of_the_command() {
        let command = Cli::command();
        for verb in crate::protocol::VERBS {
            assert!(command.find_subcommand(verb).is_some(), "{verb}");
        }
    }
}
