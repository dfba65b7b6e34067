//! Under which conditions something was measured: stated with every figure, because a figure means nothing without.

use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::process::Command;

/// See the module's head. What cannot be told is an empty text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// Model and number of the CPUs.
    pub cpu: String,
    /// GiB of memory.
    pub memory_gib: u64,
    /// The machine is itself virtual.
    pub virtual_machine: bool,
    /// The kernel's release.
    pub kernel: String,
    /// Version of tidegate.
    pub tidegate: String,
    /// Version of libdpdk.
    pub dpdk: String,
    /// Version of QEMU.
    pub qemu: String,
    /// How the VM runs.
    pub accelerator: String,
    /// Ports and rings between the VM and the peer.
    pub path: String,
    /// What stamps the packets, and where.
    pub stamps: String,
    /// Load average of the last minute before it began.
    pub load: String,
}

impl Conditions {
    /// Of this machine now.
    pub fn now(tidegate: &Path, vm: bool) -> Conditions {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib: u64 =
            field(&meminfo, "MemTotal").split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
        let path = if vm {
            "virtio-net (split ring, mergeable), vhost-user, one lane on plain pages with idle back-off, \
             af_packet, veth, bridge"
        } else {
            "veth, bridge"
        };
        Conditions {
            cpu: format!("{} x {}", cpus, field(&cpuinfo, "model name")),
            memory_gib: kib.div_ceil(1 << 20),
            virtual_machine: field(&cpuinfo, "flags").split(' ').any(|flag| flag == "hypervisor"),
            kernel: line_of("uname", &["-sr"]),
            tidegate: line_of(&tidegate.display().to_string(), &["--version"]),
            dpdk: line_of("pkg-config", &["--modversion", "libdpdk"]),
            qemu: if vm { line_of("qemu-system-x86_64", &["--version"]) } else { String::new() },
            accelerator: if vm { "software emulation (tcg)".into() } else { String::new() },
            path: path.into(),
            stamps: "software stamps: the kernel's, by tcpdump at the peer's bridge port".into(),
            load: fs::read_to_string("/proc/loadavg")
                .unwrap_or_default()
                .split(' ')
                .next()
                .unwrap_or_default()
                .into(),
        }
    }

    /// The machine in one line.
    pub fn machine(&self) -> String {
        let kind = if self.virtual_machine { "a virtual machine" } else { "a physical machine" };
        format!("{}, {} GiB, {kind}, {}", self.cpu, self.memory_gib, self.kernel)
    }
}

/// The first line of what a program says.
fn line_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().map(|output| output.stdout);
    String::from_utf8_lossy(&output.unwrap_or_default()).lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_and_a_cpu() {
        let conditions = Conditions::now(Path::new("/bin/true"), false);
        assert!(conditions.kernel.starts_with("Linux"), "{conditions:?}");
        assert!(conditions.memory_gib > 0 && conditions.machine().contains("GiB"));
        assert_eq!(conditions.qemu, "");
        assert_eq!(line_of("no-such-program-here", &[]), "");
    }
}
