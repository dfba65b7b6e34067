//! One scenario from its beginning to its samples.

use super::conditions::Conditions;
use super::hiccups::Watch;
use super::lab::{Lab, Process};
use super::plugged::Follower;
use super::samples::{Meta, Samples};
use super::scenario::{Gate, Guest, Replicate, Scenario};
use super::talk::Talk;
use crate::failure::{Failure, Result};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidegate_tests::capture::Capture;
use tidegate_tests::router::{OUTSIDE, Takes};
use tidegate_tests::scratch::Scratch;
use tidegate_tests::survival::blow::{Hammer, Struck, Victim};
use tidegate_tests::survival::host::Host;
use tidegate_tests::survival::network::port;
use tidegate_tests::survival::replication::{Means, Replication};
use tidegate_tests::survival::transfer::{Transfer, Way};
use tidegate_tests::wall_clock::{now_ns, wait_until};

/// The call, and nothing that only fills the file: the server's numbered marks, the TCP beside it.
const CAPTURED: &str = "udp and not port 9700";
/// Packets of the server's voice that must have come before it is measured.
const SETTLED: u32 = 50;
/// A capture is read for it.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const SETTLES_WITHIN: Duration = Duration::from_secs(40);
/// How much longer the call is than what is measured: its set-up waits for checkpoints.
const LONGER: Duration = Duration::from_secs(3);
const PROMOTES_WITHIN: Duration = Duration::from_secs(15);

/// Runs it and keeps its samples; `tell` gets a line now and then.
pub fn run(lab: &mut Lab, scenario: &Scenario, samples: &Samples, tell: &dyn Fn(&str)) -> Result<()> {
    samples.clear()?;
    let vm = scenario.guest == Guest::Vm;
    let mut meta = Meta::new(scenario, Conditions::now(&lab.programs.tidegate, vm));
    if vm {
        tell("the VM starts");
        lab.boot(scenario.call)?;
    }
    lab.forget()?;
    match (scenario.guest, &scenario.replicate) {
        (Guest::None, _) => process(lab, samples, &mut meta, tell)?,
        (Guest::Vm, None) => single(lab, samples, &mut meta, tell)?,
        (Guest::Vm, Some(replicate)) => replicated(lab, replicate, samples, &mut meta, tell)?,
    }
    samples.complete(&meta)
}

/// The server is a process.
fn process(lab: &Lab, samples: &Samples, meta: &mut Meta, tell: &dyn Fn(&str)) -> Result<()> {
    let scratch = Scratch::new()?;
    let wire = Wire::capture(lab, 0, &scratch)?;
    let server = Process::start(lab, &scratch)?;
    let traffic = Traffic::start(lab, meta, &wire, &scratch)?;
    measure(meta, traffic, tell, || Ok(()))?;
    drop(server);
    wire.keep(samples)?;
    keep_transfers(samples, &meta.scenario, &scratch)?;
    scratch.passed();
    Ok(())
}

/// The server is in a VM that nobody replicates.
fn single(lab: &Lab, samples: &Samples, meta: &mut Meta, tell: &dyn Fn(&str)) -> Result<()> {
    let (snapshot, setting) = lab.guest(meta.scenario.call, "bypass-all")?;
    let mut host = Host::single(&setting, &lab.network)?;
    let wire = Wire::capture(lab, 0, host.scratch())?;
    snapshot.run(&host)?;
    let traffic = Traffic::start(lab, meta, &wire, host.scratch())?;
    measure(meta, traffic, tell, || Ok(()))?;
    meta.plane = Some(host.plane.control()?.execute("stats", json!({}))?);
    wire.keep(samples)?;
    keep_transfers(samples, &meta.scenario, host.scratch())?;
    host.passed();
    Ok(())
}

/// The server is in a VM that is replicated to a second host, and may die there.
fn replicated(
    lab: &Lab,
    replicate: &Replicate,
    samples: &Samples,
    meta: &mut Meta,
    tell: &dyn Fn(&str),
) -> Result<()> {
    // Where a router holds, the planes let everything go to it.
    let plugs = replicate.gate == Gate::SchPlug;
    let policy = if plugs { "bypass-all" } else { &replicate.policy };
    let (snapshot, setting) = lab.guest(meta.scenario.call, policy)?;
    let mut router = if plugs {
        tell("the router VM starts");
        Some(lab.router(if replicate.policy == "hold-all" { Takes::All } else { Takes::Tcp })?)
    } else {
        None
    };
    let mut hosts = Host::pair(&setting, &lab.network)?;
    let port = router.as_ref().map_or_else(|| port(0), |_| OUTSIDE.to_owned());
    let wires =
        [Wire::capture_at(&port, 0, lab, hosts[0].scratch())?, Wire::capture(lab, 1, hosts[1].scratch())?];
    snapshot.run(&hosts[0])?;
    let victim = meta.scenario.kill.then_some(Victim::Host);
    let means = Means::Programs(lab.programs.tidegate.clone());
    // At this pace and no other: what urges or idles would make another figure.
    let pace = format!("{0}us", replicate.interval.as_micros());
    let pace = format!("--interval {pace} --floor {pace} --ceiling {pace}");
    let mut replication = Replication::start_paced(&means, &lab.network, &hosts, victim, &pace)?;
    let follower = match (&router, replication.steps()) {
        (Some(router), Some(steps)) => Some(Follower::of(steps, router.plug()?)),
        _ => None,
    };
    tell("the first full copy travels");
    replication.protects()?;
    let traffic = Traffic::start(lab, meta, &wires[0], hosts[0].scratch())?;
    let struck: Arc<Mutex<Option<Struck>>> = Arc::default();
    if let Some(victim) = victim {
        let (plane, qemu) = hosts[0].pids();
        let hammer = Hammer {
            victim,
            pids: [replication.pid(), Some(qemu), Some(plane)],
            control: hosts[0].plane.control()?,
            cut: None,
            struck: Arc::clone(&struck),
        };
        let strike = || {
            hammer.strike();
            tell("the primary is dead");
            Ok(())
        };
        measure(meta, traffic, tell, strike)?;
        meta.killed_ns = struck.lock().unwrap_or_else(PoisonError::into_inner).map(|struck| struck.at_ns);
        meta.promotion = Some(replication.promoted(PROMOTES_WITHIN)?);
    } else {
        measure(meta, traffic, tell, || Ok(()))?;
        replication.alive()?;
        meta.plane = Some(hosts[0].plane.control()?.execute("stats", json!({}))?);
    }
    let [primary, standby] = replication.events();
    if let (Some(follower), Some(router)) = (follower, &mut router) {
        let mut plugged = follower.finish(meta.begin_ns..=meta.end_ns, &primary)?;
        (plugged.kernel, plugged.counters) = (router.kernel()?, router.counters()?);
        meta.plug = Some(plugged);
    }
    samples.keep_lines(&primary, "primary.jsonl")?;
    samples.keep_lines(&standby, "standby.jsonl")?;
    for wire in wires {
        wire.keep(samples)?;
    }
    keep_transfers(samples, &meta.scenario, hosts[0].scratch())?;
    hosts.iter_mut().for_each(Host::passed);
    if let Some(router) = &mut router {
        router.passed();
    }
    Ok(())
}

