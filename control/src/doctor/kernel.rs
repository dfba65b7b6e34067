//! libdpdk, and what the kernel can do for ports and labs.

use super::{Check, Host};

pub(super) fn dpdk(host: &Host) -> Vec<Check> {
    vec![match &host.dpdk {
        Ok(version) if version.contains("22.11") => Check::ok("libdpdk", version.clone()),
        Ok(version) => Check::warn(
            "libdpdk",
            format!("{version}; tidegate is tried with DPDK 22.11"),
            "apt-get install dpdk on Debian 12",
        ),
        Err(why) => Check::fail("libdpdk", why.clone(), "apt-get install dpdk"),
    }]
}

/// A kernel feature: the option and module that bring it, how it shows when it is there, what for.
struct Feature {
    name: &'static str,
    option: &'static str,
    module: &'static str,
    /// One of its functions, as `/proc/kallsyms` names it.
    symbol: &'static str,
    purpose: &'static str,
}

const FEATURES: [Feature; 6] = [
    Feature {
        name: "af_packet",
        option: "CONFIG_PACKET",
        module: "af_packet",
        symbol: "packet_create",
        purpose: "af_packet ports",
    },
    Feature {
        name: "af_xdp",
        option: "CONFIG_XDP_SOCKETS",
        module: "",
        symbol: "xsk_bind",
        purpose: "af_xdp ports",
    },
    Feature {
        name: "tun",
        option: "CONFIG_TUN",
        module: "tun",
        symbol: "tun_chr_open",
        purpose: "tap ports",
    },
    Feature {
        name: "veth",
        option: "CONFIG_VETH",
        module: "veth",
        symbol: "veth_xmit",
        purpose: "the demo's and the tests' wires",
    },
    Feature {
        name: "sch_plug",
        option: "CONFIG_NET_SCH_PLUG",
        module: "sch_plug",
        symbol: "plug_enqueue",
        purpose: "comparison with unmodified Remus",
    },
    Feature {
        name: "ifb",
        option: "CONFIG_IFB",
        module: "ifb",
        symbol: "ifb_xmit",
        purpose: "comparison with unmodified Remus",
    },
];

/// What the kernel's own configuration says of an option, where it can be read.
fn configured(host: &Host, option: &str) -> Option<bool> {
    let config = host.text(&format!("boot/config-{}", host.release));
    if config.is_empty() {
        return None;
    }
    Some(config.lines().any(|line| line == format!("{option}=y") || line == format!("{option}=m")))
}

fn is_module(host: &Host, module: &str) -> bool {
    if module.is_empty() {
        return false;
    }
    let file = format!("/{module}.ko");
    let list = ["modules.dep", "modules.builtin"]
        .map(|list| host.text(&format!("lib/modules/{}/{list}", host.release)));
    list.iter().any(|text| text.replace('-', "_").contains(&file.replace('-', "_")))
}

pub(super) fn features(host: &Host) -> Vec<Check> {
    let symbols = host.text("proc/kallsyms");
    FEATURES.iter().map(|feature| examine(host, feature, &symbols)).collect()
}

fn examine(host: &Host, feature: &Feature, symbols: &str) -> Check {
    let Feature { name, option, module, symbol, purpose } = feature;
    if configured(host, option) == Some(false) {
        let mend = format!("boot a kernel with {option} (Debian's linux-image-amd64 has it)");
        return Check::warn(name, format!("not in this kernel ({option}); needed for {purpose}"), mend);
    }
    if symbols.lines().any(|line| line.split_whitespace().nth(2) == Some(symbol)) {
        return Check::ok(name, format!("there, for {purpose}"));
    }
    if is_module(host, module) {
        return Check::ok(name, format!("a module, loaded when needed, for {purpose}"));
    }
    let mend = match *module {
        "" => format!("boot a kernel with {option}"),
        module => format!("modprobe {module}; if there is none, boot a kernel with {option}"),
    };
    Check::warn(name, format!("not found; needed for {purpose}"), mend)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;
    use std::fs;

    #[test]
    fn a_feature_is_there_by_its_sign_its_module_or_not_at_all() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::bare(root.path());
        let plug = || features(&host).into_iter().find(|check| check.check == "sch_plug").expect("listed");
        assert!(plug().mend.contains("modprobe sch_plug"));
        let proc = root.path().join("proc");
        fs::create_dir_all(&proc).expect("made");
        fs::write(proc.join("kallsyms"), "0000 t plug_enqueue_x\n0000 t plug_enqueue [sch_plug]\n")
            .expect("written");
        assert_eq!(plug().state, State::Ok, "loaded or built in");
        fs::remove_file(proc.join("kallsyms")).expect("removed");
        let modules = root.path().join("lib/modules/6.1.0");
        fs::create_dir_all(&modules).expect("made");
        fs::write(modules.join("modules.dep"), "kernel/net/sched/sch_plug.ko:\n").expect("written");
        assert_eq!(plug().state, State::Ok);
        fs::create_dir_all(root.path().join("boot")).expect("made");
        let config = root.path().join("boot/config-6.1.0");
        fs::write(&config, "# CONFIG_NET_SCH_PLUG is not set\n").expect("written");
        assert!(plug().found.contains("CONFIG_NET_SCH_PLUG"));
        fs::write(&config, "CONFIG_NET_SCH_PLUG=m\n").expect("written");
        assert_eq!(plug().state, State::Ok);
    }

    #[test]
    fn a_missing_libdpdk_fails_and_another_version_warns() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::bare(root.path());
        assert_eq!(dpdk(&host)[0].state, State::Fail);
        assert_eq!(dpdk(&Host { dpdk: Ok("DPDK 24.11.1".into()), ..host.clone() })[0].state, State::Warn);
        assert_eq!(dpdk(&Host { dpdk: Ok("DPDK 22.11.7".into()), ..host })[0].state, State::Ok);
    }
}
