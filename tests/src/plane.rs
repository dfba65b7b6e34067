//! The data plane under test, as a process: the one place that knows how it is started.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::control_client::ControlClient;
use crate::failure::{Failure, Result};
use crate::process::{Program, Running};
use crate::scratch::Scratch;
use crate::wall_clock::wait_until;

const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// A busy machine takes the lcore off its CPU for longer than the default allows for.
const CLOSE_TIMEOUT_MS: u64 = 250;

/// The guest's own, and those of the phones that its proxy connects to by TCP.
const SIP_PORTS: [u16; 3] = [5060, 5090, 5100];

/// Which program stands between guest and wire.
#[derive(Debug, Clone)]
pub enum Kind {
    /// DPDK's testpmd: passes every frame at once. The laboratory is tested against it, and the oracle:
    /// it must find frames that leave too early there.
    Forwarder,
    /// tidegate, with this binary.
    Tidegate(PathBuf),
}

/// Who says when epochs end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The test, over the control socket.
    Socket,
    /// tidegate's own clock: an epoch lasts `interval_ms`, its commit comes `delay_ms` after its end.
    Timer {
        /// Length of an epoch, milliseconds.
        interval_ms: u64,
        /// From an epoch's end to its commit, milliseconds.
        delay_ms: u64,
    },
}

/// How a plane is to be started.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Which program.
    pub kind: Kind,
    /// The interface that is its wire port.
    pub wire: String,
    /// The policy it begins with.
    pub policy: String,
    /// Where its epochs come from.
    pub source: Source,
    /// QEMU is the vhost-user server and the plane connects to it; the other way round otherwise.
    pub client: bool,
}

/// A running plane.
pub struct Plane {
    running: Running,
    runtime: PathBuf,
    kind: Kind,
    guest_socket: PathBuf,
    control_socket: PathBuf,
}

/// The name the one guest has in these tests.
pub const GUEST: &str = "g0";

impl Plane {
    /// Starts the plane and waits until it can be talked to. `label` names its log.
    pub fn start(plan: &Plan, scratch: &Scratch, label: &str) -> Result<Plane> {
        let guest_socket = scratch.file("vhost.sock");
        let control_socket = scratch.file("control.sock");
        let client = u8::from(plan.client);
        let guest_port = format!("net_vhost0,iface={},queues=1,client={client}", guest_socket.display());
        let wire_port = format!("net_af_packet0,iface={}", plan.wire);
        let program = match &plan.kind {
            Kind::Forwarder => Program::new("dpdk-testpmd")
                .args("-l 0,1 --no-huge -m 256 --no-pci --no-telemetry")
                .arg(format!("--file-prefix={}", prefix(scratch)))
                .arg(format!("--vdev={guest_port}"))
                .arg(format!("--vdev={wire_port}"))
                .args("-- --forward-mode=io --auto-start --total-num-mbufs=8192"),
            Kind::Tidegate(binary) => {
                let config = scratch.file("tidegate.toml");
                std::fs::write(
                    &config,
                    configuration(plan, &prefix(scratch), &guest_port, &wire_port, &control_socket),
                )
                .map_err(|error| Failure::new(format!("cannot write {}: {error}", config.display())))?;
                Program::new(binary).args("run --config").arg(config.display().to_string())
            }
        };
        let mut plane = Plane {
            running: program.start(scratch, label)?,
            runtime: Path::new("/var/run/dpdk").join(prefix(scratch)),
            kind: plan.kind.clone(),
            guest_socket,
            control_socket,
        };
        plane.wait_until_up(plan.client)?;
        Ok(plane)
    }

    fn wait_until_up(&mut self, client: bool) -> Result<()> {
        let (guest, control) = (self.guest_socket.clone(), self.control_socket.clone());
        let gated = matches!(self.kind, Kind::Tidegate(_));
        let up = wait_until(STARTS_WITHIN, Duration::from_millis(10), || {
            // A socket's file outlives a plane that was killed: only a connection tells.
            let answers =
                if gated { UnixStream::connect(&control).is_ok() } else { client || guest.exists() };
            answers || self.running.ended().is_some()
        });
        match (up, self.running.ended()) {
            (true, None) => Ok(()),
            (_, Some(status)) => Err(self.running.failure(&format!("ended at once with {status}"))),
            (false, None) => {
                Err(self.running.failure(&format!("was not to be talked to within {STARTS_WITHIN:?}")))
            }
        }
    }

    /// The vhost-user socket.
    pub fn guest_socket(&self) -> &Path {
        &self.guest_socket
    }

    /// A new connection to the control socket.
    pub fn control(&self) -> Result<ControlClient> {
        ControlClient::connect(&self.control_socket, STARTS_WITHIN)
            .map_err(|failure| self.running.failure(&failure.to_string()))
    }

    /// The process, for its log and its pid.
    pub fn process(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Asks the plane to end; an exit with another status than 0 is a failure.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.running.stop(Signal::SIGTERM, Duration::from_secs(10))?;
        if status.success() {
            return Ok(());
        }
        Err(self.running.failure(&format!("ended with {status} when asked to")))
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.running.kill();
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.running.kill();
        // One that was killed leaves EAL's runtime directory behind.
        let _ = std::fs::remove_dir_all(&self.runtime);
    }
}

/// EAL's runtime directory has this name: one a scratch directory.
fn prefix(scratch: &Scratch) -> String {
    scratch.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The configuration file. Idle back-off leaves a core to the emulated guest on a machine with two.
fn configuration(
    plan: &Plan,
    file_prefix: &str,
    guest_port: &str,
    wire_port: &str,
    control_socket: &Path,
) -> String {
    let source = match plan.source {
        Source::Socket => "source = \"socket\"".to_owned(),
        Source::Timer { interval_ms, delay_ms } => format!(
            "source = \"timer\"\ntimer = {{ interval_ms = {interval_ms}, commit_delay_ms = {delay_ms} }}"
        ),
    };
    format!(
        "[eal]\nlcores = [1]\ncontrol_cpus = [0]\nmemory_mb = 256\nhugepages = \"no\"\nidle = \"backoff\"\n\
         file_prefix = \"{file_prefix}\"\n\n\
         [control]\nsocket = \"{}\"\n\n\
         [[guest]]\nname = \"{GUEST}\"\npolicy = \"{}\"\nmode = \"protected\"\n\
         close_timeout_ms = {CLOSE_TIMEOUT_MS}\nsip_ports = {SIP_PORTS:?}\n{source}\n\n\
         [[guest.lane]]\nguest_port = \"{guest_port}\"\nwire_port = \"{wire_port}\"\nlcore = 1\n",
        control_socket.display(),
        plan.policy,
    )
}
