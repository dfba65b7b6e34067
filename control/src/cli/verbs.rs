//! The client verbs: each one request (or a few), its answer as a table or as JSON.

use super::handover::{self, GuardArgs};
use super::{Reach, print, tables};
use crate::client::{Client, ClientError};
use crate::config::{PolicyName, PortRange, Rule};
use crate::hlog::Hlog;
use crate::protocol::*;
use crate::quantity::span;
use clap::Subcommand;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Which guest, for verbs that change it.
#[derive(Clone, Debug, clap::Args)]
pub struct Target {
    /// The guest; may be left out where the plane has one only
    #[arg(long, short, value_name = "NAME")]
    guest: Option<String>,
    /// Take control from whoever has it
    #[arg(long)]
    takeover: bool,
    #[command(flatten)]
    reach: Reach,
}

/// Which guest, for verbs that look at it.
#[derive(Clone, Debug, clap::Args)]
pub struct View {
    /// Only this guest
    #[arg(long, short, value_name = "NAME")]
    guest: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

/// See the module's head.
#[derive(Clone, Debug, Subcommand)]
pub enum VerbCommand {
    /// Every guest, its epochs and lanes, at a glance
    #[command(
        visible_alias = "guests",
        after_help = "Examples:\n  tidegate status\n  tidegate status --json | jq '.guests[].mode'"
    )]
    Status(View),
    /// The few numbers that whoever replicates a guest watches
    #[command(after_help = "Example:\n  tidegate pulse --guest pbx --json")]
    Pulse(View),
    /// Ask the plane who it is
    #[command(after_help = "Example:\n  tidegate hello --json")]
    Hello(Reach),
    /// All counters: frames by class and drop reason
    #[command(after_help = "Example:\n  tidegate stats --guest pbx --json")]
    Stats(View),
    /// The RTP streams and their quality
    #[command(after_help = "Example:\n  tidegate streams --guest pbx")]
    Streams(View),
    /// Latency percentiles; with --hlog, a log for HdrHistogram's tools
    #[command(after_help = "Examples:\n  tidegate histograms\n  tidegate histograms --hlog /tmp/pbx.hlog")]
    Histograms {
        /// Write an interval log to this new file
        #[arg(long, value_name = "FILE")]
        hlog: Option<PathBuf>,
        /// With --json: every bucket
        #[arg(long)]
        buckets: bool,
        #[command(flatten)]
        view: View,
    },
    /// Begin to hold; the guest must be paused
    #[command(
        after_help = "Examples:\n  tidegate protect --guest pbx\n  tidegate protect --guest pbx --term 2s --vouched"
    )]
    Protect {
        /// The guest is paused, whatever its rings say
        #[arg(long)]
        vouched: bool,
        /// Number the first epoch at least so
        #[arg(long, value_name = "N", default_value_t = 0)]
        first_epoch: u64,
        /// Begin with a lease of this length
        #[arg(long, value_name = "SPAN", value_parser = span)]
        term: Option<Duration>,
        #[command(flatten)]
        target: Target,
    },
    /// End the epoch; the guest must be paused
    #[command(after_help = "Example:\n  tidegate close --guest pbx --json")]
    Close {
        /// The guest is paused, whatever its rings say
        #[arg(long)]
        vouched: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Ask whether the guest has run since this epoch was closed
    #[command(after_help = "Example:\n  tidegate seal --guest pbx --epoch 7")]
    Seal {
        /// The epoch whose state is saved
        #[arg(long, value_name = "N")]
        epoch: u64,
        #[command(flatten)]
        target: Target,
    },
    /// Say that the guest runs again, where its port cannot tell
    #[command(after_help = "Example:\n  tidegate resumed --guest pbx")]
    Resumed(Target),
    /// Let everything up to an epoch out: the backup has its checkpoint
    #[command(after_help = "Example:\n  tidegate commit --guest pbx --generation 1812345678901 --epoch 7")]
    Commit {
        /// The generation that close told
        #[arg(long, value_name = "N")]
        generation: u64,
        /// The epoch that close told
        #[arg(long, value_name = "N")]
        epoch: u64,
        #[command(flatten)]
        target: Target,
    },
    /// Stop holding: the only way an uncommitted frame ever leaves
    #[command(after_help = "Example:\n  tidegate unprotect --guest pbx --mode drop")]
    Unprotect {
        /// What becomes of the frames that wait
        #[arg(long)]
        mode: UnprotectMode,
        /// Why no standby can take over; a leased guest needs it
        #[arg(long, value_name = "TEXT")]
        evidence: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Say that the standby cannot take over; does what on_backup_lost says
    #[command(
        after_help = "Example:\n  tidegate backup-lost --guest pbx --evidence 'standby gave its lease back'"
    )]
    BackupLost {
        /// Why no standby can take over
        #[arg(long, value_name = "TEXT")]
        evidence: String,
        #[command(flatten)]
        target: Target,
    },
    /// Be a standby: discard what the guest sends
    #[command(after_help = "Example:\n  tidegate mute --guest pbx")]
    Mute(Target),
    /// Promote a standby
    #[command(
        after_help = "Examples:\n  tidegate unmute --guest pbx --protected\n  tidegate unmute --first-epoch 1200 --term 500ms"
    )]
    Unmute {
        /// It has a backup of its own at once: hold
        #[arg(long)]
        protected: bool,
        /// Number the first epoch at least so
        #[arg(long, value_name = "N", default_value_t = 0)]
        first_epoch: u64,
        /// Begin with a lease of this length
        #[arg(long, value_name = "SPAN", value_parser = span)]
        term: Option<Duration>,
        #[command(flatten)]
        target: Target,
    },
    /// Announce the guest to switches and neighbours, as after unmute
    #[command(after_help = "Example:\n  tidegate announce --guest pbx")]
    Announce(Target),
    /// The RTP streams that went out and who the guest is, or hand them over to a standby
    #[command(after_help = "Examples:
  tidegate guard --guest pbx --json > told.json                       on the primary
  tidegate guard --guest pbx --import told.json --margin 300ms         on its muted standby, before unmute")]
    Guard(GuardArgs),
    /// Prolong the lease
    #[command(after_help = "Example:\n  tidegate lease --guest pbx --generation 1812345678901 --term 2s")]
    Lease {
        /// The guest's generation
        #[arg(long, value_name = "N")]
        generation: u64,
        /// How long, from now
        #[arg(long, value_name = "SPAN", value_parser = span)]
        term: Duration,
        #[command(flatten)]
        target: Target,
    },
    /// Let nothing out from now on; accepted whoever controls the guest
    #[command(after_help = "Example:\n  tidegate fence --guest pbx")]
    Fence(View),
    /// Change what bypasses
    #[command(after_help = "Examples:
  tidegate policy --guest pbx --name hold-all
  tidegate policy --media-ports 10000-20000 --rule '{\"protocol\":\"udp\",\"dst_ports\":\"53\",\"verdict\":\"bypass\"}'
  tidegate policy --rule '{\"ssrc\":\"0xcafe0000-0xcafeffff\",\"verdict\":\"hold\"}'   RTP and RTCP of these sources")]
    Policy {
        /// realtime, non-tcp, hold-all or bypass-all
        #[arg(long)]
        name: Option<PolicyName>,
        /// UDP ports that carry media for certain
        #[arg(long, value_name = "RANGE", value_delimiter = ',')]
        media_ports: Option<Vec<PortRange>>,
        /// A rule as JSON, with the keys of the configuration; repeat for more; replaces all rules
        #[arg(long = "rule", value_name = "JSON", value_parser = rule)]
        rules: Option<Vec<Rule>>,
        /// Remove all rules
        #[arg(long, conflicts_with = "rules")]
        no_rules: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Print events as they happen, one line of JSON each
    #[command(after_help = "Example:\n  tidegate subscribe --events closed,committed,pressure")]
    Subscribe {
        /// Only these
        #[arg(long, value_name = "NAMES", value_delimiter = ',')]
        events: Vec<String>,
        /// End after so many
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Take control of a guest from whoever has it, for as long as this command runs
    #[command(after_help = "Example:\n  tidegate takeover --guest pbx")]
    Takeover(View),
    /// Stop the plane; what is held is discarded, never sent
    #[command(visible_alias = "stop", after_help = "Example:\n  tidegate shutdown")]
    Shutdown(Reach),
}

fn rule(text: &str) -> Result<Rule, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// `CLOCK_MONOTONIC`, as [`Lease::since_ns`] wants it.
fn monotonic_ns() -> Option<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).ok()?;
    u64::try_from(Duration::from(now).as_nanos()).ok()
}

