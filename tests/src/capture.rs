//! What the world outside sees: a capture on the far end of the wire, and its frames.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use nix::sys::signal::Signal;
use pcap_parser::{parse_pcap_frame, parse_pcap_frame_be, parse_pcap_header};

use crate::failure::{Context, Failure, Result};
use crate::namespace::Namespace;
use crate::process::{Program, Running};
use crate::scratch::Scratch;

/// Whole frames: checksums are looked at.
const SNAP: usize = 2048;

/// A running capture.
pub struct Capture {
    running: Running,
    file: PathBuf,
}

impl Capture {
    /// Captures both directions at the namespace's end of the wire, from now on.
    pub fn start(namespace: &Namespace, scratch: &Scratch, label: &str) -> Result<Capture> {
        Capture::start_on("eth0", "", namespace, scratch, label)
    }

    /// Captures on another interface; `way` narrows it: `-Q in` leaves out what the namespace sends there.
    pub fn start_on(
        interface: &str,
        way: &str,
        namespace: &Namespace,
        scratch: &Scratch,
        label: &str,
    ) -> Result<Capture> {
        let file = scratch.file(&format!("{label}.pcap"));
        let mut running = Program::new("tcpdump")
            // Immediate: frames in a half-filled block would be lost with the order to stop.
            .args(&format!(
                "-i {interface} -n -U --immediate-mode --time-stamp-precision nano -s {SNAP} -B 32768"
            ))
            .args(way)
            // Not as another user: the scratch directory is root's.
            .args("-Z root -w")
            .arg(file.display().to_string())
            .inside(namespace)
            .start(scratch, label)?;
        running.wait_for_line("listening on", Duration::from_secs(20))?;
        Ok(Capture { running, file })
    }

    /// The frames so far, in the order they were seen.
    pub fn frames(&self) -> Result<Vec<Frame>> {
        read(&self.file)
    }

    /// Ends the capture; its frames. Fails when the capture itself has lost some.
    pub fn finish(mut self) -> Result<Vec<Frame>> {
        self.running.stop(Signal::SIGINT, Duration::from_secs(10))?;
        let kept_all =
            self.running.output().lines().any(|line| line.starts_with("0 packets dropped by kernel"));
        if !kept_all {
            return Err(self.running.failure("lost frames itself, so that nothing can be said of the plane"));
        }
        self.frames()
    }
}

/// A frame as the capture has it.
#[derive(Debug, Clone)]
pub struct Frame {
    /// When it was seen, nanoseconds since 1970: never before it was there.
    pub at_ns: u64,
    /// Who sent it.
    pub source_mac: [u8; 6],
    /// The outermost VLAN it is on.
    pub vlan: Option<u16>,
    /// What it is.
    pub kind: Kind,
    /// What the transport carries, as far as it was kept.
    pub payload: Vec<u8>,
    /// Whether its checksums (IP's own and the transport's) are right, where that can be told: not of
    /// fragments, of what was cut, or of other protocols.
    pub checksums: Option<bool>,
}

/// What a frame is, as far as a test wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// TCP over either IP.
    Tcp(Ends),
    /// UDP over either IP.
    Udp(Ends),
    /// ARP of any kind.
    Arp,
    /// Reverse ARP: the announcement a plane makes in a guest's name.
    Rarp,
    /// Neighbour and router discovery.
    NeighbourDiscovery,
    /// Other ICMP, of either IP.
    Icmp,
    /// Anything else.
    Other,
}

/// Where a segment or datagram comes from and goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ends {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
}

impl Frame {
    /// True for IPv6 of any kind that is kept apart here.
    pub fn is_ipv6(&self) -> bool {
        match self.kind {
            Kind::Tcp(ends) | Kind::Udp(ends) => ends.source.is_ipv6(),
            Kind::NeighbourDiscovery => true,
            _ => false,
        }
    }
}

/// Reads a capture file. One that is still being written ends with its last whole frame.
pub fn read(path: &Path) -> Result<Vec<Frame>> {
    let content = std::fs::read(path).context(|| format!("cannot read {}", path.display()))?;
    let Ok((mut rest, header)) = parse_pcap_header(&content) else {
        return Err(Failure::new(format!("{} is no capture", path.display())));
    };
    crate::ensure!(header.is_nanosecond_precision(), "{} has microseconds only", path.display());
    let next = if header.is_bigendian() { parse_pcap_frame_be } else { parse_pcap_frame };
    let mut frames = Vec::new();
    while let Ok((left, packet)) = next(rest) {
        rest = left;
        let at_ns = u64::from(packet.ts_sec) * 1_000_000_000 + u64::from(packet.ts_usec);
        frames.extend(dissect(at_ns, packet.data));
    }
    Ok(frames)
}

