//! The shipped lcore and lane on real mbufs between two ports in memory, in a process of its own: what the ratios and the
//! curves measure where a second core would only add its own noise.
//!
//! ```text
//! Feed (frames at the moments at which they are due) -> Lane -> Sink (net_null, which frees; stamps)
//! ```
//! One thread does it all, on the clock of the CPU: frames come due at moments that were fixed beforehand (open loop), so
//! what waits for the lane waits in its own delay. Closes and commits come due in the same way.

pub mod bench;
pub mod client;
pub mod delays;
pub mod gaps;
pub mod ledger;
pub mod ports;

use crate::failure::{Context, Failure, Result};
use crate::machine::Pages;
use bench::Bench;
use delays::Delays;
use serde::{Deserialize, Serialize};
use std::sync::mpsc;
use tidegate_dataplane::dpdk::{
    Eal, EalConfig, EthPort, Mbuf, Memory, Mempool, MempoolConfig, PortConfig, Role,
};

/// What the process is started with.
#[derive(Clone, Debug, clap::Args)]
pub struct Order {
    /// The CPU to poll on
    #[arg(long)]
    pub cpu: u32,
    /// Where mbufs live
    #[arg(long)]
    pub pages: Pages,
    /// MiB for all of it
    #[arg(long)]
    pub memory_mib: u32,
    /// Mbufs
    #[arg(long)]
    pub mbufs: u32,
    /// Bytes of frame that fit one
    #[arg(long)]
    pub data_room: u16,
    /// Lanes at most
    #[arg(long)]
    pub lanes: u16,
}

/// What the guests send, and how epochs go by. For each lane.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Load {
    /// Lanes on the lcore, a guest each.
    pub lanes: u16,
    /// Streams of RTP in each.
    pub streams: u32,
    /// RTP of all of them together, frames a second.
    pub rtp: Speed,
    /// TCP, frames a second.
    pub tcp: Speed,
    /// Bytes of a TCP frame.
    pub tcp_len: u16,
    /// From one close to the next, microseconds; 0: no epoch ever ends.
    pub epoch_us: u64,
    /// From a close to its commit, microseconds.
    pub commit_us: u64,
    /// Frames that the hold queue has room for.
    pub hold_frames: u64,
    /// Only the ports, with nothing between them: what is to be taken off.
    pub bare: bool,
    /// Each TCP frame is looked at: its number, how long it was held.
    pub follow_tcp: bool,
}

impl Default for Load {
    fn default() -> Load {
        Load {
            lanes: 1,
            streams: 0,
            rtp: Speed::None,
            tcp: Speed::None,
            tcp_len: 60,
            epoch_us: 50_000,
            commit_us: 5_000,
            hold_frames: 32_768,
            bare: false,
            follow_tcp: false,
        }
    }
}

/// How fast frames come.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Speed {
    /// There are none.
    None,
    /// So many a second, at even distances.
    PerSecond(f64),
    /// As fast as they are taken.
    Flood,
}

/// A line on standard input.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Carry a load for a while, once its streams have proven themselves.
    Carry {
        /// The load.
        load: Load,
        /// Milliseconds.
        ms: u64,
    },
    /// Hold so many frames of TCP, let the caches forget them, commit; RTP as in the load meanwhile.
    Release {
        /// The load; its TCP only says how long frames are.
        load: Load,
        /// How many.
        frames: u64,
        /// So often.
        times: u32,
    },
    /// Read the clock and do nothing else: what the machine does to a thread by itself.
    Spin {
        /// Milliseconds.
        ms: u64,
    },
}