pub(super) type Done = Result<(), ClientError>;

/// Asks, and prints the answer.
fn look<T: serde::de::DeserializeOwned>(
    reach: &Reach,
    verb: &str,
    arguments: impl serde::Serialize,
    table: impl Fn(&T) -> String,
) -> Done {
    let answer = Client::connect(&reach.socket)?.execute(verb, arguments)?;
    show(reach, answer, table)
}

pub(super) fn show<T: serde::de::DeserializeOwned>(
    reach: &Reach,
    answer: Value,
    table: impl Fn(&T) -> String,
) -> Done {
    if reach.json {
        return print(&format!("{answer}\n"));
    }
    let known: T = serde_json::from_value(answer)
        .map_err(|e| ClientError::Answer(format!("an answer of another version: {e}; try --json")))?;
    print(&table(&known))
}

/// Asks a controlling verb.
fn steer(target: &Target, verb: &str, arguments: impl serde::Serialize) -> Done {
    let mut client = Client::connect(&target.reach.socket)?;
    steer_with(&mut client, target)?;
    let answer = client.execute(verb, arguments)?;
    show(&target.reach, answer, |answer: &Value| tables::answer(verb, answer))
}

/// Takes control first, if that is asked for.
pub(super) fn steer_with(client: &mut Client, target: &Target) -> Done {
    if target.takeover {
        client.execute("takeover", Which { guest: target.guest.clone() })?;
    }
    Ok(())
}

