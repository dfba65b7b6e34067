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
    /// Largest such delay.
    pub pdv_ms_max: f64,
    /// Sequence numbers missing between the first and the highest.
    pub lost: u64,
    /// Packets behind one with a higher number.
    pub reordered: u64,
    /// Packets that came twice.
    pub duplicates: u64,
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

/// Of the packets in the order in which they came; `clock` is the media clock in units a second.
pub fn quality(arrivals: &[Arrival], clock: u32) -> Quality {
    let Some((first, rest)) = arrivals.split_first() else { return Quality::default() };
    let unit_ns = 1e9 / f64::from(clock.max(1));
    let mut q = Quality::default();
    let (mut jitter, mut sum, mut before) = (0.0f64, 0.0, *first);
    // Extended sequence numbers and timestamps, from those of the first packet.
    let (mut highest, mut position) = (i64::from(first.sequence), i64::from(first.sequence));
    let mut seen = std::collections::HashSet::from([highest]);
    let (mut media, mut delays) = (0i64, vec![0.0f64]);
    for packet in rest {
        let delta = packet.at_ns.saturating_sub(before.at_ns) as f64;
        let advance = packet.timestamp.wrapping_sub(before.timestamp) as i32;
        let deviation = delta - f64::from(advance) * unit_ns;
        jitter += (deviation.abs() - jitter) / 16.0;
        sum += jitter;
        q.jitter_ms_max = q.jitter_ms_max.max(jitter / MS);
        q.delta_ms_max = q.delta_ms_max.max(delta / MS);
        media += i64::from(advance);
        delays.push(packet.at_ns.saturating_sub(first.at_ns) as f64 - media as f64 * unit_ns);
        position += i64::from(packet.sequence.wrapping_sub(before.sequence) as i16);
        match seen.insert(position) {
            false => q.duplicates += 1,
            true if position < highest => q.reordered += 1,
            true => {}
        }
        highest = highest.max(position);
        before = *packet;
    }
    let lowest = seen.iter().min().copied().unwrap_or(highest);
    let expected = (highest - lowest + 1) as u64;
    q.lost = expected - seen.len() as u64;
    let count = rest.len().max(1) as f64;
    q.jitter_ms = sum / count / MS;
    q.jitter_units = sum / count / unit_ns;
    q.delta_ms_mean = before.at_ns.saturating_sub(first.at_ns) as f64 / count / MS;
    let quickest = delays.iter().copied().fold(f64::MAX, f64::min);
    delays.iter_mut().for_each(|delay| *delay = (*delay - quickest) / MS);
    let unplayed = |buffer: f64| {
        let late = delays.iter().filter(|delay| **delay > buffer).count() as u64;
        100.0 * ((q.lost + late) as f64 / expected.max(1) as f64).min(1.0)
    };
    (q.unplayed_percent_60, q.unplayed_percent_200) = (unplayed(60.0), unplayed(200.0));
    delays.sort_by(f64::total_cmp);
    q.pdv_ms_max = delays.last().copied().unwrap_or(0.0);
    q.pdv_ms_p99 = delays[((delays.len() as f64 * 0.99).ceil() as usize).clamp(1, delays.len()) - 1];
    q.r_60 = r_factor(60.0, q.unplayed_percent_60);
    q.r_200 = r_factor(200.0, q.unplayed_percent_200);
    (q.mos_60, q.mos_200) = (mos(q.r_60), mos(q.r_200));
    q
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
