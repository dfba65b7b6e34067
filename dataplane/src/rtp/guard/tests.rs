use super::*;
use crate::arena::Heap;
use crate::class::{Class, Verdict};
use crate::classify::{Classifier, Srtcp};
use crate::policy::{Policy, PolicyName};
use crate::wire::Headers;
use crate::wire::sample::{self, Chain};

const MS: u64 = 1_000_000;
const RATE: TscRate = TscRate::new(1000 * MS);

struct Bench(Classifier, u64);

impl Bench {
    fn new(name: PolicyName, streams: usize) -> Bench {
        let policy = Policy::from(name).compile().unwrap();
        Bench(Classifier::new(policy, streams, RATE, &mut Heap), 1000 * MS)
    }

    fn see(&mut self, frame: &[u8]) -> (Verdict, Class) {
        self.1 += MS;
        let decision = self.0.classify(&Chain::whole(frame), self.1);
        if decision.verdict == Verdict::Bypass
            && let Some(media) = decision.media
        {
            self.0.departed(std::iter::once(media), self.1);
        }
        (decision.verdict, decision.class)
    }

    fn rtp(&mut self, sequence: u16) -> Verdict {
        self.see(&sample::udp(40000, 5004, &sample::rtp(sequence, 7))).0
    }

    fn inherit(&mut self, highest: u16, margin: u16) -> bool {
        self.0.inherit(&stream(highest, margin), self.1)
    }

    fn gone_out(&self, since: u64) -> Vec<GoneOut> {
        let table = self.0.table();
        (0..table.capacity()).filter_map(|n| table.gone_out(n, since, self.1, RATE)).collect()
    }
}

fn stream(highest: u16, margin: u16) -> Inherited {
    Inherited {
        address: Headers::parse(&sample::udp(1, 1, b"x"), 43).src,
        port: 40000,
        ssrc: 7,
        highest,
        margin,
        guarded: true,
        secure: false,
        clock_rate: 0,
        payload_type: 8,
        channel: None,
    }
}

fn bench() -> Bench {
    Bench::new(PolicyName::Realtime, 256)
}

#[test]
fn what_the_dead_primary_may_have_sent_is_refused_and_the_next_leaves_without_a_probation() {
    for highest in [1000, 5, 65535, 0] {
        let mut bench = bench();
        assert!(bench.inherit(highest, 10));
        for behind in [20, 19, 2999, 3009, 1, 0] {
            let verdict = bench.rtp(highest.wrapping_sub(behind));
            assert_eq!(verdict, Verdict::Refuse, "{behind} behind {highest}");
        }
        assert_eq!(bench.rtp(highest.wrapping_add(1)), Verdict::Bypass, "{highest}");
        assert_eq!(bench.rtp(highest.wrapping_add(2)), Verdict::Bypass);
        assert_eq!(bench.rtp(highest.wrapping_sub(1)), Verdict::Bypass, "late, as ever: the guard is over");
    }
}

#[test]
fn a_loss_across_the_guard_ends_it_too() {
    let mut bench = bench();
    bench.inherit(1000, 0);
    assert_eq!(bench.rtp(1000), Verdict::Refuse);
    assert_eq!(bench.rtp(3999), Verdict::Bypass, "2999 ahead is a loss");
    let mut far = self::bench();
    far.inherit(1000, 0);
    assert!(matches!(far.rtp(4000), Verdict::Probation(_)), "3000 ahead is not");
}

#[test]
fn a_sender_that_began_anew_proves_itself_and_the_guard_stays_until_then() {
    let mut bench = bench();
    bench.inherit(1000, 5);
    assert!(matches!(bench.rtp(30000), Verdict::Probation(_)));
    assert_eq!(bench.rtp(990), Verdict::Refuse);
    assert!(matches!(bench.rtp(30001), Verdict::Probation(_)));
    assert!(matches!(bench.rtp(30002), Verdict::Promote(_)));
    assert_eq!(bench.rtp(30003), Verdict::Bypass);
    assert!(!matches!(bench.rtp(990), Verdict::Refuse), "the guard is over");
}

#[test]
fn no_guard_lasts_longer_than_a_stream_may_be_silent() {
    let mut bench = bench();
    bench.inherit(1000, 5);
    bench.1 += IDLE_NS - 2 * MS;
    assert_eq!(bench.rtp(1000), Verdict::Refuse);
    bench.1 += 2 * MS;
    assert!(matches!(bench.rtp(1000), Verdict::Probation(_)));
    bench.inherit(1000, 5);
    assert_eq!(bench.rtp(1000), Verdict::Refuse, "heard of again");
}

#[test]
fn the_last_word_of_the_primary_counts() {
    let mut bench = bench();
    bench.inherit(1000, 0);
    bench.inherit(1100, 0);
    assert_eq!(bench.rtp(1100), Verdict::Refuse);
    bench.inherit(50, 0);
    assert_eq!(bench.rtp(51), Verdict::Bypass);
}

