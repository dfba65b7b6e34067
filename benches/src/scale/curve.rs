//! One curve: its points, how each is measured, and where it bends.

use crate::failure::Result;
use crate::rig::client::Rig;
use crate::rig::{Load, Speed};
use crate::stats::Spread;
use serde::Serialize;
use std::mem::size_of;
use tidegate_dataplane::dpdk::Mbuf;
use tidegate_dataplane::hold::Held;

/// Milliseconds of a window.
const WINDOW_MS: u64 = 400;
/// For how long a frame is held on the curve of epochs, and how many come a second.
const HELD_US: u64 = 32_000;
const HELD_PER_S: f64 = 500_000.0;
/// A cost that is so many times the least before it is a bend.
const BEND: f64 = 1.25;
/// What an mbuf takes in a pool as the plane makes it: data room, headroom, its own two lines, and the pool's header.
pub const MBUF_BYTES: u64 = 2048 + 128 + 128 + 64;

/// Along what it grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Calls.
    Calls,
    /// Streams.
    Streams,
    /// Guests.
    Guests,
    /// Epochs in flight.
    Epochs,
    /// Frames held.
    Depth,
}

/// All of them.
pub const CURVES: [Kind; 5] = [Kind::Calls, Kind::Streams, Kind::Guests, Kind::Epochs, Kind::Depth];

/// A point of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// How many there were.
    pub x: u64,
    /// Nanoseconds a frame, the ports' own taken off. On the curve of depth: released.
    pub cost: Spread,
    /// The same in ticks; `None` on the curve of depth.
    pub ticks: Option<Spread>,
    /// Nanoseconds to take a frame in and hold it, ports included; on the curve of depth.
    pub take: Option<Spread>,
    /// The 99th percentile of RTP's delay, microseconds, hiccup-free; on the curve of calls.
    pub p99_us: Option<Spread>,
    /// Bytes that a held frame takes: its mbuf and its share of the ring; on the curve of depth.
    pub memory_bytes: Option<f64>,
}

/// Where a curve leaves its level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bend {
    /// The first point beyond it.
    pub x: u64,
    /// Its cost over the least before it.
    pub factor: f64,
}

/// See the module's head.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// As in `--only`.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// What is counted along it.
    pub of: &'static str,
    /// Rising.
    pub points: Vec<Point>,
    /// The first one.
    pub bend: Option<Bend>,
    /// Why it bends where it does.
    pub why: &'static str,
}

impl Curve {
    /// A sentence.
    pub fn bend_in_words(&self) -> String {
        match self.bend {
            None => format!("does not bend: no point costs {BEND} times the least before it"),
            Some(Bend { x, factor }) => {
                format!("bends at {x} {}: {factor:.2} times the least before it", self.of)
            }
        }
    }
}

/// What one measurement of a point gave.
struct Sample {
    ns: f64,
    ticks: Option<f64>,
    take: Option<f64>,
    p99_us: Option<f64>,
}

