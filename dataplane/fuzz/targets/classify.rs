//! A sequence of frames through the classifier: whatever is let go is, read again, what the policy names; and who asks
//! why gets the same decision.
//!
//! Input: one byte for the policy (bits 0-1), media ports (bit 2), a rule by SSRC (bits 3-4: none, hold, refuse) and a TURN
//! channel that is bound (bit 5);
//! then frames: two bytes of length, one of milliseconds since the last frame, the bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_dataplane::arena::Heap;
use tidegate_dataplane::class::{Class, Verdict};
use tidegate_dataplane::classify::{Classifier, Found, Reason};
use tidegate_dataplane::ear::{Learned, Lesson};
use tidegate_dataplane::policy::{Policy, PolicyName, Rule, RuleVerdict};
use tidegate_dataplane::port::Frame;
use tidegate_dataplane::tsc::TscRate;
use tidegate_dataplane::wire::rtp::Packet;
use tidegate_dataplane::wire::turn::ChannelData;
use tidegate_dataplane::wire::{Headers, Kind, address_bytes, arp, icmpv6};

struct Bytes<'a>(&'a [u8]);

impl Frame for Bytes<'_> {
    fn head(&self) -> &[u8] {
        self.0
    }

    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    fn segments(&self) -> u16 {
        1
    }

    fn each_segment(&self, see: &mut dyn FnMut(&[u8])) {
        see(self.0);
    }
}

/// Channel 0x4001 of 10.0.0.2:40000 at 10.0.0.9:3478.
const CHANNEL: u16 = 0x4001;

fn bound() -> Lesson {
    let server = address_bytes([10, 0, 0, 9].into());
    let what = Learned::Channel { number: CHANNEL, server, server_port: 3478 };
    Lesson { address: address_bytes([10, 0, 0, 2].into()), port: 40_000, what, open: true }
}

fn policy(choice: u8) -> Policy {
    let rule = match choice >> 3 & 3 {
        1 => Some(RuleVerdict::Hold),
        2 => Some(RuleVerdict::Refuse),
        _ => None,
    };
    let rule = rule.map(|verdict| Rule { ssrc: Some(0..=0x7fff_ffff), ..Rule::new(verdict) });
    Policy {
        name: PolicyName::ALL[usize::from(choice & 3)],
        media_ports: if choice & 4 != 0 { vec![40_000..=40_010] } else { Vec::new() },
        rules: rule.into_iter().collect(),
    }
}

/// What may leave under `realtime`, read again.
fn may_go(frame: &[u8], class: Class, bound: bool) -> bool {
    let len = frame.len() as u32;
    let h = Headers::parse(frame, len);
    let packet = || match ChannelData::of(&h, frame) {
        Some(data) if data.number == CHANNEL && bound && (h.sport, h.dport) == (40_000, 3478) => {
            Packet::read(data.data, data.len)
        }
        _ => Packet::read(h.payload(frame), h.payload_len as usize),
    };
    match class {
        Class::Announce => {
            arp::is_arp(&h, frame, len)
                || arp::is_rarp_announcement(&h, frame, len)
                || icmpv6::is_discovery(&h, frame)
        }
        Class::Rtp => h.kind == Kind::Udp && h.sport >= 1024 && matches!(packet(), Packet::Rtp(_)),
        Class::Rtcp => h.kind == Kind::Udp && matches!(packet(), Packet::Rtcp { .. }),
        // A later fragment, behind a first one that went.
        Class::Ip => h.kind == Kind::Fragment,
        _ => false,
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, mut rest)) = data.split_first() else { return };
    let policy = policy(*choice);
    let new = || Classifier::new(policy.compile().unwrap(), 64, TscRate::new(1_000_000_000), &mut Heap);
    let (mut classifier, mut told) = (new(), new());
    let bind = choice & 32 != 0;
    if bind {
        classifier.learn(&bound(), 1_000_000_000);
        told.learn(&bound(), 1_000_000_000);
    }
    let (mut now, mut position) = (1_000_000_000, 0);
    while let Some(([high, low, ms], more)) = rest.split_first_chunk::<3>() {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(more.len());
        let (frame, after) = more.split_at(len);
        (rest, now) = (after, now + u64::from(*ms) * 1_000_000);
        let decision = classifier.classify(&Bytes(frame), now);
        let explained = told.explain(&Bytes(frame), now);
        assert_eq!(decision, explained.decision);
        match decision.verdict {
            Verdict::Bypass => {
                let realtime = policy.name == PolicyName::Realtime;
                assert!(!realtime || may_go(frame, decision.class, bind), "{frame:02x?}");
                let announces = matches!(explained.found, Found::Announcement);
                assert!(
                    policy.name != PolicyName::HoldAll
                        || announces && explained.reason == Reason::Announcement
                );
            }
            Verdict::Promote(stream) => {
                assert!(may_go(frame, decision.class, bind), "{frame:02x?}");
                let waiting = classifier.take_waiting(stream);
                assert_eq!(waiting, told.take_waiting(stream));
                assert!(waiting.positions().is_sorted());
            }
            Verdict::Probation(stream) => {
                position += 1;
                classifier.waiting(stream, position);
                told.waiting(stream, position);
            }
            Verdict::Refuse => assert!(!policy.rules.is_empty()),
            Verdict::Hold => {}
        }
    }
    classifier.table().snapshot(TscRate::new(1_000_000_000));
});