impl Target {
    pub(super) fn guest(&self) -> Option<String> {
        self.guest.clone()
    }

    pub(super) fn reach(&self) -> &Reach {
        &self.reach
    }

    pub(super) fn socket(&self) -> &Path {
        &self.reach.socket
    }
}

impl VerbCommand {
    /// The socket, and whether the answer is to be JSON.
    pub(super) fn reach(&self) -> &Reach {
        match self {
            VerbCommand::Status(view)
            | VerbCommand::Pulse(view)
            | VerbCommand::Stats(view)
            | VerbCommand::Streams(view)
            | VerbCommand::Histograms { view, .. }
            | VerbCommand::Fence(view)
            | VerbCommand::Takeover(view) => &view.reach,
            VerbCommand::Protect { target, .. }
            | VerbCommand::Close { target, .. }
            | VerbCommand::Seal { target, .. }
            | VerbCommand::Resumed(target)
            | VerbCommand::Commit { target, .. }
            | VerbCommand::Unprotect { target, .. }
            | VerbCommand::BackupLost { target, .. }
            | VerbCommand::Mute(target)
            | VerbCommand::Unmute { target, .. }
            | VerbCommand::Announce(target)
            | VerbCommand::Lease { target, .. }
            | VerbCommand::Policy { target, .. } => &target.reach,
            VerbCommand::Guard(args) => args.target().reach(),
            VerbCommand::Hello(reach)
            | VerbCommand::Subscribe { reach, .. }
            | VerbCommand::Shutdown(reach) => reach,
        }
    }

