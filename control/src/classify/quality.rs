//! How a call sounds, from when its packets came: RFC 3550 jitter, gaps, loss, what a playout buffer would lose, and
//! the E-model's guess (ITU-T G.107).

use serde::Serialize;

/// One packet: when it came (nanoseconds), its number, its timestamp.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Nanoseconds.
    pub at_ns: u64,
    /// RTP sequence number.
    pub sequence: u16,
    /// RTP timestamp.
    pub timestamp: u32,
}

/// What is said of a stream. Milliseconds, unless named otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Quality {
    /// Mean of the interarrival jitter (RFC 3550, 6.4.1) after each packet.
    pub jitter_ms: f64,
    /// Its largest value. It saturates (38 ms where gaps are 400 ms), so it never stands alone.
    pub jitter_ms_max: f64,
    /// The mean in units of the media clock.
    pub jitter_units: f64,
    /// Longest time between two packets.
    pub delta_ms_max: f64,
    /// Mean time between two packets.
    pub delta_ms_mean: f64,
    /// 99th percentile of the delay beyond the quickest packet's (RFC 5481).
    pub pdv_ms_p99: f64,
    /// 99.9th percentile of it.
    pub pdv_ms_p999: f64,
    /// Largest such delay.
    pub pdv_ms_max: f64,
    /// Sequence numbers missing between the first and the highest.
    pub lost: u64,
    /// Packets behind one with a higher number.
    pub reordered: u64,
    /// Packets that came twice.
    pub duplicates: u64,
    /// Packets that came too late for a buffer of 60 ms.
    pub late_60: u64,
    /// The same of 200 ms.
    pub late_200: u64,
    /// Most numbers in a row that a buffer of 60 ms could not play: lost, or too late.
    pub burst_60: u64,
    /// Share of the packets that a buffer of 60 ms could not play: lost, or too late. Per cent.
    pub unplayed_percent_60: f64,
    /// The same of 200 ms.
    pub unplayed_percent_200: f64,
    /// R of the E-model for G.711 with concealment behind a buffer of 60 ms, and nothing else on the way.
    pub r_60: f64,
    /// The mean opinion score that it stands for.
    pub mos_60: f64,
    /// R behind a buffer of 200 ms.
    pub r_200: f64,
    /// Its score.
    pub mos_200: f64,
}

const MS: f64 = 1e6;
/// G.711 with packet loss concealment (G.113, appendix I).
const IE: f64 = 0.0;
const BPL: f64 = 25.1;

/// R for a one-way delay (ms) and a share of packets lost (per cent), losses at random.
pub fn r_factor(delay_ms: f64, lost_percent: f64) -> f64 {
    let late = if delay_ms > 177.3 { 0.11 * (delay_ms - 177.3) } else { 0.0 };
    let id = 0.024 * delay_ms + late;
    let ie_eff = IE + (95.0 - IE) * lost_percent / (lost_percent + BPL);
    (93.2 - id - ie_eff).clamp(0.0, 100.0)
}

/// The mean opinion score of an R (G.107, annex B).
pub fn mos(r: f64) -> f64 {
    (1.0 + 0.035 * r + 7e-6 * r * (r - 60.0) * (100.0 - r)).clamp(1.0, 4.5)
}

/// Media clocks in use (RFC 3551, 6, and those of dynamic payload types).
const CLOCKS: [u32; 9] = [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 90000];

/// The media clock of a stream too short for the plane to tell: the one in use that is nearest to how its timestamps ran.
/// `None` where they did not.
pub fn media_clock(arrivals: &[Arrival]) -> Option<u32> {
    let [first, .., last] = arrivals else { return None };
    let advance: i64 = arrivals
        .windows(2)
        .map(|two| i64::from(two[1].timestamp.wrapping_sub(two[0].timestamp) as i32))
        .sum();
    let seconds = last.at_ns.saturating_sub(first.at_ns) as f64 / 1e9;
    if advance <= 0 || seconds <= 0.0 {
        return None;
    }
    let measured = advance as f64 / seconds;
    let distance = |clock: &u32| (measured / f64::from(*clock)).ln().abs();
    CLOCKS.into_iter().min_by(|a, b| distance(a).total_cmp(&distance(b)))
}

