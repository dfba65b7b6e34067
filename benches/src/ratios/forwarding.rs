//! R1 and R9: frames a second; R2: ticks a frame. Against DPDK's own forwarder.

use super::Plan;
use super::figure::{Figure, Part};
use crate::classify::{circle, tsc_hz};
use crate::contest::{Contest, Rules};
use crate::dut::{Dut, Wire};
use crate::failure::Result;
use crate::frames::{Checksums, Mix};
use crate::machine::{Cpus, Pages};
use crate::replay::{Device, Replay, write_capture};
use serde_json::json;
use std::time::Duration;

/// Streams of the RTP that is replayed.
const STREAMS: u16 = 10;
/// Frames are held for 2 to 4 ms: as many as a hold queue has at a gigabit and the paper's longest epoch, so that they
/// are as cold, but no more than there are mbufs at the speed of memory.
const EPOCH_MS: (u64, u64) = (2, 2);

/// R1 and R9 in one contest.
pub fn rates(plan: &Plan) -> Result<Part> {
    let rules = Rules {
        seconds: if plan.short { 0.2 } else { 0.5 },
        repeats: plan.repeats,
        mix: Mix::Mixed,
        checksums: Checksums::Device,
        wire: Wire::Null,
        pages: plan.pages,
        tidegate: plan.tidegate.clone(),
    };
    let devices = [Dut::Io, Dut::Mac, Dut::Tidegate, Dut::Variant];
    let contest = Contest::hold(&devices, &["histograms = false".into()], &rules)?;
    let all = contest.rounds(None);
    let ratio = |over| Figure::from(all.ratio(Dut::Tidegate, over));
    Ok(Part {
        figures: vec![("R1_io", ratio(Dut::Io)), ("R1_mac", ratio(Dut::Mac)), ("R9", ratio(Dut::Variant))],
        detail: json!({
            "path": format!("virtio-user ({}) to vhost-user to net_null", crate::generator::RING),
            "fps": all.fps(),
            "ring_full": all.ring_full(),
            "conditions": contest.conditions,
            "quality": contest.quality(),
            "note": "variant: tidegate with histograms = false",
        }),
    })
}

/// R2.
pub fn ticks(plan: &Plan) -> Result<Part> {
    let (cpus, scratch) = (Cpus::choose()?, super::scratch()?);
    let pages = plan.pages.unwrap_or_else(|| Pages::choose(crate::replay::MEMORY_MIB));
    let window = Duration::from_millis(plan.ms(500));
    let loads = [("bypass", STREAMS), ("held", 0)];
    let hz = tsc_hz();
    let mut added: [Vec<f64>; 2] = Default::default();
    let mut ticks: [[Vec<f64>; 2]; 2] = Default::default();
    let mut captures = Vec::new();
    for (name, streams) in loads {
        let path = scratch.path(&format!("{name}.pcap"));
        write_capture(&path, &circle(streams))?;
        captures.push(path);
    }
    for round in 1..=plan.repeats {
        for (n, (name, _)) in loads.iter().enumerate() {
            let replay = Replay {
                capture: &captures[n],
                cpus,
                pages,
                tidegate: &plan.tidegate,
                open: false,
                verifies: true,
                ruled: false,
                epoch_ms: EPOCH_MS,
            };
            let mut each = [0.0; 2];
            for (at, device) in [Device::Mac, Device::Tidegate].into_iter().enumerate() {
                each[at] = hz / replay.measure(device, window, &scratch)?;
                ticks[n][at].push(each[at]);
            }
            added[n].push(each[1] - each[0]);
            eprintln!(
                "round {round}/{}: {name:<8} testpmd mac {:>7.1}, tidegate {:>7.1} ticks a frame",
                plan.repeats, each[0], each[1]
            );
        }
    }
    let [bypass, held] = added;
    let spread = |n: usize, at: usize| Figure::of(ticks[n][at].iter().copied());
    Ok(Part {
        figures: vec![("R2_bypass", Figure::of(bypass)), ("R2_held", Figure::of(held))],
        detail: json!({
            "path": "net_pcap (infinite_rx, copies from memory) to net_null, one core",
            "ticks": {
                "bypass": { "mac": spread(0, 0), "tidegate": spread(0, 1) },
                "held": { "mac": spread(1, 0), "tidegate": spread(1, 1) },
            },
            "held": format!(
                "60-byte TCP as fast as it is taken, epochs of {} ms, committed {} ms after their end",
                EPOCH_MS.0, EPOCH_MS.1
            ),
            "tsc_hz": hz,
            "pages": pages,
        }),
    })
}
