//! Test frames: what a guest sends, made byte by byte, with right checksums and a label at the end.

use super::kind::Kind;
use super::label::{LABEL_LEN, Label};

/// Streams of [`Kind::Rtp`] and flows of the other kinds.
pub const STREAMS: u8 = 8;

/// Longest frame made, bytes.
pub const FRAME_MAX: usize = 1514;

const GUEST_MAC: [u8; 6] = [0x02, 0, 0, 0, 1, 0];
const PEER_MAC: [u8; 6] = [0x02, 0, 0, 0, 2, 0];
const GUEST_V4: [u8; 4] = [10, 7, 0, 1];
const PEER_V4: [u8; 4] = [10, 7, 0, 2];
const GUEST_V6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const PEER_V6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

/// Makes the frames of one lane: counts them, and knows what comes next in each stream.
#[derive(Debug)]
pub struct FrameMaker {
    guest: u8,
    lane: u8,
    number: u64,
    sequences: [[u32; STREAMS as usize]; Kind::ALL.len()],
    random: Random,
    bytes: Vec<u8>,
}

impl FrameMaker {
    /// The frames of this guest and lane; the same `seed` makes the same frames.
    pub fn new(guest: u8, lane: u8, seed: u64) -> Self {
        Self {
            guest,
            lane,
            number: 0,
            sequences: [[0; STREAMS as usize]; Kind::ALL.len()],
            random: Random::new(seed ^ u64::from(lane) << 32),
            bytes: Vec::with_capacity(FRAME_MAX),
        }
    }

    /// Frames made so far, and the number of the next.
    pub fn made(&self) -> u64 {
        self.number
    }

    /// Makes the next frame of `run`: a mix in which every fourth is media.
    pub fn mixed(&mut self, run: u32) -> (Kind, &[u8]) {
        let draw = self.random.draw();
        let kind = match draw % 32 {
            0..8 => Kind::Rtp,
            8..16 => Kind::Tcp,
            16..20 => Kind::Udp,
            n => Kind::ALL[[0, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14][n as usize - 20]],
        };
        (kind, self.make(kind, (draw >> 8) as u8 % STREAMS, run))
    }

    /// Makes a frame of this kind and stream.
    pub fn make(&mut self, kind: Kind, stream: u8, run: u32) -> &[u8] {
        let sequence = self.sequences[kind as usize][usize::from(stream)];
        self.sequences[kind as usize][usize::from(stream)] += 1;
        let number = self.number;
        self.number += 1;
        let draw = self.random.draw();
        // Mostly short; now and then one that fills the link, and in between.
        let filler = match draw % 64 {
            _ if kind == Kind::Arp => 0,
            0 => 1300,
            1..4 => 500,
            n => (n as usize).max(24),
        };
        let label = Label { guest: self.guest, lane: self.lane, kind, stream, run, sequence, number };
        self.bytes.clear();
        self.headers(kind, stream, sequence, draw);
        self.bytes.resize(self.bytes.len() + filler + LABEL_LEN, draw as u8);
        label.write(&mut self.bytes);
        finish(&mut self.bytes, kind);
        &self.bytes
    }

