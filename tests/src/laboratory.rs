//! A plane between a real guest and a namespace, and the traffic of the tests.
//!
//! ```text
//! QEMU guest 10.9.0.2, fd09::2 --vhost-user-- plane --af_packet-- wire ==veth== eth0 10.9.0.1, fd09::1
//!   sipp (echo), iperf3, beacon                                                  sipp, iperf3, ping, tcpdump
//! ```

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::capture::{Capture, Frame};
use crate::commit_log::CommitLog;
use crate::failure::{Context, Failure, Result};
use crate::guest_image::{GuestImage, Service};
use crate::namespace::Namespace;
use crate::plane::{self, Plane};
use crate::process::{Program, Running, run};
use crate::qemu::{self, Guest, Nic};
use crate::scratch::Scratch;
use crate::tool_stack::{Parts, Rhythm, ToolStack};

/// The guest's address.
pub const GUEST_IP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// Where the guest echoes RTP: sipp's media port.
pub const MEDIA: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(GUEST_IP), 6000);
/// The same of the sipp that takes calls by TCP.
pub const MEDIA_BY_TCP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(GUEST_IP), 7000);
/// The VLAN of the beacon's tagged frames.
pub const VLAN: u16 = 7;
/// The guest's user space lives in its memory, and that of [`Service::Relay`] is 190 MiB.
const fn guest_memory_mib(service: Service) -> u32 {
    match service {
        Service::Echo | Service::Accounts | Service::Router => 192,
        Service::Relay => 768,
    }
}
/// 3 to 5 s on an idle machine with two cores; tests share theirs.
const BOOTS_WITHIN: Duration = Duration::from_secs(90);
/// QEMU tries to connect every second, and a held answer takes an epoch.
const RESUMES_WITHIN: Duration = Duration::from_secs(20);

/// What stands between guest and world in a test, and how the guest is tied to it.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Which program is the plane.
    pub kind: plane::Kind,
    /// The policy it begins with.
    pub policy: &'static str,
    /// Where its epochs come from.
    pub source: plane::Source,
    /// QEMU is the vhost-user server, the plane connects.
    pub plane_is_client: bool,
}

/// All of it; the beacon waits. The order of the fields is the order in which they go. A test that passes says so by
/// [`Laboratory::passed`]; otherwise the logs are kept.
pub struct Laboratory {
    /// The guest.
    pub guest: Guest,
    /// The plane.
    pub plane: Plane,
    sinks: Vec<Running>,
    /// The world outside.
    pub outside: Namespace,
    /// Logs and sockets.
    pub scratch: Scratch,
    plan: plane::Plan,
    guest_plan: qemu::Plan,
    starts: u32,
    _alone: File,
}

impl Laboratory {
    /// Sets everything up and waits until the guest is ready. `beacon` is the program of that name.
    pub fn open(setting: &Setting, beacon: &Path) -> Result<Laboratory> {
        Laboratory::open_serving(setting, beacon, Service::Echo)
    }