    pub(super) fn execute(self) -> Done {
        match self {
            VerbCommand::Status(view) => look(&view.reach, "guests", json!({}), |guests: &Guests| {
                let wanted =
                    |guest: &&GuestReport| view.guest.as_ref().is_none_or(|name| *name == guest.guest);
                tables::guests(guests.guests.iter().filter(wanted))
            }),
            VerbCommand::Pulse(View { guest, reach }) => {
                look(&reach, "pulse", Which { guest }, |answer: &Value| tables::answer("pulse", answer))
            }
            VerbCommand::Hello(reach) => look(&reach, "hello", json!({}), tables::about),
            VerbCommand::Stats(View { guest, reach }) => {
                look(&reach, "stats", Which { guest }, tables::stats)
            }
            VerbCommand::Streams(View { guest, reach }) => {
                look(&reach, "streams", Which { guest }, tables::streams)
            }
            VerbCommand::Histograms { hlog, buckets, view } => histograms(hlog, buckets, view),
            VerbCommand::Protect { vouched, first_epoch, term, target } => {
                let since_ns = term.and_then(|_| monotonic_ns());
                let guest = target.guest.clone();
                let arguments = Protect {
                    guest,
                    vouched,
                    first_epoch,
                    term_ms: term.map(millis),
                    since_ns,
                    ..Protect::default()
                };
                steer(&target, "protect", arguments)
            }
            VerbCommand::Close { vouched, target } => {
                steer(&target, "close", Close { guest: target.guest.clone(), vouched })
            }
            VerbCommand::Seal { epoch, target } => {
                steer(&target, "seal", Seal { guest: target.guest.clone(), epoch })
            }
            VerbCommand::Resumed(target) => steer(&target, "resumed", Which { guest: target.guest.clone() }),
            VerbCommand::Commit { generation, epoch, target } => {
                steer(&target, "commit", Commit { guest: target.guest.clone(), generation, epoch })
            }
            VerbCommand::Unprotect { mode, evidence, target } => {
                steer(&target, "unprotect", Unprotect { guest: target.guest.clone(), mode, evidence })
            }
            VerbCommand::BackupLost { evidence, target } => {
                steer(&target, "backup-lost", BackupLost { guest: target.guest.clone(), evidence })
            }
            VerbCommand::Mute(target) => steer(&target, "mute", Which { guest: target.guest.clone() }),
            VerbCommand::Unmute { protected, first_epoch, term, target } => {
                let since_ns = term.and_then(|_| monotonic_ns());
                let (guest, term_ms) = (target.guest.clone(), term.map(millis));
                steer(
                    &target,
                    "unmute",
                    Unmute { guest, protected, first_epoch, term_ms, since_ns, ..Unmute::default() },
                )
            }
            VerbCommand::Announce(target) => handover::announce(&target),
            VerbCommand::Guard(args) => args.execute(),
            VerbCommand::Lease { generation, term, target } => {
                let (guest, term_ms) = (target.guest.clone(), millis(term));
                steer(
                    &target,
                    "lease",
                    Lease { guest, generation, term_ms, since_ns: monotonic_ns(), ..Lease::default() },
                )
            }
            VerbCommand::Fence(View { guest, reach }) => {
                look(&reach, "fence", Which { guest }, |answer: &Value| tables::answer("fence", answer))
            }
            VerbCommand::Policy { name, media_ports, rules, no_rules, target } => {
                let rules = if no_rules { Some(Vec::new()) } else { rules };
                steer(&target, "policy", Policy { guest: target.guest.clone(), name, media_ports, rules })
            }
            VerbCommand::Subscribe { events, count, reach } => subscribe(events, count, &reach),
            VerbCommand::Takeover(View { guest, reach }) => {
                let mut client = Client::connect(&reach.socket)?;
                let answer = client.execute("takeover", Which { guest })?;
                show(&reach, answer, |answer: &Value| tables::answer("takeover", answer))?;
                // Control ends with the connection: keep it until the plane or the person ends it.
                loop {
                    client.event()?;
                }
            }
            VerbCommand::Shutdown(reach) => {
                look(&reach, "shutdown", json!({}), |answer: &Value| tables::answer("shutdown", answer))
            }
        }
    }
}

fn histograms(hlog: Option<PathBuf>, buckets: bool, View { guest, reach }: View) -> Done {
    let asked = Histograms { guest, buckets: buckets || hlog.is_some() };
    let answer = Client::connect(&reach.socket)?.execute("histograms", asked)?;
    let Some(path) = hlog else {
        return show(&reach, answer, tables::histograms);
    };
    let report: HistogramReport = serde_json::from_value(answer)
        .map_err(|e| ClientError::Answer(format!("an answer of another version: {e}")))?;
    let length = Duration::from_millis(report.recorded_ms);
    let base = SystemTime::now().checked_sub(length).unwrap_or(SystemTime::UNIX_EPOCH);
    let written =
        Hlog::create(&path, base).and_then(|mut log| log.append(Duration::ZERO, length, &report.histograms));
    written.map_err(|e| {
        let remedy = "name a new file in a directory that you may write to";
        ClientError::Output(format!("cannot write {}: {e}; {remedy}", path.display()))
    })?;
    let count = report.histograms.iter().filter(|entry| entry.count > 0).count();
    match reach.json {
        true => print(&format!("{}\n", json!({ "hlog": path, "histograms": count }))),
        false => print(&format!("{count} histograms written to {}\n", path.display())),
    }
}

fn subscribe(events: Vec<String>, count: Option<u64>, reach: &Reach) -> Done {
    let mut client = Client::connect(&reach.socket)?;
    client.execute("subscribe", Subscribe { events })?;
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let event = client.event()?;
        match reach.json {
            true => print(&format!("{event}\n"))?,
            false => print(&tables::event(&event))?,
        }
        left -= 1;
    }
    Ok(())
}