impl Kind {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Calls => "calls",
            Kind::Streams => "streams",
            Kind::Guests => "guests",
            Kind::Epochs => "epochs",
            Kind::Depth => "depth",
        }
    }

    const fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Kind::Calls => (
                "Calls of 50 packets a second, paced",
                "calls",
                "Few calls come one frame a poll, and each frame pays for the whole round; with more calls bursts fill \
                 and the round is shared, so the line falls first. It rises again where the streams' entries no \
                 longer fit the second-level cache.",
            ),
            Kind::Streams => (
                "Streams that come round in turns, as fast as they are taken",
                "streams",
                "An entry of the stream table is touched once a round. It costs what the cache that still has it \
                 costs: the line bends where all entries outgrow the second-level cache, and again at the third.",
            ),
            Kind::Guests => (
                "Guests on one lcore, a lane each",
                "guests",
                "Lanes share nothing, so each costs what the first does, until their code's data (stages, counters, \
                 histograms, tables) outgrows the first- and second-level caches between two turns of a lane.",
            ),
            Kind::Epochs => (
                "Epochs in flight, the same number of frames held",
                "epochs in flight",
                "A commit is one comparison with the front of the queue, however many epochs wait behind: the line \
                 should stay level. What a close costs is shared by the frames of an epoch, which are fewer.",
            ),
            Kind::Depth => (
                "Frames held, released at once by one commit",
                "frames held",
                "A held frame has left the caches when its commit comes: its slot in the ring and its mbuf come from \
                 memory, and the prefetches of a burst hide what the memory can overlap. The line bends where the \
                 ring and the mbufs' headers outgrow the cache, and again where their pages outgrow the TLB.",
            ),
        }
    }

    /// Its points.
    pub fn points(self, short: bool) -> &'static [u64] {
        match (self, short) {
            (Kind::Calls, true) => &[10, 100],
            (Kind::Calls, false) => &[1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000],
            (Kind::Streams, true) => &[10, 1_000],
            (Kind::Streams, false) => &[10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000],
            (Kind::Guests, true) => &[1, 2],
            (Kind::Guests, false) => &[1, 2, 4, 8, 16, 32],
            (Kind::Epochs, true) => &[1, 4],
            (Kind::Epochs, false) => &[1, 2, 4, 8, 16, 32, 64],
            (Kind::Depth, true) => &[1_000, 10_000],
            (Kind::Depth, false) => {
                &[1_000, 3_000, 10_000, 30_000, 60_000, 100_000, 300_000, 600_000, 1_000_000]
            }
        }
    }

    fn most(self, short: bool) -> u64 {
        self.points(short).iter().copied().max().unwrap_or(1)
    }

    /// Mbufs that it needs.
    pub fn mbufs(self, short: bool) -> u32 {
        let held = if self == Kind::Depth { self.most(short) } else { 65_536 };
        held as u32 + 32_767
    }

    /// Lanes that it needs.
    pub fn lanes(self, short: bool) -> u16 {
        if self == Kind::Guests { self.most(short) as u16 } else { 1 }
    }

    fn load(self, x: u64) -> Load {
        match self {
            Kind::Calls => {
                Load { streams: x as u32, rtp: Speed::PerSecond(50.0 * x as f64), ..Load::default() }
            }
            Kind::Streams => Load { streams: x as u32, rtp: Speed::Flood, ..Load::default() },
            Kind::Guests => {
                let hold_frames = 1_024;
                Load { lanes: x as u16, streams: 10, rtp: Speed::Flood, hold_frames, ..Load::default() }
            }
            Kind::Epochs => Load {
                tcp: Speed::PerSecond(HELD_PER_S),
                epoch_us: HELD_US / x,
                commit_us: HELD_US,
                hold_frames: 65_536,
                ..Load::default()
            },
            Kind::Depth => Load { hold_frames: x, ..Load::default() },
        }
    }

    fn sample(self, rig: &mut Rig, x: u64, short: bool) -> Result<Sample> {
        let load = self.load(x);
        if self == Kind::Depth {
            let times = if short { 1 } else { (200_000 / x).clamp(1, 10) as u32 };
            let seen = rig.release(load, x, times)?;
            let middle =
                |list: Vec<f64>| Spread::of(list).map_or(f64::NAN, |spread| spread.median / x as f64);
            let ns = middle(seen.releases.iter().map(|(ns, _)| *ns).collect());
            return Ok(Sample { ns, ticks: None, take: Some(middle(seen.takes)), p99_us: None });
        }
        let ms = if short { 100 } else { WINDOW_MS };
        let gross = rig.carry(load, ms)?;
        let ports = rig.carry(Load { bare: true, ..load }, ms)?;
        Ok(Sample {
            ns: gross.busy_ns - ports.busy_ns,
            ticks: Some(gross.busy_ticks - ports.busy_ticks),
            take: None,
            p99_us: (self == Kind::Calls).then_some(gross.rtp.clean.p99 / 1e3),
        })
    }

    /// Measures all its points, in turns.
    pub fn measure(self, rig: &mut Rig, repeats: u32, short: bool) -> Result<Curve> {
        let xs = self.points(short);
        let mut samples: Vec<Vec<Sample>> = xs.iter().map(|_| Vec::new()).collect();
        for round in 1..=repeats {
            for (samples, &x) in samples.iter_mut().zip(xs) {
                samples.push(self.sample(rig, x, short)?);
            }
            eprintln!("scale: {} round {round}/{repeats}", self.name());
        }
        let points = xs.iter().zip(&samples).filter_map(|(&x, samples)| self.point(x, samples)).collect();
        let (title, of, why) = self.words();
        let mut curve = Curve { name: self.name(), title, of, points, bend: None, why };
        curve.bend = bend(&curve.points);
        Ok(curve)
    }

    fn point(self, x: u64, samples: &[Sample]) -> Option<Point> {
        let all = |of: fn(&Sample) -> Option<f64>| Spread::of(samples.iter().filter_map(of));
        Some(Point {
            x,
            cost: all(|sample| Some(sample.ns))?,
            ticks: all(|sample| sample.ticks),
            take: all(|sample| sample.take),
            p99_us: all(|sample| sample.p99_us),
            memory_bytes: (self == Kind::Depth).then(|| memory(x)),
        })
    }
}

