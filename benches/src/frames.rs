//! The frames that benches send, checksums right: G.711 calls, TCP acknowledgements, ARP, DNS, a runt.

use serde::{Deserialize, Serialize};

/// Bytes of voice in a G.711 packet of 20 ms. The voice is all zeros, so that a buffer that held one packet holds that
/// of the next: see [`HEAD`].
const VOICE: usize = 160;
/// What differs between two frames of a load: everything behind these bytes is 0 in all of them. One cache line; a
/// generator writes no more, as DPDK's own does, for else writing the frames would be slower than forwarding them.
pub const HEAD: usize = 60;
/// Calls at once; each is a stream of its own to the classifier.
const CALLS: u16 = 100;
/// Of this many frames of the mixed load one is TCP.
const TCP_EVERY: usize = 10;

/// What the generator sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mix {
    /// 100 G.711 calls, 214-byte frames: every frame bypasses.
    Rtp,
    /// The same, but each tenth frame is a TCP acknowledgement of 60 bytes: held, released by the commit.
    Mixed,
}

impl Mix {
    /// What share of the frames is RTP.
    pub fn rtp_share(self) -> f64 {
        match self {
            Mix::Rtp => 1.0,
            Mix::Mixed => 1.0 - 1.0 / TCP_EVERY as f64,
        }
    }
}

/// Who puts the checksums of UDP and TCP in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Checksums {
    /// The device: the frame carries the sum of its pseudo header and the mark that asks for the rest
    /// (VIRTIO_NET_HDR_F_NEEDS_CSUM). What Linux does on any virtio card that offers it, and QEMU's does.
    Device,
    /// The guest.
    Guest,
}

/// One call's packets: sequence number and timestamp go on, the UDP checksum follows.
#[derive(Clone, Debug)]
pub struct Call {
    bytes: Vec<u8>,
    sequence: u16,
    timestamp: u32,
    /// The checksum's sum without those two; `None`: what is there stays.
    base: Option<u32>,
}

/// Where the RTP header's changing fields and the checksum are, behind Ethernet, IPv4 and UDP.
const CHECKSUM_AT: usize = 14 + 20 + 6;
const SEQUENCE_AT: usize = 14 + 20 + 8 + 2;
const TIMESTAMP_AT: usize = SEQUENCE_AT + 2;

impl Call {
    /// Call number `n`, with ports and SSRC of its own.
    pub fn new(n: u16, checksums: Checksums) -> Call {
        Call::numbered(n.into(), checksums)
    }

    /// The same of more calls than there are ports: from 20 000 on only the SSRC is its own.
    pub fn numbered(n: u32, checksums: Checksums) -> Call {
        let port = (n % 20_000) as u16;
        let mut rtp = vec![0x80, 8, 0, 0, 0, 0, 0, 0];
        rtp.extend((0x7191_0000 + n).to_be_bytes());
        rtp.extend([0; VOICE]);
        let mut bytes = udp(10_000 + 2 * port, 20_000 + 2 * port, &rtp);
        let base = match checksums {
            Checksums::Guest => Some(u32::from(!be16(&bytes, CHECKSUM_AT))),
            Checksums::Device => {
                leave_to_device(&mut bytes, CHECKSUM_AT);
                None
            }
        };
        Call { bytes, sequence: (n as u16).wrapping_mul(601), timestamp: n.wrapping_mul(7919), base }
    }

    /// The next packet.
    #[inline]
    pub fn packet(&mut self) -> &[u8] {
        self.packet_number(self.sequence.wrapping_add(1))
    }

    /// The next packet, with this sequence number.
    #[inline]
    pub fn packet_number(&mut self, sequence: u16) -> &[u8] {
        self.sequence = sequence;
        self.timestamp = self.timestamp.wrapping_add(VOICE as u32);
        if let Some(base) = self.base {
            let (high, low) = (self.timestamp >> 16, self.timestamp & 0xffff);
            let sum = udp_checksum(base + u32::from(self.sequence) + high + low);
            self.bytes[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.to_be_bytes());
        }
        self.bytes[SEQUENCE_AT..SEQUENCE_AT + 2].copy_from_slice(&self.sequence.to_be_bytes());
        self.bytes[TIMESTAMP_AT..TIMESTAMP_AT + 4].copy_from_slice(&self.timestamp.to_be_bytes());
        &self.bytes
    }
}

