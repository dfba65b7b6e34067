//! Why a port cannot be opened or closed, and what to do about it.

use std::ffi::CString;
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use tidegate_devargs::Devargs;

/// Longest path that a Unix socket's address can have.
const LONGEST_PATH: usize = 107;

/// See the module's head; `Display` says what was wrong, where, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortError {
    /// The port's name cannot be understood.
    Spec {
        /// As written.
        spec: String,
        /// What is wrong with it.
        why: String,
    },
    /// The driver has no such argument.
    Argument {
        /// The port.
        name: String,
        /// The argument.
        key: String,
        /// Those that it has, with blanks between them.
        known: &'static str,
    },
    /// The driver refused the port and gave no reason that says anything; most often a value is wrong.
    Refused(String),
    /// DPDK has no such driver.
    NoDriver(String),
    /// A port of this name is open.
    Exists(String),
    /// There is no such network interface.
    NoInterface(String),
    /// There is no such PCI device.
    NoDevice(String),
    /// EAL was not allowed to touch this PCI device.
    NotAllowed(String),
    /// The NIC belongs to a driver of the kernel.
    KernelDriver {
        /// PCI address.
        address: String,
        /// The driver that has it; empty for none.
        driver: String,
    },
    /// The socket's path cannot be used.
    Socket {
        /// The path.
        path: String,
        /// Why, and what to do.
        why: String,
    },
    /// The device wants more rights than this process has.
    Permission(String),
    /// More queues than the device has.
    Queues {
        /// The port.
        name: String,
        /// Queue pairs asked for.
        asked: u16,
        /// Queue pairs there are.
        has: u16,
    },
    /// A larger MTU than the device has.
    Mtu {
        /// The port.
        name: String,
        /// Bytes asked for.
        asked: u16,
        /// Bytes there are.
        has: u32,
    },
    /// The pool's mbufs are too small for a driver that does not chain.
    DataRoom {
        /// The port.
        name: String,
        /// Bytes needed of each mbuf.
        needs: u32,
        /// Bytes there are.
        has: u16,
    },
    /// A step of bringing the port up failed.
    Step {
        /// The port.
        name: String,
        /// Which step.
        step: &'static str,
        /// DPDK's errno.
        errno: i32,
    },
    /// A lane still has the port's [`super::PortBurst`].
    Lent(String),
    /// The transmit thread is blocked in the driver.
    Stuck(String),
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortError::Spec { spec, why } => write!(
                f,
                "port {spec:?}: {why}; write a PCI address or a driver with its arguments, as in net_vhost0,iface=/run/tidegate/vm1.sock"
            ),
            PortError::Argument { name, key, known } => write!(
                f,
                "port {name}: its driver has no argument `{key}`; it has {}",
                known.replace(' ', ", ")
            ),
            PortError::Refused(name) => write!(
                f,
                "port {name}: its driver refused it; look at the values of its arguments, and at DPDK's own message above on standard error"
            ),
            PortError::NoDriver(name) => write!(
                f,
                "port {name}: this DPDK has no such driver; net_vhost, net_af_packet, net_af_xdp and net_tap are the usual ones, and /usr/lib/*/dpdk/pmds-* lists what is installed"
            ),
            PortError::Exists(name) => write!(
                f,
                "port {name}: a port of this name is open already; give each port its own number, as in net_vhost1"
            ),
            PortError::NoInterface(name) => write!(
                f,
                "there is no network interface {name} here; `ip link` lists those of this network namespace"
            ),
            PortError::NoDevice(address) => {
                write!(f, "there is no PCI device {address}; `lspci -D | grep -i net` lists them")
            }
            PortError::NotAllowed(address) => write!(
                f,
                "DPDK did not take the PCI device {address} at start; its own message above on standard error says why (`tidegate doctor` looks at the IOMMU and at vfio)"
            ),
            PortError::KernelDriver { address, driver } if driver.is_empty() => {
                write!(f, "the NIC {address} has no driver; bind it to vfio-pci: {}", bind(address))
            }
            PortError::KernelDriver { address, driver } => write!(
                f,
                "the NIC {address} belongs to the kernel's driver {driver}; give it to DPDK with {} (it disappears from `ip link`)",
                bind(address)
            ),
            PortError::Socket { path, why } => write!(f, "vhost-user socket {path}: {why}"),
            PortError::Permission(name) => write!(
                f,
                "port {name} needs more rights (CAP_NET_RAW and CAP_NET_ADMIN for kernel devices): run as root or as the systemd unit does"
            ),
            PortError::Queues { name, asked, has } => {
                write!(f, "port {name} has {has} queue pairs, not {asked}: lower `queues`")
            }
            PortError::Mtu { name, asked, has } => {
                write!(f, "port {name} has an MTU of {has} at most, not {asked}: lower `mtu`")
            }
            PortError::DataRoom { name, needs, has } => write!(
                f,
                "port {name} needs mbufs of {needs} bytes for this MTU and its mempool has {has}: make the pool with data_room = {needs}, or lower the MTU"
            ),
            PortError::Step { name, step, errno } => write!(
                f,
                "port {name}: {step} failed: {}; DPDK's own message stands above on standard error",
                std::io::Error::from_raw_os_error(*errno)
            ),
            PortError::Lent(name) => {
                write!(f, "port {name} is still in a lane's hands: let the lane leave before you close it")
            }
            PortError::Stuck(name) => write!(
                f,
                "port {name}: the driver waits for a guest that does not read; the port stays open until the process ends"
            ),
        }
    }
}

