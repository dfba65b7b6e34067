use super::*;
use crate::arena::Heap;
use crate::class::Verdict;
use crate::classify::Classifier;
use crate::policy::{Policy, PolicyName};
use crate::wire::sample::{self, Chain};
use proptest::prelude::*;
use std::collections::HashMap;

const SECOND: u64 = 1_000_000_000;

/// The rules of the module's head, written down once more: a list of what a stream has sent, no bits.
#[derive(Default)]
struct Plain {
    promoted: bool,
    highest: u16,
    run: Vec<u16>,
    peer: u16,
    last: u64,
}

impl Plain {
    fn see(&mut self, sequence: u16, peer: u16, now: u64, needed: usize) -> char {
        if now - self.last > IDLE_NS {
            *self = Plain::default();
        }
        let moved = self.peer != peer;
        (self.last, self.peer) = (now, peer);
        let distance = sequence.wrapping_sub(self.highest) as i16;
        if self.promoted && -100 < distance && distance < 3000 {
            if distance > 0 {
                self.highest = sequence;
            }
            self.run.clear();
            return 'b';
        }
        if !moved && self.run.contains(&sequence) {
            return 'h';
        }
        if moved || self.run.last().is_none_or(|last| last.wrapping_add(1) != sequence) {
            self.run.clear();
        }
        self.run.push(sequence);
        if self.run.len() < needed {
            return 'p';
        }
        (self.promoted, self.highest) = (true, sequence);
        self.run.clear();
        'P'
    }
}

