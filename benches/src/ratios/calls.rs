//! R4 and R5: calls through the whole of tidegate, from a virtio ring to a virtio ring.

use super::Plan;
use super::figure::{Figure, Part};
use crate::dut::{self, Dut, Setup, Wire};
use crate::failure::{Failure, Result};
use crate::frames::{Checksums, Mix};
use crate::machine::{Cpus, Pages};
use crate::rig::delays::Percentiles;
use crate::stream::{self, Arrival, Arrivals};
use crate::testbed::hiccups::Watch;
use crate::trial::Arena;
use serde_json::json;
use std::collections::BTreeMap;

const CALLS: u16 = 50;
/// Packets of each call in a window: for epochs of 400 ms, and where there are none.
const LONG: u32 = 200;
const SHORT: u32 = 100;

/// What a window says of its calls. Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Heard {
    /// The longest gap of any call, beyond the packet time.
    pub gap: f64,
    /// 99.9th percentile of the delay beyond the least.
    pub pdv: f64,
    /// RFC 3550's jitter at each packet, mean over all.
    pub jitter: f64,
    /// 99th percentile of the delay.
    pub p99: f64,
}

impl Heard {
    /// Of all packets, or of those that no hiccup touched.
    pub fn of(packets: &[Arrival], all: bool) -> Heard {
        let chosen: Vec<&Arrival> = packets.iter().filter(|packet| all || !packet.touched).collect();
        let delay = |packet: &Arrival| packet.at_ns.saturating_sub(packet.due_ns) as f64 / 1e6;
        let delays = Percentiles::of(chosen.iter().map(|packet| delay(packet)).collect());
        let least = chosen.iter().map(|packet| delay(packet)).fold(f64::MAX, f64::min);
        let mut before: BTreeMap<u16, (&Arrival, f64)> = BTreeMap::new();
        let (mut gap, mut jitters, mut n) = (0f64, 0.0, 0u32);
        for packet in chosen {
            let mut jitter = 0.0;
            if let Some((last, was)) = before.get(&packet.call) {
                let spacing = packet.at_ns as f64 - last.at_ns as f64;
                let due = packet.due_ns as f64 - last.due_ns as f64;
                // Where a packet was left out, its neighbours are further apart.
                gap = gap.max((spacing - due) / 1e6);
                jitter = was + (((spacing - due) / 1e6).abs() - was) / 16.0;
                jitters += jitter;
                n += 1;
            }
            before.insert(packet.call, (packet, jitter));
        }
        Heard {
            gap,
            pdv: delays.p999 - least.min(delays.p999),
            jitter: jitters / f64::from(n.max(1)),
            p99: delays.p99,
        }
    }
}

/// Windows of each device, in turns.
struct Turns {
    clean: Vec<Vec<Heard>>,
    raw: Vec<Vec<Heard>>,
    excluded: Vec<f64>,
    hiccups: Vec<f64>,
    pages: Pages,
}

fn turns(plan: &Plan, duts: &[Dut], packets: u32) -> Result<Turns> {
    let scratch = super::scratch()?;
    let memory = duts.len() as u32 * dut::MEMORY_MIB + crate::generator::MEMORY_MIB;
    let pages = plan.pages.unwrap_or_else(|| Pages::choose(memory));
    let setup = Setup {
        tidegate: plan.tidegate.clone(),
        cpus: Cpus::choose()?,
        wire: Wire::Vhost,
        pages,
        checksums: Checksums::Device,
        variant: Vec::new(),
        eal: Vec::new(),
    };
    let mut arena = Arena::set_up(duts, &setup, Mix::Rtp, &scratch)?;
    let order: Vec<Dut> = arena.duts().collect();
    let none = || vec![Vec::new(); order.len()];
    let mut turns = Turns { clean: none(), raw: none(), excluded: Vec::new(), hiccups: Vec::new(), pages };
    let packets = if plan.short { packets / 4 } else { packets };
    for round in 1..=plan.repeats {
        for (n, dut) in order.iter().enumerate() {
            let watch = Watch::start();
            let arrivals = arena.stream(n, stream::Plan { calls: CALLS, packets, tcp_per_s: 0 })?;
            let noise = watch.finish();
            complete(&arrivals, *dut)?;
            let (clean, raw) = (Heard::of(&arrivals.packets, false), Heard::of(&arrivals.packets, true));
            let touched = arrivals.packets.iter().filter(|packet| packet.touched).count();
            turns.excluded.push(touched as f64 / arrivals.packets.len().max(1) as f64);
            turns.hiccups.push(arrivals.hiccups as f64);
            eprintln!(
                "round {round}/{}: {:<10}gap {:>9.3} ms, PDV p99.9 {:>9.3} ms, jitter {:>8.2} us; {} hiccups, worst {:.0} us, {} over 2 ms",
                plan.repeats,
                dut.name(),
                clean.gap,
                clean.pdv,
                clean.jitter * 1e3,
                arrivals.hiccups,
                arrivals.hiccup_worst_us,
                noise.count
            );
            turns.clean[n].push(clean);
            turns.raw[n].push(raw);
        }
    }
    Ok(turns)
}

