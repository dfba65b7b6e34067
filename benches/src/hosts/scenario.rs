//! What is run on which hosts: a TOML file.
//!
//! ```toml
//! [generator]                    # plays the guest
//! control = "192.0.2.1:7420"     # where its agent listens
//! port = "0000:03:00.0"          # its NIC by PCI address, or an interface: eth1
//! address = "10.9.0.2/24"        # put on that port for the run
//!
//! [plane]                        # left out: generator and sink are cabled together
//! control = "192.0.2.2:7420"
//! guest_port = "0000:03:00.0"    # as in tidegate.toml: a PCI address, or net_af_packet0,iface=eth1
//! wire_port = "0000:04:00.0"
//! lcore = 1                      # the CPU that polls; the others are its control threads'
//! control_cpu = 0
//!
//! [sink]                         # the world outside; may be the generator's host, with another port
//! control = "192.0.2.3:7420"
//! port = "0000:03:00.0"
//! address = "10.9.0.1/24"
//!
//! [[run]]
//! name = "realtime-1000"         # its directory below --out: a-z, 0-9 and -
//! policy = "realtime"            # of the plane
//! interval = "100ms"             # epochs of a timer: nothing is paused between hosts
//! commit_delay = "10ms"
//! length = "10s"
//! calls = 1000                   # 1 to 10000 each way, 20 ms of G.711 in a packet; 0: none
//! tcp = "full"                   # bulk out of the guest: none, full, or bit/s (100M)
//! transactions = 40              # a second, over one TCP connection; 0: none
//! sip = 5                        # calls a second by sipp, over TCP and over UDP each; 0: none
//! ```

use super::message::Port;
use crate::failure::{Context, Failure, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use tidegate_control::quantity::{Pace, span};
use tidegate_dataplane::policy::PolicyName;

/// Calls at once, and packets of a run each way: what sender and receiver are built for.
pub const CALLS_MAX: u32 = 10_000;
const PACKETS_MAX: u64 = 40_000_000;
const LENGTHS: std::ops::RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(600);
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);

/// See the module's head.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Plays the guest.
    pub generator: End,
    /// Stands between, if anybody does.
    #[serde(default)]
    pub plane: Option<PlaneHost>,
    /// The world outside.
    pub sink: End,
    /// What is run, one after the other.
    #[serde(rename = "run")]
    pub runs: Vec<Run>,
}

/// A host at an end.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// Its agent.
    pub control: SocketAddr,
    /// See [`Port::port`].
    pub port: String,
    /// See [`Port::address`].
    pub address: String,
}

/// The host of the plane.
#[derive(Clone, Debug, Deserialize)]
pub struct PlaneHost {
    /// Its agent.
    pub control: SocketAddr,
    /// The rest.
    #[serde(flatten)]
    pub ports: PlanePorts,
}

/// What the plane runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanePorts {
    /// Towards the generator.
    pub guest_port: String,
    /// Towards the sink.
    pub wire_port: String,
    /// The CPU that polls.
    pub lcore: u32,
    /// The CPU of everything else.
    #[serde(default)]
    pub control_cpu: u32,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Unique in its file.
    pub name: String,
    /// The plane's policy.
    #[serde(default = "realtime")]
    pub policy: String,
    /// From one epoch to the next.
    #[serde(default = "interval")]
    pub interval: String,
    /// From its end to its commit.
    #[serde(default = "commit_delay")]
    pub commit_delay: String,
    /// How long the traffic runs.
    pub length: String,
    /// Calls at once.
    #[serde(default)]
    pub calls: u32,
    /// Bulk out of the guest.
    #[serde(default = "none")]
    pub tcp: String,
    /// Transactions a second.
    #[serde(default)]
    pub transactions: u32,
    /// sipp's calls a second.
    #[serde(default)]
    pub sip: u32,
}

fn realtime() -> String {
    "realtime".into()
}

fn interval() -> String {
    "100ms".into()
}

fn commit_delay() -> String {
    "10ms".into()
}

fn none() -> String {
    "none".into()
}

impl Run {
    /// How long the traffic runs.
    pub fn span(&self) -> Duration {
        span(&self.length).unwrap_or_default()
    }

    /// What is wrong with it, and what would be right. An agent asks too.
    pub fn check(&self) -> std::result::Result<(), String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || self.name.len() > 40 || !self.name.chars().all(plain) {
            return Err("a name has 1 to 40 of a-z, 0-9 and -".into());
        }
        if self.policy.parse::<PolicyName>().is_err() {
            let known = PolicyName::ALL.map(PolicyName::name).join(", ");
            return Err(format!("there is no policy {:?}; there are {known}", self.policy));
        }
        if !LENGTHS.contains(&span(&self.length).map_err(|e| format!("length: {e}"))?) {
            return Err(format!("length is {}; it goes from 2s to 10min", self.length));
        }
        if !INTERVALS.contains(&span(&self.interval).map_err(|e| format!("interval: {e}"))?) {
            return Err(format!("interval is {}; it goes from 1ms to 10s", self.interval));
        }
        if span(&self.commit_delay).map_err(|e| format!("commit_delay: {e}"))? > *INTERVALS.end() {
            return Err(format!("commit_delay is {}; 10s at most", self.commit_delay));
        }
        if self.calls > CALLS_MAX {
            return Err(format!("calls are {}; {CALLS_MAX} at most", self.calls));
        }
        let packets = u64::from(self.calls) * 50 * self.span().as_secs();
        if packets > PACKETS_MAX {
            return Err(format!(
                "so many calls for so long are {packets} packets each way; {PACKETS_MAX} at most"
            ));
        }
        if self.tcp != "none" && self.tcp != "full" && !matches!(self.tcp.parse(), Ok(Pace::Bits(_))) {
            return Err(format!("tcp is {:?}; none, full, or bit/s such as 100M", self.tcp));
        }
        if self.transactions > 1000 || self.sip > 1000 {
            return Err("transactions and sip are a second: 1000 at most".into());
        }
        if self.calls == 0 && self.tcp == "none" && self.transactions == 0 && self.sip == 0 {
            return Err("nothing is to be sent: calls, tcp, transactions or sip".into());
        }
        Ok(())
    }
}