/// What is known of a frame's first bytes; nothing when not even Ethernet is whole.
fn dissect(at_ns: u64, bytes: &[u8]) -> Option<Frame> {
    let source_mac = bytes.get(6..12)?.try_into().ok()?;
    let packet = LaxSlicedPacket::from_ethernet(bytes).ok()?;
    let vlan = packet.vlan_ids().first().map(|id| id.value());
    let ends = |source: u16, destination: u16| {
        let (from, to) = match &packet.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                (IpAddr::from(ip.header().source_addr()), IpAddr::from(ip.header().destination_addr()))
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                (IpAddr::from(ip.header().source_addr()), IpAddr::from(ip.header().destination_addr()))
            }
            _ => return None,
        };
        Some(Ends { source: SocketAddr::new(from, source), destination: SocketAddr::new(to, destination) })
    };
    let (kind, payload) = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            (Kind::Tcp(ends(tcp.source_port(), tcp.destination_port())?), tcp.payload())
        }
        Some(TransportSlice::Udp(udp)) => {
            (Kind::Udp(ends(udp.source_port(), udp.destination_port())?), udp.payload())
        }
        Some(TransportSlice::Icmpv4(icmp)) => (Kind::Icmp, icmp.payload()),
        // RFC 4861: router and neighbour solicitation and advertisement, redirect.
        Some(TransportSlice::Icmpv6(icmp)) if (133..=137).contains(&icmp.type_u8()) => {
            (Kind::NeighbourDiscovery, icmp.payload())
        }
        Some(TransportSlice::Icmpv6(icmp)) => (Kind::Icmp, icmp.payload()),
        Some(TransportSlice::Igmp(_)) => (Kind::Other, &[][..]),
        None => (by_ethertype(bytes), &[][..]),
    };
    let checksums = packet.net.as_ref().and_then(checksums);
    Some(Frame { at_ns, source_mac, vlan, kind, payload: payload.to_vec(), checksums })
}

/// RFC 1071: a sum over everything with the checksum in it is all ones.
fn checksums(net: &LaxNetSlice) -> Option<bool> {
    let (header, pseudo, ip) = match net {
        LaxNetSlice::Ipv4(v4) => {
            let header = v4.header();
            (header.slice(), sum(&header.source()) + sum(&header.destination()), v4.payload())
        }
        LaxNetSlice::Ipv6(v6) => {
            let header = v6.header();
            (&[][..], sum(&header.source()) + sum(&header.destination()), v6.payload())
        }
        _ => return None,
    };
    let number = u64::from(ip.ip_number.0);
    let pseudo = match number {
        // UDP over IPv4 may do without.
        17 if !header.is_empty() && ip.payload.get(6..8) == Some(&[0, 0]) => return None,
        6 | 17 | 58 => pseudo + number + ip.payload.len() as u64,
        1 => 0,
        _ => return None,
    };
    if ip.incomplete || ip.fragmented {
        return None;
    }
    let right = |mut sum: u64| {
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum == 0xffff
    };
    Some((header.is_empty() || right(sum(header))) && right(pseudo + sum(ip.payload)))
}

fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    bytes.chunks(2).map(word).sum()
}

fn by_ethertype(bytes: &[u8]) -> Kind {
    let word = |at: usize| bytes.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let inner = if word(12) == Some(0x8100) { word(16) } else { word(12) };
    match inner {
        Some(0x0806) => Kind::Arp,
        Some(0x8035) => Kind::Rarp,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn a_datagram_cut_short_on_a_vlan_is_still_known() {
        let builder = PacketBuilder::ethernet2([2; 6], [1; 6])
            .single_vlan(7.try_into().expect("a VLAN id"))
            .ipv4([10, 9, 7, 2], [10, 9, 7, 255], 64)
            .udp(1000, 9700);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &[0x55; 1000]).expect("built");
        let frame = dissect(5, &bytes[..100]).expect("dissected");
        assert_eq!((frame.vlan, frame.source_mac), (Some(7), [2; 6]));
        let Kind::Udp(ends) = frame.kind else { panic!("{:?}", frame.kind) };
        assert_eq!(ends.destination.to_string(), "10.9.7.255:9700");
        assert!(frame.payload.iter().all(|&byte| byte == 0x55) && !frame.payload.is_empty());
    }

    #[test]
    fn a_flipped_bit_shows_in_the_checksums() {
        for v6 in [false, true] {
            let ethernet = PacketBuilder::ethernet2([2; 6], [1; 6]);
            let ip = if v6 { ethernet.ipv6([1; 16], [2; 16], 64) } else { ethernet.ipv4([1; 4], [2; 4], 64) };
            let mut whole = Vec::new();
            ip.tcp(1, 2, 3, 4).write(&mut whole, &[9; 33]).expect("built");
            let judge = |bytes: &[u8]| dissect(0, bytes).expect("dissected").checksums;
            assert_eq!(judge(&whole), Some(true));
            let last = whole.len() - 1;
            assert_eq!(judge(&whole[..last]), None, "cut");
            for at in [30, last] {
                let mut flipped = whole.clone();
                flipped[at] ^= 4;
                assert_eq!(judge(&flipped), Some(false), "byte {at}");
            }
        }
    }

    #[test]
    fn arp_is_arp_with_and_without_a_tag() {
        let mut plain = vec![0; 60];
        plain[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(dissect(0, &plain).expect("whole").kind, Kind::Arp);
        let mut tagged = vec![0; 60];
        tagged[12..18].copy_from_slice(&[0x81, 0x00, 0, 7, 0x08, 0x06]);
        assert_eq!(dissect(0, &tagged).expect("whole").kind, Kind::Arp);
    }
}
