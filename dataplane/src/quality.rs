//! How evenly the packets of a stream left to the wire: RFC 3550 jitter, gaps, deviation, loss.
//!
//! Recorded at departure, so that a packet which was held counts with the moment it left. Jitter and
//! deviation need the stream's clock and begin once it is known. Smoothed jitter saturates under bursts
//! (38 ms where gaps are 400 ms): it never stands alone.

use crate::streams::{Half, Version, Word};
use crate::tsc::TscRate;

/// Fractional bits of ticks per media unit: 8 kHz at 4 GHz fits in 32 bits, and 90 kHz is exact to 1e-8.
const UNIT_BITS: u32 = 12;
/// Extremes and jitter are kept in grains of 64 ticks, some 25 ns.
const GRAIN_BITS: u32 = 6;
/// A packet counts as no later than this many grains, some 3 s.
const LATEST: u64 = 1 << 27;
/// A packet that is so far ahead is a new start of the sequence, not a loss (RFC 3550, A.1).
pub(crate) const MAX_DROPOUT: u16 = 3000;
/// A packet that is so far behind is one too.
pub(crate) const MAX_MISORDER: u16 = 100;
/// Timestamps that jump further are a new start of the media clock, not a delay.
const MAX_ADVANCE: u32 = 1 << 24;

/// What has left of one stream. Written by the lcore; a packet in order needs the first line only.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Sent {
    version: Version,
    /// TSC of the last departure.
    last: Word,
    /// Highest extended sequence number.
    highest: Half,
    /// The last packet's timestamp.
    timestamp: Half,
    /// Ticks per media unit with [`UNIT_BITS`], 0 while the clock is unknown.
    unit: Half,
    /// Jitter in 1/16 grains.
    jitter: Half,
    /// One-way delay of the last packet against that of the first, in ticks, signed.
    deviation: Word,
    /// Lowest deviation, in grains, signed.
    lowest: Half,
    /// Highest deviation, likewise.
    latest: Half,
    /// Bit n: `highest - n` has left; 0 before the first packet.
    window: Half,
    /// Longest gap in grains.
    longest: Half,
    /// Packets without duplicates.
    departed: Word,
    /// TSC of the first departure.
    first: Word,
    lost: Word,
    reordered: Word,
    duplicates: Word,
}

/// What [`crate::streams::StreamReport`] says of departures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quality {
    /// Packets that left, without duplicates.
    pub departed: u64,
    /// Sequence numbers missing between the first and the highest.
    pub lost: u64,
    /// Packets that left behind one with a higher number.
    pub reordered: u64,
    /// Packets that had left before.
    pub duplicates: u64,
    /// Interarrival jitter (RFC 3550, 6.4.1), in nanoseconds.
    pub jitter_ns: u64,
    /// The same in units of the media clock.
    pub jitter_units: f64,
    /// Longest time between two packets.
    pub delta_max_ns: u64,
    /// Mean time between two packets.
    pub delta_mean_ns: u64,
    /// How much earlier than the first one, against the media clock, the earliest packet was.
    pub early_max_ns: u64,
    /// How much later the latest one was.
    pub late_max_ns: u64,
    /// Highest sequence number that left, extended by its wraps; `None` before the first.
    pub highest_sent: Option<u32>,
    /// When the last packet left, TSC.
    pub last_sent_tsc: u64,
}

impl Quality {
    /// Packet delay variation: the spread of one-way delays (RFC 5481, 4.2), in nanoseconds.
    pub fn delay_variation_ns(&self) -> u64 {
        self.early_max_ns + self.late_max_ns
    }
}

