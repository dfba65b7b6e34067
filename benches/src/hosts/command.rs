//! `scripts/bench hosts`: the agents, the coordinator, and both on one machine.

use super::agent;
use super::coordinate::{Hosts, kept};
use super::door::Secret;
use super::local::{Local, RUNS};
use super::outcome::Outcome;
use super::page::{draw, html};
use super::scenario::Scenario;
use crate::failure::{Context, Failure, Result};
use clap::{Args, Subcommand};
use serde_json::json;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What is to be done.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve on this host, until it is ended: generator, plane or sink, as the coordinator says
    #[command(
        after_help = "Example, as root on each host (the same secret everywhere):\n  head -c 24 /dev/urandom | base64 > /root/testbed.secret; chmod 600 /root/testbed.secret\n  scripts/bench hosts agent --listen 192.0.2.1:7420 --secret /root/testbed.secret\n\nThe secret is never sent. What follows is in the clear: on a network of others, listen on 127.0.0.1 and use\nssh -L 7420:127.0.0.1:7420 HOST."
    )]
    Agent {
        /// The control port: ADDRESS:PORT
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: SocketAddr,
        /// A file with the secret, which nobody else can read
        #[arg(long, value_name = "FILE")]
        secret: PathBuf,
        /// The tidegate binary, for the plane
        #[arg(long, env = "TIDEGATE", value_name = "PATH")]
        tidegate: PathBuf,
    },
    /// Run a scenario on hosts whose agents listen
    #[command(
        after_help = "Example:\n  scripts/bench hosts example > mine.toml      # then name your hosts in it\n  scripts/bench hosts run --scenario mine.toml --secret /root/testbed.secret --out /tmp/hosts\n\nInterrupted, it goes on with the run that was not complete."
    )]
    Run {
        /// Hosts and runs: see `scripts/bench hosts example`
        #[arg(long, value_name = "FILE")]
        scenario: PathBuf,
        /// The agents' secret
        #[arg(long, value_name = "FILE")]
        secret: PathBuf,
        #[command(flatten)]
        #[allow(missing_docs)]
        wish: Wish,
    },
    /// The same with three network namespaces of this machine for hosts
    #[command(
        after_help = "Example:\n  scripts/bench hosts local --out /tmp/hosts\n\nGenerator, plane and sink share this machine's CPUs: it shows that the harness works, not what a host can do."
    )]
    Local {
        /// Other [[run]]s than those of benches/hosts-local.toml
        #[arg(long, value_name = "FILE")]
        runs: Option<PathBuf>,
        /// The tidegate binary
        #[arg(long, env = "TIDEGATE", value_name = "PATH")]
        tidegate: PathBuf,
        #[command(flatten)]
        #[allow(missing_docs)]
        wish: Wish,
    },
    /// Print a scenario to begin with
    Example,
}

/// What is wanted of the runs.
#[derive(Clone, Debug, Args)]
pub struct Wish {
    /// Where samples and the report go; what is complete there is not run again
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Only this run; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Run everything again
    #[arg(long)]
    pub again: bool,
    /// One line of JSON on standard output: what hosts.json has
    #[arg(long)]
    pub json: bool,
}

