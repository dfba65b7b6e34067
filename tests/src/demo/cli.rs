//! The command line of `tidegate-demo`, and how its processes talk: lines of JSON, end of input means end.

use super::guest::{self, GuestArgs};
use super::run::{self, DemoArgs};
use super::{MAX_CALLS, kernel_sink, user_sink};
use clap::{Parser, Subcommand};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The programs around a plane that `scripts/demo` starts.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Both policies, one after the other, and the table; `scripts/demo` has built what it needs
    Run(DemoArgs),
    /// The guest: calls, TCP, and the tool stack that checkpoints it
    Guest(GuestArgs),
    /// What the guest talks to
    Sink(SinkArgs),
}

/// A sink process of the demo.
#[derive(Clone, Debug, clap::Args)]
struct SinkArgs {
    /// The plane's vhost-user wire [default: the kernel's network, in a namespace with a veth]
    #[arg(long, value_name = "PATH")]
    port: Option<PathBuf>,
    /// Calls that will come
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=i64::from(MAX_CALLS)))]
    calls: u16,
    /// Where to write the list of frames
    #[arg(long, value_name = "FILE")]
    frames: PathBuf,
}

/// Does what the command line says. Exit codes: 0 done, 1 failed, 2 wrong use.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Guest(args) => guest::run(&args).map_err(|e| format!("guest: {e}")),
        Command::Sink(SinkArgs { port: Some(port), calls, frames }) => {
            user_sink::run(&port, calls, &frames).map_err(|e| format!("sink: {e}"))
        }
        Command::Sink(SinkArgs { port: None, calls, frames }) => {
            kernel_sink::run(calls, &frames).map_err(|e| format!("sink: {e}"))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            let _ = writeln!(std::io::stderr(), "tidegate-demo: {what}");
            ExitCode::FAILURE
        }
    }
}

/// One line of JSON on standard output.
pub(super) fn say(what: &impl serde::Serialize) -> Result<(), String> {
    let mut line = serde_json::to_string(what).map_err(|e| e.to_string())?;
    line.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).map_err(|e| format!("standard output: {e}"))
}

/// Waits until whoever started this process closes its standard input, or is gone.
pub(super) fn until_input_ends() {
    let _ = std::io::copy(&mut std::io::stdin().lock().take(u64::MAX), &mut std::io::sink());
}

/// Tells when standard input has ended.
pub(super) struct Stdin(Arc<AtomicBool>);

impl Stdin {
    /// From now on.
    pub(super) fn watch() -> Stdin {
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        std::thread::spawn(move || {
            until_input_ends();
            end.store(true, Ordering::Release);
        });
        Stdin(ended)
    }

    /// See [`Stdin`].
    pub(super) fn has_ended(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