/// The segments of one TCP connection, of one length: the sequence number goes on, the checksum follows.
#[derive(Clone, Debug)]
pub struct Segments {
    bytes: Vec<u8>,
    number: u32,
    /// The checksum's sum without the sequence number.
    base: u32,
}

/// Where the sequence number of a segment is, and its checksum.
pub const NUMBER_AT: usize = 14 + 20 + 4;
const TCP_CHECKSUM_AT: usize = 14 + 20 + 16;

impl Segments {
    /// Frames of `len` bytes, from 60 to 1514; the payload is all zeros, see [`HEAD`].
    pub fn new(len: usize) -> Segments {
        let mut tcp = vec![];
        tcp.extend(43_210u16.to_be_bytes());
        tcp.extend(443u16.to_be_bytes());
        tcp.extend([0, 0, 0, 0, 0, 0, 0, 2, 0x50, 0x10, 0x20, 0, 0, 0, 0, 0]);
        tcp.resize(len.clamp(60, 1514) - 34, 0);
        let base = pseudo(6, tcp.len()) + sum(&tcp);
        Segments { bytes: ipv4(6, &tcp), number: 0, base }
    }

    /// The next one.
    #[inline]
    pub fn frame(&mut self) -> &[u8] {
        self.number = self.number.wrapping_add(1);
        let sum = checksum(self.base + (self.number >> 16) + (self.number & 0xffff));
        self.bytes[TCP_CHECKSUM_AT..TCP_CHECKSUM_AT + 2].copy_from_slice(&sum.to_be_bytes());
        self.bytes[NUMBER_AT..NUMBER_AT + 4].copy_from_slice(&self.number.to_be_bytes());
        &self.bytes
    }
}

/// A load without an end.
#[derive(Clone, Debug)]
pub struct Load {
    calls: Vec<Call>,
    call: usize,
    ack: Vec<u8>,
    /// Frames until the next TCP one; never reached without TCP.
    until_tcp: usize,
    tcp_every: usize,
}

impl Load {
    /// From the first packet of each call.
    pub fn new(mix: Mix, checksums: Checksums) -> Load {
        let tcp_every = if mix == Mix::Mixed { TCP_EVERY } else { usize::MAX };
        let mut ack = tcp_ack();
        if checksums == Checksums::Device {
            leave_to_device(&mut ack, 14 + 20 + 16);
        }
        let calls = (0..CALLS).map(|n| Call::new(n, checksums)).collect();
        Load { calls, call: 0, ack, until_tcp: tcp_every, tcp_every }
    }

    /// The next frame.
    #[inline]
    pub fn frame(&mut self) -> &[u8] {
        self.until_tcp -= 1;
        if self.until_tcp == 0 {
            self.until_tcp = self.tcp_every;
            return &self.ack;
        }
        self.call = if self.call + 1 == self.calls.len() { 0 } else { self.call + 1 };
        self.calls[self.call].packet()
    }
}

/// A TCP acknowledgement, padded to the shortest frame there is: 60 bytes.
pub fn tcp_ack() -> Vec<u8> {
    let mut tcp = vec![];
    tcp.extend(43_210u16.to_be_bytes());
    tcp.extend(443u16.to_be_bytes());
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0x20, 0, 0, 0, 0, 0]);
    let sum = checksum(pseudo(6, tcp.len()) + sum(&tcp));
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ipv4(6, &tcp);
    frame.resize(60, 0);
    frame
}

/// A question to a name server: UDP that nobody takes for media.
pub fn dns_query() -> Vec<u8> {
    let mut dns = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    dns.extend(b"\x07example\x03org\0\0\x01\0\x01");
    udp(53_535, 53, &dns)
}

