//! Prepared frames through one lcore as fast as it takes them: DPDK's `net_pcap` plays a capture from memory in a circle,
//! `net_null` swallows what comes out.

use crate::dut::BURST;
use crate::failure::{Context, Failure, Result};
use crate::machine::{Cpus, Pages, Scratch};
use crate::process::Running;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket};
use serde_json::Value;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// MiB for [`POOL`] mbufs and DPDK's own tables.
pub const MEMORY_MIB: u32 = 1024;
/// On plain pages an mbuf of testpmd takes a whole one.
const MEMORY_MIB_PLAIN: u32 = 1600;
/// Mbufs: the driver keeps the whole circle of the largest load in them.
const POOL: u32 = 330_000;
const START_LIMIT: Duration = Duration::from_secs(30);
/// What an operator adds: SIP waits whatever else is said of it, names are asked and the time is told at once, a monitoring
/// network is let through, one host is cut off. The same as [`crate::memory_lane::usual_rules`].
const RULES: &str = r#"[[guest.rules]]
protocol = "udp"
dst_ports = 5060
verdict = "hold"
[[guest.rules]]
protocol = "udp"
dst_ports = 53
verdict = "bypass"
[[guest.rules]]
protocol = "udp"
dst_ports = 123
verdict = "bypass"
[[guest.rules]]
protocol = "tcp"
dst = "192.0.2.0/24"
verdict = "bypass"
[[guest.rules]]
dst = "198.51.100.7"
verdict = "refuse"
"#;

/// From the first frame to the window: streams prove themselves meanwhile.
const WARM_UP: Duration = Duration::from_millis(300);

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// `dpdk-testpmd --forward-mode=mac`.
    Mac,
    /// tidegate.
    Tidegate,
}

impl Device {
    /// The word in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Device::Mac => "mac",
            Device::Tidegate => "tidegate",
        }
    }
}

/// What is played, and where.
#[derive(Clone, Copy, Debug)]
pub struct Replay<'a> {
    /// The circle.
    pub capture: &'a Path,
    /// The lcore's CPU is that of the device under test.
    pub cpus: Cpus,
    /// Where mbufs live.
    pub pages: Pages,
    /// The tidegate binary.
    pub tidegate: &'a Path,
    /// The guest is not protected: what would be held passes.
    pub open: bool,
    /// tidegate verifies checksums, as it does by default.
    pub verifies: bool,
    /// With a handful of rules, none of which means media.
    pub ruled: bool,
    /// The timer: milliseconds of an epoch, and from its end to its commit.
    pub epoch_ms: (u64, u64),
}

