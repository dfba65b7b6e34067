//! The guest without a VM: a DPDK process that offers frames on a virtio-user port as fast as they are taken, and
//! counts what was taken. Optionally it is the wire as well and swallows what comes back.
//!
//! It counts for every device under test in the same way: frames a second is what *it* got rid of. `ring_full`
//! says whether that was the device's limit or its own.

use crate::failure::{Context, Failure, Result};
use crate::frames::{Checksums, Mix};
use crate::machine::Pages;
use crate::source::Source;
use crate::stream::{Arrivals, Plan};
use serde::{Deserialize, Serialize};
use std::sync::mpsc;
use tidegate_dataplane::dpdk::{
    Eal, EalConfig, EthPort, Mbuf, Memory, Mempool, MempoolConfig, PortConfig, Role,
};

/// The virtio ring between generator and device under test: the fastest path there is, and the same for all.
pub const RING: &str = "packed_vq=1,in_order=1,mrg_rxbuf=0,queue_size=1024";
/// Mbufs of the generator: two rings of each device, and what its lcore keeps in its cache.
const MBUFS: u32 = 16_383;
/// MiB that the generator takes.
pub const MEMORY_MIB: u32 = 64;
/// What the generator is started with.
#[derive(Clone, Debug, clap::Args)]
pub struct Order {
    /// Sockets of the guest ports, one for each device under test; or `iface:NAME` of a kernel's interface
    #[arg(long, required = true)]
    pub guest: Vec<String>,
    /// Sockets of their wire ports, when those are vhost ports too; or `iface:NAME`
    #[arg(long)]
    pub wire: Vec<String>,
    /// What to send
    #[arg(long)]
    pub mix: Mix,
    /// Who puts checksums in
    #[arg(long)]
    pub checksums: Checksums,
    /// The CPU to poll on
    #[arg(long)]
    pub cpu: u32,
    /// Where its mbufs live
    #[arg(long)]
    pub pages: Pages,
}

/// A line on standard input: measure one device.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Which, by the order of its socket.
    pub device: usize,
    /// What.
    pub measure: Measure,
}

/// What is to be measured.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Measure {
    /// Frames a second: answered with a [`Window`].
    Rate {
        /// The device's process, to see how much CPU it got.
        pid: u32,
        /// Milliseconds before the window.
        warmup_ms: u64,
        /// Milliseconds measured.
        window_ms: u64,
    },
    /// How long single frames take to the wire port, which must be a vhost port: answered with nanoseconds of each.
    Delay {
        /// How many frames.
        frames: u32,
        /// Microseconds of silence before each, at least; up to twice as many.
        silence_us: u64,
    },
    /// How calls fare to the wire port, which must lead back here: answered with [`Arrivals`].
    Stream(Plan),
}

/// The line that answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Measure::Rate`].
    Rate(Window),
    /// To [`Measure::Delay`]: nanoseconds.
    Delay(Vec<u64>),
    /// To [`Measure::Stream`].
    Stream(Arrivals),
}

/// One measurement of frames a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Frames that the guest port took.
    pub frames: u64,
    /// Frames that came out of the wire port; 0 when that goes elsewhere.
    pub received: u64,
    /// How long, seconds.
    pub seconds: f64,
    /// Share of the time in which the ring was full. Near 0 the generator is the limit, not the device.
    pub ring_full: f64,
    /// Share of its CPU that the device's lcore got; `None` where the kernel does not say.
    pub dut_cpu: Option<f64>,
    /// The same of the generator's lcore.
    pub generator_cpu: Option<f64>,
}

impl Window {
    /// Frames a second: those that came through where that can be seen, else those that were taken.
    pub fn fps(&self) -> f64 {
        let through = if self.received > 0 { self.received.min(self.frames) } else { self.frames };
        through as f64 / self.seconds
    }