impl std::error::Error for PortError {}

/// The command that gives a NIC to DPDK, as it is called in the tree and where it is installed.
fn bind(address: &str) -> String {
    format!("`scripts/nic bind {address}` (installed: /usr/local/lib/tidegate/nic)")
}

/// Takes a port's specification apart.
pub(super) fn parse(spec: &str) -> Result<Devargs, PortError> {
    Devargs::parse(spec).map_err(|why| PortError::Spec { spec: spec.to_owned(), why })
}

/// Finds, before DPDK is asked, what it would refuse with less of a reason. Removes a stale socket.
pub(super) fn examine(devargs: &Devargs) -> Result<(), PortError> {
    if devargs.is_pci() {
        return examine_nic(&devargs.name);
    }
    match devargs.kind() {
        "vhost" => {
            let path = wanted(devargs, "iface", "the path of its socket")?;
            let client = devargs.get("client").is_some_and(|client| client != "0");
            if client { examine_path(path) } else { clear_socket(path) }
        }
        "virtio_user" => {
            let path = wanted(devargs, "path", "the path of a vhost-user socket")?;
            let there = Path::new(path).exists() || devargs.get("server") == Some("1");
            if there { Ok(()) } else { Err(socket(path, "it does not exist; start its server first")) }
        }
        "af_packet" | "af_xdp" => {
            let interface = wanted(devargs, "iface", "a network interface")?;
            if index_of(interface) != 0 { Ok(()) } else { Err(PortError::NoInterface(interface.to_owned())) }
        }
        _ => Ok(()),
    }
}

/// Why DPDK refused a device that looked right.
pub(super) fn explain(devargs: &Devargs, errno: i32) -> PortError {
    const EPERM: i32 = 1; // Also -1, with which drivers say "no" to anything.
    const EEXIST: i32 = 17;
    let name = || devargs.name.clone();
    if devargs.is_pci() {
        return PortError::NotAllowed(name());
    }
    if errno == EEXIST {
        return PortError::Exists(name());
    }
    let known = ["vhost", "virtio_user", "af_packet", "af_xdp", "tap", "ring", "null", "pcap"]
        .contains(&devargs.kind());
    if !known {
        return PortError::NoDriver(name());
    }
    if let Some((key, known)) = devargs.unknown() {
        return PortError::Argument { name: name(), key: key.to_owned(), known };
    }
    let kernel = matches!(devargs.kind(), "af_packet" | "af_xdp" | "tap");
    if kernel && !may_administer() {
        return PortError::Permission(name());
    }
    match errno {
        EPERM => PortError::Refused(devargs.text()),
        errno => PortError::Step { name: devargs.text(), step: "opening the device", errno },
    }
}

fn wanted<'a>(devargs: &'a Devargs, key: &str, what: &str) -> Result<&'a str, PortError> {
    devargs
        .get(key)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| PortError::Spec { spec: devargs.text(), why: format!("{key}= is missing: {what}") })
}

fn socket(path: &str, why: &str) -> PortError {
    PortError::Socket { path: path.to_owned(), why: why.to_owned() }
}

