//! R8: what a host has without tidegate. A Linux bridge, the guest's frames redirected through an IFB (mirred) where
//! sch_plug would hold them, RTP let past it by u32; in a network namespace that is made for it and goes with it.
//!
//! ```text
//! generator ga0 --veth-- gb0 [ingress: u32 RTP -> bridge; all else mirred -> ifb0 (pfifo) -> bridge] wb0 --veth-- wa0 generator
//! generator ga1 --veth-- gb1 (af_packet)   tidegate   (af_packet) wb1 --veth-- wa1 generator
//! generator vhost-user ------------------- tidegate   (af_packet) wb2 --veth-- wa2 generator
//! ```
//! The first two have the same ports at both ends. The third is how tidegate is used: a guest's virtio ring ends in it,
//! and no tap stands between. The bridge holds nothing (this compares the path), tidegate holds what is TCP.

use super::Plan;
use super::calls::Heard;
use super::figure::{Figure, Part};
use crate::dut::{self, Dut, Setup, Wire};
use crate::failure::{Context, Failure, Result};
use crate::frames::Checksums;
use crate::generator::{Answer, Measure, Request};
use crate::machine::{Cpus, Pages, Scratch};
use crate::process::Running;
use crate::stream;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidegate_tests::namespace::{Namespace, OFFLOADS_OFF};
use tidegate_tests::process::run;

const CALLS: u16 = 50;
const PACKETS: u32 = 100;
/// TCP beside the calls.
const TCP_PER_S: u64 = 10_000;
const START_LIMIT: Duration = Duration::from_secs(20);
/// As named in the report, in the order of the drawing above.
const NAMES: [&str; 3] = ["bridge", "tidegate_veth", "tidegate_vhost"];

/// See the module's head.
struct Street {
    // The generator goes first, then what it talks to, then the interfaces.
    generator: Running,
    planes: Vec<Running>,
    pages: Pages,
    _scratch: Scratch,
    _namespace: Namespace,
}

impl Street {
    fn build(plan: &Plan) -> Result<Street> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Failure::new("a bridge is made in a network namespace, which needs root"));
        }
        let (cpus, scratch) = (Cpus::choose()?, super::scratch()?);
        let namespace = Namespace::bare()?;
        silence(&namespace)?;
        let pages =
            plan.pages.unwrap_or_else(|| Pages::choose(2 * dut::MEMORY_MIB + crate::generator::MEMORY_MIB));
        for n in 0..3 {
            for (here, there) in [("ga", "gb"), ("wa", "wb")] {
                if (here, n) == ("ga", 2) {
                    continue;
                }
                pair(&namespace, &format!("{here}{n}"), &format!("{there}{n}"))?;
            }
        }
        bridge(&namespace)?;
        share(&namespace, "gb0", cpus.dut);
        let setup = Setup {
            tidegate: plan.tidegate.clone(),
            cpus,
            wire: Wire::Null,
            pages,
            checksums: Checksums::Guest,
            variant: Vec::new(),
            eal: Vec::new(),
        };
        let socket = scratch.path("guest");
        let guests =
            ["net_af_packet0,iface=gb1".to_owned(), format!("net_vhost0,iface={}", socket.display())];
        let mut planes: Vec<Running> = Vec::new();
        for (n, guest) in guests.into_iter().enumerate() {
            planes.iter().try_for_each(Running::freeze)?;
            let ports = [guest, format!("net_af_packet1,iface=wb{}", n + 1)];
            planes.push(plane(&setup, n, &ports, &namespace, &scratch)?);
        }
        planes.iter().try_for_each(Running::wake)?;
        let mut args = vec!["generate".to_owned()];
        for guest in ["iface:ga0".into(), "iface:ga1".into(), socket.display().to_string()] {
            args.extend(["--guest".into(), guest]);
        }
        for n in 0..3 {
            args.extend(["--wire".into(), format!("iface:wa{n}")]);
        }
        let page_word = if pages == Pages::Huge { "huge" } else { "no-huge" };
        args.extend(["--mix", "mixed", "--checksums", "guest", "--pages", page_word].map(String::from));
        args.extend(["--cpu".into(), cpus.generator.to_string()]);
        let this = std::env::current_exe().context(|| "cannot find this program".into())?;
        let (ip, args) = inside(&namespace, &this, &args);
        let generator = Running::start_to_ask(&ip, &args, scratch.dir(), "generator")?;
        let mut street = Street { generator, planes, pages, _scratch: scratch, _namespace: namespace };
        // The first answer comes when all of it is connected.
        street.fps(0, 100)?;
        street.planes.iter().try_for_each(Running::freeze)?;
        for n in 0..3 {
            street.fps(n, 100)?;
        }
        Ok(street)
    }

    fn ask(&mut self, device: usize, measure: Measure) -> Result<Answer> {
        let plane = device.checked_sub(1);
        if let Some(plane) = plane {
            self.planes[plane].wake()?;
        }
        let question = serde_json::to_string(&Request { device, measure }).context(|| "a request".into())?;
        let answer = self.generator.ask(&question);
        if let Some(plane) = plane {
            self.planes[plane].freeze()?;
        }
        let answer = answer?;
        serde_json::from_str(&answer).context(|| format!("the generator said {answer:?}"))
    }

    fn fps(&mut self, device: usize, window_ms: u64) -> Result<f64> {
        let pid = device.checked_sub(1).map_or(std::process::id(), |plane| self.planes[plane].pid());
        match self.ask(device, Measure::Rate { pid, warmup_ms: 200, window_ms })? {
            Answer::Rate(window) => Ok(window.received.min(window.frames) as f64 / window.seconds),
            _ => Err(Failure::new("the generator answered something else")),
        }
    }

    fn heard(&mut self, device: usize, packets: u32) -> Result<(Heard, Heard, f64)> {
        let plan = stream::Plan { calls: CALLS, packets, tcp_per_s: TCP_PER_S };
        let Answer::Stream(arrivals) = self.ask(device, Measure::Stream(plan))? else {
            return Err(Failure::new("the generator answered something else"));
        };
        let all = arrivals.packets.len() as u64 + arrivals.lost;
        if arrivals.lost * 100 > all {
            return Err(Failure::new(format!("{} lost {} of {all} packets", NAMES[device], arrivals.lost)));
        }
        let touched = arrivals.packets.iter().filter(|packet| packet.touched).count();
        let share = touched as f64 / arrivals.packets.len().max(1) as f64;
        Ok((Heard::of(&arrivals.packets, false), Heard::of(&arrivals.packets, true), share))
    }
}