    /// Everything in front of the filler; lengths and checksums are put in by [`finish`].
    fn headers(&mut self, kind: Kind, stream: u8, sequence: u32, draw: u64) {
        let out = &mut self.bytes;
        out.extend_from_slice(&PEER_MAC);
        out.extend_from_slice(&GUEST_MAC);
        let port = 20_000 + 2 * u16::from(stream);
        match kind {
            Kind::Arp | Kind::ArpAndMore => {
                out.extend_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
                out.extend_from_slice(&GUEST_MAC);
                out.extend_from_slice(&GUEST_V4);
                out.extend_from_slice(&[0; 6]);
                out.extend_from_slice(&GUEST_V4);
            }
            Kind::Unknown => out.extend_from_slice(&[0x88, 0xb5]),
            Kind::Tcp => {
                out.extend_from_slice(&[0x08, 0x00]);
                ipv4(out, TCP, 0, draw);
                tcp(out, port, sequence);
            }
            Kind::TcpVlan => {
                out.extend_from_slice(&[0x81, 0x00, 0x00, 42, 0x08, 0x00]);
                ipv4(out, TCP, 0, draw);
                tcp(out, port, sequence);
            }
            Kind::TcpV6 => {
                out.extend_from_slice(&[0x86, 0xdd]);
                ipv6(out, TCP);
                tcp(out, port, sequence);
            }
            Kind::Udp => {
                out.extend_from_slice(&[0x08, 0x00]);
                ipv4(out, UDP, 0, draw);
                udp(out, port, 9000);
                out.push(0x53); // Not the first byte of any media protocol, whatever the filler is.
                out.extend_from_slice(&[0; 3]);
            }
            Kind::UdpVlan => {
                out.extend_from_slice(&[0x88, 0xa8, 0x00, 7, 0x81, 0x00, 0x00, 42, 0x08, 0x00]);
                ipv4(out, UDP, 0, draw);
                udp(out, port, 9000);
                out.extend_from_slice(&[0x53, 0, 0, 0]);
            }
            Kind::UdpV6 => {
                out.extend_from_slice(&[0x86, 0xdd]);
                ipv6(out, 0);
                out.extend_from_slice(&[UDP, 0, 1, 4, 0, 0, 0, 0]); // Hop-by-hop: six bytes of padding.
                udp(out, port, 9000);
                out.extend_from_slice(&[0x53, 0, 0, 0]);
            }
            Kind::UdpFirstFragment => {
                out.extend_from_slice(&[0x08, 0x00]);
                ipv4(out, UDP, 0x2000, draw);
                udp(out, port, 9000);
                out.extend_from_slice(&[0x53, 0, 0, 0]);
            }
            Kind::UdpLaterFragment => {
                out.extend_from_slice(&[0x08, 0x00]);
                ipv4(out, UDP, 185, draw);
            }
            Kind::TcpLaterFragment => {
                out.extend_from_slice(&[0x08, 0x00]);
                ipv4(out, TCP, 185, draw);
            }
            Kind::Icmp => {
                out.extend_from_slice(&[0x08, 0x00]);
                ipv4(out, ICMP, 0, draw);
                out.extend_from_slice(&[8, 0, 0, 0, 0, stream]);
                out.extend_from_slice(&(sequence as u16).to_be_bytes());
            }
            Kind::Rtp | Kind::RtpAlike => {
                out.extend_from_slice(&[0x08, 0x00]);
                ipv4(out, UDP, 0, draw);
                let alike = kind == Kind::RtpAlike;
                udp(out, if alike { 30_000 + 2 * u16::from(stream) } else { port }, 40_000);
                out.extend_from_slice(&[0x80, 8]); // Version 2, G.711 A-law.
                let count = if alike { (draw >> 16) as u16 } else { sequence as u16 };
                out.extend_from_slice(&count.to_be_bytes());
                out.extend_from_slice(&sequence.wrapping_mul(160).to_be_bytes());
                let ssrc = if alike { (draw >> 32) as u32 } else { 0x5eed_0000 | u32::from(stream) };
                out.extend_from_slice(&ssrc.to_be_bytes());
            }
        }
    }
}

fn ipv4(out: &mut Vec<u8>, protocol: u8, fragment: u16, draw: u64) {
    let [id_high, id_low] = ((draw >> 40) as u16).to_be_bytes();
    let [fragment_high, fragment_low] = fragment.to_be_bytes();
    out.extend_from_slice(&[0x45, 0, 0, 0, id_high, id_low, fragment_high, fragment_low, 64, protocol, 0, 0]);
    out.extend_from_slice(&GUEST_V4);
    out.extend_from_slice(&PEER_V4);
}

fn ipv6(out: &mut Vec<u8>, next: u8) {
    out.extend_from_slice(&[0x60, 0, 0, 0, 0, 0, next, 64]);
    out.extend_from_slice(&GUEST_V6);
    out.extend_from_slice(&PEER_V6);
}

fn tcp(out: &mut Vec<u8>, port: u16, sequence: u32) {
    out.extend_from_slice(&port.to_be_bytes());
    out.extend_from_slice(&[0x1f, 0x90]);
    out.extend_from_slice(&sequence.wrapping_mul(1448).to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]); // PSH, ACK
}

