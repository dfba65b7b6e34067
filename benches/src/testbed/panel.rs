//! A panel's numbers, worked out of the raw samples of its scenario.
//!
//! What is said of a stream is what `tidegate classify` says of it ([`tidegate_control::classify`]): there is one arithmetic.

use super::hiccups::Noise;
use super::lab::SERVER;
use super::samples::{Meta, Samples};
use super::scenario::Scenario;
use super::stream::{CLOCK, Stream, streams};
use super::talk::{listener, speaker};
use super::transfer::mbit_per_second;
use crate::failure::{Failure, Result};
use crate::stats::Spread;
use serde::Serialize;
use serde_json::Value;
use tidegate_control::classify::{Arrival, Quality, Step, share, steps, summary};

/// Packets that come so soon after the one before come with it, milliseconds.
const AT_ONCE_MS: f64 = 2.0;
/// Shorter streams are no call.
const CALL: usize = 20;

/// One scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Panel {
    /// What was run.
    pub scenario: Scenario,
    /// What the peer heard of the server: one voice a call.
    pub voices: Vec<Voice>,
    /// What was sent to the server, as it was on the peer's wire: what the machine can do.
    pub sent: Vec<Part>,
    /// Checkpoints while it was measured.
    pub checkpoints: usize,
    /// From one to the next, milliseconds.
    pub checkpoint_interval_ms: Option<f64>,
    /// The VM stood still for each, milliseconds.
    pub pause_ms: Option<Spread>,
    /// Bytes of each.
    pub checkpoint_bytes: Option<Spread>,
    /// TCP towards the server, Mbit/s.
    pub tcp_inward_mbit: Option<f64>,
    /// TCP from it.
    pub tcp_outward_mbit: Option<f64>,
    /// When the primary died, seconds from the beginning.
    pub killed_s: Option<f64>,
    /// The longest silence that ended after it, milliseconds.
    pub outage_ms: Option<f64>,
    /// Run with this, see [`Meta`]; without the hiccups one by one.
    pub meta: Meta,
}

/// One RTP stream from the server.
#[derive(Clone, Debug, Serialize)]
pub struct Voice {
    /// Who hears it.
    pub name: &'static str,
    /// From where to where.
    pub way: String,
    /// Synchronisation source.
    pub ssrc: String,
    /// All of it; where the primary died, then what came before that and what came after.
    pub parts: Vec<Part>,
    /// Where in time packets are missing: seconds from the beginning, and how many.
    pub losses: Vec<(f64, u64)>,
    /// Its packets, for the drawing.
    #[serde(skip)]
    pub points: Vec<Point>,
}

/// A packet in a drawing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Seconds from the beginning.
    pub s: f64,
    /// RFC 3550 jitter after it, milliseconds.
    pub jitter_ms: f64,
    /// Since the packet before it, milliseconds; nothing for the first.
    pub delta_ms: Option<f64>,
}

/// Some of a stream.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// Which.
    pub what: &'static str,
    /// Packets that came.
    pub packets: usize,
    /// Most packets that came one close behind the other.
    pub most_at_once: usize,
    /// What a receiver makes of it that follows the sender's clock.
    pub playout: Playout,
    /// All that `tidegate classify` says: against the clock on the wall.
    #[serde(flatten)]
    pub quality: Quality,
}

/// See [`Part::playout`]. A VM's clock stands still in each pause, so it sends more slowly than the clock on the wall
/// runs; against that every packet would be late in the end, whatever lets it go. Receivers follow their sender.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Playout {
    /// How much more slowly than the clock on the wall the sender's runs, per cent.
    pub slow_percent: f64,
    /// Packets that came too late for a buffer of 60 ms.
    pub late_60: u64,
    /// The same of 200 ms.
    pub late_200: u64,
    /// Most numbers in a row that a buffer of 60 ms could not play.
    pub burst_60: u64,
    /// 99th percentile of the delay beyond the quickest packet's, milliseconds.
    pub pdv_ms_p99: f64,
    /// 99.9th percentile.
    pub pdv_ms_p999: f64,
    /// Largest such delay.
    pub pdv_ms_max: f64,
    /// The mean opinion score behind a buffer of 60 ms.
    pub mos_60: f64,
    /// Behind one of 200 ms.
    pub mos_200: f64,
    /// Without the packets that came in or just after a hiccup of the machine: 99th percentile.
    pub calm_pdv_ms_p99: f64,
    /// 99.9th percentile.
    pub calm_pdv_ms_p999: f64,
    /// How many were left out for that, per cent.
    pub calm_excluded_percent: f64,
}

