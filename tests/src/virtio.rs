//! A guest without a virtual machine: a virtio-user port that connects to a vhost-user socket, and the same
//! for whatever stands behind a wire. It needs neither huge pages nor root.
//!
//! The ring path decides speed by a factor of four or five, so it is named, and whoever compares two
//! things uses the same for both.

use std::path::Path;
use std::time::{Duration, Instant};
use tidegate_dataplane::burst::Burst;
use tidegate_dataplane::dpdk::{
    Eal, EalConfig, EalError, EthPort, LogLevel, Mbuf, Memory, Mempool, PortBurst, PortConfig, PortError,
    Role,
};
use tidegate_dataplane::port::Port;

/// Between two looks at a link.
const LOOK: Duration = Duration::from_millis(1);

/// How a driver and its device talk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RingPath {
    /// Packed rings, in order, no mergeable buffers: what the fast paths of both sides are made for.
    #[default]
    Packed,
    /// Split rings with mergeable buffers: what older guests negotiate.
    Split,
}

impl RingPath {
    const fn devargs(self) -> &'static str {
        match self {
            RingPath::Packed => "packed_vq=1,in_order=1,mrg_rxbuf=0,queue_size=1024",
            RingPath::Split => "packed_vq=0,in_order=0,mrg_rxbuf=1,queue_size=1024",
        }
    }

    /// The word used in logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            RingPath::Packed => "packed",
            RingPath::Split => "split",
        }
    }
}

/// DPDK for a guest process: `mb` MiB of ordinary memory that can be shared with the vhost side, no PCI.
/// The calling thread does the work; the worker lcore on `cpu` sleeps unless something is launched on it.
pub fn start_eal(mb: u32, cpu: u32) -> Result<Eal, EalError> {
    let mut config = EalConfig::new(vec![cpu], Memory::NoHuge { mb });
    // The vhost side maps this memory; in many small files it would be too many regions for it.
    config.extra.push("--single-file-segments".into());
    config.file_prefix = format!("guest-{}", std::process::id());
    config.log = LogLevel::Error;
    Eal::init(&config)
}

/// The CPUs that this process may use, rising.
pub fn cpus() -> Vec<u32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or("0");
    let mut cpus = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            cpus.extend(first..=last);
        }
    }
    cpus
}

/// An open port of this process, used by one thread.
#[derive(Debug)]
pub struct VirtioPort {
    // Before `port`: a port is not closed while a burst end of it is out.
    burst: PortBurst,
    port: EthPort,
}

impl VirtioPort {
    /// Connects to the vhost-user socket at `socket`, which must exist. `number` tells this process's
    /// virtio-user devices apart.
    pub fn connect(
        eal: &Eal,
        pool: &Mempool,
        number: u16,
        socket: &Path,
        rings: RingPath,
    ) -> Result<VirtioPort, PortError> {
        // An address of our own: the driver makes one up otherwise, and says so each time.
        let [high, low] = number.to_be_bytes();
        let spec = format!(
            "net_virtio_user{number},path={},mac=02:00:00:01:{high:02x}:{low:02x},{}",
            socket.display(),
            rings.devargs()
        );
        VirtioPort::open(eal, pool, &spec, Role::Wire)
    }

    /// Opens any port by its devargs.
    pub fn open(eal: &Eal, pool: &Mempool, spec: &str, role: Role) -> Result<VirtioPort, PortError> {
        let port = EthPort::open(eal, PortConfig::new(spec, role, pool.clone()))?;
        let burst = port.lane_port().ok_or_else(|| PortError::Lent(port.name().to_owned()))?;
        Ok(VirtioPort { burst, port })
    }

    /// True while frames can pass.
    pub fn is_up(&self) -> bool {
        self.port.link().up
    }

    /// Waits until frames can pass; false when they cannot `within` that time.
    pub fn wait_up(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while !self.is_up() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(LOOK);
        }
        true
    }

    /// Sends from the front of `frames`; what the ring has no room for stays.
    #[inline]
    pub fn send(&mut self, frames: &mut Burst<Mbuf>) -> usize {
        self.burst.transmit(0, frames)
    }

    /// Appends what has come to `frames`, as far as there is room.
    #[inline]
    pub fn receive(&mut self, frames: &mut Burst<Mbuf>) -> usize {
        self.burst.receive(0, frames)
    }

    /// The port, for its counters.
    pub fn port(&self) -> &EthPort {
        &self.port
    }

    /// Takes the device away, as a guest's driver does: its rings stop (GET_VRING_BASE), then the connection
    /// ends. Frames that the other side has not fetched are lost.
    pub fn close(self) -> Result<(), PortError> {
        let VirtioPort { burst, mut port } = self;
        drop(burst);
        port.close()
    }
}