fn udp(out: &mut Vec<u8>, source: u16, destination: u16) {
    out.extend_from_slice(&source.to_be_bytes());
    out.extend_from_slice(&destination.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
}

/// Puts lengths and checksums in.
fn finish(frame: &mut [u8], kind: Kind) {
    let network = 14
        + match kind {
            Kind::TcpVlan => 4,
            Kind::UdpVlan => 8,
            _ => 0,
        };
    let packet = &mut frame[network..];
    match kind {
        Kind::Arp | Kind::ArpAndMore | Kind::Unknown => {}
        Kind::TcpV6 | Kind::UdpV6 => finish_ipv6(packet),
        _ => finish_ipv4(packet),
    }
}

fn finish_ipv4(packet: &mut [u8]) {
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    let (header, segment) = packet.split_at_mut(20);
    let sum = !fold(sum(header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    if fragment & 0x1fff != 0 {
        return; // A later fragment: no header of the transport in here.
    }
    let protocol = header[9];
    if fragment != 0 {
        // The datagram is longer than this fragment; its checksum (0: none) could not be told from here.
        segment[4..6].copy_from_slice(&1600u16.to_be_bytes());
        return;
    }
    finish_transport(&header[12..20], protocol, segment);
}

fn finish_ipv6(packet: &mut [u8]) {
    let len = packet.len() as u16 - 40;
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    let (header, mut rest) = packet.split_at_mut(40);
    let mut protocol = header[6];
    if protocol == 0 {
        protocol = rest[0];
        rest = &mut rest[8..];
    }
    finish_transport(&header[8..40], protocol, rest);
}

/// `addresses`: source and destination, as the pseudo-header has them.
fn finish_transport(addresses: &[u8], protocol: u8, segment: &mut [u8]) {
    let len = segment.len() as u16;
    let pseudo = sum(addresses) + u32::from(protocol) + u32::from(len);
    let (at, before) = match protocol {
        TCP => (16, pseudo),
        UDP => {
            segment[4..6].copy_from_slice(&len.to_be_bytes());
            (6, pseudo)
        }
        _ => (2, 0), // ICMP has no pseudo-header.
    };
    let checksum = match !fold(before + sum(segment)) {
        0 if protocol == UDP => 0xffff, // RFC 768: zero would mean "none".
        checksum => checksum,
    };
    segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The sum of 16-bit words (RFC 1071), not folded.
fn sum(bytes: &[u8]) -> u32 {
    let mut words = bytes.chunks_exact(2);
    let sum: u32 = (&mut words).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    sum + words.remainder().first().map_or(0, |&last| u32::from(last) << 8)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Numbers that look random and are the same for the same seed (Steele, Lea, Flood: SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts the row of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// A number from 0 to `below` - 1; 0 for 0.
    pub fn below(&mut self, below: u64) -> u64 {
        self.draw() % below.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = (Kind, Vec<u8>)> {
        let mut maker = FrameMaker::new(1, 0, 42);
        Kind::ALL
            .into_iter()
            .cycle()
            .take(1500)
            .enumerate()
            .map(move |(n, kind)| (kind, maker.make(kind, n as u8 % STREAMS, 5).to_vec()))
    }

    #[test]
    fn every_frame_has_its_label_and_fits_a_link() {
        for (number, (kind, frame)) in all().enumerate() {
            let label = Label::read(&frame).expect("a label");
            assert_eq!((label.guest, label.kind, label.run, label.number), (1, kind, 5, number as u64));
            assert!((60..=FRAME_MAX).contains(&frame.len()), "{kind:?}: {} bytes", frame.len());
        }
        let mut maker = FrameMaker::new(0, 1, 7);
        let mut media = 0;
        for number in 0..3200 {
            let label = Label::read(maker.mixed(1).1).unwrap();
            assert_eq!((label.lane, label.number), (1, number));
            media += u32::from(label.kind == Kind::Rtp);
        }
        assert!((700..900).contains(&media), "{media}");
    }

    /// Checks the sums the other way round: a whole with its right checksum in it sums up to all ones.
    #[test]
    fn checksums_are_right() {
        for (kind, frame) in all() {
            let (ether, packet) = frame.split_at(match kind {
                Kind::TcpVlan => 18,
                Kind::UdpVlan => 22,
                _ => 14,
            });
            let (addresses, transport, protocol) = match ether[ether.len() - 2..] {
                [0x08, 0x00] => {
                    assert_eq!(fold(sum(&packet[..20])), 0xffff, "{kind:?}: IPv4 header");
                    assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
                    if packet[6] & 0x3f != 0 || packet[7] != 0 {
                        continue;
                    }
                    (&packet[12..20], &packet[20..], packet[9])
                }
                [0x86, 0xdd] if packet[6] == 0 => (&packet[8..40], &packet[48..], packet[40]),
                [0x86, 0xdd] => (&packet[8..40], &packet[40..], packet[6]),
                _ => continue,
            };
            let pseudo = sum(addresses) + u32::from(protocol) + transport.len() as u32;
            let pseudo = if kind == Kind::Icmp { 0 } else { pseudo };
            assert_eq!(fold(pseudo + sum(transport)), 0xffff, "{kind:?}");
        }
    }

    #[test]
    fn streams_are_streams_and_lookalikes_are_not() {
        let mut maker = FrameMaker::new(0, 0, 1);
        let word = |frame: &[u8], at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        let mut ssrcs = Vec::new();
        for n in 0..100u16 {
            let frame = maker.make(Kind::Rtp, 3, 1).to_vec();
            assert_eq!((u16::from_be_bytes([frame[44], frame[45]]), word(&frame, 50)), (n, 0x5eed_0003));
            ssrcs.push(word(maker.make(Kind::RtpAlike, 3, 1), 50));
        }
        ssrcs.sort_unstable();
        ssrcs.dedup();
        assert_eq!(ssrcs.len(), 100);
    }
}