/// What one packet adds to the picture. Milliseconds, unless named otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// When it came, nanoseconds.
    pub at_ns: u64,
    /// Its sequence number without the wraps, from that of the first packet.
    pub position: i64,
    /// Since the packet before it; 0 for the first.
    pub delta_ms: f64,
    /// Interarrival jitter after it (RFC 3550, 6.4.1).
    pub jitter_ms: f64,
    /// Its delay beyond that of the quickest packet.
    pub delay_ms: f64,
    /// Its number had come before.
    pub again: bool,
}

/// One for each packet, in the order in which they came; `clock` is the media clock in units a second.
pub fn steps(arrivals: &[Arrival], clock: u32) -> Vec<Step> {
    let Some((first, rest)) = arrivals.split_first() else { return Vec::new() };
    let unit_ns = 1e9 / f64::from(clock.max(1));
    // Extended sequence numbers and timestamps, from those of the first packet.
    let (mut position, mut media, mut jitter, mut before) = (i64::from(first.sequence), 0i64, 0.0f64, *first);
    let mut seen = std::collections::HashSet::from([position]);
    let start =
        Step { at_ns: first.at_ns, position, delta_ms: 0.0, jitter_ms: 0.0, delay_ms: 0.0, again: false };
    let mut steps = Vec::with_capacity(arrivals.len());
    steps.push(start);
    for packet in rest {
        let delta = packet.at_ns.saturating_sub(before.at_ns) as f64;
        let advance = packet.timestamp.wrapping_sub(before.timestamp) as i32;
        let deviation = delta - f64::from(advance) * unit_ns;
        jitter += (deviation.abs() - jitter) / 16.0;
        media += i64::from(advance);
        position += i64::from(packet.sequence.wrapping_sub(before.sequence) as i16);
        steps.push(Step {
            at_ns: packet.at_ns,
            position,
            delta_ms: delta / MS,
            jitter_ms: jitter / MS,
            // Against the first packet's, until the quickest one is known.
            delay_ms: packet.at_ns.saturating_sub(first.at_ns) as f64 - media as f64 * unit_ns,
            again: !seen.insert(position),
        });
        before = *packet;
    }
    let quickest = steps.iter().map(|step| step.delay_ms).fold(f64::MAX, f64::min);
    steps.iter_mut().for_each(|step| step.delay_ms = (step.delay_ms - quickest) / MS);
    steps
}

/// Of the packets in the order in which they came; `clock` is the media clock in units a second.
pub fn quality(arrivals: &[Arrival], clock: u32) -> Quality {
    summary(&steps(arrivals, clock), clock)
}

/// The same of steps that are known.
pub fn summary(steps: &[Step], clock: u32) -> Quality {
    let ([first, ..], [.., last]) = (steps, steps) else { return Quality::default() };
    let mut q = Quality::default();
    let (mut highest, mut lowest, mut numbers) = (first.position, first.position, 1u64);
    for step in &steps[1..] {
        q.jitter_ms += step.jitter_ms;
        q.jitter_ms_max = q.jitter_ms_max.max(step.jitter_ms);
        q.delta_ms_max = q.delta_ms_max.max(step.delta_ms);
        match step.again {
            true => q.duplicates += 1,
            false => numbers += 1,
        }
        q.reordered += u64::from(!step.again && step.position < highest);
        highest = highest.max(step.position);
        lowest = lowest.min(step.position);
    }
    let expected = (highest - lowest + 1) as u64;
    q.lost = expected - numbers;
    let count = (steps.len() - 1).max(1) as f64;
    q.jitter_ms /= count;
    q.jitter_units = q.jitter_ms * f64::from(clock.max(1)) / 1e3;
    q.delta_ms_mean = last.at_ns.saturating_sub(first.at_ns) as f64 / count / MS;
    let late = |buffer: f64| steps.iter().filter(|step| step.delay_ms > buffer).count() as u64;
    let unplayed = |late: u64| 100.0 * ((q.lost + late) as f64 / expected.max(1) as f64).min(1.0);
    let (late_60, late_200) = (late(60.0), late(200.0));
    (q.unplayed_percent_60, q.unplayed_percent_200) = (unplayed(late_60), unplayed(late_200));
    (q.late_60, q.late_200, q.burst_60) = (late_60, late_200, burst(steps, 60.0, lowest, highest));
    let mut delays: Vec<f64> = steps.iter().map(|step| step.delay_ms).collect();
    delays.sort_by(f64::total_cmp);
    q.pdv_ms_max = delays.last().copied().unwrap_or(0.0);
    (q.pdv_ms_p99, q.pdv_ms_p999) = (share(&delays, 0.99), share(&delays, 0.999));
    q.r_60 = r_factor(60.0, q.unplayed_percent_60);
    q.r_200 = r_factor(200.0, q.unplayed_percent_200);
    (q.mos_60, q.mos_200) = (mos(q.r_60), mos(q.r_200));
    q
}