impl Sent {
    /// A new stream has this place.
    pub fn reset(&self, mark: u32, unit: u32) {
        let change = self.version.open();
        for half in [
            &self.highest,
            &self.timestamp,
            &self.jitter,
            &self.lowest,
            &self.latest,
            &self.window,
            &self.longest,
        ] {
            half.set(0);
        }
        for word in [
            &self.last,
            &self.deviation,
            &self.departed,
            &self.first,
            &self.lost,
            &self.reordered,
            &self.duplicates,
        ] {
            word.set(0);
        }
        self.unit.set(unit);
        change.close_for(mark);
    }

    /// The stream's clock is known now.
    pub fn set_unit(&self, unit: u32) {
        let change = self.version.open();
        self.unit.set(unit);
        // What was noted while it was unknown says nothing.
        [&self.jitter, &self.lowest, &self.latest].into_iter().for_each(|half| half.set(0));
        self.deviation.set(0);
        change.close();
    }

    /// Ticks per media unit of a clock; 0 for one that cannot be.
    pub fn unit(rate: TscRate, clock_rate: u32) -> u32 {
        let unit = ((rate.hz() as u128) << UNIT_BITS).checked_div(clock_rate as u128).unwrap_or(0);
        u32::try_from(unit).unwrap_or(0)
    }

    /// Whose record this is.
    #[inline(always)]
    pub fn mark(&self) -> u32 {
        self.version.mark()
    }

    /// A packet of the stream `mark` left at `now`. Another stream's packet is ignored.
    #[inline(always)]
    pub fn departed(&self, mark: u32, sequence: u16, timestamp: u32, now: u64) {
        if self.version.mark() != mark {
            return;
        }
        let change = self.version.open();
        let (highest, window) = (self.highest.get(), self.window.get());
        // Next in order: what nearly every packet is.
        if sequence == (highest as u16).wrapping_add(1) && window != 0 {
            self.highest.set(highest.wrapping_add(1));
            self.depart(window << 1 | 1, self.timestamp.get(), timestamp, now);
        } else {
            self.departed_unusual(sequence, timestamp, now);
        }
        change.close();
    }

    #[inline(never)]
    fn departed_unusual(&self, sequence: u16, timestamp: u32, now: u64) {
        let (highest, before, window) = (self.highest.get(), self.timestamp.get(), self.window.get());
        let ahead = sequence.wrapping_sub(highest as u16);
        let behind = ahead.wrapping_neg();
        let extended = highest.wrapping_add(ahead as u32);
        if window == 0 {
            self.first.set(now);
            self.last.set(now);
            self.window.set(1);
            self.departed.set(1);
            self.highest.set(sequence as u32);
            self.timestamp.set(timestamp);
        } else if behind < 32 && window >> behind & 1 != 0 {
            self.duplicates.bump();
        } else if behind < MAX_MISORDER {
            self.reordered.bump();
            self.lost.set(self.lost.get().saturating_sub(1));
            let seen = 1u32.checked_shl(behind as u32).unwrap_or(0);
            self.depart(window | seen, before, timestamp, now);
        } else if ahead < MAX_DROPOUT {
            self.lost.set(self.lost.get() + ahead as u64 - 1);
            self.highest.set(extended);
            self.depart(window.checked_shl(ahead as u32).unwrap_or(0) | 1, before, timestamp, now);
        } else {
            // A new start: its distance says nothing about losses, nor its timestamp about delay.
            self.highest.set(extended);
            self.depart(1, timestamp.wrapping_sub(MAX_ADVANCE + 1), timestamp, now);
        }
    }