impl Playout {
    /// `steps`: those of `arrivals`.
    fn of(arrivals: &[Arrival], steps_: &[Step], noise: &Noise) -> Playout {
        let slow = slowness(steps_);
        let first_ns = arrivals.first().map_or(0, |first| first.at_ns);
        // The moment of each packet on a clock that runs as the sender's does.
        let followed = |arrival: &Arrival| {
            let since = arrival.at_ns.saturating_sub(first_ns) as f64 * (1.0 - slow);
            Arrival { at_ns: first_ns + since as u64, ..*arrival }
        };
        let followed = steps(&arrivals.iter().map(followed).collect::<Vec<_>>(), CLOCK);
        let mut calm: Vec<f64> = followed
            .iter()
            .zip(arrivals)
            .filter(|(_, arrival)| !noise.touches(arrival.at_ns))
            .map(|(step, _)| step.delay_ms)
            .collect();
        calm.sort_by(f64::total_cmp);
        let quality = summary(&followed, CLOCK);
        Playout {
            slow_percent: 100.0 * slow,
            late_60: quality.late_60,
            late_200: quality.late_200,
            burst_60: quality.burst_60,
            pdv_ms_p99: quality.pdv_ms_p99,
            pdv_ms_p999: quality.pdv_ms_p999,
            pdv_ms_max: quality.pdv_ms_max,
            mos_60: quality.mos_60,
            mos_200: quality.mos_200,
            calm_pdv_ms_p99: share(&calm, 0.99),
            calm_pdv_ms_p999: share(&calm, 0.999),
            calm_excluded_percent: 100.0 * (followed.len() - calm.len()) as f64
                / followed.len().max(1) as f64,
        }
    }
}

/// How much more slowly than the clock on the wall the sender's runs: the slope of the delay over time, by least squares.
fn slowness(steps: &[Step]) -> f64 {
    let Some(first) = steps.first() else { return 0.0 };
    let count = steps.len() as f64;
    let at_ms = |step: &Step| step.at_ns.saturating_sub(first.at_ns) as f64 / 1e6;
    let mean_at = steps.iter().map(at_ms).sum::<f64>() / count;
    let mean_delay = steps.iter().map(|step| step.delay_ms).sum::<f64>() / count;
    let (mut both, mut square) = (0.0, 0.0);
    for step in steps {
        let at = at_ms(step) - mean_at;
        both += at * (step.delay_ms - mean_delay);
        square += at * at;
    }
    if square > 0.0 { both / square } else { 0.0 }
}

impl Part {
    /// Of packets in the order in which they came.
    pub fn of(what: &'static str, arrivals: &[Arrival], noise: &Noise) -> Part {
        let steps = steps(arrivals, CLOCK);
        let (mut most, mut run) = (usize::from(!steps.is_empty()), 1);
        for step in steps.iter().skip(1) {
            run = if step.delta_ms <= AT_ONCE_MS { run + 1 } else { 1 };
            most = most.max(run);
        }
        Part {
            what,
            packets: steps.len(),
            most_at_once: most,
            playout: Playout::of(arrivals, &steps, noise),
            quality: summary(&steps, CLOCK),
        }
    }
}

impl Voice {
    fn of(stream: &Stream, meta: &Meta) -> Voice {
        let name = listener(meta.scenario.call, stream.to.port());
        let way = format!("{} to {}", stream.from, stream.to);
        let voice = Voice::over(&stream.arrivals, meta.begin_ns, &meta.noise);
        let mut voice = Voice { name, way, ssrc: format!("0x{:08x}", stream.ssrc), ..voice };
        if let Some(killed_ns) = meta.killed_ns {
            let cut = stream.arrivals.partition_point(|arrival| arrival.at_ns <= killed_ns);
            let (before, after) = stream.arrivals.split_at(cut);
            // A buffer begins anew after such a silence: the delay counts from the quickest packet of each part.
            voice.parts.push(Part::of("before the failover", before, &meta.noise));
            voice.parts.push(Part::of("after it", after, &meta.noise));
        }
        voice
    }

    /// Packets in the order in which they came, over the time since `begin_ns`.
    pub fn over(arrivals: &[Arrival], begin_ns: u64, noise: &Noise) -> Voice {
        let all = steps(arrivals, CLOCK);
        let seconds = |at_ns: u64| at_ns.saturating_sub(begin_ns) as f64 / 1e9;
        let point = |(n, step): (usize, &Step)| Point {
            s: seconds(step.at_ns),
            jitter_ms: step.jitter_ms,
            delta_ms: (n > 0).then_some(step.delta_ms),
        };
        Voice {
            name: "what is heard",
            way: String::new(),
            ssrc: String::new(),
            parts: vec![Part::of("all of it", arrivals, noise)],
            losses: losses(&all).into_iter().map(|(at_ns, count)| (seconds(at_ns), count)).collect(),
            points: all.iter().enumerate().map(point).collect(),
        }
    }