/// The value that this share (0 to 1) of the values do not exceed; they are sorted. 0 for none.
pub fn share(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}

/// Most numbers in a row between two that were played, or before the first, or behind the last.
fn burst(steps: &[Step], buffer: f64, lowest: i64, highest: i64) -> u64 {
    let mut played: Vec<i64> =
        steps.iter().filter(|step| step.delay_ms <= buffer).map(|step| step.position).collect();
    played.extend([lowest - 1, highest + 1]);
    played.sort_unstable();
    played.windows(2).map(|two| (two[1] - two[0] - 1).max(0) as u64).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(count: u64, leaves: impl Fn(u64) -> u64) -> Vec<Arrival> {
        let packet = |n: u64| Arrival {
            at_ns: leaves(n) * 1_000_000,
            sequence: (65_530 + n) as u16,
            timestamp: (n as u32).wrapping_mul(160).wrapping_add(u32::MAX - 500),
        };
        (0..count).map(packet).collect()
    }

    #[test]
    fn the_clock_of_a_short_stream_is_the_nearest_in_use() {
        let opus: Vec<Arrival> = (0..6u32)
            .map(|n| Arrival {
                at_ns: u64::from(n) * 20_300_000,
                sequence: n as u16,
                timestamp: 7u32.wrapping_sub(1900).wrapping_add(n * 960),
            })
            .collect();
        assert_eq!(media_clock(&opus), Some(48000));
        assert_eq!(media_clock(&opus[..1]), None);
        let still: Vec<Arrival> = opus.iter().map(|packet| Arrival { timestamp: 5, ..*packet }).collect();
        assert_eq!(media_clock(&still), None, "comfort noise that counts nothing");
    }

    #[test]
    fn an_even_stream_is_perfect_across_the_wraps_of_its_numbers() {
        let q = quality(&stream(100, |n| n * 20), 8000);
        assert_eq!((q.jitter_ms, q.lost, q.reordered, q.duplicates), (0.0, 0, 0, 0));
        assert_eq!((q.delta_ms_max, q.delta_ms_mean, q.pdv_ms_max), (20.0, 20.0, 0.0));
        assert!((q.r_60 - 91.76).abs() < 0.01 && (q.mos_60 - 4.38).abs() < 0.02, "{q:?}");
    }

    #[test]
    fn released_every_400_ms_it_shows_the_saw_tooth_and_what_a_buffer_loses() {
        let q = quality(&stream(4000, |n| (n * 20 / 400 + 1) * 400), 8000);
        assert!((q.jitter_ms - 38.0).abs() < 0.6 && (q.jitter_ms_max - 51.0).abs() < 0.6, "{q:?}");
        assert_eq!((q.delta_ms_max, q.pdv_ms_max), (400.0, 380.0));
        // Settled, the jitter runs from 29 to 51 ms: the tooth of the saw.
        let settled = &steps(&stream(4000, |n| (n * 20 / 400 + 1) * 400), 8000)[2000..];
        let lowest = settled.iter().map(|step| step.jitter_ms).fold(f64::MAX, f64::min);
        let highest = settled.iter().map(|step| step.jitter_ms).fold(0.0, f64::max);
        assert!((lowest - 29.0).abs() < 0.6 && (highest - 51.0).abs() < 0.6, "{lowest} to {highest}");
        // The first 16 of each 20 come too late for 60 ms.
        assert_eq!((q.late_60, q.late_200, q.burst_60, q.lost), (3200, 1800, 16, 0));
        // Of 20 packets of an epoch the last 4 are at most 60 ms behind the quickest.
        assert!(
            (q.unplayed_percent_60 - 80.0).abs() < 0.1 && (q.unplayed_percent_200 - 45.0).abs() < 0.1,
            "{q:?}"
        );
        assert!(q.mos_60 < 1.7, "{q:?}");
    }

    #[test]
    fn what_is_lost_late_and_double_is_counted_once() {
        let mut packets = stream(10, |n| n * 20);
        packets.remove(4);
        packets.swap(6, 7);
        packets.push(packets[8]);
        let q = quality(&packets, 8000);
        assert_eq!((q.lost, q.reordered, q.duplicates), (1, 1, 1));
        assert_eq!(quality(&[], 8000), Quality::default());
        assert_eq!(quality(&packets[..1], 0).lost, 0);
    }

    #[test]
    fn what_is_lost_and_what_is_late_make_one_burst() {
        // 5, 6 and 7 are lost, 8 and 9 come 100 ms late, each 20 ms behind the one before.
        let late = |n: u64| if (8..10).contains(&n) { n * 20 + 100 } else { n * 20 };
        let mut packets = stream(20, late);
        packets.drain(5..8);
        packets.sort_by_key(|packet| packet.at_ns);
        let q = quality(&packets, 8000);
        assert_eq!((q.lost, q.late_60, q.late_200, q.burst_60), (3, 2, 0, 5));
        assert_eq!(q.pdv_ms_p999, q.pdv_ms_max);
        assert_eq!(q.pdv_ms_max, 100.0);
        assert!((q.unplayed_percent_60 - 25.0).abs() < 1e-9);
        assert_eq!(quality(&stream(50, |n| n * 20), 8000).burst_60, 0);
        // At the end nothing is played any more.
        let end = quality(&stream(20, |n| if n >= 17 { n * 20 + 70 } else { n * 20 }), 8000);
        assert_eq!((end.late_60, end.burst_60), (3, 3));
    }

    /// G.107 with its default values but for delay and loss: R = 93.2 - Id - Ie,eff, worked out apart from this code.
    #[test]
    fn r_and_mos_are_those_of_worked_examples() {
        for (delay_ms, lost, r, score) in [
            // Nothing in the way: R 93.2, the 4.41 of G.107, table B.1 and annex B.
            (0.0, 0.0, 93.2, 4.409),
            // Id = 2.4.
            (100.0, 0.0, 90.8, 4.358),
            // Id = 3.6 and no more: 150 ms lie before the bend at 177.3.
            (150.0, 0.0, 89.6, 4.329),
            // Id = 9.6 + 0.11 * 222.7.
            (400.0, 0.0, 59.103, 3.053),
            // Ie,eff = 95 * 1 / 26.1 with concealment.
            (0.0, 1.0, 89.560, 4.328),
            // Ie,eff = 95 * 5 / 30.1, Id = 2.4.
            (100.0, 5.0, 75.019, 3.823),
            // Half of it lost: 95 * 50 / 75.1.
            (0.0, 50.0, 29.951, 1.607),
        ] {
            let told = r_factor(delay_ms, lost);
            assert!((told - r).abs() < 0.001, "R of {delay_ms} ms, {lost} %: {told}");
            assert!((mos(told) - score).abs() < 0.001, "MOS of R {told}: {}", mos(told));
        }
        // G.107, annex B: the scores of these R.
        for (r, score) in [(90.0, 4.34), (80.0, 4.02), (70.0, 3.60), (60.0, 3.10), (50.0, 2.58)] {
            assert!((mos(r) - score).abs() < 0.0051, "MOS of R {r}: {}", mos(r));
        }
    }

    #[test]
    fn the_e_model_says_what_the_book_says() {
        assert!((r_factor(0.0, 0.0) - 93.2).abs() < 1e-9);
        assert!((mos(93.2) - 4.41).abs() < 0.01);
        assert!((r_factor(200.0, 0.0) - (93.2 - 4.8 - 2.497)).abs() < 1e-9);
        assert_eq!((mos(0.0), mos(100.0)), (1.0, 4.5));
    }
}
