//! A run's numbers, worked out of its raw samples.

use super::coordinate::{Kept, directory};
use super::media::Record;
use crate::failure::{Context, Result};
use crate::stats::Spread;
use crate::sweep::cell::Latency;
use crate::sweep::open_loop::from_csv;
use crate::testbed::transfer::mbit_per_second;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use tidegate_control::classify::{Arrival, share, steps, summary};

/// What begins is not measured: streams are recognised, addresses found.
const WARM_UP_NS: u64 = 1_000_000_000;
const CLOCK: u32 = 8000;
/// Points of a curve.
const CURVE: usize = 200;

/// One run in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The calls as the world outside hears the guest.
    pub outward: Option<Media>,
    /// As the guest hears it.
    pub inward: Option<Media>,
    /// TCP out of the guest, Mbit/s.
    pub tcp_mbit: Option<f64>,
    /// From the intended moment, asked by the sink.
    pub transactions: Option<Latency>,
    /// sipp's response times over TCP.
    pub sip_tcp: Option<Times>,
    /// Over UDP.
    pub sip_udp: Option<Times>,
    /// See [`Kept`].
    #[serde(flatten)]
    pub kept: Kept,
}

/// Calls one way.
#[derive(Clone, Debug, Serialize)]
pub struct Media {
    /// Calls that were heard.
    pub calls: usize,
    /// Packets that were sent, after the warm-up.
    pub sent: usize,
    /// Of those, received.
    pub received: usize,
    /// Never received.
    pub lost: usize,
    /// Received once more.
    pub again: usize,
    /// From the intended moment to the stamp at the receiver's port.
    pub latency: Times,
    /// How late the sender itself was: from the intended moment to the system call's end.
    pub sender_late: Times,
    /// RFC 3550 jitter of each call in the mean, milliseconds.
    pub jitter_ms: Spread,
    /// Share of packets beyond a latency: milliseconds, share.
    #[serde(skip)]
    pub curve: Vec<(f64, f64)>,
}

/// Percentiles, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    /// The median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// 99.9th.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// How many.
    pub n: usize,
}

impl Times {
    /// Of numbers in order.
    fn of(sorted: &[f64]) -> Times {
        Times {
            p50_ms: share(sorted, 0.5),
            p99_ms: share(sorted, 0.99),
            p999_ms: share(sorted, 0.999),
            max_ms: sorted.last().copied().unwrap_or(0.0),
            n: sorted.len(),
        }
    }
}

impl Outcome {
    /// Of a run that is complete.
    pub fn of(kept: Kept, out: &Path) -> Result<Outcome> {
        let dir = directory(&kept.run, out);
        let records = |name: &str| -> Result<Vec<Record>> {
            let path = dir.join(name);
            if !path.exists() {
                return Ok(Vec::new());
            }
            Ok(Record::all(&std::fs::read(&path).context(|| format!("cannot read {}", path.display()))?))
        };
        let text = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
        let outward =
            Media::of(records("generator-sent.bin")?, records("sink-received.bin")?, kept.offset_ns);
        let inward =
            Media::of(records("sink-sent.bin")?, records("generator-received.bin")?, -kept.offset_ns);
        Ok(Outcome {
            outward,
            inward,
            tcp_mbit: mbit_per_second(&dir.join("generator-tcp.log")),
            transactions: text("sink-transactions.csv").map(|text| {
                let samples = from_csv(&text);
                let begin = samples.iter().map(|sample| sample.intended_ns).min().unwrap_or(0);
                Latency::of(&samples, (begin + WARM_UP_NS, u64::MAX))
            }),
            sip_tcp: text("sink-sip-tcp.csv").map(|text| sipp(&text)),
            sip_udp: text("sink-sip-udp.csv").map(|text| sipp(&text)),
            kept,
        })
    }
}

/// `Date_ms;response_time_ms;rtd_name` lines.
fn sipp(text: &str) -> Times {
    let mut ms: Vec<f64> = text
        .lines()
        .filter_map(|line| line.split(';').nth(1)?.parse().ok())
        .filter(|ms: &f64| ms.is_finite())
        .collect();
    ms.sort_by(f64::total_cmp);
    Times::of(&ms)
}