    /// Counts the packet; gap, jitter and deviation against the one that left before it, whose timestamp
    /// was `before`.
    #[inline(always)]
    fn depart(&self, window: u32, before: u32, timestamp: u32, now: u64) {
        self.departed.bump();
        self.window.set(window);
        self.timestamp.set(timestamp);
        let delta = now.wrapping_sub(self.last.get()) as i64;
        self.last.set(now);
        if delta >> GRAIN_BITS > self.longest.get() as i64 {
            self.longest.set((delta >> GRAIN_BITS).min(u32::MAX as i64) as u32);
        }
        let advance = timestamp.wrapping_sub(before);
        if advance.wrapping_add(MAX_ADVANCE) > 2 * MAX_ADVANCE {
            return;
        }
        // |advance| <= 2^24 and the unit is below 2^32: the product fits in 57 bits. Without a clock the unit is 0, and
        // what comes out is not shown.
        let expected = (advance as i32 as i64 * self.unit.get() as i64) >> UNIT_BITS;
        let late = delta.wrapping_sub(expected);
        // RFC 3550, A.8: J += (|D| - J) / 16, in sixteenths.
        let grains = (late.unsigned_abs() >> GRAIN_BITS).min(LATEST) as u32;
        let jitter = self.jitter.get();
        self.jitter.set(jitter - ((jitter + 8) >> 4) + grains);
        let deviation = (self.deviation.get() as i64).wrapping_add(late);
        self.deviation.set(deviation as u64);
        let grains = deviation >> GRAIN_BITS;
        if grains < self.lowest.get() as i32 as i64 {
            self.lowest.set(grains.max(i32::MIN as i64) as u32);
        } else if grains > self.latest.get() as i32 as i64 {
            self.latest.set(grains.min(i32::MAX as i64) as u32);
        }
    }

