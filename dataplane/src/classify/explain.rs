//! Why the classifier decides as it does, told beside the decision.
//!
//! The decision is [`Classifier::classify`]'s own. What is told with it is asked of the same tables by the same
//! functions, before the frame changes them; a property test holds the two together. Never called on an lcore.

use super::{Classifier, Sight};
use crate::class::{Decision, Verdict};
use crate::policy::{PolicyName, RuleVerdict};
use crate::port::Frame;
use crate::rtp::{Sighting, Standing};
use crate::wire::rtp::{Packet, Rtp};
use crate::wire::turn::ChannelData;
use crate::wire::{Headers, Kind, arp};

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is the plane's own announcement, which passes before any rule.
    Announcement,
    /// The operator's rule with this number, from 0.
    Rule(usize),
    /// The first fragment of its datagram.
    FirstFragment,
    /// The policy, from what the frame was found to be.
    Policy,
}

/// What the frame was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// See [`Headers::kind`]: not UDP, and no announcement.
    Kind(Kind),
    /// ARP, RARP or neighbour discovery in good form.
    Announcement,
    /// RTP by its header, and what was known of its stream.
    Rtp(Rtp, Standing),
    /// RTCP by its header.
    Rtcp {
        /// Its packet type.
        packet_type: u8,
        /// A promoted stream comes from this port or a neighbour of it.
        with_stream: bool,
    },
    /// STUN or DTLS: media is being set up on the port.
    SetUp,
    /// TURN channel data, by its form, of a channel that nobody was heard to bind.
    Unbound {
        /// The channel.
        number: u16,
    },
    /// UDP that is nothing of these: its first bytes fit none, or it has a surplus area or a route of its own.
    Udp,
}

/// A decision and how it came about.
#[derive(Clone, Copy, Debug)]
pub struct Explanation {
    /// What the headers say.
    pub headers: Headers,
    /// The first rule that matches: its number from 0, and what it says of this frame.
    pub rule: Option<(usize, RuleVerdict)>,
    /// It came through this TURN channel, which its sender has bound: what was found is what the channel carries.
    pub channel: Option<u16>,
    /// What the frame is.
    pub found: Found,
    /// The policy that was asked.
    pub policy: PolicyName,
    /// What the policy says, whether it was asked or not.
    pub by_policy: Verdict,
    /// What decided.
    pub reason: Reason,
    /// The decision.
    pub decision: Decision,
}

impl Classifier {
    /// Judges a frame as [`Classifier::classify`] does, and says why.
    pub fn explain(&mut self, frame: &impl Frame, now: u64) -> Explanation {
        let (head, len) = (frame.head(), frame.len());
        let headers = Headers::parse(head, len);
        let announces = arp::is_rarp_announcement(&headers, head, len);
        let rule = self.rule_for(&headers, head, now);
        let channel = self.inside(&headers, head, now).map(|data| data.number);
        let (found, sight) = self.find(&headers, head, len, now);
        let decision = self.classify(frame, now);
        let sight = Sight {
            realtime: match found {
                // Only the stream's own account knows where this packet stands in it.
                Found::Rtp(..) if rule.is_none() && self.policy.name() == PolicyName::Realtime => {
                    decision.verdict
                }
                _ => sight.realtime,
            },
            ..sight
        };
        let by_policy = self.by_policy(&sight, &headers);
        let asked = match rule {
            Some((_, RuleVerdict::Bypass)) => Verdict::Bypass,
            Some((_, RuleVerdict::Hold)) => Verdict::Hold,
            Some((_, RuleVerdict::Refuse)) => Verdict::Refuse,
            None => by_policy,
        };
        let reason = match rule {
            _ if announces => Reason::Announcement,
            _ if headers.kind == Kind::Fragment && decision.verdict != asked => Reason::FirstFragment,
            Some((number, _)) => Reason::Rule(number),
            None => Reason::Policy,
        };
        Explanation { headers, rule, channel, found, policy: self.policy.name(), by_policy, reason, decision }
    }

