//! A Xen Dom0: few CPUs that Xen may move about, no huge pages where it is paravirtual, NICs of domains named by numbers
//! that change.

use super::{Check, Host};

const GRUB: &str = "etc/default/grub";
const SCRIPT: &str = "etc/xen/scripts/vif-tidegate";

/// True on a Dom0: where domains are made.
pub(super) fn is_dom0(host: &Host) -> bool {
    host.text("sys/hypervisor/type").trim() == "xen"
        && host.text("proc/xen/capabilities").contains("control_d")
}

/// True where the kernel runs without the processor's help for virtual machines: such a kernel has no huge pages.
pub(super) fn is_pv(host: &Host) -> bool {
    host.text("sys/hypervisor/guest_type").trim() == "PV"
}

/// Nothing where this is no Dom0.
pub(super) fn checks(host: &Host) -> Vec<Check> {
    if is_dom0(host) { vec![boot_line(host), processors(host), script(host)] } else { Vec::new() }
}

/// What Xen is booted with, by grub's configuration: Xen itself tells it to `xl dmesg` only.
fn boot_line(host: &Host) -> Check {
    const CHECK: &str = "dom0 pinning";
    let mut files = vec![GRUB.to_owned()];
    files.extend(
        host.names("etc/default/grub.d").into_iter().map(|name| format!("etc/default/grub.d/{name}")),
    );
    let text: String = files.iter().map(|file| host.text(file)).collect::<Vec<_>>().join("\n");
    let lines = text.lines().map(str::trim).filter(|line| line.starts_with("GRUB_CMDLINE_XEN"));
    let words: Vec<&str> = lines.flat_map(|line| line.split(['"', '\'', ' ', '='])).collect();
    let lacks: Vec<&str> = ["dom0_max_vcpus", "dom0_vcpus_pin", "dom0_mem"]
        .into_iter()
        .filter(|word| !words.contains(word))
        .collect();
    if lacks.is_empty() {
        return Check::ok(
            CHECK,
            "Dom0 has vCPUs and memory of its own (dom0_max_vcpus, dom0_vcpus_pin, dom0_mem)",
        );
    }
    Check::warn(
        CHECK,
        format!(
            "Xen's boot line has no {}: Xen moves Dom0's vCPUs among all domains', and with them the lcores",
            lacks.join(", no ")
        ),
        "in /etc/default/grub: GRUB_CMDLINE_XEN=\"dom0_mem=2G,max:2G dom0_max_vcpus=2 dom0_vcpus_pin\"; then update-grub \
         and reboot; keep domains off those CPUs (cpus=\"2-\" in theirs)",
    )
}

fn processors(host: &Host) -> Check {
    const CHECK: &str = "dom0 vcpus";
    let online = host.text("sys/devices/system/cpu/online");
    let count: usize = online
        .trim()
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(last.parse::<usize>().ok()?.saturating_sub(first.parse().ok()?) + 1)
        })
        .sum();
    match count {
        0 => Check::warn(CHECK, "cannot tell how many there are", "ls /sys/devices/system/cpu"),
        1 => Check::warn(
            CHECK,
            "one: an lcore that spins would leave nothing to xl and netback",
            "in tidegate.toml: [eal] idle = \"backoff\", max_sleep_us = 500; or dom0_max_vcpus=2 for a vCPU of the lcore's own",
        ),
        more => Check::ok(CHECK, format!("{more}: one can be the lcore's own")),
    }
}

fn script(host: &Host) -> Check {
    const CHECK: &str = "vif script";
    if !host.path(SCRIPT).exists() {
        return Check::warn(
            CHECK,
            format!(
                "no /{SCRIPT}: a vif is named by its domain's number, which changes, and nobody ties it to a plane"
            ),
            "scripts/install; then script=vif-tidegate,bridge=tg-NAME in the domain's vif",
        );
    }
    let places: Vec<String> = host.names("sys/class/net").into_iter().filter(|name| is_place(name)).collect();
    match places.is_empty() {
        true => Check::warn(
            CHECK,
            "is there; no place (tg-NAME) for a vif yet",
            "/etc/xen/scripts/vif-tidegate places, once tidegate.toml names them: guest_port = \"net_af_packet0,iface=tg-NAME\"",
        ),
        false => Check::ok(CHECK, format!("is there; places: {}", places.join(", "))),
    }
}

fn is_place(name: &str) -> bool {
    name.starts_with("tg-") && !name.ends_with(".x")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;
    use std::fs;

    fn write(host: &Host, path: &str, text: &str) {
        let path = host.path(path);
        fs::create_dir_all(path.parent().expect("a directory"))
            .and_then(|()| fs::write(path, text))
            .expect("written");
    }

    #[test]
    fn a_dom0_is_told_what_it_lacks_and_any_other_host_nothing() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::bare(root.path());
        assert!(checks(&host).is_empty(), "no Xen");
        write(&host, "sys/hypervisor/type", "xen\n");
        assert!(checks(&host).is_empty(), "a domain like any other");
        write(&host, "proc/xen/capabilities", "control_d\n");
        write(&host, "sys/devices/system/cpu/online", "0\n");
        let states = |host: &Host| checks(host).iter().map(|check| check.state).collect::<Vec<_>>();
        assert_eq!(states(&host), [State::Warn; 3]);
        assert!(checks(&host)[0].found.contains("dom0_vcpus_pin"));
        write(
            &host,
            GRUB,
            "GRUB_DEFAULT=0\nGRUB_CMDLINE_XEN_DEFAULT=\"dom0_mem=2G,max:2G dom0_max_vcpus=2\"\n",
        );
        assert!(!checks(&host)[0].found.contains("dom0_max_vcpus,"), "{:?}", checks(&host)[0]);
        write(&host, "etc/default/grub.d/xen.cfg", "GRUB_CMDLINE_XEN=\"dom0_vcpus_pin\"\n");
        write(&host, "sys/devices/system/cpu/online", "0-1\n");
        write(&host, SCRIPT, "");
        assert_eq!(states(&host), [State::Ok, State::Ok, State::Warn], "no place yet");
        write(&host, "sys/class/net/tg-pbx0.x/mtu", "");
        assert_eq!(states(&host)[2], State::Warn, "its other end is none");
        write(&host, "sys/class/net/tg-pbx0/mtu", "");
        assert_eq!(states(&host), [State::Ok; 3]);
    }
}