impl Port {
    /// What is wrong with it.
    pub fn check(&self) -> std::result::Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
        if self.port.is_empty()
            || self.port.len() > 32
            || !self.port.chars().all(plain)
            || self.port.starts_with('-')
        {
            return Err(format!("{:?} is neither an interface nor a PCI address (0000:03:00.0)", self.port));
        }
        self.own().map(drop)
    }

    /// The address without its prefix.
    pub fn own(&self) -> std::result::Result<Ipv4Addr, String> {
        let wrong = || format!("{:?} is no address with a prefix: 10.9.0.2/24", self.address);
        let (address, prefix) = self.address.split_once('/').ok_or_else(wrong)?;
        prefix.parse().ok().filter(|prefix: &u8| (8..=31).contains(prefix)).ok_or_else(wrong)?;
        address.parse().map_err(|_| wrong())
    }
}

impl PlanePorts {
    /// What is wrong with them: they go into a file.
    pub fn check(&self) -> std::result::Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.:,=-".contains(c);
        for port in [&self.guest_port, &self.wire_port] {
            if port.is_empty() || port.len() > 200 || !port.chars().all(plain) {
                return Err(format!("{port:?} is neither a PCI address nor net_af_packet0,iface=eth1"));
            }
        }
        if self.lcore > 1023 || self.control_cpu > 1023 || self.lcore == self.control_cpu {
            return Err("lcore and control_cpu are two CPUs, from 0 to 1023".into());
        }
        Ok(())
    }
}

impl Scenario {
    /// That of a file.
    pub fn read(path: &Path) -> Result<Scenario> {
        let text = std::fs::read_to_string(path).context(|| format!("cannot read {}", path.display()))?;
        Scenario::parse(&text, &path.display().to_string())
    }

    /// Out of a text that is called `file`.
    pub fn parse(text: &str, file: &str) -> Result<Scenario> {
        let scenario: Scenario = toml::from_str(text).context(|| file.to_owned())?;
        let wrong = |place: &str, what: String| Failure::new(format!("{file}: {place}: {what}"));
        let [generator, sink] = scenario.ports().map_err(|what| wrong("address", what))?;
        for (place, port) in [("generator", &generator), ("sink", &sink)] {
            port.check().map_err(|what| wrong(place, what))?;
        }
        if let Some(plane) = &scenario.plane {
            plane.ports.check().map_err(|what| wrong("plane", what))?;
        }
        let mut names = BTreeSet::new();
        for run in &scenario.runs {
            let place = format!("run {:?}", run.name);
            run.check().map_err(|what| wrong(&place, what))?;
            if !names.insert(&run.name) {
                return Err(wrong(
                    &place,
                    "the name is there twice; each has a directory of that name".into(),
                ));
            }
        }
        if scenario.runs.is_empty() {
            return Err(wrong("run", "there is no [[run]] in it".into()));
        }
        Ok(scenario)
    }

    /// Generator's and sink's, each with the other's address.
    pub fn ports(&self) -> std::result::Result<[Port; 2], String> {
        let port = |own: &End, other: &End| {
            let peer =
                Port { port: String::new(), address: other.address.clone(), peer: Ipv4Addr::UNSPECIFIED }
                    .own()?;
            Ok::<Port, String>(Port { port: own.port.clone(), address: own.address.clone(), peer })
        };
        Ok([port(&self.generator, &self.sink)?, port(&self.sink, &self.generator)?])
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const GOOD: &str = include_str!("../../hosts.toml");

    #[test]
    fn the_example_is_one() {
        let scenario = Scenario::parse(GOOD, "hosts.toml").unwrap();
        assert!(scenario.plane.is_some() && scenario.runs.len() >= 3);
        assert!(scenario.runs.iter().any(|run| run.calls == CALLS_MAX));
        assert_eq!(scenario.ports().unwrap()[0].peer, Ipv4Addr::new(10, 9, 0, 1));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        for (from, to, said) in [
            ("10.9.0.2/24", "10.9.0.2", "no address with a prefix"),
            ("calls = 10000", "calls = 10001", "10000 at most"),
            ("policy = \"realtime\"", "policy = \"remus\"", "hold-all"),
            ("port = \"0000:03:00.0\"", "port = \"eth0; reboot\"", "PCI address"),
            ("wire_port = \"0000:04:00.0\"", "wire_port = \"x\\\"\\n[eal]\"", "PCI address"),
            ("lcore = 1", "lcore = 0", "two CPUs"),
            ("tcp = \"full\"", "tcp = \"fast\"", "100M"),
            ("length = \"10s\"", "length = \"10h\"", "10min"),
            ("transactions", "transaction", "unknown field"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let refusal = Scenario::parse(&text, "mine.toml").unwrap_err().to_string();
            assert!(refusal.contains(said) && refusal.contains("mine.toml"), "{to}: {refusal}");
        }
    }
}