/// The line that answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// RTP, from the moment at which a frame was due until the transmit call had returned.
    pub rtp: Delays,
    /// From the moment at which a commit was due until its first frame was sent.
    pub first: Delays,
    /// Of TCP: from the moment at which it was due until it was sent, mean, ns. With `follow_tcp`.
    pub hold_ns: f64,
    /// What that would be if nothing took any time: to the end of the epoch, and the commit's delay.
    pub ideal_hold_ns: f64,
    /// Frames that were sent.
    pub frames: u64,
    /// Frames that the lane dropped, or for which there was no mbuf.
    pub dropped: u64,
    /// TCP frames that left in another order than they came. With `follow_tcp`.
    pub reordered: u64,
    /// Nanoseconds a frame, in the polls that had anything to do.
    pub busy_ns: f64,
    /// Ticks a frame, the same.
    pub busy_ticks: f64,
    /// Most frames held at once.
    pub held_peak: u64,
    /// Of each release: nanoseconds from the commit to its last frame sent; those that a hiccup touched are marked.
    pub releases: Vec<(f64, bool)>,
    /// Of each release: nanoseconds that it took to take a frame in and hold it.
    pub takes: Vec<f64>,
    /// Moments at which the machine took the thread's CPU, each longer than [`ledger::HICCUP_NS`].
    pub hiccups: u64,
    /// Share of the time that went in them.
    pub hiccup_share: f64,
    /// The longest of them, microseconds.
    pub hiccup_worst_us: f64,
    /// Seconds that were measured.
    pub seconds: f64,
}

/// Runs it until its standard input ends: to be called once, in a process of its own.
pub fn run(order: &Order) -> Result<()> {
    // As Running::prefer says; fails where there is nothing to prefer.
    let _ = std::fs::write("/proc/self/autogroup", "-20");
    let doing = || "the rig".to_owned();
    let memory = match order.pages {
        Pages::Huge => Memory::Huge { mb_per_node: vec![order.memory_mib] },
        Pages::NoHuge => Memory::NoHuge { mb: order.memory_mib },
    };
    let eal = Eal::init(&EalConfig::new(vec![order.cpu], memory)).context(doing)?;
    // As the plane has it.
    let config = MempoolConfig {
        data_room: order.data_room,
        one_lcore: true,
        ..MempoolConfig::new("rig", order.mbufs)
    };
    let pool = Mempool::new(&eal, config).context(doing)?;
    clear(&pool)?;
    let open = |n: u16| {
        let spec = format!("net_null{n},no-rx=1");
        EthPort::open(&eal, PortConfig::new(&spec, Role::Wire, pool.clone())).context(doing)
    };
    let ports = (0..order.lanes).map(open).collect::<Result<Vec<_>>>()?;
    let lent = ports
        .iter()
        .map(|port| port.lane_port().ok_or_else(|| Failure::new("the rig's port is lent already")));
    let wires = lent.collect::<Result<Vec<_>>>()?;
    let mut bench = Bench::new(wires, pool.clone(), eal.tsc_rate());
    let (ask, asked) = mpsc::channel::<Ask>();
    let (tell, told) = mpsc::channel();
    let job = move || {
        while let Ok(what) = asked.recv() {
            if tell.send(bench.answer(what)).is_err() {
                break;
            }
        }
        drop(bench); // The ports can be closed once nobody has their lcore's end.
    };
    eal.launch(order.cpu, Box::new(job)).context(doing)?;
    for line in std::io::stdin().lines() {
        let line = line.context(|| "standard input".into())?;
        let what = serde_json::from_str(&line).context(|| format!("request {line:?}"))?;
        let ended = || Failure::new("the rig's lcore has ended");
        ask.send(what).map_err(|_| ended())?;
        let answer: Result<Seen> = told.recv().map_err(|_| ended())?;
        println!("{}", serde_json::to_string(&answer?).context(|| "the answer".into())?);
    }
    drop(ask);
    eal.wait(order.cpu).context(doing)
}

/// Fills every buffer with zeros: from then on only the first bytes of a frame need to be written.
fn clear(pool: &Mempool) -> Result<()> {
    let zeros = vec![0; usize::from(pool.config().data_room)];
    let all: Vec<Mbuf> = std::iter::from_fn(|| Mbuf::from_parts(pool, &[&zeros])).collect();
    let whole = all.len() == pool.config().mbufs as usize;
    if whole { Ok(()) } else { Err(Failure::new("the rig's pool is not whole")) }
}