    /// The part that is drawn.
    pub fn whole(&self) -> &Part {
        &self.parts[0]
    }
}

/// Holes in the numbers, each at the moment in which the packet behind it came.
fn losses(steps: &[Step]) -> Vec<(u64, u64)> {
    let mut numbers: Vec<(i64, u64)> =
        steps.iter().filter(|step| !step.again).map(|step| (step.position, step.at_ns)).collect();
    numbers.sort_unstable();
    let hole = |two: &[(i64, u64)]| (two[1].1, (two[1].0 - two[0].0 - 1) as u64);
    numbers.windows(2).map(hole).filter(|&(_, missing)| missing > 0).collect()
}

impl Panel {
    /// Of a complete run.
    pub fn of(samples: &Samples, mut meta: Meta) -> Result<Panel> {
        let (begin, end) = (meta.begin_ns, meta.end_ns);
        let within = |at_ns: u64| (begin..=end).contains(&at_ns);
        let mut all = streams(&samples.frames()?, SERVER.into());
        for stream in &mut all {
            stream.arrivals.retain(|arrival| within(arrival.at_ns));
        }
        all.retain(|stream| stream.arrivals.len() >= CALL);
        let (mut heard, mut sent): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|stream| stream.from.ip() == SERVER);
        // Of two phones the caller has the lower ports.
        heard.sort_by_key(|stream| stream.to.port());
        sent.sort_by_key(|stream| stream.from.port());
        if heard.is_empty() {
            return Err(Failure::new(format!(
                "{}: there is no call from {SERVER} in it; run it again with --again",
                samples.dir().display()
            )));
        }
        let checkpoints: Vec<Value> = samples
            .events("primary.jsonl")
            .into_iter()
            .filter(|event| event["event"] == "checkpoint" && event["read_ns"].as_u64().is_some_and(within))
            .collect();
        let numbers = |key: &str| Spread::of(checkpoints.iter().filter_map(|event| event[key].as_f64()));
        let ends = |event: Option<&Value>| event.and_then(|event| event["read_ns"].as_u64());
        let interval = match (ends(checkpoints.first()), ends(checkpoints.last()), checkpoints.len()) {
            (Some(first), Some(last), count @ 2..) => Some((last - first) as f64 / (count - 1) as f64 / 1e6),
            _ => None,
        };
        let outage_ms = meta.killed_ns.and_then(|killed_ns| outage(&heard, killed_ns));
        let scenario = meta.scenario.clone();
        let panel = Panel {
            voices: heard.iter().map(|stream| Voice::of(stream, &meta)).collect(),
            sent: sent
                .iter()
                .map(|stream| {
                    Part::of(speaker(scenario.call, stream.from.port()), &stream.arrivals, &meta.noise)
                })
                .collect(),
            checkpoints: checkpoints.len(),
            checkpoint_interval_ms: interval,
            pause_ms: numbers("pause_ms"),
            checkpoint_bytes: numbers("bytes"),
            tcp_inward_mbit: mbit_per_second(&samples.file("iperf3-inward.log")),
            tcp_outward_mbit: mbit_per_second(&samples.file("iperf3-outward.log")),
            killed_s: meta.killed_ns.map(|killed_ns| killed_ns.saturating_sub(begin) as f64 / 1e9),
            outage_ms,
            meta: {
                meta.noise.hiccups.clear();
                meta
            },
            scenario,
        };
        Ok(panel)
    }
}

