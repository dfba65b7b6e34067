//! The configuration: this file is its documentation. One struct a section, a doc comment and a default a
//! key, unknown keys refused. [`check`] says what a file that parses may still get wrong.

mod check;
mod failover;
mod flags;
mod memory;
mod policy;
mod rule;

pub use check::{Host, Problem, Problems};
pub use failover::ReplayGuard;
pub use flags::RunArgs;
pub use memory::{BYPASS_RESERVE, Lack, Pages, node_of};
pub use policy::PolicySpec;
pub(crate) use rule::ssrc;
pub use rule::{Network, PortRange, Protocol, Rule, RuleVerdict, SsrcRange};

use crate::quantity::{Bytes, Pace};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tidegate_dataplane::streams::DEFAULT_STREAMS;

/// Where `tidegate run` looks when it is told nothing.
pub const DEFAULT_FILE: &str = "/etc/tidegate/tidegate.toml";
/// Where the control socket is when nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tidegate/tidegate.sock";

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// DPDK's environment and the lcores.
    pub eal: Eal,
    /// The control socket.
    pub control: Control,
    /// The guests of this process, at least one.
    #[serde(rename = "guest")]
    pub guests: Vec<Guest>,
}

/// `[eal]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Eal {
    /// CPUs that run lanes. Default: those that the lanes name.
    pub lcores: Vec<usize>,
    /// CPUs of the control thread. Default: the first one that runs no lane.
    pub control_cpus: Vec<usize>,
    /// Memory for mbufs and rings, MiB. Default: 256.
    pub memory_mb: u64,
    /// Whether mbufs live in huge pages. Default: `auto`, which means when enough are free.
    pub hugepages: Hugepages,
    /// Keeps the files of two processes on one host apart. Default: `tidegate-` and the process id.
    pub file_prefix: Option<String>,
    /// More arguments for DPDK, as its guide writes them.
    pub args: Vec<String>,
    /// What an lcore does that finds nothing to do. Default: `spin`.
    pub idle: Idle,
    /// The longest sleep of an idle lcore under `backoff`, microseconds. Default: 50.
    pub max_sleep_us: u64,
}

impl Default for Eal {
    fn default() -> Self {
        Self {
            lcores: Vec::new(),
            control_cpus: Vec::new(),
            memory_mb: 256,
            hugepages: Hugepages::Auto,
            file_prefix: None,
            args: Vec::new(),
            idle: Idle::Spin,
            max_sleep_us: 50,
        }
    }
}

/// `eal.hugepages`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hugepages {
    /// When there are enough free ones.
    #[default]
    Auto,
    /// Always; start fails without.
    Yes,
    /// Never: plain pages, no physical NIC.
    No,
}

/// `eal.idle`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// Poll on: the shortest delay, a whole CPU.
    #[default]
    Spin,
    /// Pause, then sleep up to `max_sleep_us`: for hosts with few CPUs.
    Backoff,
}

/// `[control]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// The Unix socket; its directory is made with mode 0700. Default: `/run/tidegate/tidegate.sock`.
    pub socket: PathBuf,
    /// Users that may connect beside root and the process's own. Default: none.
    pub allow_uids: Vec<u32>,
    /// Where interval logs of the histograms are written. Default: nowhere.
    pub hlog_dir: Option<PathBuf>,
    /// Seconds between two entries of such a log. Default: 10.
    pub hlog_interval_s: u64,
}

impl Default for Control {
    fn default() -> Self {
        Self { socket: DEFAULT_SOCKET.into(), allow_uids: Vec::new(), hlog_dir: None, hlog_interval_s: 10 }
    }
}