impl Media {
    /// `offset_ns` brings the sender's moments to the receiver's clock.
    fn of(mut sent: Vec<Record>, received: Vec<Record>, offset_ns: i64) -> Option<Media> {
        let begin = sent.iter().map(|record| record.intended_ns).min()? + WARM_UP_NS;
        sent.retain(|record| record.intended_ns >= begin);
        let mut late: Vec<f64> =
            sent.iter().map(|record| record.at_ns.saturating_sub(record.intended_ns) as f64 / 1e6).collect();
        late.sort_by(f64::total_cmp);
        let mut seen = HashSet::new();
        let (mut calls, mut ms, mut again) = (BTreeMap::<u32, Vec<Arrival>>::new(), Vec::new(), 0);
        for record in received.iter().filter(|record| record.intended_ns >= begin) {
            if !seen.insert((record.call, record.number)) {
                again += 1;
                continue;
            }
            let intended = record.intended_ns.saturating_add_signed(offset_ns);
            // Clocks that are compared badly can show an arrival before its sending.
            ms.push((record.at_ns as i128 - i128::from(intended)) as f64 / 1e6);
            let (sequence, timestamp) = (record.number as u16, record.number.wrapping_mul(160));
            calls.entry(record.call).or_default().push(Arrival { at_ns: record.at_ns, sequence, timestamp });
        }
        ms.sort_by(f64::total_cmp);
        let jitter = calls.values().map(|arrivals| summary(&steps(arrivals, CLOCK), CLOCK).jitter_ms);
        let jitter_ms = Spread::of(jitter).unwrap_or(Spread { median: 0.0, min: 0.0, max: 0.0, n: 0 });
        Some(Media {
            calls: calls.len(),
            sent: sent.len(),
            received: ms.len(),
            lost: sent.len().saturating_sub(ms.len()),
            again,
            latency: Times::of(&ms),
            sender_late: Times::of(&late),
            jitter_ms,
            curve: curve(&ms),
        })
    }
}

/// The share of packets that took longer, at points that lie closer where fewer are left.
fn curve(sorted: &[f64]) -> Vec<(f64, f64)> {
    let n = sorted.len() as f64;
    let mut points: Vec<(f64, f64)> = (0..CURVE)
        .filter_map(|step| {
            let beyond = n.max(1.0).powf(-(step as f64) / (CURVE - 1) as f64);
            let at = ((1.0 - beyond) * n) as usize;
            Some((*sorted.get(at)?, beyond))
        })
        .collect();
    points.dedup();
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn latency_counts_from_the_intended_moment_on_one_clock_and_losses_and_doubles_are_counted() {
        // A call of 4 s; the receiver's clock is 500 ms ahead; packet 60 was sent 8 ms late, 70 is lost, 80 came twice.
        let intended = |n: u32| u64::from(n) * 20 * MS;
        let late = |n: u32| if n == 60 { 8 * MS } else { MS / 100 };
        let sent: Vec<Record> = (0..200)
            .map(|n| Record { call: 3, number: n, intended_ns: intended(n), at_ns: intended(n) + late(n) })
            .collect();
        let mut received: Vec<Record> = sent
            .iter()
            .filter(|record| record.number != 70)
            .map(|record| Record { at_ns: record.at_ns + 501 * MS, ..*record })
            .collect();
        received.push(received[79]);
        let media = Media::of(sent, received, 500 * MS as i64).unwrap();
        assert_eq!((media.calls, media.sent, media.received, media.lost, media.again), (1, 150, 149, 1, 1));
        assert!(
            (media.latency.p50_ms - 1.01).abs() < 1e-6 && (media.latency.max_ms - 9.0).abs() < 1e-6,
            "{media:?}"
        );
        assert!((media.sender_late.max_ms - 8.0).abs() < 1e-6);
        assert!(media.jitter_ms.median > 0.0 && media.jitter_ms.median < 1.0);
        assert!(
            media.curve.first().unwrap().1 == 1.0 && media.curve.last().unwrap().0 > 8.9,
            "{:?}",
            media.curve
        );
        assert!(Media::of(Vec::new(), Vec::new(), 0).is_none());
    }

    #[test]
    fn sipps_response_times_are_read() {
        let times = sipp("Date_ms;response_time_ms;rtd_no\n1700;12.5;rtd1\n1800;2;rtd1\nx;y\n");
        assert_eq!((times.n, times.p50_ms, times.max_ms), (2, 2.0, 12.5));
    }
}
