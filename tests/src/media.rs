//! RTP streams in a capture: what the caller sent into the guest and what the guest echoed.
//!
//! The guest's SIP server sends each RTP packet back as it came (`sipp -rtp_echo`), so both directions
//! of a stream are in one capture under one clock, and each packet tells how long guest and plane
//! had it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::capture::{Frame, Kind};

/// One call's media as the caller's network sees it.
#[derive(Debug, Default, Clone)]
pub struct EchoedStream {
    /// Towards the guest: (sequence number, ns since 1970), in the order seen.
    pub sent: Vec<(u16, u64)>,
    /// From the guest.
    pub echoed: Vec<(u16, u64)>,
}

/// Which call: the caller's media address and the SSRC.
pub type StreamKey = (SocketAddr, u32);

/// The streams to and from the guest's media port.
pub fn echoed_streams(frames: &[Frame], guest: SocketAddr) -> BTreeMap<StreamKey, EchoedStream> {
    let mut streams: BTreeMap<StreamKey, EchoedStream> = BTreeMap::new();
    for frame in frames {
        let Kind::Udp(ends) = frame.kind else { continue };
        let Some((ssrc, sequence)) = rtp(&frame.payload) else { continue };
        if ends.destination == guest {
            let stream = streams.entry((ends.source, ssrc)).or_default();
            stream.sent.push((sequence, frame.at_ns));
        } else if ends.source == guest {
            let stream = streams.entry((ends.destination, ssrc)).or_default();
            stream.echoed.push((sequence, frame.at_ns));
        }
    }
    streams
}

/// The streams that the guest relays between phones outside, by where it sends them. SSRC and sequence numbers stay
/// what the sending phone made them.
pub fn relayed_streams(frames: &[Frame], guest: IpAddr) -> BTreeMap<StreamKey, EchoedStream> {
    let mut towards: BTreeMap<u32, Vec<(u16, u64)>> = BTreeMap::new();
    let mut streams: BTreeMap<StreamKey, EchoedStream> = BTreeMap::new();
    for frame in frames {
        let Kind::Udp(ends) = frame.kind else { continue };
        let Some((ssrc, sequence)) = rtp(&frame.payload) else { continue };
        if ends.destination.ip() == guest {
            towards.entry(ssrc).or_default().push((sequence, frame.at_ns));
        } else if ends.source.ip() == guest {
            let stream = streams.entry((ends.destination, ssrc)).or_default();
            stream.echoed.push((sequence, frame.at_ns));
        }
    }
    for ((_, ssrc), stream) in &mut streams {
        stream.sent = towards.get(ssrc).cloned().unwrap_or_default();
    }
    streams
}

/// SSRC and sequence number of a payload with RTP's fixed header (RFC 3550, 5.1).
fn rtp(payload: &[u8]) -> Option<(u32, u16)> {
    let head: [u8; 12] = payload.get(..12)?.try_into().ok()?;
    if head[0] >> 6 != 2 || (192..=223).contains(&head[1]) {
        return None;
    }
    Some((u32::from_be_bytes([head[8], head[9], head[10], head[11]]), u16::from_be_bytes([head[2], head[3]])))
}

/// The payload types that the guest sends to an address, in the order of their first packets.
pub fn payload_types(frames: &[Frame], to: SocketAddr) -> Vec<u8> {
    let mut seen = Vec::new();
    for frame in frames {
        let Kind::Udp(ends) = frame.kind else { continue };
        if ends.destination == to && rtp(&frame.payload).is_some() {
            let payload_type = frame.payload[1] & 0x7f;
            if !seen.contains(&payload_type) {
                seen.push(payload_type);
            }
        }
    }
    seen
}

/// True when the frame carries RTP from or to the guest's media port.
pub fn is_media(frame: &Frame, guest: SocketAddr) -> bool {
    let Kind::Udp(ends) = frame.kind else { return false };
    (ends.source == guest || ends.destination == guest) && rtp(&frame.payload).is_some()
}

impl EchoedStream {
    /// Packets sent that never came back.
    pub fn lost(&self) -> usize {
        self.sent
            .iter()
            .filter(|(sequence, _)| !self.echoed.iter().any(|(other, _)| other == sequence))
            .count()
    }

    /// Packets that came back after one that was sent later.
    pub fn reordered(&self) -> usize {
        self.echoed.windows(2).filter(|pair| (pair[1].0.wrapping_sub(pair[0].0) as i16) < 0).count()
    }

    /// The gaps between packets as they came back, nanoseconds, in order.
    pub fn gaps_ns(&self) -> Vec<u64> {
        self.echoed.windows(2).map(|pair| pair[1].1.saturating_sub(pair[0].1)).collect()
    }

    /// How long guest and plane had each packet, nanoseconds, in the order they came back.
    pub fn delays_ns(&self) -> Vec<u64> {
        let sent: BTreeMap<u16, u64> = self.sent.iter().copied().collect();
        self.echoed
            .iter()
            .filter_map(|(sequence, at)| Some(at.saturating_sub(*sent.get(sequence)?)))
            .collect()
    }
}

/// The value that `share` (0..=1) of the values do not exceed; 0 for none.
pub fn percentile(values: &[u64], share: f64) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_order_and_delay_are_told_across_the_wrap() {
        let stream = EchoedStream {
            sent: vec![(65_534, 0), (65_535, 20), (0, 40), (1, 60)],
            echoed: vec![(65_534, 5), (0, 45), (65_535, 47)],
        };
        assert_eq!((stream.lost(), stream.reordered()), (1, 1));
        assert_eq!(stream.delays_ns(), [5, 5, 27]);
        assert_eq!(stream.gaps_ns(), [40, 2]);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        assert_eq!(percentile(&[30, 10, 20], 0.5), 20);
        assert_eq!(percentile(&[30, 10, 20], 1.0), 30);
        assert_eq!(percentile(&[], 0.5), 0);
    }
}