/// The longest silence of a voice that ended after the primary had died, milliseconds.
fn outage(heard: &[Stream], killed_ns: u64) -> Option<f64> {
    let gaps = heard.iter().flat_map(|stream| stream.arrivals.windows(2));
    let after =
        gaps.filter(|two| two[1].at_ns > killed_ns).map(|two| two[1].at_ns.saturating_sub(two[0].at_ns));
    after.max().map(|gap| gap as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::super::conditions::Conditions;
    use super::super::hiccups::Hiccup;
    use super::*;

    const MS: u64 = 1_000_000;

    /// 20 ms packets that arrive when `comes` says, in ms.
    fn stream(count: u64, comes: impl Fn(u64) -> u64) -> Stream {
        let arrival = |n: u64| Arrival {
            at_ns: comes(n) * MS,
            sequence: (65_000 + n) as u16,
            timestamp: n as u32 * 160,
        };
        Stream {
            from: "10.9.0.2:6400".parse().unwrap(),
            to: "10.9.0.1:6300".parse().unwrap(),
            ssrc: 1,
            arrivals: (0..count).map(arrival).collect(),
        }
    }

    fn meta() -> Meta {
        Meta::new(&Scenario::paper().unwrap()[0], Conditions::default())
    }

    #[test]
    fn hold_all_at_400_ms_is_the_saw_tooth() {
        let voice = Voice::of(&stream(4000, |n| (n * 20 / 400 + 1) * 400), &meta());
        let part = voice.whole();
        assert!((part.quality.jitter_ms - 38.0).abs() < 0.6, "{part:?}");
        let settled = || voice.points[2000..].iter().map(|point| point.jitter_ms);
        let (low, high) = (settled().fold(f64::MAX, f64::min), settled().fold(0.0, f64::max));
        assert!((low - 29.0).abs() < 0.6 && (high - 51.0).abs() < 0.6, "{low} to {high}");
        assert_eq!((part.packets, part.most_at_once, part.quality.delta_ms_max), (4000, 20, 400.0));
        assert_eq!((part.quality.late_60, part.quality.late_200, part.quality.burst_60), (3200, 1800, 16));
        assert_eq!((part.quality.pdv_ms_p99, part.quality.pdv_ms_p999), (380.0, 380.0));
        assert_eq!((voice.losses.len(), part.playout.calm_excluded_percent), (0, 0.0));
    }

    #[test]
    fn losses_are_marked_where_they_show() {
        let mut lossy = stream(100, |n| n * 20);
        lossy.arrivals.drain(10..13);
        lossy.arrivals.remove(40);
        let voice = Voice::of(&lossy, &meta());
        assert_eq!(voice.losses, [(13.0 * 0.02, 3), (44.0 * 0.02, 1)]);
        assert_eq!((voice.whole().quality.lost, voice.whole().quality.burst_60), (4, 3));
        assert_eq!(
            (voice.points.len(), voice.points[0].delta_ms, voice.points[1].delta_ms),
            (96, None, Some(20.0))
        );
    }

    #[test]
    fn a_sender_whose_clock_stands_still_in_pauses_is_followed() {
        // 20 ms lost in each 400 ms.
        let slow = Voice::of(&stream(1000, |n| n * 20 + n * 20 / 400 * 20), &meta());
        let part = slow.whole();
        assert!((part.playout.slow_percent - 4.76).abs() < 0.1, "{part:?}");
        assert!(part.quality.late_60 > 900 && part.quality.mos_60 < 1.5, "{part:?}");
        assert!(
            (part.playout.late_60, part.playout.burst_60) == (0, 0) && part.playout.pdv_ms_max < 25.0,
            "{part:?}"
        );
        assert!(part.playout.mos_60 > 4.3, "{part:?}");
        // What comes in bursts is late by that clock too.
        let held = Voice::of(&stream(1000, |n| (n * 20 / 400 + 1) * 400), &meta());
        let playout = &held.whole().playout;
        assert!(playout.slow_percent.abs() < 0.1 && (780..=820).contains(&playout.late_60), "{playout:?}");
        assert!(playout.mos_60 < 1.7, "{playout:?}");
    }

    #[test]
    fn a_hiccup_takes_its_packets_out_of_the_second_set_only() {
        let late = stream(1000, |n| if n == 500 { n * 20 + 15 } else { n * 20 });
        let mut meta = meta();
        meta.noise.hiccups = vec![Hiccup { due_ns: 10_000 * MS, at_ns: 10_014 * MS }];
        let part = Voice::of(&late, &meta).parts.remove(0);
        assert_eq!(part.quality.pdv_ms_max, 15.0);
        assert!(part.playout.pdv_ms_max > 14.9 && part.playout.calm_pdv_ms_p999 < 0.1, "{part:?}");
        assert!((part.playout.calm_excluded_percent - 0.1).abs() < 1e-9, "{part:?}");
    }

    #[test]
    fn after_a_failover_the_delay_counts_anew() {
        // From packet 50 on everything is 150 ms later; 50 and 51 died with the primary.
        let mut died = stream(100, |n| if n >= 50 { n * 20 + 150 } else { n * 20 });
        died.arrivals.drain(50..52);
        let meta = Meta { killed_ns: Some(985 * MS), ..meta() };
        let voice = Voice::of(&died, &meta);
        let whats: Vec<_> =
            voice.parts.iter().map(|part| (part.what, part.packets, part.quality.late_60)).collect();
        assert_eq!(whats, [("all of it", 98, 48), ("before the failover", 50, 0), ("after it", 48, 0)]);
        assert_eq!(voice.whole().quality.lost, 2);
        assert_eq!(outage(&[died], 985 * MS), Some(210.0));
        assert_eq!(outage(&[stream(3, |n| n)], 985 * MS), None);
    }
}
