//! One of the two hosts: a plane and a QEMU that waits for a state, with its own memory.

use std::fs::{self, OpenOptions};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::network::{Network, Side, wire};
use crate::control_client::ControlClient;
use crate::failure::{Context, Failure, Result};
use crate::guest_image::{GuestImage, Service};
use crate::plane::GUEST;
use crate::process::{Program, Running};
use crate::qemu::{self, Guest, Nic};
use crate::qmp::Qmp;
use crate::scratch::Scratch;
use crate::wall_clock::wait_until;

/// The teller, its iperf3 servers and the phone fit in; the relay's libraries are 190 MiB, and at boot they are there
/// twice.
const fn memory_mib(service: Service) -> u32 {
    match service {
        Service::Relay => 512,
        Service::Echo | Service::Accounts | Service::Router => 128,
    }
}
const STARTS_WITHIN: Duration = Duration::from_secs(20);
const BOOTS_WITHIN: Duration = Duration::from_secs(120);

/// A quota that nothing here comes near.
pub const HOLD_FRAMES: u32 = 8192;

/// What the teller does, see `bin/teller.rs`; for the guest with commas between the words.
pub const TELLER_WORDS: &str =
    "tcp=10.9.0.2:5100 sip=10.9.0.2:5070 media=6400 pbx=10.9.0.2:5060 marks=10.9.0.1:9700";
/// What else the guest does: see `guest/init.sh`.
const WORDS: &str = "tg.nic0=10.9.0.2/24 tg.accounts=10.9.0.2 tg.phone=10.9.0.2 tg.teller=";
/// What a guest does that relays. A tmpfs would take half of the memory at most.
const RELAY_WORDS: &str = "rootfstype=ramfs tg.nic0=10.9.0.2/24 tg.relay=10.9.0.2 tg.accounts=10.9.0.2";

/// Waits for both iperf3s, and for the teller and the phone or the proxy.
fn listens(service: Service) -> String {
    let ports = if service == Service::Relay { "5060 5201 5202" } else { "5060 5100 5201 5202 5081" };
    format!("for port in {ports}; do until netstat -ltn | grep -q \":$port \"; do usleep 20000; done; done")
}

/// What one side of a trial is started with.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// The `tidegate` program.
    pub tidegate: &'a Path,
    /// The guest's kernel and user space.
    pub image: &'a GuestImage,
    /// The plane's policy.
    pub policy: &'a str,
    /// More lines of the guest's table in the planes' configuration.
    pub guest: &'a str,
    /// Its lane's quota of frames.
    pub hold_frames: u32,
}

/// A plane.
pub struct Plane {
    running: Running,
    runtime: PathBuf,
    scratch: Scratch,
}

impl Plane {
    /// Starts it; it is not up yet.
    fn start(setting: &Setting<'_>, network: &Network, side: Side) -> Result<Plane> {
        let scratch = Scratch::new()?;
        let prefix = scratch.path().file_name().map(|name| name.to_string_lossy().into_owned());
        let prefix = prefix.unwrap_or_default();
        let file = scratch.file("tidegate.toml");
        fs::write(&file, configuration(setting, side, &prefix, &scratch))
            .context(|| format!("cannot write {}", file.display()))?;
        let running = Program::new(setting.tidegate)
            .args("run --config")
            .arg(file.display().to_string())
            .inside(&network.hosts[side])
            .start(&scratch, "plane")?;
        Ok(Plane { running, runtime: Path::new("/var/run/dpdk").join(prefix), scratch })
    }

    fn wait_until_up(&mut self) -> Result<()> {
        // The control socket is there before the ports are.
        let (control, guest) = (self.control_socket(), self.scratch.file("vhost.sock"));
        let up = wait_until(STARTS_WITHIN, Duration::from_millis(5), || {
            (guest.exists() && UnixStream::connect(&control).is_ok()) || self.running.ended().is_some()
        });
        if !up || self.running.ended().is_some() {
            return Err(self.running.failure("did not start"));
        }
        Ok(())
    }

