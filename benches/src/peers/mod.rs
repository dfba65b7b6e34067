//! `scripts/bench peers`: tidegate beside what a user would otherwise run, on the same wires, in turns.
//!
//! Each peer stands between a namespace that plays the guest and one that plays the world ([`wires`]). A turn ([`load`]) sends a
//! voice through it, then TCP beside the voice, then a flood; what may wait is let go at the same rhythm in all that can be
//! told ([`device::Rhythm`]). The turns interleave ([`contest`]); the report ([`report`], [`page`]) has those too that could
//! not run, with the reason.

pub mod contest;
pub mod device;
pub mod filter_buffer;
pub mod linux_bridge;
pub mod load;
pub mod page;
pub mod plane;
pub mod plug;
pub mod report;
pub mod roster;
pub mod testpmd;
pub mod vswitch;
pub mod wires;

use crate::failure::{Context, Failure, Result};
use crate::testbed::conditions::Conditions;
use contest::{Entry, hold};
use device::{Programs, Rhythm};
use load::Measure;
use report::Report;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tidegate_tests::laboratory::alone;

/// Intervals that TCP has to start in.
const STARTS_IN: u32 = 10;

/// Its arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where peers.html and peers.json go
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// One line of JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// Only this peer; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Say which peers there are; run nothing
    #[arg(long)]
    pub list: bool,
    /// Rounds: in each, every peer has one turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeats: u32,
    /// Seconds for the voice alone, and again for TCP beside it
    #[arg(long, default_value_t = 4.0, value_parser = seconds)]
    pub seconds: f64,
    /// From one checkpoint to the next
    #[arg(long, value_name = "TIME", default_value = "400ms", value_parser = tidegate_control::quantity::span)]
    pub interval: Duration,
    /// From the end of an epoch to its commit
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = tidegate_control::quantity::span)]
    pub commit_delay: Duration,
    /// Open vSwitch's daemon with DPDK in it
    #[arg(long, value_name = "PATH", default_value = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk")]
    pub vswitchd: PathBuf,
    /// The tidegate binary; its plane and the plugger lie beside it
    #[arg(long, env = "TIDEGATE", value_name = "PATH")]
    pub tidegate: PathBuf,
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (1.0..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds from 1 to 600".into()),
    }
}

/// Runs it. Fails when one of tidegate's own rows is missing: of the others, not to run here is a result.
pub fn run(options: &Options) -> Result<ExitCode> {
    let peers = roster::chosen(&options.only)?;
    if options.list {
        for peer in &peers {
            println!("{:<20} {} (holds {})", peer.name, peer.title, peer.holds.words());
        }
        return Ok(ExitCode::SUCCESS);
    }
    if options.interval < Duration::from_millis(10) || options.commit_delay >= options.interval {
        return Err(Failure::new(
            "--interval is at least 10ms and longer than --commit-delay: sch_plug remembers one epoch",
        ));
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new("peers are measured in network namespaces: run it as root"));
    }
    if let Some(out) = &options.out {
        std::fs::create_dir_all(out).context(|| format!("cannot make {}", out.display()))?;
    }
    let _alone = alone()?;
    let rhythm = Rhythm { interval: options.interval, commit_delay: options.commit_delay };
    let programs = Programs { tidegate: options.tidegate.clone(), vswitchd: options.vswitchd.clone() };
    let tell = |what: &str| eprintln!("peers: {what}");
    let mut conditions = Conditions::now(&options.tidegate, true);
    conditions.path =
        "veth, the peer, veth; what takes taps has a bridge at each end, DPDK has af_packet".into();
    conditions.accelerator = "software emulation (tcg): of the router VM only, no other peer has a VM".into();
    conditions.stamps = "software stamps: the kernel's, by tcpdump at the world's end".into();
    let mut entries = Vec::new();
    for peer in peers {
        let ready = roster::ready(&peer, &programs, rhythm);
        if let Err(failure) = &ready {
            tell(&format!("{} cannot run here: {}", peer.name, contest::first_line(&failure.to_string())));
        }
        entries.push(Entry::new(peer, ready));
    }
    let measure = Measure { seconds: options.seconds, starts: STARTS_IN * options.interval };
    let mut ssrc = 0x0500_0000;
    let mut load = |wires: &wires::Wires, peer: &contest::Peer| {
        ssrc += 1;
        load::turn(wires, measure, ssrc, peer.holds.no_rate().is_none())
    };
    hold(&mut entries, options.repeats, &mut load, &tell);
    let report = Report::of(&entries, rhythm, options, conditions);
    let text = serde_json::to_string(&report).context(|| "the report cannot be written as JSON".into())?;
    if let Some(out) = &options.out {
        for (name, text) in [
            ("peers.json", format!("{text}\n")),
            ("peers.html", page::Page { report: &report, entries: &entries }.html()),
        ] {
            let path = out.join(name);
            std::fs::write(&path, text).context(|| format!("cannot write {}", path.display()))?;
        }
    }
    if options.json {
        println!("{text}");
    } else {
        report.lines().iter().for_each(|line| println!("{line}"));
        if let Some(out) = &options.out {
            println!("the report: {}", out.join("peers.html").display());
        }
    }
    let own = |entry: &&Entry| entry.peer.name.starts_with(roster::OWN) && entry.missing();
    let empty = entries.iter().all(Entry::missing);
    Ok(if empty || entries.iter().find(own).is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