    /// What the frame is, from what is known before it is judged.
    fn find(&self, headers: &Headers, head: &[u8], len: u32, now: u64) -> (Found, Sight) {
        if headers.kind != Kind::Udp {
            let sight = self.see_rare(headers.kind, headers, head, len);
            let passes = sight.realtime == Verdict::Bypass;
            return (if passes { Found::Announcement } else { Found::Kind(headers.kind) }, sight);
        }
        let held = Sight::held(crate::class::Class::Udp);
        let (channel, packet) = match self.inside(headers, head, now) {
            Some(data) => (data.number, Packet::read(data.data, data.len)),
            None => (0, self.read_udp(headers, head)),
        };
        match packet {
            Packet::Rtp(rtp) => {
                let sighting = Sighting { headers, rtp, channel, policy: &self.policy, now };
                (Found::Rtp(rtp, self.streams.standing(&sighting)), held)
            }
            Packet::Rtcp { packet_type } => {
                let with_stream = !headers.is_fragment() && self.streams.has_stream(headers, channel, now);
                let sight = if with_stream { Sight::passed(crate::class::Class::Rtcp) } else { held };
                (Found::Rtcp { packet_type, with_stream }, sight)
            }
            Packet::Stun | Packet::Dtls => (Found::SetUp, held),
            Packet::Other => match ChannelData::of(headers, head) {
                Some(ChannelData { number, .. }) if channel == 0 => (Found::Unbound { number }, held),
                _ => (Found::Udp, held),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Heap;
    use crate::policy::{Policy, Rule};
    use crate::tsc::TscRate;
    use crate::wire::sample::{self, Chain};
    use proptest::prelude::*;

    const RATE: TscRate = TscRate::new(1_000_000_000);

    fn classifier(policy: &Policy) -> Classifier {
        Classifier::new(policy.compile().unwrap(), 64, RATE, &mut Heap)
    }

    fn media(sequence: u16) -> Vec<u8> {
        sample::udp(40000, 5004, &sample::rtp(sequence, 7))
    }

    #[test]
    fn each_step_of_a_stream_is_told() {
        let mut classifier = classifier(&Policy::default());
        let mut explain = |frame: &[u8]| classifier.explain(&Chain::whole(frame), 1);
        let standing = |e: &Explanation| match e.found {
            Found::Rtp(_, standing) => standing,
            other => panic!("{other:?}"),
        };
        let first = explain(&media(1));
        assert_eq!(
            (first.reason, standing(&first).stream, standing(&first).needed),
            (Reason::Policy, None, 3)
        );
        let second = explain(&media(2));
        let stream = standing(&second).stream.unwrap();
        assert_eq!((stream.packets, stream.in_row, stream.expected, stream.promoted_at), (1, 1, 2, None));
        assert!(matches!(second.decision.verdict, Verdict::Probation(_)));
        assert!(matches!(explain(&media(3)).decision.verdict, Verdict::Promote(_)));
        let fourth = explain(&media(4));
        let stream = standing(&fourth).stream.unwrap();
        assert_eq!((stream.promoted_at, stream.proven, stream.within), (Some(3), true, true));
        let report = explain(&sample::udp(40001, 5005, &[0x80, 200, 0, 1, 0, 0, 0, 7]));
        assert_eq!(report.found, Found::Rtcp { packet_type: 200, with_stream: true });
        assert_eq!(explain(&sample::arp(1)).found, Found::Announcement);
        assert_eq!(explain(&sample::tcp(1, 2, b"")).found, Found::Kind(Kind::Tcp));
    }

    #[test]
    fn what_was_set_up_a_media_port_and_a_low_port_are_told() {
        let policy = Policy { media_ports: vec![40000..=40001], ..Policy::default() };
        let mut classifier = classifier(&policy);
        let mut explain = |frame: &[u8]| classifier.explain(&Chain::whole(frame), 1);
        let Found::Rtp(_, standing) = explain(&media(1)).found else { panic!() };
        assert!(standing.media_port && standing.eligible);
        let mut stun = vec![0u8; 20];
        stun[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
        assert_eq!(explain(&sample::udp(6000, 3478, &stun)).found, Found::SetUp);
        let Found::Rtp(_, standing) = explain(&sample::udp(6000, 9, &sample::rtp(1, 2))).found else {
            panic!()
        };
        assert_eq!((standing.needed, standing.media_port), (2, false));
        let Found::Rtp(_, standing) = explain(&sample::udp(53, 9, &sample::rtp(1, 2))).found else {
            panic!()
        };
        assert!(!standing.eligible);
    }

    #[test]
    fn rules_announcements_and_first_fragments_are_named() {
        let mut rule = Rule::new(RuleVerdict::Bypass);
        rule.dport = Some(53..=53);
        let policy =
            Policy { rules: vec![Rule { vlan: Some(9), ..rule.clone() }, rule], ..Policy::default() };
        let mut classifier = classifier(&policy);
        let mut reason = |frame: &[u8]| classifier.explain(&Chain::whole(frame), 1).reason;
        assert_eq!(reason(&sample::udp(1, 53, b"x")), Reason::Rule(1));
        assert_eq!(reason(&sample::udp(1, 54, b"x")), Reason::Policy);
        assert_eq!(reason(&sample::rarp()), Reason::Announcement);
        let udp = sample::datagram(1, 53, &[7; 200]);
        assert_eq!(reason(&sample::ipv4(17, &[], 0x2000, &udp[..64])), Reason::Rule(1));
        assert_eq!(reason(&sample::ipv4(17, &[], 0x0008, &udp[64..])), Reason::FirstFragment);
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let whole = crate::wire::tests::menagerie();
        let media = (0..3u16, 0..6u16, 0..2u32)
            .prop_map(|(port, n, ssrc)| sample::udp(40000 + port, 5004, &sample::rtp(n, ssrc)));
        let report = (0..3u16).prop_map(|port| sample::udp(40000 + port, 5, &[0x80, 200, 0, 1, 0, 0, 0, 1]));
        prop_oneof![media, report, (0..whole.len()).prop_map(move |n| whole[n].clone())]
    }

    proptest! {
        /// The explanation never contradicts the decision, and asking for one changes no later decision.
        #[test]
        fn what_is_told_is_what_was_decided(
            frames in proptest::collection::vec(any_frame(), 1..40),
            name in prop_oneof![Just(0usize), Just(1), Just(2), Just(3)],
            port in proptest::option::of(40000..40002u16),
            rule in proptest::option::of((0..2u32, prop_oneof![Just(RuleVerdict::Hold), Just(RuleVerdict::Refuse)])),
        ) {
            let policy = Policy {
                name: PolicyName::ALL[name],
                media_ports: port.map(|port| port..=port).into_iter().collect(),
                rules: rule.into_iter().map(|(ssrc, v)| Rule { ssrc: Some(ssrc..=ssrc), ..Rule::new(v) }).collect(),
            };
            let (mut told, mut plain) = (classifier(&policy), classifier(&policy));
            for (n, frame) in frames.iter().enumerate() {
                let frame = Chain::whole(frame);
                let explained = told.explain(&frame, n as u64);
                prop_assert_eq!(explained.decision, plain.classify(&frame, n as u64));
                let verdict = explained.decision.verdict;
                match explained.reason {
                    Reason::Announcement => prop_assert_eq!(verdict, Verdict::Bypass),
                    Reason::Rule(n) => {
                        let says = match policy.rules[n].verdict {
                            RuleVerdict::Bypass => Verdict::Bypass,
                            RuleVerdict::Hold => Verdict::Hold,
                            RuleVerdict::Refuse => Verdict::Refuse,
                        };
                        prop_assert!(verdict == says || explained.headers.kind == Kind::Fragment);
                    }
                    Reason::FirstFragment => prop_assert!(explained.headers.kind == Kind::Fragment),
                    Reason::Policy => prop_assert_eq!(verdict, explained.by_policy),
                }
                if let Found::Rtp(_, standing) = explained.found
                    && explained.reason == Reason::Policy
                    && policy.name == PolicyName::Realtime
                {
                    let trusted = standing.media_port && standing.eligible;
                    let known = standing.stream.is_some_and(|s| s.within && (s.proven || standing.media_port));
                    let proof = standing.stream.is_some_and(|s| s.in_row + 1 >= standing.needed);
                    match verdict {
                        Verdict::Bypass => prop_assert!(trusted || known),
                        Verdict::Promote(_) => prop_assert!(proof && !known),
                        _ => prop_assert!(!known || explained.headers.is_fragment()),
                    }
                }
            }
        }
    }
}
