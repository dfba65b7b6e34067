//! Frames made to be taken for media, from a seed.

/// True streams beside them.
pub const STREAMS: u64 = 8;
const LONGEST: usize = 256;
/// Who has bound a TURN channel, at which server, and its number.
pub const CLIENT: ([u8; 4], u16) = ([10, 0, 0, 3], 41_000);
pub const SERVER: ([u8; 4], u16) = ([10, 9, 9, 8], 3478);
pub const CHANNEL: u16 = 0x4001;
/// One in so many schemes is a whole run with all header checks, which proves itself.
const PROOFS: u64 = 1 << 12;

/// What a sender does for some packets on end.
#[derive(Clone, Copy, Debug)]
pub enum Scheme {
    /// Any bytes as a datagram.
    Noise,
    /// Any bytes as a frame.
    Raw,
    /// A counter at bytes 2-3 and a constant at 8-11, two packets of it.
    Counter,
    /// The same for as long as the scheme lasts: it proves itself.
    Proof,
    /// LISP: a nonce at bytes 1-3, a constant at 4-7, and an inner header at 8 that hardly changes.
    Lisp,
    /// Payload types 64 to 95, in order.
    ReservedType,
    /// More contributing sources than bytes, in order.
    CutSources,
    /// An extension that claims more than there is, in order.
    CutExtension,
    /// An SDP in HTTP over TCP that names a port, then single packets from there.
    Smuggled,
    /// TURN channel data with RTP in order inside, of a channel that nobody has bound.
    Channel,
    /// The same of a bound one, with inside what is no RTP or no whole message.
    Bound,
    /// A new SSRC with each packet, in order.
    NewSource,
    /// One SSRC, numbers that jump.
    Jumps,
    /// In order, from addresses that no host has.
    NoHost,
    /// In order, from another address each.
    Spoofed,
    /// In order, to another peer each.
    Peers,
    /// In order, from a port below 1024.
    LowPort,
    /// STUN, then one packet.
    SetUp,
    /// A packet of a stream that was proven, or an announcement, with some bytes changed, or cut.
    Mutated,
}

const SCHEMES: [Scheme; 19] = [
    Scheme::Noise,
    Scheme::Raw,
    Scheme::Counter,
    Scheme::Counter,
    Scheme::Lisp,
    Scheme::ReservedType,
    Scheme::CutSources,
    Scheme::CutExtension,
    Scheme::Smuggled,
    Scheme::Channel,
    Scheme::Bound,
    Scheme::NewSource,
    Scheme::Jumps,
    Scheme::NoHost,
    Scheme::Spoofed,
    Scheme::Peers,
    Scheme::LowPort,
    Scheme::SetUp,
    Scheme::Mutated,
];

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        ((self.next() as u128 * n as u128) >> 64) as u64
    }
}

/// The generator. Makes each frame in one buffer.
pub struct Frames {
    random: Random,
    scheme: Scheme,
    left: u64,
    turn: u64,
    src: [u8; 4],
    dst: [u8; 4],
    sport: u16,
    dport: u16,
    ssrc: u32,
    sequence: u16,
    /// Packets that the stream had whose packets are mutated.
    victim: u64,
    buffer: [u8; LONGEST],
}

impl Frames {
    pub fn new(seed: u64) -> Self {
        Frames {
            random: Random(seed),
            scheme: Scheme::Noise,
            left: 0,
            turn: 0,
            src: [0; 4],
            dst: [0; 4],
            sport: 0,
            dport: 0,
            ssrc: 0,
            sequence: 0,
            victim: 0,
            buffer: [0; LONGEST],
        }
    }

    /// Packet `round` of a true stream.
    pub fn true_packet(&mut self, stream: u64, round: u64) -> &[u8] {
        let (sequence, ssrc) = (round as u16, 0x1111_0000 + stream as u32);
        self.media(0x80, 8, sequence, (round as u32).wrapping_mul(160), ssrc);
        let len = self.udp([10, 0, 0, 2], [10, 9, 9, 9], 40_000 + stream as u16, 5004, 40);
        &self.buffer[..len]
    }

    fn begin(&mut self) {
        let proof = self.random.below(PROOFS) == 0;
        self.scheme = match proof {
            true => Scheme::Proof,
            false => SCHEMES[self.random.below(SCHEMES.len() as u64) as usize],
        };
        self.left = match self.scheme {
            Scheme::Counter => 2,
            Scheme::SetUp => 2,
            _ => 3 + self.random.below(6),
        };
        self.turn = 0;
        let bits = self.random.next().to_be_bytes();
        self.src = [10, 1 + bits[0] % 100, bits[1], bits[2].max(1)];
        self.dst = [10, 200, bits[3], bits[4].max(1)];
        self.sport = 1024 + self.random.below(64_000) as u16;
        self.dport = self.random.next() as u16;
        self.ssrc = self.random.next() as u32;
        self.sequence = self.random.next() as u16;
    }

