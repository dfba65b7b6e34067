//! `classify`: what a frame costs on one core beyond what DPDK's own forwarder takes for it, in TSC ticks, and in
//! instructions.
//!
//! Receive from memory (`net_pcap` with `infinite_rx`: a driver that copies prepared frames), look, transmit to
//! `net_null`; no second core is in it. Between `testpmd --forward-mode=mac` and tidegate on the same ports lies
//! everything that tidegate does with a frame: read its headers, verify its checksum, find its stream, judge, count,
//! measure. RTP is judged under `realtime` while protected; TCP while the guest is open, so that it is classified and
//! passes (what holding costs is another figure). Devices are started afresh for each window, in turns.

use crate::cost;
use crate::dut::BURST;
use crate::failure::Result;
use crate::frames::{self, Call, Checksums};
use crate::machine::{Cpus, Pages, Scratch};
use crate::memory_lane::Kind;
use crate::replay::{Device, Replay, write_capture};
use crate::report::{Aim, Telling, row};
use crate::stats::Spread;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tidegate_dataplane::dpdk::Tsc;
use tidegate_dataplane::tsc::Clock;

/// Streams of the small and of the large load.
const FEW: u16 = 10;
const MANY: u16 = 10_000;
/// From one packet of a stream to its next in the capture, once it has proven itself. The capture is played in a
/// circle, so the numbers of a stream must go round in it; steps of this size are within the window.
const STEP: u16 = 2_900;
const LOADS: [Load; 6] = [
    Load { aim: Some(40.0), ..Load::new("rtp", FEW) },
    Load::new("rtp_10000_streams", MANY),
    Load { ruled: true, ..Load::new("rtp_with_rules", FEW) },
    Load { verifies: false, ..Load::new("rtp_unverified", FEW) },
    Load { aim: Some(25.0), ..Load::new("tcp", 0) },
    Load { verifies: false, ..Load::new("tcp_unverified", 0) },
];
/// The large load may cost so much more than the small one, the forwarder's own cost included in both.
const MANY_OVER_FEW: f64 = 1.3;

/// What `classify` can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Rounds: in each, every device meets every load once
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeats: u32,
    /// Seconds measured in each window
    #[arg(long, default_value_t = 0.5)]
    pub seconds: f64,
    /// Where mbufs live [default: huge pages if enough are free]
    #[arg(long)]
    pub pages: Option<Pages>,
    /// The tidegate binary
    #[arg(long, env = "TIDEGATE", value_name = "PATH")]
    pub tidegate: PathBuf,
}

struct Load {
    name: &'static str,
    /// 0: TCP.
    streams: u16,
    /// Checksums are verified (the default); testpmd never does.
    verifies: bool,
    /// With a handful of the operator's rules.
    ruled: bool,
    /// Ticks a frame over testpmd.
    aim: Option<f64>,
}

impl Load {
    const fn new(name: &'static str, streams: u16) -> Load {
        Load { name, streams, verifies: true, ruled: false, aim: None }
    }

    /// The frames of one circle.
    fn frames(&self) -> Vec<Vec<u8>> {
        if self.streams == 0 {
            return vec![frames::tcp_ack(); 1024];
        }
        // Three in a row prove a stream.
        let mut sequences = vec![0, 1, 2];
        sequences.extend((1..).map(|n: u16| n.saturating_mul(STEP)).take_while(|n| *n < u16::MAX - STEP / 2));
        let mut calls: Vec<Call> = (0..self.streams).map(|n| Call::new(n, Checksums::Guest)).collect();
        let circle = sequences.len() * calls.len();
        let streams = calls.len();
        let packet = |n: usize| {
            let n = n % circle;
            calls[n % streams].packet_number(sequences[n / streams]).to_vec()
        };
        // As many frames whatever the streams: a small circle would lie in the cache, and the driver's own copying
        // would make the difference.
        (0..circle * (usize::from(MANY) / streams)).map(packet).collect()
    }
}

#[derive(Serialize)]
struct Report<'a> {
    bench: &'static str,
    /// Ticks a frame over testpmd `mac`, by load.
    added_ticks: BTreeMap<&'static str, Option<Spread>>,
    /// The same in nanoseconds.
    added_ns: BTreeMap<&'static str, Option<Spread>>,
    /// Ticks a frame of testpmd `mac` itself, by load.
    mac_ticks: BTreeMap<&'static str, Option<Spread>>,
    /// Ticks of a frame of the large load over those of the small one, tidegate alone.
    many_over_few: Option<Spread>,
    /// Instructions a frame of the lane alone, ports taken off (see `cost`).
    instructions: cost::Figures,
    tsc_hz: f64,
    pages: Pages,
    burst: usize,
    repeats: u32,
    aims: &'a [Aim],
}