/// What arrives and leaves at a host's port, in a file.
struct Wire {
    capture: Capture,
    file: PathBuf,
    name: String,
}

impl Wire {
    fn capture(lab: &Lab, side: usize, scratch: &Scratch) -> Result<Wire> {
        Wire::capture_at(&port(side), side, lab, scratch)
    }

    /// At another interface of the peer's than the host's port.
    fn capture_at(interface: &str, side: usize, lab: &Lab, scratch: &Scratch) -> Result<Wire> {
        let name = format!("wire-{side}");
        let file = scratch.file(&format!("{name}.pcap"));
        let capture = Capture::start_on(interface, CAPTURED, &lab.network.outside, scratch, &name)?;
        Ok(Wire { capture, file, name })
    }

    /// Ends it; fails when the capture itself has lost packets.
    fn keep(self, samples: &Samples) -> Result<()> {
        self.capture.finish()?;
        samples.keep(&self.file, &format!("{}.pcap", self.name))
    }
}

/// The call and what runs beside it.
struct Traffic<'a> {
    talk: Talk,
    transfers: Vec<Transfer>,
    wire: &'a Wire,
}

impl Traffic<'_> {
    fn start<'a>(lab: &Lab, meta: &Meta, wire: &'a Wire, scratch: &Scratch) -> Result<Traffic<'a>> {
        let outside = &lab.network.outside;
        let talk = Talk::start(meta.scenario.call, outside, scratch, meta.scenario.length + LONGER)?;
        let ways: &[Way] = if meta.scenario.tcp { &[Way::Inward, Way::Outward] } else { &[] };
        let transfers = ways
            .iter()
            .map(|&way| Transfer::start(outside, scratch, way))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Traffic { talk, transfers, wire })
    }

    fn heard(&self) -> Result<u32> {
        self.talk.heard(|| Ok(self.wire.capture.frames()?))
    }
}

/// Measures for the scenario's length; `half` is done in its middle.
fn measure(
    meta: &mut Meta,
    mut traffic: Traffic<'_>,
    tell: &dyn Fn(&str),
    half: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mut heard = Ok(0);
    let flows = wait_until(SETTLES_WITHIN, LOOK_EVERY, || {
        heard = traffic.heard();
        !matches!(heard, Ok(0..SETTLED))
    });
    let heard = heard?;
    if !flows {
        return Err(Failure::new(format!(
            "the call did not flow within {SETTLES_WITHIN:?}: {heard} packets came"
        )));
    }
    let length = meta.scenario.length;
    tell(&format!("measuring for {} s", length.as_secs_f64()));
    let watch = Watch::start();
    (meta.begin_ns, meta.end_ns) = (now_ns(), 0);
    let begin = Instant::now();
    sleep_until(begin + length / 2, begin, &traffic, tell);
    half()?;
    sleep_until(begin + length, begin, &traffic, tell);
    meta.end_ns = now_ns();
    meta.noise = watch.finish();
    meta.call_broken = traffic.talk.finish().err().map(|failure| failure.to_string());
    for transfer in &mut traffic.transfers {
        if let Some(broken) = transfer.broken() {
            return Err(Failure::new(format!("the TCP beside the call broke: {broken}")));
        }
    }
    Ok(())
}

/// Says every few seconds how it goes.
fn sleep_until(end: Instant, begin: Instant, traffic: &Traffic<'_>, tell: &dyn Fn(&str)) {
    const TELL_EVERY: Duration = Duration::from_secs(5);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left <= TELL_EVERY {
            std::thread::sleep(left);
            return;
        }
        std::thread::sleep(TELL_EVERY);
        let heard = traffic.heard().unwrap_or_default();
        tell(&format!("{:.0} s: {heard} packets heard", begin.elapsed().as_secs_f64()));
    }
}

fn keep_transfers(samples: &Samples, scenario: &Scenario, scratch: &Scratch) -> Result<()> {
    for name in ["iperf3-inward.log", "iperf3-outward.log"] {
        if scenario.tcp {
            samples.keep(Path::new(&scratch.file(name)), name)?;
        }
    }
    Ok(())
}