/// `[[guest]]`: one virtual machine, one epoch clock.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// The name used at the socket: letters, digits, `_`, `-`, `.`. No default.
    pub name: String,
    /// The mode at start. Default: `open`.
    #[serde(default)]
    pub mode: Mode,
    /// A lease governs the guest: it starts fenced, and only a lease lets anything out. Default: false.
    #[serde(default)]
    pub leased: bool,
    /// What bypasses the gate. Default: `realtime`.
    #[serde(default)]
    pub policy: PolicyName,
    /// UDP ports that carry media for certain. Default: none; media is found by itself.
    #[serde(default)]
    pub media_ports: Vec<PortRange>,
    /// Ports of SIP, over UDP and TCP, from which the guest's media ports are learned; at most 8, none: nothing is
    /// learned. Default: 5060.
    #[serde(default = "sip_ports")]
    pub sip_ports: Vec<u16>,
    /// TURN channels (RFC 8656) that the guest binds are learned, over UDP from any port: what they carry is judged as if
    /// it were sent directly. `false`: it is held. Default: true.
    #[serde(default = "learn_turn")]
    pub learn_turn: bool,
    /// Rules in front of the policy; the first that matches decides. Default: none.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// What `backup-lost`, with evidence, does. Default: `stay`.
    #[serde(default)]
    pub on_backup_lost: OnBackupLost,
    /// What a promoted standby refuses of that which the dead primary may have sent before. Default: `all`. Unless it
    /// is `off`, SRTCP waits for its commit.
    #[serde(default)]
    pub replay_guard: Option<ReplayGuard>,
    /// When the plane announces the guest to switches and neighbours after it was unmuted, milliseconds, at most 32
    /// times; none: never. Default: 0, 50, 150, 300, 600.
    #[serde(default = "failover::announce_ms")]
    pub announce_ms: Vec<u64>,
    /// Closed epochs that may await their commit. Default: 64.
    #[serde(default = "max_epochs_in_flight")]
    pub max_epochs_in_flight: usize,
    /// Who says "closed" and "committed". Default: `socket`.
    #[serde(default)]
    pub source: Source,
    /// How the `timer` source ticks.
    #[serde(default)]
    pub timer: Option<Timer>,
    /// How long a close may wait for the lcores before its epoch merges into the next, milliseconds.
    /// Default: 20.
    #[serde(default = "close_timeout_ms")]
    pub close_timeout_ms: u64,
    /// Its NICs, at least one.
    #[serde(rename = "lane")]
    pub lanes: Vec<Lane>,
}

fn sip_ports() -> Vec<u16> {
    vec![5060]
}

fn learn_turn() -> bool {
    true
}

fn max_epochs_in_flight() -> usize {
    64
}

fn close_timeout_ms() -> u64 {
    20
}

/// A mode that a guest can start in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// No replication: everything passes.
    #[default]
    Open,
    /// Held until committed.
    Protected,
    /// A standby: its output is discarded.
    Muted,
}

/// A policy by name: design.md, Policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyName {
    /// Real-time media bypasses, everything else is held.
    #[default]
    Realtime,
    /// Everything that is not TCP bypasses.
    NonTcp,
    /// Everything is held.
    HoldAll,
    /// Nothing is held. Unsafe; for comparison.
    BypassAll,
}

impl PolicyName {
    /// The word used in configuration, logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            PolicyName::Realtime => "realtime",
            PolicyName::NonTcp => "non-tcp",
            PolicyName::HoldAll => "hold-all",
            PolicyName::BypassAll => "bypass-all",
        }
    }
}

/// `guest.on_backup_lost`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBackupLost {
    /// Go on holding; a lease that still runs is lifted, so that what is bypassed goes on.
    #[default]
    Stay,
    /// Discard what is held, then `open`.
    Drop,
    /// Let what is held go, then `open`.
    Release,
}

/// `guest.source`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Whoever controls the guest at the socket.
    #[default]
    Socket,
    /// The plane's own timer. Pauses nothing: for labs.
    Timer,
}

/// `guest.timer`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Timer {
    /// From one close to the next, milliseconds.
    pub interval_ms: u64,
    /// From a close to its commit, milliseconds. Longer than the interval: several epochs in flight.
    #[serde(default)]
    pub commit_delay_ms: u64,
}

/// `[[guest.lane]]`: one NIC of the guest and the port behind it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Lane {
    /// The guest's side: devargs (`net_vhost0,iface=/run/tidegate/pbx.sock`). No default.
    pub guest_port: String,
    /// The network's side: a PCI address or devargs. No default.
    pub wire_port: String,
    /// The CPU that runs the lane. No default.
    pub lcore: usize,
    /// Queue pairs of each port. Default: 1.
    #[serde(default = "queues")]
    pub queues: u16,
    /// Mbufs that the hold queue may pin. Default: 32768.
    #[serde(default = "hold_frames")]
    pub hold_frames: u32,
    /// Bytes that the hold queue may pin. Default: `64MiB`.
    #[serde(default = "hold_bytes")]
    pub hold_bytes: Bytes,
    /// RTP streams that are kept track of. Default: 4096.
    #[serde(default = "streams")]
    pub streams: u32,
    /// How fast released frames may follow each other. Default: `none`.
    #[serde(default)]
    pub pace: Pace,
    /// Longest packet, without the Ethernet header, bytes. Default: 1500.
    #[serde(default = "mtu")]
    pub mtu: u16,
    /// Check in software that what the guest sends has right checksums. Default: true.
    #[serde(default = "yes")]
    pub verify_checksums: bool,
    /// Record latencies. Off only to measure what recording costs. Default: true.
    #[serde(default = "yes")]
    pub histograms: bool,
    /// Receive descriptors a queue, a power of two. Default: 1024.
    #[serde(default = "descriptors")]
    pub rx_desc: u16,
    /// Transmit descriptors a queue, a power of two. Default: 1024.
    #[serde(default = "descriptors")]
    pub tx_desc: u16,
}

