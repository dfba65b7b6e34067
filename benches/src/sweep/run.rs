//! One interval: a VM that is replicated at it, and one cell after the other measured on it.

use super::held::{self, Watch as Holding};
use super::open_loop;
use super::plan::{Cell, Load, Pace};
use super::samples::{Meta, Samples};
use super::signalling::Signalling;
use super::talkers::Talkers;
use super::transactions::Transactions;
use crate::failure::{Failure, Result};
use crate::testbed::conditions::Conditions;
use crate::testbed::hiccups::Watch;
use crate::testbed::lab::Lab;
use crate::testbed::scenario::CallWay;
use std::path::Path;
use std::time::{Duration, Instant};
use tidegate_tests::capture::Capture;
use tidegate_tests::plane::GUEST;
use tidegate_tests::process::{Program, Running};
use tidegate_tests::scratch::Scratch;
use tidegate_tests::survival::host::Host;
use tidegate_tests::survival::network::port;
use tidegate_tests::survival::replication::{Means, Replication};
use tidegate_tests::wall_clock::{now_ns, wait_until};

/// The calls, and nothing that only fills the file.
const CAPTURED: &str = "udp and not port 9700";
/// What a change of load or calls needs until it is measured; `auto` until it has followed it.
const SETTLES: Duration = Duration::from_millis(700);
const AUTO_SETTLES: Duration = Duration::from_millis(3500);
const FLOWS_WITHIN: Duration = Duration::from_secs(20);
/// Packets of each voice that must have come.
const FLOWS: u64 = 10;
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);
/// Nobody is to take over: a machine that does everything at once keeps a side silent for longer than a host is.
const PATIENT: &str = "--dead-after 2s";
const GRANTS: &str = "--term 1500ms";

/// What an interval is run with.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// The checkpoints' pace.
    pub pace: Pace,
    /// Bounds of `auto`.
    pub bounds: (Duration, Duration),
    /// What is to be measured, in this order.
    pub cells: &'a [Cell],
    /// How long each.
    pub length: Duration,
    /// Below which directory samples are kept.
    pub out: &'a Path,
}

/// Runs it; `tell` gets a line now and then.
pub fn run(lab: &mut Lab, order: &Order<'_>, tell: &dyn Fn(&str)) -> Result<()> {
    lab.boot(CallWay::To)?;
    lab.forget()?;
    let (snapshot, setting) = lab.guest(CallWay::To, "realtime")?;
    let mut hosts = Host::pair(&setting, &lab.network)?;
    snapshot.run(&hosts[0])?;
    let means = Means::Programs(lab.programs.tidegate.clone());
    let words = format!("{} {PATIENT}", order.pace.words(order.bounds.0, order.bounds.1));
    let standby = format!("{PATIENT} {GRANTS}");
    let mut replication = Replication::start_with(&means, &lab.network, &hosts, None, [&words, &standby])?;
    tell("the first full copy travels");
    replication.protects()?;
    let mut transfers: Option<(Load, Vec<Transfer>)> = None;
    for (n, cell) in order.cells.iter().enumerate() {
        if transfers.as_ref().is_none_or(|(load, _)| *load != cell.load) {
            drop(transfers.take());
            transfers = Some((cell.load, start(lab, hosts[0].scratch(), cell.load)?));
        }
        let running = transfers.as_mut().map(|(_, running)| running.as_mut_slice()).unwrap_or_default();
        measure(lab, &hosts[0], &mut replication, order, (n, cell), running)?;
        tell(&format!("{} of {}: {} calls, TCP {}", n + 1, order.cells.len(), cell.calls, cell.load.name()));
    }
    replication.alive()?;
    hosts.iter_mut().for_each(Host::passed);
    Ok(())
}

