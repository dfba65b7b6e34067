//! `tidegate run`: a file, or one lane from flags.

use super::{
    Config, Control, DEFAULT_FILE, Eal, Guest, Host, Hugepages, Idle, Lane, Mode, PolicyName, Source, Timer,
};
use crate::quantity::{Bytes, Pace, span};
use std::path::PathBuf;
use std::time::Duration;
use tidegate_dataplane::streams::DEFAULT_STREAMS;

/// Where the configuration comes from.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  tidegate run --config /etc/tidegate/tidegate.toml --check
  tidegate run --config /etc/tidegate/tidegate.toml
  tidegate run --guest-port net_vhost0,iface=/run/tidegate/pbx.sock \\
      --wire-port net_af_packet0,iface=eth1 --lcore 1 --mode protected \\
      --source timer --interval 200ms --commit-delay 20ms --no-huge")]
pub struct RunArgs {
    /// The configuration file [default: /etc/tidegate/tidegate.toml, unless ports are given]
    #[arg(short, long, value_name = "FILE", conflicts_with = "LaneFlags")]
    pub config: Option<PathBuf>,

    /// Check the configuration, say what is wrong, start nothing
    #[arg(long)]
    pub check: bool,

    /// With --check: the answer as one line of JSON
    #[arg(long, requires = "check")]
    pub json: bool,

    /// One lane from flags
    #[command(flatten)]
    pub lane: LaneFlags,
}

/// One guest with one lane. Every key of the file has the same meaning and default.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "LaneFlags", requires = "guest_port")]
pub struct LaneFlags {
    /// The guest's port: devargs
    #[arg(long, value_name = "DEVARGS", requires = "wire_port")]
    pub guest_port: Option<String>,
    /// The wire's port: a PCI address or devargs
    #[arg(long, value_name = "DEVARGS")]
    pub wire_port: Option<String>,
    /// The CPU that runs the lane
    #[arg(long, value_name = "CPU", default_value_t = 1)]
    pub lcore: usize,
    /// The CPU of the control thread [default: the first that runs no lane]
    #[arg(long, value_name = "CPU")]
    pub control_cpu: Option<usize>,
    /// The guest's name
    #[arg(long, default_value = "guest")]
    pub name: String,
    /// The mode at start
    #[arg(long, default_value = "open")]
    pub mode: Mode,
    /// A lease governs the guest: it starts fenced
    #[arg(long)]
    pub leased: bool,
    /// What bypasses the gate
    #[arg(long, default_value = "realtime")]
    pub policy: PolicyName,
    /// UDP ports that carry media for certain, 10000-20000
    #[arg(long, value_name = "RANGE", value_delimiter = ',')]
    pub media_ports: Vec<super::PortRange>,
    /// Ports of SIP, from which media ports are learned; 0 for none
    #[arg(long, value_name = "PORTS", value_delimiter = ',', default_value = "5060")]
    pub sip_ports: Vec<u16>,
    /// Learn no TURN channels: what they carry is held
    #[arg(long)]
    pub no_learn_turn: bool,
    /// Who says "closed" and "committed"
    #[arg(long, default_value = "socket")]
    pub source: Source,
    /// The timer's epochs
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "200ms")]
    pub interval: Duration,
    /// From a close of the timer to its commit
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "20ms")]
    pub commit_delay: Duration,
    /// Closed epochs that may await their commit
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_epochs_in_flight: usize,
    /// How long a close waits for the lcore
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "20ms")]
    pub close_timeout: Duration,
    /// Queue pairs of each port
    #[arg(long, default_value_t = 1)]
    pub queues: u16,
    /// Mbufs that may be held
    #[arg(long, value_name = "N", default_value_t = 32768)]
    pub hold_frames: u32,
    /// Bytes that may be held
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub hold_bytes: Bytes,
    /// RTP streams that are kept track of: twice as many as there are at once, or more
    #[arg(long, value_name = "N", default_value_t = DEFAULT_STREAMS as u32)]
    pub streams: u32,
    /// Pace of released frames: none, 800M or 90%
    #[arg(long, default_value = "none")]
    pub pace: Pace,
    /// Longest packet without its Ethernet header
    #[arg(long, default_value_t = 1500)]
    pub mtu: u16,
    /// Believe the guest's checksums
    #[arg(long)]
    pub no_verify_checksums: bool,
    /// Receive descriptors a queue
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub rx_desc: u16,
    /// Transmit descriptors a queue
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub tx_desc: u16,
    /// The control socket
    #[arg(long, value_name = "PATH", default_value = super::DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Write interval logs of the histograms there
    #[arg(long, value_name = "DIR")]
    pub hlog_dir: Option<PathBuf>,
    /// Never use huge pages
    #[arg(long, conflicts_with = "huge")]
    pub no_huge: bool,
    /// Fail without huge pages
    #[arg(long)]
    pub huge: bool,
    /// Memory for mbufs and rings, MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub memory_mb: u64,
    /// What an idle lcore does
    #[arg(long, default_value = "spin")]
    pub idle: Idle,
    /// Keeps the files of two processes on one host apart
    #[arg(long, value_name = "NAME")]
    pub file_prefix: Option<String>,
    /// One more argument for DPDK; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub eal_arg: Vec<String>,
}

/// Milliseconds of a flag; never rounded down to nothing.
fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