fn queues() -> u16 {
    1
}

fn hold_frames() -> u32 {
    32768
}

fn hold_bytes() -> Bytes {
    Bytes(64 << 20)
}

fn streams() -> u32 {
    DEFAULT_STREAMS as u32
}

fn mtu() -> u16 {
    1500
}

fn yes() -> bool {
    true
}

fn descriptors() -> u16 {
    1024
}

impl Config {
    /// Reads and checks a file. The error names the file, the key and what to do.
    pub fn read(file: &Path) -> Result<Config, String> {
        let text = std::fs::read_to_string(file)
            .map_err(|e| format!("cannot read {}: {e}; give another file with --config", file.display()))?;
        Config::parse(&text, &file.display().to_string())
    }

    /// The same from a text that came from `origin`.
    pub fn parse(text: &str, origin: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|e| format!("{origin}: {e}"))?;
        config.check().map_err(|problems| format!("{origin}: {problems}"))?;
        Ok(config)
    }

    /// The guest meant by `name`; without one, the only guest.
    pub fn guest(&self, name: Option<&str>) -> Result<&Guest, String> {
        let names = || self.guests.iter().map(|guest| guest.name.as_str()).collect::<Vec<_>>().join(", ");
        match (name, &self.guests[..]) {
            (None, [guest]) => Ok(guest),
            (None, _) => Err(format!("it has several guests, say which: {}", names())),
            (Some(name), guests) => guests
                .iter()
                .find(|guest| guest.name == name)
                .ok_or_else(|| format!("it has no guest `{name}`; there are {}", names())),
        }
    }

    /// The CPUs that run lanes, rising.
    pub fn lcores(&self) -> Vec<usize> {
        let lanes = self.guests.iter().flat_map(|guest| &guest.lanes).map(|lane| lane.lcore);
        let mut lcores: Vec<usize> = lanes.chain(self.eal.lcores.iter().copied()).collect();
        lcores.sort_unstable();
        lcores.dedup();
        lcores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        [[guest]]
        name = "pbx"
        [[guest.lane]]
        guest_port = "net_vhost0,iface=/run/tidegate/pbx.sock"
        wire_port = "0000:03:00.0"
        lcore = 1
    "#;

    #[test]
    fn a_small_file_takes_the_documented_defaults() {
        let config = Config::parse(SMALL, "small.toml").expect("parses");
        let guest = &config.guests[0];
        assert_eq!((guest.mode, guest.leased, guest.policy), (Mode::Open, false, PolicyName::Realtime));
        assert_eq!((guest.max_epochs_in_flight, guest.close_timeout_ms), (64, 20));
        assert_eq!(guest.sip_ports, [5060]);
        assert!(guest.learn_turn);
        let lane = &guest.lanes[0];
        assert_eq!((lane.hold_frames, lane.hold_bytes, lane.mtu), (32768, Bytes(64 << 20), 1500));
        assert_eq!((lane.pace, lane.verify_checksums, lane.queues), (Pace::None, true, 1));
        assert!(lane.histograms);
        assert_eq!(config.lcores(), [1]);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_file_line_and_the_known_ones() {
        for (wrong, key) in [
            (SMALL.replace("lcore", "core"), "core"),
            (format!("[eal]\nhugepage = true\n{SMALL}"), "hugepage"),
            (SMALL.replace("name =", "polizy = \"realtime\"\nname ="), "polizy"),
        ] {
            let error = Config::parse(&wrong, "wrong.toml").unwrap_err();
            assert!(error.contains("wrong.toml") && error.contains(key), "{error}");
            assert!(error.contains("expected") && error.contains("line"), "{error}");
        }
    }
}
