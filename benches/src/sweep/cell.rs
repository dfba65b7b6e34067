//! A cell's numbers, worked out of its raw samples.

use super::held;
use super::open_loop::{self, Sample};
use super::samples::{Meta, Samples};
use crate::failure::{Failure, Result};
use crate::stats::Spread;
use crate::testbed::lab::SERVER;
use crate::testbed::panel::Part;
use crate::testbed::stream::streams;
use crate::testbed::transfer::mbit_per_second;
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use std::time::Duration;
use tidegate_control::classify::{mos, r_factor, share};
use tidegate_replica::cadence::Cost;
use tidegate_tests::capture;

/// Streams with fewer packets are no call.
const CALL: usize = 20;

/// One measurement in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Numbers {
    /// The pace as a word: `100ms`, `auto`.
    pub pace: String,
    /// Calls at once.
    pub calls: u16,
    /// TCP beside them.
    pub load: &'static str,
    /// From the end of one checkpoint's pause to the beginning of the next, in the mean, milliseconds.
    pub interval_ms: f64,
    /// Checkpoints while it was measured.
    pub checkpoints: usize,
    /// The VM stood still for each, milliseconds.
    pub pause_ms: Spread,
    /// Share of its time, per cent.
    pub stands_still_percent: f64,
    /// From the moment in which the VM ran again to the commit, milliseconds.
    pub committed_after_ms: Option<Spread>,
    /// Bytes of each checkpoint.
    pub checkpoint_bytes: Spread,
    /// TCP from the VM, Mbit/s.
    pub tcp_outward_mbit: Option<f64>,
    /// TCP to it.
    pub tcp_inward_mbit: Option<f64>,
    /// Transactions over one connection.
    pub transaction: Latency,
    /// INVITE to 200 OK, over TCP.
    pub signalling: Latency,
    /// What the plane held.
    pub held: Holding,
    /// What the peer heard.
    pub voice: Voice,
    /// Run with this; without the hiccups one by one.
    pub meta: Meta,
}

/// Of requests at intended moments, from these on, milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// The mean.
    pub mean_ms: f64,
    /// The median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// Answered ones.
    pub n: usize,
    /// Others.
    pub unanswered: usize,
}

impl Latency {
    /// Of those that were intended in this time.
    pub fn of(samples: &[Sample], (begin, end): (u64, u64)) -> Latency {
        let meant: Vec<&Sample> = samples.iter().filter(|s| (begin..end).contains(&s.intended_ns)).collect();
        let mut ms: Vec<f64> = meant.iter().filter_map(|sample| sample.ms()).collect();
        ms.sort_by(f64::total_cmp);
        let n = ms.len();
        Latency {
            mean_ms: ms.iter().sum::<f64>() / n.max(1) as f64,
            p50_ms: share(&ms, 0.5),
            p99_ms: share(&ms, 0.99),
            max_ms: ms.last().copied().unwrap_or(0.0),
            n,
            unanswered: meant.len() - n,
        }
    }
}

/// Memory of what waits.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Holding {
    /// Bytes in the mean.
    pub mean_bytes: f64,
    /// 99th percentile.
    pub p99_bytes: f64,
    /// Most that were seen.
    pub max_bytes: u64,
    /// Most frames.
    pub max_frames: u64,
}

/// All calls of a cell.
#[derive(Clone, Debug, Serialize)]
pub struct Voice {
    /// Voices that were heard.
    pub heard: usize,
    /// The mean opinion score behind a buffer of 60 ms: the calls' median, and the worst.
    pub mos_60: Spread,
    /// The same where a receiver does not stretch a voice that runs slow, but conceals what it lacks: as much as the VM
    /// stood still.
    pub mos_concealed: f64,
    /// RFC 3550 jitter in the mean, milliseconds.
    pub jitter_ms: Spread,
    /// Longest time between two packets, milliseconds.
    pub gap_ms: Spread,
    /// 99th percentile of the delay beyond the quickest packet's, milliseconds.
    pub pdv_ms_p99: Spread,
    /// Packets too late for a buffer of 60 ms, per cent.
    pub late_60_percent: Spread,
    /// Packets that never came.
    pub lost: u64,
}

impl Numbers {
    /// Of a cell that is complete.
    pub fn of(samples: &Samples, mut meta: Meta) -> Result<Numbers> {
        let window = (meta.begin_ns, meta.end_ns);
        let seconds = (meta.end_ns - meta.begin_ns) as f64 / 1e9;
        let events: Vec<Value> = samples
            .text("primary.jsonl")
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let checkpoints: Vec<&Value> = events.iter().filter(|event| event["event"] == "checkpoint").collect();
        let spread = |key: &str| Spread::of(checkpoints.iter().filter_map(|event| event[key].as_f64()));
        let none = || {
            Failure::new(format!(
                "{}: there is no checkpoint in it; measure longer (--length), or with --again",
                samples.file("").display()
            ))
        };
        let (pause_ms, checkpoint_bytes) =
            (spread("pause_ms").ok_or_else(none)?, spread("bytes").ok_or_else(none)?);
        let stood_ms: f64 = checkpoints.iter().filter_map(|event| event["pause_ms"].as_f64()).sum();
        let numbers = Numbers {
            interval_ms: interval(&checkpoints).unwrap_or(seconds * 1e3 / checkpoints.len() as f64),
            checkpoints: checkpoints.len(),
            pause_ms,
            stands_still_percent: stood_ms / seconds / 10.0,
            committed_after_ms: Spread::of(committed_after(&events)),
            checkpoint_bytes,
            tcp_outward_mbit: mbit_per_second(&samples.file("iperf3-outward.log")),
            tcp_inward_mbit: mbit_per_second(&samples.file("iperf3-inward.log")),
            transaction: Latency::of(&open_loop::from_csv(&samples.text("transactions.csv")), window),
            signalling: Latency::of(&open_loop::from_csv(&samples.text("signalling.csv")), window),
            held: holding(&samples.text("held.csv")),
            voice: voice(samples, &meta, stood_ms / seconds / 10.0)?,
            pace: meta.pace.clone(),
            calls: meta.calls,
            load: meta.load.name(),
            meta: {
                meta.noise.hiccups.clear();
                meta
            },
        };
        Ok(numbers)
    }

