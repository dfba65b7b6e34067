//! R3, R6 and R7: what holding and releasing cost, with the shipped lane on real mbufs between ports in memory.

use super::Plan;
use super::figure::{Figure, Part};
use crate::failure::{Failure, Result};
use crate::machine::Cpus;
use crate::rig::client::{Rig, Size};
use crate::rig::delays::Delays;
use crate::rig::{Ask, Load, Seen, Speed};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// RTP: 400 calls, and what makes each moment of a release a moment at which a packet is due.
const CALLS: u32 = 400;
const RTP: Speed = Speed::PerSecond(20_000.0);
const DENSE_RTP: Speed = Speed::PerSecond(200_000.0);
/// Full frames of TCP at 1 and at 10 Gbit/s of wire time (20 bytes of gap and preamble, 4 of FCS).
const TCP_LEN: u16 = 1514;
const GIGABIT: Speed = Speed::PerSecond(1e9 / (8.0 * 1538.0));
const TEN_GIGABIT: Speed = Speed::PerSecond(1e10 / (8.0 * 1538.0));
/// What a release lets go at once.
const PILE: u64 = 10_000;
/// Room for an epoch and its commit at 10 Gbit/s, twice over.
const HOLD_FRAMES: u64 = 98_304;
const SIZE: Size = Size { mbufs: 131_071, data_room: 2048, lanes: 1 };

