//! Frames for tests, made field by field. Checksums are right unless a test breaks them.

use crate::checksum::ones_complement;
use crate::port::Frame;

pub const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
pub const GUEST: [u8; 4] = [10, 0, 0, 2];
pub const PEER: [u8; 4] = [10, 0, 0, 9];
pub const GUEST6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
pub const PEER6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

/// A frame of several segments.
pub struct Chain(pub Vec<Vec<u8>>);

impl Chain {
    /// One segment.
    pub fn whole(bytes: &[u8]) -> Self {
        Chain(vec![bytes.to_vec()])
    }
}

impl Frame for Chain {
    fn head(&self) -> &[u8] {
        &self.0[0]
    }

    fn len(&self) -> u32 {
        self.0.iter().map(|s| s.len() as u32).sum()
    }

    fn segments(&self) -> u16 {
        self.0.len() as u16
    }

    fn each_segment(&self, see: &mut dyn FnMut(&[u8])) {
        self.0.iter().for_each(|s| see(s));
    }
}

/// A frame whose checksum the guest left to us.
pub struct Owing(pub Chain);

impl Frame for Owing {
    fn head(&self) -> &[u8] {
        self.0.head()
    }

    fn len(&self) -> u32 {
        self.0.len()
    }

    fn segments(&self) -> u16 {
        self.0.segments()
    }

    fn each_segment(&self, see: &mut dyn FnMut(&[u8])) {
        self.0.each_segment(see);
    }

    fn owes_checksum(&self) -> bool {
        true
    }

    fn put(&mut self, at: usize, bytes: [u8; 2]) {
        if let Some(place) = self.0.0[0].get_mut(at..at + 2) {
            place.copy_from_slice(&bytes);
        }
    }
}

fn ethernet(ethertype: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x52, 0x54, 0, 0, 0, 9];
    frame.extend(GUEST_MAC);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(body);
    frame
}

/// Puts VLAN tags with ids 1, 2, ... in front of what the frame carries.
pub fn tagged(frame: &[u8], ethertypes: &[u16]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for (n, ethertype) in ethertypes.iter().enumerate() {
        out.extend(ethertype.to_be_bytes());
        out.extend((0x2000 | (n as u16 + 1)).to_be_bytes());
    }
    out.extend(&frame[12..]);
    out
}

/// IPv4 with `options` (a multiple of 4 bytes) and the fragment field as given.
pub fn ipv4(protocol: u8, options: &[u8], fragment: u16, body: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let mut ip = vec![0x40 | (header_len / 4) as u8, 46 << 2];
    ip.extend(((header_len + body.len()) as u16).to_be_bytes());
    ip.extend([0, 7]);
    ip.extend(fragment.to_be_bytes());
    ip.extend([64, protocol, 0, 0]);
    ip.extend(GUEST);
    ip.extend(PEER);
    ip.extend(options);
    let sum = !ones_complement(&ip);
    ip[10..12].copy_from_slice(&sum.to_ne_bytes());
    ip.extend(body);
    ethernet(0x0800, &ip)
}

/// IPv6 whose first extension or protocol is `next`.
pub fn ipv6(next: u8, hop_limit: u8, body: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x6b, 0x80, 0, 0];
    ip.extend((body.len() as u16).to_be_bytes());
    ip.extend([next, hop_limit]);
    ip.extend(GUEST6);
    ip.extend(PEER6);
    ip.extend(body);
    ethernet(0x86dd, &ip)
}

/// Fills the checksum at `at` of `body` in, for a pseudo header of these addresses.
pub fn checksummed(mut body: Vec<u8>, at: usize, protocol: u8, src: &[u8], dst: &[u8]) -> Vec<u8> {
    body[at..at + 2].fill(0);
    let mut pseudo = src.to_vec();
    pseudo.extend(dst);
    pseudo.extend((body.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    pseudo.extend(&body);
    let sum = match !ones_complement(&pseudo) {
        0 => 0xffff,
        sum => sum,
    };
    body[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
    body
}

fn udp_bytes(sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut udp = sport.to_be_bytes().to_vec();
    udp.extend(dport.to_be_bytes());
    udp.extend((8 + payload.len() as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    udp
}

/// UDP over IPv4.
pub fn udp(sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    ipv4(17, &[], 0x4000, &checksummed(udp_bytes(sport, dport, payload), 6, 17, &GUEST, &PEER))
}

/// A whole datagram's bytes behind the IP header, for fragments.
pub fn datagram(sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    checksummed(udp_bytes(sport, dport, payload), 6, 17, &GUEST, &PEER)
}

/// UDP over IPv6.
pub fn udp6(sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    ipv6(17, 64, &checksummed(udp_bytes(sport, dport, payload), 6, 17, &GUEST6, &PEER6))
}

/// TCP over IPv4, without options.
pub fn tcp(sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut tcp = sport.to_be_bytes().to_vec();
    tcp.extend(dport.to_be_bytes());
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    tcp.extend(payload);
    ipv4(6, &[], 0x4000, &checksummed(tcp, 16, 6, &GUEST, &PEER))
}

/// An RTP packet of 160 bytes of G.711 A-law.
pub fn rtp(sequence: u16, ssrc: u32) -> Vec<u8> {
    let mut rtp = vec![0x80, 8];
    rtp.extend(sequence.to_be_bytes());
    rtp.extend((sequence as u32 * 160).to_be_bytes());
    rtp.extend(ssrc.to_be_bytes());
    rtp.extend([0xd5; 160]);
    rtp
}

/// An ARP packet from the guest, padded to 60 bytes.
pub fn arp(operation: u16) -> Vec<u8> {
    let mut arp = vec![0, 1, 8, 0, 6, 4];
    arp.extend(operation.to_be_bytes());
    arp.extend(GUEST_MAC);
    arp.extend(GUEST);
    arp.extend([0; 6]);
    arp.extend(PEER);
    arp.extend([0; 18]);
    ethernet(0x0806, &arp)
}

/// The announcement that DPDK's vhost library makes: 64 bytes.
pub fn rarp() -> Vec<u8> {
    let mut rarp = vec![0, 1, 8, 0, 6, 4, 0, 3];
    rarp.extend(GUEST_MAC);
    rarp.extend([0; 4]);
    rarp.extend(GUEST_MAC);
    rarp.extend([0; 4]);
    rarp.resize(50, 0);
    let mut frame = ethernet(0x8035, &rarp);
    frame[..6].fill(0xff);
    frame
}

/// Neighbour discovery with these options.
pub fn neighbour(message: u8, hop_limit: u8, options: &[u8]) -> Vec<u8> {
    let mut body = vec![message, 0, 0, 0, 0, 0, 0, 0];
    body.extend(PEER6);
    body.extend(options);
    ipv6(58, hop_limit, &checksummed(body, 2, 58, &GUEST6, &PEER6))
}