/// As `ip netns exec` starts it.
fn inside(namespace: &Namespace, program: &Path, args: &[String]) -> (PathBuf, Vec<String>) {
    let mut words = ["netns", "exec", namespace.name()].map(String::from).to_vec();
    words.push(program.display().to_string());
    words.extend_from_slice(args);
    (PathBuf::from("ip"), words)
}

/// No IPv6 on what is made from here on: the kernel has nothing of its own to say there, and tidegate asks for that.
fn silence(namespace: &Namespace) -> Result<()> {
    let quiet = || -> tidegate_tests::failure::Result<()> {
        for name in ["all", "default"] {
            let file = PathBuf::from(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"));
            if file.exists() {
                std::fs::write(&file, "1").map_err(|error| {
                    tidegate_tests::failure::Failure::new(format!("{}: {error}", file.display()))
                })?;
            }
        }
        Ok(())
    };
    Ok(namespace.enter(quiet)?)
}

fn pair(namespace: &Namespace, here: &str, there: &str) -> Result<()> {
    namespace.run(&format!("ip link add {here} type veth peer name {there}"))?;
    for end in [here, there] {
        namespace.run(&format!("ethtool -K {end} {OFFLOADS_OFF}"))?;
        namespace.run(&format!("ip link set {end} up promisc on"))?;
    }
    Ok(())
}

fn bridge(namespace: &Namespace) -> Result<()> {
    for line in [
        "ip link add br0 type bridge stp_state 0",
        "ip link set gb0 master br0",
        "ip link set wb0 master br0",
        "ip link set br0 up",
        "ip link add ifb0 type ifb",
        "ip link set ifb0 up",
        "tc qdisc add dev ifb0 root pfifo limit 10000",
        "tc qdisc add dev gb0 handle ffff: ingress",
        // Ports 16384 to 32767: the calls'.
        "tc filter add dev gb0 parent ffff: protocol ip prio 1 u32 match ip protocol 17 0xff \
         match ip dport 0x4000 0xc000 flowid 1:1",
        "tc filter add dev gb0 parent ffff: protocol all prio 2 u32 match u32 0 0 flowid 1:2 \
         action mirred egress redirect dev ifb0",
    ] {
        namespace.run(line)?;
    }
    Ok(())
}

/// The bridge works on the CPU on which tidegate would, beside the generator's (RPS), where the kernel can.
fn share(namespace: &Namespace, interface: &str, cpu: u32) {
    let line = format!("echo {:x} > /sys/class/net/{interface}/queues/rx-0/rps_cpus", 1u64 << cpu.min(63));
    let mut command = std::process::Command::new("ip");
    let _ = command.args(["netns", "exec", namespace.name(), "sh", "-c", &line]).status();
}

fn plane(
    setup: &Setup,
    n: usize,
    ports: &[String; 2],
    namespace: &Namespace,
    scratch: &Scratch,
) -> Result<Running> {
    let control = scratch.path(&format!("control{n}")).join("tidegate.sock");
    let file = scratch.path(&format!("plane{n}.toml"));
    let text = dut::configuration(Dut::Tidegate, "", setup, ports, &control);
    std::fs::write(&file, text).context(|| format!("cannot write {}", file.display()))?;
    let args = ["run".into(), "--config".into(), file.display().to_string()];
    let (ip, args) = inside(namespace, &setup.tidegate, &args);
    let mut running = Running::start(&ip, &args, scratch.dir(), NAMES[n + 1])?;
    running.until(START_LIMIT, "it answered", || answers(&setup.tidegate, &control))?;
    running.prefer();
    Ok(running)
}

fn answers(tidegate: &Path, control: &Path) -> bool {
    let mut command = std::process::Command::new(tidegate);
    let output = command.args(["stats", "--json", "--socket"]).arg(control).output();
    output.is_ok_and(|output| output.status.success())
}

/// Runs it.
pub fn measure(plan: &Plan) -> Result<Part> {
    run("tc -V").map_err(|_| Failure::new("tc is missing (Debian package iproute2)"))?;
    let mut street = Street::build(plan)?;
    let packets = if plan.short { PACKETS / 4 } else { PACKETS };
    let mut fps: [Vec<f64>; 3] = Default::default();
    let mut p99: [Vec<f64>; 3] = Default::default();
    let mut raw: [Vec<f64>; 3] = Default::default();
    let mut excluded: Vec<f64> = Vec::new();
    for round in 1..=plan.repeats {
        for (n, name) in NAMES.iter().enumerate() {
            fps[n].push(street.fps(n, plan.ms(500))?);
            eprintln!(
                "round {round}/{}: {name:<16}{:>8.3} Mframes/s",
                plan.repeats,
                fps[n][fps[n].len() - 1] / 1e6
            );
            let (heard, all, share) = street.heard(n, packets)?;
            p99[n].push(heard.p99 * 1e3);
            raw[n].push(all.p99 * 1e3);
            excluded.push(share);
            eprintln!("round {round}/{}: {name:<16}RTP p99 {:>8.1} us", plan.repeats, heard.p99 * 1e3);
        }
    }
    let ratio = |list: &[Vec<f64>; 3], n: usize| {
        Figure::of(list[n].iter().zip(&list[0]).map(|(tidegate, bridge)| tidegate / bridge))
    };
    let each = |list: &[Vec<f64>; 3], n: usize| Figure::of(list[n].iter().copied());
    let device = |n: usize| {
        json!({
            "fps": each(&fps, n),
            "p99_us": each(&p99, n),
            "raw_p99_us": each(&raw, n),
            "pps_over_bridge": ratio(&fps, n),
            "p99_over_bridge": ratio(&p99, n),
        })
    };
    Ok(Part {
        figures: vec![("R8_pps", ratio(&fps, 2)), ("R8_p99", ratio(&p99, 2))],
        detail: json!({
            "path": "bridge: veth, ingress mirred to ifb0 (pfifo; u32 lets RTP past), bridge, veth. tidegate: vhost-user \
                     to af_packet on veth; tidegate_veth: af_packet on veth at both ends",
            "bridge": device(0),
            "tidegate_veth": device(1),
            "tidegate_vhost": device(2),
            "calls": CALLS,
            "tcp_per_s": TCP_PER_S,
            "excluded_share": Figure::of(excluded),
            "pages": street.pages,
            "note": "the headline is tidegate_vhost; the bridge holds nothing (this kernel need not have sch_plug)",
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_lets_the_ports_of_all_calls_past() {
        assert!((0..5_000 + CALLS).all(|n| (20_000 + 2 * n) & 0xc000 == 0x4000));
    }
}