/// Values of each round, by key.
#[derive(Default)]
struct Rounds(BTreeMap<&'static str, Vec<f64>>);

impl Rounds {
    fn add(&mut self, key: &'static str, value: f64) {
        self.0.entry(key).or_default().push(value);
    }

    fn figure(&self, key: &'static str) -> Figure {
        Figure::of(self.0.get(key).into_iter().flatten().copied())
    }

    fn all(&self) -> Value {
        let spreads = self.0.keys().map(|key| (*key, self.figure(key)));
        json!(spreads.collect::<BTreeMap<_, _>>())
    }
}

/// Runs it.
pub fn measure(plan: &Plan) -> Result<Part> {
    let (cpus, scratch) = (Cpus::choose()?, super::scratch()?);
    let mut rig = Rig::start(SIZE, cpus, plan.pages, &scratch)?;
    let mut rounds = Rounds::default();
    let mut figures = Vec::new();
    for round in 1..=plan.repeats {
        let spin = rig.ask(Ask::Spin { ms: plan.ms(1_000) })?;
        rounds.add("machine_hiccups_per_s", spin.hiccups as f64 / spin.seconds);
        rounds.add("machine_hiccup_share", spin.hiccup_share);
        if plan.wants(&["R3"]) {
            beside_tcp(&mut rig, plan, &mut rounds)?;
            inside_a_release(&mut rig, plan, &mut rounds)?;
        }
        if plan.wants(&["R6"]) {
            drain(&mut rig, plan, &mut rounds)?;
            first(&mut rig, plan, &mut rounds)?;
        }
        if plan.wants(&["R7"]) {
            hold_time(&mut rig, plan, &mut rounds)?;
        }
        let last = |key| rounds.0.get(key).and_then(|values| values.last()).copied().unwrap_or(f64::NAN);
        eprintln!(
            "round {round}/{}: R3 {:.3}, worst {:.1} us; R6 {:.3}, first {:.2} us; R7 {:.5}; {:.0} hiccups/s",
            plan.repeats,
            last("R3"),
            last("R3_worst_us"),
            last("R6"),
            last("R6_first_p99_us"),
            last("R7"),
            last("machine_hiccups_per_s")
        );
    }
    for (ratio, keys) in
        [("R3", &["R3", "R3_worst_us"][..]), ("R6", &["R6", "R6_first_p99_us"]), ("R7", &["R7", "R7_lost"])]
    {
        if plan.wants(&[ratio]) {
            figures.extend(keys.iter().map(|&key| (key, rounds.figure(key))));
        }
    }
    Ok(Part {
        figures,
        detail: json!({
            "path": "the shipped lane, real mbufs, between a feed in memory (open loop, moments fixed beforehand) and \
                     net_null, one thread",
            "pages": rig.pages,
            "hiccup": "two looks at the clock more than 10 us apart, with one burst's work between them; what was due \
                       in one, or within as long again, is left out of the figures and counted in *_excluded_share",
            "rtp": "400 calls, 20 000 frames a second; 200 000 in a release",
            "tcp": "1514-byte frames at 1 Gbit/s, epochs of 50 ms, commit 5 ms after; R3_10g: at 10 Gbit/s",
            "values": rounds.all(),
        }),
    })
}

fn load() -> Load {
    Load { streams: CALLS, rtp: RTP, tcp_len: TCP_LEN, hold_frames: HOLD_FRAMES, ..Load::default() }
}

/// RTP's 99th percentile beside TCP at full rate, over that without.
fn beside_tcp(rig: &mut Rig, plan: &Plan, rounds: &mut Rounds) -> Result<()> {
    let mut p99 = |rig: &mut Rig, tcp, keys: [&'static str; 3]| -> Result<Delays> {
        let seen = rig.carry(Load { tcp, ..load() }, plan.ms(1_000))?;
        whole(&seen)?;
        rounds.add(keys[0], seen.rtp.clean.p99);
        rounds.add(keys[1], seen.rtp.raw.p99);
        rounds.add(keys[2], seen.rtp.excluded_share);
        Ok(seen.rtp)
    };
    let alone =
        p99(rig, Speed::None, ["rtp_alone_p99_ns", "rtp_alone_raw_p99_ns", "rtp_alone_excluded_share"])?;
    let beside =
        p99(rig, GIGABIT, ["rtp_beside_p99_ns", "rtp_beside_raw_p99_ns", "rtp_beside_excluded_share"])?;
    // A short run is for machines on which a thread may stand still for longer than the hold queue then has room.
    let keys = ["rtp_beside_10g_p99_ns", "rtp_beside_10g_raw_p99_ns", "rtp_beside_10g_excluded_share"];
    let faster = if plan.short { None } else { Some(p99(rig, TEN_GIGABIT, keys)?) };
    rounds.add("R3", beside.clean.p99 / alone.clean.p99);
    rounds.add("R3_raw", beside.raw.p99 / alone.raw.p99);
    if let Some(faster) = faster {
        rounds.add("R3_10g", faster.clean.p99 / alone.clean.p99);
    }
    Ok(())
}

fn inside_a_release(rig: &mut Rig, plan: &Plan, rounds: &mut Rounds) -> Result<()> {
    let load = Load { rtp: DENSE_RTP, ..load() };
    let seen = rig.release(load, PILE, if plan.short { 3 } else { 20 })?;
    whole(&seen)?;
    rounds.add("R3_worst_us", seen.rtp.clean.worst / 1e3);
    rounds.add("R3_worst_raw_us", seen.rtp.raw.worst / 1e3);
    rounds.add("R3_worst_excluded_share", seen.rtp.excluded_share);
    rounds.add("R3_release_p99_us", seen.rtp.clean.p99 / 1e3);
    Ok(())
}

/// From the commit to the last frame, over what a plain loop over mbufs that are as cold takes.
fn drain(rig: &mut Rig, plan: &Plan, rounds: &mut Rounds) -> Result<()> {
    let load = Load { tcp_len: TCP_LEN, ..Load::default() };
    let (mut plain, mut gate) = (Vec::new(), Vec::new());
    for _ in 0..if plan.short { 1 } else { 10 } {
        plain.extend(rig.release(Load { bare: true, ..load }, PILE, 2)?.releases);
        gate.extend(rig.release(load, PILE, 2)?.releases);
    }
    let clean = |list: &[(f64, bool)]| {
        let undisturbed: Vec<f64> = list.iter().filter(|(_, touched)| !touched).map(|(ns, _)| *ns).collect();
        // On a machine where each of them met a hiccup, the raw one is all there is.
        middle(if undisturbed.is_empty() { list.iter().map(|(ns, _)| *ns).collect() } else { undisturbed })
    };
    let raw = |list: &[(f64, bool)]| middle(list.iter().map(|(ns, _)| *ns).collect());
    let touched = plain.iter().chain(&gate).filter(|(_, touched)| *touched).count();
    rounds.add("R6", clean(&gate) / clean(&plain));
    rounds.add("R6_raw", raw(&gate) / raw(&plain));
    rounds.add("R6_excluded_share", touched as f64 / (plain.len() + gate.len()) as f64);
    rounds.add("release_ns_a_frame", clean(&gate) / PILE as f64);
    rounds.add("plain_ns_a_frame", clean(&plain) / PILE as f64);
    Ok(())
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// From a commit to its first frame, under load. Many short epochs, for the sake of many commits.
fn first(rig: &mut Rig, plan: &Plan, rounds: &mut Rounds) -> Result<()> {
    let load = Load { tcp: GIGABIT, epoch_us: 2_000, commit_us: 700, ..load() };
    let seen = rig.carry(load, plan.ms(2_000))?;
    whole(&seen)?;
    rounds.add("R6_first_p99_us", seen.first.clean.p99 / 1e3);
    rounds.add("R6_first_raw_p99_us", seen.first.raw.p99 / 1e3);
    rounds.add("R6_first_p50_us", seen.first.clean.p50 / 1e3);
    rounds.add("R6_first_excluded_share", seen.first.excluded_share);
    Ok(())
}

/// How long frames are held, over how long they had to be.
fn hold_time(rig: &mut Rig, plan: &Plan, rounds: &mut Rounds) -> Result<()> {
    let seen = rig.carry(Load { tcp: GIGABIT, follow_tcp: true, ..load() }, plan.ms(2_000))?;
    rounds.add("R7", seen.hold_ns / seen.ideal_hold_ns);
    rounds.add("R7_lost", (seen.dropped + seen.reordered) as f64);
    rounds.add("hold_ms", seen.hold_ns / 1e6);
    rounds.add("hold_ideal_ms", seen.ideal_hold_ns / 1e6);
    Ok(())
}

/// A delay means nothing where frames were dropped.
fn whole(seen: &Seen) -> Result<()> {
    if seen.dropped == 0 {
        return Ok(());
    }
    Err(Failure::new(format!("{} of {} frames were dropped in the rig", seen.dropped, seen.frames)))
}