    /// The next frame.
    pub fn next(&mut self) -> &[u8] {
        if self.left == 0 {
            self.begin();
        }
        self.left -= 1;
        self.turn += 1;
        let len = self.make();
        &self.buffer[..len]
    }

    fn make(&mut self) -> usize {
        let (mut src, mut dst, mut sport, mut dport) = (self.src, self.dst, self.sport, self.dport);
        let (sequence, ssrc) = (self.sequence.wrapping_add(self.turn as u16), self.ssrc);
        let (timestamp, payload) = (self.turn as u32 * 160, 12 + self.random.below(60) as usize);
        let bits = self.random.next();
        let usual_type = [0, 8, 9, 18, 63, 96, 101, 127][(bits % 8) as usize];
        match self.scheme {
            Scheme::Raw => {
                let len = self.random.below(LONGEST as u64) as usize;
                self.fill(0, len);
                return len;
            }
            Scheme::Noise => {
                self.fill(42, LONGEST);
                self.buffer[42] = 0x80 | (bits as u8 & 0x3f);
            }
            Scheme::Counter | Scheme::Proof => self.media(0x80, usual_type, sequence, bits as u32, ssrc),
            Scheme::Lisp => {
                self.media(0x80, bits as u8, (bits >> 8) as u16, ssrc, 0x4500_0054);
            }
            Scheme::ReservedType => {
                let reserved = (64 + (bits % 32) as u8) | bits as u8 & 0x80;
                self.media(0x80, reserved, sequence, timestamp, ssrc);
                let len = self.udp(src, dst, sport, dport, 12);
                // As a report it would set the port up.
                self.buffer[44..46].fill(0xff);
                return len;
            }
            Scheme::CutSources => {
                self.media(0x80 | (1 + (bits % 15) as u8), usual_type, sequence, timestamp, ssrc);
                return self.udp(src, dst, sport, dport, 12 + (bits >> 8) as usize % 4);
            }
            Scheme::CutExtension => {
                self.media(0x90, usual_type, sequence, timestamp, ssrc);
                self.buffer[54..58].copy_from_slice(&[0xbe, 0xde, 0xff, bits as u8]);
            }
            Scheme::Smuggled if self.turn == 1 => return self.smuggled(),
            Scheme::Smuggled => {
                let unrelated = sequence.wrapping_mul(257);
                self.media(0x80, usual_type, unrelated, timestamp, ssrc);
            }
            Scheme::Channel => {
                // Also from the port that has bound another, and to another port of its server.
                if bits & 1 != 0 {
                    (src, dst, sport, dport) = (CLIENT.0, SERVER.0, CLIENT.1, SERVER.1);
                }
                let number = if bits & 2 != 0 { CHANNEL + 1 + (bits >> 8) as u16 % 500 } else { CHANNEL };
                let elsewhere = u16::from(number == CHANNEL);
                self.channel_data(number, usual_type, sequence, ssrc, payload);
                return self.udp(src, dst, sport, dport.wrapping_add(elsewhere), 4 + payload);
            }
            Scheme::Bound => {
                self.channel_data(CHANNEL, usual_type, sequence, ssrc, payload);
                let mut len = 4 + payload;
                match bits % 5 {
                    0 => self.buffer[46] = (bits >> 8) as u8 & 0x7f,
                    1 => self.buffer[47] = 64 + (bits >> 8) as u8 % 32,
                    2 => len -= 1 + (bits >> 8) as usize % payload,
                    3 => len += 4 + (bits >> 8) as usize % 60,
                    // A message in a message.
                    _ => self.buffer[46..50].copy_from_slice(&[0x40, 1, 0, payload as u8 - 4]),
                }
                return self.udp(CLIENT.0, SERVER.0, CLIENT.1, SERVER.1, len);
            }
            Scheme::NewSource => self.media(0x80, usual_type, sequence, timestamp, bits as u32),
            Scheme::Jumps => {
                let jump = sequence.wrapping_mul(2 + (ssrc as u16 & 0x7ff));
                self.media(0x80, usual_type, jump, timestamp, ssrc);
            }
            Scheme::NoHost => {
                src[0] = [0, 127, 224, 239, 240, 255][(ssrc % 6) as usize];
                self.media(0x80, usual_type, sequence, timestamp, ssrc);
            }
            Scheme::Spoofed => {
                src[2..].copy_from_slice(&(bits as u16).to_be_bytes());
                self.media(0x80, usual_type, sequence, timestamp, ssrc);
            }
            Scheme::Peers => {
                dst[2..].copy_from_slice(&sequence.to_be_bytes());
                self.media(0x80, usual_type, sequence, timestamp, ssrc);
            }
            Scheme::LowPort => {
                self.media(0x80, usual_type, sequence, timestamp, ssrc);
                return self.udp(src, dst, sport % 1024, dport, payload);
            }
            Scheme::SetUp if self.turn == 1 => {
                self.buffer[42..62].fill(0);
                self.buffer[42..50].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
                return self.udp(src, dst, sport, dport, 20);
            }
            Scheme::SetUp => self.media(0x80, usual_type, sequence, timestamp, ssrc),
            Scheme::Mutated => return self.mutated(),
        }
        self.udp(src, dst, sport, dport, payload)
    }