#[test]
fn other_sources_ports_and_addresses_are_not_guarded() {
    let mut bench = bench();
    bench.inherit(1000, 0);
    for frame in [
        sample::udp(40000, 5004, &sample::rtp(1000, 8)),
        sample::udp(40002, 5004, &sample::rtp(1000, 7)),
        sample::udp6(40000, 5004, &sample::rtp(1000, 7)),
    ] {
        assert!(matches!(bench.see(&frame).0, Verdict::Probation(_)));
    }
}

#[test]
fn every_policy_that_lets_media_go_refuses_a_replay_and_a_rule_does_not_help_it() {
    for (name, verdict) in [
        (PolicyName::Realtime, Verdict::Refuse),
        (PolicyName::NonTcp, Verdict::Refuse),
        (PolicyName::BypassAll, Verdict::Refuse),
        (PolicyName::HoldAll, Verdict::Hold),
    ] {
        let mut bench = Bench::new(name, 256);
        bench.inherit(1000, 0);
        assert_eq!(bench.rtp(1000), verdict, "{name:?}");
    }
    let mut policy = Policy::from(PolicyName::Realtime);
    policy.rules.push(crate::policy::Rule::new(crate::policy::RuleVerdict::Bypass));
    let mut bench = bench();
    bench.0.set_policy(policy.compile().unwrap());
    bench.inherit(1000, 0);
    assert_eq!(bench.rtp(1000), Verdict::Refuse);
    assert_eq!(bench.rtp(1001), Verdict::Bypass);
}

#[test]
fn without_a_guard_a_stream_is_merely_known() {
    let mut bench = bench();
    assert!(bench.0.inherit(&Inherited { guarded: false, ..stream(1000, 0) }, bench.1));
    assert_eq!(bench.rtp(990), Verdict::Bypass);
    assert_eq!(bench.rtp(1001), Verdict::Bypass);
}

#[test]
fn rtcp_goes_with_a_stream_that_was_inherited() {
    let mut bench = bench();
    bench.inherit(1000, 0);
    let mut report = vec![0x80, 200, 0, 6];
    report.resize(28, 1);
    assert_eq!(bench.see(&sample::udp(40001, 5005, &report)), (Verdict::Bypass, Class::Rtcp));
}

#[test]
fn a_primary_tells_what_went_out_and_a_promoted_standby_what_it_still_guards() {
    let mut bench = bench();
    for n in 65530..65545u32 {
        bench.rtp(n as u16);
        bench.1 += 19 * MS;
    }
    let since = bench.1;
    let told = bench.gone_out(0);
    assert_eq!(told.len(), 1);
    let first = told[0];
    assert_eq!((first.port, first.ssrc, first.highest), (40000, 7, 65544), "extended by its wraps");
    assert_eq!((first.clock_rate, first.payload_type, first.secure), (8000, 8, false));
    assert_eq!(first.interval_ns, 20 * MS);
    assert_eq!(bench.gone_out(since), [], "nothing since");
    bench.rtp(9);
    assert_eq!(bench.gone_out(since)[0].highest, 65545);
    bench.1 += IDLE_NS + MS;
    assert_eq!(bench.gone_out(0), [], "a stream long silent");
    let mut standby = self::bench();
    standby.inherit(1000, 10);
    assert_eq!(standby.gone_out(0)[0].highest, 1000);
    standby.rtp(1001);
    assert_eq!(standby.gone_out(0)[0].highest, 1001);
}

#[test]
fn what_the_lane_could_not_send_yet_is_told_with_what_went_out() {
    let mut bench = bench();
    for n in 65520..65536u32 {
        bench.rtp(n as u16);
        bench.1 += 19 * MS;
    }
    let since = bench.1;
    for n in 0..3 {
        // Its verdict is to bypass, and the wire or the lease lets nothing go.
        let frame = sample::udp(40000, 5004, &sample::rtp(n, 7));
        bench.1 += 20 * MS;
        assert_eq!(bench.0.classify(&Chain::whole(&frame), bench.1).verdict, Verdict::Bypass);
    }
    assert_eq!(bench.gone_out(since)[0].highest, 65538, "it leaves with the next renewal, all at once");
}

#[test]
fn packets_that_are_late_by_the_rhythm_of_their_stream_are_told_of() {
    let mut bench = bench();
    (0..20).for_each(|n| {
        bench.rtp(n);
        bench.1 += 19 * MS;
    });
    let mut after = |ms: u64| {
        bench.1 += ms * MS;
        let told = bench.gone_out(0)[0];
        bench.1 -= ms * MS;
        told.overdue
    };
    assert_eq!([after(0), after(30), after(50), after(1000)], [0, 1, 2, 4]);
}

#[test]
fn a_port_that_shook_hands_by_dtls_sends_srtp() {
    let mut bench = bench();
    let mut record = vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40];
    record.resize(53, 1);
    bench.see(&sample::udp(40000, 5004, &record));
    (1..4).for_each(|n| _ = bench.rtp(n));
    bench.rtp(4);
    assert!(bench.gone_out(0)[0].secure);
}