fn examine_path(path: &str) -> Result<(), PortError> {
    if path.len() > LONGEST_PATH {
        return Err(socket(
            path,
            &format!("it is longer than {LONGEST_PATH} bytes; choose a shorter directory"),
        ));
    }
    let directory = Path::new(path).parent().filter(|dir| !dir.as_os_str().is_empty());
    if !directory.unwrap_or(Path::new(".")).is_dir() {
        return Err(socket(path, "its directory does not exist; make it (mkdir -m 0700) or choose another"));
    }
    Ok(())
}

/// Makes way for a server's socket. A path on which somebody listens, or which is no socket, is left
/// alone; a socket that a dead process left behind is removed, for `bind` would fail on it.
fn clear_socket(path: &str) -> Result<(), PortError> {
    examine_path(path)?;
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        return Err(socket(path, "something that is no socket is there; remove it or choose another path"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(socket(
            path,
            "another process listens there; stop it or choose another path (`ss -xlp` shows which one)",
        )),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .map_err(|error| socket(path, &format!("it is stale and cannot be removed: {error}"))),
        Err(error) => Err(socket(path, &format!("it cannot be tried: {error}"))),
    }
}

fn examine_nic(address: &str) -> Result<(), PortError> {
    examine_nic_of(Path::new("/"), address)
}

fn examine_nic_of(root: &Path, address: &str) -> Result<(), PortError> {
    /// Drivers under which DPDK can have the device; the mlx ones and mana stay with the kernel at the same time.
    const OURS: [&str; 6] = ["vfio-pci", "uio_pci_generic", "igb_uio", "mlx4_core", "mlx5_core", "mana"];
    let device = root.join("sys/bus/pci/devices").join(address);
    if !device.exists() {
        return Err(PortError::NoDevice(address.to_owned()));
    }
    let driver = std::fs::read_link(device.join("driver")).ok();
    let driver =
        driver.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
    if OURS.contains(&driver) {
        return Ok(());
    }
    Err(PortError::KernelDriver { address: address.to_owned(), driver: driver.to_owned() })
}

/// The interface's number in this network namespace, 0 for none.
fn index_of(interface: &str) -> u32 {
    let Ok(name) = CString::new(interface) else { return 0 };
    // SAFETY: reads a NUL-terminated name.
    unsafe { dpdk_sys::if_nametoindex(name.as_ptr()) }
}

/// This process may open packet sockets and change interfaces: CAP_NET_ADMIN (12) and CAP_NET_RAW (13).
fn may_administer() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    effective.is_none_or(|bits| bits >> 12 & 0b11 == 0b11)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(spec: &str, errno: i32) -> String {
        explain(&parse(spec).unwrap(), errno).to_string()
    }

    #[test]
    fn an_argument_that_the_driver_has_not_is_no_lack_of_rights() {
        let said = explained("net_vhost0,iface=/x.sock,foo=bar", 1);
        assert!(said.contains("no argument `foo`") && said.contains("iface, queues, client"), "{said}");
        let said = explained("net_vhost0,iface=/x.sock,queues=many", 1);
        assert!(said.contains("values of its arguments") && !said.contains("rights"), "{said}");
        assert!(explained("net_nothing0,foo=bar", 1).contains("no such driver"));
    }

    #[test]
    fn a_nic_that_the_kernel_drives_comes_with_the_command_that_takes_it() {
        let root = std::env::temp_dir().join(format!("tidegate-nic-{}", std::process::id()));
        let drives = |driver: &str| {
            let device = root.join("sys/bus/pci/devices/0000:00:03.0");
            let _ = std::fs::remove_dir_all(&root);
            std::fs::create_dir_all(&device).unwrap();
            std::os::unix::fs::symlink(format!("../drivers/{driver}"), device.join("driver")).unwrap();
            examine_nic_of(&root, "0000:00:03.0")
        };
        assert_eq!(drives("vfio-pci"), Ok(()));
        for kernels in ["e1000e", "virtio-pci"] {
            let said = drives(kernels).unwrap_err().to_string();
            assert!(said.contains(kernels) && said.contains("scripts/nic bind 0000:00:03.0"), "{said}");
            assert!(said.contains("/usr/local/lib/tidegate/nic") && !said.contains("pci list"), "{said}");
        }
        std::fs::remove_dir_all(&root).unwrap();
        assert!(!explained("0000:00:03.0", 19).contains("pci list"));
    }
}