/// Does it.
pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Example => {
            print!("{}", include_str!("../../hosts.toml"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Agent { listen, secret, tidegate } => {
            agent::serve(*listen, Secret::read(secret)?, tidegate.clone())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Run { scenario: file, secret, wish } => {
            let scenario = Scenario::read(file)?;
            let secret = Secret::read(secret)?;
            let words = format!("scripts/bench hosts run --scenario {} --secret FILE", file.display());
            measure(&scenario, wish, &words, || Hosts::enter(&scenario, &secret))
        }
        Command::Local { runs, tidegate, wish } => {
            let (text, name) = match runs {
                Some(file) => {
                    let text =
                        fs::read_to_string(file).context(|| format!("cannot read {}", file.display()))?;
                    (text, file.display().to_string())
                }
                None => (RUNS.to_owned(), "benches/hosts-local.toml".to_owned()),
            };
            let local = Local::open(tidegate)?;
            let scenario = local.scenario(&text, &name)?;
            let ended = measure(&scenario, wish, "scripts/bench hosts local", || local.enter(&scenario));
            if ended.as_ref().is_ok_and(|code| *code == ExitCode::SUCCESS) {
                local.passed();
            }
            ended
        }
    }
}

/// Runs what is not known, and reports everything.
fn measure(
    scenario: &Scenario,
    wish: &Wish,
    words: &str,
    enter: impl FnOnce() -> Result<Hosts>,
) -> Result<ExitCode> {
    let Wish { out, only, again, .. } = wish;
    if let Some(name) = only.iter().find(|name| !scenario.runs.iter().any(|run| run.name == **name)) {
        let names: Vec<_> = scenario.runs.iter().map(|run| run.name.as_str()).collect();
        return Err(Failure::new(format!("there is no run {name:?}; there are {}", names.join(", "))));
    }
    let chosen: Vec<_> =
        scenario.runs.iter().filter(|run| only.is_empty() || only.contains(&run.name)).collect();
    fs::create_dir_all(out).context(|| format!("cannot make {}", out.display()))?;
    let mut wanted = Vec::new();
    for run in &chosen {
        if *again || kept(run, out)?.is_none() {
            wanted.push(*run);
        }
    }
    let mut missing = Vec::new();
    if !wanted.is_empty() {
        let known = chosen.len() - wanted.len();
        eprintln!("hosts: {} to run, {known} complete in {}", wanted.len(), out.display());
        let mut hosts = enter()?;
        for (n, run) in wanted.iter().enumerate() {
            let tell = |what: &str| eprintln!("hosts: {}/{} {}: {what}", n + 1, wanted.len(), run.name);
            match hosts.run(scenario, run, out, &tell) {
                Ok(()) => tell("done"),
                Err(failure) => {
                    tell(&format!("could not be run: {failure}"));
                    let first = failure.to_string().lines().next().unwrap_or_default().to_owned();
                    missing.push((run.name.clone(), first));
                }
            }
        }
    }
    let mut outcomes = Vec::new();
    for run in chosen {
        if let Some(kept) = kept(run, out)? {
            outcomes.push(Outcome::of(kept, out)?);
        }
    }
    let not: Vec<_> = missing.iter().map(|(name, why)| json!({ "name": name, "why": why })).collect();
    let report = json!({ "runs": outcomes, "missing": not });
    write(&out.join("hosts.json"), &format!("{report:#}\n"))?;
    if let Some(drawing) = draw(&outcomes) {
        write(&out.join("latency.svg"), &drawing)?;
    }
    let command = format!("{words} --out {}", out.display());
    write(&out.join("hosts.html"), &html(&outcomes, &missing, &command))?;
    if wish.json {
        println!("{report}");
    } else {
        outcomes.iter().for_each(|outcome| println!("{}", line(outcome)));
        println!("the report: {}", out.join("hosts.html").display());
    }
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A run in one line.
fn line(outcome: &Outcome) -> String {
    let mut words = format!("{:<20}", outcome.kept.run.name);
    if let Some(media) = &outcome.outward {
        words.push_str(&format!(
            " {} calls, {} packets, {} lost: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms (sender late p99 {:.2} ms)",
            media.calls,
            media.sent,
            media.lost,
            media.latency.p50_ms,
            media.latency.p99_ms,
            media.latency.max_ms,
            media.sender_late.p99_ms
        ));
    }
    if let Some(mbit) = outcome.tcp_mbit {
        words.push_str(&format!("   TCP {mbit:.1} Mbit/s"));
    }
    if let Some(transactions) = &outcome.transactions {
        words.push_str(&format!("   transaction p50 {:.1} ms", transactions.p50_ms));
    }
    for (transport, times) in [("TCP", outcome.sip_tcp), ("UDP", outcome.sip_udp)] {
        if let Some(times) = times {
            words.push_str(&format!("   SIP by {transport} p50 {:.1} ms", times.p50_ms));
        }
    }
    words
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).context(|| format!("cannot write {}", path.display()))
}
