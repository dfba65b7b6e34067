//! `tidegate classify`: what the gate would have done with a capture, by the very code that runs on the lcore.

pub mod capture;
mod judge;
mod overheard;
mod quality;
mod report;
#[cfg(test)]
pub(crate) mod sample;

pub(crate) use judge::{RATE, STREAMS, Whole};
pub use judge::{Task, judge};
pub(crate) use overheard::Overheard;
pub use quality::{Arrival, Quality, Step, mos, quality, r_factor, share, steps, summary};
pub use report::{FileReport, FlowReport, Report, StreamReport};

use crate::cli::{DONE, FAILED, WRONG_USE, print_failure, say_error};
use crate::config::PolicySpec;
use crate::protocol::Failure;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tidegate_dataplane::policy::{Policy, PolicyName};

/// Its arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct ClassifyArgs {
    /// Captures: pcap or pcapng
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The guest's address; may be given more than once [default: each direction is judged as if it were the guest's]
    #[arg(long, value_name = "ADDR")]
    pub guest: Vec<IpAddr>,
    /// Policy, rules and media ports of a guest in this configuration
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which guest of the configuration; may be left out where it has one only
    #[arg(long, value_name = "NAME", requires = "config")]
    pub guest_name: Option<String>,
    /// realtime, non-tcp, hold-all or bypass-all [default: realtime, or what --config says]
    #[arg(long, value_parser = policy)]
    pub policy: Option<PolicyName>,
    /// UDP ports of the guest that carry media for certain, such as 10000-20000; may be given more than once
    #[arg(long, value_name = "PORTS", value_parser = ports)]
    pub media_ports: Vec<(u16, u16)>,
    /// Ports of SIP, from which media ports are learned; 0 for none
    #[arg(long, value_name = "PORTS", value_delimiter = ',', default_value = "5060")]
    pub sip_ports: Vec<u16>,
    /// Learn no TURN channels: what they carry is held
    #[arg(long)]
    pub no_learn_turn: bool,
    /// Each flow as well, not only RTP streams
    #[arg(long)]
    pub flows: bool,
    /// One line of JSON
    #[arg(long)]
    pub json: bool,
}

fn policy(text: &str) -> Result<PolicyName, String> {
    text.parse().map_err(|_| format!("there are {}", PolicyName::ALL.map(PolicyName::name).join(", ")))
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err("a port or a range of ports, such as 10000-20000".into()),
    }
}

impl ClassifyArgs {
    /// The policy of the configuration, changed by what else was given.
    fn judged_by(&self) -> Result<Policy, String> {
        let mut policy = match &self.config {
            Some(file) => PolicySpec::read(file, self.guest_name.as_deref())?.plane(),
            None => Policy::default(),
        };
        policy.name = self.policy.unwrap_or(policy.name);
        if !self.media_ports.is_empty() {
            policy.media_ports = self.media_ports.iter().map(|(first, last)| *first..=*last).collect();
        }
        policy.validate().map_err(|e| e.to_string())?;
        Ok(policy)
    }
}

/// Runs it. A file that cannot be read is told on standard error; the others are judged all the same.
pub fn main(args: &ClassifyArgs) -> ExitCode {
    let policy = match args.judged_by() {
        Ok(policy) => policy,
        Err(what) => {
            if args.json {
                print_failure(&Failure::new("bad-configuration", what.as_str()));
            }
            say_error(&what);
            return ExitCode::from(WRONG_USE);
        }
    };
    let task = Task {
        policy,
        guests: args.guest.clone(),
        sip_ports: args.sip_ports.iter().copied().filter(|port| *port != 0).collect(),
        learn_turn: !args.no_learn_turn,
    };
    let (mut report, mut failed) = (Report::default(), false);
    for path in &args.files {
        match judge(path, &task) {
            Ok(file) => {
                if !args.json && !print(&file.text(args.flows)) {
                    return ExitCode::from(DONE);
                }
                report.files.push(file);
            }
            Err(what) => {
                say_error(&format!("{}: {what}", path.display()));
                failed = true;
            }
        }
    }
    if args.json {
        let line = serde_json::to_string(&report).unwrap_or_default();
        print(&format!("{line}\n"));
    }
    ExitCode::from(if failed { FAILED } else { DONE })
}

/// False when nobody reads any more.
fn print(text: &str) -> bool {
    std::io::stdout().write_all(text.as_bytes()).is_ok()
}
