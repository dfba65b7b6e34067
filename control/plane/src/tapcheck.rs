//! A kernel device as guest port is a tap, not a cut: the kernel still sees each frame. So it must be in no
//! bridge, have no address and no IPv6, or held frames leak past the plane; and its frames must be frames, not
//! what segmentation offload left half done. Refused otherwise, with the command that mends it.
//!
//! Even then the kernel would answer ARP for its other addresses there, deliver what is sent to them and forward the
//! rest: whatever it receives on that device, past the plane. So all of that is dropped behind the packet socket
//! (which sees frames first), by a filter that the plane puts in and leaves there: it must outlive the plane.

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// What must be off, as `ethtool -k` calls it, and the short name that `ethtool -K` takes.
const OFFLOADS: [(&str, &str); 4] = [
    ("tcp-segmentation-offload", "tso"),
    ("generic-segmentation-offload", "gso"),
    ("generic-receive-offload", "gro"),
    ("large-receive-offload", "lro"),
];

/// The kernel's interface that devargs name, for drivers that share it with the kernel.
pub fn interface(devargs: &str) -> Option<&str> {
    let mut parts = devargs.split(',');
    let device = parts.next()?.trim_start_matches("vdev:");
    let kernel = ["net_af_packet", "net_af_xdp"].iter().any(|driver| device.starts_with(driver));
    kernel.then(|| parts.find_map(|part| part.strip_prefix("iface="))).flatten()
}

/// Where frames leak past the plane, each with its remedy. Reads a few small files: cheap enough to be asked often.
pub fn leaks(interface: &str) -> Vec<String> {
    let mut problems = at(interface, Path::new("/"));
    match addresses(interface) {
        Ok(addresses) if addresses.is_empty() => {}
        Ok(addresses) => problems.push(format!(
            "{interface} has the address {}; mend it with: ip addr flush dev {interface}",
            addresses.join(" and ")
        )),
        Err(e) => problems.push(format!("cannot read the addresses of {interface}: {e}; see ip addr")),
    }
    problems
}

/// What is wrong with `interface` as a guest port, each with its remedy.
pub fn problems(interface: &str) -> Vec<String> {
    let mut problems = leaks(interface);
    match Command::new("ethtool").args(["-k", interface]).output() {
        Ok(output) if output.status.success() => {
            problems.extend(offloads(interface, &String::from_utf8_lossy(&output.stdout)));
        }
        Ok(output) => problems.push(format!(
            "ethtool -k {interface} fails: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(e) => problems.push(format!(
            "cannot see the offloads of {interface} ({e}); install ethtool: apt-get install ethtool"
        )),
    }
    problems
}

/// What the files below `root` say.
fn at(interface: &str, root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    let device = root.join("sys/class/net").join(interface);
    if let Ok(master) = std::fs::read_link(device.join("master")) {
        let master = master.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        problems.push(format!(
            "{interface} is in the bridge {master}, which forwards what it should not see; \
             mend it with: ip link set dev {interface} nomaster"
        ));
    }
    let ipv6 = root.join("proc/sys/net/ipv6/conf").join(interface).join("disable_ipv6");
    // No such file: the kernel has no IPv6.
    if std::fs::read_to_string(ipv6).is_ok_and(|text| text.trim() != "1") {
        problems.push(format!(
            "{interface} speaks IPv6; mend it with: sysctl -w net.ipv6.conf.{interface}.disable_ipv6=1"
        ));
    }
    problems
}

fn addresses(interface: &str) -> nix::Result<Vec<String>> {
    let own = nix::ifaddrs::getifaddrs()?.filter(|entry| entry.interface_name == interface);
    let inet = own.filter_map(|entry| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|a| a.ip().to_string());
        v4.or_else(|| address.as_sockaddr_in6().map(|a| a.ip().to_string()))
    });
    Ok(inet.collect())
}

/// One instruction: return TC_ACT_SHOT.
const DROP: &str = "1,6 0 0 2";