    fn fill(&mut self, from: usize, to: usize) {
        for at in (from..to).step_by(8) {
            let word = self.random.next().to_be_bytes();
            let end = (at + 8).min(to);
            self.buffer[at..end].copy_from_slice(&word[..end - at]);
        }
    }

    /// An RTP header behind where UDP's will be.
    fn media(&mut self, first: u8, second: u8, sequence: u16, timestamp: u32, ssrc: u32) {
        self.buffer[42] = first;
        self.buffer[43] = second;
        self.buffer[44..46].copy_from_slice(&sequence.to_be_bytes());
        self.buffer[46..50].copy_from_slice(&timestamp.to_be_bytes());
        self.buffer[50..54].copy_from_slice(&ssrc.to_be_bytes());
    }

    /// An RTP packet of `len` bytes behind the header of a channel, where UDP's payload will be.
    fn channel_data(&mut self, number: u16, second: u8, sequence: u16, ssrc: u32, len: usize) {
        self.buffer[42..44].copy_from_slice(&number.to_be_bytes());
        self.buffer[44..46].copy_from_slice(&(len as u16).to_be_bytes());
        self.buffer[46..48].copy_from_slice(&[0x80, second]);
        self.buffer[48..50].copy_from_slice(&sequence.to_be_bytes());
        self.buffer[50..54].copy_from_slice(&0u32.to_be_bytes());
        self.buffer[54..58].copy_from_slice(&ssrc.to_be_bytes());
    }

    fn ip(&mut self, protocol: u8, src: [u8; 4], dst: [u8; 4], body: usize) {
        self.buffer[..14].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0]);
        self.buffer[14..26].copy_from_slice(&[0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, protocol, 0, 0]);
        self.buffer[16..18].copy_from_slice(&(20 + body as u16).to_be_bytes());
        self.buffer[26..30].copy_from_slice(&src);
        self.buffer[30..34].copy_from_slice(&dst);
    }

    /// The headers in front of `payload` bytes that are there already. Returns the frame's length.
    fn udp(&mut self, src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16, payload: usize) -> usize {
        self.ip(17, src, dst, 8 + payload);
        self.buffer[34..36].copy_from_slice(&sport.to_be_bytes());
        self.buffer[36..38].copy_from_slice(&dport.to_be_bytes());
        self.buffer[38..40].copy_from_slice(&(8 + payload as u16).to_be_bytes());
        self.buffer[40..42].fill(0);
        42 + payload
    }

    fn smuggled(&mut self) -> usize {
        let text = format!(
            "POST / HTTP/1.1\r\n\r\nv=0\r\nc=IN IP4 10.1.1.1\r\nm=audio {} RTP/AVP 8\r\n",
            self.sport
        );
        let (src, dst) = (self.src, self.dst);
        self.ip(6, src, dst, 20 + text.len());
        self.buffer[34..54]
            .copy_from_slice(&[0, 80, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
        self.buffer[54..54 + text.len()].copy_from_slice(text.as_bytes());
        54 + text.len()
    }

    fn mutated(&mut self) -> usize {
        let kind = self.random.below(4);
        let len = match kind {
            0 => {
                self.buffer[..22].copy_from_slice(&[
                    255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1,
                ]);
                self.buffer[22..28].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
                60
            }
            1 => self.smuggled(),
            2 => {
                self.victim += 1;
                return self.true_packet(STREAMS, self.victim).len();
            }
            _ => {
                let number = self.random.next();
                self.true_packet(STREAMS, number).len()
            }
        };
        for _ in 0..1 + self.random.below(4) {
            let at = self.random.below(len as u64) as usize;
            self.buffer[at] = self.random.next() as u8;
        }
        match self.random.below(4) {
            0 => self.random.below(len as u64) as usize,
            _ => len,
        }
    }
}