impl RunArgs {
    /// What `--check` answers: the configuration, if it is good for `host`.
    pub fn checked(&self, host: &Host) -> Result<Config, String> {
        let config = self.config()?;
        config.check_host(host).map_err(|problems| problems.to_string())?;
        Ok(config)
    }

    /// The configuration that the arguments stand for, checked.
    pub fn config(&self) -> Result<Config, String> {
        let ports = self.lane.guest_port.as_ref().zip(self.lane.wire_port.as_ref());
        match (&self.config, ports) {
            (Some(file), _) => Config::read(file),
            (None, None) => Config::read(DEFAULT_FILE.as_ref()),
            (None, Some((guest_port, wire_port))) => {
                let config = self.lane.config(guest_port, wire_port);
                config.check().map_err(|problems| format!("command line: {problems}"))?;
                Ok(config)
            }
        }
    }
}

impl LaneFlags {
    fn config(&self, guest_port: &str, wire_port: &str) -> Config {
        let hugepages = match (self.huge, self.no_huge) {
            (true, _) => Hugepages::Yes,
            (_, true) => Hugepages::No,
            _ => Hugepages::Auto,
        };
        Config {
            eal: Eal {
                control_cpus: self.control_cpu.into_iter().collect(),
                memory_mb: self.memory_mb,
                hugepages,
                file_prefix: self.file_prefix.clone(),
                args: self.eal_arg.clone(),
                idle: self.idle,
                ..Eal::default()
            },
            control: Control {
                socket: self.socket.clone(),
                hlog_dir: self.hlog_dir.clone(),
                ..Control::default()
            },
            guests: vec![Guest {
                name: self.name.clone(),
                mode: self.mode,
                leased: self.leased,
                policy: self.policy,
                media_ports: self.media_ports.clone(),
                sip_ports: if self.sip_ports == [0] { Vec::new() } else { self.sip_ports.clone() },
                learn_turn: !self.no_learn_turn,
                rules: Vec::new(),
                on_backup_lost: Default::default(),
                replay_guard: None,
                announce_ms: super::failover::announce_ms(),
                max_epochs_in_flight: self.max_epochs_in_flight,
                source: self.source,
                timer: (self.source == Source::Timer).then(|| Timer {
                    interval_ms: millis(self.interval),
                    commit_delay_ms: millis(self.commit_delay),
                }),
                close_timeout_ms: millis(self.close_timeout),
                lanes: vec![self.lane(guest_port, wire_port)],
            }],
        }
    }

    fn lane(&self, guest_port: &str, wire_port: &str) -> Lane {
        Lane {
            guest_port: guest_port.into(),
            wire_port: wire_port.into(),
            lcore: self.lcore,
            queues: self.queues,
            hold_frames: self.hold_frames,
            hold_bytes: self.hold_bytes,
            streams: self.streams,
            pace: self.pace,
            mtu: self.mtu,
            verify_checksums: !self.no_verify_checksums,
            histograms: true,
            rx_desc: self.rx_desc,
            tx_desc: self.tx_desc,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Run {
        #[command(flatten)]
        args: RunArgs,
    }

    fn parse(line: &str) -> Result<Config, String> {
        let run = Run::try_parse_from(line.split(' ')).map_err(|e| e.to_string())?;
        run.args.config()
    }

    const LANE: &str = "run --guest-port net_vhost0,iface=/run/tidegate/x.sock --wire-port net_null0";

    #[test]
    fn flags_mean_what_the_same_keys_mean_in_a_file() {
        let from_flags = parse(&format!(
            "{LANE} --source timer --interval 100ms --commit-delay 5ms --mode protected --pace 90% --no-huge"
        ));
        let from_file = Config::parse(
            r#"
            [eal]
            hugepages = "no"
            [[guest]]
            name = "guest"
            mode = "protected"
            source = "timer"
            timer = { interval_ms = 100, commit_delay_ms = 5 }
            [[guest.lane]]
            guest_port = "net_vhost0,iface=/run/tidegate/x.sock"
            wire_port = "net_null0"
            lcore = 1
            pace = "90%"
            "#,
            "t.toml",
        );
        assert_eq!(from_flags, from_file);
    }

    #[test]
    fn sip_ports_are_given_or_turned_off() {
        let ports =
            |flag: &str| parse(&format!("{LANE}{flag}")).map(|config| config.guests[0].sip_ports.clone());
        assert_eq!(ports(""), Ok(vec![5060]));
        assert_eq!(ports(" --sip-ports 5060,5080"), Ok(vec![5060, 5080]));
        assert_eq!(ports(" --sip-ports 0"), Ok(vec![]));
        assert!(ports(" --sip-ports 5060,0").unwrap_err().contains("1 to 65535"));
    }

    #[test]
    fn wrong_use_is_refused() {
        assert!(parse(&format!("{LANE} --config x.toml")).unwrap_err().contains("cannot be used"));
        assert!(parse("run --guest-port net_vhost0,iface=/x").unwrap_err().contains("--wire-port"));
        assert!(parse("run --mode protected").unwrap_err().contains("--guest-port"), "not silently ignored");
        assert!(parse(&format!("{LANE} --interval 100")).unwrap_err().contains("200ms"));
        assert!(parse("run").unwrap_err().contains(DEFAULT_FILE));
    }
}