    /// The same with a guest that serves this.
    pub fn open_serving(setting: &Setting, beacon: &Path, service: Service) -> Result<Laboratory> {
        let alone = alone()?;
        let image = GuestImage::build(beacon, service)?;
        let scratch = Scratch::new()?;
        let outside = Namespace::new()?;
        outside.address("10.9.0.1/24")?;
        outside.address("fd09::1/64")?;
        let sinks = vec![
            sink("TCP-LISTEN:9701,fork,reuseaddr", &outside, &scratch, "tcp-sink")?,
            sink("UDP6-RECV:9700", &outside, &scratch, "udp-sink")?,
        ];
        let plan = plane::Plan {
            kind: setting.kind.clone(),
            wire: outside.wire().to_owned(),
            policy: setting.policy.to_owned(),
            source: setting.source,
            client: setting.plane_is_client,
        };
        let serve = match service {
            Service::Relay => "relay",
            Service::Echo | Service::Accounts | Service::Router => "serve",
        };
        let guest_plan = qemu::Plan {
            image,
            memory_mib: guest_memory_mib(service),
            nics: vec![Nic {
                socket: scratch.file("vhost.sock"),
                server: setting.plane_is_client,
                mac: Nic::mac(0),
                properties: String::new(),
            }],
            words: format!(
                "tg.nic0={GUEST_IP}/24,fd09::2/64 tg.vlan0={VLAN},10.9.7.2/24 tg.{serve}={GUEST_IP} \
                 tg.beacon=wait={},udp4=10.9.0.1:9700,udp6=[fd09::1]:9700,vlan=10.9.7.255:9700,tcp=10.9.0.1:9701",
                qemu::GO
            ),
            waits: false,
        };
        // Whoever is the vhost-user server starts first.
        let (guest, plane) = if setting.plane_is_client {
            let guest = Guest::start(&guest_plan, &scratch, "qemu")?;
            (guest, Plane::start(&plan, &scratch, "plane-1")?)
        } else {
            let plane = Plane::start(&plan, &scratch, "plane-1")?;
            (Guest::start(&guest_plan, &scratch, "qemu")?, plane)
        };
        let mut laboratory =
            Laboratory { guest, plane, sinks, outside, scratch, plan, guest_plan, starts: 1, _alone: alone };
        laboratory.wait_ready(1)?;
        Ok(laboratory)
    }

    /// Lets a tool stack work on the guest and the plane, and the beacon of the first boot send.
    pub fn tool_stack(&mut self, rhythm: Rhythm) -> Result<ToolStack> {
        let parts = Parts {
            qmp: self.guest.monitor()?,
            control: self.plane.control()?,
            page: self.guest.counter_page(1)?,
            log: CommitLog::default(),
        };
        let stack = ToolStack::start(parts, rhythm);
        self.guest.start_beacon()?;
        Ok(stack)
    }

    /// Waits for the end of the guest's boot number `boot`, turns the tool stack to its beacon, and lets that send.
    pub fn follow_reboot(&mut self, boot: usize, stack: &ToolStack) -> Result<()> {
        self.wait_ready_while(boot, || stack.check())?;
        stack.follow(self.guest.counter_page(boot)?)?;
        self.guest.start_beacon()
    }

    /// Waits for the end of the guest's boot number `boot`, counted from 1.
    pub fn wait_ready(&mut self, boot: usize) -> Result<()> {
        self.wait_ready_while(boot, || Ok(()))
    }