fn complete(arrivals: &Arrivals, dut: Dut) -> Result<()> {
    if arrivals.lost == 0 {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{} of {} packets did not come through {}",
        arrivals.lost,
        arrivals.lost + arrivals.packets.len() as u64,
        dut.name()
    )))
}

const PATH: &str =
    "virtio-user to vhost-user, and back out of a second vhost-user port; generator on the host";

impl Turns {
    fn figures(&self, of: impl Fn(&Heard) -> f64 + Copy) -> serde_json::Value {
        let spreads = |list: &[Vec<Heard>]| -> Vec<Figure> {
            list.iter().map(|windows| Figure::of(windows.iter().map(of))).collect()
        };
        json!({ "hiccup_free": spreads(&self.clean), "raw": spreads(&self.raw) })
    }

    /// The second device's number over the first's, round by round.
    fn ratio(&self, of: impl Fn(&Heard) -> f64) -> Figure {
        Figure::of(self.clean[1].iter().zip(&self.clean[0]).map(|(second, first)| of(second) / of(first)))
    }

    fn noise(&self) -> serde_json::Value {
        json!({
            "excluded_share": Figure::of(self.excluded.iter().copied()),
            "generator_hiccups_20us": Figure::of(self.hiccups.iter().copied()),
        })
    }
}

/// R4.
pub fn epochs(plan: &Plan) -> Result<Part> {
    let turns = turns(plan, &[Dut::Realtime, Dut::HoldAll], LONG)?;
    Ok(Part {
        figures: vec![("R4_gap", turns.ratio(|heard| heard.gap)), ("R4_pdv", turns.ratio(|heard| heard.pdv))],
        detail: json!({
            "path": PATH,
            "pages": turns.pages,
            "calls": CALLS,
            "epochs": format!("timer, {} ms, commit {} ms after", dut::LONG_EPOCH_MS, dut::COMMIT_DELAY_MS),
            "devices": ["realtime", "hold-all"],
            "gap_ms": turns.figures(|heard| heard.gap),
            "pdv_p999_ms": turns.figures(|heard| heard.pdv),
            "noise": turns.noise(),
        }),
    })
}

/// R5.
pub fn jitter(plan: &Plan) -> Result<Part> {
    let turns = turns(plan, &[Dut::Io, Dut::Still], SHORT)?;
    let pairs = turns.clean[1].iter().zip(&turns.clean[0]);
    let added = pairs.map(|(tidegate, io)| (tidegate.jitter - io.jitter) * 1e3);
    Ok(Part {
        figures: vec![("R5_us", Figure::of(added))],
        detail: json!({
            "path": PATH,
            "pages": turns.pages,
            "calls": CALLS,
            "devices": ["testpmd io", "tidegate: realtime, protected, no epoch ends"],
            "jitter_ms": turns.figures(|heard| heard.jitter),
            "p99_ms": turns.figures(|heard| heard.p99),
            "noise": turns.noise(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(n: u64, delay_ns: u64, touched: bool) -> Arrival {
        let due_ns = n * stream::PACKET_NS;
        Arrival { call: 3, due_ns, at_ns: due_ns + delay_ns, touched }
    }

    /// Hold-all at 400 ms and 20 ms packets: nineteen packets at once, then a gap of 400 ms.
    #[test]
    fn a_call_that_is_held_has_the_gap_of_its_epochs_and_an_even_one_has_none() {
        let held: Vec<_> = (0..200).map(|n| packet(n, (400 - n * 20 % 400) * 1_000_000, false)).collect();
        let heard = Heard::of(&held, false);
        assert!((heard.gap - 380.0).abs() < 1e-6 && (heard.pdv - 380.0).abs() < 1e-6, "{heard:?}");
        assert!((29.0..51.0).contains(&heard.jitter), "{heard:?}");
        let even: Vec<_> = (0..200).map(|n| packet(n, 7_000, false)).collect();
        assert_eq!(Heard::of(&even, false), Heard { p99: 0.007, ..Heard::default() });
    }

    #[test]
    fn what_a_hiccup_touched_counts_in_raw_only() {
        let mut packets: Vec<_> = (0..100).map(|n| packet(n, 7_000, false)).collect();
        packets[50] = packet(50, 5_000_000, true);
        assert_eq!(Heard::of(&packets, false).gap, 0.0);
        let raw = Heard::of(&packets, true);
        assert!((raw.gap - 4.993).abs() < 1e-9 && raw.jitter > 0.0, "{raw:?}");
    }
}