    /// Its control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.scratch.file("control.sock")
    }

    /// A connection to it.
    pub fn control(&self) -> Result<ControlClient> {
        ControlClient::connect(&self.control_socket(), STARTS_WITHIN)
            .map_err(|failure| self.running.failure(&failure.to_string()))
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.running.kill();
        let _ = fs::remove_dir_all(&self.runtime);
    }
}

/// See the module's head.
pub struct Host {
    /// The guest, or the place where it will be.
    pub guest: Guest,
    /// Its plane.
    pub plane: Plane,
}

impl Host {
    /// Starts both hosts; their guests wait for a state.
    pub fn pair(setting: &Setting<'_>, network: &Network) -> Result<[Host; 2]> {
        // EAL's start is mostly waiting: both at once.
        let mut planes = [Plane::start(setting, network, 0)?, Plane::start(setting, network, 1)?];
        planes.iter_mut().try_for_each(Plane::wait_until_up)?;
        let [first, second] = planes;
        let host = |plane: Plane| {
            let guest = Guest::start(&guest_plan(setting, &plane, true), &plane.scratch, "qemu")?;
            Ok(Host { guest, plane })
        };
        Ok([host(first)?, host(second)?])
    }

    /// Starts host A alone, with nobody to take over; its guest waits for a state.
    pub fn single(setting: &Setting<'_>, network: &Network) -> Result<Host> {
        let mut plane = Plane::start(setting, network, 0)?;
        plane.wait_until_up()?;
        let guest = Guest::start(&guest_plan(setting, &plane, true), &plane.scratch, "qemu")?;
        Ok(Host { guest, plane })
    }