    /// What has left of the stream `mark`; nothing if another has its place by now.
    pub fn quality(&self, mark: u32, rate: TscRate) -> Quality {
        let read = self.version.read(|| {
            if self.window.get() == 0 {
                return Quality::default();
            }
            let grains_ns = |grains: u64| rate.ns(grains << GRAIN_BITS);
            let departed = self.departed.get();
            let span = self.last.get().saturating_sub(self.first.get());
            let unit = self.unit.get() as f64 / (1 << UNIT_BITS) as f64;
            let known = unit > 0.0;
            let jitter = if known { self.jitter.get() as u64 } else { 0 };
            let (lowest, latest) = if known { (self.lowest.get() as i32, self.latest.get()) } else { (0, 0) };
            let jitter_ticks = (jitter << GRAIN_BITS) as f64 / 16.0;
            Quality {
                departed,
                lost: self.lost.get(),
                reordered: self.reordered.get(),
                duplicates: self.duplicates.get(),
                jitter_ns: rate.ns(jitter_ticks as u64),
                jitter_units: if known { jitter_ticks / unit } else { 0.0 },
                delta_max_ns: grains_ns(self.longest.get() as u64),
                delta_mean_ns: rate.ns(span.checked_div(departed.saturating_sub(1)).unwrap_or(0)),
                early_max_ns: grains_ns(lowest.unsigned_abs() as u64),
                late_max_ns: grains_ns(latest as u64),
                highest_sent: Some(self.highest.get()),
                last_sent_tsc: self.last.get(),
            }
        });
        match read {
            Some((found, quality)) if found == mark => quality,
            _ => Quality::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HZ: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;

    fn sent(packets: &[(u16, u32, u64)]) -> Quality {
        let rate = TscRate::new(HZ);
        let sent = Sent::default();
        sent.reset(1, Sent::unit(rate, 8000));
        packets.iter().for_each(|(sequence, timestamp, ms)| sent.departed(1, *sequence, *timestamp, ms * MS));
        sent.quality(1, rate)
    }

    #[test]
    fn an_even_stream_has_no_jitter() {
        let packets: Vec<_> = (0..100u16).map(|n| (n, n as u32 * 160, 1000 + n as u64 * 20)).collect();
        let quality = sent(&packets);
        assert_eq!((quality.jitter_ns, quality.lost, quality.reordered, quality.duplicates), (0, 0, 0, 0));
        assert_eq!((quality.delta_max_ns, quality.delta_mean_ns), (20 * MS, 20 * MS));
        assert_eq!(
            (quality.departed, quality.highest_sent, quality.delay_variation_ns()),
            (100, Some(99), 0)
        );
    }

    #[test]
    fn held_for_400_ms_epochs_jitter_is_the_saw_tooth_of_the_paper() {
        // 20 ms packets, released every 400 ms: RFC 3550 gives 29-51 ms, mean 38.
        let (mut sum, mut low, mut high) = (0, u64::MAX, 0);
        let sent = Sent::default();
        let rate = TscRate::new(HZ);
        sent.reset(1, Sent::unit(rate, 8000));
        for n in 0..4000u64 {
            let left = (n * 20 / 400 + 1) * 400;
            sent.departed(1, n as u16, n as u32 * 160, left * MS);
            if n >= 2000 {
                let jitter = sent.quality(1, rate).jitter_ns;
                sum += jitter;
                low = low.min(jitter);
                high = high.max(jitter);
            }
        }
        let quality = sent.quality(1, rate);
        assert_eq!(((sum / 2000 + MS / 2) / MS, low / MS, high / MS), (38, 29, 51));
        assert_eq!(quality.delta_max_ns, 400 * MS);
        assert_eq!(quality.delay_variation_ns(), 380 * MS);
        assert!((quality.jitter_units / 8.0 - quality.jitter_ns as f64 / 1e6).abs() < 0.01);
    }

    #[test]
    fn losses_duplicates_and_disorder_are_counted_once() {
        let quality = sent(&[
            (1, 0, 0),
            (2, 160, 20),
            (4, 480, 60),
            (3, 320, 61),
            (3, 320, 62),
            (9, 0, 80),
            (9, 0, 81),
        ]);
        assert_eq!((quality.lost, quality.reordered, quality.duplicates), (4, 1, 2));
        assert_eq!(quality.departed, 5);
        let wrapped = sent(&[(65534, 0, 0), (65535, 0, 1), (1, 0, 2)]);
        assert_eq!((wrapped.lost, wrapped.highest_sent), (1, Some(65537)));
        let restarted = sent(&[(10, 0, 0), (12, 0, 1), (20000, 0, 2), (20002, 0, 3)]);
        assert_eq!((restarted.lost, restarted.reordered), (2, 0));
        assert_eq!(restarted.highest_sent, Some(20002));
    }

    #[test]
    fn another_streams_packet_changes_nothing() {
        let sent = Sent::default();
        sent.reset(2, 0);
        sent.departed(1, 5, 0, 10);
        assert_eq!(sent.quality(2, TscRate::new(HZ)), Quality::default());
        sent.departed(2, 5, 0, 10);
        assert_eq!(sent.quality(2, TscRate::new(HZ)).departed, 1);
        assert_eq!(sent.quality(1, TscRate::new(HZ)), Quality::default());
    }

    proptest! {
        #[test]
        fn any_packets_at_any_time_are_recorded_without_overflow(
            packets in proptest::collection::vec((any::<u16>(), any::<u32>(), 0u64..1 << 40), 1..100),
        ) {
            let quality = sent(&packets);
            prop_assert!(quality.departed + quality.duplicates == packets.len() as u64);
        }

        #[test]
        fn loss_agrees_with_a_set_of_numbers(order in Just((0..60u16).collect::<Vec<_>>()).prop_shuffle(), keep in 1..60usize) {
            let mut kept: Vec<u16> = order[..keep].iter().map(|n| n.wrapping_add(65500)).collect();
            // The first packet is where counting starts: it must be the lowest.
            let lowest = kept.iter().copied().min_by_key(|n| n.wrapping_sub(65500)).unwrap();
            kept.retain(|n| *n != lowest);
            kept.insert(0, lowest);
            let highest = kept.iter().map(|n| n.wrapping_sub(lowest)).max().unwrap() as u64;
            let packets: Vec<_> = kept.iter().map(|n| (*n, 0, 0)).collect();
            prop_assert_eq!(sent(&packets).lost, highest + 1 - kept.len() as u64);
        }
    }
}