/// Runs it.
pub fn run(options: &Options, telling: Telling) -> Result<ExitCode> {
    let (cpus, scratch) = (Cpus::choose()?, Scratch::new()?);
    let pages = options.pages.unwrap_or_else(|| Pages::choose(crate::replay::MEMORY_MIB));
    let hz = tsc_hz();
    let window = Duration::from_secs_f64(options.seconds);
    let captures = LOADS.iter().map(|load| {
        let path = scratch.path(&format!("{}.pcap", load.name));
        write_capture(&path, &load.frames()).map(|()| path)
    });
    let captures = captures.collect::<Result<Vec<_>>>()?;
    let mut ticks: BTreeMap<(&str, Device), Vec<f64>> = BTreeMap::new();
    for round in 1..=options.repeats {
        for (load, capture) in LOADS.iter().zip(&captures) {
            for device in [Device::Mac, Device::Tidegate] {
                let replay = Replay {
                    capture,
                    cpus,
                    pages,
                    tidegate: &options.tidegate,
                    open: load.streams == 0,
                    verifies: load.verifies,
                    ruled: load.ruled,
                    epoch_ms: (50, 5),
                };
                let frames_per_s = replay.measure(device, window, &scratch)?;
                let per_frame = hz / frames_per_s;
                eprintln!(
                    "round {round}/{}: {:<20}{:<10}{per_frame:>8.1} ticks a frame, {:.1} ns",
                    options.repeats,
                    load.name,
                    device.name(),
                    1e9 / frames_per_s
                );
                ticks.entry((load.name, device)).or_default().push(per_frame);
            }
        }
    }
    let instructions = instructions()?;
    let of = |load: &'static str, device| ticks.get(&(load, device)).map(Vec::as_slice).unwrap_or_default();
    // Within a round: what the host does to one it does to the other.
    let added = |load| {
        let pairs = of(load, Device::Tidegate).iter().zip(of(load, Device::Mac));
        pairs.map(|(tidegate, mac)| tidegate - mac).collect::<Vec<f64>>()
    };
    let names = || LOADS.iter().map(|load| load.name);
    let added_ticks: BTreeMap<_, _> = names().map(|name| (name, Spread::of(added(name)))).collect();
    let in_ns = |ticks: f64| ticks * 1e9 / hz;
    let added_ns = names().map(|name| (name, Spread::of(added(name).into_iter().map(in_ns)))).collect();
    let mac_ticks = names().map(|name| (name, Spread::of(of(name, Device::Mac).iter().copied()))).collect();
    let pairs = of("rtp_10000_streams", Device::Tidegate).iter().zip(of("rtp", Device::Tidegate));
    let many_over_few = Spread::of(pairs.map(|(many, few)| many / few));
    let mut aims: Vec<Aim> = LOADS
        .iter()
        .filter_map(|load| Some(Aim::at_most(load.name, added_ticks[load.name], load.aim?)))
        .collect();
    aims.push(Aim::at_most("many_over_few", many_over_few, MANY_OVER_FEW));
    let mut lines: Vec<String> =
        added_ticks.iter().map(|(name, spread)| row(name, *spread, " ticks over testpmd mac")).collect();
    lines.push(row("many_over_few", many_over_few, ""));
    lines.extend(instructions.iter().map(|(name, n)| format!("{name:<28}{n:>8.1} instructions a frame")));
    let report = Report {
        bench: "classify",
        added_ticks,
        added_ns,
        mac_ticks,
        many_over_few,
        instructions,
        tsc_hz: hz,
        pages,
        burst: BURST,
        repeats: options.repeats,
        aims: &aims,
    };
    Ok(telling.tell(&report, &lines, &aims))
}

/// Instructions a frame of media and of TCP, as `cost` counts them.
fn instructions() -> Result<cost::Figures> {
    let (figures, _) =
        cost::measure_kinds(&[Kind::Rtp, Kind::RtpRuled, Kind::TcpOpen, Kind::Tcp], false, None)?;
    Ok(figures)
}

/// The circle of RTP that [`Replay`] plays, of so many streams; of TCP for none.
pub fn circle(streams: u16) -> Vec<Vec<u8>> {
    Load::new("", streams).frames()
}

/// Ticks a second, by the clock of the kernel.
pub fn tsc_hz() -> f64 {
    let (start, from) = (Instant::now(), Tsc.now());
    std::thread::sleep(Duration::from_millis(300));
    let (ticks, seconds) = (Tsc.now() - from, start.elapsed().as_secs_f64());
    ticks as f64 / seconds
}
