//! Every truncation of every sample frame, and every value of every byte, through the whole classifier: it answers
//! always, and what it cannot read, or cannot know to be media, is held.

use super::*;
use crate::arena::Heap;
use crate::policy::Policy;
use crate::wire::sample::Chain;
use crate::wire::tests::menagerie;

fn fresh(name: PolicyName) -> Classifier {
    Classifier::new(Policy::from(name).compile().unwrap(), 8, TscRate::new(1_000_000_000), &mut Heap)
}

/// What each policy promises of a single frame, whatever its bytes.
fn is_kept(name: PolicyName, frame: &[u8], len: usize, decision: Decision) {
    let headers = Headers::parse(frame, len as u32);
    let goes = match decision.verdict {
        Verdict::Bypass => true,
        Verdict::Hold | Verdict::Probation(_) => false,
        Verdict::Promote(_) | Verdict::Refuse => panic!("{decision:?} of one frame, without rules"),
    };
    let announces = decision.class == Class::Announce;
    let readable = !matches!(headers.kind, Kind::Malformed | Kind::Unknown);
    let may_go = match name {
        PolicyName::Realtime => announces,
        PolicyName::HoldAll => announces && headers.kind == Kind::Rarp,
        PolicyName::NonTcp => readable && headers.kind != Kind::Tcp,
        PolicyName::BypassAll => true,
    };
    assert!(!goes || may_go, "{name} let go {:?}: {frame:02x?}", headers.kind);
    assert!(readable || decision.class == class_of(headers.kind));
    // Whoever reads the frame again finds what its class says.
    let fits = match decision.class {
        Class::Announce => matches!(headers.kind, Kind::Arp | Kind::Rarp | Kind::Icmpv6),
        Class::Rtp | Class::Rtcp => headers.kind == Kind::Udp,
        class => class == class_of(headers.kind),
    };
    assert!(fits, "{:?} as {:?}", headers.kind, decision.class);
}

#[test]
fn every_truncation_is_judged_and_the_unknown_is_held() {
    for frame in menagerie() {
        for name in PolicyName::ALL {
            for cut in 0..frame.len() {
                let shorter = fresh(name).classify(&Chain::whole(&frame[..cut]), 1);
                is_kept(name, &frame[..cut], cut, shorter);
                // The same bytes, the rest in another segment.
                let chained = Chain(vec![frame[..cut].to_vec(), frame[cut..].to_vec()]);
                is_kept(name, &frame[..cut], frame.len(), fresh(name).classify(&chained, 1));
            }
        }
    }
}

#[test]
fn every_value_of_every_byte_is_judged_and_the_unknown_is_held() {
    for frame in menagerie() {
        for name in PolicyName::ALL {
            for at in 0..frame.len().min(120) {
                // One classifier for each place: no two of these values continue each other, whatever they number.
                let mut classifier = fresh(name);
                let mut changed = Chain::whole(&frame);
                for value in (0..=255u8).map(u8::reverse_bits) {
                    changed.0[0][at] = value;
                    let decision = classifier.classify(&changed, 1);
                    is_kept(name, &changed.0[0], frame.len(), decision);
                    classifier.epoch_closed();
                }
            }
        }
    }
}
