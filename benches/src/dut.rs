//! The device under test: tidegate, or DPDK's own forwarder, on the same ports.

use crate::failure::{Context, Failure, Result};
use crate::frames::{Checksums, Mix};
use crate::machine::{Cpus, Pages, Scratch};
use crate::process::Running;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Frames in one receive or transmit call, of every device alike (tidegate's is fixed).
pub const BURST: usize = tidegate_dataplane::port::BURST;
/// Descriptors of each queue.
const DESCRIPTORS: u32 = 1024;
/// Mbufs that tidegate may hold: what a tenth of 8 million frames a second needs for 60 ms, twice over.
const HOLD_FRAMES: u32 = 98_304;
/// Mbufs of testpmd's pool: as many as tidegate has in its.
const POOL: u32 = HOLD_FRAMES + 2 * DESCRIPTORS + 1024;
/// MiB for these, with DPDK's own tables.
pub const MEMORY_MIB: u32 = 384;
/// On plain pages an mbuf takes a whole one.
const MEMORY_MIB_PLAIN: u32 = 512;

fn memory_mib(pages: Pages) -> u32 {
    match pages {
        Pages::Huge => MEMORY_MIB,
        Pages::NoHuge => MEMORY_MIB_PLAIN,
    }
}
/// The timer's epochs. As in the paper's smallest interval.
pub const EPOCH_MS: u64 = 50;
/// From their close to their commit.
pub const COMMIT_DELAY_MS: u64 = 5;
/// The longest interval of the paper.
pub const LONG_EPOCH_MS: u64 = 400;
/// Share of the frames that may be dropped: a generator that loses its CPU for 300 us does not drain the wire.
const MAY_BE_LOST: f64 = 0.001;
const START_LIMIT: Duration = Duration::from_secs(20);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dut {
    /// `dpdk-testpmd --forward-mode=io`: moves bursts, looks at nothing.
    Io,
    /// `dpdk-testpmd --forward-mode=mac`: writes the Ethernet addresses anew.
    Mac,
    /// tidegate: policy `realtime`, protected, timer source, histograms on.
    Tidegate,
    /// The same with other keys in its lane: what [`Setup::variant`] says.
    Variant,
    /// tidegate: policy `realtime`, epochs of 400 ms.
    Realtime,
    /// tidegate: policy `hold-all`, epochs of 400 ms.
    HoldAll,
    /// tidegate: policy `realtime`, and no epoch ever ends.
    Still,
}

impl Dut {
    /// The word in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Dut::Io => "io",
            Dut::Mac => "mac",
            Dut::Tidegate => "tidegate",
            Dut::Variant => "variant",
            Dut::Realtime => "realtime",
            Dut::HoldAll => "hold-all",
            Dut::Still => "still",
        }
    }

    /// Policy and source of its guest, as lines of the configuration.
    fn guest(self) -> String {
        let policy = if self == Dut::HoldAll { "hold-all" } else { "realtime" };
        let source = match self {
            Dut::Still => "source = \"socket\"".to_owned(),
            Dut::Realtime | Dut::HoldAll => timer(LONG_EPOCH_MS),
            _ => timer(EPOCH_MS),
        };
        format!("policy = \"{policy}\"\n{source}")
    }
}

/// Where the wire port leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Wire {
    /// `net_null`, which frees what it is given: the wire costs next to nothing, so the device's own work weighs
    /// most.
    Null,
    /// `net_vhost` back to the generator: one more copy for each frame.
    Vhost,
}

/// What a device is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The tidegate binary.
    pub tidegate: PathBuf,
    /// The lcores.
    pub cpus: Cpus,
    /// The wire.
    pub wire: Wire,
    /// Where mbufs live.
    pub pages: Pages,
    /// Who puts checksums in.
    pub checksums: Checksums,
    /// Lines of the lane's section in the configuration of [`Dut::Variant`].
    pub variant: Vec<String>,
    /// Lines of the section `[eal]` of every tidegate.
    pub eal: Vec<String>,
}

/// A device that forwards. Frozen unless it is being measured, so that several share the one CPU without seeing each
/// other.
#[derive(Debug)]
pub struct Forwarder {
    running: Running,
    dut: Dut,
    tidegate: PathBuf,
    control: PathBuf,
    /// Socket of the guest port.
    pub guest: PathBuf,
    /// Socket of the wire port, if it is a vhost port.
    pub wire: Option<PathBuf>,
}

impl Forwarder {
    /// Starts `dut` and waits until its sockets are there.
    pub fn start(dut: Dut, setup: &Setup, scratch: &Scratch) -> Result<Forwarder> {
        let name = dut.name();
        let guest = scratch.path(&format!("{name}.guest"));
        let wire = (setup.wire == Wire::Vhost).then(|| scratch.path(&format!("{name}.wire")));
        let control = scratch.path(&format!("{name}.control")).join("tidegate.sock");
        let ports = [
            format!("net_vhost0,iface={}", guest.display()),
            match &wire {
                Some(wire) => format!("net_vhost1,iface={}", wire.display()),
                None => "net_null0,no-rx=1".into(),
            },
        ];
        let (program, args) = match dut {
            Dut::Io | Dut::Mac => (PathBuf::from("dpdk-testpmd"), testpmd(name, setup, &ports)),
            _ => {
                let file = scratch.path(&format!("{name}.toml"));
                let keys = if dut == Dut::Variant { setup.variant.join("\n") } else { String::new() };
                let text = configuration(dut, &keys, setup, &ports, &control);
                std::fs::write(&file, text).context(|| format!("cannot write {}", file.display()))?;
                let args = vec!["run".into(), "--config".into(), file.display().to_string()];
                (setup.tidegate.clone(), args)
            }
        };
        let mut running = Running::start(&program, &args, scratch.dir(), name)?;
        let there = || guest.exists() && wire.as_ref().is_none_or(|wire| wire.exists());
        running.until(START_LIMIT, "its sockets were there", there)?;
        running.prefer();
        Ok(Forwarder { running, dut, tidegate: setup.tidegate.clone(), control, guest, wire })
    }

