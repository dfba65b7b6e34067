//! What the pure parts of a frame's way cost: nanoseconds by the clock, or instructions under callgrind.
//!
//! ```text
//! cargo run --profile quick --no-default-features --example frame_cost
//! valgrind --tool=callgrind --toggle-collect='*::measured' target/quick/examples/frame_cost rtp 100000
//! ```

use std::hint::black_box;
use std::time::Instant;
use tidegate_dataplane::arena::Heap;
use tidegate_dataplane::checksum;
use tidegate_dataplane::class::Verdict;
use tidegate_dataplane::classify::Classifier;
use tidegate_dataplane::policy::{Policy, PolicyName};
use tidegate_dataplane::port::Frame;
use tidegate_dataplane::tsc::TscRate;
use tidegate_dataplane::wire::Headers;

struct Bytes(Vec<u8>);

impl Frame for Bytes {
    fn head(&self) -> &[u8] {
        &self.0
    }

    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    fn segments(&self) -> u16 {
        1
    }

    fn each_segment(&self, see: &mut dyn FnMut(&[u8])) {
        see(&self.0);
    }
}

/// An IPv4 frame with right checksums around `transport`, whose own checksum stands at `at`.
fn ipv4(protocol: u8, mut transport: Vec<u8>, at: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 46 << 2];
    frame.extend((20 + transport.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 9]);
    let sum = !checksum::ones_complement(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_ne_bytes());
    let mut pseudo = frame[26..34].to_vec();
    pseudo.extend([0, protocol]);
    pseudo.extend((transport.len() as u16).to_be_bytes());
    pseudo.extend(&transport);
    let sum = !checksum::ones_complement(&pseudo);
    transport[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
    frame.extend(transport);
    frame
}

fn udp(sport: u16, payload: &[u8]) -> Vec<u8> {
    let mut udp = sport.to_be_bytes().to_vec();
    udp.extend(5004u16.to_be_bytes());
    udp.extend((8 + payload.len() as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    ipv4(17, udp, 6)
}

fn rtp(port: u16, sequence: u16, ssrc: u32) -> Vec<u8> {
    let mut rtp = vec![0x80, 8];
    rtp.extend(sequence.to_be_bytes());
    rtp.extend((sequence as u32 * 160).to_be_bytes());
    rtp.extend(ssrc.to_be_bytes());
    rtp.extend([0xd5; 160]);
    udp(port, &rtp)
}

fn tcp(len: usize) -> Vec<u8> {
    let mut tcp = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0];
    tcp.resize(len, 0x5a);
    ipv4(6, tcp, 16)
}

/// Frames of a burst.
const BURST: usize = 32;

/// What is done with each frame.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    Parse,
    Checksum,
    Classify,
    /// Parse once, then checksum, class and departure: what the lane does.
    All,
}

/// Frames as a burst brings them: written shortly before, into buffers that come round again.
struct Traffic {
    burst: Vec<Bytes>,
    /// The guest's port and the SSRC of each stream; none for frames that are all alike.
    streams: Vec<(u16, u32)>,
    next: usize,
    sequence: u16,
}

impl Traffic {
    fn alike(frame: Vec<u8>) -> Self {
        Traffic {
            burst: (0..BURST).map(|_| Bytes(frame.clone())).collect(),
            streams: vec![],
            next: 0,
            sequence: 1,
        }
    }

    fn streams(streams: impl Iterator<Item = (u16, u32)>) -> Self {
        Traffic { streams: streams.collect(), ..Traffic::alike(rtp(20000, 1, 1)) }
    }

    /// The next frame of each stream in turn, its UDP checksum mended (RFC 1624).
    fn fill(&mut self) {
        for Bytes(frame) in &mut self.burst {
            let Some(&(port, ssrc)) = self.streams.get(self.next) else { continue };
            let mut sum = !u16::from_be_bytes([frame[40], frame[41]]) as u32;
            let mut put = |at: usize, value: u16| {
                sum += !u16::from_be_bytes([frame[at], frame[at + 1]]) as u32 + value as u32;
                frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
            };
            put(34, port);
            put(44, self.sequence);
            put(50, (ssrc >> 16) as u16);
            put(52, ssrc as u16);
            sum = (sum & 0xffff) + (sum >> 16);
            sum = (sum & 0xffff) + (sum >> 16);
            frame[40..42].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            self.next += 1;
            if self.next == self.streams.len() {
                self.next = 0;
                self.sequence = self.sequence.wrapping_add(1);
            }
        }
    }
}