#[test]
fn a_hundred_thousand_streams_find_room_or_are_refused_and_none_displaces_another() {
    let mut bench = Bench::new(PolicyName::Realtime, 4096);
    let mut taken = 0;
    for ssrc in 0..100_000u32 {
        let port = 10_000 + (ssrc % 50_000) as u16;
        taken += bench.0.inherit(&Inherited { ssrc, port, ..stream(1000, 0) }, bench.1) as u32;
    }
    let table = bench.0.table();
    let alive = (0..table.capacity()).filter(|n| table.gone_out(*n, 0, bench.1, RATE).is_some()).count();
    assert_eq!(alive as u32, taken);
    assert!(taken > 4000, "{taken}");
    for (port, address) in [(1000, stream(1, 1).address), (40000, [0xff; 16]), (40000, [0; 16])] {
        assert!(!bench.0.inherit(&Inherited { port, address, ..stream(1, 1) }, bench.1));
    }
}

const TURN: u16 = 3478;

/// Through a channel to a server.
fn through(number: u16, sequence: u16) -> Vec<u8> {
    let inner = sample::rtp(sequence, 7);
    let len = inner.len() as u16;
    sample::udp(40000, TURN, &[&number.to_be_bytes()[..], &len.to_be_bytes(), &inner].concat())
}

fn channel(number: u16) -> Through {
    let server = Headers::parse(&sample::udp(1, 1, b"x"), 43).dst;
    Through { number, server, server_port: TURN }
}

#[test]
fn a_channel_is_handed_over_with_its_stream_and_nothing_goes_through_it_twice() {
    use crate::ear::{Learned, Lesson};
    let mut primary = bench();
    let Through { number, server, server_port } = channel(0x4001);
    let what = Learned::Channel { number, server, server_port };
    primary.0.learn(&Lesson { address: stream(1, 0).address, port: 40000, what, open: true }, primary.1);
    for n in 65530..65545u32 {
        primary.see(&through(0x4001, n as u16));
    }
    let told = primary.gone_out(0);
    assert_eq!((told.len(), told[0].channel, told[0].highest), (1, Some(channel(0x4001)), 65544));

    let mut standby = bench();
    let handed = Inherited { channel: told[0].channel, ..stream(told[0].highest as u16 + 2, 2) };
    assert!(standby.0.inherit(&handed, standby.1));
    assert_eq!(standby.gone_out(0)[0].channel, told[0].channel, "to the next standby, before a word");
    // The checkpoint was of 65535.
    let mut out = Vec::new();
    for n in 65535..65550u32 {
        match standby.see(&through(0x4001, n as u16)).0 {
            Verdict::Bypass => out.push(n),
            verdict => assert_eq!((verdict, n <= 65546), (Verdict::Refuse, true), "{n}"),
        }
    }
    assert_eq!(out, [65547, 65548, 65549]);
    assert_eq!(standby.gone_out(0)[0].channel, told[0].channel);
}

#[test]
fn a_guard_in_a_channel_is_that_of_this_channel_and_its_server() {
    let mut bench = bench();
    bench.0.inherit(&Inherited { channel: Some(channel(0x4001)), ..stream(1000, 0) }, bench.1);
    assert_eq!(bench.see(&through(0x4002, 1000)).0, Verdict::Hold, "not bound");
    assert!(matches!(bench.rtp(1000), Verdict::Probation(_)), "sent directly");
    assert_eq!(bench.see(&through(0x4001, 1000)).0, Verdict::Refuse);
    for number in [0, 1, 0x3fff, 0x5000, u16::MAX] {
        let strange = Inherited { channel: Some(channel(number)), ..stream(1000, 0) };
        assert!(!bench.0.inherit(&strange, bench.1), "{number:#x} is no channel");
    }
}

#[test]
fn any_margin_leaves_numbers_on_both_sides() {
    for margin in [0, 1, 3000, MAX_MARGIN, u16::MAX] {
        let guard = Guard::new(500, margin);
        let refused = (0..=u16::MAX).filter(|n| guard.judge(*n) == Past::Replayed).count();
        assert_eq!(refused, 3000 + usize::from(margin.min(MAX_MARGIN)), "{margin}");
        let beyond = (0..=u16::MAX).filter(|n| guard.judge(*n) == Past::Beyond).count();
        assert_eq!(beyond, 2999);
    }
}

#[test]
fn where_replays_are_guarded_against_srtcp_waits_and_rtcp_does_not() {
    let mut report = vec![0x80, 200, 0, 6];
    report.resize(28, 1);
    let secured = [&report[..], &[0x80; 14]].concat();
    for (srtcp, verdict) in [(Srtcp::Passes, Verdict::Bypass), (Srtcp::Waits, Verdict::Hold)] {
        let mut bench = bench();
        bench.0.set_srtcp(srtcp);
        (1..4).for_each(|n| _ = bench.rtp(n));
        assert_eq!(bench.see(&sample::udp(40001, 5005, &report)), (Verdict::Bypass, Class::Rtcp));
        assert_eq!(bench.see(&sample::udp(40001, 5005, &secured)), (verdict, Class::Rtcp));
    }
}
