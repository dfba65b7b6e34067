//! What a physical machine of 1 and of 10 Gbit/s should give, by arithmetic from the curves. Nothing here was measured,
//! and everything that shows it says so.

use super::curve::{Curve, memory};
use super::curve_of;
use serde::Serialize;

/// Bytes on the wire beside a frame: FCS, preamble, gap.
const AROUND: f64 = 24.0;
/// Frames: G.711 of 20 ms, a full TCP segment, the shortest frame.
const RTP: f64 = 214.0;
const FULL: f64 = 1514.0;
const SHORTEST: f64 = 60.0;
/// What a NIC's driver takes for receiving and sending a frame: an assumption, from published figures of poll-mode
/// drivers; to be replaced by `testpmd`'s own on the machine in question.
const DRIVER_NS: f64 = 50.0;
/// The longest epoch of the paper.
const EPOCH_S: f64 = 0.4;

/// For one speed of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Wire {
    /// Its speed.
    pub gbit: f64,
    /// Calls that fill it, one direction.
    pub calls: f64,
    /// Share of an lcore that they take.
    pub lcore_of_calls: f64,
    /// Share of an lcore that full TCP frames at line rate take, held and released.
    pub lcore_of_tcp: f64,
    /// Share of an lcore that shortest frames at line rate take, held and released; more than 1 cannot be.
    pub lcore_of_shortest: f64,
    /// Mbufs that an epoch of 400 ms of full frames pins, and what those take, MiB.
    pub held_frames: f64,
    /// See there.
    pub held_mib: f64,
    /// From the commit to the last frame of such an epoch at tx, if the wire took them at once, milliseconds.
    pub release_ms: f64,
    /// What the wire itself needs for them, milliseconds.
    pub wire_ms: f64,
}

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Derived {
    /// True, for whoever reads the JSON.
    pub derived_not_measured: bool,
    /// What it starts from: nanoseconds of a bypassed frame, of one that is taken in and held, of one that is released.
    pub bypass_ns: f64,
    /// See there.
    pub take_ns: f64,
    /// See there.
    pub release_ns: f64,
    /// Assumed, not measured: a NIC's driver, receive and send.
    pub driver_ns: f64,
    /// 1 and 10 Gbit/s.
    pub wires: Vec<Wire>,
}

impl Derived {
    /// From the curves of calls and depth; `None` where one is missing.
    pub fn of(curves: &[Curve]) -> Option<Derived> {
        let calls = curve_of(curves, "calls").ok()?.points.last()?;
        let depth = curve_of(curves, "depth").ok()?;
        // As many as a gigabit's epoch holds, or the next.
        let near = depth.points.iter().find(|point| point.x >= 30_000).or(depth.points.last())?;
        let costs = (calls.cost.median, near.take?.median, near.cost.median);
        let wires = [1.0, 10.0].map(|gbit| wire(gbit, costs)).to_vec();
        let (bypass_ns, take_ns, release_ns) = costs;
        Some(Derived {
            derived_not_measured: true,
            bypass_ns,
            take_ns,
            release_ns,
            driver_ns: DRIVER_NS,
            wires,
        })
    }
}

fn wire(gbit: f64, (bypass, take, release): (f64, f64, f64)) -> Wire {
    let per_s = |bytes: f64| gbit * 1e9 / 8.0 / (bytes + AROUND);
    let share = |bytes: f64, ns: f64| per_s(bytes) * (ns + DRIVER_NS) / 1e9;
    let held = per_s(FULL) * EPOCH_S;
    Wire {
        gbit,
        calls: (per_s(RTP) / 50.0).floor(),
        lcore_of_calls: share(RTP, bypass),
        lcore_of_tcp: share(FULL, take + release),
        lcore_of_shortest: share(SHORTEST, take + release),
        held_frames: held.ceil(),
        held_mib: held * memory(held as u64) / f64::from(1 << 20),
        release_ms: held * release / 1e6,
        wire_ms: EPOCH_S * 1e3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gigabit_is_the_frames_that_fit_it() {
        let wire = wire(1.0, (50.0, 60.0, 40.0));
        assert_eq!((wire.calls, wire.held_frames), (10_504.0, 32_510.0));
        // 525 210 frames of 100 ns.
        assert!((wire.lcore_of_calls - 0.0525).abs() < 1e-4, "{wire:?}");
        assert!((wire.lcore_of_shortest - 1_488_095.0 * 150e-9).abs() < 1e-3, "{wire:?}");
        assert!((70.0..90.0).contains(&wire.held_mib) && wire.release_ms < 2.0, "{wire:?}");
    }
}