/// "Who has 10.0.0.2?"
pub fn arp_request() -> Vec<u8> {
    let mut arp = ethernet(0x0806, &[0, 1, 8, 0, 6, 4, 0, 1]);
    arp[..6].fill(0xff);
    arp.extend([2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    arp.resize(60, 0);
    arp
}

/// IPv4 whose total length is more than there is.
pub fn malformed() -> Vec<u8> {
    let mut frame = dns_query();
    frame.truncate(30);
    frame
}

fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let mut udp = vec![];
    for word in [from, to, 8 + payload.len() as u16, 0] {
        udp.extend(word.to_be_bytes());
    }
    udp.extend(payload);
    let sum = udp_checksum(pseudo(17, udp.len()) + sum(&udp));
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    ipv4(17, &udp)
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x45, 0xb8, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    ip[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    let sum = checksum(sum(&ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip.extend(payload);
    ethernet(0x0800, &ip)
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Puts the sum of the pseudo header in the place of the checksum.
fn leave_to_device(frame: &mut [u8], at: usize) {
    let len = usize::from(be16(frame, 16)) - 20;
    let sum = !checksum(pseudo(frame[23].into(), len));
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn pseudo(protocol: u32, len: usize) -> u32 {
    sum(&[10, 0, 0, 1, 10, 0, 0, 2]) + protocol + len as u32
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn checksum(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    !((once & 0xffff) + (once >> 16)) as u16
}

/// Of UDP, where 0 would mean "none".
fn udp_checksum(sum: u32) -> u16 {
    match checksum(sum) {
        0 => 0xffff,
        sum => sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_dataplane::wire::{Headers, Kind};

    /// The same sum by another way: over the whole frame as a receiver does it, it must be all ones.
    fn l4_is_right(frame: &[u8]) -> bool {
        let l4 = &frame[34..];
        checksum(pseudo(frame[23].into(), l4.len()) + sum(l4)) == 0
    }

    #[test]
    fn every_packet_of_a_call_is_whole_and_follows_the_one_before() {
        for n in [0, 1, 99] {
            let mut call = Call::new(n, Checksums::Guest);
            let mut before = call.packet().to_vec();
            assert_eq!(before.len(), 214);
            for _ in 0..70_000 {
                let packet = call.packet();
                let number = |p: &[u8]| u16::from_be_bytes([p[44], p[45]]);
                assert_eq!(number(packet), number(&before).wrapping_add(1));
                assert!(l4_is_right(packet) && checksum(sum(&packet[14..34])) == 0);
                before = packet.to_vec();
            }
        }
    }

    #[test]
    fn a_device_that_sums_up_the_rest_gets_the_checksum_right() {
        let mut load = Load::new(Mix::Mixed, Checksums::Device);
        for _ in 0..1000 {
            let mut frame = load.frame().to_vec();
            let end = 14 + usize::from(be16(&frame, 16));
            let at = if frame[23] == 17 { 40 } else { 50 };
            let sum = checksum(sum(&frame[34..end]));
            frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            assert!(l4_is_right(&frame[..end]));
        }
    }

    #[test]
    fn other_frames_are_what_their_names_say() {
        let kind = |frame: &[u8]| Headers::parse(frame, frame.len() as u32).kind;
        assert_eq!((tcp_ack().len(), kind(&tcp_ack())), (60, Kind::Tcp));
        assert!(l4_is_right(&tcp_ack()[..54]) && l4_is_right(&dns_query()));
        assert_eq!(kind(&dns_query()), Kind::Udp);
        assert_eq!(kind(&arp_request()), Kind::Arp);
        assert_eq!(kind(&malformed()), Kind::Malformed);
    }

    #[test]
    fn segments_are_whole_and_numbered() {
        for len in [60, 214, 1514] {
            let mut segments = Segments::new(len);
            for number in 1..70_000u32 {
                let frame = segments.frame();
                assert_eq!((frame.len(), &frame[NUMBER_AT..NUMBER_AT + 4]), (len, &number.to_be_bytes()[..]));
                assert!(number % 997 > 0 || l4_is_right(frame));
                assert!(frame[HEAD..].iter().all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn a_tenth_of_the_mixed_load_is_tcp_and_no_call_is_forgotten() {
        let mut load = Load::new(Mix::Mixed, Checksums::Guest);
        let frames: Vec<Vec<u8>> = (0..2000).map(|_| load.frame().to_vec()).collect();
        assert_eq!(frames.iter().filter(|frame| frame[23] == 6).count(), 200);
        let ports: std::collections::HashSet<_> =
            frames.iter().filter(|frame| frame[23] == 17).map(|frame| [frame[34], frame[35]]).collect();
        assert_eq!(ports.len(), usize::from(CALLS));
        assert!(frames.iter().all(|frame| frame[HEAD..].iter().all(|byte| *byte == 0)));
        let mut rtp = Load::new(Mix::Rtp, Checksums::Guest);
        assert!((0..2000).all(|_| rtp.frame()[23] == 17));
    }
}
