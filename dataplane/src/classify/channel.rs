//! What a TURN channel carries: looked into where the guest has bound the channel, and judged as if it were sent directly,
//! by the same checks. Elsewhere channel data is held like anything that is not known.

use super::{Classifier, Sight};
use crate::class::Class;
use crate::policy::RuleVerdict;
use crate::rtp::Sighting;
use crate::wire::Headers;
use crate::wire::rtp::{Packet, Tag};
use crate::wire::turn::ChannelData;

impl Classifier {
    /// What the frame carries through a channel that its sender has bound.
    pub(super) fn inside<'a>(&self, headers: &Headers, head: &'a [u8], now: u64) -> Option<ChannelData<'a>> {
        if !self.streams.channel_is_learned() {
            return None;
        }
        ChannelData::of(headers, head).filter(|data| self.streams.is_bound(headers, data.number, now))
    }

    /// The first rule that matches: its number from 0 and its verdict. A rule about an SSRC means the RTP in a bound
    /// channel as well.
    pub fn rule_for(&self, headers: &Headers, head: &[u8], now: u64) -> Option<(usize, RuleVerdict)> {
        match self.inside(headers, head, now) {
            Some(data) => self.policy.rule_for_tag(headers, || Tag::of_payload(data.data, data.len)),
            None => self.policy.rule_for(headers, head),
        }
    }

    /// T.38 and TURN channels, where signalling said so.
    #[cold]
    pub(super) fn look_closer(&mut self, headers: &Headers, head: &[u8], now: u64) -> Sight {
        if self.streams.fax_is_learned() && self.is_fax(headers, head, now) {
            return Sight::passed(Class::Udptl);
        }
        match self.inside(headers, head, now) {
            Some(data) => self.see_inside(data, headers, now),
            None => Sight::held(Class::Udp),
        }
    }

    fn see_inside(&mut self, data: ChannelData<'_>, headers: &Headers, now: u64) -> Sight {
        let channel = data.number;
        match Packet::read(data.data, data.len) {
            Packet::Rtp(rtp) => {
                let sighting = Sighting { headers, rtp, channel, policy: &self.policy, now };
                match self.streams.see(&sighting) {
                    Some((stream, stage)) => Sight::media(stream, stage, &rtp),
                    None => Sight::held(Class::Udp),
                }
            }
            Packet::Other => Sight::held(Class::Udp),
            packet => self.see_set_up(packet, headers, channel, (data.data, data.len), now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Heap;
    use crate::channels::LIFETIME_NS;
    use crate::class::{Decision, Verdict};
    use crate::classify::Found;
    use crate::ear::{Learned, Lesson};
    use crate::policy::{Policy, PolicyName, Rule};
    use crate::tsc::TscRate;
    use crate::wire::sample::{self, Chain};
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;
    const PORT: u16 = 40000;
    const SERVER: u16 = 3478;
    const CHANNEL: u16 = 0x4001;

    struct Bench(Classifier, u64);

    fn bench(policy: impl Into<Policy>) -> Bench {
        let policy = policy.into().compile().unwrap();
        Bench(Classifier::new(policy, 1024, TscRate::new(1000 * MS), &mut Heap), 1000 * MS)
    }

    /// A bench that has learned the channel.
    fn taught() -> Bench {
        let mut bench = bench(PolicyName::Realtime);
        bench.teach(CHANNEL, true);
        bench
    }

    fn data(number: u16, inner: &[u8]) -> Vec<u8> {
        let len = inner.len() as u16;
        [&number.to_be_bytes()[..], &len.to_be_bytes(), inner].concat()
    }

    fn frame(number: u16, inner: &[u8]) -> Vec<u8> {
        sample::udp(PORT, SERVER, &data(number, inner))
    }

    fn rtp(number: u16, sequence: u16) -> Vec<u8> {
        frame(number, &sample::rtp(sequence, 7))
    }

    impl Bench {
        fn teach(&mut self, number: u16, open: bool) {
            let headers = Headers::parse(&sample::udp(PORT, SERVER, b"x"), 43);
            let what = Learned::Channel { number, server: headers.dst, server_port: SERVER };
            self.0.learn(&Lesson { address: headers.src, port: PORT, what, open }, self.1);
        }

        fn see(&mut self, frame: &[u8]) -> Decision {
            self.1 += 20 * MS;
            let decision = self.0.classify(&Chain::whole(frame), self.1);
            if let Verdict::Probation(stream) = decision.verdict {
                self.0.waiting(stream, self.1);
            }
            decision
        }

        fn letter(&mut self, frame: &[u8]) -> char {
            match self.see(frame).verdict {
                Verdict::Bypass => 'b',
                Verdict::Hold => 'h',
                Verdict::Probation(_) => 'p',
                Verdict::Promote(_) => 'P',
                Verdict::Refuse => 'r',
            }
        }

        fn run(&mut self, number: u16, numbers: impl IntoIterator<Item = u16>) -> String {
            numbers.into_iter().map(|n| self.letter(&rtp(number, n))).collect()
        }
    }

    #[test]
    fn a_stream_in_a_bound_channel_passes_from_its_third_packet_and_in_others_waits() {
        let mut bench = taught();
        assert_eq!(bench.run(CHANNEL, 1..3), "pp");
        let decision = bench.see(&rtp(CHANNEL, 3));
        let Verdict::Promote(stream) = decision.verdict else { panic!("{decision:?}") };
        assert_eq!(bench.0.take_waiting(stream).positions().len(), 2, "what waited leaves with it");
        assert_eq!(decision.class, Class::Rtp);
        assert_eq!(bench.run(CHANNEL, 4..8), "bbbb");
        let report = bench.0.table().snapshot(TscRate::new(1000 * MS));
        assert_eq!((report.len(), report[0].channel, report[0].packets), (1, Some(CHANNEL), 7));
        for n in 0..4 {
            let inner = sample::rtp(n, 7);
            for other in [
                frame(0x4000, &inner),
                sample::udp(PORT, SERVER + 1, &data(CHANNEL, &inner)),
                sample::udp(PORT + 1, SERVER, &data(CHANNEL, &inner)),
                sample::udp6(PORT, SERVER, &data(CHANNEL, &inner)),
            ] {
                let decision = bench.see(&other);
                assert_eq!((decision.verdict, decision.media), (Verdict::Hold, None));
            }
        }
        assert_eq!(self::bench(PolicyName::Realtime).run(CHANNEL, 1..9), "hhhhhhhh", "nothing learned");
    }

    #[test]
    fn a_channel_that_has_expired_or_was_let_go_is_held_again() {
        let mut bench = taught();
        assert_eq!(bench.run(CHANNEL, 1..5), "ppPb");
        bench.teach(CHANNEL, false);
        assert_eq!(bench.run(CHANNEL, 5..8), "hhh", "a stream that had proven itself, too");
        bench.teach(CHANNEL, true);
        assert_eq!(bench.run(CHANNEL, 8..10), "bb", "it goes on in its window");
        bench.1 += LIFETIME_NS;
        assert_eq!(bench.run(CHANNEL, 10..16), "hhhhhh");
    }

    #[test]
    fn what_is_no_rtp_or_no_whole_message_is_held() {
        let mut bench = taught();
        assert_eq!(bench.run(CHANNEL, 1..5), "ppPb");
        let inner = sample::rtp(5, 7);
        let whole = data(CHANNEL, &inner);
        let mut bad_header = inner.clone();
        bad_header[0] = 0x8f;
        bad_header.truncate(20);
        let mut long = whole.clone();
        long[3] += 1;
        let mut fragment = sample::datagram(PORT, SERVER, &[&whole[..], &[0; 64]].concat());
        fragment.truncate((8 + whole.len()) & !7);
        for other in [
            frame(CHANNEL, b"GET / HTTP/1.1\r\n"),
            frame(CHANNEL, &bad_header),
            frame(CHANNEL, &inner[..11]),
            frame(CHANNEL, &[]),
            frame(CHANNEL, &data(CHANNEL, &inner)),
            sample::udp(PORT, SERVER, &long),
            sample::udp(PORT, SERVER, &[&whole[..], &[0; 4]].concat()),
            sample::ipv4(17, &[], 0x2000, &fragment),
        ] {
            assert_eq!(bench.letter(&other), 'h', "{other:x?}");
        }
        let mut short = inner.clone();
        short.truncate(inner.len() / 4 * 4 - 1);
        let padded = [&data(CHANNEL, &short)[..], &[0]].concat();
        assert_eq!(bench.letter(&sample::udp(PORT, SERVER, &padded)), 'b', "padded to four bytes");
        assert_eq!(bench.run(CHANNEL, [30000, 6]), "pb", "the window holds");
    }

    #[test]
    fn stun_and_dtls_inside_set_the_channel_up_and_are_held() {
        let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[0; 12]].concat();
        let dtls = [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
        for inner in [&stun[..], &dtls] {
            let mut bench = taught();
            assert_eq!(bench.letter(&frame(CHANNEL, inner)), 'h');
            assert_eq!(bench.run(CHANNEL, 1..4), "pPb");
        }
        let mut bench = taught();
        assert_eq!(bench.letter(&sample::udp(PORT, SERVER, &stun)), 'h');
        assert_eq!(bench.run(CHANNEL, 1..4), "ppP", "STUN with the server says nothing of the channel");
    }

    #[test]
    fn rtcp_passes_with_the_stream_of_its_channel_only() {
        let report = [0x80, 200, 0, 1, 0, 0, 0, 7];
        let mut bench = taught();
        bench.teach(0x4002, true);
        assert_eq!(bench.letter(&frame(CHANNEL, &report)), 'h');
        assert_eq!(bench.run(CHANNEL, 1..4), "pPb", "it set the channel up");
        assert_eq!(bench.see(&frame(CHANNEL, &report)).class, Class::Rtcp);
        assert_eq!(bench.letter(&frame(CHANNEL, &report)), 'b');
        assert_eq!(bench.letter(&frame(0x4002, &report)), 'h');
        assert_eq!(bench.letter(&sample::udp(PORT, 5005, &report)), 'h', "nor is it the port's own");
    }

    #[test]
    fn streams_of_channels_and_those_sent_directly_are_kept_apart() {
        let mut bench = taught();
        bench.teach(0x4002, true);
        // All of one SSRC; what goes through the second channel jumps.
        for (n, wanted) in [(1, "ppp"), (2, "ppp"), (3, "PpP"), (4, "bpb"), (5, "bpb")] {
            let direct = sample::udp(PORT, SERVER, &sample::rtp(n + 500, 7));
            let frames = [rtp(CHANNEL, n), rtp(0x4002, 5000 * n), direct];
            let said: String = frames.iter().map(|frame| bench.letter(frame)).collect();
            assert_eq!(said, wanted, "packet {n}");
        }
        assert_eq!(bench.0.table().snapshot(TscRate::new(1000 * MS)).len(), 3);
    }

    #[test]
    fn nobodys_word_about_the_port_counts_in_a_channel() {
        let mut bench = bench(Policy { media_ports: vec![PORT..=PORT], ..Policy::default() });
        bench.teach(CHANNEL, true);
        assert_eq!(bench.run(CHANNEL, 1..5), "ppPb");
        let mut bench = taught();
        let address = Headers::parse(&rtp(CHANNEL, 1), 64).src;
        let lesson = Lesson { address, port: PORT, what: Learned::Rtp, open: true };
        assert_eq!(bench.run(CHANNEL, 1..2), "p");
        bench.0.learn(&lesson, bench.1);
        assert_eq!(bench.0.vouched(&lesson), None);
        assert_eq!(bench.run(CHANNEL, 2..5), "pPb");
    }

    #[test]
    fn a_rule_about_an_ssrc_means_what_a_bound_channel_carries_and_no_other() {
        let ruled = |verdict| Policy {
            rules: vec![Rule { ssrc: Some(7..=7), ..Rule::new(verdict) }],
            ..Policy::default()
        };
        for (verdict, wanted) in
            [(RuleVerdict::Hold, "hhhh"), (RuleVerdict::Refuse, "rrrr"), (RuleVerdict::Bypass, "bbbb")]
        {
            let mut bench = bench(ruled(verdict));
            assert_eq!(bench.run(CHANNEL, 1..5), "hhhh", "not bound");
            bench.teach(CHANNEL, true);
            assert_eq!(bench.run(CHANNEL, 1..5), wanted);
        }
    }

    #[test]
    fn other_policies_treat_channels_as_they_treat_all() {
        for (name, wanted) in
            [(PolicyName::HoldAll, "hhhh"), (PolicyName::NonTcp, "bbbb"), (PolicyName::BypassAll, "bbbb")]
        {
            let mut bench = bench(name);
            bench.teach(CHANNEL, true);
            assert_eq!(bench.run(CHANNEL, 1..5), wanted);
        }
    }

    #[test]
    fn what_is_found_in_a_channel_is_told() {
        let mut bench = taught();
        let mut explain = |frame: &[u8]| bench.0.explain(&Chain::whole(frame), 1000 * MS);
        let told = explain(&rtp(CHANNEL, 1));
        assert!(matches!(told.found, Found::Rtp(_, standing) if standing.needed == 3));
        assert_eq!(told.channel, Some(CHANNEL));
        let told = explain(&rtp(0x4002, 1));
        assert_eq!((told.found, told.channel), (Found::Unbound { number: 0x4002 }, None));
        let told = explain(&frame(CHANNEL, b"hello"));
        assert_eq!((told.found, told.channel), (Found::Udp, Some(CHANNEL)));
    }

    proptest! {
        /// Whatever a bound channel carries, what leaves is RTP or RTCP by its header, and telling why changes nothing.
        #[test]
        fn only_media_leaves_a_channel(
            inners in proptest::collection::vec(
                (any::<u8>(), any::<u8>(), 0..4u16, 0..30usize, proptest::option::of(0..40usize)), 1..40,
            ),
        ) {
            let (mut bench, mut told) = (taught(), taught());
            for (n, (first, second, sequence, len, claim)) in inners.into_iter().enumerate() {
                let mut inner = sample::rtp(sequence, 7);
                (inner[0], inner[1]) = (if first < 128 { 0x80 } else { first }, second & if first < 64 { 8 } else { 0xff });
                inner.truncate(len);
                let mut message = data(CHANNEL, &inner);
                message[3] = claim.unwrap_or(len) as u8;
                let frame = sample::udp(PORT, SERVER, &message);
                let now = 1000 * MS + n as u64;
                let decision = bench.0.classify(&Chain::whole(&frame), now);
                prop_assert_eq!(told.0.explain(&Chain::whole(&frame), now).decision, decision);
                if matches!(decision.verdict, Verdict::Bypass | Verdict::Promote(_)) {
                    let inner = ChannelData::read(&message, message.len()).unwrap();
                    let packet = Packet::read(inner.data, inner.len);
                    let media = matches!(packet, Packet::Rtp(_) | Packet::Rtcp { .. });
                    prop_assert!(media, "{packet:?}");
                }
            }
        }
    }
}