fn measure(
    lab: &Lab,
    host: &Host,
    replication: &mut Replication,
    order: &Order<'_>,
    (n, cell): (usize, &Cell),
    transfers: &mut [Transfer],
) -> Result<()> {
    let (outside, scratch) = (&lab.network.outside, host.scratch());
    let samples = Samples::of(cell, order.out);
    samples.clear()?;
    let length_ms = order.length.as_millis() as u64;
    let mut meta = Meta::new(cell, length_ms, Conditions::now(&lab.programs.tidegate, true));
    let talkers = Talkers::start(outside, cell.calls)?;
    let mut signalling = Signalling::start(outside, cell.calls)?;
    let wanted = FLOWS * u64::from(cell.calls);
    if !wait_until(FLOWS_WITHIN, Duration::from_millis(10), || talkers.heard() >= wanted) {
        return Err(Failure::new(format!(
            "{}: the calls did not flow: {} packets came",
            cell.name(),
            talkers.heard()
        )));
    }
    let numbers = 1000 * (n as u64 + 1);
    let transactions = Transactions::start(outside, numbers)?;
    signalling.measure(numbers);
    std::thread::sleep(if order.pace.fixed_ms().is_none() { AUTO_SETTLES } else { SETTLES });
    let label = format!("wire-{n}");
    let capture = Capture::start_on(&port(0), CAPTURED, outside, scratch, &label)?;
    let holding = Holding::start(host.plane.control()?, GUEST);
    let marks: Vec<usize> = transfers.iter().map(|transfer| transfer.running.output().len()).collect();
    let watch = Watch::start();
    meta.begin_ns = now_ns();
    std::thread::sleep(order.length);
    meta.end_ns = now_ns();
    meta.noise = watch.finish();
    samples.keep("held.csv", &held::to_csv(&holding.finish()))?;
    for (transfer, mark) in transfers.iter_mut().zip(marks) {
        transfer.alive()?;
        let output = transfer.running.output();
        samples.keep(&format!("{}.log", transfer.label), output.get(mark..).unwrap_or_default())?;
    }
    samples.keep("transactions.csv", &open_loop::to_csv(&transactions.finish()))?;
    samples.keep("signalling.csv", &open_loop::to_csv(&signalling.finish()))?;
    capture.finish()?;
    samples.keep_file(&scratch.file(&format!("{label}.pcap")), "wire.pcap")?;
    let _ = std::fs::remove_file(scratch.file(&format!("{label}.pcap")));
    replication.alive()?;
    let [primary, _] = replication.events();
    let within = |event: &&serde_json::Value| {
        event["read_ns"].as_u64().is_some_and(|at| (meta.begin_ns..=meta.end_ns).contains(&at))
    };
    let lines: String = primary.iter().filter(within).map(|event| format!("{event}\n")).collect();
    samples.keep("primary.jsonl", &lines)?;
    samples.complete(&meta)
}

/// iperf3 one way.
struct Transfer {
    running: Running,
    label: &'static str,
}

impl Transfer {
    fn alive(&mut self) -> Result<()> {
        match self.running.ended() {
            Some(status) => Err(self.running.failure(&format!("ended with {status}")).into()),
            None => Ok(()),
        }
    }
}

fn start(lab: &Lab, scratch: &Scratch, load: Load) -> Result<Vec<Transfer>> {
    let rate = match load {
        Load::None => return Ok(Vec::new()),
        Load::Paced => "-b 3M -l 4K",
        Load::Full => "",
    };
    let ways = [("iperf3-outward", 5202, "-R"), ("iperf3-inward", 5201, "")];
    ways.iter()
        .map(|&(label, port, way)| connect(lab, scratch, label, &format!("-p {port} {rate} {way}")))
        .collect()
}

/// The server closes its door for a moment between two tests.
fn connect(lab: &Lab, scratch: &Scratch, label: &'static str, words: &str) -> Result<Transfer> {
    let until = Instant::now() + CONNECTS_WITHIN;
    loop {
        let mut running = Program::new("iperf3")
            .args(&format!("-c 10.9.0.2 -t 3600 -i 0.1 --forceflush {words}"))
            .inside(&lab.network.outside)
            .start(scratch, label)?;
        let moves = wait_until(Duration::from_secs(5), Duration::from_millis(20), || {
            running.ended().is_some() || running.output().contains("sec ")
        });
        match (running.ended(), moves) {
            (None, true) => return Ok(Transfer { running, label }),
            _ if Instant::now() < until => std::thread::sleep(Duration::from_millis(300)),
            _ => return Err(running.failure("moves nothing").into()),
        }
    }
}