    /// Starts host A with a guest that boots, and waits until it is ready.
    pub fn boot(setting: &Setting<'_>, network: &Network) -> Result<Host> {
        let mut plane = Plane::start(setting, network, 0)?;
        plane.wait_until_up()?;
        let guest = Guest::start(&guest_plan(setting, &plane, false), &plane.scratch, "qemu")?;
        let mut host = Host { guest, plane };
        let deadline = Instant::now() + BOOTS_WITHIN;
        while !host.guest.ready(1)? {
            if Instant::now() > deadline {
                return Err(host.guest.complaint(&format!("was not ready within {BOOTS_WITHIN:?}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // What is started in the background may not listen yet.
        host.guest.command(&listens(setting.image.service), BOOTS_WITHIN)?;
        Ok(host)
    }

    /// The plane's process and QEMU's.
    pub fn pids(&mut self) -> (u32, u32) {
        (self.plane.running.pid(), self.guest.process().pid())
    }

    /// Another QEMU in the place of the one that was: it waits for a state. Its NIC has these properties too.
    pub fn renew_guest(&mut self, setting: &Setting<'_>, properties: &str) -> Result<()> {
        self.guest.process().kill();
        let mut plan = guest_plan(setting, &self.plane, true);
        plan.nics.iter_mut().for_each(|nic| nic.properties.push_str(properties));
        self.guest = Guest::start(&plan, &self.plane.scratch, "qemu-again")?;
        Ok(())
    }

    /// Its directory: sockets, logs.
    pub fn scratch(&self) -> &Scratch {
        &self.plane.scratch
    }

    /// The trial was as it should be: nobody will want to read the logs.
    pub fn passed(&mut self) {
        self.plane.scratch.forget();
    }
}

fn guest_plan(setting: &Setting<'_>, plane: &Plane, waits: bool) -> qemu::Plan {
    let words = match setting.image.service {
        Service::Relay => RELAY_WORDS.to_owned(),
        Service::Echo | Service::Accounts | Service::Router => {
            format!("{WORDS}{}", TELLER_WORDS.replace(' ', ","))
        }
    };
    qemu::Plan {
        image: setting.image.clone(),
        memory_mib: memory_mib(setting.image.service),
        nics: vec![Nic {
            socket: plane.scratch.file("vhost.sock"),
            server: false,
            mac: Nic::mac(0),
            properties: String::new(),
        }],
        words,
        waits,
    }
}

fn configuration(setting: &Setting<'_>, side: Side, prefix: &str, scratch: &Scratch) -> String {
    let Setting { policy, guest: more, hold_frames, .. } = setting;
    let mode = ["open", "muted"][side];
    format!(
        "[eal]\nlcores = [1]\ncontrol_cpus = [0]\nmemory_mb = 128\nhugepages = \"no\"\nidle = \"backoff\"\n\
         file_prefix = \"{prefix}\"\n\n\
         [control]\nsocket = \"{}\"\n\n\
         [[guest]]\nname = \"{GUEST}\"\npolicy = \"{policy}\"\nmode = \"{mode}\"\nreplay_guard = \"all\"\n\
         close_timeout_ms = 250\nsip_ports = [5060, 5070]\nsource = \"socket\"\n{more}\n\
         [[guest.lane]]\nguest_port = \"net_vhost0,iface={},queues=1,client=0\"\n\
         wire_port = \"net_af_packet0,iface={}\"\nlcore = 1\nhold_frames = {hold_frames}\nhold_bytes = \"8MiB\"\n",
        scratch.file("control.sock").display(),
        scratch.file("vhost.sock").display(),
        wire(side),
    )
}

/// A guest that has booted and waits for its clients: its devices' state and its memory. Every trial begins with it.
pub struct Snapshot {
    files: Scratch,
}

impl Snapshot {
    /// Boots a guest, and keeps it.
    pub fn take(setting: &Setting<'_>, network: &Network) -> Result<Snapshot> {
        let files = Scratch::under(Path::new("/dev/shm"))?;
        let mut host = Host::boot(setting, network)?;
        let mut qmp = host.guest.second_monitor()?;
        qmp.stop()?;
        save(&mut qmp, &files.file("devices"))?;
        let memory = files.file("memory");
        fs::copy(host.guest.memory(), &memory).context(|| format!("cannot write {}", memory.display()))?;
        host.passed();
        Ok(Snapshot { files })
    }

    /// Lets a host's waiting QEMU run it.
    pub fn run(&self, host: &Host) -> Result<()> {
        // QEMU greets when its machine is made: what that writes to memory is overwritten here.
        let mut qmp = host.guest.second_monitor()?;
        copy_memory(&self.files.file("memory"), host.guest.memory())?;
        load(&mut qmp, &self.files.file("devices"))?;
        qmp.resume()
    }
}

/// Copies a memory file into another that QEMU has mapped.
pub fn copy_memory(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("cannot copy {} to {}", from.display(), to.display());
    let mut source = fs::File::open(from).context(what)?;
    let mut target = OpenOptions::new().write(true).open(to).context(what)?;
    std::io::copy(&mut source, &mut target).context(what).map(drop)
}

fn ignore_shared(qmp: &mut Qmp) -> Result<()> {
    let capability = json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] });
    qmp.execute("migrate-set-capabilities", capability)?;
    // The default, 128 MiB/s, is checked every 100 ms only.
    qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": 100_000_000_000_u64 })).map(drop)
}

/// Writes the devices' state of a paused VM.
pub fn save(qmp: &mut Qmp, file: &Path) -> Result<()> {
    ignore_shared(qmp)?;
    qmp.execute("migrate", json!({ "uri": format!("exec:cat > {}", file.display()) }))?;
    let mut status = String::new();
    wait_until(Duration::from_secs(20), Duration::from_millis(1), || {
        let told = qmp.execute("query-migrate", json!({})).unwrap_or_default();
        status = told["status"].as_str().unwrap_or("").to_owned();
        matches!(status.as_str(), "completed" | "failed")
    });
    crate::ensure!(status == "completed", "QEMU's state was not saved: {status}");
    Ok(())
}

/// Loads the devices' state into a QEMU that waits; the VM is paused then.
pub fn load(qmp: &mut Qmp, file: &Path) -> Result<()> {
    ignore_shared(qmp)?;
    qmp.execute("migrate-incoming", json!({ "uri": format!("exec:cat {}", file.display()) }))?;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match qmp.status()?.as_str() {
            "inmigrate" if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            "paused" | "postmigrate" | "running" => return Ok(()),
            other => return Err(Failure::new(format!("QEMU is {other:?} after a state was loaded"))),
        }
    }
}