    fn wait_ready_while(&mut self, boot: usize, sound: impl Fn() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + BOOTS_WITHIN;
        while !self.guest.ready(boot)? {
            sound()?;
            if let Some(status) = self.plane.process().ended() {
                return Err(self.plane.process().failure(&format!("ended with {status}")));
            }
            if Instant::now() > deadline {
                return Err(self.guest.complaint(&format!("was not ready within {BOOTS_WITHIN:?}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Starts the plane again after it has ended, as it was started first.
    pub fn restart_plane(&mut self) -> Result<()> {
        self.starts += 1;
        self.plane = Plane::start(&self.plan, &self.scratch, &format!("plane-{}", self.starts))?;
        Ok(())
    }

    /// Ends QEMU as a crash would and starts another one; waits until its guest is ready.
    pub fn restart_guest(&mut self) -> Result<()> {
        self.starts += 1;
        self.guest.process().kill();
        self.guest = Guest::start(&self.guest_plan, &self.scratch, &format!("qemu-{}", self.starts))?;
        self.wait_ready(1)
    }

    /// Captures what the world outside sees from now on.
    pub fn capture(&self, label: &str) -> Result<Capture> {
        Capture::start(&self.outside, &self.scratch, label)
    }

    /// Waits until the guest answers again after something beside it has restarted: until the far end of
    /// its port is there, frames for it are lost as on a wire that is not plugged in.
    pub fn resumes(&self) -> Result<()> {
        let deadline = Instant::now() + RESUMES_WITHIN;
        loop {
            match self.outside.run(&format!("ping -n -c 1 -W 1 {GUEST_IP}")) {
                Ok(_) => return Ok(()),
                Err(_) if Instant::now() < deadline => {}
                Err(failure) => {
                    return Err(Failure::new(format!("no traffic within {RESUMES_WITHIN:?}: {failure}")));
                }
            }
        }
    }

    /// Pings the guest `count` times, 5 a second; every one must be answered.
    pub fn ping(&self, address: &str, count: u32) -> Result<()> {
        let line = format!("-n -i 0.2 -W 10 -c {count} {address}");
        let limit = Duration::from_secs(15 + u64::from(count));
        let output =
            Program::new("ping").args(&line).inside(&self.outside).run(&self.scratch, "ping", limit)?;
        let all = format!(" {count} received");
        crate::ensure!(output.contains(&all), "not all of {count} pings to {address} came back:\n{output}");
        Ok(())
    }

    /// Sends TCP into the guest for some seconds, or out of it; bits/s received. `rate` as iperf3 takes it.
    pub fn iperf3(&self, seconds: u32, rate: &str, out_of_guest: bool) -> Result<f64> {
        let way = if out_of_guest { "-R" } else { "" };
        let line = format!("-c {GUEST_IP} -t {seconds} -b {rate} -J {way}");
        let limit = Duration::from_secs(30 + u64::from(seconds));
        let mut tries = 0;
        let output = loop {
            let program = Program::new("iperf3").args(&line).inside(&self.outside);
            // Between two tests its server closes its door for a moment. With -J some refusals end in 0.
            match program.run(&self.scratch, "iperf3", limit) {
                Ok(output) if tries < 40 && output.contains("Connection re") => tries += 1,
                Ok(output) => break output,
                Err(failure) if tries < 40 && failure.to_string().contains("Connection re") => tries += 1,
                Err(failure) => return Err(failure),
            }
            std::thread::sleep(Duration::from_millis(300));
        };
        let report: Value =
            serde_json::from_str(&output).context(|| format!("iperf3 reported no JSON:\n{output}"))?;
        report["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .filter(|&bits| bits > 0.0)
            .ok_or_else(|| Failure::new(format!("iperf3 received nothing:\n{output}")))
    }

    /// Starts calls into the guest: sipp's own scenario, which plays 7 s of G.711 A-law (30 ms packets)
    /// and then a telephone event, about 10 s in all. Each call is a process with ports of its own: one
    /// sipp plays the media of one call only.
    pub fn calls(&self, calls: u16) -> Result<Calls> {
        self.calls_by(calls, "u1")
    }

    /// The same with the signalling by `transport`: sipp's `u1` (UDP) or `t1` (TCP).
    pub fn calls_by(&self, calls: u16, transport: &str) -> Result<Calls> {
        self.link_media()?;
        let start = |call: u16| {
            Program::new("sipp")
                .args("-sn uac_pcap -i 10.9.0.1 -mi 10.9.0.1 -m 1 -nostdin -timeout 60s -timeout_error")
                .args(&format!("-t {transport} -p {} -mp {}", 5100 + call, 6100 + 4 * call))
                .arg(format!("{GUEST_IP}:5060"))
                .inside(&self.outside)
                .directory(self.scratch.path())
                .start(&self.scratch, &format!("sipp-{call}"))
        };
        (0..calls).map(start).collect::<Result<Vec<_>>>().map(|processes| Calls { processes })
    }
}

impl Laboratory {
    /// Calls a phone by the guest's proxy with sipp and changes the codec in the middle; returns where the media
    /// comes, when the call is over.
    pub fn call_that_changes_its_codec(&self, callee: &str) -> Result<SocketAddr> {
        const MEDIA_PORT: u16 = 6200;
        self.link_media()?;
        let scenario = self.scratch.file("recodec.xml");
        std::fs::write(&scenario, include_str!("../guest/recodec.xml"))
            .context(|| format!("cannot write {}", scenario.display()))?;
        Program::new("sipp")
            .args("-i 10.9.0.1 -mi 10.9.0.1 -m 1 -nostdin -timeout 60s -timeout_error -p 5200 -sf")
            .arg(scenario.display().to_string())
            .args(&format!("-mp {MEDIA_PORT} -s {callee} {GUEST_IP}:5060"))
            .inside(&self.outside)
            .directory(self.scratch.path())
            .run(&self.scratch, "sipp-recodec", Duration::from_secs(70))?;
        Ok(SocketAddr::from(([10, 9, 0, 1], MEDIA_PORT)))
    }

    /// Where sipp looks for what it plays.
    fn link_media(&self) -> Result<()> {
        let media = self.scratch.file("pcap");
        if media.exists() {
            return Ok(());
        }
        std::os::unix::fs::symlink("/usr/share/sip-tester", &media)
            .context(|| "cannot link sipp's media files".to_owned())
    }
}

/// Calls on their way.
pub struct Calls {
    processes: Vec<Running>,
}

impl Calls {
    /// Waits until every call has ended as its scenario wants it.
    pub fn succeed(mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(|call| call.succeed(Duration::from_secs(70)))
    }
}

impl Laboratory {
    /// Takes everything down, logs included.
    pub fn passed(self) {
        let Laboratory { scratch, .. } = self;
        scratch.passed();
    }

    /// Fails when a helper outside the guest has died, so that its silence is not taken for the plane's.
    pub fn check_sinks(&mut self) -> Result<()> {
        for sink in &mut self.sinks {
            if sink.ended().is_some() {
                return Err(sink.failure("ended before the test did"));
            }
        }
        Ok(())
    }
}

/// True when the guest's NIC sent the frame.
pub fn from_guest(frame: &Frame) -> bool {
    frame.source_mac == Nic::mac(0)
}

fn sink(address: &str, outside: &Namespace, scratch: &Scratch, label: &str) -> Result<Running> {
    Program::new("socat")
        .args("-u")
        .args(address)
        .args("OPEN:/dev/null")
        .inside(outside)
        .start(scratch, label)
}

/// Tests with a VM measure time, so only one runs on a machine at a time.
pub fn alone() -> Result<File> {
    let path = std::env::temp_dir().join("tidegate-vm-test.lock");
    let file = File::create(&path).context(|| format!("cannot open {}", path.display()))?;
    file.lock().context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// The tidegate binary of this build, brought up to date first; or the one in the directory that the
/// environment names by `TIDEGATE_BIN_DIR`.
pub fn tidegate() -> Result<plane::Kind> {
    if let Some(directory) = std::env::var_os("TIDEGATE_BIN_DIR") {
        return Ok(plane::Kind::Tidegate(Path::new(&directory).join("tidegate")));
    }
    let test = std::env::current_exe().context(|| "cannot tell this test's own path".to_owned())?;
    let target = test
        .ancestors()
        .nth(2)
        .ok_or_else(|| Failure::new(format!("{} is in no target directory", test.display())))?;
    let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let profile = if name == "debug" { "dev" } else { &name };
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let output = Command::new(env!("CARGO"))
        // The whole workspace, as scripts/test builds it: another choice of packages has other features, and
        // builds half of everything anew.
        .args(["build", "--quiet", "--workspace", "--bins"])
        .args(["--profile", profile])
        .args(["--manifest-path", manifest])
        .output()
        .context(|| "cannot run cargo to build tidegate".to_owned())?;
    crate::ensure!(
        output.status.success(),
        "tidegate does not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let binary: PathBuf = target.join("tidegate");
    run(&format!("{} --version", binary.display()))?;
    Ok(plane::Kind::Tidegate(binary))
}