    /// Which it is.
    pub fn dut(&self) -> Dut {
        self.dut
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// It stands still until [`Forwarder::wake`].
    pub fn freeze(&self) -> Result<()> {
        self.running.freeze()
    }

    /// It goes on.
    pub fn wake(&self) -> Result<()> {
        self.running.wake()
    }

    /// Makes sure that it did the work it is measured for: hardly a frame dropped, media bypassed, the rest held and
    /// released. testpmd has nothing to tell.
    pub fn did_its_work(&self, mix: Mix) -> Result<()> {
        if matches!(self.dut, Dut::Io | Dut::Mac) {
            return Ok(());
        }
        let sum = |what: &str| self.counters().map(|stats| total(&stats, what));
        let (received, bypassed, dropped) = (sum("received")?, sum("bypassed")?, sum("dropped")?);
        let share = bypassed as f64 / received.max(1) as f64;
        let lost = dropped as f64 / received.max(1) as f64;
        let expected = if self.dut == Dut::HoldAll { 0.0 } else { mix.rtp_share() };
        if lost > MAY_BE_LOST || (share - expected).abs() > 0.02 {
            return Err(self.running.failed(&format!(
                "of {received} frames it let {bypassed} bypass and dropped {dropped}; expected were {:.0} % and none, \
                 so its frames a second mean nothing",
                expected * 100.0
            )));
        }
        Ok(())
    }

    fn counters(&self) -> Result<Value> {
        let output = Command::new(&self.tidegate)
            .args(["stats", "--json", "--socket"])
            .arg(&self.control)
            .output()
            .context(|| format!("cannot run {}", self.tidegate.display()))?;
        if !output.status.success() {
            return Err(Failure::new(format!("tidegate stats: {}", String::from_utf8_lossy(&output.stderr))));
        }
        serde_json::from_slice(&output.stdout).context(|| "tidegate stats --json".into())
    }
}

/// The sum of all numbers under the key `what`, wherever in `value`.
fn total(value: &Value, what: &str) -> u64 {
    fn numbers(value: &Value) -> u64 {
        match value {
            Value::Number(number) => number.as_u64().unwrap_or(0),
            Value::Array(items) => items.iter().map(numbers).sum(),
            Value::Object(fields) => fields.values().map(numbers).sum(),
            _ => 0,
        }
    }
    match value {
        Value::Array(items) => items.iter().map(|item| total(item, what)).sum(),
        Value::Object(fields) => {
            fields.iter().map(|(key, item)| if key == what { numbers(item) } else { total(item, what) }).sum()
        }
        _ => 0,
    }
}

fn testpmd(mode: &str, setup: &Setup, ports: &[String]) -> Vec<String> {
    let Cpus { dut, generator } = setup.cpus;
    // The main lcore only waits; it shares the generator's CPU, as tidegate's control threads do.
    let mut args =
        vec![format!("--lcores={generator}@{generator},{dut}@{dut}"), format!("--main-lcore={generator}")];
    args.extend(setup.pages.eal_args(memory_mib(setup.pages)));
    args.extend(["--no-pci", "--no-telemetry", "--log-level=*:warning"].map(String::from));
    args.push(format!("--file-prefix=tidegate-bench-{mode}-{}", std::process::id()));
    args.extend(ports.iter().map(|port| format!("--vdev={port}")));
    args.push("--".into());
    args.extend(["--nb-cores=1", "--rxq=1", "--txq=1", "--mbcache=256", "--auto-start"].map(String::from));
    args.push(format!("--forward-mode={mode}"));
    args.push(format!("--burst={BURST}"));
    args.push(format!("--rxd={DESCRIPTORS}"));
    args.push(format!("--txd={DESCRIPTORS}"));
    args.push(format!("--total-num-mbufs={POOL}"));
    args
}

fn timer(interval_ms: u64) -> String {
    format!(
        "source = \"timer\"\ntimer = {{ interval_ms = {interval_ms}, commit_delay_ms = {COMMIT_DELAY_MS} }}"
    )
}

/// What `dut` is started with, between any two ports.
pub fn configuration(
    dut: Dut,
    lane_keys: &str,
    setup: &Setup,
    ports: &[String; 2],
    control: &Path,
) -> String {
    let guest_keys = dut.guest();
    let hugepages = if setup.pages == Pages::Huge { "yes" } else { "no" };
    let memory_mib = memory_mib(setup.pages);
    let eal_keys = setup.eal.join("\n");
    let [guest, wire] = ports;
    let Cpus { dut, generator } = setup.cpus;
    format!(
        r#"[eal]
control_cpus = [{generator}]
memory_mb = {memory_mib}
hugepages = "{hugepages}"
{eal_keys}
[control]
socket = "{}"
[[guest]]
name = "bench"
mode = "protected"
{guest_keys}
[[guest.lane]]
guest_port = "{guest}"
wire_port = "{wire}"
lcore = {dut}
hold_frames = {HOLD_FRAMES}
rx_desc = {DESCRIPTORS}
tx_desc = {DESCRIPTORS}
{lane_keys}
"#,
        control.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_wherever_they_stand() {
        let stats: Value = serde_json::from_str(
            r#"{"lanes":[{"classes":{"rtp":{"received":5,"dropped":{"hold_full":1}},"tcp":{"received":2}}}]}"#,
        )
        .unwrap();
        assert_eq!((total(&stats, "received"), total(&stats, "dropped"), total(&stats, "x")), (7, 1, 0));
    }
}