    /// What one needs to know to believe the number.
    pub fn circumstances(&self) -> String {
        let percent = |share: Option<f64>| share.map_or("?".into(), |share| format!("{:.0}", share * 100.0));
        format!(
            "   ring full {:.0} %, CPU of the device {} %, of the generator {} %",
            self.ring_full * 100.0,
            percent(self.dut_cpu),
            percent(self.generator_cpu)
        )
    }
}

/// Runs the generator until its standard input ends: to be called once, in a process of its own.
pub fn run(order: &Order) -> Result<()> {
    // As Running::prefer says; fails where there is nothing to prefer.
    let _ = std::fs::write("/proc/self/autogroup", "-20");
    let memory = match order.pages {
        Pages::Huge => Memory::Huge { mb_per_node: vec![MEMORY_MIB] },
        Pages::NoHuge => Memory::NoHuge { mb: MEMORY_MIB },
    };
    let eal = Eal::init(&EalConfig::new(vec![order.cpu], memory)).context(|| "generator".into())?;
    let pool = Mempool::new(&eal, MempoolConfig::new("generator", MBUFS)).context(|| "generator".into())?;
    clear(&pool)?;
    let mut number = 0;
    let mut open = |socket: &String| {
        let spec = match socket.strip_prefix("iface:") {
            Some(interface) => format!("net_af_packet{number},iface={interface}"),
            None => format!("net_virtio_user{number},path={socket},{RING}"),
        };
        number += 1;
        let config = PortConfig {
            tx_checksums: order.checksums == Checksums::Device,
            ..PortConfig::new(&spec, Role::Wire, pool.clone())
        };
        EthPort::open(&eal, config).context(|| "generator".into())
    };
    // The wires first: nothing is to be lost because they are not there yet.
    let wires = order.wire.iter().map(&mut open).collect::<Result<Vec<_>>>()?;
    let guests = order.guest.iter().map(&mut open).collect::<Result<Vec<_>>>()?;
    let lend = |port: &EthPort| port.lane_port().ok_or_else(|| Failure::new("the port is lent already"));
    let mut sources = Vec::new();
    for (n, guest) in guests.iter().enumerate() {
        let wire = wires.get(n).map(lend).transpose()?;
        sources.push(Source::new(lend(guest)?, wire, pool.clone(), order, eal.tsc_rate()));
    }
    let (ask, asked) = mpsc::channel::<Request>();
    let (tell, told) = mpsc::channel();
    let job = move || {
        while let Ok(request) = asked.recv() {
            let source = sources.get_mut(request.device);
            let answer = source.map(|source| source.measure(request.measure));
            if tell.send(answer).is_err() {
                break;
            }
        }
        drop(sources); // The ports can be closed once nobody has their lcore's end.
    };
    eal.launch(order.cpu, Box::new(job)).context(|| "generator".into())?;
    for line in std::io::stdin().lines() {
        let line = line.context(|| "standard input".into())?;
        let request = serde_json::from_str(&line).context(|| format!("request {line:?}"))?;
        let ended = || Failure::new("the generator's lcore has ended");
        ask.send(request).map_err(|_| ended())?;
        // Blocks: `eal.wait` would poll, and take the lcore's CPU.
        let answer = told.recv().map_err(|_| ended())?;
        let answer = answer.ok_or_else(|| Failure::new("no such device"))??;
        println!("{}", serde_json::to_string(&answer).context(|| "the answer".into())?);
    }
    drop(ask);
    eal.wait(order.cpu).context(|| "generator".into())
}

/// Fills every buffer with zeros: from then on only the first [`HEAD`] bytes of a frame need to be written.
fn clear(pool: &Mempool) -> Result<()> {
    const LONGEST: [u8; 256] = [0; 256];
    let all: Vec<Mbuf> = std::iter::from_fn(|| Mbuf::from_parts(pool, &[&LONGEST])).collect();
    if all.len() == MBUFS as usize { Ok(()) } else { Err(Failure::new("the generator's pool is not whole")) }
}
