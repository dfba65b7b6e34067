//! IOMMU, VFIO and the drivers that NICs are bound to.

use super::{Check, Host};

pub(super) fn checks(host: &Host) -> Vec<Check> {
    vec![iommu(host), vfio(host), drivers(host)]
}

fn groups(host: &Host) -> usize {
    host.names("sys/kernel/iommu_groups").len()
}

fn iommu(host: &Host) -> Check {
    match groups(host) {
        0 => Check::warn(
            "iommu",
            "off or absent: a physical NIC cannot be used safely; vhost-user, af_packet and tap ports can",
            "switch VT-d or AMD-Vi on in the firmware, add intel_iommu=on iommu=pt to the kernel's command line, reboot",
        ),
        n => Check::ok("iommu", format!("{n} groups")),
    }
}

fn vfio(host: &Host) -> Check {
    const CHECK: &str = "vfio";
    let driver = host.path("sys/bus/pci/drivers/vfio-pci").exists();
    let device = host.path("dev/vfio/vfio").exists();
    match (driver, device) {
        (true, true) => Check::ok(CHECK, "vfio-pci is loaded"),
        (false, _) => Check::warn(CHECK, "vfio-pci is not loaded: no physical NIC", "modprobe vfio-pci"),
        (true, false) => Check::warn(CHECK, "/dev/vfio/vfio is missing: no physical NIC", "modprobe vfio"),
    }
}

/// Every network card with its driver; one that the kernel uses is not a fault, only not ours yet.
fn drivers(host: &Host) -> Check {
    const CHECK: &str = "nic drivers";
    let mut ours = Vec::new();
    let mut kernels = Vec::new();
    for address in host.names("sys/bus/pci/devices") {
        let device = format!("sys/bus/pci/devices/{address}");
        // PCI class 02: network controllers.
        if !host.text(&format!("{device}/class")).starts_with("0x02") {
            continue;
        }
        let driver = host.link(&format!("{device}/driver")).unwrap_or_else(|| "no driver".into());
        match driver.as_str() {
            "vfio-pci" | "mlx4_core" | "mlx5_core" => ours.push(format!("{address} ({driver})")),
            _ => kernels.push((address, driver)),
        }
    }
    if !ours.is_empty() {
        return Check::ok(CHECK, format!("DPDK can have {}", ours.join(", ")));
    }
    if kernels.is_empty() {
        return Check::ok(CHECK, "no PCI network card; wire ports are af_packet, af_xdp or tap");
    }
    let needed: Vec<Option<String>> = kernels.iter().map(|(address, _)| needed_for(host, address)).collect();
    let list: Vec<String> = (kernels.iter().zip(&needed))
        .map(|((address, driver), needed)| match needed {
            Some(why) => format!("{address} ({driver}; {why}, so `nic` leaves it to the host)"),
            None => format!("{address} ({driver})"),
        })
        .collect();
    let found = format!("the kernel has {}; none is DPDK's", list.join(", "));
    match kernels.iter().zip(&needed).find(|(_, needed)| needed.is_none()) {
        Some(((free, _), _)) => Check::warn(
            CHECK,
            found,
            format!("scripts/nic bind {free} (installed: /usr/local/lib/tidegate/nic)"),
        ),
        None => Check::ok(CHECK, format!("{found}; wire ports are af_packet, af_xdp or tap")),
    }
}

/// Why the host needs a card itself, by the rules of `nic bind`: one of its interfaces has an address, carries the
/// default route, or is part of a bridge or bond.
fn needed_for(host: &Host, address: &str) -> Option<String> {
    let device = format!("sys/bus/pci/devices/{address}");
    let mut interfaces = host.names(&format!("{device}/net"));
    // The interface of a virtio card lies one level deeper.
    for child in host.names(&device).iter().filter(|name| name.starts_with("virtio")) {
        interfaces.extend(host.names(&format!("{device}/{child}/net")));
    }
    interfaces.into_iter().find_map(|interface| {
        let master = host.link(&format!("sys/class/net/{interface}/master"));
        if let Some(master) = master {
            return Some(format!("{interface} is part of {master}"));
        }
        if default_route(host, &interface) {
            return Some(format!("{interface} carries the default route"));
        }
        host.addressed.contains(&interface).then(|| format!("{interface} has an address"))
    })
}