/// Bytes that each of so many held frames takes, when there is room for no more.
pub fn memory(frames: u64) -> f64 {
    let slots = (frames + frames / 4).max(2).next_power_of_two();
    let ring = slots * size_of::<Option<Held<Mbuf>>>() as u64;
    MBUF_BYTES as f64 + ring as f64 / frames.max(1) as f64
}

/// The first point that costs clearly more than one before it.
fn bend(points: &[Point]) -> Option<Bend> {
    let mut least = f64::MAX;
    for point in points {
        let cost = point.cost.median;
        if cost > BEND * least {
            return Some(Bend { x: point.x, factor: cost / least });
        }
        if cost > 0.0 {
            least = least.min(cost);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A curve through these costs, at 1, 10, 100, ...
    pub fn points(costs: &[f64]) -> Vec<Point> {
        let point = |(n, cost): (usize, &f64)| Point {
            x: 10u64.pow(n as u32),
            cost: Spread::of([*cost]).unwrap(),
            ticks: None,
            take: None,
            p99_us: None,
            memory_bytes: None,
        };
        costs.iter().enumerate().map(point).collect()
    }

    #[test]
    fn a_bend_is_where_the_cost_leaves_its_lowest_level() {
        assert_eq!(bend(&points(&[90.0, 40.0, 41.0, 49.0, 52.0])), Some(Bend { x: 10_000, factor: 1.3 }));
        assert_eq!(bend(&points(&[90.0, 40.0, 44.0])), None);
        assert_eq!(bend(&[]), None);
    }

    #[test]
    fn a_held_frame_takes_its_mbuf_and_its_slots() {
        let slot = size_of::<Option<Held<Mbuf>>>() as f64;
        assert_eq!(memory(1 << 20), MBUF_BYTES as f64 + 2.0 * slot);
        assert!(memory(1_000) < 3_000.0 && slot <= 64.0, "{slot}");
    }

    #[test]
    fn every_curve_spans_what_was_promised() {
        let span = |kind: Kind| {
            let points = kind.points(false);
            (points[0], points[points.len() - 1])
        };
        assert_eq!(CURVES.map(span), [(1, 10_000), (10, 100_000), (1, 32), (1, 64), (1_000, 1_000_000)]);
        assert!(Kind::Depth.mbufs(false) > 1_000_000);
        for kind in CURVES {
            assert_eq!(kind.points(true).len(), 2);
        }
    }
}