impl Replay<'_> {
    /// Frames a second in a window of this length.
    pub fn measure(&self, device: Device, window: Duration, scratch: &Scratch) -> Result<f64> {
        let ports = [
            format!("net_pcap0,rx_pcap={},infinite_rx=1", self.capture.display()),
            "net_null0,no-rx=1".into(),
        ];
        let prefix = format!("tidegate-bench-{}-{}", device.name(), std::process::id());
        let control = scratch.path("control").join("replay.sock");
        let (program, args) = match device {
            Device::Mac => (Path::new("dpdk-testpmd"), self.testpmd(&prefix, &ports)),
            Device::Tidegate => {
                let file = scratch.path("replay.toml");
                let text = self.configuration(&prefix, &ports, &control);
                std::fs::write(&file, text).context(|| format!("cannot write {}", file.display()))?;
                (self.tidegate, vec!["run".into(), "--config".into(), file.display().to_string()])
            }
        };
        let mut running = Running::start(program, &args, scratch.dir(), device.name())?;
        let telemetry = Path::new("/var/run/dpdk").join(&prefix).join("dpdk_telemetry.v2");
        let count = || match device {
            Device::Mac => sent_by_testpmd(&telemetry),
            Device::Tidegate => self.sent_by_tidegate(&control),
        };
        running.until(START_LIMIT, "its first frame had left", || count().is_ok_and(|sent| sent > 0))?;
        running.prefer();
        std::thread::sleep(WARM_UP);
        let (before, from) = (count()?, Instant::now());
        std::thread::sleep(window);
        let (after, seconds) = (count()?, from.elapsed().as_secs_f64());
        running.stop();
        let frames = (after - before) as f64;
        if frames < 1.0 {
            return Err(running.failed("it forwarded nothing in its window"));
        }
        Ok(frames / seconds)
    }

    fn memory_mib(&self) -> u32 {
        match self.pages {
            Pages::Huge => MEMORY_MIB,
            Pages::NoHuge => MEMORY_MIB_PLAIN,
        }
    }

    fn testpmd(&self, prefix: &str, ports: &[String; 2]) -> Vec<String> {
        let Cpus { dut, generator } = self.cpus;
        let mut args = vec![
            format!("--lcores={generator}@{generator},{dut}@{dut}"),
            format!("--main-lcore={generator}"),
        ];
        args.extend(self.pages.eal_args(self.memory_mib()));
        args.extend(["--no-pci", "--log-level=*:warning"].map(String::from));
        args.push(format!("--file-prefix={prefix}"));
        args.extend(ports.iter().map(|port| format!("--vdev={port}")));
        args.push("--".into());
        args.extend(
            ["--nb-cores=1", "--rxq=1", "--txq=1", "--mbcache=256", "--auto-start"].map(String::from),
        );
        args.extend([
            "--forward-mode=mac".into(),
            format!("--burst={BURST}"),
            format!("--total-num-mbufs={POOL}"),
        ]);
        args
    }

    fn configuration(&self, prefix: &str, ports: &[String; 2], control: &Path) -> String {
        let memory_mib = self.memory_mib();
        let hugepages = if self.pages == Pages::Huge { "yes" } else { "no" };
        let mode = if self.open { "open" } else { "protected" };
        let [guest, wire] = ports;
        let Cpus { dut, generator } = self.cpus;
        format!(
            r#"[eal]
control_cpus = [{generator}]
memory_mb = {memory_mib}
hugepages = "{hugepages}"
file_prefix = "{prefix}"
[control]
socket = "{}"
[[guest]]
name = "bench"
mode = "{mode}"
policy = "realtime"
source = "timer"
timer = {{ interval_ms = {}, commit_delay_ms = {} }}
[[guest.lane]]
guest_port = "{guest}"
wire_port = "{wire}"
lcore = {dut}
hold_frames = {}
streams = 65536
verify_checksums = {}
{}"#,
            control.display(),
            self.epoch_ms.0,
            self.epoch_ms.1,
            POOL - 8192,
            self.verifies,
            if self.ruled { RULES } else { "" },
        )
    }

    fn sent_by_tidegate(&self, control: &Path) -> Result<u64> {
        let output = Command::new(self.tidegate)
            .args(["stats", "--json", "--socket"])
            .arg(control)
            .output()
            .context(|| format!("cannot run {}", self.tidegate.display()))?;
        if !output.status.success() {
            return Err(Failure::new(String::from_utf8_lossy(&output.stderr)));
        }
        let stats: Value =
            serde_json::from_slice(&output.stdout).context(|| "tidegate stats --json".into())?;
        let frames = &stats["guests"][0]["frames"];
        let counts = ["bypassed", "released"].map(|way| frames[way].as_u64());
        let [Some(bypassed), Some(released)] = counts else {
            return Err(Failure::new(format!("tidegate stats has no frames: {stats}")));
        };
        Ok(bypassed + released)
    }
}

/// Frames that went out of testpmd's second port, by DPDK's telemetry.
fn sent_by_testpmd(telemetry: &Path) -> Result<u64> {
    let doing = || format!("cannot ask {}", telemetry.display());
    let socket =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).context(doing)?;
    let address = UnixAddr::new(telemetry).context(doing)?;
    connect(socket.as_raw_fd(), &address).context(doing)?;
    let mut answer = vec![0; 16 << 10];
    // It says first who it is.
    recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).context(doing)?;
    send(socket.as_raw_fd(), b"/ethdev/stats,1", MsgFlags::empty()).context(doing)?;
    let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).context(doing)?;
    let stats: Value = serde_json::from_slice(&answer[..len]).context(doing)?;
    stats["/ethdev/stats"]["opackets"].as_u64().ok_or_else(|| Failure::new(format!("no opackets in {stats}")))
}

/// Writes frames as a classic pcap file.
pub fn write_capture(path: &Path, frames: &[Vec<u8>]) -> Result<()> {
    let doing = || format!("cannot write {}", path.display());
    let mut file = BufWriter::new(File::create(path).context(doing)?);
    let mut put = |words: &[u32]| words.iter().try_for_each(|word| file.write_all(&word.to_le_bytes()));
    // Microseconds, version 2.4, whole frames, Ethernet.
    put(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1]).context(doing)?;
    for frame in frames {
        let len = frame.len() as u32;
        let mut head = Vec::new();
        [0, 0, len, len].iter().for_each(|word: &u32| head.extend(word.to_le_bytes()));
        file.write_all(&[&head[..], frame].concat()).context(doing)?;
    }
    file.flush().context(doing)
}