/// Has the kernel drop whatever it receives on `interface`, once packet sockets have seen it.
pub fn cut(interface: &str) -> Result<(), String> {
    if is_cut(interface) {
        return Ok(());
    }
    // Fails where there is one already.
    let _ = tc(&["qdisc", "add", "dev", interface, "clsact"]);
    let filter =
        ["filter", "replace", "dev", interface, "ingress", "pref", "1", "handle", "1", "protocol", "all"];
    let made = tc(&[&filter[..], &["bpf", "direct-action", "bytecode", DROP]].concat());
    if is_cut(interface) {
        log::info!(
            "{interface} is cut off from the kernel, and stays so; to use it without tidegate: \
             tc qdisc del dev {interface} clsact"
        );
        return Ok(());
    }
    Err(format!(
        "{interface} cannot be cut off from the kernel, which would act on frames that are held ({}); it takes tc \
         (apt-get install iproute2) and a kernel with clsact and cls_bpf",
        made.err().unwrap_or_else(|| "another filter stands before".into())
    ))
}

/// True when the kernel drops everything that it receives there.
pub fn is_cut(interface: &str) -> bool {
    let Ok(said) = tc(&["-json", "filter", "show", "dev", interface, "ingress"]) else { return false };
    let filters: Vec<Value> = serde_json::from_str(&said).unwrap_or_default();
    // Filters are asked in the order of their preference; the head of each kind has no options.
    let Some(first) = filters.iter().find(|filter| filter["options"].is_object()) else { return false };
    let options = &first["options"];
    first["protocol"] == "all"
        && first["kind"] == "bpf"
        && options["direct-action"] == true
        && options["bytecode"]["insns"] == json!([{ "code": 6, "jt": 0, "jf": 0, "k": 2 }])
}

fn tc(args: &[&str]) -> Result<String, String> {
    match Command::new("tc").args(args).output() {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
        Err(e) => Err(format!("tc: {e}")),
    }
}

/// What `ethtool -k` says that must not be so.
fn offloads(interface: &str, said: &str) -> Option<String> {
    let on = |feature: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(feature)?.strip_prefix(':'));
        line.is_some_and(|state| state.trim().starts_with("on"))
    };
    let wrong: Vec<&str> = OFFLOADS.iter().filter(|(long, _)| on(long)).map(|(_, short)| *short).collect();
    let off: Vec<String> = wrong.iter().map(|short| format!("{short} off")).collect();
    (!wrong.is_empty()).then(|| {
        format!(
            "{interface} hands over frames that are segmented later ({}); mend it with: ethtool -K {interface} {}",
            wrong.join(", "),
            off.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_kernel_devices_are_looked_at() {
        assert_eq!(interface("net_af_packet0,iface=vif1.0,qpairs=1"), Some("vif1.0"));
        assert_eq!(interface("net_af_xdp,iface=tap0"), Some("tap0"));
        assert_eq!(interface("net_vhost0,iface=/run/x.sock"), None);
        assert_eq!(interface("net_af_packet0"), None);
    }

    #[test]
    fn a_bridge_and_ipv6_are_told_with_the_command_that_mends_them() {
        let root = tempfile::tempdir().expect("a directory");
        let device = root.path().join("sys/class/net/vif1.0");
        let conf = root.path().join("proc/sys/net/ipv6/conf/vif1.0");
        fs::create_dir_all(&device).and_then(|()| fs::create_dir_all(&conf)).expect("made");
        fs::write(conf.join("disable_ipv6"), "1\n").expect("written");
        assert!(at("vif1.0", root.path()).is_empty());
        fs::write(conf.join("disable_ipv6"), "0\n").expect("written");
        std::os::unix::fs::symlink("../xenbr0", device.join("master")).expect("linked");
        let told = at("vif1.0", root.path()).join("\n");
        assert!(told.contains("ip link set dev vif1.0 nomaster") && told.contains("xenbr0"), "{told}");
        assert!(told.contains("sysctl -w net.ipv6.conf.vif1.0.disable_ipv6=1"), "{told}");
    }

    #[test]
    fn offloads_that_are_on_are_told_and_no_others() {
        let said = "Features for vif1.0:\ntcp-segmentation-offload: on\n\ttx-tcp-segmentation: on\n\
                    generic-segmentation-offload: on\ngeneric-receive-offload: off\n\
                    large-receive-offload: off [fixed]\n";
        let told = offloads("vif1.0", said).expect("wrong");
        assert!(told.ends_with("ethtool -K vif1.0 tso off gso off"), "{told}");
        assert_eq!(offloads("vif1.0", &said.replace(": on", ": off")), None);
    }

    #[test]
    fn the_loopback_device_has_an_address() {
        let told = problems("lo").join("\n");
        assert!(told.contains("127.0.0.1") && told.contains("ip addr flush dev lo"), "{told}");
    }
}
