//! The voices in a capture at the peer: RTP streams of G.711, each with the packets of one direction.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use tidegate_control::classify::Arrival;
use tidegate_tests::capture::{Frame, Kind};

/// G.711's media clock, units a second.
pub const CLOCK: u32 = 8000;
/// A-law and u-law (RFC 3551, 6).
const G711: [u8; 2] = [8, 0];

/// One SSRC from one port to another.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// Its synchronisation source.
    pub ssrc: u32,
    /// Its packets, in the order in which they came.
    pub arrivals: Vec<Arrival>,
}

/// All of them, by their ends. Frames that a switch floods to both hosts count once: those to `server` that are there
/// already; whatever it sent itself counts as often as it came.
pub fn streams(frames: &[Frame], server: IpAddr) -> Vec<Stream> {
    let mut streams: BTreeMap<(SocketAddr, SocketAddr, u32), Vec<Arrival>> = BTreeMap::new();
    let mut known = HashSet::new();
    for frame in frames {
        let Kind::Udp(ends) = frame.kind else { continue };
        let Some((ssrc, sequence, timestamp)) = voice(&frame.payload) else { continue };
        if ends.source.ip() != server && !known.insert((ends.source, ssrc, sequence, timestamp)) {
            continue;
        }
        let arrival = Arrival { at_ns: frame.at_ns, sequence, timestamp };
        streams.entry((ends.source, ends.destination, ssrc)).or_default().push(arrival);
    }
    streams.into_iter().map(|((from, to, ssrc), arrivals)| Stream { from, to, ssrc, arrivals }).collect()
}

/// SSRC, sequence number and timestamp of an RTP packet with G.711 in it (RFC 3550, 5.1).
fn voice(payload: &[u8]) -> Option<(u32, u16, u32)> {
    let head: &[u8; 12] = payload.first_chunk()?;
    if head[0] >> 6 != 2 || !G711.contains(&(head[1] & 0x7f)) {
        return None;
    }
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    Some((word(8), u16::from_be_bytes([head[2], head[3]]), word(4)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_tests::capture::Ends;
    use tidegate_tests::survival::mark::voice as packet;

    fn frame(at_ns: u64, from: &str, to: &str, payload: Vec<u8>) -> Frame {
        let ends = Ends { source: from.parse().unwrap(), destination: to.parse().unwrap() };
        Frame { at_ns, source_mac: [2; 6], vlan: None, kind: Kind::Udp(ends), payload, checksums: None }
    }

    #[test]
    fn directions_and_sources_are_kept_apart_and_flooded_frames_count_once() {
        let (server, peer) = ("10.9.0.2:6400", "10.9.0.1:6300");
        let frames = [
            frame(1, peer, server, packet(7, 1, 160, 0).to_vec()),
            frame(2, peer, server, packet(7, 1, 160, 0).to_vec()),
            frame(3, server, peer, packet(9, 1, 160, 0).to_vec()),
            frame(4, server, peer, packet(9, 1, 160, 0).to_vec()),
            frame(5, server, peer, packet(8, 1, 160, 0).to_vec()),
            frame(6, server, peer, b"INVITE sip:x SIP/2.0".to_vec()),
            frame(7, server, peer, vec![0x80, 200, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0]),
        ];
        let found = streams(&frames, "10.9.0.2".parse().unwrap());
        let sizes: Vec<_> =
            found.iter().map(|stream| (stream.from.port(), stream.ssrc, stream.arrivals.len())).collect();
        assert_eq!(sizes, [(6300, 7, 1), (6400, 8, 1), (6400, 9, 2)]);
    }
}