    /// What a checkpoint cost here, for the rule.
    pub fn cost(&self) -> Cost {
        let ms = |ms: f64| Duration::from_secs_f64(ms.max(0.0) / 1e3);
        let committed = self.committed_after_ms.map_or(0.0, |spread| spread.median);
        Cost { pause: ms(self.pause_ms.median), acknowledged: ms(committed) }
    }
}

/// The mean time in which the VM ran.
fn interval(checkpoints: &[&Value]) -> Option<f64> {
    let at = |event: &Value| event["at_ns"].as_u64();
    let ran: Vec<f64> = checkpoints
        .windows(2)
        .filter_map(|two| {
            let period = at(two[1])?.saturating_sub(at(two[0])?) as f64 / 1e6;
            Some(period - two[1]["pause_ms"].as_f64()?)
        })
        .collect();
    (!ran.is_empty()).then(|| ran.iter().sum::<f64>() / ran.len() as f64)
}

/// From each checkpoint to its commit, milliseconds.
fn committed_after(events: &[Value]) -> Vec<f64> {
    let mut taken = HashMap::new();
    let mut after = Vec::new();
    for event in events {
        let (Some(epoch), Some(at)) = (event["epoch"].as_u64(), event["at_ns"].as_u64()) else { continue };
        if event["event"] == "checkpoint" {
            taken.insert(epoch, at);
        } else if event["step"] == "commit"
            && let Some(begin) = taken.remove(&epoch)
        {
            after.push(at.saturating_sub(begin) as f64 / 1e6);
        }
    }
    after
}

fn holding(csv: &str) -> Holding {
    let held = held::from_csv(csv);
    let mut bytes: Vec<f64> = held.iter().map(|look| look.bytes as f64).collect();
    bytes.sort_by(f64::total_cmp);
    Holding {
        mean_bytes: bytes.iter().sum::<f64>() / bytes.len().max(1) as f64,
        p99_bytes: share(&bytes, 0.99),
        max_bytes: held.iter().map(|look| look.bytes).max().unwrap_or(0),
        max_frames: held.iter().map(|look| look.frames).max().unwrap_or(0),
    }
}

fn voice(samples: &Samples, meta: &Meta, stands_still_percent: f64) -> Result<Voice> {
    let mut all = streams(&capture::read(&samples.file("wire.pcap"))?, SERVER.into());
    for stream in &mut all {
        stream.arrivals.retain(|arrival| (meta.begin_ns..=meta.end_ns).contains(&arrival.at_ns));
    }
    all.retain(|stream| stream.from.ip() == SERVER && stream.arrivals.len() >= CALL);
    let parts: Vec<Part> =
        all.iter().map(|stream| Part::of("heard", &stream.arrivals, &meta.noise)).collect();
    let spread = |of: &dyn Fn(&Part) -> f64| {
        Spread::of(parts.iter().map(of)).ok_or_else(|| {
            Failure::new(format!("{}: no call was heard; run it with --again", samples.file("").display()))
        })
    };
    Ok(Voice {
        heard: parts.len(),
        mos_60: spread(&|part| part.playout.mos_60)?,
        mos_concealed: mos(r_factor(60.0, stands_still_percent)),
        jitter_ms: spread(&|part| part.quality.jitter_ms)?,
        gap_ms: spread(&|part| part.quality.delta_ms_max)?,
        pdv_ms_p99: spread(&|part| part.playout.pdv_ms_p99)?,
        late_60_percent: spread(&|part| 100.0 * part.playout.late_60 as f64 / part.packets.max(1) as f64)?,
        lost: parts.iter().map(|part| part.quality.lost).sum(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_latency_counts_from_the_intended_moment_and_only_in_its_time() {
        let ms = |ms: u64| ms * 1_000_000;
        let sample = |at: u64, took: Option<u64>| Sample {
            intended_ns: ms(at),
            answered_ns: took.map(|took| ms(at + took)),
        };
        let samples = [
            sample(5, Some(900)),
            sample(10, Some(20)),
            sample(20, Some(40)),
            sample(30, None),
            sample(99, Some(1)),
        ];
        let latency = Latency::of(&samples, (ms(10), ms(90)));
        assert_eq!((latency.n, latency.unanswered, latency.mean_ms, latency.max_ms), (2, 1, 30.0, 40.0));
        assert_eq!(Latency::of(&[], (0, 1)), Latency::default());
    }

    #[test]
    fn an_interval_is_what_lies_between_two_pauses_and_a_commit_belongs_to_its_checkpoint() {
        let at = |ms: u64| ms * 1_000_000;
        let checkpoint = |epoch: u64, ms: u64| json!({ "event": "checkpoint", "epoch": epoch, "at_ns": at(ms), "pause_ms": 10.0 });
        let commit = |epoch: u64, ms: u64| json!({ "event": "step", "step": "commit", "epoch": epoch, "at_ns": at(ms) });
        let events = [checkpoint(1, 100), commit(1, 105), checkpoint(2, 210), commit(7, 211), commit(2, 217)];
        assert_eq!(interval(&[&events[0], &events[2]]), Some(100.0));
        assert_eq!(committed_after(&events), [5.0, 7.0]);
    }
}