#[derive(Clone, Debug)]
enum Event {
    Packet { stream: usize, step: i32, peer: u16 },
    Stun { port: usize },
    Silence(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let step = prop_oneof![
        12 => Just(1),
        2 => Just(0),
        1 => Just(-1),
        1 => Just(2),
        1 => prop_oneof![Just(2999), Just(3000), Just(-99), Just(-100), Just(-101), Just(20000)],
    ];
    let peer = prop_oneof![20 => Just(5004u16), 1 => Just(5006)];
    prop_oneof![
        30 => (0..6usize, step, peer).prop_map(|(stream, step, peer)| Event::Packet { stream, step, peer }),
        1 => (0..3usize).prop_map(|port| Event::Stun { port }),
        1 => prop_oneof![Just(SECOND), Just(IDLE_NS - 1), Just(IDLE_NS + 1)].prop_map(Event::Silence),
    ]
}

proptest! {
    #[test]
    fn streams_are_judged_as_the_rules_say(events in proptest::collection::vec(event(), 1..400)) {
        let policy = Policy::from(PolicyName::Realtime).compile().unwrap();
        let mut classifier = Classifier::new(policy, 256, TscRate::new(SECOND), &mut Heap);
        let mut plain: HashMap<usize, Plain> = HashMap::new();
        let (mut sequences, mut set_up) = ([100u16; 6], [None::<u64>; 3]);
        let mut stun = [0u8; 20];
        stun[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
        let mut now = SECOND;
        for event in events {
            now += 1;
            match event {
                Event::Silence(time) => now += time,
                Event::Stun { port } => {
                    set_up[port] = Some(now);
                    let frame = sample::udp(40000 + port as u16 * 10, 5004, &stun);
                    prop_assert_eq!(classifier.classify(&Chain::whole(&frame), now).verdict, Verdict::Hold);
                }
                Event::Packet { stream, step, peer } => {
                    sequences[stream] = sequences[stream].wrapping_add(step as u16);
                    let port = stream % 3;
                    let packet = sample::rtp(sequences[stream], stream as u32);
                    let frame = sample::udp(40000 + port as u16 * 10, peer, &packet);
                    let ours = match classifier.classify(&Chain::whole(&frame), now).verdict {
                        Verdict::Bypass => 'b',
                        Verdict::Hold => 'h',
                        Verdict::Probation(_) => 'p',
                        Verdict::Promote(_) => 'P',
                        Verdict::Refuse => 'r',
                    };
                    let fresh = set_up[port].is_some_and(|at| now - at <= IDLE_NS);
                    let known = plain.entry(stream).or_insert_with(|| Plain { peer, last: now, ..Plain::default() });
                    let expected = known.see(sequences[stream], peer, now, if fresh { 2 } else { 3 });
                    prop_assert_eq!(ours, expected, "stream {} at {}", stream, sequences[stream]);
                }
            }
        }
    }
}

/// A cheap generator with a known seed: failures repeat.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Random payloads from a handful of ports, many with a first byte and an SSRC that look right: the
/// sequence numbers alone are random.
#[test]
fn random_traffic_is_never_let_go() {
    let policy = Policy::from(PolicyName::Realtime).compile().unwrap();
    let mut classifier = Classifier::new(policy, 1024, TscRate::new(SECOND), &mut Heap);
    let mut random = Random(0x7469_6465);
    let mut frame = sample::udp(40000, 5004, &[0; 60]);
    let mut promoted = 0;
    for now in 0..300_000u64 {
        for at in (42..frame.len() - 7).step_by(8) {
            let word = random.next();
            frame[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let shape = random.next();
        frame[34] = 0x9c + (shape & 3) as u8;
        if shape & 4 != 0 {
            frame[42] = 0x80;
        }
        if shape & 8 != 0 {
            frame[50..54].copy_from_slice(&[0, 0, 0, (shape >> 8) as u8 & 3]);
        }
        let decision = classifier.classify(&Chain::whole(&frame), now * 1000);
        promoted += matches!(decision.verdict, Verdict::Bypass | Verdict::Promote(_)) as u32;
    }
    // Three consecutive numbers by chance: 300 000 / 2^32.
    assert_eq!(promoted, 0);
}

#[test]
fn sources_are_hosts() {
    let host = |text: &str| is_host(&crate::wire::address_bytes(text.parse().unwrap()));
    for good in ["10.0.0.2", "223.255.255.1", "2001:db8::2", "fe80::1"] {
        assert!(host(good), "{good}");
    }
    for bad in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
    ] {
        assert!(!host(bad), "{bad}");
    }
}

#[test]
fn of_the_low_ports_one_sends_media_and_a_tunnel_that_counts_is_none() {
    let policy = Policy::from(PolicyName::Realtime).compile().unwrap();
    let mut classifier = Classifier::new(policy, 64, TscRate::new(SECOND), &mut Heap);
    let mut goes = |sport: u16, dport: u16, ssrc: u32| {
        let mut verdict = |n| {
            let frame = sample::udp(sport, dport, &sample::rtp(n, ssrc));
            classifier.classify(&Chain::whole(&frame), u64::from(n) * 20_000_000).verdict
        };
        (verdict(1), matches!((verdict(2), verdict(3)), (Verdict::Probation(_), Verdict::Promote(_)))).1
    };
    assert!(goes(1024, 5004, 7) && goes(443, 5004, 7));
    assert!(!goes(53, 5004, 7) && !goes(123, 5004, 7) && !goes(1023, 5004, 7));
    assert!(goes(5000, 4342, 0x4500_0080) && goes(5000, 4341, 0x5500_0080));
    for first in [0x4500_0080, 0x6000_0000] {
        assert!(!goes(5000, 4341, first) && !goes(4341, 5000, first), "{first:x}");
    }
}

#[test]
fn marks_are_never_zero_and_tell_streams_of_one_place_apart() {
    let mut streams = Streams::new(8, TscRate::new(SECOND), &mut Heap);
    assert_eq!(streams.next_mark(0), 8);
    streams.runs[3].mark = 0xffff_fff8 | 3;
    assert_eq!(streams.next_mark(3), 8 | 3, "the count wraps past 0");
    assert_eq!(streams.index(8 | 3), 3);
}