/// The kernel's tables: the interface stands first for IPv4 and last for IPv6, the destination beside it or first.
fn default_route(host: &Host, interface: &str) -> bool {
    let v4 = host.text("proc/net/route").lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(interface)
            && words.next() == Some("00000000")
            && words.nth(5) == Some("00000000")
    });
    // A default that goes to lo is the kernel's own "unreachable".
    let v6 = host.text("proc/net/ipv6_route").lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.last() == Some(&interface) && words.get(..2) == Some(&[&*"0".repeat(32), "00"])
    });
    v4 || v6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn cards_are_told_with_their_drivers_and_other_devices_are_not() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::bare(root.path());
        assert_eq!(drivers(&host).state, State::Ok, "no card at all");
        for (address, class) in [("0000:03:00.0", "0x020000\n"), ("0000:00:1f.2", "0x010601\n")] {
            let device = root.path().join("sys/bus/pci/devices").join(address);
            fs::create_dir_all(&device).expect("made");
            fs::write(device.join("class"), class).expect("written");
            symlink("../../../bus/pci/drivers/e1000e", device.join("driver")).expect("linked");
        }
        let told = drivers(&host);
        assert_eq!((told.state, told.mend.contains("scripts/nic bind 0000:03:00.0")), (State::Warn, true));
        assert!(told.found.contains("0000:03:00.0 (e1000e)") && !told.found.contains("1f.2"), "{told:?}");
        let link = root.path().join("sys/bus/pci/devices/0000:03:00.0/driver");
        fs::remove_file(&link).and_then(|()| symlink("x/vfio-pci", &link)).expect("bound");
        assert_eq!(drivers(&host).state, State::Ok);
    }

    #[test]
    fn a_card_that_the_host_needs_itself_is_not_recommended() {
        let root = tempfile::tempdir().expect("a directory");
        let mut host = Host::bare(root.path());
        for (address, interface) in [("0000:00:03.0", "virtio0/net/eth0"), ("0000:00:04.0", "net/eth1")] {
            let device = root.path().join("sys/bus/pci/devices").join(address);
            fs::create_dir_all(device.join(interface)).expect("made");
            fs::write(device.join("class"), "0x020000\n").expect("written");
        }
        assert!(drivers(&host).mend.contains("bind 0000:00:03.0"), "both are free");
        fs::create_dir_all(root.path().join("proc/net")).expect("made");
        let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n";
        let route = format!("{head}eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n");
        fs::write(root.path().join("proc/net/route"), route).expect("written");
        let told = drivers(&host);
        assert!(told.mend.contains("bind 0000:00:04.0") && told.found.contains("default route"), "{told:?}");
        host.addressed.push("eth1".into());
        let told = drivers(&host);
        assert_eq!((told.state, &*told.mend), (State::Ok, ""), "{told:?}");
        assert!(told.found.contains("eth1 has an address"), "{told:?}");
        fs::remove_file(root.path().join("proc/net/route")).expect("removed");
        let zero = "0".repeat(32);
        let v6 = format!("{zero} 00 {zero} 00 {zero} 00000400 00000001 00000000 00000003     eth0\n");
        fs::write(root.path().join("proc/net/ipv6_route"), v6).expect("written");
        assert!(drivers(&host).found.contains("eth0 carries the default route"));
    }

    #[test]
    fn iommu_groups_and_vfio_are_looked_for() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::bare(root.path());
        assert!(iommu(&host).mend.contains("intel_iommu=on"));
        assert_eq!(vfio(&host).mend, "modprobe vfio-pci");
        for dir in ["sys/kernel/iommu_groups/0", "sys/bus/pci/drivers/vfio-pci", "dev/vfio/vfio"] {
            fs::create_dir_all(root.path().join(dir)).expect("made");
        }
        assert_eq!((iommu(&host).state, vfio(&host).state), (State::Ok, State::Ok));
    }
}
