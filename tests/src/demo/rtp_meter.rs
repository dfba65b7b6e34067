//! What became of the calls, as the sink sees it: RFC 3550 jitter, largest gap, loss.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bytes of an RTP header without CSRC list and extension (RFC 3550, 5.1).
pub(super) const HEADER_LEN: usize = 12;

/// One stream as it was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(super) struct StreamSeen {
    /// Synchronisation source.
    pub ssrc: u32,
    /// Packets, repeated ones not counted.
    pub packets: u64,
    /// Packets that came twice.
    pub repeated: u64,
    /// Packets that came after a later one.
    pub reordered: u64,
    /// The mean over all packets of the smoothed interarrival jitter (RFC 3550, 6.4.1), milliseconds.
    pub jitter_ms_mean: f64,
    /// Largest gap between two packets, milliseconds.
    pub delta_ms_max: f64,
}

#[derive(Debug)]
struct Stream {
    seen: StreamSeen,
    /// The last arrival, ns, and that packet's RTP timestamp.
    last: (u64, u32),
    /// Highest sequence number, its cycles in the upper half.
    highest: u64,
    /// Which of the last 64 sequence numbers have come; bit 0 is the highest.
    window: u64,
    /// J, in units of the media clock.
    jitter: f64,
    jitter_sum: f64,
}

/// All streams of one direction.
#[derive(Debug, Default)]
pub(super) struct RtpMeter {
    streams: BTreeMap<u32, Stream>,
    /// Largest gap since somebody last asked, ns.
    recent_gap: u64,
}

impl RtpMeter {
    /// A UDP payload that went to a call's port came at `at_ns`.
    pub(super) fn take(&mut self, payload: &[u8], at_ns: u64) {
        if payload.len() < HEADER_LEN || payload[0] >> 6 != 2 {
            return;
        }
        let word =
            |at: usize| u32::from_be_bytes([payload[at], payload[at + 1], payload[at + 2], payload[at + 3]]);
        let (sequence, timestamp, ssrc) = (word(0) as u16, word(4), word(8));
        let Some(stream) = self.streams.get_mut(&ssrc) else {
            let seen = StreamSeen { ssrc, packets: 1, ..StreamSeen::default() };
            let (last, highest) = ((at_ns, timestamp), u64::from(sequence));
            self.streams
                .insert(ssrc, Stream { seen, last, highest, window: 1, jitter: 0.0, jitter_sum: 0.0 });
            return;
        };
        if !stream.is_new(sequence) {
            stream.seen.repeated += 1;
            return;
        }
        self.recent_gap = self.recent_gap.max(stream.arrived(timestamp, at_ns));
    }

    /// Largest gap since the last call, ns.
    pub(super) fn take_recent_gap(&mut self) -> u64 {
        std::mem::take(&mut self.recent_gap)
    }

    /// Every stream, by SSRC.
    pub(super) fn streams(&self) -> Vec<StreamSeen> {
        let seen = |stream: &Stream| {
            let mean = stream.jitter_sum / (stream.seen.packets - 1).max(1) as f64;
            StreamSeen { jitter_ms_mean: mean * 1000.0 / f64::from(super::alaw::RATE), ..stream.seen }
        };
        self.streams.values().map(seen).collect()
    }
}

impl Stream {
    /// Notes a sequence number; false when it came before, or too late to tell.
    fn is_new(&mut self, sequence: u16) -> bool {
        let ahead = i64::from(sequence.wrapping_sub(self.highest as u16) as i16);
        if ahead > 0 {
            self.highest += ahead as u64;
            self.window = self.window.checked_shl(ahead as u32).unwrap_or(0) | 1;
            return true;
        }
        let bit = 1u64.checked_shl(-ahead as u32).unwrap_or(u64::MAX);
        let new = self.window & bit == 0;
        self.window |= bit;
        self.seen.reordered += u64::from(new);
        new
    }

    /// RFC 3550, A.8. Returns the gap, ns.
    fn arrived(&mut self, timestamp: u32, at_ns: u64) -> u64 {
        let gap = at_ns.saturating_sub(self.last.0);
        let arrived = gap as f64 * f64::from(super::alaw::RATE) / 1e9;
        let sent = f64::from(timestamp.wrapping_sub(self.last.1) as i32);
        self.jitter += ((arrived - sent).abs() - self.jitter) / 16.0;
        self.jitter_sum += self.jitter;
        self.last = (at_ns, timestamp);
        self.seen.packets += 1;
        self.seen.delta_ms_max = self.seen.delta_ms_max.max(super::clock::ms(gap));
        gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn packet(sequence: u16) -> Vec<u8> {
        let mut bytes = vec![0x80, 8];
        bytes.extend(sequence.to_be_bytes());
        bytes.extend((u32::from(sequence) * 160).to_be_bytes());
        bytes.extend(0xcafe_u32.to_be_bytes());
        bytes.extend([0xd5; 160]);
        bytes
    }

    fn meter(packets: impl IntoIterator<Item = (u16, u64)>) -> StreamSeen {
        let mut meter = RtpMeter::default();
        packets.into_iter().for_each(|(sequence, ms)| meter.take(&packet(sequence), ms * MS));
        meter.streams()[0]
    }

    #[test]
    fn an_even_stream_has_no_jitter() {
        let seen = meter((0..500u16).map(|n| (n, 1000 + u64::from(n) * 20)));
        assert_eq!((seen.packets, seen.delta_ms_max), (500, 20.0));
        assert!(seen.jitter_ms_mean < 1e-9, "{seen:?}");
    }

    #[test]
    fn packets_let_go_every_400_ms_have_the_jitter_that_is_known_of_them() {
        // 20 ms packets in bursts of 20: mean near 38 ms, single gaps of 400 ms.
        let seen = meter((0..4000u16).map(|n| (n, 1000 + u64::from(n) / 20 * 400)));
        assert!((36.0..40.0).contains(&seen.jitter_ms_mean), "{seen:?}");
        assert_eq!(seen.delta_ms_max, 400.0);
    }

    #[test]
    fn repeated_and_late_packets_are_told_apart_across_the_wrap() {
        let seen = meter([(65534, 0), (65535, 20), (1, 60), (0, 61), (0, 62), (2, 80), (65535, 81)]);
        assert_eq!((seen.packets, seen.repeated, seen.reordered), (5, 2, 1));
    }

    #[test]
    fn what_is_not_rtp_is_left_out() {
        let mut meter = RtpMeter::default();
        meter.take(&[0x80; 11], 0);
        meter.take(&[0x40; 40], 0);
        assert!(meter.streams().is_empty());
    }
}