/// The part that is counted: one burst.
#[inline(never)]
fn measured(classifier: &mut Classifier, burst: &[Bytes], work: Work, now: u64) -> u64 {
    let mut let_go = 0;
    let mut media = [None; BURST];
    for (frame, media) in burst.iter().zip(&mut media) {
        let headers = Headers::parse(frame.head(), frame.len());
        match work {
            Work::Parse => let_go += black_box(&headers).sport as u64,
            Work::Checksum => let_go += checksum::verify(frame, &headers).is_ok() as u64,
            Work::Classify => {
                let decision = classifier.judge(&headers, frame.head(), frame.len(), now);
                let_go += (black_box(&decision).verdict == Verdict::Bypass) as u64;
            }
            Work::All => {
                let sound = checksum::verify(frame, &headers).is_ok();
                let decision = classifier.judge(&headers, frame.head(), frame.len(), now);
                *media = decision.media;
                let_go += (black_box(&decision).verdict == Verdict::Bypass && sound) as u64;
            }
        }
    }
    classifier.departed(media.into_iter().flatten(), now);
    let_go
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = arguments.first().map(String::as_str);
    let total: usize = arguments.get(1).and_then(|n| n.parse().ok()).unwrap_or(4_000_000);
    let spread = |n: u32| n.wrapping_mul(0x9e37_79b1);
    let calls = |count: u32| Traffic::streams((0..count).map(|n| (20000 + (n % 20000) as u16, spread(n))));
    let new_streams = Traffic::streams((0..1_000_000).map(|n| (20000, spread(n))));
    let cases: Vec<(&str, Work, Traffic, usize)> = vec![
        ("parse-rtp", Work::Parse, calls(1), 4096),
        ("parse-tcp", Work::Parse, Traffic::alike(tcp(1480)), 4096),
        ("checksum-200", Work::Checksum, calls(1), 4096),
        ("checksum-1500", Work::Checksum, Traffic::alike(tcp(1480)), 4096),
        ("rtp", Work::Classify, calls(10), 4096),
        ("rtp-1000", Work::Classify, calls(1000), 4096),
        ("rtp-10000", Work::Classify, calls(10_000), 32768),
        ("tcp", Work::Classify, Traffic::alike(tcp(1480)), 4096),
        ("dns", Work::Classify, Traffic::alike(udp(40000, &[0x12; 40])), 4096),
        ("flood", Work::Classify, new_streams, 4096),
        ("all-rtp", Work::All, calls(10), 4096),
        ("all-rtp-10000", Work::All, calls(10_000), 32768),
        ("all-tcp", Work::All, Traffic::alike(tcp(1480)), 4096),
    ];
    println!("{:<16} {:>8} {:>10} {:>10}", "case", "ns/frame", "let go", "frames");
    for (name, work, mut traffic, size) in cases {
        if wanted.is_some_and(|wanted| wanted != name) {
            continue;
        }
        let policy = Policy::from(PolicyName::Realtime).compile().expect("a policy without rules");
        let mut classifier = Classifier::new(policy, size, TscRate::new(1_000_000_000), &mut Heap);
        let mut now = 1;
        let mut run = |bursts: usize, classifier: &mut Classifier| {
            let (mut let_go, mut ns) = (0, Vec::with_capacity(bursts));
            for _ in 0..bursts {
                traffic.fill();
                now += 1000;
                let start = Instant::now();
                let_go += measured(classifier, &traffic.burst, work, now);
                ns.push(start.elapsed().as_nanos() as f64 / BURST as f64);
            }
            ns.sort_by(f64::total_cmp);
            // What the machine does besides is not the code's cost: the lower quartile.
            (let_go, ns[bursts / 4])
        };
        // Streams are promoted first.
        if name != "flood" && wanted.is_none_or(|_| work != Work::Checksum) {
            run(50_000 / BURST, &mut classifier);
        }
        let bursts = (total / BURST).max(1);
        let (let_go, ns) = run(bursts, &mut classifier);
        println!("{name:<16} {ns:>8.2} {let_go:>10} {:>10}", bursts * BURST);
    }
}
