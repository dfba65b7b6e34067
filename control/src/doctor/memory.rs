//! Huge pages and the right to lock memory.

use super::{Check, Host};

pub(super) fn checks(host: &Host) -> Vec<Check> {
    vec![hugepages(host), privileges(host)]
}

fn hugepages(host: &Host) -> Check {
    const CHECK: &str = "hugepages";
    const MEND: &str = "scripts/hugepages reserve --size 2M --mb 512";
    let sizes = host.names("sys/kernel/mm/hugepages");
    if sizes.is_empty() && super::dom0::is_pv(host) {
        return Check::warn(
            CHECK,
            "a PV Dom0 has none, whatever its kernel can: plain pages; kernel ports (af_packet) do without",
            "in tidegate.toml: [eal] hugepages = \"no\"; for a physical NIC boot Xen with dom0=pvh, or leave it to the kernel",
        );
    }
    if sizes.is_empty() {
        return Check::warn(
            CHECK,
            "the kernel has none (CONFIG_HUGETLBFS): plain pages, slower, no physical NIC",
            "boot a kernel with CONFIG_HUGETLBFS; or set hugepages = \"no\" and leave it",
        );
    }
    let mut told = Vec::new();
    let (mut all, mut free) = (0, 0);
    for size in &sizes {
        let kb: u64 = size.trim_start_matches("hugepages-").trim_end_matches("kB").parse().unwrap_or(0);
        let count = |file: &str| host.number(&format!("sys/kernel/mm/hugepages/{size}/{file}")).unwrap_or(0);
        let (has, unused) = (count("nr_hugepages"), count("free_hugepages"));
        all += has * kb;
        free += unused * kb;
        if has > 0 {
            told.push(format!("{unused} of {has} pages of {} MiB free", kb / 1024));
        }
    }
    if all == 0 {
        return Check::warn(CHECK, "none reserved: plain pages, slower, no physical NIC", MEND);
    }
    let told = told.join(", ");
    // 256 MiB is the default of eal.memory_mb.
    if free < 256 << 10 {
        return Check::warn(
            CHECK,
            format!("{told}: fewer than the 256 MiB that a plane takes by default"),
            MEND,
        );
    }
    Check::ok(CHECK, told)
}

fn privileges(host: &Host) -> Check {
    const CHECK: &str = "privileges";
    const LOCKED: u64 = 1 << 30;
    if host.root_user {
        return Check::ok(CHECK, "root: memory can be locked, devices and raw sockets opened");
    }
    if host.memlock < LOCKED {
        return Check::warn(
            CHECK,
            format!(
                "not root, and only {} KiB of memory may be locked: page faults on lcores, no VFIO",
                host.memlock >> 10
            ),
            "ulimit -l unlimited; in the unit: LimitMEMLOCK=infinity; or run as root",
        );
    }
    Check::warn(
        CHECK,
        "not root: vhost-user works, af_packet, af_xdp and tap ports need CAP_NET_RAW and CAP_NET_ADMIN",
        "systemctl start tidegate (its unit grants them); or run as root",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;
    use std::fs;

    #[test]
    fn huge_pages_are_counted_by_what_is_free() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("sys/kernel/mm/hugepages/hugepages-2048kB");
        fs::create_dir_all(&dir).expect("made");
        let host = Host::bare(root.path());
        for (all, free, state) in [(0, 0, State::Warn), (256, 10, State::Warn), (256, 200, State::Ok)] {
            fs::write(dir.join("nr_hugepages"), format!("{all}\n")).expect("written");
            fs::write(dir.join("free_hugepages"), format!("{free}\n")).expect("written");
            assert_eq!(hugepages(&host).state, state, "{free} of {all}");
        }
    }

    #[test]
    fn a_pv_dom0_is_not_told_to_boot_another_kernel() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::bare(root.path());
        assert!(hugepages(&host).mend.contains("CONFIG_HUGETLBFS"));
        let kind = root.path().join("sys/hypervisor/guest_type");
        fs::create_dir_all(kind.parent().expect("a directory"))
            .and_then(|()| fs::write(&kind, "PV\n"))
            .expect("written");
        assert!(hugepages(&host).found.contains("PV Dom0"));
    }

    #[test]
    fn whoever_is_not_root_is_told_what_does_not_work() {
        let root = tempfile::tempdir().expect("a directory");
        let poor = Host::bare(root.path());
        assert!(privileges(&poor).mend.contains("LimitMEMLOCK"));
        assert!(privileges(&Host { memlock: u64::MAX, ..poor.clone() }).found.contains("CAP_NET_RAW"));
        assert_eq!(privileges(&Host { root_user: true, ..poor }).state, State::Ok);
    }
}
